//! Utterances of one length, padding included, that lie apart: what comes before the transformer of a batch, in one launch
//! for all. Each comes out as by itself, whose operations `cuda_operations` and `cuda_oracles` compare with others.
#![cfg(feature = "cuda")]

mod cuda_support;

use aurist::engine::{Backend, Conv1d, Each, GroupedConv1d, Rows, Shares, count_to_value};
use cuda_support::{Host, assert_same, random};

/// Each one's values among those of several that lie so far apart.
fn share(values: &[f32], index: usize, stride: usize, len: usize) -> Vec<f32> {
    values[index * stride..][..len].to_vec()
}

/// One utterance's convolution by its formula, in f64: before the GELU, the input's gradient, and the weight's and the bias's
/// added to what was there.
fn convolved(shape: Conv1d, [x, w, b, d]: [&[f32]; 4], before: [&[f32]; 2]) -> [Vec<f32>; 4] {
    let (window, step) = (shape.kernel * shape.c_in, shape.stride * shape.c_in);
    let wide = |values: &[f32]| values.iter().map(|value| f64::from(*value)).collect::<Vec<f64>>();
    let [x, w, b, d] = [x, w, b, d].map(wide);
    let [mut dw, mut db] = before.map(wide);
    let (mut pre, mut dx) = (Vec::with_capacity(d.len()), vec![0.0; x.len()]);
    for (row, d) in d.chunks_exact(shape.c_out).enumerate() {
        for (output, d) in d.iter().enumerate() {
            let seen = &x[row * step..][..window];
            let weight = &w[output * window..][..window];
            pre.push(b[output] + seen.iter().zip(weight).map(|(x, w)| x * w).sum::<f64>());
            for tap in 0..window {
                dx[row * step + tap] += d * weight[tap];
                dw[output * window + tap] += d * seen[tap];
            }
            db[output] += d;
        }
    }
    [pre, dx, dw, db].map(|values| values.into_iter().map(|value| value as f32).collect())
}

