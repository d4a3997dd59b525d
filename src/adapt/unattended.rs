//! Descents that the device decides by itself ([`crate::engine::Judge`]): the host waits once, at the end, and not at
//! every step, and a whole step is recorded and replayed.

use super::episode::Episode;
use super::moves::{Moves, OnStore};
use super::stepper::Stepper;
use super::{AdaptedParameters, Descent, Snapshot, greedy_labels};
use crate::engine::{
    AdamW, Arena, Backend, EngineError, Judge, Ledger, ObjectiveTerms, Pass, Pieces, PlacedLabel, Replay, Rows, Rules,
    Says, Slot, Spans, Verdict, count_to_value, to_values,
};
use crate::{AdaptationConfig, Compatibility, Guard, Method};
use std::ops::Range;

/// Device memory for one, or for several at once.
pub(super) struct Memory<B: Backend> {
    steps: usize,
    /// Descents that are decided at once.
    count: usize,
    ledgers: B::Buffer,
    /// The optimizer steps before them, one f64 word.
    first: B::Buffer,
    /// Gradients of the last good states.
    gradients: B::Buffer,
    /// What a pseudo-label method goes towards, on the device and its symbols; none with others.
    target: Option<(B::Buffer, usize)>,
    over_time: bool,
    /// Logits of the last kept steps, `[T, V]` of the longest pass so far.
    logits: B::Buffer,
}

