//! Times of words, as faster-whisper makes them: from the attention heads that follow the speech, by dynamic time
//! warping (alignment), then moved to where pauses and the segments' own times put them.

use super::alignment::Aligned;
use super::sequential::{FRAMES_PER_SECOND, Piece, Split, Transcriber};
use crate::Word;
use crate::engine::DecoderBackend;

/// A word is no longer than this on the average, in seconds: more is a pause.
const LONGEST_MEDIAN: f64 = 0.7;
const SENTENCE_ENDS: &str = ".。!！?？";

impl<B: DecoderBackend> Transcriber<'_, B> {
    /// Gives the pieces of a window that was encoded their words, and moves the pieces' times and the next window's start to them. `offset` is
    /// the window's start and `last_speech` the end of the last word before it, in seconds.
    pub(super) fn add_words(
        &mut self,
        window: usize,
        split: &mut Split,
        language: Option<u32>,
        offset: f64,
        size: usize,
        last_speech: &mut f64,
    ) {
        let eot = self.generation.tokenizer.eot;
        let text = |piece: &Piece| {
            piece
                .tokens
                .iter()
                .copied()
                .filter(|token| *token < eot)
                .collect::<Vec<_>>()
        };
        let texts: Vec<Vec<u32>> = split.pieces.iter().map(text).collect();
        let mut aligned = self.align(window, &texts.concat(), language, size);
        let (median, longest) = typical_durations(&aligned);
        cut_long_words(&mut aligned, longest);
        merge_punctuation(
            &mut aligned,
            &self.options.prepend_punctuations,
            &self.options.append_punctuations,
        );
        let mut rest = aligned.into_iter();
        let mut previous_end = *last_speech;
        for (piece, text) in split.pieces.iter_mut().zip(&texts) {
            let (mut words, mut taken) = (Vec::new(), 0);
            while taken < text.len() {
                let Some(word) = rest.next() else { break };
                taken += word.tokens;
                if !word.text.is_empty() {
                    words.push(Word {
                        start: hundredths(offset + word.start),
                        end: hundredths(offset + word.end),
                        word: word.text,
                        confidence: word.probability as f32,
                    });
                }
            }
            if !words.is_empty() {
                settle(piece, &mut words, (median, longest), previous_end);
                previous_end = piece.end;
            }
            piece.words = words;
        }
        let words = split.pieces.iter().flat_map(|piece| &piece.words);
        let end = words
            .last()
            .map(|word| word.end)
            .or(split.pieces.last().map(|piece| piece.end));
        if let Some(end) = end {
            if !split.ends_alone && end > offset {
                let next = (end * FRAMES_PER_SECOND).round_ties_even() as usize;
                split.advance = next.saturating_sub((offset * FRAMES_PER_SECOND).round() as usize);
            }
            *last_speech = end;
        }
        for word in split.pieces.iter_mut().flat_map(|piece| &mut piece.words) {
            word.word = word.word.trim().to_string();
        }
    }
}

fn hundredths(seconds: f64) -> f64 {
    (seconds * 100.0).round_ties_even() / 100.0
}

/// The words' median duration, and the longest one that is believed; in seconds.
fn typical_durations(words: &[Aligned]) -> (f64, f64) {
    let mut durations: Vec<f64> = words
        .iter()
        .map(|word| word.end - word.start)
        .filter(|d| *d != 0.0)
        .collect();
    durations.sort_by(f64::total_cmp);
    let middle = durations.len() / 2;
    let median = match durations.len() {
        0 => 0.0,
        len if len.is_multiple_of(2) => (durations[middle - 1] + durations[middle]) / 2.0,
        _ => durations[middle],
    };
    let median = median.min(LONGEST_MEDIAN);
    (median, 2.0 * median)
}

