//! SubRip subtitles.

use super::cues::cues;
use super::time::timestamp;
use crate::Transcript;

pub(super) fn render(transcript: &Transcript) -> String {
    let mut out = String::new();
    for (i, cue) in cues(transcript).into_iter().enumerate() {
        // SubRip has no escapes; an arrow is the one thing in a text that a reader could take for a time line.
        let text = cue.lines.join("\n").replace("-->", "->");
        let (start, end) = (timestamp(cue.start, ','), timestamp(cue.end, ','));
        out.push_str(&format!("{}\n{start} --> {end}\n{text}\n\n", i + 1));
    }
    out
}
