//! The operations' shapes and settings.

/// A linear layer over rows that may be strided views into a longer buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Rows of the input and of the output.
    pub rows: usize,
    /// Inner size of the input.
    pub inputs: usize,
    /// Inner size of the output.
    pub outputs: usize,
    /// Values from one input row to the next: `inputs`, or less where rows overlap (a convolution).
    pub x_stride: usize,
}

impl Linear {
    /// Rows side by side.
    pub fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        Self {
            rows,
            inputs,
            outputs,
            x_stride: inputs,
        }
    }
}

/// A matrix seen as rows of `cols` values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// How many rows.
    pub rows: usize,
    /// Values a row.
    pub cols: usize,
}

/// A count as the value that holds its bits, for [`crate::engine::Backend::pads`].
pub fn count_to_value(rows: usize) -> f32 {
    f32::from_bits(u32::try_from(rows).expect("fewer than 2^32 rows"))
}

/// Utterances whose rows lie behind each other in one matrix. `View` is `()` where only sizes matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spans<View> {
    /// The row at which each begins, and where the last ends: words ([`count_to_value`]), `[count + 1]`, on the device.
    /// The rows behind are padding.
    pub starts: View,
    /// How many.
    pub count: usize,
    /// Rows of the longest, with the padding, or more.
    pub longest: usize,
}

/// Whose rows are which, of several utterances'.
#[derive(Debug, Clone, Copy)]
pub enum Shares<View> {
    /// So many utterances have equally many each, all of which count.
    Even(usize),
    /// As the spans say.
    Spans(Spans<View>),
}

impl<View> Shares<View> {
    /// How many utterances.
    pub fn count(&self) -> usize {
        match self {
            Self::Even(count) => *count,
            Self::Spans(spans) => spans.count,
        }
    }
}

impl<View> From<Option<Spans<View>>> for Shares<View> {
    /// As what works row by row sees it, to which a single utterance's padding is nothing.
    fn from(spans: Option<Spans<View>>) -> Self {
        spans.filter(|spans| spans.count > 1).map_or(Self::Even(1), Self::Spans)
    }
}

/// Values of which each utterance has its own.
#[derive(Debug, Clone, Copy)]
pub struct Each<View> {
    /// From the first utterance's on.
    pub values: View,
    /// From one utterance's to the next's; 0 where all have the same.
    pub stride: usize,
}

/// A one-dimensional convolution over a channels-last, already zero-padded input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv1d {
    /// Rows of the padded input.
    pub padded_frames: usize,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Taps.
    pub kernel: usize,
    /// Input rows from one output row to the next.
    pub stride: usize,
}

impl Conv1d {
    /// Rows of the output.
    pub fn out_frames(&self) -> usize {
        if self.padded_frames < self.kernel {
            0
        } else {
            (self.padded_frames - self.kernel) / self.stride + 1
        }
    }

    /// The same convolution as a linear layer: each output row reads `kernel * c_in` consecutive values.
    pub fn as_linear(&self) -> Linear {
        Linear {
            rows: self.out_frames(),
            inputs: self.kernel * self.c_in,
            outputs: self.c_out,
            x_stride: self.stride * self.c_in,
        }
    }
}

/// A convolution over time in groups of channels, whose output is as long as its input: zeros stand before the first
/// frame and after the last. x and y are `[frames, channels]`, the weight `[channels, kernel, channels / groups]`. On a
/// device that [`crate::engine::Backend::pads`] x and y may be those of several utterances behind each other, of one weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupedConv1d {
    /// T.
    pub frames: usize,
    /// Channels of the input and of the output.
    pub channels: usize,
    /// Groups; each output channel sees its own group's inputs.
    pub groups: usize,
    /// Taps.
    pub kernel: usize,
    /// Zeros before the first frame: tap k of output t reads input `t + k - padding`.
    pub padding: usize,
}

impl GroupedConv1d {
    /// Channels a group.
    pub fn group(&self) -> usize {
        self.channels / self.groups
    }

    /// Values of the weight.
    pub fn weight_len(&self) -> usize {
        self.channels * self.kernel * self.group()
    }

    /// The output as rows.
    pub fn rows(&self) -> Rows {
        Rows {
            rows: self.frames,
            cols: self.channels,
        }
    }
}

