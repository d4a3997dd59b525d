//! Cutting f32 into bfloat16 and laying them out in tiles.
//!
//! A panel is 32 lines (rows of the left operand, columns of the right one) as `[step, part, tile, 16, 32]`: for each 32
//! values of the depth the three parts, of each two tiles of 16 lines. In a left tile a row is a line; in a right one a row
//! is two places of the depth, of which each line has its two values side by side.

use super::super::transpose::square as transpose;
use super::super::vector::prefetch;
use super::{BLOCK, Matrix, PARTS, SIDE, STEP, first};
use std::arch::x86_64::{
    __m512, __m512i, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_fmadd_ps,
    _mm512_loadu_si512, _mm512_maskz_loadu_ps, _mm512_permutex2var_epi16, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_srli_epi32, _mm512_storeu_si512, _mm512_sub_ps, _mm512_ternarylogic_epi32,
};
use std::ops::Range;

/// bfloat16 in a tile.
const TILE: usize = SIDE * STEP;

/// What the panels of so many lines and values of the depth take, in bfloat16.
pub(super) fn panel_values(lines: usize, depth: usize) -> usize {
    lines.next_multiple_of(BLOCK) * depth.next_multiple_of(STEP) * PARTS
}

/// Which operand a panel is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Left,
    Right,
}

/// Packs rows `lines` of columns `depth`, with zeros beyond the last of either. Where the last left panel has no second
/// tile, that is not written.
///
/// # Safety
/// AVX-512 must be there, the matrix hold these lines, and `to` [`panel_values`].
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
pub(super) unsafe fn lines(from: Matrix<'_>, lines: Range<usize>, depth: Range<usize>, form: Form, to: *mut u16) {
    let panel = panel_values(BLOCK, depth.len());
    let tiles = lines.len().div_ceil(SIDE);
    let steps = depth.len().div_ceil(STEP);
    // Along what lies side by side in memory.
    let (outer, inner) = if from.row_stride == 1 {
        (steps, tiles)
    } else {
        (tiles, steps)
    };
    for outer in 0..outer {
        for inner in 0..inner {
            let (step, tile) = if from.row_stride == 1 {
                (outer, inner)
            } else {
                (inner, outer)
            };
            let (line, at) = (lines.start + tile * SIDE, depth.start + step * STEP);
            let here = (SIDE.min(lines.end - line), STEP.min(depth.end - at));
            // SAFETY: the caller's promise, here as in all that follows.
            unsafe {
                let to = to.add(tile / 2 * panel + tile % 2 * TILE + step * 2 * PARTS * TILE);
                square(from, (line, here.0), (at, here.1), form, to);
            }
        }
    }
    if form == Form::Right && tiles % 2 == 1 {
        // SAFETY: the second tile of the last panel is there.
        unsafe {
            let to = to.add(lines.len() / BLOCK * panel + TILE);
            for tile in 0..steps * PARTS {
                std::ptr::write_bytes(to.add(tile * 2 * TILE), 0, TILE);
            }
        }
    }
}

