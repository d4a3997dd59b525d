//! The report as text and as CSV.

use super::Grouping;
use super::report::{Comparison, Report, System};
use crate::cli::bench::table::Table;
use crate::eval::Counts;
use crate::eval::statistics::Interval;
use std::collections::BTreeMap;

/// Upper ends of the groups by reference length in words.
const LENGTHS: [usize; 6] = [0, 5, 10, 20, 40, usize::MAX];

pub(super) fn plain(report: &Report, by: Option<Grouping>) -> String {
    let mut parts = vec![heading(report), systems(report).plain(1)];
    if report.systems.iter().any(|system| system.interval.is_some()) || !report.comparisons.is_empty() {
        parts.push(resampling(report));
    }
    if !report.comparisons.is_empty() {
        parts.push(comparisons(&report.comparisons));
    }
    if let Some(by) = by {
        parts.push(groups(report, by).plain(2));
    }
    parts.join("\n")
}

/// One line per system, or per system and group, with full precision.
pub(super) fn csv(report: &Report, by: Option<Grouping>) -> String {
    let mut header = vec!["system", "group", "utterances"];
    header.extend(["reference_words", "hits", "substitutions", "deletions", "insertions"]);
    header.extend(["wer", "wer_low", "wer_high", "mer", "wil", "wip"]);
    header.extend([
        "cer",
        "cer_low",
        "cer_high",
        "normaliser",
        "normaliser_version",
        "alignment",
    ]);
    let mut table = Table::new(&header);
    for system in &report.systems {
        let all: Vec<usize> = (0..report.utterances.len()).collect();
        let grouped = by.map_or_else(|| vec![("all".to_string(), all)], |by| members(report, by));
        for (group, members) in grouped {
            let sum = |counts: &[Counts]| members.iter().map(|index| counts[*index]).sum::<Counts>();
            let counts = sum(&system.words);
            let ends = |interval: Option<Interval>| match interval.filter(|_| by.is_none()) {
                Some(interval) => [interval.low.to_string(), interval.high.to_string()],
                None => Default::default(),
            };
            let mut row = vec![system.name.clone(), group, members.len().to_string()];
            row.extend([counts.reference(), counts.hits, counts.substitutions].map(|count| count.to_string()));
            row.extend([counts.deletions, counts.insertions].map(|count| count.to_string()));
            row.push(counts.error_rate().to_string());
            row.extend(ends(system.interval));
            let rates = [
                counts.match_error_rate(),
                counts.word_information_lost(),
                counts.word_information_preserved(),
            ];
            row.extend(rates.map(|rate| rate.to_string()));
            let characters = system
                .characters
                .as_ref()
                .map(|counts| sum(counts).error_rate().to_string());
            row.push(characters.unwrap_or_default());
            row.extend(ends(system.character_interval));
            row.extend(
                [
                    report.normaliser.name(),
                    report.normaliser.version(),
                    report.costs.name(),
                ]
                .map(String::from),
            );
            table.row(row);
        }
    }
    table.csv()
}

fn heading(report: &Report) -> String {
    let speakers = match report.speakers {
        None => String::new(),
        Some(1) => ", 1 speaker".into(),
        Some(count) => format!(", {count} speakers"),
    };
    format!(
        "{} utterances{speakers}; normaliser {} ({}); alignment {}\n",
        report.utterances.len(),
        report.normaliser.name(),
        report.normaliser.version(),
        report.costs.name()
    )
}

fn systems(report: &Report) -> Table {
    let intervals = report.systems.iter().any(|system| system.interval.is_some());
    let characters = report.systems.iter().any(|system| system.characters.is_some());
    let level = format!("{:.0} %", 100.0 * report.bootstrap.level);
    let mut header = vec!["system", "WER %"];
    header.extend(intervals.then_some(level.as_str()));
    header.extend(["words", "hits", "sub", "del", "ins", "MER %", "WIL %", "SER %"]);
    header.extend(characters.then_some("CER %"));
    header.extend((characters && intervals).then_some(level.as_str()));
    let mut table = Table::new(&header);
    for system in &report.systems {
        table.row(system_row(system, intervals, characters));
    }
    table
}

fn system_row(system: &System, intervals: bool, characters: bool) -> Vec<String> {
    let counts = system.pooled();
    let ends = |interval: Option<Interval>| {
        let text = |interval: Interval| format!("{} to {}", percent(interval.low), percent(interval.high));
        interval.map_or("-".into(), text)
    };
    let mut row = vec![system.name.clone(), percent(counts.error_rate())];
    row.extend(intervals.then(|| ends(system.interval)));
    row.extend(
        [
            counts.reference(),
            counts.hits,
            counts.substitutions,
            counts.deletions,
            counts.insertions,
        ]
        .map(|count| count.to_string()),
    );
    row.extend([
        percent(counts.match_error_rate()),
        percent(counts.word_information_lost()),
        percent(system.sentence_error_rate()),
    ]);
    if characters {
        let rate = system.pooled_characters().map(|counts| percent(counts.error_rate()));
        row.push(rate.unwrap_or_default());
        row.extend(intervals.then(|| ends(system.character_interval)));
    }
    row
}

