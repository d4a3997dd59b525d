//! Audio in: decoding, resampling, cutting into utterances, log-mel frames. Knows nothing of the engine.
//!
//! Inside aurist audio is f32, mono, 16 kHz, nominally in [-1, 1].

mod decode;
mod endpoint;
mod error;
mod features;
mod log_mel;
pub mod mix;
mod resample;
mod segment;

pub use decode::AudioReader;
pub use endpoint::{ENDPOINT_FRAME, EndpointConfig, Endpointer};
pub use error::AudioError;
pub use features::Features;
pub use log_mel::{HOP, LogMel};
pub use resample::Resampler;
pub use segment::{Segment, Segmenter, SegmenterConfig};

/// Samples a second, everywhere inside aurist.
pub const SAMPLE_RATE: u32 = 16_000;

/// Reads a whole recording: 16 kHz mono samples.
pub fn read_all(path: &std::path::Path) -> Result<Vec<f32>, AudioError> {
    let mut reader = AudioReader::open(path)?;
    let mut samples = Vec::new();
    while let Some(chunk) = reader.next_chunk()? {
        samples.extend(chunk);
    }
    Ok(samples)
}
