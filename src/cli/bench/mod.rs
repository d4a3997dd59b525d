//! `aurist bench`: measuring recognition.

mod score;
mod table;

use super::{Exit, Failure};
use clap::{Args, Subcommand};
use std::io::{ErrorKind, Write as _};

/// `aurist bench`, as typed.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Score given hypotheses against references, without a model.
    Score(Box<score::Arguments>),
}

pub(super) fn run(typed: &Arguments) -> Result<Exit, Failure> {
    match &typed.command {
        Command::Score(typed) => score::run(typed),
    }
}

/// What a command is for, on standard output. A reader that stopped reading is no failure.
fn print(text: &str) -> Result<Exit, Failure> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::failed(format_args!("standard output: {error}")))
        }
        _ => Ok(Exit::Done),
    }
}