/// A long word at a sentence's boundary holds the pause there.
fn cut_long_words(words: &mut [Aligned], longest: f64) {
    if words.iter().all(|word| word.start == word.end) {
        return;
    }
    for index in 1..words.len() {
        if words[index].end - words[index].start <= longest {
            continue;
        }
        if SENTENCE_ENDS.contains(&words[index].text) {
            words[index].end = words[index].start + longest;
        } else if SENTENCE_ENDS.contains(&words[index - 1].text) {
            words[index].start = words[index].end - longest;
        }
    }
}

/// Joins punctuation to the word it belongs to; what was joined is left behind empty.
fn merge_punctuation(words: &mut [Aligned], prepended: &str, appended: &str) {
    let join = |words: &mut [Aligned], from: usize, to: usize| {
        let text = std::mem::take(&mut words[from].text);
        let tokens = std::mem::take(&mut words[from].tokens);
        if from < to {
            words[to].text.insert_str(0, &text);
        } else {
            words[to].text.push_str(&text);
        }
        words[to].tokens += tokens;
    };
    let mut following = words.len().saturating_sub(1);
    for index in (0..words.len().saturating_sub(1)).rev() {
        let text = &words[index].text;
        if text.starts_with(' ') && prepended.contains(text.trim()) {
            join(words, index, following);
        } else {
            following = index;
        }
    }
    let mut previous = 0;
    for index in 1..words.len() {
        if !words[previous].text.ends_with(' ') && appended.contains(&words[index].text) {
            join(words, index, previous);
        } else {
            previous = index;
        }
    }
}

/// Cuts words that reach into the pause before a segment, and brings the segment's times and its words' together.
fn settle(piece: &mut Piece, words: &mut [Word], (median, longest): (f64, f64), previous_end: f64) {
    let first_is_long = words[0].end - words[0].start > longest;
    let two_are_long = words.len() > 1 && words[1].end - words[0].start > 2.0 * longest;
    if words[0].end - previous_end > 4.0 * median && (first_is_long || two_are_long) {
        if words.len() > 1 && words[1].end - words[1].start > longest {
            let boundary = (words[1].end / 2.0).max(words[1].end - longest);
            (words[0].end, words[1].start) = (boundary, boundary);
        }
        words[0].start = (words[0].end - longest).max(0.0);
    }
    if piece.start < words[0].end && piece.start - 0.5 > words[0].start {
        words[0].start = (words[0].end - median).min(piece.start).max(0.0);
    } else {
        piece.start = words[0].start;
    }
    let Some(last) = words.last_mut() else { return };
    if piece.end > last.start && piece.end + 0.5 < last.end {
        last.end = (last.start + median).max(piece.end);
    } else {
        piece.end = last.end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(texts: &[&str]) -> Vec<Aligned> {
        let word = |(index, text): (usize, &&str)| Aligned {
            text: (*text).into(),
            tokens: 1,
            start: index as f64 * 0.5,
            end: index as f64 * 0.5 + 0.4,
            probability: 0.5,
        };
        texts.iter().enumerate().map(word).collect()
    }

    #[test]
    fn punctuation_joins_its_word_and_loses_no_token() {
        let mut aligned = words(&[" \"", "Well", ",", " he", " said", ".", "\""]);
        let options = super::super::DecodingOptions::default();
        merge_punctuation(
            &mut aligned,
            &options.prepend_punctuations,
            &options.append_punctuations,
        );
        let texts: Vec<&str> = aligned.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(texts, ["", " \"Well,", "", " he", " said.\"", "", ""]);
        assert_eq!(aligned.iter().map(|word| word.tokens).sum::<usize>(), 7);
        merge_punctuation(&mut [], "(", ")");
    }

    #[test]
    fn a_word_that_holds_a_pause_is_cut() {
        let mut aligned = words(&[" one", ".", " two", " three"]);
        aligned[2].end = 9.0;
        let (median, longest) = typical_durations(&aligned);
        assert!((median - 0.4).abs() < 1e-9 && (longest - 0.8).abs() < 1e-9);
        cut_long_words(&mut aligned, longest);
        assert!((aligned[2].start - 8.2).abs() < 1e-9);
        assert_eq!(typical_durations(&[]), (0.0, 0.0));
    }
}
