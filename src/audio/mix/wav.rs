//! Mixed audio out: 16-bit mono wav at 16 kHz.

use crate::audio::SAMPLE_RATE;
use hound::{SampleFormat, WavSpec, WavWriter};
use std::io::{Cursor, Seek, Write};
use std::path::Path;

const SPEC: WavSpec = WavSpec {
    channels: 1,
    sample_rate: SAMPLE_RATE,
    bits_per_sample: 16,
    sample_format: SampleFormat::Int,
};

/// A sample as a 16-bit integer: rounded, and clipped, so that full scale never wraps to its opposite.
pub(super) fn to_pcm16(sample: f32) -> i16 {
    // `as` saturates.
    (f64::from(sample) * 32_768.0).round() as i16
}

/// Begins a file of 16-bit mono samples at 16 kHz.
pub(crate) fn wav_writer<W: Write + Seek>(to: W) -> std::io::Result<WavWriter<W>> {
    WavWriter::new(to, SPEC).map_err(io_error)
}

/// Adds samples; the file is whole afterwards, and with the system.
pub(crate) fn write_samples<W: Write + Seek>(writer: &mut WavWriter<W>, samples: &[f32]) -> std::io::Result<()> {
    for &sample in samples {
        writer.write_sample(to_pcm16(sample)).map_err(io_error)?;
    }
    writer.flush().map_err(io_error)
}

fn io_error(error: hound::Error) -> std::io::Error {
    match error {
        hound::Error::IoError(error) => error,
        error => std::io::Error::other(error),
    }
}

/// Writes 16 kHz mono samples to a file.
pub fn write_wav(path: &Path, samples: &[f32]) -> std::io::Result<()> {
    let file = std::io::BufWriter::new(std::fs::File::create(path)?);
    write_samples(&mut wav_writer(file)?, samples)
}

/// 16 kHz mono samples as a wav file's bytes.
pub fn wav_bytes(samples: &[f32]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    write_samples(&mut wav_writer(&mut bytes)?, samples)?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_scale_clips_and_never_wraps() {
        assert_eq!(
            [1.0, -1.0, 1.5, -1.5, 0.0].map(to_pcm16),
            [32767, -32768, 32767, -32768, 0]
        );
    }
}
