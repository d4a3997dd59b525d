//! Plain text: a line an utterance.

use super::{one_line, spoken};
use crate::Transcript;

pub(super) fn render(transcript: &Transcript) -> String {
    spoken(transcript)
        .map(|utterance| one_line(&utterance.text) + "\n")
        .collect()
}
