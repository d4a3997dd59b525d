//! Whisper's frontend (Radford et al. 2022): two convolutions over log-mel frames, the second with stride 2, and
//! sinusoidal positions. It runs on the true length, `(frames + 1) / 2` outputs, not on a 30-second window.

use super::ctc::first_adapted;
use super::layers::{clear_padding, gelu_backward};
use super::tensors::{Kind, Layout, OperandId, Piece, Place, WeightsBuilder};
use super::{ModelError, Parameters, WhisperConfig};
use crate::engine::{Arena, ArenaPlan, Backend, Conv1d, Count, Rows, Slot};

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

/// Where the activations lie.
pub(super) struct WhisperActivations {
    frames: usize,
    conv1_shape: Conv1d,
    conv2_shape: Conv1d,
    /// Log-mel frames between two rows of zeros, `[frames + 2, bands]`.
    input: Slot,
    conv1_pre: Slot,
    /// Between two rows of zeros, `[frames + 2, D]`.
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
            frames,
            conv1_shape,
            conv2_shape,
            input: plan.slot(padded_frames * self.bands),
            conv1_pre: plan.slot(frames * d),
            conv1_out: plan.slot(padded_frames * d),
            conv2_pre: plan.slot(rows * d),
            dconv1: plan.slot(backward * padded_frames * d),
            counted: is_padded.then_some(Count::Convolved),
        };
        (frames > 0).then_some((activations, rows))
    }

    pub(super) fn load_input<B: Backend>(
        &self,
        backend: &B,
        arena: &mut Arena<B>,
        a: &WhisperActivations,
        log_mel: &[f32],
    ) {
        backend.fill_zero(arena.view_mut(backend, a.input));
        let inner = a.input.part(self.bands, log_mel.len());
        backend.upload(log_mel, arena.view_mut(backend, inner));
        // The padding rows of the second convolution's input stay zero from here on.
        backend.fill_zero(arena.view_mut(backend, a.conv1_out));
    }

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
            let inner = a.conv1_out.part(self.width, a.frames * self.width);
            self.conv1
                .forward_gelu(backend, parameters, arena, a.conv1_shape, a.input, a.conv1_pre, inner);
            a.clear_padding(backend, arena, inner);
        }
        if from <= 1 {
            self.conv2.forward_gelu(
                backend,
                parameters,
                arena,
                a.conv2_shape,
                a.conv1_out,
                a.conv2_pre,
                output,
            );
            // The position table is longer than the utterance: its first rows are the ones needed.
            let positions = parameters.value(backend, self.positions);
            backend.add_prefix(positions, arena.view_mut(backend, output));
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
        self.conv2
            .backward_parameters(backend, parameters, arena, a.conv2_shape, a.conv1_out, stream);
        if lowest == 0 {
            let ([dpre], [dx]) = arena.split(backend, [stream], [a.dconv1]);
            let weight = parameters.value(backend, self.conv2.weight);
            backend.conv1d_backward_input(a.conv2_shape, dpre, weight, dx);
            let inner = a.dconv1.part(self.width, a.frames * self.width);
            // The last output that counts has looked at the zeros behind the last input.
            a.clear_padding(backend, arena, inner);
            gelu_backward(backend, arena, a.conv1_pre, inner);
            self.conv1
                .backward_parameters(backend, parameters, arena, a.conv1_shape, a.input, inner);
        }
    }

    pub(super) fn lowest_adapted_stage<B: Backend>(&self, parameters: &impl Parameters<B>) -> Option<usize> {
        first_adapted(parameters, [self.conv1, self.conv2].map(|conv| conv.operands()))
    }
}

impl WhisperActivations {
    /// Zeros behind what counts of the first convolution's output, or of its gradient.
    fn clear_padding<B: Backend>(&self, backend: &B, arena: &mut Arena<B>, inner: Slot) {
        let (rows, cols) = (self.frames, self.conv1_shape.c_out);
        clear_padding(backend, arena, Rows { rows, cols }, self.counted, inner);
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

    pub(super) fn forward_gelu<B: Backend>(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        shape: Conv1d,
        x: Slot,
        pre: Slot,
        y: Slot,
    ) {
        let ([x], [pre, y]) = arena.split(backend, [x], [pre, y]);
        let value = |id| parameters.value(backend, id);
        backend.conv1d_gelu(shape, x, value(self.weight), value(self.bias), pre, y);
    }

    pub(super) fn backward_parameters<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        shape: Conv1d,
        x: Slot,
        dpre: Slot,
    ) {
        let ([x, dpre], []) = arena.split(backend, [x, dpre], []);
        if let Some(dweight) = parameters.gradient(backend, self.weight) {
            backend.conv1d_backward_weight(shape, x, dpre, dweight);
        }
        if let Some(dbias) = parameters.gradient(backend, self.bias) {
            let (rows, cols) = (shape.out_frames(), shape.c_out);
            backend.bias_backward(Rows { rows, cols }, dpre, dbias);
        }
    }
}
