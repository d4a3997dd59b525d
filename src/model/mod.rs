//! The acoustic models: architectures, the layers they share, configuration, weights and vocabulary.
//!
//! A model knows its tensors, how its activations lie in the arena, and its forward and backward passes. It does not
//! know which tensors are adapted: it asks [`Parameters`].

mod config;
mod error;
mod layers;
mod source;
mod tensors;
mod vocabulary;
mod whisper;

pub use config::{ModelConfig, Preset};
pub use error::ModelError;
pub use source::ModelFiles;
pub use tensors::{Kind, NamedTensor, OperandId, Weights};
pub use vocabulary::{Symbol, Vocabulary};
pub use whisper::{Activations, Keep, Stem, WhisperCtc};

use crate::engine::Backend;

/// Where a model's passes find the values of its operands, and leave gradients.
pub trait Parameters<B: Backend> {
    /// The operand's current values: adapted ones, or the source model's.
    fn value(&self, backend: &B, id: OperandId) -> B::View<'_>;
    /// Whether any part of the operand is adapted.
    fn is_adapted(&self, id: OperandId) -> bool;
    /// Where the operand's gradient accumulates; `None` when it is frozen.
    fn gradient(&mut self, backend: &B, id: OperandId) -> Option<B::ViewMut<'_>>;
    /// Two operands' gradients at once.
    fn gradient_pair(
        &mut self,
        backend: &B,
        first: OperandId,
        second: OperandId,
    ) -> (Option<B::ViewMut<'_>>, Option<B::ViewMut<'_>>);
}
