//! Adapting a Whisper's encoder through a CTC model whose lowest layers are its own: SUTA on the CTC model, of the adapted
//! tensors those that both share put into the Whisper, whose decoder then writes.

use super::descent::Descent;
use crate::adapt::{Adapter, Selection, States};
use crate::engine::{DecoderBackend, EngineError, ObjectiveValue};
use crate::model::CtcModel;
use crate::{AdaptationConfig, Guard, Half};
use std::sync::Arc;

/// A CTC model that shares its lowest layers with a Whisper.
pub struct CtcHead<B: DecoderBackend> {
    /// The model.
    pub model: Arc<CtcModel<B>>,
    /// How many layers of the encoder it shares; see [`crate::model::shared_layers`].
    pub layers: usize,
}

impl<B: DecoderBackend> CtcHead<B> {
    /// Of what a configuration selects, what can be carried over.
    pub(in crate::decode::whisper) fn selection(&self, selection: Selection) -> Selection {
        Selection {
            half: Half::Encoder,
            lowest_layers: Some(self.layers),
            ..selection
        }
    }

    /// What adapts the CTC model, with the Whisper's settings.
    pub(super) fn adapter(self, backend: &B, config: &AdaptationConfig) -> Result<Adapter<B>, EngineError> {
        let config = AdaptationConfig {
            whisper: None,
            ..config.clone()
        };
        Adapter::of_lowest_layers(backend, self.model, &config, Some(self.layers))
    }
}

impl<B: DecoderBackend> Descent<'_, B> {
    /// Adapts the CTC model to the window's log-mel frames `[frames, bands]`, as long as they are, and takes its values
    /// over; the present state is the source model's. Where a guard ended that, nothing is taken over.
    pub(super) fn run_through_head(&mut self, log_mel: &[f32]) -> Result<(), EngineError> {
        let Some(head) = &mut self.adaptation.head else {
            return Ok(());
        };
        let episode = head.run(self.backend, log_mel)?;
        let values = head.parameters().values(self.backend);
        let entropy = |objective: &ObjectiveValue| {
            let said = objective.non_blank_frames > 0;
            said.then_some(objective.entropy as f32)
        };
        let outcome = &mut self.outcome;
        outcome.losses = episode
            .objectives
            .iter()
            .map(|objective| objective.loss as f32)
            .collect();
        outcome.entropy_before = episode.first.as_ref().and_then(entropy);
        outcome.entropy_after = episode.last.as_ref().and_then(entropy);
        outcome.rollbacks = episode.rollbacks;
        outcome.stopped = episode.stopped;
        outcome.forwards += episode.forwards;
        outcome.backwards += episode.backwards;
        outcome.guard = episode.guard;
        if episode.guard.is_some() || episode.steps == 0 {
            return Ok(());
        }
        self.set_values(&values);
        if !self.is_finite() {
            self.outcome.guard = Some(Guard::NonFinite);
            self.restore_source();
            return Ok(());
        }
        self.outcome.steps = episode.steps;
        self.encode_again();
        Ok(())
    }
}
