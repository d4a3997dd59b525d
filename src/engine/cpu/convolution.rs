//! The strided convolution's input gradient. Its forward and weight gradient are matrix products over a strided view
//! (see [`crate::engine::Conv1d::as_linear`]).

use super::CpuBackend;
use super::linear;
use crate::engine::{Conv1d, Linear};

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
