//! Guarded adaptation: every utterance is adapted to twice, from the source model and from a domain state. Of the
//! transcripts of these two models and of their mean, the one is emitted that both together find likeliest. The domain
//! state is a moving average of the solutions found from the source model, so it stays as near to it as they do, and
//! forgets as it learns. docs/adaptation.md has the evidence.

use super::PolicyState;
use crate::adapt::episode::{Descent, Episode};
use crate::adapt::moves::{Moves, States};
use crate::adapt::stepper::Stepper;
use crate::adapt::{greedy_labels, pseudo_label_loss};
use crate::engine::{Backend, ObjectiveValue};
use crate::{Carried, Emitted, Guard, ResetReason, Stopped};

/// Solutions that the average spans.
const HORIZON: u64 = 10;
/// So many utterances in a row on which the domain state led nowhere better than the source model did, and it is dropped.
const PATIENCE: u32 = 2;
/// A transcript may have so many times fewer or more symbols than the source model's, and a few more whatever that is.
const LENGTH_RATIO: usize = 2;
const LENGTH_SLACK: usize = 4;

/// What is carried.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Guarded {
    heard: u64,
    /// The average's values, once there is a solution.
    domain: Option<Vec<f32>>,
    /// Solutions behind it.
    behind: u64,
    failures: u32,
}

impl Guarded {
    pub(super) fn begin(&mut self) {
        *self = Self::default();
    }

    fn forget(&mut self) {
        *self = Self {
            heard: self.heard,
            ..Self::default()
        };
    }

    pub(super) fn show<M: Moves>(&self, moves: &mut M) {
        moves.restore_source();
        if let Some(domain) = &self.domain {
            moves.set_values(domain);
        }
    }

    pub(super) fn save(&self, state: &mut PolicyState) {
        state.set_count("heard", self.heard);
        state.set_count("behind", self.behind);
        state.set_count("failures", self.failures.into());
        if let Some(domain) = &self.domain {
            state.tensors.insert("domain".into(), domain.clone());
        }
    }

    pub(super) fn load<M: Moves>(&mut self, moves: &M, state: &PolicyState) -> Option<()> {
        let domain = state.tensors.get("domain").cloned();
        let fits = domain
            .as_ref()
            .is_none_or(|domain| domain.len() == moves.source_values().len());
        let (heard, behind) = (state.count("heard")?, state.count("behind")?);
        let failures = u32::try_from(state.count("failures")?).ok()?;
        (fits && (behind > 0) == domain.is_some()).then_some(())?;
        *self = Self {
            heard,
            domain,
            behind,
            failures,
        };
        Some(())
    }

    /// A solution from the source model joins the average.
    fn learn(&mut self, solution: Vec<f32>) {
        self.behind += 1;
        let comes = 1.0 / self.behind.min(HORIZON) as f32;
        match &mut self.domain {
            None => self.domain = Some(solution),
            Some(domain) => domain
                .iter_mut()
                .zip(&solution)
                .for_each(|(mean, value)| *mean += comes * (value - *mean)),
        }
    }

    /// Hears whether the domain state did better than the source model; tells whether to drop it.
    fn judge(&mut self, better: bool) -> bool {
        self.failures = if better { 0 } else { self.failures + 1 };
        self.failures >= PATIENCE
    }

    /// Adapts to the loaded utterance, which the source model has run on.
    pub(in crate::adapt) fn run<B: Backend>(
        &mut self,
        stepper: &mut Stepper<'_, B>,
        mut descent: Descent<'_, B>,
        episode: &mut Episode,
    ) {
        self.heard += 1;
        let source = stepper.objective();
        episode.first = source.loss.is_finite().then_some(source);
        let mut carried = Carried {
            position: self.heard,
            updates: self.behind,
            emitted: Some(Emitted::Unadapted),
            ..Carried::default()
        };
        let mut alone = attempt(episode);
        descent.run(stepper, &mut alone);
        let is_sound = alone.steps > 0 && is_safe(stepper, source, &alone) && stepper.is_finite();
        let solution = is_sound.then(|| stepper.values());
        let mut from_domain = None;
        // Silence says nothing about the domain state, and a sure source model needs none.
        if alone.guard != Some(Guard::AllBlank)
            && alone.stopped != Some(Stopped::Confident)
            && let Some(domain) = &self.domain
        {
            stepper.restore_source();
            stepper.set_values(domain);
            stepper.forward();
            let mut other = attempt(episode);
            stepper.download_logits(&mut other.adapted_logits);
            descent.run(stepper, &mut other);
            from_domain = Some(other);
        }
        if let Some(mut other) = from_domain {
            let is_safe = is_safe(stepper, source, &other);
            if is_sound && self.judge(is_safe && loss(&other) <= loss(&alone)) {
                self.forget();
                carried.reset = Some(ResetReason::Evidence);
            }
            let emitted = match (is_sound, is_safe) {
                (true, true) => likeliest(stepper, &mut other, &alone),
                (true, false) => Emitted::Source,
                (false, true) => Emitted::Domain,
                (false, false) => Emitted::Unadapted,
            };
            if matches!(emitted, Emitted::Domain | Emitted::Both) {
                emit(other, emitted, episode, &mut carried);
            }
        }
        match carried.emitted {
            Some(Emitted::Domain | Emitted::Both) => {}
            _ if is_sound => emit(alone, Emitted::Source, episode, &mut carried),
            // The source model's transcript stands; why is told.
            _ => (episode.guard, episode.stopped) = (alone.guard, alone.stopped),
        }
        if let Some(solution) = solution {
            self.learn(solution);
        }
        episode.carried = Some(carried);
    }
}

