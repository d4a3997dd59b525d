//! Adaptation: which tensors move, how a step is taken, and the policies that say when.

mod episode;
mod parameters;

pub use episode::{Adapter, Episode};
pub use parameters::{AdaptedParameters, Selection, Snapshot};
