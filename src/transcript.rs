//! What recognition returns: words with times and confidences, per utterance, per recording.

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
    /// Geometric mean of the posterior probabilities along the word's CTC path, in [0, 1].
    pub confidence: f32,
}

/// Why an utterance's adaptation was cut short, undone, or should be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guard {
    /// Every frame decodes to blank: there is no entropy to lower, so the source model's output stands.
    AllBlank,
    /// A loss or a gradient was not finite: the last good parameters were restored.
    NonFinite,
    /// The adapted transcript has fewer than half the source model's letters; it stands.
    Shortened,
    /// The adapted transcript is empty although the source model's is not: the source model's stands.
    Emptied,
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
    /// Set when a safety guard acted.
    pub guard: Option<Guard>,
    /// Wall-clock seconds spent on this utterance.
    pub compute_seconds: f64,
    /// `compute_seconds` over the utterance's duration.
    pub real_time_factor: f64,
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
