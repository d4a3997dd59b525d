//! `aurist transcribe -m DIR` on every architecture, with every method and choice of parameters; profiles.

use assert_cmd::Command;
use predicates::str::contains;
use serde_json::Value;
use std::path::{Path, PathBuf};

const MODELS: [&str; 8] = [
    "wav2vec2-base",
    "wav2vec2-large",
    "hubert-base",
    "hubert-large",
    "data2vec-audio",
    "wavlm-base",
    "wavlm-large",
    "whisper-ctc-tiny",
];

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A second of speech: the tiny Whisper has positions for no more.
fn clip(folder: &Path) -> PathBuf {
    let samples = aurist::audio::read_all(
        &repository("tests/data/librivox").join("sense_and_sensibility_01_austen_64kb-0880.wav"),
    );
    let path = folder.join("clip.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(&path, spec).unwrap();
    for sample in &samples.unwrap()[8_000..22_000] {
        writer.write_sample((sample * 32767.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
    path
}

fn aurist() -> Command {
    let mut command = Command::cargo_bin("aurist").unwrap();
    command.env("AURIST_MODEL", "tiny.en-ctc");
    command
}

fn transcribe(clip: &Path, model: &str, options: &[&str]) -> Value {
    let mut command = aurist();
    command
        .args(["transcribe", "-f", "json", "--progress", "none"])
        .arg(clip);
    command
        .arg("-m")
        .arg(repository("tests/data/goldens").join(model))
        .args(options);
    let output = command.assert().success().get_output().stdout.clone();
    serde_json::from_slice(&output).unwrap()
}

#[test]
fn every_architecture_runs_with_every_method_and_choice() {
    let folder = tempfile::tempdir().unwrap();
    let clip = clip(folder.path());
    for model in MODELS {
        let plain = transcribe(&clip, model, &["--adapt", "none"]);
        assert_eq!(plain["utterances"][0]["steps"], 0);
        for method in ["suta", "sdpl"] {
            for parameters in ["layer-norm", "feature", "layer-norm+feature", "bias", "all"] {
                let options = [
                    "--adapt",
                    method,
                    "--parameters",
                    parameters,
                    "--steps",
                    "2",
                    "--lr",
                    "1e-4",
                ];
                let adapted = transcribe(&clip, model, &options);
                let utterance = &adapted["utterances"][0];
                assert_eq!(
                    utterance["unadapted_text"], plain["utterances"][0]["text"],
                    "{model} {method}"
                );
                let steps = utterance["steps"].as_u64().unwrap();
                assert!(
                    steps == 2 || !utterance["guard"].is_null(),
                    "{model} {method} {parameters}: {utterance}"
                );
                let losses = utterance["losses"].as_array().unwrap();
                assert!(losses.iter().all(|loss| loss.as_f64().is_some_and(f64::is_finite)));
            }
        }
        for method in ["csuta", "dsuta", "awmc"] {
            for parameters in ["layer-norm+feature", "bias+layer-norm"] {
                let options = [
                    "--adapt",
                    method,
                    "--parameters",
                    parameters,
                    "--steps",
                    "2",
                    "--lr",
                    "1e-4",
                ];
                let utterance = &transcribe(&clip, model, &options)["utterances"][0];
                assert_eq!(utterance["carried"]["position"], 1, "{model} {method} {parameters}");
                assert!(
                    utterance["steps"] == 2 || !utterance["guard"].is_null() || method == "awmc",
                    "{model} {method} {parameters}: {utterance}"
                );
            }
        }
        let quirks = ["--paper", "--compat", "suta", "--steps", "2"];
        assert_eq!(transcribe(&clip, model, &quirks)["settings"]["compatibility"], "suta");
        let top = ["--parameters", "layer-norm", "--top-layers", "1", "--steps", "2"];
        assert_eq!(transcribe(&clip, model, &top)["settings"]["top_layers"], 1);
    }
}

#[test]
fn a_profile_is_where_adaptation_starts_from() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, profile) = (clip(folder.path()), folder.path().join("me.profile"));
    let saved = profile.to_str().unwrap();
    let model = "wav2vec2-base";
    let settings = ["--lr", "1e-3", "--parameters", "layer-norm", "--steps", "3"];
    let adapted = transcribe(&clip, model, &[&settings[..], &["--save-adapted", saved]].concat());
    let loaded = transcribe(&clip, model, &[&settings[..], &["--load-adapted", saved]].concat());
    let entropy = |document: &Value, when: &str| document["utterances"][0][when].as_f64().unwrap();
    // One utterance: the profile is exactly what adaptation left.
    let (left, found) = (entropy(&adapted, "entropy_after"), entropy(&loaded, "entropy_before"));
    assert!((left - found).abs() < 1e-6, "{left} {found}");
    assert!(entropy(&loaded, "entropy_after") < found);
    assert_ne!(adapted["model"]["identity"], loaded["model"]["identity"]);

    let mut command = aurist();
    command
        .args(["transcribe", "--progress", "none", "--load-adapted", saved])
        .arg(&clip);
    command.assert().code(1).stderr(contains("was made of another model"));
    let weights = repository("tests/data/goldens/wav2vec2-base/model.safetensors");
    let mut command = aurist();
    command
        .args(["transcribe", "--progress", "none"])
        .arg(&clip)
        .arg("--load-adapted")
        .arg(weights);
    command
        .assert()
        .code(1)
        .stderr(contains("was not written by --save-adapted"));
    let mut command = aurist();
    command
        .args(["transcribe", "--adapt", "none", "--save-adapted", saved])
        .arg(&clip);
    command
        .assert()
        .code(2)
        .stderr(contains("--save-adapted needs adaptation"));
}
