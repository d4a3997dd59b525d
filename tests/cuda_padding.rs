//! Padded inputs: what counts of them comes out as without the padding, whatever lies there, and inputs that are padded to
//! one length share one record of the work.
#![cfg(feature = "cuda")]

mod common;
mod cuda_support;

use aurist::adapt::{AdaptedParameters, Adapter, BatchAdapter, Selection};
use aurist::engine::cpu::CpuBackend;
use aurist::engine::cuda::CudaBackend;
use aurist::engine::{
    Arena, Attention, Backend, Each, ObjectiveTerms, RelativeBias, RelativeBiasGradient, Rows, Spans, count_to_value,
};
use aurist::model::{CtcModel, ModelFiles};
use aurist::{AdaptationConfig, Compatibility, Method, ParameterChoice};
use common::{Golden, golden_settings, has_no_gradient, relative_difference, repository};
use cuda_support::{Count, Host, assert_same, counted, random};
use std::sync::{Arc, Mutex};

/// Some tests count for the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A single utterance's rows, and padding.
fn one_of<View>(starts: View, rows: usize) -> Spans<View> {
    Spans {
        starts,
        count: 1,
        longest: rows,
    }
}

/// Rows with others behind them, which must not be seen: large, for they are finite by contract.
fn padded(values: &[f32], len: usize) -> Vec<f32> {
    let rest = random(len - values.len(), 99);
    [values, &rest.iter().map(|x| 1e3 * x).collect::<Vec<_>>()].concat()
}

/// The same with zeros, as gradients are.
fn with_zeros(values: &[f32], len: usize) -> Vec<f32> {
    [values, &vec![0.0; len - values.len()]].concat()
}

/// Asserts zeros behind the first values, and gives these.
fn own(case: &str, values: Vec<f32>, len: usize) -> Vec<f32> {
    assert!(
        values[len..].iter().all(|&x| x == 0.0),
        "{case}: not 0 behind what counts"
    );
    values[..len].to_vec()
}

/// Rows of a matrix of `heads` rows, each cut from `all` values to `len` of them, from the `first` on.
fn cut(values: &[f32], all: usize, first: usize, len: usize) -> Vec<f32> {
    let rows = values.chunks_exact(all);
    rows.flat_map(|row| row[first..first + len].to_vec()).collect()
}