impl<B: Backend> Memory<B> {
    /// For so many descents on so many adapted values each (of SDPL one); `None` where the device cannot, or the configuration asks for
    /// what is the host's to decide.
    pub(super) fn new(
        backend: &B,
        config: &AdaptationConfig,
        values: usize,
        count: usize,
    ) -> Result<Option<Self>, EngineError> {
        let steps = config.planned_steps();
        let for_host = config.stop_when_settled.is_some() || config.skip_confident.is_some();
        let descends = !matches!(config.method, Method::None | Method::Cea | Method::Awmc);
        if backend.judge().is_none() || for_host || !descends || steps == 0 || values == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            steps,
            count,
            ledgers: backend.zeros(count * Ledger::len(steps))?,
            first: backend.buffer(to_values(&[0.0]))?,
            gradients: backend.zeros(count * values)?,
            target: match config.method {
                Method::Sdpl => Some((backend.zeros(0)?, 0)),
                _ => None,
            },
            over_time: config.compatibility == Compatibility::Suta,
            logits: backend.zeros(0)?,
        }))
    }

    /// Makes room for a pass's logits.
    pub(super) fn reserve(&mut self, backend: &B, logits: usize) -> Result<(), EngineError> {
        if backend.len(&self.logits) < logits {
            self.logits = backend.zeros(0)?;
            self.logits = backend.zeros(logits)?;
        }
        Ok(())
    }

    /// Whether it wants to be told a target.
    fn has_target(&self) -> bool {
        self.target.is_some()
    }

    /// What a pseudo-label method goes towards from now on.
    fn set_target(&mut self, backend: &B, symbols: &[usize]) -> Result<(), EngineError> {
        let Some((buffer, len)) = &mut self.target else {
            return Ok(());
        };
        if backend.len(buffer) < symbols.len() {
            *buffer = backend.zeros(symbols.len().next_power_of_two())?;
        }
        let words: Vec<f32> = symbols.iter().map(|&symbol| count_to_value(symbol)).collect();
        backend.upload(&words, backend.view_mut(buffer, 0..words.len()));
        *len = words.len();
        Ok(())
    }

    /// Begins so many descents, of those there is memory for, after so many optimizer steps.
    pub(super) fn begin(&mut self, backend: &B, count: usize, before: u32) {
        self.count = count;
        let mut ledgers = vec![0.0; count * Ledger::len(self.steps)];
        let head = Ledger::head();
        for ledger in ledgers.chunks_exact_mut(Ledger::len(self.steps)) {
            ledger[..head.len()].copy_from_slice(&head);
        }
        let all = self.all();
        backend.upload(&ledgers, backend.view_mut(&mut self.ledgers, all));
        let before = to_values(&[f64::from(before)]);
        backend.upload(&before, backend.view_mut(&mut self.first, 0..before.len()));
    }

    fn all(&self) -> Range<usize> {
        0..self.count * Ledger::len(self.steps)
    }

    /// The ledgers, to read.
    pub(super) fn ledgers(&self, backend: &B) -> B::View<'_> {
        backend.view(&self.ledgers, self.all())
    }

    /// A turn's first half: the objectives of logits and their gradient, which lie in the arena, and what follows from them;
    /// the states are for the caller to restore.
    pub(super) fn decide(
        &mut self,
        backend: &B,
        judge: &dyn Judge<B>,
        (terms, rules): (&ObjectiveTerms, Rules),
        (shape, spans, own_frames): (Rows, Option<Spans<()>>, usize),
        arena: &mut Arena<B>,
        (logits, dlogits): (Slot, Slot),
    ) {
        let all = self.all();
        let (own, [from], [gradient]) = arena.split_spans(backend, spans, [logits], [dlogits]);
        let ledgers = backend.view_mut(&mut self.ledgers, all.clone());
        let label = self.target.as_ref().map(|(buffer, len)| PlacedLabel {
            target: backend.view(buffer, 0..*len),
            frames: own_frames,
            blank: terms.blank,
            over_time: self.over_time,
        });
        judge.decide(terms, (shape, own), label, from, gradient, ledgers, rules);
        let ledgers = backend.view(&self.ledgers, all);
        let kept = backend.view_mut(&mut self.logits, 0..logits.len);
        let pieces = match own {
            Some(own) if self.count > 1 => Pieces::Rows(own, shape.cols),
            _ => Pieces::Even(1),
        };
        judge.copy_where(Says::Keep, ledgers, pieces, from, kept);
    }

    /// What follows the backward pass: whether steps are taken, and the steps.
    pub(super) fn step(
        &mut self,
        backend: &B,
        judge: &dyn Judge<B>,
        optimizer: &AdamW,
        parameters: &mut AdaptedParameters<B>,
        last_good: &mut Snapshot<B>,
    ) {
        let all = self.all();
        let ledgers = backend.view_mut(&mut self.ledgers, all.clone());
        judge.check_gradients(parameters.gradients(backend), ledgers, self.count);
        let ledgers = backend.view(&self.ledgers, all);
        parameters.keep_where(backend, judge, ledgers, last_good, &mut self.gradients);
        let first = backend.view(&self.first, 0..backend.len(&self.first));
        parameters.update_where(backend, judge, optimizer, (ledgers, first), &self.gradients);
    }

    /// Waits for the end, and writes down each descent, whose logits begin at these values of the pass's.
    pub(super) fn end<'e>(&self, backend: &B, episodes: impl Iterator<Item = (usize, &'e mut Episode)>) {
        let len = Ledger::len(self.steps);
        let mut values = vec![0.0; self.count * len];
        backend.download(self.ledgers(backend), &mut values);
        for ((begin, episode), ledger) in episodes.zip(values.chunks_exact(len)) {
            // Where there is none the device failed, which its status tells.
            let kept = Ledger::read(ledger).is_some_and(|ledger| write_down(&ledger, episode));
            if kept {
                let logits = backend.view(&self.logits, begin..begin + episode.adapted_logits.len());
                backend.download(logits, &mut episode.adapted_logits);
            }
        }
    }
}

