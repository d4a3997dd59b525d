//! Continual methods on the command line: the result depends on the stream alone, not on how many jobs ran, nor on
//! where a run was stopped.

mod cli_support;

use aurist::adapt::StreamState;
use cli_support::{aurist, clips, json_lines, run_into, tree};
use predicates::str::contains;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};

const DSUTA: [&str; 8] = [
    "--adapt",
    "dsuta",
    "--steps",
    "1",
    "--buffer",
    "2",
    "--reset",
    "dynamic:10",
];

/// A directory of `folders` times `count` short recordings.
fn library(dir: &Path, folders: &[&str], count: usize) -> PathBuf {
    let library = dir.join("library");
    for (place, folder) in folders.iter().enumerate() {
        fs::create_dir_all(library.join(folder)).expect("a directory");
        for n in 0..count {
            // 0880, 0890 and so on: the first is the longest.
            let clip = &clips()[1 + (n + place) % 4];
            fs::copy(clip, library.join(folder).join(format!("{n}.wav"))).expect("a copy");
        }
    }
    library
}

/// What a recording's JSON says but for how long it took.
fn what_matters(mut document: Value) -> Value {
    for utterance in document["utterances"].as_array_mut().expect("utterances") {
        let fields = utterance.as_object_mut().expect("an object");
        fields.remove("compute_seconds");
        fields.remove("real_time_factor");
    }
    document
}

fn outputs(out: &Path) -> Vec<(String, Value)> {
    let read = |name: String| {
        let text = fs::read_to_string(out.join(&name)).expect("an output");
        (name, what_matters(serde_json::from_str(&text).expect("JSON")))
    };
    names(out).into_iter().map(read).collect()
}

/// The outputs' names, without what a killed run left half written.
fn names(out: &Path) -> Vec<String> {
    let whole = |name: &String| name.ends_with(".json");
    tree(out).into_iter().filter(whole).collect()
}

fn options<'a>(more: &[&'a str]) -> Vec<&'a str> {
    DSUTA
        .into_iter()
        .chain(["-f", "json"])
        .chain(more.iter().copied())
        .collect()
}

/// The documents of a run to standard output.
fn printed(paths: &[PathBuf], more: &[&str]) -> Vec<Value> {
    let mut command = aurist();
    let ended = command
        .args(["transcribe", "-j", "1"])
        .args(options(more))
        .args(paths)
        .assert()
        .success();
    let documents = json_lines(&ended.get_output().stdout).into_iter();
    documents.map(what_matters).collect()
}

