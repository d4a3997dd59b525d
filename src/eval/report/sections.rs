//! The page's parts: the table, the charts over it, the examples, the cost, and how to do it again.

use super::charts::{Line, LineChart, Row, forest, scatter};
use super::differences::difference;
use super::examples::{Example, pair};
use super::summary::{percent, points, probability};
use super::{BASELINE, Clip, Comparison, Results, Run, Verdict};
use crate::eval::Counts;
use crate::eval::statistics::Interval;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{Markup, html};
use std::collections::BTreeMap;

fn interval(interval: Option<Interval>) -> Markup {
    html! { @if let Some(Interval { low, high }) = interval { span.interval { (percent(low)) "–" (percent(high)) } } }
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        Verdict::Undecided => "undecided",
    }
}

/// The headline table: a row for each model, set and condition.
pub(super) fn table(results: &Results) -> Markup {
    let methods = results.adapted_methods();
    let level = 100.0 * results.bootstrap.level;
    html! {
        section {
            h2 { "Word error rates" }
            @for model in &results.models {
                div.scroll { table.headline {
                    caption { span {
                        "Word error rate in %, " (level) " % intervals; difference from " code { (BASELINE) }
                        " in percentage points; p by paired bootstrap / MAPSSWE, Holm-corrected. "
                        @if results.models.len() > 1 { "Model " (model.name) "." }
                    } }
                    thead {
                        tr {
                            th scope="col" rowspan="2" { "Condition" }
                            th.number scope="col" rowspan="2" { (BASELINE) }
                            @for method in &methods { th.group scope="colgroup" colspan="4" { (method) } }
                        }
                        tr {
                            @for _ in &methods {
                                th.number scope="col" { "WER" }
                                th.number scope="col" { "Difference" }
                                th.number scope="col" { "p" }
                                th.number scope="col" { "Helped / hurt" }
                            }
                        }
                    }
                    @for set in &results.sets {
                        tbody {
                            tr.set { th scope="rowgroup" colspan=(2 + 4 * methods.len()) {
                                (set.name) span.note {
                                    " " (set.utterances) " utterances, " (format!("{:.1}", set.seconds / 60.0)) " min"
                                    @if set.speakers > 0 { ", " (set.speakers) @if set.speakers == 1 { " speaker" } @else { " speakers" } }
                                }
                            } }
                            @for condition in &results.conditions {
                                @if let Some(run) = results.run(&model.name, BASELINE, &set.name, &condition.name) {
                                    (row(results, run, &methods))
                                }
                            }
                        }
                    }
                } }
            }
            p.note {
                "▼ lower and ▲ higher error rate, significant at " (super::SIGNIFICANCE) " by both tests after correction for all "
                (results.comparisons.len()) " comparisons of this report; no mark: not significant. Helped / hurt: utterances "
                "with fewer / more errors than " code { (BASELINE) } ". Intervals resample whole speakers where a set has at "
                "least ten, else utterances: they then say nothing of other speakers."
            }
        }
    }
}

fn row(results: &Results, baseline: &Run, methods: &[&str]) -> Markup {
    let comparison = |method: &str| {
        results.comparisons.iter().find(|c| {
            c.method == method
                && (&c.model, &c.set, &c.condition) == (&baseline.model, &baseline.set, &baseline.condition)
        })
    };
    html! {
        tr {
            th scope="row" { (baseline.condition) }
            td.number { (percent(baseline.wer)) (interval(baseline.wer_interval)) }
            @for method in methods {
                @if let (Some(c), Some(run)) =
                    (comparison(method), results.run(&baseline.model, method, &baseline.set, &baseline.condition))
                {
                    td.number { (percent(run.wer)) (interval(run.wer_interval)) }
                    td.number class=(class(c.verdict)) {
                        (mark(c.verdict)) (points(c.difference))
                        @if let Some(Interval { low, high }) = c.interval {
                            span.interval { (points(low)) " to " (points(high)) }
                        }
                    }
                    td.number { (probability(c.p_bootstrap_holm)) " / " (probability(c.p_mapsswe_holm)) }
                    td.number { (c.helped) " / " (c.hurt) }
                } @else {
                    td colspan="4" { "not run" }
                }
            }
        }
    }
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Better => "▼ ",
        Verdict::Worse => "▲ ",
        Verdict::Undecided => "",
    }
}

