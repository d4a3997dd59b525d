//! A recording of any length, window after window: each begins where the last one's text ended.

use super::adaptation::{Heard, WindowAdaptation};
use super::window::{Decoded, Network, Prompt};
use super::{Decoding, DecodingError, DecodingOptions, Progress, SpokenLanguage, TIME_PRECISION};
use crate::engine::DecoderBackend;
use crate::model::Generation;
use fastrand::Rng;

/// Log-mel frames a second.
pub(super) const FRAMES_PER_SECOND: f64 = 100.0;
/// Log-mel frames to the step of a timestamp.
const INPUT_STRIDE: usize = 2;

/// A stretch of text with its times.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Seconds from the recording's start.
    pub start: f64,
    /// Seconds from the recording's start.
    pub end: f64,
    /// As the model spells it, with a leading space where a word begins.
    pub text: String,
    /// What the window's decoding was like.
    pub decoding: Decoding,
    /// With times, where they were asked for.
    pub words: Vec<crate::Word>,
    /// Where adaptation changed the window's text: with its first segment all of the source model's, with the others
    /// nothing.
    pub unadapted_text: Option<String>,
    /// How the window was adapted to: with its first segment.
    pub adaptation: Option<WindowAdaptation>,
}

/// Everything that does not change from window to window.
pub(super) struct Recording<'a, B: DecoderBackend> {
    pub(super) backend: &'a B,
    pub(super) network: &'a mut Network<B>,
    pub(super) generation: &'a Generation,
    pub(super) options: &'a DecodingOptions,
    /// `[frames, bands]`
    pub(super) log_mel: &'a [f32],
    pub(super) bands: usize,
    /// First frame and number of frames of the window that is encoded.
    pub(super) encoded: Option<(usize, usize)>,
}

/// A piece of a window between two timestamps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) start: f64,
    pub(super) end: f64,
    pub(super) tokens: Vec<u32>,
    pub(super) words: Vec<crate::Word>,
}

/// A window's pieces, and where the next window begins.
#[derive(Debug, PartialEq)]
pub(super) struct Split {
    pub(super) pieces: Vec<Piece>,
    /// Log-mel frames from the window's start to the next one's.
    pub(super) advance: usize,
    /// The last timestamp stands alone: nothing was said after it.
    pub(super) ends_alone: bool,
}

