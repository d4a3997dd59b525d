//! SUTA or SDPL on one utterance (Lin, Li and Lee, Interspeech 2022): parameters and optimizer start from the source model,
//! take a few steps down the utterance's own entropy and class confusion, and are restored for the next.

use super::{AdaptedParameters, Selection, Snapshot, greedy_labels, pseudo_label_loss};
use crate::engine::{AdamW, Arena, Backend, EngineError, ObjectiveTerms, ObjectiveValue, Rows};
use crate::model::{Activations, CtcModel, KEEP_NOTHING};
use crate::{AdaptationConfig, Compatibility, Guard, Method};
use std::sync::Arc;
use std::time::Instant;

/// One worker's adaptation state for one model: the store, the arena, the last good state.
pub struct Adapter<B: Backend> {
    model: Arc<CtcModel<B>>,
    config: AdaptationConfig,
    parameters: AdaptedParameters<B>,
    last_good: Snapshot<B>,
    arena: Arena<B>,
    kept_steps: Vec<usize>,
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
    /// Set when a guard cut the adaptation short.
    pub guard: Option<Guard>,
    /// The steps asked for with [`Adapter::keep_logits_after`], and the logits after each, `[T, V]`.
    pub step_logits: Vec<(usize, Vec<f32>)>,
    /// Forward passes made.
    pub forwards: usize,
    /// Wall-clock seconds to the source model's logits.
    pub source_seconds: f64,
}

impl<B: Backend> Adapter<B> {
    /// Memory for the store; the arena grows with the first utterances.
    pub fn new(backend: &B, model: Arc<CtcModel<B>>, config: &AdaptationConfig) -> Result<Self, EngineError> {
        let selection = (config.planned_steps() > 0).then_some(Selection {
            choice: config.parameters,
            top_layers: config.top_layers,
            with_multiplicity: config.compatibility == Compatibility::Suta,
        });
        let parameters = AdaptedParameters::new(backend, model.weights().clone(), selection)?;
        let last_good = parameters.snapshot(backend)?;
        let arena = Arena::new(backend, 0)?;
        Ok(Self {
            model,
            config: config.clone(),
            parameters,
            last_good,
            arena,
            kept_steps: Vec::new(),
        })
    }

    /// From now on keeps the logits after these numbers of steps, for [`Episode::step_logits`].
    pub fn keep_logits_after(&mut self, steps: &[usize]) {
        self.kept_steps = steps.to_vec();
    }

    /// The store, as the last utterance left it.
    pub fn parameters(&self) -> &AdaptedParameters<B> {
        &self.parameters
    }

    /// Recognises one utterance (log-mel frames `[frames, bands]`, or samples as the model wants them), adapting to it
    /// as configured. An input too short for a single output frame gives an empty episode.
    ///
    /// Each step's logits serve the next step, so N steps cost N + 1 forward passes and N backward passes.
    pub fn run(&mut self, backend: &B, input: &[f32]) -> Result<Episode, EngineError> {
        let begun = Instant::now();
        let steps = self.config.planned_steps();
        // What lies below the lowest adapted stage is computed once, and nothing is kept of it.
        let lowest = self.model.lowest_adapted_stage(&self.parameters);
        let keep_from = if steps > 0 { lowest } else { KEEP_NOTHING };
        let Some((plan, activations)) = self.model.plan(backend, input.len(), keep_from) else {
            return Ok(Episode::default());
        };
        self.arena.reserve(backend, &plan)?;
        self.parameters.restore_source(backend);
        self.model.load_input(backend, &mut self.arena, &activations, input);
        self.model
            .forward(backend, &self.parameters, &mut self.arena, &activations, 0);
        let source_logits = self.logits(backend, &activations);
        let mut episode = Episode {
            frames: activations.output_frames(),
            adapted_logits: source_logits.clone(),
            source_logits,
            forwards: 1,
            source_seconds: begun.elapsed().as_secs_f64(),
            ..Episode::default()
        };
        let settings = AdamW::suta(self.config.learning_rate);
        let target = match self.config.method {
            Method::Sdpl => {
                let config = self.model.config();
                greedy_labels(&episode.source_logits, config.vocab_size, config.blank)
            }
            Method::None | Method::Suta => Vec::new(),
        };
        for step in 0..=steps {
            let mut objective = self.objective(backend, &activations);
            if self.config.method == Method::Sdpl {
                objective.loss = self.pseudo_label_objective(backend, &activations, &target);
            }
            let finite = objective.loss.is_finite();
            if finite {
                episode.first.get_or_insert(objective);
                episode.last = Some(objective);
                if step > 0 {
                    self.download_logits(backend, &activations, &mut episode.adapted_logits);
                    episode.steps = step;
                }
                if self.kept_steps.contains(&step) {
                    episode.step_logits.push((step, episode.adapted_logits.clone()));
                }
            } else {
                // The last update spoiled it; its logits are already the last good ones.
                self.parameters.restore(backend, &self.last_good);
                episode.guard = Some(Guard::NonFinite);
                break;
            }
            if step == steps {
                break;
            }
            if objective.non_blank_frames == 0 {
                episode.guard = Some(Guard::AllBlank);
                break;
            }
            episode.objectives.push(objective);
            self.parameters.zero_gradients(backend);
            self.model
                .backward(backend, &mut self.parameters, &mut self.arena, &activations);
            if !self.parameters.gradients_are_finite(backend) {
                episode.guard = Some(Guard::NonFinite);
                break;
            }
            self.parameters.snapshot_into(backend, &mut self.last_good);
            self.parameters.update(backend, &settings);
            self.model
                .forward(backend, &self.parameters, &mut self.arena, &activations, lowest);
            episode.forwards += 1;
        }
        Ok(episode)
    }

    fn objective(&mut self, backend: &B, activations: &Activations) -> ObjectiveValue {
        let config = self.model.config();
        let terms = ObjectiveTerms {
            temperature: self.config.temperature,
            entropy_weight: self.config.entropy_weight,
            blank: config.blank,
        };
        let shape = Rows {
            rows: activations.output_frames(),
            cols: config.vocab_size,
        };
        let ([logits], [dlogits]) = self
            .arena
            .split(backend, [activations.logits()], [activations.dlogits()]);
        backend.entropy_mcc(&terms, shape, logits, dlogits)
    }

    /// SDPL's loss; its gradient takes the place of the entropy's.
    fn pseudo_label_objective(&mut self, backend: &B, activations: &Activations, target: &[usize]) -> f64 {
        let (classes, blank) = (self.model.config().vocab_size, self.model.config().blank);
        let logits = self.logits(backend, activations);
        let mut dlogits = vec![0.0; logits.len()];
        let over_time = self.config.compatibility == Compatibility::Suta;
        let loss = pseudo_label_loss(&logits, classes, target, blank, over_time, &mut dlogits);
        backend.upload(&dlogits, self.arena.view_mut(backend, activations.dlogits()));
        loss
    }

    fn logits(&self, backend: &B, activations: &Activations) -> Vec<f32> {
        let mut host = vec![0.0; activations.logits().len];
        self.download_logits(backend, activations, &mut host);
        host
    }

    fn download_logits(&self, backend: &B, activations: &Activations, host: &mut [f32]) {
        backend.download(self.arena.view(backend, activations.logits()), host);
    }
}
