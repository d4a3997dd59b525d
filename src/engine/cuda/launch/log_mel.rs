// Made by kernels/build.py from the kernels' signatures; do not edit. CI makes it again and compares.

//! Launch functions for `kernels/log_mel.cu`.

use crate::engine::cuda::device::{Grid, Launcher};
use crate::engine::cuda::memory::{View, ViewMut};

#[allow(clippy::too_many_arguments)]
impl Launcher<'_> {
    /// `kernels/log_mel.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn log_mel_bands(
        &self,
        grid: Grid,
        x: View<'_>,
        cosines: View<'_, f64>,
        filters: View<'_, f64>,
        out: &mut ViewMut<'_>,
        highest: &mut ViewMut<'_>,
        samples: i32,
        bands: i32,
    ) {
        self.arguments(&self.kernels().log_mel_bands)
            .pointer(x.address())
            .pointer(cosines.address())
            .pointer(filters.address())
            .pointer(out.address())
            .pointer(highest.address())
            .value(samples)
            .value(bands)
            .launch(grid, 256, 0);
    }

    /// `kernels/log_mel.cu`: blocks of 256 threads.
    pub(in crate::engine::cuda) fn log_mel_scale(
        &self,
        grid: Grid,
        highest: View<'_>,
        out: &mut ViewMut<'_>,
        frames: i32,
        len: i64,
    ) {
        self.arguments(&self.kernels().log_mel_scale)
            .pointer(highest.address())
            .pointer(out.address())
            .value(frames)
            .value(len)
            .launch(grid, 256, 0);
    }
}
