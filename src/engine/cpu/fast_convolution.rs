//! A convolution of three taps, two rows apart, with five sixths of the multiplications: Winograd's F(2, 2) ("Arithmetic
//! Complexity of Computations", 1980) on its even rows.
//!
//! Two neighbouring outputs read five input rows, of which the even ones `a, b, c` meet the outer taps:
//! `y₀ = W₀ a + W₁ o₀ + W₂ b`, `y₁ = W₀ b + W₁ o₁ + W₂ c`. With `m = (W₀ + W₂) b` that is
//! `y₀ = W₀ (a - b) + m + W₁ o₀`, `y₁ = W₂ (c - b) + m + W₁ o₁`: five products in place of six. The gradients are the same
//! identity transposed. Sums of operands are made as they are packed, and `m` goes to both places from the registers, so
//! nothing is read or written more often than otherwise.

use super::CpuBackend;
use super::matmul::{Matrix, Sizes, Target, Twin, multiply};
use crate::engine::Conv1d;

/// Below so many channels or pairs of rows the products are too small to gain.
const FEWEST: usize = 64;

/// Whether the functions here take a shape.
pub(super) fn suits(shape: Conv1d) -> bool {
    shape.kernel == 3 && shape.stride == 2 && shape.c_in.min(shape.c_out) >= FEWEST && shape.out_frames() >= 2 * FEWEST
}

/// The first rows, which are taken in pairs, and so many at the end that are not: none, or enough for a matrix product, for
/// those of a row or two are summed in another order with another number of threads.
fn divided(rows: usize) -> (usize, usize) {
    let rest = if rows.is_multiple_of(2) { 0 } else { 17 };
    ((rows - rest) / 2, rest)
}

/// A pair of outputs' rows: how far apart pairs are, and where a row of one lies.
#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [f32],
    cols: usize,
    each: usize,
}

impl<'a> Rows<'a> {
    /// The input's rows: four from pair to pair.
    fn of_input(shape: Conv1d, values: &'a [f32]) -> Self {
        Self {
            values,
            cols: shape.c_in,
            each: 4,
        }
    }

    /// The output's: two.
    fn of_output(shape: Conv1d, values: &'a [f32]) -> Self {
        Self {
            values,
            cols: shape.c_out,
            each: 2,
        }
    }

    fn from(self, row: usize) -> &'a [f32] {
        &self.values[row * self.cols..]
    }

    /// Row `row` of every pair.
    fn row(self, row: usize) -> Matrix<'a> {
        Matrix::rows(self.from(row), self.each * self.cols)
    }

    /// Row `row` of every pair plus `factor` times row `other`.
    fn combined(self, row: usize, factor: f32, other: usize) -> Matrix<'a> {
        self.row(row).plus(factor, self.from(other))
    }

    fn column(self, row: usize) -> Matrix<'a> {
        Matrix::transposed(self.from(row), self.each * self.cols)
    }

    fn combined_columns(self, row: usize, factor: f32, other: usize) -> Matrix<'a> {
        self.column(row).plus(factor, self.from(other))
    }
}

/// Where a product goes, checked to lie inside.
struct Place<'a> {
    values: &'a mut [f32],
    stride: usize,
}

impl Place<'_> {
    /// Runs `c (+)= a b` into the matrix that starts at `start`, and into the twin's.
    fn product(
        &mut self,
        backend: &CpuBackend,
        sizes: Sizes,
        (a, b): (Matrix<'_>, Matrix<'_>),
        start: usize,
        accumulate: bool,
        twin: Option<Twin>,
    ) {
        let last = (sizes.m - 1) * self.stride + sizes.n;
        let other = twin.map_or(start, |twin| {
            start.checked_add_signed(twin.offset).expect("a twin inside")
        });
        assert!(
            start.max(other) + last <= self.values.len(),
            "a product outside its place"
        );
        let c = Target {
            // SAFETY: checked above.
            start: unsafe { self.values.as_mut_ptr().add(start) },
            stride: self.stride,
            accumulate,
            twin,
        };
        // SAFETY: the target and its twin lie inside the slice, which is borrowed mutably; they share no element, being
        // different rows or columns of the same grid.
        unsafe { multiply(Some(backend), sizes, 1.0, a, b, c, |_, _| {}) };
    }
}

fn twin(offset: isize, factor: f32, accumulate: bool) -> Option<Twin> {
    Some(Twin {
        offset,
        factor,
        accumulate,
    })
}

