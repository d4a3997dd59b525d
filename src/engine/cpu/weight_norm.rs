//! Weight norm (Salimans and Kingma 2016) of a grouped convolution, a magnitude a tap, as wav2vec2's positional
//! embedding stores it.

use super::CpuBackend;
use super::parallel::Shared;
use crate::engine::GroupedConv1d;

/// Per tap, the sum of a product of two weights' values.
fn tap_sums(shape: GroupedConv1d, a: &[f32], b: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0f64; shape.kernel];
    let width = shape.group();
    for (a, b) in a
        .chunks_exact(shape.kernel * width)
        .zip(b.chunks_exact(shape.kernel * width))
    {
        for ((sum, a), b) in sums.iter_mut().zip(a.chunks_exact(width)).zip(b.chunks_exact(width)) {
            *sum += a.iter().zip(b).map(|(a, b)| (a * b) as f64).sum::<f64>();
        }
    }
    sums
}

/// See [`crate::engine::Backend::weight_norm`].
pub(super) fn forward(
    backend: &CpuBackend,
    shape: GroupedConv1d,
    direction: &[f32],
    magnitude: &[f32],
    weight: &mut [f32],
) {
    assert_eq!(
        (direction.len(), weight.len()),
        (shape.weight_len(), shape.weight_len())
    );
    assert_eq!(magnitude.len(), shape.kernel);
    let squares = tap_sums(shape, direction, direction);
    let factors: Vec<f32> = squares
        .iter()
        .zip(magnitude)
        .map(|(square, magnitude)| (*magnitude as f64 / square.sqrt()) as f32)
        .collect();
    let (width, row) = (shape.group(), shape.kernel * shape.group());
    let weight = Shared::new(weight);
    backend.run_parts(shape.channels, 16, |part| {
        let range = part.start * row..part.end * row;
        // SAFETY: parts are disjoint.
        let weight = unsafe { weight.stretch(range.clone()) };
        let taps = weight.chunks_exact_mut(width).zip(direction[range].chunks_exact(width));
        for ((weight, direction), factor) in taps.zip(factors.iter().cycle()) {
            for (weight, direction) in weight.iter_mut().zip(direction) {
                *weight = factor * direction;
            }
        }
    });
}

/// See [`crate::engine::Backend::weight_norm_backward`]: per tap, `dg = dW·v / |v|` and
/// `dv = g / |v| (dW - v dW·v / |v|²)`.
pub(super) fn backward(
    shape: GroupedConv1d,
    direction: &[f32],
    magnitude: &[f32],
    dweight: &[f32],
    ddirection: Option<&mut [f32]>,
    dmagnitude: Option<&mut [f32]>,
) {
    let squares = tap_sums(shape, direction, direction);
    let projections = tap_sums(shape, direction, dweight);
    if let Some(dmagnitude) = dmagnitude {
        for ((d, projection), square) in dmagnitude.iter_mut().zip(&projections).zip(&squares) {
            *d += (projection / square.sqrt()) as f32;
        }
    }
    let Some(ddirection) = ddirection else { return };
    let width = shape.group();
    for (index, ((d, direction), dweight)) in ddirection
        .chunks_exact_mut(width)
        .zip(direction.chunks_exact(width))
        .zip(dweight.chunks_exact(width))
        .enumerate()
    {
        let tap = index % shape.kernel;
        let factor = (magnitude[tap] as f64 / squares[tap].sqrt()) as f32;
        let along = (projections[tap] / squares[tap]) as f32;
        for ((d, direction), dweight) in d.iter_mut().zip(direction).zip(dweight) {
            *d += factor * (dweight - along * direction);
        }
    }
}
