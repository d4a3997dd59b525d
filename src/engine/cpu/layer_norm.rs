//! Layer norm (Ba, Kiros and Hinton 2016): `y = x̂ γ + β`, `x̂ = (x - μ) / σ`, over the inner dimension.
//!
//! With g = dy γ, the input's gradient is `(g - mean(g) - x̂ mean(g x̂)) / σ`.

use super::CpuBackend;
use super::gelu::slope;
use super::parallel::Shared;
use super::simd::{Lanes, dot_body, sum_body, vectorised};
use crate::engine::Rows;
use std::ops::Range;

/// Added to the variance, in all the models served.
const EPSILON: f32 = 1e-5;

#[inline(always)]
fn forward_body<L: Lanes>(x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32], statistics: &mut [f32]) {
    let cols = weight.len();
    for ((x, y), statistics) in x
        .chunks_exact(cols)
        .zip(y.chunks_exact_mut(cols))
        .zip(statistics.chunks_exact_mut(2))
    {
        let mean = sum_body(x) / cols as f32;
        // Centred first: E[x²] - μ² would cancel where a channel's offset is large.
        for (y, x) in y.iter_mut().zip(x) {
            *y = x - mean;
        }
        let inverse = 1.0 / (dot_body::<L>(y, y) / cols as f32 + EPSILON).sqrt();
        for ((y, weight), bias) in y.iter_mut().zip(weight).zip(bias) {
            *y = L::mul_add(*y * inverse, *weight, *bias);
        }
        statistics[0] = mean;
        statistics[1] = inverse;
    }
}

vectorised! {
    fn forward_rows(x: &[f32], weight: &[f32], bias: &[f32], y: &mut [f32], statistics: &mut [f32]) = forward_body
}

/// See [`crate::engine::Backend::layer_norm`].
pub(super) fn forward(
    backend: &CpuBackend,
    shape: Rows,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
    statistics: &mut [f32],
) {
    let cols = shape.cols;
    assert_eq!(
        (x.len(), y.len(), statistics.len()),
        (shape.rows * cols, shape.rows * cols, shape.rows * 2)
    );
    assert_eq!((weight.len(), bias.len()), (cols, cols));
    let (y, statistics) = (Shared::new(y), Shared::new(statistics));
    backend.run_parts(shape.rows, 16, |rows| {
        let range = rows.start * cols..rows.end * cols;
        // SAFETY: parts are disjoint.
        let (y, statistics) = unsafe {
            (
                y.stretch(range.clone()),
                statistics.stretch(rows.start * 2..rows.end * 2),
            )
        };
        forward_rows(&x[range], weight, bias, y, statistics);
    });
}

#[inline(always)]
fn gelu_backward_body<L: Lanes>(x: &[f32], statistics: &[f32], weight: &[f32], bias: &[f32], d: &mut [f32]) {
    let cols = weight.len();
    let rows = x.chunks_exact(cols).zip(statistics.chunks_exact(2));
    for ((x, statistics), d) in rows.zip(d.chunks_exact_mut(cols)) {
        let (mean, inverse) = (statistics[0], statistics[1]);
        for (((d, x), weight), bias) in d.iter_mut().zip(x).zip(weight).zip(bias) {
            *d *= slope::<L>(L::mul_add((x - mean) * inverse, *weight, *bias));
        }
    }
}

vectorised! {
    fn gelu_backward_rows(x: &[f32], statistics: &[f32], weight: &[f32], bias: &[f32], d: &mut [f32]) =
        gelu_backward_body
}

/// In place, from the gradient of a GELU that followed to that of the norm's output: `d *= gelu'(x̂ γ + β)`.
pub(super) fn gelu_backward(
    backend: &CpuBackend,
    shape: Rows,
    x: &[f32],
    statistics: &[f32],
    [weight, bias]: [&[f32]; 2],
    d: &mut [f32],
) {
    let cols = shape.cols;
    assert_eq!((x.len(), d.len()), (shape.rows * cols, shape.rows * cols));
    assert_eq!(
        (weight.len(), bias.len(), statistics.len()),
        (cols, cols, shape.rows * 2)
    );
    let d = Shared::new(d);
    backend.run_parts(shape.rows, 16, |rows| {
        let range = rows.start * cols..rows.end * cols;
        let statistics = &statistics[rows.start * 2..rows.end * 2];
        // SAFETY: parts are disjoint.
        let d = unsafe { d.stretch(range.clone()) };
        gelu_backward_rows(&x[range], statistics, weight, bias, d);
    });
}