#[test]
fn attention_among_the_rows_that_count() {
    let _alone = alone();
    for (own_frames, frames, heads, head_dim) in [
        (1, 2, 1, 1),
        (1, 40, 2, 16),
        (31, 33, 2, 33),
        (32, 64, 1, 64),
        (33, 127, 3, 16),
        (64, 64, 1, 80),
        (65, 100, 2, 80),
    ] {
        let Some(backend) = cuda_support::backend() else { return };
        let host = Host(backend);
        let shape = |frames| Attention {
            frames,
            heads,
            head_dim,
        };
        let (all, width) = (shape(frames), heads * head_dim);
        let (qkv, dout) = (random(3 * own_frames * width, 1), random(own_frames * width, 2));
        let (gate, table) = (random(frames * heads, 3), random(heads * (2 * frames - 1), 4));
        let run = |shape: Attention, count: Option<usize>, biased: bool| {
            let frames = shape.frames;
            let (values, rows) = (frames * width, frames * heads);
            let starts = count.map(|count| host.put(&[0, count].map(count_to_value)));
            let spans = || starts.as_ref().map(|starts| one_of(starts.view(), frames));
            let distances = 2 * frames - 1;
            let (qkv, dout) = (
                host.put(&padded(&qkv, 3 * values)),
                host.put(&with_zeros(&dout, values)),
            );
            let gate = host.put(&cut(&gate, all.frames, 0, frames));
            let table = host.put(&cut(&table, 2 * all.frames - 1, all.frames - frames, distances));
            let bias = || RelativeBias {
                gate: gate.view(),
                table: table.view(),
            };
            let mut scratch = host.space(host.0.attention_scratch(shape));
            let (mut out, mut lse, mut dqkv) = (host.space(values), host.space(rows), host.space(3 * values));
            let (into, saved, space) = (out.view_mut(), lse.view_mut(), scratch.view_mut());
            host.0
                .attention(shape, spans(), qkv.view(), biased.then(bias), into, saved, space);
            let (mut dgate, mut dtable) = (host.space(rows), host.put(&vec![0.0; heads * distances]));
            let gradient = RelativeBiasGradient {
                gate: dgate.view_mut(),
                table: Some(dtable.view_mut()),
            };
            let pair = biased.then(|| (bias(), gradient));
            let (saved, into, space) = (lse.view(), dqkv.view_mut(), scratch.view_mut());
            let (qkv, out, dout) = (qkv.view(), out.view(), dout.view());
            host.0
                .attention_backward(shape, spans(), qkv, pair, out, saved, dout, into, space);
            let of_bias = if biased {
                [dgate.get(), dtable.get()]
            } else {
                [vec![], vec![]]
            };
            ([out_of(&host, out, values), dqkv.get()], of_bias)
        };
        for biased in [false, true] {
            let case = format!("{own_frames} of {all:?}, bias {biased}");
            let (alone, [dgate, dtable]) = run(shape(own_frames), None, biased);
            let (rows, [padded_dgate, padded_dtable]) = run(all, Some(own_frames), biased);
            let rows = rows
                .into_iter()
                .zip(&alone)
                .map(|(rows, alone)| own(&case, rows, alone.len()));
            assert_same(&case, &rows.collect::<Vec<_>>(), &alone, 1e-5);
            if biased {
                let dgates = cut(&padded_dgate, frames, 0, own_frames);
                let behind = cut(&padded_dgate, frames, own_frames, frames - own_frames);
                assert!(behind.iter().all(|&d| d == 0.0), "{case}: a padded gate's gradient");
                let dtables = cut(&padded_dtable, 2 * frames - 1, frames - own_frames, 2 * own_frames - 1);
                assert_same(&case, &[dgates, dtables], &[dgate, dtable], 2e-5);
            }
        }
    }
}

fn out_of(host: &Host<CudaBackend>, view: <CudaBackend as Backend>::View<'_>, len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    host.0.download(view, &mut values);
    values
}

#[test]
fn channel_norms_over_the_rows_that_count() {
    let _alone = alone();
    // Within a chunk, to its end, and with chunks of nothing but padding.
    for (own_rows, rows, cols) in [(2, 3, 1), (31, 33, 33), (64, 128, 5), (65, 499, 33), (4099, 4400, 5)] {
        let Some(backend) = cuda_support::backend() else { return };
        let host = Host(backend);
        let x: Vec<f32> = random(own_rows * cols, 1).iter().map(|x| 3.0 + x).collect();
        let dy = random(own_rows * cols, 4);
        let run = |rows: usize, count: Option<usize>| {
            let (shape, len) = (Rows { rows, cols }, rows * cols);
            let count = count.map(|count| host.put(&[count_to_value(count)]));
            let count = || count.as_ref().map(|count| count.view());
            let (x, weight, bias) = (
                host.put(&padded(&x, len)),
                host.put(&random(cols, 2)),
                host.put(&random(cols, 3)),
            );
            let (mut y, mut statistics) = (host.space(len), host.space(2 * cols));
            let (into, saved) = (y.view_mut(), statistics.view_mut());
            host.0
                .channel_norm_gelu(shape, count(), x.view(), weight.view(), bias.view(), into, saved);
            let mut d = host.put(&with_zeros(&dy, len));
            let (mut dweight, mut dbias) = (host.put(&vec![0.0; cols]), host.put(&vec![0.0; cols]));
            let both = (Some(dweight.view_mut()), Some(dbias.view_mut()));
            let (parameters, saved, into) = ((weight.view(), bias.view()), statistics.view(), d.view_mut());
            host.0
                .channel_norm_gelu_backward(shape, count(), x.view(), saved, parameters, into, both.0, both.1);
            assert!(y.get().iter().all(|y| y.is_finite()));
            [y, d, statistics, dweight, dbias].map(|values| values.get())
        };
        let case = format!("{own_rows} of {rows} rows of {cols}");
        let alone = run(own_rows, None);
        let [y, d, statistics, dweight, dbias] = run(rows, Some(own_rows));
        let d = own(&case, d, own_rows * cols);
        let found = [y[..own_rows * cols].to_vec(), d, statistics, dweight, dbias];
        assert_same(&case, &found, &alone, 1e-5);
    }
}

