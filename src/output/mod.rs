//! Transcripts out, in the formats people use. Knows nothing of the engine.

mod ctm;
mod cues;
mod json;
mod srt;
mod tsv;
mod txt;
mod vtt;

pub use json::Document;

use crate::Transcript;
use std::str::FromStr;

/// A transcript format; its name is also the file extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// Plain text, a line an utterance.
    Txt,
    /// Everything: words, times, confidences, entropies, losses, settings.
    Json,
    /// SubRip subtitles.
    Srt,
    /// WebVTT subtitles.
    Vtt,
    /// `start end text`, milliseconds, tab-separated.
    Tsv,
    /// NIST's time-marked words.
    Ctm,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 6] = [Self::Txt, Self::Json, Self::Srt, Self::Vtt, Self::Tsv, Self::Ctm];

    /// The name, which is also the extension.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Json => "json",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
            Self::Tsv => "tsv",
            Self::Ctm => "ctm",
        }
    }

    /// The document in this format, ending in a line break (unless it is empty).
    pub fn render(self, document: &Document<'_>) -> String {
        match self {
            Self::Txt => txt::render(document.transcript),
            Self::Json => json::render(document),
            Self::Srt => srt::render(document.transcript),
            Self::Vtt => vtt::render(document.transcript),
            Self::Tsv => tsv::render(document.transcript),
            Self::Ctm => ctm::render(document.file, document.transcript),
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|format| format.extension() == name);
        found.ok_or_else(|| format!("`{name}` is not a format; use txt, json, srt, vtt, tsv, ctm or all"))
    }
}

/// Text on one line: control characters (line breaks and tabs among them) become spaces.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() || c == '\u{2028}' || c == '\u{2029}' {
                ' '
            } else {
                c
            }
        })
        .collect()
}

/// Milliseconds, never negative.
fn milliseconds(seconds: f64) -> u64 {
    (seconds.max(0.0) * 1000.0).round() as u64
}

/// `HH:MM:SS<separator>mmm`; hours grow beyond two digits where they must.
fn clock(milliseconds: u64, separator: char) -> String {
    let (hours, minutes) = (milliseconds / 3_600_000, milliseconds / 60_000 % 60);
    format!(
        "{hours:02}:{minutes:02}:{:02}{separator}{:03}",
        milliseconds / 1000 % 60,
        milliseconds % 1000
    )
}

/// The utterances that say something.
fn spoken(transcript: &Transcript) -> impl Iterator<Item = &crate::Utterance> {
    transcript
        .utterances
        .iter()
        .filter(|utterance| !utterance.text.trim().is_empty())
}
