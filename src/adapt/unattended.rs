//! Descents that the device decides by itself ([`crate::engine::Judge`]): the host waits once, at the end, and not at
//! every step, and a whole step is recorded and replayed.

use super::episode::Episode;
use super::stepper::Stepper;
use super::{Descent, Snapshot};
use crate::engine::{Backend, EngineError, Judge, Ledger, Pass, Rows, Rules, Says, Verdict, to_values};
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

impl<B: Backend> Stepper<'_, B> {
    /// Steps down the objective of the loaded utterance, as [`Descent`] does, from the present state, whose forward pass was
    /// the last; `false`, with nothing done, where the device cannot decide it.
    pub(super) fn descend_unattended(
        &mut self,
        last_good: &mut Snapshot<B>,
        config: &AdaptationConfig,
        episode: &mut Episode,
    ) -> bool {
        let backend = self.backend;
        let Some(judge) = backend.judge() else { return false };
        let Some(mut memory) = self.bench.unattended.take() else {
            return false;
        };
        let steps = config.planned_steps();
        let rules = Rules {
            steps,
            safeguard: config.safeguard,
        };
        let before = self.bench.parameters.steps_taken();
        backend.upload(
            &Ledger::head(),
            backend.view_mut(&mut memory.ledger, 0..Ledger::head().len()),
        );
        backend.upload(
            &to_values(&[f64::from(before)]),
            backend.view_mut(&mut memory.first, 0..2),
        );
        for turn in 0..=steps {
            if turn == steps {
                let replay = self.replay(Pass::Judgement, steps);
                backend.replayable(replay, || self.judge_unattended(judge, &mut memory, last_good, rules));
                break;
            }
            let replay = self.replay(Pass::Step, steps);
            backend.replayable(replay, || {
                self.judge_unattended(judge, &mut memory, last_good, rules);
                self.step_unattended(judge, &mut memory, last_good);
            });
            self.bench.passes.forwards += 1;
            self.bench.passes.backwards += 1;
        }
        let mut values = vec![0.0; Ledger::len(steps)];
        backend.download(backend.view(&memory.ledger, 0..values.len()), &mut values);
        // Where there is none the device failed, which its status tells.
        if let Some(ledger) = Ledger::read(&values) {
            let kept = write_down(&ledger, episode);
            if kept {
                let logits = backend.view(&memory.logits, 0..episode.adapted_logits.len());
                backend.download(logits, &mut episode.adapted_logits);
            }
            self.bench.parameters.set_steps_taken(before + episode.steps as u32);
        }
        self.bench.unattended = Some(memory);
        true
    }

    /// A turn's first half: the objective, and what follows for the state.
    fn judge_unattended(
        &mut self,
        judge: &dyn Judge<B>,
        memory: &mut Memory<B>,
        last_good: &Snapshot<B>,
        rules: Rules,
    ) {
        let (backend, terms) = (self.backend, self.bench.terms);
        let (classes, activations) = (self.bench.model.config().vocab_size, self.activations());
        let (rows, places) = (
            activations.output_frames(),
            (activations.logits(), activations.dlogits()),
        );
        let all = 0..backend.len(&memory.ledger);
        let ([logits], [dlogits]) = self.bench.arena.split(backend, [places.0], [places.1]);
        let shape = Rows { rows, cols: classes };
        let ledger = backend.view_mut(&mut memory.ledger, all.clone());
        judge.decide(&terms, shape, logits, dlogits, ledger, rules);
        let ledger = backend.view(&memory.ledger, all);
        let to = backend.view_mut(&mut memory.logits, 0..places.0.len);
        judge.copy_where(Says::Keep, ledger, self.bench.arena.view(backend, places.0), to);
        self.bench.parameters.restore_where(backend, judge, ledger, last_good);
    }

    /// The second: gradients, a step, a forward pass.
    fn step_unattended(&mut self, judge: &dyn Judge<B>, memory: &mut Memory<B>, last_good: &mut Snapshot<B>) {
        let (backend, optimizer) = (self.backend, self.optimizer());
        self.bench.parameters.zero_gradients(backend);
        self.backward_pass(None);
        let parameters = &mut self.bench.parameters;
        let all = 0..backend.len(&memory.ledger);
        let ledger = backend.view_mut(&mut memory.ledger, all.clone());
        judge.check_gradients(parameters.gradients(backend), ledger);
        let ledger = backend.view(&memory.ledger, all);
        parameters.keep_where(backend, judge, ledger, last_good, &mut memory.gradients);
        let first = backend.view(&memory.first, 0..2);
        parameters.update_where(backend, judge, &optimizer, (ledger, first), &memory.gradients);
        self.forward_pass();
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
