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
pub(crate) fn to_pcm16(sample: f32) -> i16 {
    // `as` saturates.
    (f64::from(sample) * 32_768.0).round() as i16
}

fn write<W: Write + Seek>(samples: &[f32], to: W) -> Result<(), hound::Error> {
    let mut writer = WavWriter::new(to, SPEC)?;
    for &sample in samples {
        writer.write_sample(to_pcm16(sample))?;
    }
    writer.finalize()
}

/// Writes 16 kHz mono samples to a file.
pub fn write_wav(path: &Path, samples: &[f32]) -> std::io::Result<()> {
    let file = std::io::BufWriter::new(std::fs::File::create(path)?);
    write(samples, file).map_err(std::io::Error::other)
}

/// 16 kHz mono samples as a wav file's bytes.
pub fn wav_bytes(samples: &[f32]) -> std::io::Result<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    write(samples, &mut bytes).map_err(std::io::Error::other)?;
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
