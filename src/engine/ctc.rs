//! CTC's loss (Graves et al. 2006) with its gradient, in the log domain and f64, and the pseudo-label objective made of
//! it (SDPL).

/// `log(exp(a) + exp(b))`
fn log_add(a: f64, b: f64) -> f64 {
    let (high, low) = if a > b { (a, b) } else { (b, a) };
    if high == f64::NEG_INFINITY {
        return high;
    }
    high + (low - high).exp().ln_1p()
}

/// The loss of a target, and how much each symbol is on its paths.
#[derive(Debug, Clone, PartialEq)]
pub struct CtcLoss {
    /// `-log p(target)`, infinite where the target does not fit into the frames.
    pub loss: f64,
    /// `[T, V]`: the posterior probability that a path of the target has symbol v at frame t, each row's sum 1; all 0
    /// where the target does not fit. The loss's gradient with respect to the log-probabilities is its negative.
    pub occupancy: Vec<f64>,
}

/// CTC over log-probabilities `[T, V]` (natural logarithms; they need not be normalised), a target without blanks.
///
/// Panics when `log_probabilities` is no whole number of rows, or a symbol is outside `0..classes`.
pub fn ctc_loss(log_probabilities: &[f64], classes: usize, target: &[usize], blank: usize) -> CtcLoss {
    assert!(log_probabilities.len().is_multiple_of(classes));
    assert!(blank < classes && target.iter().all(|symbol| *symbol < classes && *symbol != blank));
    let frames = log_probabilities.len() / classes;
    // The target with a blank before, between and after its symbols.
    let states = 2 * target.len() + 1;
    let symbol = |state: usize| {
        if state.is_multiple_of(2) {
            blank
        } else {
            target[state / 2]
        }
    };
    // A path may skip a blank between two different symbols.
    let skips = |state: usize| state % 2 == 1 && state > 1 && symbol(state) != symbol(state - 2);
    let mut occupancy = vec![0.0; frames * classes];
    if frames == 0 {
        let loss = if target.is_empty() { 0.0 } else { f64::INFINITY };
        return CtcLoss { loss, occupancy };
    }
    let never = f64::NEG_INFINITY;
    let emission = |frame: usize, state: usize| log_probabilities[frame * classes + symbol(state)];

    // Forward: alpha[t, s] includes frame t's emission.
    let mut alpha = vec![never; frames * states];
    for (state, first) in alpha.iter_mut().enumerate().take(states.min(2)) {
        *first = emission(0, state);
    }
    for frame in 1..frames {
        let (before, now) = alpha.split_at_mut(frame * states);
        let before = &before[(frame - 1) * states..];
        for (state, now) in now[..states].iter_mut().enumerate() {
            let mut sum = before[state];
            if state > 0 {
                sum = log_add(sum, before[state - 1]);
            }
            if skips(state) {
                sum = log_add(sum, before[state - 2]);
            }
            *now = sum + emission(frame, state);
        }
    }
    let end = &alpha[(frames - 1) * states..];
    let total = if states > 1 {
        log_add(end[states - 1], end[states - 2])
    } else {
        end[0]
    };
    if total == never {
        return CtcLoss {
            loss: f64::INFINITY,
            occupancy,
        };
    }

    // Backward: beta excludes the frame's own emission, so alpha + beta counts each emission once.
    let mut beta = vec![never; states];
    beta[states.saturating_sub(2)..].fill(0.0);
    for frame in (0..frames).rev() {
        if frame + 1 < frames {
            let next: Vec<f64> = (0..states)
                .map(|state| beta[state] + emission(frame + 1, state))
                .collect();
            for state in 0..states {
                let mut sum = next[state];
                if state + 1 < states {
                    sum = log_add(sum, next[state + 1]);
                }
                if state + 2 < states && skips(state + 2) {
                    sum = log_add(sum, next[state + 2]);
                }
                beta[state] = sum;
            }
        }
        for state in 0..states {
            let posterior = (alpha[frame * states + state] + beta[state] - total).exp();
            occupancy[frame * classes + symbol(state)] += posterior;
        }
    }
    CtcLoss {
        loss: -total,
        occupancy,
    }
}

