//! What Whisper's decoder needs of a device.

use super::{Backend, CrossAttention};

/// A device that also runs what Whisper's decoder needs.
pub trait DecoderBackend: Backend {
    /// Values of scratch memory that attention to other rows needs (forward and backward alike).
    fn cross_attention_scratch(&self, shape: CrossAttention) -> usize;
    /// Softmax attention of q `[queries, heads, head_dim]` over kv `[keys, 2, heads, head_dim]`, out as q,
    /// `log_sum_exp` `[heads, queries]`. With `causal`, query i sees the keys `0 ..= keys - queries + i` alone.
    fn cross_attention(
        &self,
        shape: CrossAttention,
        q: Self::View<'_>,
        kv: Self::View<'_>,
        out: Self::ViewMut<'_>,
        log_sum_exp: Self::ViewMut<'_>,
        scratch: Self::ViewMut<'_>,
    );
    /// `dq = ...` as q, and `dkv = ...` as kv.
    fn cross_attention_backward(
        &self,
        shape: CrossAttention,
        q: Self::View<'_>,
        kv: Self::View<'_>,
        out: Self::View<'_>,
        log_sum_exp: Self::View<'_>,
        dout: Self::View<'_>,
        dq: Self::ViewMut<'_>,
        dkv: Self::ViewMut<'_>,
        scratch: Self::ViewMut<'_>,
    );

    /// `y[r] = table[rows[r]]`, table `[_, cols]` and y `[rows.len(), cols]`: an embedding. Panics on a row outside.
    fn gather_rows(&self, rows: &[u32], cols: usize, table: Self::View<'_>, y: Self::ViewMut<'_>);
    /// `dtable[rows[r]] += dy[r]`.
    fn gather_rows_backward(&self, rows: &[u32], cols: usize, dy: Self::View<'_>, dtable: Self::ViewMut<'_>);
}
