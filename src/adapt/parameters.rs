//! The adapted tensors, in one flat store: values, gradients and AdamW's two moments side by side.

mod shares;

use crate::engine::{AdamW, Backend, EngineError, Judge, Pieces, Says};
use crate::model::{Kind, NamedTensor, Place, Weights};
use crate::{AdaptationConfig, Compatibility, Half, ParameterChoice};
use std::ops::Range;
use std::sync::Arc;

/// Which tensors move: what the configuration chooses, on a model of so many layers.
#[derive(Debug, Clone, Copy)]
pub struct Selection {
    /// The kinds.
    pub choice: ParameterChoice,
    /// Only what lies in this many layers at the top, or above them.
    pub top_layers: Option<usize>,
    /// Only what lies in this many layers of the encoder at the bottom (a norm above the last layer counts as one more),
    /// or below them: what a Whisper shares with the CTC model that it is adapted through.
    pub lowest_layers: Option<usize>,
    /// Whether a tensor moves as often a step as a published optimiser lists it.
    pub compatibility: Compatibility,
    /// Of a model with a decoder, what moves; where a CTC head writes there is none.
    pub half: Half,
}

impl Selection {
    /// A configuration's; `None` where it takes no steps.
    pub fn of(config: &AdaptationConfig) -> Option<Self> {
        (config.planned_steps() > 0).then(|| Self {
            choice: config.parameters,
            top_layers: config.top_layers,
            lowest_layers: None,
            compatibility: config.compatibility,
            half: config.whisper.as_ref().map_or(Half::Both, |whisper| whisper.half),
        })
    }

    /// Whether a tensor moves, in a model of so many layers in its encoder and its decoder.
    pub fn includes(&self, tensor: &NamedTensor, (layers, decoder_layers): (usize, usize)) -> bool {
        let layer_norm = matches!(tensor.kind, Kind::LayerNormWeight | Kind::LayerNormBias);
        let feature = tensor.place == Place::Feature;
        let chosen = match self.choice {
            ParameterChoice::LayerNorm => layer_norm,
            ParameterChoice::Feature => feature,
            ParameterChoice::LayerNormAndFeature => layer_norm || feature,
            ParameterChoice::LayerNormAndConvBias => layer_norm || feature && tensor.kind == Kind::Bias,
            ParameterChoice::Bias => {
                matches!(tensor.kind, Kind::LayerNormBias | Kind::Bias) && tensor.place != Place::Head
            }
            ParameterChoice::BiasAndLayerNorm => {
                layer_norm
                    || tensor.kind == Kind::Bias
                        && matches!(tensor.place, Place::Encoder | Place::Layer(_) | Place::Decoder(_))
            }
            ParameterChoice::All => true,
        };
        let high_enough = match (self.top_layers, tensor.place) {
            (None, _) | (_, Place::Head) => true,
            (Some(top), Place::Layer(layer)) => layer + top >= layers,
            (Some(top), Place::Decoder(layer)) => layer + top >= decoder_layers,
            (Some(_), Place::Feature | Place::Encoder) => false,
        };
        let low_enough = match (self.lowest_layers, tensor.place) {
            (None, _) | (_, Place::Feature | Place::Encoder) => true,
            (Some(lowest), Place::Layer(layer)) => layer < lowest,
            (Some(_), Place::Head | Place::Decoder(_)) => false,
        };
        let in_half = match (self.half, tensor.place) {
            (Half::Both, _) => true,
            (half, Place::Decoder(_)) => half == Half::Decoder,
            (half, _) => half == Half::Encoder,
        };
        tensor.kind != Kind::Fixed && chosen && high_enough && low_enough && in_half
    }

