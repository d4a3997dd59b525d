//! Several utterances in one launch: each comes out as it does by itself, and there are no more launches for more of them.
#![cfg(feature = "cuda")]

mod common;
mod cuda_support;

use aurist::adapt::BatchAdapter;
use aurist::engine::cuda::CudaBackend;
use aurist::engine::{
    AdamW, Attention, Backend, Each, Judge, Ledger, ObjectiveTerms, Pieces, Rows, Rules, Says, Shares, Spans,
    count_to_value, to_values,
};
use aurist::model::ModelFiles;
use aurist::{AdaptationConfig, ParameterChoice};
use common::{Golden, golden_settings, repository};
use cuda_support::{Count, Host, Values, assert_same, counted, random};
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// The counts are of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Rows of each utterance, and of the padding behind them.
const UTTERANCES: [(&[usize], usize); 5] = [
    (&[1, 33, 31], 0),
    (&[2, 1], 3),
    (&[64, 32, 5, 7], 40),
    (&[17, 65], 1),
    (&[40], 24),
];

fn rows(lens: &[usize]) -> Vec<Range<usize>> {
    let mut end = 0;
    lens.iter()
        .map(|len| {
            end += len;
            end - len..end
        })
        .collect()
}

fn starts<'a>(host: &'a Host<CudaBackend>, lens: &[usize]) -> Values<'a, CudaBackend> {
    let ends = rows(lens).into_iter().map(|rows| count_to_value(rows.end));
    host.put(&[count_to_value(0)].into_iter().chain(ends).collect::<Vec<_>>())
}

fn spans<View>(starts: View, lens: &[usize], padding: usize) -> Spans<View> {
    Spans {
        starts,
        count: lens.len(),
        longest: lens.iter().max().unwrap() + padding,
    }
}

/// Some rows of a matrix.
fn part(values: &[f32], rows: &Range<usize>, cols: usize) -> Vec<f32> {
    values[rows.start * cols..rows.end * cols].to_vec()
}

/// A matrix's values, with zeros in the padding as gradients have them.
fn gradient(rows: usize, padding: usize, cols: usize, seed: u64) -> Vec<f32> {
    [random(rows * cols, seed), vec![0.0; padding * cols]].concat()
}

#[test]
fn attention_among_each_ones_own_rows() {
    let _alone = alone();
    for (lens, padding) in UTTERANCES {
        for (heads, head_dim) in [(1, 7), (2, 64), (1, 80)] {
            let Some(backend) = cuda_support::backend() else { return };
            let host = Host(backend);
            let (all, width) = (lens.iter().sum::<usize>(), heads * head_dim);
            let qkv = random(3 * (all + padding) * width, 1);
            let dout = gradient(all, padding, width, 2);
            let run = |qkv: &[f32], dout: &[f32], of: Option<(&[usize], usize)>| {
                let shape = Attention {
                    frames: dout.len() / width,
                    heads,
                    head_dim,
                };
                let starts = of.map(|(lens, _)| starts(&host, lens));
                let spans = || {
                    let (lens, padding) = of?;
                    Some(spans(starts.as_ref()?.view(), lens, padding))
                };
                let (qkv, dout) = (host.put(qkv), host.put(dout));
                let mut scratch = host.space(host.0.attention_scratch(shape));
                let (values, rows) = (shape.frames * width, shape.frames * heads);
                let (mut out, mut lse, mut dqkv) = (host.space(values), host.space(rows), host.space(3 * values));
                let (into, saved, space) = (out.view_mut(), lse.view_mut(), scratch.view_mut());
                host.0.attention(shape, spans(), qkv.view(), None, into, saved, space);
                let (saved, into, space) = (lse.view(), dqkv.view_mut(), scratch.view_mut());
                let (qkv, from, dout) = (qkv.view(), out.view(), dout.view());
                host.0
                    .attention_backward(shape, spans(), qkv, None, from, saved, dout, into, space);
                [out.get(), dqkv.get()]
            };
            let [out, dqkv] = run(&qkv, &dout, Some((lens, padding)));
            assert!(
                out[all * width..]
                    .iter()
                    .chain(&dqkv[3 * all * width..])
                    .all(|x| *x == 0.0)
            );
            for rows in rows(lens) {
                let case = format!("rows {rows:?} of {lens:?} and {padding}, {heads} heads of {head_dim}");
                let alone = run(&part(&qkv, &rows, 3 * width), &part(&dout, &rows, width), None);
                let found = [part(&out, &rows, width), part(&dqkv, &rows, 3 * width)];
                assert_same(&case, &found, &alone, 1e-6);
            }
        }
    }
}

