//! A model: a frontend that turns the signal into frames, transformer layers, then CTC's output layer or a decoder.

use super::checkpoint::Checkpoint;
use super::decoder::Decoder;
use super::layers::{LayerNorm, LinearLayer, rows_of};
use super::tensors::{OperandId, Place, WeightsBuilder};
use super::transformer::{Transformer, TransformerActivations};
use super::wav2vec2::{Wav2Vec2Activations, Wav2Vec2Frontend};
use super::whisper::{WhisperActivations, WhisperFrontend};
use super::{FrontendConfig, ModelConfig, ModelError, Parameters, Weights};
use crate::engine::{Arena, ArenaPlan, Backend, Slot, Spans};
use std::ops::Range;
use std::sync::Arc;

/// For [`CtcModel::plan`]: every layer keeps what a backward pass reads.
pub const KEEP_ALL: usize = 0;
/// For [`CtcModel::plan`]: enough to recognise, not to adapt.
pub const KEEP_NOTHING: usize = usize::MAX;

/// What a model takes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Whisper's log-mel frames of so many bands.
    LogMel {
        /// Bands a frame.
        bands: usize,
    },
    /// 16 kHz samples, each utterance normalised to mean 0 and variance 1 or left as it is.
    Waveform {
        /// Whether it is.
        normalise: bool,
    },
}

/// The architecture with its weights: which operand is what, and the passes through it.
///
/// Stages count upwards from the input: the frontend's, two a transformer layer, the output's. A forward pass may
/// start at any stage whose input was kept, a backward pass ends at the lowest that is adapted.
pub struct CtcModel<B: Backend> {
    config: ModelConfig,
    weights: Arc<Weights<B>>,
    frontend: Frontend<B>,
    transformer: Transformer,
    output: Output,
    decoder: Option<Decoder>,
}

enum Frontend<B: Backend> {
    Whisper(WhisperFrontend),
    Wav2Vec2(Wav2Vec2Frontend<B>),
}

struct Output {
    norm: Option<LayerNorm>,
    head: Option<LinearLayer>,
}

/// Where the activations of one input lie, or of several that are passed through together, behind each other.
pub struct Activations {
    /// With padding.
    rows: usize,
    values: usize,
    /// Of one padded input: its own values, and how many rows count after the first convolution and in the end.
    padded: Option<(usize, [usize; 2])>,
    /// Where there is padding, or were inputs planned to be passed through together.
    spans: Option<Spans<()>>,
    frontends: Vec<FrontendActivations>,
    utterances: Vec<Utterance>,
    transformer: TransformerActivations,
    normed: Slot,
    statistics: Slot,
    logits: Slot,
    dlogits: Slot,
}

/// An input's place among those passed through together.
struct Utterance {
    values: usize,
    rows: Range<usize>,
}

enum FrontendActivations {
    Whisper(WhisperActivations),
    Wav2Vec2(Wav2Vec2Activations),
}

impl Activations {
    /// T, the rows of the logits that count.
    pub fn output_frames(&self) -> usize {
        self.padded.map_or(self.rows, |(_, [_, rows])| rows)
    }

    /// The same with the padding behind them.
    pub fn padded_frames(&self) -> usize {
        self.rows
    }

    /// Which rows are whose, where the input is padded or one of a batch.
    pub fn spans(&self) -> Option<Spans<()>> {
        self.spans
    }

    /// The rows of each utterance's logits.
    pub fn utterance_rows(&self) -> Vec<Range<usize>> {
        self.utterances.iter().map(|utterance| utterance.rows.clone()).collect()
    }

    /// Values of the input with its padding, or of all inputs.
    pub fn values(&self) -> usize {
        self.values
    }

    /// `[T, D]`: what the output layer reads, or a decoder.
    pub fn encoded(&self) -> Slot {
        self.normed
    }

    /// `[T, D]`: where the gradient of [`Activations::encoded`] goes before [`CtcModel::backward_encoded`].
    pub fn dencoded(&self) -> Slot {
        if self.normed == self.transformer.output {
            self.transformer.stream
        } else {
            self.transformer.normed
        }
    }

