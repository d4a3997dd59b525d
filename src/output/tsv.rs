//! Whisper's table: `start`, `end` in milliseconds and the text, tab-separated, with a header.

use super::{milliseconds, one_line, spoken};
use crate::Transcript;

pub(super) fn render(transcript: &Transcript) -> String {
    let rows = spoken(transcript).map(|utterance| {
        let (start, end) = (milliseconds(utterance.start), milliseconds(utterance.end));
        format!("{start}\t{end}\t{}\n", one_line(&utterance.text))
    });
    std::iter::once("start\tend\ttext\n".to_string()).chain(rows).collect()
}
