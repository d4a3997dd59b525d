//! WebVTT: the web's subtitles; `&`, `<` and `>` are markup there.

use super::clock;
use super::cues::cues;
use crate::Transcript;

pub(super) fn render(transcript: &Transcript) -> String {
    let cues = cues(transcript).into_iter().map(|cue| {
        let text = cue
            .lines
            .join("\n")
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;");
        format!("{} --> {}\n{text}\n\n", clock(cue.start, '.'), clock(cue.end, '.'))
    });
    std::iter::once("WEBVTT\n\n".to_string()).chain(cues).collect()
}
