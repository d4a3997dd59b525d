//! The operations that only the wav2vec2 family needs, against plain f64 versions of them and central differences.

mod common;

use aurist::engine::{Attention, Backend, GroupedConv1d, RelativeBias, RelativeBiasGradient, Rows};
use common::finite_differences::{assert_close, backends, differences, gelu, random, single};

#[test]
fn gelu_in_place() {
    let x = random(1000, 1);
    for backend in backends() {
        let mut y = single(&x);
        backend.gelu(&mut y);
        assert_close("gelu", &y, &x.iter().map(|&x| gelu(x)).collect::<Vec<_>>(), 1e-6);
    }
}

fn channel_norm_gelu(shape: Rows, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let (rows, cols) = (shape.rows, shape.cols);
    let mut y = vec![0.0; rows * cols];
    for col in 0..cols {
        let column: Vec<f64> = (0..rows).map(|row| x[row * cols + col]).collect();
        let mean = column.iter().sum::<f64>() / rows as f64;
        let variance = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / rows as f64;
        for row in 0..rows {
            let normalised = (column[row] - mean) / (variance + 1e-5).sqrt();
            y[row * cols + col] = gelu(normalised * weight[col] + bias[col]);
        }
    }
    y
}

#[test]
fn channel_norm_with_gelu_and_its_gradients() {
    for (rows, cols) in [(2, 1), (9, 5), (40, 70), (33, 130)] {
        let shape = Rows { rows, cols };
        // An offset per channel, as a convolution leaves: it must cancel without loss.
        let x: Vec<f64> = random(rows * cols, 1)
            .iter()
            .enumerate()
            .map(|(index, x)| (x + (index % cols) as f64 * 0.5) as f32 as f64)
            .collect();
        let (weight, bias, cotangent) = (random(cols, 2), random(cols, 3), random(rows * cols, 4));
        let exact_dx = differences(&x, &cotangent, |x| channel_norm_gelu(shape, x, &weight, &bias));
        let exact_dweight = differences(&weight, &cotangent, |w| channel_norm_gelu(shape, &x, w, &bias));
        let exact_dbias = differences(&bias, &cotangent, |b| channel_norm_gelu(shape, &x, &weight, b));
        for backend in backends() {
            let (x32, weight32, bias32, dy) = (single(&x), single(&weight), single(&bias), single(&cotangent));
            let (mut y, mut statistics) = (vec![f32::NAN; rows * cols], vec![f32::NAN; cols * 2]);
            backend.channel_norm_gelu(shape, None, &x32, &weight32, &bias32, &mut y, &mut statistics);
            assert_close("y", &y, &channel_norm_gelu(shape, &x, &weight, &bias), 1e-5);
            let (mut dx, parameters) = (dy.clone(), (&weight32[..], &bias32[..]));
            let (mut dweight, mut dbias) = (vec![0.0; cols], vec![0.0; cols]);
            let gradients = (Some(&mut dweight[..]), Some(&mut dbias[..]));
            backend.channel_norm_gelu_backward(
                shape,
                None,
                &x32,
                &statistics,
                parameters,
                &mut dx,
                gradients.0,
                gradients.1,
            );
            // With two rows the input's gradient nearly vanishes: then f32's share of the terms decides.
            if rows > 2 {
                assert_close("dx", &dx, &exact_dx, 1e-4);
            }
            assert_close("dweight", &dweight, &exact_dweight, 1e-4);
            assert_close("dbias", &dbias, &exact_dbias, 1e-4);
            // Frozen parameters cost nothing and change nothing.
            let mut again = dy.clone();
            backend.channel_norm_gelu_backward(shape, None, &x32, &statistics, parameters, &mut again, None, None);
            assert_eq!(again, dx);
        }
    }
}

