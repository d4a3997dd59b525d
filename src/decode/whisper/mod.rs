//! Whisper's autoregressive decoding, as faster-whisper and CTranslate2 do it: windows of 30 s one after the other, each
//! searched for its likeliest text under Whisper's rules.

mod adaptation;
mod alignment;
mod options;
mod prompt;
mod rules;
mod search;
mod sequential;
mod window;
mod words;

pub use adaptation::{CtcHead, Evidence, WindowAdaptation};
pub use options::{DecodingOptions, Task};
pub use sequential::Segment;
pub use window::compression_ratio;

use crate::AdaptationConfig;
use crate::adapt::{Policy, PolicyState, Snapshot, States};
use crate::engine::{DecoderBackend, EngineError};
use crate::model::{CtcModel, Generation, Input, ModelError};
use sequential::{Recording, Transcriber};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use window::Network;

/// Seconds from one timestamp to the next.
const TIME_PRECISION: f64 = 0.02;

/// Text without white space at its ends; Python, whose word counts elsewhere, has four separators more than Unicode.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

/// Hears how many seconds of a recording are done; `false` stops the work.
pub type Progress<'a> = &'a mut (dyn FnMut(f64) -> bool + Send);

/// What can go wrong in decoding.
#[derive(Debug, thiserror::Error)]
pub enum DecodingError {
    /// The model cannot write text by itself.
    #[error("the model has no decoder")]
    NoDecoder,
    /// Another language asked of an English-only model.
    #[error("the model knows English only, not `{0}`; leave out the language, or take a multilingual Whisper")]
    EnglishOnly(String),
    /// A code that the model does not know.
    #[error("the model knows no language `{0}`; give a code such as en, de or zh")]
    UnknownLanguage(String),
    /// The device failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// What a window's decoding was like; the names are faster-whisper's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Decoding {
    /// Where the window began, in frames of 10 ms.
    pub seek: usize,
    /// The segment's tokens, timestamps included.
    pub tokens: Vec<u32>,
    /// Of the search whose result stands.
    pub temperature: f64,
    /// Mean log-probability of the window's tokens and its end.
    pub avg_logprob: f64,
    /// Of the window's text; see [`compression_ratio`].
    pub compression_ratio: f64,
    /// Probability that the window holds no speech.
    pub no_speech_prob: f64,
}

/// A recording's language.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpokenLanguage {
    /// Such as `en`.
    pub code: String,
    /// 1 where it was given.
    pub probability: f64,
}

/// A recording's text.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Transcription {
    /// In time order.
    pub segments: Vec<Segment>,
    /// `None` where the model knows one language only.
    pub language: Option<SpokenLanguage>,
}

/// A Whisper with the memory to decode one recording at a time.
pub struct WhisperDecoder<B: DecoderBackend> {
    network: Network<B>,
    policy: Policy<Snapshot<B>>,
    generation: Arc<Generation>,
    options: DecodingOptions,
    bands: usize,
}

impl<B: DecoderBackend> WhisperDecoder<B> {
    /// Memory for decoding with these options, adapting to each window as configured.
    pub fn new(
        backend: &B,
        model: Arc<CtcModel<B>>,
        config: &AdaptationConfig,
        generation: Arc<Generation>,
        options: DecodingOptions,
    ) -> Result<Self, DecodingError> {
        Self::with_ctc_head(backend, model, config, generation, options, None)
    }

    /// The same where what is adapted is adapted through a CTC model.
    pub fn with_ctc_head(
        backend: &B,
        model: Arc<CtcModel<B>>,
        config: &AdaptationConfig,
        generation: Arc<Generation>,
        options: DecodingOptions,
        head: Option<CtcHead<B>>,
    ) -> Result<Self, DecodingError> {
        let Input::LogMel { bands } = model.input() else {
            return Err(DecodingError::NoDecoder);
        };
        let mut network = Network::new(backend, model, config, &options, head)?;
        let policy = network.with_descent(backend, &generation, |descent| Policy::new(config, descent));
        Ok(Self {
            policy: policy.transpose()?.unwrap_or(Policy::Episodic),
            network,
            generation,
            options,
            bands,
        })
    }

    /// The options.
    pub fn options(&self) -> &DecodingOptions {
        &self.options
    }

    /// From now on takes the language for known, or detects it.
    pub fn set_language(&mut self, code: Option<String>) {
        self.options.language = code;
    }

    /// Begins a new stream: a continual method forgets what it carries.
    pub fn begin_stream(&mut self, backend: &B) {
        let policy = &mut self.policy;
        self.network
            .with_descent(backend, &self.generation, |descent| policy.begin(descent));
    }

    /// Says that the next window is of another domain, for [`crate::Reset::Oracle`].
    pub fn domain_changed(&mut self, backend: &B) {
        let policy = &mut self.policy;
        self.network
            .with_descent(backend, &self.generation, |descent| policy.domain_changed(descent));
    }

