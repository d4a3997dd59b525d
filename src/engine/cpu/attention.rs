//! Softmax attention, `softmax(s Q Kᵀ) V` per head, in blocks of query rows.
//!
//! Forward keeps each row's log-sum-exp; backward recomputes a block's probabilities from it. With
//! `D = Σ_d dO O` per row: `dP = dO Vᵀ`, `dS = P (dP - D)`, `dQ = s dS K`, `dK = s dSᵀ Q`, `dV = Pᵀ dO`.

use super::CpuBackend;
use super::math::exp;
use super::matmul::{Matrix, Target, product, product_into};
use super::parallel::Shared;
use super::simd::{Lanes, WIDTH, dot_body, sum_body, vectorised};
use crate::engine::{Attention, BiasAndGradient, RelativeBias};

/// Query rows handled at once. Every block packs all keys and values again, so small blocks, though they would stay in
/// a second-level cache, cost more than they save: 192 rows measured best from 500 to 1500 frames.
const BLOCK_ROWS: usize = 192;

fn block_rows(frames: usize) -> usize {
    BLOCK_ROWS.min(frames)
}

/// See [`crate::engine::Backend::attention_scratch`]: two blocks of scores a thread.
pub(super) fn scratch(backend: &CpuBackend, shape: Attention) -> usize {
    backend.threads() * 2 * block_rows(shape.frames) * shape.frames
}

/// The Q, K or V part (0, 1, 2) of one head, as the tail of the buffer that starts at its first value.
fn part(qkv: &[f32], shape: Attention, which: usize, head: usize, row: usize) -> &[f32] {
    &qkv[row * 3 * shape.width() + which * shape.width() + head * shape.head_dim..]
}

#[inline(always)]
fn exponentials_body<L: Lanes>(row: &mut [f32]) -> (f32, f32) {
    let mut lanes = [f32::NEG_INFINITY; WIDTH];
    let chunks = row.chunks_exact(WIDTH);
    let mut highest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for lane in 0..WIDTH {
            lanes[lane] = if chunk[lane] > lanes[lane] {
                chunk[lane]
            } else {
                lanes[lane]
            };
        }
    }
    for lane in lanes {
        highest = highest.max(lane);
    }
    for value in row.iter_mut() {
        *value = exp::<L>(*value - highest);
    }
    let sum = sum_body(row);
    (highest + sum.ln(), 1.0 / sum)
}

vectorised! {
    /// `e^(x - max)` in place; returns the row's log-sum-exp, and what makes the row a softmax when multiplied by it.
    pub(super) fn exponentials(row: &mut [f32]) -> (f32, f32) = exponentials_body
}

#[inline(always)]
fn log_sum_exp_body<L: Lanes>(x: &[f32], highest: f32) -> f32 {
    let mut lanes = [0.0f32; WIDTH];
    let chunks = x.chunks_exact(WIDTH);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..WIDTH {
            lanes[lane] += exp::<L>(chunk[lane] - highest);
        }
    }
    let rest: f32 = rest.iter().map(|value| exp::<L>(*value - highest)).sum();
    highest + (lanes.iter().sum::<f32>() + rest).ln()
}

vectorised! {
    fn log_sum_exp_from(x: &[f32], highest: f32) -> f32 = log_sum_exp_body
}

/// `ln Σ e^x`, of values of which some may be negative infinity; that too when all are, or there are none.
pub fn log_sum_exp(x: &[f32]) -> f32 {
    let highest = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if highest == f32::NEG_INFINITY {
        return highest;
    }
    log_sum_exp_from(x, highest)
}

#[inline(always)]
fn scale_body<L: Lanes>(factor: f32, x: &mut [f32]) {
    for x in x {
        *x *= factor;
    }
}

vectorised! {
    pub(super) fn scale(factor: f32, x: &mut [f32]) = scale_body
}

#[inline(always)]
fn score_gradient_body<L: Lanes>(scores: &mut [f32], log_sum_exp: f32, d: &mut [f32], row_term: f32) {
    for (score, d) in scores.iter_mut().zip(d) {
        let probability = exp::<L>(*score - log_sum_exp);
        *score = probability;
        *d = probability * (*d - row_term);
    }
}

vectorised! {
    /// `scores → P`, `dP → dS`, one row.
    pub(super) fn score_gradient(scores: &mut [f32], log_sum_exp: f32, d: &mut [f32], row_term: f32) = score_gradient_body
}