impl<B: Backend> Stepper<'_, B> {
    /// Steps down the objective of the loaded utterance, as [`Descent`] does, from the present state, whose forward pass was
    /// the last; `false`, with nothing done, where the device cannot decide it.
    fn descend_unattended(
        &mut self,
        last_good: &mut Snapshot<B>,
        config: &AdaptationConfig,
        episode: &mut Episode,
    ) -> bool {
        let backend = self.backend;
        let (Some(judge), Some(mut memory)) = (backend.judge(), self.bench.unattended.take()) else {
            return false;
        };
        let steps = config.planned_steps();
        let rules = Rules {
            steps,
            safeguard: config.safeguard,
        };
        let mut label = (0, 0);
        if memory.has_target() {
            let target = greedy_labels(&episode.source_logits, self.classes(), self.blank());
            if memory.set_target(backend, &target).is_err() {
                // The host can go without.
                self.bench.unattended = Some(memory);
                return false;
            }
            label = (self.activations().output_frames(), target.len());
        }
        let before = self.bench.parameters.steps_taken();
        memory.begin(backend, 1, before);
        for _ in 0..steps {
            let replay = Replay {
                label,
                ..self.replay(Pass::Step, steps)
            };
            backend.replayable(replay, || {
                self.decide_unattended(judge, &mut memory, last_good, rules);
                self.bench.parameters.zero_gradients(backend);
                self.backward_pass(None);
                let optimizer = self.optimizer();
                memory.step(backend, judge, &optimizer, &mut self.bench.parameters, last_good);
                self.forward_pass();
            });
            self.bench.passes.forwards += 1;
            self.bench.passes.backwards += 1;
        }
        let replay = Replay {
            label,
            ..self.replay(Pass::Judgement, steps)
        };
        backend.replayable(replay, || self.decide_unattended(judge, &mut memory, last_good, rules));
        let kept_before = episode.steps;
        memory.end(backend, [(0, &mut *episode)].into_iter());
        let kept = (episode.steps - kept_before) as u32;
        self.bench.parameters.set_steps_taken(before + kept);
        self.bench.unattended = Some(memory);
        true
    }

    fn decide_unattended(
        &mut self,
        judge: &dyn Judge<B>,
        memory: &mut Memory<B>,
        last_good: &Snapshot<B>,
        rules: Rules,
    ) {
        let (backend, terms) = (self.backend, self.bench.terms);
        let (cols, activations) = (self.bench.model.config().vocab_size, self.activations());
        let (rows, spans) = (activations.padded_frames(), activations.spans());
        let own_frames = activations.output_frames();
        let places = activations.padded_logits();
        let bench = &mut *self.bench;
        memory.decide(
            backend,
            judge,
            (&terms, rules),
            (Rows { rows, cols }, spans, own_frames),
            &mut bench.arena,
            places,
        );
        bench
            .parameters
            .restore_where(backend, judge, memory.ledgers(backend), last_good);
    }
}

/// The ledger as an episode; says whether a step's logits were kept.
fn write_down(ledger: &Ledger, episode: &mut Episode) -> bool {
    let before = episode.steps;
    for (turn, (objective, verdict)) in ledger.turns.iter().enumerate() {
        match verdict {
            Verdict::TakesBack => {
                episode.rollbacks += 1;
                continue;
            }
            Verdict::Spoiled => {
                episode.guard = Some(Guard::NonFinite);
                break;
            }
            _ => {}
        }
        episode.first.get_or_insert(*objective);
        episode.last = Some(*objective);
        episode.steps += usize::from(turn > 0);
        match verdict {
            Verdict::AllBlank => episode.guard = Some(Guard::AllBlank),
            Verdict::GoesOn | Verdict::BadGradient => episode.objectives.push(*objective),
            _ => {}
        }
        if *verdict == Verdict::BadGradient {
            episode.guard = Some(Guard::NonFinite);
        }
    }
    episode.steps > before
}

impl<B: Backend> Descent<'_, B> {
    /// Lets the device decide, where it can and nobody wants to see what is between.
    pub(super) fn run_unattended(&mut self, stepper: &mut Stepper<'_, B>, episode: &mut Episode) -> bool {
        self.kept_steps.is_empty() && stepper.descend_unattended(self.last_good, self.config, episode)
    }
}
