//! Whisper's encoder (Radford et al. 2022) with a linear CTC head.
//!
//! Two convolutions over log-mel frames (the second with stride 2), sinusoidal positions, pre-norm transformer layers,
//! a final layer norm, a head. It runs on the true length: `(frames + 1) / 2` outputs, not a 30-second window.

use super::layers::{LayerNorm, LinearLayer};
use super::tensors::{Kind, Layout, Piece, WeightsBuilder};
use super::{ModelConfig, ModelError, OperandId, Parameters, Weights};
use crate::engine::{Arena, ArenaPlan, Attention, Backend, Conv1d, Linear, Rows, Slot};
use std::sync::Arc;

const KERNEL: usize = 3;

/// The architecture: which operand is what.
pub struct WhisperCtc<B: Backend> {
    config: ModelConfig,
    weights: Arc<Weights<B>>,
    conv1: Convolution,
    conv2: Convolution,
    positions: OperandId,
    layers: Vec<Layer>,
    final_norm: LayerNorm,
    head: LinearLayer,
}

#[derive(Clone, Copy)]
struct Convolution {
    weight: OperandId,
    bias: OperandId,
}

struct Layer {
    attention_norm: LayerNorm,
    qkv: LinearLayer,
    out: LinearLayer,
    ffn_norm: LayerNorm,
    fc1: LinearLayer,
    fc2: LinearLayer,
}

/// Whether activations are kept for a backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Every layer has its own slots.
    All,
    /// The layers share one set: enough to recognise, not to adapt.
    Nothing,
}

/// Whether the convolutions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stem {
    /// They do.
    Compute,
    /// Their output is still in the arena from the last pass on the same input, and nothing in them has moved.
    Reuse,
}

/// Where the activations of one input length lie.
pub struct Activations {
    frames: usize,
    outputs: usize,
    conv1_shape: Conv1d,
    conv2_shape: Conv1d,
    /// Log-mel frames between two rows of zeros, `[frames + 2, bands]`.
    input: Slot,
    conv1_pre: Slot,
    /// Between two rows of zeros, `[frames + 2, D]`.
    conv1_out: Slot,
    conv2_pre: Slot,
    layers: Vec<LayerActivations>,
    final_input: Slot,
    final_statistics: Slot,
    logits: Slot,
    dlogits: Slot,
    // Scratch, overwritten by each layer.
    normed: Slot,
    wide: Slot,
    attention_scratch: Slot,
    // Gradients.
    stream: Slot,
    dattention: Slot,
    dqkv: Slot,
    dconv1: Slot,
}

#[derive(Clone, Copy)]
struct LayerActivations {
    input: Slot,
    attention_statistics: Slot,
    qkv: Slot,
    attention_out: Slot,
    log_sum_exp: Slot,
    middle: Slot,
    ffn_statistics: Slot,
    fc1_pre: Slot,
}

impl Activations {
    /// T, the rows of the logits.
    pub fn output_frames(&self) -> usize {
        self.outputs
    }

    /// `[T, V]`
    pub fn logits(&self) -> Slot {
        self.logits
    }

    /// `[T, V]`: where the objective's gradient goes before [`WhisperCtc::backward`].
    pub fn dlogits(&self) -> Slot {
        self.dlogits
    }

    /// The residual stream: after the convolutions and positions, after each layer; then the final layer norm's
    /// output. Only with [`Keep::All`], and valid after a forward pass.
    pub fn hidden_states(&self) -> Vec<Slot> {
        let inputs = self.layers.iter().map(|layer| layer.input);
        inputs.chain([self.final_input, self.normed]).collect()
    }
}

