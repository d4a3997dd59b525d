//! What each step of adaptation does, and how error rates run through a stream.

use super::charts::{Line, LineChart};
use super::{BASELINE, ConditionEntry, Results, Run};
use maud::{Markup, html};

/// Utterances in the window of a running error rate: a twentieth of the stream, within these.
const WINDOW: (usize, usize) = (5, 100);

/// Entropy and error rate against the number of steps, a pair of charts for each model, method and condition.
pub(super) fn steps(results: &Results) -> Markup {
    let traced = |run: &&Run| run.method != BASELINE && run.steps.len() > 1;
    if !results.runs.iter().any(|run| traced(&run)) {
        return html! {};
    }
    html! {
        section {
            h2 { "Entropy and error rate, step by step" }
            p.note {
                "What adaptation lowers is the entropy of the model's own output, not its errors: where entropy falls "
                "and the error rate does not, the model has grown surer and no better. Step 0 is the source model. "
                "A line is a test set."
            }
            @for model in &results.models {
                @for method in results.adapted_methods() {
                    details open[results.conditions.len() <= 4] {
                        summary { (method) @if results.models.len() > 1 { " · " (model.name) } }
                        div.pairs {
                            @for condition in &results.conditions {
                                @let runs: Vec<&Run> = results.runs.iter().filter(traced).filter(|run| {
                                    run.model == model.name && run.method == method && run.condition == condition.name
                                }).collect();
                                (chart(results, &runs, condition, "word error rate (%)", |run| {
                                    run.steps.iter().filter_map(|s| Some((s.step as f64, 100.0 * s.wer?))).collect()
                                }))
                                (chart(results, &runs, condition, "mean entropy (nats)", |run| {
                                    run.steps.iter().filter_map(|s| Some((s.step as f64, s.entropy?))).collect()
                                }))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn chart(
    results: &Results,
    runs: &[&Run],
    condition: &ConditionEntry,
    y: &str,
    points: impl Fn(&Run) -> Vec<(f64, f64)>,
) -> Markup {
    let line = |run: &&Run| {
        let points = points(run);
        Line {
            name: run.set.clone(),
            colour: results.sets.iter().position(|set| set.name == run.set).unwrap_or(0),
            intervals: vec![None; points.len()],
            points,
        }
    };
    let (what, _) = y.split_once(" (").unwrap_or((y, ""));
    LineChart {
        title: format!("{}: {what}", condition.name),
        description: format!("{what} after each number of steps, {}", condition.name),
        x: "steps",
        y,
        lines: runs.iter().map(line).filter(|line| !line.points.is_empty()).collect(),
        x_ticks: whole_numbers(runs),
        boundaries: Vec::new(),
        from_zero: false,
        width: 340.0,
    }
    .render()
}

/// About five whole numbers of steps.
fn whole_numbers(runs: &[&Run]) -> Vec<f64> {
    let last = runs
        .iter()
        .filter_map(|run| run.steps.last())
        .map(|mean| mean.step)
        .max()
        .unwrap_or(0);
    let every = last.div_ceil(5).max(1);
    (0..=last).step_by(every).map(|step| step as f64).collect()
}

/// The running error rate of each stream, with its blocks' boundaries.
pub(super) fn streams(results: &Results) -> Markup {
    if !results.conditions.iter().any(|condition| condition.stream) {
        return html! {};
    }
    html! {
        section {
            h2 { "Streams" }
            p.note {
                "Utterances in the stream's order; the error rate of a running window, pooled. Vertical lines are the "
                "blocks' boundaries. " code { "none" } ", " code { "suta" } " and " code { "sdpl" } " start every utterance "
                "from the source model: for them every utterance is a reset."
            }
            @for model in &results.models {
                @for condition in results.conditions.iter().filter(|condition| condition.stream) {
                    @for set in &results.sets {
                        (stream(results, &model.name, &set.name, condition))
                    }
                }
            }
        }
    }
}

fn stream(results: &Results, model: &str, set: &str, condition: &ConditionEntry) -> Markup {
    let runs: Vec<&Run> = results
        .runs
        .iter()
        .filter(|run| {
            run.model == model && run.set == set && run.condition == condition.name && !run.hypotheses.is_empty()
        })
        .collect();
    let Some(first) = runs.first() else { return html! {} };
    let window = (first.hypotheses.len() / 20).clamp(WINDOW.0, WINDOW.1);
    let mut boundaries = Vec::new();
    for (place, hypothesis) in first.hypotheses.iter().enumerate() {
        let block = hypothesis.block.unwrap_or(0);
        if place == 0 || first.hypotheses[place - 1].block != hypothesis.block {
            let name = condition.blocks.get(block).map_or("", |(name, _)| name.as_str());
            // Between two utterances; the first block begins with the axis.
            boundaries.push(((place as f64 + 0.5).max(1.0), name.to_string()));
        }
    }
    let lines = runs.iter().enumerate().map(|(colour, run)| {
        let points: Vec<(f64, f64)> = (0..run.hypotheses.len())
            .map(|last| {
                let start = (last + 1).saturating_sub(window);
                let counts = run.hypotheses[start..=last].iter().map(|hypothesis| hypothesis.words);
                (
                    last as f64 + 1.0,
                    100.0 * counts.sum::<crate::eval::Counts>().error_rate(),
                )
            })
            .collect();
        Line {
            name: run.method.clone(),
            colour,
            intervals: vec![None; points.len()],
            points,
        }
    });
    let title = format!(
        "{}, {set}: word error rate of the last {window} utterances",
        condition.name
    );
    LineChart {
        description: format!("{title}, by method"),
        title,
        x: "utterances",
        y: "word error rate (%)",
        lines: lines.collect(),
        x_ticks: Vec::new(),
        boundaries,
        from_zero: true,
        width: 760.0,
    }
    .render()
}
