//! The operations as launches. The kernels' files, in `kernels/`, have the derivations; here are the checks that make the
//! launches safe, the launch shapes, and the products.

use super::CudaBackend;
use super::device::blocks;
use super::matmul::{Matrix, Size};
use super::memory::{View, ViewMut};
use crate::engine::{AdamW, Conv1d, GroupedConv1d, Linear, Spans};

/// The kernels for narrow windows take so many values (`WINDOW` in kernels/convolution.cu).
const WINDOW: usize = 16;
/// Their frames a block (`ROWS` there).
const WINDOW_ROWS: usize = 32;
/// Frames a block of the grouped convolution (`TILE` there).
const TILE: usize = 64;
/// Most chunks that a sum over time is cut into.
const CHUNKS: usize = 64;

/// Frames of one of [`CHUNKS`] chunks or fewer, each long enough to be worth a block.
pub(super) fn chunk(rows: usize) -> usize {
    rows.div_ceil(CHUNKS).max(64)
}

pub(super) fn check_linear(shape: Linear, x: usize, weight: usize, y: usize) {
    if shape.rows > 0 {
        let reach = (shape.rows - 1) * shape.x_stride + shape.inputs;
        assert!(reach <= x, "{shape:?} reads {reach} of {x} values");
    }
    assert_eq!(weight, shape.outputs * shape.inputs, "weight of {shape:?}");
    assert_eq!(y, shape.rows * shape.outputs, "output of {shape:?}");
}

pub(super) fn int(value: usize) -> i32 {
    i32::try_from(value).expect("a size below 2^31")
}