/// Longer than a block and than a task of the CPU's sums, on one thread and on several: the same to the last bit.
#[test]
fn a_long_channel_norm_is_exact_and_does_not_depend_on_the_number_of_threads() {
    let shape = Rows { rows: 2500, cols: 3 };
    let x: Vec<f64> = random(shape.rows * shape.cols, 1)
        .iter()
        .map(|x| (x + 30.0) as f32 as f64)
        .collect();
    let (weight, bias, dy) = (random(3, 2), random(3, 3), random(shape.rows * shape.cols, 4));
    let expected = channel_norm_gelu(shape, &x, &weight, &bias);
    let (x, weight, bias, dy) = (single(&x), single(&weight), single(&bias), single(&dy));
    let results: Vec<_> = backends()
        .iter()
        .map(|backend| {
            let (mut y, mut statistics) = (vec![f32::NAN; x.len()], vec![f32::NAN; 6]);
            backend.channel_norm_gelu(shape, None, &x, &weight, &bias, &mut y, &mut statistics);
            assert_close("y", &y, &expected, 1e-5);
            let (mut d, mut dweight) = (dy.clone(), vec![0.0; 3]);
            let parameters = (&weight[..], &bias[..]);
            backend.channel_norm_gelu_backward(
                shape,
                None,
                &x,
                &statistics,
                parameters,
                &mut d,
                Some(&mut dweight),
                None,
            );
            (y, statistics, d, dweight)
        })
        .collect();
    assert!(results.iter().all(|result| *result == results[0]));
}

fn grouped_convolution(shape: GroupedConv1d, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let (width, channels) = (shape.channels / shape.groups, shape.channels);
    let mut y = vec![0.0; shape.frames * channels];
    for t in 0..shape.frames {
        for output in 0..channels {
            let mut sum = bias[output];
            for tap in 0..shape.kernel {
                let Some(row) = (t + tap).checked_sub(shape.padding).filter(|row| *row < shape.frames) else {
                    continue;
                };
                for input in 0..width {
                    let first = output / width * width;
                    sum += x[row * channels + first + input] * weight[(output * shape.kernel + tap) * width + input];
                }
            }
            y[t * channels + output] = sum;
        }
    }
    y
}

fn grouped_shapes() -> [GroupedConv1d; 8] {
    // An even kernel, as wav2vec2's; an odd one, as data2vec's; one longer than the input; one group; one channel each;
    // then taps enough to be prepared: a block, more than one, and more taps than frames.
    [
        (9, 6, 3, 4),
        (7, 8, 2, 5),
        (2, 4, 2, 8),
        (5, 3, 1, 3),
        (6, 3, 3, 2),
        (14, 4, 2, 16),
        (40, 6, 2, 19),
        (5, 2, 2, 32),
    ]
    .map(|(frames, channels, groups, kernel)| GroupedConv1d {
        frames,
        channels,
        groups,
        kernel,
        padding: kernel / 2,
    })
}

#[test]
fn grouped_convolution_and_its_gradients() {
    for shape in grouped_shapes() {
        let values = shape.frames * shape.channels;
        let (x, weight, bias) = (
            random(values, 1),
            random(shape.weight_len(), 2),
            random(shape.channels, 3),
        );
        let (cotangent, start) = (random(values, 4), random(values, 5));
        let exact_dx = differences(&x, &cotangent, |x| grouped_convolution(shape, x, &weight, &bias));
        let exact_dweight = differences(&weight, &cotangent, |w| grouped_convolution(shape, &x, w, &bias));
        for backend in backends() {
            let (x32, weight32, dy) = (single(&x), single(&weight), single(&cotangent));
            let mut scratch = vec![f32::NAN; backend.grouped_conv1d_scratch(shape)];
            let mut y = vec![f32::NAN; values];
            backend.grouped_conv1d(shape, &x32, &weight32, &single(&bias), &mut y, &mut scratch);
            assert_close("y", &y, &grouped_convolution(shape, &x, &weight, &bias), 1e-5);
            let mut dx = vec![f32::NAN; values];
            backend.grouped_conv1d_backward_input(shape, &dy, &weight32, &mut dx, false, &mut scratch);
            assert_close("dx", &dx, &exact_dx, 1e-5);
            let mut dx = single(&start);
            backend.grouped_conv1d_backward_input(shape, &dy, &weight32, &mut dx, true, &mut scratch);
            let sum: Vec<f64> = exact_dx.iter().zip(&start).map(|(dx, start)| dx + start).collect();
            assert_close("dx accumulated", &dx, &sum, 1e-5);
            let prepared = backend.prepare_grouped_conv1d(shape, &weight32);
            assert_eq!(prepared.is_some(), shape.kernel >= 16);
            if let Some(prepared) = prepared {
                let mut y = vec![f32::NAN; values];
                backend.prepared_grouped_conv1d(shape, &x32, &prepared, &single(&bias), &mut y);
                assert_close("y, prepared", &y, &grouped_convolution(shape, &x, &weight, &bias), 1e-5);
                let mut dx = vec![f32::NAN; values];
                backend.prepared_grouped_conv1d_backward_input(shape, &dy, &prepared, &mut dx, false);
                assert_close("dx, prepared", &dx, &exact_dx, 1e-5);
                let mut dx = single(&start);
                backend.prepared_grouped_conv1d_backward_input(shape, &dy, &prepared, &mut dx, true);
                assert_close("dx accumulated, prepared", &dx, &sum, 1e-5);
            }
            let mut dweight = vec![0.0; shape.weight_len()];
            backend.grouped_conv1d_backward_weight(shape, &x32, &dy, &mut dweight, &mut scratch);
            assert_close("dW", &dweight, &exact_dweight, 1e-5);
        }
    }
}

