//! Test sets as they are published: which recordings, or stretches of recordings, and what is said in them.
//!
//! Problems are collected, not told one at a time: those that make a set unusable are one [`TestSetError`], the rest
//! are its warnings.

mod chime;
mod common_voice;
mod format;
mod jsonl;
mod librispeech;
mod problems;
mod stm;
mod tsv;

pub use format::{Format, UnknownFormat};
pub(in crate::eval) use jsonl::without_extension;
pub use problems::TestSetError;
pub(in crate::eval) use stm::StmLine;

use problems::Problems;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A test set.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TestSet {
    /// What reports call it: the name given, or the file's or directory's.
    pub name: String,
    /// In the set's own order.
    pub utterances: Vec<TestUtterance>,
    /// What was found wrong but leaves the set usable, and what was chosen.
    pub warnings: Vec<String>,
}

/// One utterance to recognise and score.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TestUtterance {
    /// Unique in its set.
    pub id: String,
    /// The recording.
    pub audio: PathBuf,
    /// Where in the recording it begins, in seconds; `None` for the recording's beginning.
    pub start: Option<f64>,
    /// Where it ends, in seconds; `None` for the recording's end.
    pub end: Option<f64>,
    /// What is said, as the set writes it.
    pub reference: String,
    /// Who says it, where the set tells.
    pub speaker: Option<String>,
    /// Its length in seconds, where the set tells.
    pub duration: Option<f64>,
}

/// How a set is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestSetOptions {
    /// The format; `None` to tell from the path's prefix, extension and content.
    pub format: Option<Format>,
    /// Which of CHiME-3's eight evaluation splits.
    pub chime_splits: ChimeSplits,
    /// Take at most this many utterances, the set's first.
    pub limit: Option<usize>,
    /// Do not ask whether the audio files exist.
    pub skip_audio_check: bool,
}

pub use chime::ChimeSplits;

impl TestSet {
    /// Opens `[NAME=][FORMAT:]PATH`: see [`Format`] for what is read.
    pub fn open(path: impl AsRef<Path>, options: &TestSetOptions) -> Result<Self, TestSetError> {
        let target = format::Target::parse(path.as_ref(), options.format);
        let format = match target.format {
            Some(format) => format,
            None => format::detect(&target.path)?,
        };
        let mut problems = Problems::default();
        let path = target.path.as_path();
        let mut utterances = match format {
            Format::Jsonl => jsonl::read(path, &mut problems),
            Format::LibriSpeech => librispeech::read(path, &mut problems),
            Format::CommonVoice => common_voice::read(path, &mut problems),
            Format::Stm => stm::read(path, &mut problems),
            Format::Chime => chime::read(path, options.chime_splits, &mut problems),
            Format::Tsv => tsv::read(path, &mut problems),
        };
        if let Some(limit) = options.limit {
            utterances.truncate(limit);
        }
        check(&utterances, !options.skip_audio_check, &mut problems);
        let warnings = problems.finish(path, utterances.is_empty())?;
        Ok(Self {
            name: target.name,
            utterances,
            warnings,
        })
    }
}

/// What holds for every format: ids are unique, the audio is there, references are not empty.
fn check(utterances: &[TestUtterance], audio_too: bool, problems: &mut Problems) {
    let mut ids: HashMap<&str, usize> = HashMap::with_capacity(utterances.len());
    let mut stretches: HashMap<(&Path, u64), &str> = HashMap::with_capacity(utterances.len());
    let mut seen: HashMap<&Path, bool> = HashMap::new();
    for utterance in utterances {
        let TestUtterance { id, audio, .. } = utterance;
        let times = ids.entry(id).or_default();
        *times += 1;
        if *times == 2 {
            problems.error("duplicate id", id);
        }
        let start = utterance.start.unwrap_or(0.0).to_bits();
        match stretches.insert((audio, start), id) {
            Some(other) if other != id => {
                problems.warning(
                    "the same audio twice",
                    format_args!("{other} and {id}: {}", audio.display()),
                );
            }
            _ => {}
        }
        if audio_too && !seen.contains_key(audio.as_path()) {
            let exists = audio.is_file();
            seen.insert(audio, exists);
            if !exists {
                problems.error("missing audio file", audio.display());
            }
        }
        if utterance.reference.split_whitespace().next().is_none() {
            problems.warning(
                "empty reference (whatever is recognised there counts as insertions)",
                id,
            );
        }
        if let (Some(start), Some(end)) = (utterance.start, utterance.end)
            && end <= start
        {
            problems.error(
                "utterance that ends before it begins",
                format_args!("{id}: {start} to {end} s"),
            );
        }
    }
}

/// `NAME.EXTENSION` in `directory`, by the first extension there is a file of; by the first of all where there is none.
fn find_audio(directory: &Path, name: &str, extensions: &[&str]) -> PathBuf {
    let candidate = |extension: &&str| directory.join(format!("{name}.{extension}"));
    extensions
        .iter()
        .map(candidate)
        .find(|path| path.is_file())
        .unwrap_or_else(|| extensions.first().map_or_else(|| directory.join(name), candidate))
}
