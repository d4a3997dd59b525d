//! Every operation's forward against a plain f64 version of it, and every gradient against central differences of that
//! version: the arithmetic here shares nothing with the engine's.

mod common;

use aurist::engine::cpu::CpuBackend;
use aurist::engine::{AdamW, Attention, Backend, Conv1d, Linear, ObjectiveTerms, Rows};
use common::finite_differences::{assert_close, backends, differences, dot, gelu, random, single};

fn matmul_transposed(x: &[f64], stride: usize, weight: &[f64], shape: Linear) -> Vec<f64> {
    let rows = (0..shape.rows).flat_map(|row| (0..shape.outputs).map(move |output| (row, output)));
    rows.map(|(row, output)| {
        dot(
            &x[row * stride..row * stride + shape.inputs],
            &weight[output * shape.inputs..(output + 1) * shape.inputs],
        )
    })
    .collect()
}

#[test]
fn linear_and_its_three_gradients() {
    for (rows, inputs, outputs) in [(1, 1, 1), (7, 5, 3), (33, 40, 17), (5, 64, 96)] {
        let shape = Linear::new(rows, inputs, outputs);
        let (x, weight, bias) = (
            random(rows * inputs, 1),
            random(outputs * inputs, 2),
            random(outputs, 3),
        );
        let (cotangent, start) = (random(rows * outputs, 4), random(rows * outputs, 5));
        let forward = |x: &[f64], weight: &[f64], bias: &[f64]| -> Vec<f64> {
            let y = matmul_transposed(x, inputs, weight, shape);
            y.iter()
                .enumerate()
                .map(|(index, y)| y + bias[index % outputs])
                .collect()
        };
        for backend in backends() {
            let (x32, weight32, dy) = (single(&x), single(&weight), single(&cotangent));
            let mut y = vec![f32::NAN; rows * outputs];
            backend.linear(shape, &x32, &weight32, Some(&single(&bias)), &mut y, false);
            let exact = forward(&x, &weight, &bias);
            assert_close("y", &y, &exact, 1e-5);
            let mut y = single(&start);
            backend.linear(shape, &x32, &weight32, None, &mut y, true);
            let no_bias = matmul_transposed(&x, inputs, &weight, shape);
            let sum: Vec<f64> = no_bias.iter().zip(&start).map(|(y, start)| y + start).collect();
            assert_close("y accumulated", &y, &sum, 1e-5);

            let mut dx = vec![f32::NAN; rows * inputs];
            backend.linear_backward_input(shape, &dy, &weight32, &mut dx, false);
            assert_close(
                "dx",
                &dx,
                &differences(&x, &cotangent, |x| forward(x, &weight, &bias)),
                1e-5,
            );
            let mut dweight = vec![0.0; outputs * inputs];
            backend.linear_backward_weight(shape, &x32, &dy, &mut dweight);
            assert_close(
                "dW",
                &dweight,
                &differences(&weight, &cotangent, |w| forward(&x, w, &bias)),
                1e-5,
            );
            let mut dbias = vec![0.0; outputs];
            backend.bias_backward(Rows { rows, cols: outputs }, &dy, &mut dbias);
            assert_close(
                "db",
                &dbias,
                &differences(&bias, &cotangent, |b| forward(&x, &weight, b)),
                1e-5,
            );
        }
    }
}

#[test]
fn parameter_gradients_accumulate() {
    let backend = CpuBackend::new(2).unwrap();
    let shape = Linear::new(3, 4, 5);
    let (x, dy) = (single(&random(12, 1)), single(&random(15, 2)));
    let mut once = vec![0.0; 20];
    backend.linear_backward_weight(shape, &x, &dy, &mut once);
    let mut twice = once.clone();
    backend.linear_backward_weight(shape, &x, &dy, &mut twice);
    for (twice, once) in twice.iter().zip(&once) {
        assert!((twice - 2.0 * once).abs() < 1e-6);
    }
}

