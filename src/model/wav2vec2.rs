//! The frontend of wav2vec2 (Baevski et al. 2020) and its family (HuBERT, data2vec audio, WavLM): a stack of strided
//! convolutions over the waveform, a projection into the model's width, a positional embedding.

use super::ctc::first_adapted;
use super::layers::{LayerNorm, LinearLayer, copy, gelu_backward};
use super::positional::{PositionalActivations, PositionalEmbedding};
use super::tensors::{Kind, OperandId, Place, WeightsBuilder};
use super::whisper::{Convolution, Lanes};
use super::{ModelError, Parameters, TransformerConfig, Wav2Vec2Config, Weights};
use crate::engine::{Arena, ArenaPlan, Backend, Conv1d, Count, Rows, Shares, Slot};

/// Which operand is what. Stages: a convolution each, the projection, the positional embedding.
pub(super) struct Wav2Vec2Frontend<B: Backend> {
    convolutions: Vec<ConvLayer>,
    projection_norm: Option<LayerNorm>,
    projection: LinearLayer,
    positional: PositionalEmbedding<B>,
    /// Of encoders whose layers have their norms behind them.
    encoder_norm: Option<LayerNorm>,
    width: usize,
}

struct ConvLayer {
    convolution: Convolution,
    norm: Norm,
    c_in: usize,
    c_out: usize,
    kernel: usize,
    stride: usize,
}

#[derive(Clone, Copy)]
enum Norm {
    None,
    /// Over time, a channel at a time.
    Channel {
        weight: OperandId,
        bias: OperandId,
    },
    /// Over the channels, a frame at a time.
    Layer(LayerNorm),
}

/// Where the activations lie, of so many utterances behind each other.
pub(super) struct Wav2Vec2Activations {
    count: usize,
    /// Of each.
    rows: usize,
    /// `[samples, 1]`
    input: Slot,
    convolutions: Vec<ConvActivations>,
    projection_statistics: Slot,
    projection_input: Slot,
    projected: Slot,
    positional: PositionalActivations,
    encoder_norm_input: Slot,
    encoder_statistics: Slot,
    /// The convolutions' gradients take turns in two slots.
    dconv: [Slot; 2],
    dprojection_input: Slot,
}

struct ConvActivations {
    count: usize,
    shape: Conv1d,
    input: Slot,
    /// Before norm and GELU.
    raw: Slot,
    statistics: Slot,
    out: Slot,
    /// Of the first, where the input is padded.
    counted: Option<Count>,
}

impl Wav2Vec2Activations {
    pub(super) fn load_inputs<B: Backend>(&self, backend: &B, arena: &mut Arena<B>, inputs: &[&[f32]]) {
        let all = self.input.len / self.count;
        for index in 0..self.count {
            let samples = inputs.get(index).copied().unwrap_or_default();
            let (own, len) = (self.input.part(index * all, all), samples.len());
            backend.upload(samples, arena.view_mut(backend, own.part(0, len)));
            backend.fill_zero(arena.view_mut(backend, own.part(len, all - len)));
        }
    }

    /// For norms.
    fn all_rows(&self) -> (usize, Shares<()>) {
        (self.count * self.rows, Shares::Even(self.count))
    }
}

impl<B: Backend> Wav2Vec2Frontend<B> {
    pub(super) fn load(
        builder: &mut WeightsBuilder<'_>,
        base: &str,
        config: &Wav2Vec2Config,
        transformer: &TransformerConfig,
    ) -> Result<Self, ModelError> {
        let width = transformer.width;
        let mut convolutions = Vec::with_capacity(config.convolutions.len());
        let mut c_in = 1;
        // feature_extractor, conv_layers, conv_layers.N, and the convolution or norm itself.
        builder.enter(Place::Feature, 4);
        for (index, &(c_out, kernel, stride)) in config.convolutions.iter().enumerate() {
            let name = format!("{base}feature_extractor.conv_layers.{index}");
            let shape = [c_out, c_in, kernel];
            let convolution = Convolution::load(builder, &format!("{name}.conv"), shape, config.conv_bias)?;
            let norm_name = format!("{name}.layer_norm");
            let norm = if config.layer_norms {
                Norm::Layer(LayerNorm::load(builder, &norm_name, c_out)?)
            } else if index == 0 {
                Norm::Channel {
                    weight: builder.tensor(&format!("{norm_name}.weight"), &[c_out], Kind::Weight)?,
                    bias: builder.tensor(&format!("{norm_name}.bias"), &[c_out], Kind::Bias)?,
                }
            } else {
                Norm::None
            };
            convolutions.push(ConvLayer {
                convolution,
                norm,
                c_in,
                c_out,
                kernel,
                stride,
            });
            c_in = c_out;
        }
        // feature_projection, and the layer itself.
        builder.enter(Place::Feature, 2);
        let projection_norm = if config.projection_norm {
            let name = format!("{base}feature_projection.layer_norm");
            Some(LayerNorm::load(builder, &name, c_in)?)
        } else {
            None
        };
        let name = format!("{base}feature_projection.projection");
        let projection = LinearLayer::load(builder, &name, c_in, width)?;
        builder.enter(Place::Encoder, 0);
        let encoder = format!("{base}encoder.");
        Ok(Self {
            convolutions,
            projection_norm,
            projection,
            positional: PositionalEmbedding::load(builder, &encoder, config.positional, width)?,
            encoder_norm: if transformer.norm_first {
                None
            } else {
                Some(LayerNorm::load(builder, &format!("{encoder}layer_norm"), width)?)
            },
            width,
        })
    }

