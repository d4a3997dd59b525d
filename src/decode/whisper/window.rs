//! One window of 30 s: the encoder, the prompt, and a search at one temperature after the other until its result
//! passes the thresholds.

use super::adaptation::Adaptation;
use super::rules::Rules;
use super::search::{Found, Search, Steps};
use super::{DecodingError, DecodingOptions, Task};
use crate::adapt::{AdaptedParameters, Selection};
use crate::engine::cpu::log_sum_exp;
use crate::engine::{Arena, DecoderBackend};
use crate::model::{Activations, CtcModel, Decoder, DecoderActivations, Generation, Input, KEEP_NOTHING, Tokens};
use crate::{AdaptationConfig, Method};
use fastrand::Rng;
use flate2::{Compression, write::ZlibEncoder};
use std::io::Write;
use std::sync::Arc;

pub(super) const DECODER: &str = "a network is only made of a model with a decoder";

/// A model with the memory for one window.
pub(super) struct Network<B: DecoderBackend> {
    pub(super) model: Arc<CtcModel<B>>,
    pub(super) parameters: AdaptedParameters<B>,
    pub(super) adaptation: Option<Adaptation<B>>,
    pub(super) encoder: (Arena<B>, Activations),
    pub(super) decoder: (Arena<B>, DecoderActivations),
    bands: usize,
    hypotheses: usize,
    /// Of a window.
    pub(super) frames: usize,
}

/// A prompt that the decoder has read, and how far hypotheses have come.
struct Hypotheses<'a, B: DecoderBackend> {
    backend: &'a B,
    network: &'a mut Network<B>,
    first: Vec<f32>,
    prompt: usize,
    length: usize,
}

/// What a window's tokens must begin with.
#[derive(Debug, Clone, Default)]
pub(super) struct Prompt {
    /// Up to the text.
    pub(super) tokens: Vec<u32>,
    /// Of the text.
    pub(super) prefix: Vec<u32>,
    /// Where in `tokens` the transcript starts.
    pub(super) sot: usize,
    pub(super) timestamps: bool,
}

/// A window's result.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decoded {
    pub(super) tokens: Vec<u32>,
    pub(super) avg_logprob: f64,
    pub(super) temperature: f64,
    pub(super) compression_ratio: f64,
    pub(super) no_speech_prob: f64,
}

impl<B: DecoderBackend> Network<B> {
    pub(super) fn new(
        backend: &B,
        model: Arc<CtcModel<B>>,
        config: &AdaptationConfig,
        options: &DecodingOptions,
    ) -> Result<Self, DecodingError> {
        let Input::LogMel { bands } = model.input() else {
            return Err(DecodingError::NoDecoder);
        };
        let values = model.config().most_input_values();
        let decoder = model.decoder().ok_or(DecodingError::NoDecoder)?;
        let parameters = AdaptedParameters::new(backend, model.weights().clone(), Selection::of(config))?;
        let keep_from = if model.adapts_encoder(&parameters) {
            model.lowest_adapted_stage(&parameters)
        } else {
            KEEP_NOTHING
        };
        let (plan, encoder) = model.plan(backend, values, keep_from).ok_or(DecodingError::NoDecoder)?;
        let encoder = (Arena::new(backend, plan.total())?, encoder);
        let (rows, hypotheses) = (encoder.1.output_frames(), options.hypotheses().max(drawn(config)));
        let (plan, activations) = decoder.plan(backend, rows, hypotheses, decoder.config().positions);
        let decoder = (Arena::new(backend, plan.total())?, activations);
        Ok(Self {
            adaptation: Adaptation::new(backend, &model, &parameters, config, options)?,
            model,
            parameters,
            encoder,
            decoder,
            bands,
            hypotheses,
            frames: values / bands,
        })
    }

    pub(super) fn decoder_layers(&self) -> &Decoder {
        self.model.decoder().expect(DECODER)
    }

    /// Encodes log-mel frames `[frames, bands]`, followed by zeros up to a window's length.
    pub(super) fn encode(&mut self, backend: &B, log_mel: &[f32]) {
        let mut window = log_mel.to_vec();
        window.resize(self.frames * self.bands, 0.0);
        let (arena, activations) = &mut self.encoder;
        self.model.load_input(backend, arena, activations, &window);
        self.model.forward(backend, &self.parameters, arena, activations, 0);
        self.load_source(backend);
    }

