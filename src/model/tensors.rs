//! A model's tensors in one flat buffer, and what each of them is.

use super::ModelError;
use crate::engine::Backend;
use safetensors::{Dtype, SafeTensors};
use std::ops::Range;

/// What a tensor is for: adaptation chooses by this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A layer norm's γ.
    LayerNormWeight,
    /// A layer norm's β.
    LayerNormBias,
    /// A weight of the feature extractor.
    FeatureWeight,
    /// A bias of the feature extractor.
    FeatureBias,
    /// A bias of the transformer.
    Bias,
    /// Any other weight.
    Weight,
    /// Neither in the encoder nor ever adapted: the output layer, position tables.
    Fixed,
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
    /// The operand that holds it.
    pub operand: OperandId,
    /// Its values inside the operand.
    pub range: Range<usize>,
    /// Their order.
    pub layout: Layout,
}

impl NamedTensor {
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

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.tensors.iter().map(|tensor| tensor.range.len()).sum()
    }
}

/// Reads a checkpoint operand by operand into one flat buffer.
pub(super) struct WeightsBuilder<'a> {
    checkpoint: SafeTensors<'a>,
    values: Vec<f32>,
    operands: Vec<Range<usize>>,
    tensors: Vec<NamedTensor>,
}

/// A piece of an operand.
pub(super) enum Piece<'a> {
    /// A tensor of the checkpoint.
    Tensor(&'a str, &'a [usize], Kind, Layout),
    /// Zeros where the architecture has no tensor.
    Zeros(usize),
}

impl<'a> WeightsBuilder<'a> {
    /// Parses the safetensors header; its offsets are checked against the file's length there.
    pub(super) fn new(bytes: &'a [u8]) -> Result<Self, ModelError> {
        let checkpoint =
            SafeTensors::deserialize(bytes).map_err(|error| ModelError::invalid("model.safetensors", error))?;
        Ok(Self {
            checkpoint,
            values: Vec::new(),
            operands: Vec::new(),
            tensors: Vec::new(),
        })
    }

    /// One tensor as an operand.
    pub(super) fn tensor(&mut self, name: &str, shape: &[usize], kind: Kind) -> Result<OperandId, ModelError> {
        self.operand(&[Piece::Tensor(name, shape, kind, Layout::Same)])
    }

    /// Several pieces side by side as one operand.
    pub(super) fn operand(&mut self, pieces: &[Piece<'_>]) -> Result<OperandId, ModelError> {
        let id = OperandId(self.operands.len());
        let start = self.values.len();
        for piece in pieces {
            match piece {
                Piece::Zeros(len) => self.values.resize(self.values.len() + len, 0.0),
                Piece::Tensor(name, shape, kind, layout) => {
                    let values = NamedTensor::from_checkpoint_order(*layout, shape, self.read(name, shape)?);
                    let from = self.values.len() - start;
                    self.tensors.push(NamedTensor {
                        name: (*name).into(),
                        shape: shape.to_vec(),
                        kind: *kind,
                        operand: id,
                        range: from..from + values.len(),
                        layout: *layout,
                    });
                    self.values.extend(values);
                }
            }
        }
        self.operands.push(start..self.values.len());
        Ok(id)
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, ModelError> {
        let view = self
            .checkpoint
            .tensor(name)
            .map_err(|_| ModelError::MissingTensor(name.into()))?;
        if view.shape() != shape {
            return Err(ModelError::Shape {
                name: name.into(),
                found: view.shape().to_vec(),
                expected: shape.to_vec(),
            });
        }
        let data = view.data();
        let values: Vec<f32> = match view.dtype() {
            Dtype::F32 => data
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            Dtype::F16 => data
                .chunks_exact(2)
                .map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            Dtype::BF16 => data
                .chunks_exact(2)
                .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
                .collect(),
            other => {
                return Err(ModelError::Type {
                    name: name.into(),
                    found: format!("{other:?}"),
                });
            }
        };
        if values.iter().any(|value| !value.is_finite()) {
            return Err(ModelError::NotFinite(name.into()));
        }
        Ok(values)
    }

    /// Moves everything to the device.
    pub(super) fn finish<B: Backend>(self, backend: &B) -> Result<Weights<B>, ModelError> {
        let mut buffer = backend.zeros(self.values.len())?;
        backend.upload(&self.values, backend.view_mut(&mut buffer, 0..self.values.len()));
        Ok(Weights {
            buffer,
            operands: self.operands,
            tensors: self.tensors,
        })
    }
}
