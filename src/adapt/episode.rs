//! One utterance's adaptation: SUTA or SDPL (Lin, Li and Lee, Interspeech 2022) from the source model, or a continual
//! policy from what it carries.

use super::moves::{Moves, OnStore, States};
use super::policy::{Policy, PolicyState};
use super::stepper::{Bench, Stepper};
use super::{AdaptedParameters, Selection, Snapshot, greedy_labels};
use crate::engine::{Backend, EngineError, ObjectiveValue};
use crate::model::CtcModel;
use crate::{AdaptationConfig, Carried, Guard, Method, Settled, Stopped};
use std::sync::Arc;
use std::time::Instant;

/// One worker's adaptation state for one model: the store, the arena, the last good state, and what a continual policy
/// carries.
pub struct Adapter<B: Backend> {
    config: AdaptationConfig,
    bench: Bench<B>,
    last_good: Snapshot<B>,
    policy: Policy<Snapshot<B>>,
    kept_steps: Vec<usize>,
    /// As configured; `config.steps` may have less.
    most_steps: usize,
    /// No step begins after it.
    deadline: Option<Instant>,
}

/// What adapting to one utterance gave.
#[derive(Debug, Clone, Default)]
pub struct Episode {
    /// T.
    pub frames: usize,
    /// The source model's logits, `[T, V]`.
    pub source_logits: Vec<f32>,
    /// The logits after the last kept step, `[T, V]`.
    pub adapted_logits: Vec<f32>,
    /// The objective at each step, before that step's update.
    pub objectives: Vec<ObjectiveValue>,
    /// The objective of the source model's logits.
    pub first: Option<ObjectiveValue>,
    /// The objective after the last kept step.
    pub last: Option<ObjectiveValue>,
    /// Steps whose update was kept.
    pub steps: usize,
    /// Steps that were taken back, with [`AdaptationConfig::safeguard`].
    pub rollbacks: usize,
    /// Forward passes computed: the first from the input, the others from the lowest adapted stage.
    pub forwards: usize,
    /// Backward passes computed, each from the logits to the lowest adapted stage.
    pub backwards: usize,
    /// Set when fewer steps were taken than planned because no more were needed.
    pub stopped: Option<Stopped>,
    /// What a continual policy did around it.
    pub carried: Option<Carried>,
    /// Set when a guard cut the adaptation short.
    pub guard: Option<Guard>,
    /// The steps asked for with [`Adapter::keep_logits_after`], and the logits after each, `[T, V]`.
    pub step_logits: Vec<(usize, Vec<f32>)>,
    /// Wall-clock seconds to the source model's logits.
    pub source_seconds: f64,
}

/// Watches for the end of change; see [`Settled`].
struct Settling {
    rule: Settled,
    loss: f64,
    labels: Vec<usize>,
    /// Steps in a row without change.
    steps: usize,
}

impl Settling {
    /// Takes in what a kept step gave (or, first, the model before any), and tells whether enough of them changed nothing.
    fn has_settled(&mut self, loss: f64, labels: Vec<usize>) -> bool {
        let unchanged = (loss - self.loss).abs() < self.rule.loss_change * self.loss.abs() && labels == self.labels;
        self.steps = if unchanged { self.steps + 1 } else { 0 };
        (self.loss, self.labels) = (loss, labels);
        self.steps >= self.rule.steps.max(1)
    }
}

impl<B: Backend> Adapter<B> {
    /// Memory for the store; the arena grows with the first utterances.
    pub fn new(backend: &B, model: Arc<CtcModel<B>>, config: &AdaptationConfig) -> Result<Self, EngineError> {
        Self::of_lowest_layers(backend, model, config, None)
    }

    /// The same where only what lies in so many layers at the bottom moves.
    pub fn of_lowest_layers(
        backend: &B,
        model: Arc<CtcModel<B>>,
        config: &AdaptationConfig,
        lowest_layers: Option<usize>,
    ) -> Result<Self, EngineError> {
        let selection = Selection::of(config).map(|selection| Selection {
            lowest_layers,
            ..selection
        });
        let mut bench = Bench::new(backend, model, config, selection)?;
        Ok(Self {
            config: config.clone(),
            last_good: bench.parameters.snapshot(backend)?,
            policy: Policy::new(config, &mut bench.on(backend))?,
            bench,
            kept_steps: Vec::new(),
            most_steps: config.steps,
            deadline: None,
        })
    }