#[test]
fn convolutions_with_each_ones_own_weights() {
    // The waveform's, with a last tap that is left out, with rows behind the last window, a linear layer, gaps.
    for (padded_frames, c_in, c_out, kernel, stride) in [
        (337, 1, 33, 10, 5),
        (20, 3, 5, 3, 1),
        (23, 16, 7, 3, 2),
        (31, 8, 129, 1, 1),
        (13, 2, 3, 1, 3),
    ] {
        for (count, is_frozen) in [(2, false), (3, true), (4, false)] {
            let Some(backend) = cuda_support::backend() else { return };
            let host = Host(backend);
            let shape = Conv1d {
                padded_frames,
                c_in,
                c_out,
                kernel,
                stride,
            };
            let (rows, window) = (shape.out_frames(), kernel * c_in);
            let (each_x, each_y, weight_len) = (padded_frames * c_in, rows * c_out, c_out * window);
            // Something beside and between them.
            let (own, apart) = (weight_len + c_out + 7, each_y + 2 * c_out);
            let store = random(count * own, 1);
            let (weight_at, bias_at) = (c_out + 4, 2);
            let x = random(count * each_x, 2);
            let dpre = random((count - 1) * apart + each_y, 3);
            let (w, b) = (host.put(&store[weight_at..]), host.put(&store[bias_at..]));
            let of_weights = if is_frozen { 0 } else { own };
            let each = |values| Each {
                values,
                stride: of_weights,
            };
            let parameters = || [each(w.view()), each(b.view())];
            let on = host.put(&x);
            let [mut pre, mut y] = [0, 1].map(|_| host.put(&vec![0.0; dpre.len()]));
            let into = Each {
                values: pre.view_mut(),
                stride: apart,
            };
            host.0
                .conv1d_gelu_each(shape, count, on.view(), parameters(), into, Some(y.view_mut()));
            let packed: Vec<f32> = (0..count)
                .flat_map(|index| share(&dpre, index, apart, each_y))
                .collect();
            let (d, mut dx) = (host.put(&packed), host.space(x.len()));
            host.0
                .conv1d_backward_input_each(shape, count, d.view(), parameters()[0], dx.view_mut());
            let before = random(count * own, 4);
            let mut gradients = host.put(&before);
            let d = host.put(&dpre);
            let (of_each, into) = (
                Each {
                    values: d.view(),
                    stride: apart,
                },
                Each {
                    values: gradients.view_mut(),
                    stride: own,
                },
            );
            let places = [Some(weight_at), Some(bias_at)];
            host.0
                .conv1d_backward_parameters_each(shape, count, on.view(), of_each, into, places);
            let [pre, y, dx, gradients] = [pre, y, dx, gradients].map(|values| values.get());
            for index in 0..count {
                let case = format!("{shape:?}: {index} of {count}");
                let from = if is_frozen { 0 } else { index };
                let w = host.put(&share(&store[weight_at..], from, own, weight_len));
                let b = host.put(&share(&store[bias_at..], from, own, c_out));
                let on = host.put(&share(&x, index, each_x, each_x));
                let d = host.put(&share(&dpre, index, apart, each_y));
                let (mut own_pre, mut own_y) = (host.space(each_y), host.space(each_y));
                let (into, activated) = (own_pre.view_mut(), own_y.view_mut());
                host.0
                    .conv1d_gelu(shape, on.view(), w.view(), b.view(), into, activated);
                let mut own_dx = host.space(each_x);
                host.0
                    .conv1d_backward_input(shape, d.view(), w.view(), own_dx.view_mut());
                let mut dw = host.put(&share(&before[weight_at..], index, own, weight_len));
                let mut db = host.put(&share(&before[bias_at..], index, own, c_out));
                host.0.conv1d_backward_weight(shape, on.view(), d.view(), dw.view_mut());
                let of_bias = Rows { rows, cols: c_out };
                host.0.bias_backward(of_bias, d.view(), db.view_mut());
                let alone = [own_pre, own_y, own_dx, dw, db].map(|values| values.get());
                let found = [
                    share(&pre, index, apart, each_y),
                    share(&y, index, apart, each_y),
                    share(&dx, index, each_x, each_x),
                    share(&gradients[weight_at..], index, own, weight_len),
                    share(&gradients[bias_at..], index, own, c_out),
                ];
                assert_same(&case, &found, &alone, 1e-6);
                let inputs = [
                    &share(&x, index, each_x, each_x)[..],
                    &share(&store[weight_at..], from, own, weight_len),
                    &share(&store[bias_at..], from, own, c_out),
                    &share(&dpre, index, apart, each_y),
                ];
                let before = [
                    &share(&before[weight_at..], index, own, weight_len)[..],
                    &share(&before[bias_at..], index, own, c_out),
                ];
                let [pre, _, dx, dw, db] = found;
                assert_same(&case, &[pre, dx, dw, db], &convolved(shape, inputs, before), 2e-6);
            }
            let beside = (0..count * own).filter(|at| {
                let place = at % own;
                !(weight_at..weight_at + weight_len).contains(&place) && !(bias_at..bias_at + c_out).contains(&place)
            });
            for at in beside {
                assert_eq!(gradients[at], before[at], "{shape:?} of {count}: at {at}");
            }
        }
    }
}

