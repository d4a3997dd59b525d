//! Every operation of the CUDA backend against the CPU backend's, which `gradients.rs` checks against finite differences
//! in f64, on sizes that fill no tile, exactly one, and one and a bit.
#![cfg(feature = "cuda")]

mod cuda_support;

use aurist::audio::LogMel;
use aurist::engine::cuda::{CudaBackend, CudaDevice};
use aurist::engine::{
    AdamW, Attention, Backend, Conv1d, CudaPrecision, GroupedConv1d, Linear, ObjectiveTerms, PseudoLabel, RelativeBias,
    RelativeBiasGradient, Rows,
};
use cuda_support::{assert_same, random};

#[test]
fn linear_layers_and_their_gradients() {
    for (rows, inputs, outputs) in [(1, 1, 1), (31, 33, 32), (32, 127, 31), (127, 32, 33), (33, 499, 5)] {
        let shape = Linear::new(rows, inputs, outputs);
        let (x, weight, bias) = (
            random(rows * inputs, 1),
            random(outputs * inputs, 2),
            random(outputs, 3),
        );
        let (dy, start) = (random(rows * outputs, 4), random(rows * outputs, 5));
        compare!(format!("{shape:?}"), 1e-5, |host| {
            let (x, weight, bias, dy) = (host.put(&x), host.put(&weight), host.put(&bias), host.put(&dy));
            let (mut y, mut summed) = (host.space(rows * outputs), host.put(&start));
            host.0
                .linear(shape, x.view(), weight.view(), Some(bias.view()), y.view_mut(), false);
            host.0
                .linear(shape, x.view(), weight.view(), None, summed.view_mut(), true);
            let (residual, mut joined) = (host.put(&start), host.space(rows * outputs));
            let into = joined.view_mut();
            host.0
                .linear_residual(shape, x.view(), weight.view(), bias.view(), residual.view(), into);
            let (mut pre, mut activated) = (host.space(rows * outputs), host.space(rows * outputs));
            let (into, gelu) = (pre.view_mut(), activated.view_mut());
            host.0
                .linear_gelu(shape, x.view(), weight.view(), bias.view(), into, gelu);
            let (mut dx, mut more) = (host.space(rows * inputs), host.put(&random(rows * inputs, 6)));
            host.0
                .linear_backward_input(shape, dy.view(), weight.view(), dx.view_mut(), false);
            host.0
                .linear_backward_input(shape, dy.view(), weight.view(), more.view_mut(), true);
            let (mut dweight, mut dbias) = (host.put(&random(outputs * inputs, 7)), host.put(&random(outputs, 8)));
            host.0
                .linear_backward_weight(shape, x.view(), dy.view(), dweight.view_mut());
            host.0
                .bias_backward(Rows { rows, cols: outputs }, dy.view(), dbias.view_mut());
            [y, summed, joined, residual, pre, activated, dx, more, dweight, dbias]
                .map(|v| v.get())
                .to_vec()
        });
    }
}

