//! What adaptation of an autoregressive decoder lowers: the entropy of its next-token distributions along a text, or
//! of the distribution over whole texts, and the likelihood of a pseudo-label.
//!
//! With `p_t` the distribution after `y_1 .. y_{t-1}`, the entropy over texts is `H = E_y[Σ_t H(p_t)]`. Its gradient
//! has two terms, `E_y[Σ_t ∇H(p_t)] + E_y[(Σ_t H(p_t)) ∇ log p(y)]` (arXiv 2605.08186): lowering the token entropies of
//! one text alone, as Whisper ports of SUTA do, leaves out the second.

use rayon::prelude::*;

/// Weights of the two terms of `Σ_t [entropy H(p_t) + likelihood log p_t(y_t)]`, with `p = softmax(logits / temperature)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenTerms {
    /// Of the entropies.
    pub entropy: f64,
    /// Of the log-probabilities.
    pub likelihood: f64,
    /// Of the softmax.
    pub temperature: f64,
}

/// One next-token distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenValue {
    /// In nats.
    pub entropy: f64,
    /// Of the token that came next, in nats.
    pub log_probability: f64,
}

/// The distributions after each prefix of a text, logits `[targets, V]`, which become the terms' gradient with respect to
/// the logits. A logit of minus infinity is a token that cannot come: it takes no part.
///
/// Panics where the logits are no multiple of the targets, or a target is outside.
pub fn token_terms(terms: TokenTerms, logits: &mut [f32], targets: &[u32]) -> Vec<TokenValue> {
    if targets.is_empty() {
        return Vec::new();
    }
    assert_eq!(logits.len() % targets.len(), 0);
    let classes = logits.len() / targets.len();
    let rows = logits.par_chunks_exact_mut(classes).zip(targets);
    rows.map(|(row, target)| row_terms(terms, row, *target as usize))
        .collect()
}

fn row_terms(terms: TokenTerms, row: &mut [f32], target: usize) -> TokenValue {
    let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let inverse = (1.0 / terms.temperature) as f32;
    // u = (z - max) / T; the weighted sum of u gives the entropy: H = log Σ - Σ p u.
    let (mut sum, mut weighted) = (0.0f64, 0.0f64);
    for logit in row.iter_mut() {
        *logit = (*logit - highest) * inverse;
        if *logit > f32::NEG_INFINITY {
            let weight = f64::from(logit.exp());
            sum += weight;
            weighted += weight * f64::from(*logit);
        }
    }
    let log_sum = sum.ln();
    let value = TokenValue {
        entropy: log_sum - weighted / sum,
        log_probability: f64::from(row[target]) - log_sum,
    };
    if terms.entropy == 0.0 && terms.likelihood == 0.0 {
        row.fill(0.0);
        return value;
    }
    let (entropy_weight, likelihood_weight) = (
        terms.entropy * f64::from(inverse),
        terms.likelihood * f64::from(inverse),
    );
    for u in row.iter_mut() {
        let log_p = f64::from(*u) - log_sum;
        // Where p rounds to 0, p log p does too.
        let p = f64::from((log_p as f32).exp());
        let gradient = if p > 0.0 {
            -p * (entropy_weight * (log_p + value.entropy) + likelihood_weight)
        } else {
            0.0
        };
        *u = gradient as f32;
    }
    row[target] += likelihood_weight as f32;
    value
}

/// For each sample of a few, its value less the mean of the others': REINFORCE's leave-one-out baseline, which leaves the
/// policy gradient's expectation as it is. One sample alone has no baseline.
pub fn leave_one_out(values: &[f64]) -> Vec<f64> {
    let (total, others) = (values.iter().sum::<f64>(), values.len() as f64 - 1.0);
    let advantage = |value: &f64| match values {
        [_] => *value,
        _ => value - (total - value) / others,
    };
    values.iter().map(advantage).collect()
}

