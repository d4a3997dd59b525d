//! Each channel normalised over time, as wav2vec2-base does after its first convolution (a group norm, Wu and He 2018,
//! with as many groups as channels).
//!
//! Sums over time are long (3,200 frames a second), so they are taken in f64.

use super::CpuBackend;
use super::parallel::Shared;
use super::simd::{Lanes, vectorised};
use crate::engine::Rows;
use std::ops::Range;

/// Added to the variance, in all the models served.
const EPSILON: f64 = 1e-5;
/// Channels a task: their accumulators stay in registers or the nearest cache.
const GRAIN: usize = 64;

#[inline(always)]
fn sums_body<L: Lanes>(x: &[f32], cols: usize, part: Range<usize>, means: &[f64], sums: &mut [f64], squares: bool) {
    for row in x.chunks_exact(cols) {
        for ((sum, x), mean) in sums.iter_mut().zip(&row[part.clone()]).zip(means) {
            let centred = *x as f64 - mean;
            *sum += if squares { centred * centred } else { centred };
        }
    }
}

vectorised! {
    /// Per channel of a part: the sum of `x - mean`, or of its square.
    fn sums(x: &[f32], cols: usize, part: Range<usize>, means: &[f64], sums: &mut [f64], squares: bool) = sums_body
}

#[inline(always)]
fn affine_body<L: Lanes>(x: &[f32], mean: &[f32], inverse: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) {
    for index in 0..y.len() {
        y[index] = L::mul_add((x[index] - mean[index]) * inverse[index], weight[index], bias[index]);
    }
}

vectorised! {
    /// One row of a part of the channels.
    fn affine(x: &[f32], mean: &[f32], inverse: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32]) = affine_body
}

/// See [`crate::engine::Backend::channel_norm`].
pub(super) fn forward(
    backend: &CpuBackend,
    shape: Rows,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
    statistics: &mut [f32],
) {
    let (rows, cols) = (shape.rows, shape.cols);
    assert_eq!(
        (x.len(), y.len(), statistics.len()),
        (rows * cols, rows * cols, cols * 2)
    );
    assert_eq!((weight.len(), bias.len()), (cols, cols));
    let (y, statistics) = (Shared::new(y), Shared::new(statistics));
    backend.run_parts(cols, GRAIN, |all| {
        for start in all.clone().step_by(GRAIN) {
            let part = start..(start + GRAIN).min(all.end);
            let count = part.len();
            let (mut means, mut variances) = (vec![0.0f64; count], vec![0.0f64; count]);
            sums(x, cols, part.clone(), &vec![0.0; count], &mut means, false);
            means.iter_mut().for_each(|mean| *mean /= rows as f64);
            sums(x, cols, part.clone(), &means, &mut variances, true);
            // SAFETY: parts are disjoint.
            let statistics = unsafe { statistics.stretch(part.start * 2..part.end * 2) };
            let mean: Vec<f32> = means.iter().map(|mean| *mean as f32).collect();
            let inverse: Vec<f32> = variances
                .iter()
                .map(|sum| (1.0 / (sum / rows as f64 + EPSILON).sqrt()) as f32)
                .collect();
            for (index, statistics) in statistics.chunks_exact_mut(2).enumerate() {
                statistics.copy_from_slice(&[mean[index], inverse[index]]);
            }
            for row in 0..rows {
                let range = row * cols + part.start..row * cols + part.end;
                // SAFETY: parts are disjoint.
                let y = unsafe { y.stretch(range.clone()) };
                affine(
                    &x[range],
                    &mean,
                    &inverse,
                    &weight[part.clone()],
                    &bias[part.clone()],
                    y,
                );
            }
        }
    });
}