impl<B: Backend> WhisperCtc<B> {
    /// Reads the weights that a configuration asks for.
    pub fn load(backend: &B, config: ModelConfig, weights: &[u8]) -> Result<Self, ModelError> {
        let mut builder = WeightsBuilder::new(weights)?;
        let (d, bands) = (config.d_model, config.num_mel_bins);
        let conv = |builder: &mut WeightsBuilder<'_>, name: &str, c_in: usize| -> Result<Convolution, ModelError> {
            let (weight, bias) = (format!("encoder.{name}.weight"), format!("encoder.{name}.bias"));
            let shape = [d, c_in, KERNEL];
            Ok(Convolution {
                weight: builder.operand(&[Piece::Tensor(
                    &weight,
                    &shape,
                    Kind::FeatureWeight,
                    Layout::ChannelsLast,
                )])?,
                bias: builder.tensor(&bias, &[d], Kind::FeatureBias)?,
            })
        };
        let conv1 = conv(&mut builder, "conv1", bands)?;
        let conv2 = conv(&mut builder, "conv2", d)?;
        let positions = builder.tensor(
            "encoder.embed_positions.weight",
            &[config.max_source_positions, d],
            Kind::Fixed,
        )?;
        let mut layers = Vec::with_capacity(config.encoder_layers);
        for index in 0..config.encoder_layers {
            let name = format!("encoder.layers.{index}");
            let attention = format!("{name}.self_attn");
            let linear = |builder: &mut WeightsBuilder<'_>, name: &str, inputs: usize, outputs: usize| {
                LinearLayer::load(builder, name, inputs, outputs, Kind::Weight, Kind::Bias)
            };
            layers.push(Layer {
                attention_norm: LayerNorm::load(&mut builder, &format!("{name}.self_attn_layer_norm"), d)?,
                qkv: LinearLayer::load_qkv(&mut builder, &attention, d)?,
                out: linear(&mut builder, &format!("{attention}.out_proj"), d, d)?,
                ffn_norm: LayerNorm::load(&mut builder, &format!("{name}.final_layer_norm"), d)?,
                fc1: linear(&mut builder, &format!("{name}.fc1"), d, config.encoder_ffn_dim)?,
                fc2: linear(&mut builder, &format!("{name}.fc2"), config.encoder_ffn_dim, d)?,
            });
        }
        let final_norm = LayerNorm::load(&mut builder, "encoder.layer_norm", d)?;
        let head = LinearLayer::load(&mut builder, "ctc_head", d, config.vocab_size, Kind::Fixed, Kind::Fixed)?;
        let weights = Arc::new(builder.finish(backend)?);
        Ok(Self {
            config,
            weights,
            conv1,
            conv2,
            positions,
            layers,
            final_norm,
            head,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The source model's tensors.
    pub fn weights(&self) -> &Arc<Weights<B>> {
        &self.weights
    }

    /// The most log-mel frames one utterance may have.
    pub fn most_frames(&self) -> usize {
        2 * self.config.max_source_positions
    }

    /// Lays out the activations of an input of `frames` log-mel frames (at least 1, at most [`Self::most_frames`]).
    pub fn plan(&self, backend: &B, frames: usize, keep: Keep) -> (ArenaPlan, Activations) {
        assert!((1..=self.most_frames()).contains(&frames), "{frames} frames");
        let (d, bands, ffn) = (
            self.config.d_model,
            self.config.num_mel_bins,
            self.config.encoder_ffn_dim,
        );
        let padded_frames = frames + 2;
        let conv1_shape = Conv1d {
            padded_frames,
            c_in: bands,
            c_out: d,
            kernel: KERNEL,
            stride: 1,
        };
        let conv2_shape = Conv1d {
            padded_frames,
            c_in: d,
            c_out: d,
            kernel: KERNEL,
            stride: 2,
        };
        let outputs = conv2_shape.out_frames();
        let attention = self.attention_shape(outputs);
        let mut plan = ArenaPlan::default();
        let plan_ref = &mut plan;
        let layer = |plan: &mut ArenaPlan| LayerActivations {
            input: plan.slot(outputs * d),
            attention_statistics: plan.slot(outputs * 2),
            qkv: plan.slot(outputs * 3 * d),
            attention_out: plan.slot(outputs * d),
            log_sum_exp: plan.slot(outputs * attention.heads),
            middle: plan.slot(outputs * d),
            ffn_statistics: plan.slot(outputs * 2),
            fc1_pre: plan.slot(outputs * ffn),
        };
        let layers: Vec<LayerActivations> = match keep {
            Keep::All => self.layers.iter().map(|_| layer(plan_ref)).collect(),
            Keep::Nothing => vec![layer(plan_ref); self.layers.len()],
        };
        let backward = if keep == Keep::All { 1 } else { 0 };
        let activations = Activations {
            frames,
            outputs,
            conv1_shape,
            conv2_shape,
            input: plan.slot(padded_frames * bands),
            conv1_pre: plan.slot(frames * d),
            conv1_out: plan.slot(padded_frames * d),
            conv2_pre: plan.slot(outputs * d),
            final_input: if keep == Keep::All {
                plan.slot(outputs * d)
            } else {
                layers[0].input
            },
            layers,
            final_statistics: plan.slot(outputs * 2),
            logits: plan.slot(outputs * self.config.vocab_size),
            dlogits: plan.slot(outputs * self.config.vocab_size),
            normed: plan.slot(outputs * d),
            wide: plan.slot(outputs * ffn),
            attention_scratch: plan.slot(backend.attention_scratch(attention)),
            stream: plan.slot(backward * outputs * d),
            dattention: plan.slot(backward * outputs * d),
            dqkv: plan.slot(backward * outputs * 3 * d),
            dconv1: plan.slot(backward * padded_frames * d),
        };
        (plan, activations)
    }

    /// Puts log-mel frames `[frames, bands]` in place.
    pub fn load_input(&self, backend: &B, arena: &mut Arena<B>, activations: &Activations, log_mel: &[f32]) {
        let bands = self.config.num_mel_bins;
        assert_eq!(log_mel.len(), activations.frames * bands);
        backend.fill_zero(arena.view_mut(backend, activations.input));
        let inner = activations.input.part(bands, activations.frames * bands);
        backend.upload(log_mel, arena.view_mut(backend, inner));
        // The padding rows of the second convolution's input stay zero from here on.
        backend.fill_zero(arena.view_mut(backend, activations.conv1_out));
    }

    /// From the input to the logits.
    pub fn forward(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        activations: &Activations,
        stem: Stem,
    ) {
        let a = activations;
        let (rows, d) = (a.outputs, self.config.d_model);
        if stem == Stem::Compute {
            self.forward_stem(backend, parameters, arena, a);
        }
        for (index, (layer, slots)) in self.layers.iter().zip(&a.layers).enumerate() {
            let next = a.layers.get(index + 1).map_or(a.final_input, |next| next.input);
            let (normed, statistics) = (a.normed, slots.attention_statistics);
            layer
                .attention_norm
                .forward(backend, parameters, arena, rows, slots.input, normed, statistics);
            layer
                .qkv
                .forward(backend, parameters, arena, rows, normed, slots.qkv, false);
            let writes = [slots.attention_out, slots.log_sum_exp, a.attention_scratch];
            let ([qkv], [out, log_sum_exp, scratch]) = arena.split(backend, [slots.qkv], writes);
            backend.attention(self.attention_shape(rows), qkv, out, log_sum_exp, scratch);
            let ([input], [middle]) = arena.split(backend, [slots.input], [slots.middle]);
            backend.copy(input, middle);
            layer.out.forward(
                backend,
                parameters,
                arena,
                rows,
                slots.attention_out,
                slots.middle,
                true,
            );

            layer.ffn_norm.forward(
                backend,
                parameters,
                arena,
                rows,
                slots.middle,
                normed,
                slots.ffn_statistics,
            );
            let ([normed], [pre, wide]) = arena.split(backend, [normed], [slots.fc1_pre, a.wide]);
            let weight = parameters.value(backend, layer.fc1.weight);
            let bias = parameters.value(backend, layer.fc1.bias);
            backend.linear_gelu(layer.fc1.shape(rows), normed, weight, bias, pre, wide);
            let ([middle], [next_input]) = arena.split(backend, [slots.middle], [next]);
            backend.copy(middle, next_input);
            layer.fc2.forward(backend, parameters, arena, rows, a.wide, next, true);
        }
        debug_assert_eq!(a.final_input.len, rows * d);
        self.final_norm.forward(
            backend,
            parameters,
            arena,
            rows,
            a.final_input,
            a.normed,
            a.final_statistics,
        );
        self.head
            .forward(backend, parameters, arena, rows, a.normed, a.logits, false);
    }

    fn forward_stem(&self, backend: &B, parameters: &impl Parameters<B>, arena: &mut Arena<B>, a: &Activations) {
        let d = self.config.d_model;
        let value = |id| parameters.value(backend, id);
        let conv1_inner = a.conv1_out.part(d, a.frames * d);
        let ([x], [pre, y]) = arena.split(backend, [a.input], [a.conv1_pre, conv1_inner]);
        backend.conv1d_gelu(
            a.conv1_shape,
            x,
            value(self.conv1.weight),
            value(self.conv1.bias),
            pre,
            y,
        );
        let stream = a.layers[0].input;
        let ([x], [pre, y]) = arena.split(backend, [a.conv1_out], [a.conv2_pre, stream]);
        backend.conv1d_gelu(
            a.conv2_shape,
            x,
            value(self.conv2.weight),
            value(self.conv2.bias),
            pre,
            y,
        );
        // The position table is longer than the utterance: its first rows are the ones needed.
        backend.add_prefix(value(self.positions), arena.view_mut(backend, stream));
    }

    /// From the logits' gradient (in [`Activations::dlogits`]) to every adapted operand's, which accumulate. Stops
    /// where nothing further down is adapted. Needs [`Keep::All`] and the activations of the last forward pass.
    pub fn backward(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        activations: &Activations,
    ) {
        let a = activations;
        let (rows, d) = (a.outputs, self.config.d_model);
        let lowest = self.lowest_adapted_stage(parameters);
        // The head is never adapted: only its input's gradient is needed.
        let ([dlogits], [dnormed]) = arena.split(backend, [a.dlogits], [a.normed]);
        let head_shape = Linear::new(rows, d, self.config.vocab_size);
        let head = parameters.value(backend, self.head.weight);
        backend.linear_backward_input(head_shape, dlogits, head, dnormed, false);
        let below = |stage: usize| lowest < stage;
        let saved = (a.final_input, a.final_statistics);
        let input = below(self.final_stage()).then_some((a.stream, false));
        self.final_norm
            .backward(backend, parameters, arena, rows, saved, a.normed, input);

        for (index, (layer, slots)) in self.layers.iter().zip(&a.layers).enumerate().rev() {
            let (ffn_stage, attention_stage) = (ffn_stage(index), attention_stage(index));
            if lowest > ffn_stage {
                return;
            }
            // Feed-forward: stream → fc2 → GELU → fc1 → norm, and the residual joins.
            layer.fc2.backward(backend, parameters, arena, rows, a.stream, a.wide);
            let ([pre], [wide]) = arena.split(backend, [slots.fc1_pre], [a.wide]);
            backend.gelu_backward(pre, wide);
            layer.fc1.backward(backend, parameters, arena, rows, a.wide, a.normed);
            let saved = (slots.middle, slots.ffn_statistics);
            let input = below(ffn_stage).then_some((a.stream, true));
            layer
                .ffn_norm
                .backward(backend, parameters, arena, rows, saved, a.normed, input);
            if lowest > attention_stage {
                return;
            }
            // Attention: stream → out → heads → qkv → norm, and the residual joins.
            layer
                .out
                .backward(backend, parameters, arena, rows, a.stream, a.dattention);
            let reads = [slots.qkv, slots.attention_out, slots.log_sum_exp, a.dattention];
            let ([qkv, out, log_sum_exp, dout], [dqkv, scratch]) =
                arena.split(backend, reads, [a.dqkv, a.attention_scratch]);
            backend.attention_backward(self.attention_shape(rows), qkv, out, log_sum_exp, dout, dqkv, scratch);
            layer.qkv.backward(backend, parameters, arena, rows, a.dqkv, a.normed);
            let saved = (slots.input, slots.attention_statistics);
            let input = below(attention_stage).then_some((a.stream, true));
            layer
                .attention_norm
                .backward(backend, parameters, arena, rows, saved, a.normed, input);
        }
        if lowest <= CONV2_STAGE {
            self.backward_stem(backend, parameters, arena, a, lowest);
        }
    }

    fn backward_stem(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &Activations,
        lowest: usize,
    ) {
        let d = self.config.d_model;
        let ([pre], [stream]) = arena.split(backend, [a.conv2_pre], [a.stream]);
        backend.gelu_backward(pre, stream);
        self.conv2
            .backward_parameters(backend, parameters, arena, a.conv2_shape, a.conv1_out, a.stream);
        if lowest < CONV2_STAGE {
            let ([dpre], [dx]) = arena.split(backend, [a.stream], [a.dconv1]);
            let weight = parameters.value(backend, self.conv2.weight);
            backend.conv1d_backward_input(a.conv2_shape, dpre, weight, dx);
            let inner = a.dconv1.part(d, a.frames * d);
            let ([pre], [inner_gradient]) = arena.split(backend, [a.conv1_pre], [inner]);
            backend.gelu_backward(pre, inner_gradient);
            self.conv1
                .backward_parameters(backend, parameters, arena, a.conv1_shape, a.input, inner);
        }
    }

    fn attention_shape(&self, frames: usize) -> Attention {
        let heads = self.config.encoder_attention_heads;
        Attention {
            frames,
            heads,
            head_dim: self.config.d_model / heads,
        }
    }

    fn final_stage(&self) -> usize {
        attention_stage(self.layers.len())
    }

    /// Stages count upwards from the input; the backward pass need not go below the lowest that is adapted.
    fn lowest_adapted_stage(&self, parameters: &impl Parameters<B>) -> usize {
        let adapted = |ids: &[OperandId]| ids.iter().any(|&id| parameters.is_adapted(id));
        if adapted(&[self.conv1.weight, self.conv1.bias]) {
            return CONV1_STAGE;
        }
        if adapted(&[self.conv2.weight, self.conv2.bias]) {
            return CONV2_STAGE;
        }
        for (index, layer) in self.layers.iter().enumerate() {
            if adapted(&layer.attention_norm.operands()) || adapted(&[layer.qkv.bias, layer.out.bias]) {
                return attention_stage(index);
            }
            if adapted(&layer.ffn_norm.operands()) || adapted(&[layer.fc1.bias, layer.fc2.bias]) {
                return ffn_stage(index);
            }
        }
        self.final_stage()
    }

    /// Whether the convolutions' output can be kept from step to step.
    pub fn stem_is_frozen(&self, parameters: &impl Parameters<B>) -> bool {
        self.lowest_adapted_stage(parameters) > CONV2_STAGE
    }
}

const CONV1_STAGE: usize = 0;
const CONV2_STAGE: usize = 1;

fn attention_stage(layer: usize) -> usize {
    2 + 2 * layer
}

fn ffn_stage(layer: usize) -> usize {
    3 + 2 * layer
}

impl Convolution {
    fn backward_parameters<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        shape: Conv1d,
        x: Slot,
        dpre: Slot,
    ) {
        let ([x, dpre], []) = arena.split(backend, [x, dpre], []);
        if let Some(dweight) = parameters.gradient(backend, self.weight) {
            backend.conv1d_backward_weight(shape, x, dpre, dweight);
        }
        if let Some(dbias) = parameters.gradient(backend, self.bias) {
            backend.bias_backward(
                Rows {
                    rows: shape.out_frames(),
                    cols: shape.c_out,
                },
                dpre,
                dbias,
            );
        }
    }
}
