//! Recordings of any length, window after window: each begins where the last one's text ended. Windows of several
//! recordings go side by side.

use super::adaptation::{WindowAdaptation, Written};
use super::prompt::Prompt;
use super::window::{Asked, Decoded, Network};
use super::{Decoding, DecodingError, DecodingOptions, SpokenLanguage, TIME_PRECISION};
use crate::adapt::{Policy, Snapshot};
use crate::engine::{DecoderBackend, EngineError};
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
pub(super) struct Transcriber<'a, B: DecoderBackend> {
    pub(super) backend: &'a B,
    pub(super) network: &'a mut Network<B>,
    /// What is carried from window to window.
    pub(super) policy: &'a mut Policy<Snapshot<B>>,
    pub(super) generation: &'a Generation,
    pub(super) options: &'a DecodingOptions,
    pub(super) bands: usize,
    /// The one window that was encoded to find out the language: of the first recording, its first frame.
    pub(super) encoded: Option<usize>,
}

/// A recording, and how far it is transcribed.
pub(super) struct Recording<'a> {
    /// `[frames, bands]`
    log_mel: &'a [f32],
    frames: usize,
    language: Option<u32>,
    rng: Rng,
    /// Tokens of the text so far, of which the first are forgotten.
    written: Vec<u32>,
    forgotten: usize,
    /// The next window's first frame.
    seek: usize,
    /// The end of the last word, in seconds.
    last_speech: f64,
    segments: Vec<Segment>,
}

/// A recording's window, encoded.
struct Window {
    /// Of the recordings.
    recording: usize,
    /// Frames with sound.
    size: usize,
    timed: Prompt,
    /// What adaptation takes for the prompt.
    plain: Option<Prompt>,
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

impl<'a> Recording<'a> {
    /// Of log-mel frames `[frames, bands]`, its draws from a generator of its own.
    pub(super) fn new(log_mel: &'a [f32], bands: usize, seed: u64) -> Self {
        Self {
            log_mel,
            frames: log_mel.len() / bands,
            language: None,
            rng: Rng::with_seed(seed),
            written: Vec::new(),
            forgotten: 0,
            seek: 0,
            last_speech: 0.0,
            segments: Vec::new(),
        }
    }
}

impl<B: DecoderBackend> Transcriber<'_, B> {
    /// Encodes so many frames of a recording from one on as one of the windows.
    fn encode(&mut self, window: usize, recording: &Recording<'_>, from: usize, frames: usize) {
        let end = (from + frames).min(recording.frames);
        let from = from.min(end);
        let log_mel = &recording.log_mel[from * self.bands..end * self.bands];
        self.network.encode(self.backend, window, log_mel);
    }

