//! Transcripts out, in the formats people use. Knows nothing of the engine.
//!
//! Every format is a pure function from a [`Document`] to text; whoever calls it decides where the text goes.

mod ctm;
mod cues;
mod json;
mod srt;
mod time;
mod tsv;
mod txt;
mod vtt;

pub use json::Document;

use std::fmt;
use std::str::FromStr;

/// An output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// Plain text, one line per utterance.
    Txt,
    /// Everything that is known, as one JSON object.
    Json,
    /// SubRip subtitles.
    Srt,
    /// WebVTT captions.
    Vtt,
    /// Tab-separated `start`, `end` (milliseconds) and `text`, with the columns Whisper's own tool writes.
    Tsv,
    /// NIST conversation time marks: one line per word, as `sclite` reads them.
    Ctm,
}

impl Format {
    /// Every format, in the order the documentation lists them.
    pub const ALL: [Format; 6] = [
        Format::Txt,
        Format::Json,
        Format::Srt,
        Format::Vtt,
        Format::Tsv,
        Format::Ctm,
    ];

    /// The format's name, which is also its file extension.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Txt => "txt",
            Format::Json => "json",
            Format::Srt => "srt",
            Format::Vtt => "vtt",
            Format::Tsv => "tsv",
            Format::Ctm => "ctm",
        }
    }

    /// The document in this format. It ends with a line break unless it is empty.
    pub fn render(self, document: &Document<'_>) -> String {
        match self {
            Format::Txt => txt::render(document.transcript),
            Format::Json => json::pretty(document),
            Format::Srt => srt::render(document.transcript),
            Format::Vtt => vtt::render(document.transcript),
            Format::Tsv => tsv::render(document.transcript),
            Format::Ctm => ctm::render(document.file, document.transcript),
        }
    }

    /// The document in this format, marked so that several can follow one another on one stream.
    ///
    /// - `txt`: every line is `FILE<TAB>TEXT`; a recording without speech has one line with an empty text
    /// - `json`: one object on one line
    /// - `ctm`: a `;; FILE` comment, then the words
    /// - `srt`, `vtt`, `tsv`: a line `==> FILE <==`, then the output and an empty line
    pub fn render_labelled(self, document: &Document<'_>) -> String {
        let file = one_line(document.file);
        match self {
            Format::Txt => txt::labelled(&file, document.transcript),
            Format::Json => document.json_line(),
            Format::Ctm => format!(";; {file}\n{}", self.render(document)),
            Format::Srt | Format::Vtt | Format::Tsv => {
                let body = self.render(document);
                let gap = if body.ends_with("\n\n") { "" } else { "\n" };
                format!("==> {file} <==\n{body}{gap}")
            }
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.extension())
    }
}

/// The name given is no format's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown format `{0}`: choose from txt, json, srt, vtt, tsv, ctm")]
pub struct UnknownFormat(pub String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Format::ALL
            .into_iter()
            .find(|format| format.extension().eq_ignore_ascii_case(name.trim()))
            .ok_or_else(|| UnknownFormat(name.to_string()))
    }
}

/// `text` with every run of whitespace and control characters as one space, and none at the ends: what a
/// line-based format can hold.
fn one_line(text: &str) -> String {
    let words = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}
