//! The decoder's backward pass: from the logits of a sequence that was run as a whole to every adapted operand, and to
//! the encoder's output.

use super::plan::{LayerActivations, PartActivations, Sizes};
use super::{Decoder, DecoderActivations, FIRST, positions_of};
use crate::engine::{Arena, ArenaPlan, DecoderBackend, Linear, Slot};
use crate::model::Parameters;
use crate::model::layers::{add, copy, gelu, gelu_backward};

/// What only a backward pass needs.
pub(super) struct Gradients {
    /// The encoder's output, `[source rows, D]`.
    pub(super) encoded: Slot,
    dencoded: Slot,
    /// Of each layer's keys and values of the encoder's output, summed over sequences.
    dsource: Vec<Slot>,
    /// One sequence's.
    dsource_part: Slot,
    stream: Slot,
    dattended: Slot,
    dq: Slot,
    dkv: Slot,
}

impl DecoderActivations {
    /// `[rows, V]`: the logits, and where their gradient goes before [`Decoder::backward`].
    pub fn dlogits(&self) -> Slot {
        self.logits
    }

    /// `[source rows, D]`: the gradient of the encoder's output, after [`Decoder::backward_source`].
    pub fn dencoded(&self) -> Slot {
        self.gradients().dencoded
    }

    fn gradients(&self) -> &Gradients {
        self.backward
            .as_ref()
            .expect("a backward pass over activations that Decoder::plan_to_adapt laid out")
    }
}

impl Decoder {
    /// Slots for sequences of at most `rows` tokens, one at a time, that keep what a backward pass reads; at most `predicted`
    /// of a sequence's rows have logits.
    pub fn plan_to_adapt<B: DecoderBackend>(
        &self,
        backend: &B,
        source_rows: usize,
        rows: usize,
        predicted: usize,
    ) -> (ArenaPlan, DecoderActivations) {
        let (d, mut plan) = (self.width, ArenaPlan::default());
        let layer = |plan: &mut ArenaPlan| self.layer_slots(plan, rows);
        let sizes = Sizes {
            source_rows,
            windows: 1,
            hypotheses: 1,
            rows,
            positions: rows,
        };
        let mut activations = self.plan_with(backend, &mut plan, sizes, layer);
        activations.logits = plan.slot(predicted * self.config.vocab_size);
        activations.backward = Some(Gradients {
            encoded: plan.slot(source_rows * d),
            dencoded: plan.slot(source_rows * d),
            dsource: self.layers.iter().map(|_| plan.slot(source_rows * 2 * d)).collect(),
            dsource_part: plan.slot(source_rows * 2 * d),
            stream: plan.slot(rows * d),
            dattended: plan.slot(rows * d),
            dq: plan.slot(rows * d),
            dkv: plan.slot(rows * 2 * d),
        });
        (plan, activations)
    }

    /// Whether the keys and values of the encoder's output depend on what is adapted in the decoder.
    pub fn adapts_source<B: DecoderBackend>(&self, parameters: &impl Parameters<B>) -> bool {
        let mut operands = self.layers.iter().flat_map(|layer| layer.cross_kv.operands());
        operands.any(|id| parameters.is_adapted(id))
    }

    /// Takes over the encoder's output, and the keys and values that [`Decoder::load_source`] computed of it elsewhere.
    pub fn copy_source<B: DecoderBackend>(
        &self,
        backend: &B,
        from: (&Arena<B>, &DecoderActivations),
        encoded: B::View<'_>,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
    ) {
        backend.copy(encoded, arena.view_mut(backend, a.gradients().encoded));
        for (theirs, ours) in from.1.layers.iter().zip(&a.layers) {
            let source = from.0.view(backend, theirs.source);
            backend.copy(source, arena.view_mut(backend, ours.source));
        }
    }

    /// Forgets the gradient with respect to the encoder's output: sequences add to it.
    pub fn zero_source_gradient<B: DecoderBackend>(&self, backend: &B, arena: &mut Arena<B>, a: &DecoderActivations) {
        for slot in &a.gradients().dsource {
            backend.fill_zero(arena.view_mut(backend, *slot));
        }
    }

