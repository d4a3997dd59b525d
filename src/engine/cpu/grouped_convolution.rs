//! The grouped convolution over time (wav2vec2's positional embedding), a group at a time: the group's channels are
//! copied side by side with their padding, after which the convolution is a matrix product over overlapping rows.

use super::CpuBackend;
use super::matmul::{Matrix, Target, product};
use super::parallel::Shared;
use super::simd;
use crate::engine::GroupedConv1d;

/// Scratch of one thread: a group's padded channels, and a group's weight turned round.
fn slot_len(shape: GroupedConv1d) -> usize {
    (shape.frames + shape.kernel - 1) * shape.group() + shape.group() * shape.kernel * shape.group()
}

/// See [`crate::engine::Backend::grouped_conv1d_scratch`].
pub(super) fn scratch(backend: &CpuBackend, shape: GroupedConv1d) -> usize {
    backend.threads().min(shape.groups) * slot_len(shape)
}

/// Runs `task(group, padded channels, weight space)` for every group, each thread on its own scratch.
fn for_groups(
    backend: &CpuBackend,
    shape: GroupedConv1d,
    scratch: &mut [f32],
    task: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let slots = backend.threads().min(shape.groups);
    let (len, padded) = (slot_len(shape), (shape.frames + shape.kernel - 1) * shape.group());
    let scratch = Shared::new(scratch);
    backend.run(slots, |slot| {
        // SAFETY: a slot's scratch is its own.
        let space = unsafe { scratch.stretch(slot * len..(slot + 1) * len) };
        let (channels, weight) = space.split_at_mut(padded);
        for group in shape.groups * slot / slots..shape.groups * (slot + 1) / slots {
            task(group, channels, weight);
        }
    });
}

/// A group's channels, `[padding + frames + rest, group]` with zeros before and after.
fn gather(shape: GroupedConv1d, x: &[f32], group: usize, padding: usize, to: &mut [f32]) {
    let (width, first) = (shape.group(), group * shape.group());
    let (before, rest) = to.split_at_mut(padding * width);
    let (inside, after) = rest.split_at_mut(shape.frames * width);
    before.fill(0.0);
    after.fill(0.0);
    for (row, to) in x.chunks_exact(shape.channels).zip(inside.chunks_exact_mut(width)) {
        to.copy_from_slice(&row[first..first + width]);
    }
}

pub(super) fn check(shape: GroupedConv1d, x: &[f32], y: &[f32]) {
    let values = shape.frames * shape.channels;
    assert_eq!((x.len(), y.len()), (values, values), "{shape:?}");
    assert!(shape.channels.is_multiple_of(shape.groups) && shape.padding < shape.kernel);
}

/// See [`crate::engine::Backend::grouped_conv1d`].
pub(super) fn forward(
    backend: &CpuBackend,
    shape: GroupedConv1d,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    y: &mut [f32],
    scratch: &mut [f32],
) {
    check(shape, x, y);
    assert_eq!(weight.len(), shape.weight_len(), "weight of {shape:?}");
    let (width, taps) = (shape.group(), shape.kernel * shape.group());
    let y = Shared::new(y);
    for_groups(backend, shape, scratch, |group, channels, _| {
        gather(shape, x, group, shape.padding, channels);
        let first = group * width;
        let weight = Matrix::transposed(&weight[first * taps..(first + width) * taps], taps);
        // SAFETY: a group's output columns belong to one task.
        unsafe {
            let target = Target {
                start: y.matrix(first, shape.frames, width, shape.channels),
                stride: shape.channels,
                accumulate: false,
                twin: None,
            };
            product(
                shape.frames,
                width,
                taps,
                1.0,
                Matrix::rows(channels, width),
                weight,
                target,
            );
        }
        for row in 0..shape.frames {
            let start = row * shape.channels + first;
            // SAFETY: as above.
            simd::add(&bias[first..first + width], unsafe { y.stretch(start..start + width) });
        }
    });
}

/// See [`crate::engine::Backend::grouped_conv1d_backward_input`]: a convolution of dy with the weight turned round,
/// `dx[t, i] = Σ_k Σ_o dy[t + k - (kernel - 1 - padding), o] W[o, kernel - 1 - k, i]`.
pub(super) fn backward_input(
    backend: &CpuBackend,
    shape: GroupedConv1d,
    dy: &[f32],
    weight: &[f32],
    dx: &mut [f32],
    accumulate: bool,
    scratch: &mut [f32],
) {
    check(shape, dy, dx);
    assert_eq!(weight.len(), shape.weight_len(), "weight of {shape:?}");
    let (width, taps) = (shape.group(), shape.kernel * shape.group());
    let dx = Shared::new(dx);
    for_groups(backend, shape, scratch, |group, channels, turned| {
        gather(shape, dy, group, shape.kernel - 1 - shape.padding, channels);
        let first = group * width;
        for (output, rows) in weight[first * taps..(first + width) * taps]
            .chunks_exact(taps)
            .enumerate()
        {
            for (tap, inputs) in rows.chunks_exact(width).rev().enumerate() {
                for (input, value) in inputs.iter().enumerate() {
                    turned[(input * shape.kernel + tap) * width + output] = *value;
                }
            }
        }
        // SAFETY: a group's columns belong to one task.
        unsafe {
            let target = Target {
                start: dx.matrix(first, shape.frames, width, shape.channels),
                stride: shape.channels,
                accumulate,
                twin: None,
            };
            let (channels, turned) = (Matrix::rows(channels, width), Matrix::transposed(turned, taps));
            product(shape.frames, width, taps, 1.0, channels, turned, target);
        }
    });
}

/// See [`crate::engine::Backend::grouped_conv1d_backward_weight`].
pub(super) fn backward_weight(
    backend: &CpuBackend,
    shape: GroupedConv1d,
    x: &[f32],
    dy: &[f32],
    dweight: &mut [f32],
    scratch: &mut [f32],
) {
    check(shape, x, dy);
    assert_eq!(dweight.len(), shape.weight_len(), "weight of {shape:?}");
    let (width, taps) = (shape.group(), shape.kernel * shape.group());
    let dweight = Shared::new(dweight);
    for_groups(backend, shape, scratch, |group, channels, _| {
        gather(shape, x, group, shape.padding, channels);
        let first = group * width;
        // SAFETY: a group's rows of the weight belong to one task.
        unsafe {
            let target = Target {
                start: dweight.matrix(first * taps, width, taps, taps),
                stride: taps,
                accumulate: true,
                twin: None,
            };
            let dy = Matrix::transposed(&dy[first..], shape.channels);
            product(
                width,
                taps,
                shape.frames,
                1.0,
                dy,
                Matrix::rows(channels, width),
                target,
            );
        }
    });
}
