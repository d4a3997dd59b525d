//! The output directory: one run at a time, whole files or none.

use super::inputs::Input;
use super::journal::{Entry, Journal, SCHEMA};
use crate::cli::Failure;
use crate::output::{Document, Format};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Held while a run writes into a directory.
const LOCK: &str = ".aurist-lock";

/// An output directory, locked for this run.
pub(super) struct OutputDirectory {
    directory: PathBuf,
    formats: Vec<Format>,
    settings: String,
    overwrite: bool,
    journal: Journal,
    // The lock is the open file's; it ends with the process, however that ends.
    _lock: File,
}

/// What is to be done about a recording.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// Everything asked for is there.
    Skip,
    /// It is to be transcribed.
    Work,
    /// This output exists and is not ours.
    Foreign(PathBuf),
}

/// Why an output could not be written.
#[derive(Debug)]
pub(super) struct WriteError {
    pub(super) message: String,
    /// Whether every other output would fail as well.
    pub(super) fatal: bool,
}

impl OutputDirectory {
    /// Makes the directory, locks it, checks that it can be written to, and reads its journal.
    pub(super) fn open(
        directory: &Path,
        formats: Vec<Format>,
        settings: String,
        overwrite: bool,
    ) -> Result<Self, Failure> {
        let shown = directory.display();
        let unwritable = |error: std::io::Error| {
            Failure::failed(format!(
                "the output directory {shown} cannot be written to: {error}; choose another with -o"
            ))
        };
        std::fs::create_dir_all(directory).map_err(unwritable)?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(LOCK));
        let mut lock = lock.map_err(unwritable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                let holder: String = holder.chars().filter(char::is_ascii_digit).collect();
                let by = if holder.is_empty() {
                    String::new()
                } else {
                    format!(" (process {holder})")
                };
                return Err(Failure::failed(format!(
                    "another run{by} is writing into {shown}; wait for it, or give another directory with -o"
                )));
            }
            Err(TryLockError::Error(error)) => return Err(unwritable(error)),
        }
        lock.set_len(0).map_err(unwritable)?;
        writeln!(lock, "{}", std::process::id()).map_err(unwritable)?;
        tempfile::tempfile_in(directory).map_err(unwritable)?;
        let journal = Journal::open(directory).map_err(unwritable)?;
        Ok(Self {
            directory: directory.to_path_buf(),
            formats,
            settings,
            overwrite,
            journal,
            _lock: lock,
        })
    }

    fn outputs(&self, input: &Input) -> BTreeMap<String, PathBuf> {
        let named = self.formats.iter().map(|format| {
            let mut name = input.stem.clone().into_os_string();
            name.push(".");
            name.push(format.extension());
            (format.extension().to_string(), PathBuf::from(name))
        });
        named.collect()
    }

    /// Whether a recording of this content is done. Without a content hash only the name can be judged.
    pub(super) fn decide(&self, input: &Input, content: Option<&str>) -> Decision {
        if self.overwrite {
            return Decision::Work;
        }
        let outputs = self.outputs(input);
        let exists = |output: &PathBuf| self.directory.join(output).exists();
        let done = self.journal.entry(&input.stem).is_some_and(|entry| {
            Some(entry.content.as_str()) == content
                && entry.settings == self.settings
                && outputs
                    .iter()
                    .all(|(format, output)| entry.outputs.get(format) == Some(output) && exists(output))
        });
        if done {
            return Decision::Skip;
        }
        let foreign = outputs
            .into_values()
            .find(|output| exists(output) && !self.journal.is_ours(output));
        foreign.map_or(Decision::Work, |output| Decision::Foreign(self.directory.join(output)))
    }

    /// Writes a recording's outputs, then its journal entry.
    pub(super) fn write(&mut self, input: &Input, content: &str, document: &Document<'_>) -> Result<(), WriteError> {
        let mut outputs = self.outputs(input);
        for (format, output) in self
            .formats
            .iter()
            .zip(self.formats.iter().map(|f| &outputs[f.extension()]))
        {
            let path = self.directory.join(output);
            write_whole(&path, format.render(document).as_bytes()).map_err(|error| describe(&path, &error))?;
        }
        // Formats written by an earlier run from the same content and settings are still good.
        if let Some(entry) = self.journal.entry(&input.stem)
            && entry.content == content
            && entry.settings == self.settings
        {
            for (format, output) in &entry.outputs {
                outputs.entry(format.clone()).or_insert_with(|| output.clone());
            }
        }
        let entry = Entry {
            schema: SCHEMA,
            stem: input.stem.clone(),
            content: content.into(),
            settings: self.settings.clone(),
            outputs,
        };
        self.journal
            .append(entry)
            .map_err(|error| describe(&self.directory.join(super::journal::FILE), &error))
    }

    /// The directory, for messages.
    pub(super) fn path(&self) -> &Path {
        &self.directory
    }
}

/// Into a temporary file beside the target, to the disk, then under its name: it appears whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    let mut file = tempfile::Builder::new().prefix(".aurist-").tempfile_in(parent)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    // Temporary files are private; a transcript is like any other new file.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    }
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn describe(path: &Path, error: &std::io::Error) -> WriteError {
    let shown = path.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => WriteError {
            message: format!(
                "{shown} could not be written: the disk is full; make room and run the same command again"
            ),
            fatal: true,
        },
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => WriteError {
            message: format!("{shown} could not be written: {error}; choose another directory with -o"),
            fatal: true,
        },
        _ => WriteError {
            message: format!("{shown} could not be written: {error}"),
            fatal: false,
        },
    }
}
