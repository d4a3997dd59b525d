//! The vector registers that the matrix kernel computes in, one type an instruction set.
//!
//! Everything here is inlined into functions compiled for that instruction set, which is what makes it fast, and sound:
//! who calls one of these must be such a function.

/// A register of f32.
pub(super) trait Vector: Copy {
    /// How many.
    const LANES: usize;

    /// All the same value.
    ///
    /// # Safety
    /// The processor must have the instruction set, here as in all that follows.
    unsafe fn splat(value: f32) -> Self;
    /// # Safety
    /// `from` must point to [`Vector::LANES`] values.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// `to` must point to [`Vector::LANES`] values.
    unsafe fn store(self, to: *mut f32);
    /// `self + a b`.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The sums of four registers' values.
    ///
    /// # Safety
    /// As for [`Vector::splat`].
    unsafe fn totals(four: [Self; 4]) -> [f32; 4];
}

/// Asks for a cache line that is written soon. A hint: any address will do.
#[inline(always)]
pub(super) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it changes no state that a program can see.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for a cache line that is read soon, but not yet, into the second-level cache. A hint, as [`prefetch`].
#[inline(always)]
pub(super) fn prefetch_near(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: as for `prefetch`.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::{
        __m256, __m512, _mm_add_ps, _mm_storeu_ps, _mm256_add_ps, _mm256_castps256_ps128, _mm256_extractf128_ps,
        _mm256_fmadd_ps, _mm256_hadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_storeu_ps, _mm512_castps512_ps256,
        _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_storeu_ps,
    };

    /// # Safety
    /// The processor must have AVX.
    #[inline(always)]
    unsafe fn totals_of_256([a, b, c, d]: [__m256; 4]) -> [f32; 4] {
        let mut totals = [0.0; 4];
        // SAFETY: the caller's promise; there is room for four values.
        unsafe {
            let halves = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            let (low, high) = (_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            _mm_storeu_ps(totals.as_mut_ptr(), _mm_add_ps(low, high));
        }
        totals
    }

    /// # Safety
    /// The processor must have AVX-512 DQ.
    #[inline(always)]
    unsafe fn totals_of_512(four: [__m512; 4]) -> [f32; 4] {
        // SAFETY: the caller's promise.
        unsafe { totals_of_256(four.map(|v| _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v)))) }
    }

    macro_rules! vector {
        ($register:ty, $lanes:literal, $splat:ident, $load:ident, $store:ident, $fused:ident, $totals:ident) => {
            impl Vector for $register {
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn splat(value: f32) -> Self {
                    // SAFETY: the caller's promise.
                    unsafe { $splat(value) }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: the caller's promise.
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: the caller's promise.
                    unsafe { $store(to, self) }
                }

                #[inline(always)]
                unsafe fn add_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: the caller's promise.
                    unsafe { $fused(a, b, self) }
                }

                #[inline(always)]
                unsafe fn totals(four: [Self; 4]) -> [f32; 4] {
                    // SAFETY: the caller's promise.
                    unsafe { $totals(four) }
                }
            }
        };
    }

    vector!(
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        totals_of_256
    );
    vector!(
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        totals_of_512
    );
}

#[cfg(target_arch = "aarch64")]
impl Vector for std::arch::aarch64::float32x4_t {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { std::arch::aarch64::vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { std::arch::aarch64::vld1q_f32(from) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { std::arch::aarch64::vst1q_f32(to, self) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        // SAFETY: the caller's promise.
        unsafe { std::arch::aarch64::vfmaq_f32(self, a, b) }
    }

    #[inline(always)]
    unsafe fn totals([a, b, c, d]: [Self; 4]) -> [f32; 4] {
        use std::arch::aarch64::{vpaddq_f32, vst1q_f32};
        let mut totals = [0.0; 4];
        // SAFETY: the caller's promise; there is room for four values.
        unsafe { vst1q_f32(totals.as_mut_ptr(), vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))) };
        totals
    }
}

/// The scalar twin, for machines with none of these and for tests; the compiler makes of it what the target has.
#[cfg(not(target_arch = "aarch64"))]
#[derive(Clone, Copy)]
pub(super) struct Plain([f32; 4]);

#[cfg(not(target_arch = "aarch64"))]
impl Vector for Plain {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise; an array of f32 has their alignment.
        Self(unsafe { from.cast::<[f32; 4]>().read() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise; an array of f32 has their alignment.
        unsafe { to.cast::<[f32; 4]>().write(self.0) }
    }

    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|lane| self.0[lane] + a.0[lane] * b.0[lane]))
    }

    #[inline(always)]
    unsafe fn totals(four: [Self; 4]) -> [f32; 4] {
        four.map(|values| values.0.iter().sum())
    }
}
