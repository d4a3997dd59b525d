//! Which model a command takes: the one typed, the environment's, or the bundled one that suits the command.
#![cfg(feature = "bundled-model")]

mod cli_support;

use assert_cmd::Command;
use cli_support::{json_lines, short_clip};
use predicates::prelude::*;
use predicates::str::contains;

/// Without an environment of the tests' own.
fn aurist() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurist"));
    command.env_remove("AURIST_MODEL");
    command
}

fn transcribed(model: &[&str], environment: Option<&str>) -> serde_json::Value {
    let mut command = aurist();
    command
        .args(["transcribe", "--adapt", "none", "-f", "json", "--progress", "none"])
        .args(model)
        .arg(short_clip());
    if let Some(name) = environment {
        command.env("AURIST_MODEL", name);
    }
    let output = command.assert().success();
    serde_json::from_slice(&output.get_output().stdout).expect("JSON")
}

#[test]
fn without_a_model_whisper_writes_english_with_punctuation() {
    let heard = transcribed(&[], None);
    assert_eq!(heard["model"]["name"], "bundled:tiny.en");
    let text = heard["text"].as_str().expect("a text");
    assert!(text.contains("young man"), "{text}");
    assert!(
        text.chars().any(char::is_lowercase) && text.ends_with(['.', ',', '!', '?']),
        "{text}"
    );
}

#[test]
fn a_typed_model_comes_before_the_environments() {
    let ctc = transcribed(&["-m", "tiny.en-ctc"], Some("no/such/model"));
    assert_eq!(ctc["model"]["name"], "bundled:tiny.en-ctc");
    let from_environment = transcribed(&[], Some("tiny.en-ctc"));
    assert_eq!(ctc["text"], from_environment["text"]);
    let mut command = aurist();
    command
        .arg("transcribe")
        .arg(short_clip())
        .env("AURIST_MODEL", "no/such/model");
    command.assert().code(1).stderr(contains("no/such/model"));
}

/// The default is adapted only if asked, and not by every method: nobody gets less than was typed without a word.
#[test]
fn what_the_default_model_cannot_do_names_the_one_that_can() {
    for options in [
        &["--adapt", "guarded"][..],
        &["--fast"],
        &["--paper"],
        &["--adapt", "suta", "--safeguard"],
    ] {
        let mut command = aurist();
        command.arg("transcribe").args(options).arg(short_clip());
        command.assert().code(2).stderr(contains("-m tiny.en-ctc"));
    }
    let mut command = aurist();
    command.args(["transcribe", "--steps", "3"]).arg(short_clip());
    command.assert().success().stderr(contains("--steps has no effect"));
}

#[test]
fn both_bundled_models_are_listed_and_inspected() {
    let home = tempfile::tempdir().expect("a directory");
    let list = aurist()
        .args(["models", "list"])
        .env("HF_HOME", home.path())
        .assert()
        .success();
    list.stdout(contains("bundled:tiny.en ").and(contains("bundled:tiny.en-ctc")));
    for name in ["tiny.en", "tiny.en-ctc"] {
        let inspected = aurist()
            .args(["models", "inspect", "--json", name])
            .env("HF_HOME", home.path())
            .assert()
            .success();
        let report = json_lines(
            &inspected
                .get_output()
                .stdout
                .iter()
                .copied()
                .filter(|b| *b != b'\n')
                .collect::<Vec<_>>(),
        );
        assert_eq!(report.len(), 1, "{name}");
    }
}
