//! Adapting a Whisper to one window: a few steps that lower what the decoder leaves open about its own text, then the
//! text of the adapted model, unless evidence without labels speaks for the unadapted one's.

use super::prompt::Prompt;
use super::rules::Rules;
use super::window::{Asked, DECODER, Decoded, Network, compression_ratio};
use super::{DecodingError, DecodingOptions};
use crate::adapt::{AdaptedParameters, Snapshot, TokenTerms, TokenValue, sequence_entropy_terms, token_terms};
use crate::engine::{AdamW, Arena, DecoderBackend};
use crate::eval::{Costs, word_counts};
use crate::model::{CtcModel, Decoder, DecoderActivations, Generation, KEEP_NOTHING, Tokens};
use crate::{AdaptationConfig, Guard, Method, WhisperAdaptation};
use fastrand::Rng;
use serde::{Deserialize, Serialize};

/// By so many nats a token the source model may find the adapted text less likely than its own.
const LIKELIHOOD_MARGIN: f64 = 0.15;
/// The adapted text has at least this share of the unadapted one's words, and at most the inverse.
const LEAST_LENGTH: f64 = 0.5;
/// The two texts differ in at most this share of the longer one's words.
const MOST_DISAGREEMENT: f64 = 0.5;

/// What adapts a network: the settings, and memory for passes over whole texts.
pub(super) struct Adaptation<B: DecoderBackend> {
    config: AdaptationConfig,
    whisper: WhisperAdaptation,
    /// Greedy, and without timestamps, whose entropy says nothing about words.
    pub(super) options: DecodingOptions,
    arena: Arena<B>,
    activations: DecoderActivations,
    last_good: Snapshot<B>,
    moves: Moves,
}

/// What follows from which tensors are adapted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moves {
    pub(super) encoder: bool,
    /// The keys and values of the encoder's output, with it or without.
    pub(super) source: bool,
    /// Where the encoder's later passes start.
    pub(super) lowest: usize,
}

/// What adapting to a window was like.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowAdaptation {
    /// The source model's text of the window.
    pub unadapted_text: String,
    /// The loss at each step, before its update.
    pub losses: Vec<f32>,
    /// Mean token entropy of the model's own text in nats, before the first step.
    pub entropy_before: Option<f32>,
    /// After the last.
    pub entropy_after: Option<f32>,
    /// Updates that were kept.
    pub steps: usize,
    /// Passes of the encoder (or, where it stays as it is, of the decoder over a whole text).
    pub forwards: usize,
    /// Backward passes.
    pub backwards: usize,
    /// What speaks for and against the adapted text, where it differs.
    pub evidence: Option<Evidence>,
    /// Set when a guard acted.
    pub guard: Option<Guard>,
}

/// The evidence without labels, unadapted and adapted.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Mean log-probability of the tokens under the source model, in nats.
    pub log_probability: [f64; 2],
    /// zlib's.
    pub compression_ratio: [f64; 2],
    /// Words.
    pub words: [usize; 2],
    /// Word errors of one text against the other, over the longer one's words.
    pub disagreement: f64,
    /// Whether the adapted text may stand; see [`Evidence::favours_adapted`].
    pub favours_adapted: bool,
}

impl Evidence {
    /// Whether the adapted text may stand.
    pub fn favours_adapted(&self, options: &DecodingOptions) -> bool {
        let [unadapted, adapted] = self.log_probability;
        let [before, after] = self.compression_ratio;
        let [words, adapted_words] = self.words;
        let threshold = options.compression_ratio_threshold.unwrap_or(f64::INFINITY);
        // A text that failed its own thresholds is no standard for another's length or words.
        let doubtful = before > threshold || options.log_prob_threshold.is_some_and(|least| unadapted < least);
        let (shorter, longer) = (words.min(adapted_words) as f64, words.max(adapted_words) as f64);
        adapted >= unadapted - LIKELIHOOD_MARGIN
            && (after <= threshold || after <= before)
            && (doubtful || shorter >= LEAST_LENGTH * longer && self.disagreement <= MOST_DISAGREEMENT)
    }
}

