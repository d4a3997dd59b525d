//! Norms as launches: kernels/layer_norm.cu, kernels/channel_norm.cu.

use super::CudaBackend;
use super::device::blocks;
use super::memory::{View, ViewMut};
use super::ops::{check_each, chunk, int, parts, reach, starts};
use crate::engine::{Each, Rows, Shares, Spans};

/// The words of so many utterances' counts, as the kernels read them; see [`crate::engine::Backend::pads`].
fn words(counted: Option<View<'_>>, count: usize) -> Option<View<'_, u32>> {
    assert!(counted.is_none_or(|counted| counted.len() == count));
    counted.map(View::cast)
}

/// The starts of utterances that do not have equally many rows.
fn starts_of(shares: Shares<View<'_>>, rows: usize) -> Option<View<'_, u32>> {
    match shares {
        Shares::Even(count) => {
            assert!(count > 0 && rows.is_multiple_of(count), "{rows} rows of {count}");
            None
        }
        Shares::Spans(spans) => starts(Some(spans)),
    }
}

impl CudaBackend {
    pub(super) fn norm_forward(
        &self,
        shape: Rows,
        shares: Shares<View<'_>>,
        x: View<'_>,
        [weight, bias]: [Each<View<'_>>; 2],
        mut y: ViewMut<'_>,
        mut statistics: ViewMut<'_>,
        activate: bool,
    ) {
        let (rows, cols, count) = (shape.rows, shape.cols, shares.count());
        let lens = (x.len(), y.len(), statistics.len());
        assert_eq!(lens, (rows * cols, rows * cols, rows * 2));
        check_each(weight, count, cols);
        check_each(bias, count, cols);
        self.launcher().layer_norm_forward(
            (blocks(rows, 4), 1, 1),
            x,
            weight.values,
            bias.values,
            starts_of(shares, rows),
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

    /// With β, a GELU followed.
    pub(super) fn norm_input(
        &self,
        shape: Rows,
        shares: Shares<View<'_>>,
        x: View<'_>,
        statistics: View<'_>,
        (weight, bias): (Each<View<'_>>, Option<Each<View<'_>>>),
        dy: View<'_>,
        mut dx: ViewMut<'_>,
        accumulate: bool,
    ) {
        let (rows, cols, count) = (shape.rows, shape.cols, shares.count());
        let lens = (x.len(), dy.len(), dx.len(), statistics.len());
        assert_eq!(lens, (rows * cols, rows * cols, rows * cols, rows * 2));
        check_each(weight, count, cols);
        if let Some(bias) = bias {
            check_each(bias, count, cols);
        }
        self.launcher().layer_norm_backward_input(
            (blocks(rows, 4), 1, 1),
            x,
            statistics,
            weight.values,
            bias.map(|bias| bias.values),
            dy,
            starts_of(shares, rows),
            &mut dx,
            int(rows),
            int(cols),
            i32::from(accumulate),
            int(count),
            int(weight.stride),
            int(bias.map_or(0, |bias| bias.stride)),
        );
    }

    /// With γ and β, a GELU followed.
    pub(super) fn norm_parameters(
        &self,
        shape: Rows,
        x: View<'_>,
        statistics: View<'_>,
        before_gelu: Option<[View<'_>; 2]>,
        dy: View<'_>,
        [mut dweight, mut dbias]: [Option<ViewMut<'_>>; 2],
    ) {
        let (rows, cols) = (shape.rows, shape.cols);
        let lens = (x.len(), dy.len(), statistics.len());
        assert_eq!(lens, (rows * cols, rows * cols, rows * 2));
        assert!([&dweight, &dbias].into_iter().flatten().all(|d| d.len() == cols));
        assert!(before_gelu.into_iter().flatten().all(|values| values.len() == cols));
        let (dweight, dbias) = (dweight.as_mut(), dbias.as_mut());
        let grid = (blocks(cols, 32), 1, 1);
        let [weight, bias] = [0, 1].map(|index| before_gelu.map(|parameters| parameters[index]));
        let (rows, cols) = (int(rows), int(cols));
        self.launcher().layer_norm_backward_parameters(
            grid, x, statistics, weight, bias, dy, None, dweight, dbias, rows, cols, 0, 0, 0,
        );
    }

    /// The same of several utterances: the first one's gradients are at these places.
    pub(super) fn norm_parameters_each(
        &self,
        shape: Rows,
        shares: Shares<View<'_>>,
        x: View<'_>,
        statistics: View<'_>,
        before_gelu: Option<[Each<View<'_>>; 2]>,
        dy: View<'_>,
        mut gradients: Each<ViewMut<'_>>,
        places: [Option<usize>; 2],
    ) {
        let (rows, cols, count) = (shape.rows, shape.cols, shares.count());
        let lens = (x.len(), dy.len(), statistics.len());
        assert_eq!(lens, (rows * cols, rows * cols, rows * 2));
        let stride = int(gradients.stride);
        let [mut dweight, mut dbias] = parts(&mut gradients, count, places.map(|place| (place, cols)));
        let [weight, bias] = [0, 1].map(|index| before_gelu.map(|parameters| parameters[index]));
        for parameter in [weight, bias].into_iter().flatten() {
            check_each(parameter, count, cols);
        }
        self.launcher().layer_norm_backward_parameters(
            (blocks(cols, 32), count as u32, 1),
            x,
            statistics,
            weight.map(|weight| weight.values),
            bias.map(|bias| bias.values),
            dy,
            starts_of(shares, rows),
            dweight.as_mut(),
            dbias.as_mut(),
            int(rows),
            int(cols),
            int(weight.map_or(0, |weight| weight.stride)),
            int(bias.map_or(0, |bias| bias.stride)),
            stride,
        );
    }

    /// Of `count` utterances of so many rows each, behind each other.
    pub(super) fn channel_norm_forward(
        &self,
        (shape, count): (Rows, usize),
        counted: Option<View<'_>>,
        x: View<'_>,
        [weight, bias]: [Each<View<'_>>; 2],
        mut y: ViewMut<'_>,
        mut statistics: ViewMut<'_>,
    ) {
        let (rows, cols) = (shape.rows, shape.cols);
        let values = count * rows * cols;
        assert_eq!((x.len(), y.len(), statistics.len()), (values, values, 2 * count * cols));
        check_each(weight, count, cols);
        check_each(bias, count, cols);
        let len = chunk(rows);
        let chunks = rows.div_ceil(len);
        let grid = (blocks(cols, 32), chunks as u32, count as u32);
        let (row_count, col_count, len) = (int(rows), int(cols), int(len));
        let counted = words(counted, count);
        self.with_scratch(4 * count * chunks * cols, |mut partial| {
            let mut partial = partial.cast::<f64>();
            let launcher = self.launcher();
            launcher.channel_norm_moments(grid, x, counted, &mut partial, row_count, col_count, len);
            launcher.channel_norm_statistics(
                (blocks(cols, 128), count as u32, 1),
                partial.as_view(),
                counted,
                &mut statistics,
                row_count,
                col_count,
                len,
            );
            launcher.channel_norm_gelu_apply(
                grid,
                x,
                statistics.as_view(),
                weight.values,
                bias.values,
                &mut y,
                row_count,
                col_count,
                len,
                int(weight.stride),
                int(bias.stride),
            );
        });
    }

    /// The same; gradients so far apart as `stride` says.
    pub(super) fn channel_norm_backward(
        &self,
        (shape, count): (Rows, usize),
        counted: Option<View<'_>>,
        x: View<'_>,
        statistics: View<'_>,
        [weight, bias]: [Each<View<'_>>; 2],
        mut d: ViewMut<'_>,
        [mut dweight, mut dbias]: [Option<ViewMut<'_>>; 2],
        stride: usize,
    ) {
        let (rows, cols) = (shape.rows, shape.cols);
        let values = count * rows * cols;
        assert_eq!((x.len(), d.len(), statistics.len()), (values, values, 2 * count * cols));
        check_each(weight, count, cols);
        check_each(bias, count, cols);
        let reach = (count - 1) * stride + cols;
        assert!([&dweight, &dbias].into_iter().flatten().all(|d| d.len() == reach));
        let len = chunk(rows);
        let chunks = rows.div_ceil(len);
        let grid = (blocks(cols, 32), chunks as u32, count as u32);
        let (row_count, col_count, len) = (int(rows), int(cols), int(len));
        let (weight_stride, bias_stride) = (int(weight.stride), int(bias.stride));
        let counted = words(counted, count);
        let sums = 4 * count * chunks * cols;
        self.with_scratch(sums + 2 * count * cols, |mut scratch| {
            let (mut partial, mut means) = scratch.split(sums);
            let mut partial = partial.cast::<f64>();
            let launcher = self.launcher();
            launcher.channel_norm_gelu_gradient(
                grid,
                x,
                statistics,
                weight.values,
                bias.values,
                &mut d,
                &mut partial,
                row_count,
                col_count,
                len,
                weight_stride,
                bias_stride,
            );
            launcher.channel_norm_gradient_sums(
                (blocks(cols, 128), count as u32, 1),
                partial.as_view(),
                counted,
                dweight.as_mut(),
                dbias.as_mut(),
                &mut means,
                row_count,
                col_count,
                int(chunks),
                int(stride),
            );
            let (weight, means) = (weight.values, means.as_view());
            launcher.channel_norm_backward_apply(
                grid,
                x,
                statistics,
                weight,
                means,
                counted,
                &mut d,
                row_count,
                col_count,
                len,
                weight_stride,
            );
        });
    }
    /// Zeros in each utterance's padding.
    pub(super) fn clear_rows(&self, shape: Rows, counted: View<'_>, x: &mut Each<ViewMut<'_>>) {
        let (rows, cols, count) = (int(shape.rows), int(shape.cols), counted.len());
        let len = shape.rows * shape.cols;
        assert!(x.values.len() == reach(count, x.stride, len) && (count == 1 || x.stride >= len));
        // Padding is a small part.
        let grid = (self.grid_over(len.div_ceil(8)).0, count as u32, 1);
        let stride = x.stride as i64;
        self.launcher()
            .clear_padding(grid, counted.cast(), &mut x.values, rows, cols, stride);
    }

    /// Utterances' rows, equally many each, behind each other: kernels/elementwise.cu.
    pub(super) fn rows_behind_each_other(&self, spans: Spans<View<'_>>, cols: usize, x: View<'_>, mut y: ViewMut<'_>) {
        let (each, rows) = (x.len() / spans.count / cols, y.len() / cols);
        assert_eq!((x.len(), y.len()), (spans.count * each * cols, rows * cols));
        let (grid, starts) = ((blocks(rows, 8), 1, 1), spans.starts.cast());
        assert_eq!(spans.starts.len(), spans.count + 1);
        let (rows, cols, count, each) = (int(rows), int(cols), int(spans.count), int(each));
        self.launcher()
            .join_rows(grid, x, starts, &mut y, rows, cols, count, each);
    }

    /// The reverse.
    pub(super) fn rows_apart(&self, spans: Spans<View<'_>>, cols: usize, x: View<'_>, mut y: ViewMut<'_>) {
        let each = y.len() / spans.count / cols;
        assert_eq!(
            (spans.starts.len(), y.len()),
            (spans.count + 1, spans.count * each * cols)
        );
        let (grid, starts) = ((blocks(each, 8), spans.count as u32, 1), spans.starts.cast());
        self.launcher().part_rows(grid, x, starts, &mut y, int(cols), int(each));
    }
}
