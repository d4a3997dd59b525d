//! The grouped convolution over time in the frequency domain, for a weight that stays: overlap-save blocks (Oppenheim
//! and Schafer, "Discrete-Time Signal Processing", 8.7.3), in which the sum over taps becomes one complex product a
//! frequency. wav2vec2's 128 taps take a thirtieth of the operations.
//!
//! Forward is a correlation, `Y = X S` with S the conjugate spectrum of the weight over its taps; the input's gradient a
//! convolution, `dX = dY S̄ᵀ`.

use super::CpuBackend;
use super::grouped_convolution::check;
use super::matmul::{Matrix, product_into};
use super::memory::{with_scratch, zeros};
use super::parallel::Shared;
use crate::engine::GroupedConv1d;
use realfft::num_complex::Complex;
use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use std::ops::Range;
use std::sync::Arc;

/// Fewer taps are faster the direct way.
const FEWEST_TAPS: usize = 16;

/// Outputs whose spectra are written at once, a cache line for each bin.
const TOGETHER: usize = 16;

/// How a convolution is cut into blocks.
#[derive(Clone, Copy)]
struct Blocks {
    shape: GroupedConv1d,
    /// Values of a block, a power of two.
    len: usize,
    /// Outputs of a block that no wrapping round has reached.
    hop: usize,
    count: usize,
}

impl Blocks {
    fn of(shape: GroupedConv1d) -> Self {
        let len = (2 * shape.kernel).next_power_of_two();
        let hop = len - shape.kernel + 1;
        Self {
            shape,
            len,
            hop,
            count: shape.frames.div_ceil(hop),
        }
    }

    fn bins(&self) -> usize {
        self.len / 2 + 1
    }

    /// Values of a group's channels with what lies before and after them.
    fn padded(&self) -> usize {
        (self.count - 1) * self.hop + self.len
    }

    /// Values of one group's spectra: a bin after the other, `[inputs, real parts | imaginary parts of the outputs]`.
    fn spectrum(&self) -> usize {
        self.bins() * self.bin()
    }

    fn bin(&self) -> usize {
        2 * self.shape.group() * self.shape.group()
    }
}

struct Transforms {
    there: Arc<dyn RealToComplex<f32>>,
    back: Arc<dyn ComplexToReal<f32>>,
}

impl Transforms {
    fn new(len: usize) -> Self {
        let mut planner = RealFftPlanner::new();
        Self {
            there: planner.plan_fft_forward(len),
            back: planner.plan_fft_inverse(len),
        }
    }

    /// Room for one transform.
    fn buffers(&self) -> Buffers {
        Buffers {
            time: self.there.make_input_vec(),
            bins: self.there.make_output_vec(),
            scratch: vec![Complex::default(); self.there.get_scratch_len().max(self.back.get_scratch_len())],
        }
    }
}

struct Buffers {
    time: Vec<f32>,
    bins: Vec<Complex<f32>>,
    scratch: Vec<Complex<f32>>,
}

impl Buffers {
    fn forward(&mut self, transforms: &Transforms) {
        transforms
            .there
            .process_with_scratch(&mut self.time, &mut self.bins, &mut self.scratch)
            .expect("buffers of the plan's sizes");
    }

    fn inverse(&mut self, transforms: &Transforms) {
        // A real signal's first and last bin are real; rounding may have left something there.
        self.bins[0].im = 0.0;
        self.bins.last_mut().expect("at least one bin").im = 0.0;
        transforms
            .back
            .process_with_scratch(&mut self.bins, &mut self.time, &mut self.scratch)
            .expect("buffers of the plan's sizes");
    }
}

