//! The command line: one file per command.

mod doctor;
mod transcribe;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

const EXIT_CODES: &str =
    "Exit codes: 0 all done; 1 something failed; 2 wrong usage, or nothing to do; 130 interrupted.";

/// Speech recognition that adapts its model to the recording it is hearing.
#[derive(Debug, Parser)]
#[command(name = "aurist", version, about, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Transcribe recordings: files, directories, or `-` for standard input.
    Transcribe(Box<transcribe::Arguments>),
    /// Tell what this build can do on this machine.
    Doctor(doctor::Arguments),
}

/// Why a command ended without success: the message for standard error and the exit code.
#[derive(Debug)]
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// Something went wrong while working.
    fn failed(message: impl std::fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            code: 1,
        }
    }

    /// The command as given cannot be carried out.
    fn usage(message: impl std::fmt::Display) -> Self {
        Self {
            message: message.to_string(),
            code: 2,
        }
    }
}

/// Runs the command line; the exit code is the process's.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Transcribe(arguments) => transcribe::run(*arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                eprintln!("error: {}", failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Cores this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get())
}
