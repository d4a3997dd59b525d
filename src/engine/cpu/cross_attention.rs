//! Attention to other rows, `softmax(s Q Kᵀ) V` per head: a decoder's to the encoder's output, and to its own past.
//!
//! A step of decoding has one query or a few: then keys and values are read once, in place. Many queries (a prompt, a
//! teacher-forced pass) go through matrix products in blocks, as self-attention does; see there for the gradients.

use super::CpuBackend;
use super::attention::{dot, exponentials, for_units, scale, score_gradient};
use super::matmul::{FewRows, Matrix, Target, multiply_few_rows, product, product_into};
use super::parallel::Shared;
use super::simd::{Lanes, vectorised};
use crate::engine::CrossAttention;

/// Query rows handled at once.
const BLOCK_ROWS: usize = 192;
/// Up to so many queries, packing keys and values for a matrix product costs more than the product.
const FEW_QUERIES: usize = 8;
/// Values that all of a few queries meet while they are in cache.
const KEYS_IN_CACHE: usize = 64;
/// Columns whose sums stay in registers.
const MIXED: usize = 64;
/// Multiplications that are worth a second thread.
const WORTH_A_THREAD: usize = 1 << 16;

/// See [`crate::engine::DecoderBackend::cross_attention_scratch`]: two blocks of scores a thread.
pub(super) fn scratch(backend: &CpuBackend, shape: CrossAttention) -> usize {
    backend.threads() * 2 * BLOCK_ROWS.min(shape.queries) * shape.keys
}

#[inline(always)]
fn mix_body<L: Lanes>(weights: &[f32], v: &[f32], stride: usize, out: &mut [f32]) {
    let mut from = 0;
    while let Some(out) = out.get_mut(from..from + MIXED) {
        let mut sums = [0.0f32; MIXED];
        sums.copy_from_slice(out);
        for (key, weight) in weights.iter().enumerate() {
            let v = &v[key * stride + from..key * stride + from + MIXED];
            for (sum, v) in sums.iter_mut().zip(v) {
                *sum = L::mul_add(*weight, *v, *sum);
            }
        }
        out.copy_from_slice(&sums);
        from += MIXED;
    }
    let out = &mut out[from..];
    for (key, weight) in weights.iter().enumerate() {
        let v = &v[key * stride + from..key * stride + from + out.len()];
        for (out, v) in out.iter_mut().zip(v) {
            *out = L::mul_add(*weight, *v, *out);
        }
    }
}

vectorised! {
    /// `out += Σ_j weights[j] v[j]`, values `stride` apart.
    fn mix(weights: &[f32], v: &[f32], stride: usize, out: &mut [f32]) = mix_body
}

fn check(shape: CrossAttention, q: &[f32], kv: &[f32], out: &[f32], log_sum_exp: &[f32]) {
    let width = shape.width();
    assert_eq!((q.len(), kv.len()), (shape.queries * width, shape.keys * 2 * width));
    assert_eq!((out.len(), log_sum_exp.len()), (q.len(), shape.heads * shape.queries));
    assert!(!shape.causal || shape.queries <= shape.keys, "more queries than keys");
}

/// See [`crate::engine::DecoderBackend::cross_attention`].
pub(super) fn forward(
    backend: &CpuBackend,
    shape: CrossAttention,
    q: &[f32],
    kv: &[f32],
    out: &mut [f32],
    log_sum_exp: &mut [f32],
    scratch: &mut [f32],
) {
    check(shape, q, kv, out, log_sum_exp);
    let (queries, keys, width, dim) = (shape.queries, shape.keys, shape.width(), shape.head_dim);
    let block = BLOCK_ROWS.min(queries);
    let blocks = queries.div_ceil(block.max(1));
    let size = block * keys;
    let (out, log_sum_exp, scratch) = (Shared::new(out), Shared::new(log_sum_exp), Shared::new(scratch));
    let unit = |slot: usize, unit: usize| {
        let (head, first) = (unit / blocks, unit % blocks * block);
        let rows = block.min(queries - first);
        // SAFETY: a thread slot's scratch, a head's rows of the output and of the log-sum-exps are its own.
        let (scores, log_sum_exp) = unsafe {
            (
                scratch.stretch(slot * 2 * size..slot * 2 * size + rows * keys),
                log_sum_exp.stretch(head * queries + first..head * queries + first + rows),
            )
        };
        let (k, v) = (&kv[head * dim..], &kv[width + head * dim..]);
        let column = |row: usize| (first + row) * width + head * dim;
        if queries <= FEW_QUERIES {
            let at = column(0);
            // SAFETY: a head's columns of a row belong to this unit alone.
            let out_of = |row: usize| unsafe { out.stretch(at + row * width..at + row * width + dim) };
            // SAFETY: the scores are this unit's own. Those of keys that a query does not see are not looked at.
            unsafe {
                multiply_few_rows(&FewRows {
                    rows,
                    cols: keys,
                    depth: dim,
                    left: (&q[at..], width),
                    right: (k, 2 * width),
                    scale: shape.scale(),
                    result: (scores.as_mut_ptr(), keys),
                    accumulate: false,
                });
            }
            let mut factors = [0.0f32; FEW_QUERIES];
            for (row, log_sum_exp) in log_sum_exp.iter_mut().enumerate() {
                let seen = &mut scores[row * keys..][..shape.visible(first + row)];
                (*log_sum_exp, factors[row]) = exponentials(seen);
                out_of(row).fill(0.0);
            }
            for from in (0..keys).step_by(KEYS_IN_CACHE) {
                for row in 0..rows {
                    let seen = shape.visible(first + row).clamp(from, from + KEYS_IN_CACHE);
                    let weights = &scores[row * keys..][from..seen];
                    mix(weights, &v[from * 2 * width..], 2 * width, out_of(row));
                }
            }
            (0..rows).for_each(|row| scale(factors[row], out_of(row)));
            return;
        }
        let q = Matrix::rows(&q[column(0)..], width);
        let k = Matrix::transposed(k, 2 * width);
        product_into(rows, keys, dim, shape.scale(), q, k, scores, false);
        let mut factors = [0.0f32; BLOCK_ROWS];
        for (row, (scores, log_sum_exp)) in scores.chunks_exact_mut(keys).zip(log_sum_exp).enumerate() {
            let (seen, hidden) = scores.split_at_mut(shape.visible(first + row));
            (*log_sum_exp, factors[row]) = exponentials(seen);
            hidden.fill(0.0);
        }
        // SAFETY: a head's columns of the block's rows belong to this unit alone.
        unsafe {
            let target = Target {
                start: out.matrix(column(0), rows, dim, width),
                stride: width,
                accumulate: false,
                twin: None,
            };
            let v = Matrix::rows(v, 2 * width);
            product(rows, dim, keys, 1.0, Matrix::rows(scores, keys), v, target);
            for (row, factor) in factors.iter().take(rows).enumerate() {
                scale(*factor, out.stretch(column(row)..column(row) + dim));
            }
        }
    };
    if queries * keys * width < WORTH_A_THREAD {
        (0..shape.heads * blocks).for_each(|index| unit(0, index));
    } else {
        for_units(backend, shape.heads * blocks, unit);
    }
}

