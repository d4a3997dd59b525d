//! Greedy decoding, sampling and beam search over a decoder's next-token logits, as CTranslate2 does them.

use super::DecodingOptions;
use super::rules::Rules;
use crate::engine::cpu::log_sum_exp;
use fastrand::Rng;

/// What a search asks of a decoder that has read its prompt.
pub(super) trait Steps {
    /// The next token's logits `[V]` after the prompt.
    fn first(&mut self) -> &[f32];
    /// Forgets all but the prompt and goes on with so many hypotheses.
    fn restart(&mut self, hypotheses: usize);
    /// Hypothesis i goes on from what hypothesis `origins[i]` was.
    fn reorder(&mut self, origins: &[usize]);
    /// Appends a token to each hypothesis; the next one's logits `[hypotheses, V]`.
    fn step(&mut self, tokens: &[u32]) -> Vec<f32>;
}

/// What was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    /// Without the end.
    pub(super) tokens: Vec<u32>,
    /// Sum of the tokens' log-probabilities, the end's included.
    pub(super) log_probability: f64,
}

/// A score from which no hypothesis recovers.
const NO_CHANCE: f64 = -1e10;

/// A window's search.
pub(super) struct Search<'a> {
    pub(super) options: &'a DecodingOptions,
    pub(super) rules: &'a Rules,
    pub(super) eot: u32,
    /// What the text begins with.
    pub(super) prefix: &'a [u32],
    /// Tokens of the text, at most.
    pub(super) longest: usize,
}

struct Beam {
    tokens: Vec<u32>,
    score: f64,
}

/// A hypothesis' next token.
#[derive(Clone, Copy)]
struct Candidate {
    beam: usize,
    token: u32,
    score: f64,
}

