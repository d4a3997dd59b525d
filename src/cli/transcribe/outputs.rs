//! The output directory: who may write it, which file each recording's outputs become, and how they get there whole.

use super::inputs::{Input, Source};
use super::journal::{Entry, Journal, Status};
use super::settings::Settings;
use crate::adapt::TEMPORARY_PREFIX;
use crate::cli::Failure;
use crate::output::Format;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const LOCK_NAME: &str = ".aurist.lock";

/// An output directory held by this run.
pub(super) struct OutputDir {
    root: PathBuf,
    /// For each input, its outputs' path below the root without the format's extension.
    stems: Vec<PathBuf>,
    formats: Vec<Format>,
    overwrite: bool,
    /// The recordings' own paths, which no output may replace.
    recordings: HashSet<PathBuf>,
    journal: Mutex<Journal>,
    /// Locked as long as it is open.
    _lock: File,
}

/// Why outputs could not be written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// This recording's outputs cannot be written.
    File(String),
    /// No recording's can: the run should stop.
    Fatal(String),
}

impl OutputDir {
    /// Takes hold of the output directory (created if missing) and finds out now, not after hours of work, that it
    /// cannot be written or is another run's.
    pub(super) fn open(root: &Path, inputs: &[Input], settings: &Settings) -> Result<Self, Failure> {
        let unusable = |error: io::Error| {
            Failure::failed(format_args!(
                "cannot write to output directory {}: {error}",
                root.display()
            ))
        };
        fs::create_dir_all(root).map_err(unusable)?;
        let lock = lock(root, &unusable)?;
        temporary(root)
            .and_then(|mut probe| probe.write_all(b"probe"))
            .map_err(unusable)?;
        let journal = Journal::open(root).map_err(unusable)?;
        let stems = stems(inputs);
        sweep(root, &stems);
        let files = inputs.iter().filter_map(|input| match &input.source {
            Source::File(path) => path.canonicalize().ok(),
            Source::Stdin => None,
        });
        Ok(Self {
            root: root.to_path_buf(),
            stems,
            formats: settings.formats.clone(),
            overwrite: settings.overwrite,
            recordings: files.collect(),
            journal: Mutex::new(journal),
            _lock: lock,
        })
    }

    /// Checks that input `index` may be written to its place, before the work is done for nothing.
    pub(super) fn check(&self, index: usize) -> Result<(), String> {
        let journal = self.journal();
        for (_, key, path) in self.targets(index) {
            if path.symlink_metadata().is_err() {
                continue;
            }
            if path.canonicalize().is_ok_and(|path| self.recordings.contains(&path)) {
                return Err(format!(
                    "its output {} is one of the recordings: choose another -o",
                    path.display()
                ));
            }
            if path.is_dir() {
                return Err(format!(
                    "its output {} is a directory: move it away, or choose another -o",
                    path.display()
                ));
            }
            if !self.overwrite && !journal.owns(&key) {
                let path = path.display();
                return Err(format!(
                    "{path} exists and is not aurist's: move it away, or give --overwrite"
                ));
            }
        }
        Ok(())
    }

    /// Whether input `index` with this content is done with these settings, and its outputs are there.
    pub(super) fn is_done(&self, index: usize, content: &str, settings: &str) -> bool {
        let journal = self.journal();
        !self.overwrite
            && self
                .targets(index)
                .all(|(_, key, path)| journal.is_done(&key, content, settings) && path.is_file())
    }

    /// Writes input `index`'s outputs, each whole or not at all, and records them. `entry` needs no outputs, formats
    /// or status: they are filled in. Returns the paths.
    pub(super) fn write(
        &self,
        index: usize,
        mut entry: Entry,
        render: impl Fn(Format) -> String,
    ) -> Result<Vec<PathBuf>, WriteError> {
        // Held to the end: whoever holds it next (a run that is asked to stop) finds no half-written outputs.
        let mut journal = self.journal();
        let targets: Vec<_> = self.targets(index).collect();
        let mut written = Vec::new();
        for (format, _, path) in &targets {
            let prepared = prepare(path, &render(*format)).map_err(|error| classify(path, &error))?;
            written.push((prepared, path.clone()));
        }
        entry.outputs = targets.iter().map(|(_, key, _)| key.clone()).collect();
        entry.formats = targets.iter().map(|(format, ..)| format.to_string()).collect();
        entry.status = Status::Writing;
        append(&mut journal, entry.clone())?;
        for (prepared, path) in written {
            prepared.persist(&path).map_err(|error| classify(&path, &error.error))?;
            sync_parent(&path);
        }
        entry.status = Status::Done;
        append(&mut journal, entry)?;
        Ok(targets.into_iter().map(|(.., path)| path).collect())
    }

