// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/objective.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/objective.cu`: blocks of 512 threads.
    pub(in crate::engine::cuda) fn entropy_mcc(
        &self,
        grid: Grid,
        logits: View<'_>,
        starts: Option<View<'_, u32>>,
        dlogits: &mut ViewMut<'_>,
        frame_terms: &mut ViewMut<'_, f64>,
        class_terms: &mut ViewMut<'_, f64>,
        result: &mut ViewMut<'_, f64>,
        rows: i32,
        classes: i32,
        blank: i32,
        temperature: f64,
        entropy_weight: f64,
    ) {
        self.arguments(&self.kernels().entropy_mcc)
            .pointer(logits.address())
            .optional(starts.as_ref().map(|view| view.address()))
            .pointer(dlogits.address())
            .pointer(frame_terms.address())
            .pointer(class_terms.address())
            .pointer(result.address())
            .value(rows)
            .value(classes)
            .value(blank)
            .value(temperature)
            .value(entropy_weight)
            .launch(grid, 512, 0);
    }
}
