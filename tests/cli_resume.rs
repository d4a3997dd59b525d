//! A run that is stopped, however, and goes on: nothing done twice, nothing lost, nothing half-written.

mod cli_support;

use cli_support::{aurist, clips, library, run_into, short_clip, tree};
use predicates::prelude::*;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

const JOURNAL: &str = ".aurist-journal.jsonl";
const PLAIN: [&str; 2] = ["--adapt", "none"];

/// A library that is done: its directory (kept while in use), the recordings, the outputs.
fn done() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let (library, out) = (library(dir.path()), dir.path().join("out"));
    assert_eq!(run_into(&out, &library, &PLAIN), (2, 0));
    (dir, library, out)
}

#[test]
fn a_second_run_has_nothing_to_do() {
    let (_dir, library, out) = done();
    let before = fs::metadata(out.join("a.txt"))
        .and_then(|file| file.modified())
        .expect("a time");
    assert_eq!(run_into(&out, &library, &PLAIN), (0, 2));
    assert_eq!(
        fs::metadata(out.join("a.txt"))
            .and_then(|file| file.modified())
            .expect("a time"),
        before
    );
    assert_eq!(run_into(&out, &library, &["--adapt", "none", "--overwrite"]), (2, 0));
}

#[test]
fn changed_settings_are_done_again() {
    let (_dir, library, out) = done();
    assert_eq!(run_into(&out, &library, &["--steps", "1"]), (2, 0));
    assert_eq!(run_into(&out, &library, &["--steps", "1", "--lr", "1e-4"]), (2, 0));
    assert_eq!(run_into(&out, &library, &["--steps", "1", "--lr", "1e-4"]), (0, 2));
}

#[test]
fn changed_content_is_done_again_under_the_same_name() {
    let (_dir, library, out) = done();
    fs::copy(&clips()[0], library.join("a.wav")).expect("a copy");
    assert_eq!(run_into(&out, &library, &PLAIN), (1, 1));
}

#[test]
fn a_missing_output_and_a_new_format_are_made() {
    let (_dir, library, out) = done();
    fs::remove_file(out.join("sub/b.txt")).expect("the output");
    assert_eq!(run_into(&out, &library, &PLAIN), (1, 1));
    assert!(out.join("sub/b.txt").is_file());
    assert_eq!(run_into(&out, &library, &["--adapt", "none", "-f", "txt,srt"]), (2, 0));
    assert_eq!(run_into(&out, &library, &["--adapt", "none", "-f", "srt"]), (0, 2));
}

#[test]
fn a_journal_torn_anywhere_loses_its_last_line_at_most() {
    let (_dir, library, out) = done();
    let journal = fs::read(out.join(JOURNAL)).expect("the journal");
    fs::write(out.join(JOURNAL), &journal[..journal.len() - 20]).expect("a torn journal");
    let (done, skipped) = run_into(&out, &library, &PLAIN);
    assert_eq!((done, skipped), (1, 1));
    assert_eq!(run_into(&out, &library, &PLAIN), (0, 2));
}

#[test]
fn killed_between_an_output_and_its_journal_line_it_goes_on() {
    let (_dir, library, out) = done();
    // As if the last `done` line had never been written: the output is there, and known to be aurist's.
    let journal = fs::read_to_string(out.join(JOURNAL)).expect("the journal");
    let lines: Vec<&str> = journal.lines().collect();
    fs::write(out.join(JOURNAL), lines[..lines.len() - 1].join("\n") + "\n").expect("a shorter journal");
    assert_eq!(run_into(&out, &library, &PLAIN), (1, 1));
}

