//! Evidence without labels for and against an adapted text.

use crate::decode::whisper::DecodingOptions;
use serde::{Deserialize, Serialize};

/// By so many nats a token the source model may find the adapted text less likely than its own.
const LIKELIHOOD_MARGIN: f64 = 0.15;
/// The adapted text has at least this share of the unadapted one's words, and at most the inverse.
const LEAST_LENGTH: f64 = 0.5;
/// The two texts differ in at most this share of the longer one's words.
const MOST_DISAGREEMENT: f64 = 0.5;

/// The evidence without labels, unadapted and adapted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Mean log-probability of the tokens under the source model, in nats.
    pub log_probability: [f64; 2],
    /// zlib's.
    pub compression_ratio: [f64; 2],
    /// Words.
    pub words: [usize; 2],
    /// Word errors of one text against the other, over the longer one's words.
    pub disagreement: f64,
    /// Whether the adapted text may stand; see [`Evidence::favours_adapted`].
    pub favours_adapted: bool,
}

impl Evidence {
    /// Whether the adapted text may stand.
    pub fn favours_adapted(&self, options: &DecodingOptions) -> bool {
        let [unadapted, adapted] = self.log_probability;
        let [before, after] = self.compression_ratio;
        let [words, adapted_words] = self.words;
        let threshold = options.compression_ratio_threshold.unwrap_or(f64::INFINITY);
        // A text that failed its own thresholds is no standard for another's length or words.
        let doubtful = before > threshold || options.log_prob_threshold.is_some_and(|least| unadapted < least);
        let (shorter, longer) = (words.min(adapted_words) as f64, words.max(adapted_words) as f64);
        adapted >= unadapted - LIKELIHOOD_MARGIN
            && (after <= threshold || after <= before)
            && (doubtful || shorter >= LEAST_LENGTH * longer && self.disagreement <= MOST_DISAGREEMENT)
    }
}
