//! WavLM's relative positions (Chen et al. 2022): one table of biases by bucketed distance for all layers, and in each
//! layer a gate computed from the frame.

use super::layers::LinearLayer;
use super::tensors::{Kind, OperandId, WeightsBuilder};
use super::{ModelError, Parameters};
use crate::engine::{Arena, ArenaPlan, Backend, Linear, Rows, Slot};

/// Values of a head's gate projection.
const PROJECTION: usize = 8;

/// The table that the layers share.
pub(super) struct RelativePositions {
    embedding: OperandId,
    heads: usize,
    buckets: usize,
    furthest: usize,
}

/// Where the shared parts lie.
pub(super) struct RelativeActivations {
    buckets: Vec<u32>,
    /// `[heads, 2T - 1]`
    pub(super) table: Slot,
    pub(super) dtable: Slot,
    /// `[heads, T]`
    pub(super) dgate: Slot,
    dprojection: Slot,
}

impl RelativePositions {
    pub(super) fn load(
        builder: &mut WeightsBuilder<'_>,
        attention: &str,
        heads: usize,
        (buckets, furthest): (usize, usize),
    ) -> Result<Self, ModelError> {
        let name = format!("{attention}.rel_attn_embed.weight");
        Ok(Self {
            embedding: builder.tensor(&name, &[buckets, heads], Kind::Weight)?,
            heads,
            buckets,
            furthest,
        })
    }

    pub(super) fn embedding(&self) -> OperandId {
        self.embedding
    }

    pub(super) fn plan(&self, plan: &mut ArenaPlan, rows: usize, backward: usize) -> RelativeActivations {
        let distances = 2 * rows - 1;
        RelativeActivations {
            buckets: (0..distances)
                .map(|index| bucket(index as i64 - (rows as i64 - 1), self.buckets, self.furthest))
                .collect(),
            table: plan.slot(self.heads * distances),
            dtable: plan.slot(backward * self.heads * distances),
            dgate: plan.slot(backward * self.heads * rows),
            dprojection: plan.slot(backward * self.heads * rows * PROJECTION),
        }
    }

    pub(super) fn forward<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        slots: &RelativeActivations,
    ) {
        let embedding = parameters.value(backend, self.embedding);
        let table = arena.view_mut(backend, slots.table);
        backend.relative_table(&slots.buckets, self.heads, embedding, table);
    }

    pub(super) fn backward<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        slots: &RelativeActivations,
    ) {
        if let Some(dembedding) = parameters.gradient(backend, self.embedding) {
            let dtable = arena.view(backend, slots.dtable);
            backend.relative_table_backward(&slots.buckets, self.heads, dtable, dembedding);
        }
    }
}

/// The bucket of a distance (the key's frame minus the query's): half the buckets for each sign, in each half the near
/// distances exactly, the further ones by their logarithm, all beyond `furthest` in the last. In f32, as the reference.
fn bucket(distance: i64, buckets: usize, furthest: usize) -> u32 {
    let half = buckets / 2;
    let exact = half / 2;
    let away = distance.unsigned_abs() as usize;
    let place = if away < exact {
        away
    } else {
        let ratio = (away as f32 / exact as f32).ln() / (furthest as f64 / exact as f64).ln() as f32;
        ((exact as f32 + ratio * (half - exact) as f32) as usize).min(half - 1)
    };
    (if distance > 0 { half + place } else { place }) as u32
}

/// A layer's gate.
pub(super) struct RelativeLayer {
    projection: LinearLayer,
    constant: OperandId,
    heads: usize,
    head_dim: usize,
}

impl RelativeLayer {
    pub(super) fn load(
        builder: &mut WeightsBuilder<'_>,
        attention: &str,
        heads: usize,
        width: usize,
    ) -> Result<Self, ModelError> {
        let head_dim = width / heads;
        let name = format!("{attention}.gru_rel_pos_linear");
        Ok(Self {
            projection: LinearLayer::load(builder, &name, head_dim, PROJECTION)?,
            constant: builder.tensor(
                &format!("{attention}.gru_rel_pos_const"),
                &[1, heads, 1, 1],
                Kind::Weight,
            )?,
            heads,
            head_dim,
        })
    }

    pub(super) fn operands(&self) -> [OperandId; 3] {
        [self.projection.weight, self.projection.bias, self.constant]
    }

    pub(super) fn weight(&self) -> OperandId {
        self.projection.weight
    }

    /// A row a frame and head: the heads lie side by side in a frame.
    fn rows(&self, frames: usize) -> usize {
        frames * self.heads
    }

    fn shape(&self, frames: usize) -> Rows {
        Rows {
            rows: frames,
            cols: self.heads,
        }
    }

    pub(super) fn forward<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        frames: usize,
        x: Slot,
        projection: Slot,
        gate: Slot,
    ) {
        let rows = self.rows(frames);
        debug_assert_eq!(
            self.projection.shape(rows),
            Linear::new(rows, self.head_dim, PROJECTION)
        );
        self.projection
            .forward(backend, parameters, arena, rows, x, projection, false);
        let ([projection], [gate]) = arena.split(backend, [projection], [gate]);
        let constant = parameters.value(backend, self.constant);
        backend.relative_gate(self.shape(frames), projection, constant, gate);
    }

    /// From the gate's gradient to the projection's, which stays for [`RelativeLayer::backward_input`], and to the
    /// adapted operands'.
    pub(super) fn backward_parameters<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        frames: usize,
        x: Slot,
        projection: Slot,
        slots: &RelativeActivations,
    ) {
        let ([projection, dgate], [dprojection]) = arena.split(backend, [projection, slots.dgate], [slots.dprojection]);
        let ([constant], [dconstant]) = parameters.values_and_gradients(backend, [self.constant]);
        let shape = self.shape(frames);
        backend.relative_gate_backward(shape, projection, constant, dgate, dprojection, dconstant);
        self.projection
            .backward_parameters(backend, parameters, arena, self.rows(frames), x, slots.dprojection);
    }

    /// Adds the projection's input's gradient.
    pub(super) fn backward_input<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        frames: usize,
        slots: &RelativeActivations,
        dx: Slot,
    ) {
        self.projection.backward_input(
            backend,
            parameters,
            arena,
            self.rows(frames),
            slots.dprojection,
            dx,
            true,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn buckets_follow_the_published_formula() {
        // transformers' WavLMAttention with 320 buckets up to distance 800, computed by it.
        assert_eq!([0, -1, -79, -80].map(|d| bucket(d, 320, 800)), [0, 1, 79, 80]);
        assert_eq!([1, 79, 80].map(|d| bucket(d, 320, 800)), [161, 239, 240]);
        assert_eq!(
            [-800, -5000, 800, 5000].map(|d| bucket(d, 320, 800)),
            [159, 159, 319, 319]
        );
        // ln(100/80) / ln(10) · 80 = 7.75
        assert_eq!(bucket(-100, 320, 800), 87);
    }
}
