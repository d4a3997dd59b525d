//! The journal of an output directory: what is done, from what, with which settings.
//!
//! An append-only file of JSON lines. Before a recording's outputs are moved into place a `writing` line claims their
//! names, afterwards a `done` line says from which content and settings they are; each is on the disk before the next
//! step. So whatever instant a run is killed at, the next one knows which files are aurist's own and which are whole.

use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const FILE_NAME: &str = ".aurist-journal.jsonl";

/// How far a recording got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Status {
    /// Its outputs are about to be moved into place.
    Writing,
    /// Its outputs are in place.
    Done,
    /// It could not be transcribed; its outputs, if any, are an earlier run's.
    Failed,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) status: Status,
    /// The recording's path as the user wrote it.
    pub(super) file: String,
    /// BLAKE3 of its bytes; `None` where they cannot be read twice, as from a pipe.
    pub(super) content: Option<String>,
    /// See `settings::settings_key`.
    pub(super) settings: String,
    /// The outputs' keys: their paths below the output directory, with `/`.
    #[serde(default)]
    pub(super) outputs: Vec<String>,
    #[serde(default)]
    pub(super) formats: Vec<String>,
    /// Length of the recording in seconds.
    #[serde(default)]
    pub(super) duration: f64,
    /// Wall-clock seconds its transcription took.
    #[serde(default)]
    pub(super) seconds: f64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    /// The version of aurist that wrote the line.
    #[serde(default)]
    pub(super) version: String,
}

/// What the journal says of one output.
#[derive(Debug)]
struct Output {
    done: bool,
    content: Option<String>,
    settings: String,
}

/// An output directory's journal, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    outputs: HashMap<String, Output>,
}

impl Journal {
    /// Opens the journal of `dir`, or begins it. Lines that are not entries are passed over: the torn last line of a
    /// run that was killed, above all.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        let mut outputs = HashMap::new();
        for line in BufReader::new(&file).split(b'\n') {
            if let Ok(entry) = serde_json::from_slice::<Entry>(&line?) {
                remember(&mut outputs, entry);
            }
        }
        if !ends_with_newline(&mut file)? {
            // What is appended must not be read as part of the torn line.
            file.write_all(b"\n")?;
        }
        Ok(Self { path, file, outputs })
    }

    /// Writes one entry through to the disk.
    pub(super) fn append(&mut self, entry: Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        // One write, so that no other line can come between its parts.
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        remember(&mut self.outputs, entry);
        Ok(())
    }

    /// Whether `output` was written, or was about to be, by aurist.
    pub(super) fn owns(&self, output: &str) -> bool {
        self.outputs.contains_key(output)
    }

    /// Whether `output` is whole and made from this content with these settings.
    pub(super) fn is_done(&self, output: &str, content: &str, settings: &str) -> bool {
        self.outputs
            .get(output)
            .is_some_and(|known| known.done && known.content.as_deref() == Some(content) && known.settings == settings)
    }

    /// Where the journal is, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn remember(outputs: &mut HashMap<String, Output>, entry: Entry) {
    if entry.status == Status::Failed {
        return;
    }
    for output in entry.outputs {
        let done = entry.status == Status::Done;
        outputs.insert(
            output,
            Output {
                done,
                content: entry.content.clone(),
                settings: entry.settings.clone(),
            },
        );
    }
}

fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(status: Status, output: &str) -> Entry {
        Entry {
            status,
            file: "a.wav".into(),
            content: Some("c".into()),
            settings: "s".into(),
            outputs: vec![output.into()],
            formats: vec!["txt".into()],
            duration: 1.0,
            seconds: 0.5,
            message: None,
            version: "0".into(),
        }
    }

    #[test]
    fn remembers_what_is_done_and_what_was_begun() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut journal = Journal::open(dir.path())?;
        journal.append(entry(Status::Writing, "a.txt"))?;
        journal.append(entry(Status::Done, "a.txt"))?;
        journal.append(entry(Status::Writing, "b.txt"))?;
        journal.append(entry(Status::Failed, "c.txt"))?;
        drop(journal);
        let journal = Journal::open(dir.path())?;
        assert!(journal.is_done("a.txt", "c", "s"));
        assert!(!journal.is_done("a.txt", "other", "s") && !journal.is_done("a.txt", "c", "other"));
        assert!(journal.owns("b.txt") && !journal.is_done("b.txt", "c", "s"));
        assert!(!journal.owns("c.txt"));
        Ok(())
    }

    #[test]
    fn a_torn_line_is_lost_alone_wherever_it_was_torn() -> io::Result<()> {
        let whole = {
            let dir = tempfile::tempdir()?;
            let mut journal = Journal::open(dir.path())?;
            journal.append(entry(Status::Done, "a.txt"))?;
            journal.append(entry(Status::Done, "b.txt"))?;
            std::fs::read(journal.path())?
        };
        let first = whole.len() / 2;
        for length in first..whole.len() {
            let dir = tempfile::tempdir()?;
            std::fs::write(dir.path().join(FILE_NAME), &whole[..length])?;
            let mut journal = Journal::open(dir.path())?;
            assert!(journal.is_done("a.txt", "c", "s"));
            journal.append(entry(Status::Done, "c.txt"))?;
            let journal = Journal::open(dir.path())?;
            assert!(
                journal.is_done("a.txt", "c", "s") && journal.is_done("c.txt", "c", "s"),
                "torn at {length}"
            );
        }
        Ok(())
    }
}
