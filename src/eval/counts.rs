//! What an alignment counts, and the rates made of the counts. The edge rules are jiwer 4's.

use super::alignment::{Costs, Edit, align, characters};
use serde::{Deserialize, Serialize};
use std::iter::Sum;
use std::ops::{Add, AddAssign};

/// Hits and errors of one alignment, or of many: the sum over utterances gives the pooled rates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Tokens of the reference that the hypothesis has too.
    pub hits: usize,
    /// Tokens that stand for another.
    pub substitutions: usize,
    /// Tokens of the reference that are missing.
    pub deletions: usize,
    /// Tokens that the reference has not.
    pub insertions: usize,
}

impl Counts {
    /// The counts of an alignment.
    pub fn of(edits: &[Edit]) -> Self {
        let mut counts = Self::default();
        for edit in edits {
            match edit {
                Edit::Hit { .. } => counts.hits += 1,
                Edit::Substitution { .. } => counts.substitutions += 1,
                Edit::Deletion { .. } => counts.deletions += 1,
                Edit::Insertion { .. } => counts.insertions += 1,
            }
        }
        counts
    }

    /// Tokens of the reference.
    pub fn reference(&self) -> usize {
        self.hits + self.substitutions + self.deletions
    }

    /// Tokens of the hypothesis.
    pub fn hypothesis(&self) -> usize {
        self.hits + self.substitutions + self.insertions
    }

    /// Substitutions, deletions and insertions together.
    pub fn errors(&self) -> usize {
        self.substitutions + self.deletions + self.insertions
    }

    /// The error rate (WER of words, CER of characters): errors over the reference's length. Against an empty
    /// reference it is the number of errors itself, so 0 where the hypothesis is empty too.
    pub fn error_rate(&self) -> f64 {
        match self.reference() {
            0 => self.errors() as f64,
            reference => self.errors() as f64 / reference as f64,
        }
    }

    /// Match error rate: errors over all edits, hits included; 0 where both texts are empty. Never above 1.
    pub fn match_error_rate(&self) -> f64 {
        match self.hits + self.errors() {
            0 => 0.0,
            all => self.errors() as f64 / all as f64,
        }
    }

    /// Word information preserved: hits² over the product of both lengths; 1 where both texts are empty, 0 where one is.
    pub fn word_information_preserved(&self) -> f64 {
        match (self.reference(), self.hypothesis()) {
            (0, 0) => 1.0,
            (0, _) | (_, 0) => 0.0,
            (reference, hypothesis) => (self.hits as f64 / reference as f64) * (self.hits as f64 / hypothesis as f64),
        }
    }

    /// Word information lost: what of 1 is not preserved.
    pub fn word_information_lost(&self) -> f64 {
        1.0 - self.word_information_preserved()
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.hits += other.hits;
        self.substitutions += other.substitutions;
        self.deletions += other.deletions;
        self.insertions += other.insertions;
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

/// The counts over whitespace-separated words.
pub fn word_counts(reference: &str, hypothesis: &str, costs: Costs) -> Counts {
    let (reference, hypothesis): (Vec<_>, Vec<_>) = (
        reference.split_whitespace().collect(),
        hypothesis.split_whitespace().collect(),
    );
    Counts::of(&align(&reference, &hypothesis, costs))
}

/// The counts over characters: Unicode scalar values of the trimmed texts, inner spaces included, as jiwer counts them.
pub fn character_counts(reference: &str, hypothesis: &str, costs: Costs) -> Counts {
    Counts::of(&align(&characters(reference), &characters(hypothesis), costs))
}
