//! What recognition returns: words with times and confidences, per utterance, per recording.

use crate::decode::whisper::{Decoding, Evidence, SpokenLanguage};
use serde::{Deserialize, Serialize};

/// One recognised word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The word as the model spells it.
    pub word: String,
    /// Seconds from the start of the recording to the word's first frame.
    pub start: f64,
    /// Seconds from the start of the recording to the end of the word's last frame.
    pub end: f64,
    /// Geometric mean of the posterior probabilities along the word's CTC path, in [0, 1]; of Whisper's decoder, the mean
    /// probability of the word's tokens.
    pub confidence: f32,
}

/// Why an utterance's adaptation was cut short, undone, or should be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// Every frame decodes to blank, or a Whisper writes nothing: there is no entropy to lower, so the source model's output stands.
    AllBlank,
    /// A loss or a gradient was not finite: the last good parameters were restored.
    NonFinite,
    /// The adapted transcript has fewer than half the source model's letters; it stands.
    Shortened,
    /// The adapted transcript is empty although the source model's is not: the source model's stands.
    Emptied,
    /// Evidence without labels speaks against the adapted transcript: the source model's stands.
    Rejected,
}

/// Why a continual method's state went back to the source model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResetReason {
    /// So many utterances were heard since the last time.
    Fixed,
    /// The detector of domain shifts fired.
    Dynamic,
    /// The entropy's moving average fell below its floor.
    Collapse,
    /// The domain state led to a higher loss than the source model did, several times in a row.
    Evidence,
    /// The state had become, or would have become, infinite or NaN.
    NonFinite,
}

/// Where a guarded utterance's transcript comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Emitted {
    /// From the source model as it is: adapting spoiled it, or was not needed.
    Unadapted,
    /// From the model adapted from the source model.
    Source,
    /// From the model adapted from the domain state.
    Domain,
    /// From the mean of those two models' probabilities.
    Both,
}

/// What a continual method did around one utterance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    /// The utterance's place in its stream, from 1.
    pub position: u64,
    /// Optimizer steps behind the state that it was adapted to from (with the guarded method, the utterances whose
    /// solutions it is the average of); 0 is the source model.
    pub updates: u64,
    /// The mean loss of the slow update that followed it, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_loss: Option<f32>,
    /// How far the buffer's improvement of the loss was from the domain's, in standard errors, where it was compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<f32>,
    /// Where its transcript comes from, with the guarded method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub emitted: Option<Emitted>,
    /// Why the state went back to the source model: after the utterance, or (`non-finite`) before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<ResetReason>,
}

/// Why fewer steps than planned were enough for an utterance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// The source model was sure of it: no step was taken. See [`AdaptationConfig::skip_confident`].
    ///
    /// [`AdaptationConfig::skip_confident`]: crate::AdaptationConfig::skip_confident
    Confident,
    /// The loss and the transcript changed no more. See [`Settled`](crate::Settled).
    Settled,
    /// There was no more time, in a live stream. See [`Session::limit_time`](crate::Session::limit_time).
    Late,
}

/// One utterance: a stretch of speech recognised, and adapted to, as a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Utterance {
    /// The transcript, after adaptation when there was any.
    pub text: String,
    /// The source model's transcript, before any step.
    pub unadapted_text: String,
    /// Seconds from the start of the recording.
    pub start: f64,
    /// Seconds from the start of the recording.
    pub end: f64,
    /// The words of `text`, in order.
    pub words: Vec<Word>,
    /// Mean entropy in nats (at the adaptation temperature) of the source model's non-blank frames; `None` when all are blank.
    pub entropy_before: Option<f32>,
    /// The same after the last step.
    pub entropy_after: Option<f32>,
    /// The loss at each step, before that step's update.
    pub losses: Vec<f32>,
    /// Adaptation steps whose update was kept.
    pub steps: usize,
    /// Steps that were taken back: they raised the loss, or turned every frame blank. See [`AdaptationConfig::safeguard`].
    ///
    /// [`AdaptationConfig::safeguard`]: crate::AdaptationConfig::safeguard
    #[serde(default)]
    pub rollbacks: usize,
    /// Forward passes computed, the source model's included; those after the first start at the lowest adapted layer.
    #[serde(default)]
    pub forwards: usize,
    /// Backward passes computed.
    #[serde(default)]
    pub backwards: usize,
    /// What was carried into it and on from it, where the method is continual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub carried: Option<Carried>,
    /// Set when fewer steps than planned were enough.
    #[serde(default)]
    pub stopped: Option<Stopped>,
    /// Set when a safety guard acted.
    pub guard: Option<Guard>,
    /// Of a Whisper that was adapted to its window: what spoke for and against the adapted text, where that differed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// Wall-clock seconds spent on this utterance.
    pub compute_seconds: f64,
    /// `compute_seconds` over the utterance's duration.
    pub real_time_factor: f64,
    /// Of a Whisper's decoder: log-probability, compression ratio and their like, side by side with the other fields in
    /// JSON.
    #[serde(flatten)]
    pub decoding: Option<Decoding>,
}

impl Utterance {
    /// One without words, not adapted to; times in seconds.
    pub fn empty(start: f64, end: f64) -> Self {
        Self {
            text: String::new(),
            unadapted_text: String::new(),
            start,
            end,
            words: Vec::new(),
            entropy_before: None,
            entropy_after: None,
            losses: Vec::new(),
            steps: 0,
            rollbacks: 0,
            forwards: 0,
            backwards: 0,
            carried: None,
            stopped: None,
            guard: None,
            evidence: None,
            compute_seconds: 0.0,
            real_time_factor: 0.0,
            decoding: None,
        }
    }
}

/// An utterance's adaptation from step to step; see [`crate::Session::trace_steps`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Numbers of steps asked for, as far as they were reached, with the transcript after each; 0 is the source model's.
    pub texts: Vec<(usize, String)>,
    /// Mean entropy in nats of the non-blank frames after 0, 1, ... steps; `None` where all are blank.
    pub entropies: Vec<Option<f32>>,
    /// Forward passes made.
    pub forwards: usize,
    /// Wall-clock seconds to the source model's logits: what the utterance had cost without adaptation.
    pub source_seconds: f64,
}

/// A recording's transcript.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// The utterances in time order.
    pub utterances: Vec<Utterance>,
    /// Length of the recording in seconds.
    pub duration: f64,
    /// The language, where a multilingual Whisper wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<SpokenLanguage>,
}

impl Transcript {
    /// The whole text: the utterances' texts joined by single spaces, empty ones left out.
    pub fn text(&self) -> String {
        let texts: Vec<&str> = self
            .utterances
            .iter()
            .map(|u| u.text.as_str())
            .filter(|t| !t.is_empty())
            .collect();
        texts.join(" ")
    }
}
