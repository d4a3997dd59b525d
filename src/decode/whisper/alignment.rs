//! Which frames a text's tokens were heard in: attention of the alignment heads, then dynamic time warping.

use super::Task;
use super::sequential::Transcriber;
use crate::engine::DecoderBackend;
use crate::model::Tokenizer;

/// Frames of the encoder's output a second.
const TOKENS_PER_SECOND: f64 = 50.0;
/// Frames that the attention's median filter sees.
const FILTER: usize = 7;
/// Languages written without spaces.
const UNSPACED: [&str; 6] = ["zh", "ja", "th", "lo", "my", "yue"];
const ASCII_PUNCTUATION: &str = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

/// A word, as the tokens spell it; seconds from the window's start.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Aligned {
    pub(super) text: String,
    pub(super) tokens: usize,
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) probability: f64,
}

impl<B: DecoderBackend> Transcriber<'_, B> {
    /// The words of text tokens in a window that was encoded, of which `size` log-mel frames hold sound.
    pub(super) fn align(&mut self, window: usize, text: &[u32], language: Option<u32>, size: usize) -> Vec<Aligned> {
        let tokenizer = &self.generation.tokenizer;
        let code = tokenizer.languages.iter().find(|(_, token)| Some(*token) == language);
        let code = code.map_or("en", |(code, _)| code.as_str());
        let words = split_words(tokenizer, text, UNSPACED.contains(&code));
        let frames = (size / 2).max(1);
        if words.is_empty() {
            return Vec::new();
        }
        let mut sequence = vec![tokenizer.sot];
        if let Some(language) = language {
            sequence.extend(match self.options.task {
                Task::Transcribe => [language, tokenizer.transcribe],
                Task::Translate => [language, tokenizer.translate],
            });
        }
        let before = sequence.len();
        sequence.push(tokenizer.no_timestamps);
        sequence.extend(text);
        sequence.push(tokenizer.eot);
        self.network.run_sequence(self.backend, window, &sequence);
        let eot = tokenizer.eot as usize;
        let probabilities = self.network.probabilities(self.backend, before, text, eot);
        let rows = sequence.len();
        let mut mean = vec![0.0f64; rows * frames];
        for &head in &self.generation.alignment_heads {
            let mut attention = self.network.attention(self.backend, window, head, rows, frames);
            normalise(&mut attention, frames);
            median_filter(&mut attention, frames);
            mean.iter_mut().zip(&attention).for_each(|(sum, value)| *sum += value);
        }
        // Neither what stands before the text nor the end is heard anywhere.
        let times = first_frames(&mean[before * frames..(rows - 1) * frames], frames);
        let mut from = 0;
        words
            .into_iter()
            .map(|(text, tokens)| {
                let range = from..from + tokens;
                from = range.end;
                let of_word = &probabilities[range.clone()];
                Aligned {
                    text,
                    tokens,
                    start: times[range.start] as f64 / TOKENS_PER_SECOND,
                    end: times[range.end] as f64 / TOKENS_PER_SECOND,
                    probability: of_word.iter().sum::<f64>() / of_word.len() as f64,
                }
            })
            .collect()
    }
}

/// A text's words, with the number of tokens of each.
fn split_words(tokenizer: &Tokenizer, tokens: &[u32], unspaced: bool) -> Vec<(String, usize)> {
    let characters = split_characters(tokenizer, tokens);
    if unspaced {
        return characters;
    }
    let mut words: Vec<(String, usize)> = Vec::new();
    for (text, count) in characters {
        let begins = text.starts_with(' ') || ASCII_PUNCTUATION.contains(text.trim());
        match words.last_mut() {
            Some((word, tokens)) if !begins => {
                word.push_str(&text);
                *tokens += count;
            }
            _ => words.push((text, count)),
        }
    }
    words
}

/// The shortest runs of tokens that are whole characters.
fn split_characters(tokenizer: &Tokenizer, tokens: &[u32]) -> Vec<(String, usize)> {
    const BROKEN: char = '\u{fffd}';
    let whole: Vec<char> = tokenizer.decode(tokens).chars().collect();
    let (mut runs, mut from, mut offset) = (Vec::new(), 0, 0);
    for to in 1..=tokens.len() {
        let text = tokenizer.decode(&tokens[from..to]);
        let broken = text.chars().position(|c| c == BROKEN);
        // A broken character that is broken in the whole text too will not get better.
        if broken.is_none_or(|at| whole.get(at + offset) == Some(&BROKEN)) {
            offset += text.chars().count();
            runs.push((text, to - from));
            from = to;
        }
    }
    if let (Some((_, count)), true) = (runs.last_mut(), from < tokens.len()) {
        *count += tokens.len() - from;
    }
    runs
}

