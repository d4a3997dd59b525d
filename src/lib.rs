//! aurist: speech recognition that adapts its model to the recording it is hearing.

pub mod adapt;
mod adaptation;
pub mod audio;
pub mod cli;
pub mod decode;
mod device;
pub mod engine;
pub mod eval;
pub mod hub;
pub mod live;
pub mod model;
pub mod output;
mod recognizer;
#[cfg(feature = "serve")]
pub mod serve;
mod transcript;

pub use adaptation::{
    AdaptationConfig, Compatibility, ContinualConfig, Half, Method, ParameterChoice, Reset, Settled, WhisperAdaptation,
};
pub use device::Device;
pub use model::{Bundled, ModelSource};
pub use recognizer::{CtcHeadError, Error, ModelInfo, Recognizer, Session};
pub use transcript::{Carried, Emitted, Guard, ResetReason, Stopped, Trace, Transcript, Utterance, Word};

/// This crate's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
