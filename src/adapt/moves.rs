//! What a policy over whole utterances needs of a model: states to keep and to go back to, and what is done between.

use super::{AdaptedParameters, HostSnapshot, Snapshot};
use crate::engine::{AdamW, Backend, EngineError, ObjectiveValue};

/// States of the adapted parameters: the values and the optimizer's moments.
pub(crate) trait States {
    /// A state that was kept.
    type Snapshot;

    /// Keeps the present state.
    fn snapshot(&self) -> Result<Self::Snapshot, EngineError>;
    /// The same into memory that is already there.
    fn snapshot_into(&self, snapshot: &mut Self::Snapshot);
    /// Back to a state.
    fn restore(&mut self, snapshot: &Self::Snapshot);
    /// Back to the source model, with an optimizer that has seen nothing.
    fn restore_source(&mut self);
    /// The adapted values alone.
    fn values(&self) -> Vec<f32>;
    /// Puts them in place; the moments stay.
    fn set_values(&mut self, values: &[f32]);
    /// The source model's.
    fn source_values(&self) -> Vec<f32>;
    /// Forgets the gradients.
    fn zero_gradients(&mut self);
    /// One optimizer step along the gradients; `false` when it was not taken because one was not finite.
    fn step(&mut self) -> bool;
    /// Whether the present state is finite throughout.
    fn is_finite(&self) -> bool;
    /// A state's copy on the host.
    fn download(&self, snapshot: &Self::Snapshot) -> HostSnapshot;
    /// The reverse; `false` when it is another model's.
    fn upload(&self, from: &HostSnapshot, to: &mut Self::Snapshot) -> bool;
}

/// What is done with utterances at the present state. An utterance is what the model hears of it, as one row of numbers.
pub(crate) trait Moves: States {
    /// The objective of an utterance; `None` when it is too short.
    fn look(&mut self, input: &[f32]) -> Result<Option<ObjectiveValue>, EngineError>;
    /// The same, and the gradient of the objective times `weight` is added to what is there. An utterance in which
    /// nothing is said adds nothing.
    fn accumulate(&mut self, input: &[f32], weight: f64) -> Result<Option<ObjectiveValue>, EngineError>;
    /// Adds the gradient of the loss towards a transcript, divided by its length, times `weight`; nothing where the
    /// utterance is too short for it.
    fn rehearse(&mut self, input: &[f32], labels: &[usize], weight: f64) -> Result<(), EngineError>;
    /// Symbols of the output.
    fn classes(&self) -> usize;
}

/// Who works on a store of adapted parameters: its states are the store's.
pub(crate) trait OnStore {
    /// The store's.
    type Backend: Backend;

    /// The backend and the store.
    fn store(&self) -> (&Self::Backend, &AdaptedParameters<Self::Backend>);
    /// The same, to change it.
    fn store_mut(&mut self) -> (&Self::Backend, &mut AdaptedParameters<Self::Backend>);
    /// The optimizer's settings.
    fn optimizer(&self) -> AdamW;
}

impl<T: OnStore> States for T {
    type Snapshot = Snapshot<T::Backend>;

    fn snapshot(&self) -> Result<Self::Snapshot, EngineError> {
        let (backend, parameters) = self.store();
        parameters.snapshot(backend)
    }

    fn snapshot_into(&self, snapshot: &mut Self::Snapshot) {
        let (backend, parameters) = self.store();
        parameters.snapshot_into(backend, snapshot);
    }

    fn restore(&mut self, snapshot: &Self::Snapshot) {
        let (backend, parameters) = self.store_mut();
        parameters.restore(backend, snapshot);
    }

    fn restore_source(&mut self) {
        let (backend, parameters) = self.store_mut();
        parameters.restore_source(backend);
    }

    fn values(&self) -> Vec<f32> {
        let (backend, parameters) = self.store();
        parameters.values(backend)
    }

    fn set_values(&mut self, values: &[f32]) {
        let (backend, parameters) = self.store_mut();
        parameters.set_values(backend, values);
    }

    fn source_values(&self) -> Vec<f32> {
        let (backend, parameters) = self.store();
        parameters.source_values(backend)
    }

    fn zero_gradients(&mut self) {
        let (backend, parameters) = self.store_mut();
        parameters.zero_gradients(backend);
    }

    fn step(&mut self) -> bool {
        let optimizer = self.optimizer();
        let (backend, parameters) = self.store_mut();
        let finite = parameters.gradients_are_finite(backend);
        if finite {
            parameters.update(backend, &optimizer);
        }
        finite
    }

    fn is_finite(&self) -> bool {
        let (backend, parameters) = self.store();
        parameters.are_finite(backend)
    }

    fn download(&self, snapshot: &Self::Snapshot) -> HostSnapshot {
        let (backend, parameters) = self.store();
        parameters.download(backend, snapshot)
    }

    fn upload(&self, from: &HostSnapshot, to: &mut Self::Snapshot) -> bool {
        let (backend, parameters) = self.store();
        parameters.upload(backend, from, to)
    }
}
