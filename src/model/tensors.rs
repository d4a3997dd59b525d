//! A model's tensors in one flat buffer, and what each of them is.

use super::ModelError;
use super::checkpoint::{Checkpoint, Stored};
use crate::engine::Backend;
use std::ops::Range;

/// What a tensor is for: adaptation chooses by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A layer norm's γ.
    LayerNormWeight,
    /// A layer norm's β.
    LayerNormBias,
    /// Any other vector that is added.
    Bias,
    /// Any other weight.
    Weight,
    /// Never adapted: position tables.
    Fixed,
}

/// Where in the model a tensor is: adaptation chooses by this too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The feature extractor: convolutions over the signal, and wav2vec2's projection into the model's width.
    Feature,
    /// The encoder outside its layers, below them: positions, an embedding norm.
    Encoder,
    /// A transformer layer, counted from the bottom; a norm above the last layer counts as one more.
    Layer(usize),
    /// The output layer.
    Head,
    /// A layer of Whisper's decoder, counted from the bottom; its embeddings and its last norm count with the layers
    /// they are next to.
    Decoder(usize),
}

/// One argument of an operation: a stretch of the flat buffer, holding one tensor or several side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperandId(usize);

impl OperandId {
    /// As an index into tables with an entry per operand.
    pub fn index(self) -> usize {
        self.0
    }
}

/// How a tensor's values lie in its operand, against the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As in the checkpoint.
    Same,
    /// Convolution weights: `[c_out, c_in, kernel]` in the checkpoint, `[c_out, kernel, c_in]` here.
    ChannelsLast,
}

/// A tensor as the checkpoint names it.
#[derive(Debug, Clone)]
pub struct NamedTensor {
    /// The checkpoint's name.
    pub name: String,
    /// The checkpoint's shape.
    pub shape: Vec<usize>,
    /// What it is for.
    pub kind: Kind,
    /// Where it is.
    pub place: Place,
    /// How many of the feature extractor's modules surround it.
    pub nesting: u32,
    /// The operand that holds it.
    pub operand: OperandId,
    /// Its values inside the operand.
    pub range: Range<usize>,
    /// Their order.
    pub layout: Layout,
    /// How the checkpoint stores them.
    pub storage: Stored,
}

impl NamedTensor {
    /// Whether it is a norm's weight or bias: a layer norm's, or the norm's over each channel of the first convolution.
    pub fn is_norm(&self) -> bool {
        matches!(self.kind, Kind::LayerNormWeight | Kind::LayerNormBias) || self.name.contains(".layer_norm.")
    }

    /// Values in the operand's order → the checkpoint's order.
    pub fn to_checkpoint_order(&self, values: &[f32]) -> Vec<f32> {
        match self.layout {
            Layout::Same => values.to_vec(),
            Layout::ChannelsLast => {
                let (c_out, c_in, kernel) = (self.shape[0], self.shape[1], self.shape[2]);
                let mut out = vec![0.0; values.len()];
                for (o, k, i) in indices(c_out, kernel, c_in) {
                    out[(o * c_in + i) * kernel + k] = values[(o * kernel + k) * c_in + i];
                }
                out
            }
        }
    }

    fn from_checkpoint_order(layout: Layout, shape: &[usize], values: Vec<f32>) -> Vec<f32> {
        match layout {
            Layout::Same => values,
            Layout::ChannelsLast => {
                let (c_out, c_in, kernel) = (shape[0], shape[1], shape[2]);
                let mut out = vec![0.0; values.len()];
                for (o, k, i) in indices(c_out, kernel, c_in) {
                    out[(o * kernel + k) * c_in + i] = values[(o * c_in + i) * kernel + k];
                }
                out
            }
        }
    }
}

fn indices(outer: usize, middle: usize, inner: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..outer).flat_map(move |o| (0..middle).flat_map(move |m| (0..inner).map(move |i| (o, m, i))))
}

/// The source model: every operand, read-only, shared by all sessions.
pub struct Weights<B: Backend> {
    buffer: B::Buffer,
    operands: Vec<Range<usize>>,
    tensors: Vec<NamedTensor>,
}

