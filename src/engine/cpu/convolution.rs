//! Strided convolutions: matrix products over a strided view (see [`crate::engine::Conv1d::as_linear`]), and for wide ones
//! of three taps, two apart, a faster way ([`super::fast_convolution`]).

use super::CpuBackend;
use super::fast_convolution;
use super::gelu;
use super::linear;
use super::parallel::Shared;
use crate::engine::{Conv1d, Linear};

/// See [`crate::engine::Backend::conv1d_gelu`].
pub(super) fn forward_gelu(
    backend: &CpuBackend,
    shape: Conv1d,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    pre: &mut [f32],
    y: &mut [f32],
) {
    if !fast_convolution::suits(shape) {
        return linear::forward_gelu(backend, shape.as_linear(), x, weight, bias, pre, y);
    }
    fast_convolution::forward(backend, shape, x, weight, pre);
    assert_eq!(y.len(), pre.len());
    let (rows, pre, y) = (shape.out_frames(), Shared::new(pre), Shared::new(y));
    backend.run_parts(rows, 1, |rows| {
        for row in rows {
            let range = row * shape.c_out..(row + 1) * shape.c_out;
            // SAFETY: parts are disjoint.
            let (pre, y) = unsafe { (pre.stretch(range.clone()), y.stretch(range)) };
            gelu::bias_gelu(pre, bias, y);
        }
    });
}

/// See [`crate::engine::Backend::conv1d_backward_weight`].
pub(super) fn backward_weight(backend: &CpuBackend, shape: Conv1d, x: &[f32], dpre: &[f32], dweight: &mut [f32]) {
    if fast_convolution::suits(shape) {
        fast_convolution::backward_weight(backend, shape, x, dpre, dweight);
    } else {
        linear::backward_weight(backend, shape.as_linear(), x, dpre, dweight);
    }
}

/// See [`crate::engine::Backend::conv1d_backward_input`].
///
/// The view's rows overlap, so one product over all taps would add to one place from two rows. Tap by tap they do
/// not: tap k of output row t is input row `t * stride + k`.
pub(super) fn backward_input(backend: &CpuBackend, shape: Conv1d, dpre: &[f32], weight: &[f32], dx: &mut [f32]) {
    assert_eq!(
        dx.len(),
        shape.padded_frames * shape.c_in,
        "input gradient of {shape:?}"
    );
    assert_eq!(
        weight.len(),
        shape.c_out * shape.kernel * shape.c_in,
        "weight of {shape:?}"
    );
    if fast_convolution::suits(shape) {
        return fast_convolution::backward_input(backend, shape, dpre, weight, dx);
    }
    // The first `stride` taps write each row once, up to the last output's; later taps add to them.
    let written = if shape.kernel >= shape.stride {
        shape.out_frames() * shape.stride * shape.c_in
    } else {
        0
    };
    let written = written.min(dx.len());
    dx[written..].fill(0.0);
    let tap_shape = Linear {
        rows: shape.out_frames(),
        inputs: shape.c_in,
        outputs: shape.c_out,
        x_stride: shape.stride * shape.c_in,
    };
    for tap in 0..shape.kernel {
        let offset = tap * shape.c_in;
        let (weight, dx) = (&weight[offset..], &mut dx[offset..]);
        let accumulate = written == 0 || tap >= shape.stride;
        linear::backward_input_tap(
            backend,
            tap_shape,
            dpre,
            weight,
            shape.kernel * shape.c_in,
            dx,
            accumulate,
        );
    }
}
