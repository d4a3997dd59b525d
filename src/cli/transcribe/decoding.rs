//! The options of Whisper's decoder, under faster-whisper's names.

use super::arguments::{positive, probability};
use crate::decode::whisper::{DecodingOptions, Task};
use clap::{Args, ValueEnum};

/// The options of Whisper's decoder, as typed.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Whisper (names and defaults are faster-whisper's; other models take none of these)")]
pub(in crate::cli) struct DecodingArguments {
    /// The language spoken, such as en or de [default: detected in the first 30 s].
    #[arg(long, value_name = "CODE")]
    language: Option<String>,

    /// transcribe: what was spoken; translate: the same in English [default: transcribe].
    #[arg(long, value_name = "TASK", hide_possible_values = true)]
    task: Option<TaskChoice>,

    /// Hypotheses kept side by side; 1 is greedy [default: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    beam_size: Option<u8>,

    /// Samples drawn where a temperature above 0 is tried [default: 5].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    best_of: Option<u8>,

    /// Finished hypotheses to wait for, as a multiple of the beam's size [default: 1].
    #[arg(long, value_name = "X", value_parser = positive)]
    patience: Option<f64>,

    /// Hypotheses are ranked by log-probability over length to this power [default: 1].
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    length_penalty: Option<f64>,

    /// Temperatures, tried in order until a window's text passes the thresholds [default: 0,0.2,0.4,0.6,0.8,1].
    #[arg(long, value_name = "X", value_delimiter = ',', value_parser = not_negative)]
    temperature_fallback: Vec<f64>,

    /// zlib compresses repetition better than this [default: 2.4].
    #[arg(long, value_name = "X", value_parser = positive)]
    compression_ratio_threshold: Option<f64>,

    /// An average log-probability below this is doubtful [default: -1].
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    log_prob_threshold: Option<f64>,

    /// A doubtful window more likely than this to hold no speech is silence [default: 0.6].
    #[arg(long, value_name = "P", value_parser = probability)]
    no_speech_threshold: Option<f64>,

    /// Whether each window goes on from the text before it [default: true].
    #[arg(long, value_name = "BOOL", action = clap::ArgAction::Set)]
    condition_on_previous_text: Option<bool>,

    /// Text to go on from, at a recording's start.
    #[arg(long, value_name = "TEXT")]
    initial_prompt: Option<String>,

    /// What a recording's text begins with.
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,

    /// Words to expect.
    #[arg(long, value_name = "WORDS")]
    hotwords: Option<String>,

    /// Tokens never written, with commas; -1 stands for those of brackets, notes and other annotations [default: -1].
    #[arg(long, value_name = "IDS", value_delimiter = ',', allow_negative_numbers = true)]
    suppress_tokens: Option<Vec<i64>>,

    /// Text without times: a window's text is one utterance.
    #[arg(long)]
    without_timestamps: bool,

    /// Times for every word, from the decoder's attention to the speech.
    #[arg(long)]
    word_timestamps: bool,

    /// Cut out silence first, and decode each stretch of speech by itself: nothing is made up where nobody speaks.
    #[arg(long)]
    vad_filter: bool,

    /// Decode so many stretches of speech side by side: a long recording takes less time and more memory. Cuts out silence as
    /// --vad-filter does, and no stretch hears of the others' text [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=64))]
    batch_size: Option<u8>,

    /// Detect the language in every window anew.
    #[arg(long)]
    multilingual: bool,
}

/// A value of `--task`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TaskChoice {
    Transcribe,
    Translate,
}

fn finite(text: &str) -> Result<f64, String> {
    let value = text.parse::<f64>().ok().filter(|value| value.is_finite());
    value.ok_or_else(|| "give a finite number, such as -1 or 0.5".to_string())
}

fn not_negative(text: &str) -> Result<f64, String> {
    let value = finite(text).ok().filter(|value| *value >= 0.0);
    value.ok_or_else(|| "give temperatures of at least 0, such as 0,0.4,0.8".to_string())
}

impl DecodingArguments {
    /// The first option that was typed.
    pub(super) fn typed(&self) -> Option<&'static str> {
        let options = [
            ("--language", self.language.is_some()),
            ("--task", self.task.is_some()),
            ("--beam-size", self.beam_size.is_some()),
            ("--best-of", self.best_of.is_some()),
            ("--patience", self.patience.is_some()),
            ("--length-penalty", self.length_penalty.is_some()),
            ("--temperature-fallback", !self.temperature_fallback.is_empty()),
            (
                "--compression-ratio-threshold",
                self.compression_ratio_threshold.is_some(),
            ),
            ("--log-prob-threshold", self.log_prob_threshold.is_some()),
            ("--no-speech-threshold", self.no_speech_threshold.is_some()),
            (
                "--condition-on-previous-text",
                self.condition_on_previous_text.is_some(),
            ),
            ("--initial-prompt", self.initial_prompt.is_some()),
            ("--prefix", self.prefix.is_some()),
            ("--hotwords", self.hotwords.is_some()),
            ("--suppress-tokens", self.suppress_tokens.is_some()),
            ("--without-timestamps", self.without_timestamps),
            ("--word-timestamps", self.word_timestamps),
            ("--vad-filter", self.vad_filter),
            ("--batch-size", self.batch_size.is_some()),
            ("--multilingual", self.multilingual),
        ];
        options.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    /// faster-whisper's defaults, with the options typed in their place.
    pub(in crate::cli) fn options(&self) -> DecodingOptions {
        let default = DecodingOptions::default();
        let temperature = if self.temperature_fallback.is_empty() {
            default.temperature
        } else {
            self.temperature_fallback.clone()
        };
        DecodingOptions {
            language: self.language.clone(),
            task: match self.task {
                Some(TaskChoice::Translate) => Task::Translate,
                None | Some(TaskChoice::Transcribe) => Task::Transcribe,
            },
            beam_size: self.beam_size.map_or(default.beam_size, usize::from),
            best_of: self.best_of.map_or(default.best_of, usize::from),
            patience: self.patience.unwrap_or(default.patience),
            length_penalty: self.length_penalty.unwrap_or(default.length_penalty),
            temperature,
            compression_ratio_threshold: self.compression_ratio_threshold.or(default.compression_ratio_threshold),
            log_prob_threshold: self.log_prob_threshold.or(default.log_prob_threshold),
            no_speech_threshold: self.no_speech_threshold.or(default.no_speech_threshold),
            condition_on_previous_text: self
                .condition_on_previous_text
                .unwrap_or(default.condition_on_previous_text),
            initial_prompt: self.initial_prompt.clone(),
            prefix: self.prefix.clone(),
            hotwords: self.hotwords.clone(),
            suppress_tokens: self.suppress_tokens.clone().unwrap_or(default.suppress_tokens),
            without_timestamps: self.without_timestamps,
            word_timestamps: self.word_timestamps,
            vad_filter: self.vad_filter,
            batch_size: self.batch_size.map_or(default.batch_size, usize::from),
            multilingual: self.multilingual,
            ..DecodingOptions::default()
        }
    }
}