#[test]
fn layer_norms_with_each_ones_own_values() {
    let _alone = alone();
    for (lens, padding) in UTTERANCES {
        for cols in [1, 31, 127] {
            let Some(backend) = cuda_support::backend() else { return };
            let host = Host(backend);
            let (all, count) = (lens.iter().sum::<usize>(), lens.len());
            let (x, dy) = (random((all + padding) * cols, 1), gradient(all, padding, cols, 2));
            let before = random((all + padding) * cols, 3);
            // γ and β with something beside and between them.
            let (gamma, beta, stride) = (3, cols + 5, 2 * cols + 9);
            let (store, gradients) = (random(count * stride, 4), random(count * stride, 5));
            let shape = Rows {
                rows: all + padding,
                cols,
            };
            let starts = starts(&host, lens);
            let shares = || Shares::Spans(spans(starts.view(), lens, padding));
            let (on, d) = (host.put(&x), host.put(&dy));
            let weights = [gamma, beta].map(|place| host.put(&store[place..]));
            let each = |index: usize| Each {
                values: weights[index].view(),
                stride,
            };
            let (mut y, mut statistics) = (host.space(x.len()), host.space(2 * shape.rows));
            let (into, saved) = (y.view_mut(), statistics.view_mut());
            let parameters = [each(0), each(1)];
            host.0
                .layer_norm_each(shape, shares(), on.view(), parameters, into, saved, false);
            let saved = statistics.view();
            let mut found = vec![y.get()];
            for accumulate in [false, true] {
                let mut dx = host.put(&before);
                let into = dx.view_mut();
                host.0.layer_norm_backward_input_each(
                    shape,
                    shares(),
                    on.view(),
                    saved,
                    each(0),
                    d.view(),
                    into,
                    accumulate,
                );
                found.push(dx.get());
            }
            let mut of_store = host.put(&gradients);
            let values = of_store.view_mut();
            let (into, places) = (Each { values, stride }, [Some(gamma), Some(beta)]);
            host.0
                .layer_norm_backward_parameters_each(shape, shares(), on.view(), saved, d.view(), into, places);
            let of_store = of_store.get();
            // Back through a GELU that followed.
            let (mut used, mut dx, mut of_both) = (host.put(&dy), host.space(x.len()), host.put(&gradients));
            let values = of_both.view_mut();
            let (into, used, at) = (Each { values, stride }, used.view_mut(), dx.view_mut());
            host.0
                .layer_norm_gelu_backward_each(shape, shares(), on.view(), saved, parameters, used, at, into, places);
            found.push(dx.get());
            let of_both = of_both.get();
            assert!(found.iter().flatten().all(|value| value.is_finite()));
            for (index, rows) in rows(lens).into_iter().enumerate() {
                let case = format!("rows {rows:?} of {lens:?} and {padding}, {cols} columns");
                let shape = Rows { rows: rows.len(), cols };
                let share = |values: &[f32], place: usize| values[index * stride + place..][..cols].to_vec();
                let own = |values: &[f32]| part(values, &rows, cols);
                let (on, d) = (host.put(&own(&x)), host.put(&own(&dy)));
                let (weight, bias) = (host.put(&share(&store, gamma)), host.put(&share(&store, beta)));
                let (mut y, mut statistics) = (host.space(on.get().len()), host.space(2 * rows.len()));
                let (into, saved) = (y.view_mut(), statistics.view_mut());
                host.0
                    .layer_norm(shape, on.view(), weight.view(), bias.view(), into, saved);
                let saved = statistics.view();
                let mut alone = vec![y.get()];
                for accumulate in [false, true] {
                    let mut dx = host.put(&own(&before));
                    let (w, into) = (weight.view(), dx.view_mut());
                    host.0
                        .layer_norm_backward_input(shape, on.view(), saved, w, d.view(), into, accumulate);
                    alone.push(dx.get());
                }
                let [mut dweight, mut dbias] = [gamma, beta].map(|place| host.put(&share(&gradients, place)));
                let both = (Some(dweight.view_mut()), Some(dbias.view_mut()));
                host.0
                    .layer_norm_backward_parameters(shape, on.view(), saved, d.view(), both.0, both.1);
                let (mut used, mut dx) = (host.put(&own(&dy)), host.space(rows.len() * cols));
                let [mut dgamma, mut dbeta] = [gamma, beta].map(|place| host.put(&share(&gradients, place)));
                let (used, at) = (used.view_mut(), dx.view_mut());
                let (parameters, both) = (
                    [weight.view(), bias.view()],
                    [Some(dgamma.view_mut()), Some(dbeta.view_mut())],
                );
                host.0
                    .layer_norm_gelu_backward(shape, on.view(), saved, parameters, used, at, both);
                alone.push(dx.get());
                alone.extend([dweight, dbias, dgamma, dbeta].map(|values| values.get()));
                let mut own: Vec<Vec<f32>> = found.iter().map(|values| own(values)).collect();
                for of_store in [&of_store, &of_both] {
                    own.extend([gamma, beta].map(|place| share(of_store, place)));
                }
                assert_same(&case, &own, &alone, 1e-6);
                // What lies beside them has not changed.
                let share = index * stride..(index + 1) * stride;
                for at in share.filter(|at| {
                    let place = at - index * stride;
                    !(gamma..gamma + cols).contains(&place) && !(beta..beta + cols).contains(&place)
                }) {
                    assert_eq!(of_store[at], gradients[at], "{case}: at {at}");
                }
            }
        }
    }
}