    /// Computes the decoder's keys and values of what is encoded.
    pub(super) fn load_source(&mut self, backend: &B) {
        let encoded = self.encoder.0.view(backend, self.encoder.1.encoded());
        let decoder = self.model.decoder().expect(DECODER);
        let (arena, activations) = &mut self.decoder;
        decoder.load_source(backend, &self.parameters, arena, activations, encoded);
    }

    /// The logits `[V]` after a token of a prompt that was run.
    fn logits(&mut self, backend: &B, row: usize, count: usize) -> Vec<f32> {
        let decoder = self.model.decoder().expect(DECODER);
        let (arena, activations) = &mut self.decoder;
        let slot = decoder.logits(backend, &self.parameters, arena, activations, row, count);
        let mut logits = vec![0.0; slot.len];
        backend.download(arena.view(backend, slot), &mut logits);
        logits
    }

    /// Runs tokens through the decoder.
    pub(super) fn run(&mut self, backend: &B, tokens: &[u32], place: Tokens) {
        let decoder = self.model.decoder().expect(DECODER);
        let (arena, activations) = &mut self.decoder;
        decoder.forward(backend, &self.parameters, arena, activations, tokens, place);
    }

    /// Logits `[V]` after each of the first rows of the tokens that were just run.
    pub(super) fn all_logits(&mut self, backend: &B, rows: usize) -> Vec<Vec<f32>> {
        (0..rows).map(|row| self.logits(backend, row, 1)).collect()
    }

    /// Probabilities of tokens among those below `below`, the first one's predicted by the row `first` of the tokens that
    /// were just run, and so on.
    pub(super) fn probabilities(&mut self, backend: &B, first: usize, tokens: &[u32], below: usize) -> Vec<f64> {
        let mut probabilities = Vec::with_capacity(tokens.len());
        for (index, part) in tokens.chunks(self.hypotheses).enumerate() {
            let logits = self.logits(backend, first + index * self.hypotheses, part.len());
            for (token, logits) in part.iter().zip(logits.chunks_exact(logits.len() / part.len())) {
                let logits = &logits[..below];
                probabilities.push(((logits[*token as usize] - log_sum_exp(logits)) as f64).exp());
            }
        }
        probabilities
    }

    /// A head's attention of the tokens that were just run to the first frames of the encoder's output, `[rows, frames]`.
    pub(super) fn attention(&self, backend: &B, layer: usize, head: usize, rows: usize, frames: usize) -> Vec<f64> {
        let (arena, activations) = &self.decoder;
        let config = self.decoder_layers().config();
        let width = self.model.config().transformer.width;
        let dim = width / config.heads;
        let (mut q, mut kv) = (vec![0.0; rows * width], vec![0.0; frames * 2 * width]);
        let queries = activations.cross_queries(layer).part(0, q.len());
        backend.download(arena.view(backend, queries), &mut q);
        let source = activations.source(layer).part(0, kv.len());
        backend.download(arena.view(backend, source), &mut kv);
        let scale = 1.0 / (dim as f32).sqrt();
        let mut attention = Vec::with_capacity(rows * frames);
        for q in q.chunks_exact(width).map(|q| &q[head * dim..(head + 1) * dim]) {
            let keys = kv.chunks_exact(2 * width).map(|kv| &kv[head * dim..(head + 1) * dim]);
            let scores: Vec<f32> = keys
                .map(|k| scale * q.iter().zip(k).map(|(q, k)| q * k).sum::<f32>())
                .collect();
            let total = log_sum_exp(&scores);
            attention.extend(scores.into_iter().map(|score| ((score - total) as f64).exp()));
        }
        attention
    }

    /// Languages by probability in the window that was encoded, the likeliest first.
    pub(super) fn languages(&mut self, backend: &B, generation: &Generation) -> Vec<(String, f64)> {
        let tokenizer = &generation.tokenizer;
        self.run(backend, &[tokenizer.sot], Tokens::Prompt { from: 0 });
        let logits = self.logits(backend, 0, 1);
        let of: Vec<f32> = tokenizer
            .languages
            .iter()
            .map(|(_, token)| logits[*token as usize])
            .collect();
        let total = log_sum_exp(&of);
        let mut languages: Vec<(String, f64)> = tokenizer
            .languages
            .iter()
            .zip(&of)
            .map(|((code, _), logit)| (code.clone(), ((logit - total) as f64).exp()))
            .collect();
        languages.sort_by(|a, b| b.1.total_cmp(&a.1));
        languages
    }

