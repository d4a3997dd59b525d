//! `aurist bench`: models and methods side by side on test sets and conditions, scored and compared.
//!
//! `arguments` holds what was typed, `plan` what it means; `run` does it: `worker`s recognise and write the `journal`,
//! `results` scores what is in it. `score` scores transcripts that are there already.

mod arguments;
mod journal;
mod methods;
mod overview;
mod plan;
mod progress;
mod results;
mod run;
mod score;
mod table;
mod worker;

pub(super) use arguments::Arguments;

use super::{Exit, Failure};
use arguments::Command;
use std::io::{ErrorKind, Write as _};

/// Runs the command.
pub(super) fn run(typed: Arguments) -> Result<Exit, Failure> {
    match typed.command {
        Some(Command::Score(typed)) => score::run(&typed),
        None => run::run(typed.run),
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