#[test]
fn the_objective_of_the_frames_that_count() {
    let _alone = alone();
    let Some(backend) = cuda_support::backend() else { return };
    let host = Host(backend);
    let terms = ObjectiveTerms {
        temperature: 2.5,
        entropy_weight: 0.3,
        blank: 0,
    };
    for (own_frames, frames, classes) in [(1, 2, 2), (15, 17, 5), (31, 64, 33), (127, 128, 32)] {
        let logits = random(own_frames * classes, 1);
        let run = |frames: usize, count: Option<usize>| {
            let (shape, len) = (
                Rows {
                    rows: frames,
                    cols: classes,
                },
                frames * classes,
            );
            let starts = count.map(|count| host.put(&[0, count].map(count_to_value)));
            let (logits, mut dlogits) = (host.put(&padded(&logits, len)), host.space(len));
            let spans = starts.as_ref().map(|starts| one_of(starts.view(), frames));
            let value = host
                .0
                .entropy_mcc(&terms, shape, spans, logits.view(), dlogits.view_mut());
            (value, dlogits.get())
        };
        let case = format!("{own_frames} of {frames} frames of {classes}");
        let ((alone, dalone), (value, d)) = (run(own_frames, None), run(frames, Some(own_frames)));
        assert_eq!(value, alone, "{case}");
        assert_eq!(own(&case, d, own_frames * classes), dalone, "{case}");
    }
}

#[test]
fn rows_that_do_not_count_are_cleared_and_nothing_else() {
    let _alone = alone();
    let Some(backend) = cuda_support::backend() else { return };
    let host = Host(backend);
    for (own_rows, rows, cols) in [(0, 3, 5), (1, 2, 33), (31, 499, 7), (4, 4, 4)] {
        let values = random(rows * cols, 1);
        let (count, mut x) = (host.put(&[count_to_value(own_rows)]), host.put(&values));
        let x_of_one = Each {
            values: x.view_mut(),
            stride: 0,
        };
        host.0.clear_padding(Rows { rows, cols }, count.view(), x_of_one);
        assert_eq!(own("cleared", x.get(), own_rows * cols), values[..own_rows * cols]);
    }
}

fn load(backend: &CudaBackend, name: &str) -> (Golden, Arc<CtcModel<CudaBackend>>) {
    let directory = repository("tests/data/goldens").join(name);
    let model = ModelFiles::from_dir(&directory).unwrap().load(backend).unwrap();
    (Golden::read(&directory), Arc::new(model))
}

/// A model's golden input, and how many values come at a time.
const MODELS: [(&str, &str); 5] = [
    ("whisper-ctc-tiny", "61.log_mel"),
    ("wav2vec2-base", "input_values"),
    ("wav2vec2-large", "input_values"),
    ("data2vec-audio", "input_values"),
    ("wavlm-base", "input_values"),
];

