//! Adaptation: which tensors move, how a step is taken, and the policies that say when.

mod ctc_loss;
mod episode;
mod parameters;
mod profile;

pub use ctc_loss::{CtcLoss, ctc_loss, greedy_labels, pseudo_label_loss};
pub use episode::{Adapter, Episode};
pub use parameters::{AdaptedParameters, Selection, Snapshot};
pub use profile::{LoadedProfile, Profile};