/// WavLM's addition to attention (Chen et al. 2022): row i's score for column j gains `gate[i] · table[j - i]`.
#[derive(Debug, Clone, Copy)]
pub struct RelativeBias<View> {
    /// `[heads, T]`
    pub gate: View,
    /// `[heads, 2T - 1]`, distance `j - i` at index `j - i + T - 1`.
    pub table: View,
}

/// Where the gradients of a [`RelativeBias`] go.
#[derive(Debug)]
pub struct RelativeBiasGradient<ViewMut> {
    /// Written.
    pub gate: ViewMut,
    /// Accumulated; `None` when nothing behind the table is adapted.
    pub table: Option<ViewMut>,
}

/// The relative bias of a backward pass and where its gradients go, where there is one.
pub type BiasAndGradient<View, ViewMut> = Option<(RelativeBias<View>, RelativeBiasGradient<ViewMut>)>;

/// Self-attention of one utterance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// T.
    pub frames: usize,
    /// Heads.
    pub heads: usize,
    /// Values a head.
    pub head_dim: usize,
}

impl Attention {
    /// Scores are multiplied by `1 / sqrt(head_dim)`.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Model width: heads side by side.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }
}

/// Attention of some rows to others: a decoder's to the encoder's output, or to its own earlier positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrossAttention {
    /// Rows that look.
    pub queries: usize,
    /// Rows that are looked at.
    pub keys: usize,
    /// Heads.
    pub heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// The queries are the last of the keys' positions, and each sees its own and those before it.
    pub causal: bool,
}

impl CrossAttention {
    /// Scores are multiplied by `1 / sqrt(head_dim)`.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Model width: heads side by side.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// How many keys, from the first, a query sees.
    pub fn visible(&self, query: usize) -> usize {
        if self.causal {
            self.keys - self.queries + query + 1
        } else {
            self.keys
        }
    }
}

/// The terms of SUTA's objective (Lin, Li and Lee 2022):
/// `entropy_weight · mean entropy of the non-blank frames + (1 - entropy_weight) · minimum class confusion of all frames`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectiveTerms {
    /// Softmax temperature of both terms.
    pub temperature: f64,
    /// Weight of the entropy; minimum class confusion has the rest.
    pub entropy_weight: f64,
    /// Index of the CTC blank.
    pub blank: usize,
}

/// What [`crate::engine::Backend::pseudo_label`] goes towards.
#[derive(Debug, Clone, Copy)]
pub struct PseudoLabel<'a> {
    /// The target, without blanks.
    pub target: &'a [usize],
    /// Index of the CTC blank.
    pub blank: usize,
    /// Softmax over the frames instead of the symbols, as SUTA's published code has it.
    pub over_time: bool,
}

/// A pseudo-label whose target is on the device, as words ([`count_to_value`]), for an utterance of so many frames.
#[derive(Debug, Clone, Copy)]
pub struct PlacedLabel<View> {
    /// The target, without blanks.
    pub target: View,
    /// T.
    pub frames: usize,
    /// Index of the CTC blank.
    pub blank: usize,
    /// As [`PseudoLabel::over_time`].
    pub over_time: bool,
}

/// The objective's value on one utterance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectiveValue {
    /// The weighted sum.
    pub loss: f64,
    /// Mean entropy in nats of the frames whose best symbol is not blank; 0 when there is none.
    pub entropy: f64,
    /// Minimum class confusion.
    pub class_confusion: f64,
    /// Frames whose best symbol is not blank.
    pub non_blank_frames: usize,
}

/// AdamW (Loshchilov and Hutter 2019), bias-corrected, as `torch.optim.AdamW` computes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Step size.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl AdamW {
    /// SUTA's settings (betas 0.9 and 0.999, no decay) at a learning rate.
    pub fn suta(learning_rate: f64) -> Self {
        Self {
            learning_rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

/// How a GPU computes matrix products; sums are f32 in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CudaPrecision {
    /// f32.
    #[default]
    Exact,
    /// Factors rounded to TF32 (10 bits of mantissa).
    Tf32,
    /// Factors rounded to bfloat16 (7 bits).
    Bf16,
}