/// See [`crate::engine::Backend::prepare_grouped_conv1d`].
pub(super) fn prepare(backend: &CpuBackend, shape: GroupedConv1d, weight: &[f32]) -> Option<Vec<f32>> {
    assert_eq!(weight.len(), shape.weight_len(), "weight of {shape:?}");
    if shape.kernel < FEWEST_TAPS {
        return None;
    }
    let blocks = Blocks::of(GroupedConv1d { frames: 1, ..shape });
    let (width, taps) = (shape.group(), shape.kernel * shape.group());
    let mut spectra = zeros(shape.groups * blocks.spectrum())?;
    let transforms = Transforms::new(blocks.len);
    let to = Shared::new(&mut spectra);
    backend.run_parts(shape.groups, 1, |groups| {
        let mut buffers = transforms.buffers();
        let mut lines = vec![[[0.0; TOGETHER]; 2]; blocks.bins()];
        for group in groups {
            // SAFETY: a group's spectra are its own.
            let to = unsafe { to.stretch(group * blocks.spectrum()..(group + 1) * blocks.spectrum()) };
            for input in 0..width {
                for first in (0..width).step_by(TOGETHER) {
                    let outputs = first..width.min(first + TOGETHER);
                    for output in outputs.clone() {
                        let weight = &weight[(group * width + output) * taps..][..taps];
                        buffers.time.fill(0.0);
                        for (time, tap) in buffers.time.iter_mut().zip(weight.chunks_exact(width)) {
                            // Neither transform divides by its length.
                            *time = tap[input] / blocks.len as f32;
                        }
                        buffers.forward(&transforms);
                        for (value, line) in buffers.bins.iter().zip(&mut lines) {
                            (line[0][output - first], line[1][output - first]) = (value.re, -value.im);
                        }
                    }
                    for (line, to) in lines.iter().zip(to.chunks_exact_mut(blocks.bin())) {
                        for (part, values) in line.iter().enumerate() {
                            let start = (2 * input + part) * width;
                            to[start + outputs.start..start + outputs.end].copy_from_slice(&values[..outputs.len()]);
                        }
                    }
                }
            }
        }
    });
    Some(spectra)
}

/// Forward, or the input's gradient.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    InputGradient,
}

/// Runs one pass: `x` is the input, or the output's gradient; `write(frame, channels, values)` takes each frame's part of
/// a group's result.
fn run(
    backend: &CpuBackend,
    shape: GroupedConv1d,
    pass: Pass,
    x: &[f32],
    spectra: &[f32],
    write: impl Fn(usize, Range<usize>, &[f32]) + Sync,
) {
    let blocks = Blocks::of(shape);
    assert_eq!(spectra.len(), shape.groups * blocks.spectrum(), "spectra of {shape:?}");
    if shape.frames == 0 {
        return;
    }
    let width = shape.group();
    let (before, valid) = match pass {
        Pass::Forward => (shape.padding, 0),
        Pass::InputGradient => (shape.kernel - 1 - shape.padding, shape.kernel - 1),
    };
    let transforms = Transforms::new(blocks.len);
    // Real parts of every block, then imaginary ones: one product with S's real parts and one with its imaginary ones
    // make all four that a complex product needs.
    let rows = 2 * blocks.count;
    backend.run_parts(shape.groups, 1, |groups| {
        let mut buffers = transforms.buffers();
        let signal = width * blocks.padded();
        let sizes = [signal, blocks.bins() * rows * width, rows * 2 * width];
        with_scratch(sizes.iter().sum(), |space| {
            let (signals, space) = space.split_at_mut(sizes[0]);
            let (bins, products) = space.split_at_mut(sizes[1]);
            for group in groups {
                let channels = group * width..(group + 1) * width;
                gather(&blocks, x, channels.clone(), before, signals);
                transform(&blocks, &transforms, &mut buffers, signals, bins);
                let spectra = &spectra[group * blocks.spectrum()..][..blocks.spectrum()];
                for (bin, spectrum) in bins
                    .chunks_exact_mut(rows * width)
                    .zip(spectra.chunks_exact(blocks.bin()))
                {
                    multiply(pass, width, bin, spectrum, products);
                }
                let result = &mut signals[..shape.frames.next_multiple_of(blocks.hop) * width];
                transform_back(&blocks, &transforms, &mut buffers, bins, valid, result);
                for (frame, values) in result.chunks_exact(width).take(shape.frames).enumerate() {
                    write(frame, channels.clone(), values);
                }
            }
        });
    });
}

/// A group's channels one after the other, `[group, padded]`, with zeros before and after.
fn gather(blocks: &Blocks, x: &[f32], channels: Range<usize>, before: usize, to: &mut [f32]) {
    let padded = blocks.padded();
    to.fill(0.0);
    for (frame, row) in x.chunks_exact(blocks.shape.channels).enumerate() {
        // What the last block does not hold reaches no frame.
        if before + frame >= padded {
            break;
        }
        for (to, value) in to.chunks_exact_mut(padded).zip(&row[channels.clone()]) {
            to[before + frame] = *value;
        }
    }
}

