//! `--device`: what it says where there is no GPU, and, on the emulated one, that it transcribes as the CPU does and loses
//! nothing when the device fails.
#![cfg(all(feature = "cuda", feature = "bundled-model"))]

#[path = "cli_support/mod.rs"]
mod support;

use assert_cmd::Command;
use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use std::fs;
use std::path::{Path, PathBuf};
use support::{aurist, json_lines, tree};

/// Two seconds.
fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cards/002.wav")
}

/// Whether the GPU is the emulated one, which `kernels/check` says; its scenes are for it alone.
fn emulated() -> bool {
    let emulated = std::env::var_os("AURIST_GPU_TESTS").is_some_and(|value| value == "emulated");
    if !emulated {
        eprintln!("skipped: needs the emulated GPU (kernels/check)");
    }
    emulated
}

/// The command without the emulated GPU in its way; `None`, said aloud, where it finds a real one.
fn without_gpu() -> Option<Command> {
    let mut probe = aurist();
    probe
        .env_remove("LD_LIBRARY_PATH")
        .args(["transcribe", "--adapt", "none", "--device", "cuda:0"]);
    if probe.arg(clip()).output().unwrap().status.success() {
        eprintln!("skipped: there is a GPU");
        return None;
    }
    let mut command = aurist();
    command.env_remove("LD_LIBRARY_PATH").arg("transcribe");
    Some(command)
}

#[test]
fn without_a_driver_a_gpu_is_an_error_and_auto_is_the_cpu() {
    let Some(mut command) = without_gpu() else { return };
    command
        .args(["--device", "cuda:0"])
        .arg(clip())
        .assert()
        .code(1)
        .stdout("")
        .stderr(contains("NVIDIA driver").and(contains("use --device cpu")));
    let text = |device: &str| {
        let mut command = without_gpu().unwrap();
        let output = command
            .args(["--adapt", "none", "--device", device])
            .arg(clip())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!text("cpu").trim().is_empty());
    assert_eq!(text("cpu"), text("auto"));
}

#[test]
fn a_precision_is_a_gpus() {
    for arguments in [
        &["--cuda-precision", "tf32"][..],
        &["--cuda-precision", "exact", "--device", "cpu"],
    ] {
        aurist()
            .arg("transcribe")
            .args(arguments)
            .arg(clip())
            .assert()
            .code(2)
            .stdout("")
            .stderr(contains("add --device cuda:0 or --device auto"));
    }
    let mut wrong = aurist();
    wrong.args(["transcribe", "--device", "auto", "--cuda-precision", "f16"]);
    wrong.arg(clip()).assert().code(2).stderr(contains("exact, tf32, bf16"));
    // auto may come to the processor, which has one precision.
    let Some(mut command) = without_gpu() else { return };
    command.args(["--adapt", "none", "--device", "auto", "--cuda-precision", "bf16"]);
    command.arg(clip()).assert().success();
}