/// `y = Σ_taps x W_tapᵀ`.
pub(super) fn forward(backend: &CpuBackend, shape: Conv1d, x: &[f32], weight: &[f32], y: &mut [f32]) {
    let (c_in, c_out, rows) = (shape.c_in, shape.c_out, shape.out_frames());
    assert_eq!((weight.len(), y.len()), (c_out * 3 * c_in, rows * c_out), "{shape:?}");
    let (pairs, rest) = divided(rows);
    let sizes = |m| Sizes { m, n: c_out, k: c_in };
    let input = Rows::of_input(shape, x);
    let tap = |tap: usize| Matrix::transposed(&weight[tap * c_in..], 3 * c_in);
    let mut every = Place {
        values: &mut *y,
        stride: c_out,
    };
    let odd_rows = Matrix::rows(input.from(1), 2 * c_in);
    every.product(backend, sizes(rows), (odd_rows, tap(1)), 0, false, None);
    if rest > 0 {
        let last = |row| Matrix::rows(input.from(4 * pairs + row), 2 * c_in);
        every.product(backend, sizes(rest), (last(0), tap(0)), 2 * pairs * c_out, true, None);
        every.product(backend, sizes(rest), (last(2), tap(2)), 2 * pairs * c_out, true, None);
    }
    let mut paired = Place {
        values: y,
        stride: 2 * c_out,
    };
    let outer = tap(0).plus(1.0, &weight[2 * c_in..]);
    let both = twin(c_out as isize, 1.0, true);
    paired.product(backend, sizes(pairs), (input.row(2), outer), 0, true, both);
    paired.product(
        backend,
        sizes(pairs),
        (input.combined(0, -1.0, 2), tap(0)),
        0,
        true,
        None,
    );
    paired.product(
        backend,
        sizes(pairs),
        (input.combined(4, -1.0, 2), tap(2)),
        c_out,
        true,
        None,
    );
}

/// `dx`, written over the whole of it: with `p = dy₀ W₀`, `q = dy₁ W₂` and `r = (dy₀ + dy₁)(W₀ + W₂)`, row a gains p, row c
/// gains q, and row b is `r - p - q`.
pub(super) fn backward_input(backend: &CpuBackend, shape: Conv1d, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    let (c_in, c_out, rows) = (shape.c_in, shape.c_out, shape.out_frames());
    assert_eq!((weight.len(), dy.len()), (c_out * 3 * c_in, rows * c_out), "{shape:?}");
    let (pairs, rest) = divided(rows);
    let sizes = |m| Sizes { m, n: c_in, k: c_out };
    let output = Rows::of_output(shape, dy);
    let tap = |tap: usize| Matrix::rows(&weight[tap * c_in..], 3 * c_in);
    // The first row that no pair writes over, odd ones apart.
    dx[4 * pairs * c_in..].fill(0.0);
    let mut every = Place {
        values: &mut *dx,
        stride: 2 * c_in,
    };
    every.product(
        backend,
        sizes(rows),
        (Matrix::rows(dy, c_out), tap(1)),
        c_in,
        false,
        None,
    );
    if rest > 0 {
        let last = Matrix::rows(output.from(2 * pairs), c_out);
        every.product(backend, sizes(rest), (last, tap(0)), 4 * pairs * c_in, true, None);
        every.product(backend, sizes(rest), (last, tap(2)), (4 * pairs + 2) * c_in, true, None);
    }
    let mut paired = Place {
        values: dx,
        stride: 4 * c_in,
    };
    let b = 2 * c_in;
    let outer = tap(0).plus(1.0, &weight[2 * c_in..]);
    let minus_p = twin(b as isize, -1.0, false);
    paired.product(backend, sizes(pairs), (output.row(0), tap(0)), 0, false, minus_p);
    paired.product(
        backend,
        sizes(pairs),
        (output.combined(0, 1.0, 1), outer),
        b,
        true,
        None,
    );
    let minus_q = twin(-(b as isize), -1.0, true);
    paired.product(backend, sizes(pairs), (output.row(1), tap(2)), 2 * b, true, minus_q);
}

