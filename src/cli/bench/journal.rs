//! The journal of a run directory: one line of JSON per utterance that was recognised, appended as it is done.

use crate::Guard;
use crate::decode::whisper::Evidence;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const FILE_NAME: &str = "journal.jsonl";

/// What recognition made of an utterance, but for what it cost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Recognised {
    /// After adaptation.
    pub(super) text: String,
    /// The source model's.
    pub(super) unadapted_text: String,
    /// Optimizer steps whose update was kept; the least, where the utterance was cut into several.
    pub(super) steps: usize,
    /// The loss before each step.
    pub(super) losses: Vec<f32>,
    /// Mean entropy in nats after 0, 1, ... steps.
    pub(super) entropies: Vec<Option<f32>>,
    /// The transcript after some numbers of steps.
    pub(super) step_texts: Vec<(usize, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) guard: Option<Guard>,
    /// A Whisper's, on its adapted text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) evidence: Option<Evidence>,
    /// How many the utterance was cut into, for being longer than the model can take.
    pub(super) pieces: usize,
    /// Forward passes made.
    pub(super) forwards: usize,
    /// Seconds of audio.
    pub(super) duration: f64,
    /// BLAKE3 of the samples that the model heard.
    pub(super) heard: String,
}

/// What it cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seconds {
    /// Wall-clock seconds of one thread.
    pub(super) compute: f64,
    /// Of them, to the source model's output.
    pub(super) source: f64,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// See `Plan::key`: everything that decides `result`.
    pub(super) key: String,
    /// For people: which model, method, condition, test set and utterance.
    pub(super) model: String,
    pub(super) method: String,
    pub(super) condition: String,
    pub(super) set: String,
    pub(super) utterance: String,
    pub(super) result: Recognised,
    pub(super) seconds: Seconds,
    /// The version of aurist that wrote the line.
    pub(super) version: String,
}

/// A run directory's journal, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    done: HashMap<String, (Recognised, Seconds)>,
}

impl Journal {
    /// Opens the journal of `dir`, or begins it. Lines that are no entries are passed over: the torn last line of a
    /// run that was killed, above all.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        let mut done = HashMap::new();
        for line in BufReader::new(&file).split(b'\n') {
            if let Ok(entry) = serde_json::from_slice::<Entry>(&line?) {
                done.entry(entry.key).or_insert((entry.result, entry.seconds));
            }
        }
        if !ends_with_newline(&mut file)? {
            // What is appended must not be read as part of the torn line.
            file.write_all(b"\n")?;
        }
        Ok(Self { path, file, done })
    }

    /// What is known of a key.
    pub(super) fn get(&self, key: &str) -> Option<&(Recognised, Seconds)> {
        self.done.get(key)
    }

    /// Writes one entry. The first result for a key stands.
    pub(super) fn append(&mut self, entry: Entry) -> io::Result<()> {
        if self.done.contains_key(&entry.key) {
            return Ok(());
        }
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        // One write, so that a kill tears at most this line. It is not synced to the disk each time: a crash of the
        // whole machine may cost the last seconds' work, and no more.
        self.file.write_all(&line)?;
        self.done.insert(entry.key, (entry.result, entry.seconds));
        Ok(())
    }

    /// Where it is, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.path
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

    fn entry(key: &str) -> Entry {
        Entry {
            key: key.into(),
            model: "m".into(),
            method: "suta".into(),
            condition: "clean".into(),
            set: "s".into(),
            utterance: "u".into(),
            result: Recognised {
                text: format!("text of {key}"),
                losses: vec![0.1, 1.0e-7, 3.4e38],
                entropies: vec![Some(0.3), None],
                duration: 1.1,
                ..Recognised::default()
            },
            seconds: Seconds::default(),
            version: "0".into(),
        }
    }

    #[test]
    fn what_is_read_back_is_what_was_written() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut journal = Journal::open(dir.path())?;
        journal.append(entry("a"))?;
        let mut other = entry("a");
        other.result.text = "another".into();
        journal.append(other)?;
        drop(journal);
        let journal = Journal::open(dir.path())?;
        assert_eq!(journal.get("a").map(|(result, _)| result), Some(&entry("a").result));
        assert!(journal.get("b").is_none());
        Ok(())
    }

    #[test]
    fn a_torn_line_is_lost_alone_wherever_it_was_torn() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut journal = Journal::open(dir.path())?;
        journal.append(entry("a"))?;
        journal.append(entry("b"))?;
        let whole = std::fs::read(journal.path())?;
        for length in whole.len() / 2..whole.len() {
            let dir = tempfile::tempdir()?;
            std::fs::write(dir.path().join(FILE_NAME), &whole[..length])?;
            let mut journal = Journal::open(dir.path())?;
            assert!(journal.get("a").is_some());
            journal.append(entry("c"))?;
            let journal = Journal::open(dir.path())?;
            assert!(
                journal.get("a").is_some() && journal.get("c").is_some(),
                "torn at {length}"
            );
        }
        Ok(())
    }
}
