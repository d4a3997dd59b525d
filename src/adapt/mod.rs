//! Adaptation: which tensors move, how a step is taken, and the policies that say when.

mod autoregressive;
mod coherence;
mod ctc_loss;
mod episode;
mod parameters;
mod policy;
mod profile;
mod stepper;
mod stream;

pub use autoregressive::{TokenTerms, TokenValue, leave_one_out, sequence_entropy_terms, token_terms};
pub use ctc_loss::{CtcLoss, ctc_loss, greedy_labels, pseudo_label_loss};
pub use episode::{Adapter, Episode};
pub use parameters::{AdaptedParameters, HostSnapshot, Selection, Snapshot};
pub use policy::PolicyState;
pub(crate) use profile::TEMPORARY_PREFIX;
pub use profile::{LoadedProfile, Profile};
pub use stream::{StreamError, StreamState};
