//! The matched-pairs sentence-segment word error test (MAPSSWE) of Gillick and Cox (ICASSP 1989), with segments cut as
//! NIST's sc_stats cuts them.

use super::normal::two_sided;
use crate::eval::Edit;
use serde::Serialize;

/// Words that both systems have right, in a row, that end a segment.
const LEAST_CORRECT: usize = 2;

/// The test's result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MatchedPairs {
    /// Segments in which at least one of the systems errs.
    pub segments: usize,
    /// Mean over the segments of the first system's errors less the second's: positive where the second is better.
    pub mean: f64,
    /// Standard deviation of those differences (over n - 1).
    pub deviation: f64,
    /// The mean over its standard error.
    pub z: f64,
    /// Two-sided, from the normal distribution.
    pub p: f64,
}

/// Errors of both systems in one segment.
type Segment = (usize, usize);

/// Compares two systems on utterances whose alignments to the same references are given, pair by pair. `None` where
/// there are not two segments to compare; where every difference is the same, `z` is 0 or infinite.
pub fn mapsswe<'a>(utterances: impl IntoIterator<Item = (&'a [Edit], &'a [Edit])>) -> Option<MatchedPairs> {
    let mut differences = Vec::new();
    for (first, second) in utterances {
        differences.extend(segments(first, second).iter().map(|(a, b)| *a as f64 - *b as f64));
    }
    let count = differences.len();
    if count < 2 {
        return None;
    }
    let mean = differences.iter().sum::<f64>() / count as f64;
    let squares: f64 = differences.iter().map(|difference| (difference - mean).powi(2)).sum();
    let deviation = (squares / (count - 1) as f64).sqrt();
    let z = if mean == 0.0 {
        0.0
    } else {
        mean / (deviation / (count as f64).sqrt())
    };
    Some(MatchedPairs {
        segments: count,
        mean,
        deviation,
        z,
        p: two_sided(z),
    })
}

/// Cuts one utterance: a segment is a run of errors of either system that is bounded on both sides by at least two
/// words that both have right, or by the utterance's ends.
fn segments(first: &[Edit], second: &[Edit]) -> Vec<Segment> {
    let (first, second) = (errors_by_position(first), errors_by_position(second));
    let mut segments = Vec::new();
    let mut open: Option<Segment> = None;
    let mut correct = 0;
    // Even positions are the gaps between words, where insertions are; odd ones are the words.
    for position in 0..first.len().max(second.len()) {
        let errors = |counts: &[usize]| counts.get(position).copied().unwrap_or(0);
        let (a, b) = (errors(&first), errors(&second));
        if a + b > 0 {
            let segment = open.get_or_insert((0, 0));
            segment.0 += a;
            segment.1 += b;
            correct = 0;
        } else if position % 2 == 1 {
            correct += 1;
            if correct >= LEAST_CORRECT {
                segments.extend(open.take());
            }
        }
    }
    segments.extend(open);
    segments
}

/// Errors at 2i + 1 for the i-th word of the reference, and at 2i for what is inserted before it.
fn errors_by_position(edits: &[Edit]) -> Vec<usize> {
    let mut errors = vec![0];
    for edit in edits {
        match edit {
            Edit::Insertion { .. } => *errors.last_mut().expect("never empty") += 1,
            edit => errors.extend([usize::from(edit.is_error()), 0]),
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::{Costs, align};

    fn edits(reference: &str, hypothesis: &str) -> Vec<Edit> {
        let (reference, hypothesis): (Vec<_>, Vec<_>) = (
            reference.split_whitespace().collect(),
            hypothesis.split_whitespace().collect(),
        );
        align(&reference, &hypothesis, Costs::Levenshtein)
    }

    #[test]
    fn two_correct_words_end_a_segment() {
        let reference = "a b c d e f g h";
        let cut = |first: &str, second: &str| segments(&edits(reference, first), &edits(reference, second));
        // Errors at a and d with b, c between: two segments; at a and c: one.
        assert_eq!(cut("x b c y e f g h", reference), [(1, 0), (1, 0)]);
        assert_eq!(cut("x b y d e f g h", reference), [(2, 0)]);
        // The other system's errors bound them as well.
        assert_eq!(cut("x b c y e f g h", "a x c d e f g h"), [(2, 1)]);
        // An insertion between two correct words interrupts them.
        assert_eq!(cut("x b i c y e f g h", reference), [(3, 0)]);
        assert_eq!(cut(reference, reference), []);
    }

    #[test]
    fn z_by_hand() {
        let reference = "a b c d e f g h i";
        let (first, second) = (
            edits(reference, "x b c d y z g h w"),
            edits(reference, "a b c d y f g h w"),
        );
        // Segments (1, 0), (2, 1), (1, 1)? i stands alone after g h: differences 1, 1, 0.
        let test = mapsswe([(first.as_slice(), second.as_slice())]).unwrap();
        assert_eq!(test.segments, 3);
        let (mean, deviation) = (2.0 / 3.0, (1.0f64 / 3.0).sqrt());
        assert!((test.mean - mean).abs() < 1e-12 && (test.deviation - deviation).abs() < 1e-12);
        assert!((test.z - 2.0).abs() < 1e-12);
        assert!((test.p - 0.045_500_263_896_358_4).abs() < 1e-12);
    }

    #[test]
    fn nothing_to_compare() {
        let same = edits("a b", "a b");
        assert_eq!(mapsswe([(same.as_slice(), same.as_slice())]), None);
    }
}