/// Logits, objective and the gradients of everything that has one, from the same slots as whatever was there before.
fn passes(
    backend: &CudaBackend,
    model: &CtcModel<CudaBackend>,
    arena: &mut Arena<CudaBackend>,
    input: &[f32],
    padded_to: Option<usize>,
) -> Vec<(String, Vec<f32>)> {
    let selection = Selection {
        choice: ParameterChoice::All,
        top_layers: None,
        lowest_layers: None,
        compatibility: Compatibility::None,
        half: aurist::Half::Both,
    };
    let mut parameters = AdaptedParameters::new(backend, model.weights().clone(), Some(selection)).unwrap();
    let (plan, a) = match padded_to {
        Some(padded) => model.plan_padded(backend, input.len(), padded, 0).unwrap(),
        None => model.plan(backend, input.len(), 0).unwrap(),
    };
    arena.reserve(backend, &plan).unwrap();
    model.load_input(backend, arena, &a, input);
    model.forward(backend, &parameters, arena, &a, 0);
    let terms = ObjectiveTerms {
        temperature: 2.5,
        entropy_weight: 0.3,
        blank: model.config().blank,
    };
    let shape = Rows {
        rows: a.padded_frames(),
        cols: model.config().vocab_size,
    };
    let (logits, dlogits) = a.padded_logits();
    let (spans, [logits], [dlogits]) = arena.split_spans(backend, a.spans(), [logits], [dlogits]);
    let value = backend.entropy_mcc(&terms, shape, spans, logits, dlogits);
    parameters.zero_gradients(backend);
    model.backward(backend, &mut parameters, arena, &a);
    let mut logits = vec![0.0; a.output_frames() * model.config().vocab_size];
    backend.download(arena.view(backend, a.logits()), &mut logits);
    let gradients = parameters
        .names()
        .filter(|name| !has_no_gradient(name))
        .map(|name| (name.to_string(), parameters.tensor(backend, name).unwrap().1));
    let found = [
        ("logits".to_string(), logits),
        ("loss".to_string(), vec![value.loss as f32]),
    ];
    let found = found.into_iter().chain(gradients).collect();
    backend.status().unwrap();
    found
}

#[test]
fn padded_equals_exact_in_every_gradient() {
    let _alone = alone();
    let Some(backend) = cuda_support::backend() else { return };
    for (name, input) in MODELS {
        let (golden, model) = load(&backend, name);
        let values = golden.get(input);
        let unit = if name.starts_with("whisper") {
            values.len() / 61
        } else {
            1
        };
        let units = values.len() / unit;
        // What the last one left lies in the padding of the next.
        let mut arena = Arena::new(&backend, 0).unwrap();
        let mut alone_arena = Arena::new(&backend, 0).unwrap();
        for own in [units, units - 1, units / 2, units * 3 / 4, units / 2 + 1] {
            let own = &values[..own * unit];
            for padded in [units * unit, (units + units / 8) * unit] {
                let case = format!("{name}: {} values padded to {padded}", own.len());
                let alone = passes(&backend, &model, &mut alone_arena, own, None);
                let found = passes(&backend, &model, &mut arena, own, Some(padded));
                assert_eq!(found.len(), alone.len());
                for ((what, found), (_, alone)) in found.iter().zip(&alone) {
                    let relative = relative_difference(found, alone);
                    assert!(relative < 2e-5, "{case}: {what} {relative:e} apart");
                }
            }
        }
        assert!(model.plan_padded(&backend, unit - 1, values.len(), 0).is_none());
    }
}

#[test]
fn lengths_are_padded_by_an_eighth_at_most_to_few() {
    let backend = CpuBackend::new(1).unwrap();
    for (name, unit, most) in [("whisper-ctc-tiny", 80, 300), ("wav2vec2-base", 1, 40_000)] {
        let model = common::load(&backend, &repository("tests/data/goldens").join(name));
        let unit = match model.input() {
            aurist::model::Input::LogMel { bands } => bands,
            aurist::model::Input::Waveform { .. } => unit,
        };
        let most = most.min(model.config().most_input_values() / unit);
        let lens: Vec<usize> = (1..=most).map(|units| model.padded_values(units * unit)).collect();
        for (units, len) in (1..).zip(&lens) {
            let values = units * unit;
            assert!(
                *len >= values && *len % unit == 0 && 8 * (len - values) <= values,
                "{values}: {len}"
            );
            assert!(*len <= model.config().most_input_values());
            assert_eq!(model.padded_values(*len), *len);
        }
        assert!(lens.is_sorted());
        let mut distinct = lens.clone();
        distinct.dedup();
        // Eight an octave, and all the short ones.
        let octaves = most.ilog2() as usize + 1;
        assert!(distinct.len() <= 8 * octaves + 8, "{name}: {} lengths", distinct.len());
    }
}

