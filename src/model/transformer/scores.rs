//! Attention itself, among each utterance's own rows.

use super::{LayerActivations, Transformer, TransformerActivations};
use crate::engine::{Arena, Backend, RelativeBias, RelativeBiasGradient};
use crate::model::Parameters;

impl Transformer {
    /// The forward pass.
    pub(super) fn forward_scores<B: Backend>(
        &self,
        backend: &B,
        arena: &mut Arena<B>,
        a: &TransformerActivations,
        slots: &LayerActivations,
    ) {
        let table = a.relative.as_ref().map_or(slots.gate, |relative| relative.table);
        let (spans, [qkv, gate, table], [out, log_sum_exp, scratch]) = arena.split_spans(
            backend,
            a.spans,
            [slots.qkv, slots.gate, table],
            [slots.attention_out, slots.log_sum_exp, a.attention_scratch],
        );
        let bias = a.relative.as_ref().map(|_| RelativeBias { gate, table });
        backend.attention(self.shape(a.rows), spans, qkv, bias, out, log_sum_exp, scratch);
    }

    /// The backward pass.
    pub(super) fn backward_scores<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &TransformerActivations,
        slots: &LayerActivations,
    ) {
        let shape = self.shape(a.rows);
        let reads = [slots.qkv, slots.attention_out, slots.log_sum_exp, a.dattention];
        match &a.relative {
            None => {
                let (spans, [qkv, out, log_sum_exp, dout], [dqkv, scratch]) =
                    arena.split_spans(backend, a.spans, reads, [a.dqkv, a.attention_scratch]);
                backend.attention_backward(shape, spans, qkv, None, out, log_sum_exp, dout, dqkv, scratch);
            }
            Some(relative) => {
                let [qkv, out, log_sum_exp, dout] = reads;
                let reads = [qkv, out, log_sum_exp, dout, slots.gate, relative.table];
                let writes = [a.dqkv, a.attention_scratch, relative.dgate, relative.dtable];
                let (spans, [qkv, out, log_sum_exp, dout, gate, table], [dqkv, scratch, dgate, dtable]) =
                    arena.split_spans(backend, a.spans, reads, writes);
                let wanted = self
                    .relative
                    .as_ref()
                    .is_some_and(|positions| parameters.is_adapted(positions.embedding()));
                let gradient = RelativeBiasGradient {
                    gate: dgate,
                    table: wanted.then_some(dtable),
                };
                let bias = Some((RelativeBias { gate, table }, gradient));
                backend.attention_backward(shape, spans, qkv, bias, out, log_sum_exp, dout, dqkv, scratch);
            }
        }
    }
}