/// One tile's lines and depth, in all parts.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn square(
    from: Matrix<'_>,
    (line, lines): (usize, usize),
    (at, depth): (usize, usize),
    form: Form,
    to: *mut u16,
) {
    // SAFETY: the caller's promise, and the masks.
    unsafe {
        let start = line * from.row_stride + at * from.col_stride;
        let values = from.values.as_ptr().add(start);
        let addend = from
            .addend
            .map(|addend| (addend.values.as_ptr().add(start), _mm512_set1_ps(addend.factor)));
        // What the next square but for a few needs: one line of memory is one register's.
        let ahead = if from.row_stride == 1 {
            STEP * from.col_stride
        } else {
            SIDE * from.row_stride
        };
        let load = |offset: usize, count: usize| {
            prefetch(values.wrapping_add(offset + ahead));
            let value = _mm512_maskz_loadu_ps(first(count), values.wrapping_add(offset));
            match addend {
                None => value,
                Some((other, factor)) => {
                    let other = _mm512_maskz_loadu_ps(first(count), other.wrapping_add(offset));
                    _mm512_fmadd_ps(factor, other, value)
                }
            }
        };
        let zero = [_mm512_setzero_ps(); SIDE];
        let mut halves = [zero; 2];
        if from.row_stride == 1 && lines > 0 {
            // Registers of lines.
            for (half, registers) in halves.iter_mut().enumerate() {
                for (place, register) in registers.iter_mut().enumerate() {
                    let place = half * SIDE + place;
                    if place < depth {
                        *register = load(place * from.col_stride, lines);
                    }
                }
            }
            if form == Form::Left {
                transpose(&mut halves[0]);
                transpose(&mut halves[1]);
            }
        } else {
            // Registers of depth.
            for row in 0..lines {
                for (half, registers) in halves.iter_mut().enumerate() {
                    let (start, count) = (half * SIDE, depth.saturating_sub(half * SIDE));
                    registers[row] = if from.col_stride == 1 {
                        load(row * from.row_stride + start, count)
                    } else {
                        gather(from, line + row, at + start, count.min(SIDE))
                    };
                }
            }
            if form == Form::Right {
                transpose(&mut halves[0]);
                transpose(&mut halves[1]);
            }
        }
        match form {
            Form::Left => left(&halves, to),
            Form::Right => right(&halves, to),
        }
    }
}

/// Values of a line that do not lie side by side.
#[cold]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn gather(from: Matrix<'_>, line: usize, at: usize, count: usize) -> __m512 {
    let mut values = [0.0f32; SIDE];
    for (place, value) in values.iter_mut().enumerate().take(count) {
        *value = from.value(line * from.row_stride + (at + place) * from.col_stride);
    }
    // SAFETY: as many values as a register has.
    unsafe { _mm512_maskz_loadu_ps(!0, values.as_ptr()) }
}

/// Stores registers of 16 values of the depth, a line each.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn left(halves: &[[__m512; SIDE]; 2], to: *mut u16) {
    // The upper halves of both registers' values.
    const UPPER: [u16; STEP] = {
        let mut order = [0; STEP];
        let mut place = 0;
        while place < STEP {
            order[place] = 2 * place as u16 + 1;
            place += 1;
        }
        order
    };
    // SAFETY: the caller's promise.
    unsafe {
        let upper = _mm512_loadu_si512(UPPER.as_ptr().cast());
        for (row, (first, second)) in halves[0].iter().zip(&halves[1]).enumerate() {
            let (first, second) = (parts(*first), parts(*second));
            for part in 0..PARTS {
                let both = _mm512_permutex2var_epi16(first[part], upper, second[part]);
                _mm512_storeu_si512(to.add(part * 2 * TILE + row * STEP).cast(), both);
            }
        }
    }
}

/// Stores registers of 16 lines, a place of the depth each.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn right(halves: &[[__m512; SIDE]; 2], to: *mut u16) {
    // SAFETY: the caller's promise.
    unsafe {
        let upper = _mm512_set1_epi32(UPPER_HALF);
        for row in 0..SIDE {
            let half = &halves[row / 8];
            let place = row % 8 * 2;
            let (first, second) = (parts(half[place]), parts(half[place + 1]));
            for part in 0..PARTS {
                // `first >> 16 | second & upper`.
                let lower = _mm512_srli_epi32::<16>(first[part]);
                let both = _mm512_ternarylogic_epi32::<0xf8>(lower, second[part], upper);
                _mm512_storeu_si512(to.add(part * 2 * TILE + row * STEP).cast(), both);
            }
        }
    }
}

const UPPER_HALF: i32 = !0xffff;

/// The parts of f32, each in the upper half of its 32 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn parts(values: __m512) -> [__m512i; PARTS] {
    let high = rounded(values);
    let rest = _mm512_sub_ps(values, _mm512_castsi512_ps(high));
    let middle = rounded(rest);
    let low = _mm512_sub_ps(rest, _mm512_castsi512_ps(middle));
    [high, middle, _mm512_castps_si512(low)]
}