#[test]
fn strided_convolution_with_gelu_and_its_gradients() {
    for (padded_frames, c_in, c_out, kernel, stride) in [
        (3, 1, 1, 3, 1),
        (9, 3, 5, 3, 1),
        (12, 4, 6, 3, 2),
        (11, 2, 3, 3, 2),
        (21, 1, 4, 10, 5),
    ] {
        let shape = Conv1d {
            padded_frames,
            c_in,
            c_out,
            kernel,
            stride,
        };
        let out_frames = (padded_frames - kernel) / stride + 1;
        assert_eq!(shape.out_frames(), out_frames);
        let (x, weight, bias) = (
            random(padded_frames * c_in, 1),
            random(c_out * kernel * c_in, 2),
            random(c_out, 3),
        );
        let cotangent = random(out_frames * c_out, 4);
        // By the definition, one product at a time.
        let convolve = |x: &[f64], weight: &[f64], bias: &[f64]| -> Vec<f64> {
            let mut y = Vec::new();
            for frame in 0..out_frames {
                for output in 0..c_out {
                    let mut sum = bias[output];
                    for tap in 0..kernel {
                        for input in 0..c_in {
                            let value = x[(frame * stride + tap) * c_in + input];
                            sum += value * weight[(output * kernel + tap) * c_in + input];
                        }
                    }
                    y.push(sum);
                }
            }
            y
        };
        let forward = |x: &[f64], w: &[f64], b: &[f64]| convolve(x, w, b).into_iter().map(gelu).collect::<Vec<_>>();
        for backend in backends() {
            let (x32, weight32) = (single(&x), single(&weight));
            let (mut pre, mut y) = (vec![f32::NAN; out_frames * c_out], vec![f32::NAN; out_frames * c_out]);
            backend.conv1d_gelu(shape, &x32, &weight32, &single(&bias), &mut pre, &mut y);
            assert_close("pre", &pre, &convolve(&x, &weight, &bias), 1e-5);
            assert_close("y", &y, &forward(&x, &weight, &bias), 1e-5);
            let mut d = single(&cotangent);
            backend.gelu_backward(&pre, &mut d);
            let mut dx = vec![f32::NAN; padded_frames * c_in];
            backend.conv1d_backward_input(shape, &d, &weight32, &mut dx);
            assert_close(
                "dx",
                &dx,
                &differences(&x, &cotangent, |x| forward(x, &weight, &bias)),
                2e-5,
            );
            let mut dweight = vec![0.0; weight.len()];
            backend.conv1d_backward_weight(shape, &x32, &d, &mut dweight);
            assert_close(
                "dW",
                &dweight,
                &differences(&weight, &cotangent, |w| forward(&x, w, &bias)),
                2e-5,
            );
            let mut dbias = vec![0.0; c_out];
            backend.bias_backward(
                Rows {
                    rows: out_frames,
                    cols: c_out,
                },
                &d,
                &mut dbias,
            );
            assert_close(
                "db",
                &dbias,
                &differences(&bias, &cotangent, |b| forward(&x, &weight, b)),
                2e-5,
            );
        }
    }
}

#[test]
fn gelu_and_its_derivative_where_they_bend() {
    let backend = CpuBackend::new(1).unwrap();
    let x: Vec<f64> = (0..=800).map(|i| (-4.0 + 0.01 * i as f64) as f32 as f64).collect();
    let (zero, one) = (vec![0.0f32; x.len()], vec![1.0f32; x.len()]);
    let (mut pre, mut y) = (vec![0.0f32; x.len()], vec![0.0f32; x.len()]);
    let shape = Linear::new(1, 1, x.len());
    // One row, one input of 1: the weights are the pre-activations.
    backend.linear_gelu(shape, &[1.0], &single(&x), &zero, &mut pre, &mut y);
    let mut d = one;
    backend.gelu_backward(&pre, &mut d);
    for (index, &x) in x.iter().enumerate() {
        let h = 1e-5;
        let slope = (gelu(x + h) - gelu(x - h)) / (2.0 * h);
        assert!((y[index] as f64 - gelu(x)).abs() < 1e-6, "gelu({x})");
        assert!(
            (d[index] as f64 - slope).abs() < 2e-6,
            "gelu'({x}): {} against {slope}",
            d[index]
        );
    }
}

