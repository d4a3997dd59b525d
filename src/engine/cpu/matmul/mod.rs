//! Matrix products: our own kernels on packed operands, for vector instructions and for matrix units, and the `gemm` crate's
//! for results of few rows, where packing would cost more than the product.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod few_rows;
mod kernel;
mod pack;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod transpose;
mod vector;

use super::CpuBackend;
use super::memory::with_scratch;
use super::simd::{self, Level};
pub(super) use few_rows::{FewRows, multiply_few_rows};
use kernel::{Block, Left, Tile};
use std::ops::Range;

/// Values summed up in one go: a right panel of so many rows (24 KiB) stays in the first-level cache while left ones
/// (9 KiB) pass by.
const DEPTH: usize = 384;
/// Rows of the left operand that are packed at once: with [`DEPTH`], less than half of a second-level cache. The right
/// panels pass by them from the third level, each 21 times slower than the left ones are read.
const LEFT_ROWS: usize = 126;
/// Columns of the right operand that are packed at once: 2.3 MB, which a third-level cache holds.
const RIGHT_COLS: usize = 1536;
/// To pack a left value costs as much as to multiply it with some 20 right ones. Up to so many columns it is read where
/// it lies, although that is slower by a twentieth.
const FEW_COLS: usize = 320;
/// The same for one whose rows lie side by side, and which is deep: every place of the depth is a line of memory of its own.
const FEW_COLS_DEEP: usize = 64;
/// Results of fewer rows are left to the `gemm` crate.
const FEW_ROWS: usize = 16;

/// A read-only matrix inside a slice, by strides; or the sum of two that lie alike, which is made while it is packed.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    row_stride: usize,
    col_stride: usize,
    addend: Option<Addend<'a>>,
}

/// What is added to a matrix: `factor` times these values, by the same strides.
#[derive(Clone, Copy)]
struct Addend<'a> {
    values: &'a [f32],
    factor: f32,
}

impl<'a> Matrix<'a> {
    /// Row-major, `stride` values from row to row.
    pub(super) fn rows(values: &'a [f32], stride: usize) -> Self {
        Self {
            values,
            row_stride: stride,
            col_stride: 1,
            addend: None,
        }
    }

    /// The transpose of a row-major matrix.
    pub(super) fn transposed(values: &'a [f32], stride: usize) -> Self {
        Self {
            values,
            row_stride: 1,
            col_stride: stride,
            addend: None,
        }
    }

    /// This matrix plus `factor` times the one that lies alike in `values`. For products of at least [`FEW_ROWS`] rows.
    pub(super) fn plus(self, factor: f32, values: &'a [f32]) -> Self {
        Self {
            addend: Some(Addend { values, factor }),
            ..self
        }
    }

    fn turned(self) -> Self {
        Self {
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// The same without its first columns.
    fn without_columns(self, count: usize) -> Self {
        self.from((count * self.col_stride).min(self.values.len()))
    }

    /// The same from a value on.
    fn from(self, start: usize) -> Self {
        Self {
            values: &self.values[start..],
            addend: self.addend.map(|addend| Addend {
                values: &addend.values[start..],
                ..addend
            }),
            ..self
        }
    }

    fn value(&self, at: usize) -> f32 {
        self.values[at] + self.addend.map_or(0.0, |addend| addend.factor * addend.values[at])
    }

    fn check(&self, rows: usize, cols: usize) {
        if rows > 0 && cols > 0 {
            let last = (rows - 1) * self.row_stride + (cols - 1) * self.col_stride;
            let len = self
                .addend
                .map_or(self.values.len(), |addend| addend.values.len().min(self.values.len()));
            assert!(last < len, "a {rows}x{cols} matrix is outside {len} values");
        }
    }
}

/// Where a product goes.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// First element of a row-major matrix.
    pub(super) start: *mut f32,
    /// Values from row to row.
    pub(super) stride: usize,
    /// Add to what is there, or overwrite it.
    pub(super) accumulate: bool,
    /// A second place for the same product.
    pub(super) twin: Option<Twin>,
}

/// The second place of a product, with the target's stride.
#[derive(Clone, Copy)]
pub(super) struct Twin {
    /// From the target's first element to this one's.
    pub(super) offset: isize,
    /// What the product is multiplied by here, on top of its scale.
    pub(super) factor: f32,
    /// Add to what is there, or overwrite it.
    pub(super) accumulate: bool,
}

// SAFETY: who makes a target promises that the matrix is its product's alone; the product's parts are disjoint.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// The part that begins at a row and a column.
    ///
    /// # Safety
    /// They must lie inside the matrix.
    unsafe fn part(self, row: usize, col: usize) -> Self {
        Self {
            // SAFETY: the caller's promise.
            start: unsafe { self.start.add(row * self.stride + col) },
            ..self
        }
    }

    /// Adding to what the first part of a sum has left there.
    fn accumulating(self) -> Self {
        Self {
            accumulate: true,
            twin: self.twin.map(|twin| Twin {
                accumulate: true,
                ..twin
            }),
            ..self
        }
    }
}

