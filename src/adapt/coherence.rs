//! What a policy reads off the logits on the host: confidence, and CEA's two terms beside class confusion (Liu, Huang and
//! Wang, EMNLP 2024) with their gradients, which are entropy weighted by confidence and the temporal coherence of the
//! convolutions' output.

/// Each frame's softmax at a temperature and its entropy.
struct Frame {
    probabilities: Vec<f64>,
    entropy: f64,
}

fn frame(logits: &[f32], temperature: f64) -> Frame {
    let scaled: Vec<f64> = logits.iter().map(|&z| f64::from(z) / temperature).collect();
    let highest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scaled.iter().map(|u| (u - highest).exp()).sum();
    let log_sum = highest + sum.ln();
    let probabilities: Vec<f64> = scaled.iter().map(|u| (u - log_sum).exp()).collect();
    let entropy = scaled.iter().zip(&probabilities).map(|(u, p)| -p * (u - log_sum)).sum();
    Frame { probabilities, entropy }
}

/// Whether each frame's best symbol is another than the blank.
pub(super) fn spoken(logits: &[f32], classes: usize, blank: usize) -> Vec<bool> {
    let best = |row: &[f32]| {
        let better = |best: usize, (index, value): (usize, &f32)| if *value > row[best] { index } else { best };
        row.iter().enumerate().fold(0, better)
    };
    logits.chunks_exact(classes).map(|row| best(row) != blank).collect()
}

/// The mean probability (at temperature 1) of the best symbol over the frames where it is not the blank; 0 where there is
/// none.
pub(super) fn confidence(logits: &[f32], classes: usize, blank: usize) -> f64 {
    let rows = logits.chunks_exact(classes).zip(spoken(logits, classes, blank));
    let best: Vec<f64> = rows
        .filter(|(_, spoken)| *spoken)
        .map(|(row, _)| frame(row, 1.0).probabilities.into_iter().fold(0.0, f64::max))
        .collect();
    best.iter().sum::<f64>() / best.len().max(1) as f64
}

/// The mean over the chosen frames (all where there is no choice) of the entropy, or of `H / (1 + exp(-H))` where
/// `weighted`, H in nats; adds its gradient times `weight` to `dlogits` `[T, V]`. The weight's own gradient counts, as in
/// the authors' code. 0 where no frame is chosen.
pub(super) fn frame_entropy(
    (logits, classes): (&[f32], usize),
    temperature: f64,
    chosen: Option<&[bool]>,
    weighted: bool,
    weight: f64,
    dlogits: &mut [f32],
) -> f64 {
    let frames = logits.len() / classes;
    let is_chosen = |t: usize| chosen.is_none_or(|chosen| chosen[t]);
    let count = (0..frames).filter(|&t| is_chosen(t)).count();
    if count == 0 {
        return 0.0;
    }
    let mut mean = 0.0;
    for (t, (row, drow)) in logits
        .chunks_exact(classes)
        .zip(dlogits.chunks_exact_mut(classes))
        .enumerate()
    {
        if !is_chosen(t) {
            continue;
        }
        let Frame { probabilities, entropy } = frame(row, temperature);
        let confidence = 1.0 / (1.0 + (-entropy).exp());
        let (value, slope) = match weighted {
            true => (entropy * confidence, confidence * (1.0 + entropy * (1.0 - confidence))),
            false => (entropy, 1.0),
        };
        mean += value / count as f64;
        let scale = weight * slope / (count as f64 * temperature);
        for (d, &p) in drow.iter_mut().zip(&probabilities) {
            if p > 0.0 {
                *d -= (scale * p * (p.ln() + entropy)) as f32;
            }
        }
    }
    mean
}

/// Row by row products `[rows, inner]` by `[cols, inner]` transposed: `[rows, cols]`.
fn products(a: &[f32], b: &[f32], inner: usize) -> Vec<f32> {
    let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f32>();
    a.chunks_exact(inner)
        .flat_map(|x| b.chunks_exact(inner).map(move |y| dot(x, y)))
        .collect()
}

/// `out [rows, inner] += weights [rows, cols] · b [cols, inner]`
fn combine(weights: &[f32], b: &[f32], inner: usize, out: &mut [f32]) {
    let cols = b.len() / inner;
    for (weights, out) in weights.chunks_exact(cols).zip(out.chunks_exact_mut(inner)) {
        for (weight, row) in weights.iter().zip(b.chunks_exact(inner)) {
            out.iter_mut().zip(row).for_each(|(out, x)| *out += weight * x);
        }
    }
}

fn transposed(matrix: &[f32], cols: usize) -> Vec<f32> {
    let rows = matrix.len() / cols;
    (0..cols)
        .flat_map(|c| (0..rows).map(move |r| matrix[r * cols + c]))
        .collect()
}

