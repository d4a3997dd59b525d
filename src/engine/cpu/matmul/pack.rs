//! Laying a matrix out in the order in which the kernel reads it.

use super::Matrix;
#[cfg(target_arch = "x86_64")]
use crate::engine::cpu::simd::{Level, level};
use std::ops::Range;

/// Columns `cols` of rows `depth` of `b`, as panels of `width` columns: `[panel, depth, width]`, zeros beyond the last
/// column.
pub(super) fn columns(b: Matrix<'_>, depth: Range<usize>, cols: Range<usize>, width: usize, to: &mut [f32]) {
    lines(b.turned(), cols, depth, width, to);
}

/// Rows `rows` of columns `depth` of `a`, as panels of `height` rows: `[panel, depth, height]`, zeros beyond the last row.
pub(super) fn rows(a: Matrix<'_>, rows: Range<usize>, depth: Range<usize>, height: usize, to: &mut [f32]) {
    lines(a, rows, depth, height, to);
}

/// Panels of `count` rows side by side: what rows are to the left operand, columns are to the right one.
fn lines(a: Matrix<'_>, rows: Range<usize>, depth: Range<usize>, count: usize, to: &mut [f32]) {
    if depth.is_empty() {
        return;
    }
    let size = count * depth.len();
    if a.row_stride == 1 {
        let copy = match count {
            4 => copy::<4>,
            6 => copy::<6>,
            8 => copy::<8>,
            12 => copy::<12>,
            16 => copy::<16>,
            _ => copy::<32>,
        };
        return copy(a, rows, depth, to);
    }
    for (first, panel) in rows.clone().step_by(count).zip(to.chunks_exact_mut(size)) {
        let here = count.min(rows.end - first);
        if here < count {
            panel.fill(0.0);
        }
        if a.col_stride == 1 {
            let start = first * a.row_stride + depth.start;
            transpose(a.from(start), a.row_stride, here, depth.len(), count, panel);
        } else {
            for row in 0..here {
                for (at, to) in depth.clone().zip(panel.chunks_exact_mut(count)) {
                    to[row] = a.value((first + row) * a.row_stride + at * a.col_stride);
                }
            }
        }
    }
}

/// [`lines`] where rows lie side by side, for panels of `COUNT` rows.
fn copy<const COUNT: usize>(a: Matrix<'_>, rows: Range<usize>, depth: Range<usize>, to: &mut [f32]) {
    const PANELS: usize = 16;
    let size = COUNT * depth.len();
    // A few panels at a time: what a line of memory holds is read at once, and few lines are written to in turns.
    for (first, group) in rows.clone().step_by(PANELS * COUNT).zip(to.chunks_mut(PANELS * size)) {
        let last = rows.end.min(first + PANELS * COUNT);
        for (place, at) in depth.clone().enumerate() {
            let start = at * a.col_stride;
            let line = &a.values[start + first..start + last];
            let panels = group
                .chunks_exact_mut(size)
                .map(|panel| &mut panel[place * COUNT..][..COUNT]);
            let Some(addend) = a.addend else {
                for (from, to) in line.chunks(COUNT).zip(panels) {
                    match <&[f32; COUNT]>::try_from(from) {
                        Ok(from) => to.copy_from_slice(from),
                        Err(_) => {
                            to[..from.len()].copy_from_slice(from);
                            to[from.len()..].fill(0.0);
                        }
                    }
                }
                continue;
            };
            let other = &addend.values[start + first..start + last];
            for ((from, other), to) in line.chunks(COUNT).zip(other.chunks(COUNT)).zip(panels) {
                for ((to, from), other) in to.iter_mut().zip(from).zip(other) {
                    *to = from + addend.factor * other;
                }
                to[from.len()..].fill(0.0);
            }
        }
    }
}

