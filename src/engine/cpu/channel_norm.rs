//! Each channel normalised over time, then GELU, as wav2vec2-base does after its first convolution (a group norm, Wu
//! and He 2018, with as many groups as channels).
//!
//! The matrix is the largest of all (64 MB for ten seconds), so each pass over it does all it can, a block of rows at a
//! time that stays in cache. Sums over time are long (3,200 frames a second): f32 within a block, f64 between blocks,
//! in an order that does not depend on the number of threads.

use super::CpuBackend;
use super::gelu::slope;
use super::math::normal_cdf;
use super::parallel::Shared;
use super::simd::{Lanes, vectorised};
use crate::engine::Rows;

/// Added to the variance, in all the models served.
const EPSILON: f64 = 1e-5;
/// Rows summed in f32: 128 KB of 512 channels.
const BLOCK: usize = 64;
/// Rows of a task, which merges its blocks' sums.
const TASK: usize = 16 * BLOCK;

#[inline(always)]
fn moments_body<L: Lanes>(x: &[f32], mean: &mut [f32], squares: &mut [f32]) {
    let cols = mean.len();
    let rows = x.len() / cols;
    mean.fill(0.0);
    squares.fill(0.0);
    for row in x.chunks_exact(cols) {
        for (sum, x) in mean.iter_mut().zip(row) {
            *sum += x;
        }
    }
    for sum in mean.iter_mut() {
        *sum /= rows as f32;
    }
    for row in x.chunks_exact(cols) {
        for ((square, x), mean) in squares.iter_mut().zip(row).zip(&*mean) {
            let centred = x - mean;
            *square = L::mul_add(centred, centred, *square);
        }
    }
}

vectorised! {
    /// Per channel of a block: the mean, and the sum of squares about it.
    fn moments(x: &[f32], mean: &mut [f32], squares: &mut [f32]) = moments_body
}

#[inline(always)]
fn apply_body<L: Lanes>(x: &[f32], saved: (&[f32], &[f32]), weight: &[f32], bias: &[f32], y: &mut [f32]) {
    let cols = weight.len();
    let (mean, inverse, bias) = (&saved.0[..cols], &saved.1[..cols], &bias[..cols]);
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(cols)) {
        for index in 0..cols {
            let pre = L::mul_add((x[index] - mean[index]) * inverse[index], weight[index], bias[index]);
            y[index] = pre * normal_cdf::<L>(pre).0;
        }
    }
}

vectorised! {
    fn apply(x: &[f32], saved: (&[f32], &[f32]), weight: &[f32], bias: &[f32], y: &mut [f32]) = apply_body
}

/// See [`crate::engine::Backend::channel_norm_gelu`].
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
    let tasks = rows.div_ceil(TASK);
    let mut partial = vec![0.0f64; tasks * 2 * cols];
    let shared = Shared::new(&mut partial);
    backend.run(tasks, |task| {
        // SAFETY: a task's sums are its own.
        let (means, squares) = unsafe { shared.stretch(task * 2 * cols..(task + 1) * 2 * cols) }.split_at_mut(cols);
        let (mut block_mean, mut block_squares) = (vec![0.0f32; cols], vec![0.0f32; cols]);
        let mut before = 0.0;
        for block in x[task * TASK * cols..((task + 1) * TASK).min(rows) * cols].chunks(BLOCK * cols) {
            moments(block, &mut block_mean, &mut block_squares);
            let count = (block.len() / cols) as f64;
            merge(before, means, squares, count, &block_mean, &block_squares);
            before += count;
        }
    });
    let (mut means, mut squares) = (vec![0.0f64; cols], vec![0.0f64; cols]);
    for (task, partial) in partial.chunks_exact(2 * cols).enumerate() {
        let count = ((task + 1) * TASK).min(rows) - task * TASK;
        let (mean, square) = partial.split_at(cols);
        merge(
            (task * TASK) as f64,
            &mut means,
            &mut squares,
            count as f64,
            mean,
            square,
        );
    }
    for ((statistics, mean), squares) in statistics.chunks_exact_mut(2).zip(&means).zip(&squares) {
        let inverse = 1.0 / (squares / rows as f64 + EPSILON).sqrt();
        statistics.copy_from_slice(&[*mean as f32, inverse as f32]);
    }
    let (mean, inverse) = unzip(statistics);
    let y = Shared::new(y);
    backend.run_parts(rows, 1, |part| {
        let range = part.start * cols..part.end * cols;
        // SAFETY: parts are disjoint.
        let y = unsafe { y.stretch(range.clone()) };
        apply(&x[range], (&mean, &inverse), weight, bias, y);
    });
}

/// Two sets' means and sums of squares about them, as one set's (Chan, Golub and LeVeque 1979).
fn merge<T: Copy + Into<f64>>(
    before: f64,
    means: &mut [f64],
    squares: &mut [f64],
    count: f64,
    more_means: &[T],
    more_squares: &[T],
) {
    let share = count / (before + count);
    for index in 0..means.len() {
        let delta = more_means[index].into() - means[index];
        means[index] += delta * share;
        squares[index] += more_squares[index].into() + delta * delta * before * share;
    }
}

/// Pairs of (mean, 1/σ), apart.
fn unzip(statistics: &[f32]) -> (Vec<f32>, Vec<f32>) {
    statistics.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip()
}

