// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/descent.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/descent.cu`: blocks of 32 threads.
    pub(in crate::engine::cuda) fn descent_judge(
        &self,
        grid: Grid,
        value: View<'_, f64>,
        ledger: &mut ViewMut<'_, f64>,
        steps: i32,
        safeguard: i32,
    ) {
        self.arguments(&self.kernels().descent_judge)
            .pointer(value.address())
            .pointer(ledger.address())
            .value(steps)
            .value(safeguard)
            .launch(grid, 32, 0);
    }

    /// `kernels/descent.cu`: blocks of 32 threads.
    pub(in crate::engine::cuda) fn descent_check(
        &self,
        grid: Grid,
        bad: View<'_, u32>,
        ledger: &mut ViewMut<'_, f64>,
        words: i32,
    ) {
        self.arguments(&self.kernels().descent_check)
            .pointer(bad.address())
            .pointer(ledger.address())
            .value(words)
            .launch(grid, 32, 0);
    }

    /// `kernels/descent.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn descent_copy(
        &self,
        grid: Grid,
        ledger: View<'_, f64>,
        words: i32,
        word: i32,
        starts: Option<View<'_, u32>>,
        cols: i32,
        from: View<'_>,
        to: &mut ViewMut<'_>,
        len: i64,
    ) {
        self.arguments(&self.kernels().descent_copy)
            .pointer(ledger.address())
            .value(words)
            .value(word)
            .optional(starts.as_ref().map(|view| view.address()))
            .value(cols)
            .pointer(from.address())
            .pointer(to.address())
            .value(len)
            .launch(grid, 256, 0);
    }

    /// `kernels/descent.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn descent_adamw(
        &self,
        grid: Grid,
        ledger: View<'_, f64>,
        words: i32,
        share: i64,
        values: &mut ViewMut<'_>,
        gradients: View<'_>,
        first_moment: &mut ViewMut<'_>,
        second_moment: &mut ViewMut<'_>,
        beta1: f64,
        beta2: f64,
        learning_rate: f64,
        weight_decay: f64,
        epsilon: f32,
        first: View<'_, f64>,
        multiplicity: i32,
        repeat: i32,
        len: i64,
    ) {
        self.arguments(&self.kernels().descent_adamw)
            .pointer(ledger.address())
            .value(words)
            .value(share)
            .pointer(values.address())
            .pointer(gradients.address())
            .pointer(first_moment.address())
            .pointer(second_moment.address())
            .value(beta1)
            .value(beta2)
            .value(learning_rate)
            .value(weight_decay)
            .value(epsilon)
            .pointer(first.address())
            .value(multiplicity)
            .value(repeat)
            .value(len)
            .launch(grid, 256, 0);
    }
}
