//! From a model's output to words: greedy CTC with word times and confidences, and Whisper's autoregressive decoding.

mod greedy;
pub mod whisper;

pub use greedy::{Hypothesis, greedy};
