//! Recognition with adapted values, without adapting: what partial hypotheses are made with.

use crate::adapt::{AdaptedParameters, Selection};
use crate::audio::{Features, SAMPLE_RATE};
use crate::decode::{Hypothesis, greedy};
use crate::engine::Arena;
use crate::engine::cpu::CpuBackend;
use crate::model::KEEP_NOTHING;
use crate::{AdaptationConfig, Error, Recognizer};

/// A forward pass and nothing else, on one thread. It keeps its memory from call to call.
pub struct Decoder {
    recognizer: Recognizer,
    backend: CpuBackend,
    parameters: AdaptedParameters<CpuBackend>,
    arena: Arena<CpuBackend>,
    features: Features,
}

impl Decoder {
    /// For the tensors that these settings move.
    pub fn new(recognizer: &Recognizer, config: &AdaptationConfig) -> Result<Self, Error> {
        recognizer.check_live()?;
        let backend = CpuBackend::new(1)?;
        let selection = Selection::of(config);
        let parameters = AdaptedParameters::new(&backend, recognizer.model_on_cpu()?.weights().clone(), selection)?;
        let arena = Arena::new(&backend, 0)?;
        Ok(Self {
            features: recognizer.features(),
            recognizer: recognizer.clone(),
            backend,
            parameters,
            arena,
        })
    }

    /// Recognises 16 kHz mono samples that start `start` seconds into their stream, with adapted values of the same
    /// settings ([`crate::Session::carried_values`]) or the source model's.
    pub fn decode(&mut self, samples: &[f32], start: f64, values: Option<&[f32]>) -> Result<Hypothesis, Error> {
        let model = self.recognizer.model_on_cpu()?;
        if self.features.values(samples.len()) > model.config().most_input_values() {
            return Err(Error::TooLong {
                seconds: samples.len() as f64 / f64::from(SAMPLE_RATE),
                longest: self.recognizer.longest_utterance(),
            });
        }
        match values {
            Some(values) if values.len() == self.parameters.count() => {
                self.parameters.set_values(&self.backend, values);
            }
            _ => self.parameters.restore_source(&self.backend),
        }
        let input = self.features.compute(samples);
        let Some((plan, activations)) = model.plan(&self.backend, input.len(), KEEP_NOTHING) else {
            return Ok(Hypothesis::default());
        };
        self.arena.reserve(&self.backend, &plan)?;
        model.load_input(&self.backend, &mut self.arena, &activations, &input);
        model.forward(&self.backend, &self.parameters, &mut self.arena, &activations, 0);
        let logits = self.arena.view(&self.backend, activations.logits());
        let frame_seconds = model.config().samples_per_frame() as f64 / f64::from(SAMPLE_RATE);
        let mut hypothesis = greedy(logits, self.recognizer.vocabulary()?, frame_seconds);
        for word in &mut hypothesis.words {
            word.start += start;
            word.end += start;
        }
        Ok(hypothesis)
    }
}