fn resampling(report: &Report) -> String {
    let few = match report.speakers {
        Some(speakers) if report.unit == "utterance" && report.units > 1 => {
            format!(
                "\nWith {speakers} speaker(s), utterances are resampled: the intervals say nothing of other speakers."
            )
        }
        _ => String::new(),
    };
    if report.units < 2 {
        return format!("No intervals: there is only one {} to resample.\n", report.unit);
    }
    format!(
        "Bootstrap over {} {}s, {} replicates, seed {}.{few}\n",
        report.units, report.unit, report.bootstrap.replicates, report.bootstrap.seed
    )
}

fn comparisons(comparisons: &[Comparison]) -> String {
    let mut header = vec!["first", "second", "change", "95 %", "P(better)", "bootstrap p", "Holm"];
    header.extend(["segments", "z", "MAPSSWE p", "Holm"]);
    let mut table = Table::new(&header);
    let p = |p: Option<f64>| match p {
        None => "-".to_string(),
        Some(p) if p < 0.0005 => "<0.001".into(),
        Some(p) => format!("{p:.3}"),
    };
    for comparison in comparisons {
        let mut row = vec![comparison.first.clone(), comparison.second.clone()];
        match &comparison.bootstrap {
            None => row.extend(["-", "-", "-"].map(String::from)),
            Some(bootstrap) => row.extend([
                signed(bootstrap.difference),
                format!(
                    "{} to {}",
                    signed(bootstrap.interval.low),
                    signed(bootstrap.interval.high)
                ),
                format!("{:.3}", bootstrap.probability_of_improvement),
            ]),
        }
        row.extend([p(comparison.bootstrap.map(|b| b.p)), p(comparison.bootstrap_p_holm)]);
        match &comparison.mapsswe {
            None => row.extend(["-", "-"].map(String::from)),
            Some(test) => row.extend([test.segments.to_string(), format!("{:.3}", test.z)]),
        }
        row.extend([p(comparison.mapsswe.map(|m| m.p)), p(comparison.mapsswe_p_holm)]);
        table.row(row);
    }
    let family = match comparisons.len() {
        1 => String::new(),
        count => format!("\nHolm: p corrected for {count} comparisons."),
    };
    format!(
        "{}\nChange: the second's WER less the first's, in points, with its paired bootstrap interval; P(better): that the \
         second's is lower.{family}\n",
        table.plain(2)
    )
}

fn groups(report: &Report, by: Grouping) -> Table {
    let first = match by {
        Grouping::Speaker => "speaker",
        Grouping::Utterance => "utterance",
        Grouping::Length => "reference words",
    };
    let mut header = vec![first, "system", "WER %"];
    header.extend((by != Grouping::Utterance).then_some("utterances"));
    header.extend(["words", "sub", "del", "ins"]);
    let characters = report.systems.iter().any(|system| system.characters.is_some());
    header.extend(characters.then_some("CER %"));
    let mut table = Table::new(&header);
    for (group, members) in members(report, by) {
        for system in &report.systems {
            let sum = |counts: &[Counts]| members.iter().map(|index| counts[*index]).sum::<Counts>();
            let counts = sum(&system.words);
            let mut row = vec![group.clone(), system.name.clone(), percent(counts.error_rate())];
            row.extend((by != Grouping::Utterance).then(|| members.len().to_string()));
            let errors = [counts.substitutions, counts.deletions, counts.insertions];
            row.push(counts.reference().to_string());
            row.extend(errors.map(|count| count.to_string()));
            row.extend(
                system
                    .characters
                    .as_ref()
                    .map(|counts| percent(sum(counts).error_rate())),
            );
            table.row(row);
        }
    }
    table
}

/// The groups' names and their utterances, in order.
fn members(report: &Report, by: Grouping) -> Vec<(String, Vec<usize>)> {
    let utterances = || report.utterances.iter().enumerate();
    match by {
        Grouping::Utterance => utterances()
            .map(|(index, utterance)| (utterance.id.clone(), vec![index]))
            .collect(),
        Grouping::Speaker => {
            let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (index, utterance) in utterances() {
                groups
                    .entry(utterance.speaker.clone().unwrap_or_default())
                    .or_default()
                    .push(index);
            }
            groups.into_iter().collect()
        }
        Grouping::Length => {
            let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (index, utterance) in utterances() {
                let words = utterance.reference.split_whitespace().count();
                let group = LENGTHS.iter().position(|end| words <= *end).unwrap_or_default();
                groups.entry(group).or_default().push(index);
            }
            let named = |(group, members): (usize, Vec<usize>)| {
                let begin = group.checked_sub(1).map_or(0, |before| LENGTHS[before] + 1);
                let name = match LENGTHS[group] {
                    0 => "0".to_string(),
                    usize::MAX => format!("{begin} and more"),
                    end => format!("{begin} to {end}"),
                };
                (name, members)
            };
            groups.into_iter().map(named).collect()
        }
    }
}

fn percent(rate: f64) -> String {
    format!("{:.2}", 100.0 * rate)
}

fn signed(rate: f64) -> String {
    format!("{:+.2}", 100.0 * rate)
}
