//! `aurist bench`: what is measured does not depend on how the run went, and what cannot be measured is said.

mod bench_support;
mod cli_support;

use bench_support::{bench, manifest, results, run};
use cli_support::aurist;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use std::fs;
use std::path::Path;

/// A journal without what took how long, sorted: jobs finish in any order.
fn journal(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("journal.jsonl")).expect("the journal");
    let mut lines: Vec<String> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .map(|mut line| {
            line.as_object_mut().expect("an object").remove("seconds");
            line.to_string()
        })
        .collect();
    lines.sort();
    lines
}

#[test]
fn interrupted_and_resumed_or_on_two_jobs_the_results_are_the_same_to_the_byte() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = ["--delta", "0.02", "--method", "suta:steps=2"];
    let whole = run(&dir.path().join("whole"), &[&options[..], &["--jobs", "1"]].concat());
    let parallel = run(&dir.path().join("parallel"), &[&options[..], &["--jobs", "2"]].concat());
    assert_eq!(whole, parallel);

    // Killed: the journal ends anywhere, in the middle of a line.
    let text = fs::read(dir.path().join("whole/journal.jsonl")).expect("the journal");
    let killed = dir.path().join("killed");
    fs::create_dir(&killed).expect("a directory");
    fs::write(killed.join("journal.jsonl"), &text[..text.len() * 2 / 5]).expect("a torn journal");
    let resumed = run(&killed, &[&options[..], &["--jobs", "2"]].concat());
    assert_eq!(whole, resumed);
    assert_eq!(journal(&dir.path().join("whole")), journal(&killed));

    // Nothing is left to do, and a report can be made without doing it again.
    let again = bench(&killed, &options).args(["--progress", "json"]).assert().success();
    // The table goes to standard output: a header, two conditions with two methods each, and what a change is.
    let table = String::from_utf8(again.get_output().stdout.clone()).expect("text");
    let rates: Vec<&str> = table.lines().skip(1).take(4).collect();
    assert!(
        table.starts_with("set ") && rates[0].contains("none") && rates[1].contains("suta:steps=2"),
        "{table}"
    );
    assert!(table.contains("change: from none"), "{table}");
    let summary = cli_support::json_lines(&again.get_output().stderr)
        .pop()
        .expect("a summary");
    assert_eq!(
        (summary["done"].as_u64(), summary["before"].as_u64()),
        (Some(0), Some(4))
    );
}

#[test]
fn two_seeds_differ_and_one_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let heard = |name: &str, seed: &str| -> Vec<String> {
        let out = dir.path().join(name);
        run(
            &out,
            &["--adapt", "none", "--no-clean", "--delta", "0.02", "--seed", seed],
        );
        let runs = results(&out)["runs"].clone();
        let utterances = runs[0]["hypotheses"].as_array().expect("hypotheses").clone();
        utterances
            .iter()
            .map(|utterance| utterance["heard"].as_str().expect("a hash").to_string())
            .collect()
    };
    let one = heard("one", "1");
    assert_eq!(one, heard("again", "1"));
    let other = heard("other", "2");
    assert!(one.iter().zip(&other).all(|(one, other)| one != other));
}

#[test]
fn the_source_model_is_not_run_twice_and_errs_as_it_does_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (alone, beside) = (dir.path().join("alone"), dir.path().join("beside"));
    run(&alone, &["--adapt", "none"]);
    run(
        &beside,
        &["--method", "suta:steps=2", "--method", "suta:steps=2,lr=5e-4"],
    );
    let texts = |dir: &Path| -> Vec<String> {
        let runs = results(dir)["runs"].clone();
        assert_eq!(runs[0]["method"], "none");
        let utterances = runs[0]["hypotheses"].as_array().expect("hypotheses").clone();
        utterances
            .iter()
            .map(|utterance| utterance["text"].to_string())
            .collect()
    };
    assert_eq!(texts(&alone), texts(&beside));
    // Two methods on two utterances, and no line for `none`.
    assert_eq!(journal(&beside).len(), 4);
    let runs = results(&beside)["runs"].clone();
    assert_eq!(runs[0]["forwards_per_utterance"], 1.0);
    assert_eq!(runs[1]["forwards_per_utterance"], 3.0);
    assert_eq!(runs[1]["hypotheses"][0]["entropies"].as_array().map(Vec::len), Some(3));
    assert_eq!(runs[1]["steps"][2]["step"], 2);
    assert!(runs[1]["steps"][2]["wer"].is_number());
}

