//! Greedy CTC decoding (Graves et al. 2006): the best symbol of every frame, repeats merged, blanks dropped.

use crate::Word;
use crate::model::{Symbol, Vocabulary};

/// A decoded utterance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hypothesis {
    /// The words, joined by single spaces.
    pub text: String,
    /// The words with times from the utterance's start, in seconds.
    pub words: Vec<Word>,
}

/// A word being spelled.
struct Open {
    text: String,
    first_frame: usize,
    last_frame: usize,
}

/// Decodes logits `[T, V]`; `frame_seconds` is the time from one frame to the next.
///
/// A word lasts from the frame in which its first symbol appears to the end of its last symbol's last frame. Its
/// confidence is the geometric mean, over those frames, of the posterior probability of the path taken (blanks
/// within the word included): what the model itself believed, at temperature 1.
pub fn greedy(logits: &[f32], vocabulary: &Vocabulary, frame_seconds: f64) -> Hypothesis {
    let classes = vocabulary.len();
    let frames: Vec<(usize, f64)> = logits.chunks_exact(classes).map(best).collect();
    let mut words = Vec::new();
    let mut open: Option<Open> = None;
    let mut previous = None;
    for (frame, &(symbol, _)) in frames.iter().enumerate() {
        let repeated = previous == Some(symbol);
        previous = Some(symbol);
        match vocabulary.symbol(symbol) {
            Symbol::Silent => {}
            Symbol::Boundary => words.extend(open.take().map(|word| close(word, &frames, frame_seconds))),
            Symbol::Text(text) => {
                let word = open.get_or_insert_with(|| Open {
                    text: String::new(),
                    first_frame: frame,
                    last_frame: frame,
                });
                word.last_frame = frame;
                if !repeated {
                    word.text.push_str(text);
                }
            }
        }
    }
    words.extend(open.map(|word| close(word, &frames, frame_seconds)));
    let texts: Vec<&str> = words.iter().map(|word: &Word| word.word.as_str()).collect();
    Hypothesis {
        text: texts.join(" "),
        words,
    }
}

fn close(word: Open, frames: &[(usize, f64)], frame_seconds: f64) -> Word {
    let path = &frames[word.first_frame..=word.last_frame];
    let mean_log = path.iter().map(|(_, log_probability)| log_probability).sum::<f64>() / path.len() as f64;
    Word {
        word: word.text,
        start: word.first_frame as f64 * frame_seconds,
        end: (word.last_frame + 1) as f64 * frame_seconds,
        confidence: mean_log.exp() as f32,
    }
}

/// A frame's best symbol and its log-probability.
fn best(logits: &[f32]) -> (usize, f64) {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    let highest = logits[best] as f64;
    let sum: f64 = logits.iter().map(|&logit| (logit as f64 - highest).exp()).sum();
    (best, -sum.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary() -> Vocabulary {
        Vocabulary::parse(br#"{"<pad>": 0, "|": 1, "A": 2, "B": 3, "<s>": 4}"#, None, None, 5, 0).unwrap()
    }

    /// Logits whose best symbols spell a path; `peak` is the winner's logit over zeros.
    fn path(symbols: &[usize], peak: f32) -> Vec<f32> {
        let mut logits = vec![0.0; symbols.len() * 5];
        for (frame, symbol) in symbols.iter().enumerate() {
            logits[frame * 5 + symbol] = peak;
        }
        logits
    }

    #[test]
    fn repeats_merge_and_blanks_separate() {
        let hypothesis = greedy(&path(&[0, 2, 2, 0, 2, 3, 1, 1, 4, 3, 0], 9.0), &vocabulary(), 0.02);
        assert_eq!(hypothesis.text, "AAB B");
        let times: Vec<(f64, f64)> = hypothesis.words.iter().map(|word| (word.start, word.end)).collect();
        assert!(
            (times[0].0 - 0.02).abs() < 1e-9 && (times[0].1 - 0.12).abs() < 1e-9,
            "{times:?}"
        );
        assert!(
            (times[1].0 - 0.18).abs() < 1e-9 && (times[1].1 - 0.20).abs() < 1e-9,
            "{times:?}"
        );
    }

    #[test]
    fn confidence_is_the_posterior_along_the_path() {
        let hypothesis = greedy(&path(&[2, 3], 2.0), &vocabulary(), 0.02);
        let expected = 2f64.exp() / (2f64.exp() + 4.0);
        assert!((hypothesis.words[0].confidence as f64 - expected).abs() < 1e-6);
    }

    #[test]
    fn nothing_gives_nothing() {
        assert_eq!(greedy(&[], &vocabulary(), 0.02), Hypothesis::default());
        assert_eq!(
            greedy(&path(&[0, 1, 1, 0, 4], 5.0), &vocabulary(), 0.02),
            Hypothesis::default()
        );
    }
}