/// Each frame's attention over the rows to mean 0 and variance 1; `[rows, frames]`.
fn normalise(attention: &mut [f64], frames: usize) {
    let rows = (attention.len() / frames) as f64;
    for frame in 0..frames {
        let column = || attention.iter().skip(frame).step_by(frames);
        let mean = column().sum::<f64>() / rows;
        let variance = column().map(|value| (value - mean).powi(2)).sum::<f64>() / rows;
        let scale = if variance > 0.0 { 1.0 / variance.sqrt() } else { 0.0 };
        for value in attention.iter_mut().skip(frame).step_by(frames) {
            *value = (*value - mean) * scale;
        }
    }
}

/// A running median over the frames of each row, mirrored at its ends.
fn median_filter(attention: &mut [f64], frames: usize) {
    let reach = FILTER / 2;
    if frames <= reach {
        return;
    }
    for row in attention.chunks_exact_mut(frames) {
        let mirrored = |index: isize| {
            let index = index.unsigned_abs();
            if index < frames {
                index
            } else {
                2 * (frames - 1) - index
            }
        };
        let filtered: Vec<f64> = (0..frames)
            .map(|frame| {
                let mut window = [0.0; FILTER];
                for (offset, value) in window.iter_mut().enumerate() {
                    *value = row[mirrored((frame + offset) as isize - reach as isize)];
                }
                window.sort_by(f64::total_cmp);
                window[reach]
            })
            .collect();
        row.copy_from_slice(&filtered);
    }
}

/// Dynamic time warping along the highest sum of `scores` `[rows, frames]`: the first frame of each row's stretch.
fn first_frames(scores: &[f64], frames: usize) -> Vec<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum From {
        Both,
        Row,
        Frame,
    }
    let rows = scores.len() / frames;
    let mut cost = vec![f64::INFINITY; frames + 1];
    let mut from = vec![From::Frame; rows * frames];
    cost[0] = 0.0;
    for row in 0..rows {
        let mut next = vec![f64::INFINITY; frames + 1];
        for frame in 0..frames {
            let (both, up, left) = (cost[frame], cost[frame + 1], next[frame]);
            let (least, step) = if both < up && both < left {
                (both, From::Both)
            } else if up < both && up < left {
                (up, From::Row)
            } else {
                (left, From::Frame)
            };
            next[frame + 1] = least - scores[row * frames + frame];
            from[row * frames + frame] = step;
        }
        cost = next;
    }
    let mut first = vec![0; rows];
    let (mut row, mut frame) = (rows, frames);
    while row > 0 {
        if frame == 0 {
            break;
        }
        first[row - 1] = frame - 1;
        match from[(row - 1) * frames + frame - 1] {
            From::Both => (row, frame) = (row - 1, frame - 1),
            From::Row => row -= 1,
            From::Frame => frame -= 1,
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warping_follows_a_staircase() {
        // Row r is heard in the frames 3r .. 3r + 3.
        let (rows, frames) = (4, 12);
        let mut scores = vec![-0.1; rows * frames];
        for frame in 0..frames {
            scores[frame / 3 * frames + frame] = 1.0;
        }
        assert_eq!(first_frames(&scores, frames), [0, 3, 6, 9]);
        // More rows than frames, and one of each, still end.
        assert_eq!(first_frames(&[0.0; 6], 2).len(), 3);
        assert_eq!(first_frames(&[1.0], 1), [0]);
        assert!(first_frames(&[], 5).is_empty());
    }

    #[test]
    fn the_median_filter_removes_a_spike_and_keeps_a_step() {
        let mut row = vec![0.0; 20];
        row[5] = 9.0;
        row[12..].fill(1.0);
        median_filter(&mut row, 20);
        let expected: Vec<f64> = (0..20).map(|frame| if frame < 12 { 0.0 } else { 1.0 }).collect();
        assert_eq!(row, expected);
        let mut short = vec![3.0, 1.0];
        median_filter(&mut short, 2);
        assert_eq!(short, [3.0, 1.0]);
    }

    #[test]
    fn normalised_columns_have_mean_0_and_variance_1() {
        let mut attention = vec![1.0, 5.0, 3.0, 5.0];
        normalise(&mut attention, 2);
        assert_eq!(attention, [-1.0, 0.0, 1.0, 0.0]);
    }
}