#[test]
fn streams_are_the_same_whatever_the_jobs_and_go_on_where_they_stopped() {
    let dir = tempfile::tempdir().expect("a directory");
    let library = library(dir.path(), &["a", "b"], 4);
    let by_directory = ["--stream-by", "directory"];
    let (alone, together) = (dir.path().join("alone"), dir.path().join("together"));
    assert_eq!(
        run_into(&alone, &library, &options(&["--stream-by", "directory", "-j", "1"])),
        (8, 0)
    );
    assert_eq!(
        run_into(&together, &library, &options(&["--stream-by", "directory", "-j", "4"])),
        (8, 0)
    );
    let expected = outputs(&alone);
    assert_eq!(outputs(&together), expected);
    let of = |name: &str| &expected.iter().find(|(n, _)| n == name).expect("an output").1;
    let last = &of("a/3.json")["utterances"][0]["carried"];
    assert_eq!(
        (&last["position"], &last["updates"]),
        (&Value::from(4), &Value::from(1))
    );
    assert!(last["slow_loss"].is_number(), "{last}");
    assert_eq!(
        of("b/0.json")["utterances"][0]["carried"]["updates"],
        0,
        "a stream of its own"
    );
    assert!(of("b/0.json")["stream"].as_str().is_some_and(|key| key.ends_with("b")));
    assert_eq!(run_into(&alone, &library, &options(&by_directory)), (0, 8));

    // A run that had got so far: the last recordings of both streams are new.
    let late = dir.path().join("late");
    let moved: Vec<_> = ["a/2.wav", "a/3.wav", "b/3.wav"].map(|name| library.join(name)).into();
    for (n, path) in moved.iter().enumerate() {
        fs::rename(path, dir.path().join(format!("{n}.kept"))).expect("a move");
    }
    assert_eq!(run_into(&late, &library, &options(&by_directory)), (5, 0));
    for (n, path) in moved.iter().enumerate() {
        fs::rename(dir.path().join(format!("{n}.kept")), path).expect("a move");
    }
    assert_eq!(run_into(&late, &library, &options(&by_directory)), (3, 5));
    assert_eq!(outputs(&late), expected);

    // A kill between an output and its state: that recording is done again, from the state before.
    let states = || -> Vec<PathBuf> {
        let entries = fs::read_dir(&late)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path());
        let mut states: Vec<PathBuf> = entries
            .filter(|path| path.to_string_lossy().contains("stream-"))
            .collect();
        states.sort();
        states
    };
    let kept: Vec<Vec<u8>> = states().iter().map(|path| fs::read(path).expect("a state")).collect();
    assert_eq!(kept.len(), 2);
    fs::copy(&clips()[1], library.join("a/4.wav")).expect("a copy");
    assert_eq!(run_into(&late, &library, &options(&by_directory)), (1, 8));
    let whole = outputs(&late);
    for (path, bytes) in states().iter().zip(&kept) {
        fs::write(path, bytes).expect("a state");
    }
    fs::copy(&clips()[2], library.join("a/5.wav")).expect("a copy");
    assert_eq!(run_into(&late, &library, &options(&by_directory)), (2, 8));
    assert_eq!(outputs(&late)[..5], whole[..5]);

    // Without its state, and with another recording at its start, a stream is done from its start.
    fs::remove_file(library.join("a/5.wav")).expect("a file");
    fs::copy(&clips()[3], library.join("b/0.wav")).expect("a copy");
    assert_eq!(run_into(&late, &library, &options(&by_directory)), (4, 5));
    assert_ne!(
        outputs(&late).last().map(|(_, document)| document.clone()),
        expected.last().map(|(_, d)| d.clone())
    );
}

#[test]
fn a_stream_in_a_file_is_one_stream_however_often_it_is_stopped() {
    let dir = tempfile::tempdir().expect("a directory");
    let library = library(dir.path(), &["a"], 5);
    let files: Vec<PathBuf> = (0..5).map(|n| library.join(format!("a/{n}.wav"))).collect();
    let whole = printed(&files, &[]);
    let state = dir.path().join("stream.safetensors");
    let state = state.to_str().expect("a path");
    let mut parts = Vec::new();
    for part in [&files[..2], &files[2..4]] {
        parts.extend(printed(part, &["--state", state]));
    }
    assert_eq!(parts, whole[..4]);
    // Into a directory, and again: what the stream has heard is done, the rest goes on.
    let out = dir.path().join("out");
    assert_eq!(run_into(&out, &files[4], &options(&["--state", state])), (1, 0));
    assert_eq!(run_into(&out, &files[4], &options(&["--state", state])), (0, 1));
    assert_eq!(outputs(&out), [("4.json".to_string(), whole[4].clone())]);

    for (arguments, message) in [
        (vec!["--adapt", "csuta", "--state", state], "other adaptation settings"),
        (vec!["--adapt", "dsuta", "--state", state], "other adaptation settings"),
    ] {
        let mut command = aurist();
        command.arg("transcribe").arg(&files[0]).args(arguments);
        command.assert().code(1).stderr(contains(message));
    }
    fs::write(state, "no state").expect("a file");
    let mut command = aurist();
    command
        .arg("transcribe")
        .arg(&files[0])
        .args(options(&["--state", state]));
    command.assert().code(1).stderr(contains("not a stream's state"));
    assert_eq!(
        fs::read_to_string(state).expect("the file"),
        "no state",
        "and not written over"
    );
}

