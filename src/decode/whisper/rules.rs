//! Which tokens may come next: suppressed ones, and the grammar of timestamps (Radford et al. 2022).

use super::DecodingOptions;
use crate::engine::cpu::log_sum_exp;
use crate::model::Generation;

/// A window's rules.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rules {
    suppressed: Vec<u32>,
    suppressed_at_begin: Vec<u32>,
    repetition_penalty: f32,
    no_repeat_ngram: usize,
    timestamps: Option<Timestamps>,
    /// Tokens of the history that were given, not written.
    given: usize,
}

/// Of the grammar of timestamps.
#[derive(Debug, Clone, PartialEq)]
struct Timestamps {
    eot: u32,
    none: u32,
    begin: u32,
    latest_first: u32,
}

const NEVER: f32 = f32::NEG_INFINITY;

impl Rules {
    /// For text that begins with `given` tokens of a prefix.
    pub(super) fn new(options: &DecodingOptions, generation: &Generation, timestamps: bool, given: usize) -> Self {
        let tokenizer = &generation.tokenizer;
        let mut suppressed = tokenizer.steering();
        if options.suppress_tokens.contains(&-1) {
            suppressed.extend(tokenizer.non_speech());
        }
        let named = options
            .suppress_tokens
            .iter()
            .filter_map(|token| u32::try_from(*token).ok());
        suppressed.extend(named);
        suppressed.retain(|token| (*token as usize) < tokenizer.len);
        suppressed.sort_unstable();
        suppressed.dedup();
        if options.suppress_tokens.is_empty() {
            suppressed.clear();
        }
        let begin = tokenizer.timestamp_begin();
        let steps = (options.max_initial_timestamp / super::TIME_PRECISION)
            .round_ties_even()
            .max(0.0);
        Self {
            suppressed,
            suppressed_at_begin: if options.suppress_blank {
                generation.suppressed_at_begin.clone()
            } else {
                Vec::new()
            },
            repetition_penalty: options.repetition_penalty as f32,
            no_repeat_ngram: options.no_repeat_ngram_size,
            timestamps: timestamps.then_some(Timestamps {
                eot: tokenizer.eot,
                none: tokenizer.no_timestamps,
                begin,
                latest_first: begin.saturating_add(steps as u32),
            }),
            given,
        }
    }

    /// Makes what may not follow `history` impossible in the logits `[V]`.
    pub(super) fn apply(&self, logits: &mut [f32], history: &[u32]) {
        if self.repetition_penalty != 1.0 {
            let mut seen = history.to_vec();
            seen.sort_unstable();
            seen.dedup();
            for token in seen {
                let logit = &mut logits[token as usize];
                *logit = if *logit < 0.0 {
                    *logit * self.repetition_penalty
                } else {
                    *logit / self.repetition_penalty
                };
            }
        }
        if self.no_repeat_ngram > 0 && history.len() >= self.no_repeat_ngram {
            let tail = &history[history.len() + 1 - self.no_repeat_ngram..];
            for window in history.windows(self.no_repeat_ngram) {
                if window[..tail.len()] == *tail {
                    logits[window[tail.len()] as usize] = NEVER;
                }
            }
        }
        for token in &self.suppressed {
            logits[*token as usize] = NEVER;
        }
        if history.len() == self.given {
            for token in &self.suppressed_at_begin {
                if let Some(logit) = logits.get_mut(*token as usize) {
                    *logit = NEVER;
                }
            }
        }
        if let Some(timestamps) = &self.timestamps {
            timestamps.apply(logits, history, self.given);
        }
    }
}