#[test]
fn a_file_that_is_not_aurists_is_not_overwritten_unasked() {
    let dir = tempfile::tempdir().expect("a directory");
    let (library, out) = (library(dir.path()), dir.path().join("out"));
    fs::create_dir(&out).expect("a directory");
    fs::write(out.join("a.txt"), "precious").expect("a file");
    let mut command = aurist();
    command
        .args(["transcribe", "--adapt", "none", "-o"])
        .arg(&out)
        .arg(&library)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("a.txt").and(predicate::str::contains("--overwrite")));
    assert_eq!(fs::read_to_string(out.join("a.txt")).expect("the file"), "precious");
    assert!(
        out.join("sub/b.txt").is_file(),
        "the other recording is done all the same"
    );
    assert_eq!(run_into(&out, &library, &["--adapt", "none", "--overwrite"]), (2, 0));
    assert_ne!(fs::read_to_string(out.join("a.txt")).expect("the file"), "precious");
}

#[test]
fn what_failed_is_tried_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let (library, out) = (library(dir.path()), dir.path().join("out"));
    fs::write(library.join("c.wav"), "no sound").expect("a file");
    let mut command = aurist();
    command
        .args(["transcribe", "--adapt", "none", "-o"])
        .arg(&out)
        .arg(&library)
        .assert()
        .code(1);
    fs::copy(short_clip(), library.join("c.wav")).expect("a copy");
    assert_eq!(run_into(&out, &library, &PLAIN), (1, 2));
}

#[test]
fn two_runs_on_one_directory_exclude_each_other() {
    let (_dir, library, out) = done();
    let lock = fs::read_dir(&out)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path());
    let lock = lock
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with("lock"))
        .expect("the lock file");
    let held = File::options()
        .read(true)
        .write(true)
        .open(lock)
        .expect("the lock file");
    held.lock().expect("the lock");
    let mut command = aurist();
    command
        .args(["transcribe", "--adapt", "none", "-o"])
        .arg(&out)
        .arg(&library)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("another").and(predicate::str::contains("process ")));
    drop(held);
    assert_eq!(run_into(&out, &library, &PLAIN), (0, 2));
}

/// A run over enough recordings that it can be stopped in the middle.
#[cfg(unix)]
fn stopped_by(signal: &str, dir: &Path) -> (std::process::Output, PathBuf, PathBuf) {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};
    let (library, out) = (dir.join("library"), dir.join("out"));
    fs::create_dir(&library).expect("a directory");
    for i in 0..12 {
        fs::copy(&clips()[i % 5], library.join(format!("{i:02}.wav"))).expect("a copy");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurist"));
    command.env("AURIST_MODEL", "tiny.en-ctc");
    command
        .args(["transcribe", "--steps", "4", "-j", "1", "-f", "txt,json", "-o"])
        .arg(&out)
        .arg(&library);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let begun = Instant::now();
    while !out.join("00.txt").exists() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &pid])
            .status()
            .is_ok_and(|status| status.success())
    );
    let signalled = Instant::now();
    child.wait().expect("an end");
    assert!(signalled.elapsed() < Duration::from_secs(5), "it must end promptly");
    (child.wait_with_output().expect("its output"), library, out)
}

/// Whatever stopped the run, what is there is whole, and the next run does the rest and only the rest.
#[cfg(unix)]
fn goes_on(library: &Path, out: &Path) {
    for name in tree(out) {
        let text = fs::read_to_string(out.join(&name)).expect("an output");
        assert!(text.ends_with('\n'), "{name} is not whole");
    }
    let texts = tree(out).iter().filter(|name| name.ends_with(".txt")).count() as u64;
    let (done, skipped) = run_into(out, library, &["--steps", "4", "-f", "txt,json"]);
    assert_eq!(done + skipped, 12);
    assert!(
        skipped + 1 >= texts,
        "at most the recording in hand is done again: {skipped} of {texts}"
    );
    assert_eq!(tree(out).len(), 24);
}

#[cfg(unix)]
#[test]
fn interrupted_it_ends_promptly_and_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().expect("a directory");
    let (output, library, out) = stopped_by("-INT", dir.path());
    assert_eq!(output.status.code(), Some(130));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("run the same command again"),
        "{output:?}"
    );
    assert!(tree(&out).len() < 24);
    goes_on(&library, &out);
}

#[cfg(unix)]
#[test]
fn killed_it_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_, library, out) = stopped_by("-KILL", dir.path());
    goes_on(&library, &out);
}
