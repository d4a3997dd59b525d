//! Episodic adaptation of several utterances in one pass: the frozen layers see all their frames at once, one matrix
//! product for all, while each utterance has its own values of what is adapted and its own course.
//!
//! What an utterance gives does not depend on the others. One launch serves all of them: in the convolutions before the
//! transformer, where all are padded to one length, and in the norms, attention, the objective, the decisions and the steps,
//! where their rows lie behind each other.

use super::episode::Episode;
use super::unattended::Memory;
use super::{AdaptedParameters, Selection, Snapshot};
use crate::engine::{AdamW, Arena, Backend, EngineError, ObjectiveTerms, Pass, Replay, Rows, Rules};
use crate::model::{Activations, CtcModel};
use crate::{AdaptationConfig, Method};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// One batch's adaptation state for one model.
pub struct BatchAdapter<B: Backend> {
    model: Arc<CtcModel<B>>,
    config: AdaptationConfig,
    lanes: Lanes<B>,
    arena: Arena<B>,
    /// For [`Replay`]: whose work a batch of so many utterances, values each and rows in all is, with the padding.
    owners: HashMap<[usize; 3], u64>,
    lowest: usize,
}

/// Sizes remembered: graphs are kept for fewer.
const MOST_OWNERS: usize = 256;

/// What so many utterances have of their own.
struct Lanes<B: Backend> {
    count: usize,
    /// The values that move, a share for each utterance.
    store: AdaptedParameters<B>,
    last_good: Snapshot<B>,
    memory: Memory<B>,
}

impl<B: Backend> Lanes<B> {
    /// `None` where the device cannot decide, or what is asked for is the host's to decide.
    fn new(
        backend: &B,
        model: &CtcModel<B>,
        config: &AdaptationConfig,
        count: usize,
    ) -> Result<Option<Self>, EngineError> {
        let (weights, selection) = (model.weights().clone(), Selection::of(config));
        let store = AdaptedParameters::shared(backend, weights, selection, count)?;
        let Some(memory) = Memory::new(backend, config, store.stored(), count)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            count,
            last_good: store.snapshot(backend)?,
            store,
            memory,
        }))
    }
}

impl<B: Backend> BatchAdapter<B> {
    /// For [`Method::Suta`] with settings that the device can decide by itself; `None` for others, for parameters that the
    /// transformer's linear layers have, for models with biases that depend on the length, and on a device that cannot
    /// decide.
    pub fn new(backend: &B, model: Arc<CtcModel<B>>, config: &AdaptationConfig) -> Result<Option<Self>, EngineError> {
        if config.method != Method::Suta || backend.judge().is_none() {
            return Ok(None);
        }
        let Some(lanes) = Lanes::new(backend, &model, config, 1)? else {
            return Ok(None);
        };
        if !model.takes_batches(&lanes.store) {
            return Ok(None);
        }
        Ok(Some(Self {
            lowest: model.lowest_adapted_stage(&lanes.store),
            lanes,
            config: config.clone(),
            arena: Arena::new(backend, 0)?,
            owners: HashMap::new(),
            model,
        }))
    }

    /// The adapted values of an utterance of the last batch, in the order of [`AdaptedParameters::values`].
    pub fn values(&self, backend: &B, utterance: usize) -> Vec<f32> {
        self.lanes.store.values_of(backend, utterance)
    }

    /// Recognises utterances (model inputs, as [`super::Adapter::run`] takes them), adapting to each from the source model.
    /// One too short for a single frame gives an empty episode.
    pub fn run(&mut self, backend: &B, inputs: &[&[f32]]) -> Result<Vec<Episode>, EngineError> {
        let is_heard = |input: &[f32]| self.model.plan(backend, input.len(), self.lowest).is_some();
        let is_heard: Vec<bool> = inputs.iter().map(|input| is_heard(input)).collect();
        let pairs = inputs.iter().zip(&is_heard);
        let heard: Vec<&[f32]> = pairs.filter(|(_, is)| **is).map(|(input, _)| *input).collect();
        let lens: Vec<usize> = heard.iter().map(|input| input.len()).collect();
        let mut episodes = Vec::new();
        if !heard.is_empty()
            && let Some((plan, activations)) = self.model.plan_batch(backend, &lens, self.lowest)
        {
            self.arena.reserve(backend, &plan)?;
            self.arena.reserve_spans(backend, activations.utterances())?;
            episodes = self.run_heard(backend, &activations, &heard)?;
        }
        let mut episodes = episodes.into_iter();
        let all = is_heard
            .into_iter()
            .map(|is| is.then(|| episodes.next()).flatten().unwrap_or_default());
        Ok(all.collect())
    }

