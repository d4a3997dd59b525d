//! What is already done in an output directory: an append-only list, a JSON object a line.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The journal's name in the output directory.
pub(super) const FILE: &str = ".aurist-journal.jsonl";

/// One finished recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Version of this format.
    pub(super) schema: u32,
    /// The recording's place below the output directory, without a format's extension.
    pub(super) stem: PathBuf,
    /// BLAKE3 of the recording's content.
    pub(super) content: String,
    /// BLAKE3 of everything that decides the transcript: model, settings, program's transcript version.
    pub(super) settings: String,
    /// Format → output, relative to the output directory.
    pub(super) outputs: BTreeMap<String, PathBuf>,
}

/// The version written; entries of another are not understood, and so not trusted.
pub(super) const SCHEMA: u32 = 1;

/// An open journal.
pub(super) struct Journal {
    file: File,
    done: HashMap<PathBuf, Entry>,
    ours: HashSet<PathBuf>,
}

impl Journal {
    /// Opens or begins the journal of a directory. A last line torn by a crash is cut off, so that the next entry
    /// starts a line of its own; other lines that are not entries are passed over.
    pub(super) fn open(directory: &Path) -> std::io::Result<Self> {
        let path = directory.join(FILE);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let whole = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |position| position + 1);
        if whole < bytes.len() {
            file.set_len(whole as u64)?;
            file.seek(SeekFrom::End(0))?;
        }
        let mut journal = Self {
            file,
            done: HashMap::new(),
            ours: HashSet::new(),
        };
        for line in bytes[..whole].split(|&byte| byte == b'\n') {
            if let Ok(entry) = serde_json::from_slice::<Entry>(line)
                && entry.schema == SCHEMA
            {
                journal.remember(entry);
            }
        }
        Ok(journal)
    }

    /// The last entry for a place.
    pub(super) fn entry(&self, stem: &Path) -> Option<&Entry> {
        self.done.get(stem)
    }

    /// Whether an output (relative to the directory) was written by this program.
    pub(super) fn is_ours(&self, output: &Path) -> bool {
        self.ours.contains(output)
    }

    /// Adds an entry; it is on the disk when this returns.
    pub(super) fn append(&mut self, entry: Entry) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(&entry)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.remember(entry);
        Ok(())
    }

    fn remember(&mut self, entry: Entry) {
        self.ours.extend(entry.outputs.values().cloned());
        self.done.insert(entry.stem.clone(), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(stem: &str) -> Entry {
        let outputs = BTreeMap::from([("txt".to_string(), PathBuf::from(format!("{stem}.txt")))]);
        Entry {
            schema: SCHEMA,
            stem: stem.into(),
            content: "c".into(),
            settings: "s".into(),
            outputs,
        }
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_the_rest_survives() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap();
        journal.append(entry("a")).unwrap();
        journal.append(entry("b")).unwrap();
        drop(journal);
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for keep in 0..whole.len() {
            std::fs::write(&path, &whole[..keep]).unwrap();
            let mut journal = Journal::open(dir.path()).unwrap();
            let before = journal.done.len();
            journal.append(entry("c")).unwrap();
            drop(journal);
            let journal = Journal::open(dir.path()).unwrap();
            assert_eq!(journal.done.len(), before + 1, "cut at {keep}");
            assert_eq!(journal.entry(Path::new("c")), Some(&entry("c")));
            assert!(journal.is_ours(Path::new("c.txt")));
        }
    }

    #[test]
    fn lines_of_another_version_or_none_are_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let newer = serde_json::to_string(&Entry {
            schema: SCHEMA + 1,
            ..entry("a")
        })
        .unwrap();
        std::fs::write(dir.path().join(FILE), format!("{newer}\nrubbish\n\u{0}\n[]\n")).unwrap();
        let journal = Journal::open(dir.path()).unwrap();
        assert!(journal.done.is_empty() && journal.ours.is_empty());
    }
}
