//! Whisper's decoder (Radford et al. 2022): an embedding, transformer layers that look at their own past and at the
//! encoder's output, and logits through the embedding again.
//!
//! Keys and values of what was decoded so far are kept, apart for each hypothesis; those of the encoder's output are
//! computed once a window and shared by the window's hypotheses. Several windows can be decoded side by side.

mod backward;
mod plan;

pub use plan::DecoderActivations;

use super::layers::{LayerNorm, LinearLayer, copy};
use super::tensors::{Kind, OperandId, Place, WeightsBuilder};
use super::{ModelError, Parameters};
use crate::engine::{Arena, CrossAttention, DecoderBackend, Linear, Slot};
use plan::LayerActivations;

/// A decoder's sizes; its width is the encoder's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecoderConfig {
    /// Layers.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Width of the feed-forward part.
    pub ffn: usize,
    /// Tokens, V.
    pub vocab_size: usize,
    /// The longest sequence, prompt included.
    pub positions: usize,
}

/// Which operand is what.
pub struct Decoder {
    config: DecoderConfig,
    width: usize,
    embedding: OperandId,
    positions: OperandId,
    layers: Vec<Layer>,
    norm: LayerNorm,
}

struct Layer {
    self_norm: LayerNorm,
    self_q: LinearLayer,
    self_kv: LinearLayer,
    self_out: LinearLayer,
    cross_norm: LayerNorm,
    cross_q: LinearLayer,
    cross_kv: LinearLayer,
    cross_out: LinearLayer,
    ffn_norm: LayerNorm,
    fc1: LinearLayer,
    fc2: LinearLayer,
}

/// Where tokens stand that the decoder is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokens<'a> {
    /// One after the other in a hypothesis, from a position on.
    Prompt {
        /// Of all windows' hypotheses, in order.
        hypothesis: usize,
        /// Position of the first token.
        from: usize,
    },
    /// One for each of some hypotheses, in ascending order.
    Step(&'a [Row]),
}

/// A hypothesis, and the position of its next token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Of all windows' hypotheses, in order.
    pub hypothesis: usize,
    /// Tokens that it has.
    pub position: usize,
}

impl Decoder {
    /// `prefix` stands before `embed_tokens` in the tensors' names.
    pub(super) fn load(
        builder: &mut WeightsBuilder<'_>,
        config: DecoderConfig,
        prefix: &str,
        width: usize,
    ) -> Result<Self, ModelError> {
        let d = width;
        builder.enter(Place::Decoder(0), 0);
        let name = format!("{prefix}embed_tokens.weight");
        let embedding = builder.tensor(&name, &[config.vocab_size, d], Kind::Weight)?;
        let name = format!("{prefix}embed_positions.weight");
        let positions = builder.tensor(&name, &[config.positions, d], Kind::Weight)?;
        let mut layers = Vec::with_capacity(config.layers);
        for index in 0..config.layers {
            builder.enter(Place::Decoder(index), 0);
            let name = |part: &str| format!("{prefix}layers.{index}.{part}");
            let mut linear = |part: &str, inputs, outputs| LinearLayer::load(builder, &name(part), inputs, outputs);
            let (self_q, self_out) = (linear("self_attn.q_proj", d, d)?, linear("self_attn.out_proj", d, d)?);
            let (cross_q, cross_out) = (
                linear("encoder_attn.q_proj", d, d)?,
                linear("encoder_attn.out_proj", d, d)?,
            );
            let (fc1, fc2) = (linear("fc1", d, config.ffn)?, linear("fc2", config.ffn, d)?);
            layers.push(Layer {
                self_norm: LayerNorm::load(builder, &name("self_attn_layer_norm"), d)?,
                self_q,
                self_kv: LinearLayer::load_stacked(builder, &name("self_attn"), &["k", "v"], d)?,
                self_out,
                cross_norm: LayerNorm::load(builder, &name("encoder_attn_layer_norm"), d)?,
                cross_q,
                cross_kv: LinearLayer::load_stacked(builder, &name("encoder_attn"), &["k", "v"], d)?,
                cross_out,
                ffn_norm: LayerNorm::load(builder, &name("final_layer_norm"), d)?,
                fc1,
                fc2,
            });
        }
        let norm = LayerNorm::load(builder, &format!("{prefix}layer_norm"), d)?;
        Ok(Self {
            config,
            width,
            embedding,
            positions,
            layers,
            norm,
        })
    }