/// The terms whose gradients, one set a sample and added up, estimate the gradient of the entropy over texts divided by
/// `scale`. `entropies` are each sample's `Σ_t H(p_t)`; samples are drawn from `p` at the same temperature.
pub fn sequence_entropy_terms(entropies: &[f64], temperature: f64, scale: f64) -> Vec<TokenTerms> {
    let weight = 1.0 / (entropies.len() as f64 * scale);
    let advantages = leave_one_out(entropies).into_iter();
    advantages
        .map(|advantage| TokenTerms {
            entropy: weight,
            likelihood: weight * advantage,
            temperature,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPERATURE: f64 = 1.7;

    /// `Σ weights · terms` of a row in f64, written out.
    fn plain(terms: TokenTerms, row: &[f64], target: usize) -> f64 {
        let exp: Vec<f64> = row.iter().map(|z| (z / terms.temperature).exp()).collect();
        let p: Vec<f64> = exp.iter().map(|e| e / exp.iter().sum::<f64>()).collect();
        let entropy: f64 = p.iter().filter(|p| **p > 0.0).map(|p| -p * p.ln()).sum();
        terms.entropy * entropy + terms.likelihood * p[target].ln()
    }

    #[test]
    fn gradients_are_the_central_differences_of_the_terms() {
        let row = [0.3, -1.2, f64::NEG_INFINITY, 2.0, 0.1];
        for (entropy, likelihood) in [(1.0, 0.0), (0.0, 1.0), (0.7, -2.5)] {
            let terms = TokenTerms {
                entropy,
                likelihood,
                temperature: TEMPERATURE,
            };
            let mut gradient = row.map(|z| z as f32);
            let values = token_terms(terms, &mut gradient, &[3]);
            let value = entropy * values[0].entropy + likelihood * values[0].log_probability;
            assert!((value - plain(terms, &row, 3)).abs() < 1e-6);
            for index in 0..row.len() {
                let moved = |by: f64| {
                    let mut moved = row;
                    moved[index] += by;
                    plain(terms, &moved, 3)
                };
                let exact = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                let exact = if row[index].is_finite() { exact } else { 0.0 };
                assert!((f64::from(gradient[index]) - exact).abs() < 1e-5, "{index}");
            }
        }
    }

    /// A model of texts over three tokens, of which 0 is the end: logits by what was written, at most `LONGEST` tokens.
    struct Tree(Vec<f64>);
    const CLASSES: usize = 3;
    const LONGEST: usize = 3;

    impl Tree {
        fn place(history: &[u32]) -> usize {
            history.iter().fold(0, |place, token| place * CLASSES + *token as usize) * CLASSES
        }

        fn row(&self, history: &[u32]) -> &[f64] {
            &self.0[Self::place(history)..Self::place(history) + CLASSES]
        }

        fn p(&self, history: &[u32]) -> Vec<f64> {
            let exp: Vec<f64> = self.row(history).iter().map(|z| (z / TEMPERATURE).exp()).collect();
            exp.iter().map(|e| e / exp.iter().sum::<f64>()).collect()
        }

        /// Every text and its probability; the longest end without an end.
        fn texts(&self) -> Vec<(Vec<u32>, f64)> {
            let (mut done, mut open) = (Vec::new(), vec![(Vec::new(), 1.0)]);
            while let Some((text, probability)) = open.pop() {
                for (token, p) in self.p(&text).into_iter().enumerate() {
                    let next = [&text[..], &[token as u32]].concat();
                    let ended = token == 0 || next.len() == LONGEST;
                    if ended { &mut done } else { &mut open }.push((next, probability * p));
                }
            }
            done
        }

        fn entropy(&self) -> f64 {
            self.texts().iter().map(|(_, p)| -p * p.ln()).sum()
        }

        /// A text's logits in a row.
        fn logits(&self, text: &[u32]) -> Vec<f32> {
            let rows = (0..text.len()).flat_map(|t| self.row(&text[..t]).to_vec());
            rows.map(|z| z as f32).collect()
        }
    }

    #[test]
    fn the_estimators_expectation_is_the_gradient_of_the_entropy_over_texts() {
        // Histories begin with 1 or 2, so places do not collide: the first token is never read as a leading zero.
        let size = Tree::place(&[2, 2]) + CLASSES;
        let tree = Tree((0..size).map(|n| ((n * n) as f64 * 0.7).sin() * 2.0).collect());
        let texts = tree.texts();
        assert!((texts.iter().map(|(_, p)| p).sum::<f64>() - 1.0).abs() < 1e-12);
        let exact: Vec<f64> = (0..size)
            .map(|index| {
                let moved = |by: f64| {
                    let mut moved = tree.0.clone();
                    moved[index] += by;
                    Tree(moved).entropy()
                };
                (moved(1e-5) - moved(-1e-5)) / 2e-5
            })
            .collect();
        let no_terms = TokenTerms {
            entropy: 0.0,
            likelihood: 0.0,
            temperature: TEMPERATURE,
        };
        let entropy_of = |text: &[u32]| -> f64 {
            let values = token_terms(no_terms, &mut tree.logits(text), text);
            values.iter().map(|value| value.entropy).sum()
        };
        // Over all pairs of samples, each as likely as it is drawn; then with the token entropies' term alone.
        let scale = 2.0;
        let (mut expected, mut token_term) = (vec![0.0; size], vec![0.0; size]);
        for (a, p_a) in &texts {
            for (b, p_b) in &texts {
                let terms = sequence_entropy_terms(&[entropy_of(a), entropy_of(b)], TEMPERATURE, scale);
                for (text, terms) in [a, b].into_iter().zip(terms) {
                    for (sum, terms) in [
                        (&mut expected, terms),
                        (
                            &mut token_term,
                            TokenTerms {
                                likelihood: 0.0,
                                ..terms
                            },
                        ),
                    ] {
                        let mut gradient = tree.logits(text);
                        token_terms(terms, &mut gradient, text);
                        for (t, row) in gradient.chunks_exact(CLASSES).enumerate() {
                            let place = Tree::place(&text[..t]);
                            for (index, value) in row.iter().enumerate() {
                                sum[place + index] += p_a * p_b * f64::from(*value);
                            }
                        }
                    }
                }
            }
        }
        let distance = |gradient: &[f64]| {
            let difference = gradient.iter().zip(&exact).map(|(a, b)| (a - b / scale).abs());
            difference.fold(0.0, f64::max)
        };
        assert!(distance(&expected) < 1e-6, "{}", distance(&expected));
        assert!(
            distance(&token_term) > 1e-2,
            "the policy gradient's term is not nothing"
        );
    }

    #[test]
    fn a_baseline_of_the_others_sums_to_nothing() {
        assert_eq!(leave_one_out(&[1.0, 2.0, 6.0]), [-3.0, -1.5, 4.5]);
        assert_eq!(leave_one_out(&[2.5]), [2.5]);
        assert!(leave_one_out(&[]).is_empty());
    }
}