    /// How often a tensor is updated a step. SUTA's published optimiser lists a tensor once for each module of the
    /// feature extractor around it when that is chosen, and once as a layer norm when those are; DSUTA's lists a layer norm
    /// in the feature extractor under that only.
    pub fn multiplicity(&self, tensor: &NamedTensor) -> u32 {
        let (as_feature, as_layer_norm) = match self.choice {
            ParameterChoice::LayerNorm => (0, 1),
            ParameterChoice::Feature => (tensor.nesting, 0),
            ParameterChoice::LayerNormAndFeature => (tensor.nesting, 1),
            ParameterChoice::Bias
            | ParameterChoice::BiasAndLayerNorm
            | ParameterChoice::LayerNormAndConvBias
            | ParameterChoice::All => (0, 0),
        };
        let is_layer_norm = matches!(tensor.kind, Kind::LayerNormWeight | Kind::LayerNormBias);
        match (self.compatibility, is_layer_norm) {
            (Compatibility::None, _) => 1,
            (Compatibility::Suta, true) => (as_feature + as_layer_norm).max(1),
            (Compatibility::Dsuta, true) => as_feature.max(1),
            (Compatibility::Suta | Compatibility::Dsuta, false) => as_feature.max(1),
        }
    }
}

/// One adapted tensor's place.
struct Adapted {
    tensor: NamedTensor,
    /// In the store.
    range: Range<usize>,
    /// AdamW updates a step: 1, or more where the reference's optimiser lists a tensor several times.
    multiplicity: u32,
}

/// The flat store. The weights that are not adapted stay in the source model, which it shares.
pub struct AdaptedParameters<B: Backend> {
    source: Arc<Weights<B>>,
    /// Per operand of the model: its place in the store, when any of its tensors is adapted.
    slots: Vec<Option<Range<usize>>>,
    adapted: Vec<Adapted>,
    /// Values of one share of the buffers; there is one for each of the utterances that are adapted to at once, behind each
    /// other.
    stored: usize,
    /// Shares that are worked on.
    shares: usize,
    values: B::Buffer,
    gradients: B::Buffer,
    first_moment: B::Buffer,
    second_moment: B::Buffer,
    step: u32,
}

/// A snapshot in host memory, in the store's order.
#[derive(Debug, Clone, PartialEq)]
pub struct HostSnapshot {
    /// The adapted values.
    pub values: Vec<f32>,
    /// AdamW's first moment.
    pub first_moment: Vec<f32>,
    /// AdamW's second moment.
    pub second_moment: Vec<f32>,
    /// Optimizer steps taken.
    pub step: u32,
}

/// Everything that adaptation changes, at one moment.
pub struct Snapshot<B: Backend> {
    values: B::Buffer,
    first_moment: B::Buffer,
    second_moment: B::Buffer,
    step: u32,
}

impl<B: Backend> AdaptedParameters<B> {
    /// A store of the chosen tensors, at the source model's values. With no choice nothing is adapted.
    pub fn new(backend: &B, source: Arc<Weights<B>>, selection: Option<Selection>) -> Result<Self, EngineError> {
        Self::shared(backend, source, selection, 1)
    }

    /// The same for so many utterances at once.
    pub(super) fn shared(
        backend: &B,
        source: Arc<Weights<B>>,
        selection: Option<Selection>,
        shares: usize,
    ) -> Result<Self, EngineError> {
        let layers = (source.layers(), source.decoder_layers());
        let mut slots = vec![None; source.operands().len()];
        let mut adapted = Vec::new();
        let mut total = 0;
        for tensor in source.tensors() {
            let Some(selection) = selection.filter(|selection| selection.includes(tensor, layers)) else {
                continue;
            };
            let slot: &mut Option<Range<usize>> = &mut slots[tensor.operand.index()];
            let operand = slot.get_or_insert_with(|| {
                let start = total;
                total += source.operand_len(tensor.operand);
                start..total
            });
            let range = operand.start + tensor.range.start..operand.start + tensor.range.end;
            adapted.push(Adapted {
                tensor: tensor.clone(),
                range,
                multiplicity: selection.multiplicity(tensor),
            });
        }
        let mut store = Self {
            source,
            slots,
            adapted,
            stored: total,
            shares,
            values: backend.zeros(shares * total)?,
            gradients: backend.zeros(shares * total)?,
            first_moment: backend.zeros(shares * total)?,
            second_moment: backend.zeros(shares * total)?,
            step: 0,
        };
        store.restore_source(backend);
        Ok(store)
    }

