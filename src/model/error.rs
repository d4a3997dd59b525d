//! What can be wrong with a model directory, in one clear sentence each.

use std::path::PathBuf;

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The directory does not exist or is not one.
    #[error("{} is not a model directory; give a directory that holds config.json, vocab.json and model.safetensors, or pull one with `aurist models pull`", .0.display())]
    NotADirectory(PathBuf),
    /// A file is missing or unreadable.
    #[error("the model's {file} could not be read: {reason}")]
    Unreadable {
        /// The file's name.
        file: String,
        /// The system's reason.
        reason: String,
    },
    /// A JSON file does not hold what it should.
    #[error("the model's {file} is not valid: {reason}")]
    Invalid {
        /// The file's name.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// An architecture this version cannot run.
    #[error(
        "the model's architecture is {found}, which this version cannot run; it runs Wav2Vec2ForCTC, HubertForCTC, Data2VecAudioForCTC, WavLMForCTC, and Whisper (whole, or its encoder with a CTC head)"
    )]
    Architecture {
        /// What config.json says.
        found: String,
    },
    /// There are no weights in a format that is read.
    #[error(
        "the model has no weights: neither model.safetensors nor pytorch_model.bin, whole or in shards, nor CTranslate2's model.bin"
    )]
    NoWeights,
    /// An encoder that nobody gave an output layer for CTC.
    #[error(
        "the model is an encoder without a decoder or a CTC head, so it cannot transcribe; put a head beside it as ctc_head.safetensors (ctc_head.weight, ctc_head.bias) with its symbols in ctc_vocab.json"
    )]
    NoHead,
    /// A profile that does not belong to the model.
    #[error("the profile {file} cannot be used: {reason}")]
    Profile {
        /// The file.
        file: String,
        /// Why.
        reason: String,
    },
    /// The weights lack a tensor.
    #[error("the model's weights lack the tensor `{0}`; the file may be of another architecture, or incomplete")]
    MissingTensor(String),
    /// A tensor has another shape than the configuration asks for.
    #[error("the tensor `{name}` has the shape {found:?}, but config.json asks for {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// In the file.
        found: Vec<usize>,
        /// By the configuration.
        expected: Vec<usize>,
    },
    /// A tensor's numbers are stored in a type that is not read.
    #[error("the tensor `{name}` is stored as {found}; save the weights as f32, f16 or bf16")]
    Type {
        /// The tensor.
        name: String,
        /// In the file.
        found: String,
    },
    /// A tensor holds NaN or infinity.
    #[error("the tensor `{0}` holds values that are not finite numbers; the weights are damaged")]
    NotFinite(String),
    /// The binary was built without the bundled model.
    #[error("this build has no bundled model; give one with -m, or build with the feature `bundled-model`")]
    NoBundledModel,
    /// The device failed.
    #[error(transparent)]
    Engine(#[from] crate::engine::EngineError),
}

impl ModelError {
    pub(crate) fn invalid(file: &str, reason: impl std::fmt::Display) -> Self {
        Self::Invalid {
            file: file.into(),
            reason: reason.to_string(),
        }
    }
}
