//! Several utterances in one pass, on a device that gains by it.

use super::{Error, Session};
use crate::Utterance;
use crate::audio::SAMPLE_RATE;
use crate::engine::EngineError;
use crate::model::Input;
use std::time::Instant;

/// Utterances in one pass, and samples of them, each padded to the longest: more fill no GPU better, and take its memory.
const MOST: usize = 8;
const MOST_SAMPLES: usize = 60 * SAMPLE_RATE as usize;

impl Session {
    /// How many of these utterances, given by their samples, from the first on are best transcribed together: more than one
    /// only on a GPU, with a method and a model for which it can be done ([`crate::adapt::BatchAdapter`]).
    pub fn together(&mut self, lens: impl IntoIterator<Item = usize>) -> usize {
        if !self.takes_several() {
            return 1;
        }
        let (mut count, mut longest) = (0, 0);
        let fits = |len: &usize| {
            (count, longest) = (count + 1, longest.max(*len));
            count * longest <= MOST_SAMPLES
        };
        lens.into_iter().take(MOST).take_while(fits).count().max(1)
    }

    /// Whether so many utterances are there that no other need be waited for.
    pub fn are_enough(&mut self, lens: impl IntoIterator<Item = usize>) -> bool {
        let (mut count, mut longest) = (0, 0);
        lens.into_iter().for_each(|len| {
            count += 1;
            longest = len.max(longest);
        });
        count > 0 && (count >= MOST || count * longest >= MOST_SAMPLES || !self.takes_several())
    }

    fn takes_several(&mut self) -> bool {
        // A profile is gathered from one store.
        self.whisper.is_none() && self.profile.is_none() && self.worker.takes_batches()
    }

    /// What the model hears of samples.
    pub(super) fn input(&mut self, samples: &[f32]) -> Result<Vec<f32>, EngineError> {
        let on_device = match self.recognizer.loaded.model.config().input() {
            Input::LogMel { bands } => self.worker.log_mel(samples, bands),
            Input::Waveform { .. } => None,
        };
        on_device.unwrap_or_else(|| Ok(self.features.compute(samples)))
    }

    /// Transcribes utterances in one pass, each with its start in its recording, as [`Session::transcribe_utterance`] does
    /// one after the other; `None`, with nothing done, where they must be transcribed that way.
    pub fn transcribe_together(&mut self, utterances: &[(&[f32], f64)]) -> Result<Option<Vec<Utterance>>, Error> {
        let begin = Instant::now();
        let most = self.recognizer.loaded.model.config().most_input_values();
        let lens = utterances.iter().map(|(samples, _)| samples.len());
        if utterances.len() < 2 || self.together(lens) < utterances.len() {
            return Ok(None);
        }
        let mut inputs = Vec::with_capacity(utterances.len());
        for (samples, _) in utterances {
            // What is wrong with it is told where it is transcribed by itself.
            if self.features.values(samples.len()) > most || check_finite(samples).is_err() {
                return Ok(None);
            }
            inputs.push(self.input(samples)?);
        }
        let inputs: Vec<&[f32]> = inputs.iter().map(|input| &input[..]).collect();
        let episodes = match self.worker.run_batch(&inputs) {
            Some(Ok(episodes)) => episodes,
            // One alone may find room.
            None | Some(Err(EngineError::OutOfMemory { .. })) => return Ok(None),
            Some(Err(error)) => return Err(error.into()),
        };
        let seconds = |samples: &[f32]| samples.len() as f64 / f64::from(SAMPLE_RATE);
        let all: f64 = utterances.iter().map(|(samples, _)| seconds(samples)).sum();
        let real_time_factor = begin.elapsed().as_secs_f64() / all.max(f64::MIN_POSITIVE);
        let described = utterances.iter().zip(&episodes).map(|((samples, start), episode)| {
            let mut utterance = self.describe(episode, *start, seconds(samples));
            // Each has its share of the pass.
            utterance.compute_seconds = real_time_factor * seconds(samples);
            utterance.real_time_factor = real_time_factor;
            utterance
        });
        let described = described.collect();
        if let Some(last) = episodes.last() {
            self.trace = self.trace_of(last);
        }
        Ok(Some(described))
    }
}

pub(super) fn check_finite(samples: &[f32]) -> Result<(), Error> {
    match samples.iter().position(|sample| !sample.is_finite()) {
        Some(position) => Err(Error::NotFinite {
            seconds: position as f64 / SAMPLE_RATE as f64,
        }),
        None => Ok(()),
    }
}
