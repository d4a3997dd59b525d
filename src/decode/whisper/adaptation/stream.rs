//! What a continual method does with the windows that it keeps.

use super::descent::Descent;
use crate::adapt::{AdaptedParameters, Moves, OnStore, TokenTerms};
use crate::decode::whisper::prompt::Prompt;
use crate::engine::{AdamW, DecoderBackend, EngineError, ObjectiveValue};

/// A window as one row of numbers: how many tokens stand before its text and how many begin it, those, and its log-mel
/// frames. Tokens are small enough for f32.
pub(super) fn pack(plain: &Prompt, log_mel: &[f32]) -> Vec<f32> {
    let counts = [plain.tokens.len(), plain.prefix.len()].map(|count| count as f32);
    let tokens = plain.tokens.iter().chain(&plain.prefix).map(|token| *token as f32);
    counts
        .into_iter()
        .chain(tokens)
        .chain(log_mel.iter().copied())
        .collect()
}

/// The reverse: prompt and log-mel frames; `None` of what is no window of a model with so many symbols and positions.
fn unpack(input: &[f32], classes: usize, positions: usize) -> Option<(Prompt, &[f32])> {
    let whole = |value: f32| (value >= 0.0 && value.fract() == 0.0).then_some(value as usize);
    let (counts, rest) = input.split_first_chunk::<2>()?;
    let [before, given] = [whole(counts[0])?, whole(counts[1])?];
    // A text needs a place, and something to follow.
    let length = before
        .checked_add(given)
        .filter(|length| *length < positions && before > 0)?;
    let (tokens, log_mel) = rest.split_at_checked(length)?;
    let tokens = tokens
        .iter()
        .map(|token| whole(*token).filter(|token| *token < classes));
    let tokens: Vec<u32> = tokens.map(|token| Some(token? as u32)).collect::<Option<_>>()?;
    let prompt = Prompt {
        prefix: tokens[before..].to_vec(),
        tokens: tokens[..before].to_vec(),
        ..Prompt::default()
    };
    Some((prompt, log_mel))
}

impl<B: DecoderBackend> Descent<'_, B> {
    /// Encodes a window that was kept, at the present state; `None` where it is none.
    fn load(&mut self, input: &[f32]) -> Option<Prompt> {
        let positions = self.network.decoder_layers().config().positions;
        let (prompt, log_mel) = unpack(input, self.classes(), positions)?;
        self.network.holds(log_mel).then_some(())?;
        self.network.encode(self.backend, 0, log_mel);
        self.outcome.forwards += 1;
        self.copy_source();
        Some(prompt)
    }

    /// The objective of the model's own text of a window that was kept, whose gradient times a weight is added to what is
    /// there where that is asked for.
    fn objective(&mut self, input: &[f32], weight: Option<f64>) -> Option<ObjectiveValue> {
        let prompt = self.load(input)?;
        let rules = self.rules(&prompt);
        let own = self.texts(&prompt, None);
        // The end is no word.
        let length = own[0].len() - 1;
        let entropy = match weight {
            Some(weight) if length > 0 => {
                let terms = TokenTerms {
                    entropy: weight / own[0].len() as f64,
                    likelihood: 0.0,
                    temperature: self.adaptation.config.temperature,
                };
                let values = self.add_gradients(&prompt, &rules, &own, &[terms]).remove(0);
                self.outcome.backwards += 1;
                values.iter().map(|value| value.entropy).sum::<f64>() / values.len() as f64
            }
            _ => self.entropy(&prompt, &rules, &own[0]),
        };
        Some(ObjectiveValue {
            loss: entropy,
            entropy,
            class_confusion: 0.0,
            non_blank_frames: length,
        })
    }
}

impl<B: DecoderBackend> OnStore for Descent<'_, B> {
    type Backend = B;

    fn store(&self) -> (&B, &AdaptedParameters<B>) {
        (self.backend, &self.network.parameters)
    }

    fn store_mut(&mut self) -> (&B, &mut AdaptedParameters<B>) {
        (self.backend, &mut self.network.parameters)
    }

    fn optimizer(&self) -> AdamW {
        AdamW::suta(self.adaptation.config.learning_rate)
    }
}

impl<B: DecoderBackend> Moves for Descent<'_, B> {
    fn look(&mut self, input: &[f32]) -> Result<Option<ObjectiveValue>, EngineError> {
        Ok(self.objective(input, None))
    }

    fn accumulate(&mut self, input: &[f32], weight: f64) -> Result<Option<ObjectiveValue>, EngineError> {
        Ok(self.objective(input, Some(weight)))
    }

    fn rehearse(&mut self, input: &[f32], labels: &[usize], weight: f64) -> Result<(), EngineError> {
        if let Some(prompt) = self.load(input) {
            let rules = self.rules(&prompt);
            let text: Vec<u32> = labels.iter().map(|label| *label as u32).collect();
            let text = self.ended(&prompt, &text);
            let terms = TokenTerms {
                entropy: 0.0,
                likelihood: -weight / text.len() as f64,
                temperature: self.adaptation.config.temperature,
            };
            self.add_gradients(&prompt, &rules, &[text], &[terms]);
            self.outcome.backwards += 1;
        }
        Ok(())
    }

    fn classes(&self) -> usize {
        self.network.decoder_layers().config().vocab_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_read_back_and_what_is_none_is_refused() {
        let prompt = Prompt {
            tokens: vec![50_257, 3, 51_864],
            prefix: vec![7],
            ..Prompt::default()
        };
        let log_mel = [0.25, -1.5, 0.0];
        let packed = pack(&prompt, &log_mel);
        let (read, frames) = unpack(&packed, 51_865, 448).expect("a window");
        assert_eq!((read.tokens, read.prefix), (prompt.tokens, prompt.prefix));
        assert_eq!(frames, log_mel);
        assert!(unpack(&packed, 51_864, 448).is_none(), "a token of another vocabulary");
        assert!(unpack(&packed, 51_865, 4).is_none(), "no room for a text");
        for (place, value) in [(0, 1e9), (0, -1.0), (0, 0.5), (0, 0.0), (1, f32::NAN), (2, 2.5)] {
            let mut spoiled = packed.clone();
            spoiled[place] = value;
            assert!(unpack(&spoiled, 51_865, 448).is_none(), "{value} at {place}");
        }
        assert!(unpack(&packed[..1], 51_865, 448).is_none());
    }
}
