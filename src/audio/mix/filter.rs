//! Linear filters: convolution by Fourier transform, and the telephone's band.

use realfft::RealFftPlanner;
use std::f64::consts::PI;

/// The convolution of two signals, `a.len() + b.len() - 1` long; empty where either is.
pub(super) fn convolve(a: &[f32], b: &[f64]) -> Vec<f64> {
    if a.is_empty() || b.is_empty() {
        return Vec::new();
    }
    let length = a.len() + b.len() - 1;
    let size = length.next_power_of_two();
    let mut planner = RealFftPlanner::<f64>::new();
    let (forward, inverse) = (planner.plan_fft_forward(size), planner.plan_fft_inverse(size));
    let transform = |values: &mut dyn Iterator<Item = f64>| {
        let mut time = forward.make_input_vec();
        time.iter_mut().zip(values).for_each(|(slot, value)| *slot = value);
        let mut spectrum = forward.make_output_vec();
        // The lengths are the plan's own.
        let _ = forward.process(&mut time, &mut spectrum);
        spectrum
    };
    let mut product = transform(&mut a.iter().map(|&value| f64::from(value)));
    let other = transform(&mut b.iter().copied());
    product.iter_mut().zip(other).for_each(|(x, y)| *x *= y);
    let mut time = inverse.make_output_vec();
    let _ = inverse.process(&mut product, &mut time);
    time.truncate(length);
    time.iter_mut().for_each(|value| *value /= size as f64);
    time
}

/// A linear-phase band-pass filter: `2 * half + 1` taps of a windowed sinc (Blackman); edges in cycles a sample.
pub(super) fn band_pass(low: f64, high: f64, half: usize) -> Vec<f64> {
    let length = 2 * half + 1;
    let sinc = |edge: f64, x: f64| {
        if x == 0.0 {
            2.0 * edge
        } else {
            (2.0 * PI * edge * x).sin() / (PI * x)
        }
    };
    (0..length)
        .map(|i| {
            let x = i as f64 - half as f64;
            let phase = 2.0 * PI * i as f64 / (length - 1) as f64;
            let window = 0.42 - 0.5 * phase.cos() + 0.08 * (2.0 * phase).cos();
            window * (sinc(high, x) - sinc(low, x))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn convolution_by_its_definition() {
        let (a, b) = ([1.0, 2.0, -3.0], [0.5, 0.0, 0.25, 1.0]);
        let mut expected = vec![0.0; 6];
        for (i, x) in a.iter().enumerate() {
            for (j, y) in b.iter().enumerate() {
                expected[i + j] += f64::from(*x) * y;
            }
        }
        let found = convolve(&a, &b);
        assert!(
            found.iter().zip(&expected).all(|(x, y)| (x - y).abs() < 1e-12),
            "{found:?}"
        );
        assert!(convolve(&[], &b).is_empty());
    }

    #[test]
    fn the_band_passes_and_the_rest_does_not() {
        let filter = band_pass(300.0 / 16_000.0, 3_400.0 / 16_000.0, 400);
        let gain = |hertz: f64| {
            let phase = |i: usize| 2.0 * PI * hertz / 16_000.0 * i as f64;
            let real: f64 = filter.iter().enumerate().map(|(i, tap)| tap * phase(i).cos()).sum();
            let imaginary: f64 = filter.iter().enumerate().map(|(i, tap)| tap * phase(i).sin()).sum();
            20.0 * real.hypot(imaginary).log10()
        };
        assert!([400.0, 1_000.0, 3_200.0].iter().all(|&hertz| gain(hertz).abs() < 0.1));
        assert!([0.0, 150.0, 3_700.0, 6_000.0].iter().all(|&hertz| gain(hertz) < -40.0));
    }
}
