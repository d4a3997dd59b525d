//! `aurist listen`: a recording played to it, and what it leaves on disk, however it ends.

use crate::cli_support::{aurist, clips, json_lines, short_clip, tree};
use predicates::str::contains;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn of_type<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["type"] == kind).collect()
}

#[test]
fn a_file_becomes_lines_and_a_saved_recording() {
    let folder = tempfile::tempdir().expect("a directory");
    let save = folder.path().join("saved");
    let mut command = aurist();
    command
        .args(["listen", "--speed", "0", "--adapt", "csuta", "--input"])
        .arg(short_clip());
    command
        .arg("--save")
        .arg(&save)
        .arg("--state")
        .arg(folder.path().join("state"));
    let ended = command.assert().success();
    let text = String::from_utf8_lossy(&ended.get_output().stdout).into_owned();
    assert!(
        text.starts_with("[0:00:0") && text.trim_end().lines().count() == 1,
        "{text}"
    );
    assert_eq!(tree(&save), ["audio.wav", "captions.srt", "events.jsonl"]);
    assert!(folder.path().join("state").exists());
    let events = json_lines(&fs::read(save.join("events.jsonl")).expect("events"));
    assert_eq!(events[0]["type"], "begin");
    assert_eq!(
        (of_type(&events, "final").len(), of_type(&events, "revision").len()),
        (1, 1)
    );
    let said = of_type(&events, "revision")[0]["text"]
        .as_str()
        .expect("a text")
        .to_owned();
    assert!(text.contains(&said));
    let captions = fs::read_to_string(save.join("captions.srt")).expect("captions");
    let cues = captions
        .lines()
        .filter(|line| !line.contains("-->") && line.parse::<u32>().is_err());
    assert_eq!(cues.collect::<Vec<_>>().join(" ").trim(), said);
    // The audio is the recording's, to the sample.
    let [original, saved] =
        [short_clip(), save.join("audio.wav")].map(|path| aurist::audio::read_all(&path).expect("audio"));
    assert_eq!(original.len(), saved.len());
    assert!(original.iter().zip(&saved).all(|(a, b)| (a - b).abs() < 1e-4));
    // What is there is never overwritten.
    command.assert().failure().code(1).stderr(contains("another directory"));
}

#[test]
fn usage_errors_say_what_to_do() {
    aurist()
        .args(["listen", "--stream-by", "all", "--adapt", "csuta", "--input", "x"])
        .assert()
        .code(2);
    // Nothing is taken for something else without a word.
    for (flag, value, wanted) in [
        ("--hang-over", "9", "from 0.2 to 5"),
        ("--longest", "1", "from 2"),
        ("--speed", "0.001", "give 0"),
        ("--latency", "0", "more than 0"),
    ] {
        let refused = aurist().args(["listen", "--input", "x", flag, value]).assert();
        refused.code(2).stderr(contains(wanted));
    }
    let missing = aurist().args(["listen", "--input", "no-such-file.wav"]).assert();
    missing.code(1).stderr(contains("no-such-file.wav"));
    if !cfg!(feature = "mic") {
        aurist()
            .arg("listen")
            .assert()
            .code(2)
            .stderr(contains("--features mic"));
    }
}

/// A long enough recording: the clips one after the other, with pauses.
fn long_recording(path: &Path) {
    let mut samples = Vec::new();
    for clip in clips() {
        samples.extend(aurist::audio::read_all(&clip).expect("audio"));
        samples.extend(std::iter::repeat_n(0.0, 20_000));
    }
    aurist::audio::mix::write_wav(path, &samples).expect("a recording");
}

/// The events that a process shows up to and with so many finals.
fn events_until_finals(child: &mut Child, finals: usize) -> Vec<Value> {
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut events: Vec<Value> = Vec::new();
    while of_type(&events, "final").len() < finals {
        let line = lines.next().expect("more events").expect("a line");
        events.push(serde_json::from_str(&line).expect("JSON"));
    }
    // Somebody goes on reading: the process must not end because nobody does.
    std::thread::spawn(move || lines.for_each(drop));
    events
}

fn listen(input: &Path, save: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurist"));
    command.args([
        "listen",
        "--json",
        "--speed",
        "2",
        "--adapt",
        "none",
        "--hang-over",
        "0.4",
        "--input",
    ]);
    command
        .arg(input)
        .arg("--save")
        .arg(save)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command.spawn().expect("aurist")
}