    /// Records that a recording failed.
    pub(super) fn record_failure(&self, mut entry: Entry, message: &str) -> Result<(), WriteError> {
        entry.status = Status::Failed;
        entry.message = Some(message.to_string());
        append(&mut self.journal(), entry)
    }

    /// Waits for the write in progress and lets none begin again, for a process about to end.
    pub(super) fn freeze(&self) {
        std::mem::forget(self.journal());
    }

    /// The directory, for messages.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        // A panic while it was held leaves it as consistent as a kill would.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Input `index`'s outputs: format, key in the journal, path.
    fn targets(&self, index: usize) -> impl Iterator<Item = (Format, String, PathBuf)> + '_ {
        let stem = self.stems.get(index).into_iter();
        stem.flat_map(|stem| self.formats.iter().map(move |format| (stem, *format)))
            .map(|(stem, format)| {
                let relative = with_suffix(stem, &format!(".{format}"));
                (format, key(&relative), self.root.join(relative))
            })
    }
}

fn append(journal: &mut Journal, entry: Entry) -> Result<(), WriteError> {
    let appended = journal.append(entry);
    appended.map_err(|error| WriteError::Fatal(format!("cannot write {}: {error}", journal.path().display())))
}

pub(in crate::cli) fn lock(root: &Path, unusable: &impl Fn(io::Error) -> Failure) -> Result<File, Failure> {
    let path = root.join(LOCK_NAME);
    // Not truncated on opening: until the lock is ours, what it says is the other run's.
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path);
    let mut file = open.map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let holder = if holder.trim().is_empty() {
                "unknown"
            } else {
                holder.trim()
            };
            return Err(Failure::failed(format_args!(
                "output directory {} is in use by another aurist run (process {holder}): wait for it to end, or \
                 choose another -o",
                root.display()
            )));
        }
        // Some network file systems have no locks; refusing to work there would help nobody.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {}
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(unusable)?;
    Ok(file)
}

/// Where each input's outputs go, without the extension. Inputs that would share a name keep their own extension
/// (`a.wav`, `a.mp3`), and where that is not enough (two directories' `a.wav`) get a hash of their path.
fn stems(inputs: &[Input]) -> Vec<PathBuf> {
    let mut levels = vec![0_u8; inputs.len()];
    loop {
        let names: Vec<PathBuf> = inputs
            .iter()
            .zip(&levels)
            .map(|(input, level)| stem(input, *level))
            .collect();
        let mut same: HashMap<PathBuf, Vec<usize>> = HashMap::new();
        for (i, name) in names.iter().enumerate() {
            same.entry(folded(name)).or_default().push(i);
        }
        let mut changed = false;
        for i in same.into_values().filter(|group| group.len() > 1).flatten() {
            if levels[i] < 2 {
                levels[i] += 1;
                changed = true;
            }
        }
        if !changed {
            return names;
        }
    }
}

fn stem(input: &Input, level: u8) -> PathBuf {
    match (level, &input.source) {
        (0, _) => {
            let stem = input.relative.file_stem().unwrap_or(input.relative.as_os_str());
            input.relative.with_file_name(stem)
        }
        (2, Source::File(path)) => {
            let path = path.canonicalize().unwrap_or_else(|_| path.clone());
            let hash = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
            with_suffix(&input.relative, &format!("-{}", &hash[..8]))
        }
        _ => input.relative.clone(),
    }
}

/// Names that the file system takes for the same are the same.
fn folded(path: &Path) -> PathBuf {
    if cfg!(any(windows, target_os = "macos")) {
        PathBuf::from(path.to_string_lossy().to_lowercase())
    } else {
        path.to_path_buf()
    }
}

