//! How far error rates can be trusted, and whether two systems differ: bootstrap intervals, the matched-pairs test,
//! and Holm's correction where several comparisons are made.
//!
//! Everything is seeded and does not depend on the number of threads.

mod bootstrap;
mod holm;
mod mapsswe;
mod normal;

pub use bootstrap::{Bootstrap, Interval, PairedBootstrap, Unit, Units, error_rate_interval, paired_bootstrap};
pub use holm::holm;
pub use mapsswe::{MatchedPairs, mapsswe};