/// A disk that is full, made of a limit on the size of files.
#[cfg(unix)]
#[test]
fn captions_go_on_when_the_disk_is_full() {
    let folder = tempfile::tempdir().expect("a directory");
    let (input, save) = (folder.path().join("long.wav"), folder.path().join("saved"));
    long_recording(&input);
    let mut command = assert_cmd::Command::new("sh");
    command
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\"",
            env!("CARGO_BIN_EXE_aurist"),
        ])
        .args(["listen", "--speed", "0", "--adapt", "none", "--input"])
        .arg(&input)
        .arg("--save")
        .arg(&save);
    let ended = command.assert().failure().code(1);
    let (shown, told) = (&ended.get_output().stdout, &ended.get_output().stderr);
    let told = String::from_utf8_lossy(told);
    assert!(
        told.starts_with("error: cannot write to ") && told.lines().count() == 1,
        "{told}"
    );
    assert_eq!(String::from_utf8_lossy(shown).lines().count(), clips().len());
    // What was kept until then is whole.
    let audio = aurist::audio::read_all(&save.join("audio.wav")).expect("the audio is a valid file");
    assert!(audio.len() > 45_000, "{}", audio.len());
    assert!(!json_lines(&fs::read(save.join("events.jsonl")).expect("events")).is_empty());
}

/// It was silent, with exit code 0.
#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_told() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
    let ended = Command::new(env!("CARGO_BIN_EXE_aurist"))
        .args(["listen", "--json", "--speed", "0", "--adapt", "none", "--input"])
        .arg(short_clip())
        .stdout(full)
        .output()
        .expect("aurist");
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(told.contains("standard output") && told.lines().count() == 1, "{told}");
    assert_eq!(ended.status.code(), Some(1));
}

#[test]
fn a_killed_process_has_lost_no_committed_caption() {
    let folder = tempfile::tempdir().expect("a directory");
    let (input, save) = (folder.path().join("long.wav"), folder.path().join("saved"));
    long_recording(&input);
    let mut child = listen(&input, &save);
    let shown = events_until_finals(&mut child, 2);
    // SIGKILL.
    child.kill().expect("killed");
    child.wait().expect("ended");
    let kept = json_lines(&fs::read(save.join("events.jsonl")).expect("events"));
    let captions = fs::read_to_string(save.join("captions.srt")).expect("captions");
    for is_final in of_type(&shown, "final") {
        assert!(of_type(&kept, "final").contains(&is_final));
        // A revision may have taken its place meanwhile.
        let revised = of_type(&kept, "revision")
            .into_iter()
            .find(|event| event["utterance"] == is_final["utterance"]);
        let stands = revised.unwrap_or(is_final);
        let first = stands["words"][0]["word"].as_str().expect("a word");
        assert!(captions.contains(first), "{captions}");
    }
    for partial in of_type(&shown, "partial") {
        let stable = partial["stable"].as_u64().expect("a number") as usize;
        let on_disk = of_type(&kept, "partial")
            .into_iter()
            .rfind(|event| event["utterance"] == partial["utterance"]);
        for word in 0..stable {
            let on_disk = on_disk.expect("what was committed is on disk");
            assert_eq!(on_disk["words"][word]["word"], partial["words"][word]["word"]);
        }
    }
    let audio = aurist::audio::read_all(&save.join("audio.wav")).expect("the audio is a valid file");
    let heard = shown.last().and_then(|event| event["end"].as_f64()).expect("seconds");
    // The header may be a second behind.
    assert!(audio.len() as f64 / 16_000.0 >= heard - 1.1, "{} {heard}", audio.len());
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_what_was_said() {
    let folder = tempfile::tempdir().expect("a directory");
    let (input, save) = (folder.path().join("long.wav"), folder.path().join("saved"));
    long_recording(&input);
    let mut child = listen(&input, &save);
    events_until_finals(&mut child, 1);
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.expect("kill").success());
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    let events = json_lines(&fs::read(save.join("events.jsonl")).expect("events"));
    let (finals, revisions) = (of_type(&events, "final").len(), of_type(&events, "revision").len());
    assert!(finals >= 1 && finals == revisions, "{finals} {revisions}");
}
