//! DSUTA (Lin, Huang and Lee, EMNLP 2024): a slow state that takes one step on every full buffer of utterances, and from
//! which each utterance's fast steps start, moments included. With a reservoir the slow step also rehearses earlier
//! utterances' confident transcripts.

use super::reservoir::{Remembered, Reservoir};
use super::reset::Schedule;
use super::{PolicyState, generator, start_from};
use crate::adapt::coherence::confidence;
use crate::adapt::episode::{Descent, Episode};
use crate::adapt::moves::Moves;
use crate::adapt::stepper::Stepper;
use crate::adapt::{Snapshot, greedy_labels};
use crate::engine::{Backend, EngineError};
use crate::{Carried, ContinualConfig, Guard, Reset, ResetReason};

/// What DSUTA carries.
pub(crate) struct Dsuta<S> {
    config: ContinualConfig,
    /// The slow state.
    slow: S,
    /// Slow updates behind it.
    updates: u64,
    /// What it was when the domain was learned.
    domain: Option<S>,
    buffer: Vec<Heard>,
    schedule: Schedule,
    reservoir: Option<Reservoir>,
}

/// An utterance that waits for the slow update.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// As [`Moves`] take it.
    pub(crate) input: Vec<f32>,
    /// The source model's loss.
    pub(crate) loss: f64,
    /// What was understood of it, and how sure that is; nothing where nothing is rehearsed.
    pub(crate) labels: Vec<usize>,
    /// From 0 to 1.
    pub(crate) confidence: f64,
}

impl<S> Dsuta<S> {
    /// `rehearses`: with a reservoir.
    pub(super) fn new<M: Moves<Snapshot = S>>(
        config: &ContinualConfig,
        rehearses: bool,
        moves: &mut M,
    ) -> Result<Self, EngineError> {
        moves.restore_source();
        let reservoir = rehearses.then(|| Reservoir::new(config.reservoir, config.confidence, config.seed));
        Ok(Self {
            config: config.clone(),
            slow: moves.snapshot()?,
            updates: 0,
            domain: None,
            buffer: Vec::new(),
            schedule: Schedule::new(config.reset),
            reservoir,
        })
    }

    pub(super) fn begin<M: Moves<Snapshot = S>>(&mut self, moves: &mut M) {
        self.forget(moves);
        self.schedule = Schedule::new(self.config.reset);
        if let Some(reservoir) = &mut self.reservoir {
            reservoir.clear();
        }
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

    /// An utterance begins, from the slow state; see [`super::csuta::Csuta::start`].
    pub(super) fn start<M: Moves<Snapshot = S>>(
        &mut self,
        moves: &mut M,
        runs: impl FnOnce(&mut M, &S) -> bool,
    ) -> Carried {
        let mut reset = None;
        if self.updates > 0 && !runs(moves, &self.slow) {
            self.forget(moves);
            reset = Some(ResetReason::NonFinite);
        }
        Carried {
            position: self.schedule.heard() + 1,
            updates: self.updates,
            reset,
            ..Carried::default()
        }
    }

    /// The slow side, once an utterance is adapted to; `None` is one that counts, and teaches nothing.
    pub(super) fn finish<M: Moves<Snapshot = S>>(
        &mut self,
        moves: &mut M,
        heard: Option<&Heard>,
        carried: &mut Carried,
    ) -> Result<(), EngineError> {
        self.schedule.hear();
        self.buffer.extend(heard.cloned());
        if heard.is_some() && self.buffer.len() >= self.config.buffer {
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
            for heard in self.buffer.drain(..) {
                if let Some(reservoir) = &mut self.reservoir {
                    let (input, labels) = (heard.input, heard.labels);
                    reservoir.offer(Remembered { input, labels }, heard.confidence);
                }
            }
        }
        if self.schedule.keeps_domain() {
            moves.restore(&self.slow);
            self.domain = Some(moves.snapshot()?);
        }
        if self.schedule.gathers()
            && let Some(heard) = heard
            && let Some(improvement) = self.improvement(moves, &heard.input, heard.loss)?
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

    /// One step of the slow state along the mean gradient of the buffer and of what is rehearsed with it.
    fn update<M: Moves<Snapshot = S>>(&mut self, moves: &mut M, carried: &mut Carried) -> Result<(), EngineError> {
        moves.restore(&self.slow);
        moves.zero_gradients();
        let rehearsed = match &self.reservoir {
            Some(reservoir) => reservoir.draw(self.buffer.len(), self.schedule.heard()),
            None => Vec::new(),
        };
        let weight = 1.0 / (self.buffer.len() + rehearsed.len()) as f64;
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
        for earlier in rehearsed {
            moves.rehearse(&earlier.input, &earlier.labels, weight)?;
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
        let mut draws = generator(self.config.seed, 0, self.schedule.heard());
        let mut values = moves.values();
        for (value, source) in values.iter_mut().zip(moves.source_values()) {
            if draws.f64() < probability {
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
        if let Some(reservoir) = &self.reservoir {
            reservoir.save(state);
            for (n, heard) in self.buffer.iter().enumerate() {
                let labels = heard.labels.iter().map(|&label| label as f64);
                let values = std::iter::once(heard.confidence).chain(labels).collect();
                state.statistics.insert(format!("buffer.{n}.understood"), values);
            }
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
            let mut heard = Heard {
                input,
                loss: *loss,
                labels: Vec::new(),
                confidence: 0.0,
            };
            if self.reservoir.is_some() {
                let understood = state.statistics.get(&format!("buffer.{n}.understood"))?;
                let (confidence, labels) = understood.split_first()?;
                heard.confidence = *confidence;
                heard.labels = labels.iter().map(|&label| label as usize).collect();
                heard
                    .labels
                    .iter()
                    .all(|&label| label < moves.classes())
                    .then_some(())?;
            }
            Some(heard)
        });
        self.buffer = buffered.collect::<Option<_>>()?;
        if let Some(reservoir) = &mut self.reservoir {
            reservoir.load(state, moves.classes())?;
        }
        moves.upload(&state.snapshot("slow")?, &mut self.slow).then_some(())
    }
}

impl<B: Backend> Dsuta<Snapshot<B>> {
    /// Adapts to the loaded utterance, which the source model has run on, then lets the slow state learn from it.
    pub(in crate::adapt) fn run(
        &mut self,
        stepper: &mut Stepper<'_, B>,
        mut descent: Descent<'_, B>,
        input: &[f32],
        episode: &mut Episode,
    ) -> Result<(), EngineError> {
        let source = stepper.objective();
        let mut carried = self.start(stepper, |stepper, state| start_from(stepper, state, episode));
        if carried.reset.is_some() {
            stepper.forward();
        }
        descent.run(stepper, episode);
        if source.loss.is_finite() && episode.guard != Some(Guard::NonFinite) {
            let mut heard = Heard {
                input: input.to_vec(),
                loss: source.loss,
                ..Heard::default()
            };
            if self.reservoir.is_some() {
                let (classes, blank) = (stepper.classes(), stepper.blank());
                heard.labels = greedy_labels(&episode.adapted_logits, classes, blank);
                heard.confidence = confidence(&episode.adapted_logits, classes, blank);
            }
            self.finish(stepper, Some(&heard), &mut carried)?;
        }
        episode.carried = Some(carried);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
