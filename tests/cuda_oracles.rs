//! Every operation of the CUDA backend against formulas in f64, on sizes that fill no tile, exactly one, and one and a bit,
//! and on odd head sizes. Values are compared one by one; gradients along random directions, with differences of the f64
//! formula.
#![cfg(feature = "cuda")]

mod cuda_support;

use aurist::engine::cuda::CudaBackend;
use aurist::engine::{
    AdamW, Attention, Backend, Conv1d, GroupedConv1d, Linear, ObjectiveTerms, RelativeBias, RelativeBiasGradient, Rows,
};
use cuda_support::{Host, assert_same, random};

const SIZES: [usize; 6] = [1, 31, 32, 33, 127, 499];

fn host() -> Option<Host<CudaBackend>> {
    cuda_support::backend().map(Host)
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn narrow(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&value| value as f32).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The gradients of `Σ dy · formula(inputs)`, each along three random directions.
fn check_gradients(
    case: &str,
    inputs: &[&[f32]],
    gradients: &[Vec<f32>],
    dy: &[f32],
    formula: impl Fn(&[Vec<f64>]) -> Vec<f64>,
) {
    const STEP: f64 = 1e-5;
    let (at, dy): (Vec<Vec<f64>>, _) = (inputs.iter().map(|input| wide(input)).collect(), wide(dy));
    assert_eq!(inputs.len(), gradients.len());
    for (index, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), at[index].len(), "{case}: gradient {index}");
        let gradient = wide(gradient);
        let norm = dot(&gradient, &gradient).sqrt();
        for seed in 0..3 {
            let direction = wide(&random(gradient.len(), 100 + seed));
            let loss = |step: f64| {
                let mut moved = at.clone();
                let values = moved[index].iter_mut().zip(&direction);
                values.for_each(|(value, along)| *value += step * along);
                dot(&dy, &formula(&moved))
            };
            let slope = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
            let found = dot(&gradient, &direction);
            // Not the other way round: NaN must fail.
            let close = (found - slope).abs() <= 1e-4 * norm.max(1e-3);
            assert!(
                close,
                "{case}: gradient {index} along a direction is {found}, not {slope}"
            );
        }
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// x rows `stride` apart, W `[outputs, inputs]`.
fn linear(shape: Linear, x: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let rows = (0..shape.rows).map(|row| &x[row * shape.x_stride..][..shape.inputs]);
    rows.flat_map(|row| {
        let outputs = weight.chunks_exact(shape.inputs).zip(bias);
        outputs
            .map(|(weight, bias)| dot(row, weight) + bias)
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn linear_layers() {
    let Some(host) = host() else { return };
    for (rows, inputs, outputs) in SIZES
        .into_iter()
        .zip(SIZES.into_iter().cycle().skip(2))
        .zip([33, 1, 127, 31, 32, 5])
        .map(|((a, b), c)| (a, b, c))
    {
        let shape = Linear::new(rows, inputs, outputs);
        let (x, weight, bias) = (
            random(rows * inputs, 1),
            random(outputs * inputs, 2),
            random(outputs, 3),
        );
        let dy = random(rows * outputs, 4);
        let formula = |at: &[Vec<f64>]| linear(shape, &at[0], &at[1], &at[2]);
        let (on, w, b, d) = (host.put(&x), host.put(&weight), host.put(&bias), host.put(&dy));
        let (mut y, mut dx) = (host.space(rows * outputs), host.space(rows * inputs));
        let (mut dweight, mut dbias) = (host.put(&vec![0.0; weight.len()]), host.put(&vec![0.0; outputs]));
        host.0
            .linear(shape, on.view(), w.view(), Some(b.view()), y.view_mut(), false);
        host.0
            .linear_backward_input(shape, d.view(), w.view(), dx.view_mut(), false);
        host.0
            .linear_backward_weight(shape, on.view(), d.view(), dweight.view_mut());
        host.0
            .bias_backward(Rows { rows, cols: outputs }, d.view(), dbias.view_mut());
        let case = format!("{shape:?}");
        let expected = narrow(&formula(&[wide(&x), wide(&weight), wide(&bias)]));
        assert_same(&case, &[y.get()], &[expected], 1e-5);
        check_gradients(
            &case,
            &[&x, &weight, &bias],
            &[dx.get(), dweight.get(), dbias.get()],
            &dy,
            formula,
        );
    }
}

#[test]
fn strided_convolutions_with_gelu() {
    let Some(host) = host() else { return };
    for (padded_frames, c_in, c_out, kernel, stride) in [
        (499, 1, 33, 10, 5),
        (127, 31, 32, 3, 2),
        (33, 32, 31, 2, 2),
        (32, 33, 1, 3, 1),
        (3, 1, 127, 3, 1),
    ] {
        let shape = Conv1d {
            padded_frames,
            c_in,
            c_out,
            kernel,
            stride,
        };
        let (frames, window) = (shape.out_frames(), kernel * c_in);
        let (x, weight) = (random(padded_frames * c_in, 1), random(c_out * window, 2));
        let (bias, dy) = (random(c_out, 3), random(frames * c_out, 4));
        let pre = |at: &[Vec<f64>]| linear(shape.as_linear(), &at[0], &at[1], &wide(&bias));
        let (on, w, b) = (host.put(&x), host.put(&weight), host.put(&bias));
        let (mut before, mut y, mut d) = (host.space(dy.len()), host.space(dy.len()), host.put(&dy));
        let (mut dx, mut dweight) = (host.space(x.len()), host.put(&vec![0.0; weight.len()]));
        let (into, activated) = (before.view_mut(), y.view_mut());
        host.0
            .conv1d_gelu(shape, on.view(), w.view(), b.view(), into, activated);
        host.0.gelu_backward(before.view(), d.view_mut());
        host.0.conv1d_backward_input(shape, d.view(), w.view(), dx.view_mut());
        host.0
            .conv1d_backward_weight(shape, on.view(), d.view(), dweight.view_mut());
        let case = format!("{shape:?}");
        let expected = pre(&[wide(&x), wide(&weight)]);
        let activated: Vec<f64> = expected.iter().map(|x| gelu(*x)).collect();
        assert_same(
            &case,
            &[before.get(), y.get()],
            &[narrow(&expected), narrow(&activated)],
            1e-5,
        );
        check_gradients(&case, &[&x, &weight], &[dx.get(), dweight.get()], &dy, |at| {
            pre(at).into_iter().map(gelu).collect()
        });
    }
}

/// `at`: x `[frames, channels]`, v `[channels, kernel, group]`, g `[kernel]`.
fn grouped(shape: GroupedConv1d, at: &[Vec<f64>], bias: &[f64]) -> Vec<f64> {
    let (group, channels) = (shape.group(), shape.channels);
    let index = |output: usize, tap: usize, input: usize| (output * shape.kernel + tap) * group + input;
    let norm = |tap: usize| {
        let values = (0..channels).flat_map(|output| (0..group).map(move |input| (output, input)));
        values
            .map(|(output, input)| at[1][index(output, tap, input)].powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let factors: Vec<f64> = (0..shape.kernel).map(|tap| at[2][tap] / norm(tap)).collect();
    let mut y = vec![0.0; shape.frames * channels];
    for (place, y) in y.iter_mut().enumerate() {
        let (frame, output) = (place / channels, place % channels);
        *y = bias[output];
        for (tap, factor) in factors.iter().enumerate() {
            let Some(from) = (frame + tap)
                .checked_sub(shape.padding)
                .filter(|from| *from < shape.frames)
            else {
                continue;
            };
            for input in 0..group {
                let x = at[0][from * channels + output / group * group + input];
                *y += factor * at[1][index(output, tap, input)] * x;
            }
        }
    }
    y
}

#[test]
fn grouped_convolutions_with_weight_norm() {
    let Some(host) = host() else { return };
    for (frames, channels, groups, kernel, padding) in [
        (1, 2, 1, 3, 1),
        (31, 33, 3, 19, 9),
        (32, 4, 2, 128, 64),
        (33, 32, 2, 5, 2),
        (127, 62, 2, 4, 2),
        (499, 6, 3, 7, 3),
    ] {
        let shape = GroupedConv1d {
            frames,
            channels,
            groups,
            kernel,
            padding,
        };
        let (len, weights) = (frames * channels, shape.weight_len());
        let (x, direction, magnitude) = (random(len, 1), random(weights, 2), random(kernel, 3));
        let (bias, dy) = (random(channels, 4), random(len, 5));
        let (on, v, g) = (host.put(&x), host.put(&direction), host.put(&magnitude));
        let (b, d) = (host.put(&bias), host.put(&dy));
        let mut scratch = host.space(host.0.grouped_conv1d_scratch(shape));
        let (mut weight, mut y, mut dx) = (host.space(weights), host.space(len), host.space(len));
        host.0.weight_norm(shape, v.view(), g.view(), weight.view_mut());
        let into = y.view_mut();
        host.0
            .grouped_conv1d(shape, on.view(), weight.view(), b.view(), into, scratch.view_mut());
        let into = dx.view_mut();
        host.0
            .grouped_conv1d_backward_input(shape, d.view(), weight.view(), into, false, scratch.view_mut());
        let zeros = |len| host.put(&vec![0.0; len]);
        let (mut dweight, mut dv, mut dg) = (zeros(weights), zeros(weights), zeros(kernel));
        let into = dweight.view_mut();
        host.0
            .grouped_conv1d_backward_weight(shape, on.view(), d.view(), into, scratch.view_mut());
        let both = (Some(dv.view_mut()), Some(dg.view_mut()));
        host.0
            .weight_norm_backward(shape, v.view(), g.view(), dweight.view(), both.0, both.1);
        let case = format!("{shape:?}");
        let formula = |at: &[Vec<f64>]| grouped(shape, at, &wide(&bias));
        let expected = narrow(&formula(&[wide(&x), wide(&direction), wide(&magnitude)]));
        assert_same(&case, &[y.get()], &[expected], 2e-5);
        check_gradients(
            &case,
            &[&x, &direction, &magnitude],
            &[dx.get(), dv.get(), dg.get()],
            &dy,
            formula,
        );
    }
}

/// `at`: x, γ, β. `cols` values side by side are normalised, or with `over_time` a column's over the rows.
fn normalised(shape: Rows, at: &[Vec<f64>], over_time: bool) -> Vec<f64> {
    let (groups, count) = if over_time {
        (shape.cols, shape.rows)
    } else {
        (shape.rows, shape.cols)
    };
    let mut y = vec![0.0; shape.rows * shape.cols];
    for group in 0..groups {
        let place = |k: usize| {
            if over_time {
                k * shape.cols + group
            } else {
                group * shape.cols + k
            }
        };
        let mean = (0..count).map(|k| at[0][place(k)]).sum::<f64>() / count as f64;
        let variance = (0..count).map(|k| (at[0][place(k)] - mean).powi(2)).sum::<f64>() / count as f64;
        for k in 0..count {
            let col = place(k) % shape.cols;
            y[place(k)] = (at[0][place(k)] - mean) / (variance + 1e-5).sqrt() * at[1][col] + at[2][col];
        }
    }
    y
}

#[test]
fn norms_over_the_channels_and_over_time() {
    let Some(host) = host() else { return };
    for (rows, cols) in SIZES.into_iter().zip([33, 32, 31, 499, 127, 5]) {
        let shape = Rows { rows, cols };
        let x: Vec<f32> = random(rows * cols, 1).iter().map(|x| 3.0 + x).collect();
        let (weight, bias, dy) = (random(cols, 2), random(cols, 3), random(rows * cols, 4));
        let (on, w, b, d) = (host.put(&x), host.put(&weight), host.put(&bias), host.put(&dy));
        let zeros = || host.put(&vec![0.0; cols]);
        let (mut y, mut statistics, mut dx) = (host.space(x.len()), host.space(2 * rows), host.space(x.len()));
        let (mut dweight, mut dbias) = (zeros(), zeros());
        let (into, saved) = (y.view_mut(), statistics.view_mut());
        host.0.layer_norm(shape, on.view(), w.view(), b.view(), into, saved);
        let (saved, into) = (statistics.view(), dx.view_mut());
        host.0
            .layer_norm_backward_input(shape, on.view(), saved, w.view(), d.view(), into, false);
        let both = (Some(dweight.view_mut()), Some(dbias.view_mut()));
        host.0
            .layer_norm_backward_parameters(shape, on.view(), saved, d.view(), both.0, both.1);
        let (at, inputs) = ([wide(&x), wide(&weight), wide(&bias)], [&x[..], &weight, &bias]);
        let case = format!("layer norm {shape:?}");
        let expected = normalised(shape, &at, false);
        assert_same(&case, &[y.get()], &[narrow(&expected)], 3e-5);
        check_gradients(&case, &inputs, &[dx.get(), dweight.get(), dbias.get()], &dy, |at| {
            normalised(shape, at, false)
        });
        let (mut gradient, mut dx, mut dweight, mut dbias) = (host.put(&dy), host.space(x.len()), zeros(), zeros());
        let (d, into) = (gradient.view_mut(), dx.view_mut());
        let both = [Some(dweight.view_mut()), Some(dbias.view_mut())];
        host.0
            .layer_norm_gelu_backward(shape, on.view(), statistics.view(), [w.view(), b.view()], d, into, both);
        let case = format!("layer norm, then GELU {shape:?}");
        check_gradients(&case, &inputs, &[dx.get(), dweight.get(), dbias.get()], &dy, |at| {
            normalised(shape, at, false).into_iter().map(gelu).collect()
        });
        if rows == 1 {
            // A single row's variance is 0: its gradient is nothing but rounding, blown up by 1/σ.
            continue;
        }
        let (mut y, mut statistics, mut dx) = (host.space(x.len()), host.space(2 * cols), host.put(&dy));
        let (mut dweight, mut dbias) = (zeros(), zeros());
        let (into, saved) = (y.view_mut(), statistics.view_mut());
        host.0
            .channel_norm_gelu(shape, None, on.view(), w.view(), b.view(), into, saved);
        let (saved, parameters) = (statistics.view(), (w.view(), b.view()));
        let both = (Some(dweight.view_mut()), Some(dbias.view_mut()));
        host.0
            .channel_norm_gelu_backward(shape, None, on.view(), saved, parameters, dx.view_mut(), both.0, both.1);
        let formula = |at: &[Vec<f64>]| -> Vec<f64> { normalised(shape, at, true).into_iter().map(gelu).collect() };
        let case = format!("channel norm {shape:?}");
        assert_same(&case, &[y.get()], &[narrow(&formula(&at))], 3e-5);
        check_gradients(&case, &inputs, &[dx.get(), dweight.get(), dbias.get()], &dy, formula);
    }
}

/// `at`: qkv `[T, 3, heads, head_dim]`, gate `[heads, T]`, table `[heads, 2 T - 1]`.
fn attention(shape: Attention, at: &[Vec<f64>]) -> Vec<f64> {
    let (frames, dim, width) = (shape.frames, shape.head_dim, shape.width());
    let part = |frame: usize, which: usize, head: usize| &at[0][(3 * frame + which) * width + head * dim..][..dim];
    let mut out = vec![0.0; frames * width];
    for head in 0..shape.heads {
        for query in 0..frames {
            let score = |key: usize| {
                let bias = at[1][head * frames + query] * at[2][head * (2 * frames - 1) + key + frames - 1 - query];
                dot(part(query, 0, head), part(key, 1, head)) / (dim as f64).sqrt() + bias
            };
            let scores: Vec<f64> = (0..frames).map(score).collect();
            let highest = scores.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = scores.iter().map(|score| (score - highest).exp()).sum();
            let out = &mut out[query * width + head * dim..][..dim];
            for (key, score) in scores.iter().enumerate() {
                let probability = (score - highest).exp() / total;
                let values = out.iter_mut().zip(part(key, 2, head));
                values.for_each(|(out, value)| *out += probability * value);
            }
        }
    }
    out
}

#[test]
fn attention_of_odd_head_sizes() {
    let Some(host) = host() else { return };
    for ((frames, heads), head_dim) in SIZES.into_iter().zip([3, 2, 1, 2, 1, 1]).zip([1, 7, 64, 33, 80, 5]) {
        let shape = Attention {
            frames,
            heads,
            head_dim,
        };
        let (values, rows, distances) = (frames * shape.width(), frames * heads, heads * (2 * frames - 1));
        let (qkv, dout) = (random(3 * values, 1), random(values, 2));
        let (gate, table) = (random(rows, 3), random(distances, 4));
        for biased in [false, true] {
            let (on, d, g, t) = (host.put(&qkv), host.put(&dout), host.put(&gate), host.put(&table));
            let bias = || RelativeBias {
                gate: g.view(),
                table: t.view(),
            };
            let mut scratch = host.space(host.0.attention_scratch(shape));
            let (mut out, mut lse, mut dqkv) = (host.space(values), host.space(rows), host.space(3 * values));
            let (into, saved) = (out.view_mut(), lse.view_mut());
            host.0.attention(
                shape,
                None,
                on.view(),
                biased.then(bias),
                into,
                saved,
                scratch.view_mut(),
            );
            let (mut dgate, mut dtable) = (host.space(rows), host.put(&vec![0.0; distances]));
            let gradient = RelativeBiasGradient {
                gate: dgate.view_mut(),
                table: Some(dtable.view_mut()),
            };
            let pair = biased.then(|| (bias(), gradient));
            let (saved, into, space) = (lse.view(), dqkv.view_mut(), scratch.view_mut());
            host.0
                .attention_backward(shape, None, on.view(), pair, out.view(), saved, d.view(), into, space);
            let case = format!("{shape:?}, bias {biased}");
            let nothing = (vec![0.0f32; rows], vec![0.0f32; distances]);
            if biased {
                let at = [wide(&qkv), wide(&gate), wide(&table)];
                assert_same(&case, &[out.get()], &[narrow(&attention(shape, &at))], 3e-5);
                let gradients = [dqkv.get(), dgate.get(), dtable.get()];
                check_gradients(&case, &[&qkv, &gate, &table], &gradients, &dout, |at| {
                    attention(shape, at)
                });
            } else {
                let with = |at: &[Vec<f64>]| attention(shape, &[at[0].clone(), wide(&nothing.0), wide(&nothing.1)]);
                assert_same(&case, &[out.get()], &[narrow(&with(&[wide(&qkv)]))], 3e-5);
                check_gradients(&case, &[&qkv], &[dqkv.get()], &dout, with);
            }
        }
    }
}

/// SUTA's loss with its frame weights given; and what those are.
fn objective(terms: &ObjectiveTerms, shape: Rows, logits: &[f64], weights: Option<&[f64]>) -> (f64, Vec<f64>) {
    let (mut entropies, mut p) = (Vec::new(), Vec::new());
    let mut non_blank = Vec::new();
    for z in logits.chunks_exact(shape.cols) {
        let highest = z.iter().copied().fold(f64::MIN, f64::max);
        non_blank.push(z.iter().position(|z| *z == highest) != Some(terms.blank));
        let e: Vec<f64> = z.iter().map(|z| ((z - highest) / terms.temperature).exp()).collect();
        let sum: f64 = e.iter().sum();
        entropies.push(
            e.iter()
                .filter(|e| **e > 0.0)
                .map(|e| -e / sum * (e / sum).ln())
                .sum::<f64>(),
        );
        p.push(e.into_iter().map(|e| e / sum).collect::<Vec<f64>>());
    }
    let raw: Vec<f64> = entropies.iter().map(|h| 1.0 + (-h).exp()).collect();
    let mean = raw.iter().sum::<f64>() / raw.len() as f64;
    let own: Vec<f64> = raw.iter().map(|raw| raw / mean).collect();
    let weights = weights.unwrap_or(&own);
    let count = non_blank.iter().filter(|is| **is).count().max(1) as f64;
    let entropy = entropies
        .iter()
        .zip(&non_blank)
        .filter(|(_, is)| **is)
        .map(|(h, _)| h)
        .sum::<f64>()
        / count;
    let sums = (0..shape.cols).map(|class| {
        let of = |power: i32| {
            p.iter()
                .zip(weights)
                .map(|(p, w)| w * p[class].powi(power))
                .sum::<f64>()
        };
        of(2) / of(1)
    });
    let confusion = 1.0 - sums.sum::<f64>() / shape.cols as f64;
    (
        terms.entropy_weight * entropy + (1.0 - terms.entropy_weight) * confusion,
        own,
    )
}

#[test]
fn sutas_objective() {
    let Some(host) = host() else { return };
    let terms = ObjectiveTerms {
        temperature: 2.5,
        entropy_weight: 0.3,
        blank: 0,
    };
    for (rows, cols) in SIZES.into_iter().zip([31, 127, 33, 499, 32, 5]) {
        let shape = Rows { rows, cols };
        let logits: Vec<f32> = random(rows * cols, 1).iter().map(|z| 5.0 * z).collect();
        let (on, mut dlogits) = (host.put(&logits), host.space(rows * cols));
        let value = host.0.entropy_mcc(&terms, shape, None, on.view(), dlogits.view_mut());
        let (loss, weights) = objective(&terms, shape, &wide(&logits), None);
        assert!(
            (value.loss - loss).abs() < 1e-5 * loss.abs(),
            "{shape:?}: {} and {loss}",
            value.loss
        );
        check_gradients(&format!("{shape:?}"), &[&logits], &[dlogits.get()], &[1.0], |at| {
            vec![objective(&terms, shape, &at[0], Some(&weights)).0]
        });
    }
}

#[test]
fn gelu_sums_gates_and_adamw() {
    let Some(host) = host() else { return };
    for len in SIZES {
        let (x, dy): (Vec<f32>, _) = (random(len, 1).iter().map(|x| 3.0 * x).collect(), random(len, 2));
        let (on, mut y, mut d) = (host.put(&x), host.put(&x), host.put(&dy));
        host.0.gelu(y.view_mut());
        host.0.gelu_backward(on.view(), d.view_mut());
        let activated: Vec<f64> = x.iter().map(|x| gelu(f64::from(*x))).collect();
        assert_same("gelu", &[y.get()], &[narrow(&activated)], 1e-6);
        check_gradients("gelu", &[&x], &[d.get()], &dy, |at| {
            at[0].iter().map(|x| gelu(*x)).collect()
        });

        let settings = AdamW {
            weight_decay: 0.1,
            ..AdamW::suta(1e-2)
        };
        let (g, mut values) = (host.put(&dy), host.put(&x));
        let (mut first, mut second) = (host.put(&vec![0.0; len]), host.put(&vec![0.0; len]));
        let mut expected: Vec<[f64; 3]> = x.iter().map(|x| [f64::from(*x), 0.0, 0.0]).collect();
        for step in 1..=3 {
            let moments = (first.view_mut(), second.view_mut());
            host.0
                .adamw(&settings, step, values.view_mut(), g.view(), moments.0, moments.1);
            for ([x, m, v], g) in expected.iter_mut().zip(wide(&dy)) {
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.999 * *v + 0.001 * g * g;
                let (m, v) = (
                    *m / (1.0 - 0.9f64.powi(step as i32)),
                    *v / (1.0 - 0.999f64.powi(step as i32)),
                );
                *x = *x * (1.0 - 1e-3) - 1e-2 * m / (v.sqrt() + 1e-8);
            }
        }
        let part = |index: usize| expected.iter().map(|e| e[index] as f32).collect::<Vec<_>>();
        let found = [values.get(), first.get(), second.get()];
        assert_same("AdamW", &found, &[part(0), part(1), part(2)], 2e-6);
    }
    for (frames, heads) in SIZES.into_iter().zip([1, 5, 3, 2, 7, 1]) {
        let shape = Rows {
            rows: frames,
            cols: heads,
        };
        let (projection, constant) = (random(8 * frames * heads, 1), random(heads, 2));
        let dgate = random(frames * heads, 3);
        let formula = |at: &[Vec<f64>]| -> Vec<f64> {
            let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
            let gate = |place: usize| {
                let (head, frame) = (place / frames, place % frames);
                let row = &at[0][8 * (frame * heads + head)..][..8];
                let (a, b) = (row[..4].iter().sum(), row[4..].iter().sum());
                sigmoid(a) * (sigmoid(b) * at[1][head] - 1.0) + 2.0
            };
            (0..frames * heads).map(gate).collect()
        };
        let (on, c, d) = (host.put(&projection), host.put(&constant), host.put(&dgate));
        let (mut gate, mut dprojection) = (host.space(dgate.len()), host.space(projection.len()));
        let mut dconstant = host.put(&vec![0.0; heads]);
        host.0.relative_gate(shape, on.view(), c.view(), gate.view_mut());
        let (into, also) = (dprojection.view_mut(), Some(dconstant.view_mut()));
        host.0
            .relative_gate_backward(shape, on.view(), c.view(), d.view(), into, also);
        let expected = narrow(&formula(&[wide(&projection), wide(&constant)]));
        assert_same("gates", &[gate.get()], &[expected], 1e-6);
        let gradients = [dprojection.get(), dconstant.get()];
        check_gradients("gates", &[&projection, &constant], &gradients, &dgate, formula);
    }
}
