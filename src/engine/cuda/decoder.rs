//! What Whisper's decoder needs, as launches: kernels/cross_attention.cu, kernels/gather.cu.

use super::CudaBackend;
use super::device::blocks;
use super::memory::{View, ViewMut};
use super::ops::int;
use crate::engine::{CrossAttention, DecoderBackend};

/// The largest head (`MOST` in kernels/cross_attention.cu).
const LARGEST_HEAD: usize = 128;

fn check(shape: CrossAttention, q: View<'_>, kv: View<'_>, out: usize, log_sum_exp: usize) {
    let width = shape.width();
    assert!(
        shape.head_dim <= LARGEST_HEAD,
        "heads of {} values: the CUDA kernels take up to {LARGEST_HEAD}",
        shape.head_dim
    );
    assert_eq!((q.len(), kv.len()), (shape.queries * width, shape.keys * 2 * width));
    assert_eq!((out, log_sum_exp), (q.len(), shape.heads * shape.queries));
    assert!(shape.keys > 0, "nothing to look at");
    assert!(!shape.causal || shape.queries <= shape.keys, "more queries than keys");
}

impl CudaBackend {
    /// Row numbers on the device, behind what is under way.
    fn with_rows(&self, rows: &[u32], len: usize, cols: usize, work: impl FnOnce(View<'_, u32>)) {
        let known = len / cols.max(1);
        assert!(rows.iter().all(|&row| (row as usize) < known), "a row beyond {known}");
        self.with_scratch(rows.len(), |scratch| {
            self.write(rows, scratch.address());
            work(scratch.as_view().cast());
        });
    }
}

impl DecoderBackend for CudaBackend {
    fn cross_attention_scratch(&self, shape: CrossAttention) -> usize {
        shape.heads * shape.queries
    }

    fn cross_attention(
        &self,
        shape: CrossAttention,
        q: View<'_>,
        kv: View<'_>,
        mut out: ViewMut<'_>,
        mut log_sum_exp: ViewMut<'_>,
        _scratch: ViewMut<'_>,
    ) {
        check(shape, q, kv, out.len(), log_sum_exp.len());
        self.launcher().cross_attention_forward(
            (shape.queries as u32, shape.heads as u32, 1),
            q,
            kv,
            &mut out,
            &mut log_sum_exp,
            int(shape.queries),
            int(shape.keys),
            int(shape.heads),
            int(shape.head_dim),
            i32::from(shape.causal),
            shape.scale(),
        );
    }

    fn cross_attention_backward(
        &self,
        shape: CrossAttention,
        q: View<'_>,
        kv: View<'_>,
        out: View<'_>,
        log_sum_exp: View<'_>,
        dout: View<'_>,
        mut dq: ViewMut<'_>,
        mut dkv: ViewMut<'_>,
        mut scratch: ViewMut<'_>,
    ) {
        check(shape, q, kv, out.len(), log_sum_exp.len());
        assert_eq!((dout.len(), dq.len(), dkv.len()), (q.len(), q.len(), kv.len()));
        let values = shape.heads * shape.queries;
        assert!(scratch.len() >= values, "scratch of {shape:?}");
        let (launcher, scale, causal) = (self.launcher(), shape.scale(), i32::from(shape.causal));
        let (queries, keys) = (int(shape.queries), int(shape.keys));
        let (heads, head_dim) = (int(shape.heads), int(shape.head_dim));
        let grid = (blocks(values, 4), 1, 1);
        launcher.attention_row_terms(grid, out, dout, None, &mut scratch, queries, heads, head_dim);
        let (terms, saved) = (scratch.as_view(), log_sum_exp);
        let of = |rows: usize| (rows as u32, shape.heads as u32, 1);
        launcher.cross_attention_backward_queries(
            of(shape.queries),
            q,
            kv,
            saved,
            terms,
            dout,
            &mut dq,
            queries,
            keys,
            heads,
            head_dim,
            causal,
            scale,
        );
        launcher.cross_attention_backward_keys(
            of(shape.keys),
            q,
            kv,
            saved,
            terms,
            dout,
            &mut dkv,
            queries,
            keys,
            heads,
            head_dim,
            causal,
            scale,
        );
    }

    fn gather_rows(&self, rows: &[u32], cols: usize, table: View<'_>, mut y: ViewMut<'_>) {
        assert_eq!(y.len(), rows.len() * cols);
        self.with_rows(rows, table.len(), cols, |places| {
            self.launcher()
                .gather_rows((rows.len() as u32, 1, 1), places, table, &mut y, int(cols));
        });
    }

    fn gather_rows_backward(&self, rows: &[u32], cols: usize, dy: View<'_>, mut dtable: ViewMut<'_>) {
        assert_eq!(dy.len(), rows.len() * cols);
        self.with_rows(rows, dtable.len(), cols, |places| {
            let grid = (rows.len() as u32, 1, 1);
            self.launcher()
                .gather_rows_backward(grid, places, dy, &mut dtable, int(rows.len()), int(cols));
        });
    }
}