#[test]
fn strided_convolutions_and_their_gradients() {
    for (padded_frames, c_in, c_out, kernel, stride) in [
        (3, 1, 1, 3, 1),
        // wav2vec2's first, by its own kernel; then its others.
        (10, 1, 33, 10, 5),
        (499, 1, 129, 10, 5),
        (2500, 1, 3, 10, 5),
        (127, 33, 31, 3, 2),
        (67, 5, 32, 2, 2),
        (33, 31, 4, 3, 1),
        // Gaps between the windows.
        (32, 3, 5, 2, 3),
    ] {
        let shape = Conv1d {
            padded_frames,
            c_in,
            c_out,
            kernel,
            stride,
        };
        let (frames, window) = (shape.out_frames(), kernel * c_in);
        let (x, weight, bias) = (
            random(padded_frames * c_in, 1),
            random(c_out * window, 2),
            random(c_out, 3),
        );
        let dpre = random(frames * c_out, 4);
        compare!(format!("{shape:?}"), 1e-5, |host| {
            let (x, weight, bias, dpre) = (host.put(&x), host.put(&weight), host.put(&bias), host.put(&dpre));
            let (mut pre, mut y) = (host.space(frames * c_out), host.space(frames * c_out));
            let (into, gelu) = (pre.view_mut(), y.view_mut());
            host.0
                .conv1d_gelu(shape, x.view(), weight.view(), bias.view(), into, gelu);
            let mut plain = host.space(frames * c_out);
            host.0.linear(
                shape.as_linear(),
                x.view(),
                weight.view(),
                None,
                plain.view_mut(),
                false,
            );
            let mut dx = host.space(padded_frames * c_in);
            host.0
                .conv1d_backward_input(shape, dpre.view(), weight.view(), dx.view_mut());
            let mut dweight = host.put(&random(c_out * window, 5));
            host.0
                .conv1d_backward_weight(shape, x.view(), dpre.view(), dweight.view_mut());
            [pre, y, plain, dx, dweight].map(|v| v.get()).to_vec()
        });
    }
}

#[test]
fn grouped_convolutions_their_weight_norm_and_gradients() {
    for (frames, channels, groups, kernel, padding) in [
        (1, 2, 1, 3, 1),
        (33, 32, 2, 5, 2),
        (67, 62, 2, 4, 2),
        (31, 33, 3, 19, 9),
        (65, 130, 2, 2, 1),
        (7, 3, 3, 128, 64),
    ] {
        let shape = GroupedConv1d {
            frames,
            channels,
            groups,
            kernel,
            padding,
        };
        let (len, weights) = (frames * channels, shape.weight_len());
        let (x, direction, dy) = (random(len, 1), random(weights, 2), random(len, 3));
        let (magnitude, bias) = (random(kernel, 4), random(channels, 5));
        compare!(format!("{shape:?}"), 2e-5, |host| {
            let (x, direction, dy) = (host.put(&x), host.put(&direction), host.put(&dy));
            let (magnitude, bias) = (host.put(&magnitude), host.put(&bias));
            let mut scratch = host.space(host.0.grouped_conv1d_scratch(shape));
            let mut weight = host.space(weights);
            host.0
                .weight_norm(shape, direction.view(), magnitude.view(), weight.view_mut());
            let mut y = host.space(len);
            let (into, space) = (y.view_mut(), scratch.view_mut());
            host.0
                .grouped_conv1d(shape, x.view(), weight.view(), bias.view(), into, space);
            let (mut dx, mut more) = (host.space(len), host.put(&random(len, 6)));
            let (into, space) = (dx.view_mut(), scratch.view_mut());
            host.0
                .grouped_conv1d_backward_input(shape, dy.view(), weight.view(), into, false, space);
            let (into, space) = (more.view_mut(), scratch.view_mut());
            host.0
                .grouped_conv1d_backward_input(shape, dy.view(), weight.view(), into, true, space);
            let mut dweight = host.put(&random(weights, 7));
            let (into, space) = (dweight.view_mut(), scratch.view_mut());
            host.0
                .grouped_conv1d_backward_weight(shape, x.view(), dy.view(), into, space);
            let (mut ddirection, mut dmagnitude) = (host.put(&random(weights, 8)), host.put(&random(kernel, 9)));
            host.0.weight_norm_backward(
                shape,
                direction.view(),
                magnitude.view(),
                dweight.view(),
                Some(ddirection.view_mut()),
                Some(dmagnitude.view_mut()),
            );
            let mut alone = host.put(&random(kernel, 9));
            let into = Some(alone.view_mut());
            host.0
                .weight_norm_backward(shape, direction.view(), magnitude.view(), dweight.view(), None, into);
            [weight, y, dx, more, dweight, ddirection, dmagnitude, alone]
                .map(|v| v.get())
                .to_vec()
        });
    }
}

