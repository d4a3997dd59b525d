//! JSON: the transcript with every number that was measured on the way.

use crate::decode::whisper::{DecodingOptions, SpokenLanguage};
use crate::{AdaptationConfig, ModelInfo, Transcript, Utterance};
use serde::Serialize;

/// One recording's transcript with what it was made from, ready to be written.
#[derive(Debug, Clone, Copy)]
pub struct Document<'a> {
    /// The recording, as the user named it.
    pub file: &'a str,
    /// What was recognised.
    pub transcript: &'a Transcript,
    /// The model that recognised it.
    pub model: &'a ModelInfo,
    /// The adaptation settings.
    pub settings: &'a AdaptationConfig,
    /// The settings of Whisper's decoder, where one wrote it.
    pub decoding: Option<&'a DecodingOptions>,
    /// The stream it belongs to, where the method is continual.
    pub stream: Option<&'a str>,
    /// What decoding the audio found wrong but survivable.
    pub warnings: &'a [String],
}

/// The fields and their order, as documented.
#[derive(Serialize)]
struct Fields<'a> {
    file: &'a str,
    duration: f64,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    language: Option<&'a SpokenLanguage>,
    model: &'a ModelInfo,
    settings: &'a AdaptationConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    decoding: Option<&'a DecodingOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    version: &'static str,
    warnings: &'a [String],
    utterances: &'a [Utterance],
}

impl<'a> Document<'a> {
    fn fields(&self) -> Fields<'a> {
        Fields {
            file: self.file,
            duration: self.transcript.duration,
            text: self.transcript.text(),
            language: self.transcript.language.as_ref(),
            model: self.model,
            settings: self.settings,
            decoding: self.decoding,
            stream: self.stream,
            version: crate::VERSION,
            warnings: self.warnings,
            utterances: &self.transcript.utterances,
        }
    }

    /// The document as one JSON object on one line, for streams of several.
    pub fn json_line(&self) -> String {
        // Strings, numbers and lists only: serialisation has no way to fail.
        serde_json::to_string(&self.fields()).unwrap_or_default() + "\n"
    }
}

pub(super) fn pretty(document: &Document<'_>) -> String {
    serde_json::to_string_pretty(&document.fields()).unwrap_or_default() + "\n"
}