/// Turns of several descents at once against each by itself: what is decided, kept, put back and stepped.
#[test]
fn descents_are_decided_one_by_one() {
    let _alone = alone();
    let (steps, cols, stored) = (3, 5, 21);
    let terms = ObjectiveTerms {
        temperature: 2.5,
        entropy_weight: 0.3,
        blank: 0,
    };
    let rules = Rules { steps, safeguard: true };
    for (lens, padding) in UTTERANCES {
        let Some(backend) = cuda_support::backend() else { return };
        let host = Host(backend);
        let all = lens.iter().sum::<usize>() + padding;
        // Descents over the rows of `lens`, whose logits and gradients are those of the utterances from `first` on.
        let run = |lens: &[usize], padding: usize, first: usize, skipped: usize| {
            let (count, rows) = (lens.len(), lens.iter().sum::<usize>() + padding);
            let starts = starts(&host, lens);
            let spans = || spans(starts.view(), lens, padding);
            let head = [Ledger::head(), vec![0.0; Ledger::len(steps) - Ledger::head().len()]].concat();
            let mut ledgers = host.put(&head.repeat(count));
            let mut kept = host.put(&vec![0.0; rows * cols]);
            let [mut values, mut m, mut v] = [0, 1, 2].map(|_| host.put(&vec![0.0; count * stored]));
            let before = host.put(&to_values(&[0.0]));
            let mut gradients_of = Vec::new();
            for turn in 0..=steps as u64 {
                let logits = random(all * cols, 10 + turn)[skipped * cols..][..rows * cols].to_vec();
                let (logits, mut dlogits) = (host.put(&logits), host.space(rows * cols));
                let shape = Rows { rows, cols };
                let (into, written) = (dlogits.view_mut(), ledgers.view_mut());
                host.0.decide(
                    &terms,
                    (shape, Some(spans())),
                    None,
                    logits.view(),
                    into,
                    written,
                    rules,
                );
                let pieces = Pieces::Rows(spans(), cols);
                host.0
                    .copy_where(Says::Keep, ledgers.view(), pieces, logits.view(), kept.view_mut());
                // The second utterance's gradient of the second turn is not finite.
                let mut gradients = random(9 * stored, 20 + turn)[first * stored..][..count * stored].to_vec();
                if turn == 1 && (first..first + count).contains(&1) {
                    gradients[(1 - first) * stored + 4] = f32::INFINITY;
                }
                let gradients = host.put(&gradients);
                host.0.check_gradients(gradients.view(), ledgers.view_mut(), count);
                let (at, shares) = ((before.view(), 1, 1), (count, 3..stored - 2));
                let moments = [m.view_mut(), v.view_mut()];
                let (into, along) = (values.view_mut(), gradients.view());
                host.0
                    .adamw_where(&AdamW::suta(0.5), ledgers.view(), at, shares, into, along, moments);
                gradients_of.push(dlogits.get());
            }
            let decided: Vec<Ledger> = ledgers
                .get()
                .chunks_exact(Ledger::len(steps))
                .map(|ledger| Ledger::read(ledger).unwrap())
                .collect();
            (
                decided,
                kept.get(),
                [values, m, v].map(|values| values.get()),
                gradients_of,
            )
        };
        let (ledgers, kept, stepped, gradients) = run(lens, padding, 0, 0);
        let own_rows = lens.iter().sum::<usize>();
        for gradients in &gradients {
            assert!(
                gradients[own_rows * cols..].iter().all(|d| *d == 0.0),
                "padding's gradient"
            );
        }
        for (index, rows) in rows(lens).into_iter().enumerate() {
            let case = format!("descent {index} of {lens:?} and {padding}");
            let alone = run(&lens[index..index + 1], 0, index, rows.start);
            assert_eq!(ledgers[index], alone.0[0], "{case}");
            assert_eq!(part(&kept, &rows, cols), alone.1, "{case}: logits kept");
            for (together, alone) in stepped.iter().zip(&alone.2) {
                // Bits: what is stepped along a gradient that is not finite is NaN.
                let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(
                    bits(&together[index * stored..][..stored]),
                    bits(alone),
                    "{case}: steps"
                );
            }
            for (together, alone) in gradients.iter().zip(&alone.3) {
                assert_eq!(&part(together, &rows, cols), alone, "{case}: gradients");
            }
        }
        // Not all end alike, or there would be nothing to tell apart.
        assert!(lens.len() == 1 || ledgers.iter().any(|ledger| *ledger != ledgers[0]));
    }
}

