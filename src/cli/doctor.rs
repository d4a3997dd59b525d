//! `aurist doctor`: what this build can do on this machine, in words for a bug report.

use super::{Exit, Failure, cores};
use crate::audio::SAMPLE_RATE;
#[cfg(feature = "cuda")]
use crate::engine::EngineError;
use crate::engine::cpu::{CpuBackend, measured_gflops};
#[cfg(feature = "cuda")]
use crate::engine::cuda::device_names;
use crate::{AdaptationConfig, Bundled, ModelInfo, Recognizer, Utterance, VERSION};
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Length of the self-test's recording in seconds.
const SELF_TEST_SECONDS: u32 = 2;
/// Side of the square matrices, and how many products, whose rate is measured.
const GEMM_SIDE: usize = 768;
const GEMM_PRODUCTS: usize = 8;

/// `aurist doctor`, as typed.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 all checks pass, 1 one fails; what to do is said beside it.")]
pub(super) struct Arguments {
    /// One JSON object instead of words.
    #[arg(long)]
    json: bool,
}

/// What was found; the JSON output has these fields.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    os: &'static str,
    architecture: &'static str,
    processor: Option<String>,
    /// What the engine's matrix products use.
    instructions: &'static str,
    /// Of the processor's features, those that matter to the engine.
    features: Vec<&'static str>,
    cores: usize,
    memory_gib: Option<f64>,
    memory_available_gib: Option<f64>,
    gflops_one_thread: Option<f64>,
    gflops_all_threads: Option<f64>,
    microphone: bool,
    /// The GPUs that `--device cuda:N` can name.
    gpus: Vec<String>,
    /// Why there are none.
    no_gpu: Option<String>,
    nvidia_driver: Option<String>,
    nvidia_library: Option<PathBuf>,
    bundled_models: Vec<ModelInfo>,
    self_test: Option<SelfTest>,
    /// What does not work, and what to do about it.
    problems: Vec<String>,
}

/// Processing time over audio time, on all threads.
#[derive(Debug, Serialize)]
struct SelfTest {
    real_time_factor_unadapted: f64,
    /// `None` where the model heard nothing in the synthetic voice, and so had nothing to adapt to.
    real_time_factor_adapted: Option<f64>,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let report = examine();
    let text = if arguments.json {
        serde_json::to_string_pretty(&report).map_err(Failure::failed)? + "\n"
    } else {
        describe(&report)
    };
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::failed(format_args!(
            "cannot write to standard output: {error}"
        ))),
        _ if report.problems.is_empty() => Ok(Exit::Done),
        _ => Ok(Exit::Failed),
    }
}

fn examine() -> Report {
    let mut problems = Vec::new();
    let gflops_one_thread = gflops(1, &mut problems);
    let gflops_all_threads = if cores() > 1 {
        gflops(cores(), &mut problems)
    } else {
        gflops_one_thread
    };
    let (bundled_models, self_test) = try_bundled(&mut problems);
    let (gpus, no_gpu) = gpus();
    Report {
        version: VERSION,
        os: std::env::consts::OS,
        architecture: std::env::consts::ARCH,
        processor: processor(),
        instructions: CpuBackend::instructions(),
        features: features(),
        cores: cores(),
        memory_gib: memory("MemTotal"),
        memory_available_gib: memory("MemAvailable"),
        gflops_one_thread,
        gflops_all_threads,
        microphone: cfg!(feature = "mic"),
        gpus,
        no_gpu,
        nvidia_driver: field(Path::new("/proc/driver/nvidia/version"), "NVRM version"),
        nvidia_library: nvidia_library(),
        bundled_models,
        self_test,
        problems,
    }
}

fn gflops(threads: usize, problems: &mut Vec<String>) -> Option<f64> {
    match CpuBackend::new(threads) {
        Ok(backend) => Some(measured_gflops(&backend, GEMM_SIDE, GEMM_PRODUCTS)),
        Err(error) => {
            problems.push(format!(
                "cannot start {threads} threads ({error}): allow this user more threads"
            ));
            None
        }
    }
}

