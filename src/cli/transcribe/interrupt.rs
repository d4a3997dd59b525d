//! Ctrl-C and termination signals: the first asks the run to stop, the second ends the process.

use crate::cli::{Exit, Failure};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the run was asked to stop; shared by everyone who should notice.
#[derive(Debug, Clone, Default)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Starts to listen for signals; `on_first` is called from the signal's own thread.
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

    /// Whether a signal has come.
    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
