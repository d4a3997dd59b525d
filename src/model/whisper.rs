//! Whisper's frontend (Radford et al. 2022): two convolutions over log-mel frames, the second with stride 2, and
//! sinusoidal positions. It runs on the true length, `(frames + 1) / 2` outputs, not on a 30-second window.

use super::ctc::first_adapted;
use super::layers::{clear_padding, gelu_backward};
use super::tensors::{Kind, Layout, OperandId, Piece, Place, WeightsBuilder};
use super::{ModelError, Parameters, WhisperConfig};
use crate::engine::{Arena, ArenaPlan, Backend, Conv1d, Count, Each, Rows, Slot};

const KERNEL: usize = 3;

/// Which operand is what.
pub(super) struct WhisperFrontend {
    bands: usize,
    width: usize,
    conv1: Convolution,
    conv2: Convolution,
    positions: OperandId,
}

/// A convolution's operands.
#[derive(Clone, Copy)]
pub(super) struct Convolution {
    pub(super) weight: OperandId,
    pub(super) bias: OperandId,
}

/// Where the activations lie, of so many utterances behind each other.
pub(super) struct WhisperActivations {
    count: usize,
    frames: usize,
    conv1_shape: Conv1d,
    conv2_shape: Conv1d,
    /// Log-mel frames between two rows of zeros, `[frames + 2, bands]`.
    input: Slot,
    /// Before the GELU and behind it: between two rows of zeros, `[frames + 2, D]`.
    conv1_pre: Slot,
    conv1_out: Slot,
    conv2_pre: Slot,
    dconv1: Slot,
    /// Where the input is padded.
    counted: Option<Count>,
}

impl WhisperFrontend {
    pub(super) fn load(
        builder: &mut WeightsBuilder<'_>,
        encoder: &str,
        config: &WhisperConfig,
        width: usize,
    ) -> Result<Self, ModelError> {
        builder.enter(Place::Feature, 0);
        let conv1 = Convolution::load(
            builder,
            &format!("{encoder}conv1"),
            [width, config.num_mel_bins, KERNEL],
            true,
        )?;
        let conv2 = Convolution::load(builder, &format!("{encoder}conv2"), [width, width, KERNEL], true)?;
        builder.enter(Place::Encoder, 0);
        let name = format!("{encoder}embed_positions.weight");
        let positions = builder.tensor(&name, &[config.max_source_positions, width], Kind::Fixed)?;
        Ok(Self {
            bands: config.num_mel_bins,
            width,
            conv1,
            conv2,
            positions,
        })
    }

    pub(super) fn stages(&self) -> usize {
        2
    }

    /// Frames after each convolution.
    pub(super) fn frames(&self, values: usize) -> [usize; 2] {
        let frames = values / self.bands;
        [frames, self.conv2_shape(frames).out_frames()]
    }

    /// What values come in.
    pub(super) fn unit(&self) -> usize {
        self.bands
    }

    fn conv2_shape(&self, frames: usize) -> Conv1d {
        Conv1d {
            padded_frames: frames + 2,
            c_in: self.width,
            c_out: self.width,
            kernel: KERNEL,
            stride: 2,
        }
    }

    pub(super) fn plan(
        &self,
        plan: &mut ArenaPlan,
        values: usize,
        count: usize,
        keep_from: usize,
        is_padded: bool,
    ) -> Option<(WhisperActivations, usize)> {
        let (frames, d) = (values / self.bands, self.width);
        let padded_frames = frames + 2;
        let conv2_shape = self.conv2_shape(frames);
        let conv1_shape = Conv1d {
            c_in: self.bands,
            stride: 1,
            ..conv2_shape
        };
        let rows = conv2_shape.out_frames();
        let backward = (keep_from < self.stages()) as usize;
        let activations = WhisperActivations {
            count,
            frames,
            conv1_shape,
            conv2_shape,
            input: plan.slot(count * padded_frames * self.bands),
            conv1_pre: plan.slot(count * padded_frames * d),
            conv1_out: plan.slot(count * padded_frames * d),
            conv2_pre: plan.slot(count * rows * d),
            dconv1: plan.slot(backward * count * padded_frames * d),
            counted: is_padded.then_some(Count::Convolved(count)),
        };
        (frames > 0).then_some((activations, rows))
    }