/// What one descent of an utterance starts as.
fn attempt(episode: &Episode) -> Episode {
    Episode {
        frames: episode.frames,
        source_logits: episode.source_logits.clone(),
        adapted_logits: episode.source_logits.clone(),
        ..Episode::default()
    }
}

/// An attempt's outcome becomes the utterance's.
fn emit(attempt: Episode, emitted: Emitted, episode: &mut Episode, carried: &mut Carried) {
    carried.emitted = Some(emitted);
    *episode = Episode {
        first: episode.first,
        source_seconds: episode.source_seconds,
        ..attempt
    };
}

fn loss(attempt: &Episode) -> f64 {
    attempt.last.map_or(f64::INFINITY, |last| last.loss)
}

/// Whether an attempt lowered the source model's loss, and neither lost nor made up most of the transcript: a model that
/// says one symbol throughout has the lowest loss of all.
fn is_safe<B: Backend>(stepper: &Stepper<'_, B>, source: ObjectiveValue, attempt: &Episode) -> bool {
    let length = |logits: &[f32]| greedy_labels(logits, stepper.classes(), stepper.blank()).len();
    let (before, after) = (length(&attempt.source_logits), length(&attempt.adapted_logits));
    attempt.guard.is_none()
        && loss(attempt) < source.loss
        && after > 0
        && after <= LENGTH_RATIO * before + LENGTH_SLACK
        && before <= LENGTH_RATIO * after + LENGTH_SLACK
}

/// Whose transcript both adapted models together find likeliest: the domain state's, the other's, or that of the mean of
/// their probabilities, whose logarithms then take the place of the domain state's logits.
fn likeliest<B: Backend>(stepper: &Stepper<'_, B>, domain: &mut Episode, alone: &Episode) -> Emitted {
    let (classes, blank) = (stepper.classes(), stepper.blank());
    let mean = mean_probabilities(&domain.adapted_logits, &alone.adapted_logits, classes);
    let labels = |logits: &[f32]| greedy_labels(logits, classes, blank);
    let candidates = [
        (Emitted::Both, labels(&mean)),
        (Emitted::Domain, labels(&domain.adapted_logits)),
        (Emitted::Source, labels(&alone.adapted_logits)),
    ];
    let joint = |labels: &[usize]| {
        let of = |logits: &[f32]| {
            let loss = pseudo_label_loss(logits, classes, labels, blank, false, &mut vec![0.0; logits.len()]);
            loss * labels.len() as f64
        };
        of(&domain.adapted_logits) + of(&alone.adapted_logits)
    };
    let mut best = (f64::INFINITY, Emitted::Domain);
    for (emitted, labels) in candidates.iter().filter(|(_, labels)| !labels.is_empty()) {
        let loss = joint(labels);
        if loss < best.0 {
            best = (loss, *emitted);
        }
    }
    if best.1 == Emitted::Both {
        domain.adapted_logits = mean;
    }
    best.1
}

/// The logarithm of the mean of two models' softmax, `[T, V]`.
fn mean_probabilities(one: &[f32], other: &[f32], classes: usize) -> Vec<f32> {
    let normalised = |row: &[f32]| {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f32 = row.iter().map(|z| (z - highest).exp()).sum();
        highest + sum.ln()
    };
    let rows = one.chunks_exact(classes).zip(other.chunks_exact(classes));
    rows.flat_map(|(one, other)| {
        let (first, second) = (normalised(one), normalised(other));
        let mean = move |(a, b): (&f32, &f32)| {
            let (a, b) = (a - first, b - second);
            let highest = a.max(b);
            highest + (0.5 * ((a - highest).exp() + (b - highest).exp())).ln()
        };
        one.iter().zip(other).map(mean).collect::<Vec<_>>()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::mean_probabilities;

    #[test]
    fn the_mean_is_that_of_probabilities_and_bears_what_is_impossible() {
        let one = [0.1f32.ln() + 7.0, 0.9f32.ln() + 7.0, 0.0, f32::MIN];
        let other = [0.5f32.ln(), 0.5f32.ln(), 0.0, f32::MIN];
        let found: Vec<f32> = mean_probabilities(&one, &other, 2).iter().map(|z| z.exp()).collect();
        for (found, expected) in found.iter().zip([0.3, 0.7, 1.0, 0.0]) {
            assert!((found - expected).abs() < 1e-5, "{found:?} {expected}");
        }
    }
}
