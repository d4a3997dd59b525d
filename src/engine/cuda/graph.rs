//! Passes kept as CUDA graphs: a launch of hundreds of kernels by one call.
//!
//! The first time a pass runs as it is: memory grows, products are planned. The second time it is captured, and from then
//! on replayed. A graph holds addresses, so all are forgotten whenever memory is allocated.

use super::{CudaBackend, lock};
use crate::engine::Replay;
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, DriverError};
use std::collections::HashMap;

/// The passes seen since memory was last allocated.
#[derive(Default)]
pub(super) struct Graphs {
    /// `None` for one that ran once.
    seen: HashMap<Replay, Option<Kept>>,
    launches: u64,
}

struct Kept(CudaGraph);

// SAFETY: a graph may be used from any thread, one at a time; it is reached through the backend's lock only.
unsafe impl Send for Kept {}

/// Passes kept: two for each of some dozen input lengths.
const MOST: usize = 64;

impl Graphs {
    /// Memory has moved, or may have.
    pub(super) fn forget(&mut self) {
        self.seen.clear();
    }
}

impl CudaBackend {
    /// How often a pass was replayed.
    pub fn graph_launches(&self) -> u64 {
        lock(&self.graphs).launches
    }

    /// See [`crate::engine::Backend::replayable`].
    pub(super) fn replay(&self, replay: Replay, work: impl FnOnce()) {
        if self.has_failed() {
            return;
        }
        let seen = {
            let mut graphs = lock(&self.graphs);
            if let Some(Some(kept)) = graphs.seen.get(&replay) {
                self.attempt(|| kept.0.launch());
                graphs.launches += 1;
                return;
            }
            if graphs.seen.len() >= MOST {
                graphs.forget();
            }
            graphs.seen.insert(replay, None).is_some()
        };
        if !seen {
            return work();
        }
        // Of this thread alone: others may allocate in the same context meanwhile.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.attempt(|| self.stream.begin_capture(mode));
        work();
        // Ended in any case: the stream could not be used otherwise.
        let captured = self.stream.end_capture(CUgraphInstantiate_flags(0));
        self.attempt(|| self.keep(replay, captured));
    }

    fn keep(&self, replay: Replay, captured: Result<Option<CudaGraph>, DriverError>) -> Result<(), DriverError> {
        let Some(graph) = captured? else { return Ok(()) };
        graph.launch()?;
        let mut graphs = lock(&self.graphs);
        graphs.launches += 1;
        graphs.seen.insert(replay, Some(Kept(graph)));
        Ok(())
    }
}