/// With `F` the features `[T, C]` and `A = softmax(F Fᵀ) F + F` (no scaling of the scores, as in the authors' code): the
/// mean over the frames t > 0 that are spoken of `‖A[t] - A[t-1]‖`, and its gradient times `weight`, `[T, C]`. 0 and zeros
/// where there is no such frame.
pub(super) fn temporal_coherence(features: &[f32], channels: usize, spoken: &[bool], weight: f64) -> (f64, Vec<f32>) {
    let frames = features.len() / channels;
    let mut dfeatures = vec![0.0f32; features.len()];
    let count = spoken.iter().skip(1).filter(|spoken| **spoken).count();
    if count == 0 {
        return (0.0, dfeatures);
    }
    let mut attention = products(features, features, channels);
    for row in attention.chunks_exact_mut(frames) {
        let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        row.iter_mut().for_each(|score| *score = (*score - highest).exp());
        let sum: f32 = row.iter().sum();
        row.iter_mut().for_each(|score| *score /= sum);
    }
    let mut attended = features.to_vec();
    combine(&attention, features, channels, &mut attended);
    let mut mean = 0.0;
    // The gradient of A, which passes on to F as it is, too.
    for t in (1..frames).filter(|&t| spoken[t]) {
        let (before, now) = (
            &attended[(t - 1) * channels..t * channels],
            &attended[t * channels..(t + 1) * channels],
        );
        let squares: f64 = now
            .iter()
            .zip(before)
            .map(|(now, before)| f64::from(now - before).powi(2))
            .sum();
        let distance = squares.sqrt();
        mean += distance / count as f64;
        if distance > 0.0 {
            let scale = (weight / (count as f64 * distance)) as f32;
            for c in 0..channels {
                let d = scale * (now[c] - before[c]);
                dfeatures[t * channels + c] += d;
                dfeatures[(t - 1) * channels + c] -= d;
            }
        }
    }
    let dattended = dfeatures.clone();
    combine(&transposed(&attention, frames), &dattended, channels, &mut dfeatures);
    let mut dscores = products(&dattended, features, channels);
    for (d, p) in dscores.chunks_exact_mut(frames).zip(attention.chunks_exact(frames)) {
        let mean: f32 = d.iter().zip(p).map(|(d, p)| d * p).sum();
        d.iter_mut().zip(p).for_each(|(d, p)| *d = p * (*d - mean));
    }
    let both: Vec<f32> = dscores
        .iter()
        .zip(transposed(&dscores, frames))
        .map(|(a, b)| a + b)
        .collect();
    combine(&both, features, channels, &mut dfeatures);
    (mean, dfeatures)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut draws = fastrand::Rng::with_seed(seed);
        (0..count).map(|_| 2.0 * draws.f32() - 1.0).collect()
    }

    /// Central differences against a gradient; `f` is of values in f32, so the bound is wide.
    fn check(values: &[f32], gradient: &[f32], f: impl Fn(&[f32]) -> f64) {
        for index in 0..values.len() {
            let at = |step: f32| {
                let mut moved = values.to_vec();
                moved[index] += step;
                f(&moved)
            };
            let expected = (at(1e-2) - at(-1e-2)) / 2e-2;
            let found = f64::from(gradient[index]);
            assert!(
                (found - expected).abs() < 2e-3 * (1.0 + expected.abs()),
                "{index}: {found} {expected}"
            );
        }
    }

    #[test]
    fn the_entropys_gradient_is_that_of_finite_differences() {
        let (classes, logits) = (5, noise(5 * 7, 1));
        let chosen = [true, false, true, true, false, true, true];
        for (chosen, weighted) in [(Some(&chosen[..]), true), (None, false)] {
            let value = |logits: &[f32]| {
                frame_entropy(
                    (logits, classes),
                    2.5,
                    chosen,
                    weighted,
                    0.0,
                    &mut vec![0.0; logits.len()],
                )
            };
            let mut gradient = vec![0.0; logits.len()];
            frame_entropy((&logits, classes), 2.5, chosen, weighted, 1.0, &mut gradient);
            check(&logits, &gradient, value);
            assert!(chosen.is_none() || gradient[classes..2 * classes].iter().all(|d| *d == 0.0));
        }
        let nothing = frame_entropy((&logits, classes), 2.5, Some(&[false; 7]), true, 1.0, &mut [0.0; 35]);
        assert_eq!(nothing, 0.0);
    }

    #[test]
    fn the_coherences_gradient_is_that_of_finite_differences() {
        let (channels, features) = (4, noise(4 * 6, 2));
        let spoken = [true, true, false, true, true, false];
        let (value, gradient) = temporal_coherence(&features, channels, &spoken, 1.0);
        assert!(value > 0.0);
        check(&features, &gradient, |features| {
            temporal_coherence(features, channels, &spoken, 0.0).0
        });
        // The first frame has none before it.
        let (value, gradient) =
            temporal_coherence(&features, channels, &[true, false, false, false, false, false], 1.0);
        assert_eq!((value, gradient), (0.0, vec![0.0; 24]));
        // Frames that are all the same are perfectly coherent, and have no direction.
        let (value, gradient) = temporal_coherence(&[0.5; 24], channels, &[true; 6], 1.0);
        assert!(value == 0.0 && gradient.iter().all(|d| *d == 0.0));
    }
}
