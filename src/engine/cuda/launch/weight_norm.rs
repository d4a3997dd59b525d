// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/weight_norm.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/weight_norm.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn weight_norm_forward(
        &self,
        grid: Grid,
        direction: View<'_>,
        magnitude: View<'_>,
        weight: &mut ViewMut<'_>,
        outputs: i32,
        taps: i32,
        width: i32,
    ) {
        self.arguments(&self.kernels().weight_norm_forward)
            .pointer(direction.address())
            .pointer(magnitude.address())
            .pointer(weight.address())
            .value(outputs)
            .value(taps)
            .value(width)
            .launch(grid, 256, 0);
    }

    /// `kernels/weight_norm.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn weight_norm_backward(
        &self,
        grid: Grid,
        direction: View<'_>,
        magnitude: View<'_>,
        dweight: View<'_>,
        ddirection: Option<&mut ViewMut<'_>>,
        dmagnitude: Option<&mut ViewMut<'_>>,
        outputs: i32,
        taps: i32,
        width: i32,
    ) {
        self.arguments(&self.kernels().weight_norm_backward)
            .pointer(direction.address())
            .pointer(magnitude.address())
            .pointer(dweight.address())
            .optional(ddirection.as_ref().map(|view| view.address()))
            .optional(dmagnitude.as_ref().map(|view| view.address()))
            .value(outputs)
            .value(taps)
            .value(width)
            .launch(grid, 256, 0);
    }
}
