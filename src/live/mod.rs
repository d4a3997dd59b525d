//! Live recognition: samples in as they are heard; partial hypotheses, finals and their revisions out.
//!
//! A [`LiveSession`] finds utterances in its stream and asks a [`Pool`] of threads to recognise them. Decoding never waits
//! for adaptation: partials and finals are made with the parameters that are there, on threads of their own, while
//! adaptation of the utterances before goes on beside it within its budget of time. Each final is followed by exactly
//! one revision: the adapted hypothesis, or the word that there is none and why.

mod budget;
mod decoder;
mod pool;
mod session;
mod stable;
#[cfg(all(test, feature = "bundled-model"))]
mod tests;

pub use decoder::Decoder;
pub use pool::{Lane, Pool, Seat, Task, Worker};
pub use session::{Heard, LiveSession};

use crate::audio::EndpointConfig;
use crate::{AdaptationConfig, Utterance, Word};
use serde::{Deserialize, Serialize};

/// How a live stream is recognised.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveConfig {
    /// How utterances are found.
    pub endpoint: EndpointConfig,
    /// How they are adapted to.
    pub adaptation: AdaptationConfig,
    /// Seconds of an utterance between partial hypotheses; infinite for none. Where the machine is too slow for that, it
    /// makes fewer.
    pub partial_interval: f64,
    /// Seconds after an utterance's end by which its revision should be there: with less time left than all steps need,
    /// fewer are taken, and with too little for a single pass the utterance is not adapted to.
    pub latency: f64,
    /// Never skip anything, and wait for each result instead: the output then depends on the samples alone. For files
    /// and tests; with a speaker it would lag.
    pub lockstep: bool,
}

impl LiveConfig {
    /// The defaults, with this adaptation.
    pub fn new(adaptation: AdaptationConfig) -> Self {
        Self {
            endpoint: EndpointConfig::default(),
            adaptation,
            partial_interval: 0.5,
            latency: 5.0,
            lockstep: false,
        }
    }
}

/// What a stream tells. Times are seconds on the stream's clock, which counts samples and gaps; delays are seconds of
/// real time since the sample that made the event due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Event {
    /// A hypothesis of an utterance that is still being spoken.
    Partial(Partial),
    /// The hypothesis of an utterance that has ended; committed words stay as they were.
    Final(Final),
    /// What adaptation made of a final: the one change it may see.
    Revision(Box<Revision>),
    /// An utterance could not be recognised; the stream goes on.
    Failed {
        /// Which.
        utterance: u64,
        /// Why.
        message: String,
    },
}

/// See [`Event::Partial`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Partial {
    /// The utterance's place in the stream, from 1.
    pub utterance: u64,
    /// Its start.
    pub start: f64,
    /// As far as it was heard.
    pub end: f64,
    /// The words, joined by spaces.
    pub text: String,
    /// So many words at the front are committed: no later partial and not the final will change them.
    pub stable: usize,
    /// All words.
    pub words: Vec<Word>,
    /// From the last of its samples to this event.
    pub delay: f64,
}

/// See [`Event::Final`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Final {
    /// The utterance's place in the stream, from 1.
    pub utterance: u64,
    /// Its start.
    pub start: f64,
    /// Its end.
    pub end: f64,
    /// The words, joined by spaces.
    pub text: String,
    /// All words.
    pub words: Vec<Word>,
    /// From the silence that ended it to this event.
    pub delay: f64,
}

/// See [`Event::Revision`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Revision {
    /// Of which final.
    pub utterance: u64,
    /// Whether the text differs from the final's.
    pub changed: bool,
    /// Why the utterance was not adapted to, where it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<Skipped>,
    /// Steps that there was time for.
    pub allowed_steps: usize,
    /// From the silence that ended the utterance to this event.
    pub delay: f64,
    /// The utterance as it stands from now on. Where it was skipped, `unadapted_text` is the same as `text`.
    #[serde(flatten)]
    pub result: Utterance,
}

/// Why an utterance was not adapted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Skipped {
    /// Adaptation is off.
    Off,
    /// There was no time.
    Behind,
}

fn text_of(words: &[Word]) -> String {
    words
        .iter()
        .map(|word| word.word.as_str())
        .collect::<Vec<_>>()
        .join(" ")
}