#[inline(always)]
fn dot_generic<L: Lanes>(x: &[f32], y: &[f32]) -> f32 {
    dot_body::<L>(x, y)
}

vectorised! {
    pub(super) fn dot(x: &[f32], y: &[f32]) -> f32 = dot_generic
}

#[inline(always)]
fn add_scaled_body<L: Lanes>(factor: f32, x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = L::mul_add(factor, *x, *y);
    }
}

vectorised! {
    /// `y += factor x`.
    pub(super) fn add_scaled(factor: f32, x: &[f32], y: &mut [f32]) = add_scaled_body
}

/// Where row `row`'s distances lie in the relative bias's table.
fn distances(frames: usize, head: usize, row: usize) -> std::ops::Range<usize> {
    let start = head * (2 * frames - 1) + frames - 1 - row;
    start..start + frames
}

/// Adds the relative bias to a block of scores that starts at row `first`.
fn add_bias(bias: Option<RelativeBias<&[f32]>>, frames: usize, head: usize, first: usize, scores: &mut [f32]) {
    let Some(bias) = bias else { return };
    for (row, scores) in scores.chunks_exact_mut(frames).enumerate() {
        let gate = bias.gate[head * frames + first + row];
        add_scaled(gate, &bias.table[distances(frames, head, first + row)], scores);
    }
}

/// Runs `task(thread slot, unit)` for every unit, each thread slot on its own scratch.
pub(super) fn for_units(backend: &CpuBackend, units: usize, task: impl Fn(usize, usize) + Sync) {
    let slots = backend.threads().min(units).max(1);
    backend.run(slots, |slot| {
        // Contiguous ranges: a head's K and V are packed while in cache.
        for unit in units * slot / slots..units * (slot + 1) / slots {
            task(slot, unit);
        }
    });
}

/// See [`crate::engine::Backend::attention`].
pub(super) fn forward(
    backend: &CpuBackend,
    shape: Attention,
    qkv: &[f32],
    bias: Option<RelativeBias<&[f32]>>,
    out: &mut [f32],
    log_sum_exp: &mut [f32],
    scratch: &mut [f32],
) {
    let (frames, width, dim) = (shape.frames, shape.width(), shape.head_dim);
    assert_eq!(
        (qkv.len(), out.len(), log_sum_exp.len()),
        (frames * 3 * width, frames * width, frames * shape.heads)
    );
    let block = block_rows(frames);
    let blocks = frames.div_ceil(block);
    let (out, log_sum_exp, scratch) = (Shared::new(out), Shared::new(log_sum_exp), Shared::new(scratch));
    for_units(backend, shape.heads * blocks, |slot, unit| {
        let (head, first) = (unit / blocks, unit % blocks * block);
        let rows = block.min(frames - first);
        let size = block * frames;
        // SAFETY: a thread slot's scratch, a head's rows of the output and of the log-sum-exps are its own.
        let (scores, log_sum_exp) = unsafe {
            (
                scratch.stretch(slot * 2 * size..slot * 2 * size + rows * frames),
                log_sum_exp.stretch(head * frames + first..head * frames + first + rows),
            )
        };
        let q = Matrix::rows(part(qkv, shape, 0, head, first), 3 * width);
        let k = Matrix::transposed(part(qkv, shape, 1, head, 0), 3 * width);
        product_into(rows, frames, dim, shape.scale(), q, k, scores, false);
        add_bias(bias, frames, head, first, scores);
        let mut factors = [0.0f32; BLOCK_ROWS];
        for ((row, log_sum_exp), factor) in scores.chunks_exact_mut(frames).zip(log_sum_exp).zip(&mut factors) {
            (*log_sum_exp, *factor) = exponentials(row);
        }
        let v = Matrix::rows(part(qkv, shape, 2, head, 0), 3 * width);
        // SAFETY: a head's columns of the block's rows belong to this unit alone.
        unsafe {
            let start = out.matrix(first * width + head * dim, rows, dim, width);
            let target = Target {
                start,
                stride: width,
                accumulate: false,
                twin: None,
            };
            product(rows, dim, frames, 1.0, Matrix::rows(scores, frames), v, target);
            // Shorter than the scores, so this is where the softmax's denominator is cheapest.
            for (row, factor) in factors.iter().take(rows).enumerate() {
                let start = (first + row) * width + head * dim;
                scale(*factor, out.stretch(start..start + dim));
            }
        }
    });
}