    /// From now on works on the first so many shares, of those there is memory for.
    pub(super) fn use_shares(&mut self, backend: &B, shares: usize) {
        assert!(shares * self.stored <= backend.len(&self.values), "{shares} shares");
        self.shares = shares;
    }

    /// All shares that are worked on.
    fn all(&self) -> Range<usize> {
        0..self.shares * self.stored
    }

    /// Back to the source model, with an optimizer that has seen nothing.
    pub fn restore_source(&mut self, backend: &B) {
        for share in 0..self.shares {
            for (id, slot) in self.source.operands().zip(&self.slots) {
                if let Some(range) = slot {
                    let place = moved(range, share * self.stored);
                    backend.copy(
                        self.source.value(backend, id),
                        backend.view_mut(&mut self.values, place),
                    );
                }
            }
        }
        self.forget_moments(backend);
    }

    /// An optimizer that has seen nothing; the values stay.
    pub fn forget_moments(&mut self, backend: &B) {
        for moment in [&mut self.first_moment, &mut self.second_moment] {
            let len = backend.len(moment);
            backend.fill_zero(backend.view_mut(moment, 0..len));
        }
        self.step = 0;
    }

    /// A copy of the present state.
    pub fn snapshot(&self, backend: &B) -> Result<Snapshot<B>, EngineError> {
        let len = backend.len(&self.values);
        let mut snapshot = Snapshot {
            values: backend.zeros(len)?,
            first_moment: backend.zeros(len)?,
            second_moment: backend.zeros(len)?,
            step: 0,
        };
        self.snapshot_into(backend, &mut snapshot);
        Ok(snapshot)
    }

    /// The same into memory that is already there.
    pub fn snapshot_into(&self, backend: &B, snapshot: &mut Snapshot<B>) {
        let all = self.all();
        let pairs = [
            (&self.values, &mut snapshot.values),
            (&self.first_moment, &mut snapshot.first_moment),
            (&self.second_moment, &mut snapshot.second_moment),
        ];
        for (from, to) in pairs {
            backend.copy(backend.view(from, all.clone()), backend.view_mut(to, all.clone()));
        }
        snapshot.step = self.step;
    }

    /// Back to a snapshot.
    pub fn restore(&mut self, backend: &B, snapshot: &Snapshot<B>) {
        let all = self.all();
        let pairs = [
            (&snapshot.values, &mut self.values),
            (&snapshot.first_moment, &mut self.first_moment),
            (&snapshot.second_moment, &mut self.second_moment),
        ];
        for (from, to) in pairs {
            backend.copy(backend.view(from, all.clone()), backend.view_mut(to, all.clone()));
        }
        self.step = snapshot.step;
    }

    /// A snapshot's copy on the host.
    pub fn download(&self, backend: &B, snapshot: &Snapshot<B>) -> HostSnapshot {
        HostSnapshot {
            values: read_all(backend, &snapshot.values),
            first_moment: read_all(backend, &snapshot.first_moment),
            second_moment: read_all(backend, &snapshot.second_moment),
            step: snapshot.step,
        }
    }

    /// The reverse; `false`, with nothing changed, when the lengths are not this store's.
    pub fn upload(&self, backend: &B, from: &HostSnapshot, to: &mut Snapshot<B>) -> bool {
        let all = self.all();
        let pairs = [
            (&from.values, &mut to.values),
            (&from.first_moment, &mut to.first_moment),
            (&from.second_moment, &mut to.second_moment),
        ];
        if pairs.iter().any(|(from, _)| from.len() != all.len()) {
            return false;
        }
        for (from, to) in pairs {
            backend.upload(from, backend.view_mut(to, all.clone()));
        }
        to.step = from.step;
        true
    }

    /// The present values in the store's order, not the checkpoint's.
    pub fn values(&self, backend: &B) -> Vec<f32> {
        self.values_of(backend, 0)
    }

    /// One share's.
    pub(super) fn values_of(&self, backend: &B, share: usize) -> Vec<f32> {
        let mut host = vec![0.0; self.stored];
        let place = moved(&(0..self.stored), share * self.stored);
        backend.download(backend.view(&self.values, place), &mut host);
        host
    }

