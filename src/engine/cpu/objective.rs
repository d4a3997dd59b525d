//! SUTA's objective in closed form, with its gradient: no class-confusion matrix is ever built.

use crate::engine::{ObjectiveTerms, ObjectiveValue, Rows};

/// See [`crate::engine::Backend::entropy_mcc`].
///
/// With u = z/T, p = softmax(u), H its entropy, N the frames whose best symbol is not blank:
/// - entropy `E = (1/N) Σ_{non-blank} H_t`, `∂E/∂z = -p (log p + H) / (N T)` on those frames;
/// - frame weights `w_t ∝ 1 + exp(-H_t)` with mean 1, held constant;
///   `C = 1 - (1/V) Σ_j a_j / s_j`, `a_j = Σ_t w_t p_tj²`, `s_j = Σ_t w_t p_tj`, which equals the row-normalised
///   class-correlation matrix's off-diagonal sum over V because that matrix is symmetric before normalising.
///
/// In f64: it is a few thousand exponentials, and sums over frames must not lose what tells the classes apart.
pub(super) fn entropy_mcc(terms: &ObjectiveTerms, shape: Rows, logits: &[f32], dlogits: &mut [f32]) -> ObjectiveValue {
    let (frames, classes) = (shape.rows, shape.cols);
    assert_eq!((logits.len(), dlogits.len()), (frames * classes, frames * classes));
    let mut p = vec![0.0f64; frames * classes];
    let mut entropies = vec![0.0f64; frames];
    let mut non_blank = vec![false; frames];
    for t in 0..frames {
        let z = &logits[t * classes..(t + 1) * classes];
        let p = &mut p[t * classes..(t + 1) * classes];
        non_blank[t] = argmax(z) != terms.blank;
        let highest = z.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
        let mut sum = 0.0;
        for (p, &z) in p.iter_mut().zip(z) {
            *p = ((z as f64 - highest) / terms.temperature).exp();
            sum += *p;
        }
        let log_sum = sum.ln();
        let mut entropy = 0.0;
        for (p, &z) in p.iter_mut().zip(z) {
            *p /= sum;
            entropy -= *p * ((z as f64 - highest) / terms.temperature - log_sum);
        }
        entropies[t] = entropy;
    }
    let non_blank_frames = non_blank.iter().filter(|&&is| is).count();
    let entropy = if non_blank_frames == 0 {
        0.0
    } else {
        entropies
            .iter()
            .zip(&non_blank)
            .filter(|(_, is)| **is)
            .map(|(h, _)| h)
            .sum::<f64>()
            / non_blank_frames as f64
    };

    let raw: Vec<f64> = entropies.iter().map(|h| 1.0 + (-h).exp()).collect();
    let scale = frames as f64 / raw.iter().sum::<f64>();
    let (mut a, mut s) = (vec![0.0f64; classes], vec![0.0f64; classes]);
    for (t, raw) in raw.iter().enumerate() {
        for (j, &p) in p[t * classes..(t + 1) * classes].iter().enumerate() {
            a[j] += raw * scale * p * p;
            s[j] += raw * scale * p;
        }
    }
    // A class no frame gives any probability confuses nothing; its quotient's limit is 0.
    let quotient: Vec<f64> = a
        .iter()
        .zip(&s)
        .map(|(a, s)| if *s > 0.0 { a / s } else { 0.0 })
        .collect();
    let class_confusion = 1.0 - quotient.iter().sum::<f64>() / classes as f64;

    let confusion_weight = 1.0 - terms.entropy_weight;
    let mut g = vec![0.0f64; classes];
    for t in 0..frames {
        let p = &p[t * classes..(t + 1) * classes];
        let mut mean = 0.0;
        for j in 0..classes {
            g[j] = if s[j] > 0.0 {
                -raw[t] * scale * (2.0 * p[j] - quotient[j]) / (s[j] * classes as f64)
            } else {
                0.0
            };
            mean += p[j] * g[j];
        }
        for j in 0..classes {
            let mut d = confusion_weight * p[j] * (g[j] - mean) / terms.temperature;
            if non_blank[t] && p[j] > 0.0 {
                let share = terms.entropy_weight / (non_blank_frames as f64 * terms.temperature);
                d -= share * p[j] * (p[j].ln() + entropies[t]);
            }
            dlogits[t * classes + j] = d as f32;
        }
    }
    let loss = terms.entropy_weight * entropy + confusion_weight * class_confusion;
    ObjectiveValue {
        loss,
        entropy,
        class_confusion,
        non_blank_frames,
    }
}

/// The first highest value's index, as PyTorch's argmax on the CPU.
fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}