/// `to[at, row] = from[row, at]` for `rows` rows of `len` values; `to` has `count` values from place to place.
fn transpose(from: Matrix<'_>, stride: usize, rows: usize, len: usize, count: usize, to: &mut [f32]) {
    from.check(rows, len);
    assert!(rows > 0 && rows <= count && len * count <= to.len());
    let mut done = 0;
    #[cfg(target_arch = "x86_64")]
    if level() == Level::Avx512 {
        // SAFETY: AVX-512 was detected; both matrices were checked to lie inside their slices.
        return unsafe { avx512::transpose(from, stride, rows, len, count, to) };
    }
    #[cfg(target_arch = "x86_64")]
    if level() != Level::Plain {
        done = len / x86::SIDE * x86::SIDE;
        // SAFETY: AVX2 was detected; both matrices were checked to lie inside their slices.
        unsafe {
            let start = from.values.as_ptr();
            let addend = from.addend.map(|addend| (addend.values.as_ptr(), addend.factor));
            match addend {
                None => x86::transpose(
                    |at| x86::load(start.add(at)),
                    stride,
                    rows,
                    done,
                    count,
                    to.as_mut_ptr(),
                ),
                Some((other, factor)) => {
                    let sum = |at| x86::load_sum(start.add(at), other.add(at), factor);
                    x86::transpose(sum, stride, rows, done, count, to.as_mut_ptr());
                }
            }
        }
    }
    // Short strips of many rows stay in the first-level cache.
    const STRIP: usize = 8;
    for start in (done..len).step_by(STRIP) {
        let strip = start..len.min(start + STRIP);
        for row in 0..rows {
            for (at, to) in strip.clone().zip(to[strip.start * count..].chunks_exact_mut(count)) {
                to[row] = from.value(row * stride + at);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, _mm_castps_si128, _mm_storel_epi64, _mm_storeu_ps, _mm256_add_ps, _mm256_castps256_ps128,
        _mm256_extractf128_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_permute2f128_ps, _mm256_set1_ps,
        _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps,
    };

    /// A square of so many rows and places is turned over in registers.
    pub(super) const SIDE: usize = 8;

    /// [`SIDE`] values.
    ///
    /// # Safety
    /// They must be there, and AVX2, here as in all that follows.
    #[inline(always)]
    pub(super) unsafe fn load(from: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }

    /// `from + factor other`.
    ///
    /// # Safety
    /// As for [`load`].
    #[inline(always)]
    pub(super) unsafe fn load_sum(from: *const f32, other: *const f32, factor: f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe {
            let other = _mm256_mul_ps(_mm256_set1_ps(factor), _mm256_loadu_ps(other));
            _mm256_add_ps(_mm256_loadu_ps(from), other)
        }
    }

    /// `to[at, row] = from(row stride + at ..)`, `len` a multiple of [`SIDE`].
    ///
    /// # Safety
    /// Both matrices must be there, and AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn transpose(
        from: impl Fn(usize) -> __m256,
        stride: usize,
        rows: usize,
        len: usize,
        count: usize,
        to: *mut f32,
    ) {
        for at in (0..len).step_by(SIDE) {
            for first in (0..rows).step_by(SIDE) {
                let here = SIDE.min(rows - first);
                // SAFETY: the caller's promise: these rows and places are there.
                unsafe {
                    let mut lines = [_mm256_setzero_ps(); SIDE];
                    for (row, line) in lines.iter_mut().enumerate().take(here) {
                        *line = from((first + row) * stride + at);
                    }
                    for (place, line) in turned(lines).into_iter().enumerate() {
                        store(line, here, to.add((at + place) * count + first));
                    }
                }
            }
        }
    }

    /// The first `len` values of a register.
    #[target_feature(enable = "avx2")]
    unsafe fn store(line: __m256, len: usize, to: *mut f32) {
        let (low, high) = (_mm256_castps256_ps128(line), _mm256_extractf128_ps::<1>(line));
        // SAFETY: the caller's promise.
        unsafe {
            match len {
                8 => return _mm256_storeu_ps(to, line),
                4.. => _mm_storeu_ps(to, low),
                _ => {}
            }
            match len {
                6 => _mm_storel_epi64(to.add(4).cast(), _mm_castps_si128(high)),
                4 => {}
                _ => {
                    let mut values = [0.0f32; SIDE];
                    _mm256_storeu_ps(values.as_mut_ptr(), line);
                    std::ptr::copy_nonoverlapping(values.as_ptr(), to, len);
                }
            }
        }
    }

    #[target_feature(enable = "avx2")]
    fn turned(rows: [__m256; SIDE]) -> [__m256; SIDE] {
        // Pairs of rows, then fours, then the two halves.
        let pair = |i: usize| {
            (
                _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]),
                _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]),
            )
        };
        let four = |(low, high): (__m256, __m256), (low_next, high_next): (__m256, __m256)| {
            [
                _mm256_shuffle_ps::<0x44>(low, low_next),
                _mm256_shuffle_ps::<0xee>(low, low_next),
                _mm256_shuffle_ps::<0x44>(high, high_next),
                _mm256_shuffle_ps::<0xee>(high, high_next),
            ]
        };
        let (above, below) = (four(pair(0), pair(1)), four(pair(2), pair(3)));
        std::array::from_fn(|place| {
            let (a, b) = (above[place % 4], below[place % 4]);
            if place < 4 {
                _mm256_permute2f128_ps::<0x20>(a, b)
            } else {
                _mm256_permute2f128_ps::<0x31>(a, b)
            }
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::Matrix;
    use crate::engine::cpu::matmul::transpose::{SIDE, first, square};
    use std::arch::x86_64::{
        __m512, _mm512_fmadd_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };

    /// `to[at, row] = from[row, at]`, square by square; `to` has `count` values from place to place.
    ///
    /// # Safety
    /// Both matrices must be there, and AVX-512.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    pub(super) unsafe fn transpose(
        from: Matrix<'_>,
        stride: usize,
        rows: usize,
        len: usize,
        count: usize,
        to: &mut [f32],
    ) {
        let (values, to) = (from.values.as_ptr(), to.as_mut_ptr());
        let addend = from
            .addend
            .map(|addend| (addend.values.as_ptr(), _mm512_set1_ps(addend.factor)));
        for at in (0..len).step_by(SIDE) {
            let places = SIDE.min(len - at);
            for row in (0..rows).step_by(SIDE) {
                let here = SIDE.min(rows - row);
                let mut lines: [__m512; SIDE] = [_mm512_setzero_ps(); SIDE];
                for (index, line) in lines.iter_mut().enumerate().take(here) {
                    let start = (row + index) * stride + at;
                    // SAFETY: the caller's promise, and the mask.
                    *line = unsafe { _mm512_maskz_loadu_ps(first(places), values.add(start)) };
                    if let Some((other, factor)) = addend {
                        // SAFETY: as above.
                        let other = unsafe { _mm512_maskz_loadu_ps(first(places), other.add(start)) };
                        *line = _mm512_fmadd_ps(factor, other, *line);
                    }
                }
                square(&mut lines);
                for (index, line) in lines.iter().enumerate().take(places) {
                    // SAFETY: as above.
                    unsafe { _mm512_mask_storeu_ps(to.add((at + index) * count + row), first(here), *line) };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout that the kernel reads, at every way a matrix can lie and every remainder.
    #[test]
    fn panels_hold_every_value_once_and_zeros_beside() {
        for (rows, depth, count) in [
            (1, 1, 6),
            (6, 8, 6),
            (13, 17, 6),
            (16, 9, 16),
            (37, 40, 16),
            (25, 31, 12),
            (5, 64, 32),
        ] {
            let values: Vec<f32> = (1..=(rows + 3) * (depth + 5)).map(|value| value as f32).collect();
            let (row_major, column_major) = (Matrix::rows(&values, depth + 5), Matrix::transposed(&values, rows + 3));
            for a in [row_major, column_major] {
                for from in [0, 3] {
                    let (part, of_depth) = (1..rows, from.min(depth)..depth);
                    let panels = part.len().div_ceil(count);
                    let mut packed = vec![f32::NAN; panels * count * of_depth.len()];
                    lines(a, part.clone(), of_depth.clone(), count, &mut packed);
                    for (index, value) in packed.iter().enumerate() {
                        let (panel, rest) = (index / (count * of_depth.len()), index % (count * of_depth.len()));
                        let (row, at) = (part.start + panel * count + rest % count, of_depth.start + rest / count);
                        let expected = if row < rows {
                            a.values[row * a.row_stride + at * a.col_stride]
                        } else {
                            0.0
                        };
                        assert_eq!(*value, expected, "{rows} {depth} {count}: row {row}, place {at}");
                    }
                }
            }
        }
    }
}
