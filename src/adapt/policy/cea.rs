//! CEA (Liu, Huang and Wang, EMNLP 2024): on each utterance, from the source model, first confidence-weighted entropy on
//! all that moves, then entropy of every frame and temporal coherence on the norms alone, at ten times the rate.

use crate::AdaptationConfig;
use crate::Guard;
use crate::adapt::Snapshot;
use crate::adapt::coherence::{frame_entropy, spoken, temporal_coherence};
use crate::adapt::episode::Episode;
use crate::adapt::moves::{Moves, OnStore, States};
use crate::adapt::stepper::Stepper;
use crate::engine::{Backend, EngineError, ObjectiveValue};

/// The second phase's learning rate over the first's.
const SECOND_RATE: f64 = 10.0;
/// Weight of the temporal coherence.
const COHERENCE: f64 = 0.3;

/// Nothing is carried but memory.
pub(crate) struct Cea<S> {
    /// The last good state.
    good: S,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Confidence,
    Coherence,
}

impl<S> Cea<S> {
    pub(super) fn new<M: Moves<Snapshot = S>>(moves: &M) -> Result<Self, EngineError> {
        Ok(Self {
            good: moves.snapshot()?,
        })
    }
}

impl<B: Backend> Cea<Snapshot<B>> {
    /// Adapts to the loaded utterance, which the source model has run on; `config.steps` of each phase.
    pub(in crate::adapt) fn run(
        &mut self,
        stepper: &mut Stepper<'_, B>,
        config: &AdaptationConfig,
        kept_steps: &[usize],
        episode: &mut Episode,
    ) {
        let first = stepper.optimizer();
        let mut second = first;
        second.learning_rate *= SECOND_RATE;
        for step in 0..=2 * config.steps {
            let phase = match step < config.steps {
                true => Phase::Confidence,
                false => Phase::Coherence,
            };
            let (objective, dfeatures) = measure(stepper, config, phase);
            if !objective.loss.is_finite() {
                stepper.restore(&self.good);
                episode.guard = Some(Guard::NonFinite);
                return;
            }
            episode.first.get_or_insert(objective);
            episode.last = Some(objective);
            if step > 0 {
                stepper.download_logits(&mut episode.adapted_logits);
                episode.steps = step;
            }
            if kept_steps.contains(&step) {
                episode.step_logits.push((step, episode.adapted_logits.clone()));
            }
            if step == 2 * config.steps {
                return;
            }
            if objective.non_blank_frames == 0 {
                episode.guard = Some(Guard::AllBlank);
                return;
            }
            episode.objectives.push(objective);
            stepper.zero_gradients();
            stepper.backward_with(dfeatures.as_deref());
            if !stepper.gradients_are_finite() {
                episode.guard = Some(Guard::NonFinite);
                return;
            }
            stepper.snapshot_into(&mut self.good);
            match phase {
                Phase::Confidence => stepper.update(&first),
                Phase::Coherence => {
                    // An optimizer of its own.
                    if step == config.steps {
                        stepper.forget_moments();
                    }
                    stepper.update_norms(&second);
                }
            }
            stepper.forward();
        }
    }
}

/// A phase's objective on the last forward pass. Leaves its gradient with respect to the logits for the backward pass, and
/// gives the one with respect to the convolutions' output where there is one.
fn measure<B: Backend>(
    stepper: &mut Stepper<'_, B>,
    config: &AdaptationConfig,
    phase: Phase,
) -> (ObjectiveValue, Option<Vec<f32>>) {
    let mut objective = stepper.class_confusion();
    let (classes, blank, logits) = (stepper.classes(), stepper.blank(), stepper.logits());
    let mut dlogits = stepper.gradient();
    let weight = config.entropy_weight;
    dlogits.iter_mut().for_each(|d| *d *= (1.0 - weight) as f32);
    let spoken = spoken(&logits, classes, blank);
    let (chosen, weighted) = match phase {
        Phase::Confidence => (Some(&spoken[..]), true),
        Phase::Coherence => (None, false),
    };
    let entropy = frame_entropy(
        (&logits, classes),
        config.temperature,
        chosen,
        weighted,
        weight,
        &mut dlogits,
    );
    stepper.set_gradient(&dlogits);
    objective.loss = weight * entropy + (1.0 - weight) * objective.class_confusion;
    let features = match phase {
        Phase::Confidence => None,
        Phase::Coherence => stepper.features_below_norms(),
    };
    let dfeatures = features.map(|(features, channels)| {
        let (coherence, dfeatures) = temporal_coherence(&features, channels, &spoken, COHERENCE);
        objective.loss += COHERENCE * coherence;
        dfeatures
    });
    (objective, dfeatures)
}