#[test]
fn a_recording_that_fails_is_passed_over_by_its_stream() {
    let dir = tempfile::tempdir().expect("a directory");
    let library = library(dir.path(), &["a"], 3);
    let good = [
        library.join("a/0.wav"),
        library.join("a/1.wav"),
        library.join("a/2.wav"),
    ];
    let expected = printed(&good, &[]);
    fs::write(library.join("a/0b.wav"), "no sound").expect("a file");
    let mut command = aurist();
    let ended = command
        .args(["transcribe", "-j", "1"])
        .args(options(&[]))
        .arg(&library)
        .assert()
        .code(1);
    let found: Vec<Value> = json_lines(&ended.get_output().stdout)
        .into_iter()
        .map(what_matters)
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn options_that_contradict_the_method_are_refused() {
    for (arguments, message) in [
        (vec!["--reset", "dynamic"], "--reset needs --adapt dsuta"),
        (
            vec!["--adapt", "csuta", "--reset", "fixed:50"],
            "--reset needs --adapt dsuta",
        ),
        (vec!["--adapt", "dsuta", "--reset", "fixed"], "fixed:50"),
        (vec!["--adapt", "dsuta", "--reset", "dynamic:3"], "at least 10"),
        (vec!["--adapt", "dsuta", "--reset", "collapse:0"], "collapse:X"),
        (vec!["--adapt", "dsuta", "--stochastic-restore", "2"], "from 0 to 1"),
        (
            vec!["--adapt", "guarded", "--reset", "dynamic"],
            "--reset needs --adapt dsuta or replay",
        ),
        (
            vec!["--adapt", "dsuta", "--reservoir", "5"],
            "--reservoir needs --adapt replay",
        ),
        (vec!["--adapt", "cea", "--safeguard"], "takes all its steps"),
        (vec!["--adapt", "cea", "--state", "x"], "--state needs"),
        (vec!["--state", "x"], "--state needs --adapt csuta"),
        (
            vec!["--adapt", "suta", "--stream-by", "all"],
            "--stream-by needs --adapt csuta",
        ),
        (vec!["--adapt", "csuta", "--stream-by", "speaker"], "--manifest"),
        (
            vec!["--adapt", "csuta", "--stream-by", "directory", "--state", "x"],
            "one stream",
        ),
        (vec!["--adapt", "csuta", "--save-adapted", "x"], "--state"),
        (
            vec!["--adapt", "dsuta", "--reset", "oracle", "--stream-by", "directory"],
            "never does",
        ),
        (vec!["--adapt", "csuta", "--manifest", "x"], "--stream-by"),
    ] {
        let mut command = aurist();
        command.arg("transcribe").arg(&clips()[1]).args(&arguments);
        command.assert().code(2).stderr(contains(message));
    }
}

#[cfg(unix)]
#[test]
fn a_stream_that_is_killed_goes_on_from_its_state_as_one_that_was_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let library = library(dir.path(), &["a"], 6);
    for method in ["guarded", "replay"] {
        let path = |name: &str| dir.path().join(format!("{name}-{method}"));
        let (whole, killed) = (path("whole"), path("killed"));
        let state = |name: &str| path(name).with_extension("safetensors").display().to_string();
        let (of_whole, of_killed) = (state("whole"), state("killed"));
        let arguments = ["--adapt", method, "--steps", "1", "-f", "json", "--state"];
        let options_of_whole = [&arguments[..], &[of_whole.as_str()]].concat();
        let options_of_killed = [&arguments[..], &[of_killed.as_str()]].concat();
        assert_eq!(run_into(&whole, &library, &options_of_whole), (6, 0));
        // SIGKILL as soon as two recordings are done, whatever it is doing then.
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_aurist"))
            .env("AURIST_MODEL", "tiny.en-ctc")
            .args(["transcribe", "--progress", "none", "-o"])
            .args([&killed, &library])
            .args(&options_of_killed)
            .spawn()
            .expect("a child");
        let done = || if killed.exists() { names(&killed).len() } else { 0 };
        while done() < 2 && child.try_wait().expect("a state").is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.kill().expect("a kill");
        child.wait().expect("its end");
        assert!((2..6).contains(&done()), "{method}: it was killed in the middle");
        let (again, kept) = run_into(&killed, &library, &options_of_killed);
        assert_eq!(again + kept, 6, "{method}");
        assert!(kept > 0, "{method}: it went on, and did not begin again");
        assert!(outputs(&killed) == outputs(&whole), "{method}: the outputs");
        let carried = |path: &str| StreamState::load(Path::new(path)).expect("a state");
        assert!(carried(&of_killed) == carried(&of_whole), "{method}: the states");
    }
}
