//! A model: a frontend that turns the signal into frames, transformer layers, then CTC's output layer or a decoder.

use super::checkpoint::Checkpoint;
use super::decoder::Decoder;
use super::layers::{LayerNorm, LinearLayer};
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

/// Where the activations of one input lie, or of several that are passed through together.
pub struct Activations {
    /// Of the logits, with padding.
    rows: usize,
    /// Of an input, with padding.
    values: usize,
    /// Where there is padding.
    spans: Option<Spans<()>>,
    inputs: Vec<Own>,
    frontend: FrontendActivations,
    /// Of several: what the frontend gives, `[count, rows, D]`, and its gradient.
    apart: Option<(Slot, [Slot; 2])>,
    transformer: TransformerActivations,
    normed: Slot,
    statistics: Slot,
    logits: Slot,
    dlogits: Slot,
}

/// What counts of an input: its values, and the rows after the first convolution and in the end.
struct Own {
    values: usize,
    counts: [usize; 2],
}

enum FrontendActivations {
    Whisper(WhisperActivations),
    Wav2Vec2(Wav2Vec2Activations),
}

impl Activations {
    /// T, the rows of the logits that count.
    pub fn output_frames(&self) -> usize {
        self.inputs.iter().map(|own| own.counts[1]).sum()
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
        let mut end = 0;
        let rows = self.inputs.iter().map(|own| {
            end += own.counts[1];
            end - own.counts[1]..end
        });
        rows.collect()
    }

    /// Values of an input with its padding.
    pub fn values(&self) -> usize {
        self.values
    }