    /// Runs a prompt; its length.
    fn read(&mut self, backend: &B, prompt: &Prompt) -> usize {
        let read = [&prompt.tokens[..], &prompt.prefix].concat();
        self.run(backend, &read, Tokens::Prompt { from: 0 });
        read.len()
    }

    fn search<'a>(
        &self,
        generation: &Generation,
        options: &'a DecodingOptions,
        prompt: &'a Prompt,
        rules: &'a Rules,
    ) -> Search<'a> {
        let (positions, read) = (
            self.decoder_layers().config().positions,
            prompt.tokens.len() + prompt.prefix.len(),
        );
        let total = options
            .max_new_tokens
            .map_or(positions, |most| (read + most).min(positions));
        Search {
            options,
            rules,
            eot: generation.tokenizer.eot,
            prefix: &prompt.prefix,
            // The last token's successor is never run, so every token has its position.
            longest: (total / 2).min(total - (prompt.tokens.len() - 1)),
        }
    }

    /// Hypotheses after a prompt that was read.
    fn hypotheses<'a>(&'a mut self, backend: &'a B, read: usize) -> Hypotheses<'a, B> {
        Hypotheses {
            backend,
            first: self.logits(backend, read - 1, 1),
            network: self,
            prompt: read,
            length: read,
        }
    }

    /// The likeliest text token by token, or so many texts drawn at a temperature, each without its end.
    pub(super) fn own_texts(
        &mut self,
        backend: &B,
        generation: &Generation,
        options: &DecodingOptions,
        prompt: &Prompt,
        drawn: Option<(f64, &mut Rng, usize)>,
    ) -> Vec<Vec<u32>> {
        let rules = Rules::new(options, generation, prompt.timestamps, prompt.prefix.len());
        let search = self.search(generation, options, prompt, &rules);
        let read = self.read(backend, prompt);
        search.texts(&mut self.hypotheses(backend, read), drawn)
    }

    /// The window's text at the first temperature whose result passes the thresholds.
    pub(super) fn generate(
        &mut self,
        backend: &B,
        generation: &Generation,
        options: &DecodingOptions,
        prompt: &Prompt,
        rng: &mut Rng,
    ) -> Decoded {
        let read = self.read(backend, prompt);
        let logits = self.logits(backend, prompt.sot, 1);
        let no_speech = logits[generation.tokenizer.no_speech as usize] - log_sum_exp(&logits);
        let rules = Rules::new(options, generation, prompt.timestamps, prompt.prefix.len());
        let search = self.search(generation, options, prompt, &rules);
        let mut steps = self.hypotheses(backend, read);
        let no_speech_prob = (no_speech as f64).exp();
        let mut all: Vec<Decoded> = Vec::new();
        let mut last_temperature = 0.0;
        for &temperature in &options.temperature {
            last_temperature = temperature;
            let found = search.run(&mut steps, temperature, rng);
            let decoded = judge(found, generation, temperature, no_speech_prob);
            let too_repetitive = exceeds(options.compression_ratio_threshold, decoded.compression_ratio);
            let doubtful = options
                .log_prob_threshold
                .is_some_and(|least| decoded.avg_logprob < least);
            let silent = doubtful && exceeds(options.no_speech_threshold, no_speech_prob);
            if silent || !(too_repetitive || doubtful) {
                return decoded;
            }
            all.push(decoded);
        }
        // None passed: the likeliest of those that are no repetition, or of all.
        let is_varied = |decoded: &Decoded| !exceeds(options.compression_ratio_threshold, decoded.compression_ratio);
        let any_varied = options.compression_ratio_threshold.is_some() && all.iter().any(is_varied);
        let best = all
            .into_iter()
            .filter(|decoded| !any_varied || is_varied(decoded))
            .reduce(|best, other| {
                if other.avg_logprob > best.avg_logprob {
                    other
                } else {
                    best
                }
            });
        let mut best = best.unwrap_or_else(|| Decoded {
            tokens: Vec::new(),
            avg_logprob: 0.0,
            temperature: 0.0,
            compression_ratio: 0.0,
            no_speech_prob,
        });
        best.temperature = last_temperature;
        best
    }
}