#[test]
fn channel_norms_over_each_ones_own_rows() {
    // In one chunk and in several, one of them nobody's.
    for (rows, cols, own_rows) in [(33, 5, &[33, 1, 17][..]), (499, 33, &[65, 499, 0, 130])] {
        let Some(backend) = cuda_support::backend() else { return };
        let host = Host(backend);
        let (count, each, stride) = (own_rows.len(), rows * cols, 2 * cols + 3);
        let x: Vec<f32> = random(count * each, 1).iter().map(|x| 3.0 + x).collect();
        let mut dy = random(count * each, 2);
        for (index, own) in own_rows.iter().enumerate() {
            dy[index * each + own * cols..(index + 1) * each].fill(0.0);
        }
        let (store, before) = (random(count * stride, 3), random(count * stride, 4));
        let shape = Rows { rows, cols };
        let (weight_at, bias_at) = (cols + 2, 1);
        let words: Vec<f32> = own_rows.iter().map(|own| count_to_value(*own)).collect();
        let (words, on) = (host.put(&words), host.put(&x));
        let weights = [weight_at, bias_at].map(|at| host.put(&store[at..]));
        let parameters = || {
            [0, 1].map(|index| Each {
                values: weights[index].view(),
                stride,
            })
        };
        let (mut y, mut statistics) = (host.space(x.len()), host.space(2 * count * cols));
        let (into, saved) = (y.view_mut(), statistics.view_mut());
        host.0
            .channel_norm_gelu_each(shape, words.view(), on.view(), parameters(), into, saved);
        let (mut d, mut gradients) = (host.put(&dy), host.put(&before));
        let (saved, values) = (statistics.view(), gradients.view_mut());
        let (of_each, places) = (Each { values, stride }, [Some(weight_at), Some(bias_at)]);
        let into = d.view_mut();
        host.0.channel_norm_gelu_backward_each(
            shape,
            words.view(),
            on.view(),
            saved,
            parameters(),
            into,
            of_each,
            places,
        );
        let [y, d, gradients] = [y, d, gradients].map(|values| values.get());
        assert!(y.iter().chain(&d).chain(&gradients).all(|value| value.is_finite()));
        for (index, own) in own_rows.iter().enumerate().filter(|(_, own)| **own > 0) {
            let case = format!("{own} of {rows} rows of {cols}, {index} of {count}");
            let part = |values: &[f32], at: usize| host.put(&share(&values[at..], index, stride, cols));
            let (count, on) = (
                host.put(&[count_to_value(*own)]),
                host.put(&share(&x, index, each, each)),
            );
            let (w, b) = (part(&store, weight_at), part(&store, bias_at));
            let (mut own_y, mut statistics) = (host.space(each), host.space(2 * cols));
            let (into, saved) = (own_y.view_mut(), statistics.view_mut());
            host.0
                .channel_norm_gelu(shape, Some(count.view()), on.view(), w.view(), b.view(), into, saved);
            let mut own_d = host.put(&share(&dy, index, each, each));
            let (mut dw, mut db) = (part(&before, weight_at), part(&before, bias_at));
            let both = (Some(dw.view_mut()), Some(db.view_mut()));
            let (saved, into) = (statistics.view(), own_d.view_mut());
            let (of_one, counted) = ((w.view(), b.view()), Some(count.view()));
            host.0
                .channel_norm_gelu_backward(shape, counted, on.view(), saved, of_one, into, both.0, both.1);
            let alone = [own_y, own_d, dw, db].map(|values| values.get());
            let found = [
                share(&y, index, each, each),
                share(&d, index, each, each),
                share(&gradients[weight_at..], index, stride, cols),
                share(&gradients[bias_at..], index, stride, cols),
            ];
            assert_same(&case, &found, &alone, 1e-6);
        }
    }
}

