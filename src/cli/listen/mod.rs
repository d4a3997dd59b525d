//! `aurist listen`: captions while somebody speaks, from a microphone, a file or a pipe.

mod arguments;
#[cfg(feature = "mic")]
mod microphone;
mod run;
mod save;
mod source;
mod view;

pub(super) use arguments::Arguments;
pub(super) use run::run;
