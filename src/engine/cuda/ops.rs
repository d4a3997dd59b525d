//! The operations as launches. The kernels' files, in `kernels/`, have the derivations; here are the checks that make the
//! launches safe, the launch shapes, and the products.

use super::CudaBackend;
use super::device::blocks;
use super::matmul::{Matrix, Size};
use super::memory::{View, ViewMut};
use crate::engine::{AdamW, Conv1d, Each, GroupedConv1d, Linear, Rows, Spans};

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

/// One utterance's values.
pub(super) fn one<V>(values: V) -> Each<V> {
    Each { values, stride: 0 }
}

/// How far so many values of each of `count` utterances reach.
pub(super) fn reach(count: usize, stride: usize, len: usize) -> usize {
    (count - 1) * stride + len
}

/// Panics where one of so many utterances would find fewer than `len` values, or a single one has more.
pub(super) fn check_each(each: Each<View<'_>>, count: usize, len: usize) {
    let (reach, values) = (reach(count, each.stride, len), each.values.len());
    assert!(reach <= values, "{reach} of {values} values");
    assert!(
        count > 1 || each.stride > 0 || reach == values,
        "{reach} of {values} values"
    );
}

/// Of so many utterances, of which each has an input, a weight and an output of its own; those written do not overlap.
fn check_linear(shape: Linear, count: usize, x: Each<View<'_>>, weight: Each<View<'_>>, y: Each<View<'_>>) {
    if shape.rows > 0 {
        let reach = reach(count, x.stride, (shape.rows - 1) * shape.x_stride + shape.inputs);
        assert!(
            reach <= x.values.len(),
            "{shape:?} reads {reach} of {} values",
            x.values.len()
        );
    }
    check_each(weight, count, shape.outputs * shape.inputs);
    check_each(y, count, shape.rows * shape.outputs);
    assert!(
        count == 1 || y.stride >= shape.rows * shape.outputs,
        "outputs of {shape:?} overlap"
    );
}

/// What is written, for the checks.
fn written<'a>(each: &'a Each<ViewMut<'_>>) -> Each<View<'a>> {
    Each {
        values: each.values.as_view(),
        stride: each.stride,
    }
}

