//! AdamW over a stretch of the flat parameter store.

use super::CpuBackend;
use super::parallel::Shared;
use super::simd::{Lanes, vectorised};
use crate::engine::AdamW;

/// The update's constants, computed once in f64.
struct Factors {
    beta1: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    decay: f32,
    step_size: f32,
    root_correction: f32,
    epsilon: f32,
}

#[inline(always)]
fn update_body<L: Lanes>(factors: &Factors, values: &mut [f32], gradients: &[f32], m: &mut [f32], v: &mut [f32]) {
    for (((value, &gradient), m), v) in values.iter_mut().zip(gradients).zip(m).zip(v) {
        *m = L::mul_add(*m, factors.beta1, factors.one_minus_beta1 * gradient);
        *v = L::mul_add(*v, factors.beta2, factors.one_minus_beta2 * gradient * gradient);
        let denominator = v.sqrt() / factors.root_correction + factors.epsilon;
        *value = *value * factors.decay - factors.step_size * (*m / denominator);
    }
}

vectorised! {
    fn update_all(factors: &Factors, values: &mut [f32], gradients: &[f32], m: &mut [f32], v: &mut [f32]) = update_body
}

/// See [`crate::engine::Backend::adamw`].
pub(super) fn update(
    backend: &CpuBackend,
    settings: &AdamW,
    step: u32,
    values: &mut [f32],
    gradients: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    assert!(gradients.len() == values.len() && m.len() == values.len() && v.len() == values.len());
    assert!(step > 0, "steps are counted from 1");
    let factors = Factors {
        beta1: settings.beta1 as f32,
        one_minus_beta1: (1.0 - settings.beta1) as f32,
        beta2: settings.beta2 as f32,
        one_minus_beta2: (1.0 - settings.beta2) as f32,
        decay: (1.0 - settings.learning_rate * settings.weight_decay) as f32,
        step_size: (settings.learning_rate / (1.0 - settings.beta1.powi(step as i32))) as f32,
        root_correction: (1.0 - settings.beta2.powi(step as i32)).sqrt() as f32,
        epsilon: settings.epsilon as f32,
    };
    let (values, m, v) = (Shared::new(values), Shared::new(m), Shared::new(v));
    backend.run_values(gradients.len(), |part| {
        // SAFETY: parts are disjoint.
        let (values, m, v) = unsafe {
            (
                values.stretch(part.clone()),
                m.stretch(part.clone()),
                v.stretch(part.clone()),
            )
        };
        update_all(&factors, values, &gradients[part], m, v);
    });
}
