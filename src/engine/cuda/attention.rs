//! Attention's launches, and those of WavLM's relative bias.

use super::CudaBackend;
use super::device::{Grid, blocks};
use super::memory::{View, ViewMut};
use super::ops::{extent, int, starts};
use crate::engine::{Attention, BiasAndGradient, RelativeBias, Rows, Spans};

/// Rows or keys a block (`OWN` in kernels/attention.cu).
const TILE: usize = 32;
/// Head sizes of the two sets of kernels.
const SMALL: usize = 64;
const LARGE: usize = 128;
/// Values of a gate's projection.
const PROJECTION: usize = 8;

fn grid(shape: Attention, spans: Option<Spans<View<'_>>>) -> Grid {
    assert!(
        shape.head_dim <= LARGE,
        "heads of {} values: the CUDA kernels take up to {LARGE}",
        shape.head_dim
    );
    let (longest, count) = extent(shape.frames, spans);
    (blocks(longest, TILE), shape.heads as u32, count)
}

fn check_bias(shape: Attention, bias: &Option<RelativeBias<View<'_>>>) {
    if let Some(bias) = bias {
        let distances = shape.heads * (2 * shape.frames - 1);
        assert_eq!(
            (bias.gate.len(), bias.table.len() >= distances),
            (shape.frames * shape.heads, true)
        );
    }
}

impl CudaBackend {
    pub(super) fn attention_forward(
        &self,
        shape: Attention,
        spans: Option<Spans<View<'_>>>,
        qkv: View<'_>,
        bias: Option<RelativeBias<View<'_>>>,
        mut out: ViewMut<'_>,
        mut log_sum_exp: ViewMut<'_>,
    ) {
        let values = shape.frames * shape.width();
        let lens = (qkv.len(), out.len(), log_sum_exp.len());
        assert_eq!(lens, (3 * values, values, shape.frames * shape.heads), "{shape:?}");
        check_bias(shape, &bias);
        assert!(
            bias.is_none() || spans.is_none_or(|spans| spans.count == 1),
            "a bias of several utterances"
        );
        let (gate, table) = bias.map(|bias| (bias.gate, bias.table)).unzip();
        let starts = starts(spans);
        let (frames, heads, head_dim) = (int(shape.frames), int(shape.heads), int(shape.head_dim));
        let (launcher, grid, scale) = (self.launcher(), grid(shape, spans), shape.scale());
        let (out, lse) = (&mut out, &mut log_sum_exp);
        if shape.head_dim <= SMALL {
            launcher.attention_forward_64(grid, qkv, gate, table, starts, out, lse, frames, heads, head_dim, scale);
        } else {
            launcher.attention_forward_128(grid, qkv, gate, table, starts, out, lse, frames, heads, head_dim, scale);
        }
    }

