//! wav2vec2's positional embedding: a grouped convolution over the frames with weight norm and GELU; data2vec's: five
//! smaller ones in a row, each with a norm that has no parameters. The result is added to the frames.

use super::layers::{LayerNorm, add, copy, gelu, gelu_backward};
use super::tensors::{Kind, Layout, OperandId, Piece, WeightsBuilder};
use super::{ModelError, Parameters};
use crate::engine::{Arena, ArenaPlan, Backend, GroupedConv1d, Slot};

/// Sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionalConfig {
    /// Convolutions in a row: 1, or data2vec's 5.
    pub layers: usize,
    /// Taps of each.
    pub kernel: usize,
    /// Groups of channels.
    pub groups: usize,
    /// data2vec: a plain weight, and a norm before the GELU; else weight norm and no norm.
    pub is_data2vec: bool,
}

pub(super) struct PositionalEmbedding {
    config: PositionalConfig,
    width: usize,
    layers: Vec<Layer>,
}

struct Layer {
    weight: Weight,
    bias: OperandId,
    norm: Option<LayerNorm>,
}

enum Weight {
    Plain(OperandId),
    Normed { direction: OperandId, magnitude: OperandId },
}

pub(super) struct PositionalActivations {
    shape: GroupedConv1d,
    layers: Vec<LayerActivations>,
    /// The last convolution's output, after the GELU.
    output: Slot,
    scratch: Slot,
    /// The effective weight where weight norm makes it, and its gradient.
    weight: Slot,
    dweight: Slot,
    /// The GELU's input, made again; the gradient on its way down.
    pre: Slot,
    d: Slot,
}

struct LayerActivations {
    input: Slot,
    /// What the convolution gives.
    sum: Slot,
    statistics: Slot,
}