#[test]
fn layer_norm_and_its_gradients() {
    for (rows, cols) in [(1, 3), (5, 7), (19, 48), (3, 100)] {
        let (mut x, weight, bias) = (random(rows * cols, 1), random(cols, 2), random(cols, 3));
        // An offset that a one-pass variance would trip over.
        x.iter_mut().for_each(|x| *x = (*x + 30.0) as f32 as f64);
        let (cotangent, start) = (random(rows * cols, 4), random(rows * cols, 5));
        let forward = |x: &[f64], weight: &[f64], bias: &[f64]| -> Vec<f64> {
            let normalised = x.chunks(cols).flat_map(|row| {
                let mean = row.iter().sum::<f64>() / cols as f64;
                let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / cols as f64;
                row.iter()
                    .map(move |x| (x - mean) / (variance + 1e-5).sqrt())
                    .collect::<Vec<_>>()
            });
            normalised
                .enumerate()
                .map(|(index, x)| x * weight[index % cols] + bias[index % cols])
                .collect()
        };
        let shape = Rows { rows, cols };
        for backend in backends() {
            let (x32, weight32, dy) = (single(&x), single(&weight), single(&cotangent));
            let (mut y, mut statistics) = (vec![f32::NAN; rows * cols], vec![f32::NAN; rows * 2]);
            backend.layer_norm(shape, &x32, &weight32, &single(&bias), &mut y, &mut statistics);
            assert_close("y", &y, &forward(&x, &weight, &bias), 2e-5);
            let exact = differences(&x, &cotangent, |x| forward(x, &weight, &bias));
            let mut dx = vec![f32::NAN; rows * cols];
            backend.layer_norm_backward_input(shape, &x32, &statistics, &weight32, &dy, &mut dx, false);
            assert_close("dx", &dx, &exact, 5e-5);
            let mut dx = single(&start);
            backend.layer_norm_backward_input(shape, &x32, &statistics, &weight32, &dy, &mut dx, true);
            let sum: Vec<f64> = exact.iter().zip(&start).map(|(d, start)| d + start).collect();
            assert_close("dx accumulated", &dx, &sum, 5e-5);
            let (mut dweight, mut dbias) = (vec![0.0; cols], vec![0.0; cols]);
            backend.layer_norm_backward_parameters(shape, &x32, &statistics, &dy, Some(&mut dweight), Some(&mut dbias));
            assert_close(
                "dγ",
                &dweight,
                &differences(&weight, &cotangent, |w| forward(&x, w, &bias)),
                2e-5,
            );
            assert_close(
                "dβ",
                &dbias,
                &differences(&bias, &cotangent, |b| forward(&x, &weight, b)),
                2e-5,
            );
            let activated = |x: &[f64], weight: &[f64], bias: &[f64]| -> Vec<f64> {
                forward(x, weight, bias).into_iter().map(gelu).collect()
            };
            let (mut d, mut dx) = (dy.clone(), vec![f32::NAN; rows * cols]);
            let (mut dweight, mut dbias) = (vec![0.0; cols], vec![0.0; cols]);
            let (parameters, both) = (
                [&weight32[..], &single(&bias)],
                [Some(&mut dweight[..]), Some(&mut dbias[..])],
            );
            backend.layer_norm_gelu_backward(shape, &x32, &statistics, parameters, &mut d, &mut dx, both);
            let exact = differences(&x, &cotangent, |x| activated(x, &weight, &bias));
            // What the offset rounds away of x̂ moves the slope.
            assert_close("dx through a GELU", &dx, &exact, 3e-4);
            let exact = differences(&weight, &cotangent, |w| activated(&x, w, &bias));
            assert_close("dγ through a GELU", &dweight, &exact, 2e-5);
            let exact = differences(&bias, &cotangent, |b| activated(&x, &weight, b));
            assert_close("dβ through a GELU", &dbias, &exact, 2e-5);
        }
    }
}

/// All heads, by the definition; returns the output and each row's log-sum-exp, `[heads, T]`.
fn attend(shape: Attention, qkv: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (frames, width, dim) = (shape.frames, shape.heads * shape.head_dim, shape.head_dim);
    let at = |frame: usize, part: usize, head: usize| {
        let start = (frame * 3 + part) * width + head * dim;
        &qkv[start..start + dim]
    };
    let (mut out, mut log_sum_exp) = (vec![0.0; frames * width], vec![0.0; shape.heads * frames]);
    for head in 0..shape.heads {
        for query in 0..frames {
            let scores: Vec<f64> = (0..frames)
                .map(|key| dot(at(query, 0, head), at(key, 1, head)) / (dim as f64).sqrt())
                .collect();
            let sum: f64 = scores.iter().map(|score| score.exp()).sum();
            log_sum_exp[head * frames + query] = sum.ln();
            for (key, score) in scores.iter().enumerate() {
                for (index, value) in at(key, 2, head).iter().enumerate() {
                    out[query * width + head * dim + index] += score.exp() / sum * value;
                }
            }
        }
    }
    (out, log_sum_exp)
}

