//! Layers that the architectures share: their operands and how they are read.

use super::tensors::{Kind, Layout, OperandId, Piece, WeightsBuilder};
use super::whisper::Convolution;
use super::{ModelError, Parameters};
use crate::engine::{Arena, Backend, Conv1d, Count, Each, Linear, Rows, Shares, Slot};

/// A linear layer's operands.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinearLayer {
    pub(super) weight: OperandId,
    pub(super) bias: OperandId,
    inputs: usize,
    outputs: usize,
}

impl LinearLayer {
    pub(super) fn load(
        builder: &mut WeightsBuilder<'_>,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, ModelError> {
        let weight = builder.tensor(&format!("{name}.weight"), &[outputs, inputs], Kind::Weight)?;
        let bias = builder.tensor(&format!("{name}.bias"), &[outputs], Kind::Bias)?;
        Ok(Self {
            weight,
            bias,
            inputs,
            outputs,
        })
    }

    /// Queries, keys and values as one layer of three times the width.
    pub(super) fn load_qkv(builder: &mut WeightsBuilder<'_>, name: &str, width: usize) -> Result<Self, ModelError> {
        Self::load_stacked(builder, name, &["q", "k", "v"], width)
    }

    /// Several projections (`q`, `k`, `v`) as one layer, side by side. Whisper's keys have no bias.
    pub(super) fn load_stacked(
        builder: &mut WeightsBuilder<'_>,
        name: &str,
        parts: &[&str],
        width: usize,
    ) -> Result<Self, ModelError> {
        let (square, vector) = ([width, width], [width]);
        let names = |what: &str| -> Vec<String> {
            let names = parts.iter().map(|part| format!("{name}.{part}_proj.{what}"));
            names.collect()
        };
        let (weights, biases) = (names("weight"), names("bias"));
        let weights: Vec<_> = weights
            .iter()
            .map(|name| Piece::Tensor(name, &square, Kind::Weight, Layout::Same))
            .collect();
        let weight = builder.operand(&weights)?;
        let biases: Vec<_> = parts
            .iter()
            .zip(&biases)
            .map(|(part, name)| match *part {
                "k" if !builder.has(name) => Piece::Constant(0.0, width),
                _ => Piece::Tensor(name, &vector, Kind::Bias, Layout::Same),
            })
            .collect();
        let bias = builder.operand(&biases)?;
        Ok(Self {
            weight,
            bias,
            inputs: width,
            outputs: parts.len() * width,
        })
    }

    pub(super) fn operands(&self) -> [OperandId; 2] {
        [self.weight, self.bias]
    }

    /// The same as a convolution with one tap, for several utterances that have their own each.
    pub(super) fn as_convolution(&self, rows: usize) -> (Convolution, Conv1d) {
        let convolution = Convolution {
            weight: self.weight,
            bias: self.bias,
        };
        let shape = Conv1d {
            padded_frames: rows,
            c_in: self.inputs,
            c_out: self.outputs,
            kernel: 1,
            stride: 1,
        };
        (convolution, shape)
    }

    pub(super) fn shape(&self, rows: usize) -> Linear {
        Linear::new(rows, self.inputs, self.outputs)
    }

    /// `y = x Wᵀ + b` (`+ y`).
    pub(super) fn forward<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        rows: usize,
        x: Slot,
        y: Slot,
        accumulate: bool,
    ) {
        let ([x], [y]) = arena.split(backend, [x], [y]);
        let (weight, bias) = (
            parameters.value(backend, self.weight),
            parameters.value(backend, self.bias),
        );
        backend.linear(self.shape(rows), x, weight, Some(bias), y, accumulate);
    }

    /// `y = x Wᵀ + b + residual`.
    pub(super) fn forward_residual<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        rows: usize,
        (x, residual): (Slot, Slot),
        y: Slot,
    ) {
        let ([x, residual], [y]) = arena.split(backend, [x, residual], [y]);
        let (weight, bias) = (
            parameters.value(backend, self.weight),
            parameters.value(backend, self.bias),
        );
        backend.linear_residual(self.shape(rows), x, weight, bias, residual, y);
    }

    /// `pre = x Wᵀ + b`, `y = gelu(pre)`.
    pub(super) fn forward_gelu<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        rows: usize,
        x: Slot,
        pre: Slot,
        y: Slot,
    ) {
        let ([x], [pre, y]) = arena.split(backend, [x], [pre, y]);
        let (weight, bias) = (
            parameters.value(backend, self.weight),
            parameters.value(backend, self.bias),
        );
        backend.linear_gelu(self.shape(rows), x, weight, bias, pre, y);
    }

    /// The weight's and the bias's gradients where they are adapted. `x` need only be right when the weight is.
    pub(super) fn backward_parameters<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        rows: usize,
        x: Slot,
        dy: Slot,
    ) {
        let ([x, dy], []) = arena.split(backend, [x, dy], []);
        if let Some(dweight) = parameters.gradient(backend, self.weight) {
            backend.linear_backward_weight(self.shape(rows), x, dy, dweight);
        }
        if let Some(dbias) = parameters.gradient(backend, self.bias) {
            let cols = self.outputs;
            backend.bias_backward(Rows { rows, cols }, dy, dbias);
        }
    }

    /// The input's gradient, written or added.
    pub(super) fn backward_input<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        rows: usize,
        dy: Slot,
        dx: Slot,
        accumulate: bool,
    ) {
        let ([dy], [dx]) = arena.split(backend, [dy], [dx]);
        let weight = parameters.value(backend, self.weight);
        backend.linear_backward_input(self.shape(rows), dy, weight, dx, accumulate);
    }
}

