//! Episodic adaptation of several utterances in one pass: the frozen layers see all their frames at once, one matrix
//! product for all, while each utterance has its own values of what is adapted and its own course.
//!
//! The utterances' rows lie behind each other, without padding: what an utterance gives does not depend on the others.

use super::episode::Episode;
use super::unattended::Memory;
use super::{AdaptedParameters, Selection, Snapshot};
use crate::engine::{AdamW, Arena, Backend, EngineError, ObjectiveTerms, Pass, Replay, Rows, Rules, Slot};
use crate::model::{Activations, CtcModel, OperandId, Parameters};
use crate::{AdaptationConfig, Method};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// One batch's adaptation state for one model.
pub struct BatchAdapter<B: Backend> {
    model: Arc<CtcModel<B>>,
    config: AdaptationConfig,
    stores: Stores<B>,
    courses: Vec<Course<B>>,
    arena: Arena<B>,
    /// For [`Replay`]: whose work a batch of these lengths is.
    owners: HashMap<Vec<usize>, u64>,
    lowest: usize,
}

/// Lists of lengths remembered: graphs are kept for fewer.
const MOST_OWNERS: usize = 256;

/// What an utterance of the batch has beside its values.
struct Course<B: Backend> {
    last_good: Snapshot<B>,
    memory: Memory<B>,
}

/// The stores of a batch's utterances; the model's passes turn from one to the next.
struct Stores<B: Backend> {
    each: Vec<AdaptedParameters<B>>,
    current: Cell<usize>,
}

impl<B: Backend> Parameters<B> for Stores<B> {
    fn turn_to(&self, utterance: usize) {
        self.current.set(utterance);
    }

    fn value(&self, backend: &B, id: OperandId) -> B::View<'_> {
        self.each[self.current.get()].value(backend, id)
    }

    fn is_adapted(&self, id: OperandId) -> bool {
        self.each[0].is_adapted(id)
    }

    fn gradient(&mut self, backend: &B, id: OperandId) -> Option<B::ViewMut<'_>> {
        self.each[self.current.get()].gradient(backend, id)
    }

    fn values_and_gradients<const N: usize>(
        &mut self,
        backend: &B,
        ids: [OperandId; N],
    ) -> ([B::View<'_>; N], [Option<B::ViewMut<'_>>; N]) {
        self.each[self.current.get()].values_and_gradients(backend, ids)
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
        let first = store(backend, &model, config)?;
        if !model.takes_batches(&first) {
            return Ok(None);
        }
        let Some(memory) = Memory::new(backend, config, first.stored())? else {
            return Ok(None);
        };
        let lowest = model.lowest_adapted_stage(&first);
        let last_good = first.snapshot(backend)?;
        Ok(Some(Self {
            courses: vec![Course { last_good, memory }],
            stores: Stores {
                each: vec![first],
                current: Cell::new(0),
            },
            config: config.clone(),
            arena: Arena::new(backend, 0)?,
            owners: HashMap::new(),
            lowest,
            model,
        }))
    }

    /// The adapted values of an utterance of the last batch.
    pub fn parameters(&self, utterance: usize) -> &AdaptedParameters<B> {
        &self.stores.each[utterance]
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
        let lens: Vec<usize> = inputs.iter().map(|input| input.len()).collect();
        if self.owners.len() >= MOST_OWNERS {
            self.owners.clear();
        }
        let owner = *self.owners.entry(lens).or_insert_with(Replay::new_owner);
        while self.stores.each.len() < inputs.len() {
            let own = store(backend, &self.model, &self.config)?;
            let last_good = own.snapshot(backend)?;
            let Some(memory) = Memory::new(backend, &self.config, own.stored())? else {
                break;
            };
            self.courses.push(Course { last_good, memory });
            self.stores.each.push(own);
        }
        let rows = a.utterance_rows();
        for (course, rows) in self.courses.iter_mut().zip(&rows) {
            course.memory.reserve(backend, rows.len() * classes)?;
        }
        self.model.load_inputs(backend, &mut self.arena, a, inputs);
        for (own, course) in self.stores.each.iter_mut().zip(&mut self.courses).take(inputs.len()) {
            own.restore_source(backend);
            course.memory.begin(backend, 0);
        }
        let replay = |pass, stage| Replay {
            owner,
            pass,
            stage,
            values: a.values(),
        };
        backend.replayable(replay(Pass::Forward, 0), || {
            self.model.forward(backend, &self.stores, &mut self.arena, a, 0);
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
        let mut episodes = Vec::new();
        for (index, rows) in rows.iter().enumerate() {
            let source = logits[rows.start * classes..rows.end * classes].to_vec();
            let mut episode = Episode {
                frames: rows.len(),
                adapted_logits: source.clone(),
                source_logits: source,
                source_seconds,
                forwards: steps + 1,
                backwards: steps,
                ..Episode::default()
            };
            let (own, memory) = (&mut self.stores.each[index], &self.courses[index].memory);
            memory.end(backend, steps, &mut episode);
            own.set_steps_taken(episode.steps as u32);
            episodes.push(episode);
        }
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
        let own = self.stores.each.iter_mut().zip(&mut self.courses);
        for (rows, (own, course)) in a.utterance_rows().into_iter().zip(own) {
            let place = |slot: Slot| slot.part(rows.start * cols, rows.len() * cols);
            let places = (place(a.logits()), place(a.dlogits()));
            let shape = Rows { rows: rows.len(), cols };
            course
                .memory
                .decide(backend, judge, (&terms, rules), (shape, None), &mut self.arena, places);
            own.restore_where(backend, judge, course.memory.ledger(backend), &course.last_good);
        }
    }

    /// The second.
    fn step(&mut self, backend: &B, a: &Activations) {
        let Some(judge) = backend.judge() else { return };
        let count = a.utterance_rows().len();
        for own in &mut self.stores.each[..count] {
            own.zero_gradients(backend);
        }
        self.model.backward(backend, &mut self.stores, &mut self.arena, a);
        let optimizer = AdamW::suta(self.config.learning_rate);
        let own = self.stores.each.iter_mut().zip(&mut self.courses);
        for (own, course) in own.take(count) {
            course
                .memory
                .step(backend, judge, &optimizer, own, &mut course.last_good);
        }
        self.model
            .forward(backend, &self.stores, &mut self.arena, a, self.lowest);
    }
}

fn store<B: Backend>(
    backend: &B,
    model: &CtcModel<B>,
    config: &AdaptationConfig,
) -> Result<AdaptedParameters<B>, EngineError> {
    AdaptedParameters::new(backend, model.weights().clone(), Selection::of(config))
}
