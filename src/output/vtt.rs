//! WebVTT captions (W3C).

use super::cues::cues;
use super::time::timestamp;
use crate::Transcript;

pub(super) fn render(transcript: &Transcript) -> String {
    let mut out = String::from("WEBVTT\n\n");
    for cue in cues(transcript) {
        let text = escape(&cue.lines.join("\n"));
        out.push_str(&format!(
            "{} --> {}\n{text}\n\n",
            timestamp(cue.start, '.'),
            timestamp(cue.end, '.')
        ));
    }
    out
}

/// The characters cue text may not hold as they are; `>` too, so that no arrow can appear.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
