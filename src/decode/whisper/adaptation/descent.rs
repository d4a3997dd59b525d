//! Steps down an objective of one window's text.

use super::evidence::Evidence;
use super::{Adaptation, WindowAdaptation, most_targets, text_of};
use crate::adapt::{
    AdaptedParameters, Heard, Policy, Snapshot, States, TokenTerms, TokenValue, sequence_entropy_terms, token_terms,
};
use crate::decode::whisper::DecodingOptions;
use crate::decode::whisper::prompt::Prompt;
use crate::decode::whisper::rules::Rules;
use crate::decode::whisper::window::{DECODER, Decoded, Network, compression_ratio};
use crate::engine::{AdamW, DecoderBackend};
use crate::eval::{Costs, word_counts};
use crate::model::{Decoder, Generation, Tokens};
use crate::{Guard, Method};
use fastrand::Rng;

/// Terms that weigh nothing: what is looked at only.
fn unweighted(temperature: f64) -> TokenTerms {
    TokenTerms {
        entropy: 0.0,
        likelihood: 0.0,
        temperature,
    }
}

/// A network at work on one window.
pub(in crate::decode::whisper) struct Descent<'a, B: DecoderBackend> {
    pub(super) backend: &'a B,
    pub(super) generation: &'a Generation,
    pub(super) network: &'a mut Network<B>,
    pub(super) adaptation: &'a mut Adaptation<B>,
    pub(super) outcome: WindowAdaptation,
}

