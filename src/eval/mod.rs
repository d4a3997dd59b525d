//! Measuring recognition: alignments and error counts, text normalisers, statistics, readers of test sets and of
//! others' transcripts. Knows nothing of the engine.

mod alignment;
mod counts;
mod normalise;
pub mod report;
pub mod statistics;
pub mod testset;
pub mod transcripts;

pub use alignment::{Costs, Edit, align, align_text};
pub use counts::{Counts, character_counts, word_counts};
pub use normalise::{Normaliser, UnknownNormaliser};
