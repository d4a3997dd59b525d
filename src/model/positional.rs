//! wav2vec2's positional embedding: a grouped convolution over the frames with weight norm and GELU; data2vec's: five
//! smaller ones in a row, each with a norm that has no parameters. The result is added to the frames.

use super::layers::{LayerNorm, add, clear_padding, copy, gelu, gelu_backward};
use super::tensors::{Kind, Layout, OperandId, Piece, WeightsBuilder};
use super::{ModelError, Parameters, Weights};
use crate::engine::{Arena, ArenaPlan, Backend, Count, GroupedConv1d, Shares, Slot};

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

pub(super) struct PositionalEmbedding<B: Backend> {
    config: PositionalConfig,
    width: usize,
    layers: Vec<Layer<B>>,
}

struct Layer<B: Backend> {
    weight: Weight,
    bias: OperandId,
    norm: Option<LayerNorm>,
    /// The source's weight as the backend likes it best, for as long as it does not move.
    prepared: Option<B::Buffer>,
}

enum Weight {
    Plain(OperandId),
    Normed { direction: OperandId, magnitude: OperandId },
}

/// Of so many utterances behind each other.
pub(super) struct PositionalActivations {
    count: usize,
    shape: GroupedConv1d,
    layers: Vec<LayerActivations>,
    /// The last convolution's output, after the GELU.
    output: Slot,
    scratch: Slot,
    /// The effective weight where weight norm makes it, and its gradient.
    weight: Slot,
    dweight: Slot,
    /// The gradient on its way down.
    d: Slot,
    /// Where the input is padded.
    counted: Option<Count>,
}

struct LayerActivations {
    input: Slot,
    /// What the convolution gives.
    sum: Slot,
    statistics: Slot,
}

