//! `aurist transcribe`: recordings in, transcripts out.

mod arguments;
mod inputs;
mod journal;
mod outputs;
mod progress;
mod run;
mod worker;

pub(super) use arguments::Arguments;
pub(super) use run::run;
