//! DSUTA (Lin, Huang and Lee, EMNLP 2024): a slow state that takes one step on every full buffer of utterances, and from
//! which each utterance's fast steps start, moments included.

use super::reset::Schedule;
use super::{PolicyState, start_from};
use crate::adapt::Snapshot;
use crate::adapt::episode::{Descent, Episode};
use crate::adapt::stepper::{Moves, Stepper};
use crate::engine::{Backend, EngineError};
use crate::{Carried, ContinualConfig, Guard, Reset, ResetReason};

/// What DSUTA carries.
pub(in crate::adapt) struct Dsuta<S> {
    config: ContinualConfig,
    /// The slow state.
    slow: S,
    /// Slow updates behind it.
    updates: u64,
    /// What it was when the domain was learned.
    domain: Option<S>,
    buffer: Vec<Heard>,
    schedule: Schedule,
}

/// An utterance that waits for the slow update.
struct Heard {
    input: Vec<f32>,
    /// The source model's loss.
    loss: f64,
}

impl<S> Dsuta<S> {
    pub(super) fn new<M: Moves<Snapshot = S>>(config: &ContinualConfig, moves: &mut M) -> Result<Self, EngineError> {
        moves.restore_source();
        Ok(Self {
            config: config.clone(),
            slow: moves.snapshot()?,
            updates: 0,
            domain: None,
            buffer: Vec::new(),
            schedule: Schedule::new(config.reset),
        })
    }

    pub(super) fn begin<M: Moves<Snapshot = S>>(&mut self, moves: &mut M) {
        self.forget(moves);
        self.schedule = Schedule::new(self.config.reset);
    }

    pub(super) fn domain_changed<M: Moves<Snapshot = S>>(&mut self, moves: &mut M) {
        if self.config.reset == Reset::Oracle {
            self.forget(moves);
        }
    }

    fn forget<M: Moves<Snapshot = S>>(&mut self, moves: &mut M) {
        moves.restore_source();
        moves.snapshot_into(&mut self.slow);
        (self.updates, self.domain) = (0, None);
        self.buffer.clear();
        self.schedule.reset();
    }

    pub(super) fn show<M: Moves<Snapshot = S>>(&self, moves: &mut M) {
        moves.restore(&self.slow);
    }

    /// The slow side, once an utterance is adapted to; `loss` is the source model's.
    fn finish<M: Moves<Snapshot = S>>(
        &mut self,
        moves: &mut M,
        input: &[f32],
        loss: f64,
        carried: &mut Carried,
    ) -> Result<(), EngineError> {
        self.schedule.hear();
        self.buffer.push(Heard {
            input: input.to_vec(),
            loss,
        });
        if self.buffer.len() >= self.config.buffer {
            let mut improvements = Vec::new();
            if self.schedule.compares() {
                for heard in &self.buffer {
                    improvements.extend(self.improvement(moves, &heard.input, heard.loss)?);
                }
            }
            let (deviation, reset) = self.schedule.full_buffer(&improvements);
            carried.deviation = deviation.map(|deviation| deviation as f32);
            match reset {
                Some(_) => self.forget(moves),
                None => self.update(moves, carried)?,
            }
            carried.reset = carried.reset.or(reset);
            self.buffer.clear();
        }
        if self.schedule.keeps_domain() {
            moves.restore(&self.slow);
            self.domain = Some(moves.snapshot()?);
        }
        if self.schedule.gathers()
            && let Some(improvement) = self.improvement(moves, input, loss)?
        {
            self.schedule.gather(improvement);
        }
        self.schedule.end();
        Ok(())
    }

    /// By how much the domain's state has a higher loss than the source model; less is better.
    fn improvement<M: Moves<Snapshot = S>>(
        &self,
        moves: &mut M,
        input: &[f32],
        source: f64,
    ) -> Result<Option<f64>, EngineError> {
        let Some(domain) = &self.domain else { return Ok(None) };
        moves.restore(domain);
        let objective = moves.look(input)?;
        let difference = objective.map(|objective| objective.loss - source);
        Ok(difference.filter(|difference| difference.is_finite()))
    }