impl<B: DecoderBackend> Adaptation<B> {
    /// `None` where the configuration takes no steps.
    pub(super) fn new(
        backend: &B,
        model: &CtcModel<B>,
        parameters: &AdaptedParameters<B>,
        config: &AdaptationConfig,
        options: &DecodingOptions,
    ) -> Result<Option<Self>, DecodingError> {
        let (Some(decoder), true) = (model.decoder(), config.planned_steps() > 0) else {
            return Ok(None);
        };
        let values = model.config().most_input_values();
        let source_rows = match model.plan(backend, values, KEEP_NOTHING) {
            Some((_, activations)) => activations.output_frames(),
            None => return Err(DecodingError::NoDecoder),
        };
        // A text has at most half the positions, and an end.
        let positions = decoder.config().positions;
        let (plan, activations) = decoder.plan_to_adapt(backend, source_rows, positions, positions / 2 + 1);
        Ok(Some(Self {
            whisper: config.whisper.clone().unwrap_or_default(),
            options: DecodingOptions {
                without_timestamps: true,
                beam_size: 1,
                ..options.clone()
            },
            config: config.clone(),
            arena: Arena::new(backend, plan.total())?,
            activations,
            last_good: parameters.snapshot(backend)?,
            moves: Moves::of(model, decoder, parameters),
        }))
    }
}

impl Moves {
    fn of<B: DecoderBackend>(model: &CtcModel<B>, decoder: &Decoder, parameters: &AdaptedParameters<B>) -> Self {
        let encoder = model.adapts_encoder(parameters);
        Self {
            encoder,
            source: encoder || decoder.adapts_source(parameters),
            lowest: model.lowest_adapted_stage(parameters),
        }
    }
}

/// A window's prompts, and what was written for it without adaptation.
pub(super) struct Heard<'a> {
    /// As the text is decoded.
    pub(super) prompt: &'a Prompt,
    /// Without timestamps.
    pub(super) plain: &'a Prompt,
    pub(super) unadapted: Decoded,
}

impl<B: DecoderBackend> Network<B> {
    /// Adapts to the window that is encoded with the source model, and gives the text that stands. The network is then
    /// as it wrote that text.
    pub(super) fn adapt(
        &mut self,
        backend: &B,
        generation: &Generation,
        options: &DecodingOptions,
        heard: Heard<'_>,
        rng: &mut Rng,
    ) -> (Decoded, Option<WindowAdaptation>) {
        let Some(mut adaptation) = self.adaptation.take() else {
            return (heard.unadapted, None);
        };
        let mut descent = Descent {
            backend,
            generation,
            network: self,
            adaptation: &mut adaptation,
            outcome: WindowAdaptation {
                unadapted_text: text_of(generation, &heard.unadapted),
                forwards: 1,
                ..WindowAdaptation::default()
            },
        };
        descent.run(heard.plain);
        let mut standing = heard.unadapted;
        if descent.outcome.steps > 0 {
            let (window, prompt) = (0, heard.prompt);
            let asked = vec![Asked { window, prompt, rng }];
            let mut written = descent.network.generate(backend, generation, options, asked);
            let adapted = written.remove(0);
            if adapted.tokens == standing.tokens || descent.may_stand(options, heard.prompt, &standing, &adapted) {
                standing = adapted;
            }
        }
        let outcome = descent.outcome;
        self.adaptation = Some(adaptation);
        (standing, Some(outcome))
    }

    /// Encodes the window again, as far as what is adapted changes it.
    fn encode_again(&mut self, backend: &B, moves: Moves) {
        if moves.encoder {
            let (arena, activations) = &mut self.encoder;
            self.model
                .forward(backend, &self.parameters, arena, activations, moves.lowest);
        }
        if moves.source {
            self.load_source(backend, 0);
        }
    }
}

