// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/gather.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/gather.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn gather_rows(
        &self,
        grid: Grid,
        rows: View<'_, u32>,
        table: View<'_>,
        y: &mut ViewMut<'_>,
        cols: i32,
    ) {
        self.arguments(&self.kernels().gather_rows)
            .pointer(rows.address())
            .pointer(table.address())
            .pointer(y.address())
            .value(cols)
            .launch(grid, 128, 0);
    }

    /// `kernels/gather.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn gather_rows_backward(
        &self,
        grid: Grid,
        rows: View<'_, u32>,
        dy: View<'_>,
        dtable: &mut ViewMut<'_>,
        count: i32,
        cols: i32,
    ) {
        self.arguments(&self.kernels().gather_rows_backward)
            .pointer(rows.address())
            .pointer(dy.address())
            .pointer(dtable.address())
            .value(count)
            .value(cols)
            .launch(grid, 128, 0);
    }
}
