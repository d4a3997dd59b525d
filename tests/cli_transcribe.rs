//! `aurist transcribe` and `aurist doctor` doing what they are for.

mod cli_support;

use cli_support::{aurist, clips, json_lines, library, short_clip, tree};
use predicates::prelude::*;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn one_file_prints_its_text_and_nothing_else() {
    let ended = aurist()
        .args(["transcribe", "--adapt", "none"])
        .arg(short_clip())
        .assert()
        .success();
    let text = String::from_utf8_lossy(&ended.get_output().stdout).to_string();
    assert!(text.chars().any(char::is_alphabetic), "{text:?}");
    assert!(
        !text.contains('\t') && !text.contains("wav") && text.ends_with('\n'),
        "{text:?}"
    );
    ended.stderr(predicate::str::contains("1 done"));
}

#[test]
fn json_tells_everything_of_each_utterance() {
    let mut command = aurist();
    let ended = command
        .args(["transcribe", "-f", "json", "--steps", "2"])
        .arg(short_clip())
        .assert()
        .success();
    let json: Value = serde_json::from_slice(&ended.get_output().stdout).expect("one JSON object");
    for field in [
        "file",
        "duration",
        "text",
        "model",
        "settings",
        "version",
        "warnings",
        "utterances",
    ] {
        assert!(json.get(field).is_some(), "no {field}");
    }
    assert_eq!(json["settings"]["method"], "suta");
    assert_eq!(json["settings"]["steps"], 2);
    for field in ["name", "identity", "architecture"] {
        assert!(json["model"][field].is_string(), "no model {field}");
    }
    let utterance = &json["utterances"][0];
    for field in [
        "text",
        "unadapted_text",
        "start",
        "end",
        "words",
        "entropy_before",
        "entropy_after",
        "losses",
        "steps",
        "rollbacks",
        "forwards",
        "backwards",
        "stopped",
        "guard",
        "compute_seconds",
        "real_time_factor",
    ] {
        assert!(utterance.get(field).is_some(), "no {field}");
    }
    assert_eq!(utterance["losses"].as_array().map(Vec::len), Some(2));
    // Each step's logits serve the next: one forward pass more than steps, not two a step.
    assert_eq!(
        (&utterance["forwards"], &utterance["backwards"]),
        (&3.into(), &2.into())
    );
    for field in ["word", "start", "end", "confidence"] {
        assert!(utterance["words"][0].get(field).is_some(), "no word's {field}");
    }
}

#[test]
fn the_papers_settings_are_one_flag_away_and_single_options_override_them() {
    let mut command = aurist();
    command
        .args(["transcribe", "-f", "json", "--paper", "--steps", "1"])
        .arg(short_clip());
    let ended = command.assert().success();
    let json: Value = serde_json::from_slice(&ended.get_output().stdout).expect("one JSON object");
    let settings = &json["settings"];
    assert_eq!(settings["learning_rate"], 2e-5);
    assert_eq!(settings["temperature"], 2.5);
    assert_eq!(settings["parameters"], "layer-norm+feature");
    assert_eq!(settings["steps"], 1);
}

#[test]
fn what_an_utterance_cost_and_why_it_stopped_is_in_the_json() {
    let utterance = |options: &[&str]| {
        let mut command = aurist();
        command
            .args(["transcribe", "-f", "json"])
            .args(options)
            .arg(short_clip());
        let ended = command.assert().success();
        let json: Value = serde_json::from_slice(&ended.get_output().stdout).expect("one JSON object");
        json["utterances"][0].clone()
    };
    let fast = utterance(&["--fast"]);
    assert_eq!((&fast["forwards"], &fast["backwards"]), (&4.into(), &3.into()));
    assert_eq!(fast["stopped"], Value::Null);
    // Nobody is so unsure: everything counts as confident.
    let skipped = utterance(&["--skip-confident", "100"]);
    assert_eq!((&skipped["forwards"], &skipped["backwards"]), (&1.into(), &0.into()));
    assert_eq!(skipped["stopped"], "confident");
    assert_eq!(skipped["text"], skipped["unadapted_text"]);
    // Any change of the loss counts as none.
    let settled = utterance(&["--stop-when-settled=1e9", "--settled-steps", "1"]);
    assert_eq!(settled["stopped"], "settled");
    assert!(settled["steps"].as_u64().is_some_and(|steps| steps < 10));
    let guarded = utterance(&["--safeguard", "--steps", "2", "--lr", "1e30"]);
    assert_eq!((&guarded["steps"], &guarded["rollbacks"]), (&0.into(), &2.into()));
    assert_eq!(guarded["text"], guarded["unadapted_text"]);
}