#[test]
fn attention_and_its_gradient() {
    // The last is longer than one block of query rows.
    for (frames, heads, head_dim) in [(1, 1, 1), (5, 2, 3), (13, 3, 4), (200, 1, 2)] {
        let shape = Attention {
            frames,
            heads,
            head_dim,
        };
        let width = heads * head_dim;
        let qkv: Vec<f64> = random(frames * 3 * width, 1)
            .iter()
            .map(|x| (3.0 * x) as f32 as f64)
            .collect();
        let cotangent = random(frames * width, 2);
        let (exact, exact_log_sum_exp) = attend(shape, &qkv);
        let exact_gradient = differences(&qkv, &cotangent, |qkv| attend(shape, qkv).0);
        for backend in backends() {
            let mut scratch = vec![f32::NAN; backend.attention_scratch(shape)];
            let (mut out, mut log_sum_exp) = (vec![f32::NAN; frames * width], vec![f32::NAN; heads * frames]);
            let qkv32 = single(&qkv);
            backend.attention(shape, None, &qkv32, None, &mut out, &mut log_sum_exp, &mut scratch);
            assert_close("out", &out, &exact, 1e-5);
            assert_close("log-sum-exp", &log_sum_exp, &exact_log_sum_exp, 1e-5);
            let mut dqkv = vec![f32::NAN; qkv.len()];
            let dout = single(&cotangent);
            backend.attention_backward(
                shape,
                None,
                &qkv32,
                None,
                &out,
                &log_sum_exp,
                &dout,
                &mut dqkv,
                &mut scratch,
            );
            assert_close("dqkv", &dqkv, &exact_gradient, 2e-5);
        }
    }
}

#[test]
fn peaked_attention_neither_overflows_nor_makes_denormal_numbers() {
    // Whisper's attention is this peaked; denormal probabilities once made a step twenty times slower.
    let shape = Attention {
        frames: 40,
        heads: 1,
        head_dim: 2,
    };
    let qkv: Vec<f32> = single(&random(40 * 6, 1)).iter().map(|x| 40.0 * x).collect();
    let backend = CpuBackend::new(1).unwrap();
    let mut scratch = vec![0.0; backend.attention_scratch(shape)];
    let (mut out, mut log_sum_exp) = (vec![0.0; 80], vec![0.0; 40]);
    backend.attention(shape, None, &qkv, None, &mut out, &mut log_sum_exp, &mut scratch);
    assert!(out.iter().all(|value| value.is_finite()));
    assert!(
        scratch.iter().all(|probability| !probability.is_subnormal()),
        "denormal probabilities"
    );
    assert!(scratch.contains(&0.0), "the shape is meant to be peaked");
}

/// The objective as SUTA's code builds it: the class-correlation matrix, its rows normalised, the off-diagonal sum
/// over the classes. `weights` are held constant, as there.
fn objective(
    terms: &ObjectiveTerms,
    logits: &[f64],
    classes: usize,
    weights: &[f64],
    non_blank: &[bool],
) -> (f64, f64) {
    let p: Vec<Vec<f64>> = logits
        .chunks(classes)
        .map(|z| {
            let sum: f64 = z.iter().map(|z| (z / terms.temperature).exp()).sum();
            z.iter().map(|z| (z / terms.temperature).exp() / sum).collect()
        })
        .collect();
    let entropies: Vec<f64> = p.iter().map(|p| -p.iter().map(|p| p * p.ln()).sum::<f64>()).collect();
    let count = non_blank.iter().filter(|&&is| is).count();
    let entropy = if count == 0 {
        0.0
    } else {
        entropies
            .iter()
            .zip(non_blank)
            .filter(|(_, is)| **is)
            .map(|(h, _)| h)
            .sum::<f64>()
            / count as f64
    };
    let mut confusion = 0.0;
    for i in 0..classes {
        let row: Vec<f64> = (0..classes)
            .map(|j| p.iter().zip(weights).map(|(p, w)| w * p[i] * p[j]).sum())
            .collect();
        confusion += (row.iter().sum::<f64>() - row[i]) / row.iter().sum::<f64>();
    }
    (entropy, confusion / classes as f64)
}

