//! Continual policies against PyTorch (`benches/reference/continual.py` wrote the file) over one stream of 150 short
//! utterances: every transcript, every loss, every reset, and the parameters at the end. And what a stream must bear:
//! to be stopped and resumed, silence, and what is not finite.

mod common;

use aurist::adapt::{Adapter, Episode, StreamState};
use aurist::audio::Features;
use aurist::engine::cpu::CpuBackend;
use aurist::model::{CtcModel, Vocabulary};
use aurist::{AdaptationConfig, Compatibility, ContinualConfig, Emitted, Guard, Reset, ResetReason};
use common::{Golden, largest_difference, repository};
use std::sync::Arc;

/// The same integers, and so the same samples, as the reference's `utterance`.
fn utterance(n: usize, boundaries: &[usize]) -> Vec<f32> {
    let domain = boundaries.iter().filter(|boundary| n >= **boundary).count();
    let (loudness, period) = [(0i64, 100), (1, 37), (8, 211)][domain];
    let count = 4000 + 400 * (n % 5);
    let mut state = (n as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let (mut width, mut level, mut sum) = (1, 1, 0i64);
    let mut heard: Vec<i64> = Vec::new();
    (0..count)
        .map(|i| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let noise = (state >> 43) as i64 - (1 << 20);
            if i % 800 == 0 {
                width = 1 << ((state >> 33) % 6);
                level = 1 + ((state >> 40) % 8) as i64;
                sum = 0;
                heard.clear();
            }
            heard.push(noise);
            sum += noise;
            if heard.len() > width {
                sum -= heard[heard.len() - width - 1];
            }
            let hum = if matches!(i * 4 / period % 4, 0 | 1) { 1 } else { -1 };
            let sample = sum.div_euclid(width as i64) * level + hum * (loudness << 20);
            (sample as f64 / f64::from(1 << 25)) as f32
        })
        .collect()
}

struct Setting {
    golden: Golden,
    backend: CpuBackend,
    model: Arc<CtcModel<CpuBackend>>,
    vocabulary: Vocabulary,
    boundaries: Vec<usize>,
    stream: Vec<Vec<f32>>,
}

impl Setting {
    fn new() -> Self {
        let golden = Golden::read(&repository("tests/data/goldens/continual"));
        let directory = repository("tests/data/goldens/wav2vec2-base");
        let backend = CpuBackend::new(1).unwrap();
        let bias = golden.get("lm_head.bias");
        let model = common::load_patched(&backend, &directory, move |tensor, values| {
            if tensor == "lm_head.bias" {
                values.copy_from_slice(&bias);
            }
        });
        let boundaries: Vec<usize> = serde_json::from_str(&golden.metadata("boundaries")).unwrap();
        let count: usize = golden.metadata("utterances").parse().unwrap();
        let mut features = Features::waveform(true);
        let stream = (0..count)
            .map(|n| features.compute(&utterance(n, &boundaries)))
            .collect();
        Self {
            vocabulary: common::vocabulary(&directory),
            golden,
            backend,
            model,
            boundaries,
            stream,
        }
    }

    fn number(&self, key: &str) -> f64 {
        self.golden.metadata(key).parse().unwrap()
    }