    fn run_heard(&mut self, backend: &B, a: &Activations, inputs: &[&[f32]]) -> Result<Vec<Episode>, EngineError> {
        let begun = Instant::now();
        let (steps, classes) = (self.config.planned_steps(), self.model.config().vocab_size);
        if self.owners.len() >= MOST_OWNERS {
            self.owners.clear();
        }
        let (rows, count) = (a.utterance_rows(), a.utterances());
        let sizes = [count, a.values(), a.padded_frames()];
        let owner = *self.owners.entry(sizes).or_insert_with(Replay::new_owner);
        if self.lanes.count < count {
            // Sizes of powers of two: a few utterances more need not be given memory anew each time.
            let most = count.next_power_of_two();
            if let Some(lanes) = Lanes::new(backend, &self.model, &self.config, most)? {
                self.lanes = lanes;
            }
        }
        self.lanes.memory.reserve(backend, a.padded_logits().0.len)?;
        self.model.load_inputs(backend, &mut self.arena, a, inputs);
        self.lanes.store.use_shares(backend, count);
        self.lanes.store.restore_source(backend);
        self.lanes.memory.begin(backend, count, 0);
        let replay = |pass, stage| Replay {
            owner,
            pass,
            stage,
            values: a.values(),
            label: (0, 0),
        };
        backend.replayable(replay(Pass::Forward, 0), || {
            self.model.forward(backend, &self.lanes.store, &mut self.arena, a, 0);
        });
        let mut logits = vec![0.0; a.logits().len];
        backend.download(self.arena.view(backend, a.logits()), &mut logits);
        backend.status()?;
        let source_seconds = begun.elapsed().as_secs_f64();
        for _ in 0..steps {
            backend.replayable(replay(Pass::Step, steps), || {
                self.decide(backend, a);
                self.step(backend, a);
            });
        }
        backend.replayable(replay(Pass::Judgement, steps), || self.decide(backend, a));
        let mut episodes: Vec<Episode> = rows
            .iter()
            .map(|rows| {
                let source = logits[rows.start * classes..rows.end * classes].to_vec();
                Episode {
                    frames: rows.len(),
                    adapted_logits: source.clone(),
                    source_logits: source,
                    source_seconds,
                    forwards: steps + 1,
                    backwards: steps,
                    ..Episode::default()
                }
            })
            .collect();
        let begins = rows.iter().map(|rows| rows.start * classes);
        self.lanes.memory.end(backend, begins.zip(&mut episodes));
        backend.status()?;
        Ok(episodes)
    }

    /// A turn's first half, of every utterance: see [`super::unattended`].
    fn decide(&mut self, backend: &B, a: &Activations) {
        let Some(judge) = backend.judge() else { return };
        let (cols, config) = (self.model.config().vocab_size, &self.config);
        let terms = ObjectiveTerms {
            temperature: config.temperature,
            entropy_weight: config.entropy_weight,
            blank: self.model.config().blank,
        };
        let rules = Rules {
            steps: config.planned_steps(),
            safeguard: config.safeguard,
        };
        let (spans, shape) = (
            a.spans(),
            Rows {
                rows: a.padded_frames(),
                cols,
            },
        );
        let lanes = &mut self.lanes;
        lanes.memory.decide(
            backend,
            judge,
            (&terms, rules),
            (shape, spans, a.output_frames()),
            &mut self.arena,
            a.padded_logits(),
        );
        let ledgers = lanes.memory.ledgers(backend);
        lanes.store.restore_where(backend, judge, ledgers, &lanes.last_good);
    }

    /// The second.
    fn step(&mut self, backend: &B, a: &Activations) {
        let Some(judge) = backend.judge() else { return };
        let lanes = &mut self.lanes;
        lanes.store.zero_gradients(backend);
        self.model.backward(backend, &mut lanes.store, &mut self.arena, a);
        let optimizer = AdamW::suta(self.config.learning_rate);
        lanes
            .memory
            .step(backend, judge, &optimizer, &mut lanes.store, &mut lanes.last_good);
        self.model
            .forward(backend, &lanes.store, &mut self.arena, a, self.lowest);
    }
}
