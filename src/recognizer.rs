//! The recognizer (temporary signatures for the command's development; the bodies are being written elsewhere).

use crate::{AdaptationConfig, Transcript, Utterance};
use std::path::Path;

/// What can go wrong in recognition.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// What a loaded model is.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ModelInfo {
    /// The directory, or `bundled:whisper-tiny.en-ctc`.
    pub name: String,
    /// BLAKE3 of the weights, the vocabulary and the configuration, hexadecimal.
    pub identity: String,
    /// e.g. `WhisperForCTC`
    pub architecture: String,
    /// Number of parameters.
    pub parameters: usize,
    /// Output symbols.
    pub vocabulary: usize,
}

/// A loaded model, shared by sessions; cheap to clone, safe to share between threads.
#[derive(Clone)]
pub struct Recognizer;

impl Recognizer {
    /// Loads a model directory.
    pub fn from_dir(_dir: &Path) -> Result<Self, Error> {
        Ok(Self)
    }
    /// The bundled model (feature `bundled-model`).
    pub fn bundled() -> Result<Self, Error> {
        Ok(Self)
    }
    /// What the model is.
    pub fn info(&self) -> &ModelInfo {
        unimplemented!()
    }
    /// The adaptation settings chosen for this model.
    pub fn default_adaptation(&self) -> AdaptationConfig {
        AdaptationConfig::paper()
    }
    /// Transcribes 16 kHz mono samples of any length.
    pub fn transcribe(&self, _samples: &[f32], _config: &AdaptationConfig) -> Result<Transcript, Error> {
        Ok(Transcript::default())
    }
    /// A session that runs on `threads` threads (at least 1) and reuses its memory from utterance to utterance.
    pub fn session(&self, _config: &AdaptationConfig, _threads: usize) -> Result<Session, Error> {
        Ok(Session)
    }
}

/// One worker's state: arena, parameter store, optimizer. `Send`, not shared.
pub struct Session;

impl Session {
    /// Transcribes one utterance of 16 kHz mono samples that starts `start` seconds into its recording.
    pub fn transcribe_utterance(&mut self, _samples: &[f32], _start: f64) -> Result<Utterance, Error> {
        unimplemented!()
    }
}
