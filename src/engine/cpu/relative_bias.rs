//! WavLM's gated relative position bias (Chen et al. 2022): a table of biases by distance, and a gate a row and head.
//! How they enter the scores is in `attention`.

use crate::engine::Rows;

/// Values of a projection: four for each of the gate's two factors.
const PROJECTION: usize = 8;

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// The two factors of a row and head.
fn factors(projection: &[f32]) -> (f32, f32) {
    let (a, b) = projection.split_at(PROJECTION / 2);
    (sigmoid(a.iter().sum()), sigmoid(b.iter().sum()))
}

/// See [`crate::engine::Backend::relative_gate`].
pub(super) fn gate(shape: Rows, projection: &[f32], constant: &[f32], gate: &mut [f32]) {
    let (frames, heads) = (shape.rows, shape.cols);
    assert_eq!(
        (projection.len(), constant.len(), gate.len()),
        (frames * heads * PROJECTION, heads, frames * heads)
    );
    for (index, projection) in projection.chunks_exact(PROJECTION).enumerate() {
        let (frame, head) = (index / heads, index % heads);
        let (a, b) = factors(projection);
        gate[head * frames + frame] = a * (b * constant[head] - 1.0) + 2.0;
    }
}

/// See [`crate::engine::Backend::relative_gate_backward`].
pub(super) fn gate_backward(
    shape: Rows,
    projection: &[f32],
    constant: &[f32],
    dgate: &[f32],
    dprojection: &mut [f32],
    mut dconstant: Option<&mut [f32]>,
) {
    let (frames, heads) = (shape.rows, shape.cols);
    assert_eq!(
        (dprojection.len(), dgate.len()),
        (frames * heads * PROJECTION, frames * heads)
    );
    for (index, (projection, dprojection)) in projection
        .chunks_exact(PROJECTION)
        .zip(dprojection.chunks_exact_mut(PROJECTION))
        .enumerate()
    {
        let (frame, head) = (index / heads, index % heads);
        let d = dgate[head * frames + frame];
        let (a, b) = factors(projection);
        let (da, db) = dprojection.split_at_mut(PROJECTION / 2);
        da.fill(d * (b * constant[head] - 1.0) * a * (1.0 - a));
        db.fill(d * a * constant[head] * b * (1.0 - b));
        if let Some(dconstant) = &mut dconstant {
            dconstant[head] += d * a * b;
        }
    }
}

/// See [`crate::engine::Backend::relative_table`].
pub(super) fn table(buckets: &[u32], heads: usize, embedding: &[f32], table: &mut [f32]) {
    assert_eq!(table.len(), heads * buckets.len());
    for (head, row) in table.chunks_exact_mut(buckets.len()).enumerate() {
        for (value, &bucket) in row.iter_mut().zip(buckets) {
            *value = embedding[bucket as usize * heads + head];
        }
    }
}

/// See [`crate::engine::Backend::relative_table_backward`].
pub(super) fn table_backward(buckets: &[u32], heads: usize, dtable: &[f32], dembedding: &mut [f32]) {
    assert_eq!(dtable.len(), heads * buckets.len());
    for (head, row) in dtable.chunks_exact(buckets.len()).enumerate() {
        for (value, &bucket) in row.iter().zip(buckets) {
            dembedding[bucket as usize * heads + head] += value;
        }
    }
}