/// Texts that adaptation draws side by side.
fn drawn(config: &AdaptationConfig) -> usize {
    match &config.whisper {
        Some(whisper) if config.method == Method::SequenceEntropy => whisper.samples,
        _ => 1,
    }
}

fn exceeds(threshold: Option<f64>, value: f64) -> bool {
    threshold.is_some_and(|most| value > most)
}

fn judge(found: Found, generation: &Generation, temperature: f64, no_speech_prob: f64) -> Decoded {
    let text = generation.tokenizer.decode(&found.tokens);
    Decoded {
        avg_logprob: found.log_probability / (found.tokens.len() + 1) as f64,
        compression_ratio: compression_ratio(super::strip(&text)),
        tokens: found.tokens,
        temperature,
        no_speech_prob,
    }
}

/// A text's bytes over those of it that zlib leaves: near 1 for ordinary text, high for repetition.
pub fn compression_ratio(text: &str) -> f64 {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    let compressed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
    // Writing to memory has no way to fail.
    text.len() as f64 / compressed.map_or(1, |bytes| bytes.len()) as f64
}

impl<B: DecoderBackend> Steps for Hypotheses<'_, B> {
    fn first(&mut self) -> &[f32] {
        &self.first
    }

    fn restart(&mut self, hypotheses: usize) {
        self.length = self.prompt;
        self.reorder(&vec![0; hypotheses]);
    }

    fn reorder(&mut self, origins: &[usize]) {
        let decoder = self.network.model.decoder();
        let decoder = decoder.expect(DECODER);
        let (arena, activations) = &mut self.network.decoder;
        decoder.reorder(self.backend, arena, activations, origins, self.length);
    }

    fn step(&mut self, tokens: &[u32]) -> Vec<f32> {
        let place = Tokens::Step { position: self.length };
        self.network.run(self.backend, tokens, place);
        self.length += 1;
        self.network.logits(self.backend, 0, tokens.len())
    }
}

impl Prompt {
    /// What stands before a window's text: earlier text, the language, the task.
    pub(super) fn new(
        generation: &Generation,
        options: &DecodingOptions,
        language: Option<u32>,
        previous: &[u32],
        positions: usize,
        prefix: Option<&str>,
    ) -> Self {
        let tokenizer = &generation.tokenizer;
        let most = positions / 2;
        let cut = |text: &str| {
            let mut tokens = tokenizer.encode(&format!(" {}", text.trim()));
            tokens.truncate(most - 1);
            tokens
        };
        let mut tokens = Vec::new();
        let hotwords = options.hotwords.as_deref().filter(|_| prefix.is_none());
        if !previous.is_empty() || hotwords.is_some() {
            tokens.push(tokenizer.sot_prev);
            tokens.extend(hotwords.map(cut).unwrap_or_default());
            tokens.extend(&previous[previous.len().saturating_sub(most - 1)..]);
        }
        // Both together may leave no room for text: the oldest go.
        let room = positions.saturating_sub(most / 4 + 8);
        if tokens.len() > room {
            let surplus = tokens.len() - room;
            tokens.drain(1..1 + surplus);
        }
        let sot = tokens.len();
        tokens.push(tokenizer.sot);
        if let Some(language) = language {
            let task = match options.task {
                Task::Transcribe => tokenizer.transcribe,
                Task::Translate => tokenizer.translate,
            };
            tokens.extend([language, task]);
        }
        let timestamps = !options.without_timestamps;
        if !timestamps {
            tokens.push(tokenizer.no_timestamps);
        }
        let mut given = Vec::new();
        if let Some(prefix) = prefix {
            given.extend(timestamps.then_some(tokenizer.timestamp_begin()));
            given.extend(cut(prefix));
            // Some room for what follows.
            given.truncate(positions.saturating_sub(tokens.len() + 8));
        }
        Self {
            tokens,
            prefix: given,
            sot,
            timestamps,
        }
    }
}