impl<B: Backend> PositionalEmbedding<B> {
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
                prepared: None,
            });
        }
        Ok(Self { config, width, layers })
    }

    /// Prepares the weights, once they are there.
    pub(super) fn prepare(&mut self, backend: &B, weights: &Weights<B>) -> Result<(), ModelError> {
        let shape = self.shape(0);
        for layer in &mut self.layers {
            layer.prepared = match layer.weight {
                Weight::Plain(id) => backend.prepare_grouped_conv1d(shape, weights.value(backend, id)),
                Weight::Normed { direction, magnitude } => {
                    let mut made = backend.zeros(shape.weight_len())?;
                    let value = |id| weights.value(backend, id);
                    let all = 0..shape.weight_len();
                    let to = backend.view_mut(&mut made, all.clone());
                    backend.weight_norm(shape, value(direction), value(magnitude), to);
                    backend.prepare_grouped_conv1d(shape, backend.view(&made, all))
                }
            };
        }
        Ok(())
    }

    fn shape(&self, frames: usize) -> GroupedConv1d {
        GroupedConv1d {
            frames,
            channels: self.width,
            groups: self.config.groups,
            kernel: self.config.kernel,
            padding: self.config.kernel / 2,
        }
    }

    pub(super) fn operands(&self) -> Vec<OperandId> {
        let weights = self.layers.iter().flat_map(|layer| match layer.weight {
            Weight::Plain(id) => vec![id],
            Weight::Normed { direction, magnitude } => vec![direction, magnitude],
        });
        weights.chain(self.layers.iter().map(|layer| layer.bias)).collect()
    }

    /// `input` holds the frames that the embedding is made from, so many of each of `count` utterances.
    pub(super) fn plan(
        &self,
        backend: &B,
        plan: &mut ArenaPlan,
        (count, rows): (usize, usize),
        input: Slot,
        backward: usize,
        counted: Option<Count>,
    ) -> PositionalActivations {
        let (values, config) = (count * rows * self.width, self.config);
        let shape = self.shape(rows);
        let mut layers = Vec::with_capacity(self.layers.len());
        let mut next = input;
        for layer in &self.layers {
            layers.push(LayerActivations {
                input: next,
                sum: plan.slot(values),
                statistics: plan.slot(layer.norm.is_some() as usize * count * rows * 2),
            });
            next = plan.slot(values);
        }
        let normed = !config.is_data2vec as usize;
        PositionalActivations {
            count,
            shape,
            layers,
            output: next,
            scratch: plan.slot(backend.grouped_conv1d_scratch(shape)),
            weight: plan.slot(normed * shape.weight_len()),
            dweight: plan.slot(normed * backward * shape.weight_len()),
            d: plan.slot(backward * values),
            counted,
        }
    }

    /// Adds the embedding of the plan's input to `to`.
    pub(super) fn forward(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &PositionalActivations,
        to: Slot,
    ) {
        let rows = (a.count * a.shape.frames, Shares::Even(a.count));
        for (index, (layer, slots)) in self.layers.iter().zip(&a.layers).enumerate() {
            // The last frames look at what is behind them.
            a.clear_padding(backend, arena, slots.input);
            let bias = parameters.value(backend, layer.bias);
            if let Some(prepared) = layer.prepared(backend, parameters) {
                let ([x], [sum]) = arena.split(backend, [slots.input], [slots.sum]);
                backend.prepared_grouped_conv1d(a.shape, x, prepared, bias, sum);
            } else {
                if let Weight::Normed { direction, magnitude } = layer.weight {
                    let value = |id| parameters.value(backend, id);
                    let weight = arena.view_mut(backend, a.weight);
                    backend.weight_norm(a.shape, value(direction), value(magnitude), weight);
                }
                let ([x, made], [sum, scratch]) = arena.split(backend, [slots.input, a.weight], [slots.sum, a.scratch]);
                let weight = layer.effective(backend, parameters, made);
                backend.grouped_conv1d(a.shape, x, weight, bias, sum, scratch);
            }
            let next = a.layers.get(index + 1).map_or(a.output, |next| next.input);
            match &layer.norm {
                Some(norm) => {
                    norm.forward_gelu_each(backend, parameters, arena, rows, slots.sum, next, slots.statistics)
                }
                None => {
                    copy(backend, arena, slots.sum, next);
                    gelu(backend, arena, next);
                }
            }
        }
        add(backend, arena, a.output, to);
    }

    /// Adds the input's gradient to `stream`, which holds the output's (it reached the input by the residual too).
    pub(super) fn backward(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &PositionalActivations,
        stream: Slot,
        spare: Slot,
    ) {
        let rows = (a.count * a.shape.frames, Shares::Even(a.count));
        let (mut d, mut spare) = (a.d, spare);
        copy(backend, arena, stream, d);
        for (index, (layer, slots)) in self.layers.iter().zip(&a.layers).enumerate().rev() {
            match &layer.norm {
                Some(norm) => {
                    let saved = (slots.sum, slots.statistics);
                    norm.backward_gelu_each(backend, parameters, arena, rows, saved, d, spare);
                    std::mem::swap(&mut d, &mut spare);
                }
                None => gelu_backward(backend, arena, slots.sum, d),
            }
            self.backward_parameters(backend, parameters, arena, a, layer, slots, d);
            let (to, accumulate) = if index == 0 { (stream, true) } else { (spare, false) };
            if let Some(prepared) = layer.prepared(backend, parameters) {
                let ([dy], [dx]) = arena.split(backend, [d], [to]);
                backend.prepared_grouped_conv1d_backward_input(a.shape, dy, prepared, dx, accumulate);
            } else {
                let ([dy, made], [dx, scratch]) = arena.split(backend, [d, a.weight], [to, a.scratch]);
                let weight = layer.effective(backend, parameters, made);
                backend.grouped_conv1d_backward_input(a.shape, dy, weight, dx, accumulate, scratch);
            }
            a.clear_padding(backend, arena, to);
            std::mem::swap(&mut d, &mut spare);
        }
    }

    fn backward_parameters(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &PositionalActivations,
        layer: &Layer<B>,
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

impl PositionalActivations {
    /// Zeros behind the rows that count of each utterance.
    fn clear_padding<B: Backend>(&self, backend: &B, arena: &mut Arena<B>, slot: Slot) {
        let (shape, stride) = (self.shape.rows(), slot.len / self.count);
        clear_padding(backend, arena, shape, self.counted, slot, stride);
    }
}

impl<B: Backend> Layer<B> {
    /// The prepared weight, where there is one and the weight has not moved.
    fn prepared<'a>(&'a self, backend: &B, parameters: &impl Parameters<B>) -> Option<B::View<'a>> {
        let moves = match self.weight {
            Weight::Plain(id) => parameters.is_adapted(id),
            Weight::Normed { direction, magnitude } => {
                parameters.is_adapted(direction) || parameters.is_adapted(magnitude)
            }
        };
        let prepared = self.prepared.as_ref().filter(|_| !moves)?;
        Some(backend.view(prepared, 0..backend.len(prepared)))
    }

    /// The weight that the convolution takes; `made` holds the one that weight norm makes.
    fn effective<'a>(&self, backend: &B, parameters: &'a impl Parameters<B>, made: B::View<'a>) -> B::View<'a> {
        match self.weight {
            Weight::Plain(id) => parameters.value(backend, id),
            Weight::Normed { .. } => made,
        }
    }
}
