//! Aligning a hypothesis with its reference: Levenshtein's dynamic programme with its path traced back.
//!
//! The least number of errors is unique, the path is not, and substitutions, deletions and insertions are counted
//! along the path. Where several paths cost the same, [`Costs::Levenshtein`] takes the one that rapidfuzz, and so
//! jiwer, takes; [`Costs::Sclite`] weighs errors as NIST's sclite does and takes its path.

use std::fmt;
use std::str::FromStr;

/// What the errors of an alignment cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Costs {
    /// Every error costs 1: the least number of errors.
    #[default]
    Levenshtein,
    /// A substitution costs 4, a deletion or an insertion 3, as in NIST's sclite: two of the latter are preferred to
    /// two of the former, so the number of errors can be larger than the least.
    Sclite,
}

impl Costs {
    /// As the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Costs::Levenshtein => "levenshtein",
            Costs::Sclite => "sclite",
        }
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Costs {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Costs::Levenshtein, Costs::Sclite]
            .into_iter()
            .find(|costs| costs.name() == name)
            .ok_or_else(|| format!("unknown alignment `{name}`: choose from levenshtein, sclite"))
    }
}

/// One step of an alignment, with the positions of its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edit {
    /// The same token in both.
    Hit {
        /// Position in the reference.
        reference: usize,
        /// Position in the hypothesis.
        hypothesis: usize,
    },
    /// A token that stands for another.
    Substitution {
        /// Position in the reference.
        reference: usize,
        /// Position in the hypothesis.
        hypothesis: usize,
    },
    /// A token of the reference that is missing.
    Deletion {
        /// Position in the reference.
        reference: usize,
    },
    /// A token that the reference has not.
    Insertion {
        /// Position in the hypothesis.
        hypothesis: usize,
    },
}

impl Edit {
    /// Whether it is anything but a hit.
    pub fn is_error(self) -> bool {
        !matches!(self, Edit::Hit { .. })
    }
}

/// Where the best path into a cell comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Move {
    Diagonal,
    Delete,
    Insert,
}

/// Aligns two token sequences: the edits in order, which cover both from end to end. Time and memory grow with the
/// product of the two lengths, less their common beginning and end.
pub fn align<T: PartialEq>(reference: &[T], hypothesis: &[T], costs: Costs) -> Vec<Edit> {
    // rapidfuzz takes the common beginning first, which decides between equal paths; sclite traces back all the way.
    let prefix = match costs {
        Costs::Levenshtein => common(reference.iter(), hypothesis.iter()),
        Costs::Sclite => 0,
    };
    let (inner_reference, inner_hypothesis) = (&reference[prefix..], &hypothesis[prefix..]);
    let suffix = common(inner_reference.iter().rev(), inner_hypothesis.iter().rev());
    let inner_reference = &inner_reference[..inner_reference.len() - suffix];
    let inner_hypothesis = &inner_hypothesis[..inner_hypothesis.len() - suffix];

    let moves = match costs {
        Costs::Levenshtein => moves(inner_reference, inner_hypothesis, 1, 1, rapidfuzz_choice),
        Costs::Sclite => moves(inner_reference, inner_hypothesis, 4, 3, sclite_choice),
    };
    let hit = |reference, hypothesis| Edit::Hit { reference, hypothesis };
    let mut edits: Vec<Edit> = Vec::with_capacity(reference.len().max(hypothesis.len()));
    for back in 1..=suffix {
        edits.push(hit(reference.len() - back, hypothesis.len() - back));
    }
    let (mut row, mut column) = (inner_reference.len(), inner_hypothesis.len());
    while row > 0 || column > 0 {
        let step = match (row, column) {
            (0, _) => Move::Insert,
            (_, 0) => Move::Delete,
            _ => moves[(row - 1) * inner_hypothesis.len() + column - 1],
        };
        row -= usize::from(step != Move::Insert);
        column -= usize::from(step != Move::Delete);
        let (reference, hypothesis) = (prefix + row, prefix + column);
        edits.push(match step {
            Move::Delete => Edit::Deletion { reference },
            Move::Insert => Edit::Insertion { hypothesis },
            Move::Diagonal if inner_reference[row] == inner_hypothesis[column] => hit(reference, hypothesis),
            Move::Diagonal => Edit::Substitution { reference, hypothesis },
        });
    }
    edits.extend((0..prefix).rev().map(|position| hit(position, position)));
    edits.reverse();
    edits
}

/// A pair of an alignment for people: the tokens, or nothing, on each side.
pub fn align_text<'a>(
    reference: &'a str,
    hypothesis: &'a str,
    costs: Costs,
) -> Vec<(Option<&'a str>, Option<&'a str>)> {
    let reference: Vec<&str> = reference.split_whitespace().collect();
    let hypothesis: Vec<&str> = hypothesis.split_whitespace().collect();
    let pair = |edit: &Edit| match *edit {
        Edit::Hit {
            reference: r,
            hypothesis: h,
        }
        | Edit::Substitution {
            reference: r,
            hypothesis: h,
        } => (Some(reference[r]), Some(hypothesis[h])),
        Edit::Deletion { reference: r } => (Some(reference[r]), None),
        Edit::Insertion { hypothesis: h } => (None, Some(hypothesis[h])),
    };
    align(&reference, &hypothesis, costs).iter().map(pair).collect()
}