/// One JSON document of a run with SUTA on the bundled model.
fn transcribed(device: &str, more: &[&str]) -> serde_json::Value {
    let mut command = aurist();
    command.args(["transcribe", "--device", device, "--steps", "3", "-f", "json"]);
    command.args(more);
    let output = command.arg(clip()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_gpu_transcribes_as_the_cpu_does() {
    if !emulated() {
        return;
    }
    let (cpu, gpu) = (transcribed("cpu", &[]), transcribed("cuda:0", &[]));
    assert!(!cpu["text"].as_str().unwrap().is_empty());
    assert_eq!(cpu["text"], gpu["text"]);
    let (cpu, gpu) = (losses(&cpu), losses(&gpu));
    assert_eq!((cpu.len(), gpu.len()), (3, 3));
    for (cpu, gpu) in cpu.iter().zip(&gpu) {
        assert!((cpu / gpu - 1.0).abs() < 1e-4, "{cpu} on the CPU, {gpu} on the GPU");
    }
}

#[test]
fn a_whisper_writes_on_the_gpu_what_it_writes_on_the_processor() {
    if !emulated() {
        return;
    }
    let tokens = |device: &str| {
        let mut command = aurist();
        // A random one, which must not be taken for silence.
        let model = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/goldens/whisper-tiny");
        command.args([
            "transcribe",
            "-m",
            model,
            "--device",
            device,
            "--language",
            "en",
            "-f",
            "json",
        ]);
        command.args([
            "--beam-size",
            "1",
            "--temperature-fallback",
            "0",
            "--without-timestamps",
        ]);
        command.args(["--no-speech-threshold", "1", "--log-prob-threshold=-100"]);
        let output = command.arg(clip()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let utterances = document["utterances"].as_array().unwrap().iter();
        utterances
            .flat_map(|utterance| utterance["tokens"].as_array().unwrap().clone())
            .collect::<Vec<_>>()
    };
    let expected = tokens("cpu");
    assert!(!expected.is_empty());
    assert_eq!(tokens("cuda:0"), expected);
}

fn losses(document: &serde_json::Value) -> Vec<f64> {
    let losses = document["utterances"][0]["losses"].as_array().unwrap().iter();
    losses.map(|loss| loss.as_f64().unwrap()).collect()
}

#[test]
fn a_precision_is_that_of_the_products() {
    if !emulated() {
        return;
    }
    let of = |precision: &str| losses(&transcribed("cuda:0", &["--cuda-precision", precision]));
    let exact = losses(&transcribed("cuda:0", &[]));
    assert_eq!(exact, of("exact"));
    // Roundings of 2^-11 and 2^-8 through four layers: more than f32's, and not enough to change what is heard.
    for (precision, least, most) in [("tf32", 1e-7, 1e-3), ("bf16", 1e-5, 1e-2)] {
        let rounded = of(precision);
        let relative = |(exact, rounded): (&f64, &f64)| (rounded / exact - 1.0).abs();
        let difference = exact.iter().zip(&rounded).map(relative).fold(0.0, f64::max);
        assert!(difference > least && difference < most, "{precision}: {difference:e}");
    }
}

#[test]
fn another_precision_does_it_again() {
    if !emulated() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let done = |precision: &str| {
        let mut command = on("", "cuda:0");
        command.args(["--cuda-precision", precision, "--progress", "json", "-o"]);
        let output = command.arg(out.path()).arg(clip()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        json_lines(&output.stderr)
            .iter()
            .find(|event| event["event"] == "summary")
            .map(|summary| summary["done"].as_u64().unwrap())
            .unwrap()
    };
    let runs = ["exact", "exact", "bf16", "bf16", "tf32"].map(done);
    assert_eq!(runs, [1, 0, 1, 0, 1]);
}

/// A run on an emulated GPU in a certain state.
fn on(scene: &str, device: &str) -> Command {
    let mut command = aurist();
    command.env("AURIST_EMULATED_GPU", scene);
    command.args(["transcribe", "--adapt", "none", "--device", device]);
    command
}

#[test]
fn what_is_wrong_with_a_gpu_is_said() {
    if !emulated() {
        return;
    }
    for (scene, device, message) in [
        ("devices=0", "cuda:0", "finds no GPU"),
        ("devices=1", "cuda:1", "the only GPU is cuda:0"),
        ("devices=2", "cuda:2", "cuda:0 to cuda:1"),
        (
            "driver=12020",
            "cuda:0",
            "it has CUDA 12.2, and 12.4 is needed; update it to 550",
        ),
        ("driver=11040", "cuda:0", "too old"),
        ("capability=7", "cuda:0", "compute capability 7.0, and 8.0 is needed"),
        ("memory=1000000", "cuda:0", "could not allocate"),
    ] {
        let mut command = on(scene, device);
        command
            .arg(clip())
            .assert()
            .code(1)
            .stdout("")
            .stderr(contains(message));
    }
    let mut doctor = aurist();
    let report = doctor
        .env("AURIST_EMULATED_GPU", "devices=2")
        .args(["doctor", "--json"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["gpus"], serde_json::json!(["emulated GPU 0", "emulated GPU 1"]));
    // The second of two works.
    on("devices=2", "cuda:1").arg(clip()).assert().success();
}

#[test]
fn too_little_memory_for_one_recording_fails_that_one() {
    if !emulated() {
        return;
    }
    let out = tempfile::tempdir().unwrap();
    let long = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cards/005.wav");
    // The model takes 33 MB and the session's workspace 34; the shorter recording's activations 3.3 and the longer's 5.8.
    let mut command = on("memory=71000000", "cuda:0");
    command.args(["-j", "1", "-o"]).arg(out.path()).args([clip(), long]);
    command.assert().code(1).stderr(contains("could not allocate"));
    assert_eq!(tree(out.path()), ["002.txt"]);
}

#[test]
fn a_device_lost_in_mid_run_ends_the_run_and_loses_nothing() {
    if !emulated() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (library, out) = (dir.path().join("library"), dir.path().join("out"));
    fs::create_dir(&library).unwrap();
    for name in ["a.wav", "b.wav", "c.wav"] {
        fs::copy(clip(), library.join(name)).unwrap();
    }
    // Each takes some 28 launches: the second is under way when the device goes.
    let run = |scene: &str| {
        let mut command = on(scene, "cuda:0");
        command
            .args(["-j", "1", "--progress", "json", "-o"])
            .arg(&out)
            .arg(&library);
        command.output().unwrap()
    };
    let output = run("lost_after=40");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("emulated GPU 0 (cuda:0) failed"), "{stderr}");
    assert_eq!(tree(&out), ["a.txt"]);
    let first = fs::read(out.join("a.txt")).unwrap();
    // The same command again, the device being back, does the rest.
    let output = run("");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let skipped = json_lines(&output.stderr)
        .iter()
        .filter(|event| event["status"] == "skipped")
        .count();
    assert_eq!(tree(&out), ["a.txt", "b.txt", "c.txt"]);
    assert_eq!(fs::read(out.join("a.txt")).unwrap(), first);
    assert!(skipped <= 1);
}