/// `suffix` after the whole name: `with_extension` would take what follows the last dot of `talk.v2` for one.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path.as_os_str());
    name.push(suffix);
    PathBuf::from(name)
}

/// A relative path as the journal writes it, different for different paths even where they are no Unicode.
fn key(relative: &Path) -> String {
    let parts: Vec<_> = relative
        .components()
        .map(|part| part.as_os_str().to_string_lossy())
        .collect();
    let joined = parts.join("/");
    match relative.to_str() {
        Some(_) => joined,
        None => format!(
            "{joined}#{}",
            blake3::hash(relative.as_os_str().as_encoded_bytes()).to_hex()
        ),
    }
}

fn temporary(dir: &Path) -> io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(TEMPORARY_PREFIX);
    #[cfg(unix)]
    {
        // The file becomes an output, so it gets what the user's umask allows and not a temporary file's 0600.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666)).tempfile_in(dir)
    }
    #[cfg(not(unix))]
    builder.tempfile_in(dir)
}

fn prepare(path: &Path, text: &str) -> io::Result<tempfile::NamedTempFile> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let mut file = temporary(parent)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Makes the renaming itself durable, where directories can be synced.
fn sync_parent(path: &Path) {
    if cfg!(unix)
        && let Some(dir) = path.parent()
        && let Ok(dir) = File::open(dir)
    {
        let _ = dir.sync_all();
    }
}

fn classify(path: &Path, error: &io::Error) -> WriteError {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let path = path.display();
    match error.kind() {
        StorageFull | QuotaExceeded => WriteError::Fatal(format!(
            "cannot write {path}: the disk is full; make room and run the same command again"
        )),
        ReadOnlyFilesystem => WriteError::Fatal(format!("cannot write {path}: {error}; choose another -o")),
        _ => WriteError::File(format!("cannot write {path}: {error}")),
    }
}

/// Removes the temporary files a killed run left where this one will write. Young ones are let be: they could be
/// those of a run on a directory inside this one, and live for milliseconds.
fn sweep(root: &Path, stems: &[PathBuf]) {
    let dirs: HashSet<PathBuf> = stems
        .iter()
        .filter_map(|stem| root.join(stem).parent().map(PathBuf::from))
        // Where the streams' states are.
        .chain([root.to_path_buf()])
        .collect();
    for entry in dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten() {
        let ours = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(TEMPORARY_PREFIX.as_bytes());
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if ours && age().is_some_and(|age| age > Duration::from_secs(60)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(path: &str, relative: &str) -> Input {
        Input {
            source: Source::File(path.into()),
            name: path.into(),
            relative: relative.into(),
            bytes: 0,
        }
    }

    fn names(inputs: &[Input]) -> Vec<String> {
        stems(inputs).iter().map(|stem| key(stem)).collect()
    }

    #[test]
    fn outputs_mirror_the_tree_and_keep_dots_in_names() {
        let inputs = [input("d/talk.v2.wav", "talk.v2.wav"), input("d/sub/a.wav", "sub/a.wav")];
        assert_eq!(names(&inputs), ["talk.v2", "sub/a"]);
    }

    #[test]
    fn inputs_of_one_stem_keep_their_extensions() {
        let inputs = [
            input("d/a.wav", "a.wav"),
            input("d/a.mp3", "a.mp3"),
            input("d/b.mp3", "b.mp3"),
        ];
        assert_eq!(names(&inputs), ["a.wav", "a.mp3", "b"]);
        // A name made longer may meet another's own.
        let inputs = [
            input("d/a.wav", "a.wav"),
            input("d/a.mp3", "a.mp3"),
            input("d/a.wav.flac", "a.wav.flac"),
        ];
        let names = names(&inputs);
        assert_eq!(names.iter().collect::<HashSet<_>>().len(), 3);
    }

    #[test]
    fn two_directories_files_of_one_name_are_told_apart_by_path() {
        let inputs = [input("x/a.wav", "a.wav"), input("y/a.wav", "a.wav")];
        let names = names(&inputs);
        assert_ne!(names[0], names[1]);
        assert!(names.iter().all(|name| name.starts_with("a.wav-")), "{names:?}");
        assert_eq!(names, super::tests::names(&inputs));
    }
}
