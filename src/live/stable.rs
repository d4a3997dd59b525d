//! What of a partial hypothesis will stay: words that two hypotheses after one another agree on, and that lie far
//! enough back for what is still to come not to change them (local agreement, Liu et al. 2020; Macháček et al. 2023).

use crate::Word;

/// A word is not committed before so many seconds after it were heard: the model reads to both sides.
const RIGHT_CONTEXT: f64 = 3.0;

/// One utterance's committed words, and the last hypothesis of the rest.
#[derive(Debug, Clone, Default)]
pub(super) struct StablePrefix {
    committed: Vec<Word>,
    rest: Vec<Word>,
}

impl StablePrefix {
    /// The words that will not change, and how many they are.
    pub(super) fn committed(&self) -> usize {
        self.committed.len()
    }

    /// A hypothesis of the utterance as far as it was heard, to `heard` seconds on the words' clock. Gives the words to
    /// show: those committed, then the others.
    pub(super) fn update(&mut self, hypothesis: &[Word], heard: f64) -> Vec<Word> {
        let rest = self.rest_of(hypothesis);
        let agreed = rest
            .iter()
            .zip(&self.rest)
            .take_while(|(new, old)| new.word == old.word && new.end + RIGHT_CONTEXT <= heard)
            .count()
            // The last word may be half a word.
            .min(rest.len().saturating_sub(1));
        self.committed.extend_from_slice(&rest[..agreed]);
        self.rest = rest[agreed..].to_vec();
        self.committed.iter().chain(&self.rest).cloned().collect()
    }

    /// The hypothesis of the whole utterance: the committed words stay.
    pub(super) fn finish(self, hypothesis: &[Word]) -> Vec<Word> {
        let rest = self.rest_of(hypothesis);
        self.committed.into_iter().chain(rest).collect()
    }

    /// What of a hypothesis follows the committed words: what is left of it when they are aligned with its beginning, by
    /// the fewest edits and, where several are as few, at the time nearest to the last committed word's end.
    fn rest_of(&self, hypothesis: &[Word]) -> Vec<Word> {
        let Some(last) = self.committed.last() else {
            return hypothesis.to_vec();
        };
        // Edits between the committed words so far and each beginning of the hypothesis.
        let mut edits: Vec<usize> = (0..=hypothesis.len()).collect();
        for (row, committed) in self.committed.iter().enumerate() {
            let mut diagonal = std::mem::replace(&mut edits[0], row + 1);
            for (place, word) in hypothesis.iter().enumerate() {
                let substituted = diagonal + (word.word != committed.word) as usize;
                diagonal = edits[place + 1];
                edits[place + 1] = substituted.min(diagonal + 1).min(edits[place] + 1);
            }
        }
        let away = |words: usize| match words.checked_sub(1) {
            Some(word) => (hypothesis[word].end - last.end).abs(),
            None => last.end,
        };
        let by_edits_then_time = |a: &usize, b: &usize| edits[*a].cmp(&edits[*b]).then(away(*a).total_cmp(&away(*b)));
        let begun = (0..=hypothesis.len()).min_by(by_edits_then_time).unwrap_or(0);
        hypothesis[begun..].to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<Word> {
        let word = |(index, word): (usize, &str)| Word {
            word: word.into(),
            start: index as f64,
            end: index as f64 + 0.8,
            confidence: 0.9,
        };
        text.split(' ')
            .filter(|word| !word.is_empty())
            .enumerate()
            .map(word)
            .collect()
    }

    fn text(words: &[Word]) -> String {
        words
            .iter()
            .map(|word| word.word.as_str())
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn what_two_hypotheses_agree_on_is_committed_once_enough_follows() {
        let mut stable = StablePrefix::default();
        stable.update(&words("A B C"), 4.0);
        assert_eq!(stable.committed(), 0);
        stable.update(&words("A B D"), 5.0);
        assert_eq!(stable.committed(), 2);
        // B became wrong in hindsight: it stays, and what follows it is not shown twice.
        assert_eq!(text(&stable.update(&words("A X D E"), 5.5)), "A B D E");
        // Nor where the words before it have become more, whatever their times.
        assert_eq!(text(&stable.clone().finish(&words("Y A B D F G"))), "A B D F G");
        assert_eq!(text(&stable.finish(&words("A X D F G"))), "A B D F G");
    }

    proptest! {
        #[test]
        fn committed_words_never_change(hypotheses in prop::collection::vec("([ABC] ){0,8}", 1..20)) {
            let mut stable = StablePrefix::default();
            let mut committed = Vec::new();
            for (turn, hypothesis) in hypotheses.iter().enumerate() {
                let shown = stable.update(&words(hypothesis), turn as f64);
                prop_assert!(stable.committed() >= committed.len() && stable.committed() <= shown.len());
                prop_assert_eq!(&shown[..committed.len()], &committed[..]);
                committed = shown[..stable.committed()].to_vec();
            }
            let last = words(&hypotheses[0]);
            prop_assert_eq!(&stable.finish(&last)[..committed.len()], &committed[..]);
        }
    }
}