/// A layer norm's operands.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerNorm {
    weight: OperandId,
    bias: OperandId,
    cols: usize,
}

impl LayerNorm {
    pub(super) fn load(builder: &mut WeightsBuilder<'_>, name: &str, cols: usize) -> Result<Self, ModelError> {
        let weight = builder.tensor(&format!("{name}.weight"), &[cols], Kind::LayerNormWeight)?;
        let bias = builder.tensor(&format!("{name}.bias"), &[cols], Kind::LayerNormBias)?;
        Ok(Self { weight, bias, cols })
    }

    /// One that only normalises.
    pub(super) fn plain(builder: &mut WeightsBuilder<'_>, cols: usize) -> Result<Self, ModelError> {
        let (weight, bias) = (builder.constant(1.0, cols)?, builder.constant(0.0, cols)?);
        Ok(Self { weight, bias, cols })
    }

    pub(super) fn operands(&self) -> [OperandId; 2] {
        [self.weight, self.bias]
    }

    pub(super) fn forward<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        rows: usize,
        x: Slot,
        y: Slot,
        statistics: Slot,
    ) {
        let ([x], [y, statistics]) = arena.split(backend, [x], [y, statistics]);
        let (weight, bias) = (
            parameters.value(backend, self.weight),
            parameters.value(backend, self.bias),
        );
        backend.layer_norm(Rows { rows, cols: self.cols }, x, weight, bias, y, statistics);
    }

    /// The same, then GELU.
    pub(super) fn forward_gelu<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        rows: usize,
        x: Slot,
        y: Slot,
        statistics: Slot,
    ) {
        let ([x], [y, statistics]) = arena.split(backend, [x], [y, statistics]);
        let [weight, bias] = self.operands().map(|id| parameters.value(backend, id));
        backend.layer_norm_gelu(Rows { rows, cols: self.cols }, x, weight, bias, y, statistics);
    }

    /// γ's and β's gradients where they are adapted, then, with `input`, the input's gradient into (or added to) a
    /// slot.
    pub(super) fn backward<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        rows: usize,
        saved: (Slot, Slot),
        dy: Slot,
        input: Option<(Slot, bool)>,
    ) {
        let shape = Rows { rows, cols: self.cols };
        let (x, statistics) = saved;
        if parameters.is_adapted(self.weight) || parameters.is_adapted(self.bias) {
            let ([x, statistics, dy], []) = arena.split(backend, [x, statistics, dy], []);
            let (_, [dweight, dbias]) = parameters.values_and_gradients(backend, [self.weight, self.bias]);
            backend.layer_norm_backward_parameters(shape, x, statistics, dy, dweight, dbias);
        }
        if let Some((dx, accumulate)) = input {
            let ([x, statistics, dy], [dx]) = arena.split(backend, [x, statistics, dy], [dx]);
            let weight = parameters.value(backend, self.weight);
            backend.layer_norm_backward_input(shape, x, statistics, weight, dy, dx, accumulate);
        }
    }
}

