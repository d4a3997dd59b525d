//! GELU in its exact form, `x Φ(x)` (Hendrycks and Gimpel 2016), as wav2vec2 and Whisper use it.

use super::CpuBackend;
use super::math::normal_cdf;
use super::parallel::Shared;
use super::simd::{Lanes, vectorised};

#[inline(always)]
fn bias_gelu_body<L: Lanes>(pre: &mut [f32], bias: &[f32], y: &mut [f32]) {
    for ((pre, bias), y) in pre.iter_mut().zip(bias).zip(y) {
        let x = *pre + bias;
        *pre = x;
        *y = x * normal_cdf::<L>(x).0;
    }
}

vectorised! {
    /// One row of a layer's output: `pre += bias`, `y = gelu(pre)`.
    pub(super) fn bias_gelu(pre: &mut [f32], bias: &[f32], y: &mut [f32]) = bias_gelu_body
}

#[inline(always)]
fn forward_body<L: Lanes>(x: &mut [f32]) {
    for x in x {
        *x *= normal_cdf::<L>(*x).0;
    }
}

vectorised! {
    fn forward_part(x: &mut [f32]) = forward_body
}

/// See [`crate::engine::Backend::gelu`].
pub(super) fn forward(backend: &CpuBackend, x: &mut [f32]) {
    let len = x.len();
    let shared = Shared::new(x);
    backend.run_parts(len, 4096, |part| {
        // SAFETY: parts are disjoint.
        forward_part(unsafe { shared.stretch(part) });
    });
}

/// `d/dx x Φ(x) = Φ(x) + x φ(x)`
#[inline(always)]
pub(super) fn slope<L: Lanes>(x: f32) -> f32 {
    const INV_SQRT_TWO_PI: f32 = 0.398_942_3;
    let (cdf, gauss) = normal_cdf::<L>(x);
    L::mul_add(x * INV_SQRT_TWO_PI, gauss, cdf)
}

#[inline(always)]
fn backward_body<L: Lanes>(pre: &[f32], d: &mut [f32]) {
    for (d, &x) in d.iter_mut().zip(pre) {
        *d *= slope::<L>(x);
    }
}

vectorised! {
    fn backward_part(pre: &[f32], d: &mut [f32]) = backward_body
}

/// See [`crate::engine::Backend::gelu_backward`].
pub(super) fn backward(backend: &CpuBackend, pre: &[f32], d: &mut [f32]) {
    assert_eq!(pre.len(), d.len());
    let len = d.len();
    let shared = Shared::new(d);
    backend.run_parts(len, 4096, |part| {
        // SAFETY: parts are disjoint.
        backward_part(&pre[part.clone()], unsafe { shared.stretch(part) });
    });
}