/// The nearest bfloat16.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
fn rounded(values: __m512) -> __m512i {
    let bits = _mm512_add_epi32(_mm512_castps_si512(values), _mm512_set1_epi32(0x8000));
    _mm512_and_si512(bits, _mm512_set1_epi32(UPPER_HALF))
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::values;
    use super::*;
    use crate::engine::cpu::simd::{Level, level};
    use half::bf16;

    /// The scalar twin of [`parts`].
    fn cut(value: f32) -> [bf16; PARTS] {
        let rounded = |value: f32| f32::from_bits((value.to_bits() + 0x8000) & 0xffff_0000);
        let high = rounded(value);
        let middle = rounded(value - high);
        [high, middle, value - high - middle].map(|part| bf16::from_bits((part.to_bits() >> 16) as u16))
    }

    /// What the matrix units' f32 rests on; on any machine.
    #[test]
    fn three_bfloat16_are_an_f32_exactly() {
        let patterns = (0..1 << 16).map(|pattern: u32| f32::from_bits(pattern.wrapping_mul(2_654_435_761)));
        let usual = |value: &f32| value.is_finite() && (1e-30..1e38).contains(&value.abs());
        for value in patterns.filter(usual).chain([0.0, 1.0, -1.0, 1.0 + f32::EPSILON, 0.1]) {
            let [high, middle, low] = cut(value).map(f64::from);
            assert_eq!(high + middle + low, f64::from(value));
            assert!(
                middle.abs() <= high.abs() / 256.0 && low.abs() <= high.abs() / 65536.0,
                "{value}"
            );
        }
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::from_bits(0x7fff_ffff)] {
            let sum: f32 = cut(value).map(f32::from).into_iter().sum();
            assert!(!sum.is_finite(), "{value} would be taken for {sum}");
        }
    }

    /// The layout that the tiles are loaded from, at every way a matrix can lie and every remainder.
    #[test]
    fn panels_hold_every_part_once_and_zeros_beside() {
        if level() != Level::Avx512 {
            eprintln!("skipped: no AVX-512 here");
            return;
        }
        for (lines_len, depth_len) in [(1, 1), (16, 32), (17, 33), (32, 31), (40, 70), (64, 64)] {
            let (rows, cols) = (lines_len + 2, depth_len + 3);
            let data = values(2 * rows * cols * 2, 5);
            let strided = Matrix {
                values: &data,
                row_stride: 2 * cols,
                col_stride: 2,
                addend: None,
            };
            for from in [Matrix::rows(&data, cols), Matrix::transposed(&data, rows), strided] {
                for from in [from, from.plus(-0.5, &data[3..])] {
                    for form in [Form::Left, Form::Right] {
                        let mut to = vec![0xffff_u16; panel_values(lines_len, depth_len)];
                        // SAFETY: AVX-512 was detected, the matrix holds these lines, and the panels are whole.
                        unsafe {
                            lines(from, 1..1 + lines_len, 2..2 + depth_len, form, to.as_mut_ptr());
                        }
                        let steps = depth_len.div_ceil(STEP);
                        for (place, found) in to.iter().enumerate() {
                            let (panel, rest) =
                                (place / (TILE * 2 * PARTS * steps), place % (TILE * 2 * PARTS * steps));
                            let (step, rest) = (rest / (TILE * 2 * PARTS), rest % (TILE * 2 * PARTS));
                            let (part, rest) = (rest / (TILE * 2), rest % (TILE * 2));
                            let (tile, row, col) = (rest / TILE, rest % TILE / STEP, rest % STEP);
                            let (line, at) = match form {
                                Form::Left => (row, col),
                                Form::Right => (col / 2, 2 * row + col % 2),
                            };
                            let (line, at) = (panel * BLOCK + tile * SIDE + line, step * STEP + at);
                            if form == Form::Left && panel * BLOCK + tile * SIDE >= lines_len {
                                assert_eq!(*found, 0xffff, "a tile that nobody reads");
                                continue;
                            }
                            let mut expected = 0;
                            if line < lines_len && at < depth_len {
                                let value = from.value((1 + line) * from.row_stride + (2 + at) * from.col_stride);
                                expected = cut(value)[part].to_bits();
                            }
                            assert_eq!(
                                *found, expected,
                                "{lines_len} {depth_len}: line {line}, place {at}, part {part}"
                            );
                        }
                    }
                }
            }
        }
    }
}
