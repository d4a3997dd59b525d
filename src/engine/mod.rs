//! The numerics: every operation the models need, forward and backward, behind the [`Backend`] trait.
//!
//! There is no tape. An operation's `forward` leaves what its `backward` reads in the arena, and a model calls the
//! backwards in reverse order. Parameter gradients accumulate (`+=`); activation gradients are written (`=`) unless a
//! call says `accumulate`. All matrices are row-major; time is always the outer dimension, channels the inner one.

mod arena;
pub mod cpu;
mod ctc;
#[cfg(feature = "cuda")]
pub mod cuda;
mod decoder;
mod error;
mod ledger;
mod replay;
mod shapes;

pub use arena::{Arena, ArenaPlan, Count, Slot};
pub use ctc::{CtcLoss, ctc_loss, pseudo_label_loss};
pub use decoder::DecoderBackend;
pub use error::EngineError;
pub use ledger::{Judge, Ledger, Pieces, Rules, Says, Verdict, to_values};
pub use replay::{Pass, Replay};
pub use shapes::{
    AdamW, Attention, BiasAndGradient, Conv1d, CrossAttention, CudaPrecision, Each, GroupedConv1d, Linear,
    ObjectiveTerms, ObjectiveValue, PlacedLabel, PseudoLabel, RelativeBias, RelativeBiasGradient, Rows, Shares, Spans,
    count_to_value,
};

use std::ops::Range;

/// What a backend says that is told of padding though it does not pad.
const NO_PADDING: &str = "this backend pads nothing";

/// For a backend's [`Backend::split`]: panics when a slot is outside, or a written one overlaps another.
fn check_split(len: usize, reads: &[Slot], writes: &[Slot]) {
    let overlap = |a: &Slot, b: &Slot| a.offset < b.offset + b.len && b.offset < a.offset + a.len;
    for (index, write) in writes.iter().enumerate() {
        assert!(
            !reads.iter().any(|read| overlap(read, write)),
            "a slot is read and written at once"
        );
        assert!(
            !writes[..index].iter().any(|other| overlap(other, write)),
            "two written slots overlap"
        );
    }
    assert!(
        reads.iter().chain(writes).all(|slot| slot.offset + slot.len <= len),
        "slot outside the arena"
    );
}