    pub(super) fn load_inputs<B: Backend>(
        &self,
        backend: &B,
        arena: &mut Arena<B>,
        a: &WhisperActivations,
        log_mels: &[&[f32]],
    ) {
        backend.fill_zero(arena.view_mut(backend, a.input));
        for (index, log_mel) in log_mels.iter().enumerate() {
            let own = a.input.part((index * (a.frames + 2) + 1) * self.bands, log_mel.len());
            backend.upload(log_mel, arena.view_mut(backend, own));
        }
        // The padding rows of the second convolution's input stay zero from here on.
        for slot in [a.conv1_pre, a.conv1_out] {
            backend.fill_zero(arena.view_mut(backend, slot));
        }
    }

    /// Into `[count, rows, D]`.
    pub(super) fn forward<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &WhisperActivations,
        output: Slot,
        from: usize,
    ) {
        if from == 0 {
            let (pre, out) = (a.inner(a.conv1_pre), a.inner(a.conv1_out));
            let lanes = a.lanes();
            self.conv1
                .forward_gelu(backend, parameters, arena, (a.conv1_shape, lanes), a.input, pre, out);
            a.clear_padding(backend, arena, out);
        }
        if from <= 1 {
            self.conv2.forward_gelu(
                backend,
                parameters,
                arena,
                (a.conv2_shape, Lanes::behind(a.conv2_shape, a.count)),
                a.conv1_out,
                a.conv2_pre,
                output,
            );
            // The position table is longer than the utterance: its first rows are the ones needed.
            let positions = parameters.value(backend, self.positions);
            let output = arena.view_mut(backend, output);
            match a.count {
                1 => backend.add_prefix(positions, output),
                count => backend.add_prefix_each(count, positions, output),
            }
        }
    }

    /// From the output's gradient, which it overwrites.
    pub(super) fn backward<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &WhisperActivations,
        stream: Slot,
        lowest: usize,
    ) {
        gelu_backward(backend, arena, a.conv2_pre, stream);
        let shape = (a.conv2_shape, Lanes::behind(a.conv2_shape, a.count));
        self.conv2
            .backward_parameters(backend, parameters, arena, shape, a.conv1_out, stream);
        if lowest == 0 {
            self.conv2
                .backward_input(backend, parameters, arena, (a.conv2_shape, a.count), stream, a.dconv1);
            let (pre, inner) = (a.inner(a.conv1_pre), a.inner(a.dconv1));
            // The last output that counts has looked at the zeros behind the last input.
            a.clear_padding(backend, arena, inner);
            gelu_backward(backend, arena, pre, inner);
            let shape = (a.conv1_shape, a.lanes());
            self.conv1
                .backward_parameters(backend, parameters, arena, shape, a.input, inner);
        }
    }

    pub(super) fn lowest_adapted_stage<B: Backend>(&self, parameters: &impl Parameters<B>) -> Option<usize> {
        first_adapted(parameters, [self.conv1, self.conv2].map(|conv| conv.operands()))
    }
}

impl WhisperActivations {
    /// Without the zeros before the first utterance and behind the last.
    fn inner(&self, slot: Slot) -> Slot {
        let d = self.conv1_shape.c_out;
        slot.part(d, slot.len - 2 * d)
    }

    /// Of the first convolution's output.
    fn lanes(&self) -> Lanes {
        Lanes {
            count: self.count,
            stride: (self.frames + 2) * self.conv1_shape.c_out,
        }
    }

    /// Zeros behind what counts of the first convolution's output, or of its gradient.
    fn clear_padding<B: Backend>(&self, backend: &B, arena: &mut Arena<B>, inner: Slot) {
        let (rows, cols) = (self.frames, self.conv1_shape.c_out);
        let stride = self.lanes().stride;
        clear_padding(backend, arena, Rows { rows, cols }, self.counted, inner, stride);
    }
}

/// Utterances that are convolved at once: how many, and how far their outputs are apart.
#[derive(Clone, Copy)]
pub(super) struct Lanes {
    count: usize,
    stride: usize,
}

