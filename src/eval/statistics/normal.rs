//! The standard normal distribution's tails.

/// Two-sided p of a standard normal `z`: the chance of a value at least as far from zero.
pub(super) fn two_sided(z: f64) -> f64 {
    libm::erfc(z.abs() / std::f64::consts::SQRT_2)
}
