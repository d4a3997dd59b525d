//! The recordings a run is about: files as named, and the audio files found in directories.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use walkdir::{DirEntry, WalkDir};

/// Names that mark a file in a directory as audio.
const EXTENSIONS: [&str; 22] = [
    "wav", "wave", "flac", "mp3", "mp2", "m4a", "m4b", "mp4", "mov", "aac", "ogg", "oga", "opus", "aif", "aiff",
    "aifc", "caf", "mka", "mkv", "webm", "w64", "wma",
];

/// Where a recording's bytes come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    File(PathBuf),
    Stdin,
}

/// One recording to transcribe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Input {
    pub(super) source: Source,
    /// The path as the user would write it.
    pub(super) name: String,
    /// Where it lies below the argument it was found through: what the output tree mirrors.
    pub(super) relative: PathBuf,
    /// Its size, for the estimate of the time left; 0 if unknown.
    pub(super) bytes: u64,
}

/// The recordings found, and what could not be looked at.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) inputs: Vec<Input>,
    /// Path and message of each directory or entry that could not be read.
    pub(super) unreadable: Vec<(String, String)>,
    /// Directories named by the user in which no audio file was found.
    pub(super) empty: Vec<String>,
}

/// Finds the recordings that `paths` name: in the order given, directories' files sorted, each file once.
pub(super) fn collect(paths: &[PathBuf]) -> Inputs {
    let mut found = Inputs::default();
    let mut seen = HashSet::new();
    for path in paths {
        if path.as_os_str() == "-" {
            if seen.insert(PathBuf::from("-")) {
                found.inputs.push(Input {
                    source: Source::Stdin,
                    name: "-".to_string(),
                    relative: PathBuf::from("stdin"),
                    bytes: 0,
                });
            }
        } else if path.is_dir() {
            walk(path, &mut seen, &mut found);
        } else {
            let relative = path.file_name().map_or_else(|| PathBuf::from("unnamed"), PathBuf::from);
            add(path.clone(), relative, &mut seen, &mut found);
        }
    }
    found
}

/// Links are followed, also to directories; walkdir recognises loops and they are reported like any entry that
/// cannot be read.
fn walk(root: &Path, seen: &mut HashSet<PathBuf>, found: &mut Inputs) {
    let mut any = false;
    let entries = WalkDir::new(root).follow_links(true).sort_by_file_name().into_iter();
    for entry in entries.filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry)) {
        match entry {
            Ok(entry) if !entry.file_type().is_dir() && is_audio(entry.path()) => {
                any = true;
                let relative = entry.path().strip_prefix(root).unwrap_or(entry.path()).to_path_buf();
                add(entry.into_path(), relative, seen, found);
            }
            Ok(_) => {}
            // A loop leads only to what is found anyway.
            Err(error) if error.loop_ancestor().is_some() => {}
            // Dangling links to what is no audio are none of our business.
            Err(error)
                if error.depth() > 0 && error.path().is_some_and(|path| path.is_symlink() && !is_audio(path)) => {}
            Err(error) => {
                any = true;
                let path = error.path().unwrap_or(root).display().to_string();
                let message = error
                    .io_error()
                    .map_or_else(|| error.to_string(), |error| error.to_string());
                found.unreadable.push((path, message));
            }
        }
    }
    if !any {
        found.empty.push(root.display().to_string());
    }
}

fn add(path: PathBuf, relative: PathBuf, seen: &mut HashSet<PathBuf>, found: &mut Inputs) {
    // A file that cannot be resolved will fail by its name; until then the name tells it apart.
    let identity = path.canonicalize().unwrap_or_else(|_| path.clone());
    if seen.insert(identity) {
        let bytes = path.metadata().map_or(0, |metadata| metadata.len());
        found.inputs.push(Input {
            name: path.display().to_string(),
            source: Source::File(path),
            relative,
            bytes,
        });
    }
}

fn is_hidden(entry: &DirEntry) -> bool {
    entry.file_name().as_encoded_bytes().starts_with(b".")
}

fn is_audio(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| known.eq_ignore_ascii_case(extension)))
}

/// The extensions looked for, for messages.
pub(super) fn known_extensions() -> String {
    EXTENSIONS.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(found: &Inputs) -> Vec<String> {
        found
            .inputs
            .iter()
            .map(|input| input.relative.display().to_string().replace('\\', "/"))
            .collect()
    }

    #[test]
    fn directories_are_searched_in_a_stable_order_for_audio() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir_all(dir.path().join("sub/.hidden"))?;
        for name in [
            "b.WAV",
            "a.mp3",
            "notes.txt",
            "sub/c.flac",
            "sub/.d.wav",
            "sub/.hidden/e.wav",
        ] {
            fs::write(dir.path().join(name), "")?;
        }
        let found = collect(&[
            dir.path().to_path_buf(),
            dir.path().join("b.WAV"),
            "-".into(),
            "-".into(),
        ]);
        assert_eq!(names(&found), ["a.mp3", "b.WAV", "sub/c.flac", "stdin"]);
        Ok(())
    }

    #[cfg(unix)]
    #[test]
    fn links_that_loop_end() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("sub"))?;
        fs::write(dir.path().join("sub/a.wav"), "")?;
        std::os::unix::fs::symlink(dir.path(), dir.path().join("sub/up"))?;
        std::os::unix::fs::symlink("a.wav", dir.path().join("sub/same.wav"))?;
        let found = collect(&[dir.path().to_path_buf()]);
        assert_eq!(names(&found), ["sub/a.wav"]);
        assert!(found.unreadable.is_empty());
        Ok(())
    }
}
