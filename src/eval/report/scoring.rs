//! From hypotheses to rates, intervals and comparisons.

use super::{
    BASELINE, Comparison, Cost, Experiment, Hypotheses, Hypothesis, RESULTS_SCHEMA, Results, Run, SIGNIFICANCE,
    StepMean, Verdict,
};
use crate::VERSION;
use crate::eval::statistics::{Units, error_rate_interval, holm, mapsswe, paired_bootstrap};
use crate::eval::{Costs, Counts, Edit, align, character_counts, word_counts};
use rayon::prelude::*;
use std::collections::HashSet;

/// Scores and compares. What failed in one method is left out of all, so that they are compared on the same utterances.
pub fn score(experiment: Experiment) -> Results {
    let failed: HashSet<(&str, &str, &str)> = experiment
        .failures
        .iter()
        .map(|failed| {
            (
                failed.set.as_str(),
                failed.condition.as_str(),
                failed.utterance.as_str(),
            )
        })
        .collect();
    let runs: Vec<Run> = experiment
        .runs
        .par_iter()
        .map(|run| score_run(run, &experiment, &failed))
        .collect();
    let comparisons = compare(&runs, &experiment);
    let mut failures = experiment.failures.clone();
    failures.sort();
    failures.dedup();
    Results {
        schema: RESULTS_SCHEMA,
        version: VERSION,
        seed: experiment.seed,
        normaliser: (experiment.normaliser.name(), experiment.normaliser.version()),
        bootstrap: experiment.bootstrap,
        mixer: experiment.mixer,
        models: experiment.models,
        methods: experiment.methods,
        sets: experiment.sets,
        conditions: experiment.conditions,
        runs,
        comparisons,
        failures,
        reproduction: None,
    }
}

fn score_run(run: &Hypotheses, experiment: &Experiment, failed: &HashSet<(&str, &str, &str)>) -> Run {
    let normaliser = experiment.normaliser;
    let there = |hypothesis: &&Hypothesis| {
        !failed.contains(&(run.set.as_str(), run.condition.as_str(), hypothesis.utterance.as_str()))
    };
    let scored = |hypothesis: &Hypothesis| {
        let (scored_reference, scored_text) = (
            normaliser.apply(&hypothesis.reference),
            normaliser.apply(&hypothesis.text),
        );
        Hypothesis {
            words: word_counts(&scored_reference, &scored_text, Costs::Levenshtein),
            characters: character_counts(&scored_reference, &scored_text, Costs::Levenshtein),
            scored_reference,
            scored_text,
            ..hypothesis.clone()
        }
    };
    let hypotheses: Vec<Hypothesis> = run.utterances.iter().filter(there).map(scored).collect();
    let counts: Vec<Counts> = hypotheses.iter().map(|hypothesis| hypothesis.words).collect();
    let units = units(&hypotheses);
    let total: Counts = counts.iter().copied().sum();
    let count = hypotheses.len().max(1) as f64;
    let audio_seconds: f64 = hypotheses.iter().map(|hypothesis| hypothesis.duration).sum();
    let compute_seconds: f64 = hypotheses.iter().map(|hypothesis| hypothesis.compute_seconds).sum();
    Run {
        model: run.model.clone(),
        method: run.method.clone(),
        set: run.set.clone(),
        condition: run.condition.clone(),
        wer: total.error_rate(),
        wer_interval: error_rate_interval(&counts, &units, &experiment.bootstrap),
        interval_unit: units.unit().name(),
        counts: total,
        cer: hypotheses
            .iter()
            .map(|hypothesis| hypothesis.characters)
            .sum::<Counts>()
            .error_rate(),
        mer: total.match_error_rate(),
        wil: total.word_information_lost(),
        forwards_per_utterance: hypotheses
            .iter()
            .map(|hypothesis| hypothesis.forwards as f64)
            .sum::<f64>()
            / count,
        cost: Some(Cost {
            audio_seconds,
            compute_seconds,
            real_time_factor: if audio_seconds > 0.0 {
                compute_seconds / audio_seconds
            } else {
                0.0
            },
        }),
        steps: step_means(&hypotheses, experiment),
        hypotheses,
    }
}

fn units(hypotheses: &[Hypothesis]) -> Units {
    let speakers: Vec<Option<&str>> = hypotheses
        .iter()
        .map(|hypothesis| hypothesis.speaker.as_deref())
        .collect();
    Units::choose(&speakers)
}

