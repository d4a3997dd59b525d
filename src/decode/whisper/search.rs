//! Greedy decoding, sampling and beam search over a decoder's next-token logits, as CTranslate2 does them.

use super::DecodingOptions;
use super::rules::Rules;
use crate::engine::cpu::log_sum_exp;
use fastrand::Rng;

/// What searches ask of a decoder that has read the prompts of some windows.
pub(super) trait Steps {
    /// Forgets all but a window's prompt and goes on with so many hypotheses; their next token's logits `[hypotheses, V]`.
    fn restart(&mut self, window: usize, hypotheses: usize) -> Vec<f32>;
    /// Goes on in some windows, in ascending order; the next token's logits `[hypotheses, V]` of each.
    fn step(&mut self, next: &[(usize, Next)]) -> Vec<Vec<f32>>;
}

/// How a window's hypotheses go on: the i-th from what `origins[i]` was, with a token more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) origins: Vec<usize>,
    pub(super) tokens: Vec<u32>,
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

/// A search under way.
pub(super) struct Running<'a> {
    search: &'a Search<'a>,
    way: Way<'a>,
    alive: Vec<Beam>,
    finished: Vec<Beam>,
    position: usize,
    best_finished: bool,
}

/// How hypotheses get their next tokens.
enum Way<'a> {
    /// Independent ones, each its likeliest.
    Greedy,
    /// Independent ones, each one drawn at a temperature.
    Drawn(f64, &'a mut Rng),
    /// The best of all together.
    Beam,
}

