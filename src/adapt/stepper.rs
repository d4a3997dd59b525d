//! The moves that adaptation is made of, on one model: load an utterance, run it, look at its objective, go down its
//! gradient, keep a state and go back to one.

use super::moves::{Moves, OnStore};
use super::unattended::Memory;
use super::{AdaptedParameters, Selection};
use crate::engine::{
    AdamW, Arena, Backend, EngineError, ObjectiveTerms, ObjectiveValue, Pass, PseudoLabel, Replay, Rows,
};
use crate::model::{Activations, CtcModel, KEEP_NOTHING};
use crate::{AdaptationConfig, Compatibility};
use std::sync::Arc;

/// Every move on an utterance comes after [`Stepper::load`].
const LOADED: &str = "an utterance is loaded";

/// What a stepper works on: a model, the tensors of it that move, memory for the activations.
pub(super) struct Bench<B: Backend> {
    pub(super) model: Arc<CtcModel<B>>,
    pub(super) terms: ObjectiveTerms,
    optimizer: AdamW,
    over_time: bool,
    pub(super) parameters: AdaptedParameters<B>,
    pub(super) arena: Arena<B>,
    /// For descents that the device decides.
    pub(super) unattended: Option<Memory<B>>,
    /// For [`Replay`].
    pub(super) owner: u64,
    /// What lies below is computed once an utterance, and nothing is kept of it.
    lowest: usize,
    keep_from: usize,
    loaded: Option<Activations>,
    /// The stage that the next forward pass starts at.
    from: usize,
    pub(super) passes: Passes,
}

/// Passes computed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passes {
    pub(super) forwards: usize,
    pub(super) backwards: usize,
}

impl<B: Backend> Bench<B> {
    /// Memory for the store of what is selected; the arena grows with the first utterances.
    pub(super) fn new(
        backend: &B,
        model: Arc<CtcModel<B>>,
        config: &AdaptationConfig,
        selection: Option<Selection>,
    ) -> Result<Self, EngineError> {
        let steps = config.planned_steps();
        let parameters = AdaptedParameters::new(backend, model.weights().clone(), selection)?;
        let lowest = model.lowest_adapted_stage(&parameters);
        Ok(Self {
            terms: ObjectiveTerms {
                temperature: config.temperature,
                entropy_weight: config.entropy_weight,
                blank: model.config().blank,
            },
            optimizer: AdamW::suta(config.learning_rate),
            over_time: config.compatibility == Compatibility::Suta,
            arena: Arena::new(backend, 0)?,
            unattended: Memory::new(backend, config, parameters.stored(), 1)?,
            owner: Replay::new_owner(),
            keep_from: if steps > 0 { lowest } else { KEEP_NOTHING },
            parameters,
            lowest,
            loaded: None,
            from: 0,
            passes: Passes::default(),
            model,
        })
    }

    /// The bench's moves on a backend.
    pub(super) fn on<'a>(&'a mut self, backend: &'a B) -> Stepper<'a, B> {
        Stepper { backend, bench: self }
    }
}

/// A bench's moves on a backend.
pub(super) struct Stepper<'a, B: Backend> {
    pub(super) backend: &'a B,
    pub(super) bench: &'a mut Bench<B>,
}

