// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/elementwise.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn gelu_forward(&self, grid: Grid, x: View<'_>, y: &mut ViewMut<'_>, len: i64) {
        self.arguments(&self.kernels().gelu_forward)
            .pointer(x.address())
            .pointer(y.address())
            .value(len)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn gelu_in_place(&self, grid: Grid, x: &mut ViewMut<'_>, len: i64) {
        self.arguments(&self.kernels().gelu_in_place)
            .pointer(x.address())
            .value(len)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn gelu_backward(&self, grid: Grid, pre: View<'_>, d: &mut ViewMut<'_>, len: i64) {
        self.arguments(&self.kernels().gelu_backward)
            .pointer(pre.address())
            .pointer(d.address())
            .value(len)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn add(
        &self,
        grid: Grid,
        x: View<'_>,
        y: &mut ViewMut<'_>,
        len: i64,
        x_stride: i64,
        y_stride: i64,
    ) {
        self.arguments(&self.kernels().add)
            .pointer(x.address())
            .pointer(y.address())
            .value(len)
            .value(x_stride)
            .value(y_stride)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn clear_padding(
        &self,
        grid: Grid,
        counted: View<'_, u32>,
        x: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        stride: i64,
    ) {
        self.arguments(&self.kernels().clear_padding)
            .pointer(counted.address())
            .pointer(x.address())
            .value(rows)
            .value(cols)
            .value(stride)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn join_rows(
        &self,
        grid: Grid,
        x: View<'_>,
        starts: View<'_, u32>,
        y: &mut ViewMut<'_>,
        rows: i32,
        cols: i32,
        utterances: i32,
        each: i32,
    ) {
        self.arguments(&self.kernels().join_rows)
            .pointer(x.address())
            .pointer(starts.address())
            .pointer(y.address())
            .value(rows)
            .value(cols)
            .value(utterances)
            .value(each)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn part_rows(
        &self,
        grid: Grid,
        x: View<'_>,
        starts: View<'_, u32>,
        y: &mut ViewMut<'_>,
        cols: i32,
        each: i32,
    ) {
        self.arguments(&self.kernels().part_rows)
            .pointer(x.address())
            .pointer(starts.address())
            .pointer(y.address())
            .value(cols)
            .value(each)
            .launch(grid, 256, 0);
    }

    /// `kernels/elementwise.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn find_not_finite(
        &self,
        grid: Grid,
        x: View<'_>,
        found: &mut ViewMut<'_, u32>,
        len: i64,
    ) {
        self.arguments(&self.kernels().find_not_finite)
            .pointer(x.address())
            .pointer(found.address())
            .value(len)
            .launch(grid, 256, 0);
    }
}