    pub(super) fn attention_gradient(
        &self,
        shape: Attention,
        spans: Option<Spans<View<'_>>>,
        qkv: View<'_>,
        bias: BiasAndGradient<View<'_>, ViewMut<'_>>,
        out: View<'_>,
        lse: View<'_>,
        dout: View<'_>,
        mut dqkv: ViewMut<'_>,
        mut terms: ViewMut<'_>,
    ) {
        let (values, rows) = (shape.frames * shape.width(), shape.frames * shape.heads);
        let lens = (qkv.len(), dqkv.len(), out.len(), dout.len(), lse.len());
        assert_eq!(lens, (3 * values, 3 * values, values, values, rows), "{shape:?}");
        assert!(terms.len() >= rows, "scratch of {shape:?}");
        let (bias, gradient) = bias.unzip();
        check_bias(shape, &bias);
        assert!(
            bias.is_none() || spans.is_none_or(|spans| spans.count == 1),
            "a bias of several utterances"
        );
        let (gate, table) = bias.map(|bias| (bias.gate, bias.table)).unzip();
        let starts = starts(spans);
        let (mut dgate, mut dtable) = match gradient {
            Some(gradient) => (Some(gradient.gate), gradient.table),
            None => (None, None),
        };
        assert!(dgate.as_ref().is_none_or(|dgate| dgate.len() == rows));
        let distances = shape.heads * (2 * shape.frames).saturating_sub(1);
        assert!(dtable.as_ref().is_none_or(|dtable| dtable.len() >= distances));
        let (frames, heads, head_dim) = (int(shape.frames), int(shape.heads), int(shape.head_dim));
        let (launcher, grid, scale) = (self.launcher(), grid(shape, spans), shape.scale());
        let (longest, count) = extent(shape.frames, spans);
        let of_rows = (blocks(longest * shape.heads, 4), 1, count);
        launcher.attention_row_terms(of_rows, out, dout, starts, &mut terms, frames, heads, head_dim);
        let (terms, dqkv, dgate, dtable) = (terms.as_view(), &mut dqkv, dgate.as_mut(), dtable.as_mut());
        if shape.head_dim <= SMALL {
            launcher.attention_backward_keys_64(
                grid, qkv, gate, table, starts, lse, terms, dout, dqkv, frames, heads, head_dim, scale,
            );
            launcher.attention_backward_queries_64(
                grid, qkv, gate, table, starts, lse, terms, dout, dqkv, dgate, dtable, frames, heads, head_dim, scale,
            );
        } else {
            launcher.attention_backward_keys_128(
                grid, qkv, gate, table, starts, lse, terms, dout, dqkv, frames, heads, head_dim, scale,
            );
            launcher.attention_backward_queries_128(
                grid, qkv, gate, table, starts, lse, terms, dout, dqkv, dgate, dtable, frames, heads, head_dim, scale,
            );
        }
    }

    pub(super) fn gate_forward(&self, shape: Rows, projection: View<'_>, constant: View<'_>, mut gate: ViewMut<'_>) {
        let (frames, heads) = (shape.rows, shape.cols);
        let lens = (projection.len(), constant.len(), gate.len());
        assert_eq!(lens, (frames * heads * PROJECTION, heads, frames * heads));
        let grid = (blocks(frames * heads, 256), 1, 1);
        self.launcher()
            .relative_gate_forward(grid, projection, constant, &mut gate, int(frames), int(heads));
    }

    pub(super) fn gate_gradient(
        &self,
        shape: Rows,
        projection: View<'_>,
        constant: View<'_>,
        dgate: View<'_>,
        mut dprojection: ViewMut<'_>,
        mut dconstant: Option<ViewMut<'_>>,
    ) {
        let (frames, heads) = (shape.rows, shape.cols);
        let lens = (projection.len(), dprojection.len(), constant.len(), dgate.len());
        let projected = frames * heads * PROJECTION;
        assert_eq!(lens, (projected, projected, heads, frames * heads));
        assert!(dconstant.as_ref().is_none_or(|dconstant| dconstant.len() == heads));
        self.launcher().relative_gate_backward(
            (shape.cols as u32, 1, 1),
            projection,
            constant,
            dgate,
            &mut dprojection,
            dconstant.as_mut(),
            int(frames),
            int(heads),
        );
    }

    pub(super) fn table_forward(&self, buckets: &[u32], heads: usize, embedding: View<'_>, mut table: ViewMut<'_>) {
        let distances = buckets.len();
        assert_eq!(table.len(), heads * distances);
        let rows = embedding.len() / heads;
        assert!(
            buckets.iter().all(|&bucket| (bucket as usize) < rows),
            "a bucket beyond {rows}"
        );
        self.with_buckets(buckets, |buckets| {
            let grid = (blocks(heads * distances, 256), 1, 1);
            self.launcher()
                .relative_table_forward(grid, buckets, embedding, &mut table, int(heads), int(distances));
        });
    }

    pub(super) fn table_gradient(&self, buckets: &[u32], heads: usize, dtable: View<'_>, mut dembedding: ViewMut<'_>) {
        let distances = buckets.len();
        assert_eq!(dtable.len(), heads * distances);
        let rows = dembedding.len() / heads;
        self.with_buckets(buckets, |buckets| {
            self.launcher().relative_table_backward(
                (blocks(rows * heads, 8), 1, 1),
                buckets,
                dtable,
                &mut dembedding,
                int(rows),
                int(heads),
                int(distances),
            );
        });
    }
}
