//! Where a decoder's activations lie, and the keys and values that it keeps.

use super::{Decoder, backward};
use crate::engine::{ArenaPlan, DecoderBackend, Slot};

/// Where the activations and the kept keys and values lie.
pub struct DecoderActivations {
    pub(super) rows: usize,
    pub(super) windows: usize,
    /// Of all windows.
    pub(super) hypotheses: usize,
    pub(super) source_rows: usize,
    pub(super) layers: Vec<LayerActivations>,
    /// The last layer's output.
    pub(super) output: Slot,
    pub(super) statistics: Slot,
    // Scratch, overwritten by each layer.
    pub(super) normed: Slot,
    pub(super) kv: Slot,
    pub(super) wide: Slot,
    pub(super) scratch: Slot,
    pub(super) logits: Slot,
    pub(super) moved: Slot,
    pub(super) backward: Option<backward::Gradients>,
}

/// What a plan is for.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    pub(super) source_rows: usize,
    pub(super) windows: usize,
    /// Of all windows.
    pub(super) hypotheses: usize,
    pub(super) rows: usize,
    /// Those whose keys and values are kept.
    pub(super) positions: usize,
}

/// A layer's; without a backward pass all layers share what need not outlive a call.
#[derive(Clone, Copy)]
pub(super) struct LayerActivations {
    pub(super) input: Slot,
    pub(super) q: Slot,
    pub(super) own_part: PartActivations,
    /// The queries to the encoder's output, `[rows, D]`; every layer's own.
    pub(super) cross_q: Slot,
    pub(super) cross_part: PartActivations,
    /// What the feed-forward part reads.
    pub(super) ffn_input: Slot,
    pub(super) ffn_statistics: Slot,
    pub(super) pre: Slot,
    /// Keys and values of what was decoded, kept from call to call, `[hypotheses, positions, 2, D]`.
    pub(super) own: Slot,
    /// Those of the encoder's output, `[windows, source rows, 2, D]`.
    pub(super) source: Slot,
}

/// An attention part's, with its norm's; what it reads is the slot before it.
#[derive(Clone, Copy)]
pub(super) struct PartActivations {
    pub(super) statistics: Slot,
    pub(super) attended: Slot,
    pub(super) log_sum_exp: Slot,
    /// With the residual.
    pub(super) sum: Slot,
}

impl DecoderActivations {
    /// The last call's queries of a layer to the encoder's output, `[rows, D]`: alignment reads them.
    pub fn cross_queries(&self, layer: usize) -> Slot {
        self.layers[layer].cross_q
    }

    /// A layer's keys and values of a window's encoder output, `[source rows, 2, D]`.
    pub fn source(&self, layer: usize, window: usize) -> Slot {
        let kept = self.layers[layer].source;
        let len = kept.len / self.windows;
        kept.part(window * len, len)
    }

    /// The window that a hypothesis belongs to.
    pub(super) fn window_of(&self, hypothesis: usize) -> usize {
        hypothesis / (self.hypotheses / self.windows)
    }

    pub(super) fn next(&self, index: usize) -> Slot {
        self.layers.get(index + 1).map_or(self.output, |next| next.input)
    }
}

impl Decoder {
    /// Slots for so many windows of encoder output of so many rows, so many hypotheses of each, and calls of at most
    /// `rows` tokens.
    pub fn plan<B: DecoderBackend>(
        &self,
        backend: &B,
        source_rows: usize,
        (windows, hypotheses): (usize, usize),
        rows: usize,
    ) -> (ArenaPlan, DecoderActivations) {
        let hypotheses = windows * hypotheses;
        let mut plan = ArenaPlan::default();
        let shared = self.layer_slots(&mut plan, rows.max(hypotheses));
        let layer = |plan: &mut ArenaPlan| LayerActivations {
            cross_q: plan.slot(rows.max(hypotheses) * self.width),
            ..shared
        };
        let sizes = Sizes {
            source_rows,
            windows,
            hypotheses,
            rows: rows.max(hypotheses),
            positions: self.config.positions,
        };
        let mut activations = self.plan_with(backend, &mut plan, sizes, layer);
        activations.logits = plan.slot(hypotheses * self.config.vocab_size);
        activations.moved = plan.slot(hypotheses * self.config.positions * 2 * self.width);
        (plan, activations)
    }

    /// What a call of so many tokens needs of a layer.
    pub(super) fn layer_slots(&self, plan: &mut ArenaPlan, rows: usize) -> LayerActivations {
        let (d, heads) = (self.width, self.config.heads);
        let part = |plan: &mut ArenaPlan| PartActivations {
            statistics: plan.slot(rows * 2),
            attended: plan.slot(rows * d),
            log_sum_exp: plan.slot(rows * heads),
            sum: plan.slot(rows * d),
        };
        let (own_part, cross_part) = (part(plan), part(plan));
        LayerActivations {
            input: plan.slot(rows * d),
            q: plan.slot(rows * d),
            own_part,
            cross_q: plan.slot(rows * d),
            cross_part,
            ffn_input: cross_part.sum,
            ffn_statistics: plan.slot(rows * 2),
            pre: plan.slot(rows * self.config.ffn),
            own: plan.slot(0),
            source: plan.slot(0),
        }
    }

    /// Everything but the logits.
    pub(super) fn plan_with<B: DecoderBackend>(
        &self,
        backend: &B,
        plan: &mut ArenaPlan,
        sizes: Sizes,
        layer: impl Fn(&mut ArenaPlan) -> LayerActivations,
    ) -> DecoderActivations {
        let d = self.width;
        let Sizes {
            source_rows,
            windows,
            hypotheses,
            rows,
            positions,
        } = sizes;
        let scratch = [
            self.attention(rows, source_rows, false),
            self.attention(rows, positions, true),
        ];
        let scratch = scratch.map(|shape| backend.cross_attention_scratch(shape));
        let layers = (0..self.config.layers).map(|_| LayerActivations {
            own: plan.slot(hypotheses * positions * 2 * d),
            source: plan.slot(windows * source_rows * 2 * d),
            ..layer(plan)
        });
        DecoderActivations {
            rows,
            windows,
            hypotheses,
            source_rows,
            layers: layers.collect(),
            output: plan.slot(rows * d),
            statistics: plan.slot(rows * 2),
            normed: plan.slot(rows * d),
            kv: plan.slot(rows * 2 * d),
            wide: plan.slot(rows * self.config.ffn),
            scratch: plan.slot(scratch[0].max(scratch[1])),
            logits: plan.slot(0),
            moved: plan.slot(0),
            backward: None,
        }
    }
}