/// The sizes of a product: a `[m, k]`, b `[k, n]`, c `[m, n]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// `c = scale · a b` (`+ c`) on the caller's thread.
///
/// # Safety
/// `c` must point to `m` rows of `n` values that nobody else touches meanwhile.
pub(super) unsafe fn product(m: usize, n: usize, k: usize, scale: f32, a: Matrix<'_>, b: Matrix<'_>, c: Target) {
    // SAFETY: the caller's promise.
    unsafe { multiply(None, Sizes { m, n, k }, scale, a, b, c, |_, _| {}) }
}

/// The same into a slice of exactly `m` rows of `n` values.
pub(super) fn product_into(
    m: usize,
    n: usize,
    k: usize,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: &mut [f32],
    accumulate: bool,
) {
    assert!(c.len() >= m * n, "product of {m}x{n} into {} values", c.len());
    // SAFETY: the slice holds m rows of n values and is borrowed mutably.
    unsafe {
        product(
            m,
            n,
            k,
            scale,
            a,
            b,
            Target {
                start: c.as_mut_ptr(),
                stride: n,
                accumulate,
                twin: None,
            },
        )
    }
}

/// `c = scale · a b` (`+ c`), shared out over the pool; then `finish(rows, columns)` for each part of the result, on the
/// thread that made it.
///
/// # Safety
/// `c` must point to `m` rows of `n` values that nobody else touches meanwhile.
pub(super) unsafe fn multiply(
    backend: Option<&CpuBackend>,
    sizes: Sizes,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: Target,
    finish: impl Fn(Range<usize>, Range<usize>) + Sync,
) {
    let Sizes { m, n, k } = sizes;
    if m == 0 || n == 0 {
        return;
    }
    a.check(m, k);
    b.check(k, n);
    let threads = backend.map_or(1, CpuBackend::threads);
    let run = |count: usize, task: &(dyn Fn(usize) + Sync)| match backend {
        Some(backend) => backend.run(count, task),
        None => (0..count).for_each(task),
    };
    let way = Way::of(sizes);
    let tile = way.tile();
    if m < FEW_ROWS || k == 0 {
        let share = n.div_ceil(threads).next_multiple_of(tile.cols);
        return run(n.div_ceil(share), &|part| {
            let cols = part * share..n.min((part + 1) * share);
            // SAFETY: parts are disjoint, and each lies inside the result.
            unsafe {
                let c = c.part(0, cols.start);
                few_rows(
                    Sizes { n: cols.len(), ..sizes },
                    scale,
                    a,
                    b.without_columns(cols.start),
                    c,
                );
            }
            finish(0..m, cols);
        });
    }
    let units = Units::new(sizes, tile, threads);
    run(units.count(), &|unit| {
        let (rows, cols) = units.part(unit);
        // SAFETY: units are disjoint, and each lies inside the result.
        unsafe {
            let c = c.part(rows.start, cols.start);
            unit_product(way, &rows, &cols, k, scale, a, b, c);
        }
        finish(rows, cols);
    });
}

/// Which instructions multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Vector(Level),
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
}

impl Way {
    /// The best for a product on this machine. It depends on the whole product's sizes, not on how it is shared out.
    fn of(Sizes { m, n, k }: Sizes) -> Self {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if amx::suits(m, n, k) {
            return Self::Amx;
        }
        let _ = (m, k);
        Self::Vector(match simd::level() {
            // A result no wider than half a tile is for the narrower registers.
            Level::Avx512 if n <= kernel::tile(Level::Avx2).cols => Level::Avx2,
            level => level,
        })
    }

    fn tile(self) -> Tile {
        match self {
            Self::Vector(level) => kernel::tile(level),
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Tile {
                rows: amx::BLOCK,
                cols: amx::BLOCK,
            },
        }
    }
}

/// Whether large products are for matrix units here.
pub(super) fn has_matrix_units() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return amx::is_available();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    false
}

/// The parts that a result is cut into, one a thread: some rows of all columns, or all rows of some columns. Cutting
/// rows makes every thread pack the whole right operand, cutting columns the left one, so the longer side is cut.
struct Units {
    rows: usize,
    cols: usize,
    by_rows: bool,
    /// Rows, or columns, of each but the last.
    each: usize,
}

impl Units {
    fn new(Sizes { m, n, .. }: Sizes, tile: Tile, threads: usize) -> Self {
        let by_rows = m > n;
        let (len, grain) = if by_rows { (m, tile.rows) } else { (n, tile.cols) };
        Self {
            rows: m,
            cols: n,
            by_rows,
            each: len.div_ceil(threads).next_multiple_of(grain),
        }
    }

    fn count(&self) -> usize {
        if self.by_rows { self.rows } else { self.cols }.div_ceil(self.each)
    }

    fn part(&self, unit: usize) -> (Range<usize>, Range<usize>) {
        let (start, end) = (unit * self.each, (unit + 1) * self.each);
        if self.by_rows {
            (start..end.min(self.rows), 0..self.cols)
        } else {
            (0..self.rows, start..end.min(self.cols))
        }
    }
}