#[test]
fn layer_norms_and_their_gradients() {
    for (rows, cols) in [(1, 1), (1, 33), (3, 499), (31, 32), (127, 31), (33, 127)] {
        let shape = Rows { rows, cols };
        // An offset that a one-pass variance would lose.
        let x: Vec<f32> = random(rows * cols, 1).iter().map(|x| 30.0 + x).collect();
        let (weight, bias, dy) = (random(cols, 2), random(cols, 3), random(rows * cols, 4));
        compare!(format!("{shape:?}"), 3e-5, |host| {
            let (x, weight, bias, dy) = (host.put(&x), host.put(&weight), host.put(&bias), host.put(&dy));
            let (mut y, mut statistics) = (host.space(rows * cols), host.space(2 * rows));
            let (into, saved) = (y.view_mut(), statistics.view_mut());
            host.0
                .layer_norm(shape, x.view(), weight.view(), bias.view(), into, saved);
            let (mut activated, mut of_it) = (host.space(rows * cols), host.space(2 * rows));
            let (into, saved) = (activated.view_mut(), of_it.view_mut());
            host.0
                .layer_norm_gelu(shape, x.view(), weight.view(), bias.view(), into, saved);
            let (mut dx, mut more) = (host.space(rows * cols), host.put(&random(rows * cols, 5)));
            let saved = statistics.view();
            host.0
                .layer_norm_backward_input(shape, x.view(), saved, weight.view(), dy.view(), dx.view_mut(), false);
            host.0
                .layer_norm_backward_input(shape, x.view(), saved, weight.view(), dy.view(), more.view_mut(), true);
            let (mut dweight, mut dbias) = (host.put(&random(cols, 6)), host.put(&random(cols, 7)));
            let both = (Some(dweight.view_mut()), Some(dbias.view_mut()));
            host.0
                .layer_norm_backward_parameters(shape, x.view(), saved, dy.view(), both.0, both.1);
            let (mut weight_alone, mut bias_alone) = (host.put(&random(cols, 6)), host.put(&random(cols, 7)));
            let alone = Some(weight_alone.view_mut());
            host.0
                .layer_norm_backward_parameters(shape, x.view(), saved, dy.view(), alone, None);
            let alone = Some(bias_alone.view_mut());
            host.0
                .layer_norm_backward_parameters(shape, x.view(), saved, dy.view(), None, alone);
            let mut all = vec![
                y,
                statistics,
                activated,
                of_it,
                dx,
                more,
                dweight,
                dbias,
                weight_alone,
                bias_alone,
            ];
            // Back through the GELU as well, with each choice of what is adapted.
            for adapted in [[true, true], [true, false], [false, true], [false, false]] {
                let (mut d, mut dx) = (host.put(&random(rows * cols, 4)), host.space(rows * cols));
                let mut gradients = [6, 7].map(|seed| host.put(&random(cols, seed)));
                let [dweight, dbias] = &mut gradients;
                let into = [
                    adapted[0].then(|| dweight.view_mut()),
                    adapted[1].then(|| dbias.view_mut()),
                ];
                let (saved, parameters) = (all[3].view(), [weight.view(), bias.view()]);
                host.0
                    .layer_norm_gelu_backward(shape, x.view(), saved, parameters, d.view_mut(), dx.view_mut(), into);
                all.push(dx);
                all.extend(gradients);
            }
            all.into_iter().map(|v| v.get()).collect::<Vec<_>>()
        });
    }
}

