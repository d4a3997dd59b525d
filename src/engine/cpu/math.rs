//! Elementary functions written so that loops over them vectorise.

use super::simd::Lanes;

/// `e^x`, at most 2 units in the last place off for x in [-50, 88]; 0 below, clamped above.
///
/// Nothing here can tell e^-50 (2e-22) from 0: it is always beside a term near 1. But its products would be denormal
/// numbers, on which a matrix product runs twenty times slower (measured on Whisper's peaked attention).
///
/// Cody–Waite reduction to |r| <= ln 2 / 2 and a degree-7 polynomial; 2^n is added to the exponent bits. The
/// "magic number" 1.5 · 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
#[inline(always)]
pub(super) fn exp<L: Lanes>(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    // ln 2 in two parts, the first exact in few bits so that n · LN2_HIGH is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let flushed = x < -50.0;
    let x = x.clamp(-50.0, 88.0);
    let shifted = L::mul_add(x, std::f32::consts::LOG2_E, MAGIC);
    let n = shifted - MAGIC;
    let r = L::mul_add(n, -LN2_HIGH, x);
    let r = L::mul_add(n, -LN2_LOW, r);
    // Taylor series; its remainder r^8/40320 is below 2^-27 on the reduced range.
    let mut p = 1.0 / 5040.0;
    p = L::mul_add(p, r, 1.0 / 720.0);
    p = L::mul_add(p, r, 1.0 / 120.0);
    p = L::mul_add(p, r, 1.0 / 24.0);
    p = L::mul_add(p, r, 1.0 / 6.0);
    p = L::mul_add(p, r, 0.5);
    p = L::mul_add(p, r, 1.0);
    p = L::mul_add(p, r, 1.0);
    let value = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if flushed { 0.0 } else { value }
}

/// Φ(x), the normal distribution function, and `e^{-x²/2}`, which its derivative needs.
///
/// With z = |x|/√2, `erfc(z) = e^{-z²} t P(t)`, t = 1/(1 + 0.4 z): P was fitted for this file (degree 8, Lawson's
/// minimax iteration on the scaled complementary error function over z in [0, 9.5]); the relative error of the tail
/// is below 5e-7 in f32.
#[inline(always)]
pub(super) fn normal_cdf<L: Lanes>(x: f32) -> (f32, f32) {
    const P: [f32; 9] = [
        0.225_626_3,
        0.226_575_68,
        0.200_958_8,
        0.196_962_17,
        0.071_510_345,
        0.099_726_59,
        0.073_844_79,
        -0.135_472_39,
        0.040_267_766,
    ];
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / L::mul_add(z, 0.4, 1.0);
    let mut tail = P[8];
    let mut degree = 8;
    while degree > 0 {
        degree -= 1;
        tail = L::mul_add(tail, t, P[degree]);
    }
    let gauss = exp::<L>(-0.5 * x * x);
    let half_erfc = 0.5 * tail * t * gauss;
    (if x >= 0.0 { 1.0 - half_erfc } else { half_erfc }, gauss)
}

#[cfg(test)]
mod tests {
    use super::super::simd::{Fused, Separate};
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0.0f64;
        for i in 0..=2_000_000 {
            let x = -50.0 + 138.0 * (i as f32 / 2_000_000.0);
            let exact = (x as f64).exp();
            for value in [exp::<Fused>(x), exp::<Separate>(x)] {
                worst = worst.max((value as f64 - exact).abs() / exact);
            }
        }
        assert!(worst < 2.0 * f32::EPSILON as f64, "{worst:e}");
        assert!(exp::<Fused>(-1000.0) == 0.0 && exp::<Fused>(-50.1) == 0.0 && exp::<Fused>(1000.0).is_finite());
    }

    /// Φ by the trapezoidal rule in f64: independent of the fit.
    fn exact_cdf(x: f64) -> f64 {
        let density = |u: f64| (-0.5 * u * u).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let steps = 40_000;
        let (from, to) = (-12.0f64.max(x.abs() + 4.0), x);
        let h = (to - from) / steps as f64;
        let inner: f64 = (1..steps).map(|i| density(from + h * i as f64)).sum();
        h * (inner + 0.5 * (density(from) + density(to)))
    }

    #[test]
    fn normal_cdf_matches_numerical_integration() {
        for i in 0..400 {
            let x = -6.0 + 0.03 * i as f32;
            let exact = exact_cdf(x as f64);
            let (value, gauss) = normal_cdf::<Fused>(x);
            assert!((value as f64 - exact).abs() <= 2e-6 * exact, "{x}: {value} {exact}");
            assert!((gauss as f64 - (-0.5 * (x as f64).powi(2)).exp()).abs() < 1e-6);
        }
    }
}