    /// `[T, V]`
    pub fn logits(&self) -> Slot {
        self.own_rows(self.logits)
    }

    /// `[T, V]`: where the objective's gradient goes before [`CtcModel::backward`].
    pub fn dlogits(&self) -> Slot {
        self.own_rows(self.dlogits)
    }

    /// Both with the padding: [`Activations::padded_frames`] rows.
    pub fn padded_logits(&self) -> (Slot, Slot) {
        (self.logits, self.dlogits)
    }

    /// Without the padding.
    fn own_rows(&self, slot: Slot) -> Slot {
        slot.part(0, slot.len / self.rows * self.output_frames())
    }

    /// The convolutions' output `[T, C]` and C, where there are norms among them (wav2vec2's). Valid after a forward pass
    /// when the convolutions' stages were kept.
    pub fn features(&self) -> Option<(Slot, usize)> {
        match &self.frontends[..] {
            [FrontendActivations::Wav2Vec2(a)] => Some((self.own_rows(a.features()), a.features().len / self.rows)),
            _ => None,
        }
    }

    /// What enters the transformer layers, what each of them gives, and the final norm's output where there is one.
    /// Only with [`KEEP_ALL`], and valid after a forward pass.
    pub fn hidden_states(&self) -> Vec<Slot> {
        let mut states = self.transformer.hidden_states();
        if self.normed != self.transformer.output {
            states.push(self.normed);
        }
        states
    }
}

