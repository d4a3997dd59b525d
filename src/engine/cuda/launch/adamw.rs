// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/adamw.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/adamw.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn adamw_update(
        &self,
        grid: Grid,
        values: &mut ViewMut<'_>,
        gradients: View<'_>,
        first_moment: &mut ViewMut<'_>,
        second_moment: &mut ViewMut<'_>,
        beta1: f32,
        one_minus_beta1: f32,
        beta2: f32,
        one_minus_beta2: f32,
        decay: f32,
        step_size: f32,
        root_correction: f32,
        epsilon: f32,
        len: i64,
    ) {
        self.arguments(&self.kernels().adamw_update)
            .pointer(values.address())
            .pointer(gradients.address())
            .pointer(first_moment.address())
            .pointer(second_moment.address())
            .value(beta1)
            .value(one_minus_beta1)
            .value(beta2)
            .value(one_minus_beta2)
            .value(decay)
            .value(step_size)
            .value(root_correction)
            .value(epsilon)
            .value(len)
            .launch(grid, 256, 0);
    }
}
