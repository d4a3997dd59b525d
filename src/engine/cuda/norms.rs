//! Norms as launches: kernels/layer_norm.cu, kernels/channel_norm.cu.

use super::CudaBackend;
use super::device::blocks;
use super::memory::{View, ViewMut};
use super::ops::{chunk, int, starts};
use crate::engine::{Each, Rows, Spans};

/// A count's word, as the kernels read it; see [`crate::engine::Backend::pads`].
fn words(counted: Option<View<'_>>) -> Option<View<'_, u32>> {
    assert!(counted.is_none_or(|counted| counted.len() == 1));
    counted.map(View::cast)
}

/// One utterance's values.
pub(super) fn one(values: View<'_>) -> Each<View<'_>> {
    Each { values, stride: 0 }
}

/// Panics where one of so many utterances would find fewer than `cols` values.
fn check_each(each: Each<View<'_>>, count: usize, cols: usize) {
    let reach = (count - 1) * each.stride + cols;
    assert!(reach <= each.values.len(), "{reach} of {} values", each.values.len());
}

impl CudaBackend {
    pub(super) fn norm_forward(
        &self,
        shape: Rows,
        spans: Option<Spans<View<'_>>>,
        x: View<'_>,
        (weight, bias): (Each<View<'_>>, Each<View<'_>>),
        mut y: ViewMut<'_>,
        mut statistics: ViewMut<'_>,
        activate: bool,
    ) {
        let (rows, cols, count) = (shape.rows, shape.cols, spans.map_or(1, |spans| spans.count));
        let lens = (x.len(), y.len(), statistics.len());
        assert_eq!(lens, (rows * cols, rows * cols, rows * 2));
        check_each(weight, count, cols);
        check_each(bias, count, cols);
        self.launcher().layer_norm_forward(
            (blocks(rows, 4), 1, 1),
            x,
            weight.values,
            bias.values,
            starts(spans),
            &mut y,
            &mut statistics,
            int(rows),
            int(cols),
            int(count),
            int(weight.stride),
            int(bias.stride),
            i32::from(activate),
        );
    }

    pub(super) fn norm_input(
        &self,
        shape: Rows,
        spans: Option<Spans<View<'_>>>,
        x: View<'_>,
        statistics: View<'_>,
        weight: Each<View<'_>>,
        dy: View<'_>,
        mut dx: ViewMut<'_>,
        accumulate: bool,
    ) {
        let (rows, cols, count) = (shape.rows, shape.cols, spans.map_or(1, |spans| spans.count));
        let lens = (x.len(), dy.len(), dx.len(), statistics.len());
        assert_eq!(lens, (rows * cols, rows * cols, rows * cols, rows * 2));
        check_each(weight, count, cols);
        self.launcher().layer_norm_backward_input(
            (blocks(rows, 4), 1, 1),
            x,
            statistics,
            weight.values,
            dy,
            starts(spans),
            &mut dx,
            int(rows),
            int(cols),
            i32::from(accumulate),
            int(count),
            int(weight.stride),
        );
    }

    pub(super) fn norm_parameters(
        &self,
        shape: Rows,
        x: View<'_>,
        statistics: View<'_>,
        dy: View<'_>,
        mut dweight: Option<ViewMut<'_>>,
        mut dbias: Option<ViewMut<'_>>,
    ) {
        let (rows, cols) = (shape.rows, shape.cols);
        let lens = (x.len(), dy.len(), statistics.len());
        assert_eq!(lens, (rows * cols, rows * cols, rows * 2));
        assert!([&dweight, &dbias].into_iter().flatten().all(|d| d.len() == cols));
        let (dweight, dbias) = (dweight.as_mut(), dbias.as_mut());
        let grid = (blocks(cols, 32), 1, 1);
        self.launcher().layer_norm_backward_parameters(
            grid,
            x,
            statistics,
            dy,
            None,
            dweight,
            dbias,
            int(rows),
            int(cols),
            0,
        );
    }

    /// The same of several utterances: the first one's gradients are at these places.
    pub(super) fn norm_parameters_each(
        &self,
        shape: Rows,
        spans: Spans<View<'_>>,
        x: View<'_>,
        statistics: View<'_>,
        dy: View<'_>,
        gradients: Each<ViewMut<'_>>,
        places: [Option<usize>; 2],
    ) {
        let (rows, cols) = (shape.rows, shape.cols);
        let lens = (x.len(), dy.len(), statistics.len());
        assert_eq!(lens, (rows * cols, rows * cols, rows * 2));
        if let [Some(weight), Some(bias)] = places {
            assert!(
                weight.abs_diff(bias) >= cols,
                "gradients of {cols} values at {weight} and {bias}"
            );
        }
        let [mut dweight, mut dbias] = places.map(|place| {
            place.map(|place| {
                let reach = place + (spans.count - 1) * gradients.stride + cols;
                assert!(reach <= gradients.values.len() && cols <= gradients.stride);
                let address = gradients.values.address() + 4 * place as u64;
                // SAFETY: inside the gradients, which are borrowed exclusively for as long; each utterance's `cols` values
                // of the one lie apart from those of the other, as was checked.
                unsafe { ViewMut::new(address, reach - place) }
            })
        });
        self.launcher().layer_norm_backward_parameters(
            (blocks(cols, 32), spans.count as u32, 1),
            x,
            statistics,
            dy,
            starts(Some(spans)),
            dweight.as_mut(),
            dbias.as_mut(),
            int(rows),
            int(cols),
            int(gradients.stride),
        );
    }

    pub(super) fn channel_norm_forward(
        &self,
        shape: Rows,
        counted: Option<View<'_>>,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        mut y: ViewMut<'_>,
        mut statistics: ViewMut<'_>,
    ) {
        let (rows, cols) = (shape.rows, shape.cols);
        let lens = (x.len(), y.len(), statistics.len(), weight.len(), bias.len());
        assert_eq!(lens, (rows * cols, rows * cols, 2 * cols, cols, cols));
        let len = chunk(rows);
        let chunks = rows.div_ceil(len);
        let grid = (blocks(cols, 32), chunks as u32, 1);
        let (row_count, col_count, len) = (int(rows), int(cols), int(len));
        let counted = words(counted);
        self.with_scratch(4 * chunks * cols, |mut partial| {
            let mut partial = partial.cast::<f64>();
            let launcher = self.launcher();
            launcher.channel_norm_moments(grid, x, counted, &mut partial, row_count, col_count, len);
            launcher.channel_norm_statistics(
                (blocks(cols, 128), 1, 1),
                partial.as_view(),
                counted,
                &mut statistics,
                row_count,
                col_count,
                len,
            );
            let statistics = statistics.as_view();
            launcher.channel_norm_gelu_apply(grid, x, statistics, weight, bias, &mut y, row_count, col_count, len);
        });
    }

    pub(super) fn channel_norm_backward(
        &self,
        shape: Rows,
        counted: Option<View<'_>>,
        x: View<'_>,
        statistics: View<'_>,
        (weight, bias): (View<'_>, View<'_>),
        mut d: ViewMut<'_>,
        mut dweight: Option<ViewMut<'_>>,
        mut dbias: Option<ViewMut<'_>>,
    ) {
        let (rows, cols) = (shape.rows, shape.cols);
        let lens = (x.len(), d.len(), statistics.len(), weight.len(), bias.len());
        assert_eq!(lens, (rows * cols, rows * cols, 2 * cols, cols, cols));
        assert!([&dweight, &dbias].into_iter().flatten().all(|d| d.len() == cols));
        let len = chunk(rows);
        let chunks = rows.div_ceil(len);
        let grid = (blocks(cols, 32), chunks as u32, 1);
        let (row_count, col_count, len) = (int(rows), int(cols), int(len));
        let counted = words(counted);
        self.with_scratch(4 * chunks * cols + 2 * cols, |mut scratch| {
            let (mut partial, mut means) = scratch.split(4 * chunks * cols);
            let mut partial = partial.cast::<f64>();
            let launcher = self.launcher();
            launcher.channel_norm_gelu_gradient(
                grid,
                x,
                statistics,
                weight,
                bias,
                &mut d,
                &mut partial,
                row_count,
                col_count,
                len,
            );
            launcher.channel_norm_gradient_sums(
                (blocks(cols, 128), 1, 1),
                partial.as_view(),
                counted,
                dweight.as_mut(),
                dbias.as_mut(),
                &mut means,
                row_count,
                col_count,
                int(chunks),
            );
            let means = means.as_view();
            launcher.channel_norm_backward_apply(
                grid, x, statistics, weight, means, counted, &mut d, row_count, col_count, len,
            );
        });
    }
}