impl<B: Backend> Weights<B> {
    /// The source model's values of an operand.
    pub fn value(&self, backend: &B, id: OperandId) -> B::View<'_> {
        backend.view(&self.buffer, self.operands[id.0].clone())
    }

    /// Number of values of an operand.
    pub fn operand_len(&self, id: OperandId) -> usize {
        self.operands[id.0].len()
    }

    /// Every operand, in the order of [`OperandId::index`].
    pub fn operands(&self) -> impl ExactSizeIterator<Item = OperandId> + use<B> {
        (0..self.operands.len()).map(OperandId)
    }

    /// All the checkpoint's tensors.
    pub fn tensors(&self) -> &[NamedTensor] {
        &self.tensors
    }

    /// Transformer layers.
    pub fn layers(&self) -> usize {
        let layers = self.tensors.iter().filter_map(|tensor| match tensor.place {
            // A norm above the last layer counts as one more, but it has no attention: its matrices tell a layer.
            Place::Layer(layer) if tensor.shape.len() == 2 => Some(layer + 1),
            _ => None,
        });
        layers.max().unwrap_or(0)
    }

    /// Layers of Whisper's decoder.
    pub fn decoder_layers(&self) -> usize {
        let layers = self.tensors.iter().filter_map(|tensor| match tensor.place {
            Place::Decoder(layer) => Some(layer + 1),
            _ => None,
        });
        layers.max().unwrap_or(0)
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.range.len()).sum()
    }
}

/// Reads a checkpoint operand by operand into one flat buffer.
pub(super) struct WeightsBuilder<'a> {
    checkpoint: &'a dyn Checkpoint,
    values: Vec<f32>,
    operands: Vec<Range<usize>>,
    tensors: Vec<NamedTensor>,
    place: Place,
    nesting: u32,
}

/// A piece of an operand.
pub(super) enum Piece<'a> {
    /// A tensor of the checkpoint.
    Tensor(&'a str, &'a [usize], Kind, Layout),
    /// A constant where the architecture has no tensor.
    Constant(f32, usize),
}

impl<'a> WeightsBuilder<'a> {
    pub(super) fn new(checkpoint: &'a dyn Checkpoint) -> Self {
        Self {
            checkpoint,
            values: Vec::new(),
            operands: Vec::new(),
            tensors: Vec::new(),
            place: Place::Feature,
            nesting: 0,
        }
    }

    /// Where the tensors that follow are, and how many of the feature extractor's modules surround them.
    pub(super) fn enter(&mut self, place: Place, nesting: u32) {
        (self.place, self.nesting) = (place, nesting);
    }

    /// Whether the checkpoint has a tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.checkpoint.shape(name).is_some()
    }

    /// One tensor as an operand.
    pub(super) fn tensor(&mut self, name: &str, shape: &[usize], kind: Kind) -> Result<OperandId, ModelError> {
        self.operand(&[Piece::Tensor(name, shape, kind, Layout::Same)])
    }

    /// An operand that is no tensor of the checkpoint.
    pub(super) fn constant(&mut self, value: f32, len: usize) -> Result<OperandId, ModelError> {
        self.operand(&[Piece::Constant(value, len)])
    }

    /// Several pieces side by side as one operand.
    pub(super) fn operand(&mut self, pieces: &[Piece<'_>]) -> Result<OperandId, ModelError> {
        let id = OperandId(self.operands.len());
        let start = self.values.len();
        for piece in pieces {
            match piece {
                Piece::Constant(value, len) => self.values.resize(self.values.len() + len, *value),
                Piece::Tensor(name, shape, kind, layout) => {
                    let values = NamedTensor::from_checkpoint_order(*layout, shape, self.read(name, shape)?);
                    let from = self.values.len() - start;
                    self.tensors.push(NamedTensor {
                        name: (*name).into(),
                        shape: shape.to_vec(),
                        kind: *kind,
                        place: self.place,
                        nesting: self.nesting,
                        operand: id,
                        range: from..from + values.len(),
                        layout: *layout,
                        storage: self.checkpoint.storage(name),
                    });
                    self.values.extend(values);
                }
            }
        }
        self.operands.push(start..self.values.len());
        Ok(id)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let found = self
            .checkpoint
            .shape(name)
            .ok_or_else(|| ModelError::MissingTensor(name.into()))?;
        if found != shape {
            return Err(ModelError::Shape {
                name: name.into(),
                found: found.to_vec(),
                expected: shape.to_vec(),
            });
        }
        let values = self.checkpoint.values(name)?;
        if values.len() != shape.iter().product::<usize>() || values.iter().any(|value| !value.is_finite()) {
            return Err(ModelError::NotFinite(name.into()));
        }
        Ok(values)
    }

    /// Moves everything to the device.
    pub(super) fn finish<B: Backend>(self, backend: &B) -> Result<Weights<B>, ModelError> {
        Ok(Weights {
            buffer: backend.buffer(self.values)?,
            operands: self.operands,
            tensors: self.tensors,
        })
    }
}
