//! Attention itself, of one of the utterances whose rows lie behind each other.

use super::{LayerActivations, Transformer, TransformerActivations};
use crate::engine::{Arena, Backend, RelativeBias, RelativeBiasGradient};
use crate::model::Parameters;
use crate::model::layers::rows_of;
use std::ops::Range;

impl Transformer {
    /// The forward pass of one utterance.
    pub(super) fn forward_scores<B: Backend>(
        &self,
        backend: &B,
        arena: &mut Arena<B>,
        a: &TransformerActivations,
        slots: &LayerActivations,
        rows: &Range<usize>,
    ) {
        let part = self.part(slots, rows);
        let table = a.relative.as_ref().map_or(slots.gate, |relative| relative.table);
        let (counted, [qkv, gate, table], [out, log_sum_exp, scratch]) = arena.split_counted(
            backend,
            a.counted,
            [part.qkv, slots.gate, table],
            [part.attention_out, part.log_sum_exp, a.attention_scratch],
        );
        let bias = a.relative.as_ref().map(|_| RelativeBias { gate, table });
        backend.attention(self.shape(rows.len()), counted, qkv, bias, out, log_sum_exp, scratch);
    }

    /// What of a layer's activations attention reads and writes, of one utterance.
    fn part(&self, slots: &LayerActivations, rows: &Range<usize>) -> LayerActivations {
        let (d, heads) = (self.config.width, self.config.heads);
        LayerActivations {
            qkv: rows_of(slots.qkv, rows, 3 * d),
            attention_out: rows_of(slots.attention_out, rows, d),
            log_sum_exp: rows_of(slots.log_sum_exp, rows, heads),
            ..*slots
        }
    }

    /// The backward pass of one utterance.
    pub(super) fn backward_scores<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &TransformerActivations,
        slots: &LayerActivations,
        rows: &Range<usize>,
    ) {
        let (part, shape, d) = (self.part(slots, rows), self.shape(rows.len()), self.config.width);
        let dqkv = rows_of(a.dqkv, rows, 3 * d);
        let reads = [
            part.qkv,
            part.attention_out,
            part.log_sum_exp,
            rows_of(a.dattention, rows, d),
        ];
        match &a.relative {
            None => {
                let (counted, [qkv, out, log_sum_exp, dout], [dqkv, scratch]) =
                    arena.split_counted(backend, a.counted, reads, [dqkv, a.attention_scratch]);
                backend.attention_backward(shape, counted, qkv, None, out, log_sum_exp, dout, dqkv, scratch);
            }
            Some(relative) => {
                let [qkv, out, log_sum_exp, dout] = reads;
                let reads = [qkv, out, log_sum_exp, dout, slots.gate, relative.table];
                let writes = [dqkv, a.attention_scratch, relative.dgate, relative.dtable];
                let (counted, [qkv, out, log_sum_exp, dout, gate, table], [dqkv, scratch, dgate, dtable]) =
                    arena.split_counted(backend, a.counted, reads, writes);
                let wanted = self
                    .relative
                    .as_ref()
                    .is_some_and(|positions| parameters.is_adapted(positions.embedding()));
                let gradient = RelativeBiasGradient {
                    gate: dgate,
                    table: wanted.then_some(dtable),
                };
                let bias = Some((RelativeBias { gate, table }, gradient));
                backend.attention_backward(shape, counted, qkv, bias, out, log_sum_exp, dout, dqkv, scratch);
            }
        }
    }
}