    /// The language that was asked for, or the one detected in a recording's first windows; `None` in a model of one language.
    pub(super) fn language(&mut self, recording: &Recording<'_>) -> Result<Option<SpokenLanguage>, DecodingError> {
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
            if index > 0 && index * size >= recording.frames {
                break;
            }
            self.encode(0, recording, index * size, size);
            self.encoded = Some(index * size);
            let Some((code, probability)) = self.likeliest_language(0) else {
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

    fn likeliest_language(&mut self, window: usize) -> Option<(String, f64)> {
        let languages = self.network.languages(self.backend, window, self.generation);
        languages.into_iter().next()
    }

    /// All windows of some recordings: of each in order, of several side by side. `progress` hears of every recording
    /// before a window of it is begun, with the seconds before that window, and may stop the work: then `None`.
    pub(super) fn transcribe(
        &mut self,
        recordings: &mut [Recording<'_>],
        language: Option<&SpokenLanguage>,
        progress: &mut dyn FnMut(usize, f64) -> bool,
    ) -> Result<Option<Vec<Vec<Segment>>>, EngineError> {
        let tokenizer = &self.generation.tokenizer;
        let language = language.and_then(|language| tokenizer.language(&language.code));
        for recording in recordings.iter_mut() {
            recording.language = language;
            if let Some(prompt) = &self.options.initial_prompt {
                let tokens = tokenizer.encode(&format!(" {}", prompt.trim()));
                recording.written.extend(tokens);
            }
        }
        loop {
            let unfinished = recordings.iter().enumerate().filter(|(_, r)| r.seek < r.frames);
            let chosen: Vec<usize> = unfinished.map(|(index, _)| index).take(self.network.windows).collect();
            if chosen.is_empty() {
                break;
            }
            let mut windows = Vec::with_capacity(chosen.len());
            for (window, index) in chosen.into_iter().enumerate() {
                let recording = &mut recordings[index];
                if !progress(index, recording.seek as f64 / FRAMES_PER_SECOND) {
                    return Ok(None);
                }
                windows.push(self.begin(window, index, recording));
            }
            let mut asked = Vec::with_capacity(windows.len());
            for (index, recording) in recordings.iter_mut().enumerate() {
                let begun = windows.iter().position(|begun| begun.recording == index);
                asked.extend(begun.map(|window| Asked {
                    window,
                    prompt: &windows[window].timed,
                    rng: &mut recording.rng,
                }));
            }
            let decoded = self
                .network
                .generate(self.backend, self.generation, self.options, asked);
            for (slot, (window, decoded)) in windows.into_iter().zip(decoded).enumerate() {
                let recording = &mut recordings[window.recording];
                self.write(slot, window, recording, decoded)?;
            }
        }
        let finished = recordings.iter_mut();
        let segments = finished.map(|recording| std::mem::take(&mut recording.segments));
        Ok(Some(segments.collect()))
    }

    /// Encodes a recording's next window.
    fn begin(&mut self, window: usize, index: usize, recording: &mut Recording<'_>) -> Window {
        let size = self.network.frames.min(recording.frames - recording.seek);
        // What was encoded last, to find out the language, is the first window of all.
        if self.encoded.take() != Some(recording.seek) || index > 0 {
            self.encode(window, recording, recording.seek, size);
        }
        let tokenizer = &self.generation.tokenizer;
        if self.options.multilingual && !tokenizer.languages.is_empty() {
            let likeliest = self.likeliest_language(window);
            recording.language = likeliest
                .and_then(|(code, _)| tokenizer.language(&code))
                .or(recording.language);
        }
        let positions = self.network.decoder_layers().config().positions;
        let prefix = self.options.prefix.as_deref().filter(|_| recording.seek == 0);
        let previous = &recording.written[recording.forgotten..];
        let prompt = |options| {
            Prompt::new(
                self.generation,
                options,
                recording.language,
                previous,
                positions,
                prefix,
            )
        };
        let adaptation = self.network.adaptation.as_ref();
        Window {
            recording: index,
            size,
            timed: prompt(self.options),
            plain: adaptation.map(|adaptation| prompt(&adaptation.options)),
        }
    }

    /// Writes down what was decoded in a window, after adapting to it where that was asked for.
    fn write(
        &mut self,
        slot: usize,
        window: Window,
        recording: &mut Recording<'_>,
        mut decoded: Decoded,
    ) -> Result<(), EngineError> {
        let tokenizer = &self.generation.tokenizer;
        let (size, seek) = (window.size, recording.seek);
        if self.is_silence(&decoded) {
            recording.seek += size;
            return Ok(());
        }
        let (mut adapted, before) = (None, decoded.tokens.clone());
        if let Some(plain) = window.plain {
            let written = Written {
                prompt: &window.timed,
                plain: &plain,
                log_mel: &recording.log_mel[seek * self.bands..(seek + size) * self.bands],
                unadapted: decoded,
            };
            (decoded, adapted) = self.network.adapt(
                self.backend,
                self.generation,
                self.options,
                written,
                self.policy,
                &mut recording.rng,
            )?;
        }
        let offset = seek as f64 / FRAMES_PER_SECOND;
        let mut split = split_by_timestamps(&decoded.tokens, tokenizer.timestamp_begin(), offset, size);
        if self.options.word_timestamps {
            self.add_words(
                slot,
                &mut split,
                recording.language,
                offset,
                size,
                &mut recording.last_speech,
            );
        }
        // Until here the network is as it wrote the text; the next window begins with the source model.
        let mut adaptation = match adapted {
            Some(adapted) => Some(
                self.network
                    .learn(self.backend, self.generation, self.policy, adapted)?,
            ),
            None => None,
        };
        let (changed, mut unadapted_text) = (decoded.tokens != before, String::new());
        if let Some(adaptation) = &adaptation {
            unadapted_text.clone_from(&adaptation.unadapted_text);
        }
        for piece in split.pieces {
            let text = tokenizer.decode(&piece.tokens);
            if piece.start == piece.end || super::strip(&text).is_empty() {
                continue;
            }
            recording.written.extend(&piece.tokens);
            recording.segments.push(Segment {
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
        let doubtful = decoded.temperature > self.options.prompt_reset_on_temperature;
        if !self.options.condition_on_previous_text || doubtful {
            recording.forgotten = recording.written.len();
        }
        // A timestamp at the window's start would have it decoded again for ever.
        recording.seek += if split.advance == 0 { size } else { split.advance };
        Ok(())
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