    /// The sizes.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    fn attention(&self, queries: usize, keys: usize, causal: bool) -> CrossAttention {
        CrossAttention {
            queries,
            keys,
            heads: self.config.heads,
            head_dim: self.width / self.config.heads,
            causal,
        }
    }

    /// Computes every layer's keys and values of a window's encoder output `[source rows, D]`.
    pub fn load_source<B: DecoderBackend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
        window: usize,
        encoded: B::View<'_>,
    ) {
        for (index, layer) in self.layers.iter().enumerate() {
            let kv = layer.cross_kv;
            let (weight, bias) = (parameters.value(backend, kv.weight), parameters.value(backend, kv.bias));
            let y = arena.view_mut(backend, a.source(index, window));
            backend.linear(kv.shape(a.source_rows), encoded, weight, Some(bias), y, false);
        }
    }

    /// Runs tokens through all layers and the final norm; their keys and values are kept. Positions before theirs must
    /// have been run.
    pub fn forward<B: DecoderBackend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
        tokens: &[u32],
        place: Tokens<'_>,
    ) {
        let (rows, d) = (tokens.len(), self.width);
        assert!(rows <= a.rows, "{rows} tokens in a plan for {}", a.rows);
        let part = |slot: Slot, cols: usize| slot.part(0, rows * cols);
        let (normed, kv, wide) = (part(a.normed, d), part(a.kv, 2 * d), part(a.wide, self.config.ffn));
        let positions = positions_of(place, rows);
        let table = |id| parameters.value(backend, id);
        let first = part(a.layers.first().map_or(a.output, |layer| layer.input), d);
        backend.gather_rows(&positions, d, table(self.positions), arena.view_mut(backend, normed));
        backend.gather_rows(tokens, d, table(self.embedding), arena.view_mut(backend, first));
        super::layers::add(backend, arena, normed, first);
        for (index, (layer, slots)) in self.layers.iter().zip(&a.layers).enumerate() {
            let (x, own, cross) = (part(slots.input, d), slots.own_part, slots.cross_part);
            let (q, attended, sum) = (part(slots.q, d), part(own.attended, d), part(own.sum, d));
            let statistics = part(own.statistics, 2);
            let norm = &layer.self_norm;
            norm.forward(backend, parameters, arena, rows, x, normed, statistics);
            layer.self_q.forward(backend, parameters, arena, rows, normed, q, false);
            layer
                .self_kv
                .forward(backend, parameters, arena, rows, normed, kv, false);
            self.attend_to_past(backend, arena, a, slots, kv, rows, place);
            layer
                .self_out
                .forward_residual(backend, parameters, arena, rows, (attended, x), sum);

            let (x, q, attended, sum) = (sum, part(slots.cross_q, d), part(cross.attended, d), part(cross.sum, d));
            let statistics = part(cross.statistics, 2);
            let norm = &layer.cross_norm;
            norm.forward(backend, parameters, arena, rows, x, normed, statistics);
            layer
                .cross_q
                .forward(backend, parameters, arena, rows, normed, q, false);
            for (window, first, count) in by_window(a, rows, place) {
                let (d, heads) = (self.width, self.config.heads);
                let writes = [
                    attended.part(first * d, count * d),
                    cross.log_sum_exp.part(first * heads, count * heads),
                    a.scratch,
                ];
                let reads = [q.part(first * d, count * d), a.source(index, window)];
                let ([q, source], [out, log_sum_exp, scratch]) = arena.split(backend, reads, writes);
                let shape = self.attention(count, a.source_rows, false);
                backend.cross_attention(shape, q, source, out, log_sum_exp, scratch);
            }
            layer
                .cross_out
                .forward_residual(backend, parameters, arena, rows, (attended, x), sum);

            let (x, next) = (part(slots.ffn_input, d), part(a.next(index), d));
            let (statistics, pre) = (part(slots.ffn_statistics, 2), part(slots.pre, self.config.ffn));
            let norm = &layer.ffn_norm;
            norm.forward(backend, parameters, arena, rows, x, normed, statistics);
            layer
                .fc1
                .forward_gelu(backend, parameters, arena, rows, normed, pre, wide);
            layer
                .fc2
                .forward_residual(backend, parameters, arena, rows, (wide, x), next);
        }
        let (x, statistics) = (part(a.output, d), part(a.statistics, 2));
        self.norm
            .forward(backend, parameters, arena, rows, x, normed, statistics);
    }

    /// Self-attention: keeps the new keys and values, then looks at all that is kept.
    fn attend_to_past<B: DecoderBackend>(
        &self,
        backend: &B,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
        slots: &LayerActivations,
        kv: Slot,
        rows: usize,
        place: Tokens<'_>,
    ) {
        let (d, heads) = (self.width, self.config.heads);
        let calls = match place {
            Tokens::Prompt { .. } => 1,
            Tokens::Step(places) => places.len(),
        };
        for call in 0..calls {
            let (hypothesis, from, queries) = match place {
                Tokens::Prompt { hypothesis, from } => (hypothesis, from, rows),
                Tokens::Step(places) => (places[call].hypothesis, places[call].position, 1),
            };
            let (own, first) = (self.own(a, slots, hypothesis), call * queries);
            let new = own.part(from * 2 * d, queries * 2 * d);
            copy(backend, arena, kv.part(first * 2 * d, queries * 2 * d), new);
            let keys = from + queries;
            let reads = [slots.q.part(first * d, queries * d), own.part(0, keys * 2 * d)];
            let writes = [
                slots.own_part.attended.part(first * d, queries * d),
                slots.own_part.log_sum_exp.part(first * heads, queries * heads),
                a.scratch,
            ];
            let ([q, own], [out, log_sum_exp, scratch]) = arena.split(backend, reads, writes);
            backend.cross_attention(self.attention(queries, keys, true), q, own, out, log_sum_exp, scratch);
        }
    }

    fn own(&self, a: &DecoderActivations, slots: &LayerActivations, hypothesis: usize) -> Slot {
        let len = slots.own.len / a.hypotheses;
        slots.own.part(hypothesis * len, len)
    }

    /// The logits `[count, V]` of the last call's rows from `first` on. Panics where the plan has no room
    /// for so many: one has room for a row a hypothesis, or, with a backward pass, for all rows.
    pub fn logits<B: DecoderBackend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
        first: usize,
        count: usize,
    ) -> Slot {
        let logits = a.logits.part(0, count * self.config.vocab_size);
        let hidden = a.normed.part(first * self.width, count * self.width);
        let ([hidden], [y]) = arena.split(backend, [hidden], [logits]);
        let shape = Linear::new(count, self.width, self.config.vocab_size);
        let weight = parameters.value(backend, self.embedding);
        backend.linear(shape, hidden, weight, None, y, false);
        logits
    }

    /// Makes a window's hypothesis i go on from what its hypothesis `origins[i]` kept of the first `length` positions.
    pub fn reorder<B: DecoderBackend>(
        &self,
        backend: &B,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
        window: usize,
        origins: &[usize],
        length: usize,
    ) {
        let len = length * 2 * self.width;
        let base = window * (a.hypotheses / a.windows);
        let moves = || origins.iter().enumerate().filter(|(to, from)| to != *from);
        for kept in &a.layers {
            for (to, from) in moves() {
                let moved = a.moved.part(to * len, len);
                copy(backend, arena, self.own(a, kept, base + from).part(0, len), moved);
            }
            for (to, _) in moves() {
                let moved = a.moved.part(to * len, len);
                copy(backend, arena, moved, self.own(a, kept, base + to).part(0, len));
            }
        }
    }
}

/// A whole sequence, in the first hypothesis.
const FIRST: Tokens<'static> = Tokens::Prompt { hypothesis: 0, from: 0 };

fn positions_of(place: Tokens<'_>, rows: usize) -> Vec<u32> {
    match place {
        Tokens::Prompt { from, .. } => (from..from + rows).map(|position| position as u32).collect(),
        Tokens::Step(places) => places.iter().map(|place| place.position as u32).collect(),
    }
}

/// Runs of rows that belong to one window: the window, the first row, their number.
fn by_window(a: &DecoderActivations, rows: usize, place: Tokens<'_>) -> Vec<(usize, usize, usize)> {
    let places = match place {
        Tokens::Prompt { hypothesis, .. } => return vec![(a.window_of(hypothesis), 0, rows)],
        Tokens::Step(places) => places,
    };
    let mut runs: Vec<(usize, usize, usize)> = Vec::new();
    for (row, place) in places.iter().enumerate() {
        let window = a.window_of(place.hypothesis);
        match runs.last_mut() {
            Some((last, _, count)) if *last == window => *count += 1,
            _ => runs.push((window, row, 1)),
        }
    }
    runs
}