impl<B: DecoderBackend> Descent<'_, B> {
    /// Steps down the objective from what the policy carries; the present state is the source model's. Gives what was
    /// understood in the end, where that is sound.
    pub(super) fn run(&mut self, plain: &Prompt, policy: &mut Policy<Snapshot<B>>) -> Option<Heard> {
        let Adaptation { config, whisper, .. } = &*self.adaptation;
        let (steps, optimizer) = (config.planned_steps(), AdamW::suta(config.learning_rate));
        let mut rng = Rng::with_seed(whisper.seed);
        let rules = self.rules(plain);
        self.copy_source();
        let mut own = self.texts(plain, None);
        // Nothing was written, so there is nothing to be sure of.
        let is_silent = own[0].len() <= 1;
        let source_loss = match is_silent {
            true => f64::NAN,
            false => self.entropy(plain, &rules, &own[0]),
        };
        let carried = policy.start(self, |descent, state| {
            is_silent || {
                descent.restore(state);
                descent.encode_again();
                own = descent.texts(plain, None);
                descent.entropy(plain, &rules, &own[0]).is_finite()
            }
        });
        if is_silent {
            self.outcome.guard = Some(Guard::AllBlank);
            self.outcome.carried = carried;
            return None;
        }
        if carried.as_ref().is_some_and(|carried| carried.reset.is_some()) {
            self.encode_again();
            own = self.texts(plain, None);
        }
        let goes_on = carried.as_ref().is_some_and(|carried| carried.updates > 0);
        self.outcome.carried = carried;
        let scale = own[0].len() as f64;
        self.outcome.entropy_before = Some(source_loss as f32);
        let mut understood = None;
        for step in 0..=steps {
            if step == steps {
                own = self.texts(plain, None);
                let values = self.look(plain, &rules, &own[0], unweighted(self.adaptation.config.temperature));
                self.outcome.entropy_after = Some(mean(&values, |value| value.entropy) as f32);
                let text = &own[0][..own[0].len() - 1];
                understood = Some(Heard {
                    loss: source_loss,
                    labels: text.iter().map(|token| *token as usize).collect(),
                    confidence: mean(&values, |value| value.log_probability.exp()),
                    ..Heard::default()
                });
                break;
            }
            match self.adaptation.config.method {
                Method::SequenceEntropy => own = self.texts(plain, Some(&mut rng)),
                Method::Sdpl => {}
                _ if step > 0 => own = self.texts(plain, None),
                _ => {}
            }
            self.zero_gradients();
            let loss = self.gradients(plain, &rules, &own, scale);
            self.outcome.backwards += 1;
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
        let finite = self.outcome.entropy_after.is_none_or(f32::is_finite) && self.is_finite();
        if !finite {
            self.outcome.guard = Some(Guard::NonFinite);
            self.outcome.entropy_after = None;
            self.outcome.steps = 0;
        }
        // The unadapted text stands, of the source model.
        if !finite || goes_on && self.outcome.steps == 0 {
            self.restore_source();
            self.encode_again();
        }
        understood.filter(|_| finite && source_loss.is_finite())
    }

    /// The rules of a text without timestamps.
    pub(super) fn rules(&self, plain: &Prompt) -> Rules {
        Rules::new(&self.adaptation.options, self.generation, false, plain.prefix.len())
    }

    /// The loss of texts at the present state; its gradient is added to what is there.
    fn gradients(&mut self, plain: &Prompt, rules: &Rules, texts: &[Vec<u32>], scale: f64) -> f64 {
        let temperature = self.adaptation.config.temperature;
        let terms = match self.adaptation.config.method {
            Method::SequenceEntropy => {
                // Every sample's entropy must be known before any gradient is.
                let sums = texts
                    .iter()
                    .map(|text| self.entropy(plain, rules, text) * text.len() as f64);
                sequence_entropy_terms(&sums.collect::<Vec<f64>>(), temperature, scale)
            }
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
        let values = self.add_gradients(plain, rules, texts, &terms);
        let sums = values.iter().zip(&terms).map(|(values, terms)| {
            let entropy: f64 = values.iter().map(|value| value.entropy).sum();
            let likelihood: f64 = values.iter().map(|value| value.log_probability).sum();
            // Of the policy gradient's term only the gradient means anything.
            match self.adaptation.config.method {
                Method::SequenceEntropy => terms.entropy * entropy,
                _ => terms.entropy * entropy + terms.likelihood * likelihood,
            }
        });
        sums.sum()
    }

    /// Adds the gradient of some texts' terms to what is there; the window was encoded at the present state.
    pub(super) fn add_gradients(
        &mut self,
        plain: &Prompt,
        rules: &Rules,
        texts: &[Vec<u32>],
        terms: &[TokenTerms],
    ) -> Vec<Vec<TokenValue>> {
        let backend = self.backend;
        self.with_decoder(|decoder, _, adaptation| {
            decoder.zero_source_gradient(backend, &mut adaptation.arena, &adaptation.activations);
        });
        let mut values = Vec::with_capacity(texts.len());
        for (text, terms) in texts.iter().zip(terms) {
            values.push(self.look(plain, rules, text, *terms));
            let (first, tokens) = (first_row(plain), sequence(plain, text));
            self.with_decoder(|decoder, parameters, adaptation| {
                let (arena, a) = (&mut adaptation.arena, &adaptation.activations);
                decoder.backward(backend, parameters, arena, a, &tokens, first);
            });
        }
        let reach = self.adaptation.reach;
        if reach.source {
            self.with_decoder(|decoder, parameters, adaptation| {
                decoder.backward_source(backend, parameters, &mut adaptation.arena, &adaptation.activations);
            });
        }
        if reach.encoder {
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
        values
    }

    /// The model's own text, or texts that it draws, each with its end.
    pub(super) fn texts(&mut self, plain: &Prompt, drawn: Option<&mut Rng>) -> Vec<Vec<u32>> {
        let temperature = self.adaptation.config.temperature;
        let options = &self.adaptation.options;
        let drawn = drawn.map(|rng| (temperature, rng, self.adaptation.whisper.samples.max(1)));
        let texts = self
            .network
            .own_texts(self.backend, self.generation, options, plain, drawn);
        let given = plain.prefix.len();
        let ended = texts.into_iter().map(|text| self.ended(plain, &text[given..]));
        ended.collect()
    }

    /// A text with its end, as far as there is room after a prompt.
    pub(super) fn ended(&self, plain: &Prompt, text: &[u32]) -> Vec<u32> {
        let positions = self.network.decoder_layers().config().positions;
        let mut text = [text, &[self.generation.tokenizer.eot]].concat();
        text.truncate((positions - first_row(plain)).min(most_targets(positions)));
        text
    }

    /// Mean token entropy of a text.
    pub(super) fn entropy(&mut self, plain: &Prompt, rules: &Rules, text: &[u32]) -> f64 {
        let terms = unweighted(self.adaptation.config.temperature);
        mean(&self.look(plain, rules, text, terms), |value| value.entropy)
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
        if !self.adaptation.reach.encoder {
            self.outcome.forwards += 1;
        }
        found
    }

    /// Whether an adapted text may stand in the place of another one. Leaves the network as it wrote the one that does.
    pub(super) fn may_stand(
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
            mean(&self.look(prompt, &rules, &text, unweighted(1.0)), |value| {
                value.log_probability
            })
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

    pub(super) fn encode_again(&mut self) {
        let reach = self.adaptation.reach;
        self.network.encode_again(self.backend, reach);
        if reach.encoder {
            self.outcome.forwards += 1;
        }
        if reach.source {
            self.copy_source();
        }
    }

    pub(super) fn copy_source(&mut self) {
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

fn mean(values: &[TokenValue], of: impl Fn(&TokenValue) -> f64) -> f64 {
    values.iter().map(of).sum::<f64>() / values.len().max(1) as f64
}