    fn config(&self, policy: &str) -> AdaptationConfig {
        let learning_rate = self.number("learning_rate");
        let with_reset = |reset| AdaptationConfig {
            learning_rate,
            continual: ContinualConfig {
                reset,
                ..ContinualConfig::default()
            },
            ..AdaptationConfig::dsuta()
        };
        match policy {
            "csuta" => AdaptationConfig {
                learning_rate,
                ..AdaptationConfig::csuta()
            },
            "dsuta" => with_reset(Reset::None),
            "dsuta-fixed" => with_reset(Reset::Fixed { every: 50 }),
            "dsuta-oracle" => with_reset(Reset::Oracle),
            "dsuta-dynamic" => with_reset(Reset::dynamic()),
            "dsuta-dynamic-30" => with_reset(Reset::Dynamic {
                window: 30,
                patience: 2,
            }),
            "dsuta-compat" => AdaptationConfig {
                compatibility: Compatibility::Dsuta,
                ..with_reset(Reset::None)
            },
            "dsuta-collapse" => with_reset(Reset::Collapse {
                below: self.number("collapsed"),
            }),
            "dsuta-restore" => {
                let mut config = with_reset(Reset::None);
                config.continual.restore_probability = self.number("restored");
                config
            }
            "replay" => {
                let mut config = AdaptationConfig {
                    learning_rate,
                    ..AdaptationConfig::replay()
                };
                config.continual.reservoir = self.number("reservoir") as usize;
                config.continual.confidence = self.number("confidence");
                config
            }
            "cea" => AdaptationConfig {
                learning_rate,
                steps: self.number("cea_steps") as usize,
                ..AdaptationConfig::cea()
            },
            "guarded" => AdaptationConfig {
                learning_rate,
                ..AdaptationConfig::guarded()
            },
            "awmc" => AdaptationConfig {
                learning_rate: learning_rate / 10.0,
                steps: 3,
                ..AdaptationConfig::awmc()
            },
            other => panic!("{other}"),
        }
    }

    fn adapter(&self, policy: &str) -> Adapter<CpuBackend> {
        Adapter::new(&self.backend, self.model.clone(), &self.config(policy)).unwrap()
    }

    /// Utterance n, from 0, and what the oracle is told before it.
    fn hear(&self, adapter: &mut Adapter<CpuBackend>, n: usize) -> Episode {
        if self.boundaries.contains(&n) {
            adapter.domain_changed(&self.backend);
        }
        adapter.run(&self.backend, &self.stream[n]).unwrap()
    }
}

const POLICIES: [&str; 12] = [
    "csuta",
    "dsuta",
    "dsuta-fixed",
    "dsuta-oracle",
    "dsuta-dynamic",
    "dsuta-dynamic-30",
    "dsuta-compat",
    "dsuta-collapse",
    "dsuta-restore",
    "replay",
    "cea",
    "awmc",
];

#[test]
fn every_policy_does_what_the_reference_does() {
    let setting = Setting::new();
    let golden = &setting.golden;
    assert!(setting.stream.len() >= 120);
    for policy in POLICIES {
        let mut adapter = setting.adapter(policy);
        let texts: Vec<String> = serde_json::from_str(&golden.metadata(&format!("{policy}.texts"))).unwrap();
        let mut expected_resets: Vec<u64> =
            serde_json::from_str(&golden.metadata(&format!("{policy}.resets"))).unwrap();
        let losses = golden.get(&format!("{policy}.losses"));
        let (mut resets, mut deviations) = (Vec::new(), Vec::new());
        for (n, (text, loss)) in texts.iter().zip(&losses).enumerate() {
            let episode = setting.hear(&mut adapter, n);
            let heard = aurist::decode::greedy(&episode.adapted_logits, &setting.vocabulary, 0.02).text;
            assert_eq!(&heard, text, "{policy}: utterance {n}");
            let found = episode.objectives[0].loss as f32;
            assert!(
                (found / loss - 1.0).abs() < 1e-3,
                "{policy}: utterance {n}: {found} {loss}"
            );
            assert_eq!(episode.guard, None);
            if policy == "cea" {
                assert_eq!(episode.carried, None, "it carries nothing");
                continue;
            }
            let carried = episode.carried.unwrap();
            assert_eq!(carried.position, n as u64 + 1);
            resets.extend(carried.reset.map(|_| carried.position));
            deviations.extend(carried.deviation);
        }
        if policy == "dsuta-oracle" {
            // The oracle's are the caller's.
            let told = setting.boundaries.iter().map(|boundary| *boundary as u64);
            assert_eq!(expected_resets, told.collect::<Vec<_>>());
            expected_resets.clear();
        }
        assert_eq!(resets, expected_resets, "{policy}");
        if policy.contains("dynamic") || policy.contains("collapse") {
            assert!(!resets.is_empty(), "{policy} must be put to the test");
        }
        if policy.contains("dynamic") {
            let expected = golden.get(&format!("{policy}.deviations"));
            let difference = largest_difference(&deviations, &expected);
            assert!(difference < 0.05, "{policy}: {difference} standard errors");
        }
        // What an episodic one leaves is the last utterance's.
        adapter.show_carried(&setting.backend);
        let names: Vec<String> = adapter.parameters().names().map(String::from).collect();
        let prefix = format!("{policy}.final.");
        let kept = golden.names().iter().filter(|name| name.starts_with(&prefix)).count();
        assert_eq!(names.len(), kept, "{policy}: the adapted tensors");
        // The keys' biases shift a row's scores alike, which softmax cancels: their gradient is rounding.
        for name in names.into_iter().filter(|name| !name.contains("k_proj.bias")) {
            let (values, _) = adapter.parameters().tensor(&setting.backend, &name).unwrap();
            let difference = largest_difference(&values, &golden.get(&format!("{prefix}{name}")));
            assert!(difference < 2e-5, "{policy} {name}: {difference:e}");
        }
    }
}