fn weight_norm(shape: GroupedConv1d, direction: &[f64], magnitude: &[f64]) -> Vec<f64> {
    let width = shape.group();
    let tap = |index: usize| index / width % shape.kernel;
    let mut squares = vec![0.0; shape.kernel];
    for (index, value) in direction.iter().enumerate() {
        squares[tap(index)] += value * value;
    }
    let scaled = direction.iter().enumerate();
    scaled
        .map(|(index, value)| magnitude[tap(index)] * value / squares[tap(index)].sqrt())
        .collect()
}

#[test]
fn weight_norm_and_its_gradients() {
    for shape in grouped_shapes() {
        let (direction, magnitude) = (random(shape.weight_len(), 1), random(shape.kernel, 2));
        let cotangent = random(shape.weight_len(), 3);
        for backend in backends() {
            let (direction32, magnitude32) = (single(&direction), single(&magnitude));
            let mut weight = vec![f32::NAN; shape.weight_len()];
            backend.weight_norm(shape, &direction32, &magnitude32, &mut weight);
            assert_close("W", &weight, &weight_norm(shape, &direction, &magnitude), 1e-6);
            let (mut ddirection, mut dmagnitude) = (vec![0.0; shape.weight_len()], vec![0.0; shape.kernel]);
            backend.weight_norm_backward(
                shape,
                &direction32,
                &magnitude32,
                &single(&cotangent),
                Some(&mut ddirection),
                Some(&mut dmagnitude),
            );
            let exact = differences(&direction, &cotangent, |v| weight_norm(shape, v, &magnitude));
            assert_close("dv", &ddirection, &exact, 1e-5);
            let exact = differences(&magnitude, &cotangent, |g| weight_norm(shape, &direction, g));
            assert_close("dg", &dmagnitude, &exact, 1e-5);
        }
    }
}

/// Attention with `gate[h, i] · table[h, j - i]` added to the scores.
fn attend(shape: Attention, qkv: &[f64], gate: &[f64], table: &[f64]) -> Vec<f64> {
    let (frames, dim, width) = (shape.frames, shape.head_dim, shape.width());
    let mut out = vec![0.0; frames * width];
    for head in 0..shape.heads {
        let at = |row: usize, which: usize| row * 3 * width + which * width + head * dim;
        for i in 0..frames {
            let scores: Vec<f64> = (0..frames)
                .map(|j| {
                    let (q, k) = (&qkv[at(i, 0)..at(i, 0) + dim], &qkv[at(j, 1)..at(j, 1) + dim]);
                    let product: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                    let bias = table[head * (2 * frames - 1) + j + frames - 1 - i];
                    product / (dim as f64).sqrt() + gate[head * frames + i] * bias
                })
                .collect();
            let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
            for (j, score) in scores.iter().enumerate() {
                let probability = (score - highest).exp() / sum;
                for d in 0..dim {
                    out[i * width + head * dim + d] += probability * qkv[at(j, 2) + d];
                }
            }
        }
    }
    out
}