/// Only moved, so to the bit.
#[test]
fn rows_move_between_apart_and_behind_each_other() {
    let _alone = alone();
    for (lens, each, padding, cols) in [
        (&[3, 9, 1][..], 9, 0, 33),
        (&[1, 1], 4, 3, 1),
        (&[8, 3, 0, 0], 8, 5, 65),
        (&[31, 17, 40, 2], 40, 9, 7),
    ] {
        let Some(backend) = cuda_support::backend() else { return };
        let host = Host(backend);
        let (count, own) = (lens.len(), lens.iter().sum::<usize>());
        let starts = starts(&host, lens);
        let spans = || spans(starts.view(), lens, padding);
        let apart = random(count * each * cols, 1);
        let behind = random((own + padding) * cols, 2);
        let (from, mut joined) = (host.put(&apart), host.space(behind.len()));
        host.0.join_rows(spans(), cols, from.view(), joined.view_mut());
        let (from, mut parted) = (host.put(&behind), host.space(apart.len()));
        host.0.part_rows(spans(), cols, from.view(), parted.view_mut());
        let (mut expected_joined, mut expected_parted) = (vec![0.0; behind.len()], vec![0.0; apart.len()]);
        for (index, rows) in rows(lens).into_iter().enumerate() {
            let (to, place) = (rows.start * cols..rows.end * cols, index * each * cols);
            let place = place..place + to.len();
            expected_joined[to.clone()].copy_from_slice(&apart[place.clone()]);
            expected_parted[place].copy_from_slice(&behind[to]);
        }
        assert_eq!(joined.get(), expected_joined, "{lens:?} joined");
        assert_eq!(parted.get(), expected_parted, "{lens:?} parted");
        // The same addend for each; zeros behind what counts of each, with a row between them.
        let mut sum = host.put(&apart);
        let addend = random(each * cols + 5, 3);
        host.0.add_prefix_each(count, host.put(&addend).view(), sum.view_mut());
        let expected: Vec<f32> = apart
            .iter()
            .enumerate()
            .map(|(at, x)| x + addend[at % (each * cols)])
            .collect();
        assert_eq!(sum.get(), expected);
        let stride = (each + 1) * cols;
        let before = random((count - 1) * stride + each * cols, 4);
        let (mut cleared, counts) = (host.put(&before), lens.iter().map(|len| count_to_value(*len)));
        let words = host.put(&counts.collect::<Vec<_>>());
        let values = Each {
            values: cleared.view_mut(),
            stride,
        };
        host.0.clear_padding(Rows { rows: each, cols }, words.view(), values);
        for (at, value) in cleared.get().into_iter().enumerate() {
            let (index, row) = (at / stride, at % stride / cols);
            let is_padding = row >= lens[index] && row < each;
            assert_eq!(
                value,
                if is_padding { 0.0 } else { before[at] },
                "{lens:?} cleared at {at}"
            );
        }
    }
}

