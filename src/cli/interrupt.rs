//! Ctrl-C: the first asks the run to stop, the second ends the process.
//!
//! Other signals keep their meaning: a run under `nohup` must survive the end of its terminal, and one that is killed
//! loses no more than one that is interrupted.

use crate::cli::{Exit, Failure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the run was asked to stop; shared by everyone who should notice.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Starts to listen; `on_first` is called at the first Ctrl-C, from a thread of its own.
    pub(super) fn listen(on_first: impl Fn() + Send + 'static) -> Result<Self, Failure> {
        let interrupt = Self::default();
        let flag = interrupt.clone();
        ctrlc::set_handler(move || {
            if flag.0.swap(true, Ordering::SeqCst) {
                std::process::exit(Exit::Interrupted as i32);
            }
            on_first();
        })
        .map_err(|error| Failure::failed(format_args!("cannot listen for Ctrl-C: {error}")))?;
        Ok(interrupt)
    }

    /// Whether Ctrl-C was pressed.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
