//! Adaptation: which tensors move, how a step is taken, and the policies that say when.

mod autoregressive;
mod batch;
mod coherence;
mod episode;
mod labels;
mod moves;
mod parameters;
mod policy;
mod profile;
mod stepper;
mod stream;
mod unattended;

pub use crate::engine::{CtcLoss, ctc_loss, pseudo_label_loss};
pub use autoregressive::{TokenTerms, TokenValue, leave_one_out, sequence_entropy_terms, token_terms};
pub use batch::BatchAdapter;
use episode::Descent;
pub use episode::{Adapter, Episode};
pub use labels::greedy_labels;
pub(crate) use moves::{Moves, OnStore, States};
pub use parameters::{AdaptedParameters, HostSnapshot, Selection, Snapshot};
pub use policy::PolicyState;
pub(crate) use policy::{Heard, Policy};
pub(crate) use profile::TEMPORARY_PREFIX;
pub use profile::{LoadedProfile, Profile};
pub use stream::{StreamError, StreamState};
