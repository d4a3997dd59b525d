// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/cross_attention.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/cross_attention.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn cross_attention_forward(
        &self,
        grid: Grid,
        q: View<'_>,
        kv: View<'_>,
        out: &mut ViewMut<'_>,
        log_sum_exp: &mut ViewMut<'_>,
        queries: i32,
        keys: i32,
        heads: i32,
        head_dim: i32,
        causal: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().cross_attention_forward)
            .pointer(q.address())
            .pointer(kv.address())
            .pointer(out.address())
            .pointer(log_sum_exp.address())
            .value(queries)
            .value(keys)
            .value(heads)
            .value(head_dim)
            .value(causal)
            .value(scale)
            .launch(grid, 256, 0);
    }

    /// `kernels/cross_attention.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn cross_attention_backward_queries(
        &self,
        grid: Grid,
        q: View<'_>,
        kv: View<'_>,
        log_sum_exp: View<'_>,
        terms: View<'_>,
        dout: View<'_>,
        dq: &mut ViewMut<'_>,
        queries: i32,
        keys: i32,
        heads: i32,
        head_dim: i32,
        causal: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().cross_attention_backward_queries)
            .pointer(q.address())
            .pointer(kv.address())
            .pointer(log_sum_exp.address())
            .pointer(terms.address())
            .pointer(dout.address())
            .pointer(dq.address())
            .value(queries)
            .value(keys)
            .value(heads)
            .value(head_dim)
            .value(causal)
            .value(scale)
            .launch(grid, 256, 0);
    }

    /// `kernels/cross_attention.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn cross_attention_backward_keys(
        &self,
        grid: Grid,
        q: View<'_>,
        kv: View<'_>,
        log_sum_exp: View<'_>,
        terms: View<'_>,
        dout: View<'_>,
        dkv: &mut ViewMut<'_>,
        queries: i32,
        keys: i32,
        heads: i32,
        head_dim: i32,
        causal: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().cross_attention_backward_keys)
            .pointer(q.address())
            .pointer(kv.address())
            .pointer(log_sum_exp.address())
            .pointer(terms.address())
            .pointer(dout.address())
            .pointer(dkv.address())
            .value(queries)
            .value(keys)
            .value(heads)
            .value(head_dim)
            .value(causal)
            .value(scale)
            .launch(grid, 256, 0);
    }
}
