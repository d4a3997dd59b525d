//! `aurist transcribe`: recordings in, transcripts out, and what is done stays done.
//!
//! `arguments` holds what was typed, `settings` what it means; `run` does it: `inputs` finds the recordings, `worker`s
//! take them from the `queue`, `outputs` puts their transcripts in place and into the `journal`.

mod arguments;
mod decoding;
mod inputs;
mod journal;
mod outputs;
mod progress;
mod queue;
mod run;
mod settings;
mod streams;
mod worker;

pub(super) use arguments::{AdaptationArguments, Arguments, ProgressChoice};
pub(super) use decoding::DecodingArguments;
pub(super) use outputs::lock;
pub(super) use progress::{BAR_UNITS, bar, clock, event};
pub(super) use queue::Queue;
pub(super) use run::run;
pub(super) use settings::{adaptation, load_model, with_ctc_head};
pub(super) use worker::{describe_panic, quiet_panics};