    /// From now on takes at most so many steps an utterance, and never more than configured: a budget of time.
    pub fn limit_steps(&mut self, steps: usize) {
        self.config.steps = steps.min(self.most_steps);
    }

    /// From now on begins no step after this moment, except where a device decides by itself how to go on.
    pub fn limit_time(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// From now on keeps the logits after these numbers of steps, for [`Episode::step_logits`].
    pub fn keep_logits_after(&mut self, steps: &[usize]) {
        self.kept_steps = steps.to_vec();
    }

    /// The store, as the last utterance left it.
    pub fn parameters(&self) -> &AdaptedParameters<B> {
        &self.bench.parameters
    }

    /// Puts what a continual policy carries into the store: DSUTA's slow state, AWMC's chaser.
    pub fn show_carried(&mut self, backend: &B) {
        self.policy.show(&mut self.bench.on(backend));
    }

    /// Begins a new stream: a continual policy forgets what it carries.
    pub fn begin_stream(&mut self, backend: &B) {
        self.policy.begin(&mut self.bench.on(backend));
    }

    /// Tells a continual policy that the next utterance is of another domain: with [`crate::Reset::Oracle`] it goes
    /// back to the source model.
    pub fn domain_changed(&mut self, backend: &B) {
        self.policy.domain_changed(&mut self.bench.on(backend));
    }

    /// What a continual policy carries, to go on from with [`Adapter::resume`].
    pub fn state(&mut self, backend: &B) -> PolicyState {
        self.policy.save(&mut self.bench.on(backend))
    }

    /// Goes on from what a policy of the same settings on the same model carried; `None`, with a new stream begun, when
    /// the state is not one of theirs.
    pub fn resume(&mut self, backend: &B, state: &PolicyState) -> Option<()> {
        let resumed = self.policy.load(&mut self.bench.on(backend), state);
        if resumed.is_none() {
            self.begin_stream(backend);
        }
        resumed
    }

    /// Recognises one utterance (log-mel frames `[frames, bands]`, or samples as the model wants them), adapting to it
    /// as configured. An input too short for a single output frame gives an empty episode, and leaves no trace.
    ///
    /// Each step's logits serve the next step, so N episodic steps cost N + 1 forward passes and N backward passes; a step
    /// taken back is tried again from the gradient that is still there, for a forward pass alone.
    pub fn run(&mut self, backend: &B, input: &[f32]) -> Result<Episode, EngineError> {
        let begun = Instant::now();
        let mut stepper = self.bench.on(backend);
        let frames = stepper.load(input)?;
        if frames == 0 {
            return Ok(Episode::default());
        }
        // The source model's transcript comes first, whatever the method: adaptation is judged by it.
        stepper.restore_source();
        stepper.forward();
        let source_logits = stepper.logits();
        // A device that failed gives no numbers, which must not be taken for the model's.
        backend.status()?;
        let mut episode = Episode {
            frames,
            adapted_logits: source_logits.clone(),
            source_logits,
            source_seconds: begun.elapsed().as_secs_f64(),
            ..Episode::default()
        };
        // Nothing can be learned from it, and nothing of it may be carried.
        if episode.source_logits.iter().any(|logit| !logit.is_finite()) {
            episode.guard = Some(Guard::NonFinite);
            episode.forwards = stepper.take_passes().forwards;
            return Ok(episode);
        }
        let mut descent = Descent {
            config: &self.config,
            last_good: &mut self.last_good,
            kept_steps: &self.kept_steps,
            deadline: self.deadline,
        };
        match &mut self.policy {
            Policy::Episodic => descent.run(&mut stepper, &mut episode),
            Policy::Cea(cea) => cea.run(&mut stepper, &self.config, &self.kept_steps, &mut episode),
            Policy::Csuta(csuta) => csuta.run(&mut stepper, descent, &mut episode),
            Policy::Dsuta(dsuta) => dsuta.run(&mut stepper, descent, input, &mut episode)?,
            Policy::Guarded(guarded) => guarded.run(&mut stepper, descent, &mut episode),
            Policy::Awmc(awmc) => awmc.run(&mut stepper, self.config.steps, &mut episode),
        }
        let passes = stepper.take_passes();
        (episode.forwards, episode.backwards) = (passes.forwards, passes.backwards);
        backend.status()?;
        Ok(episode)
    }
}

/// Steps down the objective of the utterance that is loaded.
pub(super) struct Descent<'a, B: Backend> {
    pub(super) config: &'a AdaptationConfig,
    pub(super) last_good: &'a mut Snapshot<B>,
    pub(super) kept_steps: &'a [usize],
    pub(super) deadline: Option<Instant>,
}