impl Search<'_> {
    /// The best text at a temperature.
    pub(super) fn run(&self, steps: &mut impl Steps, temperature: f64, rng: &mut Rng) -> Found {
        if temperature > 0.0 {
            self.sample(steps, Some((temperature, rng)), self.options.best_of.max(1))
        } else if self.options.beam_size > 1 {
            self.beam(steps)
        } else {
            self.sample(steps, None, 1)
        }
    }

    fn rank(&self, tokens: &[u32], score: f64) -> f64 {
        score / (tokens.len().max(1) as f64).powf(self.options.length_penalty)
    }

    fn best(&self, finished: Vec<Beam>) -> Found {
        let mut best: Option<(f64, Beam)> = None;
        for beam in finished {
            let rank = self.rank(&beam.tokens, beam.score);
            if best.as_ref().is_none_or(|(highest, _)| rank > *highest) {
                best = Some((rank, beam));
            }
        }
        let (tokens, log_probability) = best.map_or((Vec::new(), 0.0), |(_, beam)| (beam.tokens, beam.score));
        Found {
            tokens,
            log_probability,
        }
    }

    /// The likeliest text token by token, or so many drawn at a temperature.
    pub(super) fn texts(&self, steps: &mut impl Steps, drawn: Option<(f64, &mut Rng, usize)>) -> Vec<Vec<u32>> {
        let beams = match drawn {
            Some((temperature, rng, count)) => self.independent(steps, Some((temperature, rng)), count),
            None => self.independent(steps, None, 1),
        };
        beams.into_iter().map(|beam| beam.tokens).collect()
    }

    fn sample(&self, steps: &mut impl Steps, drawn: Option<(f64, &mut Rng)>, count: usize) -> Found {
        self.best(self.independent(steps, drawn, count))
    }

    /// Independent hypotheses, each taking its likeliest token, or one drawn at a temperature.
    fn independent(&self, steps: &mut impl Steps, mut drawn: Option<(f64, &mut Rng)>, count: usize) -> Vec<Beam> {
        let mut alive: Vec<Beam> = (0..count).map(|_| self.begin()).collect();
        let mut finished = Vec::new();
        steps.restart(count);
        let first = steps.first().to_vec();
        let mut logits = first.repeat(count);
        for position in self.prefix.len().. {
            if position >= self.longest {
                break;
            }
            let size = first.len();
            let (mut going, mut next) = (Vec::new(), Vec::new());
            let mut kept = Vec::new();
            for (index, mut beam) in std::mem::take(&mut alive).into_iter().enumerate() {
                let logits = &mut logits[index * size..(index + 1) * size];
                self.rules.apply(logits, &beam.tokens);
                let token = match &mut drawn {
                    None => likeliest(logits),
                    Some((temperature, rng)) => draw(logits, *temperature, rng),
                };
                beam.score += (logits[token as usize] - log_sum_exp(logits)) as f64;
                if token != self.eot {
                    beam.tokens.push(token);
                }
                if token == self.eot || position + 1 == self.longest {
                    finished.push(beam);
                } else {
                    next.push(token);
                    going.push(index);
                    kept.push(beam);
                }
            }
            alive = kept;
            if alive.is_empty() {
                break;
            }
            steps.reorder(&going);
            logits = steps.step(&next);
        }
        finished.extend(alive);
        finished
    }

    fn begin(&self) -> Beam {
        Beam {
            tokens: self.prefix.to_vec(),
            score: 0.0,
        }
    }

    fn beam(&self, steps: &mut impl Steps) -> Found {
        let size = self.options.beam_size;
        let wanted = ((size as f64 * self.options.patience).round() as usize).max(1);
        steps.restart(1);
        let mut logits = steps.first().to_vec();
        let vocabulary = logits.len();
        let mut alive = vec![self.begin()];
        let mut finished: Vec<Beam> = Vec::new();
        let mut best_finished = false;
        for position in self.prefix.len()..self.longest {
            let mut candidates = Vec::with_capacity(2 * size + 1);
            for (index, beam) in alive.iter().enumerate() {
                let logits = &mut logits[index * vocabulary..(index + 1) * vocabulary];
                self.rules.apply(logits, &beam.tokens);
                gather(&mut candidates, 2 * size, logits, index, beam.score);
            }
            if position == self.prefix.len() && position > 0 {
                // Only the best of the first candidates after a prefix may end there; the others' places stay empty.
                for candidate in candidates
                    .iter_mut()
                    .skip(1)
                    .filter(|candidate| candidate.token == self.eot)
                {
                    (candidate.token, candidate.score) = (0, NO_CHANCE);
                }
            }
            let is_last = position + 1 == self.longest;
            let mut spare = candidates
                .iter()
                .skip(size)
                .filter(|candidate| candidate.token != self.eot);
            let mut next = Vec::with_capacity(size);
            for (rank, candidate) in candidates.iter().take(size).enumerate() {
                if candidate.token != self.eot && !is_last {
                    next.push(*candidate);
                    continue;
                }
                best_finished |= rank == 0;
                let mut tokens = alive[candidate.beam].tokens.clone();
                tokens.extend((candidate.token != self.eot).then_some(candidate.token));
                finished.push(Beam {
                    tokens,
                    score: candidate.score,
                });
                // Another hypothesis takes its place.
                next.extend(spare.next().copied());
            }
            let enough = if self.options.length_penalty == 0.0 {
                best_finished
            } else {
                finished.len() >= wanted
            };
            if is_last || enough || next.is_empty() {
                break;
            }
            let origins: Vec<usize> = next.iter().map(|candidate| candidate.beam).collect();
            let tokens: Vec<u32> = next.iter().map(|candidate| candidate.token).collect();
            alive = next
                .iter()
                .map(|candidate| {
                    let mut tokens = alive[candidate.beam].tokens.clone();
                    tokens.push(candidate.token);
                    Beam {
                        tokens,
                        score: candidate.score,
                    }
                })
                .collect();
            steps.reorder(&origins);
            logits = steps.step(&tokens);
        }
        if finished.is_empty() {
            finished = alive;
        }
        self.best(finished)
    }
}

/// Adds a hypothesis' best tokens to the best candidates, of which so many are kept, best first.
fn gather(candidates: &mut Vec<Candidate>, most: usize, logits: &[f32], beam: usize, score: f64) {
    let total = log_sum_exp(logits);
    // Scores are sums of single-precision log-probabilities, so that ties are decided as elsewhere.
    let mut floor = f64::NEG_INFINITY;
    if candidates.len() == most {
        floor = candidates[most - 1].score;
    }
    for (token, logit) in logits.iter().enumerate() {
        let value = score + (*logit - total) as f64;
        if value <= floor || *logit == f32::NEG_INFINITY {
            continue;
        }
        let at = candidates.partition_point(|candidate| candidate.score >= value);
        let token = token as u32;
        candidates.insert(
            at,
            Candidate {
                beam,
                token,
                score: value,
            },
        );
        candidates.truncate(most);
        if candidates.len() == most {
            floor = candidates[most - 1].score;
        }
    }
}

fn likeliest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (token, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = token;
        }
    }
    best as u32
}

/// A token drawn from the softmax at a temperature (inverse transform).
fn draw(logits: &[f32], temperature: f64, rng: &mut Rng) -> u32 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
    let weight = |logit: f32| ((logit as f64 - highest) / temperature).exp();
    let total: f64 = logits.iter().map(|logit| weight(*logit)).sum();
    let mut left = rng.f64() * total;
    for (token, logit) in logits.iter().enumerate() {
        left -= weight(*logit);
        if left < 0.0 {
            return token as u32;
        }
    }
    likeliest(logits)
}

