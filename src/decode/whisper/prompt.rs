//! What stands before a window's text.

use super::{DecodingOptions, Task};
use crate::model::Generation;

/// What a window's tokens must begin with.
#[derive(Debug, Clone, Default)]
pub(super) struct Prompt {
    /// Up to the text.
    pub(super) tokens: Vec<u32>,
    /// Of the text.
    pub(super) prefix: Vec<u32>,
    /// Where in `tokens` the transcript starts.
    pub(super) sot: usize,
    pub(super) timestamps: bool,
}

impl Prompt {
    /// What stands before a window's text: earlier text, the language, the task.
    pub(super) fn new(
        generation: &Generation,
        options: &DecodingOptions,
        language: Option<u32>,
        previous: &[u32],
        positions: usize,
        prefix: Option<&str>,
    ) -> Self {
        let tokenizer = &generation.tokenizer;
        let most = positions / 2;
        let cut = |text: &str| {
            let mut tokens = tokenizer.encode(&format!(" {}", text.trim()));
            tokens.truncate(most - 1);
            tokens
        };
        let mut tokens = Vec::new();
        let hotwords = options.hotwords.as_deref().filter(|_| prefix.is_none());
        if !previous.is_empty() || hotwords.is_some() {
            tokens.push(tokenizer.sot_prev);
            tokens.extend(hotwords.map(cut).unwrap_or_default());
            tokens.extend(&previous[previous.len().saturating_sub(most - 1)..]);
        }
        // Both together may leave no room for text: the oldest go.
        let room = positions.saturating_sub(most / 4 + 8);
        if tokens.len() > room {
            let surplus = tokens.len() - room;
            tokens.drain(1..1 + surplus);
        }
        let sot = tokens.len();
        tokens.push(tokenizer.sot);
        if let Some(language) = language {
            let task = match options.task {
                Task::Transcribe => tokenizer.transcribe,
                Task::Translate => tokenizer.translate,
            };
            tokens.extend([language, task]);
        }
        let timestamps = !options.without_timestamps;
        if !timestamps {
            tokens.push(tokenizer.no_timestamps);
        }
        let mut given = Vec::new();
        if let Some(prefix) = prefix {
            given.extend(timestamps.then_some(tokenizer.timestamp_begin()));
            given.extend(cut(prefix));
            // Some room for what follows.
            given.truncate(positions.saturating_sub(tokens.len() + 8));
        }
        Self {
            tokens,
            prefix: given,
            sot,
            timestamps,
        }
    }
}
