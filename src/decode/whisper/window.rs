//! Windows of 30 s, one or several side by side: the encoder, the prompts, and a search at one temperature after the
//! other until its result passes the thresholds.

use super::adaptation::{Adaptation, CtcHead};
use super::prompt::Prompt;
use super::rules::Rules;
use super::search::{Found, Next, Running, Search, Steps, run_together};
use super::{DecodingError, DecodingOptions};
use crate::adapt::{AdaptedParameters, Selection};
use crate::engine::cpu::log_sum_exp;
use crate::engine::{Arena, DecoderBackend};
use crate::model::{Activations, CtcModel, Decoder, DecoderActivations, Generation, Input, KEEP_NOTHING, Row, Tokens};
use crate::{AdaptationConfig, Method};
use fastrand::Rng;
use flate2::{Compression, write::ZlibEncoder};
use std::io::Write;
use std::sync::Arc;

pub(super) const DECODER: &str = "a network is only made of a model with a decoder";

/// A model with the memory for some windows.
pub(super) struct Network<B: DecoderBackend> {
    pub(super) model: Arc<CtcModel<B>>,
    pub(super) parameters: AdaptedParameters<B>,
    pub(super) adaptation: Option<Adaptation<B>>,
    pub(super) encoder: (Arena<B>, Activations),
    pub(super) decoder: (Arena<B>, DecoderActivations),
    bands: usize,
    /// Windows that are decoded side by side at most.
    pub(super) windows: usize,
    /// Of a window.
    hypotheses: usize,
    /// Of a window.
    pub(super) frames: usize,
}

/// Prompts that the decoder has read, and how far hypotheses have come.
struct Hypotheses<'a, B: DecoderBackend> {
    backend: &'a B,
    network: &'a mut Network<B>,
    read: Vec<Read>,
}

/// Of a window.
struct Read {
    window: usize,
    /// The logits `[V]` after the prompt.
    first: Vec<f32>,
    prompt: usize,
    length: usize,
}

