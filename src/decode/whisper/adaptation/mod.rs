//! Adapting a Whisper to one window: a few steps that lower what the decoder leaves open about its own text, then the
//! text of the adapted model, unless evidence without labels speaks for the unadapted one's. A continual method carries
//! what stands from window to window.

mod descent;
mod evidence;
mod stream;
mod through_ctc;

pub use evidence::Evidence;
pub use through_ctc::CtcHead;

use super::prompt::Prompt;
use super::window::{Asked, Decoded, Network};
use super::{DecodingError, DecodingOptions};
use crate::adapt::{AdaptedParameters, Adapter, Heard, Policy, Snapshot};
use crate::engine::{Arena, DecoderBackend, EngineError};
use crate::model::{CtcModel, Decoder, DecoderActivations, Generation, KEEP_NOTHING};
use crate::{AdaptationConfig, Carried, Guard, Stopped, WhisperAdaptation};
use descent::Descent;
use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// What adapts a network: the settings, and memory for passes over whole texts.
pub(super) struct Adaptation<B: DecoderBackend> {
    config: AdaptationConfig,
    whisper: WhisperAdaptation,
    /// Greedy, and without timestamps, whose entropy says nothing about words.
    pub(super) options: DecodingOptions,
    arena: Arena<B>,
    activations: DecoderActivations,
    last_good: Snapshot<B>,
    reach: Reach,
    /// The CTC model that is adapted in this one's place.
    head: Option<Adapter<B>>,
}

/// What follows from which tensors are adapted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reach {
    pub(super) encoder: bool,
    /// The keys and values of the encoder's output, with it or without.
    pub(super) source: bool,
    /// Where the encoder's later passes start.
    pub(super) lowest: usize,
}

/// What adapting to a window was like.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowAdaptation {
    /// The source model's text of the window.
    pub unadapted_text: String,
    /// The loss at each step, before its update.
    pub losses: Vec<f32>,
    /// Mean token entropy of the model's own text in nats, before the first step.
    pub entropy_before: Option<f32>,
    /// After the last.
    pub entropy_after: Option<f32>,
    /// Updates that were kept.
    pub steps: usize,
    /// Updates that were taken back, through a CTC head.
    #[serde(default)]
    pub rollbacks: usize,
    /// Why fewer were taken than planned, through a CTC head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Passes of the encoder, and of a CTC head's (or, where it stays as it is, of the decoder over a whole text).
    pub forwards: usize,
    /// Backward passes.
    pub backwards: usize,
    /// What speaks for and against the adapted text, where it differs.
    pub evidence: Option<Evidence>,
    /// Set when a guard acted.
    pub guard: Option<Guard>,
    /// What a continual method did around it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried: Option<Carried>,
}

impl<B: DecoderBackend> Adaptation<B> {
    /// `None` where the configuration takes no steps.
    pub(super) fn new(
        backend: &B,
        model: &CtcModel<B>,
        parameters: &AdaptedParameters<B>,
        config: &AdaptationConfig,
        options: &DecodingOptions,
        head: Option<CtcHead<B>>,
    ) -> Result<Option<Self>, DecodingError> {
        let (Some(decoder), true) = (model.decoder(), config.planned_steps() > 0) else {
            return Ok(None);
        };
        let values = model.config().most_input_values();
        let source_rows = match model.plan(backend, values, KEEP_NOTHING) {
            Some((_, activations)) => activations.output_frames(),
            None => return Err(DecodingError::NoDecoder),
        };
        let positions = decoder.config().positions;
        let (plan, activations) = decoder.plan_to_adapt(backend, source_rows, positions, most_targets(positions));
        Ok(Some(Self {
            whisper: config.whisper.clone().unwrap_or_default(),
            options: DecodingOptions {
                without_timestamps: true,
                beam_size: 1,
                ..options.clone()
            },
            config: config.clone(),
            arena: Arena::new(backend, plan.total())?,
            activations,
            last_good: parameters.snapshot(backend)?,
            reach: match head {
                // Nothing of a pass is kept to begin the next with.
                Some(_) => Reach {
                    lowest: 0,
                    ..Reach::of(model, decoder, parameters)
                },
                None => Reach::of(model, decoder, parameters),
            },
            head: head.map(|head| head.adapter(backend, config)).transpose()?,
        }))
    }
}

impl Reach {
    fn of<B: DecoderBackend>(model: &CtcModel<B>, decoder: &Decoder, parameters: &AdaptedParameters<B>) -> Self {
        let encoder = model.adapts_encoder(parameters);
        Self {
            encoder,
            source: encoder || decoder.adapts_source(parameters),
            lowest: model.lowest_adapted_stage(parameters),
        }
    }
}

