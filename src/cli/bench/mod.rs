//! `aurist bench`: models and methods side by side on test sets and conditions, scored and compared.
//!
//! `arguments` holds what was typed, `plan` what it means; `run` does it: `worker`s recognise and write the `journal`,
//! `results` scores what is in it.

mod arguments;
mod journal;
mod methods;
mod plan;
mod progress;
mod results;
mod run;
mod score;
mod worker;

pub(super) use arguments::Arguments;

use super::{Exit, Failure};
use arguments::Command;

/// Runs the command.
pub(super) fn run(typed: Arguments) -> Result<Exit, Failure> {
    match typed.command {
        Some(Command::Score(typed)) => score::run(&typed),
        None => run::run(typed.run),
    }
}