#[test]
fn a_continual_method_begins_every_lane_with_the_source_model() {
    let dir = tempfile::tempdir().expect("a directory");
    let method = ["--method", "csuta:lr=1e-2,parameters=layer-norm"];
    let losses = |name: &str, options: &[&str]| -> Vec<Vec<String>> {
        let out = dir.path().join(name);
        run(&out, &[&method[..], options].concat());
        let results = results(&out);
        let runs = results["runs"].as_array().expect("runs").clone();
        let continual = runs.iter().filter(|run| run["method"] != "none");
        continual
            .map(|run| {
                run["hypotheses"]
                    .as_array()
                    .expect("hypotheses")
                    .iter()
                    .map(|h| h["losses"].to_string())
                    .collect()
            })
            .collect()
    };
    let both = losses("both", &["--delta", "0.02", "--jobs", "1"]);
    let noisy = losses("noisy", &["--delta", "0.02", "--no-clean", "--jobs", "1"]);
    assert_eq!(
        both[1], noisy[0],
        "what the clean lane taught does not reach the noisy one"
    );
    // But within a lane it carries on: alone, the second utterance starts elsewhere.
    let method = ["--method", "suta:steps=1,lr=1e-2,parameters=layer-norm"];
    let out = dir.path().join("episodic");
    run(&out, &[&method[..], &["--delta", "0.02", "--no-clean"]].concat());
    let runs = results(&out)["runs"].clone();
    let alone = |index: usize| runs[1]["hypotheses"][index]["losses"].to_string();
    assert_eq!(alone(0), noisy[0][0]);
    assert_ne!(alone(1), noisy[0][1]);
}

#[test]
fn a_stream_is_run_in_order_with_its_boundaries() {
    let dir = tempfile::tempdir().expect("a directory");
    let stream = dir.path().join("day.stream");
    fs::write(&stream, "2 clean\n3 gaussian@5\n").expect("a stream");
    let out = dir.path().join("out");
    run(
        &out,
        &[
            "--adapt",
            "none",
            "--no-clean",
            "--stream",
            stream.to_str().expect("a path"),
        ],
    );
    let results = results(&out);
    assert_eq!(
        results["conditions"][0]["blocks"],
        serde_json::json!([["clean", 2], ["gaussian@5", 3]])
    );
    let hypotheses = results["runs"][0]["hypotheses"].as_array().expect("hypotheses");
    let blocks: Vec<u64> = hypotheses
        .iter()
        .map(|utterance| utterance["block"].as_u64().expect("a block"))
        .collect();
    assert_eq!(blocks, [0, 0, 1, 1, 1]);
}

#[test]
fn what_the_model_hears_is_kept_at_the_true_ratio() {
    let dir = tempfile::tempdir().expect("a directory");
    let (out, mixed) = (dir.path().join("out"), dir.path().join("mixed"));
    let mixed_path = mixed.to_str().expect("a path");
    run(
        &out,
        &["--adapt", "none", "--noise", "gaussian@5", "--write-mixed", mixed_path],
    );
    let read = |condition: &str| {
        let folder = mixed.join("librivox").join(condition);
        let mut paths: Vec<_> = fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("a file").path())
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| aurist::audio::read_all(path).expect("a recording"))
            .collect::<Vec<_>>()
    };
    let (clean, noisy) = (read("clean"), read("gaussian@5"));
    assert_eq!(clean.len(), 2);
    for (clean, noisy) in clean.iter().zip(&noisy) {
        let noise: Vec<f32> = noisy.iter().zip(clean).map(|(noisy, clean)| noisy - clean).collect();
        let snr = 20.0 * (aurist::audio::mix::rms(clean) / aurist::audio::mix::rms(&noise)).log10();
        assert!((snr - 5.0).abs() < 0.01, "{snr}");
    }
}