/// Where gradients of these sizes begin among the first utterance's, of so many utterances, as stretches of their own.
pub(super) fn parts<'a>(
    gradients: &'a mut Each<ViewMut<'_>>,
    count: usize,
    places: [(Option<usize>, usize); 2],
) -> [Option<ViewMut<'a>>; 2] {
    if let [(Some(one), one_len), (Some(other), other_len)] = places {
        let apart = one + one_len <= other || other + other_len <= one;
        assert!(
            apart,
            "gradients of {one_len} and {other_len} values at {one} and {other}"
        );
    }
    places.map(|(place, len)| {
        place.map(|place| {
            let reach = place + reach(count, gradients.stride, len);
            assert!(reach <= gradients.values.len() && place + len <= gradients.stride);
            let address = gradients.values.address() + 4 * place as u64;
            // SAFETY: inside the gradients, which are borrowed exclusively for as long; each utterance's values of the one
            // lie apart from those of the other, as was checked.
            unsafe { ViewMut::new(address, reach - place) }
        })
    })
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
    /// `y = x Wᵀ + bias` (`+ y`), and `activated = gelu(y)` where it is asked for, over the whole of `y`; of so many
    /// utterances.
    pub(super) fn linear_forward(
        &self,
        (shape, count): (Linear, usize),
        x: Each<View<'_>>,
        weight: Each<View<'_>>,
        bias: Option<Each<View<'_>>>,
        mut y: Each<ViewMut<'_>>,
        activated: Option<ViewMut<'_>>,
        accumulate: bool,
    ) {
        check_linear(shape, count, x, weight, written(&y));
        if let Some(bias) = bias {
            check_each(bias, count, shape.outputs);
        }
        let len = y.values.len();
        assert!(activated.as_ref().is_none_or(|activated| activated.len() == len));
        if is_narrow(shape) && !accumulate {
            let mut activated = activated;
            self.launcher().narrow_convolution_forward(
                (
                    blocks(shape.rows, WINDOW_ROWS),
                    blocks(shape.outputs, 128),
                    count as u32,
                ),
                4 * ((WINDOW_ROWS - 1) * shape.x_stride + WINDOW) as u32,
                x.values,
                weight.values,
                bias.map(|bias| bias.values),
                &mut y.values,
                activated.as_mut(),
                int(shape.rows),
                int(shape.inputs),
                int(shape.x_stride),
                int(shape.outputs),
                x.stride as i64,
                int(weight.stride),
                bias.map_or(0, |bias| int(bias.stride)),
                y.stride as i64,
            );
            return;
        }
        for (offset, inner) in stretches(shape) {
            let size = Size {
                count,
                rows: shape.rows,
                cols: shape.outputs,
                inner,
            };
            let bias = bias.filter(|_| offset == 0);
            self.product(
                size,
                Matrix::rows(x.values.from(offset).address(), shape.x_stride.max(inner)).apart(x.stride),
                Matrix::transposed(weight.values.from(offset).address(), shape.inputs).apart(weight.stride),
                Matrix::rows(y.values.address(), shape.outputs).apart(y.stride),
                bias.map(|bias| (bias.values.address(), bias.stride)),
                accumulate || offset > 0,
            );
        }
        if let Some(mut activated) = activated {
            let (grid, y) = (self.grid_over(len), y.values.as_view());
            self.launcher().gelu_forward(grid, y, &mut activated, len as i64);
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
        check_linear(shape, 1, one(x), one(weight), one(y.as_view()));
        assert!(shape.x_stride >= shape.inputs, "rows of x overlap in {shape:?}");
        assert_eq!((bias.len(), residual.len()), (shape.outputs, y.len()), "{shape:?}");
        let size = Size {
            count: 1,
            rows: shape.rows,
            cols: shape.outputs,
            inner: shape.inputs,
        };
        let (x, weight) = (
            Matrix::rows(x.address(), shape.x_stride),
            Matrix::transposed(weight.address(), shape.inputs),
        );
        let (out, bias) = (Matrix::rows(y.address(), shape.outputs), Some((bias.address(), 0)));
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
        check_linear(shape, 1, one(dx.as_view()), one(weight), one(dy));
        let size = Size {
            count: 1,
            rows: shape.rows,
            cols: shape.inputs,
            inner: shape.outputs,
        };
        let (dy, weight) = (
            Matrix::rows(dy.address(), shape.outputs),
            Matrix::rows(weight.address(), shape.inputs),
        );
        let dx = Matrix::rows(dx.address(), shape.x_stride);
        self.product(size, dy, weight, dx, None, accumulate);
    }

    /// `dW += dyᵀ x`, of so many utterances.
    pub(super) fn linear_weight(
        &self,
        (shape, count): (Linear, usize),
        x: Each<View<'_>>,
        dy: Each<View<'_>>,
        mut dweight: Each<ViewMut<'_>>,
    ) {
        check_linear(shape, count, x, written(&dweight), dy);
        let len = shape.inputs * shape.outputs;
        assert!(count == 1 || dweight.stride >= len, "gradients of {shape:?} overlap");
        if is_narrow(shape) {
            let rows = chunk(shape.rows).next_multiple_of(WINDOW_ROWS);
            let chunks = shape.rows.div_ceil(rows);
            self.with_scratch(count * chunks * len, |mut partial| {
                self.launcher().narrow_convolution_backward_weight(
                    (chunks as u32, blocks(shape.outputs, 128), count as u32),
                    4 * ((WINDOW_ROWS - 1) * shape.x_stride + WINDOW) as u32,
                    x.values,
                    dy.values,
                    &mut partial,
                    int(shape.rows),
                    int(shape.inputs),
                    int(shape.x_stride),
                    int(shape.outputs),
                    int(rows),
                    x.stride as i64,
                    dy.stride as i64,
                );
                let (grid, apart) = ((blocks(len, 256), count as u32, 1), int(dweight.stride));
                let (partial, into) = (partial.as_view(), &mut dweight.values);
                self.launcher()
                    .add_chunks(grid, partial, into, int(chunks), int(len), apart);
            });
            return;
        }
        for (offset, cols) in stretches(shape) {
            let size = Size {
                count,
                rows: shape.outputs,
                cols,
                inner: shape.rows,
            };
            self.product(
                size,
                Matrix::transposed(dy.values.address(), shape.outputs).apart(dy.stride),
                Matrix::rows(x.values.from(offset).address(), shape.x_stride.max(cols)).apart(x.stride),
                Matrix::rows(dweight.values.from(offset).address(), shape.inputs).apart(dweight.stride),
                None,
                true,
            );
        }
    }

    /// `dbias += Σ_rows dy`, of so many utterances.
    pub(super) fn bias_gradient(
        &self,
        (shape, count): (Rows, usize),
        dy: Each<View<'_>>,
        mut dbias: Each<ViewMut<'_>>,
    ) {
        check_each(dy, count, shape.rows * shape.cols);
        check_each(written(&dbias), count, shape.cols);
        assert!(
            count == 1 || dbias.stride >= shape.cols,
            "gradients of {shape:?} overlap"
        );
        let (grid, apart) = ((blocks(shape.cols, 32), count as u32, 1), dbias.stride as i64);
        let (rows, cols) = (int(shape.rows), int(shape.cols));
        self.launcher()
            .bias_backward(grid, dy.values, &mut dbias.values, rows, cols, dy.stride as i64, apart);
    }

    /// The weights' and biases' gradients of several utterances' convolutions.
    pub(super) fn convolution_parameters_each(
        &self,
        (shape, count): (Conv1d, usize),
        x: View<'_>,
        dpre: Each<View<'_>>,
        mut gradients: Each<ViewMut<'_>>,
        [weight, bias]: [Option<usize>; 2],
    ) {
        let (linear, stride) = (shape.as_linear(), gradients.stride);
        let places = [(weight, linear.inputs * linear.outputs), (bias, linear.outputs)];
        let [dweight, dbias] = parts(&mut gradients, count, places);
        let of_each = |values| Each { values, stride };
        if let Some(dweight) = dweight.map(of_each) {
            let x = Each {
                values: x,
                stride: shape.padded_frames * shape.c_in,
            };
            self.linear_weight((linear, count), x, dpre, dweight);
        }
        if let Some(dbias) = dbias.map(of_each) {
            let rows = Rows {
                rows: linear.rows,
                cols: linear.outputs,
            };
            self.bias_gradient((rows, count), dpre, dbias);
        }
    }

    /// `stride` taps at once: their rows of `dx` lie side by side, and those of neighbouring outputs do not overlap. Of so
    /// many utterances, behind each other.
    pub(super) fn convolution_input(
        &self,
        (shape, count): (Conv1d, usize),
        dpre: View<'_>,
        weight: Each<View<'_>>,
        mut dx: ViewMut<'_>,
    ) {
        let (frames, window) = (shape.out_frames(), shape.kernel * shape.c_in);
        let each = shape.padded_frames * shape.c_in;
        assert_eq!(dx.len(), count * each, "input gradient of {shape:?}");
        check_each(weight, count, shape.c_out * window);
        assert_eq!(dpre.len(), count * frames * shape.c_out, "gradient of {shape:?}");
        // The first taps write all up to the last output's; where they leave gaps everything is added to zeros.
        let written = if shape.kernel >= shape.stride {
            frames * shape.stride * shape.c_in
        } else {
            0
        };
        self.zero_each(dx.from(written), count, each, each - written);
        for tap in (0..shape.kernel).step_by(shape.stride) {
            let offset = tap * shape.c_in;
            let size = Size {
                count,
                rows: frames,
                cols: shape.stride.min(shape.kernel - tap) * shape.c_in,
                inner: shape.c_out,
            };
            self.product(
                size,
                Matrix::rows(dpre.address(), shape.c_out).apart(frames * shape.c_out),
                Matrix::rows(weight.values.from(offset).address(), window).apart(weight.stride),
                Matrix::rows(dx.from(offset).address(), shape.stride * shape.c_in).apart(each),
                None,
                written == 0 || tap > 0,
            );
        }
    }

    /// Gives the groups of all utterances.
    fn check_grouped(shape: GroupedConv1d, x: usize, y: usize, weight: usize) -> u32 {
        let len = shape.frames * shape.channels;
        assert_eq!((x, weight), (y, shape.weight_len()), "{shape:?}");
        assert!(
            len > 0 && x.is_multiple_of(len) && shape.padding < shape.kernel,
            "{shape:?}"
        );
        (x / len * shape.groups) as u32
    }

    pub(super) fn grouped_forward(
        &self,
        shape: GroupedConv1d,
        x: View<'_>,
        weight: View<'_>,
        bias: View<'_>,
        mut y: ViewMut<'_>,
    ) {
        let groups = Self::check_grouped(shape, x.len(), y.len(), weight.len());
        assert_eq!(bias.len(), shape.channels, "bias of {shape:?}");
        let group = shape.group();
        self.launcher().grouped_convolution(
            (blocks(shape.frames, TILE), blocks(group, TILE), groups),
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
        let groups = Self::check_grouped(shape, dy.len(), dx.len(), weight.len());
        let group = shape.group();
        self.launcher().grouped_convolution(
            (blocks(shape.frames, TILE), blocks(group, TILE), groups),
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
        let groups = Self::check_grouped(shape, x.len(), dy.len(), dweight.len());
        assert_eq!(groups as usize, shape.groups, "one utterance's weight");
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