#[inline(always)]
fn backward_input_body<L: Lanes>(
    x: &[f32],
    statistics: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    let cols = weight.len();
    let rows = x
        .chunks_exact(cols)
        .zip(statistics.chunks_exact(2))
        .zip(dy.chunks_exact(cols));
    for (((x, statistics), dy), dx) in rows.zip(dx.chunks_exact_mut(cols)) {
        let (mean, inverse) = (statistics[0], statistics[1]);
        let (mut sum, mut sum_normalised) = ([0.0f32; 16], [0.0f32; 16]);
        let mut position = 0;
        while position + 16 <= cols {
            for lane in 0..16 {
                let g = dy[position + lane] * weight[position + lane];
                sum[lane] += g;
                sum_normalised[lane] = L::mul_add(g, (x[position + lane] - mean) * inverse, sum_normalised[lane]);
            }
            position += 16;
        }
        let (mut mean_g, mut mean_gx) = (sum.iter().sum::<f32>(), sum_normalised.iter().sum::<f32>());
        for index in position..cols {
            let g = dy[index] * weight[index];
            mean_g += g;
            mean_gx += g * (x[index] - mean) * inverse;
        }
        mean_g /= cols as f32;
        mean_gx /= cols as f32;
        let keep = if accumulate { 1.0 } else { 0.0 };
        // A branch, not `keep * dx`: what is not to be kept may be uninitialised garbage, NaN included.
        if keep == 1.0 {
            for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                let normalised = (x - mean) * inverse;
                *dx += inverse * (dy * weight - mean_g - normalised * mean_gx);
            }
        } else {
            for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                let normalised = (x - mean) * inverse;
                *dx = inverse * (dy * weight - mean_g - normalised * mean_gx);
            }
        }
    }
}

vectorised! {
    fn backward_input_rows(
        x: &[f32],
        statistics: &[f32],
        weight: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        accumulate: bool,
    ) = backward_input_body
}

/// See [`crate::engine::Backend::layer_norm_backward_input`].
pub(super) fn backward_input(
    backend: &CpuBackend,
    shape: Rows,
    x: &[f32],
    statistics: &[f32],
    weight: &[f32],
    dy: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    let cols = shape.cols;
    assert_eq!(
        (x.len(), dy.len(), dx.len()),
        (shape.rows * cols, shape.rows * cols, shape.rows * cols)
    );
    assert_eq!((weight.len(), statistics.len()), (cols, shape.rows * 2));
    let dx = Shared::new(dx);
    backend.run_parts(shape.rows, 16, |rows| {
        let range = rows.start * cols..rows.end * cols;
        let statistics = &statistics[rows.start * 2..rows.end * 2];
        // SAFETY: parts are disjoint.
        let dx = unsafe { dx.stretch(range.clone()) };
        backward_input_rows(&x[range.clone()], statistics, weight, &dy[range], dx, accumulate);
    });
}

#[inline(always)]
fn backward_weight_body<L: Lanes>(
    x: &[f32],
    statistics: &[f32],
    dy: &[f32],
    cols: usize,
    part: Range<usize>,
    dweight: &mut [f32],
) {
    for ((x, statistics), dy) in x
        .chunks_exact(cols)
        .zip(statistics.chunks_exact(2))
        .zip(dy.chunks_exact(cols))
    {
        let (mean, inverse) = (statistics[0], statistics[1]);
        for ((dweight, x), dy) in dweight.iter_mut().zip(&x[part.clone()]).zip(&dy[part.clone()]) {
            *dweight = L::mul_add(*dy, (x - mean) * inverse, *dweight);
        }
    }
}

vectorised! {
    fn backward_weight(
        x: &[f32],
        statistics: &[f32],
        dy: &[f32],
        cols: usize,
        part: Range<usize>,
        dweight: &mut [f32],
    ) = backward_weight_body
}

/// See [`crate::engine::Backend::layer_norm_backward_parameters`]. Columns are shared out, so the sum's order does
/// not depend on the number of threads.
pub(super) fn backward_parameters(
    backend: &CpuBackend,
    shape: Rows,
    x: &[f32],
    statistics: &[f32],
    dy: &[f32],
    dweight: Option<&mut [f32]>,
    dbias: Option<&mut [f32]>,
) {
    assert_eq!(
        (x.len(), dy.len(), statistics.len()),
        (shape.rows * shape.cols, shape.rows * shape.cols, shape.rows * 2)
    );
    if let Some(dweight) = dweight {
        assert_eq!(dweight.len(), shape.cols);
        let dweight = Shared::new(dweight);
        backend.run_parts(shape.cols, 64, |part| {
            // SAFETY: parts are disjoint.
            let dweight = unsafe { dweight.stretch(part.clone()) };
            backward_weight(x, statistics, dy, shape.cols, part, dweight);
        });
    }
    if let Some(dbias) = dbias {
        super::linear::backward_bias(backend, shape, dy, dbias);
    }
}