fn step_means(hypotheses: &[Hypothesis], experiment: &Experiment) -> Vec<StepMean> {
    let last = hypotheses
        .iter()
        .map(|hypothesis| hypothesis.entropies.len())
        .max()
        .unwrap_or(0);
    let traced: Vec<&Hypothesis> = hypotheses
        .iter()
        .filter(|hypothesis| !hypothesis.step_texts.is_empty())
        .collect();
    let kept: HashSet<usize> = traced
        .iter()
        .flat_map(|hypothesis| &hypothesis.step_texts)
        .map(|(step, _)| *step)
        .collect();
    let wer = |step: usize| {
        let counts = traced.iter().filter_map(|hypothesis| {
            let reached = hypothesis.step_texts.iter().rev().find(|(kept, _)| *kept <= step)?;
            let text = experiment.normaliser.apply(&reached.1);
            Some(word_counts(&hypothesis.scored_reference, &text, Costs::Levenshtein))
        });
        counts.sum::<Counts>().error_rate()
    };
    let entropy = |step: usize| {
        let values: Vec<f64> = hypotheses
            .iter()
            .filter_map(|hypothesis| hypothesis.entropies.get(step).copied().flatten())
            .map(f64::from)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    (0..last)
        .map(|step| StepMean {
            step,
            wer: kept.contains(&step).then(|| wer(step)),
            entropy: entropy(step),
        })
        .collect()
}

/// An utterance's alignment.
fn edits(hypothesis: &Hypothesis) -> Vec<Edit> {
    let words = |text: &'_ str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
    align(
        &words(&hypothesis.scored_reference),
        &words(&hypothesis.scored_text),
        Costs::Levenshtein,
    )
}

fn compare(runs: &[Run], experiment: &Experiment) -> Vec<Comparison> {
    let pairs: Vec<(&Run, &Run)> = runs
        .iter()
        .filter(|run| run.method != BASELINE)
        .filter_map(|run| {
            let is_baseline = |other: &&Run| {
                other.method == BASELINE
                    && (&other.model, &other.set, &other.condition) == (&run.model, &run.set, &run.condition)
            };
            Some((runs.iter().find(is_baseline)?, run))
        })
        .collect();
    let mut comparisons: Vec<Comparison> = pairs
        .par_iter()
        .map(|(baseline, run)| compare_pair(baseline, run, experiment))
        .collect();
    let bootstrap: Vec<f64> = comparisons
        .iter()
        .filter_map(|comparison| comparison.p_bootstrap)
        .collect();
    let segments: Vec<f64> = comparisons
        .iter()
        .filter_map(|comparison| comparison.p_mapsswe)
        .collect();
    let (mut bootstrap, mut segments) = (holm(&bootstrap).into_iter(), holm(&segments).into_iter());
    for comparison in &mut comparisons {
        comparison.p_bootstrap_holm = comparison.p_bootstrap.and_then(|_| bootstrap.next());
        comparison.p_mapsswe_holm = comparison.p_mapsswe.and_then(|_| segments.next());
        let below = |p: Option<f64>| p.is_some_and(|p| p < SIGNIFICANCE);
        if below(comparison.p_bootstrap_holm) && below(comparison.p_mapsswe_holm) {
            comparison.verdict = if comparison.difference < 0.0 {
                Verdict::Better
            } else {
                Verdict::Worse
            };
        }
    }
    comparisons
}

fn compare_pair(baseline: &Run, run: &Run, experiment: &Experiment) -> Comparison {
    let counts = |run: &Run| {
        run.hypotheses
            .iter()
            .map(|hypothesis| hypothesis.words)
            .collect::<Vec<_>>()
    };
    let (first, second) = (counts(baseline), counts(run));
    let paired = paired_bootstrap(&first, &second, &units(&run.hypotheses), &experiment.bootstrap);
    let alignments: Vec<(Vec<Edit>, Vec<Edit>)> = baseline
        .hypotheses
        .iter()
        .zip(&run.hypotheses)
        .map(|(first, second)| (edits(first), edits(second)))
        .collect();
    let segments = mapsswe(
        alignments
            .iter()
            .map(|(first, second)| (first.as_slice(), second.as_slice())),
    );
    let count = |holds: fn(usize, usize) -> bool| {
        first
            .iter()
            .zip(&second)
            .filter(|(first, second)| holds(first.errors(), second.errors()))
            .count()
    };
    Comparison {
        model: run.model.clone(),
        set: run.set.clone(),
        condition: run.condition.clone(),
        method: run.method.clone(),
        baseline_wer: baseline.wer,
        wer: run.wer,
        difference: run.wer - baseline.wer,
        interval: paired.map(|paired| paired.interval),
        p_bootstrap: paired.map(|paired| paired.p),
        p_bootstrap_holm: None,
        p_mapsswe: segments.map(|segments| segments.p),
        p_mapsswe_holm: None,
        verdict: Verdict::Undecided,
        helped: count(|first, second| second < first),
        hurt: count(|first, second| second > first),
        unchanged: count(|first, second| second == first),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Failed, MethodSettings, Model, Set, page};
    use super::*;
    use crate::eval::Normaliser;

    fn hypothesis(index: usize, text: &str, steps: &[(usize, &str)]) -> Hypothesis {
        Hypothesis {
            utterance: format!("u{index}"),
            speaker: Some(format!("s{index}")),
            duration: 2.0,
            reference: "One two, THREE four.".into(),
            text: text.into(),
            entropies: (0..=steps.last().map_or(0, |(step, _)| *step))
                .map(|step| Some(1.0 / (step + 1) as f32))
                .collect(),
            step_texts: steps.iter().map(|(step, text)| (*step, (*text).to_string())).collect(),
            ..Hypothesis::default()
        }
    }

    /// `suta` mends a word in every utterance but one, in which it spoils two.
    fn experiment(count: usize) -> Experiment {
        let wrong = "one two three <b>five</b> & \"six\"";
        let run = |method: &str, text: &dyn Fn(usize) -> Hypothesis| Hypotheses {
            model: "m".into(),
            method: method.into(),
            set: "s".into(),
            condition: "clean".into(),
            utterances: (0..count).map(text).collect(),
        };
        let method = |name: &str| MethodSettings {
            model: "m".into(),
            name: name.into(),
            ..MethodSettings::default()
        };
        Experiment {
            normaliser: Normaliser::Basic,
            models: vec![Model {
                name: "m".into(),
                ..Model::default()
            }],
            methods: vec![method("none"), method("suta")],
            sets: vec![Set {
                name: "s".into(),
                ..Set::default()
            }],
            conditions: vec![super::super::ConditionEntry {
                name: "clean".into(),
                ..Default::default()
            }],
            runs: vec![
                run("none", &|index| {
                    hypothesis(index, "ONE TWO THREE", &[(0, "ONE TWO THREE")])
                }),
                run("suta", &|index| match index {
                    0 => hypothesis(index, wrong, &[(0, "ONE TWO THREE"), (1, wrong)]),
                    _ => hypothesis(
                        index,
                        "ONE TWO THREE FOUR",
                        &[(0, "ONE TWO THREE"), (1, "ONE TWO THREE FOUR")],
                    ),
                }),
            ],
            ..Experiment::default()
        }
    }

    #[test]
    fn rates_and_comparisons_are_of_the_normalised_texts() {
        let results = score(experiment(40));
        assert_eq!(results.runs[0].wer, 0.25);
        let spoiled = results.runs[1].hypotheses[0].words;
        assert_eq!(results.runs[1].counts.errors(), spoiled.errors());
        assert!(spoiled.errors() >= 2);
        let comparison = &results.comparisons[0];
        assert_eq!((comparison.helped, comparison.hurt, comparison.unchanged), (39, 1, 0));
        assert!((comparison.difference - (results.runs[1].wer - 0.25)).abs() < 1e-12);
        assert_eq!(comparison.verdict, Verdict::Better);
        let steps = &results.runs[1].steps;
        assert_eq!(steps.len(), 2);
        assert_eq!((steps[0].wer, steps[0].entropy), (Some(0.25), Some(1.0)));
        assert_eq!(steps[1].wer, Some(results.runs[1].wer));
    }

    #[test]
    fn too_few_utterances_decide_nothing() {
        let results = score(experiment(3));
        assert!(results.comparisons[0].difference < 0.01);
        assert_eq!(results.comparisons[0].verdict, Verdict::Undecided);
    }

    #[test]
    fn what_failed_in_one_method_is_left_out_of_all() {
        let mut experiment = experiment(4);
        experiment.runs[1].utterances.remove(2);
        experiment.failures = vec![Failed {
            set: "s".into(),
            condition: "clean".into(),
            utterance: "u2".into(),
            message: "no".into(),
        }];
        let results = score(experiment);
        let names = |run: &Run| {
            run.hypotheses
                .iter()
                .map(|hypothesis| hypothesis.utterance.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&results.runs[0]), ["u0", "u1", "u3"]);
        assert_eq!(names(&results.runs[0]), names(&results.runs[1]));
    }

    #[test]
    fn the_page_escapes_what_it_shows_and_depends_on_nothing_else() {
        let mut experiment = experiment(4);
        experiment.runs[0].utterances[0].speaker = Some("<script>alert(1)</script>".into());
        experiment.normaliser = Normaliser::None;
        let results = score(experiment);
        let html = page(&results, 5, &[]);
        assert!(!html.contains("<script") && !html.contains("<b>"));
        assert!(html.contains("&lt;script&gt;") && html.contains("&lt;b&gt;five&lt;/b&gt;"));
        assert_eq!(html, page(&results, 5, &[]));
        let json = results.without_costs().json().expect("JSON");
        assert!(!json.contains("compute_seconds") && !json.contains("reproduction"));
    }
}
