//! How a Whisper decodes: names and defaults are faster-whisper's.

use serde::{Deserialize, Serialize};

/// What is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// What was spoken, in its language.
    #[default]
    Transcribe,
    /// The same in English (multilingual models).
    Translate,
}

/// Options of Whisper's decoder. [`Default`] is faster-whisper's defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DecodingOptions {
    /// The language spoken, as a code such as `en`; detected from the first 30 s where there is none.
    pub language: Option<String>,
    /// Transcribe, or translate into English.
    pub task: Task,
    /// Hypotheses kept at temperature 0; 1 is greedy.
    pub beam_size: usize,
    /// Samples drawn at other temperatures, of which the most probable counts.
    pub best_of: usize,
    /// Finished hypotheses to wait for, as a multiple of the beam's size.
    pub patience: f64,
    /// Hypotheses are ranked by their log-probability over their length to this power.
    pub length_penalty: f64,
    /// Above 1, tokens that were written before become less likely.
    pub repetition_penalty: f64,
    /// No sequence of so many tokens comes twice in a window; 0 allows all.
    pub no_repeat_ngram_size: usize,
    /// Tried in order until a result passes the thresholds.
    pub temperature: Vec<f64>,
    /// Text that zlib compresses better than this is repetition: the next temperature is tried.
    pub compression_ratio_threshold: Option<f64>,
    /// An average log-probability of the tokens below this is doubtful: the next temperature is tried.
    pub log_prob_threshold: Option<f64>,
    /// A doubtful window whose probability of no speech is above this is silence.
    pub no_speech_threshold: Option<f64>,
    /// Whether a window's prompt is the text before it: more coherent, and more likely to be caught in a loop.
    pub condition_on_previous_text: bool,
    /// Text written at a temperature above this is no prompt for the next window.
    pub prompt_reset_on_temperature: f64,
    /// Text to go on from, at the recording's start.
    pub initial_prompt: Option<String>,
    /// What the first window's text begins with.
    pub prefix: Option<String>,
    /// Words to expect, put before every window's prompt.
    pub hotwords: Option<String>,
    /// Whether a window must not begin with a space or with nothing.
    pub suppress_blank: bool,
    /// Tokens never written; -1 stands for those of brackets, notes and other annotations.
    pub suppress_tokens: Vec<i64>,
    /// Text only.
    pub without_timestamps: bool,
    /// The latest time, in seconds, that a window's first timestamp may have.
    pub max_initial_timestamp: f64,
    /// Whether words get times, from the decoder's attention to the speech.
    pub word_timestamps: bool,
    /// Punctuation that belongs to the word after it.
    pub prepend_punctuations: String,
    /// Punctuation that belongs to the word before it.
    pub append_punctuations: String,
    /// Whether the language is detected in every window anew.
    pub multilingual: bool,
    /// Tokens a window has at most; half the decoder's positions where there is no number.
    pub max_new_tokens: Option<usize>,
    /// A probability above this settles the language.
    pub language_detection_threshold: f64,
    /// Windows that are asked for the language at most; then the one most often found is it.
    pub language_detection_segments: usize,
    /// Whether silence is cut out first, and each stretch of speech decoded by itself.
    pub vad_filter: bool,
    /// Stretches of speech decoded side by side; above 1, silence is cut out as by `vad_filter`.
    pub batch_size: usize,
    /// Of the samples drawn above temperature 0 (not in faster-whisper, whose draws differ from run to run).
    pub seed: u64,
}

impl Default for DecodingOptions {
    fn default() -> Self {
        Self {
            language: None,
            task: Task::Transcribe,
            beam_size: 5,
            best_of: 5,
            patience: 1.0,
            length_penalty: 1.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            temperature: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            compression_ratio_threshold: Some(2.4),
            log_prob_threshold: Some(-1.0),
            no_speech_threshold: Some(0.6),
            condition_on_previous_text: true,
            prompt_reset_on_temperature: 0.5,
            initial_prompt: None,
            prefix: None,
            hotwords: None,
            suppress_blank: true,
            suppress_tokens: vec![-1],
            without_timestamps: false,
            max_initial_timestamp: 1.0,
            word_timestamps: false,
            prepend_punctuations: "\"'“¿([{-".into(),
            append_punctuations: "\"'.。,，!！?？:：”)]}、".into(),
            multilingual: false,
            max_new_tokens: None,
            language_detection_threshold: 0.5,
            language_detection_segments: 1,
            vad_filter: false,
            batch_size: 1,
            seed: 0,
        }
    }
}

impl DecodingOptions {
    /// Hypotheses that are alive at the same time, at most.
    pub(super) fn hypotheses(&self) -> usize {
        let sampled = if self.temperature.iter().any(|t| *t > 0.0) {
            self.best_of
        } else {
            1
        };
        self.beam_size.max(sampled).max(1)
    }
}