    /// One step of the slow state along the mean gradient of the buffer.
    fn update<M: Moves<Snapshot = S>>(&mut self, moves: &mut M, carried: &mut Carried) -> Result<(), EngineError> {
        moves.restore(&self.slow);
        moves.zero_gradients();
        let weight = 1.0 / self.buffer.len() as f64;
        let mut spoken = Vec::new();
        for heard in &self.buffer {
            let objective = moves.accumulate(&heard.input, weight)?;
            spoken.extend(objective.filter(|objective| objective.non_blank_frames > 0));
        }
        // Nothing was said: a step would only follow the momentum.
        if spoken.is_empty() {
            return Ok(());
        }
        let count = spoken.len() as f64;
        let entropy = spoken.iter().map(|objective| objective.entropy).sum::<f64>() / count;
        carried.slow_loss = Some((spoken.iter().map(|objective| objective.loss).sum::<f64>() / count) as f32);
        if self.schedule.has_collapsed(entropy) {
            carried.reset = Some(ResetReason::Collapse);
            self.forget(moves);
            return Ok(());
        }
        if !moves.step() {
            return Ok(());
        }
        self.restore_some(moves);
        // A state that is not finite is not carried: the one before stays.
        if moves.is_finite() {
            moves.snapshot_into(&mut self.slow);
            self.updates += 1;
        }
        Ok(())
    }

    /// CoTTA's stochastic restore. The draw depends on the seed and on how much was heard alone, so that a resumed
    /// stream makes it again.
    fn restore_some<M: Moves<Snapshot = S>>(&self, moves: &mut M) {
        let probability = self.config.restore_probability;
        if probability <= 0.0 {
            return;
        }
        let seed = self.config.seed ^ self.schedule.heard().wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut generator = fastrand::Rng::with_seed(seed);
        let mut values = moves.values();
        for (value, source) in values.iter_mut().zip(moves.source_values()) {
            if generator.f64() < probability {
                *value = source;
            }
        }
        moves.set_values(&values);
    }

    pub(super) fn save<M: Moves<Snapshot = S>>(&self, moves: &mut M, state: &mut PolicyState) {
        self.schedule.save(state);
        state.set_count("updates", self.updates);
        state.set_count("buffered", self.buffer.len() as u64);
        state.put_snapshot("slow", moves.download(&self.slow));
        if let Some(domain) = &self.domain {
            state.put_snapshot("domain", moves.download(domain));
        }
        let losses = self.buffer.iter().map(|heard| heard.loss);
        state.statistics.insert("buffer.losses".into(), losses.collect());
        for (n, heard) in self.buffer.iter().enumerate() {
            state.tensors.insert(format!("buffer.{n}"), heard.input.clone());
        }
    }

    pub(super) fn load<M: Moves<Snapshot = S>>(&mut self, moves: &mut M, state: &PolicyState) -> Option<()> {
        self.schedule.load(state)?;
        self.updates = state.count("updates")?;
        self.domain = None;
        if let Some(saved) = state.snapshot("domain") {
            let mut domain = moves.snapshot().ok()?;
            moves.upload(&saved, &mut domain).then_some(())?;
            self.domain = Some(domain);
        }
        let losses = state.statistics.get("buffer.losses")?;
        let buffered = (0..state.count("buffered")?).zip(losses).map(|(n, loss)| {
            let input = state.tensors.get(&format!("buffer.{n}"))?.clone();
            Some(Heard { input, loss: *loss })
        });
        self.buffer = buffered.collect::<Option<_>>()?;
        moves.upload(&state.snapshot("slow")?, &mut self.slow).then_some(())
    }
}

impl<B: Backend> Dsuta<Snapshot<B>> {
    /// Adapts to the loaded utterance, which the source model has run on, then lets the slow state learn from it.
    pub(in crate::adapt) fn run(
        &mut self,
        stepper: &mut Stepper<'_, B>,
        descent: Descent<'_, B>,
        input: &[f32],
        episode: &mut Episode,
    ) -> Result<(), EngineError> {
        let source = stepper.objective();
        let mut reset = None;
        if self.updates > 0 && !start_from(stepper, &self.slow, episode) {
            self.forget(stepper);
            stepper.forward();
            reset = Some(ResetReason::NonFinite);
        }
        let mut carried = Carried {
            position: self.schedule.heard() + 1,
            updates: self.updates,
            reset,
            ..Carried::default()
        };
        descent.run(stepper, episode);
        if source.loss.is_finite() && episode.guard != Some(Guard::NonFinite) {
            self.finish(stepper, input, source.loss, &mut carried)?;
        }
        episode.carried = Some(carried);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