/// `dW += dyᵀ x`: the outer taps share `(dy₀ + dy₁)ᵀ b`; W₀'s gains `dy₀ᵀ (a - b)`, W₂'s `dy₁ᵀ (c - b)`.
pub(super) fn backward_weight(backend: &CpuBackend, shape: Conv1d, x: &[f32], dy: &[f32], dweight: &mut [f32]) {
    let (c_in, c_out, rows) = (shape.c_in, shape.c_out, shape.out_frames());
    assert_eq!((dweight.len(), dy.len()), (c_out * 3 * c_in, rows * c_out), "{shape:?}");
    let (pairs, rest) = divided(rows);
    let sizes = |k| Sizes { m: c_out, n: c_in, k };
    let (input, output) = (Rows::of_input(shape, x), Rows::of_output(shape, dy));
    let mut place = Place {
        values: dweight,
        stride: 3 * c_in,
    };
    let odd_rows = Matrix::rows(input.from(1), 2 * c_in);
    place.product(
        backend,
        sizes(rows),
        (Matrix::transposed(dy, c_out), odd_rows),
        c_in,
        true,
        None,
    );
    if rest > 0 {
        let last = Matrix::transposed(output.from(2 * pairs), c_out);
        for tap in [0, 2] {
            let x = Matrix::rows(input.from(4 * pairs + tap), 2 * c_in);
            place.product(backend, sizes(rest), (last, x), tap * c_in, true, None);
        }
    }
    let both = twin(2 * c_in as isize, 1.0, true);
    let sum = output.combined_columns(0, 1.0, 1);
    place.product(backend, sizes(pairs), (sum, input.row(2)), 0, true, both);
    let (first, second) = (output.column(0), output.column(1));
    place.product(
        backend,
        sizes(pairs),
        (first, input.combined(0, -1.0, 2)),
        0,
        true,
        None,
    );
    place.product(
        backend,
        sizes(pairs),
        (second, input.combined(4, -1.0, 2)),
        2 * c_in,
        true,
        None,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Backend;

    fn values(len: usize, seed: usize) -> Vec<f32> {
        (0..len)
            .map(|i| ((i * 7919 + seed * 104_729) % 2001) as f32 / 1000.0 - 1.0)
            .collect()
    }

    fn assert_close(what: &str, found: &[f32], expected: &[f64]) {
        let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            let error = (f64::from(*found) - expected).abs();
            assert!(error < 2e-6 * largest, "{what} at {index}: {found}, {expected}");
        }
    }

    /// The result and both gradients against f64, for an even and an odd number of rows, with and without an input row
    /// that nothing reads, on one thread and on several; the public operations take this way.
    #[test]
    fn five_products_give_what_six_would() {
        let (c_in, c_out) = (2 * FEWEST, 5 * FEWEST + 8);
        for (rows, unread) in [(2 * FEWEST, 0), (2 * FEWEST + 1, 0), (2 * FEWEST + 9, 1)] {
            let shape = Conv1d {
                padded_frames: 2 * rows + 1 + unread,
                c_in,
                c_out,
                kernel: 3,
                stride: 2,
            };
            assert!(suits(shape) && shape.out_frames() == rows);
            let (x, weight) = (values(shape.padded_frames * c_in, 1), values(c_out * 3 * c_in, 2));
            let (bias, dy, start) = (values(c_out, 3), values(rows * c_out, 4), values(weight.len(), 5));
            let (mut y, mut dx) = (vec![0.0; rows * c_out], vec![0.0; x.len()]);
            let mut dweight: Vec<f64> = start.iter().map(|value| f64::from(*value)).collect();
            for row in 0..rows {
                for output in 0..c_out {
                    let d = f64::from(dy[row * c_out + output]);
                    let sum = &mut y[row * c_out + output];
                    *sum = f64::from(bias[output]);
                    for place in 0..3 * c_in {
                        let (from, to) = (2 * row * c_in + place, output * 3 * c_in + place);
                        *sum += f64::from(x[from]) * f64::from(weight[to]);
                        dx[from] += d * f64::from(weight[to]);
                        dweight[to] += d * f64::from(x[from]);
                    }
                }
            }
            let mut results = Vec::new();
            for threads in [1, 2, 3] {
                let backend = CpuBackend::new(threads).unwrap();
                let (mut pre, mut active) = (vec![f32::NAN; y.len()], vec![f32::NAN; y.len()]);
                backend.conv1d_gelu(shape, &x, &weight, &bias, &mut pre, &mut active);
                assert_close("y", &pre, &y);
                let mut again = pre.clone();
                backend.gelu(&mut again);
                assert_eq!(active, again);
                let mut found = vec![f32::NAN; dx.len()];
                backend.conv1d_backward_input(shape, &dy, &weight, &mut found);
                assert_close("dx", &found, &dx);
                let mut gradient = start.clone();
                backend.conv1d_backward_weight(shape, &x, &dy, &mut gradient);
                assert_close("dW", &gradient, &dweight);
                results.push((pre, found, gradient));
            }
            assert!(results.iter().all(|result| *result == results[0]), "threads matter");
        }
    }
}