/// Spectra of every block and channel, `[bin, real then imaginary of each block, channel]`.
fn transform(blocks: &Blocks, transforms: &Transforms, buffers: &mut Buffers, signals: &[f32], to: &mut [f32]) {
    let width = blocks.shape.group();
    for (channel, signal) in signals.chunks_exact(blocks.padded()).enumerate() {
        for block in 0..blocks.count {
            buffers
                .time
                .copy_from_slice(&signal[block * blocks.hop..][..blocks.len]);
            buffers.forward(transforms);
            for (value, to) in buffers.bins.iter().zip(to.chunks_exact_mut(2 * blocks.count * width)) {
                to[block * width + channel] = value.re;
                to[(blocks.count + block) * width + channel] = value.im;
            }
        }
    }
}

/// One bin's complex product, in place: `[2 blocks, group]` by `[group, group]`.
fn multiply(pass: Pass, width: usize, bin: &mut [f32], spectrum: &[f32], products: &mut [f32]) {
    let rows = bin.len() / width;
    let (real_part, imaginary_part) = products.split_at_mut(rows * width);
    let side = |part: usize| {
        let values = &spectrum[part * width..];
        match pass {
            Pass::Forward => Matrix::rows(values, 2 * width),
            Pass::InputGradient => Matrix::transposed(values, 2 * width),
        }
    };
    let x = Matrix::rows(bin, width);
    product_into(rows, width, width, 1.0, x, side(0), real_part, false);
    product_into(rows, width, width, 1.0, x, side(1), imaginary_part, false);
    // The gradient's factor is the conjugate.
    let sign = if pass == Pass::Forward { 1.0 } else { -1.0 };
    let half = rows / 2 * width;
    let (real, imaginary) = bin.split_at_mut(half);
    let (with_real, with_imaginary) = (real_part.split_at(half), imaginary_part.split_at(half));
    for (index, (real, imaginary)) in real.iter_mut().zip(imaginary).enumerate() {
        *real = with_real.0[index] - sign * with_imaginary.1[index];
        *imaginary = with_real.1[index] + sign * with_imaginary.0[index];
    }
}

/// Every block's signal from `valid` on, `[frame, channel]`.
fn transform_back(
    blocks: &Blocks,
    transforms: &Transforms,
    buffers: &mut Buffers,
    bins: &[f32],
    valid: usize,
    to: &mut [f32],
) {
    let width = blocks.shape.group();
    for channel in 0..width {
        for (block, to) in to.chunks_exact_mut(blocks.hop * width).enumerate() {
            for (value, from) in buffers.bins.iter_mut().zip(bins.chunks_exact(2 * blocks.count * width)) {
                value.re = from[block * width + channel];
                value.im = from[(blocks.count + block) * width + channel];
            }
            buffers.inverse(transforms);
            for (to, value) in to.chunks_exact_mut(width).zip(&buffers.time[valid..]) {
                to[channel] = *value;
            }
        }
    }
}

/// See [`crate::engine::Backend::prepared_grouped_conv1d`].
pub(super) fn forward(
    backend: &CpuBackend,
    shape: GroupedConv1d,
    x: &[f32],
    spectra: &[f32],
    bias: &[f32],
    y: &mut [f32],
) {
    check(shape, x, y);
    let y = Shared::new(y);
    run(backend, shape, Pass::Forward, x, spectra, |frame, channels, values| {
        let start = frame * shape.channels;
        // SAFETY: a group's columns belong to one task.
        let y = unsafe { y.stretch(start + channels.start..start + channels.end) };
        for ((y, value), bias) in y.iter_mut().zip(values).zip(&bias[channels]) {
            *y = value + bias;
        }
    });
}

/// See [`crate::engine::Backend::prepared_grouped_conv1d_backward_input`].
pub(super) fn backward_input(
    backend: &CpuBackend,
    shape: GroupedConv1d,
    dy: &[f32],
    spectra: &[f32],
    dx: &mut [f32],
    accumulate: bool,
) {
    check(shape, dy, dx);
    let dx = Shared::new(dx);
    run(
        backend,
        shape,
        Pass::InputGradient,
        dy,
        spectra,
        |frame, channels, values| {
            let start = frame * shape.channels;
            // SAFETY: a group's columns belong to one task.
            let dx = unsafe { dx.stretch(start + channels.start..start + channels.end) };
            for (dx, value) in dx.iter_mut().zip(values) {
                *dx = value + if accumulate { *dx } else { 0.0 };
            }
        },
    );
}