#[test]
fn channel_norm_with_gelu_and_its_gradients() {
    // More than a chunk, and a last chunk of a few rows, fewer than there are warps.
    for (rows, cols) in [(1, 1), (7, 33), (31, 32), (127, 31), (499, 33), (4099, 5)] {
        let shape = Rows { rows, cols };
        let x: Vec<f32> = random(rows * cols, 1).iter().map(|x| 3.0 + x).collect();
        let (weight, bias, dy) = (random(cols, 2), random(cols, 3), random(rows * cols, 4));
        compare!(format!("{shape:?}"), 5e-5, |host| {
            let (x, weight, bias) = (host.put(&x), host.put(&weight), host.put(&bias));
            let (mut y, mut statistics) = (host.space(rows * cols), host.space(2 * cols));
            let (into, saved) = (y.view_mut(), statistics.view_mut());
            host.0
                .channel_norm_gelu(shape, None, x.view(), weight.view(), bias.view(), into, saved);
            // A single row's variance is 0: its gradient is nothing but rounding, blown up by 1/σ.
            let mut d = host.put(&dy);
            let (mut dweight, mut dbias) = (host.put(&random(cols, 6)), host.put(&random(cols, 7)));
            let both = (Some(dweight.view_mut()), Some(dbias.view_mut()));
            let parameters = (weight.view(), bias.view());
            host.0.channel_norm_gelu_backward(
                shape,
                None,
                x.view(),
                statistics.view(),
                parameters,
                d.view_mut(),
                both.0,
                both.1,
            );
            let mut frozen = host.put(&dy);
            let into = frozen.view_mut();
            host.0
                .channel_norm_gelu_backward(shape, None, x.view(), statistics.view(), parameters, into, None, None);
            [y, statistics, d, dweight, dbias, frozen].map(|v| v.get()).to_vec()
        });
    }
}

#[test]
fn attention_and_its_gradients_with_and_without_a_relative_bias() {
    for (frames, heads, head_dim) in [
        (1, 1, 1),
        (31, 2, 7),
        (32, 1, 64),
        (33, 3, 16),
        (127, 2, 33),
        (70, 1, 80),
        (33, 1, 128),
    ] {
        let shape = Attention {
            frames,
            heads,
            head_dim,
        };
        let (values, rows, distances) = (frames * shape.width(), frames * heads, heads * (2 * frames - 1));
        let (qkv, dout) = (random(3 * values, 1), random(values, 2));
        let (gate, table) = (random(rows, 3), random(distances, 4));
        for biased in [false, true] {
            compare!(format!("{shape:?}, bias {biased}"), 3e-5, |host| {
                let (qkv, dout) = (host.put(&qkv), host.put(&dout));
                let (gate, table) = (host.put(&gate), host.put(&table));
                let bias = || RelativeBias {
                    gate: gate.view(),
                    table: table.view(),
                };
                let mut scratch = host.space(host.0.attention_scratch(shape));
                let (mut out, mut lse, mut dqkv) = (host.space(values), host.space(rows), host.space(3 * values));
                let (into, saved, space) = (out.view_mut(), lse.view_mut(), scratch.view_mut());
                host.0
                    .attention(shape, None, qkv.view(), biased.then(bias), into, saved, space);
                let (mut dgate, mut dtable) = (host.put(&vec![0.0; rows]), host.put(&random(distances, 5)));
                let gradient = RelativeBiasGradient {
                    gate: dgate.view_mut(),
                    table: Some(dtable.view_mut()),
                };
                let pair = biased.then(|| (bias(), gradient));
                let (saved, into, space) = (lse.view(), dqkv.view_mut(), scratch.view_mut());
                host.0.attention_backward(
                    shape,
                    None,
                    qkv.view(),
                    pair,
                    out.view(),
                    saved,
                    dout.view(),
                    into,
                    space,
                );
                [out, lse, dqkv, dgate, dtable].map(|v| v.get()).to_vec()
            });
        }
    }
}

/// Scores that differ by hundreds from tile to tile: a running maximum that is not one overflows.
#[test]
fn attention_with_sharp_scores() {
    let shape = Attention {
        frames: 127,
        heads: 2,
        head_dim: 16,
    };
    let (values, rows) = (shape.frames * shape.width(), shape.frames * shape.heads);
    let mut qkv = random(3 * values, 1);
    for queries in qkv.chunks_exact_mut(3 * shape.width()) {
        queries[..shape.width()].iter_mut().for_each(|q| *q *= 200.0);
    }
    compare!("sharp scores", 2e-3, |host| {
        let qkv = host.put(&qkv);
        let mut scratch = host.space(host.0.attention_scratch(shape));
        let (mut out, mut lse) = (host.space(values), host.space(rows));
        let (into, saved, space) = (out.view_mut(), lse.view_mut(), scratch.view_mut());
        host.0.attention(shape, None, qkv.view(), None, into, saved, space);
        [out, lse].map(|v| v.get()).to_vec()
    });
}

