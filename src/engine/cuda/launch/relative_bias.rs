// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/relative_bias.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/relative_bias.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn relative_gate_forward(
        &self,
        grid: Grid,
        projection: View<'_>,
        constant: View<'_>,
        gate: &mut ViewMut<'_>,
        frames: i32,
        heads: i32,
    ) {
        self.arguments(&self.kernels().relative_gate_forward)
            .pointer(projection.address())
            .pointer(constant.address())
            .pointer(gate.address())
            .value(frames)
            .value(heads)
            .launch(grid, 256, 0);
    }

    /// `kernels/relative_bias.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn relative_gate_backward(
        &self,
        grid: Grid,
        projection: View<'_>,
        constant: View<'_>,
        dgate: View<'_>,
        dprojection: &mut ViewMut<'_>,
        dconstant: Option<&mut ViewMut<'_>>,
        frames: i32,
        heads: i32,
    ) {
        self.arguments(&self.kernels().relative_gate_backward)
            .pointer(projection.address())
            .pointer(constant.address())
            .pointer(dgate.address())
            .pointer(dprojection.address())
            .optional(dconstant.as_ref().map(|view| view.address()))
            .value(frames)
            .value(heads)
            .launch(grid, 256, 0);
    }

    /// `kernels/relative_bias.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn relative_table_forward(
        &self,
        grid: Grid,
        buckets: View<'_, u32>,
        embedding: View<'_>,
        table: &mut ViewMut<'_>,
        heads: i32,
        distances: i32,
    ) {
        self.arguments(&self.kernels().relative_table_forward)
            .pointer(buckets.address())
            .pointer(embedding.address())
            .pointer(table.address())
            .value(heads)
            .value(distances)
            .launch(grid, 256, 0);
    }

    /// `kernels/relative_bias.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn relative_table_backward(
        &self,
        grid: Grid,
        buckets: View<'_, u32>,
        dtable: View<'_>,
        dembedding: &mut ViewMut<'_>,
        bucket_count: i32,
        heads: i32,
        distances: i32,
    ) {
        self.arguments(&self.kernels().relative_table_backward)
            .pointer(buckets.address())
            .pointer(dtable.address())
            .pointer(dembedding.address())
            .value(bucket_count)
            .value(heads)
            .value(distances)
            .launch(grid, 256, 0);
    }
}
