//! What a device says that fails.

/// What can go wrong on a device.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The device could not give the memory asked for.
    #[error(
        "the {device} could not allocate {bytes} bytes of memory; close other programs, or transcribe shorter utterances"
    )]
    OutOfMemory {
        /// The device, in words.
        device: String,
        /// The size asked for.
        bytes: usize,
    },
    /// The worker threads could not be started.
    #[error("could not start {threads} worker threads: {reason}; try fewer jobs")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
    /// A GPU that is not there, or cannot be used.
    #[error("{0}; use --device cpu to go on without one")]
    NoGpu(String),
    /// The device failed in the middle of its work.
    #[error("the {device} failed ({reason}); what is written is kept: run the same command again, or use --device cpu")]
    DeviceFailed {
        /// The device, in words.
        device: String,
        /// What it said.
        reason: String,
    },
}
