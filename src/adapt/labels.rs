//! Greedy CTC labels, which pseudo-label methods learn from.

/// Greedy CTC labels of logits `[T, V]`: the best symbol of each frame, repeats merged, blanks dropped.
pub fn greedy_labels(logits: &[f32], classes: usize, blank: usize) -> Vec<usize> {
    let mut labels = Vec::new();
    let mut last = blank;
    for row in logits.chunks_exact(classes) {
        let mut best = 0;
        for (index, value) in row.iter().enumerate() {
            if *value > row[best] {
                best = index;
            }
        }
        if best != last && best != blank {
            labels.push(best);
        }
        last = best;
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_merge_repeats_but_not_across_blanks() {
        let logits = [
            [0.0, 1.0, 0.0],
            [0.0, 1.0, 0.0],
            [1.0, 0.0, 0.0],
            [0.0, 1.0, 0.0],
            [0.0, 0.0, 1.0],
        ]
        .concat();
        assert_eq!(greedy_labels(&logits, 3, 0), [1, 1, 2]);
        assert!(greedy_labels(&[], 3, 0).is_empty());
    }
}
