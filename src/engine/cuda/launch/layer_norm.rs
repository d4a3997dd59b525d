// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/layer_norm.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/layer_norm.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn layer_norm_forward(
        &self,
        grid: Grid,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        starts: Option<View<'_, u32>>,
        y: &mut ViewMut<'_>,
        statistics: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        utterances: i32,
        weight_stride: i32,
        bias_stride: i32,
        activate: i32,
    ) {
        self.arguments(&self.kernels().layer_norm_forward)
            .pointer(x.address())
            .pointer(weight.address())
            .pointer(bias.address())
            .optional(starts.as_ref().map(|view| view.address()))
            .pointer(y.address())
            .pointer(statistics.address())
            .value(rows)
            .value(cols)
            .value(utterances)
            .value(weight_stride)
            .value(bias_stride)
            .value(activate)
            .launch(grid, 128, 0);
    }

    /// `kernels/layer_norm.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn layer_norm_backward_input(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        weight: View<'_>,
        bias: Option<View<'_>>,
        dy: View<'_>,
        starts: Option<View<'_, u32>>,
        dx: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        accumulate: i32,
        utterances: i32,
        weight_stride: i32,
        bias_stride: i32,
    ) {
        self.arguments(&self.kernels().layer_norm_backward_input)
            .pointer(x.address())
            .pointer(statistics.address())
            .pointer(weight.address())
            .optional(bias.as_ref().map(|view| view.address()))
            .pointer(dy.address())
            .optional(starts.as_ref().map(|view| view.address()))
            .pointer(dx.address())
            .value(rows)
            .value(cols)
            .value(accumulate)
            .value(utterances)
            .value(weight_stride)
            .value(bias_stride)
            .launch(grid, 128, 0);
    }

    /// `kernels/layer_norm.cu`: blocks of 512 threads.
    pub(in crate::engine::cuda) fn layer_norm_backward_parameters(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        weight: Option<View<'_>>,
        bias: Option<View<'_>>,
        dy: View<'_>,
        starts: Option<View<'_, u32>>,
        dweight: Option<&mut ViewMut<'_>>,
        dbias: Option<&mut ViewMut<'_>>,
        all: i32,
        cols: i32,
        weight_stride: i32,
        bias_stride: i32,
        stride: i32,
    ) {
        self.arguments(&self.kernels().layer_norm_backward_parameters)
            .pointer(x.address())
            .pointer(statistics.address())
            .optional(weight.as_ref().map(|view| view.address()))
            .optional(bias.as_ref().map(|view| view.address()))
            .pointer(dy.address())
            .optional(starts.as_ref().map(|view| view.address()))
            .optional(dweight.as_ref().map(|view| view.address()))
            .optional(dbias.as_ref().map(|view| view.address()))
            .value(all)
            .value(cols)
            .value(weight_stride)
            .value(bias_stride)
            .value(stride)
            .launch(grid, 512, 0);
    }

    /// `kernels/layer_norm.cu`: blocks of 512 threads.
    pub(in crate::engine::cuda) fn bias_backward(
        &self,
        grid: Grid,
        dy: View<'_>,
        dbias: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        dy_stride: i64,
        dbias_stride: i64,
    ) {
        self.arguments(&self.kernels().bias_backward)
            .pointer(dy.address())
            .pointer(dbias.address())
            .value(rows)
            .value(cols)
            .value(dy_stride)
            .value(dbias_stride)
            .launch(grid, 512, 0);
    }
}