#[test]
fn a_stream_that_is_stopped_and_resumed_is_one_that_was_not() {
    let setting = Setting::new();
    let file = tempfile::NamedTempFile::new().unwrap();
    for (policy, stops) in [
        ("csuta", vec![2]),
        ("dsuta-dynamic-30", vec![3, 23, 37, 45]),
        ("replay", vec![3, 7, 22]),
        ("guarded", vec![1, 7]),
        ("awmc", vec![2]),
    ] {
        let (mut whole, mut parts) = (setting.adapter(policy), setting.adapter(policy));
        let config = setting.config(policy);
        for n in 0..stops[stops.len() - 1] + 4 {
            if stops.contains(&n) {
                let state = parts.state(&setting.backend);
                StreamState::new("model", &config, state).save(file.path()).unwrap();
                parts = setting.adapter(policy);
                let state = StreamState::load(file.path()).unwrap();
                parts.resume(&setting.backend, &state.policy).unwrap();
            }
            let (expected, found) = (setting.hear(&mut whole, n), setting.hear(&mut parts, n));
            assert_eq!(found.adapted_logits, expected.adapted_logits, "{policy}: utterance {n}");
            assert_eq!(found.carried, expected.carried);
        }
        assert_eq!(parts.state(&setting.backend), whole.state(&setting.backend));
        // Another method's state, and another model's, are refused, and leave a new stream.
        let other = if policy == "awmc" { "csuta" } else { "awmc" };
        let mut other = setting.adapter(other);
        assert_eq!(other.resume(&setting.backend, &whole.state(&setting.backend)), None);
        assert_eq!(setting.hear(&mut other, 0).carried.unwrap().updates, 0);
    }
}

#[test]
fn what_is_not_speech_leaves_no_mark() {
    let setting = Setting::new();
    let silent = common::load_patched(
        &setting.backend,
        &repository("tests/data/goldens/wav2vec2-base"),
        |tensor, values| {
            if tensor == "lm_head.bias" {
                values[0] += 1000.0;
            }
        },
    );
    for policy in ["csuta", "dsuta", "replay", "guarded", "awmc"] {
        // Every frame blank, for long.
        let mut deaf = Adapter::new(&setting.backend, silent.clone(), &setting.config(policy)).unwrap();
        for n in 0..20 {
            let episode = setting.hear(&mut deaf, n);
            assert_eq!((episode.steps, episode.guard), (0, Some(Guard::AllBlank)), "{policy}");
            assert_eq!(episode.carried.unwrap().updates, 0);
        }
        // An input that overflows, in the middle of a stream.
        let (mut adapter, mut spared) = (setting.adapter(policy), setting.adapter(policy));
        let overflow = vec![f32::MAX; 4000];
        for n in 0..12 {
            if n == 7 {
                let episode = adapter.run(&setting.backend, &overflow).unwrap();
                assert_eq!((episode.guard, episode.steps), (Some(Guard::NonFinite), 0), "{policy}");
            }
            let (found, expected) = (setting.hear(&mut adapter, n), setting.hear(&mut spared, n));
            assert_eq!(found.adapted_logits, expected.adapted_logits, "{policy}: utterance {n}");
            assert!(found.adapted_logits.iter().all(|logit| logit.is_finite()));
        }
    }
}

