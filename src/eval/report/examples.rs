//! The utterances a report shows in full: those that a method changed the most, the worst first.

use super::{BASELINE, Results, Run};

/// An utterance of a comparison that is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Of [`Results::comparisons`].
    pub comparison: usize,
    /// Of both runs' hypotheses.
    pub hypothesis: usize,
    /// The method's errors less the baseline's: positive where the method hurt.
    pub change: i64,
}

/// What the models heard, to be played.
#[derive(Debug, Clone)]
pub struct Clip {
    /// The set's name.
    pub set: String,
    /// The condition's.
    pub condition: String,
    /// Of the runs' hypotheses.
    pub hypothesis: usize,
    /// A wav file's bytes.
    pub wav: Vec<u8>,
}

/// For each comparison the `count` utterances hurt the most, then the `count` helped the most, the largest change in
/// word errors first, then the order of the set.
pub fn examples(results: &Results, count: usize) -> Vec<Example> {
    let mut shown = Vec::new();
    for comparison in 0..results.comparisons.len() {
        let Some((baseline, run)) = pair(results, comparison) else {
            continue;
        };
        let changes = baseline.hypotheses.iter().zip(&run.hypotheses).enumerate();
        let changes = changes.map(|(hypothesis, (before, after))| Example {
            comparison,
            hypothesis,
            change: after.words.errors() as i64 - before.words.errors() as i64,
        });
        let (mut hurt, rest): (Vec<_>, Vec<_>) = changes.partition(|example| example.change > 0);
        let mut helped: Vec<_> = rest.into_iter().filter(|example| example.change < 0).collect();
        hurt.sort_by_key(|example| (-example.change, example.hypothesis));
        helped.sort_by_key(|example| (example.change, example.hypothesis));
        shown.extend(hurt.into_iter().take(count));
        shown.extend(helped.into_iter().take(count));
    }
    shown
}

/// The two runs of a comparison.
pub(super) fn pair(results: &Results, comparison: usize) -> Option<(&Run, &Run)> {
    let comparison = results.comparisons.get(comparison)?;
    let run = |method| results.run(&comparison.model, method, &comparison.set, &comparison.condition);
    Some((run(BASELINE)?, run(&comparison.method)?))
}