/// The GPUs' names, or why there are none.
#[cfg(feature = "cuda")]
fn gpus() -> (Vec<String>, Option<String>) {
    match device_names() {
        Ok(names) => (names, None),
        Err(EngineError::NoGpu(why)) => (Vec::new(), Some(why)),
        Err(error) => (Vec::new(), Some(error.to_string())),
    }
}

#[cfg(not(feature = "cuda"))]
fn gpus() -> (Vec<String>, Option<String>) {
    let why = "this aurist was built without the feature `cuda`";
    (Vec::new(), Some(why.to_string()))
}

/// Loads the bundled models and runs the CTC model on a synthetic voice, as itself and adapting.
fn try_bundled(problems: &mut Vec<String>) -> (Vec<ModelInfo>, Option<SelfTest>) {
    let mut models = Vec::new();
    let mut tested = None;
    if !cfg!(feature = "bundled-model") {
        return (models, tested);
    }
    for bundled in Bundled::ALL {
        match Recognizer::bundled(bundled) {
            Ok(recognizer) => {
                if bundled == Bundled::TinyEnCtc {
                    let result = self_test(&recognizer);
                    tested = result
                        .map_err(|error| {
                            problems.push(format!(
                                "the self-test failed ({error}): please report this with the lines above"
                            ));
                        })
                        .ok();
                }
                models.push(recognizer.info().clone());
            }
            Err(error) => problems.push(format!(
                "the bundled model {} cannot be loaded ({error}): install aurist again, and report this",
                bundled.name()
            )),
        }
    }
    (models, tested)
}

fn self_test(recognizer: &Recognizer) -> Result<SelfTest, String> {
    let samples = synthetic_voice();
    let run = |config: &AdaptationConfig| -> Result<Utterance, String> {
        let mut session = recognizer.session(config, cores()).map_err(|error| error.to_string())?;
        let mut again = || {
            session
                .transcribe_utterance(&samples, 0.0)
                .map_err(|error| error.to_string())
        };
        // The first finds memory cold and unallocated, which no second utterance does.
        again()?;
        let utterance = again()?;
        if finite(&utterance) {
            Ok(utterance)
        } else {
            Err("a result is not finite".to_string())
        }
    };
    let unadapted = run(&AdaptationConfig::none())?;
    let adapted = run(&recognizer.default_adaptation())?;
    Ok(SelfTest {
        real_time_factor_unadapted: unadapted.real_time_factor,
        real_time_factor_adapted: (adapted.steps > 0).then_some(adapted.real_time_factor),
    })
}

fn finite(utterance: &Utterance) -> bool {
    let entropies = [utterance.entropy_before, utterance.entropy_after];
    utterance
        .losses
        .iter()
        .copied()
        .chain(entropies.into_iter().flatten())
        .all(f32::is_finite)
}

/// Three vowels a second, 16 kHz mono: harmonics of 120 Hz under the resonances (Hz) of [a], [i] and [o].
fn synthetic_voice() -> Vec<f32> {
    const VOWELS: [[f32; 3]; 3] = [[700.0, 1200.0, 2600.0], [300.0, 2300.0, 3000.0], [450.0, 850.0, 2500.0]];
    let gain = |frequency: f32, resonances: &[f32; 3]| -> f32 {
        let resonance = |centre: &f32| 1.0 / (1.0 + ((frequency - centre) / 90.0).powi(2));
        resonances.iter().map(resonance).sum()
    };
    let sample = |n: u32| {
        let seconds = n as f32 / SAMPLE_RATE as f32;
        let vowel = &VOWELS[(seconds * 3.0) as usize % VOWELS.len()];
        let frequencies = (1..40_u8).map(|k| 120.0 * f32::from(k));
        let turns = std::f32::consts::TAU * seconds;
        let voice: f32 = frequencies
            .map(|frequency| gain(frequency, vowel) * (turns * frequency).sin())
            .sum();
        0.1 * (turns * 3.0).sin().max(0.0) * voice
    };
    (0..SELF_TEST_SECONDS * SAMPLE_RATE).map(sample).collect()
}