#[cfg(test)]
mod tests {
    use super::super::tests::generation;
    use super::*;
    use std::collections::HashMap;

    /// What was written, and what may come next with which probability.
    type Row = (&'static [u32], &'static [(u32, f32)]);

    /// A decoder whose next-token probabilities are a table by what was written; elsewhere the end is certain.
    struct Table {
        probabilities: HashMap<Vec<u32>, Vec<(u32, f32)>>,
        hypotheses: Vec<Vec<u32>>,
        first: Vec<f32>,
        size: usize,
        eot: u32,
    }

    impl Table {
        fn new(table: &[Row]) -> Self {
            let tokenizer = generation().tokenizer;
            let probabilities = table.iter().map(|(history, next)| (history.to_vec(), next.to_vec()));
            let mut made = Self {
                probabilities: probabilities.collect(),
                hypotheses: Vec::new(),
                first: Vec::new(),
                size: tokenizer.len,
                eot: tokenizer.eot,
            };
            made.first = made.logits(&[]);
            made
        }

        fn logits(&self, history: &[u32]) -> Vec<f32> {
            let mut logits = vec![-30.0; self.size];
            match self.probabilities.get(history) {
                Some(next) => next.iter().for_each(|(token, p)| logits[*token as usize] = p.ln()),
                None => logits[self.eot as usize] = 0.0,
            }
            logits
        }
    }

    impl Steps for Table {
        fn first(&mut self) -> &[f32] {
            &self.first
        }
        fn restart(&mut self, hypotheses: usize) {
            self.hypotheses = vec![Vec::new(); hypotheses];
        }
        fn reorder(&mut self, origins: &[usize]) {
            self.hypotheses = origins.iter().map(|origin| self.hypotheses[*origin].clone()).collect();
        }
        fn step(&mut self, tokens: &[u32]) -> Vec<f32> {
            self.hypotheses
                .iter_mut()
                .zip(tokens)
                .for_each(|(hypothesis, token)| hypothesis.push(*token));
            self.hypotheses
                .iter()
                .flat_map(|hypothesis| self.logits(hypothesis))
                .collect()
        }
    }

    fn options(beam_size: usize) -> DecodingOptions {
        DecodingOptions {
            beam_size,
            without_timestamps: true,
            suppress_blank: false,
            suppress_tokens: Vec::new(),
            ..DecodingOptions::default()
        }
    }

    fn run(table: &mut Table, options: &DecodingOptions, temperature: f64, longest: usize) -> Found {
        let rules = Rules::new(options, &generation(), false, 0);
        let search = Search {
            options,
            rules: &rules,
            eot: table.eot,
            prefix: &[],
            longest,
        };
        search.run(table, temperature, &mut Rng::with_seed(1))
    }

    /// Greedily 1 then 3; but 2 then 4 is likelier as a whole.
    const GARDEN_PATH: &[Row] = &[
        (&[], &[(1, 0.55), (2, 0.45)]),
        (&[1], &[(3, 0.4), (5, 0.35), (6, 0.25)]),
        (&[2], &[(4, 0.99), (7, 0.01)]),
    ];

    #[test]
    fn greedy_takes_the_next_best_and_a_beam_the_best_whole() {
        let greedy = run(&mut Table::new(GARDEN_PATH), &options(1), 0.0, 10);
        assert_eq!(greedy.tokens, [1, 3]);
        assert!((greedy.log_probability - (0.55f64 * 0.4).ln()).abs() < 1e-5);
        let beam = run(&mut Table::new(GARDEN_PATH), &options(3), 0.0, 10);
        assert_eq!(beam.tokens, [2, 4]);
        assert!((beam.log_probability - (0.45f64 * 0.99).ln()).abs() < 1e-5);
    }

    #[test]
    fn a_search_ends_at_its_longest_text() {
        for beam_size in [1, 3] {
            let found = run(&mut Table::new(GARDEN_PATH), &options(beam_size), 0.0, 1);
            assert_eq!(found.tokens, [1], "beam {beam_size}");
        }
        // Nothing to say: the end at once.
        let silent = run(&mut Table::new(&[]), &options(3), 0.0, 10);
        assert!(silent.tokens.is_empty());
    }

    #[test]
    fn samples_are_drawn_and_the_likeliest_counts() {
        let many = DecodingOptions {
            best_of: 64,
            ..options(1)
        };
        let found = run(&mut Table::new(GARDEN_PATH), &many, 1.0, 10);
        assert_eq!(found.tokens, [2, 4]);
        // Near temperature 0 a draw is the likeliest token.
        let one = DecodingOptions {
            best_of: 1,
            ..options(1)
        };
        assert_eq!(run(&mut Table::new(GARDEN_PATH), &one, 0.01, 10).tokens, [1, 3]);
    }
}
