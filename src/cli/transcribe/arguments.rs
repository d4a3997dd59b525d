//! What was typed, and what it means.

use crate::cli::{Failure, cores};
use crate::output::Format;
use crate::{AdaptationConfig, Method, ParameterChoice, Recognizer};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  aurist transcribe talk.mp3                        the text, on standard output
  aurist transcribe talk.mp3 -f srt > talk.srt      subtitles
  aurist transcribe recordings/ -o out/ -f txt,json one output a recording; run it again to resume
  ffmpeg -i film.mkv -f wav - | aurist transcribe - from another program
  aurist transcribe talk.wav --adapt none           the source model as it is

Adaptation is on by default: SUTA, 10 steps an utterance, with the learning rate and parameters that were
chosen for the model (for the bundled one 1e-3 and layer-norm). --paper gives the settings of the paper's scripts:
learning rate 2e-5, layer-norm+feature, temperature 2.5, 10 steps.

With -o, a journal in the output directory remembers what is done: a second run skips recordings whose content and
settings have not changed.

Exit codes: 0 all done; 1 something failed; 2 wrong usage, or nothing to do; 130 interrupted.";

/// `aurist transcribe`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// Recordings, directories of recordings, or `-` for standard input.
    #[arg(value_name = "PATH", required = true)]
    pub(super) paths: Vec<PathBuf>,

    /// Model directory (config.json, vocab.json, model.safetensors) [default: the bundled model]
    #[arg(short, long, value_name = "DIR")]
    pub(super) model: Option<PathBuf>,

    /// How to adapt to each utterance
    #[arg(long, value_enum, default_value = "suta", help_heading = "Adaptation")]
    adapt: Adapt,

    /// Optimizer steps an utterance [default: the model's, else 10]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000), help_heading = "Adaptation")]
    steps: Option<u32>,

    /// Learning rate [default: the model's, else 2e-5]
    #[arg(long = "lr", value_name = "X", value_parser = positive, help_heading = "Adaptation")]
    learning_rate: Option<f64>,

    /// Softmax temperature of the objective [default: 2.5]
    #[arg(long, value_name = "X", value_parser = positive, help_heading = "Adaptation")]
    temperature: Option<f64>,

    /// Which tensors move [default: the model's, else layer-norm+feature]
    #[arg(long, value_enum, value_name = "SET", help_heading = "Adaptation")]
    parameters: Option<Parameters>,

    /// Start from the paper's settings instead of the model's
    #[arg(long, help_heading = "Adaptation")]
    paper: bool,

    /// Output formats, separated by commas or repeated: txt, json, srt, vtt, tsv, ctm, all
    #[arg(short, long = "format", value_name = "FORMAT", value_delimiter = ',', default_value = "txt", value_parser = formats, help_heading = "Output")]
    format: Vec<Formats>,

    /// Write one output a recording into this directory, mirroring the input's tree
    #[arg(short, long, value_name = "DIR", help_heading = "Output")]
    pub(super) output_dir: Option<PathBuf>,

    /// Do everything again, and overwrite files that are there
    #[arg(long, help_heading = "Output")]
    pub(super) overwrite: bool,

    /// Progress on standard error: a bar on a terminal, lines, JSON lines, or nothing
    #[arg(long, value_enum, default_value = "auto", help_heading = "Output")]
    pub(super) progress: ProgressMode,

    /// Recordings worked on at once [default: one a core, as far as there are recordings]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), help_heading = "Machine")]
    jobs: Option<u16>,

    /// Where to compute: cpu, auto, or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto", value_parser = device, help_heading = "Machine")]
    device: Device,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Adapt {
    /// The source model as it is
    None,
    /// Single-utterance test-time adaptation, episodic (Lin, Li and Lee 2022)
    Suta,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Parameters {
    /// Every layer norm
    LayerNorm,
    /// The convolutional front-end
    Feature,
    /// Both, as in the paper
    #[value(name = "layer-norm+feature")]
    LayerNormAndFeature,
    /// Every bias of the encoder
    Bias,
}

/// How progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ProgressMode {
    /// A bar on a terminal, otherwise a summary only
    Auto,
    /// A line a recording
    Plain,
    /// A JSON object a line: events `start`, `done`, `skipped`, `warning`, `error`, `summary`
    Json,
    /// Errors only
    None,
}

#[derive(Debug, Clone)]
enum Device {
    Cpu,
    Auto,
    Cuda(u32),
}

#[derive(Debug, Clone)]
enum Formats {
    One(Format),
    All,
}

fn formats(text: &str) -> Result<Formats, String> {
    if text == "all" {
        Ok(Formats::All)
    } else {
        text.parse().map(Formats::One)
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("give a positive number, such as 1e-3".into()),
    }
}

fn device(text: &str) -> Result<Device, String> {
    match text {
        "cpu" => Ok(Device::Cpu),
        "auto" => Ok(Device::Auto),
        "cuda" => Ok(Device::Cuda(0)),
        _ => {
            let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
            number
                .map(Device::Cuda)
                .ok_or_else(|| "give cpu, auto or cuda:N, such as cuda:0".into())
        }
    }
}

impl Arguments {
    /// Refuses a device that this build has not.
    pub(super) fn check_device(&self) -> Result<(), Failure> {
        match self.device {
            Device::Cpu | Device::Auto => Ok(()),
            Device::Cuda(number) => Err(Failure::usage(format!(
                "this build has no CUDA backend, so cuda:{number} cannot be used; use --device cpu"
            ))),
        }
    }

    /// The formats asked for, each once, in a fixed order.
    pub(super) fn formats(&self) -> Result<Vec<Format>, Failure> {
        let asked = |format: &Format| {
            self.format.iter().any(|one| match one {
                Formats::All => true,
                Formats::One(one) => one == format,
            })
        };
        let formats: Vec<Format> = Format::ALL.into_iter().filter(asked).collect();
        if self.output_dir.is_none() && formats.len() > 1 {
            return Err(Failure::usage(
                "several formats cannot share standard output; give -o DIR, or one format",
            ));
        }
        Ok(formats)
    }

    /// The adaptation settings: the model's (or the paper's), changed by what was typed.
    pub(super) fn adaptation(&self, recognizer: &Recognizer) -> AdaptationConfig {
        let base = if self.paper {
            AdaptationConfig::paper()
        } else {
            recognizer.default_adaptation()
        };
        AdaptationConfig {
            method: match self.adapt {
                Adapt::None => Method::None,
                Adapt::Suta => Method::Suta,
            },
            steps: self.steps.map_or(base.steps, |steps| steps as usize),
            learning_rate: self.learning_rate.unwrap_or(base.learning_rate),
            temperature: self.temperature.unwrap_or(base.temperature),
            parameters: self.parameters.map_or(base.parameters, |set| match set {
                Parameters::LayerNorm => ParameterChoice::LayerNorm,
                Parameters::Feature => ParameterChoice::Feature,
                Parameters::LayerNormAndFeature => ParameterChoice::LayerNormAndFeature,
                Parameters::Bias => ParameterChoice::Bias,
            }),
            ..base
        }
    }

    /// Recordings at once, and threads for each: recordings first, as they share nothing; threads within one only
    /// where cores would be idle.
    pub(super) fn split(&self, recordings: usize) -> (usize, usize) {
        let jobs = self.jobs.map_or_else(cores, usize::from).min(recordings).max(1);
        (jobs, (cores() / jobs).max(1))
    }
}