/// Every comparison's difference with its interval.
pub(super) fn differences(results: &Results) -> Markup {
    html! {
        section {
            h2 { "Where adaptation helps" }
            @for model in &results.models {
                @for method in results.adapted_methods() {
                    @let rows: Vec<Row> = results.comparisons.iter().filter(|c| c.model == model.name && c.method == method)
                        .map(|c| Row {
                            label: format!("{} · {}", c.set, c.condition),
                            value: 100.0 * c.difference,
                            interval: c.interval.map(|interval| (100.0 * interval.low, 100.0 * interval.high)),
                            class: class(c.verdict),
                        }).collect();
                    @if !rows.is_empty() {
                        (forest(
                            &heading(results, &model.name, &format!("{method}: change in word error rate against {BASELINE}")),
                            &format!("Change in word error rate of {method} against {BASELINE} with intervals; left of zero is better"),
                            "change in word error rate (percentage points); left of 0 is better",
                            &rows,
                        ))
                    }
                }
            }
        }
    }
}

fn heading(results: &Results, model: &str, text: &str) -> String {
    if results.models.len() > 1 {
        format!("{model}, {text}")
    } else {
        text.to_string()
    }
}

/// Error rate against signal-to-noise ratio, a chart for each model, set and noise that has two ratios or more.
pub(super) fn ratios(results: &Results) -> Markup {
    let mut noises: BTreeMap<&str, Vec<(f64, &str)>> = BTreeMap::new();
    for condition in &results.conditions {
        if let Some((noise, ratio)) = &condition.ratio {
            noises.entry(noise).or_default().push((*ratio, &condition.name));
        }
    }
    noises.retain(|_, ratios| ratios.len() > 1);
    if noises.is_empty() {
        return html! {};
    }
    html! {
        section {
            h2 { "Error rate against noise" }
            p.note { "Bands are " (100.0 * results.bootstrap.level) " % intervals. The further left, the louder the noise." }
            div.grid {
                @for model in &results.models { @for set in &results.sets { @for (noise, ratios) in &noises {
                    (ratio_chart(results, &model.name, &set.name, noise, ratios))
                } } }
            }
        }
    }
}

fn ratio_chart(results: &Results, model: &str, set: &str, noise: &str, ratios: &[(f64, &str)]) -> Markup {
    let mut ratios = ratios.to_vec();
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let methods = std::iter::once(BASELINE).chain(results.adapted_methods());
    let lines = methods.enumerate().map(|(colour, method)| {
        let runs = ratios
            .iter()
            .filter_map(|(ratio, name)| Some((*ratio, results.run(model, method, set, name)?)));
        let runs: Vec<(f64, &Run)> = runs.collect();
        Line {
            name: method.to_string(),
            colour,
            points: runs.iter().map(|(ratio, run)| (*ratio, 100.0 * run.wer)).collect(),
            intervals: runs
                .iter()
                .map(|(_, run)| run.wer_interval.map(|i| (100.0 * i.low, 100.0 * i.high)))
                .collect(),
        }
    });
    let title = heading(results, model, &format!("{set}, {noise}"));
    LineChart {
        description: format!("Word error rate against signal-to-noise ratio by method: {title}"),
        title,
        x: "signal-to-noise ratio (dB)",
        y: "word error rate (%)",
        lines: lines.filter(|line| !line.points.is_empty()).collect(),
        x_ticks: ratios.iter().map(|(ratio, _)| *ratio).collect(),
        boundaries: Vec::new(),
        from_zero: true,
        width: 340.0,
    }
    .render()
}

/// Each utterance's error rate before and after, a chart for each model, method and set.
pub(super) fn scatters(results: &Results) -> Markup {
    html! {
        section {
            h2 { "Who was helped, who was hurt" }
            p.note {
                "A point is an utterance in a condition (a larger one stands for many). Below the diagonal adaptation "
                "bettered it, above it worsened it; on it, it changed nothing."
            }
            div.grid {
                @for model in &results.models { @for method in results.adapted_methods() { @for set in &results.sets {
                    @let points = before_and_after(results, &model.name, method, &set.name);
                    @if !points.is_empty() {
                        @let title = heading(results, &model.name, &format!("{}, {method}", set.name));
                        (scatter(
                            &title,
                            &format!("Word error rate of each utterance before and after adaptation: {title}"),
                            &format!("{BASELINE} (%)"),
                            &format!("{method} (%)"),
                            &points,
                        ))
                    }
                } } }
            }
        }
    }
}

