//! Linear layers: `y = x Wᵀ + b` and its three gradients, each a matrix product shared out over the pool.

use super::CpuBackend;
use super::gelu;
use super::matmul::{FewRows, Matrix, Sizes, Target, multiply, multiply_few_rows};
use super::parallel::Shared;
use super::simd::{self, Lanes, vectorised};
use crate::engine::{Linear, Rows};
use std::ops::Range;

/// Up to so many rows (a step of decoding), packing the weight for a matrix product costs more than the product: each
/// of its rows is read once, where it lies.
const FEW_ROWS: usize = 8;
/// `y (+)= x Wᵀ`, then `finish` on each part of y.
fn times_weight(
    backend: &CpuBackend,
    shape: Linear,
    x: &[f32],
    weight: &[f32],
    y: &Shared<'_>,
    accumulate: bool,
    finish: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    if shape.rows <= FEW_ROWS && shape.inputs > 0 {
        return backend.run_parts(shape.outputs, 16, |part| {
            // SAFETY: y is the caller's alone, and was checked to hold the result; parts are disjoint.
            unsafe {
                multiply_few_rows(&FewRows {
                    rows: shape.rows,
                    cols: part.len(),
                    depth: shape.inputs,
                    left: (x, shape.x_stride),
                    right: (&weight[part.start * shape.inputs..], shape.inputs),
                    scale: 1.0,
                    result: (
                        y.matrix(part.start, shape.rows, part.len(), shape.outputs),
                        shape.outputs,
                    ),
                    accumulate,
                });
            }
            finish(0..shape.rows, part);
        });
    }
    let sizes = Sizes {
        m: shape.rows,
        n: shape.outputs,
        k: shape.inputs,
    };
    let (x, weight) = (
        Matrix::rows(x, shape.x_stride),
        Matrix::transposed(weight, shape.inputs),
    );
    // SAFETY: y is the caller's alone, and was checked to hold the result.
    unsafe {
        let y = Target {
            start: y.matrix(0, shape.rows, shape.outputs, shape.outputs),
            stride: shape.outputs,
            accumulate,
            twin: None,
        };
        multiply(Some(backend), sizes, 1.0, x, weight, y, finish);
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
    times_weight(backend, shape, x, weight, &y, accumulate, |rows, cols| {
        let Some(bias) = bias else { return };
        for row in rows {
            let start = row * shape.outputs;
            // SAFETY: the product's parts are disjoint.
            let y = unsafe { y.stretch(start + cols.start..start + cols.end) };
            simd::add(&bias[cols.clone()], y);
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
    times_weight(backend, shape, x, weight, &pre, false, |rows, cols| {
        for row in rows {
            let range = row * shape.outputs + cols.start..row * shape.outputs + cols.end;
            // SAFETY: the product's parts are disjoint.
            let (pre, y) = unsafe { (pre.stretch(range.clone()), y.stretch(range)) };
            gelu::bias_gelu(pre, &bias[cols.clone()], y);
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
    let sizes = Sizes {
        m: shape.rows,
        n: shape.inputs,
        k: shape.outputs,
    };
    let (dy, weight) = (Matrix::rows(dy, shape.outputs), Matrix::rows(weight, weight_stride));
    // SAFETY: dx is checked to hold the result, and its rows do not overlap.
    unsafe {
        let dx = Target {
            start: dx.matrix(0, shape.rows, shape.inputs, shape.x_stride),
            stride: shape.x_stride,
            accumulate,
            twin: None,
        };
        multiply(Some(backend), sizes, 1.0, dy, weight, dx, |_, _| {});
    }
}

/// See [`crate::engine::Backend::linear_backward_weight`].
pub(super) fn backward_weight(backend: &CpuBackend, shape: Linear, x: &[f32], dy: &[f32], dweight: &mut [f32]) {
    assert_eq!(dweight.len(), shape.outputs * shape.inputs);
    if shape.rows == 0 {
        return;
    }
    let sizes = Sizes {
        m: shape.outputs,
        n: shape.inputs,
        k: shape.rows,
    };
    let (dy, x) = (Matrix::transposed(dy, shape.outputs), Matrix::rows(x, shape.x_stride));
    let dweight = Target {
        start: dweight.as_mut_ptr(),
        stride: shape.inputs,
        accumulate: true,
        twin: None,
    };
    // SAFETY: dweight was checked to hold the result.
    unsafe { multiply(Some(backend), sizes, 1.0, dy, x, dweight, |_, _| {}) }
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
