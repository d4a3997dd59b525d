//! Products against f64, and whatever the number of threads.

use super::*;

pub(super) fn values(len: usize, seed: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i * 7919 + seed * 104_729) % 2001) as f32 / 1000.0 - 1.0)
        .collect()
}

fn ways() -> Vec<Way> {
    let mut levels = vec![Level::Plain];
    if simd::level() != Level::Plain {
        levels.push(Level::Avx2);
    }
    if simd::level() == Level::Avx512 {
        levels.push(Level::Avx512);
    }
    let mut ways: Vec<Way> = levels.into_iter().map(Way::Vector).collect();
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if amx::is_available() {
        ways.push(Way::Amx);
    }
    ways
}

/// Against f64, at sizes around every block's edge, for each instruction set of this machine and each way an operand
/// can lie; what is beside the result must stay.
#[test]
fn products_agree_with_f64_at_ragged_sizes() {
    let sizes = [
        (1, 1, 1),
        (5, 17, 3),
        (16, 16, 8),
        (31, 33, 127),
        (13, 321, 40),
        (47, 400, 257),
        (100, 20, 600),
        (13, 100, 600),
        (1030, 7, 19),
    ];
    for (m, n, k) in sizes {
        for (a_turned, b_turned) in [(false, false), (false, true), (true, false), (true, true)] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let (left, right) = (matrix(&a, a_turned, m, k), matrix(&b, b_turned, k, n));
            let at = |matrix: Matrix<'_>, row: usize, col: usize| {
                f64::from(matrix.values[row * matrix.row_stride + col * matrix.col_stride])
            };
            for way in ways() {
                for accumulate in [false, true] {
                    let stride = n + 3;
                    let before = values(m * stride, 3);
                    let mut c = before.clone();
                    let target = Target {
                        start: c.as_mut_ptr(),
                        stride,
                        accumulate,
                        twin: None,
                    };
                    // SAFETY: c holds m rows of n + 3 values and is this test's own.
                    unsafe { unit_product(way, &(0..m), &(0..n), k, 0.5, left, right, target) };
                    for row in 0..m {
                        for col in 0..stride {
                            let found = f64::from(c[row * stride + col]);
                            let mut expected = f64::from(before[row * stride + col]);
                            if col < n {
                                let sum: f64 = (0..k).map(|i| at(left, row, i) * at(right, i, col)).sum();
                                expected = 0.5 * sum + if accumulate { expected } else { 0.0 };
                            }
                            let error = (found - expected).abs();
                            assert!(error < 1e-5 * (k as f64).sqrt(), "{way:?} {m}x{n}x{k} at {row}, {col}");
                        }
                    }
                }
            }
        }
    }
}

fn matrix(values: &[f32], turned: bool, rows: usize, cols: usize) -> Matrix<'_> {
    if turned {
        Matrix::transposed(values, rows)
    } else {
        Matrix::rows(values, cols)
    }
}

/// An operand that is a sum of two, however it lies, and a result that goes to two places.
#[test]
fn sums_of_operands_and_second_places() {
    for (m, n, k) in [(16, 9, 5), (29, 70, 391), (130, 333, 40)] {
        for (a_turned, b_turned) in [(false, false), (false, true), (true, false), (true, true)] {
            let (a, b) = (values(2 * m * k, 1), values(2 * k * n, 2));
            let left = matrix(&a[..m * k], a_turned, m, k);
            let right = matrix(&b[..k * n], b_turned, k, n);
            let at = |matrix: Matrix<'_>, row: usize, col: usize| {
                f64::from(matrix.value(row * matrix.row_stride + col * matrix.col_stride))
            };
            let (left, right) = (left.plus(-1.0, &a[m * k..]), right.plus(1.0, &b[k * n..]));
            for way in ways() {
                let mut c = values(2 * m * n, 3);
                let before = c.clone();
                let target = Target {
                    start: c.as_mut_ptr(),
                    stride: n,
                    accumulate: false,
                    twin: Some(Twin {
                        offset: (m * n) as isize,
                        factor: -0.5,
                        accumulate: true,
                    }),
                };
                // SAFETY: c holds both results and is this test's own.
                unsafe { unit_product(way, &(0..m), &(0..n), k, 2.0, left, right, target) };
                for row in 0..m {
                    for col in 0..n {
                        let sum: f64 = (0..k).map(|i| at(left, row, i) * at(right, i, col)).sum();
                        let place = row * n + col;
                        let (first, second) = (2.0 * sum, f64::from(before[m * n + place]) - sum);
                        for (found, expected) in [(c[place], first), (c[m * n + place], second)] {
                            let error = (f64::from(found) - expected).abs();
                            assert!(error < 1e-5 * (k as f64).sqrt(), "{way:?} {m}x{n}x{k} at {row}, {col}");
                        }
                    }
                }
            }
        }
    }
}

