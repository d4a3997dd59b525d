// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/ctc.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/ctc.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn ctc_log_softmax(
        &self,
        grid: Grid,
        logits: View<'_>,
        log_probabilities: &mut ViewMut<'_, f64>,
        frames: i32,
        classes: i32,
        over_time: i32,
    ) {
        self.arguments(&self.kernels().ctc_log_softmax)
            .pointer(logits.address())
            .pointer(log_probabilities.address())
            .value(frames)
            .value(classes)
            .value(over_time)
            .launch(grid, 128, 0);
    }

    /// `kernels/ctc.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn ctc_paths(
        &self,
        grid: Grid,
        log_probabilities: View<'_, f64>,
        target: View<'_, u32>,
        alpha: &mut ViewMut<'_, f64>,
        beta: &mut ViewMut<'_, f64>,
        frames: i32,
        classes: i32,
        length: i32,
        blank: i32,
    ) {
        self.arguments(&self.kernels().ctc_paths)
            .pointer(log_probabilities.address())
            .pointer(target.address())
            .pointer(alpha.address())
            .pointer(beta.address())
            .value(frames)
            .value(classes)
            .value(length)
            .value(blank)
            .launch(grid, 256, 0);
    }

    /// `kernels/ctc.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn ctc_occupancy(
        &self,
        grid: Grid,
        alpha: View<'_, f64>,
        beta: View<'_, f64>,
        target: View<'_, u32>,
        occupancy: &mut ViewMut<'_, f64>,
        frames: i32,
        classes: i32,
        length: i32,
        blank: i32,
    ) {
        self.arguments(&self.kernels().ctc_occupancy)
            .pointer(alpha.address())
            .pointer(beta.address())
            .pointer(target.address())
            .pointer(occupancy.address())
            .value(frames)
            .value(classes)
            .value(length)
            .value(blank)
            .launch(grid, 128, 0);
    }

    /// `kernels/ctc.cu`: blocks of 128 threads.
    pub(in crate::engine::cuda) fn ctc_gradient(
        &self,
        grid: Grid,
        log_probabilities: View<'_, f64>,
        alpha: View<'_, f64>,
        occupancy: View<'_, f64>,
        dlogits: &mut ViewMut<'_>,
        loss: &mut ViewMut<'_, f64>,
        frames: i32,
        classes: i32,
        length: i32,
        over_time: i32,
    ) {
        self.arguments(&self.kernels().ctc_gradient)
            .pointer(log_probabilities.address())
            .pointer(alpha.address())
            .pointer(occupancy.address())
            .pointer(dlogits.address())
            .pointer(loss.address())
            .value(frames)
            .value(classes)
            .value(length)
            .value(over_time)
            .launch(grid, 128, 0);
    }
}
