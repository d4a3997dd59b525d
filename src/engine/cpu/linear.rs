//! Linear layers: `y = x Wᵀ + b` and its three gradients, each as matrix products split over the pool.

use super::CpuBackend;
use super::gelu;
use super::matmul::{Matrix, Target, product};
use super::parallel::Shared;
use super::simd::{self, Lanes, dot_body, vectorised};
use crate::engine::{Linear, Rows};
use std::ops::Range;

/// A thread's share of an output matrix: some rows by some columns.
struct Tile {
    rows: Range<usize>,
    cols: Range<usize>,
}

/// One tile a thread, cut along the longer side: cutting rows makes every thread pack the whole weight, cutting
/// columns the whole input, so the longer side is the cheaper to share out.
fn for_tiles(backend: &CpuBackend, rows: usize, cols: usize, task: impl Fn(Tile) + Sync) {
    if rows > cols {
        backend.run_parts(rows, 8, |part| {
            task(Tile {
                rows: part,
                cols: 0..cols,
            })
        });
    } else {
        backend.run_parts(cols, 16, |part| {
            task(Tile {
                rows: 0..rows,
                cols: part,
            })
        });
    }
}

/// Up to so many rows (a step of decoding), packing the weight for a matrix product costs more than the product: each
/// of its rows is read once, where it lies.
const FEW_ROWS: usize = 8;
/// Weight rows that stay in the first-level cache while every input row meets them.
const WEIGHT_ROWS: usize = 8;

#[inline(always)]
fn dots_body<L: Lanes>(x: &[f32], weight: &[f32], y: &mut [f32], accumulate: bool) {
    for (y, weight) in y.iter_mut().zip(weight.chunks_exact(x.len())) {
        let sum = dot_body::<L>(x, weight);
        *y = if accumulate { *y + sum } else { sum };
    }
}

vectorised! {
    /// `y[o] (+)= x · W[o]`.
    fn dots(x: &[f32], weight: &[f32], y: &mut [f32], accumulate: bool) = dots_body
}

/// `y[tile] (+)= x[tile.rows] W[tile.cols]ᵀ`.
fn forward_tile(shape: Linear, x: &[f32], weight: &[f32], y: &Shared<'_>, tile: &Tile, accumulate: bool) {
    let (rows, cols) = (tile.rows.len(), tile.cols.len());
    if rows == 0 || cols == 0 {
        return;
    }
    if shape.rows <= FEW_ROWS && shape.inputs > 0 {
        for first in tile.cols.clone().step_by(WEIGHT_ROWS) {
            let cols = first..(first + WEIGHT_ROWS).min(tile.cols.end);
            let weight = &weight[cols.start * shape.inputs..cols.end * shape.inputs];
            for row in tile.rows.clone() {
                let x = &x[row * shape.x_stride..row * shape.x_stride + shape.inputs];
                let start = row * shape.outputs;
                // SAFETY: tiles are disjoint.
                dots(
                    x,
                    weight,
                    unsafe { y.stretch(start + cols.start..start + cols.end) },
                    accumulate,
                );
            }
        }
        return;
    }
    let x = Matrix::rows(&x[tile.rows.start * shape.x_stride..], shape.x_stride);
    let weight = Matrix::transposed(&weight[tile.cols.start * shape.inputs..], shape.inputs);
    // SAFETY: tiles are disjoint.
    unsafe {
        let start = y.matrix(
            tile.rows.start * shape.outputs + tile.cols.start,
            rows,
            cols,
            shape.outputs,
        );
        product(
            rows,
            cols,
            shape.inputs,
            1.0,
            x,
            weight,
            Target {
                start,
                stride: shape.outputs,
                accumulate,
            },
        );
    }
}

/// See [`crate::engine::Backend::linear`].
pub(super) fn forward(
    backend: &CpuBackend,
    shape: Linear,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
    accumulate: bool,
) {
    check(shape, weight, y);
    let y = Shared::new(y);
    for_tiles(backend, shape.rows, shape.outputs, |tile| {
        forward_tile(shape, x, weight, &y, &tile, accumulate);
        if let Some(bias) = bias {
            for row in tile.rows.clone() {
                let start = row * shape.outputs;
                // SAFETY: tiles are disjoint.
                let y = unsafe { y.stretch(start + tile.cols.start..start + tile.cols.end) };
                simd::add(&bias[tile.cols.clone()], y);
            }
        }
    });
}

