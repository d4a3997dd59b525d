//! What was typed.

use crate::cli::transcribe::AdaptationArguments;
use clap::Args;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  aurist listen                                   captions of what the microphone hears (feature `mic`)
  aurist listen --input talk.mp3                  a file, as if it were spoken now
  aurist listen --input talk.mp3 --speed 4        four times as fast; --speed 0: as fast as it goes
  arecord -q -f S16_LE -r 16000 -t wav | aurist listen --input -
  aurist listen --adapt dsuta --state me.stream   carry what was learned from utterance to utterance, and on
  aurist listen --save meeting/                   keep the audio, the captions and everything known of them

On a terminal the line being spoken is shown as it changes; committed words are bright, the others dim. An
utterance stands below until it is adapted to, then it moves up for good: words the model is less sure of are dim,
and a ~ before it says that adaptation changed it. Elsewhere each utterance is one line, once it is final for good;
with --json every event is (docs/live.md describes them).

--save DIR: audio.wav (16 kHz, mono), captions.srt and events.jsonl, written as they come: a process that is killed
loses no committed word. DIR must not hold another recording.";

/// `aurist listen`, as typed.
#[derive(Debug, Args)]
#[command(after_help = "Run with --help for examples.", after_long_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// A file, or `-` for standard input, instead of the microphone; played in real time.
    #[arg(short, long, value_name = "FILE")]
    pub(super) input: Option<PathBuf>,

    /// How many times faster than real time FILE is played; 0 for as fast as possible, skipping nothing.
    #[arg(long, value_name = "N", default_value = "1", requires = "input", value_parser = speed)]
    pub(super) speed: f64,

    /// List the microphones, each with the system's identifier and its name, and end.
    #[arg(long)]
    pub(super) list_devices: bool,

    /// The microphone whose identifier or name is NAME, or whose name contains it [default: the system's].
    #[arg(long, value_name = "NAME", conflicts_with = "input")]
    pub(super) device_name: Option<String>,

    /// Directory or name of a CTC model: bundled, or fetched by `aurist models pull` [default: $AURIST_MODEL, or
    /// tiny.en-ctc, which is bundled].
    #[arg(short, long, value_name = "DIR|NAME")]
    pub(super) model: Option<PathBuf>,

    /// Keep audio, captions and events in DIR.
    #[arg(long, value_name = "DIR")]
    pub(super) save: Option<PathBuf>,

    /// Every event as one JSON object a line, on standard output.
    #[arg(long)]
    pub(super) json: bool,

    /// Seconds after an utterance in which it should be adapted to; with less time, fewer steps are taken.
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub(super) latency: f64,

    /// Seconds of silence that end an utterance, 0.2 to 5.
    #[arg(long, value_name = "SECONDS", default_value = "0.8", value_parser = hang_over)]
    pub(super) hang_over: f64,

    /// The longest utterance in seconds, 2 or more; never more than the model takes.
    #[arg(long, value_name = "SECONDS", default_value = "20", value_parser = longest)]
    pub(super) longest: f64,

    #[command(flatten)]
    pub(super) adaptation: AdaptationArguments,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value == 0.0 || (0.01..=1000.0).contains(&value) => Ok(value),
        _ => Err("give 0, or a number from 0.01 to 1000".into()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value <= 3600.0 => Ok(value),
        _ => Err("give seconds, more than 0 and at most 3600".into()),
    }
}

fn hang_over(text: &str) -> Result<f64, String> {
    let within = |value: &f64| (0.2..=5.0).contains(value);
    let value = text.parse::<f64>().ok().filter(within);
    value.ok_or_else(|| "give seconds, from 0.2 to 5".into())
}

fn longest(text: &str) -> Result<f64, String> {
    let within = |value: &f64| (2.0..=3600.0).contains(value);
    let value = text.parse::<f64>().ok().filter(within);
    value.ok_or_else(|| "give seconds, from 2 to 3600".into())
}
