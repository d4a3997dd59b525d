//! SubRip: numbered cues, comma before the milliseconds.

use super::clock;
use super::cues::cues;
use crate::Transcript;

pub(super) fn render(transcript: &Transcript) -> String {
    let cues = cues(transcript).into_iter().enumerate();
    cues.map(|(index, cue)| {
        let (start, end) = (clock(cue.start, ','), clock(cue.end, ','));
        // An arrow inside the text would read as a time line.
        format!(
            "{}\n{start} --> {end}\n{}\n\n",
            index + 1,
            cue.lines.join("\n").replace("-->", "->")
        )
    })
    .collect()
}
