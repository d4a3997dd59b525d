//! Guarded adaptation: every utterance is adapted to twice, from the source model and from a domain state, and what both
//! adapted models together find likelier is emitted. The domain state is a moving average of the solutions found from the
//! source model, so it stays as near to it as they do, and forgets as it learns. docs/adaptation.md has the evidence.

use super::PolicyState;
use crate::adapt::episode::{Descent, Episode};
use crate::adapt::stepper::{Moves, Stepper};
use crate::adapt::{greedy_labels, pseudo_label_loss};
use crate::engine::{Backend, ObjectiveValue};
use crate::{Carried, Emitted, Guard, ResetReason, Stopped};

/// Solutions that the average spans.
const HORIZON: u64 = 10;
/// So many utterances in a row on which the domain state led nowhere better than the source model did, and it is dropped.
const PATIENCE: u32 = 2;
/// The spoken frames may become so many times fewer or more than the source model's.
const SPOKEN_RATIO: usize = 2;

/// What is carried.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::adapt) struct Guarded {
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
        let is_sound = is_sound(source, &alone) && stepper.is_finite();
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
        if let Some(other) = from_domain {
            let is_safe = is_safe(source, &other);
            if is_sound && self.judge(is_safe && loss(&other) <= loss(&alone)) {
                self.forget();
                carried.reset = Some(ResetReason::Evidence);
            }
            if is_safe && (!is_sound || is_likelier(stepper, &other, &alone)) {
                emit(other, Emitted::Domain, episode, &mut carried);
            }
        }
        match carried.emitted {
            Some(Emitted::Domain) => {}
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

/// Whether an attempt lowered the source model's loss, and neither lost nor made up most of what is spoken.
fn is_safe(source: ObjectiveValue, attempt: &Episode) -> bool {
    let spoken = attempt.last.map_or(0, |last| last.non_blank_frames);
    attempt.guard.is_none()
        && loss(attempt) < source.loss
        && spoken > 0
        && spoken <= SPOKEN_RATIO * source.non_blank_frames
        && source.non_blank_frames <= SPOKEN_RATIO * spoken
}

/// The same, and it took a step.
fn is_sound(source: ObjectiveValue, attempt: &Episode) -> bool {
    attempt.steps > 0 && is_safe(source, attempt)
}

/// Whether the first attempt's transcript is at least as likely as the second's to both adapted models together.
fn is_likelier<B: Backend>(stepper: &Stepper<'_, B>, one: &Episode, other: &Episode) -> bool {
    let (classes, blank) = (stepper.classes(), stepper.blank());
    let labels = |attempt: &Episode| greedy_labels(&attempt.adapted_logits, classes, blank);
    let (first, second) = (labels(one), labels(other));
    let joint = |labels: &[usize]| {
        let of = |attempt: &Episode| {
            let logits = &attempt.adapted_logits;
            let loss = pseudo_label_loss(logits, classes, labels, blank, false, &mut vec![0.0; logits.len()]);
            loss * labels.len() as f64
        };
        of(one) + of(other)
    };
    first == second || joint(&first) <= joint(&second)
}