/// A window's prompts, what it sounds like, and what was written for it without adaptation.
pub(super) struct Written<'a> {
    /// As the text is decoded.
    pub(super) prompt: &'a Prompt,
    /// Without timestamps.
    pub(super) plain: &'a Prompt,
    /// Its log-mel frames, `[frames, bands]`.
    pub(super) log_mel: &'a [f32],
    pub(super) unadapted: Decoded,
}

/// A window that was adapted to, before its stream has learned from it.
pub(super) struct Adapted {
    outcome: WindowAdaptation,
    /// What it teaches, if its adapted text stands.
    lesson: Option<Heard>,
}

impl<B: DecoderBackend> Network<B> {
    /// Adapts to the window that is encoded with the source model, from what the policy carries, and gives the text that
    /// stands. The network is then as it wrote that text, until [`Network::learn`].
    pub(super) fn adapt(
        &mut self,
        backend: &B,
        generation: &Generation,
        options: &DecodingOptions,
        written: Written<'_>,
        policy: &mut Policy<Snapshot<B>>,
        rng: &mut Rng,
    ) -> Result<(Decoded, Option<Adapted>), EngineError> {
        let Written {
            prompt,
            plain,
            log_mel,
            unadapted,
        } = written;
        let mut standing = unadapted;
        let adapted = self.with_descent(backend, generation, |descent| {
            descent.outcome.unadapted_text = text_of(generation, &standing);
            descent.outcome.forwards = 1;
            let understood = match descent.adaptation.head {
                Some(_) => descent.run_through_head(log_mel).map(|()| None)?,
                None => descent.run(plain, policy),
            };
            let mut stands = false;
            if descent.outcome.steps > 0 {
                let window = 0;
                let asked = vec![Asked { window, prompt, rng }];
                let mut written = descent.network.generate(backend, generation, options, asked);
                let adapted = written.remove(0);
                stands = adapted.tokens == standing.tokens || descent.may_stand(options, prompt, &standing, &adapted);
                if stands {
                    standing = adapted;
                }
            }
            let lesson = understood.filter(|_| stands).map(|understood| Heard {
                input: stream::pack(plain, log_mel),
                ..understood
            });
            Ok::<_, EngineError>(Adapted {
                outcome: std::mem::take(&mut descent.outcome),
                lesson,
            })
        });
        Ok((standing, adapted.transpose()?))
    }

    /// Lets the stream learn from the window that was just adapted to, and goes back to the source model.
    pub(super) fn learn(
        &mut self,
        backend: &B,
        generation: &Generation,
        policy: &mut Policy<Snapshot<B>>,
        adapted: Adapted,
    ) -> Result<WindowAdaptation, EngineError> {
        let Adapted { mut outcome, lesson } = adapted;
        if let Some(carried) = &mut outcome.carried {
            let learned = self.with_descent(backend, generation, |descent| {
                policy.learn(descent, lesson.as_ref(), outcome.steps, carried)?;
                Ok((descent.outcome.forwards, descent.outcome.backwards))
            });
            let (forwards, backwards) = learned.transpose()?.unwrap_or_default();
            outcome.forwards += forwards;
            outcome.backwards += backwards;
        }
        self.parameters.restore_source(backend);
        Ok(outcome)
    }

    /// Works with what adapts; `None` where nothing is adapted.
    pub(super) fn with_descent<T>(
        &mut self,
        backend: &B,
        generation: &Generation,
        work: impl FnOnce(&mut Descent<'_, B>) -> T,
    ) -> Option<T> {
        let mut adaptation = self.adaptation.take()?;
        let done = work(&mut Descent {
            backend,
            generation,
            network: self,
            adaptation: &mut adaptation,
            outcome: WindowAdaptation::default(),
        });
        self.adaptation = Some(adaptation);
        Some(done)
    }

    /// Encodes the window again, as far as what is adapted changes it.
    fn encode_again(&mut self, backend: &B, reach: Reach) {
        if reach.encoder {
            let (arena, activations) = &mut self.encoder;
            self.model
                .forward(backend, &self.parameters, arena, activations, reach.lowest);
        }
        if reach.source {
            self.load_source(backend, 0);
        }
    }
}

/// A text has at most half the positions, and an end.
fn most_targets(positions: usize) -> usize {
    positions / 2 + 1
}

fn text_of(generation: &Generation, decoded: &Decoded) -> String {
    let text = generation.tokenizer.decode(&decoded.tokens);
    super::strip(&text).to_string()
}
