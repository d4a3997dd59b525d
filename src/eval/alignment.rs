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

/// Cells of the table of moves, a byte each, beyond which an alignment is divided.
const LARGEST_TABLE: usize = 1 << 26;

/// Aligns two token sequences: the edits in order, which cover both from end to end. Time grows with the product of
/// the two lengths, less their common beginning and end; memory with that product up to 64 MiB, then with the lengths.
pub fn align<T: PartialEq>(reference: &[T], hypothesis: &[T], costs: Costs) -> Vec<Edit> {
    align_within(reference, hypothesis, costs, LARGEST_TABLE)
}

fn align_within<T: PartialEq>(reference: &[T], hypothesis: &[T], costs: Costs, largest: usize) -> Vec<Edit> {
    // rapidfuzz takes the common beginning first, which decides between equal paths; sclite traces back all the way.
    let prefix = match costs {
        Costs::Levenshtein => common(reference.iter(), hypothesis.iter()),
        Costs::Sclite => 0,
    };
    let suffix = common(reference[prefix..].iter().rev(), hypothesis[prefix..].iter().rev());
    let hit = |reference, hypothesis| Edit::Hit { reference, hypothesis };
    let mut edits: Vec<Edit> = Vec::with_capacity(reference.len().max(hypothesis.len()));
    edits.extend((0..prefix).map(|position| hit(position, position)));
    let inner = Table {
        reference: &reference[prefix..reference.len() - suffix],
        hypothesis: &hypothesis[prefix..hypothesis.len() - suffix],
        costs,
    };
    inner.trace(prefix, prefix, largest, &mut edits);
    let ends = (1..=suffix).rev();
    edits.extend(ends.map(|back| hit(reference.len() - back, hypothesis.len() - back)));
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

/// The dynamic programme over two sequences.
struct Table<'a, T> {
    reference: &'a [T],
    hypothesis: &'a [T],
    costs: Costs,
}

impl<T: PartialEq> Table<'_, T> {
    /// Appends the edits in order. A table larger than `largest` is divided (Hirschberg): the first half of the
    /// reference is aligned with that beginning of the hypothesis, the shortest, which makes the sum of both costs
    /// least. `row` and `column` are where the two sequences begin.
    fn trace(&self, row: usize, column: usize, largest: usize, edits: &mut Vec<Edit>) {
        let (rows, columns) = (self.reference.len(), self.hypothesis.len());
        if rows < 2 || rows.saturating_mul(columns) <= largest {
            return self.trace_back(row, column, edits);
        }
        let half = rows / 2;
        let (before, after) = self.reference.split_at(half);
        let forward = fill(self.costs, before.iter(), self.hypothesis.iter(), |_| {});
        let backward = fill(self.costs, after.iter().rev(), self.hypothesis.iter().rev(), |_| {});
        let cost = |split: &usize| forward[*split] + backward[columns - split];
        let split = (0..=columns).min_by_key(cost).unwrap_or_default();
        let (heard_before, heard_after) = self.hypothesis.split_at(split);
        let part = |reference, hypothesis| Table {
            reference,
            hypothesis,
            costs: self.costs,
        };
        part(before, heard_before).trace(row, column, largest, edits);
        part(after, heard_after).trace(row + half, column + split, largest, edits);
    }

    fn trace_back(&self, row: usize, column: usize, edits: &mut Vec<Edit>) {
        let choose = match self.costs {
            Costs::Levenshtein => rapidfuzz_choice,
            Costs::Sclite => sclite_choice,
        };
        let mut moves = Vec::with_capacity(self.reference.len() * self.hypothesis.len());
        let note = |around: &Around| moves.push(choose(around));
        fill(self.costs, self.reference.iter(), self.hypothesis.iter(), note);
        let begin = edits.len();
        let (mut i, mut j) = (self.reference.len(), self.hypothesis.len());
        while i > 0 || j > 0 {
            let step = match (i, j) {
                (0, _) => Move::Insert,
                (_, 0) => Move::Delete,
                _ => moves[(i - 1) * self.hypothesis.len() + j - 1],
            };
            i -= usize::from(step != Move::Insert);
            j -= usize::from(step != Move::Delete);
            let (reference, hypothesis) = (row + i, column + j);
            edits.push(match step {
                Move::Delete => Edit::Deletion { reference },
                Move::Insert => Edit::Insertion { hypothesis },
                Move::Diagonal if self.reference[i] == self.hypothesis[j] => Edit::Hit { reference, hypothesis },
                Move::Diagonal => Edit::Substitution { reference, hypothesis },
            });
        }
        edits[begin..].reverse();
    }
}

/// Fills the table row by row, shows every inner cell to `visit` and returns the last row's costs.
fn fill<'a, T: PartialEq + 'a>(
    costs: Costs,
    reference: impl Iterator<Item = &'a T>,
    hypothesis: impl Iterator<Item = &'a T> + Clone,
    mut visit: impl FnMut(&Around),
) -> Vec<u32> {
    let (substitution, gap) = match costs {
        Costs::Levenshtein => (1, 1),
        Costs::Sclite => (4, 3),
    };
    let mut row = vec![0];
    row.extend(hypothesis.clone().scan(0, |cost, _| {
        *cost += gap;
        Some(*cost)
    }));
    for token in reference {
        let mut diagonal = row[0];
        row[0] += gap;
        for (column, other) in hypothesis.clone().enumerate() {
            let (above, left) = (row[column + 1], row[column]);
            let step = if token == other { 0 } else { substitution };
            let cell = (diagonal + step).min(above + gap).min(left + gap);
            visit(&Around {
                diagonal,
                above,
                left,
                cell,
                step,
                gap,
            });
            row[column + 1] = cell;
            diagonal = above;
        }
    }
    row
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
            let both = [(Costs::Levenshtein, 1, 1), (Costs::Sclite, 4, 3)];
            // Undivided, and divided as far as it goes.
            for ((costs, substitution, gap), largest) in both.into_iter().flat_map(|c| [(c, 1 << 26), (c, 0)]) {
                let edits = align_within(&a, &b, costs, largest);
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