/// A device that runs the operations.
///
/// Memory is handed out as whole buffers of f32; an operation takes read views and write views of them. A buffer's
/// [`Backend::split`] gives several disjoint views at once, so that all activations can live in one allocation.
pub trait Backend: Send + Sync + Sized + 'static {
    /// Owned device memory.
    type Buffer: Send + Sync;
    /// A readable stretch of a buffer.
    type View<'a>: Copy + Send + Sync;
    /// A writable stretch of a buffer.
    type ViewMut<'a>: Send;

    /// The device in words, for logs and `aurist doctor`.
    fn describe(&self) -> String;

    /// Waits for all that was asked for, and says whether it was done. An operation does not fail by itself: after a
    /// failure nothing is computed any more, what is downloaded is NaN, and this says why.
    fn status(&self) -> Result<(), EngineError> {
        Ok(())
    }

    /// What a descent is decided by on the device itself, where it can do that.
    fn judge(&self) -> Option<&dyn Judge<Self>> {
        None
    }

    /// Whether inputs are worth padding to one of few lengths, so that records of the work on them can be kept
    /// ([`Backend::replayable`]), and worth passing through together. Only then are operations told which rows count, by
    /// words of memory ([`count_to_value`]) that the work reads anew each time: how many do, or [`Spans`]. The rows behind
    /// are padding. Its values are finite, nothing depends on them, and gradients are 0 there.
    fn pads(&self) -> bool {
        false
    }

    /// Does work that may have been done before. A device may keep a record of it and replay that.
    fn replayable(&self, _replay: Replay, work: impl FnOnce()) {
        work();
    }

    /// A zeroed buffer of `len` values.
    fn zeros(&self, len: usize) -> Result<Self::Buffer, EngineError>;
    /// A buffer that holds these values. A device whose memory is the host's takes them as they are.
    fn buffer(&self, values: Vec<f32>) -> Result<Self::Buffer, EngineError> {
        let mut buffer = self.zeros(values.len())?;
        self.upload(&values, self.view_mut(&mut buffer, 0..values.len()));
        Ok(buffer)
    }
    /// The whole buffer's length in values.
    fn len(&self, buffer: &Self::Buffer) -> usize;
    /// Part of a buffer, to read.
    fn view<'a>(&self, buffer: &'a Self::Buffer, range: Range<usize>) -> Self::View<'a>;
    /// Part of a buffer, to write.
    fn view_mut<'a>(&self, buffer: &'a mut Self::Buffer, range: Range<usize>) -> Self::ViewMut<'a>;
    /// Several stretches of one buffer at once. Panics when a written stretch overlaps any other.
    fn split<'a, const R: usize, const W: usize>(
        &self,
        buffer: &'a mut Self::Buffer,
        reads: [Slot; R],
        writes: [Slot; W],
    ) -> ([Self::View<'a>; R], [Self::ViewMut<'a>; W]);

    /// Host to device.
    fn upload(&self, host: &[f32], to: Self::ViewMut<'_>);
    /// Device to host.
    fn download(&self, from: Self::View<'_>, host: &mut [f32]);
    /// Device to device.
    fn copy(&self, from: Self::View<'_>, to: Self::ViewMut<'_>);
    /// Sets every value to zero.
    fn fill_zero(&self, to: Self::ViewMut<'_>);
    /// Whether no value is infinite or NaN.
    fn all_finite(&self, values: Self::View<'_>) -> bool;

    /// `y = x Wᵀ + bias` (`+ y` with `accumulate`): x `[rows, inputs]`, W `[outputs, inputs]`, y `[rows, outputs]`.
    fn linear(
        &self,
        shape: Linear,
        x: Self::View<'_>,
        weight: Self::View<'_>,
        bias: Option<Self::View<'_>>,
        y: Self::ViewMut<'_>,
        accumulate: bool,
    );
    /// `y = x Wᵀ + bias + residual`, the residual `[rows, outputs]`.
    fn linear_residual(
        &self,
        shape: Linear,
        x: Self::View<'_>,
        weight: Self::View<'_>,
        bias: Self::View<'_>,
        residual: Self::View<'_>,
        y: Self::ViewMut<'_>,
    );
    /// `pre = x Wᵀ + bias`, `y = gelu(pre)`; `pre` is what [`Backend::gelu_backward`] reads.
    fn linear_gelu(
        &self,
        shape: Linear,
        x: Self::View<'_>,
        weight: Self::View<'_>,
        bias: Self::View<'_>,
        pre: Self::ViewMut<'_>,
        y: Self::ViewMut<'_>,
    );
    /// `dx = dy W` (`+ dx` with `accumulate`). Rows of `dx` must not overlap (`x_stride >= inputs`).
    fn linear_backward_input(
        &self,
        shape: Linear,
        dy: Self::View<'_>,
        weight: Self::View<'_>,
        dx: Self::ViewMut<'_>,
        accumulate: bool,
    );
    /// `dW += dyᵀ x`.
    fn linear_backward_weight(&self, shape: Linear, x: Self::View<'_>, dy: Self::View<'_>, dweight: Self::ViewMut<'_>);
    /// `dbias += Σ_rows dy`.
    fn bias_backward(&self, shape: Rows, dy: Self::View<'_>, dbias: Self::ViewMut<'_>);

    /// Strided convolution over channels-last rows, then GELU: x is zero-padded `[padded frames, c_in]`, W
    /// `[c_out, kernel, c_in]`, `pre` and y `[out_frames, c_out]`. A GEMM over a strided view: no im2col copy.
    fn conv1d_gelu(
        &self,
        shape: Conv1d,
        x: Self::View<'_>,
        weight: Self::View<'_>,
        bias: Self::View<'_>,
        pre: Self::ViewMut<'_>,
        y: Self::ViewMut<'_>,
    ) {
        self.linear_gelu(shape.as_linear(), x, weight, bias, pre, y);
    }
    /// The padded input's gradient from the pre-activation's: `dx = Σ_taps dpre W_tap`, written over the whole of `dx`.
    fn conv1d_backward_input(&self, shape: Conv1d, dpre: Self::View<'_>, weight: Self::View<'_>, dx: Self::ViewMut<'_>);
    /// `dW += dpreᵀ x`, over the strided view.
    fn conv1d_backward_weight(
        &self,
        shape: Conv1d,
        x: Self::View<'_>,
        dpre: Self::View<'_>,
        dweight: Self::ViewMut<'_>,
    ) {
        self.linear_backward_weight(shape.as_linear(), x, dpre, dweight);
    }

    /// [`Backend::conv1d_gelu`] of several utterances of one shape, each with its own weight and bias; without GELU where
    /// there is no `y`, which else lies as `pre` does. x is theirs behind each other. What lies between the utterances' `pre`
    /// is gone through too, and must be finite.
    fn conv1d_gelu_each(
        &self,
        _shape: Conv1d,
        _count: usize,
        _x: Self::View<'_>,
        _parameters: [Each<Self::View<'_>>; 2],
        _pre: Each<Self::ViewMut<'_>>,
        _y: Option<Self::ViewMut<'_>>,
    ) {
        panic!("{NO_PADDING}");
    }
    /// [`Backend::conv1d_backward_input`], the same way: `dpre` and `dx` are theirs behind each other.
    fn conv1d_backward_input_each(
        &self,
        _shape: Conv1d,
        _count: usize,
        _dpre: Self::View<'_>,
        _weight: Each<Self::View<'_>>,
        _dx: Self::ViewMut<'_>,
    ) {
        panic!("{NO_PADDING}");
    }
    /// Weight's and bias's gradients, the same way, at these places of the first utterance's among `gradients`.
    fn conv1d_backward_parameters_each(
        &self,
        _shape: Conv1d,
        _count: usize,
        _x: Self::View<'_>,
        _dpre: Each<Self::View<'_>>,
        _gradients: Each<Self::ViewMut<'_>>,
        _places: [Option<usize>; 2],
    ) {
        panic!("{NO_PADDING}");
    }

    /// Values of scratch memory that a grouped convolution needs (forward and backward alike).
    fn grouped_conv1d_scratch(&self, shape: GroupedConv1d) -> usize;
    /// `y = conv(x, W) + bias`; see [`GroupedConv1d`].
    fn grouped_conv1d(
        &self,
        shape: GroupedConv1d,
        x: Self::View<'_>,
        weight: Self::View<'_>,
        bias: Self::View<'_>,
        y: Self::ViewMut<'_>,
        scratch: Self::ViewMut<'_>,
    );
    /// `dx = ...` (`+ dx` with `accumulate`).
    fn grouped_conv1d_backward_input(
        &self,
        shape: GroupedConv1d,
        dy: Self::View<'_>,
        weight: Self::View<'_>,
        dx: Self::ViewMut<'_>,
        accumulate: bool,
        scratch: Self::ViewMut<'_>,
    );
    /// `dW += ...`
    fn grouped_conv1d_backward_weight(
        &self,
        shape: GroupedConv1d,
        x: Self::View<'_>,
        dy: Self::View<'_>,
        dweight: Self::ViewMut<'_>,
        scratch: Self::ViewMut<'_>,
    );
    /// What makes a grouped convolution faster when its weight stays: an opaque form of the weight, for any number of
    /// frames. `None` where there is no faster way than the direct one.
    fn prepare_grouped_conv1d(&self, _shape: GroupedConv1d, _weight: Self::View<'_>) -> Option<Self::Buffer> {
        None
    }
    /// [`Backend::grouped_conv1d`] with what [`Backend::prepare_grouped_conv1d`] gave.
    fn prepared_grouped_conv1d(
        &self,
        shape: GroupedConv1d,
        _x: Self::View<'_>,
        _prepared: Self::View<'_>,
        _bias: Self::View<'_>,
        _y: Self::ViewMut<'_>,
    ) {
        panic!("this backend has prepared no weight of {shape:?}");
    }
    /// [`Backend::grouped_conv1d_backward_input`] with what [`Backend::prepare_grouped_conv1d`] gave.
    fn prepared_grouped_conv1d_backward_input(
        &self,
        shape: GroupedConv1d,
        _dy: Self::View<'_>,
        _prepared: Self::View<'_>,
        _dx: Self::ViewMut<'_>,
        _accumulate: bool,
    ) {
        panic!("this backend has prepared no weight of {shape:?}");
    }
    /// Weight norm over all but the taps: `W[:, k] = g[k] v[:, k] / |v[:, k]|`, v and W laid out as the weight.
    fn weight_norm(
        &self,
        shape: GroupedConv1d,
        direction: Self::View<'_>,
        magnitude: Self::View<'_>,
        weight: Self::ViewMut<'_>,
    );
    /// `ddirection += ...`, `dmagnitude += ...` from the weight's gradient; either may be frozen.
    fn weight_norm_backward(
        &self,
        shape: GroupedConv1d,
        direction: Self::View<'_>,
        magnitude: Self::View<'_>,
        dweight: Self::View<'_>,
        ddirection: Option<Self::ViewMut<'_>>,
        dmagnitude: Option<Self::ViewMut<'_>>,
    );

    /// In place: `x = gelu(x)` (the exact, erf-based GELU).
    fn gelu(&self, x: Self::ViewMut<'_>);
    /// In place: `d *= gelu'(pre)`.
    fn gelu_backward(&self, pre: Self::View<'_>, d: Self::ViewMut<'_>);

    /// Layer norm over the inner dimension; `statistics` receives (mean, 1/σ) per row, `[rows, 2]`.
    fn layer_norm(
        &self,
        shape: Rows,
        x: Self::View<'_>,
        weight: Self::View<'_>,
        bias: Self::View<'_>,
        y: Self::ViewMut<'_>,
        statistics: Self::ViewMut<'_>,
    );
    /// The same, then GELU: `y = gelu(x̂ γ + β)`.
    fn layer_norm_gelu(
        &self,
        shape: Rows,
        x: Self::View<'_>,
        weight: Self::View<'_>,
        bias: Self::View<'_>,
        y: Self::ViewMut<'_>,
        statistics: Self::ViewMut<'_>,
    );
    /// The input's gradient, `dx = ...` (`+ dx` with `accumulate`, which is how a residual joins).
    fn layer_norm_backward_input(
        &self,
        shape: Rows,
        x: Self::View<'_>,
        statistics: Self::View<'_>,
        weight: Self::View<'_>,
        dy: Self::View<'_>,
        dx: Self::ViewMut<'_>,
        accumulate: bool,
    );
    /// `dweight += Σ_rows dy x̂`, `dbias += Σ_rows dy`; either may be frozen.
    fn layer_norm_backward_parameters(
        &self,
        shape: Rows,
        x: Self::View<'_>,
        statistics: Self::View<'_>,
        dy: Self::View<'_>,
        dweight: Option<Self::ViewMut<'_>>,
        dbias: Option<Self::ViewMut<'_>>,
    );

    /// [`Backend::layer_norm`] of several utterances at once, each with its own γ and β, then GELU with `_activate`; see
    /// [`Backend::pads`].
    fn layer_norm_each(
        &self,
        _shape: Rows,
        _shares: Shares<Self::View<'_>>,
        _x: Self::View<'_>,
        _parameters: [Each<Self::View<'_>>; 2],
        _y: Self::ViewMut<'_>,
        _statistics: Self::ViewMut<'_>,
        _activate: bool,
    ) {
        panic!("{NO_PADDING}");
    }
    /// [`Backend::layer_norm_backward_input`], the same way.
    fn layer_norm_backward_input_each(
        &self,
        _shape: Rows,
        _shares: Shares<Self::View<'_>>,
        _x: Self::View<'_>,
        _statistics: Self::View<'_>,
        _weight: Each<Self::View<'_>>,
        _dy: Self::View<'_>,
        _dx: Self::ViewMut<'_>,
        _accumulate: bool,
    ) {
        panic!("{NO_PADDING}");
    }
    /// [`Backend::layer_norm_backward_parameters`], the same way: γ's and β's gradients begin at these places of the first
    /// utterance's among `gradients`.
    fn layer_norm_backward_parameters_each(
        &self,
        _shape: Rows,
        _shares: Shares<Self::View<'_>>,
        _x: Self::View<'_>,
        _statistics: Self::View<'_>,
        _dy: Self::View<'_>,
        _gradients: Each<Self::ViewMut<'_>>,
        _places: [Option<usize>; 2],
    ) {
        panic!("{NO_PADDING}");
    }

    /// Back through [`Backend::layer_norm_gelu`]: `d` is its output's gradient, and is used up; `dx = ...`, γ's and β's
    /// gradients are added to where they are adapted.
    fn layer_norm_gelu_backward(
        &self,
        shape: Rows,
        x: Self::View<'_>,
        statistics: Self::View<'_>,
        parameters: [Self::View<'_>; 2],
        d: Self::ViewMut<'_>,
        dx: Self::ViewMut<'_>,
        gradients: [Option<Self::ViewMut<'_>>; 2],
    );
    /// The same of several utterances at once; see [`Backend::layer_norm_backward_parameters_each`].
    fn layer_norm_gelu_backward_each(
        &self,
        _shape: Rows,
        _shares: Shares<Self::View<'_>>,
        _x: Self::View<'_>,
        _statistics: Self::View<'_>,
        _parameters: [Each<Self::View<'_>>; 2],
        _d: Self::ViewMut<'_>,
        _dx: Self::ViewMut<'_>,
        _gradients: Each<Self::ViewMut<'_>>,
        _places: [Option<usize>; 2],
    ) {
        panic!("{NO_PADDING}");
    }

    /// Zeros in all rows but the counted ones of each utterance; see [`Backend::pads`].
    fn clear_padding(&self, _shape: Rows, _counted: Self::View<'_>, _x: Each<Self::ViewMut<'_>>) {
        panic!("{NO_PADDING}");
    }

    /// Normalises each channel over time (a group norm with a group a channel), then GELU: `y = gelu(x̂ γ + β)`,
    /// `x̂ = (x - μ) / σ`; `statistics` receives (mean, 1/σ) per channel, `[cols, 2]`. Of counted rows alone where
    /// [`Backend::pads`].
    fn channel_norm_gelu(
        &self,
        shape: Rows,
        counted: Option<Self::View<'_>>,
        x: Self::View<'_>,
        weight: Self::View<'_>,
        bias: Self::View<'_>,
        y: Self::ViewMut<'_>,
        statistics: Self::ViewMut<'_>,
    );
    /// In place, from the output's gradient to the input's; `dweight += ...` and `dbias += ...` where they are adapted.
    /// γ and β come as a pair.
    fn channel_norm_gelu_backward(
        &self,
        shape: Rows,
        counted: Option<Self::View<'_>>,
        x: Self::View<'_>,
        statistics: Self::View<'_>,
        parameters: (Self::View<'_>, Self::View<'_>),
        d: Self::ViewMut<'_>,
        dweight: Option<Self::ViewMut<'_>>,
        dbias: Option<Self::ViewMut<'_>>,
    );

    /// [`Backend::channel_norm_gelu`] of several utterances of so many rows behind each other, each with its own γ and β and
    /// its own count of rows that count.
    fn channel_norm_gelu_each(
        &self,
        _shape: Rows,
        _counted: Self::View<'_>,
        _x: Self::View<'_>,
        _parameters: [Each<Self::View<'_>>; 2],
        _y: Self::ViewMut<'_>,
        _statistics: Self::ViewMut<'_>,
    ) {
        panic!("{NO_PADDING}");
    }
    /// [`Backend::channel_norm_gelu_backward`], the same way: the gradients begin at these places of the first utterance's.
    fn channel_norm_gelu_backward_each(
        &self,
        _shape: Rows,
        _counted: Self::View<'_>,
        _x: Self::View<'_>,
        _statistics: Self::View<'_>,
        _parameters: [Each<Self::View<'_>>; 2],
        _d: Self::ViewMut<'_>,
        _gradients: Each<Self::ViewMut<'_>>,
        _places: [Option<usize>; 2],
    ) {
        panic!("{NO_PADDING}");
    }

    /// Values of scratch memory that attention needs (forward and backward alike).
    fn attention_scratch(&self, shape: Attention) -> usize;
    /// Softmax attention over all heads: qkv `[T, 3, heads, head_dim]`, out `[T, heads, head_dim]`,
    /// `log_sum_exp` `[heads, T]`. Scores are never stored: the backward pass recomputes them. With spans, T is all rows, an
    /// utterance's rows see each other alone, and padding's outputs are 0.
    fn attention(
        &self,
        shape: Attention,
        spans: Option<Spans<Self::View<'_>>>,
        qkv: Self::View<'_>,
        bias: Option<RelativeBias<Self::View<'_>>>,
        out: Self::ViewMut<'_>,
        log_sum_exp: Self::ViewMut<'_>,
        scratch: Self::ViewMut<'_>,
    );
    /// `dqkv` `[T, 3, heads, head_dim]` from `dout`, and the relative bias's gradients where there is one.
    fn attention_backward(
        &self,
        shape: Attention,
        spans: Option<Spans<Self::View<'_>>>,
        qkv: Self::View<'_>,
        bias: BiasAndGradient<Self::View<'_>, Self::ViewMut<'_>>,
        out: Self::View<'_>,
        log_sum_exp: Self::View<'_>,
        dout: Self::View<'_>,
        dqkv: Self::ViewMut<'_>,
        scratch: Self::ViewMut<'_>,
    );

    /// WavLM's gate: `sigmoid(a) (sigmoid(b) constant - 1) + 2`, a the sum of a row's first four values and b of its
    /// last four; projection `[T, heads, 8]`, constant `[heads]`, gate `[heads, T]`. `rows.cols` counts heads.
    fn relative_gate(&self, shape: Rows, projection: Self::View<'_>, constant: Self::View<'_>, gate: Self::ViewMut<'_>);
    /// `dprojection = ...`, and `dconstant += ...` where it is adapted.
    fn relative_gate_backward(
        &self,
        shape: Rows,
        projection: Self::View<'_>,
        constant: Self::View<'_>,
        dgate: Self::View<'_>,
        dprojection: Self::ViewMut<'_>,
        dconstant: Option<Self::ViewMut<'_>>,
    );
    /// `table[h, d] = embedding[buckets[d], h]`: embedding `[buckets, heads]`, table `[heads, buckets.len()]`.
    fn relative_table(&self, buckets: &[u32], heads: usize, embedding: Self::View<'_>, table: Self::ViewMut<'_>);
    /// `dembedding[buckets[d], h] += dtable[h, d]`.
    fn relative_table_backward(
        &self,
        buckets: &[u32],
        heads: usize,
        dtable: Self::View<'_>,
        dembedding: Self::ViewMut<'_>,
    );

    /// `y += x`, element by element over the whole of `y`; `x` may be longer (a position table).
    fn add_prefix(&self, x: Self::View<'_>, y: Self::ViewMut<'_>);

    /// The same of so many equal stretches of `y`; see [`Backend::pads`].
    fn add_prefix_each(&self, _count: usize, _x: Self::View<'_>, _y: Self::ViewMut<'_>) {
        panic!("{NO_PADDING}");
    }
    /// Utterances' rows that lie apart, equally many each with the padding, as rows behind each other: `y[start + row] = x[row]`,
    /// and 0 in the padding behind the last.
    fn join_rows(&self, _spans: Spans<Self::View<'_>>, _cols: usize, _x: Self::View<'_>, _y: Self::ViewMut<'_>) {
        panic!("{NO_PADDING}");
    }
    /// The reverse, with 0 in each one's padding.
    fn part_rows(&self, _spans: Spans<Self::View<'_>>, _cols: usize, _x: Self::View<'_>, _y: Self::ViewMut<'_>) {
        panic!("{NO_PADDING}");
    }

    /// SUTA's objective and its gradient with respect to the logits, both `[T, V]`; see [`ObjectiveTerms`]. Of one utterance:
    /// a span's rows alone are in it, and padding's gradient is 0.
    fn entropy_mcc(
        &self,
        terms: &ObjectiveTerms,
        shape: Rows,
        spans: Option<Spans<Self::View<'_>>>,
        logits: Self::View<'_>,
        dlogits: Self::ViewMut<'_>,
    ) -> ObjectiveValue;

    /// The pseudo-label objective ([`pseudo_label_loss`]) and its gradient with respect to the logits, both `[T, V]`.
    fn pseudo_label(
        &self,
        label: &PseudoLabel<'_>,
        shape: Rows,
        logits: Self::View<'_>,
        dlogits: Self::ViewMut<'_>,
    ) -> f64;

    /// One AdamW update of a stretch of parameters, `step` counted from 1.
    fn adamw(
        &self,
        settings: &AdamW,
        step: u32,
        values: Self::ViewMut<'_>,
        gradients: Self::View<'_>,
        first_moment: Self::ViewMut<'_>,
        second_moment: Self::ViewMut<'_>,
    );
}
