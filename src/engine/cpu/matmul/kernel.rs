//! The inner loops of a matrix product, on packed operands (Goto and van de Geijn, "Anatomy of high-performance matrix
//! multiplication", 2008): a tile of the result stays in registers while one column of the left operand and one row of
//! the right after another are multiplied into it.
//!
//! Left panels are `[depth, rows of a tile]`, right panels `[depth, columns of a tile]`, both padded with zeros to whole
//! tiles.

use super::Twin;
#[cfg(not(target_arch = "aarch64"))]
use super::vector::Plain;
use super::vector::{Vector, prefetch, prefetch_near};
use crate::engine::cpu::simd::Level;

/// Rows and columns of the result that stay in registers. For AVX2: 12 of 16 registers, 2 for a row of the right panel,
/// 1 for a value of the left one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) rows: usize,
    pub(super) cols: usize,
}

/// The most that any tile has.
const MOST_ROWS: usize = 12;
const MOST_COLS: usize = 32;

/// The tile of an instruction set.
pub(super) fn tile(level: Level) -> Tile {
    let (rows, cols) = match level {
        Level::Avx512 => (12, 32),
        Level::Avx2 => (6, 16),
        Level::Plain if cfg!(target_arch = "aarch64") => (6, 16),
        Level::Plain => (4, 8),
    };
    Tile { rows, cols }
}

/// One block of a product: some left panels by some right panels.
pub(super) struct Block {
    /// Values summed up.
    pub(super) depth: usize,
    /// Rows and columns of the result, which need not be whole tiles.
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// The left operand.
    pub(super) left: Left,
    /// The right panels, one after another, `depth` times the tile's columns each.
    pub(super) right: *const f32,
    /// The result, row-major.
    pub(super) result: *mut f32,
    pub(super) result_stride: usize,
    /// `result = scale · left right` (`+ result`).
    pub(super) scale: f32,
    pub(super) accumulate: bool,
    /// Where else it goes.
    pub(super) twin: Option<Twin>,
}

/// The left operand of a block.
#[derive(Clone, Copy)]
pub(super) enum Left {
    /// Panels one after another, `depth` times the tile's rows each.
    Panels(*const f32),
    /// As they lie in memory, how far one row is from the next: a row's values lie side by side.
    Rows(*const f32, usize),
    /// As they lie in memory, how far one value of a row is from the next: the rows lie side by side.
    Columns(*const f32, usize),
}

/// Multiplies a block out.
///
/// # Safety
/// All pointers must reach as far as the block says, and nobody else may touch the result meanwhile.
pub(super) unsafe fn multiply(level: Level, block: &Block) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{__m256, __m512};
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
        unsafe fn avx512(block: &Block) {
            // SAFETY: the caller's promise.
            unsafe { tiles::<__m512, 12, 2>(block) }
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(block: &Block) {
            // SAFETY: the caller's promise.
            unsafe { tiles::<__m256, 6, 2>(block) }
        }
        match level {
            // SAFETY: the caller's promise; the level says that the instructions were detected.
            Level::Avx512 => return unsafe { avx512(block) },
            // SAFETY: as above.
            Level::Avx2 => return unsafe { avx2(block) },
            Level::Plain => {}
        }
    }
    let _ = level;
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the caller's promise; NEON belongs to the target.
    unsafe {
        tiles::<std::arch::aarch64::float32x4_t, 6, 4>(block);
    }
    #[cfg(not(target_arch = "aarch64"))]
    // SAFETY: the caller's promise.
    unsafe {
        tiles::<Plain, 4, 2>(block);
    }
}