    /// The source model's, in the same order.
    pub fn source_values(&self, backend: &B) -> Vec<f32> {
        let mut host = vec![0.0; self.stored];
        for (id, slot) in self.source.operands().zip(&self.slots) {
            if let Some(range) = slot {
                backend.download(self.source.value(backend, id), &mut host[range.clone()]);
            }
        }
        host
    }

    /// Puts values in the store's order in place; the moments stay. Panics on another length.
    pub fn set_values(&mut self, backend: &B, values: &[f32]) {
        assert_eq!(values.len(), self.stored);
        backend.upload(values, backend.view_mut(&mut self.values, 0..values.len()));
    }

    /// Whether every value and every moment is finite.
    pub fn are_finite(&self, backend: &B) -> bool {
        [&self.values, &self.first_moment, &self.second_moment]
            .into_iter()
            .all(|buffer| backend.all_finite(backend.view(buffer, 0..backend.len(buffer))))
    }

    /// Before a backward pass: gradients accumulate.
    pub fn zero_gradients(&mut self, backend: &B) {
        let all = self.all();
        backend.fill_zero(backend.view_mut(&mut self.gradients, all));
    }

    /// The gradients, in the store's order.
    pub(super) fn gradients(&self, backend: &B) -> B::View<'_> {
        backend.view(&self.gradients, self.all())
    }

    /// Optimizer steps taken, of all that stand.
    pub(super) fn steps_taken(&self) -> u32 {
        self.step
    }

    /// The same, of which a device's ledger tells.
    pub(super) fn set_steps_taken(&mut self, steps: u32) {
        self.step = steps;
    }

    /// Back to a snapshot where the ledgers, of which each share has one, say so.
    pub(super) fn restore_where(
        &mut self,
        backend: &B,
        judge: &dyn Judge<B>,
        ledgers: B::View<'_>,
        snapshot: &Snapshot<B>,
    ) {
        let all = self.all();
        for (from, to) in [
            (&snapshot.values, &mut self.values),
            (&snapshot.first_moment, &mut self.first_moment),
            (&snapshot.second_moment, &mut self.second_moment),
        ] {
            let (from, to) = (backend.view(from, all.clone()), backend.view_mut(to, all.clone()));
            judge.copy_where(Says::Restore, ledgers, Pieces::Even(self.shares), from, to);
        }
    }

    /// State and gradients become the last good ones where the ledgers say so.
    pub(super) fn keep_where(
        &self,
        backend: &B,
        judge: &dyn Judge<B>,
        ledgers: B::View<'_>,
        snapshot: &mut Snapshot<B>,
        gradients: &mut B::Buffer,
    ) {
        let all = self.all();
        for (from, to) in [
            (&self.values, &mut snapshot.values),
            (&self.first_moment, &mut snapshot.first_moment),
            (&self.second_moment, &mut snapshot.second_moment),
            (&self.gradients, gradients),
        ] {
            let (from, to) = (backend.view(from, all.clone()), backend.view_mut(to, all.clone()));
            judge.copy_where(Says::Sound, ledgers, Pieces::Even(self.shares), from, to);
        }
    }

    /// One optimizer step along gradients where the ledgers say so; `at` is the ledgers and the steps before them.
    pub(super) fn update_where(
        &mut self,
        backend: &B,
        judge: &dyn Judge<B>,
        settings: &AdamW,
        at: (B::View<'_>, B::View<'_>),
        gradients: &B::Buffer,
    ) {
        for (range, multiplicity) in self.runs(|_| true) {
            for repeat in 1..=multiplicity {
                let all = self.all();
                let part = |buffer| backend.view_mut(buffer, all.clone());
                judge.adamw_where(
                    settings,
                    at.0,
                    (at.1, multiplicity, repeat),
                    (self.shares, range.clone()),
                    part(&mut self.values),
                    backend.view(gradients, all.clone()),
                    [part(&mut self.first_moment), part(&mut self.second_moment)],
                );
            }
        }
    }

    /// Whether every adapted tensor's gradient is finite, and that of what shares an operand with one.
    pub fn gradients_are_finite(&self, backend: &B) -> bool {
        // One check, which on a GPU is one wait.
        backend.all_finite(backend.view(&self.gradients, 0..backend.len(&self.gradients)))
    }

    /// One optimizer step on every adapted tensor: as many AdamW updates as its multiplicity, all with one gradient.
    pub fn update(&mut self, backend: &B, settings: &AdamW) {
        self.update_some(backend, settings, |_| true);
    }

    /// The same on the norms alone.
    pub fn update_norms(&mut self, backend: &B, settings: &AdamW) {
        self.update_some(backend, settings, NamedTensor::is_norm);
    }

    fn update_some(&mut self, backend: &B, settings: &AdamW, moves: impl Fn(&NamedTensor) -> bool) {
        for (range, multiplicity) in self.runs(moves) {
            for repeat in 1..=multiplicity {
                backend.adamw(
                    settings,
                    self.step * multiplicity + repeat,
                    backend.view_mut(&mut self.values, range.clone()),
                    backend.view(&self.gradients, range.clone()),
                    backend.view_mut(&mut self.first_moment, range.clone()),
                    backend.view_mut(&mut self.second_moment, range.clone()),
                );
            }
        }
        self.step += 1;
    }

    /// Stretches of the store that move, and how often a step: neighbours that move alike move at once.
    fn runs(&self, moves: impl Fn(&NamedTensor) -> bool) -> Vec<(Range<usize>, u32)> {
        let alike = |a: &Adapted, b: &Adapted| {
            a.range.end == b.range.start && a.multiplicity == b.multiplicity && moves(&a.tensor) == moves(&b.tensor)
        };
        let runs = self.adapted.chunk_by(alike).filter(|run| moves(&run[0].tensor));
        runs.map(|run| (run[0].range.start..run[run.len() - 1].range.end, run[0].multiplicity))
            .collect()
    }

    /// Values that the store holds of an utterance: the adapted ones, and what shares an operand with them.
    pub(super) fn stored(&self) -> usize {
        self.stored
    }

    /// Whether a norm among the convolutions moves.
    pub fn moves_norms_of_convolutions(&self) -> bool {
        let is_one = |tensor: &NamedTensor| tensor.is_norm() && tensor.name.contains(".conv_layers.");
        self.adapted.iter().any(|adapted| is_one(&adapted.tensor))
    }

    /// The adapted tensors' names, in the store's order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.adapted.iter().map(|adapted| adapted.tensor.name.as_str())
    }

    /// Number of adapted values.
    pub fn count(&self) -> usize {
        self.adapted.iter().map(|adapted| adapted.range.len()).sum()
    }

    /// Every adapted tensor's name, shape and present values, in the checkpoint's order.
    pub fn tensors(&self, backend: &B) -> impl Iterator<Item = (String, Vec<usize>, Vec<f32>)> {
        self.adapted.iter().map(move |adapted| {
            let mut host = vec![0.0; adapted.range.len()];
            backend.download(backend.view(&self.values, adapted.range.clone()), &mut host);
            let tensor = &adapted.tensor;
            (
                tensor.name.clone(),
                tensor.shape.clone(),
                tensor.to_checkpoint_order(&host),
            )
        })
    }

    /// A tensor's present values and gradient, in the checkpoint's order; `None` when it is not adapted.
    pub fn tensor(&self, backend: &B, name: &str) -> Option<(Vec<f32>, Vec<f32>)> {
        let adapted = self.adapted.iter().find(|adapted| adapted.tensor.name == name)?;
        let read = |buffer: &B::Buffer| {
            let mut host = vec![0.0; adapted.range.len()];
            backend.download(backend.view(buffer, adapted.range.clone()), &mut host);
            adapted.tensor.to_checkpoint_order(&host)
        };
        Some((read(&self.values), read(&self.gradients)))
    }
}

fn read_all<B: Backend>(backend: &B, buffer: &B::Buffer) -> Vec<f32> {
    let mut host = vec![0.0; backend.len(buffer)];
    backend.download(backend.view(buffer, 0..host.len()), &mut host);
    host
}

/// A range further on.
fn moved(range: &Range<usize>, by: usize) -> Range<usize> {
    range.start + by..range.end + by
}
