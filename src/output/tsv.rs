//! Tab-separated values: `start` and `end` in milliseconds and `text`, one row per utterance.

use super::one_line;
use super::time::milliseconds;
use crate::Transcript;

pub(super) fn render(transcript: &Transcript) -> String {
    let mut out = String::from("start\tend\ttext\n");
    for utterance in &transcript.utterances {
        let text = one_line(&utterance.text);
        if !text.is_empty() {
            let (start, end) = (milliseconds(utterance.start), milliseconds(utterance.end));
            out.push_str(&format!("{start}\t{end}\t{text}\n"));
        }
    }
    out
}
