//! What the tests of `aurist bench` share: runs on two short recordings.
#![allow(dead_code, reason = "each test file uses its own part")]

use assert_cmd::Command;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

/// The test set: five LibriVox recordings.
pub(crate) fn manifest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/librivox.jsonl")
}

/// A run on two recordings into `out`.
pub(crate) fn bench(out: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurist"));
    command
        .arg("bench")
        .arg(manifest())
        .arg("-o")
        .arg(out)
        .args(["--limit", "2"])
        .args(options);
    command
}

/// Such a run, which must succeed: results.json's bytes.
pub(crate) fn run(out: &Path, options: &[&str]) -> Vec<u8> {
    bench(out, options).assert().success();
    fs::read(out.join("results.json")).expect("the results")
}

/// A run's results.
pub(crate) fn results(out: &Path) -> Value {
    let text = fs::read_to_string(out.join("results.json")).expect("the results");
    serde_json::from_str(&text).expect("JSON")
}
