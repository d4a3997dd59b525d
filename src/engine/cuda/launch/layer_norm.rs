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
        y: &mut ViewMut<'_>,
        statistics: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
    ) {
        self.arguments(&self.kernels().layer_norm_forward)
            .pointer(x.address())
            .pointer(weight.address())
            .pointer(bias.address())
            .pointer(y.address())
            .pointer(statistics.address())
            .value(rows)
            .value(cols)
            .launch(grid, 128, 0);
    }

    /// `kernels/layer_norm.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn layer_norm_backward_input(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        weight: View<'_>,
        dy: View<'_>,
        dx: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        accumulate: i32,
    ) {
        self.arguments(&self.kernels().layer_norm_backward_input)
            .pointer(x.address())
            .pointer(statistics.address())
            .pointer(weight.address())
            .pointer(dy.address())
            .pointer(dx.address())
            .value(rows)
            .value(cols)
            .value(accumulate)
            .launch(grid, 128, 0);
    }

    /// `kernels/layer_norm.cu`: blocks of 512 threads.
    pub(in crate::engine::cuda) fn layer_norm_backward_parameters(
        &self,
        grid: Grid,
        x: View<'_>,
        statistics: View<'_>,
        dy: View<'_>,
        dweight: Option<&mut ViewMut<'_>>,
        dbias: Option<&mut ViewMut<'_>>,
        rows: i32,
        cols: i32,
    ) {
        self.arguments(&self.kernels().layer_norm_backward_parameters)
            .pointer(x.address())
            .pointer(statistics.address())
            .pointer(dy.address())
            .optional(dweight.as_ref().map(|view| view.address()))
            .optional(dbias.as_ref().map(|view| view.address()))
            .value(rows)
            .value(cols)
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
    ) {
        self.arguments(&self.kernels().bias_backward)
            .pointer(dy.address())
            .pointer(dbias.address())
            .value(rows)
            .value(cols)
            .launch(grid, 512, 0);
    }
}
