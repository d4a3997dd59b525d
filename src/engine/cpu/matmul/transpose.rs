//! What packing with AVX-512 shares: squares of 16 by 16 values turned over in registers, and masks.

use std::arch::x86_64::{
    __m512, __mmask16, _mm512_castpd_ps, _mm512_castps_pd, _mm512_shuffle_f32x4, _mm512_unpackhi_pd,
    _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

/// Rows and columns of a square.
pub(super) const SIDE: usize = 16;

/// A square of values turned over.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
pub(super) fn square(rows: &mut [__m512; SIDE]) {
    // Pairs of rows, then fours.
    for four in rows.chunks_exact_mut(4) {
        let (a, b, c, d) = (four[0], four[1], four[2], four[3]);
        let low = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
        let low_next = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
        let high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
        let high_next = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
        four[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low_next));
        four[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low_next));
        four[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high_next));
        four[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high_next));
    }
    // Register 4 f + p has, in quarter q, place 4 q + p of rows 4 f to 4 f + 3.
    let fours = *rows;
    for place in 0..4 {
        let (a, b, c, d) = (fours[place], fours[4 + place], fours[8 + place], fours[12 + place]);
        let (even, even_next) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d));
        let (odd, odd_next) = (_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d));
        rows[place] = _mm512_shuffle_f32x4::<0x88>(even, even_next);
        rows[8 + place] = _mm512_shuffle_f32x4::<0xdd>(even, even_next);
        rows[4 + place] = _mm512_shuffle_f32x4::<0x88>(odd, odd_next);
        rows[12 + place] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_next);
    }
}

/// The mask of the first values of a register.
pub(super) fn first(count: usize) -> __mmask16 {
    if count >= SIDE { !0 } else { (1 << count) - 1 }
}