#[test]
fn layer_norms_of_even_utterances() {
    for (count, each, cols) in [(2, 1, 7), (3, 33, 31), (4, 5, 129)] {
        let Some(backend) = cuda_support::backend() else { return };
        let host = Host(backend);
        let (rows, stride) = (count * each, 2 * cols + 1);
        let [x, dy, before] = [1, 2, 3].map(|seed| random(rows * cols, seed));
        let (store, of_store) = (random(count * stride, 4), random(count * stride, 5));
        let (shape, shares) = (Rows { rows, cols }, || Shares::Even(count));
        let weights = [0, cols].map(|at| host.put(&store[at..]));
        let parameter = |index: usize| Each {
            values: weights[index].view(),
            stride,
        };
        let (on, d) = (host.put(&x), host.put(&dy));
        let (mut y, mut statistics) = (host.space(x.len()), host.space(2 * rows));
        let (into, saved) = (y.view_mut(), statistics.view_mut());
        host.0
            .layer_norm_each(shape, shares(), on.view(), [0, 1].map(parameter), into, saved, true);
        let mut dx = host.put(&before);
        let (saved, into) = (statistics.view(), dx.view_mut());
        host.0
            .layer_norm_backward_input_each(shape, shares(), on.view(), saved, parameter(0), d.view(), into, true);
        let mut gradients = host.put(&of_store);
        let values = gradients.view_mut();
        let (into, places) = (Each { values, stride }, [Some(0), Some(cols)]);
        host.0
            .layer_norm_backward_parameters_each(shape, shares(), on.view(), saved, d.view(), into, places);
        // Back through the GELU as well.
        let (mut used, mut through, mut of_both) = (host.put(&dy), host.space(dy.len()), host.put(&of_store));
        let values = of_both.view_mut();
        let (into, parameters) = (Each { values, stride }, [0, 1].map(parameter));
        let (used, at) = (used.view_mut(), through.view_mut());
        host.0
            .layer_norm_gelu_backward_each(shape, shares(), on.view(), saved, parameters, used, at, into, places);
        let [y, dx, gradients, through, of_both] = [y, dx, gradients, through, of_both].map(|values| values.get());
        for index in 0..count {
            let case = format!("{index} of {count}, {each} rows of {cols}");
            let own = |values: &[f32]| share(values, index, each * cols, each * cols);
            let part = |values: &[f32], at: usize| host.put(&share(&values[at..], index, stride, cols));
            let shape = Rows { rows: each, cols };
            let (on, d) = (host.put(&own(&x)), host.put(&own(&dy)));
            let (w, b) = (part(&store, 0), part(&store, cols));
            let (mut own_y, mut statistics) = (host.space(each * cols), host.space(2 * each));
            let (into, saved) = (own_y.view_mut(), statistics.view_mut());
            host.0
                .layer_norm_gelu(shape, on.view(), w.view(), b.view(), into, saved);
            let mut own_dx = host.put(&own(&before));
            let (saved, into) = (statistics.view(), own_dx.view_mut());
            host.0
                .layer_norm_backward_input(shape, on.view(), saved, w.view(), d.view(), into, true);
            let (mut dw, mut db) = (part(&of_store, 0), part(&of_store, cols));
            let both = (Some(dw.view_mut()), Some(db.view_mut()));
            host.0
                .layer_norm_backward_parameters(shape, on.view(), saved, d.view(), both.0, both.1);
            let (mut used, mut own_through) = (host.put(&own(&dy)), host.space(each * cols));
            let (mut dw_through, mut db_through) = (part(&of_store, 0), part(&of_store, cols));
            let both = [Some(dw_through.view_mut()), Some(db_through.view_mut())];
            let (used, at, parameters) = (used.view_mut(), own_through.view_mut(), [w.view(), b.view()]);
            host.0
                .layer_norm_gelu_backward(shape, on.view(), saved, parameters, used, at, both);
            let alone = [own_y, own_dx, dw, db, own_through, dw_through, db_through].map(|values| values.get());
            let [[dw, db], [dw_through, db_through]] = [&gradients, &of_both]
                .map(|gradients| [0, cols].map(|at| share(&gradients[at..], index, stride, cols)));
            let found = [own(&y), own(&dx), dw, db, own(&through), dw_through, db_through];
            assert_same(&case, &found, &alone, 1e-6);
        }
    }
}

#[test]
fn grouped_convolutions_that_do_not_see_the_neighbours() {
    for (count, frames, channels, groups, kernel) in [(2, 65, 6, 2, 8), (3, 7, 70, 1, 5), (4, 1, 8, 4, 4)] {
        let Some(backend) = cuda_support::backend() else { return };
        let host = Host(backend);
        let shape = GroupedConv1d {
            frames,
            channels,
            groups,
            kernel,
            padding: kernel / 2,
        };
        let each = frames * channels;
        let [x, dy, before] = [1, 2, 3].map(|seed| random(count * each, seed));
        let (w, b) = (host.put(&random(shape.weight_len(), 4)), host.put(&random(channels, 5)));
        let run = |x: &[f32], dy: &[f32], before: &[f32]| {
            let (on, d, mut dx) = (host.put(x), host.put(dy), host.put(before));
            let (mut y, mut scratch) = (host.space(x.len()), host.space(0));
            let (into, space) = (y.view_mut(), scratch.view_mut());
            host.0.grouped_conv1d(shape, on.view(), w.view(), b.view(), into, space);
            let (into, space) = (dx.view_mut(), scratch.view_mut());
            host.0
                .grouped_conv1d_backward_input(shape, d.view(), w.view(), into, true, space);
            [y.get(), dx.get()]
        };
        let [y, dx] = run(&x, &dy, &before);
        for index in 0..count {
            let own = |values: &[f32]| share(values, index, each, each);
            let alone = run(&own(&x), &own(&dy), &own(&before));
            assert_same(
                &format!("{shape:?}: {index} of {count}"),
                &[own(&y), own(&dx)],
                &alone,
                1e-6,
            );
        }
    }
}