/// See [`crate::engine::Backend::linear_gelu`].
pub(super) fn forward_gelu(
    backend: &CpuBackend,
    shape: Linear,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    pre: &mut [f32],
    y: &mut [f32],
) {
    check(shape, weight, pre);
    check(shape, weight, y);
    let (pre, y) = (Shared::new(pre), Shared::new(y));
    for_tiles(backend, shape.rows, shape.outputs, |tile| {
        forward_tile(shape, x, weight, &pre, &tile, false);
        for row in tile.rows.clone() {
            let range = row * shape.outputs + tile.cols.start..row * shape.outputs + tile.cols.end;
            // SAFETY: tiles are disjoint.
            let (pre, y) = unsafe { (pre.stretch(range.clone()), y.stretch(range)) };
            gelu::bias_gelu(pre, &bias[tile.cols.clone()], y);
        }
    });
}

/// See [`crate::engine::Backend::linear_backward_input`].
pub(super) fn backward_input(
    backend: &CpuBackend,
    shape: Linear,
    dy: &[f32],
    weight: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    assert!(shape.x_stride >= shape.inputs, "rows of the input gradient overlap");
    backward_input_tap(backend, shape, dy, weight, shape.inputs, dx, accumulate);
}

/// The same for a weight whose rows are `weight_stride` apart (one tap of a convolution).
pub(super) fn backward_input_tap(
    backend: &CpuBackend,
    shape: Linear,
    dy: &[f32],
    weight: &[f32],
    weight_stride: usize,
    dx: &mut [f32],
    accumulate: bool,
) {
    let dx = Shared::new(dx);
    for_tiles(backend, shape.rows, shape.inputs, |tile| {
        let (rows, cols) = (tile.rows.len(), tile.cols.len());
        if rows == 0 || cols == 0 {
            return;
        }
        let dy = Matrix::rows(&dy[tile.rows.start * shape.outputs..], shape.outputs);
        let weight = Matrix::rows(&weight[tile.cols.start..], weight_stride);
        // SAFETY: tiles are disjoint, and rows do not overlap.
        unsafe {
            let start = dx.matrix(
                tile.rows.start * shape.x_stride + tile.cols.start,
                rows,
                cols,
                shape.x_stride,
            );
            product(
                rows,
                cols,
                shape.outputs,
                1.0,
                dy,
                weight,
                Target {
                    start,
                    stride: shape.x_stride,
                    accumulate,
                },
            );
        }
    });
}

/// See [`crate::engine::Backend::linear_backward_weight`].
pub(super) fn backward_weight(backend: &CpuBackend, shape: Linear, x: &[f32], dy: &[f32], dweight: &mut [f32]) {
    assert_eq!(dweight.len(), shape.outputs * shape.inputs);
    let dweight = Shared::new(dweight);
    for_tiles(backend, shape.outputs, shape.inputs, |tile| {
        let (rows, cols) = (tile.rows.len(), tile.cols.len());
        if rows == 0 || cols == 0 || shape.rows == 0 {
            return;
        }
        let dy = Matrix::transposed(&dy[tile.rows.start..], shape.outputs);
        let x = Matrix::rows(&x[tile.cols.start..], shape.x_stride);
        // SAFETY: tiles are disjoint.
        unsafe {
            let start = dweight.matrix(
                tile.rows.start * shape.inputs + tile.cols.start,
                rows,
                cols,
                shape.inputs,
            );
            product(
                rows,
                cols,
                shape.rows,
                1.0,
                dy,
                x,
                Target {
                    start,
                    stride: shape.inputs,
                    accumulate: true,
                },
            );
        }
    });
}

#[inline(always)]
fn add_rows_body<L: Lanes>(dy: &[f32], cols: usize, part: Range<usize>, dbias: &mut [f32]) {
    for row in dy.chunks_exact(cols) {
        for (sum, value) in dbias.iter_mut().zip(&row[part.clone()]) {
            *sum += value;
        }
    }
}

vectorised! {
    fn add_rows(dy: &[f32], cols: usize, part: Range<usize>, dbias: &mut [f32]) = add_rows_body
}

/// See [`crate::engine::Backend::bias_backward`]. Columns are shared out, so the sum's order does not depend on the
/// number of threads.
pub(super) fn backward_bias(backend: &CpuBackend, shape: Rows, dy: &[f32], dbias: &mut [f32]) {
    assert_eq!((dy.len(), dbias.len()), (shape.rows * shape.cols, shape.cols));
    let dbias = Shared::new(dbias);
    backend.run_parts(shape.cols, 64, |part| {
        // SAFETY: parts are disjoint.
        add_rows(dy, shape.cols, part.clone(), unsafe { dbias.stretch(part) });
    });
}

fn check(shape: Linear, weight: &[f32], y: &[f32]) {
    assert_eq!(weight.len(), shape.outputs * shape.inputs, "weight of {shape:?}");
    assert_eq!(y.len(), shape.rows * shape.outputs, "output of {shape:?}");
}