#[test]
fn relative_gates_and_tables_and_their_gradients() {
    for (frames, heads) in [(1, 1), (31, 3), (127, 5)] {
        let shape = Rows {
            rows: frames,
            cols: heads,
        };
        let (projection, constant) = (random(8 * frames * heads, 1), random(heads, 2));
        let (dgate, embedding) = (random(frames * heads, 3), random(32 * heads, 4));
        let buckets: Vec<u32> = (0..2 * frames as u32 - 1).map(|distance| distance * 7 % 31).collect();
        let dtable = random(heads * buckets.len(), 5);
        compare!(format!("{shape:?}"), 1e-5, |host| {
            let (projection, constant, dgate) = (host.put(&projection), host.put(&constant), host.put(&dgate));
            let (embedding, dtable) = (host.put(&embedding), host.put(&dtable));
            let (mut gate, mut dprojection) = (host.space(frames * heads), host.space(8 * frames * heads));
            host.0
                .relative_gate(shape, projection.view(), constant.view(), gate.view_mut());
            let mut dconstant = host.put(&random(heads, 6));
            for dconstant in [None, Some(dconstant.view_mut())] {
                let (dgate, into) = (dgate.view(), dprojection.view_mut());
                host.0
                    .relative_gate_backward(shape, projection.view(), constant.view(), dgate, into, dconstant);
            }
            let (mut table, mut dembedding) = (host.space(heads * buckets.len()), host.put(&random(32 * heads, 7)));
            host.0
                .relative_table(&buckets, heads, embedding.view(), table.view_mut());
            host.0
                .relative_table_backward(&buckets, heads, dtable.view(), dembedding.view_mut());
            [gate, dprojection, dconstant, table, dembedding]
                .map(|v| v.get())
                .to_vec()
        });
    }
}

#[test]
fn the_objective_and_its_gradient() {
    let values = [(1, 2), (3, 1), (31, 32), (33, 33), (127, 31), (40, 499)];
    for ((frames, classes), (temperature, entropy_weight)) in
        values.into_iter().zip([(1.0, 0.5), (2.5, 0.3)].into_iter().cycle())
    {
        // Sharp enough that many classes have next to no probability; blank is often best.
        let mut logits: Vec<f32> = random(frames * classes, 1).iter().map(|z| 6.0 * z).collect();
        logits.iter_mut().step_by(3 * classes).for_each(|z| *z += 9.0);
        let terms = ObjectiveTerms {
            temperature,
            entropy_weight,
            blank: 0,
        };
        let shape = Rows {
            rows: frames,
            cols: classes,
        };
        compare!(format!("{shape:?}, {terms:?}"), 2e-5, |host| {
            let logits = host.put(&logits);
            let mut dlogits = host.space(frames * classes);
            let value = host
                .0
                .entropy_mcc(&terms, shape, None, logits.view(), dlogits.view_mut());
            let value = [
                value.loss,
                value.entropy,
                value.class_confusion,
                value.non_blank_frames as f64,
            ];
            vec![value.map(|value| value as f32).to_vec(), dlogits.get()]
        });
    }
}

#[test]
fn the_objective_of_blank_frames_alone_and_of_ties() {
    let terms = ObjectiveTerms {
        temperature: 1.0,
        entropy_weight: 0.5,
        blank: 0,
    };
    let shape = Rows { rows: 2, cols: 3 };
    // The first of equals is the best, as in PyTorch: blank here, and not there.
    for logits in [[5.0, 5.0, 1.0, 2.0, 0.0, 1.0], [4.0, 5.0, 5.0, 2.0, 0.0, 2.0]] {
        compare!(format!("{logits:?}"), 1e-5, |host| {
            let logits = host.put(&logits);
            let mut dlogits = host.space(6);
            let value = host
                .0
                .entropy_mcc(&terms, shape, None, logits.view(), dlogits.view_mut());
            let counted = vec![value.loss as f32, value.non_blank_frames as f32];
            vec![counted, dlogits.get()]
        });
    }
}

