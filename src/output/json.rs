//! Everything that is known of a recording's transcript.

use crate::{AdaptationConfig, ModelInfo, Transcript, Utterance};
use serde::Serialize;

/// A transcript with where it came from.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// The recording, as the user named it.
    pub file: &'a str,
    /// The transcript.
    pub transcript: &'a Transcript,
    /// The model that wrote it.
    pub model: &'a ModelInfo,
    /// How it adapted.
    pub settings: &'a AdaptationConfig,
    /// What was wrong with the recording.
    pub warnings: &'a [String],
}

#[derive(Serialize)]
struct Fields<'a> {
    file: &'a str,
    duration: f64,
    text: String,
    utterances: &'a [Utterance],
    warnings: &'a [String],
    model: &'a ModelInfo,
    settings: &'a AdaptationConfig,
    version: &'a str,
}

impl<'a> Document<'a> {
    fn fields(&self) -> Fields<'a> {
        Fields {
            file: self.file,
            duration: self.transcript.duration,
            text: self.transcript.text(),
            utterances: &self.transcript.utterances,
            warnings: self.warnings,
            model: self.model,
            settings: self.settings,
            version: crate::VERSION,
        }
    }

    /// The JSON object on one line, for streams of several.
    pub fn json_line(&self) -> String {
        // Strings, numbers and lists always serialise.
        serde_json::to_string(&self.fields()).unwrap_or_default() + "\n"
    }
}

pub(super) fn render(document: &Document<'_>) -> String {
    serde_json::to_string_pretty(&document.fields()).unwrap_or_default() + "\n"
}