/// See [`crate::engine::DecoderBackend::cross_attention_backward`]. `saved` is the output and the log-sum-exps. Heads are
/// shared out: keys and values gather from all queries.
pub(super) fn backward(
    backend: &CpuBackend,
    shape: CrossAttention,
    q: &[f32],
    kv: &[f32],
    saved: (&[f32], &[f32]),
    dout: &[f32],
    (dq, dkv): (&mut [f32], &mut [f32]),
    scratch: &mut [f32],
) {
    let (out, log_sum_exp) = saved;
    check(shape, q, kv, out, log_sum_exp);
    assert_eq!((dout.len(), dq.len(), dkv.len()), (q.len(), q.len(), kv.len()));
    let (queries, keys, width, dim) = (shape.queries, shape.keys, shape.width(), shape.head_dim);
    let block = BLOCK_ROWS.min(queries);
    let size = block * keys;
    let (dq, dkv, scratch) = (Shared::new(dq), Shared::new(dkv), Shared::new(scratch));
    for_units(backend, shape.heads, |slot, head| {
        let stride = 2 * width;
        let (k, v) = (&kv[head * dim..], &kv[width + head * dim..]);
        for first in (0..queries).step_by(block.max(1)) {
            let rows = block.min(queries - first);
            let base = slot * 2 * size;
            // SAFETY: a thread slot's scratch is its own; the two halves are disjoint.
            let (scores, dscores) = unsafe {
                (
                    scratch.stretch(base..base + rows * keys),
                    scratch.stretch(base + size..base + size + rows * keys),
                )
            };
            let at = first * width + head * dim;
            let (q, dout_block) = (Matrix::rows(&q[at..], width), Matrix::rows(&dout[at..], width));
            let transposed = |part| Matrix::transposed(part, stride);
            product_into(rows, keys, dim, shape.scale(), q, transposed(k), scores, false);
            product_into(rows, keys, dim, 1.0, dout_block, transposed(v), dscores, false);
            for row in 0..rows {
                let at = (first + row) * width + head * dim;
                let row_term = dot(&dout[at..at + dim], &out[at..at + dim]);
                let (start, seen) = (row * keys, shape.visible(first + row));
                let log_sum_exp = log_sum_exp[head * queries + first + row];
                score_gradient(
                    &mut scores[start..start + seen],
                    log_sum_exp,
                    &mut dscores[start..start + seen],
                    row_term,
                );
                scores[start + seen..start + keys].fill(0.0);
                dscores[start + seen..start + keys].fill(0.0);
            }
            let (scores, dscores) = (&*scores, &*dscores);
            let accumulate = first > 0;
            // SAFETY: this head's columns of dQ, dK and dV belong to this unit alone.
            unsafe {
                let target = Target {
                    start: dq.matrix(at, rows, dim, width),
                    stride: width,
                    accumulate: false,
                    twin: None,
                };
                let d = Matrix::rows(dscores, keys);
                product(rows, dim, keys, shape.scale(), d, Matrix::rows(k, stride), target);
                let target = |offset| Target {
                    start: dkv.matrix(offset, keys, dim, stride),
                    stride,
                    accumulate,
                    twin: None,
                };
                let d = Matrix::transposed(dscores, keys);
                product(keys, dim, rows, shape.scale(), d, q, target(head * dim));
                let p = Matrix::transposed(scores, keys);
                product(keys, dim, rows, 1.0, p, dout_block, target(width + head * dim));
            }
        }
    });
}