impl PositionalEmbedding {
    pub(super) fn load(
        builder: &mut WeightsBuilder<'_>,
        encoder: &str,
        config: PositionalConfig,
        width: usize,
    ) -> Result<Self, ModelError> {
        let shape = [width, width / config.groups, config.kernel];
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            let name = if config.is_data2vec {
                format!("{encoder}pos_conv_embed.layers.{index}.conv")
            } else {
                format!("{encoder}pos_conv_embed.conv")
            };
            let mut tensor = |name: &str, shape: &[usize], layout| {
                builder.operand(&[Piece::Tensor(name, shape, Kind::Weight, layout)])
            };
            let weight = if config.is_data2vec {
                Weight::Plain(tensor(&format!("{name}.weight"), &shape, Layout::ChannelsLast)?)
            } else {
                // PyTorch spells weight norm in two ways.
                let new = format!("{name}.parametrizations.weight.original1");
                let (magnitude, direction) = if builder.has(&new) {
                    (format!("{name}.parametrizations.weight.original0"), new)
                } else {
                    (format!("{name}.weight_g"), format!("{name}.weight_v"))
                };
                let mut tensor = |name: &str, shape: &[usize], layout| {
                    builder.operand(&[Piece::Tensor(name, shape, Kind::Weight, layout)])
                };
                Weight::Normed {
                    magnitude: tensor(&magnitude, &[1, 1, config.kernel], Layout::Same)?,
                    direction: tensor(&direction, &shape, Layout::ChannelsLast)?,
                }
            };
            layers.push(Layer {
                weight,
                bias: builder.tensor(&format!("{name}.bias"), &[width], Kind::Bias)?,
                norm: if config.is_data2vec {
                    Some(LayerNorm::plain(builder, width)?)
                } else {
                    None
                },
            });
        }
        Ok(Self { config, width, layers })
    }

    pub(super) fn operands(&self) -> Vec<OperandId> {
        let weights = self.layers.iter().flat_map(|layer| match layer.weight {
            Weight::Plain(id) => vec![id],
            Weight::Normed { direction, magnitude } => vec![direction, magnitude],
        });
        weights.chain(self.layers.iter().map(|layer| layer.bias)).collect()
    }

    /// `input` holds the frames that the embedding is made from.
    pub(super) fn plan<B: Backend>(
        &self,
        backend: &B,
        plan: &mut ArenaPlan,
        rows: usize,
        input: Slot,
        backward: usize,
    ) -> PositionalActivations {
        let (values, config) = (rows * self.width, self.config);
        let shape = GroupedConv1d {
            frames: rows,
            channels: self.width,
            groups: config.groups,
            kernel: config.kernel,
            padding: config.kernel / 2,
        };
        let mut layers = Vec::with_capacity(self.layers.len());
        let mut next = input;
        for layer in &self.layers {
            layers.push(LayerActivations {
                input: next,
                sum: plan.slot(values),
                statistics: plan.slot(layer.norm.is_some() as usize * rows * 2),
            });
            next = plan.slot(values);
        }
        let normed = !config.is_data2vec as usize;
        PositionalActivations {
            shape,
            layers,
            output: next,
            scratch: plan.slot(backend.grouped_conv1d_scratch(shape)),
            weight: plan.slot(normed * shape.weight_len()),
            dweight: plan.slot(normed * backward * shape.weight_len()),
            pre: plan.slot(backward * values),
            d: plan.slot(backward * values),
        }
    }

    /// Adds the embedding of the plan's input to `to`.
    pub(super) fn forward<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &PositionalActivations,
        to: Slot,
    ) {
        let rows = a.shape.frames;
        for (index, (layer, slots)) in self.layers.iter().zip(&a.layers).enumerate() {
            if let Weight::Normed { direction, magnitude } = layer.weight {
                let value = |id| parameters.value(backend, id);
                let weight = arena.view_mut(backend, a.weight);
                backend.weight_norm(a.shape, value(direction), value(magnitude), weight);
            }
            let ([x, made], [sum, scratch]) = arena.split(backend, [slots.input, a.weight], [slots.sum, a.scratch]);
            let weight = match layer.weight {
                Weight::Plain(id) => parameters.value(backend, id),
                Weight::Normed { .. } => made,
            };
            let bias = parameters.value(backend, layer.bias);
            backend.grouped_conv1d(a.shape, x, weight, bias, sum, scratch);
            let next = a.layers.get(index + 1).map_or(a.output, |next| next.input);
            match &layer.norm {
                Some(norm) => norm.forward(backend, parameters, arena, rows, slots.sum, next, slots.statistics),
                None => copy(backend, arena, slots.sum, next),
            }
            gelu(backend, arena, next);
        }
        add(backend, arena, a.output, to);
    }

    /// Adds the input's gradient to `stream`, which holds the output's (it reached the input by the residual too).
    pub(super) fn backward<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &PositionalActivations,
        stream: Slot,
        spare: Slot,
    ) {
        let rows = a.shape.frames;
        let (mut d, mut spare) = (a.d, spare);
        copy(backend, arena, stream, d);
        for (index, (layer, slots)) in self.layers.iter().zip(&a.layers).enumerate().rev() {
            match &layer.norm {
                Some(norm) => {
                    let saved = (slots.sum, slots.statistics);
                    norm.forward(backend, parameters, arena, rows, slots.sum, a.pre, slots.statistics);
                    gelu_backward(backend, arena, a.pre, d);
                    norm.backward(backend, parameters, arena, rows, saved, d, Some((spare, false)));
                    std::mem::swap(&mut d, &mut spare);
                }
                None => gelu_backward(backend, arena, slots.sum, d),
            }
            self.backward_parameters(backend, parameters, arena, a, layer, slots, d);
            let (to, accumulate) = if index == 0 { (stream, true) } else { (spare, false) };
            let ([dy, made], [dx, scratch]) = arena.split(backend, [d, a.weight], [to, a.scratch]);
            let weight = match layer.weight {
                Weight::Plain(id) => parameters.value(backend, id),
                Weight::Normed { .. } => made,
            };
            backend.grouped_conv1d_backward_input(a.shape, dy, weight, dx, accumulate, scratch);
            std::mem::swap(&mut d, &mut spare);
        }
    }

    fn backward_parameters<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &PositionalActivations,
        layer: &Layer,
        slots: &LayerActivations,
        d: Slot,
    ) {
        if let Some(dbias) = parameters.gradient(backend, layer.bias) {
            backend.bias_backward(a.shape.rows(), arena.view(backend, d), dbias);
        }
        match layer.weight {
            Weight::Plain(id) => {
                let ([x, dy], [scratch]) = arena.split(backend, [slots.input, d], [a.scratch]);
                if let Some(dweight) = parameters.gradient(backend, id) {
                    backend.grouped_conv1d_backward_weight(a.shape, x, dy, dweight, scratch);
                }
            }
            Weight::Normed { direction, magnitude } => {
                if !(parameters.is_adapted(direction) || parameters.is_adapted(magnitude)) {
                    return;
                }
                backend.fill_zero(arena.view_mut(backend, a.dweight));
                let ([x, dy], [dweight, scratch]) = arena.split(backend, [slots.input, d], [a.dweight, a.scratch]);
                backend.grouped_conv1d_backward_weight(a.shape, x, dy, dweight, scratch);
                let ([direction, magnitude], [ddirection, dmagnitude]) =
                    parameters.values_and_gradients(backend, [direction, magnitude]);
                let dweight = arena.view(backend, a.dweight);
                backend.weight_norm_backward(a.shape, direction, magnitude, dweight, ddirection, dmagnitude);
            }
        }
    }
}
