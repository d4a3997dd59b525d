//! Which format a test set has.

use super::problems::TestSetError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The formats of test sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A JSON object a line, as NeMo's manifests: `audio_filepath`, `text`, and optionally `offset`, `duration`,
    /// `speaker`, `id`. Paths are relative to the manifest.
    Jsonl,
    /// A directory tree with `*.trans.txt` files (`ID TEXT`) beside `ID.flac`; the speaker is the id's first part.
    LibriSpeech,
    /// Common Voice's TSV with columns `path`, `sentence` and `client_id`; the audio is under `clips/`.
    CommonVoice,
    /// NIST's segment time marks, a file or a directory of them (TED-LIUM's `stm/` beside `sph/`).
    Stm,
    /// CHiME-3: a directory with `.trn` files (`ID TEXT`), one an utterance.
    Chime,
    /// `AUDIO<TAB>TEXT` a line, optionally with the speaker in a third column.
    Tsv,
}

impl Format {
    const ALL: [Format; 6] = [
        Format::Jsonl,
        Format::LibriSpeech,
        Format::CommonVoice,
        Format::Stm,
        Format::Chime,
        Format::Tsv,
    ];

    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Jsonl => "jsonl",
            Format::LibriSpeech => "librispeech",
            Format::CommonVoice => "commonvoice",
            Format::Stm => "stm",
            Format::Chime => "chime",
            Format::Tsv => "tsv",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name given is no format's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown test set format `{0}`: choose from jsonl, librispeech, commonvoice, stm, chime, tsv")]
pub struct UnknownFormat(pub String);

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        Format::ALL
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| UnknownFormat(name.to_string()))
    }
}

/// `[NAME=][FORMAT:]PATH` taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) format: Option<Format>,
    pub(super) path: PathBuf,
}

impl Target {
    /// What exists as it stands is a path, even with `=` or `:` in it.
    pub(super) fn parse(typed: &Path, format: Option<Format>) -> Self {
        let text = match typed.to_str() {
            Some(text) if !typed.exists() => text,
            _ => return Self::of(None, format, typed.to_path_buf()),
        };
        let (name, rest) = match text.split_once('=') {
            Some((name, rest)) if !name.is_empty() && !name.contains(['/', '\\']) => (Some(name), rest),
            _ => (None, text),
        };
        if !Path::new(rest).exists()
            && let Some((prefix, path)) = rest.split_once(':')
            && let Ok(prefix) = prefix.parse()
        {
            return Self::of(name, format.or(Some(prefix)), path.into());
        }
        Self::of(name, format, rest.into())
    }

    fn of(name: Option<&str>, format: Option<Format>, path: PathBuf) -> Self {
        let stem = if path.is_dir() {
            path.file_name()
        } else {
            path.file_stem()
        };
        let name = name
            .map(str::to_string)
            .or(stem.map(|stem| stem.to_string_lossy().into_owned()));
        Self {
            name: name.unwrap_or_else(|| path.display().to_string()),
            format,
            path,
        }
    }
}

/// Tells the format from what is there.
pub(super) fn detect(path: &Path) -> Result<Format, TestSetError> {
    if path.is_dir() {
        return detect_directory(path);
    }
    if !path.exists() {
        return Err(TestSetError::new(path, "no such file or directory"));
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let file_name = path.file_name().unwrap_or_default().to_string_lossy();
    if file_name.ends_with(".trans.txt") {
        return Ok(Format::LibriSpeech);
    }
    match extension.as_str() {
        "jsonl" | "json" | "ndjson" => return Ok(Format::Jsonl),
        "stm" => return Ok(Format::Stm),
        "trn" | "trn_all" => return Ok(Format::Chime),
        _ => {}
    }
    let head = head(path).map_err(|error| TestSetError::new(path, error))?;
    let first = head.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    let columns: Vec<&str> = first.split('\t').collect();
    if first.trim_start().starts_with('{') {
        Ok(Format::Jsonl)
    } else if columns.contains(&"path") && columns.contains(&"sentence") {
        Ok(Format::CommonVoice)
    } else if columns.len() >= 2 {
        Ok(Format::Tsv)
    } else {
        Err(TestSetError::new(
            path,
            "its format cannot be told: it is neither JSON lines, nor a Common Voice or `audio<TAB>text` table; \
             name it with FORMAT:PATH (jsonl, librispeech, commonvoice, stm, chime, tsv)",
        ))
    }
}

fn detect_directory(path: &Path) -> Result<Format, TestSetError> {
    let (mut trans, mut trn, mut stm) = (false, false, false);
    for entry in walkdir::WalkDir::new(path).max_depth(5).into_iter().flatten() {
        let name = entry.file_name().to_string_lossy();
        trans |= name.ends_with(".trans.txt");
        trn |= name.ends_with(".trn") || name.ends_with(".trn_all");
        stm |= name.ends_with(".stm");
    }
    match (trans, trn, stm) {
        (true, _, _) => Ok(Format::LibriSpeech),
        (_, true, _) => Ok(Format::Chime),
        (_, _, true) => Ok(Format::Stm),
        _ if path.join("test.tsv").is_file() => Ok(Format::CommonVoice),
        _ => Err(TestSetError::new(
            path,
            "no *.trans.txt (LibriSpeech), *.trn (CHiME-3), *.stm or test.tsv (Common Voice) in this directory; \
             of a set in another format, name the file",
        )),
    }
}

/// The file's first 64 KiB as text.
fn head(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(1 << 16).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes)
        .trim_start_matches('\u{feff}')
        .to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_formats_before_the_path() {
        let parse = |typed: &str| Target::parse(Path::new(typed), None);
        let target = |name: &str, format, path: &str| Target {
            name: name.into(),
            format,
            path: path.into(),
        };
        assert_eq!(parse("sets/a.jsonl"), target("a", None, "sets/a.jsonl"));
        assert_eq!(parse("mine=sets/a.jsonl"), target("mine", None, "sets/a.jsonl"));
        assert_eq!(parse("tsv:sets/a.txt"), target("a", Some(Format::Tsv), "sets/a.txt"));
        assert_eq!(parse("x=stm:a"), target("x", Some(Format::Stm), "a"));
        // Not a format: part of the path.
        assert_eq!(parse("c:/sets/a.stm"), target("a", None, "c:/sets/a.stm"));
        assert_eq!(parse("sets/k=v.tsv"), target("k=v", None, "sets/k=v.tsv"));
    }

    #[test]
    fn names_are_read_back() {
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(format));
            assert!(UnknownFormat(String::new()).to_string().contains(format.name()));
        }
    }
}