/// One unit's part of the result.
///
/// # Safety
/// c must point to that part, which nobody else touches meanwhile.
unsafe fn unit_product(
    way: Way,
    rows: &Range<usize>,
    cols: &Range<usize>,
    k: usize,
    scale: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: Target,
) {
    let level = match way {
        Way::Vector(level) => level,
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        // SAFETY: this way is only taken where AMX is available; c is the caller's promise.
        Way::Amx => return unsafe { amx::unit_product(rows, cols, k, scale, a, b, c) },
    };
    let tile = kernel::tile(level);
    // All alike: a short last one would read and write the result for little.
    let depth_each = k.div_ceil(k.div_ceil(DEPTH));
    let rows_each = LEFT_ROWS
        .next_multiple_of(tile.rows)
        .min(rows.len().next_multiple_of(tile.rows));
    let cols_each = RIGHT_COLS.min(cols.len().next_multiple_of(tile.cols));
    let few_cols = if a.row_stride == 1 && k > DEPTH {
        FEW_COLS_DEEP
    } else {
        FEW_COLS
    };
    let packs_left = cols.len() > few_cols || a.addend.is_some() || (a.col_stride != 1 && a.row_stride != 1);
    with_scratch(if packs_left { rows_each * depth_each } else { 0 }, |space| {
        with_scratch(cols_each * depth_each, |right| {
            for first_col in cols.clone().step_by(cols_each) {
                let cols_here = first_col..cols.end.min(first_col + cols_each);
                for start in (0..k).step_by(depth_each) {
                    let depth = start..k.min(start + depth_each);
                    let right = &mut right[..cols_here.len().next_multiple_of(tile.cols) * depth.len()];
                    pack::columns(b, depth.clone(), cols_here.clone(), tile.cols, right);
                    for first_row in rows.clone().step_by(rows_each) {
                        let rows_here = first_row..rows.end.min(first_row + rows_each);
                        let left = if packs_left {
                            let space = &mut space[..rows_here.len().next_multiple_of(tile.rows) * depth.len()];
                            pack::rows(a, rows_here.clone(), depth.clone(), tile.rows, space);
                            Left::Panels(space.as_ptr())
                        } else {
                            let first = a.values[first_row * a.row_stride + start * a.col_stride..].as_ptr();
                            match a.col_stride {
                                1 => Left::Rows(first, a.row_stride),
                                stride => Left::Columns(first, stride),
                            }
                        };
                        // SAFETY: the panels are whole, a was checked to hold the left operand, and the part of the
                        // result is the caller's promise.
                        unsafe {
                            let c = c.part(first_row - rows.start, first_col - cols.start);
                            let c = if start > 0 { c.accumulating() } else { c };
                            kernel::multiply(
                                level,
                                &Block {
                                    depth: depth.len(),
                                    rows: rows_here.len(),
                                    cols: cols_here.len(),
                                    left,
                                    right: right.as_ptr(),
                                    result: c.start,
                                    result_stride: c.stride,
                                    scale,
                                    accumulate: c.accumulate,
                                    twin: c.twin,
                                },
                            );
                        }
                    }
                }
            }
        });
    });
}

/// # Safety
/// As for [`product`].
unsafe fn few_rows(Sizes { m, n, k }: Sizes, scale: f32, a: Matrix<'_>, b: Matrix<'_>, c: Target) {
    a.check(m, k);
    b.check(k, n);
    assert!(a.addend.is_none() && b.addend.is_none() && c.twin.is_none());
    // SAFETY: a and b were checked to lie inside their slices; c is the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.start,
            1,
            c.stride as isize,
            c.accumulate,
            a.values.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.values.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Measured f32 matrix-product rate in GFLOP/s on a square of `size`, the best of `repeats`, split as the layers are.
pub fn measured_gflops(backend: &CpuBackend, size: usize, repeats: usize) -> f64 {
    let a: Vec<f32> = (0..size * size).map(|i| (i % 13) as f32 * 0.25 - 1.5).collect();
    let b: Vec<f32> = (0..size * size).map(|i| (i % 7) as f32 * 0.25 - 0.75).collect();
    let mut c = vec![0.0f32; size * size];
    let mut best = f64::INFINITY;
    for _ in 0..repeats.max(1) {
        let start = std::time::Instant::now();
        let target = Target {
            start: c.as_mut_ptr(),
            stride: size,
            accumulate: false,
            twin: None,
        };
        let sizes = Sizes {
            m: size,
            n: size,
            k: size,
        };
        // SAFETY: c holds the whole result and is this function's own.
        backend.within(|| unsafe {
            let (a, b) = (Matrix::rows(&a, size), Matrix::rows(&b, size));
            multiply(Some(backend), sizes, 1.0, a, b, target, |_, _| {});
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    std::hint::black_box(&c);
    2.0 * (size as f64).powi(3) / best / 1e9
}