#[inline(always)]
fn gradient_sums_body<L: Lanes>(
    x: &[f32],
    dy: &[f32],
    cols: usize,
    part: Range<usize>,
    statistics: (&[f32], &[f32]),
    sums: (&mut [f64], &mut [f64]),
) {
    let (mean, inverse) = statistics;
    let (plain, normalised) = sums;
    for (x, dy) in x.chunks_exact(cols).zip(dy.chunks_exact(cols)) {
        let (x, dy) = (&x[part.clone()], &dy[part.clone()]);
        for index in 0..plain.len() {
            plain[index] += dy[index] as f64;
            normalised[index] += (dy[index] * ((x[index] - mean[index]) * inverse[index])) as f64;
        }
    }
}

vectorised! {
    /// Per channel of a part: the sums of dy and of dy x̂.
    fn gradient_sums(
        x: &[f32],
        dy: &[f32],
        cols: usize,
        part: Range<usize>,
        statistics: (&[f32], &[f32]),
        sums: (&mut [f64], &mut [f64]),
    ) = gradient_sums_body
}

#[inline(always)]
fn input_gradient_body<L: Lanes>(
    x: &[f32],
    dy: &[f32],
    statistics: (&[f32], &[f32]),
    means: (&[f32], &[f32]),
    factor: &[f32],
    dx: &mut [f32],
) {
    for index in 0..dx.len() {
        let normalised = (x[index] - statistics.0[index]) * statistics.1[index];
        dx[index] = factor[index] * (dy[index] - means.0[index] - normalised * means.1[index]);
    }
}

vectorised! {
    fn input_gradient(
        x: &[f32],
        dy: &[f32],
        statistics: (&[f32], &[f32]),
        means: (&[f32], &[f32]),
        factor: &[f32],
        dx: &mut [f32],
    ) = input_gradient_body
}

/// See [`crate::engine::Backend::channel_norm_backward`]: with means over time,
/// `dx = γ/σ (dy - mean(dy) - x̂ mean(dy x̂))`.
pub(super) fn backward(
    backend: &CpuBackend,
    shape: Rows,
    x: &[f32],
    statistics: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: Option<&mut [f32]>,
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) {
    let (rows, cols) = (shape.rows, shape.cols);
    assert_eq!(
        (x.len(), dy.len(), statistics.len()),
        (rows * cols, rows * cols, cols * 2)
    );
    let (dx, dweight, dbias) = (dx.map(Shared::new), dweight.map(Shared::new), dbias.map(Shared::new));
    backend.run_parts(cols, GRAIN, |all| {
        for start in all.clone().step_by(GRAIN) {
            let part = start..(start + GRAIN).min(all.end);
            let count = part.len();
            let pairs = statistics[part.start * 2..part.end * 2].chunks_exact(2);
            let (mean, inverse): (Vec<f32>, Vec<f32>) = pairs.map(|pair| (pair[0], pair[1])).unzip();
            let (mut plain, mut normalised) = (vec![0.0f64; count], vec![0.0f64; count]);
            let saved = (&mean[..], &inverse[..]);
            gradient_sums(x, dy, cols, part.clone(), saved, (&mut plain, &mut normalised));
            for (gradient, sums) in [(&dweight, &normalised), (&dbias, &plain)] {
                if let Some(gradient) = gradient {
                    // SAFETY: parts are disjoint.
                    let gradient = unsafe { gradient.stretch(part.clone()) };
                    gradient.iter_mut().zip(sums).for_each(|(d, sum)| *d += *sum as f32);
                }
            }
            let Some(dx) = &dx else { continue };
            let over_time = |sums: &[f64]| sums.iter().map(|sum| (sum / rows as f64) as f32).collect::<Vec<_>>();
            let (mean_plain, mean_normalised) = (over_time(&plain), over_time(&normalised));
            let factor: Vec<f32> = weight[part.clone()]
                .iter()
                .zip(&inverse)
                .map(|(weight, inverse)| weight * inverse)
                .collect();
            for row in 0..rows {
                let range = row * cols + part.start..row * cols + part.end;
                // SAFETY: parts are disjoint.
                let dx = unsafe { dx.stretch(range.clone()) };
                let means = (&mean_plain[..], &mean_normalised[..]);
                input_gradient(&x[range.clone()], &dy[range], saved, means, &factor, dx);
            }
        }
    });
}