/// However the work is shared out, each value is summed in the same order.
#[test]
fn the_number_of_threads_changes_nothing() {
    for (m, n, k) in [(3, 500, 64), (40, 500, 300), (700, 90, 64), (2500, 40, 20)] {
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let results: Vec<Vec<f32>> = [1, 2, 3, 7]
            .into_iter()
            .map(|threads| {
                let backend = CpuBackend::new(threads).unwrap();
                let mut c = vec![0.0; m * n];
                let target = Target {
                    start: c.as_mut_ptr(),
                    stride: n,
                    accumulate: false,
                    twin: None,
                };
                let (a, b) = (Matrix::rows(&a, k), Matrix::rows(&b, n));
                // SAFETY: c holds the result and is this test's own.
                unsafe { multiply(Some(&backend), Sizes { m, n, k }, 1.0, a, b, target, |_, _| {}) };
                c
            })
            .collect();
        assert!(results.iter().all(|result| *result == results[0]), "{m}x{n}x{k}");
    }
}

/// Against f64, for each instruction set of this machine: sizes around every tile's edge, operands that lie apart, and what
/// is beside the result, which must stay.
#[test]
fn few_rows_agree_with_f64() {
    let levels = ways().into_iter().filter_map(|way| match way {
        Way::Vector(level) => Some(level),
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Way::Amx => None,
    });
    for level in levels {
        for (rows, cols, depth) in (1..=9).flat_map(|m| [(m, 1, 1), (m, 7, 64), (m, 17, 67), (m, 35, 15), (m, 8, 384)])
        {
            for accumulate in [false, true] {
                let (left_stride, right_stride, stride) = (depth + 2, 2 * depth + 1, cols + 3);
                let (left, right) = (values(rows * left_stride, 1), values(cols * right_stride, 2));
                let before = values(rows * stride, 3);
                let mut result = before.clone();
                let product = FewRows {
                    rows,
                    cols,
                    depth,
                    left: (&left, left_stride),
                    right: (&right, right_stride),
                    scale: 0.5,
                    result: (result.as_mut_ptr(), stride),
                    accumulate,
                };
                // SAFETY: the result has so many rows of so many values and is this test's own.
                unsafe { few_rows::multiply(level, &product) };
                for (index, (found, before)) in result.iter().zip(&before).enumerate() {
                    let (row, col) = (index / stride, index % stride);
                    if col >= cols {
                        assert_eq!(found, before, "beside the result");
                        continue;
                    }
                    let products = left[row * left_stride..][..depth]
                        .iter()
                        .zip(&right[col * right_stride..]);
                    let sum: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    let expected = 0.5 * sum + if accumulate { f64::from(*before) } else { 0.0 };
                    let difference = (f64::from(*found) - expected).abs();
                    assert!(
                        difference < 2e-5,
                        "{level:?} {rows} x {cols} x {depth}: {found} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "an operand is too short")]
fn few_rows_do_not_read_past_an_operand() {
    let (left, right, mut result) = ([0.0; 8], [0.0; 7], [0.0; 2]);
    let product = FewRows {
        rows: 2,
        cols: 1,
        depth: 8,
        left: (&left, 0),
        right: (&right, 8),
        scale: 1.0,
        result: (result.as_mut_ptr(), 1),
        accumulate: false,
    };
    // SAFETY: the result is this test's own.
    unsafe { multiply_few_rows(&product) };
}