#[test]
fn objective_and_its_gradient() {
    for (frames, classes, blank, scale) in [(1, 2, 0, 1.0), (6, 5, 2, 3.0), (20, 32, 0, 8.0), (9, 32, 31, 0.1)] {
        let terms = ObjectiveTerms {
            temperature: 2.5,
            entropy_weight: 0.3,
            blank,
        };
        let logits: Vec<f64> = random(frames * classes, 7)
            .iter()
            .map(|z| (scale * z) as f32 as f64)
            .collect();
        let non_blank: Vec<bool> = logits
            .chunks(classes)
            .map(|z| {
                z.iter()
                    .enumerate()
                    .any(|(index, value)| index != blank && *value > z[blank])
            })
            .collect();
        let raw: Vec<f64> = logits
            .chunks(classes)
            .map(|z| {
                let sum: f64 = z.iter().map(|z| (z / 2.5).exp()).sum();
                let entropy: f64 = -z.iter().map(|z| (z / 2.5).exp() / sum).map(|p| p * p.ln()).sum::<f64>();
                1.0 + (-entropy).exp()
            })
            .collect();
        let weights: Vec<f64> = raw
            .iter()
            .map(|w| w * frames as f64 / raw.iter().sum::<f64>())
            .collect();
        let (entropy, confusion) = objective(&terms, &logits, classes, &weights, &non_blank);
        let gradient = differences(&logits, &[1.0], |z| {
            let (entropy, confusion) = objective(&terms, z, classes, &weights, &non_blank);
            vec![0.3 * entropy + 0.7 * confusion]
        });
        let backend = CpuBackend::new(1).unwrap();
        let mut dlogits = vec![f32::NAN; frames * classes];
        let value = backend.entropy_mcc(
            &terms,
            Rows {
                rows: frames,
                cols: classes,
            },
            None,
            &single(&logits),
            &mut dlogits,
        );
        assert_eq!(value.non_blank_frames, non_blank.iter().filter(|&&is| is).count());
        assert!((value.entropy - entropy).abs() < 1e-9, "{} {entropy}", value.entropy);
        assert!(
            (value.class_confusion - confusion).abs() < 1e-9,
            "{} {confusion}",
            value.class_confusion
        );
        assert!((value.loss - 0.3 * entropy - 0.7 * confusion).abs() < 1e-9);
        assert_close("dlogits", &dlogits, &gradient, 1e-5);
    }
}

#[test]
fn an_all_blank_utterance_has_finite_values_everywhere() {
    let terms = ObjectiveTerms {
        temperature: 2.5,
        entropy_weight: 0.3,
        blank: 0,
    };
    let logits: Vec<f32> = (0..40).map(|i| if i % 4 == 0 { 50.0 } else { -50.0 }).collect();
    let mut dlogits = vec![f32::NAN; 40];
    let backend = CpuBackend::new(1).unwrap();
    let value = backend.entropy_mcc(&terms, Rows { rows: 10, cols: 4 }, None, &logits, &mut dlogits);
    assert_eq!((value.non_blank_frames, value.entropy), (0, 0.0));
    assert!(value.loss.is_finite() && dlogits.iter().all(|d| d.is_finite()));
}

#[test]
fn adamw_takes_the_textbooks_steps() {
    let settings = AdamW {
        weight_decay: 0.01,
        ..AdamW::suta(1e-2)
    };
    let start = random(37, 1);
    let (mut exact, mut m, mut v) = (start.clone(), vec![0.0f64; 37], vec![0.0f64; 37]);
    let (mut values, mut m32, mut v32) = (single(&start), vec![0.0f32; 37], vec![0.0f32; 37]);
    let backend = CpuBackend::new(1).unwrap();
    for step in 1..=10 {
        let gradient = random(37, 100 + step as u64);
        backend.adamw(&settings, step, &mut values, &single(&gradient), &mut m32, &mut v32);
        for index in 0..37 {
            exact[index] *= 1.0 - 1e-2 * 0.01;
            m[index] = 0.9 * m[index] + 0.1 * gradient[index];
            v[index] = 0.999 * v[index] + 0.001 * gradient[index].powi(2);
            let (m_hat, v_hat) = (
                m[index] / (1.0 - 0.9f64.powi(step as i32)),
                v[index] / (1.0 - 0.999f64.powi(step as i32)),
            );
            exact[index] -= 1e-2 * m_hat / (v_hat.sqrt() + 1e-8);
        }
        assert_close("values", &values, &exact, 1e-5);
    }
}