    /// What a continual method carries, to go on from with [`WhisperDecoder::resume`].
    pub fn state(&mut self, backend: &B) -> PolicyState {
        let policy = &self.policy;
        let saved = self
            .network
            .with_descent(backend, &self.generation, |descent| policy.save(descent));
        saved.unwrap_or_default()
    }

    /// Goes on from what a method of the same settings on the same model carried; `None`, with a new stream begun, when
    /// the state is not one of theirs.
    pub fn resume(&mut self, backend: &B, state: &PolicyState) -> Option<()> {
        let policy = &mut self.policy;
        let resumed = self
            .network
            .with_descent(backend, &self.generation, |descent| policy.load(descent, state));
        // Where nothing is adapted nothing is carried.
        let resumed = resumed.unwrap_or(Some(()));
        if resumed.is_none() {
            self.begin_stream(backend);
        }
        resumed
    }

    /// The adapted values that a continual method would start the next window from, in the engine's own order.
    pub fn carried_values(&mut self, backend: &B) -> Vec<f32> {
        let policy = &self.policy;
        let values = self.network.with_descent(backend, &self.generation, |descent| {
            policy.show(descent);
            let values = descent.values();
            descent.restore_source();
            values
        });
        values.unwrap_or_default()
    }

    /// Log-mel frames `[frames, bands]` of a whole recording as text; `None` where `progress` stopped it.
    pub fn transcribe(
        &mut self,
        backend: &B,
        log_mel: &[f32],
        progress: Progress<'_>,
    ) -> Result<Option<Transcription>, DecodingError> {
        let found = self.transcribe_together(backend, &[log_mel], &mut |_, seconds| progress(seconds))?;
        Ok(found.and_then(|mut found| found.pop()))
    }

    /// The same of several stretches of one recording, [`DecodingOptions::batch_size`] of them side by side; all are in the
    /// language of the first. What each gives does not depend on the others. `progress` hears of a stretch and the seconds
    /// of it that are done.
    pub fn transcribe_together(
        &mut self,
        backend: &B,
        log_mels: &[&[f32]],
        progress: &mut (dyn FnMut(usize, f64) -> bool + Send),
    ) -> Result<Option<Vec<Transcription>>, DecodingError> {
        let mut transcriber = Transcriber {
            backend,
            network: &mut self.network,
            policy: &mut self.policy,
            generation: &self.generation,
            options: &self.options,
            bands: self.bands,
            encoded: None,
        };
        let seeds = (0..).map(|index: u64| self.options.seed.wrapping_add(index));
        let recordings = log_mels.iter().zip(seeds);
        let mut recordings: Vec<Recording<'_>> = recordings
            .map(|(log_mel, seed)| Recording::new(log_mel, self.bands, seed))
            .collect();
        let language = match recordings.first() {
            Some(first) if log_mels[0].len() >= self.bands => transcriber.language(first)?,
            _ => None,
        };
        let segments = transcriber.transcribe(&mut recordings, language.as_ref(), progress)?;
        Ok(segments.map(|segments| {
            let whole = segments.into_iter().map(|segments| Transcription {
                segments,
                language: language.clone(),
            });
            whole.collect()
        }))
    }

    /// Logits after every token of a sequence, `[V]` each, of the log-mel frames of one window: what the tests compare.
    pub fn logits(&mut self, backend: &B, log_mel: &[f32], tokens: &[u32]) -> Result<Vec<Vec<f32>>, ModelError> {
        self.network.encode(backend, 0, log_mel);
        self.network.run_sequence(backend, 0, tokens);
        Ok(self.network.all_logits(backend, tokens.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ModelFiles;
    use std::path::Path;

    /// Of the tiny model that the goldens are of.
    pub(super) fn generation() -> Generation {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/goldens/whisper-tiny");
        let files = ModelFiles::from_dir(&directory).expect("the model");
        files.generation.expect("it has a decoder")
    }

    #[test]
    fn repetition_compresses_and_prose_does_not() {
        // Python's zlib gives 0.86 and 13.0; another deflate's header is a few bytes longer.
        let prose = "The quick brown fox jumps over the lazy dog";
        assert!((0.7..1.0).contains(&compression_ratio(prose)));
        assert!(compression_ratio(&"thank you ".repeat(30)) > 4.0);
        assert_eq!(compression_ratio(""), 0.0);
    }

    #[test]
    fn special_tokens_are_no_text_and_steer() {
        let tokenizer = generation().tokenizer;
        let text = " the thin in a";
        let tokens = [
            vec![tokenizer.sot],
            tokenizer.encode(text),
            vec![tokenizer.timestamp_begin()],
        ]
        .concat();
        assert_eq!(tokenizer.decode(&tokens), text);
        assert_eq!(tokenizer.languages.len(), 3);
        assert_eq!(tokenizer.language("de"), Some(tokenizer.sot + 2));
        assert_eq!(tokenizer.steering().len(), 6);
        assert!(tokenizer.non_speech().contains(&tokenizer.encode("(")[0]));
    }
}