/// The pseudo-label objective of one utterance: CTC of a target over the softmax of the logits `[T, V]`, divided by the
/// target's length; writes the gradient with respect to the logits. With `over_time` the softmax runs over the frames
/// instead of over the symbols, as SUTA's published code has it.
///
/// Infinite, with a zero gradient, where the target does not fit.
pub fn pseudo_label_loss(
    logits: &[f32],
    classes: usize,
    target: &[usize],
    blank: usize,
    over_time: bool,
    dlogits: &mut [f32],
) -> f64 {
    assert_eq!(logits.len(), dlogits.len());
    let frames = logits.len() / classes;
    // One softmax is over `count` values `stride` apart, from `start` on.
    let groups: Vec<(usize, usize, usize)> = if over_time {
        (0..classes).map(|class| (class, frames, classes)).collect()
    } else {
        (0..frames).map(|frame| (frame * classes, classes, 1)).collect()
    };
    let mut log_probabilities: Vec<f64> = logits.iter().map(|&logit| logit as f64).collect();
    for &(start, count, stride) in &groups {
        let places = || (0..count).map(|index| start + index * stride);
        let highest = places()
            .map(|place| log_probabilities[place])
            .fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = places().map(|place| (log_probabilities[place] - highest).exp()).sum();
        places().for_each(|place| log_probabilities[place] -= highest + sum.ln());
    }
    let result = ctc_loss(&log_probabilities, classes, target, blank);
    if !result.loss.is_finite() {
        dlogits.fill(0.0);
        return result.loss;
    }
    let length = target.len().max(1) as f64;
    for &(start, count, stride) in &groups {
        let places = || (0..count).map(|index| start + index * stride);
        let sum: f64 = places().map(|place| result.occupancy[place]).sum();
        for place in places() {
            let gradient = log_probabilities[place].exp() * sum - result.occupancy[place];
            dlogits[place] = (gradient / length) as f32;
        }
    }
    result.loss / length
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The sum over every path, one by one.
    fn by_enumeration(log_probabilities: &[f64], classes: usize, target: &[usize], blank: usize) -> f64 {
        let frames = log_probabilities.len() / classes;
        let mut total = 0.0;
        for number in 0..classes.pow(frames as u32) {
            let path: Vec<usize> = (0..frames).map(|t| number / classes.pow(t as u32) % classes).collect();
            let mut merged = path.clone();
            merged.dedup();
            merged.retain(|symbol| *symbol != blank);
            if merged == target {
                let log: f64 = path
                    .iter()
                    .enumerate()
                    .map(|(t, s)| log_probabilities[t * classes + s])
                    .sum();
                total += log.exp();
            }
        }
        -total.ln()
    }

    proptest! {
        #[test]
        fn the_loss_is_the_sum_over_all_paths_and_occupancy_its_derivative(
            values in proptest::collection::vec(-3.0f64..3.0, 15),
            target in proptest::collection::vec(1usize..3, 0..6),
        ) {
            let exact = by_enumeration(&values, 3, &target, 0);
            let result = ctc_loss(&values, 3, &target, 0);
            if exact.is_infinite() {
                prop_assert!(result.loss.is_infinite() && result.occupancy.iter().all(|o| *o == 0.0));
            } else {
                prop_assert!((result.loss - exact).abs() < 1e-10, "{} {}", result.loss, exact);
                for index in 0..values.len() {
                    let mut moved = values.clone();
                    moved[index] += 1e-6;
                    let above = ctc_loss(&moved, 3, &target, 0).loss;
                    moved[index] -= 2e-6;
                    let slope = (above - ctc_loss(&moved, 3, &target, 0).loss) / 2e-6;
                    prop_assert!((slope + result.occupancy[index]).abs() < 1e-7);
                }
            }
        }

        #[test]
        fn the_pseudo_label_gradient_is_its_losss_derivative(
            values in proptest::collection::vec(-3.0f32..3.0, 24),
            target in proptest::collection::vec(1usize..4, 0..3),
            over_time in any::<bool>(),
        ) {
            let mut gradient = [0.0; 24];
            let loss = |logits: &[f32]| pseudo_label_loss(logits, 4, &target, 0, over_time, &mut [0.0; 24]);
            pseudo_label_loss(&values, 4, &target, 0, over_time, &mut gradient);
            for index in 0..values.len() {
                let (mut above, mut below) = (values.clone(), values.clone());
                above[index] += 1e-3;
                below[index] -= 1e-3;
                let slope = (loss(&above) - loss(&below)) / (above[index] - below[index]) as f64;
                prop_assert!((slope - gradient[index] as f64).abs() < 1e-4, "{} {}", slope, gradient[index]);
            }
        }
    }
}