impl<B: Backend> Stepper<'_, B> {
    /// Loads an utterance and gives its frames; 0 when it is too short for a single one.
    pub(super) fn load(&mut self, input: &[f32]) -> Result<usize, EngineError> {
        let (backend, bench) = (self.backend, &mut *self.bench);
        bench.loaded = None;
        let planned = if backend.pads() {
            let padded = bench.model.padded_values(input.len());
            bench.model.plan_padded(backend, input.len(), padded, bench.keep_from)
        } else {
            bench.model.plan(backend, input.len(), bench.keep_from)
        };
        let Some((plan, activations)) = planned else {
            return Ok(0);
        };
        bench.arena.reserve(backend, &plan)?;
        if let Some(unattended) = &mut bench.unattended {
            unattended.reserve(backend, activations.padded_logits().0.len)?;
        }
        bench.model.load_input(backend, &mut bench.arena, &activations, input);
        let frames = activations.output_frames();
        (bench.loaded, bench.from) = (Some(activations), 0);
        Ok(frames)
    }

    pub(super) fn activations(&self) -> &Activations {
        self.bench.loaded.as_ref().expect(LOADED)
    }

    /// Runs the loaded utterance; after the first time from the lowest adapted stage only.
    pub(super) fn forward(&mut self) {
        let replay = self.replay(Pass::Forward, self.bench.from);
        self.backend.replayable(replay, || self.forward_pass());
        self.bench.from = self.bench.lowest;
        self.bench.passes.forwards += 1;
    }

    /// The pass itself.
    pub(super) fn forward_pass(&mut self) {
        let Bench {
            model,
            parameters,
            arena,
            loaded,
            from,
            ..
        } = &mut *self.bench;
        let activations = loaded.as_ref().expect(LOADED);
        model.forward(self.backend, parameters, arena, activations, *from);
    }

    /// The name of what is done again and again with the loaded utterance.
    pub(super) fn replay(&self, pass: Pass, stage: usize) -> Replay {
        Replay {
            owner: self.bench.owner,
            pass,
            stage,
            values: self.activations().values(),
            label: (0, 0),
        }
    }

    /// The last forward pass's logits, `[T, V]`.
    pub(super) fn logits(&self) -> Vec<f32> {
        let mut host = vec![0.0; self.activations().logits().len];
        self.download_logits(&mut host);
        host
    }

    /// The same into memory that is already there.
    pub(super) fn download_logits(&self, host: &mut [f32]) {
        let logits = self.activations().logits();
        self.backend.download(self.bench.arena.view(self.backend, logits), host);
    }

    /// SUTA's objective of the last forward pass; leaves its gradient for [`Stepper::backward`].
    pub(super) fn objective(&mut self) -> ObjectiveValue {
        let terms = self.bench.terms;
        self.objective_of(&terms)
    }

    /// The same of minimum class confusion alone.
    pub(super) fn class_confusion(&mut self) -> ObjectiveValue {
        let terms = ObjectiveTerms {
            entropy_weight: 0.0,
            ..self.bench.terms
        };
        self.objective_of(&terms)
    }

    fn objective_of(&mut self, terms: &ObjectiveTerms) -> ObjectiveValue {
        let bench = &mut *self.bench;
        let activations = bench.loaded.as_ref().expect(LOADED);
        let shape = Rows {
            rows: activations.padded_frames(),
            cols: bench.model.config().vocab_size,
        };
        let (logits, dlogits) = activations.padded_logits();
        let (spans, [logits], [dlogits]) =
            bench
                .arena
                .split_spans(self.backend, activations.spans(), [logits], [dlogits]);
        self.backend.entropy_mcc(terms, shape, spans, logits, dlogits)
    }

    /// CTC of a target, divided by its length; its gradient takes the place of the objective's.
    pub(super) fn pseudo_label(&mut self, target: &[usize]) -> f64 {
        let (cols, bench) = (self.classes(), &mut *self.bench);
        let activations = bench.loaded.as_ref().expect(LOADED);
        let label = PseudoLabel {
            target,
            blank: bench.terms.blank,
            over_time: bench.over_time,
        };
        let rows = activations.output_frames();
        let ([logits], [dlogits]) = bench
            .arena
            .split(self.backend, [activations.logits()], [activations.dlogits()]);
        self.backend.pseudo_label(&label, Rows { rows, cols }, logits, dlogits)
    }

    /// The same, and the gradient with respect to the logits, `[T, V]`, on the host.
    pub(super) fn pseudo_label_gradient(&mut self, target: &[usize]) -> (f64, Vec<f32>) {
        let loss = self.pseudo_label(target);
        (loss, self.gradient())
    }

    /// Puts a gradient with respect to the logits, `[T, V]`, in the place of the objective's.
    pub(super) fn set_gradient(&mut self, dlogits: &[f32]) {
        let place = self.activations().dlogits();
        self.backend
            .upload(dlogits, self.bench.arena.view_mut(self.backend, place));
    }

    fn scale_gradient(&mut self, weight: f64) {
        let mut dlogits = self.gradient();
        dlogits.iter_mut().for_each(|d| *d *= weight as f32);
        self.set_gradient(&dlogits);
    }

    /// The objective's gradient with respect to the logits, `[T, V]`.
    pub(super) fn gradient(&self) -> Vec<f32> {
        let place = self.activations().dlogits();
        let mut dlogits = vec![0.0; place.len];
        self.backend
            .download(self.bench.arena.view(self.backend, place), &mut dlogits);
        dlogits
    }

    /// The convolutions' output, `[T, C]`, and C; `None` where no norm below it moves.
    pub(super) fn features_below_norms(&self) -> Option<(Vec<f32>, usize)> {
        let (place, channels) = self.activations().features()?;
        let moves = self.bench.parameters.moves_norms_of_convolutions();
        moves.then(|| {
            let mut features = vec![0.0; place.len];
            self.backend
                .download(self.bench.arena.view(self.backend, place), &mut features);
            (features, channels)
        })
    }

    /// Adds the parameters' gradients to what is there.
    pub(super) fn backward(&mut self) {
        self.backward_with(None);
    }

    /// The same where the objective also has a gradient with respect to the convolutions' output.
    pub(super) fn backward_with(&mut self, dfeatures: Option<&[f32]>) {
        match dfeatures {
            // What comes from the host differs from pass to pass.
            Some(_) => self.backward_pass(dfeatures),
            None => {
                let replay = self.replay(Pass::Backward, self.bench.lowest);
                self.backend.replayable(replay, || self.backward_pass(None));
            }
        }
        self.bench.passes.backwards += 1;
    }

    /// The pass itself.
    pub(super) fn backward_pass(&mut self, dfeatures: Option<&[f32]>) {
        let bench = &mut *self.bench;
        let activations = bench.loaded.as_ref().expect(LOADED);
        let (parameters, arena) = (&mut bench.parameters, &mut bench.arena);
        bench
            .model
            .backward_with(self.backend, parameters, arena, activations, dfeatures);
    }

    /// Whether every gradient is finite.
    pub(super) fn gradients_are_finite(&self) -> bool {
        self.bench.parameters.gradients_are_finite(self.backend)
    }

    /// One optimizer step along the gradients, whatever they are.
    pub(super) fn update(&mut self, optimizer: &AdamW) {
        self.bench.parameters.update(self.backend, optimizer);
    }

    /// The same on the norms alone.
    pub(super) fn update_norms(&mut self, optimizer: &AdamW) {
        self.bench.parameters.update_norms(self.backend, optimizer);
    }

    /// An optimizer that has seen nothing; the values stay.
    pub(super) fn forget_moments(&mut self) {
        self.bench.parameters.forget_moments(self.backend);
    }

    /// The blank's index.
    pub(super) fn blank(&self) -> usize {
        self.bench.terms.blank
    }

    /// The passes computed since the last call.
    pub(super) fn take_passes(&mut self) -> Passes {
        std::mem::take(&mut self.bench.passes)
    }
}

