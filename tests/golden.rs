//! The bundled model against PyTorch: logits, losses, gradients, adapted tensors and adapted logits of two real clips
//! (`golden.safetensors` beside the model; f32 arithmetic on the f16 weights, PyTorch 2.11).

mod common;

use aurist::adapt::Adapter;
use aurist::engine::cpu::CpuBackend;
use aurist::{AdaptationConfig, Method, ParameterChoice};
use common::{Golden, largest_difference, relative_difference, repository};

const MODEL: &str = "models/whisper-tiny.en-ctc";
const CLIPS: [&str; 2] = ["0870", "0890"];
const CHOICES: [(&str, ParameterChoice); 2] = [
    ("layer_norm", ParameterChoice::LayerNorm),
    ("layer_norm+feature", ParameterChoice::LayerNormAndFeature),
];

/// `[bands, frames]` in the file, `[frames, bands]` in the engine.
fn log_mel(golden: &Golden, clip: &str) -> Vec<f32> {
    let values = golden.get(&format!("{clip}.log_mel"));
    let (bands, frames) = (80, values.len() / 80);
    (0..frames * bands)
        .map(|i| values[i % bands * frames + i / bands])
        .collect()
}

fn config(parameters: ParameterChoice) -> AdaptationConfig {
    AdaptationConfig {
        method: Method::Suta,
        learning_rate: 1e-3,
        parameters,
        ..AdaptationConfig::paper()
    }
}

#[test]
fn logits_losses_and_adapted_logits_follow_pytorch() {
    let golden = Golden::read(&repository(MODEL));
    for threads in [1, 2] {
        let backend = CpuBackend::new(threads).unwrap();
        let model = common::load(&backend, &repository(MODEL));
        for (clip, (name, choice)) in CLIPS.iter().flat_map(|clip| CHOICES.map(|choice| (clip, choice))) {
            let mut adapter = Adapter::new(&backend, model.clone(), &config(choice)).unwrap();
            let episode = adapter.run(&backend, &log_mel(&golden, clip)).unwrap();
            assert_eq!((episode.steps, episode.guard), (10, None));

            let logits = golden.get(&format!("{clip}.logits"));
            let difference = largest_difference(&episode.source_logits, &logits);
            assert!(difference < 1e-3, "{clip}: source logits differ by {difference:e}");

            for (part, values) in [
                ("losses", episode.objectives.iter().map(|o| o.loss).collect::<Vec<_>>()),
                ("entropy", episode.objectives.iter().map(|o| o.entropy).collect()),
                ("mcc", episode.objectives.iter().map(|o| o.class_confusion).collect()),
            ] {
                let expected = golden.get(&format!("{clip}.{name}.{part}"));
                assert_eq!(values.len(), 10);
                for (step, (value, expected)) in values.iter().zip(&expected).enumerate() {
                    let relative = (value / *expected as f64 - 1.0).abs();
                    assert!(
                        relative < 1e-4,
                        "{clip} {name} {part} at step {step}: {value} against {expected}"
                    );
                }
            }

            let adapted = golden.get(&format!("{clip}.{name}.adapted_logits"));
            let relative = relative_difference(&episode.adapted_logits, &adapted);
            assert!(
                relative < 1e-3,
                "{clip} {name}: adapted logits differ by {relative:e} relative"
            );
            eprintln!("{clip} {name} threads {threads}: logits {difference:e}, adapted {relative:e} relative");
        }
    }
}

#[test]
fn gradients_and_adapted_tensors_follow_pytorch() {
    let golden = Golden::read(&repository(MODEL));
    let backend = CpuBackend::new(2).unwrap();
    let model = common::load(&backend, &repository(MODEL));
    for (clip, (name, choice)) in CLIPS.iter().flat_map(|clip| CHOICES.map(|choice| (clip, choice))) {
        for (stage, steps) in [("grad1", 1), ("after10", 10)] {
            let mut adapter = Adapter::new(
                &backend,
                model.clone(),
                &AdaptationConfig {
                    steps,
                    ..config(choice)
                },
            )
            .unwrap();
            adapter.run(&backend, &log_mel(&golden, clip)).unwrap();
            let untouched = Adapter::new(&backend, model.clone(), &config(choice)).unwrap();
            let names: Vec<String> = adapter.parameters().names().map(String::from).collect();
            assert_eq!(names.len(), if choice == ParameterChoice::LayerNorm { 18 } else { 22 });
            for tensor in names {
                let (values, gradient) = adapter.parameters().tensor(&backend, &tensor).unwrap();
                let golden_name = format!("{clip}.{name}.{stage}.{tensor}");
                let expected = golden.get(&golden_name);
                if stage == "grad1" {
                    let relative = relative_difference(&gradient, &expected);
                    assert!(
                        relative < 1e-3,
                        "{clip} {name} {tensor}: gradient differs by {relative:e} relative"
                    );
                } else {
                    // What moved, not where it is: the values themselves hardly change.
                    let (start, _) = untouched.parameters().tensor(&backend, &tensor).unwrap();
                    let moved: Vec<f32> = values.iter().zip(&start).map(|(a, b)| a - b).collect();
                    let expected: Vec<f32> = expected.iter().zip(&start).map(|(a, b)| a - b).collect();
                    let relative = relative_difference(&moved, &expected);
                    let tolerance = if golden.is_f16(&golden_name) { 2e-2 } else { 1e-2 };
                    assert!(
                        relative < tolerance,
                        "{clip} {name} {tensor}: moved differently, {relative:e} relative"
                    );
                }
            }
        }
    }
}

#[test]
fn every_adapted_tensor_has_a_gradient_and_moves() {
    let golden = Golden::read(&repository(MODEL));
    let backend = CpuBackend::new(1).unwrap();
    let model = common::load(&backend, &repository(MODEL));
    for (choice, tensors) in [
        (ParameterChoice::LayerNorm, 18),
        (ParameterChoice::Feature, 4),
        (ParameterChoice::LayerNormAndFeature, 22),
        // Per layer q, v, out, fc1, fc2 and two norms; the final norm and two convolutions.
        (ParameterChoice::Bias, 31),
    ] {
        let untouched = Adapter::new(&backend, model.clone(), &config(choice)).unwrap();
        let mut adapter = Adapter::new(
            &backend,
            model.clone(),
            &AdaptationConfig {
                steps: 1,
                ..config(choice)
            },
        )
        .unwrap();
        adapter.run(&backend, &log_mel(&golden, "0890")).unwrap();
        let names: Vec<String> = adapter.parameters().names().map(String::from).collect();
        assert_eq!(names.len(), tensors, "{choice:?}");
        for name in names {
            let (values, gradient) = adapter.parameters().tensor(&backend, &name).unwrap();
            let (start, _) = untouched.parameters().tensor(&backend, &name).unwrap();
            assert!(
                gradient.iter().all(|g| g.is_finite()),
                "{choice:?} {name}: gradient is not finite"
            );
            assert!(
                gradient.iter().any(|g| *g != 0.0),
                "{choice:?} {name}: gradient is zero"
            );
            assert!(values != start, "{choice:?} {name} has not moved");
        }
    }
}