#[test]
fn what_cannot_be_measured_is_said_before_any_work() {
    let dir = tempfile::tempdir().expect("a directory");
    let out = dir.path().join("out");
    let silent = dir.path().join("silent.wav");
    aurist::audio::mix::write_wav(&silent, &[0.0; 1600]).expect("a wav");
    let empty = dir.path().join("empty.jsonl");
    fs::write(&empty, "").expect("a file");
    let silent_noise = format!("{}@5", silent.display());
    for (options, code, message) in [
        (vec!["--noise", "missing.flac@5"], 1, "missing.flac"),
        (vec!["--noise", &silent_noise], 1, "the noise is silent"),
        (vec!["--noise", "gaussian"], 2, "signal-to-noise ratio is missing"),
        (
            vec!["--noise", "gaussian@loud"],
            2,
            "`loud` is no signal-to-noise ratio",
        ),
        (vec!["--delta", "0"], 2, "greater than 0"),
        (vec!["--condition", "underwater"], 2, "unknown condition"),
        (vec!["--method", "tent"], 2, "tent"),
        (vec!["--method", "suta:stops=1"], 2, "stops"),
        (vec!["--no-clean"], 2, "nothing to measure"),
        (vec!["--stream", "md-easy"], 2, "--stream-noises"),
        (vec!["--stream", "missing.stream"], 1, "missing.stream"),
        (vec!["--normalise", "shouting"], 2, "shouting"),
    ] {
        let ended = bench(&out, &options).assert().code(code).stderr(contains(message));
        assert!(ended.get_output().stdout.is_empty());
        assert!(!out.join("results.json").exists(), "{options:?}");
    }
    let mut command = aurist();
    command.args(["bench", "-o"]).arg(&out).arg(&empty);
    command.assert().code(1).stderr(contains("empty.jsonl"));
    let mut command = aurist();
    command.arg("bench").arg(manifest());
    command.assert().code(2).stderr(contains("--output-dir"));
}

#[test]
fn a_run_directory_that_cannot_be_written_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "in the way").expect("a file");
    bench(&file, &["--adapt", "none"])
        .assert()
        .code(1)
        .stderr(contains("cannot write to run directory"));
}

#[test]
fn an_utterance_that_cannot_be_read_is_left_out_of_every_method() {
    let dir = tempfile::tempdir().expect("a directory");
    let clips = cli_support::clips();
    fs::copy(&clips[1], dir.path().join("good.wav")).expect("a copy");
    fs::write(dir.path().join("bad.wav"), "no sound at all, only words").expect("a file");
    let lines = [
        ("good.wav", "he was not an ill disposed young man"),
        ("bad.wav", "no sound"),
    ]
    .map(|(path, text)| serde_json::json!({ "audio_filepath": path, "text": text }).to_string());
    let set = dir.path().join("set.jsonl");
    fs::write(&set, lines.join("\n")).expect("a manifest");
    let out = dir.path().join("out");
    let mut command = aurist();
    command
        .arg("bench")
        .arg(&set)
        .arg("-o")
        .arg(&out)
        .args(["--method", "suta:steps=1"]);
    command
        .assert()
        .code(1)
        .stderr(contains("bad.wav").and(contains("1 failed")));
    let results = results(&out);
    assert_eq!(results["runs"][0]["hypotheses"].as_array().map(Vec::len), Some(1));
    let failures = results["failures"].as_array().expect("failures");
    assert_eq!(failures.len(), 1);
    assert!(failures[0]["utterance"].as_str().expect("a name").contains("bad"));
}

/// Where a Whisper's second window begins depends on what it wrote in the first, so its unadapted transcript is not the
/// adapted run's `unadapted_text`: it was, and was wrong from the second window on.
#[test]
fn a_whisper_errs_without_adaptation_as_it_does_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let speech = root.join("tests/data/librivox/sense_and_sensibility_01_austen_64kb-0870.wav");
    let speech = aurist::audio::read_all(&speech).expect("a recording");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut wav = hound::WavWriter::create(dir.path().join("long.wav"), spec).expect("a file");
    for sample in speech.iter().cycle().take(70 * 16_000) {
        wav.write_sample((sample * 32_767.0) as i16).expect("a sample");
    }
    wav.finalize().expect("a file");
    let manifest = dir.path().join("set.jsonl");
    fs::write(&manifest, r#"{"audio_filepath": "long.wav", "text": "words"}"#).expect("a manifest");
    let unadapted = |name: &str, method: &[&str]| {
        let out = dir.path().join(name);
        let mut command = aurist();
        command.arg("bench").arg(&manifest).arg("-o").arg(&out).arg("-m");
        command
            .arg(root.join("tests/data/goldens/whisper-tiny"))
            .args(method)
            .assert()
            .success();
        let run = results(&out)["runs"][0].clone();
        assert_eq!(run["method"], "none");
        run["hypotheses"][0]["text"].to_string()
    };
    let beside = unadapted("beside", &["--method", "suta:no-guard,lr=0.1,steps=2"]);
    assert_eq!(unadapted("alone", &["--adapt", "none"]), beside);
}