impl<B: DecoderBackend> Recording<'_, B> {
    fn frames(&self) -> usize {
        self.log_mel.len() / self.bands
    }

    /// Encodes so many frames from one on, unless they are encoded already.
    fn encode(&mut self, from: usize, frames: usize) {
        let end = (from + frames).min(self.frames());
        let from = from.min(end);
        if self.encoded != Some((from, end - from)) {
            let window = &self.log_mel[from * self.bands..end * self.bands];
            self.network.encode(self.backend, window);
            self.encoded = Some((from, end - from));
        }
    }

    /// The language that was asked for, or the one detected in the first windows; `None` in a model of one language.
    pub(super) fn language(&mut self) -> Result<Option<SpokenLanguage>, DecodingError> {
        let tokenizer = &self.generation.tokenizer;
        if tokenizer.languages.is_empty() {
            return match self.options.language.as_deref() {
                None | Some("en") => Ok(None),
                Some(other) => Err(DecodingError::EnglishOnly(other.into())),
            };
        }
        if let Some(code) = &self.options.language {
            return match tokenizer.language(code) {
                Some(_) => Ok(Some(SpokenLanguage {
                    code: code.clone(),
                    probability: 1.0,
                })),
                None => Err(DecodingError::UnknownLanguage(code.clone())),
            };
        }
        let size = self.network.frames;
        let mut votes: Vec<(String, usize, f64)> = Vec::new();
        for index in 0..self.options.language_detection_segments.max(1) {
            if index > 0 && index * size >= self.frames() {
                break;
            }
            self.encode(index * size, size);
            let Some((code, probability)) = self.network.languages(self.backend, self.generation).into_iter().next()
            else {
                break;
            };
            if probability > self.options.language_detection_threshold {
                return Ok(Some(SpokenLanguage { code, probability }));
            }
            match votes.iter_mut().find(|(name, ..)| *name == code) {
                Some((_, count, highest)) => (*count, *highest) = (*count + 1, highest.max(probability)),
                None => votes.push((code, 1, probability)),
            }
        }
        let most = votes
            .into_iter()
            .reduce(|best, other| if other.1 > best.1 { other } else { best });
        Ok(most.map(|(code, _, probability)| SpokenLanguage { code, probability }))
    }

    /// All windows in order. `progress` hears of every window, and may stop the work: then `None`.
    pub(super) fn transcribe(
        &mut self,
        language: Option<&SpokenLanguage>,
        progress: Progress<'_>,
    ) -> Option<Vec<Segment>> {
        let tokenizer = &self.generation.tokenizer;
        let positions = self.network.decoder_layers().config().positions;
        let mut language = language.and_then(|language| tokenizer.language(&language.code));
        let content = self.frames();
        let mut rng = Rng::with_seed(self.options.seed);
        let mut written: Vec<u32> = Vec::new();
        if let Some(prompt) = &self.options.initial_prompt {
            written.extend(tokenizer.encode(&format!(" {}", prompt.trim())));
        }
        let (mut segments, mut forgotten, mut seek) = (Vec::new(), 0, 0);
        let mut last_speech = 0.0;
        while seek < content {
            if !progress(seek as f64 / FRAMES_PER_SECOND) {
                return None;
            }
            let size = self.network.frames.min(content - seek);
            self.encode(seek, size);
            if self.options.multilingual && !tokenizer.languages.is_empty() {
                let likeliest = self.network.languages(self.backend, self.generation).into_iter().next();
                language = likeliest.and_then(|(code, _)| tokenizer.language(&code)).or(language);
            }
            let prefix = self.options.prefix.as_deref().filter(|_| seek == 0);
            let previous = &written[forgotten..];
            let prompt = |options| Prompt::new(self.generation, options, language, previous, positions, prefix);
            let timed = prompt(self.options);
            let plain = self
                .network
                .adaptation
                .as_ref()
                .map(|adaptation| prompt(&adaptation.options));
            let mut decoded = self
                .network
                .generate(self.backend, self.generation, self.options, &timed, &mut rng);
            if self.is_silence(&decoded) {
                seek += size;
                continue;
            }
            let (mut adaptation, was_adapted, before) = (None, plain.is_some(), decoded.tokens.clone());
            if let Some(plain) = plain {
                let heard = Heard {
                    prompt: &timed,
                    plain: &plain,
                    unadapted: decoded,
                };
                (decoded, adaptation) =
                    self.network
                        .adapt(self.backend, self.generation, self.options, heard, &mut rng);
            }
            let (changed, mut unadapted_text) = (decoded.tokens != before, String::new());
            if let Some(adaptation) = &adaptation {
                unadapted_text.clone_from(&adaptation.unadapted_text);
            }
            let offset = seek as f64 / FRAMES_PER_SECOND;
            let mut split = split_by_timestamps(&decoded.tokens, tokenizer.timestamp_begin(), offset, size);
            if self.options.word_timestamps {
                self.add_words(&mut split, language, offset, size, &mut last_speech);
            }
            for piece in split.pieces {
                let text = tokenizer.decode(&piece.tokens);
                if piece.start == piece.end || super::strip(&text).is_empty() {
                    continue;
                }
                written.extend(&piece.tokens);
                segments.push(Segment {
                    start: piece.start,
                    end: piece.end,
                    text,
                    words: piece.words,
                    unadapted_text: changed.then(|| std::mem::take(&mut unadapted_text)),
                    adaptation: adaptation.take(),
                    decoding: Decoding {
                        seek,
                        tokens: piece.tokens,
                        temperature: decoded.temperature,
                        avg_logprob: decoded.avg_logprob,
                        compression_ratio: decoded.compression_ratio,
                        no_speech_prob: decoded.no_speech_prob,
                    },
                });
            }
            if was_adapted {
                // The next window begins with the source model.
                self.network.parameters.restore_source(self.backend);
                self.encoded = None;
            }
            let doubtful = decoded.temperature > self.options.prompt_reset_on_temperature;
            if !self.options.condition_on_previous_text || doubtful {
                forgotten = written.len();
            }
            // A timestamp at the window's start would have it decoded again for ever.
            seek += if split.advance == 0 { size } else { split.advance };
        }
        Some(segments)
    }

    fn is_silence(&self, decoded: &Decoded) -> bool {
        let quiet = self
            .options
            .no_speech_threshold
            .is_some_and(|most| decoded.no_speech_prob > most);
        let sure = self
            .options
            .log_prob_threshold
            .is_some_and(|least| decoded.avg_logprob > least);
        quiet && !sure
    }
}

