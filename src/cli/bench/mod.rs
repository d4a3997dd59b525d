//! `aurist bench`: measuring recognition.

mod score;

use super::{Exit, Failure};
use clap::{Args, Subcommand};

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
