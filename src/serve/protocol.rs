//! The messages of `/v1/stream`; docs/server.md describes them.

use super::settings::Choice;
use crate::live::Event;
use crate::{AdaptationConfig, ModelInfo};
use audio_codec_algorithms::{decode_alaw, decode_ulaw};
use serde::{Deserialize, Serialize};

/// A sample's coding in binary messages; little-endian, channels interleaved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Encoding {
    #[default]
    Pcm16,
    F32,
    /// G.711 μ-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
}

/// What a client says, in text messages.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Say {
    /// First of all.
    Start {
        #[serde(default = "default_rate")]
        sample_rate: u32,
        #[serde(default = "one")]
        channels: u16,
        #[serde(default)]
        encoding: Encoding,
        #[serde(default)]
        adapt: Choice,
        /// Seconds between partial hypotheses; 0 for none.
        #[serde(default = "default_interval")]
        partial_interval: f64,
        #[serde(default = "default_hang_over")]
        hang_over: f64,
        #[serde(default = "default_longest")]
        longest: f64,
        #[serde(default = "default_latency")]
        latency: f64,
        /// Go on from what a continual method carried when this was saved.
        #[serde(default)]
        profile: Option<String>,
    },
    /// From the next utterance on adapts like this, from the source model.
    Adapt {
        #[serde(default)]
        adapt: Choice,
    },
    /// Forgets what a continual method carries.
    Reset,
    /// Keeps it under a name.
    SaveProfile { name: String },
    /// So many seconds could not be heard.
    Gap { seconds: f64 },
    /// No more sound: what was heard is finished, then the server closes.
    Finish,
}

fn default_rate() -> u32 {
    16_000
}

fn one() -> u16 {
    1
}

fn default_interval() -> f64 {
    0.5
}

fn default_hang_over() -> f64 {
    0.8
}

fn default_longest() -> f64 {
    20.0
}

fn default_latency() -> f64 {
    5.0
}

/// What the server says.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(super) enum Tell<'a> {
    /// The answer to `start`, `adapt` and `reset`.
    Ready {
        model: &'a ModelInfo,
        settings: &'a AdaptationConfig,
    },
    Saved {
        name: &'a str,
    },
    Error {
        message: &'a str,
    },
    Done {
        seconds: f64,
    },
    #[serde(untagged)]
    Event(&'a Event),
}

impl Tell<'_> {
    /// As it is sent.
    pub(super) fn text(&self) -> String {
        // Plain data, with text as its keys: it can always be written.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Samples of a binary message, as one channel: the mean of all. `None` when it is not a whole number of frames.
pub(super) fn samples(bytes: &[u8], encoding: Encoding, channels: u16) -> Option<Vec<f32>> {
    let channels = usize::from(channels.max(1));
    let from_pcm16 = |value: i16| f32::from(value) / 32_768.0;
    let values: Vec<f32> = match encoding {
        Encoding::Pcm16 => {
            let (values, rest) = bytes.as_chunks();
            let value = |bytes: &[u8; 2]| from_pcm16(i16::from_le_bytes(*bytes));
            rest.is_empty().then(|| values.iter().map(value).collect())?
        }
        Encoding::F32 => {
            let (values, rest) = bytes.as_chunks();
            let value = |bytes: &[u8; 4]| Some(f32::from_le_bytes(*bytes)).filter(|value| value.is_finite());
            rest.is_empty()
                .then(|| values.iter().map(|bytes| value(bytes).unwrap_or(0.0)).collect())?
        }
        Encoding::Pcmu => bytes.iter().map(|byte| from_pcm16(decode_ulaw(*byte))).collect(),
        Encoding::Pcma => bytes.iter().map(|byte| from_pcm16(decode_alaw(*byte))).collect(),
    };
    if !values.len().is_multiple_of(channels) {
        return None;
    }
    let mean = |frame: &[f32]| frame.iter().sum::<f32>() / channels as f32;
    Some(values.chunks_exact(channels).map(mean).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_start_needs_nothing_but_its_name() {
        let start: Say = serde_json::from_str(r#"{"type": "start"}"#).unwrap();
        assert!(matches!(
            start,
            Say::Start {
                sample_rate: 16_000,
                channels: 1,
                encoding: Encoding::Pcm16,
                ..
            }
        ));
        assert!(serde_json::from_str::<Say>(r#"{"type": "start", "sample_rat": 8000}"#).is_err());
        assert!(serde_json::from_str::<Say>(r#"{"type": "start", "adapt": {"method": "magic"}}"#).is_err());
    }

    #[test]
    fn channels_are_averaged() {
        let bytes: Vec<u8> = [16_384_i16, 0, -32_768, -32_768]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert_eq!(samples(&bytes, Encoding::Pcm16, 2), Some(vec![0.25, -1.0]));
        assert_eq!(samples(&bytes[..7], Encoding::Pcm16, 2), None);
        assert_eq!(samples(&bytes[..6], Encoding::Pcm16, 2), None);
    }

    /// G.711's loudest and quietest values, and its signs.
    #[test]
    fn telephone_samples_are_expanded() {
        let decoded = |encoding, byte| samples(&[byte], encoding, 1).unwrap()[0] * 32_768.0;
        assert_eq!(
            [0x80, 0x00, 0xff].map(|byte| decoded(Encoding::Pcmu, byte)),
            [32_124.0, -32_124.0, 0.0]
        );
        assert_eq!(
            [0xaa, 0x2a, 0xd5].map(|byte| decoded(Encoding::Pcma, byte)),
            [32_256.0, -32_256.0, 8.0]
        );
    }

    proptest! {
        #[test]
        fn any_message_is_samples_or_nothing(bytes: Vec<u8>, encoding in 0usize..4, channels in 0u16..9) {
            let encoding = [Encoding::Pcm16, Encoding::F32, Encoding::Pcmu, Encoding::Pcma][encoding];
            if let Some(samples) = samples(&bytes, encoding, channels) {
                prop_assert!(samples.iter().all(|sample| sample.is_finite()));
            }
        }

        #[test]
        fn any_text_is_a_message_or_an_error(text in ".{0,200}", kind in "start|adapt|reset|gap|finish|save-profile") {
            let _ = serde_json::from_str::<Say>(&text);
            let _ = serde_json::from_str::<Say>(&format!(r#"{{"type": "{kind}", {text}}}"#));
        }
    }
}