#[test]
fn several_files_come_in_order_each_line_after_its_path() {
    let clips = clips();
    let mut command = aurist();
    // The last is named twice and done once.
    let ended = command
        .args(["transcribe", "--adapt", "none", "-j", "3"])
        .args(&clips)
        .arg(&clips[4])
        .assert()
        .success();
    let text = String::from_utf8_lossy(&ended.get_output().stdout).to_string();
    let mut files: Vec<&str> = text
        .lines()
        .map(|line| line.split_once('\t').expect("a tab").0)
        .collect();
    files.dedup();
    assert_eq!(
        files,
        clips
            .iter()
            .map(|clip| clip.to_str().expect("Unicode"))
            .collect::<Vec<_>>()
    );
}

#[test]
fn several_files_as_json_are_one_object_a_line() {
    let clips = &clips()[..2];
    let mut command = aurist();
    let ended = command
        .args(["transcribe", "--adapt", "none", "-f", "json"])
        .args(clips)
        .assert()
        .success();
    assert_eq!(json_lines(&ended.get_output().stdout).len(), 2);
}

#[test]
fn a_directory_becomes_a_tree_of_outputs_in_every_format() {
    let dir = tempfile::tempdir().expect("a directory");
    let (library, out) = (library(dir.path()), dir.path().join("deep/out"));
    let mut command = aurist();
    command
        .args(["transcribe", "--adapt", "none", "-f", "txt,json", "-f", "all", "-o"])
        .arg(&out)
        .arg(&library);
    command
        .assert()
        .success()
        .stdout("")
        .stderr(predicate::str::contains("2 done"));
    let formats = ["ctm", "json", "srt", "tsv", "txt", "vtt"];
    let expected: Vec<String> = ["a", "sub/b"]
        .iter()
        .flat_map(|stem| formats.map(|f| format!("{stem}.{f}")))
        .collect();
    assert_eq!(tree(&out), expected);
    assert!(fs::read_to_string(out.join("a.vtt")).is_ok_and(|vtt| vtt.starts_with("WEBVTT\n\n00:00:")));
    assert!(fs::read_to_string(out.join("sub/b.ctm")).is_ok_and(|ctm| ctm.starts_with("b 1 ")));
}

#[test]
fn outputs_of_one_name_do_not_overwrite_each_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let (one, other, out) = (dir.path().join("one"), dir.path().join("other"), dir.path().join("out"));
    for (dir, name) in [
        (&one, "a.wav"),
        (&one, "a.wave"),
        (&one, "b.wav"),
        (&other, "b.wav"),
        (&one, "c.wav"),
    ] {
        fs::create_dir_all(dir).expect("a directory");
        fs::copy(short_clip(), dir.join(name)).expect("a copy");
    }
    let mut command = aurist();
    command
        .args(["transcribe", "--adapt", "none", "-o"])
        .arg(&out)
        .args([&one, &other])
        .assert()
        .success();
    let outputs = tree(&out);
    assert_eq!(outputs.len(), 5, "{outputs:?}");
    for name in ["a.wav.txt", "a.wave.txt", "c.txt"] {
        assert!(outputs.contains(&name.to_string()), "{outputs:?}");
    }
}

