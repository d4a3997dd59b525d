//! The transformer layers of every encoder here: norms before each part (Whisper, the large wav2vec2 models) or after
//! it (the base ones), and WavLM's gated relative position bias.
//!
//! Stages count upwards from the input, two a layer: its attention, its feed-forward part. A pass may start at any
//! stage whose input was kept, and a backward pass ends at the lowest stage that is adapted.

mod scores;

use super::layers::{LayerNorm, LinearLayer, copy, gelu, gelu_backward};
use super::relative::{RelativeActivations, RelativeLayer, RelativePositions};
use super::tensors::{OperandId, Place, WeightsBuilder};
use super::{ModelError, Parameters};
use crate::engine::{Arena, ArenaPlan, Attention, Backend, Shares, Slot, Spans};

/// Sizes, and where the norms are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransformerConfig {
    /// D.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Norms before each part, not after it.
    pub norm_first: bool,
    /// WavLM's `(num_buckets, max_bucket_distance)`.
    pub relative_positions: Option<(usize, usize)>,
}

/// What a layer's tensors are called, below `encoder.layers.N.`.
pub(super) struct LayerNames {
    pub(super) attention: &'static str,
    pub(super) attention_norm: &'static str,
    pub(super) ffn_norm: &'static str,
    pub(super) fc1: &'static str,
    pub(super) fc2: &'static str,
}

/// All layers' operands.
pub(super) struct Transformer {
    config: TransformerConfig,
    first_stage: usize,
    layers: Vec<Layer>,
    relative: Option<RelativePositions>,
}

struct Layer {
    attention_norm: LayerNorm,
    qkv: LinearLayer,
    out: LinearLayer,
    ffn_norm: LayerNorm,
    fc1: LinearLayer,
    fc2: LinearLayer,
    relative: Option<RelativeLayer>,
}

impl Layer {
    fn attention_operands(&self) -> Vec<OperandId> {
        let mut operands = [self.attention_norm.operands(), self.qkv.operands(), self.out.operands()].concat();
        operands.extend(self.relative.iter().flat_map(RelativeLayer::operands));
        operands
    }

    fn ffn_operands(&self) -> Vec<OperandId> {
        [self.ffn_norm.operands(), self.fc1.operands(), self.fc2.operands()].concat()
    }
}

/// Where the layers' activations lie.
pub(super) struct TransformerActivations {
    rows: usize,
    /// Where there are several utterances, or padding.
    spans: Option<Spans<()>>,
    layers: Vec<LayerActivations>,
    /// The last layer's output.
    pub(super) output: Slot,
    relative: Option<RelativeActivations>,
    /// Gradient of [`TransformerActivations::output`], to be written before a backward pass. It and `other` take
    /// turns as the pass goes down.
    pub(super) stream: Slot,
    pub(super) other: Slot,
    // Scratch, overwritten by each layer.
    pub(super) normed: Slot,
    wide: Slot,
    attention_scratch: Slot,
    dattention: Slot,
    dqkv: Slot,
}

#[derive(Clone, Copy)]
struct LayerActivations {
    input: Slot,
    /// What the norm of the attention part reads: the input, or the sum after attention.
    attention_norm_input: Slot,
    attention_statistics: Slot,
    qkv: Slot,
    attention_out: Slot,
    log_sum_exp: Slot,
    /// Between the two parts.
    middle: Slot,
    ffn_norm_input: Slot,
    ffn_statistics: Slot,
    fc1_pre: Slot,
    gate_projection: Slot,
    gate: Slot,
}

impl TransformerActivations {
    /// The first layer's input.
    pub(super) fn input(&self) -> Slot {
        self.layers.first().map_or(self.output, |layer| layer.input)
    }

    /// Every layer's input, and the last one's output.
    pub(super) fn hidden_states(&self) -> Vec<Slot> {
        let inputs = self.layers.iter().map(|layer| layer.input);
        inputs.chain([self.output]).collect()
    }

    /// For norms.
    fn shares(&self) -> (usize, Shares<()>) {
        (self.rows, self.spans.into())
    }

    fn next(&self, index: usize) -> Slot {
        self.layers.get(index + 1).map_or(self.output, |next| next.input)
    }
}