/// Cuts a window's tokens where two timestamps meet. `offset` is the window's start in seconds, `size` its frames.
pub(super) fn split_by_timestamps(tokens: &[u32], timestamp_begin: u32, offset: f64, size: usize) -> Split {
    let is_timestamp = |token: &u32| *token >= timestamp_begin;
    let time = |token: &u32| f64::from(token.saturating_sub(timestamp_begin)) * TIME_PRECISION;
    let ends_alone = matches!(tokens, [.., before, last] if !is_timestamp(before) && is_timestamp(last));
    let meeting = tokens.windows(2).enumerate();
    let mut cuts: Vec<usize> = meeting
        .filter(|(_, pair)| is_timestamp(&pair[0]) && is_timestamp(&pair[1]))
        .map(|(index, _)| index + 1)
        .collect();
    if cuts.is_empty() {
        let last = tokens.iter().rev().find(|token| is_timestamp(token));
        let duration = match last {
            Some(last) if *last != timestamp_begin => time(last),
            _ => size as f64 / FRAMES_PER_SECOND,
        };
        let piece = Piece {
            start: offset,
            end: offset + duration,
            tokens: tokens.to_vec(),
            words: Vec::new(),
        };
        return Split {
            pieces: vec![piece],
            advance: size,
            ends_alone,
        };
    }
    if ends_alone {
        cuts.push(tokens.len());
    }
    let mut from = 0;
    let mut pieces = Vec::with_capacity(cuts.len());
    for to in cuts {
        let part = &tokens[from..to];
        let (first, last) = (part.first().map_or(0.0, time), part.last().map_or(0.0, time));
        pieces.push(Piece {
            start: offset + first,
            end: offset + last,
            tokens: part.to_vec(),
            words: Vec::new(),
        });
        from = to;
    }
    let advance = if ends_alone {
        size
    } else {
        // What follows the last pair was cut off: the next window hears it whole.
        tokens[from - 1].saturating_sub(timestamp_begin) as usize * INPUT_STRIDE
    };
    Split {
        pieces,
        advance,
        ends_alone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BEGIN: u32 = 100;

    fn times(split: &Split) -> Vec<(f64, f64, usize)> {
        let piece = |piece: &Piece| (piece.start, piece.end, piece.tokens.len());
        split.pieces.iter().map(piece).collect()
    }

    #[test]
    fn pairs_of_timestamps_cut_and_the_rest_is_heard_again() {
        // 0.00 a b 2.00 2.00 c: c is unfinished.
        let split = split_by_timestamps(&[100, 1, 2, 200, 200, 3], BEGIN, 30.0, 3000);
        assert_eq!(times(&split), [(30.0, 32.0, 4)]);
        assert_eq!((split.advance, split.ends_alone), (200, false));
        // ... c 4.00: the window is done.
        let split = split_by_timestamps(&[100, 1, 2, 200, 200, 3, 300], BEGIN, 30.0, 2500);
        assert_eq!(times(&split), [(30.0, 32.0, 4), (32.0, 34.0, 3)]);
        assert_eq!((split.advance, split.ends_alone), (2500, true));
    }

    #[test]
    fn without_pairs_a_window_is_one_piece() {
        let split = split_by_timestamps(&[100, 1, 2], BEGIN, 0.0, 700);
        assert_eq!((times(&split), split.advance), (vec![(0.0, 7.0, 3)], 700));
        let split = split_by_timestamps(&[100, 1, 2, 150], BEGIN, 0.0, 700);
        assert_eq!((times(&split), split.advance), (vec![(0.0, 1.0, 4)], 700));
        assert_eq!(split_by_timestamps(&[], BEGIN, 0.0, 700).advance, 700);
    }

    proptest! {
        #[test]
        fn any_tokens_are_cut_without_loss_before_the_unfinished_end(
            tokens in proptest::collection::vec(prop_oneof![0u32..BEGIN, BEGIN..BEGIN + 1501], 0..60),
            size in 1usize..=3000,
        ) {
            let split = split_by_timestamps(&tokens, BEGIN, 1.0, size);
            let joined: Vec<u32> = split.pieces.iter().flat_map(|piece| piece.tokens.clone()).collect();
            prop_assert_eq!(&tokens[..joined.len()], &joined[..]);
            prop_assert!(split.advance <= 3000);
        }
    }
}