/// What a window's text is to be made from.
pub(super) struct Asked<'a> {
    /// Where it was encoded to; of several, they ascend.
    pub(super) window: usize,
    pub(super) prompt: &'a Prompt,
    pub(super) rng: &'a mut Rng,
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
        head: Option<CtcHead<B>>,
    ) -> Result<Self, DecodingError> {
        let Input::LogMel { bands } = model.input() else {
            return Err(DecodingError::NoDecoder);
        };
        let values = model.config().most_input_values();
        let decoder = model.decoder().ok_or(DecodingError::NoDecoder)?;
        let selection = Selection::of(config).map(|selection| match &head {
            Some(head) => head.selection(selection),
            None => selection,
        });
        let parameters = AdaptedParameters::new(backend, model.weights().clone(), selection)?;
        // Through a CTC head this encoder has no backward pass.
        let keep_from = if head.is_none() && model.adapts_encoder(&parameters) {
            model.lowest_adapted_stage(&parameters)
        } else {
            KEEP_NOTHING
        };
        let (plan, encoder) = model.plan(backend, values, keep_from).ok_or(DecodingError::NoDecoder)?;
        let encoder = (Arena::new(backend, plan.total())?, encoder);
        let (rows, hypotheses) = (encoder.1.output_frames(), options.hypotheses().max(drawn(config)));
        let adaptation = Adaptation::new(backend, &model, &parameters, config, options, head)?;
        // Adapted parameters are one window's.
        let windows = match adaptation {
            Some(_) => 1,
            None => options.batch_size.max(1),
        };
        let (plan, activations) = decoder.plan(backend, rows, (windows, hypotheses), decoder.config().positions);
        let decoder = (Arena::new(backend, plan.total())?, activations);
        Ok(Self {
            adaptation,
            windows,
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

    /// Whether these can be the log-mel frames `[frames, bands]` of a window.
    pub(super) fn holds(&self, log_mel: &[f32]) -> bool {
        log_mel.len().is_multiple_of(self.bands) && log_mel.len() <= self.frames * self.bands
    }

    /// Encodes log-mel frames `[frames, bands]`, followed by zeros up to a window's length, as one of the windows.
    pub(super) fn encode(&mut self, backend: &B, window: usize, log_mel: &[f32]) {
        let to = window;
        let mut window = log_mel.to_vec();
        window.resize(self.frames * self.bands, 0.0);
        let (arena, activations) = &mut self.encoder;
        self.model.load_input(backend, arena, activations, &window);
        self.model.forward(backend, &self.parameters, arena, activations, 0);
        self.load_source(backend, to);
    }

    /// Computes the decoder's keys and values of what was encoded last, as one of the windows.
    pub(super) fn load_source(&mut self, backend: &B, window: usize) {
        let encoded = self.encoder.0.view(backend, self.encoder.1.encoded());
        let decoder = self.model.decoder().expect(DECODER);
        let (arena, activations) = &mut self.decoder;
        decoder.load_source(backend, &self.parameters, arena, activations, window, encoded);
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

    /// Runs a sequence from its start in a window's first hypothesis.
    pub(super) fn run_sequence(&mut self, backend: &B, window: usize, tokens: &[u32]) {
        let hypothesis = window * self.hypotheses;
        self.run(backend, tokens, Tokens::Prompt { hypothesis, from: 0 });
    }

    /// Runs tokens through the decoder.
    fn run(&mut self, backend: &B, tokens: &[u32], place: Tokens<'_>) {
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

    /// A head's attention of the tokens that were just run to the first frames of their window's encoder output, `[rows,
    /// frames]`.
    pub(super) fn attention(
        &self,
        backend: &B,
        window: usize,
        (layer, head): (usize, usize),
        rows: usize,
        frames: usize,
    ) -> Vec<f64> {
        let (arena, activations) = &self.decoder;
        let config = self.decoder_layers().config();
        let width = self.model.config().transformer.width;
        let dim = width / config.heads;
        let (mut q, mut kv) = (vec![0.0; rows * width], vec![0.0; frames * 2 * width]);
        let queries = activations.cross_queries(layer).part(0, q.len());
        backend.download(arena.view(backend, queries), &mut q);
        let source = activations.source(layer, window).part(0, kv.len());
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

    /// Languages by probability in a window that was encoded, the likeliest first.
    pub(super) fn languages(&mut self, backend: &B, window: usize, generation: &Generation) -> Vec<(String, f64)> {
        let tokenizer = &generation.tokenizer;
        self.run_sequence(backend, window, &[tokenizer.sot]);
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

    /// Runs a window's prompt.
    fn read(&mut self, backend: &B, window: usize, prompt: &Prompt) -> Read {
        let read = [&prompt.tokens[..], &prompt.prefix].concat();
        self.run_sequence(backend, window, &read);
        Read {
            window,
            first: self.logits(backend, read.len() - 1, 1),
            prompt: read.len(),
            length: read.len(),
        }
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

    /// The likeliest text of the first window token by token, or so many texts drawn at a temperature, each without its end.
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
        let read = vec![self.read(backend, 0, prompt)];
        let (drawn, count) = match drawn {
            Some((temperature, rng, count)) => (Some((temperature, rng)), count),
            None => (None, 1),
        };
        let mut running = [search.independent(drawn, count)];
        let network = self;
        run_together(&[0], &mut running, &mut Hypotheses { backend, network, read });
        let [running] = running;
        running.texts()
    }

    /// Each window's text at the first temperature whose result passes the thresholds.
    pub(super) fn generate(
        &mut self,
        backend: &B,
        generation: &Generation,
        options: &DecodingOptions,
        mut asked: Vec<Asked<'_>>,
    ) -> Vec<Decoded> {
        let (mut read, mut no_speech_probs) = (Vec::new(), Vec::new());
        for asked in &asked {
            read.push(self.read(backend, asked.window, asked.prompt));
            let logits = self.logits(backend, asked.prompt.sot, 1);
            let no_speech = logits[generation.tokenizer.no_speech as usize] - log_sum_exp(&logits);
            no_speech_probs.push((no_speech as f64).exp());
        }
        let prompts: Vec<&Prompt> = asked.iter().map(|asked| asked.prompt).collect();
        let rules: Vec<Rules> = prompts
            .iter()
            .map(|prompt| Rules::new(options, generation, prompt.timestamps, prompt.prefix.len()))
            .collect();
        let searches: Vec<Search<'_>> = prompts
            .iter()
            .zip(&rules)
            .map(|(prompt, rules)| self.search(generation, options, prompt, rules))
            .collect();
        let mut hypotheses = Hypotheses {
            backend,
            network: self,
            read,
        };
        let mut tried: Vec<Vec<Decoded>> = asked.iter().map(|_| Vec::new()).collect();
        let mut passed: Vec<bool> = asked.iter().map(|_| false).collect();
        for &temperature in &options.temperature {
            let (mut numbers, mut windows, mut running): (Vec<usize>, Vec<usize>, Vec<Running<'_>>) =
                Default::default();
            for (number, (asked, search)) in asked.iter_mut().zip(&searches).enumerate() {
                if !passed[number] {
                    numbers.push(number);
                    windows.push(asked.window);
                    running.push(search.begin(temperature, asked.rng));
                }
            }
            run_together(&windows, &mut running, &mut hypotheses);
            for (number, running) in numbers.into_iter().zip(running) {
                let decoded = judge(running.best(), generation, temperature, no_speech_probs[number]);
                passed[number] = passes(&decoded, options);
                tried[number].push(decoded);
            }
            if passed.iter().all(|passed| *passed) {
                break;
            }
        }
        let results = tried.into_iter().zip(passed).zip(no_speech_probs);
        results
            .map(|((tried, passed), no_speech_prob)| chosen(tried, passed, options, no_speech_prob))
            .collect()
    }
}

/// Whether a text is taken at once.
fn passes(decoded: &Decoded, options: &DecodingOptions) -> bool {
    let too_repetitive = exceeds(options.compression_ratio_threshold, decoded.compression_ratio);
    let doubtful = options
        .log_prob_threshold
        .is_some_and(|least| decoded.avg_logprob < least);
    let silent = doubtful && exceeds(options.no_speech_threshold, decoded.no_speech_prob);
    silent || !(too_repetitive || doubtful)
}

/// Of what was tried the last, if it passed; else the likeliest of those that are no repetition, or of all.
fn chosen(mut tried: Vec<Decoded>, passed: bool, options: &DecodingOptions, no_speech_prob: f64) -> Decoded {
    let last = tried.last().cloned().unwrap_or_else(|| Decoded {
        tokens: Vec::new(),
        avg_logprob: 0.0,
        temperature: 0.0,
        compression_ratio: 0.0,
        no_speech_prob,
    });
    if passed {
        return last;
    }
    let is_varied = |decoded: &Decoded| !exceeds(options.compression_ratio_threshold, decoded.compression_ratio);
    if options.compression_ratio_threshold.is_some() && tried.iter().any(is_varied) {
        tried.retain(is_varied);
    }
    let best = tried.into_iter().reduce(|best, other| {
        if other.avg_logprob > best.avg_logprob {
            other
        } else {
            best
        }
    });
    Decoded {
        temperature: last.temperature,
        ..best.unwrap_or(last)
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

impl<B: DecoderBackend> Hypotheses<'_, B> {
    fn reorder(&mut self, at: usize, origins: &[usize]) {
        let decoder = self.network.model.decoder().expect(DECODER);
        let (arena, activations) = &mut self.network.decoder;
        let Read { window, length, .. } = self.read[at];
        decoder.reorder(self.backend, arena, activations, window, origins, length);
    }

    fn at(&self, window: usize) -> usize {
        let found = self.read.iter().position(|read| read.window == window);
        found.expect("a window whose prompt was read")
    }
}

impl<B: DecoderBackend> Steps for Hypotheses<'_, B> {
    fn restart(&mut self, window: usize, hypotheses: usize) -> Vec<f32> {
        let at = self.at(window);
        self.read[at].length = self.read[at].prompt;
        self.reorder(at, &vec![0; hypotheses]);
        self.read[at].first.repeat(hypotheses)
    }

    fn step(&mut self, next: &[(usize, Next)]) -> Vec<Vec<f32>> {
        let (mut rows, mut tokens) = (Vec::new(), Vec::new());
        for (window, next) in next {
            let at = self.at(*window);
            self.reorder(at, &next.origins);
            let first = window * self.network.hypotheses;
            let position = self.read[at].length;
            rows.extend((0..next.tokens.len()).map(|index| Row {
                hypothesis: first + index,
                position,
            }));
            tokens.extend(&next.tokens);
            self.read[at].length += 1;
        }
        self.network.run(self.backend, &tokens, Tokens::Step(&rows));
        let logits = self.network.logits(self.backend, 0, tokens.len());
        let size = logits.len() / tokens.len();
        let mut rest = &logits[..];
        let parts = next.iter().map(|(_, next)| {
            let (part, after) = rest.split_at(next.tokens.len() * size);
            rest = after;
            part.to_vec()
        });
        parts.collect()
    }
}
