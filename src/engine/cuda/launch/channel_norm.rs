// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/channel_norm.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/channel_norm.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn channel_norm_moments(
        &self,
        grid: Grid,
        x: View<'_>,
        counted: Option<View<'_, u32>>,
        partial: &mut ViewMut<'_, f64>,
        all: i32,
        cols: i32,
        chunk: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_moments)
            .pointer(x.address())
            .optional(counted.as_ref().map(|view| view.address()))
            .pointer(partial.address())
            .value(all)
            .value(cols)
            .value(chunk)
            .launch(grid, 256, 0);
    }

    /// `kernels/channel_norm.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn channel_norm_statistics(
        &self,
        grid: Grid,
        partial: View<'_, f64>,
        counted: Option<View<'_, u32>>,
        statistics: &mut ViewMut<'_>,
        all: i32,
        cols: i32,
        chunk: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_statistics)
            .pointer(partial.address())
            .optional(counted.as_ref().map(|view| view.address()))
            .pointer(statistics.address())
            .value(all)
            .value(cols)
            .value(chunk)
            .launch(grid, 128, 0);
    }

    /// `kernels/channel_norm.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn channel_norm_gelu_apply(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        y: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        chunk: i32,
        weight_stride: i32,
        bias_stride: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_gelu_apply)
            .pointer(x.address())
            .pointer(statistics.address())
            .pointer(weight.address())
            .pointer(bias.address())
            .pointer(y.address())
            .value(rows)
            .value(cols)
            .value(chunk)
            .value(weight_stride)
            .value(bias_stride)
            .launch(grid, 256, 0);
    }

    /// `kernels/channel_norm.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn channel_norm_gelu_gradient(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        d: &mut ViewMut<'_>,
        partial: &mut ViewMut<'_, f64>,
        rows: i32,
        cols: i32,
        chunk: i32,
        weight_stride: i32,
        bias_stride: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_gelu_gradient)
            .pointer(x.address())
            .pointer(statistics.address())
            .pointer(weight.address())
            .pointer(bias.address())
            .pointer(d.address())
            .pointer(partial.address())
            .value(rows)
            .value(cols)
            .value(chunk)
            .value(weight_stride)
            .value(bias_stride)
            .launch(grid, 256, 0);
    }

    /// `kernels/channel_norm.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn channel_norm_gradient_sums(
        &self,
        grid: Grid,
        partial: View<'_, f64>,
        counted: Option<View<'_, u32>>,
        dweight: Option<&mut ViewMut<'_>>,
        dbias: Option<&mut ViewMut<'_>>,
        means: &mut ViewMut<'_>,
        all: i32,
        cols: i32,
        chunks: i32,
        stride: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_gradient_sums)
            .pointer(partial.address())
            .optional(counted.as_ref().map(|view| view.address()))
            .optional(dweight.as_ref().map(|view| view.address()))
            .optional(dbias.as_ref().map(|view| view.address()))
            .pointer(means.address())
            .value(all)
            .value(cols)
            .value(chunks)
            .value(stride)
            .launch(grid, 128, 0);
    }

    /// `kernels/channel_norm.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn channel_norm_backward_apply(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        weight: View<'_>,
        means: View<'_>,
        counted: Option<View<'_, u32>>,
        d: &mut ViewMut<'_>,
        all: i32,
        cols: i32,
        chunk: i32,
        weight_stride: i32,
    ) {
        self.arguments(&self.kernels().channel_norm_backward_apply)
            .pointer(x.address())
            .pointer(statistics.address())
            .pointer(weight.address())
            .pointer(means.address())
            .optional(counted.as_ref().map(|view| view.address()))
            .pointer(d.address())
            .value(all)
            .value(cols)
            .value(chunk)
            .value(weight_stride)
            .launch(grid, 256, 0);
    }
}