fn before_and_after(results: &Results, model: &str, method: &str, set: &str) -> Vec<(f64, f64, usize)> {
    let mut counted: BTreeMap<(u64, u64), usize> = BTreeMap::new();
    for (index, comparison) in results.comparisons.iter().enumerate() {
        if comparison.model != model || comparison.method != method || comparison.set != set {
            continue;
        }
        let Some((baseline, run)) = pair(results, index) else {
            continue;
        };
        for (before, after) in baseline.hypotheses.iter().zip(&run.hypotheses) {
            let whole = |counts: Counts| (100.0 * counts.error_rate()).round() as u64;
            *counted.entry((whole(before.words), whole(after.words))).or_default() += 1;
        }
    }
    let mut points: Vec<_> = counted
        .into_iter()
        .map(|((x, y), count)| (x as f64, y as f64, count))
        .collect();
    // Small ones on top of large ones.
    points.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    points
}

/// The utterances changed the most, with their differences word by word.
pub(super) fn changed(results: &Results, shown: &[Example], clips: &[Clip]) -> Markup {
    html! {
        section {
            h2 { "Worst cases first" }
            p.note {
                "For each comparison the utterances hurt the most, then those helped the most; all are in the JSON. "
                span.sub { "wrong" del { "right" } } " substitution, " span.ins { "extra" } " insertion, "
                span.del { "missing" } " deletion; texts as scored, after the normaliser."
            }
            @for (index, comparison) in results.comparisons.iter().enumerate() {
                @let of: Vec<&Example> = shown.iter().filter(|example| example.comparison == index).collect();
                @if !of.is_empty() {
                    details open[results.comparisons.len() == 1] {
                        summary {
                            (heading(results, &comparison.model, &format!("{} · {} · {}", comparison.set, comparison.condition, comparison.method)))
                            span.note { " " (comparison.hurt) " hurt, " (comparison.helped) " helped" }
                        }
                        @for example in of { (example_of(results, comparison, example, clips)) }
                    }
                }
            }
        }
    }
}

fn example_of(results: &Results, comparison: &Comparison, example: &Example, clips: &[Clip]) -> Markup {
    let Some((baseline, run)) = pair(results, example.comparison) else {
        return html! {};
    };
    let (before, after) = (
        &baseline.hypotheses[example.hypothesis],
        &run.hypotheses[example.hypothesis],
    );
    let clip = clips.iter().find(|clip| {
        clip.set == comparison.set && clip.condition == comparison.condition && clip.hypothesis == example.hypothesis
    });
    let (class, what) = if example.change > 0 {
        ("worse", "hurt")
    } else {
        ("better", "helped")
    };
    html! {
        article.example {
            h4 {
                span class=(class) { (what) } " " (before.utterance)
                span.note {
                    @if let Some(speaker) = &before.speaker { " " (speaker) }
                    " " (format!("{:.1} s", before.duration)) ", errors " (before.words.errors()) " → " (after.words.errors())
                    " of " (before.words.reference())
                    @if let Some(guard) = after.guard { ", guard " (serde_json::to_value(guard).ok().and_then(|g| g.as_str().map(String::from)).unwrap_or_default()) }
                }
            }
            dl.texts {
                dt { "reference" } dd { (before.scored_reference) }
                dt { (BASELINE) } dd { (difference(before)) }
                dt { (comparison.method) } dd { (difference(after)) }
            }
            @if let Some(clip) = clip {
                audio controls preload="none" src={ "data:audio/wav;base64," (BASE64_STANDARD.encode(&clip.wav)) } {}
            }
        }
    }
}