    /// From the gradient of the logits of the rows from `first` on (in [`DecoderActivations::dlogits`]) to every adapted
    /// operand's and the encoder's output's, which accumulate. The last forward pass was on these tokens, from position 0.
    pub fn backward<B: DecoderBackend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
        tokens: &[u32],
        first: usize,
    ) {
        let (rows, d, g) = (tokens.len(), self.width, a.gradients());
        let part = |slot: Slot, cols: usize| slot.part(0, rows * cols);
        let (stream, normed) = (part(g.stream, d), part(a.normed, d));
        self.backward_logits(backend, parameters, arena, a, rows, first);
        let saved = (part(a.output, d), part(a.statistics, 2));
        self.norm
            .backward(backend, parameters, arena, rows, saved, normed, Some((stream, false)));
        for index in (0..self.layers.len()).rev() {
            self.backward_ffn(backend, parameters, arena, a, index, rows);
            self.backward_cross(backend, parameters, arena, a, index, rows);
            self.backward_own(backend, parameters, arena, a, index, rows);
        }
        let positions = positions_of(FIRST, rows);
        for (indices, table) in [(&positions[..], self.positions), (tokens, self.embedding)] {
            let ([dx], []) = arena.split(backend, [stream], []);
            if let Some(dtable) = parameters.gradient(backend, table) {
                backend.gather_rows_backward(indices, d, dx, dtable);
            }
        }
    }

    /// Through the embedding: the final norm's output's gradient, into `normed`.
    fn backward_logits<B: DecoderBackend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
        rows: usize,
        first: usize,
    ) {
        let (d, count) = (self.width, rows - first);
        let dlogits = a.logits.part(0, count * self.config.vocab_size);
        let (before, after) = (a.normed.part(0, first * d), a.normed.part(first * d, count * d));
        let shape = Linear::new(count, d, self.config.vocab_size);
        let ([hidden, dy], []) = arena.split(backend, [after, dlogits], []);
        if let Some(dweight) = parameters.gradient(backend, self.embedding) {
            backend.linear_backward_weight(shape, hidden, dy, dweight);
        }
        let ([dy], [dx]) = arena.split(backend, [dlogits], [after]);
        let weight = parameters.value(backend, self.embedding);
        backend.linear_backward_input(shape, dy, weight, dx, false);
        backend.fill_zero(arena.view_mut(backend, before));
    }

    fn backward_ffn<B: DecoderBackend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
        index: usize,
        rows: usize,
    ) {
        let (layer, slots) = (&self.layers[index], &a.layers[index]);
        let (d, ffn, stream) = (
            self.width,
            self.config.ffn,
            a.gradients().stream.part(0, rows * self.width),
        );
        let (pre, wide, normed) = (
            slots.pre.part(0, rows * ffn),
            a.wide.part(0, rows * ffn),
            a.normed.part(0, rows * d),
        );
        if parameters.is_adapted(layer.fc2.weight) {
            copy(backend, arena, pre, wide);
            gelu(backend, arena, wide);
        }
        let fc2 = layer.fc2;
        fc2.backward_parameters(backend, parameters, arena, rows, wide, stream);
        fc2.backward_input(backend, parameters, arena, rows, stream, wide, false);
        gelu_backward(backend, arena, pre, wide);
        let saved = (
            slots.ffn_input.part(0, rows * d),
            slots.ffn_statistics.part(0, rows * 2),
        );
        if parameters.is_adapted(layer.fc1.weight) {
            let norm = &layer.ffn_norm;
            norm.forward(backend, parameters, arena, rows, saved.0, normed, saved.1);
        }
        let fc1 = layer.fc1;
        fc1.backward_parameters(backend, parameters, arena, rows, normed, wide);
        fc1.backward_input(backend, parameters, arena, rows, wide, normed, false);
        let norm = &layer.ffn_norm;
        norm.backward(backend, parameters, arena, rows, saved, normed, Some((stream, true)));
    }

    fn backward_cross<B: DecoderBackend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
        index: usize,
        rows: usize,
    ) {
        let (layer, slots, g) = (&self.layers[index], &a.layers[index], a.gradients());
        let (d, heads) = (self.width, self.config.heads);
        let (stream, dattended) = (g.stream.part(0, rows * d), g.dattended.part(0, rows * d));
        let (dq, normed) = (g.dq.part(0, rows * d), a.normed.part(0, rows * d));
        let (q, kept) = (slots.cross_q.part(0, rows * d), slots.cross_part.of(rows, d, heads));
        let out = layer.cross_out;
        out.backward_parameters(backend, parameters, arena, rows, kept.attended, stream);
        out.backward_input(backend, parameters, arena, rows, stream, dattended, false);
        let shape = self.attention(rows, a.source_rows, false);
        let reads = [q, slots.source, kept.attended, kept.log_sum_exp, dattended];
        let ([q, kv, out, log_sum_exp, dout], [dq_view, dkv, scratch]) =
            arena.split(backend, reads, [dq, g.dsource_part, a.scratch]);
        backend.cross_attention_backward(shape, q, kv, out, log_sum_exp, dout, dq_view, dkv, scratch);
        add(backend, arena, g.dsource_part, g.dsource[index]);
        let saved = (slots.own_part.sum.part(0, rows * d), kept.statistics);
        let norm = &layer.cross_norm;
        if parameters.is_adapted(layer.cross_q.weight) {
            norm.forward(backend, parameters, arena, rows, saved.0, normed, saved.1);
        }
        let query = layer.cross_q;
        query.backward_parameters(backend, parameters, arena, rows, normed, dq);
        query.backward_input(backend, parameters, arena, rows, dq, normed, false);
        norm.backward(backend, parameters, arena, rows, saved, normed, Some((stream, true)));
    }

    fn backward_own<B: DecoderBackend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
        index: usize,
        rows: usize,
    ) {
        let (layer, slots, g): (_, &LayerActivations, _) = (&self.layers[index], &a.layers[index], a.gradients());
        let (d, heads) = (self.width, self.config.heads);
        let (stream, dattended) = (g.stream.part(0, rows * d), g.dattended.part(0, rows * d));
        let (dq, dkv, normed) = (
            g.dq.part(0, rows * d),
            g.dkv.part(0, rows * 2 * d),
            a.normed.part(0, rows * d),
        );
        let (q, kept) = (slots.q.part(0, rows * d), slots.own_part.of(rows, d, heads));
        let out = layer.self_out;
        out.backward_parameters(backend, parameters, arena, rows, kept.attended, stream);
        out.backward_input(backend, parameters, arena, rows, stream, dattended, false);
        let shape = self.attention(rows, rows, true);
        let own = self.own(a, slots, 0).part(0, rows * 2 * d);
        let reads = [q, own, kept.attended, kept.log_sum_exp, dattended];
        let ([q, kv, out, log_sum_exp, dout], [dq_view, dkv_view, scratch]) =
            arena.split(backend, reads, [dq, dkv, a.scratch]);
        backend.cross_attention_backward(shape, q, kv, out, log_sum_exp, dout, dq_view, dkv_view, scratch);
        let saved = (slots.input.part(0, rows * d), kept.statistics);
        let norm = &layer.self_norm;
        if parameters.is_adapted(layer.self_q.weight) || parameters.is_adapted(layer.self_kv.weight) {
            norm.forward(backend, parameters, arena, rows, saved.0, normed, saved.1);
        }
        let (query, key_value) = (layer.self_q, layer.self_kv);
        query.backward_parameters(backend, parameters, arena, rows, normed, dq);
        key_value.backward_parameters(backend, parameters, arena, rows, normed, dkv);
        query.backward_input(backend, parameters, arena, rows, dq, normed, false);
        key_value.backward_input(backend, parameters, arena, rows, dkv, normed, true);
        norm.backward(backend, parameters, arena, rows, saved, normed, Some((stream, true)));
    }

    /// After all sequences' backward passes: the gradients of what makes keys and values of the encoder's output, and of
    /// that output, into [`DecoderActivations::dencoded`].
    pub fn backward_source<B: DecoderBackend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &DecoderActivations,
    ) {
        let (g, rows) = (a.gradients(), a.source_rows);
        for (index, (layer, dsource)) in self.layers.iter().zip(&g.dsource).enumerate() {
            let kv = layer.cross_kv;
            kv.backward_parameters(backend, parameters, arena, rows, g.encoded, *dsource);
            kv.backward_input(backend, parameters, arena, rows, *dsource, g.dencoded, index > 0);
        }
    }
}

impl PartActivations {
    /// The stretches that a call of so many rows used.
    fn of(&self, rows: usize, width: usize, heads: usize) -> Self {
        Self {
            statistics: self.statistics.part(0, rows * 2),
            attended: self.attended.part(0, rows * width),
            log_sum_exp: self.log_sum_exp.part(0, rows * heads),
            sum: self.sum.part(0, rows * width),
        }
    }
}
