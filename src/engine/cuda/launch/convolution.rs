// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/convolution.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/convolution.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn narrow_convolution_forward(
        &self,
        grid: Grid,
        shared: u32,
        x: View<'_>,
        weight: View<'_>,
        bias: Option<View<'_>>,
        y: &mut ViewMut<'_>,
        activated: Option<&mut ViewMut<'_>>,
        rows: i32,
        window: i32,
        stride: i32,
        outputs: i32,
        x_apart: i64,
        weight_apart: i32,
        bias_apart: i32,
        y_apart: i64,
    ) {
        self.arguments(&self.kernels().narrow_convolution_forward)
            .pointer(x.address())
            .pointer(weight.address())
            .optional(bias.as_ref().map(|view| view.address()))
            .pointer(y.address())
            .optional(activated.as_ref().map(|view| view.address()))
            .value(rows)
            .value(window)
            .value(stride)
            .value(outputs)
            .value(x_apart)
            .value(weight_apart)
            .value(bias_apart)
            .value(y_apart)
            .launch(grid, 128, shared);
    }

    /// `kernels/convolution.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn narrow_convolution_backward_weight(
        &self,
        grid: Grid,
        shared: u32,
        x: View<'_>,
        dy: View<'_>,
        partial: &mut ViewMut<'_>,
        rows: i32,
        window: i32,
        stride: i32,
        outputs: i32,
        chunk: i32,
        x_apart: i64,
        dy_apart: i64,
    ) {
        self.arguments(&self.kernels().narrow_convolution_backward_weight)
            .pointer(x.address())
            .pointer(dy.address())
            .pointer(partial.address())
            .value(rows)
            .value(window)
            .value(stride)
            .value(outputs)
            .value(chunk)
            .value(x_apart)
            .value(dy_apart)
            .launch(grid, 128, shared);
    }

    /// `kernels/convolution.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn add_chunks(
        &self,
        grid: Grid,
        partial: View<'_>,
        sum: &mut ViewMut<'_>,
        chunks: i32,
        len: i32,
        sum_apart: i32,
    ) {
        self.arguments(&self.kernels().add_chunks)
            .pointer(partial.address())
            .pointer(sum.address())
            .value(chunks)
            .value(len)
            .value(sum_apart)
            .launch(grid, 256, 0);
    }

    /// `kernels/convolution.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn grouped_convolution(
        &self,
        grid: Grid,
        x: View<'_>,
        weight: View<'_>,
        bias: Option<View<'_>>,
        y: &mut ViewMut<'_>,
        frames: i32,
        channels: i32,
        n: i32,
        taps: i32,
        padding: i32,
        group_stride: i64,
        output_stride: i32,
        tap_stride: i32,
        input_stride: i32,
        accumulate: i32,
    ) {
        self.arguments(&self.kernels().grouped_convolution)
            .pointer(x.address())
            .pointer(weight.address())
            .optional(bias.as_ref().map(|view| view.address()))
            .pointer(y.address())
            .value(frames)
            .value(channels)
            .value(n)
            .value(taps)
            .value(padding)
            .value(group_stride)
            .value(output_stride)
            .value(tap_stride)
            .value(input_stride)
            .value(accumulate)
            .launch(grid, 256, 0);
    }

    /// `kernels/convolution.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn grouped_convolution_backward_weight(
        &self,
        grid: Grid,
        x: View<'_>,
        dy: View<'_>,
        dweight: &mut ViewMut<'_>,
        frames: i32,
        channels: i32,
        n: i32,
        taps: i32,
        padding: i32,
    ) {
        self.arguments(&self.kernels().grouped_convolution_backward_weight)
            .pointer(x.address())
            .pointer(dy.address())
            .pointer(dweight.address())
            .value(frames)
            .value(channels)
            .value(n)
            .value(taps)
            .value(padding)
            .launch(grid, 256, 0);
    }
}
