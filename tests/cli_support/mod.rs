//! What the command's tests share: the binary, real recordings, and broken ones.
#![allow(dead_code, reason = "each test file uses its own part")]

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The command, with the bundled CTC model unless a test says otherwise.
pub(crate) fn aurist() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurist"));
    command.env("AURIST_MODEL", "tiny.en-ctc");
    command
}

/// The five recordings, in order.
pub(crate) fn clips() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/librivox");
    let entries = fs::read_dir(dir).expect("the tests' recordings");
    let mut clips: Vec<PathBuf> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    clips.sort();
    clips
}

/// The shortest of them.
pub(crate) fn short_clip() -> PathBuf {
    let clips = clips().into_iter();
    clips
        .min_by_key(|clip| fs::metadata(clip).map_or(0, |file| file.len()))
        .expect("a recording")
}

/// A directory with recordings `a.wav`, `sub/b.wav` and something that is no recording.
pub(crate) fn library(dir: &Path) -> PathBuf {
    let library = dir.join("library");
    fs::create_dir_all(library.join("sub")).expect("a directory");
    fs::copy(short_clip(), library.join("a.wav")).expect("a copy");
    fs::copy(&clips()[4], library.join("sub/b.wav")).expect("a copy");
    fs::write(library.join("notes.txt"), "not a recording").expect("a file");
    library
}

/// Every file below `dir` that is not hidden, relative to it, sorted.
pub(crate) fn tree(dir: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(dir).sort_by_file_name();
    let files = entries
        .into_iter()
        .map(|entry| entry.expect("a directory entry"))
        .filter(|entry| entry.path().is_file());
    let relative = files.map(|entry| entry.path().strip_prefix(dir).expect("below").display().to_string());
    relative.filter(|name| !name.starts_with('.')).collect()
}

/// The objects of a stream of JSON lines.
pub(crate) fn json_lines(bytes: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(bytes);
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect()
}

/// Files done and skipped by a run into `out` that must succeed.
pub(crate) fn run_into(out: &Path, library: &Path, options: &[&str]) -> (u64, u64) {
    let mut command = aurist();
    command
        .args(["transcribe", "--progress", "json", "-o"])
        .arg(out)
        .arg(library)
        .args(options);
    let ended = command.assert().success();
    let summary = json_lines(&ended.get_output().stderr).pop().expect("a summary");
    assert_eq!(summary["event"], "summary");
    (
        summary["done"].as_u64().expect("a count"),
        summary["skipped"].as_u64().expect("a count"),
    )
}
