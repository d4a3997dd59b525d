//! `aurist models`: what a model is, which are here, and fetching more.

mod inspect;
mod list;
mod names;
mod pull;

pub(super) use names::resolve;

use super::{Exit, Failure};
use clap::{Args, Subcommand};
use std::io::{ErrorKind, Write};

const EXAMPLES: &str = "\
Examples:
  aurist models pull wav2vec2-base-960h                      into the Hugging Face cache
  aurist transcribe talk.wav -m facebook/wav2vec2-base-960h  from there
  aurist models list                                         what is there
  aurist models inspect my-model/                            what a directory is, or what is wrong";

/// `aurist models`, as typed.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell what a model is, what adaptation would move in it, or what is wrong with it.
    Inspect(inspect::Arguments),
    /// List the bundled models and those in the Hugging Face cache.
    List(list::Arguments),
    /// Fetch a model from the Hugging Face hub into the cache.
    Pull(pull::Arguments),
}

/// Runs the command.
pub(super) fn run(typed: &Arguments) -> Result<Exit, Failure> {
    match &typed.command {
        Command::Inspect(typed) => inspect::run(typed),
        Command::List(typed) => list::run(typed),
        Command::Pull(typed) => pull::run(typed),
    }
}

/// Standard output; a reader that has enough is no error.
fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::failed(format_args!(
            "cannot write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Bytes in words: 377.6 MB.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