/// See [`crate::engine::Backend::attention_backward`]. Heads are shared out: keys and values gather from all rows.
pub(super) fn backward(
    backend: &CpuBackend,
    shape: Attention,
    qkv: &[f32],
    bias: BiasAndGradient<&[f32], &mut [f32]>,
    out: &[f32],
    log_sum_exp: &[f32],
    dout: &[f32],
    dqkv: &mut [f32],
    scratch: &mut [f32],
) {
    let (frames, width, dim) = (shape.frames, shape.width(), shape.head_dim);
    assert_eq!((qkv.len(), dqkv.len()), (frames * 3 * width, frames * 3 * width));
    assert_eq!((out.len(), dout.len()), (frames * width, frames * width));
    let block = block_rows(frames);
    let scale = shape.scale();
    let (bias, dbias) = bias.unzip();
    let dbias = dbias.map(|dbias| (Shared::new(dbias.gate), dbias.table.map(Shared::new)));
    let (dqkv, scratch) = (Shared::new(dqkv), Shared::new(scratch));
    for_units(backend, shape.heads, |slot, head| {
        for first in (0..frames).step_by(block) {
            let rows = block.min(frames - first);
            let size = block * frames;
            let base = slot * 2 * size;
            // SAFETY: a thread slot's scratch is its own; the two halves are disjoint.
            let (scores, dscores) = unsafe {
                (
                    scratch.stretch(base..base + rows * frames),
                    scratch.stretch(base + size..base + size + rows * frames),
                )
            };
            let q = part(qkv, shape, 0, head, first);
            let k = part(qkv, shape, 1, head, 0);
            let v = part(qkv, shape, 2, head, 0);
            let dout_block = &dout[first * width + head * dim..];
            let k_transposed = Matrix::transposed(k, 3 * width);
            product_into(
                rows,
                frames,
                dim,
                scale,
                Matrix::rows(q, 3 * width),
                k_transposed,
                scores,
                false,
            );
            add_bias(bias, frames, head, first, scores);
            let v_transposed = Matrix::transposed(v, 3 * width);
            product_into(
                rows,
                frames,
                dim,
                1.0,
                Matrix::rows(dout_block, width),
                v_transposed,
                dscores,
                false,
            );
            for row in 0..rows {
                let at = (first + row) * width + head * dim;
                let row_term = dot(&dout[at..at + dim], &out[at..at + dim]);
                let range = row * frames..(row + 1) * frames;
                let log_sum_exp = log_sum_exp[head * frames + first + row];
                score_gradient(
                    &mut scores[range.clone()],
                    log_sum_exp,
                    &mut dscores[range.clone()],
                    row_term,
                );
                if let (Some(bias), Some((dgate, dtable))) = (bias, &dbias) {
                    let (at, distances) = (head * frames + first + row, distances(frames, head, first + row));
                    // SAFETY: a head's gates and distances belong to this unit alone.
                    unsafe {
                        dgate.stretch(at..at + 1)[0] = dot(&dscores[range.clone()], &bias.table[distances.clone()]);
                        if let Some(dtable) = dtable {
                            add_scaled(bias.gate[at], &dscores[range], dtable.stretch(distances));
                        }
                    }
                }
            }
            let stride = 3 * width;
            let accumulate = first > 0;
            let (scores, dscores) = (&*scores, &*dscores);
            // SAFETY: this head's columns of dQ, dK and dV belong to this unit alone.
            unsafe {
                let start = dqkv.matrix(first * stride + head * dim, rows, dim, stride);
                let target = Target {
                    start,
                    stride,
                    accumulate: false,
                    twin: None,
                };
                product(
                    rows,
                    dim,
                    frames,
                    scale,
                    Matrix::rows(dscores, frames),
                    Matrix::rows(k, stride),
                    target,
                );
                let start = dqkv.matrix(width + head * dim, frames, dim, stride);
                let target = Target {
                    start,
                    stride,
                    accumulate,
                    twin: None,
                };
                product(
                    frames,
                    dim,
                    rows,
                    scale,
                    Matrix::transposed(dscores, frames),
                    Matrix::rows(q, stride),
                    target,
                );
                let start = dqkv.matrix(2 * width + head * dim, frames, dim, stride);
                let target = Target {
                    start,
                    stride,
                    accumulate,
                    twin: None,
                };
                let (p, dout) = (Matrix::transposed(scores, frames), Matrix::rows(dout_block, width));
                product(frames, dim, rows, 1.0, p, dout, target);
            }
        }
    });
}
