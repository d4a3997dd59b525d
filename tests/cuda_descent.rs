//! Descents that the device decides by itself: the same as those that the host decides, without a wait at each step and
//! without an allocation once a length is known.
#![cfg(feature = "cuda")]

mod common;
mod cuda_support;

use aurist::adapt::{Adapter, Episode};
use aurist::engine::cpu::CpuBackend;
use aurist::engine::cuda::CudaBackend;
use aurist::engine::{AdamW, Backend, Judge, Ledger, ObjectiveTerms, Pieces, Rows, Rules, Says, Verdict, to_values};
use aurist::model::{CtcModel, ModelFiles};
use aurist::{AdaptationConfig, Method};
use common::{Golden, golden_settings, relative_difference, repository};
use cuda_support::{Count, Host, counted, random};
use std::sync::{Arc, Mutex};

/// The counts are of the whole process.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn load(backend: &CudaBackend, name: &str) -> (Golden, Arc<CtcModel<CudaBackend>>) {
    let directory = repository("tests/data/goldens").join(name);
    let model = ModelFiles::from_dir(&directory).unwrap().load(backend).unwrap();
    (Golden::read(&directory), Arc::new(model))
}

fn assert_alike(case: &str, device: &Episode, host: &Episode) {
    let counts = |episode: &Episode| {
        (
            episode.steps,
            episode.rollbacks,
            episode.guard,
            episode.objectives.len(),
        )
    };
    assert_eq!(counts(device), counts(host), "{case}");
    for (device, host) in [(device.first, host.first), (device.last, host.last)] {
        let (device, host) = (device.unwrap(), host.unwrap());
        assert_eq!(device.non_blank_frames, host.non_blank_frames, "{case}");
        assert!(
            (device.loss - host.loss).abs() < 1e-5 * host.loss.abs(),
            "{case}: {device:?} {host:?}"
        );
    }
    let relative = relative_difference(&device.adapted_logits, &host.adapted_logits);
    assert!(relative < 1e-5, "{case}: adapted logits {relative:e} apart");
}

#[test]
fn the_device_decides_as_the_host_does() {
    let _alone = alone();
    let Some(backend) = cuda_support::backend() else { return };
    let (mut rollbacks, mut guards) = (0, 0);
    for (model, input, setting) in [
        ("wav2vec2-base", "input_values", "layer-norm+feature"),
        ("wav2vec2-base", "input_values", "compat"),
        ("whisper-ctc-tiny", "61.log_mel", "bias"),
    ] {
        let (golden, loaded) = load(&backend, model);
        let values = golden.get(input);
        for method in [Method::Suta, Method::Sdpl] {
            let settings = AdaptationConfig {
                method,
                ..golden_settings(setting, 4)
            };
            // As it is; steps so long that some are taken back; and so long that nothing finite is left.
            for (longer, safeguard) in [(1.0, false), (300.0, true), (1e36, false), (1e36, true)] {
                let config = AdaptationConfig {
                    learning_rate: longer * settings.learning_rate,
                    safeguard,
                    ..settings.clone()
                };
                let run = |by_host: bool| {
                    let mut adapter = Adapter::new(&backend, loaded.clone(), &config).unwrap();
                    if by_host {
                        // Whoever wants to see what is between has the host decide.
                        adapter.keep_logits_after(&[0]);
                    }
                    // Twice, so that graphs are replayed and nothing is left of the first.
                    let mut episode = adapter.run(&backend, &values).unwrap();
                    if !by_host {
                        episode = adapter.run(&backend, &values).unwrap();
                    }
                    (episode, adapter.parameters().values(&backend))
                };
                let ((device, device_values), (host, host_values)) = (run(false), run(true));
                let case = format!("{model} {method:?} {setting} at {longer} times the rate, safeguard {safeguard}");
                assert_alike(&case, &device, &host);
                let relative = relative_difference(&device_values, &host_values);
                assert!(relative < 1e-5, "{case}: adapted values {relative:e} apart");
                rollbacks += host.rollbacks;
                guards += usize::from(host.guard.is_some());
            }
        }
    }
    assert!(
        rollbacks > 3 && guards > 2,
        "{rollbacks} steps taken back, {guards} guards: too few to show anything"
    );
}