impl LayerNorm {
    /// [`LayerNorm::forward`] of several utterances, each with its own γ and β.
    pub(super) fn forward_each<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        (rows, shares): (usize, Shares<()>),
        x: Slot,
        y: Slot,
        statistics: Slot,
    ) {
        if shares.count() == 1 {
            return self.forward(backend, parameters, arena, rows, x, y, statistics);
        }
        self.forward_several(backend, parameters, arena, (rows, shares), (x, y, statistics), false);
    }

    /// [`LayerNorm::forward_gelu`], the same way.
    pub(super) fn forward_gelu_each<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        (rows, shares): (usize, Shares<()>),
        x: Slot,
        y: Slot,
        statistics: Slot,
    ) {
        if shares.count() == 1 {
            return self.forward_gelu(backend, parameters, arena, rows, x, y, statistics);
        }
        self.forward_several(backend, parameters, arena, (rows, shares), (x, y, statistics), true);
    }

    fn forward_several<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        (rows, shares): (usize, Shares<()>),
        (x, y, statistics): (Slot, Slot, Slot),
        activate: bool,
    ) {
        let (shares, [x], [y, statistics]) = split_shares(backend, arena, shares, [x], [y, statistics]);
        let each = self.operands().map(|id| parameters.each(backend, id));
        let shape = Rows { rows, cols: self.cols };
        backend.layer_norm_each(shape, shares, x, each, y, statistics, activate);
    }

    /// [`LayerNorm::backward`], the same way.
    pub(super) fn backward_each<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        (rows, shares): (usize, Shares<()>),
        saved: (Slot, Slot),
        dy: Slot,
        input: Option<(Slot, bool)>,
    ) {
        if shares.count() == 1 {
            return self.backward(backend, parameters, arena, rows, saved, dy, input);
        }
        let shape = Rows { rows, cols: self.cols };
        let reads = [saved.0, saved.1, dy];
        if self.operands().iter().any(|id| parameters.is_adapted(*id)) {
            let (shares, [x, statistics, dy], []) = split_shares(backend, arena, shares, reads, []);
            let (_, gradients, places) = parameters.each_with_gradients(backend, self.operands());
            backend.layer_norm_backward_parameters_each(shape, shares, x, statistics, dy, gradients, places);
        }
        if let Some((dx, accumulate)) = input {
            let (shares, [x, statistics, dy], [dx]) = split_shares(backend, arena, shares, reads, [dx]);
            let weight = parameters.each(backend, self.weight);
            backend.layer_norm_backward_input_each(shape, shares, x, statistics, weight, dy, dx, accumulate);
        }
    }
}

impl LayerNorm {
    /// Back through [`LayerNorm::forward_gelu_each`]: `d`, the gradient of its output, is used up.
    pub(super) fn backward_gelu_each<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        (rows, shares): (usize, Shares<()>),
        (x, statistics): (Slot, Slot),
        d: Slot,
        dx: Slot,
    ) {
        let shape = Rows { rows, cols: self.cols };
        if shares.count() == 1 {
            let ([x, statistics], [d, dx]) = arena.split(backend, [x, statistics], [d, dx]);
            let (values, gradients) = parameters.values_and_gradients(backend, self.operands());
            return backend.layer_norm_gelu_backward(shape, x, statistics, values, d, dx, gradients);
        }
        let (shares, [x, statistics], [d, dx]) = split_shares(backend, arena, shares, [x, statistics], [d, dx]);
        let (each, gradients, places) = parameters.each_with_gradients(backend, self.operands());
        backend.layer_norm_gelu_backward_each(shape, shares, x, statistics, each, d, dx, gradients, places);
    }
}

/// Whose rows are which, and slots to read and to write.
type SharesAnd<'a, B, const R: usize, const W: usize> = (
    Shares<<B as Backend>::View<'a>>,
    [<B as Backend>::View<'a>; R],
    [<B as Backend>::ViewMut<'a>; W],
);

/// Slots to read and to write, with whose rows are which.
fn split_shares<'a, B: Backend, const R: usize, const W: usize>(
    backend: &B,
    arena: &'a mut Arena<B>,
    shares: Shares<()>,
    reads: [Slot; R],
    writes: [Slot; W],
) -> SharesAnd<'a, B, R, W> {
    let spans = match shares {
        Shares::Even(_) => None,
        Shares::Spans(spans) => Some(spans),
    };
    let (spans, reads, writes) = arena.split_spans(backend, spans, reads, writes);
    (spans.map_or(Shares::Even(shares.count()), Shares::Spans), reads, writes)
}

/// In place: `slot = gelu(slot)`.
pub(super) fn gelu<B: Backend>(backend: &B, arena: &mut Arena<B>, slot: Slot) {
    backend.gelu(arena.view_mut(backend, slot));
}

/// In place: `d *= gelu'(pre)`.
pub(super) fn gelu_backward<B: Backend>(backend: &B, arena: &mut Arena<B>, pre: Slot, d: Slot) {
    let ([pre], [d]) = arena.split(backend, [pre], [d]);
    backend.gelu_backward(pre, d);
}

/// Zeros behind the rows that count, where there is padding; several utterances' rows begin so many values apart.
pub(super) fn clear_padding<B: Backend>(
    backend: &B,
    arena: &mut Arena<B>,
    shape: Rows,
    counted: Option<Count>,
    slot: Slot,
    stride: usize,
) {
    if let (Some(counted), [], [values]) = arena.split_counted(backend, counted, [], [slot]) {
        backend.clear_padding(shape, counted, Each { values, stride });
    }
}

/// `to = from`.
pub(super) fn copy<B: Backend>(backend: &B, arena: &mut Arena<B>, from: Slot, to: Slot) {
    let ([from], [to]) = arena.split(backend, [from], [to]);
    backend.copy(from, to);
}

/// `to += from`.
pub(super) fn add<B: Backend>(backend: &B, arena: &mut Arena<B>, from: Slot, to: Slot) {
    let ([from], [to]) = arena.split(backend, [from], [to]);
    backend.add_prefix(from, to);
}
