// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/attention.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn attention_forward_64(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        starts: Option<View<'_, u32>>,
        out: &mut ViewMut<'_>,
        log_sum_exp: &mut ViewMut<'_>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_forward_64)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .optional(starts.as_ref().map(|view| view.address()))
            .pointer(out.address())
            .pointer(log_sum_exp.address())
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 33152);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn attention_forward_128(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        starts: Option<View<'_, u32>>,
        out: &mut ViewMut<'_>,
        log_sum_exp: &mut ViewMut<'_>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_forward_128)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .optional(starts.as_ref().map(|view| view.address()))
            .pointer(out.address())
            .pointer(log_sum_exp.address())
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 37120);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn attention_row_terms(
        &self,
        grid: Grid,
        out: View<'_>,
        dout: View<'_>,
        starts: Option<View<'_, u32>>,
        terms: &mut ViewMut<'_>,
        rows: i32,
        heads: i32,
        head_dim: i32,
    ) {
        self.arguments(&self.kernels().attention_row_terms)
            .pointer(out.address())
            .pointer(dout.address())
            .optional(starts.as_ref().map(|view| view.address()))
            .pointer(terms.address())
            .value(rows)
            .value(heads)
            .value(head_dim)
            .launch(grid, 128, 0);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn attention_backward_keys_64(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        starts: Option<View<'_, u32>>,
        log_sum_exp: View<'_>,
        terms: View<'_>,
        dout: View<'_>,
        dqkv: &mut ViewMut<'_>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_backward_keys_64)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .optional(starts.as_ref().map(|view| view.address()))
            .pointer(log_sum_exp.address())
            .pointer(terms.address())
            .pointer(dout.address())
            .pointer(dqkv.address())
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 37376);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn attention_backward_keys_128(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        starts: Option<View<'_, u32>>,
        log_sum_exp: View<'_>,
        terms: View<'_>,
        dout: View<'_>,
        dqkv: &mut ViewMut<'_>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_backward_keys_128)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .optional(starts.as_ref().map(|view| view.address()))
            .pointer(log_sum_exp.address())
            .pointer(terms.address())
            .pointer(dout.address())
            .pointer(dqkv.address())
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 70144);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn attention_backward_queries_64(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        starts: Option<View<'_, u32>>,
        log_sum_exp: View<'_>,
        terms: View<'_>,
        dout: View<'_>,
        dqkv: &mut ViewMut<'_>,
        dgate: Option<&mut ViewMut<'_>>,
        dtable: Option<&mut ViewMut<'_>>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_backward_queries_64)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .optional(starts.as_ref().map(|view| view.address()))
            .pointer(log_sum_exp.address())
            .pointer(terms.address())
            .pointer(dout.address())
            .pointer(dqkv.address())
            .optional(dgate.as_ref().map(|view| view.address()))
            .optional(dtable.as_ref().map(|view| view.address()))
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 37376);
    }

    /// `kernels/attention.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn attention_backward_queries_128(
        &self,
        grid: Grid,
        qkv: View<'_>,
        gate: Option<View<'_>>,
        table: Option<View<'_>>,
        starts: Option<View<'_, u32>>,
        log_sum_exp: View<'_>,
        terms: View<'_>,
        dout: View<'_>,
        dqkv: &mut ViewMut<'_>,
        dgate: Option<&mut ViewMut<'_>>,
        dtable: Option<&mut ViewMut<'_>>,
        frames: i32,
        heads: i32,
        head_dim: i32,
        scale: f32,
    ) {
        self.arguments(&self.kernels().attention_backward_queries_128)
            .pointer(qkv.address())
            .optional(gate.as_ref().map(|view| view.address()))
            .optional(table.as_ref().map(|view| view.address()))
            .optional(starts.as_ref().map(|view| view.address()))
            .pointer(log_sum_exp.address())
            .pointer(terms.address())
            .pointer(dout.address())
            .pointer(dqkv.address())
            .optional(dgate.as_ref().map(|view| view.address()))
            .optional(dtable.as_ref().map(|view| view.address()))
            .value(frames)
            .value(heads)
            .value(head_dim)
            .value(scale)
            .launch(grid, 128, 70144);
    }
}