impl<B: Backend> Descent<'_, B> {
    /// From the present state, whose forward pass was the last.
    pub(super) fn run(&mut self, stepper: &mut Stepper<'_, B>, episode: &mut Episode) {
        if self.run_unattended(stepper, episode) {
            return;
        }
        let steps = self.config.planned_steps();
        let target = match self.config.method {
            Method::Sdpl => greedy_labels(&episode.source_logits, stepper.classes(), stepper.blank()),
            _ => Vec::new(),
        };
        let mut optimizer = stepper.optimizer();
        let mut settling = self.config.stop_when_settled.map(|rule| Settling {
            rule,
            loss: f64::NAN,
            labels: Vec::new(),
            steps: 0,
        });
        for step in 0..=steps {
            let mut objective = stepper.objective();
            if self.config.method == Method::Sdpl {
                objective.loss = stepper.pseudo_label(&target);
            }
            // Where every frame has become blank there is no entropy left, whatever the loss says.
            let worse = |last: ObjectiveValue| {
                objective.loss.is_nan() || objective.loss > last.loss || objective.non_blank_frames == 0
            };
            let taken_back = self.config.safeguard && episode.last.is_some_and(worse);
            if taken_back {
                // The kept state's logits and gradient are still there: only the step was too long.
                stepper.restore(self.last_good);
                episode.rollbacks += 1;
                optimizer.learning_rate /= 2.0;
            } else if objective.loss.is_finite() {
                episode.first.get_or_insert(objective);
                episode.last = Some(objective);
                if step > 0 {
                    stepper.download_logits(&mut episode.adapted_logits);
                    episode.steps += 1;
                }
                if self.kept_steps.contains(&step) {
                    episode.step_logits.push((step, episode.adapted_logits.clone()));
                }
            } else {
                // The last update spoiled it; its logits are already the last good ones.
                if step > 0 {
                    stepper.restore(self.last_good);
                }
                episode.guard = Some(Guard::NonFinite);
                break;
            }
            if step == steps {
                break;
            }
            if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                episode.stopped = Some(Stopped::Late);
                break;
            }
            if !taken_back {
                if objective.non_blank_frames == 0 {
                    episode.guard = Some(Guard::AllBlank);
                    break;
                }
                episode.stopped = self.no_need_to_go_on(stepper, episode, settling.as_mut());
                if episode.stopped.is_some() {
                    break;
                }
                episode.objectives.push(objective);
                stepper.zero_gradients();
                stepper.backward();
                if !stepper.gradients_are_finite() {
                    episode.guard = Some(Guard::NonFinite);
                    break;
                }
                stepper.snapshot_into(self.last_good);
            }
            stepper.update(&optimizer);
            stepper.forward();
        }
    }

    /// Why no further step is needed after the last kept one, if that is so.
    fn no_need_to_go_on(
        &self,
        stepper: &Stepper<'_, B>,
        episode: &Episode,
        settling: Option<&mut Settling>,
    ) -> Option<Stopped> {
        let (first, last) = (episode.first?, episode.last?);
        if episode.steps == 0 && self.config.skip_confident.is_some_and(|below| first.entropy < below) {
            return Some(Stopped::Confident);
        }
        let labels = || greedy_labels(&episode.adapted_logits, stepper.classes(), stepper.blank());
        settling?.has_settled(last.loss, labels()).then_some(Stopped::Settled)
    }
}
