//! The command line: one file per command, and what the commands share.

mod bench;
mod device;
mod doctor;
mod interrupt;
mod listen;
mod models;
#[cfg(feature = "serve")]
mod serve;
mod transcribe;

use clap::{Parser, Subcommand};
use std::fmt;
use std::io::Write;
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit codes:
  0    all done (or done before)
  1    some or all of it failed, or the run could not start; standard error says what and why
  2    wrong usage, or nothing to do
  130  interrupted (Ctrl-C); the same command goes on where it stopped";

/// Speech recognition that adapts its model to the recording it is hearing.
#[derive(Debug, Parser)]
#[command(name = "aurist", version, about, after_help = EXIT_CODES, max_term_width = 120)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Transcribe recordings, adapting the model to each utterance.
    Transcribe(Box<transcribe::Arguments>),
    /// Captions while somebody speaks, adapting the model as they do.
    Listen(Box<listen::Arguments>),
    /// Serve transcription over HTTP, as OpenAI's clients speak it, and live captions over WebSocket, with a page.
    #[cfg(feature = "serve")]
    Serve(Box<serve::Arguments>),
    /// Inspect, list and fetch models.
    Models(models::Arguments),
    /// Measure word error rates of models and adaptation methods on test sets, clean and in noise.
    Bench(Box<bench::Arguments>),
    /// Tell what this build can do on this machine, for you and for a bug report.
    Doctor(doctor::Arguments),
}

/// How a command ended. The values are part of the interface and documented in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    /// Everything asked for is done.
    Done = 0,
    /// Some or all of it failed.
    Failed = 1,
    /// The command line asks for something that cannot be, or for nothing.
    Usage = 2,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// The one error a command ends with: what to tell the user, and the exit code.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    message: String,
}

impl Failure {
    fn failed(message: impl fmt::Display) -> Self {
        Self {
            exit: Exit::Failed,
            message: message.to_string(),
        }
    }

    fn usage(message: impl fmt::Display) -> Self {
        Self {
            exit: Exit::Usage,
            message: message.to_string(),
        }
    }
}

/// Runs the command line; the exit code is the process's.
pub fn main() -> ExitCode {
    let ended = match CommandLine::parse().command {
        Command::Transcribe(typed) => transcribe::run(*typed),
        Command::Listen(typed) => listen::run(*typed),
        #[cfg(feature = "serve")]
        Command::Serve(typed) => serve::run(*typed),
        Command::Models(typed) => models::run(&typed),
        Command::Bench(typed) => bench::run(*typed),
        Command::Doctor(typed) => doctor::run(&typed),
    };
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            tell(format_args!("error: {}", failure.message));
            failure.exit.into()
        }
    }
}

/// A line on standard error. A closed standard error is no reason to stop, so unlike `eprintln!` it cannot panic.
fn tell(line: impl fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Cores this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}
