//! The acoustic models: architectures, the layers they share, configuration, weights and vocabulary.
//!
//! A model knows its tensors, how its activations lie in the arena, and its forward and backward passes. It does not
//! know which tensors are adapted: it asks [`Parameters`].

mod bundled;
pub mod checkpoint;
mod config;
mod ctc;
mod decoder;
mod error;
mod generation;
mod layers;
mod positional;
mod relative;
mod shared;
mod source;
mod tensors;
mod tokenizer;
mod transformer;
mod vocabulary;
mod wav2vec2;
mod whisper;

pub use bundled::Bundled;
pub use config::{FrontendConfig, ModelConfig, Preset, Wav2Vec2Config, WhisperConfig};
pub use ctc::{Activations, CtcModel, Input, KEEP_ALL, KEEP_NOTHING};
pub use decoder::{Decoder, DecoderActivations, DecoderConfig, Row, Tokens};
pub use error::ModelError;
pub use generation::Generation;
pub use shared::{Apart, shared_layers};
pub use source::{ModelFiles, ModelSource, WeightBytes};
pub use tensors::{Kind, NamedTensor, OperandId, Place, Weights};
pub use tokenizer::Tokenizer;
pub use transformer::TransformerConfig;
pub use vocabulary::{Symbol, Vocabulary};

use crate::engine::{Backend, Each};
use std::sync::Arc;

/// The source model's values, nothing adapted.
pub struct SourceParameters<B: Backend>(pub Arc<Weights<B>>);

impl<B: Backend> Parameters<B> for SourceParameters<B> {
    fn value(&self, backend: &B, id: OperandId) -> B::View<'_> {
        self.0.value(backend, id)
    }

    fn is_adapted(&self, _: OperandId) -> bool {
        false
    }

    fn gradient(&mut self, _: &B, _: OperandId) -> Option<B::ViewMut<'_>> {
        None
    }

    fn values_and_gradients<const N: usize>(
        &mut self,
        backend: &B,
        ids: [OperandId; N],
    ) -> ([B::View<'_>; N], [Option<B::ViewMut<'_>>; N]) {
        (ids.map(|id| self.0.value(backend, id)), [const { None }; N])
    }
}

/// Operands' values for each of several utterances, all gradients of those, and where the operands' are among the first's.
pub type EachWithGradients<'a, B, const N: usize> = (
    [Each<<B as Backend>::View<'a>>; N],
    Each<<B as Backend>::ViewMut<'a>>,
    [Option<usize>; N],
);

/// Where a model's passes find the values of its operands, and leave gradients.
pub trait Parameters<B: Backend> {
    /// The operand's current values: adapted ones, or the source model's.
    fn value(&self, backend: &B, id: OperandId) -> B::View<'_>;
    /// Whether any part of the operand is adapted.
    fn is_adapted(&self, id: OperandId) -> bool;
    /// Where the operand's gradient accumulates; `None` when it is frozen.
    fn gradient(&mut self, backend: &B, id: OperandId) -> Option<B::ViewMut<'_>>;
    /// Several operands' values, and their gradients where they are adapted, at once.
    fn values_and_gradients<const N: usize>(
        &mut self,
        backend: &B,
        ids: [OperandId; N],
    ) -> ([B::View<'_>; N], [Option<B::ViewMut<'_>>; N]);
    /// The operand's values for each of the utterances that are passed through together.
    fn each(&self, backend: &B, id: OperandId) -> Each<B::View<'_>> {
        Each {
            values: self.value(backend, id),
            stride: 0,
        }
    }
    /// The same of several operands, with all gradients of those utterances and where the operands' are among the first's.
    fn each_with_gradients<const N: usize>(
        &mut self,
        _backend: &B,
        _ids: [OperandId; N],
    ) -> EachWithGradients<'_, B, N> {
        panic!("a store for one utterance");
    }
}