#[test]
fn launches_do_not_grow_with_the_utterances() {
    let _alone = alone();
    let Some(backend) = cuda_support::backend() else { return };
    use ParameterChoice::{Feature, LayerNorm, LayerNormAndFeature};
    // Where a convolution moves too, a step goes down to the first of them.
    for (name, input, choices) in [
        (
            "whisper-ctc-tiny",
            "61.log_mel",
            &[(LayerNorm, None), (Feature, None), (LayerNormAndFeature, None)][..],
        ),
        (
            "wav2vec2-base",
            "input_values",
            &[(LayerNorm, Some(1)), (Feature, None), (LayerNormAndFeature, None)],
        ),
        ("wav2vec2-large", "input_values", &[(LayerNormAndFeature, None)]),
        ("data2vec-audio", "input_values", &[(LayerNormAndFeature, None)]),
    ] {
        let directory = repository("tests/data/goldens").join(name);
        let model = Arc::new(ModelFiles::from_dir(&directory).unwrap().load(&backend).unwrap());
        let values = Golden::read(&directory).get(input);
        let unit = if name.starts_with("whisper") {
            values.len() / 61
        } else {
            1
        };
        let lens: Vec<usize> = [8, 5, 7, 4].map(|part| values.len() / unit * part / 16 * unit).to_vec();
        for (parameters, top_layers) in choices {
            let work = |count: usize, steps: usize| {
                let config = AdaptationConfig {
                    parameters: *parameters,
                    top_layers: *top_layers,
                    ..golden_settings("layer-norm+feature", steps)
                };
                let mut batch = BatchAdapter::new(&backend, model.clone(), &config).unwrap().unwrap();
                let inputs: Vec<&[f32]> = lens[..count].iter().map(|len| &values[..*len]).collect();
                let before = [Count::Launches, Count::Work].map(counted);
                let episodes = batch.run(&backend, &inputs).unwrap();
                assert!(episodes.iter().all(|episode| episode.frames > 0));
                let after = [Count::Launches, Count::Work].map(counted);
                [0, 1].map(|of| Some(after[of]? - before[of]?))
            };
            let of_steps = |count| {
                // Memory grows at first.
                work(count, 1);
                let [one, three] = [1, 3].map(|steps| work(count, steps));
                [0, 1].map(|of| Some(three[of]? - one[of]?))
            };
            let [one, two, four] = [1, 2, 4].map(of_steps);
            println!("{name}, {parameters:?}: launches and all work of two steps {one:?} {two:?} {four:?}");
            assert_eq!(two, four, "{name}, {parameters:?}");
            let [launches, all] = two;
            let both = launches.zip(all);
            assert!(
                both.is_none_or(|(launches, all)| launches > 40 && all > launches && launches % 2 == 0),
                "{name}: {two:?}"
            );
        }
    }
}