    /// What is made of the weights once they are there.
    pub(super) fn prepare(&mut self, backend: &B, weights: &Weights<B>) -> Result<(), ModelError> {
        self.positional.prepare(backend, weights)
    }

    pub(super) fn stages(&self) -> usize {
        self.convolutions.len() + 2
    }

    fn projection_stage(&self) -> usize {
        self.convolutions.len()
    }

    fn channels(&self) -> usize {
        self.convolutions.last().map_or(1, |layer| layer.c_out)
    }

    /// The convolutions' shapes, down to the first that has no output.
    fn shapes(&self, samples: usize) -> Vec<Conv1d> {
        let mut frames = samples;
        let shapes = self.convolutions.iter().map(|layer| {
            let shape = Conv1d {
                padded_frames: frames,
                c_in: layer.c_in,
                c_out: layer.c_out,
                kernel: layer.kernel,
                stride: layer.stride,
            };
            frames = shape.out_frames();
            shape
        });
        shapes.collect()
    }

    /// Frames after the first convolution and after all.
    pub(super) fn frames(&self, samples: usize) -> [usize; 2] {
        let shapes = self.shapes(samples);
        [shapes.first(), shapes.last()].map(|shape| shape.map_or(samples, Conv1d::out_frames))
    }

    pub(super) fn plan(
        &self,
        backend: &B,
        plan: &mut ArenaPlan,
        (samples, count): (usize, usize),
        keep_from: usize,
        is_padded: bool,
    ) -> Option<(Wav2Vec2Activations, usize)> {
        let shapes = self.shapes(samples);
        let [_, rows] = self.frames(samples);
        if rows == 0 {
            return None;
        }
        let values = |shape: &Conv1d| count * shape.out_frames() * shape.c_out;
        let input = plan.slot(count * samples);
        // Below the lowest kept stage, outputs take turns in two slots, and what comes before them has one.
        let shared_len = |from: usize| {
            let below = shapes.iter().enumerate().filter(|(index, _)| *index < from);
            below.map(|(_, shape)| values(shape)).max().unwrap_or(0)
        };
        let shared_out = [0, 1].map(|_| plan.slot(shared_len(keep_from.saturating_sub(1).min(shapes.len() - 1))));
        let shared_raw = plan.slot(shared_len(keep_from));
        let mut convolutions = Vec::with_capacity(shapes.len());
        let mut next = input;
        for (index, (layer, shape)) in self.convolutions.iter().zip(&shapes).enumerate() {
            let len = values(shape);
            let raw = if index >= keep_from {
                plan.slot(len)
            } else {
                shared_raw.part(0, len)
            };
            let out = if index + 1 >= keep_from || index + 1 == shapes.len() {
                plan.slot(len)
            } else {
                shared_out[index % 2].part(0, len)
            };
            let statistics = match layer.norm {
                Norm::None => 0,
                Norm::Channel { .. } => count * shape.c_out * 2,
                Norm::Layer(_) => count * shape.out_frames() * 2,
            };
            convolutions.push(ConvActivations {
                count,
                shape: *shape,
                input: next,
                raw,
                statistics: plan.slot(statistics),
                out,
                counted: (is_padded && index == 0).then_some(Count::Convolved(count)),
            });
            next = out;
        }
        let backward = (keep_from < self.stages()) as usize;
        // Also the gradient of a convolution's input, which is a lower convolution's output.
        let kept = shapes
            .iter()
            .enumerate()
            .filter(|(index, _)| index + 1 >= keep_from.max(1));
        let largest = match keep_from <= shapes.len() {
            true => kept.map(|(_, shape)| values(shape)).max().unwrap_or(0),
            false => 0,
        };
        let all = count * rows;
        let (projected, wide) = (plan.slot(all * self.width), all * self.channels());
        let post_norm = self.encoder_norm.is_some() as usize;
        let activations = Wav2Vec2Activations {
            count,
            rows,
            input,
            convolutions,
            projection_statistics: plan.slot(all * 2),
            projection_input: plan.slot(wide),
            projected,
            positional: {
                let counted = is_padded.then_some(Count::Output(count));
                self.positional
                    .plan(backend, plan, (count, rows), projected, backward, counted)
            },
            encoder_norm_input: plan.slot(post_norm * all * self.width),
            encoder_statistics: plan.slot(post_norm * all * 2),
            dconv: [largest, largest].map(|len| plan.slot(backward * len)),
            dprojection_input: plan.slot(backward * wide),
        };
        Some((activations, rows))
    }

