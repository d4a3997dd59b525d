//! Descents that the device decides by itself ([`crate::engine::Judge`]): the host waits once, at the end, and not at
//! every step, and a whole step is recorded and replayed.

use super::episode::Episode;
use super::moves::OnStore;
use super::stepper::Stepper;
use super::{AdaptedParameters, Descent, Snapshot};
use crate::engine::{
    AdamW, Arena, Backend, EngineError, Judge, Ledger, ObjectiveTerms, Pass, Rows, Rules, Says, Slot, Verdict,
    to_values,
};
use crate::{AdaptationConfig, Guard, Method};

/// Device memory for it.
pub(super) struct Memory<B: Backend> {
    ledger: B::Buffer,
    /// The optimizer steps before it, one f64 word.
    first: B::Buffer,
    /// Gradients of the last good state.
    gradients: B::Buffer,
    /// Logits of the last kept step, `[T, V]` of the longest utterance so far.
    logits: B::Buffer,
}

impl<B: Backend> Memory<B> {
    /// For so many steps on so many adapted values; `None` where the device cannot, or the configuration asks for what is
    /// the host's to decide.
    pub(super) fn new(backend: &B, config: &AdaptationConfig, values: usize) -> Result<Option<Self>, EngineError> {
        let steps = config.planned_steps();
        let for_host = config.stop_when_settled.is_some() || config.skip_confident.is_some();
        let descends = !matches!(config.method, Method::None | Method::Sdpl | Method::Cea | Method::Awmc);
        if backend.judge().is_none() || for_host || !descends || steps == 0 || values == 0 {
            return Ok(None);
        }
        Ok(Some(Self {
            ledger: backend.zeros(Ledger::len(steps))?,
            first: backend.buffer(to_values(&[0.0]))?,
            gradients: backend.zeros(values)?,
            logits: backend.zeros(0)?,
        }))
    }

    /// Makes room for an utterance's logits.
    pub(super) fn reserve(&mut self, backend: &B, logits: usize) -> Result<(), EngineError> {
        if backend.len(&self.logits) < logits {
            self.logits = backend.zeros(0)?;
            self.logits = backend.zeros(logits)?;
        }
        Ok(())
    }
}

impl<B: Backend> Memory<B> {
    /// Begins a descent after so many optimizer steps.
    pub(super) fn begin(&mut self, backend: &B, before: u32) {
        let head = Ledger::head();
        backend.upload(&head, backend.view_mut(&mut self.ledger, 0..head.len()));
        let before = to_values(&[f64::from(before)]);
        backend.upload(&before, backend.view_mut(&mut self.first, 0..before.len()));
    }

    /// The ledger, to read.
    pub(super) fn ledger(&self, backend: &B) -> B::View<'_> {
        backend.view(&self.ledger, 0..backend.len(&self.ledger))
    }

    /// A turn's first half: the objective of logits and its gradient, which lie in the arena, and what follows from it; the
    /// state is for the caller to restore.
    pub(super) fn decide(
        &mut self,
        backend: &B,
        judge: &dyn Judge<B>,
        (terms, rules): (&ObjectiveTerms, Rules),
        shape: Rows,
        arena: &mut Arena<B>,
        (logits, dlogits): (Slot, Slot),
    ) {
        let all = 0..backend.len(&self.ledger);
        let ([from], [gradient]) = arena.split(backend, [logits], [dlogits]);
        let ledger = backend.view_mut(&mut self.ledger, all.clone());
        judge.decide(terms, shape, from, gradient, ledger, rules);
        let ledger = backend.view(&self.ledger, all);
        let kept = backend.view_mut(&mut self.logits, 0..logits.len);
        judge.copy_where(Says::Keep, ledger, arena.view(backend, logits), kept);
    }

    /// What follows the backward pass: whether a step is taken, and the step.
    pub(super) fn step(
        &mut self,
        backend: &B,
        judge: &dyn Judge<B>,
        optimizer: &AdamW,
        parameters: &mut AdaptedParameters<B>,
        last_good: &mut Snapshot<B>,
    ) {
        let all = 0..backend.len(&self.ledger);
        let ledger = backend.view_mut(&mut self.ledger, all.clone());
        judge.check_gradients(parameters.gradients(backend), ledger);
        let ledger = backend.view(&self.ledger, all);
        parameters.keep_where(backend, judge, ledger, last_good, &mut self.gradients);
        let first = backend.view(&self.first, 0..backend.len(&self.first));
        parameters.update_where(backend, judge, optimizer, (ledger, first), &self.gradients);
    }

    /// Waits for the end, and writes it down.
    pub(super) fn end(&self, backend: &B, steps: usize, episode: &mut Episode) {
        let mut values = vec![0.0; Ledger::len(steps)];
        backend.download(self.ledger(backend), &mut values);
        // Where there is none the device failed, which its status tells.
        let kept = Ledger::read(&values).is_some_and(|ledger| write_down(&ledger, episode));
        if kept {
            let logits = backend.view(&self.logits, 0..episode.adapted_logits.len());
            backend.download(logits, &mut episode.adapted_logits);
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
        let before = self.bench.parameters.steps_taken();
        memory.begin(backend, before);
        for _ in 0..steps {
            let replay = self.replay(Pass::Step, steps);
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
        let replay = self.replay(Pass::Judgement, steps);
        backend.replayable(replay, || self.decide_unattended(judge, &mut memory, last_good, rules));
        let kept_before = episode.steps;
        memory.end(backend, steps, episode);
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
        let rows = activations.output_frames();
        let places = (activations.logits(), activations.dlogits());
        let bench = &mut *self.bench;
        memory.decide(
            backend,
            judge,
            (&terms, rules),
            Rows { rows, cols },
            &mut bench.arena,
            places,
        );
        bench
            .parameters
            .restore_where(backend, judge, memory.ledger(backend), last_good);
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