/// Right panel by right panel, which stays in the first-level cache while the left ones pass by.
#[inline(always)]
unsafe fn tiles<V: Vector, const ROWS: usize, const VECTORS: usize>(block: &Block) {
    let width = VECTORS * V::LANES;
    let panel = width * block.depth;
    // While a right panel is multiplied, the next one comes from the third-level cache, a part with each left panel.
    let part = panel.div_ceil(block.rows.div_ceil(ROWS).max(1));
    for col in (0..block.cols).step_by(width) {
        let cols = width.min(block.cols - col);
        let next = block.right.wrapping_add(col * block.depth + panel);
        for row in (0..block.rows).step_by(ROWS) {
            let rows = ROWS.min(block.rows - row);
            // SAFETY: the caller's promise.
            unsafe {
                let right = block.right.add(col * block.depth);
                let ahead = next.wrapping_add(row / ROWS * part);
                let result = block.result.add(row * block.result_stride + col);
                for row in 0..rows {
                    let line = result.wrapping_add(row * block.result_stride);
                    prefetch(line);
                    prefetch(line.wrapping_add(width - 1));
                }
                let sums = match block.left {
                    Left::Panels(left) => {
                        let left = left.add(row * block.depth);
                        let value = |at: usize, row: usize| *left.add(at * ROWS + row);
                        sums::<V, ROWS, VECTORS>(block.depth, value, right, ahead)
                    }
                    // A tile that reaches beyond the last row reads that one again.
                    Left::Rows(left, stride) => {
                        let starts: [_; ROWS] =
                            std::array::from_fn(|index| left.add((row + index.min(rows - 1)) * stride));
                        let value = |at: usize, row: usize| *starts[row].add(at);
                        sums::<V, ROWS, VECTORS>(block.depth, value, right, ahead)
                    }
                    Left::Columns(left, stride) if rows == ROWS => {
                        let left = left.add(row);
                        let value = |at: usize, row: usize| *left.add(at * stride + row);
                        sums::<V, ROWS, VECTORS>(block.depth, value, right, ahead)
                    }
                    Left::Columns(left, stride) => {
                        let left = left.add(row);
                        let value = |at: usize, row: usize| *left.add(at * stride + row.min(rows - 1));
                        sums::<V, ROWS, VECTORS>(block.depth, value, right, ahead)
                    }
                };
                write_part(
                    &sums,
                    (rows, cols),
                    block.scale,
                    block.accumulate,
                    result,
                    block.result_stride,
                );
                if let Some(twin) = block.twin {
                    let (scale, result) = (block.scale * twin.factor, result.offset(twin.offset));
                    write_part(&sums, (rows, cols), scale, twin.accumulate, result, block.result_stride);
                }
            }
        }
    }
}

/// Steps of the depth for which a line of what lies ahead is asked for: 11 left panels of 12 rows ask for all of a right
/// panel and a third more; fewer get the first part of it.
const STEPS_A_LINE: usize = 4;
/// Values of a cache line.
const LINE: usize = 16;

/// `left(at, row)` is the left operand's value at a place of the depth. `ahead` may be any address: it is only fetched.
#[inline(always)]
unsafe fn sums<V: Vector, const ROWS: usize, const VECTORS: usize>(
    depth: usize,
    left: impl Fn(usize, usize) -> f32,
    right: *const f32,
    ahead: *const f32,
) -> [[V; VECTORS]; ROWS] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[V::splat(0.0); VECTORS]; ROWS];
        let whole = depth / STEPS_A_LINE * STEPS_A_LINE;
        for start in (0..whole).step_by(STEPS_A_LINE) {
            prefetch_near(ahead.wrapping_add(start / STEPS_A_LINE * LINE));
            for at in start..start + STEPS_A_LINE {
                step(&mut sums, at, &left, right);
            }
        }
        for at in whole..depth {
            step(&mut sums, at, &left, right);
        }
        sums
    }
}

/// One place of the depth. A function, for a closure need not be inlined, and would not be compiled for the instruction set.
#[inline(always)]
unsafe fn step<V: Vector, const ROWS: usize, const VECTORS: usize>(
    sums: &mut [[V; VECTORS]; ROWS],
    at: usize,
    left: &impl Fn(usize, usize) -> f32,
    right: *const f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let right = right.add(at * VECTORS * V::LANES);
        let columns: [V; VECTORS] = std::array::from_fn(|index| V::load(right.add(index * V::LANES)));
        for (row, sums) in sums.iter_mut().enumerate() {
            let value = V::splat(left(at, row));
            for (sum, column) in sums.iter_mut().zip(columns) {
                *sum = sum.add_product(value, column);
            }
        }
    }
}

/// The first rows and columns of a tile.
#[inline(always)]
unsafe fn write_part<V: Vector, const ROWS: usize, const VECTORS: usize>(
    sums: &[[V; VECTORS]; ROWS],
    (rows, cols): (usize, usize),
    scale: f32,
    accumulate: bool,
    result: *mut f32,
    stride: usize,
) {
    let width = VECTORS * V::LANES;
    // SAFETY: the caller's promise.
    unsafe {
        if rows == ROWS && cols == width {
            return write(sums, scale, accumulate, result, stride);
        }
        let mut whole = [0.0f32; MOST_ROWS * MOST_COLS];
        write(sums, scale, false, whole.as_mut_ptr(), width);
        for row in 0..rows {
            for col in 0..cols {
                let to = result.add(row * stride + col);
                let before = if accumulate { *to } else { 0.0 };
                *to = whole[row * width + col] + before;
            }
        }
    }
}

#[inline(always)]
unsafe fn write<V: Vector, const ROWS: usize, const VECTORS: usize>(
    sums: &[[V; VECTORS]; ROWS],
    scale: f32,
    accumulate: bool,
    result: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let factor = V::splat(scale);
        for (row, sums) in sums.iter().enumerate() {
            for (index, sum) in sums.iter().enumerate() {
                let to = result.add(row * stride + index * V::LANES);
                let before = if accumulate { V::load(to) } else { V::splat(0.0) };
                before.add_product(factor, *sum).store(to);
            }
        }
    }
}