/// On the processor nothing is padded.
#[test]
fn every_method_on_any_length_is_as_on_the_processor() {
    let _alone = alone();
    let Some(gpu) = cuda_support::backend() else { return };
    let cpu = CpuBackend::new(1).unwrap();
    for (name, input) in [("whisper-ctc-tiny", "61.log_mel"), ("wav2vec2-base", "input_values")] {
        let (golden, model) = load(&gpu, name);
        let on_cpu = common::load(&cpu, &repository("tests/data/goldens").join(name));
        let values = golden.get(input);
        let unit = if name.starts_with("whisper") {
            values.len() / 61
        } else {
            1
        };
        let of = |part: usize| &values[..(values.len() / unit * part / 16).max(1) * unit];
        let mut configs = vec![
            golden_settings("layer-norm+feature", 2),
            AdaptationConfig {
                method: Method::Sdpl,
                ..golden_settings("layer-norm+feature", 2)
            },
        ];
        for config in [
            AdaptationConfig::csuta(),
            AdaptationConfig::dsuta(),
            AdaptationConfig::awmc(),
        ] {
            configs.push(AdaptationConfig { steps: 2, ..config });
        }
        configs.push(AdaptationConfig {
            steps: 2,
            ..AdaptationConfig::cea()
        });
        for config in configs {
            let mut padded = Adapter::new(&gpu, model.clone(), &config).unwrap();
            let mut exact = Adapter::new(&cpu, on_cpu.clone(), &config).unwrap();
            // A longer one first, whose traces lie in the padding of those that follow.
            for part in [16, 11, 15, 9] {
                let case = format!("{name}, {:?}: {part} sixteenths", config.method);
                let found = padded.run(&gpu, of(part)).unwrap();
                let expected = exact.run(&cpu, of(part)).unwrap();
                assert_eq!(
                    (found.frames, found.steps, found.guard, found.source_logits.len()),
                    (
                        expected.frames,
                        expected.steps,
                        expected.guard,
                        expected.source_logits.len()
                    ),
                    "{case}"
                );
                for (found, expected) in [
                    (&found.source_logits, &expected.source_logits),
                    (&found.adapted_logits, &expected.adapted_logits),
                ] {
                    let relative = relative_difference(found, expected);
                    assert!(relative < 1e-3, "{case}: logits {relative:e} apart");
                }
            }
        }
    }
}

#[test]
fn lengths_that_are_padded_to_one_are_recorded_once() {
    let _alone = alone();
    let Some(backend) = cuda_support::backend() else { return };
    let steps = 4;
    for (name, input) in MODELS {
        let (golden, model) = load(&backend, name);
        let values = golden.get(input);
        let unit = if name.starts_with("whisper") {
            values.len() / 61
        } else {
            1
        };
        // All that are padded to the same length as the longest one that needs no padding.
        let fits = |len: &usize| model.padded_values(len * unit) <= values.len();
        let longest = (1..=values.len() / unit).rev().find(fits).unwrap();
        let is_like = |len: &usize| model.padded_values(len * unit) == longest * unit;
        let lens: Vec<usize> = (1..=longest).rev().filter(is_like).collect();
        let lens = [lens[0], lens[lens.len() / 2], lens[lens.len() - 1], lens[1], lens[0]];
        assert!(lens.iter().any(|len| *len != lens[0]), "{name}");
        let mut adapter = Adapter::new(&backend, model, &golden_settings("layer-norm+feature", steps)).unwrap();
        let counts = || [Count::Allocations, Count::Graphs].map(counted);
        let mut made = Vec::new();
        for len in lens {
            let (before, launches) = (counts(), backend.graph_launches());
            let episode = adapter.run(&backend, &values[..len * unit]).unwrap();
            assert!(episode.frames > 0);
            let used = counts().into_iter().zip(before).map(|(now, then)| Some(now? - then?));
            made.push((used.collect::<Option<Vec<u64>>>(), backend.graph_launches() - launches));
        }
        // Memory grows at first, what comes a second time is recorded, and then all is replayed.
        let replayed: Vec<u64> = made.iter().map(|(_, launches)| *launches).collect();
        assert_eq!(replayed[2..], vec![steps as u64 + 2; 3], "{name}");
        let Some(made) = made.into_iter().map(|(made, _)| made).collect::<Option<Vec<_>>>() else {
            return;
        };
        // The source model's pass, a step, the judgement after the last.
        assert_eq!(
            made.iter().map(|made| made[1]).sum::<u64>(),
            3,
            "{name}: graphs {made:?}"
        );
        assert_eq!(made[3..], [[0, 0], [0, 0]], "{name}: allocations and graphs");
    }
}