impl Lanes {
    /// Outputs behind each other.
    pub(super) fn behind(shape: Conv1d, count: usize) -> Self {
        Self {
            count,
            stride: shape.out_frames() * shape.c_out,
        }
    }
}

impl Convolution {
    /// The weight in the engine's layout; the bias, or zeros where the architecture has none.
    pub(super) fn load(
        builder: &mut WeightsBuilder<'_>,
        name: &str,
        shape: [usize; 3],
        has_bias: bool,
    ) -> Result<Self, ModelError> {
        let weight_name = format!("{name}.weight");
        let weight = [Piece::Tensor(&weight_name, &shape, Kind::Weight, Layout::ChannelsLast)];
        Ok(Self {
            weight: builder.operand(&weight)?,
            bias: if has_bias {
                builder.tensor(&format!("{name}.bias"), &shape[..1], Kind::Bias)?
            } else {
                builder.constant(0.0, shape[0])?
            },
        })
    }

    pub(super) fn operands(&self) -> Vec<OperandId> {
        vec![self.weight, self.bias]
    }

    /// The values of each of several utterances.
    fn each<'a, B: Backend>(&self, backend: &B, parameters: &'a impl Parameters<B>) -> [Each<B::View<'a>>; 2] {
        [self.weight, self.bias].map(|id| parameters.each(backend, id))
    }

    /// `y = x W + bias`.
    pub(super) fn forward<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        (shape, Lanes { count, stride }): (Conv1d, Lanes),
        x: Slot,
        y: Slot,
    ) {
        let ([x], [y]) = arena.split(backend, [x], [y]);
        if count > 1 {
            let y = Each { values: y, stride };
            return backend.conv1d_gelu_each(shape, count, x, self.each(backend, parameters), y, None);
        }
        let [weight, bias] = [self.weight, self.bias].map(|id| parameters.value(backend, id));
        backend.linear(shape.as_linear(), x, weight, Some(bias), y, false);
    }

    /// The same, then GELU.
    pub(super) fn forward_gelu<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        (shape, Lanes { count, stride }): (Conv1d, Lanes),
        x: Slot,
        pre: Slot,
        y: Slot,
    ) {
        let ([x], [pre, y]) = arena.split(backend, [x], [pre, y]);
        if count > 1 {
            let pre = Each { values: pre, stride };
            return backend.conv1d_gelu_each(shape, count, x, self.each(backend, parameters), pre, Some(y));
        }
        let [weight, bias] = [self.weight, self.bias].map(|id| parameters.value(backend, id));
        backend.conv1d_gelu(shape, x, weight, bias, pre, y);
    }

    /// The padded inputs' gradients, of so many utterances.
    pub(super) fn backward_input<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        (shape, count): (Conv1d, usize),
        dpre: Slot,
        dx: Slot,
    ) {
        let ([dpre], [dx]) = arena.split(backend, [dpre], [dx]);
        if count > 1 {
            let weight = parameters.each(backend, self.weight);
            return backend.conv1d_backward_input_each(shape, count, dpre, weight, dx);
        }
        let weight = parameters.value(backend, self.weight);
        backend.conv1d_backward_input(shape, dpre, weight, dx);
    }

    pub(super) fn backward_parameters<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        (shape, Lanes { count, stride }): (Conv1d, Lanes),
        x: Slot,
        dpre: Slot,
    ) {
        let ids = [self.weight, self.bias];
        if !ids.iter().any(|id| parameters.is_adapted(*id)) {
            return;
        }
        let ([x, dpre], []) = arena.split(backend, [x, dpre], []);
        if count > 1 {
            let (_, gradients, places) = parameters.each_with_gradients(backend, ids);
            let dpre = Each { values: dpre, stride };
            return backend.conv1d_backward_parameters_each(shape, count, x, dpre, gradients, places);
        }
        if let Some(dweight) = parameters.gradient(backend, self.weight) {
            backend.conv1d_backward_weight(shape, x, dpre, dweight);
        }
        if let Some(dbias) = parameters.gradient(backend, self.bias) {
            let (rows, cols) = (shape.out_frames(), shape.c_out);
            backend.bias_backward(Rows { rows, cols }, dpre, dbias);
        }
    }
}