/// Runs searches side by side, one a window, until all have ended. `windows` ascend.
pub(super) fn run_together(windows: &[usize], searches: &mut [Running<'_>], steps: &mut impl Steps) {
    let mut under_way: Vec<(usize, &mut Running<'_>, Vec<f32>)> = Vec::new();
    for (window, running) in windows.iter().zip(searches) {
        let logits = steps.restart(*window, running.alive.len());
        under_way.push((*window, running, logits));
    }
    loop {
        let mut next = Vec::new();
        under_way.retain_mut(|(window, running, logits)| match running.advance(logits) {
            Some(on) => {
                next.push((*window, on));
                true
            }
            None => false,
        });
        if next.is_empty() {
            return;
        }
        for ((.., logits), stepped) in under_way.iter_mut().zip(steps.step(&next)) {
            *logits = stepped;
        }
    }
}

impl Search<'_> {
    /// Begins to look for the best text at a temperature.
    pub(super) fn begin<'a>(&'a self, temperature: f64, rng: &'a mut Rng) -> Running<'a> {
        if temperature > 0.0 {
            self.independent(Some((temperature, rng)), self.options.best_of.max(1))
        } else if self.options.beam_size > 1 {
            self.running(Way::Beam, 1)
        } else {
            self.independent(None, 1)
        }
    }

    /// Begins to write the likeliest text token by token, or so many texts drawn at a temperature.
    pub(super) fn independent<'a>(&'a self, drawn: Option<(f64, &'a mut Rng)>, count: usize) -> Running<'a> {
        let way = match drawn {
            Some((temperature, rng)) => Way::Drawn(temperature, rng),
            None => Way::Greedy,
        };
        self.running(way, count)
    }

    fn running<'a>(&'a self, way: Way<'a>, count: usize) -> Running<'a> {
        let begin = || Beam {
            tokens: self.prefix.to_vec(),
            score: 0.0,
        };
        Running {
            search: self,
            way,
            alive: (0..count).map(|_| begin()).collect(),
            finished: Vec::new(),
            position: self.prefix.len(),
            best_finished: false,
        }
    }

    fn rank(&self, tokens: &[u32], score: f64) -> f64 {
        score / (tokens.len().max(1) as f64).powf(self.options.length_penalty)
    }
}

impl Running<'_> {
    /// The best of what was found.
    pub(super) fn best(self) -> Found {
        let search = self.search;
        let mut best: Option<(f64, Beam)> = None;
        for beam in self.into_beams() {
            let rank = search.rank(&beam.tokens, beam.score);
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

    /// All texts that were found, each without its end.
    pub(super) fn texts(self) -> Vec<Vec<u32>> {
        self.into_beams().into_iter().map(|beam| beam.tokens).collect()
    }

    fn into_beams(self) -> Vec<Beam> {
        let mut beams = self.finished;
        if beams.is_empty() || !matches!(self.way, Way::Beam) {
            beams.extend(self.alive);
        }
        beams
    }

    /// With the next token's logits `[hypotheses, V]`; `None` where the search has ended.
    fn advance(&mut self, logits: &mut [f32]) -> Option<Next> {
        if self.alive.is_empty() || self.position >= self.search.longest {
            return None;
        }
        let next = match self.way {
            Way::Beam => self.advance_beam(logits),
            _ => self.advance_each(logits),
        };
        self.position += 1;
        next
    }

    /// Independent hypotheses.
    fn advance_each(&mut self, logits: &mut [f32]) -> Option<Next> {
        let (search, is_last) = (self.search, self.position + 1 == self.search.longest);
        let size = logits.len() / self.alive.len();
        let mut next = Next::default();
        let mut kept = Vec::new();
        for (index, mut beam) in std::mem::take(&mut self.alive).into_iter().enumerate() {
            let logits = &mut logits[index * size..(index + 1) * size];
            search.rules.apply(logits, &beam.tokens);
            let token = match &mut self.way {
                Way::Drawn(temperature, rng) => draw(logits, *temperature, rng),
                _ => likeliest(logits),
            };
            beam.score += (logits[token as usize] - log_sum_exp(logits)) as f64;
            if token != search.eot {
                beam.tokens.push(token);
            }
            if token == search.eot || is_last {
                self.finished.push(beam);
            } else {
                next.tokens.push(token);
                next.origins.push(index);
                kept.push(beam);
            }
        }
        self.alive = kept;
        (!self.alive.is_empty()).then_some(next)
    }

    fn advance_beam(&mut self, logits: &mut [f32]) -> Option<Next> {
        let search = self.search;
        let size = search.options.beam_size;
        let wanted = ((size as f64 * search.options.patience).round() as usize).max(1);
        let vocabulary = logits.len() / self.alive.len();
        let mut candidates = Vec::with_capacity(2 * size + 1);
        for (index, beam) in self.alive.iter().enumerate() {
            let logits = &mut logits[index * vocabulary..(index + 1) * vocabulary];
            search.rules.apply(logits, &beam.tokens);
            gather(&mut candidates, 2 * size, logits, index, beam.score);
        }
        if self.position == search.prefix.len() && self.position > 0 {
            // Only the best of the first candidates after a prefix may end there; the others' places stay empty.
            for candidate in candidates
                .iter_mut()
                .skip(1)
                .filter(|candidate| candidate.token == search.eot)
            {
                (candidate.token, candidate.score) = (0, NO_CHANCE);
            }
        }
        let is_last = self.position + 1 == search.longest;
        let mut spare = candidates
            .iter()
            .skip(size)
            .filter(|candidate| candidate.token != search.eot);
        let mut chosen = Vec::with_capacity(size);
        for (rank, candidate) in candidates.iter().take(size).enumerate() {
            if candidate.token != search.eot && !is_last {
                chosen.push(*candidate);
                continue;
            }
            self.best_finished |= rank == 0;
            let mut tokens = self.alive[candidate.beam].tokens.clone();
            tokens.extend((candidate.token != search.eot).then_some(candidate.token));
            self.finished.push(Beam {
                tokens,
                score: candidate.score,
            });
            // Another hypothesis takes its place.
            chosen.extend(spare.next().copied());
        }
        let enough = if search.options.length_penalty == 0.0 {
            self.best_finished
        } else {
            self.finished.len() >= wanted
        };
        if is_last || enough || chosen.is_empty() {
            return None;
        }
        let grown = chosen.iter().map(|candidate| Beam {
            tokens: [&self.alive[candidate.beam].tokens[..], &[candidate.token]].concat(),
            score: candidate.score,
        });
        self.alive = grown.collect();
        Some(Next {
            origins: chosen.iter().map(|candidate| candidate.beam).collect(),
            tokens: chosen.iter().map(|candidate| candidate.token).collect(),
        })
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
        fn restart(&mut self, _: usize, hypotheses: usize) -> Vec<f32> {
            self.hypotheses = vec![Vec::new(); hypotheses];
            self.first.repeat(hypotheses)
        }
        fn step(&mut self, next: &[(usize, Next)]) -> Vec<Vec<f32>> {
            let [(_, next)] = next else { panic!("one window") };
            let grown = next.origins.iter().zip(&next.tokens);
            self.hypotheses = grown
                .map(|(origin, token)| [&self.hypotheses[*origin][..], &[*token]].concat())
                .collect();
            vec![
                self.hypotheses
                    .iter()
                    .flat_map(|hypothesis| self.logits(hypothesis))
                    .collect(),
            ]
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
        let mut rng = Rng::with_seed(1);
        let mut running = [search.begin(temperature, &mut rng)];
        run_together(&[0], &mut running, table);
        let [running] = running;
        running.best()
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
