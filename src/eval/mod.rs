//! Scoring transcripts. Knows nothing of the engine.

mod wer;

pub use wer::{ErrorCounts, align};
