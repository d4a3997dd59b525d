//! Products of a few left rows with a right operand whose columns lie as rows in memory: one step of a decoder with its
//! weights, or with the keys it attends to. Nothing is packed: every value of the right operand is read once, which is what
//! such a product costs, and meets all left rows while it is there.

#[cfg(not(target_arch = "aarch64"))]
use super::vector::Plain;
use super::vector::Vector;
use crate::engine::cpu::simd::{self, Level};

/// Right rows that stay in the first-level cache while groups of left rows pass by.
const BLOCK: usize = 16;

/// `result[r, c] = scale · left[r] · right[c]` (`+ result[r, c]`).
pub(in crate::engine::cpu) struct FewRows<'a> {
    /// Rows and columns of the result.
    pub(in crate::engine::cpu) rows: usize,
    pub(in crate::engine::cpu) cols: usize,
    /// Values summed up.
    pub(in crate::engine::cpu) depth: usize,
    /// The left operand, and how far one row is from the next.
    pub(in crate::engine::cpu) left: (&'a [f32], usize),
    /// The right one, a row a column of the result.
    pub(in crate::engine::cpu) right: (&'a [f32], usize),
    pub(in crate::engine::cpu) scale: f32,
    /// The result, row-major.
    pub(in crate::engine::cpu) result: (*mut f32, usize),
    pub(in crate::engine::cpu) accumulate: bool,
}

/// Multiplies.
///
/// # Safety
/// `result` must reach as far as `rows` and `cols` say, and nobody else may touch that meanwhile.
pub(in crate::engine::cpu) unsafe fn multiply_few_rows(product: &FewRows<'_>) {
    // SAFETY: the level is this machine's; the rest is the caller's promise.
    unsafe { multiply(simd::level(), product) }
}

/// # Safety
/// As for [`multiply_few_rows`], and the machine must have the level's instructions.
pub(super) unsafe fn multiply(level: Level, product: &FewRows<'_>) {
    if product.rows == 0 || product.cols == 0 {
        return;
    }
    for ((values, stride), count) in [(product.left, product.rows), (product.right, product.cols)] {
        assert!(
            (count - 1) * stride + product.depth <= values.len(),
            "an operand is too short"
        );
    }
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
        unsafe fn avx512(product: &FewRows<'_>) {
            // SAFETY: the caller's promise.
            unsafe { blocks::<__m512>(product) }
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(product: &FewRows<'_>) {
            // SAFETY: the caller's promise.
            unsafe { blocks::<__m256>(product) }
        }
        match level {
            // SAFETY: the caller's promise; the operands were checked.
            Level::Avx512 => return unsafe { avx512(product) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { avx2(product) },
            Level::Plain => {}
        }
    }
    let _ = level;
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the caller's promise; NEON belongs to the target, and the operands were checked.
    unsafe {
        blocks::<std::arch::aarch64::float32x4_t>(product);
    }
    #[cfg(not(target_arch = "aarch64"))]
    // SAFETY: the caller's promise; the operands were checked.
    unsafe {
        blocks::<Plain>(product);
    }
}

/// The tiles have enough sums to hide an addition's latency, and few enough for sixteen registers.
#[inline(always)]
unsafe fn blocks<V: Vector>(product: &FewRows<'_>) {
    for first in (0..product.cols).step_by(BLOCK) {
        let cols = (first, product.cols.min(first + BLOCK));
        let mut row = 0;
        while row < product.rows {
            // SAFETY: the caller's promise.
            row += unsafe {
                match product.rows - row {
                    1 => strip::<V, 1, 8>(product, row, cols),
                    2 => strip::<V, 2, 4>(product, row, cols),
                    3 | 6 => strip::<V, 3, 4>(product, row, cols),
                    5 => strip::<V, 5, 2>(product, row, cols),
                    _ => strip::<V, 4, 2>(product, row, cols),
                }
            };
        }
    }
}

/// Some rows of all these columns; how many rows.
#[inline(always)]
unsafe fn strip<V: Vector, const ROWS: usize, const COLS: usize>(
    product: &FewRows<'_>,
    row: usize,
    (mut col, end): (usize, usize),
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        while col + COLS <= end {
            tile::<V, ROWS, COLS>(product, row, col);
            col += COLS;
        }
        while col < end {
            tile::<V, ROWS, 1>(product, row, col);
            col += 1;
        }
    }
    ROWS
}

#[inline(always)]
unsafe fn tile<V: Vector, const ROWS: usize, const COLS: usize>(product: &FewRows<'_>, row: usize, col: usize) {
    let (depth, whole) = (product.depth, product.depth / V::LANES * V::LANES);
    let ((left, left_stride), (right, right_stride)) = (product.left, product.right);
    let (left, right) = (&left[row * left_stride..], &right[col * right_stride..]);
    // SAFETY: rows and columns are inside the operands, which `multiply` checked, and inside the result, which is the
    // caller's promise.
    unsafe {
        let (left, right) = (left.as_ptr(), right.as_ptr());
        let result = product.result.0.add(row * product.result.1 + col);
        let mut sums = [[V::splat(0.0); COLS]; ROWS];
        let mut at = 0;
        while at < whole {
            let columns: [V; COLS] = std::array::from_fn(|col| V::load(right.add(col * right_stride + at)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = V::load(left.add(row * left_stride + at));
                for (sum, column) in sums.iter_mut().zip(columns) {
                    *sum = sum.add_product(value, column);
                }
            }
            at += V::LANES;
        }
        // By fours, whatever row they are of.
        let mut first = 0;
        while first < ROWS * COLS {
            let place = |index: usize| ((first + index) / COLS, (first + index) % COLS);
            let four = std::array::from_fn(|index| match place(index) {
                (row, col) if row < ROWS => sums[row][col],
                _ => V::splat(0.0),
            });
            for (index, mut total) in V::totals(four).into_iter().enumerate() {
                let (row, col) = place(index);
                if row < ROWS {
                    for at in whole..depth {
                        total += *left.add(row * left_stride + at) * *right.add(col * right_stride + at);
                    }
                    let result = result.add(row * product.result.1 + col);
                    let before = if product.accumulate { *result } else { 0.0 };
                    *result = product.scale * total + before;
                }
            }
            first += 4;
        }
    }
}