/// The characters that a character error rate is over: Unicode scalar values, without whitespace at the ends.
pub(super) fn characters(text: &str) -> Vec<char> {
    text.trim().chars().collect()
}

fn common<T: PartialEq>(a: impl Iterator<Item = T>, b: impl Iterator<Item = T>) -> usize {
    a.zip(b).take_while(|(x, y)| x == y).count()
}

/// The costs of the cells around one cell: above is a token of the reference less, left one of the hypothesis.
struct Around {
    diagonal: u32,
    above: u32,
    left: u32,
    /// The cell's own, least cost.
    cell: u32,
    /// What the diagonal step costs, and what the other two do.
    step: u32,
    gap: u32,
}

/// The table of moves `[reference, hypothesis]`, filled row by row.
fn moves<T: PartialEq>(
    reference: &[T],
    hypothesis: &[T],
    substitution: u32,
    gap: u32,
    choose: fn(&Around) -> Move,
) -> Vec<Move> {
    let mut moves = Vec::with_capacity(reference.len() * hypothesis.len());
    let mut row: Vec<u32> = (0..=hypothesis.len() as u32).map(|column| column * gap).collect();
    for token in reference {
        let mut diagonal = row[0];
        row[0] += gap;
        for (column, other) in hypothesis.iter().enumerate() {
            let (above, left) = (row[column + 1], row[column]);
            let step = if token == other { 0 } else { substitution };
            let cell = (diagonal + step).min(above + gap).min(left + gap);
            moves.push(choose(&Around {
                diagonal,
                above,
                left,
                cell,
                step,
                gap,
            }));
            row[column + 1] = cell;
            diagonal = above;
        }
    }
    moves
}

/// rapidfuzz traces back from the end: a deletion where one is on a best path, else an insertion where the cell to
/// the left is cheaper than the diagonal one, else the diagonal.
fn rapidfuzz_choice(around: &Around) -> Move {
    if around.cell == around.above + around.gap {
        Move::Delete
    } else if around.left < around.diagonal {
        Move::Insert
    } else {
        Move::Diagonal
    }
}

/// sclite prefers the diagonal, then an insertion, then a deletion.
fn sclite_choice(around: &Around) -> Move {
    if around.cell == around.diagonal + around.step {
        Move::Diagonal
    } else if around.cell == around.left + around.gap {
        Move::Insert
    } else {
        Move::Delete
    }
}

#[cfg(test)]
mod tests {
    use super::super::counts::{Counts, word_counts};
    use super::*;
    use proptest::prelude::*;

    fn counts(reference: &str, hypothesis: &str) -> (usize, usize, usize) {
        let counts = word_counts(reference, hypothesis, Costs::Levenshtein);
        assert_eq!(counts.reference(), reference.split_whitespace().count());
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
    fn distance(a: &[char], b: &[char], substitution: usize, gap: usize) -> usize {
        match (a, b) {
            ([], rest) | (rest, []) => rest.len() * gap,
            ([x, a_rest @ ..], [y, b_rest @ ..]) => {
                let step = if x == y { 0 } else { substitution };
                (distance(a_rest, b_rest, substitution, gap) + step)
                    .min(distance(a_rest, b, substitution, gap) + gap)
                    .min(distance(a, b_rest, substitution, gap) + gap)
            }
        }
    }

    proptest! {
        #[test]
        fn the_path_costs_the_least_and_covers_both(a in "[abc]{0,7}", b in "[abc]{0,7}") {
            let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
            for (costs, substitution, gap) in [(Costs::Levenshtein, 1, 1), (Costs::Sclite, 4, 3)] {
                let edits = align(&a, &b, costs);
                let counts = Counts::of(&edits);
                let cost = substitution * counts.substitutions + gap * (counts.deletions + counts.insertions);
                prop_assert_eq!(cost, distance(&a, &b, substitution, gap));
                let (mut row, mut column) = (0, 0);
                for edit in edits {
                    match edit {
                        Edit::Hit { reference, hypothesis } => {
                            prop_assert_eq!((reference, hypothesis), (row, column));
                            prop_assert_eq!(a[row], b[column]);
                        }
                        Edit::Substitution { reference, hypothesis } => {
                            prop_assert_eq!((reference, hypothesis), (row, column));
                            prop_assert_ne!(a[row], b[column]);
                        }
                        Edit::Deletion { reference } => prop_assert_eq!(reference, row),
                        Edit::Insertion { hypothesis } => prop_assert_eq!(hypothesis, column),
                    }
                    row += usize::from(!matches!(edit, Edit::Insertion { .. }));
                    column += usize::from(!matches!(edit, Edit::Deletion { .. }));
                }
                prop_assert_eq!((row, column), (a.len(), b.len()));
            }
        }
    }
}
