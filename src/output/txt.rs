//! Plain text: one line per utterance, never wrapped.

use super::one_line;
use crate::Transcript;

pub(super) fn render(transcript: &Transcript) -> String {
    lines(transcript).map(|line| line + "\n").collect()
}

/// Every line after the file's name and a tab, so that `grep` and `cut` work over many files.
pub(super) fn labelled(file: &str, transcript: &Transcript) -> String {
    let text: String = lines(transcript).map(|line| format!("{file}\t{line}\n")).collect();
    if text.is_empty() { format!("{file}\t\n") } else { text }
}

fn lines(transcript: &Transcript) -> impl Iterator<Item = String> + '_ {
    transcript
        .utterances
        .iter()
        .map(|utterance| one_line(&utterance.text))
        .filter(|line| !line.is_empty())
}