#[test]
fn a_step_neither_waits_nor_allocates() {
    let _alone = alone();
    let Some(backend) = cuda_support::backend() else { return };
    let (golden, model) = load(&backend, "wav2vec2-base");
    let values = golden.get("input_values");
    // SDPL's graphs are for a target's length too.
    for (method, louder) in [(Method::Suta, 0.5), (Method::Sdpl, 1.0)] {
        let mut costs = Vec::new();
        for steps in [3, 10] {
            let config = AdaptationConfig {
                method,
                ..golden_settings("layer-norm+feature", steps)
            };
            let mut adapter = Adapter::new(&backend, model.clone(), &config).unwrap();
            // Memory grows, products are planned, graphs are made.
            for _ in 0..3 {
                adapter.run(&backend, &values).unwrap();
            }
            let counts = || [Count::Allocations, Count::Waits, Count::Graphs].map(counted);
            let (before, launches) = (counts(), backend.graph_launches());
            let other: Vec<f32> = values.iter().map(|x| louder * x).collect();
            let episode = adapter.run(&backend, &other).unwrap();
            assert_eq!((episode.steps, episode.guard), (steps, None));
            // The source model's pass, each step, and the judgement after the last.
            assert_eq!(backend.graph_launches() - launches, steps as u64 + 2);
            let Some(before) = before.into_iter().collect::<Option<Vec<_>>>() else {
                return;
            };
            let used: Vec<u64> = counts()
                .into_iter()
                .flatten()
                .zip(before)
                .map(|(now, then)| now - then)
                .collect();
            assert_eq!((used[0], used[2]), (0, 0), "allocations and new graphs");
            costs.push(used[1]);
        }
        assert_eq!(costs[0], costs[1], "{method:?}: waits of 3 steps and of 10");
        assert!(costs[0] <= 6, "{method:?}: {} waits", costs[0]);
    }
}

/// The rules turn by turn, on logits made for them.
#[test]
fn each_verdict_comes_from_its_cause() {
    let _alone = alone();
    let Some(backend) = cuda_support::backend() else { return };
    let host = Host(backend);
    let shape = Rows { rows: 2, cols: 3 };
    let terms = ObjectiveTerms {
        temperature: 1.0,
        entropy_weight: 1.0,
        blank: 0,
    };
    let sharp = [0.0, 9.0, 0.0, 0.0, 0.0, 9.0];
    let flat = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0];
    let blank = [9.0, 0.0, 0.0, 9.0, 0.0, 0.0];
    let spoiled = [f32::NAN; 6];
    let steps = 3;
    let run = |safeguard: bool, turns: &[[f32; 6]], bad_at: Option<usize>| {
        let mut ledger = host.put(&[Ledger::head(), vec![0.0; Ledger::len(steps) - Ledger::head().len()]].concat());
        let (mut kept, mut restored) = (host.put(&[0.0; 6]), host.put(&[0.0]));
        let mut moved = Vec::new();
        for (turn, logits) in turns.iter().enumerate() {
            let (logits, mut dlogits) = (host.put(logits), host.space(6));
            let rules = Rules { steps, safeguard };
            host.0.decide(
                &terms,
                (shape, None),
                None,
                logits.view(),
                dlogits.view_mut(),
                ledger.view_mut(),
                rules,
            );
            host.0.copy_where(
                Says::Keep,
                ledger.view(),
                Pieces::Even(1),
                logits.view(),
                kept.view_mut(),
            );
            let mark = host.put(&[turn as f32]);
            host.0.copy_where(
                Says::Restore,
                ledger.view(),
                Pieces::Even(1),
                mark.view(),
                restored.view_mut(),
            );
            let bad = if bad_at == Some(turn) { f32::INFINITY } else { 1.0 };
            let gradients = host.put(&[1.0, bad, 1.0]);
            host.0.check_gradients(gradients.view(), ledger.view_mut(), 1);
            let (mut values, mut m, mut v) = (host.put(&[1.0]), host.put(&[0.0]), host.put(&[0.0]));
            let (first, gradient) = (host.put(&to_values(&[0.0])), host.put(&[1.0]));
            let moments = [m.view_mut(), v.view_mut()];
            let count = (first.view(), 1, 1);
            let into = values.view_mut();
            host.0.adamw_where(
                &AdamW::suta(0.5),
                ledger.view(),
                count,
                (1, 0..1),
                into,
                gradient.view(),
                moments,
            );
            moved.push(values.get()[0] != 1.0);
        }
        let verdicts: Vec<Verdict> = Ledger::read(&ledger.get()).map_or(vec![], |ledger| {
            ledger.turns.iter().map(|(_, verdict)| *verdict).collect()
        });
        (verdicts, moved, kept.get(), restored.get()[0])
    };
    use Verdict::{AllBlank, BadGradient, GoesOn, LastStep, Spoiled, TakesBack};
    let (verdicts, moved, kept, restored) = run(false, &[flat, sharp, flat, sharp], None);
    assert_eq!(verdicts, [GoesOn, GoesOn, GoesOn, LastStep]);
    assert_eq!(
        (moved, kept, restored),
        (vec![true, true, true, false], sharp.to_vec(), 0.0)
    );
    let (verdicts, moved, kept, restored) = run(true, &[flat, sharp, flat, blank], None);
    assert_eq!(verdicts, [GoesOn, GoesOn, TakesBack, TakesBack]);
    assert_eq!(
        (moved, kept, restored),
        (vec![true, true, true, true], sharp.to_vec(), 3.0)
    );
    let (verdicts, moved, kept, _) = run(false, &[flat, blank, sharp, sharp], None);
    assert_eq!(verdicts, [GoesOn, AllBlank]);
    assert_eq!((moved, kept), (vec![true, false, false, false], blank.to_vec()));
    let (verdicts, moved, kept, restored) = run(false, &[flat, sharp, spoiled, sharp], None);
    assert_eq!(verdicts, [GoesOn, GoesOn, Spoiled]);
    assert_eq!(
        (moved, kept, restored),
        (vec![true, true, false, false], sharp.to_vec(), 2.0)
    );
    let (verdicts, moved, _, restored) = run(true, &[flat, sharp, sharp, sharp], Some(1));
    assert_eq!(verdicts, [GoesOn, BadGradient]);
    assert_eq!((moved, restored), (vec![true, false, false, false], 0.0));
}