#[inline(always)]
fn gelu_gradient_body<L: Lanes>(
    x: &[f32],
    saved: (&[f32], &[f32]),
    weight: &[f32],
    bias: &[f32],
    d: &mut [f32],
    sums: (&mut [f32], &mut [f32]),
) {
    let cols = weight.len();
    let (mean, inverse, bias) = (&saved.0[..cols], &saved.1[..cols], &bias[..cols]);
    let (plain, normalised) = (&mut sums.0[..cols], &mut sums.1[..cols]);
    plain.fill(0.0);
    normalised.fill(0.0);
    for (x, d) in x.chunks_exact(cols).zip(d.chunks_exact_mut(cols)) {
        for index in 0..cols {
            let centred = (x[index] - mean[index]) * inverse[index];
            let pre = L::mul_add(centred, weight[index], bias[index]);
            let gradient = d[index] * slope::<L>(pre);
            d[index] = gradient;
            plain[index] += gradient;
            normalised[index] = L::mul_add(gradient, centred, normalised[index]);
        }
    }
}

vectorised! {
    /// A block's gradient through the GELU, in place, and its sums per channel: plain, and times x̂.
    fn gelu_gradient(
        x: &[f32],
        saved: (&[f32], &[f32]),
        weight: &[f32],
        bias: &[f32],
        d: &mut [f32],
        sums: (&mut [f32], &mut [f32]),
    ) = gelu_gradient_body
}

#[inline(always)]
fn norm_gradient_body<L: Lanes>(
    x: &[f32],
    saved: (&[f32], &[f32]),
    means: (&[f32], &[f32]),
    factor: &[f32],
    d: &mut [f32],
) {
    let cols = factor.len();
    let (mean, inverse) = (&saved.0[..cols], &saved.1[..cols]);
    let (plain, normalised) = (&means.0[..cols], &means.1[..cols]);
    for (x, d) in x.chunks_exact(cols).zip(d.chunks_exact_mut(cols)) {
        for index in 0..cols {
            let centred = (x[index] - mean[index]) * inverse[index];
            d[index] = factor[index] * (d[index] - plain[index] - centred * normalised[index]);
        }
    }
}

vectorised! {
    fn norm_gradient(
        x: &[f32],
        saved: (&[f32], &[f32]),
        means: (&[f32], &[f32]),
        factor: &[f32],
        d: &mut [f32],
    ) = norm_gradient_body
}

/// See [`crate::engine::Backend::channel_norm_gelu_backward`]. With g the gradient below the GELU and means over time,
/// `dx = γ/σ (g - mean(g) - x̂ mean(g x̂))`.
pub(super) fn backward(
    backend: &CpuBackend,
    shape: Rows,
    x: &[f32],
    statistics: &[f32],
    (weight, bias): (&[f32], &[f32]),
    d: &mut [f32],
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) {
    let (rows, cols) = (shape.rows, shape.cols);
    assert_eq!(
        (x.len(), d.len(), statistics.len()),
        (rows * cols, rows * cols, cols * 2)
    );
    assert_eq!((weight.len(), bias.len()), (cols, cols));
    let (mean, inverse) = unzip(statistics);
    let saved = (&mean[..], &inverse[..]);
    let tasks = rows.div_ceil(TASK);
    let mut partial = vec![0.0f64; tasks * 2 * cols];
    let (sums, d) = (Shared::new(&mut partial), Shared::new(d));
    backend.run(tasks, |task| {
        let range = task * TASK * cols..((task + 1) * TASK).min(rows) * cols;
        // SAFETY: a task's rows and sums are its own.
        let (sums, d) = unsafe {
            (
                sums.stretch(task * 2 * cols..(task + 1) * 2 * cols),
                d.stretch(range.clone()),
            )
        };
        let mut block = vec![0.0f32; 2 * cols];
        for (x, d) in x[range].chunks(BLOCK * cols).zip(d.chunks_mut(BLOCK * cols)) {
            gelu_gradient(x, saved, weight, bias, d, block.split_at_mut(cols));
            sums.iter_mut()
                .zip(&block)
                .for_each(|(sum, block)| *sum += f64::from(*block));
        }
    });
    let mut sums = vec![0.0f64; 2 * cols];
    for partial in partial.chunks_exact(2 * cols) {
        sums.iter_mut().zip(partial).for_each(|(sum, partial)| *sum += partial);
    }
    let (plain, normalised) = sums.split_at(cols);
    for (gradient, sums) in [(dweight, normalised), (dbias, plain)] {
        for (gradient, sum) in gradient.into_iter().flatten().zip(sums) {
            *gradient += *sum as f32;
        }
    }
    let over_time = |sums: &[f64]| sums.iter().map(|sum| (sum / rows as f64) as f32).collect::<Vec<_>>();
    let (plain, normalised) = (over_time(plain), over_time(normalised));
    let factor: Vec<f32> = weight
        .iter()
        .zip(&inverse)
        .map(|(weight, inverse)| weight * inverse)
        .collect();
    backend.run_parts(rows, 1, |part| {
        let range = part.start * cols..part.end * cols;
        // SAFETY: parts are disjoint.
        let d = unsafe { d.stretch(range.clone()) };
        norm_gradient(&x[range], saved, (&plain, &normalised), &factor, d);
    });
}
