//! NIST's CTM: `recording channel start duration word confidence`, a line a word.

use crate::Transcript;
use std::path::Path;

pub(super) fn render(file: &str, transcript: &Transcript) -> String {
    let stem = Path::new(file)
        .file_stem()
        .map_or_else(|| file.into(), |stem| stem.to_string_lossy());
    let recording: String = stem.chars().map(field_character).collect();
    let recording = if recording.is_empty() {
        "recording".into()
    } else {
        recording
    };
    let words = transcript.utterances.iter().flat_map(|utterance| &utterance.words);
    words
        .map(|word| {
            let text: String = word.word.chars().map(field_character).collect();
            let duration = (word.end - word.start).max(0.0);
            format!(
                "{recording} 1 {:.3} {duration:.3} {text} {:.4}\n",
                word.start.max(0.0),
                word.confidence
            )
        })
        .collect()
}

/// Fields are separated by white space, and `;;` starts a comment.
fn field_character(c: char) -> char {
    if c.is_whitespace() || c.is_control() || c == ';' {
        '_'
    } else {
        c
    }
}
