//! Which recordings: files as named, directories walked in a stable order.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Names by which a recording in a directory is known. A file named on the command line needs none of them.
const EXTENSIONS: [&str; 19] = [
    "wav", "wave", "flac", "mp3", "mp2", "m4a", "m4b", "mp4", "mov", "aac", "ogg", "oga", "aif", "aiff", "aifc", "caf",
    "mka", "mkv", "webm",
];

/// One recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    /// Where it is; `-` is standard input.
    pub(super) path: PathBuf,
    /// Its place below the output directory, without a format's extension.
    pub(super) stem: PathBuf,
}

impl Input {
    /// Whether it is standard input.
    pub(super) fn is_stdin(&self) -> bool {
        self.path == Path::new("-")
    }

    /// As the user knows it.
    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// A path that could not be looked at.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) path: PathBuf,
    pub(super) reason: String,
}

/// All recordings of the paths, each once, in the order of the paths and by name inside directories.
pub(super) fn collect(paths: &[PathBuf]) -> (Vec<Input>, Vec<Unreadable>) {
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut unreadable = Vec::new();
    let mut seen = HashSet::new();
    for path in paths {
        if path == Path::new("-") {
            found.push((path.clone(), "stdin".into()));
        } else if path.is_dir() {
            walk(path, &mut found, &mut unreadable);
        } else {
            let name = path.file_name().unwrap_or(path.as_os_str());
            found.push((path.clone(), name.into()));
        }
    }
    found.retain(|(path, _)| seen.insert(std::fs::canonicalize(path).unwrap_or_else(|_| path.clone())));
    (with_stems(found), unreadable)
}

fn walk(root: &Path, found: &mut Vec<(PathBuf, PathBuf)>, unreadable: &mut Vec<Unreadable>) {
    let hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    let entries = WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
    for entry in entries.filter_entry(|entry| entry.depth() == 0 || !hidden(entry.file_name())) {
        match entry {
            Ok(entry) if entry.file_type().is_file() && is_recording(entry.path()) => {
                let relative = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_path_buf();
                found.push((entry.into_path(), relative));
            }
            Ok(_) => {}
            // A link to a directory above: everything in it is found anyway.
            Err(error) if error.loop_ancestor().is_some() => {}
            Err(error) => {
                let path = error.path().unwrap_or(root).to_path_buf();
                let reason = error
                    .io_error()
                    .map_or_else(|| error.to_string(), |error| error.to_string());
                unreadable.push(Unreadable { path, reason });
            }
        }
    }
}

fn is_recording(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// Output names: the input's without its extension, unless two recordings would then share one (`a.wav` beside
/// `a.mp3`, the same name in two directories); those keep the extension, and a number if that is not enough.
fn with_stems(found: Vec<(PathBuf, PathBuf)>) -> Vec<Input> {
    let short = |relative: &Path| relative.with_extension("");
    let mut sharing: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (_, relative) in &found {
        *sharing.entry(short(relative)).or_default() += 1;
    }
    let mut taken = HashSet::new();
    let mut inputs = Vec::with_capacity(found.len());
    for (path, relative) in found {
        let mut stem = if sharing[&short(&relative)] == 1 {
            short(&relative)
        } else {
            relative.clone()
        };
        let mut number = 2;
        while !taken.insert(stem.clone()) {
            let mut name = relative.clone().into_os_string();
            name.push(format!(".{number}"));
            stem = name.into();
            number += 1;
        }
        inputs.push(Input { path, stem });
    }
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stems(paths: &[&str]) -> Vec<String> {
        let found = paths
            .iter()
            .map(|path| (PathBuf::from(format!("root/{path}")), PathBuf::from(path)))
            .collect();
        with_stems(found)
            .into_iter()
            .map(|input| input.stem.display().to_string())
            .collect()
    }

    #[test]
    fn outputs_never_share_a_name() {
        assert_eq!(stems(&["a.wav", "sub/a.wav"]), ["a", "sub/a"]);
        assert_eq!(stems(&["a.wav", "a.mp3"]), ["a.wav", "a.mp3"]);
        assert_eq!(stems(&["a.wav", "a.wav", "b.c.wav"]), ["a.wav", "a.wav.2", "b.c"]);
    }

    #[test]
    fn directories_are_walked_in_order_without_hidden_and_other_files() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.wav", "a.FLAC", "notes.txt", ".hidden.wav", "sub/c.mp3"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let (inputs, unreadable) = collect(&[dir.path().to_path_buf(), dir.path().join("b.wav")]);
        let stems: Vec<String> = inputs.iter().map(|input| input.stem.display().to_string()).collect();
        assert_eq!(stems, ["a", "b", "sub/c"]);
        assert!(unreadable.is_empty());
    }
}