fn describe(report: &Report) -> String {
    let mut text = format!("aurist {} on {} {}\n", report.version, report.os, report.architecture);
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<16}{value}");
    };
    let unknown = || "unknown on this system".to_string();
    line("processor", report.processor.clone().unwrap_or_else(unknown));
    line(
        "instructions",
        format!(
            "{} in use; processor has {}",
            report.instructions,
            list(&report.features)
        ),
    );
    line("threads", report.cores.to_string());
    line(
        "memory",
        match (report.memory_gib, report.memory_available_gib) {
            (Some(total), Some(available)) => format!("{total:.1} GiB, {available:.1} GiB available"),
            _ => unknown(),
        },
    );
    if let (Some(one), Some(all)) = (report.gflops_one_thread, report.gflops_all_threads) {
        let size = format!("f32, {GEMM_SIDE} x {GEMM_SIDE}");
        line(
            "matrix products",
            format!("{one:.0} GFLOP/s on one thread, {all:.0} on all ({size})"),
        );
    }
    let microphone = if report.microphone {
        "in this build; aurist listen --list-devices shows what is there"
    } else {
        "not in this build (feature mic)"
    };
    line("microphone", microphone.to_string());
    line(
        "GPU",
        match (&report.no_gpu, &report.nvidia_driver) {
            (None, _) => {
                let numbered = report.gpus.iter().enumerate();
                let names: Vec<String> = numbered.map(|(index, name)| format!("cuda:{index} {name}")).collect();
                names.join(", ")
            }
            (Some(why), Some(driver)) => format!("none: {why} (NVIDIA driver: {driver})"),
            (Some(why), None) => format!("none: {why}"),
        },
    );
    for model in &report.bundled_models {
        let millions = model.parameters as f64 / 1e6;
        let identity = model.identity.get(..16).unwrap_or(&model.identity);
        line(
            "bundled model",
            format!("{}, {millions:.1} M parameters, {identity}", model.name),
        );
    }
    if report.bundled_models.is_empty() && report.problems.is_empty() {
        line("bundled model", "none in this build: use -m DIR".to_string());
    }
    if let Some(test) = &report.self_test {
        let unadapted = test.real_time_factor_unadapted;
        let adapted = test
            .real_time_factor_adapted
            .map_or(String::new(), |factor| format!(", adapting {factor:.3}"));
        line(
            "self-test",
            format!("OK: real-time factor {unadapted:.3}{adapted} (all threads)"),
        );
    }
    for problem in &report.problems {
        line("PROBLEM", problem.clone());
    }
    text
}

fn list(features: &[&str]) -> String {
    if features.is_empty() {
        "none of note".to_string()
    } else {
        features.join(" ")
    }
}

fn features() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let known = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(target_arch = "aarch64")]
    let known = [("neon", std::arch::is_aarch64_feature_detected!("neon"))];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let known: [(&str, bool); 0] = [];
    known
        .into_iter()
        .filter(|(_, present)| *present)
        .map(|(name, _)| name)
        .collect()
}

/// The value after the colon of a file's first line that starts with `key`.
fn field(file: &Path, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn processor() -> Option<String> {
    if cfg!(target_os = "macos") {
        let output = std::process::Command::new("sysctl")
            .args(["-n", "machdep.cpu.brand_string"])
            .output()
            .ok()?;
        return String::from_utf8(output.stdout)
            .ok()
            .map(|name| name.trim().to_string());
    }
    field(Path::new("/proc/cpuinfo"), "model name").or_else(|| std::env::var("PROCESSOR_IDENTIFIER").ok())
}

fn memory(key: &str) -> Option<f64> {
    let kibibytes: f64 = field(Path::new("/proc/meminfo"), key)?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(kibibytes / (1 << 20) as f64)
}

/// Where the driver's library lies, if it is in one of its usual places.
fn nvidia_library() -> Option<PathBuf> {
    let fixed = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/usr/lib",
        "/usr/lib/wsl/lib",
    ];
    let listed = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&listed).chain(fixed.map(PathBuf::from)).collect();
    let names = dirs
        .iter()
        .map(|dir| dir.join("libcuda.so.1"))
        .chain([PathBuf::from(r"C:\Windows\System32\nvcuda.dll")]);
    names.into_iter().find(|path| path.is_file())
}
