//! What goes wrong is said clearly, once, with the right exit code, and stops no more than it must.

mod cli_support;

use cli_support::{aurist, library, short_clip, tree};
use predicates::prelude::*;
use predicates::str::contains;
use std::fs;

#[test]
fn bad_files_are_reported_and_the_others_done() {
    let dir = tempfile::tempdir().expect("a directory");
    let (library, out) = (library(dir.path()), dir.path().join("out"));
    fs::write(library.join("empty.wav"), "").expect("a file");
    fs::write(
        library.join("text.mp3"),
        "this is no sound, whatever its name says\n".repeat(100),
    )
    .expect("a file");
    let sound = fs::read(short_clip()).expect("a recording");
    fs::write(library.join("header.wav"), &sound[..40]).expect("a file");
    let mut command = aurist();
    command
        .args(["transcribe", "--adapt", "none", "-o"])
        .arg(&out)
        .arg(&library)
        .arg(dir.path().join("missing.wav"));
    let ended = command.assert().code(1).stderr(contains("2 done, 4 failed"));
    let text = String::from_utf8_lossy(&ended.get_output().stderr).to_string();
    for name in ["empty.wav", "text.mp3", "header.wav", "missing.wav"] {
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("error: ") && line.contains(name))
            .collect();
        assert_eq!(lines.len(), 1, "{name} in\n{text}");
    }
    assert_eq!(tree(&out), ["a.txt", "sub/b.txt"]);
}

#[test]
fn a_directory_without_recordings_is_nothing_to_do() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("notes.txt"), "").expect("a file");
    let out = dir.path().join("out");
    let mut command = aurist();
    command.arg("transcribe").arg(dir.path()).arg("-o").arg(&out);
    command
        .assert()
        .code(2)
        .stderr(contains("no audio files").and(contains("flac")));
    assert!(!out.exists());
}

#[test]
fn wrong_usage_is_explained_with_exit_code_2() {
    for (arguments, message) in [
        (vec!["--frobnicate"], "--frobnicate"),
        (vec!["--steps", "1001"], "0..=1000"),
        (vec!["--lr", "0"], "greater than 0"),
        (vec!["--lr", "-1"], "greater than 0"),
        (vec!["--lr", "nan"], "finite"),
        (vec!["--temperature", "inf"], "finite"),
        (vec!["--stop-when-settled=0"], "greater than 0"),
        (vec!["--settled-steps", "2"], "--stop-when-settled"),
        (vec!["--skip-confident", "-1"], "greater than 0"),
        (vec!["--fast", "--paper"], "cannot be used with"),
        // The bundled model has no decoder: it ran unadapted, without a word.
        (vec!["--adapt", "sequence-entropy"], "for a Whisper that writes"),
        (vec!["--half", "encoder"], "for a Whisper that writes"),
        (vec!["--fast", "--adapt", "sdpl"], "leave out --adapt,"),
        (vec!["--parameters", "everything"], "layer-norm+feature"),
        (vec!["--adapt", "sometimes"], "suta"),
        (vec!["--format", "doc"], "txt"),
        (vec!["--format", "txt,json"], "-o DIR"),
        (vec!["--jobs", "0"], "1..=1024"),
        (vec!["--device", "abacus"], "cuda:N"),
        (vec!["--overwrite"], "--output-dir"),
    ] {
        aurist()
            .arg("transcribe")
            .arg(short_clip())
            .args(&arguments)
            .assert()
            .code(2)
            .stderr(contains(message));
    }
    aurist().arg("transcribe").assert().code(2);
    aurist().assert().code(2);
}

#[test]
fn options_without_effect_are_pointed_out() {
    let mut command = aurist();
    command
        .args(["transcribe", "--adapt", "none", "--lr", "1e-3"])
        .arg(short_clip());
    command
        .assert()
        .success()
        .stderr(contains("warning: --lr has no effect"));
}

#[test]
fn an_output_directory_that_cannot_be_is_found_out_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "").expect("a file");
    for out in [&file, &file.join("out")] {
        let mut command = aurist();
        command
            .arg("transcribe")
            .arg(short_clip())
            .arg("-o")
            .arg(out)
            .assert()
            .code(1)
            .stderr(contains("output directory"));
    }
}

#[test]
fn a_wrong_model_directory_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut command = aurist();
    command.args(["transcribe", "-m"]).arg(dir.path()).arg(short_clip());
    command
        .assert()
        .code(1)
        .stderr(contains(dir.path().to_str().expect("Unicode")));
}

#[test]
fn an_output_never_replaces_a_recording() {
    let dir = tempfile::tempdir().expect("a directory");
    let recording = dir.path().join("a.txt");
    fs::copy(short_clip(), &recording).expect("a copy");
    let mut command = aurist();
    command
        .args(["transcribe", "--adapt", "none", "--overwrite"])
        .arg(&recording)
        .arg("-o")
        .arg(dir.path());
    command.assert().code(1).stderr(contains("one of the recordings"));
    assert_eq!(fs::read(&recording).ok(), fs::read(short_clip()).ok());
}

#[cfg(unix)]
#[test]
fn a_dangling_link_is_one_bad_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let library = library(dir.path());
    std::os::unix::fs::symlink("nowhere.wav", library.join("link.wav")).expect("a link");
    let mut command = aurist();
    let ended = command
        .args(["transcribe", "--adapt", "none"])
        .arg(&library)
        .assert()
        .code(1);
    ended.stderr(contains("link.wav").and(contains("2 done, 1 failed")));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_standard_output_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_aurist"));
    command.env("AURIST_MODEL", "tiny.en-ctc");
    command
        .args(["transcribe", "--adapt", "none"])
        .arg(short_clip())
        .stdout(full);
    let output = command.output().expect("an end");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to standard output"));
}
