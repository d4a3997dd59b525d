//! Whether an adapted transcript may take the place of the source model's.

use crate::Guard;
use crate::decode::Hypothesis;

/// The transcript never comes out emptier than the source model's without being flagged: an empty one gives way to
/// the source model's, one that lost half its letters stands, with a flag.
pub(super) fn judge(guard: Option<Guard>, unadapted: &Hypothesis, adapted: Hypothesis) -> (Option<Guard>, Hypothesis) {
    let letters = |hypothesis: &Hypothesis| hypothesis.text.chars().filter(|c| !c.is_whitespace()).count();
    if adapted.words.is_empty() && !unadapted.words.is_empty() {
        (Some(Guard::Emptied), unadapted.clone())
    } else if 2 * letters(&adapted) < letters(unadapted) {
        (guard.or(Some(Guard::Shortened)), adapted)
    } else {
        (guard, adapted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Word;

    fn hypothesis(text: &str) -> Hypothesis {
        let word = |word: &str| Word {
            word: word.into(),
            start: 0.0,
            end: 0.0,
            confidence: 1.0,
        };
        Hypothesis {
            text: text.into(),
            words: text.split_whitespace().map(word).collect(),
        }
    }

    #[test]
    fn an_emptied_transcript_gives_way_to_the_source_models() {
        let (guard, kept) = judge(None, &hypothesis("SOME WORDS"), hypothesis(""));
        assert_eq!((guard, kept.text.as_str()), (Some(Guard::Emptied), "SOME WORDS"));
    }

    #[test]
    fn a_halved_transcript_is_flagged_and_stands() {
        let (guard, kept) = judge(None, &hypothesis("SOME WORDS"), hypothesis("SOM"));
        assert_eq!((guard, kept.text.as_str()), (Some(Guard::Shortened), "SOM"));
        assert_eq!(judge(None, &hypothesis("SOME WORDS"), hypothesis("SOME WORD")).0, None);
        assert_eq!(
            judge(Some(Guard::AllBlank), &hypothesis(""), hypothesis("")).0,
            Some(Guard::AllBlank)
        );
    }
}