impl<B: Backend> OnStore for Stepper<'_, B> {
    type Backend = B;

    fn store(&self) -> (&B, &AdaptedParameters<B>) {
        (self.backend, &self.bench.parameters)
    }

    fn store_mut(&mut self) -> (&B, &mut AdaptedParameters<B>) {
        (self.backend, &mut self.bench.parameters)
    }

    fn optimizer(&self) -> AdamW {
        self.bench.optimizer
    }
}

impl<B: Backend> Moves for Stepper<'_, B> {
    fn look(&mut self, input: &[f32]) -> Result<Option<ObjectiveValue>, EngineError> {
        if self.load(input)? == 0 {
            return Ok(None);
        }
        self.forward();
        Ok(Some(self.objective()))
    }

    fn accumulate(&mut self, input: &[f32], weight: f64) -> Result<Option<ObjectiveValue>, EngineError> {
        let objective = self.look(input)?;
        if objective.is_some_and(|objective| objective.non_blank_frames > 0) {
            self.scale_gradient(weight);
            self.backward();
        }
        Ok(objective)
    }

    fn rehearse(&mut self, input: &[f32], labels: &[usize], weight: f64) -> Result<(), EngineError> {
        if self.load(input)? > 0 {
            self.forward();
            if self.pseudo_label(labels).is_finite() {
                self.scale_gradient(weight);
                self.backward();
            }
        }
        Ok(())
    }

    fn classes(&self) -> usize {
        self.bench.model.config().vocab_size
    }
}