#[test]
fn attention_with_a_gated_relative_bias_and_its_gradients() {
    for (frames, heads, head_dim) in [(1, 1, 2), (6, 2, 3), (13, 3, 4), (200, 1, 1)] {
        let shape = Attention {
            frames,
            heads,
            head_dim,
        };
        let (qkv, cotangent) = (random(frames * 3 * shape.width(), 1), random(frames * shape.width(), 2));
        let (gate, table) = (random(heads * frames, 3), random(heads * (2 * frames - 1), 4));
        let exact_dqkv = differences(&qkv, &cotangent, |qkv| attend(shape, qkv, &gate, &table));
        let exact_dgate = differences(&gate, &cotangent, |gate| attend(shape, &qkv, gate, &table));
        let exact_dtable = differences(&table, &cotangent, |table| attend(shape, &qkv, &gate, table));
        for backend in backends() {
            let mut scratch = vec![f32::NAN; backend.attention_scratch(shape)];
            let (mut out, mut log_sum_exp) = (vec![f32::NAN; cotangent.len()], vec![f32::NAN; heads * frames]);
            let (qkv32, gate32, table32, dout) = (single(&qkv), single(&gate), single(&table), single(&cotangent));
            let bias = RelativeBias {
                gate: &gate32[..],
                table: &table32[..],
            };
            backend.attention(
                shape,
                None,
                &qkv32,
                Some(bias),
                &mut out,
                &mut log_sum_exp,
                &mut scratch,
            );
            assert_close("out", &out, &attend(shape, &qkv, &gate, &table), 1e-5);
            let (mut dgate, mut dtable) = (vec![f32::NAN; gate.len()], vec![0.0; table.len()]);
            let mut dqkv = vec![f32::NAN; qkv.len()];
            let gradient = RelativeBiasGradient {
                gate: &mut dgate[..],
                table: Some(&mut dtable[..]),
            };
            let bias = Some((bias, gradient));
            backend.attention_backward(
                shape,
                None,
                &qkv32,
                bias,
                &out,
                &log_sum_exp,
                &dout,
                &mut dqkv,
                &mut scratch,
            );
            assert_close("dqkv", &dqkv, &exact_dqkv, 2e-5);
            if frames > 1 {
                assert_close("dgate", &dgate, &exact_dgate, 2e-5);
                assert_close("dtable", &dtable, &exact_dtable, 2e-5);
            }
        }
    }
}

fn relative_gate(shape: Rows, projection: &[f64], constant: &[f64]) -> Vec<f64> {
    let (frames, heads) = (shape.rows, shape.cols);
    let sigmoid = |values: &[f64]| 1.0 / (1.0 + (-values.iter().sum::<f64>()).exp());
    let mut gate = vec![0.0; frames * heads];
    for (index, row) in projection.chunks(8).enumerate() {
        let (frame, head) = (index / heads, index % heads);
        gate[head * frames + frame] = sigmoid(&row[..4]) * (sigmoid(&row[4..]) * constant[head] - 1.0) + 2.0;
    }
    gate
}

#[test]
fn the_relative_gate_and_table_and_their_gradients() {
    let shape = Rows { rows: 5, cols: 3 };
    let (projection, constant, cotangent) = (random(5 * 3 * 8, 1), random(3, 2), random(15, 3));
    let (buckets, embedding) = ([0u32, 2, 1, 2, 3, 0, 3], random(4 * 3, 4));
    let table_of = |embedding: &[f64]| -> Vec<f64> {
        let heads = (0..3).flat_map(|head| buckets.map(|bucket| (head, bucket as usize)));
        heads.map(|(head, bucket)| embedding[bucket * 3 + head]).collect()
    };
    let table_cotangent = random(21, 5);
    for backend in backends() {
        let (projection32, constant32) = (single(&projection), single(&constant));
        let mut gate = vec![f32::NAN; 15];
        backend.relative_gate(shape, &projection32, &constant32, &mut gate);
        assert_close("gate", &gate, &relative_gate(shape, &projection, &constant), 1e-6);
        let (mut dprojection, mut dconstant) = (vec![f32::NAN; projection.len()], vec![0.0; 3]);
        let dgate = single(&cotangent);
        backend.relative_gate_backward(
            shape,
            &projection32,
            &constant32,
            &dgate,
            &mut dprojection,
            Some(&mut dconstant),
        );
        let exact = differences(&projection, &cotangent, |p| relative_gate(shape, p, &constant));
        assert_close("dprojection", &dprojection, &exact, 1e-5);
        let exact = differences(&constant, &cotangent, |c| relative_gate(shape, &projection, c));
        assert_close("dconstant", &dconstant, &exact, 1e-5);

        let mut table = vec![f32::NAN; 21];
        backend.relative_table(&buckets, 3, &single(&embedding), &mut table);
        assert_close("table", &table, &table_of(&embedding), 1e-7);
        let mut dembedding = vec![0.0; 12];
        backend.relative_table_backward(&buckets, 3, &single(&table_cotangent), &mut dembedding);
        let exact = differences(&embedding, &table_cotangent, table_of);
        assert_close("dembedding", &dembedding, &exact, 1e-5);
    }
}
