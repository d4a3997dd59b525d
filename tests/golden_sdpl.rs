//! CTC's loss and SDPL, the pseudo-label objective, against PyTorch's (`benches/reference/wav2vec2_goldens.py`).

mod common;

use aurist::adapt::{Adapter, ctc_loss, greedy_labels, pseudo_label_loss};
use aurist::engine::cpu::CpuBackend;
use aurist::{AdaptationConfig, Compatibility};
use common::{Golden, relative_difference, repository};

fn labels(golden: &Golden, name: &str) -> Vec<usize> {
    golden.get(name).iter().map(|label| *label as usize).collect()
}

/// Logits `[T, V]` less each symbol's mean over time.
fn without_means(logits: &[f32], classes: usize) -> Vec<f32> {
    let frames = logits.len() / classes;
    let mean = |class: usize| (0..frames).map(|t| logits[t * classes + class]).sum::<f32>() / frames as f32;
    let means: Vec<f32> = (0..classes).map(mean).collect();
    logits
        .iter()
        .enumerate()
        .map(|(index, logit)| logit - means[index % classes])
        .collect()
}

#[test]
fn ctcs_loss_and_gradient_on_long_peaked_and_infeasible_targets() {
    let golden = Golden::read(&repository("tests/data/goldens/ctc-loss"));
    let (mut feasible, mut infeasible) = (0, 0);
    for case in 0..12 {
        let name = |part: &str| format!("{case}.{part}");
        let (logits, target) = (golden.get(&name("logits")), labels(&golden, &name("target")));
        let classes = golden.shape(&name("logits"))[1];
        let expected = golden.get_f64(&name("loss"))[0];
        let mut dlogits = vec![f32::NAN; logits.len()];
        // Divided by the target's length, as PyTorch's `mean`.
        let length = target.len().max(1) as f64;
        let loss = pseudo_label_loss(&logits, classes, &target, 0, false, &mut dlogits) * length;
        if expected.is_infinite() {
            assert!(loss.is_infinite() && dlogits.iter().all(|d| *d == 0.0), "case {case}");
            infeasible += 1;
            continue;
        }
        assert!(
            (loss - expected).abs() < 1e-9 * expected.abs().max(1.0),
            "case {case}: {loss} against {expected}"
        );
        let exact: Vec<f32> = golden
            .get_f64(&name("dlogits"))
            .iter()
            .map(|d| (d / length) as f32)
            .collect();
        let largest = dlogits
            .iter()
            .zip(&exact)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(largest < 1e-6, "case {case}: gradient differs by {largest:e}");
        feasible += 1;
    }
    assert_eq!((feasible, infeasible), (10, 2));
    // No frame at all.
    assert_eq!(ctc_loss(&[], 3, &[], 0).loss, 0.0);
    assert!(ctc_loss(&[], 3, &[1], 0).loss.is_infinite());
}

#[test]
fn sdpl_follows_pytorch_with_either_softmax() {
    let backend = CpuBackend::new(2).unwrap();
    for name in ["wav2vec2-base", "wav2vec2-large"] {
        let directory = repository("tests/data/goldens").join(name);
        let golden = Golden::read(&directory);
        let model = common::load(&backend, &directory);
        let (logits, target) = (golden.get("logits"), labels(&golden, "sdpl.target"));
        assert_eq!(greedy_labels(&logits, 32, 0), target, "{name}");
        for (method, compatibility) in [("sdpl", Compatibility::None), ("sdpl-compat", Compatibility::Suta)] {
            let mut dlogits = vec![f32::NAN; logits.len()];
            let over_time = compatibility == Compatibility::Suta;
            pseudo_label_loss(&logits, 32, &target, 0, over_time, &mut dlogits);
            let relative = relative_difference(&dlogits, &golden.get(&format!("{method}.dlogits")));
            assert!(relative < 1e-4, "{name} {method} gradient: {relative:e}");
            // The published code's duplicates concern the feature extractor only; SDPL adapts the layer norms.
            let config = AdaptationConfig {
                compatibility,
                ..AdaptationConfig::sdpl()
            };
            let mut adapter = Adapter::new(&backend, model.clone(), &config).unwrap();
            let episode = adapter.run(&backend, &golden.get("input_values")).unwrap();
            assert_eq!((episode.steps, episode.guard), (10, None));
            let losses: Vec<f32> = episode.objectives.iter().map(|o| o.loss as f32).collect();
            let expected = golden.get(&format!("{method}.losses"));
            for (loss, expected) in losses.iter().zip(&expected) {
                assert!(
                    (loss / expected - 1.0).abs() < 1e-5,
                    "{name} {method}: {losses:?} {expected:?}"
                );
            }
            let adapted = golden.get(&format!("{method}.adapted_logits"));
            // A softmax over time does not see what is added to a symbol's logits at all times: in that direction the
            // gradient is rounding alone, and Adam walks by its sign, in PyTorch too. So it is taken out.
            let centred = |logits: &[f32]| {
                if over_time {
                    without_means(logits, 32)
                } else {
                    logits.to_vec()
                }
            };
            let relative = relative_difference(&centred(&episode.adapted_logits), &centred(&adapted));
            assert!(relative < 1e-4, "{name} {method} adapted logits: {relative:e}");
        }
    }
}
