//! Layers that the architectures share: their operands and how they are read.

use super::tensors::{Kind, Layout, OperandId, Piece, WeightsBuilder};
use super::{ModelError, Parameters};
use crate::engine::{Arena, Backend, Linear, Rows, Slot};

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
        weight_kind: Kind,
        bias_kind: Kind,
    ) -> Result<Self, ModelError> {
        let weight = builder.tensor(&format!("{name}.weight"), &[outputs, inputs], weight_kind)?;
        let bias = builder.tensor(&format!("{name}.bias"), &[outputs], bias_kind)?;
        Ok(Self {
            weight,
            bias,
            inputs,
            outputs,
        })
    }

    /// Queries, keys and values as one layer of three times the width. Whisper's keys have no bias.
    pub(super) fn load_qkv(builder: &mut WeightsBuilder<'_>, name: &str, width: usize) -> Result<Self, ModelError> {
        let square = [width, width];
        let [q, k, v] = ["q", "k", "v"].map(|part| format!("{name}.{part}_proj.weight"));
        let weights = [&q, &k, &v].map(|name| Piece::Tensor(name, &square, Kind::Weight, Layout::Same));
        let weight = builder.operand(&weights)?;
        let [q, v] = ["q", "v"].map(|part| format!("{name}.{part}_proj.bias"));
        let vector = [width];
        let bias = builder.operand(&[
            Piece::Tensor(&q, &vector, Kind::Bias, Layout::Same),
            Piece::Zeros(width),
            Piece::Tensor(&v, &vector, Kind::Bias, Layout::Same),
        ])?;
        Ok(Self {
            weight,
            bias,
            inputs: width,
            outputs: 3 * width,
        })
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

    /// The bias's gradient where it is adapted, then the input's.
    pub(super) fn backward<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        rows: usize,
        dy: Slot,
        dx: Slot,
    ) {
        let ([dy], [dx]) = arena.split(backend, [dy], [dx]);
        if let Some(dbias) = parameters.gradient(backend, self.bias) {
            backend.bias_backward(
                Rows {
                    rows,
                    cols: self.outputs,
                },
                dy,
                dbias,
            );
        }
        backend.linear_backward_input(self.shape(rows), dy, parameters.value(backend, self.weight), dx, false);
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
            let (dweight, dbias) = parameters.gradient_pair(backend, self.weight, self.bias);
            backend.layer_norm_backward_parameters(shape, x, statistics, dy, dweight, dbias);
        }
        if let Some((dx, accumulate)) = input {
            let ([x, statistics, dy], [dx]) = arena.split(backend, [x, statistics, dy], [dx]);
            let weight = parameters.value(backend, self.weight);
            backend.layer_norm_backward_input(shape, x, statistics, weight, dy, dx, accumulate);
        }
    }
}