/// The starts' words, as the kernels read them; see [`crate::engine::Backend::pads`].
pub(super) fn starts(spans: Option<Spans<View<'_>>>) -> Option<View<'_, u32>> {
    assert!(spans.is_none_or(|spans| spans.count > 0 && spans.starts.len() == spans.count + 1));
    spans.map(|spans| spans.starts.cast())
}

/// Rows of the longest utterance, and how many there are.
pub(super) fn extent(rows: usize, spans: Option<Spans<View<'_>>>) -> (usize, u32) {
    spans.map_or((rows, 1), |spans| (spans.longest, spans.count as u32))
}

/// Stretches of a window whose rows do not overlap: offset and length. cuBLASLt takes no matrix whose rows do.
fn stretches(shape: Linear) -> impl Iterator<Item = (usize, usize)> {
    let step = if shape.rows > 1 { shape.x_stride } else { shape.inputs }.max(1);
    (0..shape.inputs)
        .step_by(step)
        .map(move |offset| (offset, step.min(shape.inputs - offset)))
}

/// A narrow convolution, by its own kernel.
fn is_narrow(shape: Linear) -> bool {
    shape.x_stride < shape.inputs && shape.inputs <= WINDOW
}

impl CudaBackend {
    /// `y = x Wᵀ + bias` (`+ y`), and `activated = gelu(y)` where it is asked for.
    pub(super) fn linear_forward(
        &self,
        shape: Linear,
        x: View<'_>,
        weight: View<'_>,
        bias: Option<View<'_>>,
        mut y: ViewMut<'_>,
        activated: Option<ViewMut<'_>>,
        accumulate: bool,
    ) {
        check_linear(shape, x.len(), weight.len(), y.len());
        assert!(bias.is_none_or(|bias| bias.len() == shape.outputs), "bias of {shape:?}");
        assert!(activated.as_ref().is_none_or(|activated| activated.len() == y.len()));
        if is_narrow(shape) && !accumulate {
            let mut activated = activated;
            self.launcher().narrow_convolution_forward(
                (blocks(shape.rows, WINDOW_ROWS), blocks(shape.outputs, 128), 1),
                4 * ((WINDOW_ROWS - 1) * shape.x_stride + WINDOW) as u32,
                x,
                weight,
                bias,
                &mut y,
                activated.as_mut(),
                int(shape.rows),
                int(shape.inputs),
                int(shape.x_stride),
                int(shape.outputs),
            );
            return;
        }
        for (offset, inner) in stretches(shape) {
            let size = Size {
                rows: shape.rows,
                cols: shape.outputs,
                inner,
            };
            self.product(
                size,
                Matrix::rows(x.from(offset).address(), shape.x_stride.max(inner)),
                Matrix::transposed(weight.from(offset).address(), shape.inputs),
                (y.address(), shape.outputs),
                bias.filter(|_| offset == 0).map(|bias| bias.address()),
                accumulate || offset > 0,
            );
        }
        if let Some(mut activated) = activated {
            let grid = self.grid_over(y.len());
            let len = y.len() as i64;
            self.launcher().gelu_forward(grid, y.as_view(), &mut activated, len);
        }
    }

    /// `y = x Wᵀ + bias + residual`: the residual is what the product is added to, so that no copy of it is made before.
    pub(super) fn linear_onto(
        &self,
        shape: Linear,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        residual: View<'_>,
        y: ViewMut<'_>,
    ) {
        check_linear(shape, x.len(), weight.len(), y.len());
        assert!(shape.x_stride >= shape.inputs, "rows of x overlap in {shape:?}");
        assert_eq!((bias.len(), residual.len()), (shape.outputs, y.len()), "{shape:?}");
        let size = Size {
            rows: shape.rows,
            cols: shape.outputs,
            inner: shape.inputs,
        };
        let (x, weight) = (
            Matrix::rows(x.address(), shape.x_stride),
            Matrix::transposed(weight.address(), shape.inputs),
        );
        let (out, bias) = ((y.address(), shape.outputs), Some(bias.address()));
        self.product_onto(size, x, weight, out, bias, Some(residual.address()));
    }

    pub(super) fn linear_input(
        &self,
        shape: Linear,
        dy: View<'_>,
        weight: View<'_>,
        dx: ViewMut<'_>,
        accumulate: bool,
    ) {
        assert!(shape.x_stride >= shape.inputs, "rows of dx overlap in {shape:?}");
        check_linear(shape, dx.len(), weight.len(), dy.len());
        let size = Size {
            rows: shape.rows,
            cols: shape.inputs,
            inner: shape.outputs,
        };
        let (dy, weight) = (
            Matrix::rows(dy.address(), shape.outputs),
            Matrix::rows(weight.address(), shape.inputs),
        );
        self.product(size, dy, weight, (dx.address(), shape.x_stride), None, accumulate);
    }

    pub(super) fn linear_weight(&self, shape: Linear, x: View<'_>, dy: View<'_>, mut dweight: ViewMut<'_>) {
        check_linear(shape, x.len(), dweight.len(), dy.len());
        if is_narrow(shape) {
            let len = chunk(shape.rows).next_multiple_of(WINDOW_ROWS);
            let chunks = shape.rows.div_ceil(len);
            self.with_scratch(chunks * dweight.len(), |mut partial| {
                self.launcher().narrow_convolution_backward_weight(
                    (chunks as u32, blocks(shape.outputs, 128), 1),
                    4 * ((WINDOW_ROWS - 1) * shape.x_stride + WINDOW) as u32,
                    x,
                    dy,
                    &mut partial,
                    int(shape.rows),
                    int(shape.inputs),
                    int(shape.x_stride),
                    int(shape.outputs),
                    int(len),
                );
                let (grid, values) = ((blocks(dweight.len(), 256), 1, 1), int(dweight.len()));
                let partial = partial.as_view();
                self.launcher()
                    .add_chunks(grid, partial, &mut dweight, int(chunks), values);
            });
            return;
        }
        for (offset, cols) in stretches(shape) {
            let size = Size {
                rows: shape.outputs,
                cols,
                inner: shape.rows,
            };
            self.product(
                size,
                Matrix::transposed(dy.address(), shape.outputs),
                Matrix::rows(x.from(offset).address(), shape.x_stride.max(cols)),
                (dweight.from(offset).address(), shape.inputs),
                None,
                true,
            );
        }
    }

    /// `stride` taps at once: their rows of `dx` lie side by side, and those of neighbouring outputs do not overlap.
    pub(super) fn convolution_input(&self, shape: Conv1d, dpre: View<'_>, weight: View<'_>, mut dx: ViewMut<'_>) {
        let (frames, window) = (shape.out_frames(), shape.kernel * shape.c_in);
        assert_eq!(
            dx.len(),
            shape.padded_frames * shape.c_in,
            "input gradient of {shape:?}"
        );
        assert_eq!(weight.len(), shape.c_out * window, "weight of {shape:?}");
        assert_eq!(dpre.len(), frames * shape.c_out, "gradient of {shape:?}");
        // The first taps write all up to the last output's; where they leave gaps everything is added to zeros.
        let written = if shape.kernel >= shape.stride {
            frames * shape.stride * shape.c_in
        } else {
            0
        };
        self.zero(dx.from(written));
        for tap in (0..shape.kernel).step_by(shape.stride) {
            let offset = tap * shape.c_in;
            let size = Size {
                rows: frames,
                cols: shape.stride.min(shape.kernel - tap) * shape.c_in,
                inner: shape.c_out,
            };
            self.product(
                size,
                Matrix::rows(dpre.address(), shape.c_out),
                Matrix::rows(weight.from(offset).address(), window),
                (dx.from(offset).address(), shape.stride * shape.c_in),
                None,
                written == 0 || tap > 0,
            );
        }
    }

    fn check_grouped(shape: GroupedConv1d, x: usize, y: usize, weight: usize) {
        let len = shape.frames * shape.channels;
        assert_eq!((x, y, weight), (len, len, shape.weight_len()), "{shape:?}");
        assert!(shape.padding < shape.kernel, "{shape:?}");
    }

    pub(super) fn grouped_forward(
        &self,
        shape: GroupedConv1d,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        mut y: ViewMut<'_>,
    ) {
        Self::check_grouped(shape, x.len(), y.len(), weight.len());
        assert_eq!(bias.len(), shape.channels, "bias of {shape:?}");
        let group = shape.group();
        self.launcher().grouped_convolution(
            (blocks(shape.frames, TILE), blocks(group, TILE), shape.groups as u32),
            x,
            weight,
            Some(bias),
            &mut y,
            int(shape.frames),
            int(shape.channels),
            int(group),
            int(shape.kernel),
            int(shape.padding),
            (group * shape.kernel * group) as i64,
            int(shape.kernel * group),
            int(group),
            1,
            0,
        );
    }

    /// The same sum with the taps reversed and a group's inputs and outputs exchanged.
    pub(super) fn grouped_input(
        &self,
        shape: GroupedConv1d,
        dy: View<'_>,
        weight: View<'_>,
        mut dx: ViewMut<'_>,
        accumulate: bool,
    ) {
        Self::check_grouped(shape, dy.len(), dx.len(), weight.len());
        let group = shape.group();
        self.launcher().grouped_convolution(
            (blocks(shape.frames, TILE), blocks(group, TILE), shape.groups as u32),
            dy,
            weight.from((shape.kernel - 1) * group),
            None,
            &mut dx,
            int(shape.frames),
            int(shape.channels),
            int(group),
            int(shape.kernel),
            int(shape.kernel - 1 - shape.padding),
            (group * shape.kernel * group) as i64,
            1,
            -int(group),
            int(shape.kernel * group),
            i32::from(accumulate),
        );
    }

    pub(super) fn grouped_weight(&self, shape: GroupedConv1d, x: View<'_>, dy: View<'_>, mut dweight: ViewMut<'_>) {
        Self::check_grouped(shape, x.len(), dy.len(), dweight.len());
        let tiles = blocks(shape.group(), TILE);
        self.launcher().grouped_convolution_backward_weight(
            (shape.kernel as u32, tiles * tiles, shape.groups as u32),
            x,
            dy,
            &mut dweight,
            int(shape.frames),
            int(shape.channels),
            int(shape.group()),
            int(shape.kernel),
            int(shape.padding),
        );
    }

    pub(super) fn adamw_update(
        &self,
        settings: &AdamW,
        step: u32,
        mut values: ViewMut<'_>,
        gradients: View<'_>,
        mut first_moment: ViewMut<'_>,
        mut second_moment: ViewMut<'_>,
    ) {
        let len = values.len();
        let lens = (gradients.len(), first_moment.len(), second_moment.len());
        assert_eq!(lens, (len, len, len));
        assert!(step > 0, "steps are counted from 1");
        let (beta1, beta2) = (settings.beta1, settings.beta2);
        self.launcher().adamw_update(
            self.grid_over(len),
            &mut values,
            gradients,
            &mut first_moment,
            &mut second_moment,
            beta1 as f32,
            (1.0 - beta1) as f32,
            beta2 as f32,
            (1.0 - beta2) as f32,
            (1.0 - settings.learning_rate * settings.weight_decay) as f32,
            (settings.learning_rate / (1.0 - beta1.powi(step as i32))) as f32,
            (1.0 - beta2.powi(step as i32)).sqrt() as f32,
            settings.epsilon as f32,
            len as i64,
        );
    }
}
