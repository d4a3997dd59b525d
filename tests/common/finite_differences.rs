//! Central differences in f64 and what goes with them: the arithmetic here shares nothing with the engine's.

use aurist::engine::cpu::CpuBackend;
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// Values with few enough digits that f32 holds them exactly.
pub fn random(len: usize, seed: u64) -> Vec<f64> {
    let mut generator = StdRng::seed_from_u64(seed);
    (0..len).map(|_| generator.random_range(-1.0f32..1.0) as f64).collect()
}

pub fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Central differences of `Σ cotangent · f(x)`.
pub fn differences(x: &[f64], cotangent: &[f64], f: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let h = 1e-5;
    let mut x = x.to_vec();
    (0..x.len())
        .map(|index| {
            let keep = x[index];
            x[index] = keep + h;
            let above = dot(&f(&x), cotangent);
            x[index] = keep - h;
            let below = dot(&f(&x), cotangent);
            x[index] = keep;
            (above - below) / (2.0 * h)
        })
        .collect()
}

#[track_caller]
pub fn assert_close(what: &str, engine: &[f32], exact: &[f64], tolerance: f64) {
    assert_eq!(engine.len(), exact.len(), "{what}");
    let scale = exact.iter().fold(1e-12f64, |most, value| most.max(value.abs()));
    for (index, (engine, exact)) in engine.iter().zip(exact).enumerate() {
        let error = (*engine as f64 - exact).abs() / scale;
        assert!(
            error < tolerance,
            "{what}[{index}]: {engine} against {exact}, {error:e} of the largest"
        );
    }
}

/// On one thread, on two, and on more threads than there is work.
pub fn backends() -> Vec<CpuBackend> {
    [1, 2, 5].map(|threads| CpuBackend::new(threads).unwrap()).into()
}

/// Φ by its Taylor series: another way than the engine's, good to 12 digits for |x| up to 4.
pub fn gelu(x: f64) -> f64 {
    let z = x / std::f64::consts::SQRT_2;
    let (mut term, mut sum, mut n) = (z, z, 0.0);
    while term.abs() > 1e-17 {
        n += 1.0;
        term *= -z * z / n;
        sum += term / (2.0 * n + 1.0);
    }
    0.5 * x * (1.0 + 2.0 / std::f64::consts::PI.sqrt() * sum)
}
