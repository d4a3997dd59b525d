//! `aurist bench score`: error rates of given hypotheses.

use crate::cli::{Exit, Failure};
use crate::eval::{Costs, Counts, Normaliser, word_counts};
use clap::Args;
use std::path::{Path, PathBuf};

/// `aurist bench score`, as typed.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The references, a line an utterance.
    #[arg(value_name = "REFERENCE")]
    reference: PathBuf,
    /// The hypotheses, in the same order.
    #[arg(value_name = "HYPOTHESIS")]
    hypothesis: PathBuf,
    /// What both texts go through first.
    #[arg(long, value_name = "NAME", default_value_t)]
    normalise: Normaliser,
}

pub(super) fn run(typed: &Arguments) -> Result<Exit, Failure> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| Failure::failed(format_args!("{}: {error}", path.display())))
    };
    let (reference, hypothesis) = (read(&typed.reference)?, read(&typed.hypothesis)?);
    let (lines, others) = (reference.lines().count(), hypothesis.lines().count());
    if lines != others {
        return Err(Failure::failed(format_args!(
            "{lines} reference lines, {others} hypothesis lines"
        )));
    }
    let counts: Counts = reference
        .lines()
        .zip(hypothesis.lines())
        .map(|(reference, hypothesis)| {
            let apply = |text| typed.normalise.apply(text);
            word_counts(&apply(reference), &apply(hypothesis), Costs::Levenshtein)
        })
        .sum();
    println!("WER {:.2} %", 100.0 * counts.error_rate());
    Ok(Exit::Done)
}
