//! What a codec leaves of the samples.

use super::wav::to_pcm16;
use audio_codec_algorithms::{
    AdpcmImaState, decode_adpcm_ima, decode_alaw, decode_ulaw, encode_adpcm_ima, encode_alaw, encode_ulaw,
};
use std::fmt;
use std::str::FromStr;

/// A codec that the samples go through and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// G.711 μ-law at 16 kHz.
    MuLaw,
    /// G.711 A-law at 16 kHz.
    ALaw,
    /// Linear 8-bit PCM.
    EightBit,
    /// IMA ADPCM, 4 bits a sample.
    Adpcm,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::MuLaw, Self::ALaw, Self::EightBit, Self::Adpcm];

    /// Its name in a condition.
    pub fn name(self) -> &'static str {
        match self {
            Self::MuLaw => "mu-law",
            Self::ALaw => "a-law",
            Self::EightBit => "8-bit",
            Self::Adpcm => "adpcm",
        }
    }

    /// Through the codec and back, in place.
    pub(super) fn apply(self, samples: &mut [f32]) {
        let from_pcm16 = |value: i16| f32::from(value) / 32_768.0;
        let mut state = AdpcmImaState::new();
        for sample in samples {
            let linear = to_pcm16(*sample);
            *sample = match self {
                Self::MuLaw => from_pcm16(decode_ulaw(encode_ulaw(linear))),
                Self::ALaw => from_pcm16(decode_alaw(encode_alaw(linear))),
                Self::EightBit => (f64::from(*sample) * 128.0).round().clamp(-128.0, 127.0) as f32 / 128.0,
                Self::Adpcm => {
                    // The decoder has its own state; both move alike.
                    let mut decoder = state.clone();
                    let nibble = encode_adpcm_ima(linear, &mut state);
                    from_pcm16(decode_adpcm_ima(nibble, &mut decoder))
                }
            };
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Codec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|codec| codec.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is no codec here; there are {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audio::mix::rms;

    #[test]
    fn each_codec_is_close_to_what_it_codes_and_not_equal() {
        let tone: Vec<f32> = (0..16_000).map(|i| 0.5 * (i as f32 * 0.1).sin()).collect();
        for codec in Codec::ALL {
            let mut coded = tone.clone();
            codec.apply(&mut coded);
            let error: Vec<f32> = coded.iter().zip(&tone).map(|(a, b)| a - b).collect();
            let snr = 20.0 * (rms(&tone) / rms(&error)).log10();
            assert!((20.0..60.0).contains(&snr), "{codec}: {snr} dB");
        }
    }

    #[test]
    fn full_scale_stays_on_its_side() {
        for codec in Codec::ALL {
            let mut samples = vec![1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0];
            codec.apply(&mut samples);
            assert!(samples.iter().all(|sample| (-1.0..=1.0).contains(sample)), "{codec}");
            assert!(
                codec == Codec::Adpcm || (samples[0] > 0.9 && samples[11] < -0.9),
                "{codec}"
            );
        }
    }
}