impl Transformer {
    /// `prefix` stands before `N.` in the tensors' names; stages count from `first_stage`.
    pub(super) fn load(
        builder: &mut WeightsBuilder<'_>,
        config: TransformerConfig,
        prefix: &str,
        names: &LayerNames,
        first_stage: usize,
    ) -> Result<Self, ModelError> {
        let d = config.width;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            builder.enter(Place::Layer(index), 0);
            let name = |part: &str| format!("{prefix}{index}.{part}");
            let attention = name(names.attention);
            let relative = match config.relative_positions {
                Some(_) => Some(RelativeLayer::load(builder, &attention, config.heads, d)?),
                None => None,
            };
            layers.push(Layer {
                attention_norm: LayerNorm::load(builder, &name(names.attention_norm), d)?,
                qkv: LinearLayer::load_qkv(builder, &attention, d)?,
                out: LinearLayer::load(builder, &format!("{attention}.out_proj"), d, d)?,
                ffn_norm: LayerNorm::load(builder, &name(names.ffn_norm), d)?,
                fc1: LinearLayer::load(builder, &name(names.fc1), d, config.ffn)?,
                fc2: LinearLayer::load(builder, &name(names.fc2), config.ffn, d)?,
                relative,
            });
        }
        // The first layer's table serves all.
        builder.enter(Place::Layer(0), 0);
        let relative = match config.relative_positions {
            Some(buckets) => {
                let attention = format!("{prefix}0.{}", names.attention);
                Some(RelativePositions::load(builder, &attention, config.heads, buckets)?)
            }
            None => None,
        };
        Ok(Self {
            config,
            first_stage,
            layers,
            relative,
        })
    }

    /// The stage above the last layer's.
    pub(super) fn end_stage(&self) -> usize {
        self.first_stage + 2 * self.layers.len()
    }

    fn stages(&self, layer: usize) -> (usize, usize) {
        let attention = self.first_stage + 2 * layer;
        (attention, attention + 1)
    }

    fn shape(&self, frames: usize) -> Attention {
        Attention {
            frames,
            heads: self.config.heads,
            head_dim: self.config.width / self.config.heads,
        }
    }

    /// Slots for so many rows. Layers from the stage `keep_from` upwards keep what a backward pass reads; those below share
    /// one set.
    pub(super) fn plan<B: Backend>(
        &self,
        backend: &B,
        plan: &mut ArenaPlan,
        (rows, spans): (usize, Option<Spans<()>>),
        keep_from: usize,
    ) -> TransformerActivations {
        let (d, heads) = (self.config.width, self.config.heads);
        let gated = self.relative.is_some() as usize;
        let layer = |plan: &mut ArenaPlan| {
            let (input, middle) = (plan.slot(rows * d), plan.slot(rows * d));
            let (attention_norm_input, ffn_norm_input) = if self.config.norm_first {
                (input, middle)
            } else {
                (plan.slot(rows * d), plan.slot(rows * d))
            };
            LayerActivations {
                input,
                attention_norm_input,
                attention_statistics: plan.slot(rows * 2),
                qkv: plan.slot(rows * 3 * d),
                attention_out: plan.slot(rows * d),
                log_sum_exp: plan.slot(rows * heads),
                middle,
                ffn_norm_input,
                ffn_statistics: plan.slot(rows * 2),
                fc1_pre: plan.slot(rows * self.config.ffn),
                gate_projection: plan.slot(gated * rows * heads * 8),
                gate: plan.slot(gated * rows * heads),
            }
        };
        let mut shared = None;
        let layers: Vec<LayerActivations> = (0..self.layers.len())
            .map(|index| {
                let (_, last) = self.stages(index);
                if keep_from <= last {
                    layer(plan)
                } else {
                    *shared.get_or_insert_with(|| layer(plan))
                }
            })
            .collect();
        let backward = (keep_from <= self.end_stage()) as usize;
        let output = match layers.last() {
            Some(last) if backward == 0 => last.input,
            _ => plan.slot(rows * d),
        };
        TransformerActivations {
            rows,
            spans,
            layers,
            output,
            relative: self
                .relative
                .as_ref()
                .map(|relative| relative.plan(plan, rows, backward)),
            stream: plan.slot(backward * rows * d),
            other: plan.slot(backward * rows * d),
            normed: plan.slot(rows * d),
            wide: plan.slot(rows * self.config.ffn),
            attention_scratch: plan.slot(backend.attention_scratch(self.shape(rows))),
            dattention: plan.slot(backward * rows * d),
            dqkv: plan.slot(backward * rows * 3 * d),
        }
    }

    /// From the first layer's input to the output, starting at a stage.
    pub(super) fn forward<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &TransformerActivations,
        from: usize,
    ) {
        if let (Some(relative), Some(slots)) = (&self.relative, &a.relative) {
            relative.forward(backend, parameters, arena, slots);
        }
        for (index, layer) in self.layers.iter().enumerate() {
            let (attention_stage, ffn_stage) = self.stages(index);
            if from <= attention_stage {
                self.forward_attention(backend, parameters, arena, a, layer, &a.layers[index]);
            }
            if from <= ffn_stage {
                self.forward_ffn(backend, parameters, arena, a, layer, &a.layers[index], a.next(index));
            }
        }
    }

    fn forward_attention<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &TransformerActivations,
        layer: &Layer,
        slots: &LayerActivations,
    ) {
        let rows = a.rows;
        let x = if self.config.norm_first {
            let statistics = slots.attention_statistics;
            layer.attention_norm.forward_each(
                backend,
                parameters,
                arena,
                a.shares(),
                slots.input,
                a.normed,
                statistics,
            );
            a.normed
        } else {
            slots.input
        };
        layer.qkv.forward(backend, parameters, arena, rows, x, slots.qkv, false);
        if let Some(relative) = &layer.relative {
            relative.forward(backend, parameters, arena, rows, x, slots.gate_projection, slots.gate);
        }
        self.forward_scores(backend, arena, a, slots);
        // The residual joins.
        let sum = if self.config.norm_first {
            slots.middle
        } else {
            slots.attention_norm_input
        };
        let joined = (slots.attention_out, slots.input);
        layer
            .out
            .forward_residual(backend, parameters, arena, rows, joined, sum);
        if !self.config.norm_first {
            let statistics = slots.attention_statistics;
            layer
                .attention_norm
                .forward_each(backend, parameters, arena, a.shares(), sum, slots.middle, statistics);
        }
    }

    fn forward_ffn<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &TransformerActivations,
        layer: &Layer,
        slots: &LayerActivations,
        next: Slot,
    ) {
        let (rows, statistics) = (a.rows, slots.ffn_statistics);
        let (x, sum) = if self.config.norm_first {
            layer.ffn_norm.forward_each(
                backend,
                parameters,
                arena,
                a.shares(),
                slots.middle,
                a.normed,
                statistics,
            );
            (a.normed, next)
        } else {
            (slots.middle, slots.ffn_norm_input)
        };
        layer
            .fc1
            .forward_gelu(backend, parameters, arena, rows, x, slots.fc1_pre, a.wide);
        let joined = (a.wide, slots.middle);
        layer
            .fc2
            .forward_residual(backend, parameters, arena, rows, joined, sum);
        if !self.config.norm_first {
            layer
                .ffn_norm
                .forward_each(backend, parameters, arena, a.shares(), sum, next, statistics);
        }
    }

    /// From the output's gradient (in `stream`) down to the first layer's input, or to the lowest adapted stage.
    /// Returns the slot that holds the input's gradient, and the one that is free.
    pub(super) fn backward<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &TransformerActivations,
        lowest: usize,
    ) -> (Slot, Slot) {
        let (mut stream, mut other) = (a.stream, a.other);
        if let (Some(_), Some(slots)) = (&self.relative, &a.relative) {
            backend.fill_zero(arena.view_mut(backend, slots.dtable));
        }
        for (index, (layer, slots)) in self.layers.iter().zip(&a.layers).enumerate().rev() {
            let (attention_stage, ffn_stage) = self.stages(index);
            for (stage, is_ffn) in [(ffn_stage, true), (attention_stage, false)] {
                if lowest > stage {
                    return (stream, other);
                }
                let below = lowest < stage;
                // Norms after a part turn the stream into the sum's gradient first.
                if !self.config.norm_first {
                    let (norm, saved) = layer.norm(slots, is_ffn);
                    norm.backward_each(
                        backend,
                        parameters,
                        arena,
                        a.shares(),
                        saved,
                        stream,
                        Some((other, false)),
                    );
                    std::mem::swap(&mut stream, &mut other);
                }
                // The part's input's gradient: apart when a norm comes next, else straight to the residual's.
                let (dx, accumulate) = if self.config.norm_first {
                    (a.normed, false)
                } else {
                    (stream, true)
                };
                if is_ffn {
                    self.backward_ffn(backend, parameters, arena, a, layer, slots, stream, (dx, accumulate));
                } else {
                    self.backward_attention(backend, parameters, arena, a, layer, slots, stream, (dx, accumulate));
                }
                if self.config.norm_first {
                    let (norm, saved) = layer.norm(slots, is_ffn);
                    let input = below.then_some((stream, true));
                    norm.backward_each(backend, parameters, arena, a.shares(), saved, a.normed, input);
                }
            }
        }
        if let (Some(relative), Some(slots)) = (&self.relative, &a.relative) {
            relative.backward(backend, parameters, arena, slots);
        }
        (stream, other)
    }

    fn backward_ffn<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &TransformerActivations,
        layer: &Layer,
        slots: &LayerActivations,
        dy: Slot,
        (dx, accumulate): (Slot, bool),
    ) {
        let rows = a.rows;
        if parameters.is_adapted(layer.fc2.weight) {
            copy(backend, arena, slots.fc1_pre, a.wide);
            gelu(backend, arena, a.wide);
        }
        layer
            .fc2
            .backward_parameters(backend, parameters, arena, rows, a.wide, dy);
        layer
            .fc2
            .backward_input(backend, parameters, arena, rows, dy, a.wide, false);
        gelu_backward(backend, arena, slots.fc1_pre, a.wide);
        let x = self.part_input(
            backend,
            parameters,
            arena,
            a,
            layer,
            slots,
            true,
            parameters.is_adapted(layer.fc1.weight),
        );
        layer
            .fc1
            .backward_parameters(backend, parameters, arena, rows, x, a.wide);
        layer
            .fc1
            .backward_input(backend, parameters, arena, rows, a.wide, dx, accumulate);
    }

    fn backward_attention<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &TransformerActivations,
        layer: &Layer,
        slots: &LayerActivations,
        dy: Slot,
        (dx, accumulate): (Slot, bool),
    ) {
        let rows = a.rows;
        layer
            .out
            .backward_parameters(backend, parameters, arena, rows, slots.attention_out, dy);
        layer
            .out
            .backward_input(backend, parameters, arena, rows, dy, a.dattention, false);
        self.backward_scores(backend, parameters, arena, a, slots);
        let weights_adapted = parameters.is_adapted(layer.qkv.weight)
            || layer
                .relative
                .as_ref()
                .is_some_and(|relative| parameters.is_adapted(relative.weight()));
        let x = self.part_input(backend, parameters, arena, a, layer, slots, false, weights_adapted);
        layer
            .qkv
            .backward_parameters(backend, parameters, arena, rows, x, a.dqkv);
        if let (Some(layer), Some(relative)) = (&layer.relative, &a.relative) {
            layer.backward_parameters(backend, parameters, arena, rows, x, slots.gate_projection, relative);
        }
        layer
            .qkv
            .backward_input(backend, parameters, arena, rows, a.dqkv, dx, accumulate);
        if let (Some(layer), Some(relative)) = (&layer.relative, &a.relative) {
            layer.backward_input(backend, parameters, arena, rows, relative, dx);
        }
    }

    /// What a part's first layer read. Where a norm made it, it was not kept, and is made again when `wanted`.
    fn part_input<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &TransformerActivations,
        layer: &Layer,
        slots: &LayerActivations,
        is_ffn: bool,
        wanted: bool,
    ) -> Slot {
        if !self.config.norm_first {
            return if is_ffn { slots.middle } else { slots.input };
        }
        if wanted {
            let (norm, (x, statistics)) = layer.norm(slots, is_ffn);
            norm.forward_each(backend, parameters, arena, a.shares(), x, a.normed, statistics);
        }
        a.normed
    }

    /// Whether several utterances can be passed through at once: all that is adapted here is norms, and no bias depends on
    /// an utterance's length.
    pub(super) fn takes_batches<B: Backend>(&self, parameters: &impl Parameters<B>) -> bool {
        let shared = |layer: &Layer| {
            let linear = [&layer.qkv, &layer.out, &layer.fc1, &layer.fc2];
            linear
                .into_iter()
                .flat_map(LinearLayer::operands)
                .all(|id| !parameters.is_adapted(id))
        };
        self.relative.is_none() && self.layers.iter().all(shared)
    }

    /// The lowest stage with an adapted operand, if any.
    pub(super) fn lowest_adapted_stage<B: Backend>(&self, parameters: &impl Parameters<B>) -> Option<usize> {
        let adapted = |ids: &[OperandId]| ids.iter().any(|&id| parameters.is_adapted(id));
        if self
            .relative
            .as_ref()
            .is_some_and(|relative| adapted(&[relative.embedding()]))
        {
            return Some(self.first_stage);
        }
        self.layers.iter().enumerate().find_map(|(index, layer)| {
            let (attention_stage, ffn_stage) = self.stages(index);
            if adapted(&layer.attention_operands()) {
                Some(attention_stage)
            } else {
                adapted(&layer.ffn_operands()).then_some(ffn_stage)
            }
        })
    }
}

impl Layer {
    /// A part's norm, and what its backward pass reads.
    fn norm(&self, slots: &LayerActivations, is_ffn: bool) -> (&LayerNorm, (Slot, Slot)) {
        if is_ffn {
            (&self.ffn_norm, (slots.ffn_norm_input, slots.ffn_statistics))
        } else {
            (
                &self.attention_norm,
                (slots.attention_norm_input, slots.attention_statistics),
            )
        }
    }
}