    pub(super) fn forward(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &Wav2Vec2Activations,
        output: Slot,
        from: usize,
    ) {
        for (layer, slots) in self.convolutions.iter().zip(&a.convolutions).skip(from) {
            layer.forward(backend, parameters, arena, slots);
        }
        let projection_stage = self.projection_stage();
        if from <= projection_stage {
            let features = a.features();
            match &self.projection_norm {
                Some(norm) => {
                    let (y, statistics) = (a.projection_input, a.projection_statistics);
                    norm.forward_each(backend, parameters, arena, a.all_rows(), features, y, statistics);
                }
                None => copy(backend, arena, features, a.projection_input),
            }
            let (x, y) = (a.projection_input, a.projected);
            if a.count > 1 {
                let (projection, shape) = self.projection.as_convolution(a.rows);
                let lanes = Lanes::behind(shape, a.count);
                projection.forward(backend, parameters, arena, (shape, lanes), x, y);
            } else {
                self.projection.forward(backend, parameters, arena, a.rows, x, y, false);
            }
        }
        if from <= projection_stage + 1 {
            let sum = match self.encoder_norm {
                Some(_) => a.encoder_norm_input,
                None => output,
            };
            copy(backend, arena, a.projected, sum);
            self.positional.forward(backend, parameters, arena, &a.positional, sum);
            if let Some(norm) = &self.encoder_norm {
                norm.forward_each(
                    backend,
                    parameters,
                    arena,
                    a.all_rows(),
                    sum,
                    output,
                    a.encoder_statistics,
                );
            }
        }
    }

    /// From the output's gradient in the first of two slots, both of which it overwrites, down to the `lowest` stage; the
    /// convolutions' output may have a gradient of its own, on the host.
    pub(super) fn backward(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &Wav2Vec2Activations,
        (mut stream, mut other): (Slot, Slot),
        (lowest, dfeatures): (usize, Option<&[f32]>),
    ) {
        if let Some(norm) = &self.encoder_norm {
            let saved = (a.encoder_norm_input, a.encoder_statistics);
            norm.backward_each(
                backend,
                parameters,
                arena,
                a.all_rows(),
                saved,
                stream,
                Some((other, false)),
            );
            std::mem::swap(&mut stream, &mut other);
        }
        self.positional
            .backward(backend, parameters, arena, &a.positional, stream, other);
        let projection_stage = self.projection_stage();
        if lowest > projection_stage {
            return;
        }
        let (x, dx) = (a.projection_input, a.dprojection_input);
        if a.count > 1 {
            let (projection, shape) = self.projection.as_convolution(a.rows);
            let lanes = Lanes::behind(shape, a.count);
            projection.backward_parameters(backend, parameters, arena, (shape, lanes), x, stream);
            projection.backward_input(backend, parameters, arena, (shape, a.count), stream, dx);
        } else {
            self.projection
                .backward_parameters(backend, parameters, arena, a.rows, x, stream);
            self.projection
                .backward_input(backend, parameters, arena, a.rows, stream, dx, false);
        }
        let features = a.features();
        let [mut d, mut spare] = a.dconv;
        let below = lowest < projection_stage;
        match &self.projection_norm {
            Some(norm) => {
                let saved = (features, a.projection_statistics);
                let input = below.then(|| (d.part(0, features.len), false));
                norm.backward_each(backend, parameters, arena, a.all_rows(), saved, dx, input);
            }
            None if below => copy(backend, arena, dx, d.part(0, features.len)),
            None => {}
        }
        if let (true, Some(own)) = (below, dfeatures) {
            let place = d.part(0, features.len);
            // Of a padded input as many as count.
            let place = place.part(0, own.len());
            let mut sum = vec![0.0; place.len];
            backend.download(arena.view(backend, place), &mut sum);
            sum.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
            backend.upload(&sum, arena.view_mut(backend, place));
        }
        for (index, (layer, slots)) in self.convolutions.iter().zip(&a.convolutions).enumerate().rev() {
            if lowest > index {
                return;
            }
            let len = slots.raw.len;
            let parts = (d.part(0, len), spare.part(0, len));
            if layer.backward_norm(backend, parameters, arena, slots, parts) {
                std::mem::swap(&mut d, &mut spare);
            }
            let draw = d.part(0, len);
            let convolution = layer.convolution;
            convolution.backward_parameters(backend, parameters, arena, slots.lanes(), slots.input, draw);
            if lowest < index {
                let (shape, dx) = ((slots.shape, slots.count), spare.part(0, slots.input.len));
                convolution.backward_input(backend, parameters, arena, shape, draw, dx);
                std::mem::swap(&mut d, &mut spare);
            }
        }
    }