/// A network at work on one window.
struct Descent<'a, B: DecoderBackend> {
    backend: &'a B,
    generation: &'a Generation,
    network: &'a mut Network<B>,
    adaptation: &'a mut Adaptation<B>,
    outcome: WindowAdaptation,
}

impl<B: DecoderBackend> Descent<'_, B> {
    /// Steps down the objective from the present state, the source model's.
    fn run(&mut self, plain: &Prompt) {
        let Adaptation { config, whisper, .. } = &*self.adaptation;
        let (steps, optimizer) = (config.planned_steps(), AdamW::suta(config.learning_rate));
        let mut rng = Rng::with_seed(whisper.seed);
        let rules = Rules::new(&self.adaptation.options, self.generation, false, plain.prefix.len());
        self.copy_source();
        let mut own = self.texts(plain, None);
        // Nothing was written, so there is nothing to be sure of.
        if own[0].len() <= 1 {
            self.outcome.guard = Some(Guard::AllBlank);
            return;
        }
        let scale = own[0].len() as f64;
        self.outcome.entropy_before = Some(self.entropy(plain, &rules, &own[0]) as f32);
        for step in 0..=steps {
            if step == steps {
                own = self.texts(plain, None);
                self.outcome.entropy_after = Some(self.entropy(plain, &rules, &own[0]) as f32);
                break;
            }
            match self.adaptation.config.method {
                Method::SequenceEntropy => own = self.texts(plain, Some(&mut rng)),
                Method::Suta if step > 0 => own = self.texts(plain, None),
                _ => {}
            }
            let loss = self.gradients(plain, &rules, &own, scale);
            let parameters = &mut self.network.parameters;
            if !loss.is_finite() || !parameters.gradients_are_finite(self.backend) {
                self.outcome.guard = Some(Guard::NonFinite);
                if step > 0 {
                    parameters.restore(self.backend, &self.adaptation.last_good);
                    self.encode_again();
                    self.outcome.steps -= 1;
                }
                break;
            }
            self.outcome.losses.push(loss as f32);
            parameters.snapshot_into(self.backend, &mut self.adaptation.last_good);
            parameters.update(self.backend, &optimizer);
            self.outcome.steps += 1;
            self.encode_again();
        }
        let finite =
            self.outcome.entropy_after.is_none_or(f32::is_finite) && self.network.parameters.are_finite(self.backend);
        if !finite {
            self.outcome.guard = Some(Guard::NonFinite);
            self.outcome.entropy_after = None;
            self.network.parameters.restore_source(self.backend);
            self.encode_again();
            self.outcome.steps = 0;
        }
    }

    /// The loss of texts at the present state; its gradient takes the place of what was there.
    fn gradients(&mut self, plain: &Prompt, rules: &Rules, texts: &[Vec<u32>], scale: f64) -> f64 {
        let (backend, temperature) = (self.backend, self.adaptation.config.temperature);
        let method = self.adaptation.config.method;
        let sums: Vec<f64> = match method {
            // Every sample's entropy must be known before any gradient is.
            Method::SequenceEntropy => texts
                .iter()
                .map(|text| self.entropy(plain, rules, text) * text.len() as f64)
                .collect(),
            _ => Vec::new(),
        };
        let terms = match method {
            Method::SequenceEntropy => sequence_entropy_terms(&sums, temperature, scale),
            Method::Sdpl => vec![TokenTerms {
                entropy: 0.0,
                likelihood: -1.0 / texts[0].len() as f64,
                temperature,
            }],
            _ => vec![TokenTerms {
                entropy: 1.0 / texts[0].len() as f64,
                likelihood: 0.0,
                temperature,
            }],
        };
        self.network.parameters.zero_gradients(backend);
        self.with_decoder(|decoder, _, adaptation| {
            decoder.zero_source_gradient(backend, &mut adaptation.arena, &adaptation.activations);
        });
        let mut loss = 0.0;
        for (text, terms) in texts.iter().zip(&terms) {
            let values = self.look(plain, rules, text, *terms);
            let entropy: f64 = values.iter().map(|value| value.entropy).sum();
            let likelihood: f64 = values.iter().map(|value| value.log_probability).sum();
            // Of the policy gradient's term only the gradient means anything.
            loss += terms.entropy * entropy
                + if method == Method::Sdpl {
                    terms.likelihood * likelihood
                } else {
                    0.0
                };
            let first = first_row(plain);
            let tokens = sequence(plain, text);
            self.with_decoder(|decoder, parameters, adaptation| {
                let (arena, a) = (&mut adaptation.arena, &adaptation.activations);
                decoder.backward(backend, parameters, arena, a, &tokens, first);
            });
        }
        let moves = self.adaptation.moves;
        if moves.source {
            self.with_decoder(|decoder, parameters, adaptation| {
                decoder.backward_source(backend, parameters, &mut adaptation.arena, &adaptation.activations);
            });
        }
        if moves.encoder {
            let Network {
                model,
                parameters,
                encoder: (arena, activations),
                ..
            } = &mut *self.network;
            let dencoded = self.adaptation.activations.dencoded();
            let dencoded = self.adaptation.arena.view(backend, dencoded);
            backend.copy(dencoded, arena.view_mut(backend, activations.dencoded()));
            model.backward_encoded(backend, parameters, arena, activations, None);
        }
        self.outcome.backwards += 1;
        loss
    }

    /// The model's own text, or texts that it draws, each with its end.
    fn texts(&mut self, plain: &Prompt, drawn: Option<&mut Rng>) -> Vec<Vec<u32>> {
        let temperature = self.adaptation.config.temperature;
        let (options, eot) = (&self.adaptation.options, self.generation.tokenizer.eot);
        let drawn = drawn.map(|rng| (temperature, rng, self.adaptation.whisper.samples.max(1)));
        let texts = self
            .network
            .own_texts(self.backend, self.generation, options, plain, drawn);
        let room = self.network.decoder_layers().config().positions + 1 - first_row(plain) - 1;
        let given = plain.prefix.len();
        let ended = texts.into_iter().map(|text| {
            let mut text = [&text[given..], &[eot]].concat();
            text.truncate(room);
            text
        });
        ended.collect()
    }

    /// Mean token entropy of a text.
    fn entropy(&mut self, plain: &Prompt, rules: &Rules, text: &[u32]) -> f64 {
        let terms = TokenTerms {
            entropy: 0.0,
            likelihood: 0.0,
            temperature: self.adaptation.config.temperature,
        };
        let values = self.look(plain, rules, text, terms);
        values.iter().map(|value| value.entropy).sum::<f64>() / values.len().max(1) as f64
    }

    /// Runs a prompt and a text through the decoder, keeping what a backward pass reads. The logits that predict the
    /// text's tokens, under the rules, become the terms' gradient.
    fn look(&mut self, prompt: &Prompt, rules: &Rules, text: &[u32], terms: TokenTerms) -> Vec<TokenValue> {
        let (backend, tokens) = (self.backend, sequence(prompt, text));
        let logits = self.with_decoder(|decoder, parameters, adaptation| {
            let (arena, a) = (&mut adaptation.arena, &adaptation.activations);
            decoder.forward(
                backend,
                parameters,
                arena,
                a,
                &tokens,
                Tokens::Prompt { hypothesis: 0, from: 0 },
            );
            decoder.logits(backend, parameters, arena, a, first_row(prompt), text.len())
        });
        let mut values = vec![0.0; logits.len];
        let arena = &mut self.adaptation.arena;
        backend.download(arena.view(backend, logits), &mut values);
        let history = [&prompt.prefix[..], text].concat();
        let rows = values.chunks_exact_mut(logits.len / text.len().max(1)).enumerate();
        rows.for_each(|(index, row)| rules.apply(row, &history[..prompt.prefix.len() + index]));
        let found = token_terms(terms, &mut values, text);
        backend.upload(&values, arena.view_mut(backend, logits));
        if !self.adaptation.moves.encoder {
            self.outcome.forwards += 1;
        }
        found
    }

    /// Whether an adapted text may stand in the place of another one. Leaves the network as it wrote the one that does.
    fn may_stand(
        &mut self,
        options: &DecodingOptions,
        prompt: &Prompt,
        unadapted: &Decoded,
        adapted: &Decoded,
    ) -> bool {
        self.network
            .parameters
            .snapshot_into(self.backend, &mut self.adaptation.last_good);
        self.network.parameters.restore_source(self.backend);
        self.encode_again();
        let rules = Rules::new(options, self.generation, prompt.timestamps, prompt.prefix.len());
        let [before, after] = [unadapted, adapted].map(|decoded| {
            let text = [
                &decoded.tokens[prompt.prefix.len().min(decoded.tokens.len())..],
                &[self.generation.tokenizer.eot],
            ]
            .concat();
            let terms = TokenTerms {
                entropy: 0.0,
                likelihood: 0.0,
                temperature: 1.0,
            };
            let values = self.look(prompt, &rules, &text, terms);
            values.iter().map(|value| value.log_probability).sum::<f64>() / values.len() as f64
        });
        let texts = [self.outcome.unadapted_text.clone(), text_of(self.generation, adapted)];
        let counts = word_counts(&texts[0], &texts[1], Costs::Levenshtein);
        let words = [counts.reference(), counts.hypothesis()];
        let mut evidence = Evidence {
            favours_adapted: false,
            log_probability: [before, after],
            compression_ratio: texts.each_ref().map(|text| compression_ratio(text)),
            words,
            disagreement: counts.errors() as f64 / words[0].max(words[1]).max(1) as f64,
        };
        evidence.favours_adapted = evidence.favours_adapted(options);
        let letters = texts
            .each_ref()
            .map(|text| text.chars().filter(|c| !c.is_whitespace()).count());
        let guard = if letters[1] == 0 && letters[0] > 0 {
            Some(Guard::Emptied)
        } else if self.adaptation.whisper.guard && !evidence.favours_adapted {
            Some(Guard::Rejected)
        } else {
            (2 * letters[1] < letters[0]).then_some(Guard::Shortened)
        };
        self.outcome.evidence = Some(evidence);
        self.outcome.guard = self.outcome.guard.or(guard);
        let stands = matches!(guard, None | Some(Guard::Shortened));
        if stands {
            self.network
                .parameters
                .restore(self.backend, &self.adaptation.last_good);
            self.encode_again();
        }
        stands
    }

    fn encode_again(&mut self) {
        let moves = self.adaptation.moves;
        self.network.encode_again(self.backend, moves);
        if moves.encoder {
            self.outcome.forwards += 1;
        }
        if moves.source {
            self.copy_source();
        }
    }

    fn copy_source(&mut self) {
        let Network {
            model,
            encoder,
            decoder: (from, kept),
            ..
        } = &*self.network;
        let encoded = encoder.0.view(self.backend, encoder.1.encoded());
        let decoder = model.decoder().expect(DECODER);
        let Adaptation { arena, activations, .. } = &mut *self.adaptation;
        decoder.copy_source(self.backend, (from, kept), encoded, arena, activations);
    }

    fn with_decoder<T>(
        &mut self,
        work: impl FnOnce(&Decoder, &mut AdaptedParameters<B>, &mut Adaptation<B>) -> T,
    ) -> T {
        let Network { model, parameters, .. } = &mut *self.network;
        work(model.decoder().expect(DECODER), parameters, self.adaptation)
    }
}

/// The decoder's input: everything but the text's last token.
fn sequence(prompt: &Prompt, text: &[u32]) -> Vec<u32> {
    let text = &text[..text.len().saturating_sub(1)];
    [&prompt.tokens[..], &prompt.prefix, text].concat()
}

/// The row that predicts a text's first token.
fn first_row(prompt: &Prompt) -> usize {
    prompt.tokens.len() + prompt.prefix.len() - 1
}

fn text_of(generation: &Generation, decoded: &Decoded) -> String {
    let text = generation.tokenizer.decode(&decoded.tokens);
    super::strip(&text).to_string()
}