#[test]
fn standard_input_is_a_recording_like_any_other() {
    let sound = fs::read(short_clip()).expect("a recording");
    let named = aurist()
        .args(["transcribe", "--adapt", "none"])
        .arg(short_clip())
        .assert()
        .success();
    let piped = aurist()
        .args(["transcribe", "--adapt", "none", "-"])
        .write_stdin(sound.clone())
        .assert()
        .success();
    assert_eq!(named.get_output().stdout, piped.get_output().stdout);
    let dir = tempfile::tempdir().expect("a directory");
    // What was piped cannot be compared with what is piped, so it is done each time.
    for _ in 0..2 {
        let mut command = aurist();
        command
            .args(["transcribe", "--adapt", "none", "-", "-o"])
            .arg(dir.path())
            .write_stdin(sound.clone());
        command.assert().success().stderr(predicate::str::contains("1 done"));
    }
    assert_eq!(tree(dir.path()), ["stdin.txt"]);
}

#[test]
fn progress_as_json_is_an_object_for_every_event() {
    let dir = tempfile::tempdir().expect("a directory");
    let library = library(dir.path());
    fs::write(library.join("c.wav"), "no sound").expect("a file");
    let mut command = aurist();
    let ended = command
        .args(["transcribe", "--adapt", "none", "--progress", "json"])
        .arg(&library)
        .assert()
        .code(1);
    let events = json_lines(&ended.get_output().stderr);
    let count = |kind: &str| events.iter().filter(|event| event["event"] == kind).count();
    assert_eq!(
        (count("start"), count("file"), count("error"), count("summary")),
        (1, 2, 1, 1)
    );
    let summary = events.last().expect("a summary");
    assert_eq!(
        (&summary["done"], &summary["failed"]),
        (&Value::from(2), &Value::from(1))
    );
    assert!(summary["audio_seconds"].as_f64().is_some_and(|seconds| seconds > 1.0));
}

#[test]
fn plain_progress_is_a_line_a_file_and_none_is_silence() {
    let lines = |how: &str| {
        let mut command = aurist();
        let ended = command
            .args(["transcribe", "--adapt", "none", "--progress", how])
            .arg(short_clip())
            .assert()
            .success();
        String::from_utf8_lossy(&ended.get_output().stderr).to_string()
    };
    assert!(
        lines("plain")
            .lines()
            .any(|line| line.contains("done") && line.contains(".wav"))
    );
    assert_eq!(lines("none"), "");
}

#[cfg(unix)]
#[test]
fn a_reader_that_has_enough_ends_the_run_quietly() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurist"));
    command.env("AURIST_MODEL", "tiny.en-ctc");
    command.args(["transcribe", "--adapt", "none", "-j", "1"]).args(clips());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process");
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("a pipe"))
        .read_line(&mut first)
        .expect("a line");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn doctor_tells_what_a_bug_report_needs() {
    let words = aurist().arg("doctor").assert().success();
    let text = String::from_utf8_lossy(&words.get_output().stdout).to_string();
    for word in [
        "aurist",
        "processor",
        "GFLOP/s",
        "microphone",
        "GPU",
        "bundled model",
        "real-time factor",
    ] {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    let json = aurist().args(["doctor", "--json"]).assert().success();
    let json: Value = serde_json::from_slice(&json.get_output().stdout).expect("one JSON object");
    assert!(json["gflops_one_thread"].as_f64().is_some_and(|rate| rate > 0.0));
}

#[test]
fn help_states_examples_defaults_and_exit_codes() {
    let help = aurist().args(["transcribe", "--help"]).assert().success();
    let text = String::from_utf8_lossy(&help.get_output().stdout).to_string();
    for word in ["Examples:", "else suta]", "Exit codes:", "130", "--overwrite"] {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    aurist()
        .arg("--version")
        .assert()
        .success()
        .stdout(predicate::str::starts_with("aurist "));
}