/// Against the CPU's update, at the step that the ledger has come to and with the rate it has shrunk to.
#[test]
fn an_update_on_the_devices_own_count() {
    let _alone = alone();
    let Some(backend) = cuda_support::backend() else { return };
    let settings = AdamW {
        weight_decay: 0.1,
        ..AdamW::suta(1e-2)
    };
    for len in [1, 31, 32, 33, 127, 499] {
        let (x, g, m, v) = (random(len, 1), random(len, 2), random(len, 3), random(len, 4));
        let v: Vec<f32> = v.iter().map(|v| v.abs()).collect();
        let cpu = Host(CpuBackend::new(1).unwrap());
        let (mut values, gradients, mut first, mut second) = (cpu.put(&x), cpu.put(&g), cpu.put(&m), cpu.put(&v));
        let halved = AdamW {
            learning_rate: settings.learning_rate / 2.0,
            ..settings
        };
        let moments = (first.view_mut(), second.view_mut());
        cpu.0
            .adamw(&halved, 17, values.view_mut(), gradients.view(), moments.0, moments.1);
        let expected = [values.get(), first.get(), second.get()];
        let gpu = Host(cuda_support::backend().unwrap());
        // Turn, kept, factor, loss; keep, restore, sound, move: 5 before and 3 kept, each twice, and the first of the two.
        let ledger = gpu.put(&to_values(&[4.0, 3.0, 0.5, 1.0, 0.0, 0.0, 1.0, 1.0]));
        let (mut values, gradients, mut first, mut second) = (gpu.put(&x), gpu.put(&g), gpu.put(&m), gpu.put(&v));
        let (before, moments) = (gpu.put(&to_values(&[5.0])), [first.view_mut(), second.view_mut()]);
        let count = (before.view(), 2, 1);
        gpu.0.adamw_where(
            &settings,
            ledger.view(),
            count,
            (1, 0..len),
            values.view_mut(),
            gradients.view(),
            moments,
        );
        let found = [values.get(), first.get(), second.get()];
        cuda_support::assert_same(&format!("{len} values"), &found, &expected, 1e-6);
    }
    drop(backend);
}