/// Lists of lengths that are padded to the same ones, in any order.
#[test]
fn batches_that_are_padded_to_one_are_recorded_once() {
    let _alone = alone();
    let Some(backend) = cuda_support::backend() else { return };
    let steps = 3;
    for (name, input) in MODELS.into_iter().filter(|(name, _)| !name.starts_with("wavlm")) {
        let (golden, model) = load(&backend, name);
        let values = golden.get(input);
        let unit = if name.starts_with("whisper") {
            values.len() / 61
        } else {
            1
        };
        let fits = |len: &usize| model.padded_values(len * unit) <= values.len();
        let longest = (1..=values.len() / unit).rev().find(fits).unwrap();
        // The shortest and the longest that are padded to what such a part of the longest is padded to.
        let alike = |part: usize| {
            let padded = model.padded_values((longest * part / 8).max(1) * unit);
            let is_like = |len: &usize| model.padded_values(len * unit) == padded;
            let shortest = (1..=longest).find(is_like).unwrap();
            [shortest, (shortest..=longest).rev().find(is_like).unwrap()]
        };
        let pairs = [8, 5, 7].map(alike);
        assert!(pairs.iter().any(|[short, long]| short < long), "{name}: {pairs:?}");
        let [a, b, c] = pairs;
        let batches = [
            [a[1], b[1], c[1]],
            [a[0], b[0], c[0]],
            [a[1], b[0], c[0]],
            [c[0], a[1], b[1]],
            [b[0], c[1], a[0]],
        ];
        let config = golden_settings("layer-norm+feature", steps);
        let mut adapter = BatchAdapter::new(&backend, model, &config).unwrap().unwrap();
        let counts = || [Count::Allocations, Count::Graphs].map(counted);
        let mut made = Vec::new();
        for lens in batches {
            let (before, launches) = (counts(), backend.graph_launches());
            let inputs = lens.map(|len| &values[..len * unit]);
            let episodes = adapter.run(&backend, &inputs).unwrap();
            assert!(episodes.iter().all(|episode| episode.frames > 0));
            let used = counts().into_iter().zip(before).map(|(now, then)| Some(now? - then?));
            made.push((used.collect::<Option<Vec<u64>>>(), backend.graph_launches() - launches));
        }
        let replayed: Vec<u64> = made.iter().map(|(_, launches)| *launches).collect();
        assert_eq!(replayed[2..], [steps as u64 + 2; 3], "{name}");
        let Some(made) = made.into_iter().map(|(made, _)| made).collect::<Option<Vec<_>>>() else {
            return;
        };
        println!("{name}: {batches:?}: allocations and graphs {made:?}");
        assert_eq!(
            made.iter().map(|made| made[1]).sum::<u64>(),
            3,
            "{name}: graphs {made:?}"
        );
        assert_eq!(made[3..], [[0, 0], [0, 0]], "{name}: allocations and graphs");
    }
}