impl<B: Backend> CtcModel<B> {
    /// Reads the weights that a configuration asks for.
    pub fn load(backend: &B, config: ModelConfig, checkpoint: &dyn Checkpoint) -> Result<Self, ModelError> {
        let mut builder = WeightsBuilder::new(checkpoint);
        let builder_ref = &mut builder;
        let names = config.names();
        let width = config.transformer.width;
        let mut frontend = match &config.frontend {
            FrontendConfig::Whisper(whisper) => {
                Frontend::Whisper(WhisperFrontend::load(builder_ref, &names.encoder, whisper, width)?)
            }
            FrontendConfig::Wav2Vec2(wav2vec2) => Frontend::Wav2Vec2(Wav2Vec2Frontend::load(
                builder_ref,
                &names.base,
                wav2vec2,
                &config.transformer,
            )?),
        };
        let layers = format!("{}layers.", names.encoder);
        let stages = frontend.stages();
        let transformer = Transformer::load(builder_ref, config.transformer.clone(), &layers, &names.layer, stages)?;
        builder_ref.enter(Place::Layer(config.transformer.layers), 0);
        let norm = if config.transformer.norm_first {
            Some(LayerNorm::load(
                builder_ref,
                &format!("{}layer_norm", names.encoder),
                width,
            )?)
        } else {
            None
        };
        builder_ref.enter(Place::Head, 0);
        let head = if config.vocab_size > 0 {
            Some(LinearLayer::load(builder_ref, names.head, width, config.vocab_size)?)
        } else {
            None
        };
        let decoder = match &config.decoder {
            Some(decoder) => {
                let prefix = format!("{}decoder.", names.base);
                Some(Decoder::load(builder_ref, decoder.clone(), &prefix, width)?)
            }
            None => None,
        };
        let weights = Arc::new(builder.finish(backend)?);
        if let Frontend::Wav2Vec2(frontend) = &mut frontend {
            frontend.prepare(backend, &weights)?;
        }
        Ok(Self {
            config,
            weights,
            frontend,
            transformer,
            output: Output { norm, head },
            decoder,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The source model's tensors.
    pub fn weights(&self) -> &Arc<Weights<B>> {
        &self.weights
    }

    /// Whisper's decoder, where the model has one.
    pub fn decoder(&self) -> Option<&Decoder> {
        self.decoder.as_ref()
    }

    /// What the model takes in.
    pub fn input(&self) -> Input {
        self.config.input()
    }

    /// Lays out the activations of an input of so many values (log-mel frames by bands, or samples); stages from
    /// `keep_from` upwards keep what a backward pass reads. `None` when the input is too short for a single frame.
    ///
    /// Panics when it is longer than [`ModelConfig::most_input_values`].
    pub fn plan(&self, backend: &B, values: usize, keep_from: usize) -> Option<(ArenaPlan, Activations)> {
        self.plan_batch(backend, &[values], keep_from)
    }

    /// The same padded to an input of `padded` values, on a device that [`Backend::pads`]: inputs of different lengths
    /// that are padded to one get the same slots, and the same work is done on them.
    ///
    /// Panics when `padded` is less than `values`, or longer than [`ModelConfig::most_input_values`].
    pub fn plan_padded(
        &self,
        backend: &B,
        values: usize,
        padded: usize,
        keep_from: usize,
    ) -> Option<(ArenaPlan, Activations)> {
        assert!(values <= padded, "{values} values padded to {padded}");
        let counts = match &self.frontend {
            Frontend::Whisper(frontend) => frontend.frames(values),
            Frontend::Wav2Vec2(frontend) => frontend.frames(values),
        };
        if counts.contains(&0) {
            return None;
        }
        let (plan, activations) = self.plan_all(backend, &[padded], keep_from, true)?;
        let padded = Some((values, counts));
        Some((plan, Activations { padded, ..activations }))
    }

    /// How long inputs of so many values are padded to be, by an eighth at most: few lengths serve all.
    pub fn padded_values(&self, values: usize) -> usize {
        let unit = match &self.frontend {
            Frontend::Whisper(frontend) => frontend.unit(),
            Frontend::Wav2Vec2(_) => 1,
        };
        let units = values / unit;
        // Steps of a sixteenth of the next power of two: eight lengths an octave.
        let step = (units.next_power_of_two() / 16).max(1);
        (units.next_multiple_of(step) * unit)
            .min(self.config.most_input_values())
            .max(values)
    }

    /// The same of inputs that are passed through together, of any lengths, on a device that [`Backend::pads`]; see
    /// [`CtcModel::takes_batches`].
    pub fn plan_batch(&self, backend: &B, inputs: &[usize], keep_from: usize) -> Option<(ArenaPlan, Activations)> {
        self.plan_all(backend, inputs, keep_from, false)
    }

    fn plan_all(
        &self,
        backend: &B,
        inputs: &[usize],
        keep_from: usize,
        is_padded: bool,
    ) -> Option<(ArenaPlan, Activations)> {
        let mut plan = ArenaPlan::default();
        let (mut frontends, mut utterances, mut rows) = (Vec::new(), Vec::new(), 0);
        for &values in inputs {
            assert!(values <= self.config.most_input_values(), "{values} input values");
            let (frontend, own) = match &self.frontend {
                Frontend::Whisper(frontend) => {
                    let (activations, rows) = frontend.plan(&mut plan, values, keep_from, is_padded)?;
                    (FrontendActivations::Whisper(activations), rows)
                }
                Frontend::Wav2Vec2(frontend) => {
                    let (activations, rows) = frontend.plan(backend, &mut plan, values, keep_from, is_padded)?;
                    (FrontendActivations::Wav2Vec2(activations), rows)
                }
            };
            frontends.push(frontend);
            utterances.push(Utterance {
                values,
                rows: rows..rows + own,
            });
            rows += own;
        }
        let longest = utterances
            .iter()
            .map(|utterance| utterance.rows.len())
            .max()
            .unwrap_or(0);
        let spans = (is_padded || inputs.len() > 1).then_some(Spans {
            starts: (),
            count: inputs.len(),
            longest,
        });
        let transformer = self.transformer.plan(backend, &mut plan, (rows, spans), keep_from);
        let width = self.config.transformer.width;
        let normed = match self.output.norm {
            Some(_) => plan.slot(rows * width),
            None => transformer.output,
        };
        let activations = Activations {
            rows,
            values: inputs.iter().sum(),
            padded: None,
            spans,
            frontends,
            utterances,
            normed,
            statistics: plan.slot(rows * 2),
            logits: plan.slot(rows * self.config.vocab_size),
            dlogits: plan.slot(rows * self.config.vocab_size),
            transformer,
        };
        Some((plan, activations))
    }

    /// Puts the input in place.
    pub fn load_input(&self, backend: &B, arena: &mut Arena<B>, activations: &Activations, values: &[f32]) {
        self.load_inputs(backend, arena, activations, &[values]);
    }

    /// Several inputs, of a batch; after [`Arena::reserve_spans`] for as many.
    pub fn load_inputs(&self, backend: &B, arena: &mut Arena<B>, activations: &Activations, inputs: &[&[f32]]) {
        assert_eq!(inputs.len(), activations.utterances.len());
        let places = activations.utterances.iter().zip(&activations.frontends);
        for (values, (utterance, a)) in inputs.iter().zip(places) {
            let wanted = activations.padded.map_or(utterance.values, |(values, _)| values);
            assert_eq!(values.len(), wanted);
            match (&self.frontend, a) {
                (Frontend::Whisper(frontend), FrontendActivations::Whisper(a)) => {
                    frontend.load_input(backend, arena, a, values)
                }
                (Frontend::Wav2Vec2(_), FrontendActivations::Wav2Vec2(a)) => a.load_input(backend, arena, values),
                _ => unreachable!("activations of another model"),
            }
        }
        if let Some((_, [convolved, rows])) = activations.padded {
            arena.set_counts(backend, convolved, &[0, rows]);
            // What writes the gradient writes the rows that count.
            backend.fill_zero(arena.view_mut(backend, activations.dlogits));
        } else if activations.spans.is_some() {
            let ends = activations.utterances.iter().map(|utterance| utterance.rows.end);
            arena.set_counts(backend, 0, &[0].into_iter().chain(ends).collect::<Vec<_>>());
        }
    }

    /// From the input to the logits. What lies below the stage `from` is taken from the last pass on the same input,
    /// which must have kept it, and nothing there may have moved since; 0 computes everything.
    pub fn forward(
        &self,
        backend: &B,
        parameters: &impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &Activations,
        from: usize,
    ) {
        let width = self.config.transformer.width;
        for (index, (utterance, own)) in a.utterances.iter().zip(&a.frontends).enumerate() {
            parameters.turn_to(index);
            let output = rows_of(a.transformer.input(), &utterance.rows, width);
            match (&self.frontend, own) {
                (Frontend::Whisper(frontend), FrontendActivations::Whisper(a)) => {
                    frontend.forward(backend, parameters, arena, a, output, from)
                }
                (Frontend::Wav2Vec2(frontend), FrontendActivations::Wav2Vec2(a)) => {
                    frontend.forward(backend, parameters, arena, a, output, from)
                }
                _ => unreachable!("activations of another model"),
            }
        }
        self.transformer
            .forward(backend, parameters, arena, &a.transformer, from);
        if let Some(norm) = &self.output.norm {
            let (x, statistics) = (a.transformer.output, a.statistics);
            norm.forward_each(backend, parameters, arena, (a.rows, a.spans), x, a.normed, statistics);
        }
        if let Some(head) = &self.output.head {
            head.forward(backend, parameters, arena, a.rows, a.normed, a.logits, false);
        }
    }

    /// From the logits' gradient (in [`Activations::dlogits`]) to every adapted operand's, which accumulate. Stops
    /// where nothing further down is adapted. Needs the activations of the last forward pass, kept from the lowest
    /// adapted stage.
    pub fn backward(&self, backend: &B, parameters: &mut impl Parameters<B>, arena: &mut Arena<B>, a: &Activations) {
        self.backward_with(backend, parameters, arena, a, None);
    }

    /// The same for an objective that also has a gradient with respect to [`Activations::features`].
    pub fn backward_with(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &Activations,
        dfeatures: Option<&[f32]>,
    ) {
        let Some(head) = &self.output.head else { return };
        head.backward_parameters(backend, parameters, arena, a.rows, a.normed, a.dlogits);
        head.backward_input(backend, parameters, arena, a.rows, a.dlogits, a.dencoded(), false);
        self.backward_encoded(backend, parameters, arena, a, dfeatures);
    }

    /// The same from the gradient in [`Activations::dencoded`], which is overwritten: what a decoder's backward pass left.
    pub fn backward_encoded(
        &self,
        backend: &B,
        parameters: &mut impl Parameters<B>,
        arena: &mut Arena<B>,
        a: &Activations,
        dfeatures: Option<&[f32]>,
    ) {
        let lowest = self.lowest_adapted_stage(parameters);
        if let Some(norm) = &self.output.norm {
            let below = lowest < self.transformer.end_stage();
            let (saved, stream) = ((a.transformer.output, a.statistics), a.transformer.stream);
            let (rows, input) = ((a.rows, a.spans), below.then_some((stream, false)));
            norm.backward_each(backend, parameters, arena, rows, saved, a.dencoded(), input);
        }
        let streams = self
            .transformer
            .backward(backend, parameters, arena, &a.transformer, lowest);
        if lowest >= self.frontend.stages() {
            return;
        }
        let width = self.config.transformer.width;
        for (index, (utterance, own)) in a.utterances.iter().zip(&a.frontends).enumerate() {
            parameters.turn_to(index);
            let part = |slot| rows_of(slot, &utterance.rows, width);
            match (&self.frontend, own) {
                (Frontend::Whisper(frontend), FrontendActivations::Whisper(a)) => {
                    frontend.backward(backend, parameters, arena, a, part(streams.0), lowest)
                }
                (Frontend::Wav2Vec2(frontend), FrontendActivations::Wav2Vec2(a)) => {
                    let streams = (part(streams.0), part(streams.1));
                    frontend.backward(backend, parameters, arena, a, streams, (lowest, dfeatures))
                }
                _ => unreachable!("activations of another model"),
            }
        }
    }

    /// Whether several utterances, each with its own values of what is adapted, can be passed through together: where no
    /// linear layer of the transformer or of the output moves, and no attention bias depends on the length (WavLM's).
    pub fn takes_batches(&self, parameters: &impl Parameters<B>) -> bool {
        let head = self.output.head.iter().flat_map(LinearLayer::operands);
        self.transformer.takes_batches(parameters) && head.into_iter().all(|id| !parameters.is_adapted(id))
    }

    /// Whether anything of the encoder is adapted.
    pub fn adapts_encoder(&self, parameters: &impl Parameters<B>) -> bool {
        let norm = self.output.norm.iter().flat_map(LayerNorm::operands);
        let norm_adapted = norm.into_iter().any(|id| parameters.is_adapted(id));
        norm_adapted || self.lowest_adapted_stage(parameters) < self.transformer.end_stage()
    }

    /// The lowest stage with an adapted operand: forward passes may start there, backward passes end there.
    pub fn lowest_adapted_stage(&self, parameters: &impl Parameters<B>) -> usize {
        let frontend = match &self.frontend {
            Frontend::Whisper(frontend) => frontend.lowest_adapted_stage(parameters),
            Frontend::Wav2Vec2(frontend) => frontend.lowest_adapted_stage(parameters),
        };
        frontend
            .or_else(|| self.transformer.lowest_adapted_stage(parameters))
            .unwrap_or(self.transformer.end_stage())
    }
}

impl<B: Backend> Frontend<B> {
    fn stages(&self) -> usize {
        match self {
            Self::Whisper(frontend) => frontend.stages(),
            Self::Wav2Vec2(frontend) => frontend.stages(),
        }
    }
}

/// The first stage that has an adapted operand.
pub(super) fn first_adapted<B: Backend>(
    parameters: &impl Parameters<B>,
    stages: impl IntoIterator<Item = Vec<OperandId>>,
) -> Option<usize> {
    stages
        .into_iter()
        .position(|ids| ids.iter().any(|&id| parameters.is_adapted(id)))
}
