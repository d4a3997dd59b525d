//! Transcripts as they lie in files: references and the hypotheses of any recogniser, to be scored without a model.

mod ctm;
mod json;
mod lines;
mod pairs;

pub use pairs::{Missing, Pair, pair};

use super::testset::{StmLine, TestSet, TestSetOptions};
use std::fmt;
use std::path::{Path, PathBuf};

/// The formats of transcripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TranscriptFormat {
    /// A text a line; the line's number is the id.
    Txt,
    /// sclite's `TEXT (ID)`; the speaker is the id up to its first `-` or `_`.
    Trn,
    /// NIST's segment time marks.
    Stm,
    /// NIST's conversation time marks, a word a line: put into the segments of an STM reference, or a text a recording.
    Ctm,
    /// JSON objects, one a line, one in all or a list of them: `pred_text` (hypotheses) or `text`, and an id under `id`,
    /// `utt_id`, `audio_filepath` or `file`. aurist's own JSON output is one. A directory stands for its `*.json`.
    Json,
    /// `ID<TAB>TEXT` a line.
    Tsv,
    /// Anything else that is a test set, references only: LibriSpeech's tree, Common Voice's table, CHiME-3.
    TestSet,
}

/// What is said where, and by whom.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Segment {
    /// Unique in its file.
    pub id: String,
    /// The words.
    pub text: String,
    /// Who says them, where the format tells.
    pub speaker: Option<String>,
    /// Recording, channel, begin and end in seconds: of STM's segments and CTM's words.
    pub place: Option<Place>,
}

/// A stretch of a recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The recording's name.
    pub recording: String,
    /// The channel, as the file writes it.
    pub channel: String,
    /// In seconds.
    pub start: f64,
    /// In seconds.
    pub end: f64,
}

/// The transcripts of one file.
#[derive(Debug, Clone, PartialEq)]
pub struct Transcripts {
    /// The file.
    pub path: PathBuf,
    /// Its format.
    pub format: TranscriptFormat,
    /// In the file's order.
    pub segments: Vec<Segment>,
    /// What was found odd.
    pub warnings: Vec<String>,
}

/// Why a file of transcripts cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct TranscriptError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, with the line.
    pub problem: String,
}

/// Which of the two a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// What is said.
    Reference,
    /// What was recognised.
    Hypothesis,
}

impl TranscriptFormat {
    const NAMED: [(&'static str, TranscriptFormat); 6] = [
        ("txt", TranscriptFormat::Txt),
        ("trn", TranscriptFormat::Trn),
        ("stm", TranscriptFormat::Stm),
        ("ctm", TranscriptFormat::Ctm),
        ("json", TranscriptFormat::Json),
        ("tsv", TranscriptFormat::Tsv),
    ];

    /// By the name before `FORMAT:PATH`; `jsonl` is `json`.
    pub fn named(name: &str) -> Option<Self> {
        let name = if name == "jsonl" { "json" } else { name };
        let found = Self::NAMED.iter().find(|(other, _)| *other == name);
        found.map(|(_, format)| *format)
    }

    /// By the extension, and for tables by the first line.
    fn detect(path: &Path, text: &str) -> Self {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let first = text.lines().next().unwrap_or_default();
        match extension.as_str() {
            _ if name.ends_with(".trans.txt") => TranscriptFormat::TestSet,
            "trn_all" => TranscriptFormat::TestSet,
            "ndjson" => TranscriptFormat::Json,
            // CHiME-3's, whose id comes first, is no sclite's.
            "trn" if !first.trim_end().ends_with(')') && !first.trim().is_empty() => TranscriptFormat::TestSet,
            "tsv" if first.split('\t').any(|column| column == "sentence") => TranscriptFormat::TestSet,
            other => Self::named(other).unwrap_or(match text.trim_start().as_bytes().first() {
                Some(b'{' | b'[') => TranscriptFormat::Json,
                _ => TranscriptFormat::Txt,
            }),
        }
    }
}

impl fmt::Display for TranscriptFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::NAMED.iter().find(|(_, format)| format == self);
        f.write_str(named.map_or("test set", |(name, _)| name))
    }
}

impl Transcripts {
    /// Reads a file, in the format given or the one it looks like.
    pub fn read(path: &Path, role: Role, format: Option<TranscriptFormat>) -> Result<Self, TranscriptError> {
        let failed = |problem: String| TranscriptError {
            path: path.to_path_buf(),
            problem,
        };
        if path.is_dir() {
            return match role {
                Role::Reference => Self::of_test_set(path),
                Role::Hypothesis => json::read_directory(path, role)
                    .map(|segments| Self::new(path, TranscriptFormat::Json, segments))
                    .map_err(failed),
            };
        }
        let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_start_matches('\u{feff}');
        let format = format.unwrap_or_else(|| TranscriptFormat::detect(path, text));
        let segments = match format {
            TranscriptFormat::Txt => Ok(lines::txt(text)),
            TranscriptFormat::Trn => lines::trn(text),
            TranscriptFormat::Tsv => lines::tsv(text),
            TranscriptFormat::Stm => lines::stm(text),
            TranscriptFormat::Ctm => ctm::words(text),
            TranscriptFormat::Json => json::parse(text, role),
            TranscriptFormat::TestSet => return Self::of_test_set(path),
        };
        segments
            .map(|segments| Self::new(path, format, segments))
            .map_err(failed)
    }

    fn new(path: &Path, format: TranscriptFormat, segments: Vec<Segment>) -> Self {
        Self {
            path: path.to_path_buf(),
            format,
            segments,
            warnings: Vec::new(),
        }
    }

    fn of_test_set(path: &Path) -> Result<Self, TranscriptError> {
        let options = TestSetOptions {
            skip_audio_check: true,
            ..TestSetOptions::default()
        };
        let set = TestSet::open(path, &options).map_err(|error| TranscriptError {
            path: error.path,
            problem: error.problems,
        })?;
        let segments = set.utterances.into_iter().map(|utterance| Segment {
            id: utterance.id,
            text: utterance.reference,
            speaker: utterance.speaker,
            place: None,
        });
        Ok(Self {
            warnings: set.warnings,
            ..Self::new(path, TranscriptFormat::TestSet, segments.collect())
        })
    }
}
