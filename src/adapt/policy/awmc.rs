//! AWMC (Lee et al., ASRU 2023) as DSUTA's authors ported it: an anchor (the source model), a leader (the source model
//! moved by an average of the chaser's distance from it) and a chaser, which is adapted by CTC towards the other two's
//! transcripts. In evaluation mode, as E-BATS has it: without dropout and without masks.

use super::{PolicyState, start_from};
use crate::adapt::episode::Episode;
use crate::adapt::moves::{Moves, States};
use crate::adapt::stepper::Stepper;
use crate::adapt::{Snapshot, greedy_labels};
use crate::engine::{Backend, EngineError};
use crate::{Carried, Guard, ResetReason};

/// What AWMC carries.
pub(crate) struct Awmc<S> {
    /// How much of the average stays at each step.
    average: f64,
    chaser: S,
    /// The chaser before the present utterance.
    before: S,
    /// The leader's distance from the source model: an average that starts at zero, and is not corrected for that.
    leader: Option<Vec<f32>>,
    heard: u64,
    /// Optimizer steps behind the chaser.
    updates: u64,
}

impl<S> Awmc<S> {
    pub(super) fn new<M: Moves<Snapshot = S>>(average: f64, moves: &mut M) -> Result<Self, EngineError> {
        moves.restore_source();
        Ok(Self {
            average,
            chaser: moves.snapshot()?,
            before: moves.snapshot()?,
            leader: None,
            heard: 0,
            updates: 0,
        })
    }

    pub(super) fn begin<M: Moves<Snapshot = S>>(&mut self, moves: &mut M) {
        self.forget(moves);
        self.heard = 0;
    }

    fn forget<M: Moves<Snapshot = S>>(&mut self, moves: &mut M) {
        moves.restore_source();
        moves.snapshot_into(&mut self.chaser);
        (self.leader, self.updates) = (None, 0);
    }

    pub(super) fn show<M: Moves<Snapshot = S>>(&self, moves: &mut M) {
        moves.restore(&self.chaser);
    }

    pub(super) fn save<M: Moves<Snapshot = S>>(&self, moves: &mut M, state: &mut PolicyState) {
        state.set_count("heard", self.heard);
        state.set_count("updates", self.updates);
        state.put_snapshot("chaser", moves.download(&self.chaser));
        if let Some(leader) = &self.leader {
            state.tensors.insert("leader".into(), leader.clone());
        }
    }

    pub(super) fn load<M: Moves<Snapshot = S>>(&mut self, moves: &mut M, state: &PolicyState) -> Option<()> {
        (self.heard, self.updates) = (state.count("heard")?, state.count("updates")?);
        self.leader = state.tensors.get("leader").cloned();
        let chaser = state.snapshot("chaser")?;
        let fits = self
            .leader
            .as_ref()
            .is_none_or(|leader| leader.len() == chaser.values.len());
        (fits && moves.upload(&chaser, &mut self.chaser)).then_some(())
    }
}

impl<B: Backend> Awmc<Snapshot<B>> {
    /// Adapts to the loaded utterance, which the source model has run on.
    pub(in crate::adapt) fn run(&mut self, stepper: &mut Stepper<'_, B>, steps: usize, episode: &mut Episode) {
        self.heard += 1;
        let mut reset = None;
        if !start_from(stepper, &self.chaser, episode) {
            self.forget(stepper);
            reset = Some(ResetReason::NonFinite);
        }
        episode.carried = Some(Carried {
            position: self.heard,
            updates: self.updates,
            reset,
            ..Carried::default()
        });
        let anchor = greedy_labels(&episode.source_logits, stepper.classes(), stepper.blank());
        stepper.restore(&self.chaser);
        stepper.snapshot_into(&mut self.before);
        let leader = self.leader.clone();
        let source = stepper.source_values();
        for step in 0..steps {
            let Some(target) = self.leaders_labels(stepper, &source, &anchor) else {
                episode.guard = Some(Guard::AllBlank);
                break;
            };
            stepper.restore(&self.chaser);
            stepper.forward();
            let mut objective = stepper.objective();
            objective.loss = towards(stepper, &anchor, &target);
            stepper.zero_gradients();
            if objective.loss.is_finite() {
                episode.objectives.push(objective);
                stepper.backward();
            }
            if !objective.loss.is_finite() || !stepper.step() || !stepper.is_finite() {
                episode.guard = Some(Guard::NonFinite);
                break;
            }
            stepper.snapshot_into(&mut self.chaser);
            self.follow(&stepper.values(), &source);
            episode.steps = step + 1;
        }
        stepper.restore(&self.chaser);
        stepper.forward();
        let logits = stepper.logits();
        if episode.guard != Some(Guard::NonFinite) && logits.iter().all(|logit| logit.is_finite()) {
            episode.last = Some(stepper.objective());
            episode.adapted_logits = logits;
            self.updates += episode.steps as u64;
        } else {
            // Whatever spoiled it, this utterance leaves no trace.
            stepper.restore(&self.before);
            stepper.snapshot_into(&mut self.chaser);
            (self.leader, episode.steps) = (leader, 0);
            episode.guard = Some(Guard::NonFinite);
        }
    }

    /// The leader's transcript; `None` where it, or the anchor's, is empty.
    fn leaders_labels(&self, stepper: &mut Stepper<'_, B>, source: &[f32], anchor: &[usize]) -> Option<Vec<usize>> {
        let labels = match &self.leader {
            None => anchor.to_vec(),
            Some(distance) => {
                let leader: Vec<f32> = source.iter().zip(distance).map(|(s, d)| s + d).collect();
                stepper.set_values(&leader);
                stepper.forward();
                greedy_labels(&stepper.logits(), stepper.classes(), stepper.blank())
            }
        };
        (!anchor.is_empty() && !labels.is_empty()).then_some(labels)
    }

    /// The leader goes after the chaser.
    fn follow(&mut self, chaser: &[f32], source: &[f32]) {
        let (stays, comes) = (self.average as f32, (1.0 - self.average) as f32);
        let leader = self.leader.get_or_insert_with(|| vec![0.0; source.len()]);
        for ((distance, chaser), source) in leader.iter_mut().zip(chaser).zip(source) {
            *distance = stays * *distance + comes * (chaser - source);
        }
    }
}

/// The mean of two transcripts' CTC losses, each the sum over its symbols; leaves the gradient for the backward pass.
fn towards<B: Backend>(stepper: &mut Stepper<'_, B>, anchor: &[usize], leader: &[usize]) -> f64 {
    let (mut loss, mut gradient) = (0.0, Vec::new());
    for target in [anchor, leader] {
        let (of_target, dlogits) = stepper.pseudo_label_gradient(target);
        let weight = target.len() as f64 / 2.0;
        loss += weight * of_target;
        gradient.resize(dlogits.len(), 0.0);
        gradient
            .iter_mut()
            .zip(dlogits)
            .for_each(|(sum, d)| *sum += weight as f32 * d);
    }
    stepper.set_gradient(&gradient);
    loss
}
