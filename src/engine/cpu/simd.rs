//! Run-time choice of vector instructions for plain loops.
//!
//! A loop is written once, generic over [`Lanes`], and compiled for each instruction set by the [`vectorised`] macro;
//! LLVM vectorises it for that set. `Lanes` exists because a fused multiply-add is one instruction where the hardware
//! has it and a slow library call where it has not.

/// How `a * b + c` is computed.
pub(super) trait Lanes {
    /// `a * b + c`.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

/// One rounding, in hardware.
pub(super) struct Fused;

impl Lanes for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

/// Two roundings: the scalar twin, for machines without a fused instruction and for tests.
pub(super) struct Separate;

impl Lanes for Separate {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// Defines `fn name(args) -> ret`, which calls the generic `body::<L>` compiled for the best instruction set here.
macro_rules! vectorised {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident) => {
        $(#[$doc])*
        $vis fn $name($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn avx512($($arg: $ty),*) $(-> $ret)? { $body::<$crate::engine::cpu::simd::Fused>($($arg),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($arg: $ty),*) $(-> $ret)? { $body::<$crate::engine::cpu::simd::Fused>($($arg),*) }
                match $crate::engine::cpu::simd::level() {
                    // SAFETY: the level says that these instructions were detected.
                    $crate::engine::cpu::simd::Level::Avx512 => return unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    $crate::engine::cpu::simd::Level::Avx2 => return unsafe { avx2($($arg),*) },
                    $crate::engine::cpu::simd::Level::Plain => {}
                }
            }
            #[cfg(target_arch = "aarch64")]
            { return $body::<$crate::engine::cpu::simd::Fused>($($arg),*); }
            #[cfg(not(target_arch = "aarch64"))]
            $body::<$crate::engine::cpu::simd::Separate>($($arg),*)
        }
    };
}
pub(super) use vectorised;

/// What was detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
pub(super) enum Level {
    /// AVX-512 F, VL, BW and DQ.
    Avx512,
    /// AVX2 and FMA.
    Avx2,
    /// What the target guarantees.
    Plain,
}

/// The best level of this machine; the standard library caches the detection.
#[inline]
pub(super) fn level() -> Level {
    #[cfg(target_arch = "x86_64")]
    {
        let fma = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        if fma
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
        {
            return Level::Avx512;
        }
        if fma {
            return Level::Avx2;
        }
    }
    Level::Plain
}

/// The level in words.
pub(super) fn detected() -> &'static str {
    match level() {
        Level::Avx512 => "AVX-512",
        Level::Avx2 => "AVX2 and FMA",
        Level::Plain if cfg!(target_arch = "aarch64") => "NEON",
        Level::Plain => "no vector extensions beyond the baseline",
    }
}

/// Independent accumulators of a reduction: enough to fill a vector register and hide an addition's latency.
pub(super) const WIDTH: usize = 32;

/// Sum with [`WIDTH`] accumulators.
#[inline(always)]
pub(super) fn sum_body(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; WIDTH];
    let chunks = x.chunks_exact(WIDTH);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..WIDTH {
            lanes[lane] += chunk[lane];
        }
    }
    lanes.iter().sum::<f32>() + rest.iter().sum::<f32>()
}

/// Inner product with [`WIDTH`] accumulators.
#[inline(always)]
pub(super) fn dot_body<L: Lanes>(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0f32; WIDTH];
    let (xs, ys) = (x.chunks_exact(WIDTH), y.chunks_exact(WIDTH));
    let (x_rest, y_rest) = (xs.remainder(), ys.remainder());
    for (a, b) in xs.zip(ys) {
        for lane in 0..WIDTH {
            lanes[lane] = L::mul_add(a[lane], b[lane], lanes[lane]);
        }
    }
    lanes.iter().sum::<f32>() + x_rest.iter().zip(y_rest).map(|(a, b)| a * b).sum::<f32>()
}

#[inline(always)]
fn add_body<L: Lanes>(x: &[f32], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

vectorised! {
    /// `y += x`.
    pub(super) fn add(x: &[f32], y: &mut [f32]) = add_body
}

#[inline(always)]
fn all_finite_body<L: Lanes>(values: &[f32]) -> bool {
    // 0 · x is 0 for finite x and NaN otherwise, so one sum answers without a branch in the loop.
    let mut lanes = [0.0f32; WIDTH];
    let chunks = values.chunks_exact(WIDTH);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..WIDTH {
            lanes[lane] += chunk[lane] * 0.0;
        }
    }
    lanes.iter().sum::<f32>() == 0.0 && rest.iter().all(|value| value.is_finite())
}

vectorised! {
    /// Whether no value is infinite or NaN.
    pub(super) fn all_finite(values: &[f32]) -> bool = all_finite_body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reductions_agree_with_plain_loops_at_every_length() {
        for len in [0, 1, 31, 32, 33, 64, 100, 1536] {
            let x: Vec<f32> = (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.01).collect();
            let expected: f64 = x.iter().map(|&v| v as f64).sum();
            assert!((sum_body(&x) as f64 - expected).abs() < 1e-4, "{len}");
            let expected: f64 = x.iter().map(|&v| (v as f64).powi(2)).sum();
            assert!((dot_body::<Fused>(&x, &x) as f64 - expected).abs() < 1e-4, "{len}");
            assert!((dot_body::<Separate>(&x, &x) as f64 - expected).abs() < 1e-4, "{len}");
        }
    }

    #[test]
    fn all_finite_sees_one_bad_value_anywhere() {
        for len in [1, 32, 33, 100] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for position in 0..len {
                    let mut values = vec![1.0; len];
                    assert!(all_finite(&values));
                    values[position] = bad;
                    assert!(!all_finite(&values), "{bad} at {position} of {len}");
                }
            }
        }
    }
}
