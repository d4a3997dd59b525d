//! `aurist doctor`: what this build can do on this machine, in words for a bug report.

use super::{Failure, cores};
use crate::audio::SAMPLE_RATE;
use crate::engine::cpu::{CpuBackend, measured_gflops};
use crate::{Recognizer, VERSION};
use clap::Args;
use serde::Serialize;

/// `aurist doctor`, as typed.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    platform: String,
    processor: String,
    instructions: &'static str,
    cores: usize,
    memory_gib: Option<f64>,
    gflops_one_thread: f64,
    gflops_all_threads: f64,
    microphone: &'static str,
    gpu: String,
    bundled_model: Result<Model, String>,
}

#[derive(Debug, Serialize)]
struct Model {
    name: String,
    identity: String,
    parameters: usize,
    /// Processing time over audio time of a synthetic 5 s clip.
    real_time_factor_unadapted: f64,
    real_time_factor_adapted: f64,
}

/// Runs `aurist doctor`.
pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let report = examine()?;
    let healthy = report.bundled_model.is_ok() || !cfg!(feature = "bundled-model");
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(Failure::failed)?);
    } else {
        print(&report);
    }
    if healthy {
        Ok(())
    } else {
        Err(Failure::failed(
            "the bundled model does not work on this machine; please report it with the lines above",
        ))
    }
}

fn examine() -> Result<Report, Failure> {
    let one = CpuBackend::new(1).map_err(Failure::failed)?;
    let all = CpuBackend::new(cores()).map_err(Failure::failed)?;
    Ok(Report {
        version: VERSION,
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: processor(),
        instructions: CpuBackend::instructions(),
        cores: cores(),
        memory_gib: memory_gib(),
        gflops_one_thread: measured_gflops(&one, 1024, 8),
        gflops_all_threads: measured_gflops(&all, 1024, 8),
        microphone: "not in this version",
        gpu: gpu(),
        bundled_model: try_model().map_err(|error| error.to_string()),
    })
}

fn print(report: &Report) {
    println!("aurist {} on {}", report.version, report.platform);
    println!("processor       {}", report.processor);
    println!("instructions    {}", report.instructions);
    println!("cores           {}", report.cores);
    if let Some(memory) = report.memory_gib {
        println!("memory          {memory:.1} GiB");
    }
    let (one, all) = (report.gflops_one_thread, report.gflops_all_threads);
    println!("matrix products {one:.0} GFLOP/s on one thread, {all:.0} on all (f32, 1024 x 1024)");
    println!("microphone      {}", report.microphone);
    println!("GPU             {}", report.gpu);
    match &report.bundled_model {
        Ok(model) => {
            println!(
                "bundled model   {}, {:.1} M parameters, {}",
                model.name,
                model.parameters as f64 / 1e6,
                &model.identity[..16]
            );
            let (plain, adapted) = (model.real_time_factor_unadapted, model.real_time_factor_adapted);
            println!(
                "self-test       ok: real-time factor {plain:.3} without adaptation, {adapted:.3} with (all threads)"
            );
        }
        Err(reason) => println!("bundled model   {reason}"),
    }
}

/// Loads the bundled model and runs it on five seconds of a synthetic voice-like tone.
fn try_model() -> Result<Model, crate::Error> {
    let recognizer = Recognizer::bundled()?;
    let seconds = 5;
    let samples: Vec<f32> = (0..seconds * SAMPLE_RATE)
        .map(|n| {
            let t = n as f32 / SAMPLE_RATE as f32;
            let syllable = (std::f32::consts::TAU * 3.0 * t).sin().max(0.0);
            let voice: f32 = (1..20)
                .map(|k| (std::f32::consts::TAU * 120.0 * k as f32 * t).sin() / k as f32)
                .sum();
            0.1 * syllable * voice
        })
        .collect();
    let factor = |config| -> Result<f64, crate::Error> {
        let mut session = recognizer.session(&config, cores())?;
        session.transcribe_utterance(&samples, 0.0)?;
        Ok(session.transcribe_utterance(&samples, 0.0)?.real_time_factor)
    };
    let real_time_factor_unadapted = factor(crate::AdaptationConfig::none())?;
    let real_time_factor_adapted = factor(recognizer.default_adaptation())?;
    let info = recognizer.info();
    Ok(Model {
        name: info.name.clone(),
        identity: info.identity.clone(),
        parameters: info.parameters,
        real_time_factor_unadapted,
        real_time_factor_adapted,
    })
}

/// The first line of a file that starts with a key, after its colon.
fn field(file: &str, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_string())
}

fn processor() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown to this program on this system".into())
}

fn memory_gib() -> Option<f64> {
    let kibibytes: f64 = field("/proc/meminfo", "MemTotal")?
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(kibibytes / (1 << 20) as f64)
}

fn gpu() -> String {
    let driver = field("/proc/driver/nvidia/version", "NVRM version");
    let seen = driver.map_or(String::new(), |version| {
        format!(" (an NVIDIA driver is installed: {version})")
    });
    format!("not used: this version has no CUDA backend{seen}")
}