/// Time and forward passes, for each model, method and set.
pub(super) fn cost(results: &Results) -> Markup {
    let timed = |run: &&Run| run.cost.is_some();
    if !results.runs.iter().any(|run| timed(&run)) {
        return html! {};
    }
    let methods = || std::iter::once(BASELINE).chain(results.adapted_methods());
    html! {
        section {
            h2 { "Cost" }
            div.scroll { table {
                caption { span { "Per model and method over all sets and conditions; one thread an utterance, decoding and mixing not counted" } }
                thead { tr {
                    th scope="col" { "Method" }
                    th.number scope="col" { "Real-time factor" }
                    th.number scope="col" { "Forward passes per utterance" }
                    th.number scope="col" { "Audio (min)" }
                    th.number scope="col" { "Compute (min)" }
                } }
                tbody { @for model in &results.models { @for method in methods() {
                    @let runs: Vec<&Run> = results.runs.iter().filter(|run| run.model == model.name && run.method == method).collect();
                    @let audio: f64 = runs.iter().filter_map(|run| run.cost).map(|cost| cost.audio_seconds).sum();
                    @let compute: f64 = runs.iter().filter_map(|run| run.cost).map(|cost| cost.compute_seconds).sum();
                    @let utterances: usize = runs.iter().map(|run| run.hypotheses.len()).sum();
                    @let forwards: f64 = runs.iter().map(|run| run.forwards_per_utterance * run.hypotheses.len() as f64).sum();
                    tr {
                        th scope="row" { (heading(results, &model.name, method)) }
                        td.number { (format!("{:.3}", compute / audio.max(1e-9))) }
                        td.number { (format!("{:.2}", forwards / (utterances.max(1) as f64))) }
                        td.number { (format!("{:.1}", audio / 60.0)) }
                        td.number { (format!("{:.1}", compute / 60.0)) }
                    }
                } } }
            } }
            p.note {
                "The time of " code { (BASELINE) } " is that of the unadapted pass with which a method that adapts begins, "
                "where one ran: it is not recognised a second time."
            }
        }
    }
}

/// Everything that decides the numbers.
pub(super) fn reproduction(results: &Results) -> Markup {
    let empty = String::new();
    let (command, platform) = results
        .reproduction
        .as_ref()
        .map_or((&empty, &empty), |r| (&r.command, &r.platform));
    html! {
        section {
            h2 { "To do it again" }
            @if !command.is_empty() { pre { code { (command) } } }
            dl.facts {
                dt { "aurist" } dd { (results.version) @if !platform.is_empty() { ", " (platform) } }
                dt { "seed" } dd { (results.seed) }
                dt { "normaliser" } dd { (results.normaliser.0) ", version " (results.normaliser.1) }
                dt { "noise" } dd { (results.mixer) }
                dt { "intervals" } dd {
                    "bootstrap, " (results.bootstrap.replicates) " replicates, " (100.0 * results.bootstrap.level) " %, seed "
                    (results.bootstrap.seed)
                }
                @for model in &results.models {
                    dt { "model" } dd { (model.name) ", " (model.architecture) ", " (model.parameters) " parameters" br; code.hash { (model.identity) } }
                }
                @for method in &results.methods {
                    dt { "method" } dd { (heading(results, &method.model, &method.name)) br; code { (method.settings.to_string()) } }
                }
                @for set in &results.sets {
                    dt { "test set" } dd { (set.name) ": " (set.path) br; code.hash { (set.hash) } }
                }
                @for condition in results.conditions.iter().filter(|condition| !condition.files.is_empty()) {
                    dt { "condition" } dd {
                        (condition.name) @if condition.spec != condition.name { ": " (condition.spec) }
                        @for (_, hash) in &condition.files { br; code.hash { (hash) } }
                    }
                }
            }
            p.note { "Hashes are BLAKE3: of a model's configuration, vocabulary and weights; of a set's names, references and recordings; of a noise's samples at 16 kHz." }
            @if !results.failures.is_empty() {
                h3 { "Left out" }
                p.note { "These could not be recognised, and are left out of every method." }
                ul { @for failed in &results.failures { li { (failed.set) ", " (failed.condition) ", " (failed.utterance) ": " (failed.message) } } }
            }
            @for set in results.sets.iter().filter(|set| !set.warnings.is_empty()) {
                h3 { "Warnings of " (set.name) }
                ul { @for warning in &set.warnings { li { (warning) } } }
            }
        }
    }
}