    /// What several utterances must have in common.
    pub(super) fn positional_operands(&self) -> Vec<OperandId> {
        self.positional.operands()
    }

    pub(super) fn lowest_adapted_stage(&self, parameters: &impl Parameters<B>) -> Option<usize> {
        let mut stages: Vec<Vec<OperandId>> = self.convolutions.iter().map(ConvLayer::operands).collect();
        let norm = |norm: &Option<LayerNorm>| norm.iter().flat_map(LayerNorm::operands).collect::<Vec<_>>();
        stages.push([norm(&self.projection_norm), self.projection.operands().to_vec()].concat());
        stages.push([self.positional.operands(), norm(&self.encoder_norm)].concat());
        first_adapted(parameters, stages)
    }
}

impl Wav2Vec2Activations {
    /// The last convolution's output.
    pub(super) fn features(&self) -> Slot {
        self.convolutions.last().map_or(self.input, |last| last.out)
    }
}

impl ConvActivations {
    fn lanes(&self) -> (Conv1d, Lanes) {
        (self.shape, Lanes::behind(self.shape, self.count))
    }

    /// For norms.
    fn all_rows(&self) -> (usize, Shares<()>) {
        (self.count * self.shape.out_frames(), Shares::Even(self.count))
    }
}

impl ConvLayer {
    fn operands(&self) -> Vec<OperandId> {
        let mut operands = self.convolution.operands();
        match &self.norm {
            Norm::None => {}
            Norm::Channel { weight, bias } => operands.extend([*weight, *bias]),
            Norm::Layer(norm) => operands.extend(norm.operands()),
        }
        operands
    }

    fn rows(&self, shape: Conv1d) -> Rows {
        Rows {
            rows: shape.out_frames(),
            cols: self.c_out,
        }
    }

    fn forward<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &ConvActivations,
    ) {
        if let Norm::None = self.norm {
            self.convolution
                .forward_gelu(backend, parameters, arena, a.lanes(), a.input, a.raw, a.out);
            return;
        }
        self.convolution
            .forward(backend, parameters, arena, a.lanes(), a.input, a.raw);
        match &self.norm {
            Norm::None => {}
            Norm::Channel { weight, bias } => {
                let (counted, [x], [y, statistics]) =
                    arena.split_counted(backend, a.counted, [a.raw], [a.out, a.statistics]);
                let rows = self.rows(a.shape);
                if let (Some(counted), true) = (counted, a.count > 1) {
                    let each = [*weight, *bias].map(|id| parameters.each(backend, id));
                    backend.channel_norm_gelu_each(rows, counted, x, each, y, statistics);
                } else {
                    let [weight, bias] = [*weight, *bias].map(|id| parameters.value(backend, id));
                    backend.channel_norm_gelu(rows, counted, x, weight, bias, y, statistics);
                }
            }
            Norm::Layer(norm) => {
                norm.forward_gelu_each(backend, parameters, arena, a.all_rows(), a.raw, a.out, a.statistics);
            }
        }
    }

    /// From the output's gradient to that of the convolution's own result; says whether it went into the spare slot.
    fn backward_norm<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &ConvActivations,
        (d, spare): (Slot, Slot),
    ) -> bool {
        match &self.norm {
            Norm::None => {
                gelu_backward(backend, arena, a.raw, d);
                false
            }
            Norm::Channel { weight, bias } => {
                let (counted, [x, statistics], [d]) =
                    arena.split_counted(backend, a.counted, [a.raw, a.statistics], [d]);
                let rows = self.rows(a.shape);
                if let (Some(counted), true) = (counted, a.count > 1) {
                    let (each, gradients, places) = parameters.each_with_gradients(backend, [*weight, *bias]);
                    backend.channel_norm_gelu_backward_each(rows, counted, x, statistics, each, d, gradients, places);
                    return false;
                }
                let ([gamma, beta], [dweight, dbias]) = parameters.values_and_gradients(backend, [*weight, *bias]);
                backend.channel_norm_gelu_backward(rows, counted, x, statistics, (gamma, beta), d, dweight, dbias);
                false
            }
            Norm::Layer(norm) => {
                let saved = (a.raw, a.statistics);
                norm.backward_gelu_each(backend, parameters, arena, a.all_rows(), saved, d, spare);
                true
            }
        }
    }
}
