//! Word error rate: the least number of substitutions, deletions and insertions that turn the reference into the
//! hypothesis, over the reference's length (Levenshtein's distance on words).

use std::iter::Sum;
use std::ops::Add;

/// What an alignment counts; the sum over utterances gives the pooled rate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorCounts {
    /// Words of the reference.
    pub reference: usize,
    /// Words that stand for another.
    pub substitutions: usize,
    /// Words of the reference that are missing.
    pub deletions: usize,
    /// Words that the reference has not.
    pub insertions: usize,
}

impl ErrorCounts {
    /// Substitutions, deletions and insertions together.
    pub fn errors(&self) -> usize {
        self.substitutions + self.deletions + self.insertions
    }

    /// Errors over reference words; without reference words 0 if there is no error, else infinite.
    pub fn rate(&self) -> f64 {
        if self.errors() == 0 {
            0.0
        } else {
            self.errors() as f64 / self.reference as f64
        }
    }
}

impl Add for ErrorCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            reference: self.reference + other.reference,
            substitutions: self.substitutions + other.substitutions,
            deletions: self.deletions + other.deletions,
            insertions: self.insertions + other.insertions,
        }
    }
}

impl Sum for ErrorCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}

/// Aligns two word sequences. Among alignments with the fewest errors it prefers substitutions.
pub fn align(reference: &[&str], hypothesis: &[&str]) -> ErrorCounts {
    // One row of the table at a time; each cell carries the counts of its best path.
    let mut row: Vec<ErrorCounts> = (0..=hypothesis.len())
        .map(|insertions| ErrorCounts {
            insertions,
            ..ErrorCounts::default()
        })
        .collect();
    for word in reference {
        let mut diagonal = row[0];
        row[0].deletions += 1;
        for (column, other) in hypothesis.iter().enumerate() {
            let above = row[column + 1];
            let mut best = diagonal;
            best.substitutions += usize::from(word != other);
            let deletion = ErrorCounts {
                deletions: above.deletions + 1,
                ..above
            };
            let insertion = ErrorCounts {
                insertions: row[column].insertions + 1,
                ..row[column]
            };
            for candidate in [deletion, insertion] {
                if candidate.errors() < best.errors() {
                    best = candidate;
                }
            }
            diagonal = above;
            row[column + 1] = best;
        }
    }
    ErrorCounts {
        reference: reference.len(),
        ..row[hypothesis.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counts(reference: &str, hypothesis: &str) -> (usize, usize, usize) {
        let (reference, hypothesis): (Vec<_>, Vec<_>) = (
            reference.split_whitespace().collect(),
            hypothesis.split_whitespace().collect(),
        );
        let counts = align(&reference, &hypothesis);
        assert_eq!(counts.reference, reference.len());
        (counts.substitutions, counts.deletions, counts.insertions)
    }

    #[test]
    fn known_alignments() {
        assert_eq!(counts("a b c", "a b c"), (0, 0, 0));
        assert_eq!(counts("a b c", "a x c"), (1, 0, 0));
        assert_eq!(counts("a b c", "a c"), (0, 1, 0));
        assert_eq!(counts("a b c", "a b d c"), (0, 0, 1));
        assert_eq!(counts("", "a b"), (0, 0, 2));
        assert_eq!(counts("a b", ""), (0, 2, 0));
        assert_eq!(counts("a b c d", "b c d e"), (0, 1, 1));
    }

    /// The definition, by recursion.
    fn distance(a: &[&str], b: &[&str]) -> usize {
        match (a, b) {
            ([], rest) | (rest, []) => rest.len(),
            ([x, a_rest @ ..], [y, b_rest @ ..]) => {
                let substituted = distance(a_rest, b_rest) + usize::from(x != y);
                substituted.min(distance(a_rest, b) + 1).min(distance(a, b_rest) + 1)
            }
        }
    }

    proptest! {
        #[test]
        fn the_count_is_the_edit_distance(
            a in proptest::collection::vec("[ab]", 0..7),
            b in proptest::collection::vec("[ab]", 0..7),
        ) {
            let (a, b): (Vec<&str>, Vec<&str>) =
                (a.iter().map(String::as_str).collect(), b.iter().map(String::as_str).collect());
            let counts = align(&a, &b);
            prop_assert_eq!(counts.errors(), distance(&a, &b));
            prop_assert_eq!(a.len() + counts.insertions, b.len() + counts.deletions);
        }
    }
}
