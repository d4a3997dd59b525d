//! NIST conversation time marks: `recording channel start duration word confidence`, separated by spaces.

use super::cues::tokens;
use crate::Transcript;
use std::path::Path;

pub(super) fn render(file: &str, transcript: &Transcript) -> String {
    let stem = Path::new(file)
        .file_stem()
        .map(|stem| field(&stem.to_string_lossy()))
        .unwrap_or_default();
    let recording = if stem.is_empty() { "-" } else { &stem };
    let mut out = String::new();
    for token in transcript.utterances.iter().flat_map(tokens) {
        let duration = token.end.saturating_sub(token.start);
        let (start, duration) = (token.start as f64 / 1000.0, duration as f64 / 1000.0);
        out.push_str(&format!(
            "{recording} 1 {start:.3} {duration:.3} {}",
            token.text.replace(' ', "_")
        ));
        if let Some(confidence) = token.confidence.filter(|confidence| confidence.is_finite()) {
            out.push_str(&format!(" {confidence:.4}"));
        }
        out.push('\n');
    }
    out
}

/// A field holds no space, and a line starting with `;;` would be a comment.
fn field(text: &str) -> String {
    let joined: String = text
        .chars()
        .map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c })
        .collect();
    match joined.strip_prefix(';') {
        Some(rest) => format!("_{rest}"),
        None => joined,
    }
}