#[test]
fn what_works_value_by_value() {
    for len in [1, 31, 32, 33, 127, 499, 70_001] {
        let (x, y) = (random(len, 1), random(len, 2));
        let wide: Vec<f32> = x.iter().map(|x| 4.0 * x).collect();
        compare!(format!("{len} values"), 1e-6, |host| {
            let (x, wide) = (host.put(&x), host.put(&wide));
            let (mut gelu, mut slope, mut sum) = (host.put(&random(len, 3)), host.put(&y), host.put(&y));
            host.0.copy(wide.view(), gelu.view_mut());
            host.0.gelu(gelu.view_mut());
            host.0.gelu_backward(wide.view(), slope.view_mut());
            host.0.add_prefix(x.view(), sum.view_mut());
            let mut zero = host.space(len);
            host.0.fill_zero(zero.view_mut());
            [gelu, slope, sum, zero].map(|v| v.get()).to_vec()
        });
        compare!(format!("AdamW over {len} values"), 1e-6, |host| {
            let gradients = host.put(&y);
            let (mut values, mut m, mut v) = (host.put(&x), host.put(&vec![0.0; len]), host.put(&vec![0.0; len]));
            let settings = AdamW {
                weight_decay: 0.1,
                ..AdamW::suta(1e-2)
            };
            for step in 1..=3 {
                let (m, v) = (m.view_mut(), v.view_mut());
                host.0.adamw(&settings, step, values.view_mut(), gradients.view(), m, v);
            }
            [values, m, v].map(|v| v.get()).to_vec()
        });
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut spoiled = x.clone();
            spoiled[len - 1] = bad;
            compare!(format!("finite check of {len} values"), 0.0, |host| {
                let whole = [&x, &spoiled].map(|values| host.0.all_finite(host.put(values).view()));
                assert_eq!(whole, [true, false]);
                vec![]
            });
        }
    }
}

/// What would be lost if a launch went past its stretch of the arena, which no red zone guards.
#[test]
fn operations_on_stretches_of_a_buffer_leave_the_rest_alone() {
    let (rows, cols) = (33, 47);
    let shape = Rows { rows, cols };
    let (x, weight, bias) = (random(rows * cols, 1), random(cols, 2), random(cols, 3));
    compare!("stretches", 1e-5, |host| {
        let whole = [&x[..], &weight, &bias, &random(200 + 2 * rows + rows * cols, 4)].concat();
        let mut arena = host.put(&whole);
        let slot = |offset, len| aurist::engine::Slot { offset, len };
        let first = rows * cols + 2 * cols + 77;
        let (y, statistics) = (slot(first, rows * cols), slot(first + rows * cols + 50, 2 * rows));
        let reads = [
            slot(0, rows * cols),
            slot(rows * cols, cols),
            slot(rows * cols + cols, cols),
        ];
        arena.with_split(reads, [y, statistics], |backend, [x, weight, bias], [y, statistics]| {
            backend.layer_norm(shape, x, weight, bias, y, statistics);
        });
        vec![arena.get()]
    });
}