/// The guarded method's promises, on the same stream: what it emits is one of three transcripts, from where it says; the
/// domain state is the average of solutions found from the source model; and it costs no more than it should.
#[test]
fn guarded_emits_what_it_says_from_an_average_of_solutions() {
    let setting = Setting::new();
    let config = setting.config("guarded");
    let mut guarded = setting.adapter("guarded");
    let suta = AdaptationConfig {
        method: aurist::Method::Suta,
        ..config.clone()
    };
    let mut suta = Adapter::new(&setting.backend, setting.model.clone(), &suta).unwrap();
    let mut average: Option<Vec<f32>> = None;
    let (mut emitted, mut behind, mut resets) = ([0; 4], 0, 0);
    for n in 0..40 {
        let (alone, episode) = (setting.hear(&mut suta, n), setting.hear(&mut guarded, n));
        assert_eq!(episode.source_logits, alone.source_logits);
        let carried = episode.carried.unwrap();
        assert_eq!((carried.position, carried.updates), (n as u64 + 1, behind), "{n}");
        assert_eq!(episode.guard, None, "{n}");
        match carried.emitted.unwrap() {
            Emitted::Unadapted => assert_eq!(episode.adapted_logits, episode.source_logits),
            Emitted::Source => assert_eq!(episode.adapted_logits, alone.adapted_logits),
            Emitted::Domain | Emitted::Both => {
                assert!(behind > 0, "there is no domain state yet");
                assert_ne!(episode.adapted_logits, alone.adapted_logits);
            }
        }
        emitted[carried.emitted.unwrap() as usize] += 1;
        assert!(episode.forwards <= 2 + 2 * config.steps && episode.backwards <= 2 * config.steps);
        let solution = suta.parameters().values(&setting.backend);
        if carried.reset.is_some() {
            (average, behind, resets) = (None, 0, resets + 1);
        }
        behind += 1;
        let comes = 1.0 / (behind as f32).min(10.0);
        let mean = average.get_or_insert_with(|| solution.clone());
        mean.iter_mut()
            .zip(&solution)
            .for_each(|(mean, value)| *mean += comes * (value - *mean));
        guarded.show_carried(&setting.backend);
        assert_eq!(&guarded.parameters().values(&setting.backend), mean, "{n}");
    }
    assert!(
        emitted[1] > 0 && emitted[2] > 0 && emitted[3] > 0 && resets < 4,
        "both must be put to the test: {emitted:?} {resets}"
    );
}

/// A domain state that leads nowhere is dropped after two utterances, and the stream begins again from the source model.
#[test]
fn guarded_rolls_back_a_domain_state_that_hurts() {
    let setting = Setting::new();
    let mut adapter = setting.adapter("guarded");
    (0..3).for_each(|n| drop(setting.hear(&mut adapter, n)));
    let mut state = adapter.state(&setting.backend);
    // Norms of zeros: every frame says the same.
    state.tensors.get_mut("domain").unwrap().fill(0.0);
    state.counts.insert("failures".into(), 0);
    adapter.resume(&setting.backend, &state).unwrap();
    let third = setting.hear(&mut adapter, 3).carried.unwrap();
    assert_eq!((third.reset, third.emitted), (None, Some(Emitted::Source)));
    let fourth = setting.hear(&mut adapter, 4).carried.unwrap();
    assert_eq!(
        (fourth.reset, fourth.emitted),
        (Some(ResetReason::Evidence), Some(Emitted::Source))
    );
    assert_eq!(
        setting.hear(&mut adapter, 5).carried.unwrap().updates,
        1,
        "the fourth's own solution alone"
    );
}
