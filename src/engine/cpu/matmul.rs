//! Matrix products through the `gemm` crate, single-threaded: who calls splits the work.

use super::CpuBackend;
use super::parallel::Shared;

/// A read-only matrix inside a slice, by strides.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row-major, `stride` values from row to row.
    pub(super) fn rows(values: &'a [f32], stride: usize) -> Self {
        Self {
            values,
            row_stride: stride,
            col_stride: 1,
        }
    }

    /// The transpose of a row-major matrix.
    pub(super) fn transposed(values: &'a [f32], stride: usize) -> Self {
        Self {
            values,
            row_stride: 1,
            col_stride: stride,
        }
    }

    fn check(&self, rows: usize, cols: usize) {
        if rows > 0 && cols > 0 {
            let last = (rows - 1) * self.row_stride + (cols - 1) * self.col_stride;
            assert!(
                last < self.values.len(),
                "a {rows}x{cols} matrix is outside {} values",
                self.values.len()
            );
        }
    }
}

/// Where a product goes.
pub(super) struct Target {
    /// First element of a row-major matrix.
    pub(super) start: *mut f32,
    /// Values from row to row.
    pub(super) stride: usize,
    /// Add to what is there, or overwrite it.
    pub(super) accumulate: bool,
}

/// `c = scale · a b` (`+ c`): a `[m, k]`, b `[k, n]`, c `[m, n]`.
///
/// # Safety
/// `c` must point to `m` rows of `n` values that nobody else touches meanwhile.
pub(super) unsafe fn product(m: usize, n: usize, k: usize, scale: f32, a: Matrix<'_>, b: Matrix<'_>, c: Target) {
    if m == 0 || n == 0 {
        return;
    }
    a.check(m, k);
    b.check(k, n);
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
            },
        )
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
        let shared = Shared::new(&mut c);
        backend.within(|| {
            backend.run_parts(size, 1, |rows| {
                // SAFETY: the parts' rows are disjoint.
                unsafe {
                    let start = shared.matrix(rows.start * size, rows.len(), size, size);
                    let part = Matrix::rows(&a[rows.start * size..], size);
                    let target = Target {
                        start,
                        stride: size,
                        accumulate: false,
                    };
                    product(rows.len(), size, size, 1.0, part, Matrix::rows(&b, size), target);
                }
            });
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    std::hint::black_box(&c);
    2.0 * (size as f64).powi(3) / best / 1e9
}