    /// How many inputs there is room for: some more than there are, so that few numbers serve all.
    pub fn utterances(&self) -> usize {
        self.spans.map_or(1, |spans| spans.count)
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
        match &self.frontend {
            FrontendActivations::Wav2Vec2(a) if self.apart.is_none() => {
                Some((self.own_rows(a.features()), a.features().len / self.rows))
            }
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
        self.plan_all(backend, &[values], (values, false), keep_from)
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
        self.plan_all(backend, &[values], (padded, true), keep_from)
    }

    /// How long inputs of so many values are padded to be, by an eighth at most: few lengths serve all.
    pub fn padded_values(&self, values: usize) -> usize {
        let unit = match &self.frontend {
            Frontend::Whisper(frontend) => frontend.unit(),
            Frontend::Wav2Vec2(_) => 1,
        };
        (few(values / unit, 16) * unit)
            .min(self.config.most_input_values())
            .max(values)
    }

    /// The same of inputs that are passed through together, of any lengths, on a device that [`Backend::pads`]; see
    /// [`CtcModel::takes_batches`]. All are padded to what the longest is padded to, up to the transformer, where their rows
    /// lie behind each other, and there are as many rows as there would be if each had been padded by itself, padded once
    /// more. So the same work is done for all lists of inputs that are padded to the same lengths. `None` when one is too
    /// short for a single frame.
    pub fn plan_batch(&self, backend: &B, inputs: &[usize], keep_from: usize) -> Option<(ArenaPlan, Activations)> {
        let longest = inputs.iter().map(|values| self.padded_values(*values)).max()?;
        self.plan_all(backend, inputs, (longest, true), keep_from)
    }

    fn frames(&self, values: usize) -> [usize; 2] {
        match &self.frontend {
            Frontend::Whisper(frontend) => frontend.frames(values),
            Frontend::Wav2Vec2(frontend) => frontend.frames(values),
        }
    }

    fn plan_all(
        &self,
        backend: &B,
        inputs: &[usize],
        (padded, is_padded): (usize, bool),
        keep_from: usize,
    ) -> Option<(ArenaPlan, Activations)> {
        let own = |&values: &usize| {
            assert!(values <= padded, "{values} values padded to {padded}");
            let counts = self.frames(values);
            Some(Own { values, counts }).filter(|_| !counts.contains(&0))
        };
        assert!(padded <= self.config.most_input_values(), "{padded} input values");
        let own: Vec<Own> = inputs.iter().map(own).collect::<Option<_>>()?;
        let mut plan = ArenaPlan::default();
        let count = few(own.len(), 4);
        let (frontend, each) = match &self.frontend {
            Frontend::Whisper(frontend) => {
                let (activations, rows) = frontend.plan(&mut plan, padded, count, keep_from, is_padded)?;
                (FrontendActivations::Whisper(activations), rows)
            }
            Frontend::Wav2Vec2(frontend) => {
                let (activations, rows) = frontend.plan(backend, &mut plan, (padded, count), keep_from, is_padded)?;
                (FrontendActivations::Wav2Vec2(activations), rows)
            }
        };
        let width = self.config.transformer.width;
        let (mut rows, mut longest, mut apart) = (each, each, None);
        if count > 1 {
            let padded = own.iter().map(|own| self.frames(self.padded_values(own.values))[1]);
            rows = few(padded.sum(), 16).min(count * each);
            // What decides the launches must not depend on more than `count`, `padded` and `rows`: of an utterance's rows at
            // most a ninth are padding of its own, and of all at most a ninth the padding behind them.
            longest = rows.min(each + rows / 4 + 2 * count);
            let backward = usize::from(keep_from < self.frontend.stages());
            let slot = |plan: &mut ArenaPlan, factor: usize| plan.slot(factor * count * each * width);
            apart = Some((
                slot(&mut plan, 1),
                [slot(&mut plan, backward), slot(&mut plan, backward)],
            ));
        }
        let spans = is_padded.then_some(Spans {
            starts: (),
            count,
            longest,
        });
        let transformer = self.transformer.plan(backend, &mut plan, (rows, spans), keep_from);
        let normed = match self.output.norm {
            Some(_) => plan.slot(rows * width),
            None => transformer.output,
        };
        let activations = Activations {
            rows,
            values: padded,
            spans,
            inputs: own,
            frontend,
            apart,
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

    /// Several inputs, of a batch; after [`Arena::reserve_spans`] for [`Activations::utterances`].
    pub fn load_inputs(&self, backend: &B, arena: &mut Arena<B>, activations: &Activations, inputs: &[&[f32]]) {
        let lens = activations.inputs.iter().map(|own| own.values);
        assert!(
            lens.eq(inputs.iter().map(|input| input.len())),
            "inputs of other lengths"
        );
        match (&self.frontend, &activations.frontend) {
            (Frontend::Whisper(frontend), FrontendActivations::Whisper(a)) => {
                frontend.load_inputs(backend, arena, a, inputs)
            }
            (Frontend::Wav2Vec2(_), FrontendActivations::Wav2Vec2(a)) => a.load_inputs(backend, arena, inputs),
            _ => unreachable!("activations of another model"),
        }
        if let Some(spans) = activations.spans {
            let mut counts: Vec<[usize; 2]> = activations.inputs.iter().map(|own| own.counts).collect();
            counts.resize(spans.count, [0, 0]);
            let last = counts.last().map_or(0, |counts| counts[1]);
            let padding = activations.rows - activations.output_frames();
            assert!(last + padding <= spans.longest, "{padding} rows of padding, {spans:?}");
            arena.set_counts(backend, &counts);
            // What writes the gradient writes the rows that count.
            backend.fill_zero(arena.view_mut(backend, activations.dlogits));
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
        let output = a.apart.map_or(a.transformer.input(), |(output, _)| output);
        match (&self.frontend, &a.frontend) {
            (Frontend::Whisper(frontend), FrontendActivations::Whisper(a)) => {
                frontend.forward(backend, parameters, arena, a, output, from)
            }
            (Frontend::Wav2Vec2(frontend), FrontendActivations::Wav2Vec2(a)) => {
                frontend.forward(backend, parameters, arena, a, output, from)
            }
            _ => unreachable!("activations of another model"),
        }
        if a.apart.is_some()
            && from < self.frontend.stages()
            && let (Some(spans), [x], [y]) = arena.split_spans(backend, a.spans, [output], [a.transformer.input()])
        {
            backend.join_rows(spans, self.config.transformer.width, x, y);
        }
        self.transformer
            .forward(backend, parameters, arena, &a.transformer, from);
        if let Some(norm) = &self.output.norm {
            let (x, statistics) = (a.transformer.output, a.statistics);
            let rows = (a.rows, a.spans.into());
            norm.forward_each(backend, parameters, arena, rows, x, a.normed, statistics);
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
            let (rows, input) = ((a.rows, a.spans.into()), below.then_some((stream, false)));
            norm.backward_each(backend, parameters, arena, rows, saved, a.dencoded(), input);
        }
        let mut streams = self
            .transformer
            .backward(backend, parameters, arena, &a.transformer, lowest);
        if lowest >= self.frontend.stages() {
            return;
        }
        if let Some((_, [stream, other])) = a.apart
            && let (Some(spans), [x], [y]) = arena.split_spans(backend, a.spans, [streams.0], [stream])
        {
            backend.part_rows(spans, self.config.transformer.width, x, y);
            streams = (stream, other);
        }
        match (&self.frontend, &a.frontend) {
            (Frontend::Whisper(frontend), FrontendActivations::Whisper(a)) => {
                frontend.backward(backend, parameters, arena, a, streams.0, lowest)
            }
            (Frontend::Wav2Vec2(frontend), FrontendActivations::Wav2Vec2(a)) => {
                frontend.backward(backend, parameters, arena, a, streams, (lowest, dfeatures))
            }
            _ => unreachable!("activations of another model"),
        }
    }

    /// Whether several utterances, each with its own values of what is adapted, can be passed through together: where no
    /// linear layer of the transformer or of the output moves, nor a positional convolution, and no attention bias depends
    /// on the length (WavLM's).
    pub fn takes_batches(&self, parameters: &impl Parameters<B>) -> bool {
        let head = self.output.head.iter().flat_map(LinearLayer::operands);
        let positional = match &self.frontend {
            Frontend::Whisper(_) => Vec::new(),
            Frontend::Wav2Vec2(frontend) => frontend.positional_operands(),
        };
        let mut shared = head.chain(positional);
        self.transformer.takes_batches(parameters) && shared.all(|id| !parameters.is_adapted(id))
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

/// One of few numbers, `parts / 2` in an octave, that is no less, and more by less than a `parts / 2`th.
fn few(number: usize, parts: usize) -> usize {
    number.next_multiple_of((number.next_power_of_two() / parts).max(1))
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