impl Timestamps {
    fn apply(&self, logits: &mut [f32], history: &[u32], given: usize) {
        let (begin, eot) = (self.begin as usize, self.eot as usize);
        logits[self.none as usize] = NEVER;
        let is_timestamp = |token: u32| token >= self.begin;
        let written = &history[given.min(history.len())..];
        let Some(last) = written.last() else {
            // A window begins with a timestamp, and not a late one; what follows a prefix is free.
            if given == 0 {
                logits[..begin].fill(NEVER);
                let late = (self.latest_first as usize + 1).min(logits.len());
                logits[late..].fill(NEVER);
            }
            return;
        };
        let (mut may_be_text, mut ends_segment) = (true, false);
        if is_timestamp(*last) {
            // They come in pairs, except at the end.
            let before = written.iter().rev().nth(1).unwrap_or(last);
            if is_timestamp(*before) {
                logits[begin..].fill(NEVER);
                may_be_text = false;
            } else {
                logits[..eot].fill(NEVER);
                ends_segment = true;
            }
        }
        // Time does not run backwards, and a segment takes some; the next one may begin where it ends.
        if let Some(latest) = written.iter().rev().find(|token| is_timestamp(**token)) {
            let earliest = *latest as usize + usize::from(!ends_segment);
            let earliest = earliest.min(logits.len());
            logits[begin..earliest].fill(NEVER);
        }
        // All timestamps together more likely than any other token: one of them it is.
        if may_be_text {
            let (text, times) = logits.split_at(begin);
            let likeliest = text.iter().copied().fold(NEVER, f32::max);
            if log_sum_exp(times) > likeliest {
                logits[..begin].fill(NEVER);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::generation;
    use super::*;

    /// What may follow a history when all logits are 0, but for those given.
    fn allowed(options: &DecodingOptions, history: &[u32], raised: &[(u32, f32)]) -> Vec<u32> {
        let generation = generation();
        let rules = Rules::new(options, &generation, !options.without_timestamps, 0);
        let mut logits = vec![0.0; generation.tokenizer.len];
        for (token, value) in raised {
            logits[*token as usize] = *value;
        }
        rules.apply(&mut logits, history);
        let possible = logits.iter().enumerate().filter(|(_, logit)| **logit > NEVER);
        possible.map(|(token, _)| token as u32).collect()
    }

    #[test]
    fn a_window_begins_with_a_timestamp_of_at_most_a_second() {
        let begin = generation().tokenizer.timestamp_begin();
        let options = DecodingOptions::default();
        assert_eq!(allowed(&options, &[], &[]), (begin..=begin + 50).collect::<Vec<_>>());
        let options = DecodingOptions {
            max_initial_timestamp: 0.0,
            ..options
        };
        assert_eq!(allowed(&options, &[], &[]), [begin]);
    }

    #[test]
    fn timestamps_come_in_pairs_and_do_not_run_backwards() {
        let generation = generation();
        let (begin, eot) = (generation.tokenizer.timestamp_begin(), generation.tokenizer.eot);
        let options = DecodingOptions::default();
        // Two in a row: text or the end.
        let next = allowed(&options, &[begin, 65, begin + 9, begin + 9], &[]);
        assert!(next.contains(&66) && next.contains(&eot) && next.iter().all(|token| *token < begin));
        // One after text: its twin, a later one, or the end if it is likelier than all of those.
        let next = allowed(&options, &[begin, 65, begin + 9], &[]);
        assert!(next.iter().all(|token| *token >= begin + 9) && next.contains(&(begin + 9)));
        let next = allowed(&options, &[begin, 65, begin + 9], &[(eot, 20.0)]);
        assert!(next.contains(&eot) && !next.contains(&66) && !next.contains(&(begin + 8)));
        // After text: all timestamps together outweigh each single token, unless one is likelier. A segment takes time.
        let next = allowed(&options, &[begin + 9, 65], &[]);
        assert_eq!(next.first(), Some(&(begin + 10)));
        assert!(allowed(&options, &[begin, 65], &[(66, 20.0)]).contains(&66));
    }

    #[test]
    fn suppressed_tokens_are_never_written_and_blanks_not_first() {
        let generation = generation();
        let tokenizer = &generation.tokenizer;
        let options = DecodingOptions {
            without_timestamps: true,
            ..DecodingOptions::default()
        };
        let (first, later) = (allowed(&options, &[], &[]), allowed(&options, &[65], &[]));
        for token in tokenizer.steering().iter().chain(&tokenizer.encode("(")) {
            assert!(!first.contains(token) && !later.contains(token), "{token}");
        }
        let bare = DecodingOptions {
            suppress_tokens: Vec::new(),
            suppress_blank: false,
            ..options
        };
        assert_eq!(allowed(&bare, &[], &[]).len(), tokenizer.len);
        let no_blanks = DecodingOptions {
            suppress_blank: true,
            ..bare
        };
        let (first, later) = (allowed(&no_blanks, &[], &[]), allowed(&no_blanks, &[65], &[]));
        for token in &generation.suppressed_at_begin {
            assert!(!first.contains(token) && later.contains(token), "{token}");
        }
    }

    #[test]
    fn repetition_is_penalised_and_repeated_sequences_are_refused() {
        let options = DecodingOptions {
            without_timestamps: true,
            no_repeat_ngram_size: 3,
            ..DecodingOptions::default()
        };
        let next = allowed(&options, &[65, 66, 67, 65, 66], &[]);
        assert!(!next.contains(&67) && next.contains(&68));
        let rules = Rules {
            repetition_penalty: 2.0,
            ..Rules::new(&options, &generation(), false, 0)
        };
        let mut logits = vec![1.0; generation().tokenizer.len];
        logits[66] = -1.0;
        rules.apply(&mut logits, &[65, 66, 65]);
        assert_eq!((logits[65], logits[66], logits[68]), (0.5, -2.0, 1.0));
    }
}