/// The CPU's is in f64, and its sum over paths is checked by enumeration.
#[test]
fn ctc_towards_pseudo_labels_and_its_gradient() {
    for (frames, classes, target) in [
        (1, 2, vec![]),
        (1, 3, vec![1]),
        // Symbols that repeat need a blank between; the last one does not fit.
        (7, 4, vec![1, 1, 2, 2]),
        (5, 4, vec![1, 1, 2, 2, 3]),
        (31, 33, vec![4, 5, 4, 4, 9]),
        (32, 127, vec![]),
        (127, 31, (0..60).map(|place| 1 + place * 7 % 30).collect()),
        // More states than threads in a block.
        (499, 5, (0..140).map(|place| 1 + place * 3 % 4).collect()),
    ] {
        let logits: Vec<f32> = random(frames * classes, 1).iter().map(|z| 4.0 * z).collect();
        for over_time in [false, true] {
            let case = format!(
                "{frames} frames of {classes}, {} labels, over time {over_time}",
                target.len()
            );
            compare!(case, 1e-5, |host| {
                let logits = host.put(&logits);
                let mut dlogits = host.space(frames * classes);
                let label = PseudoLabel {
                    target: &target,
                    blank: 0,
                    over_time,
                };
                let shape = Rows {
                    rows: frames,
                    cols: classes,
                };
                let loss = host.0.pseudo_label(&label, shape, logits.view(), dlogits.view_mut());
                vec![vec![if loss.is_infinite() { 1e9 } else { loss as f32 }], dlogits.get()]
            });
        }
    }
}

#[test]
fn log_mel_frames() {
    let Some(backend) = cuda_support::backend() else { return };
    for (samples, bands) in [(159, 80), (160, 80), (401, 128), (1_603, 80), (5_000, 80), (5_000, 33)] {
        let noise = random(samples, 3);
        let loud = |n: usize| if n > samples / 2 { 0.5 } else { 1e-4 };
        let sound: Vec<f32> = noise
            .iter()
            .enumerate()
            .map(|(n, x)| loud(n) * (0.3 * x + (n as f32 * 0.7).sin()))
            .collect();
        for signal in [sound, vec![0.0; samples]] {
            let expected = LogMel::new(bands).compute(&signal);
            let values = backend.log_mel(&signal, bands, || LogMel::tables(bands)).unwrap();
            assert_same(
                &format!("{samples} samples, {bands} bands"),
                &[values],
                &[expected],
                1e-5,
            );
        }
    }
}

/// With factors of 10 and of 7 bits the results differ from exact ones by about as much, and not at all where the factors
/// are that short.
#[test]
fn products_of_rounded_factors() {
    let Some(exact) = cuda_support::backend() else { return };
    let (rows, inputs, outputs) = (33, 127, 31);
    let shape = Linear::new(rows, inputs, outputs);
    let (x, weight) = (random(rows * inputs, 1), random(outputs * inputs, 2));
    let (short_x, short_weight): (Vec<f32>, Vec<f32>) = (
        x.iter().map(|x| (x * 32.0).round() / 32.0).collect(),
        weight.iter().map(|w| (w * 32.0).round() / 32.0).collect(),
    );
    let product = |backend: CudaBackend, x: &[f32], weight: &[f32]| {
        let host = cuda_support::Host(backend);
        let (x, weight, mut y) = (host.put(x), host.put(weight), host.space(rows * outputs));
        host.0.linear(shape, x.view(), weight.view(), None, y.view_mut(), false);
        y.get()
    };
    let (all, short) = (
        product(exact, &x, &weight),
        product(cuda_support::backend().unwrap(), &short_x, &short_weight),
    );
    let largest = all.iter().fold(0.0f32, |largest, y| largest.max(y.abs()));
    for (precision, least, most) in [(CudaPrecision::Tf32, 1e-6, 1e-3), (CudaPrecision::Bf16, 1e-4, 1e-2)] {
        let device = CudaDevice::with_precision(0, precision).unwrap();
        let rounded = product(CudaBackend::new(&device).unwrap(), &x, &weight);
        let pairs = rounded.iter().zip(&all);
        let difference = pairs.fold(0.0f32, |most, (a, b)| most.max((a - b).abs())) / largest;
        assert!(least < difference && difference < most, "{precision:?}: {difference:e}");
        let rounded = product(CudaBackend::new(&device).unwrap(), &short_x, &short_weight);
        assert_same(
            &format!("{precision:?}"),
            &[rounded],
            std::slice::from_ref(&short),
            1e-6,
        );
    }
}
