//! Test conditions: what noise, a room, a telephone line or a codec makes of an utterance, reproducibly.
//!
//! A [`Condition`] is text such as `babble.flac@5` or `reverb:hall.wav+gaussian@10`; a [`Mixer`] loads the files it
//! names once; what comes out of [`Prepared::apply`] depends on the samples, the seed, the condition and the
//! utterance's name, and on nothing that ran before.

mod codec;
mod condition;
mod effects;
mod filter;
mod mixer;
mod random;
mod stream;
mod wav;

pub use codec::Codec;
pub use condition::{Condition, ConditionError, Effect};
pub use mixer::{Mixer, MixerCompatibility, NoiseFile, Prepared, samples_hash};
pub use random::{shuffled, uniform};
pub use stream::{Block, NamedStream, StreamError, StreamPlan};
pub use wav::{wav_bytes, write_wav};
pub(crate) use wav::{wav_writer, write_samples};

use super::AudioError;

/// Raised when the same condition, seed and samples would give other samples than before.
pub const MIX_VERSION: u32 = 1;

/// Why a condition could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum MixError {
    /// A noise or an impulse response could not be read.
    #[error("{path}: {reason}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        reason: AudioError,
    },
    /// A directory of noises could not be listed.
    #[error("{path}: {reason}")]
    Directory {
        /// The directory.
        path: String,
        /// Why.
        reason: std::io::Error,
    },
    /// No noise in a directory.
    #[error("{path}: there is no recording in this directory to use as noise")]
    NoNoise {
        /// The directory.
        path: String,
    },
    /// Zeros only.
    #[error("{path}: the noise is silent, so that no signal-to-noise ratio can be reached; choose another")]
    Silent {
        /// The noise.
        path: String,
    },
    /// Zeros only, as far as an utterance reaches.
    #[error(
        "{path}: the noise is silent for its first {seconds:.2} s, as long as the utterance `{utterance}`; cut the silence off its beginning"
    )]
    SilentStart {
        /// The noise.
        path: String,
        /// The utterance's length.
        seconds: f64,
        /// The utterance.
        utterance: String,
    },
    /// The resampler refused.
    #[error(transparent)]
    Resample(AudioError),
}

/// Root mean square, in f64.
pub fn rms(samples: &[f32]) -> f64 {
    if samples.is_empty() {
        return 0.0;
    }
    let squares: f64 = samples
        .iter()
        .map(|&sample| f64::from(sample) * f64::from(sample))
        .sum();
    (squares / samples.len() as f64).sqrt()
}
