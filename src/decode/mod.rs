//! From logits to words: greedy CTC with word times and confidences.

mod greedy;

pub use greedy::{Hypothesis, greedy};
