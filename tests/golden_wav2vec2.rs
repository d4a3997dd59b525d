//! Tiny random models of every architecture of the wav2vec2 family against transformers
//! (`benches/reference/wav2vec2_goldens.py` wrote the files; its versions stand in their metadata): every hidden state,
//! the logits, every gradient, and ten steps of SUTA for each setting.

mod common;

use aurist::adapt::{AdaptedParameters, Adapter, Selection};
use aurist::audio::Features;
use aurist::engine::Arena;
use aurist::engine::cpu::CpuBackend;
use aurist::model::{CtcModel, Input, KEEP_ALL, KEEP_NOTHING};
use aurist::{AdaptationConfig, Compatibility, Guard, ParameterChoice};
use common::{Golden, golden_settings, has_no_gradient, relative_difference, repository};
use std::sync::Arc;

const MODELS: [&str; 7] = [
    "wav2vec2-base",
    "wav2vec2-large",
    "hubert-base",
    "hubert-large",
    "data2vec-audio",
    "wavlm-base",
    "wavlm-large",
];

fn open(name: &str, backend: &CpuBackend) -> (Golden, Arc<CtcModel<CpuBackend>>) {
    let directory = repository("tests/data/goldens").join(name);
    (Golden::read(&directory), common::load(backend, &directory))
}

#[test]
fn the_waveform_is_normalised_as_the_feature_extractor_does() {
    let backend = CpuBackend::new(1).unwrap();
    let (golden, model) = open("wav2vec2-base", &backend);
    assert_eq!(model.input(), Input::Waveform { normalise: true });
    let values = Features::waveform(true).compute(&golden.get("samples"));
    assert!(relative_difference(&values, &golden.get("input_values")) < 1e-6);
}

#[test]
fn hidden_states_after_every_layer() {
    for name in MODELS {
        let backend = CpuBackend::new(2).unwrap();
        let (golden, model) = open(name, &backend);
        let values = golden.get("input_values");
        let source = AdaptedParameters::new(&backend, model.weights().clone(), None).unwrap();
        let (plan, activations) = model.plan(&backend, values.len(), KEEP_ALL).unwrap();
        let mut arena = Arena::new(&backend, plan.total()).unwrap();
        model.load_input(&backend, &mut arena, &activations, &values);
        model.forward(&backend, &source, &mut arena, &activations, 0);
        let mut states = activations.hidden_states();
        let layers = model.config().transformer.layers;
        if model.config().transformer.norm_first {
            // transformers lists no normed output.
            states.pop();
        }
        assert_eq!(states.len(), layers + 1);
        let slots = states
            .into_iter()
            .enumerate()
            .map(|(n, slot)| (slot, format!("hidden.{n}")));
        for (slot, tensor) in slots.chain([(activations.logits(), "logits".to_string())]) {
            let relative = relative_difference(arena.view(&backend, slot), &golden.get(&tensor));
            assert!(relative < 1e-5, "{name} {tensor}: {relative:e}");
        }
        // Any layout that keeps less computes the same.
        for keep_from in [1, 5, 7, 8, 9, 10, 11, KEEP_NOTHING] {
            let (plan, activations) = model.plan(&backend, values.len(), keep_from).unwrap();
            let mut arena = Arena::new(&backend, plan.total()).unwrap();
            model.load_input(&backend, &mut arena, &activations, &values);
            model.forward(&backend, &source, &mut arena, &activations, 0);
            let logits = arena.view(&backend, activations.logits());
            let relative = relative_difference(logits, &golden.get("logits"));
            assert!(relative < 1e-5, "{name} keeping from {keep_from}: {relative:e}");
        }
    }
}

#[test]
fn every_gradient() {
    for name in MODELS {
        let backend = CpuBackend::new(2).unwrap();
        let (golden, model) = open(name, &backend);
        let values = golden.get("input_values");
        let mut compared = 0;
        for setting in ["all", "layer-norm+feature", "layer-norm"] {
            let mut adapter = Adapter::new(&backend, model.clone(), &golden_settings(setting, 1)).unwrap();
            adapter.run(&backend, &values).unwrap();
            let names: Vec<String> = adapter.parameters().names().map(String::from).collect();
            for tensor in names {
                let (_, gradient) = adapter.parameters().tensor(&backend, &tensor).unwrap();
                let expected = golden.get(&format!("grad1.{tensor}"));
                assert!(gradient.iter().all(|d| d.is_finite()), "{name} {setting} {tensor}");
                if has_no_gradient(&tensor) {
                    continue;
                }
                assert!(gradient.iter().any(|d| *d != 0.0), "{name} {setting} {tensor}");
                let relative = relative_difference(&gradient, &expected);
                assert!(relative < 1e-3, "{name} {setting} {tensor}: {relative:e}");
                compared += 1;
            }
            if setting == "all" {
                let all = golden.names().iter().filter(|name| name.starts_with("grad1.")).count();
                assert_eq!(
                    adapter.parameters().names().count(),
                    all,
                    "{name}: every tensor of the checkpoint"
                );
            }
        }
        assert!(compared > 60, "{name}: only {compared} tensors were compared");
    }
}

#[test]
fn ten_steps_of_every_setting() {
    let backend = CpuBackend::new(1).unwrap();
    for name in MODELS {
        let (golden, model) = open(name, &backend);
        let values = golden.get("input_values");
        let names = golden.names();
        for setting in ["layer-norm", "layer-norm+feature", "compat", "all"] {
            let mut adapter = Adapter::new(&backend, model.clone(), &golden_settings(setting, 10)).unwrap();
            let episode = adapter.run(&backend, &values).unwrap();
            assert_eq!((episode.steps, episode.guard), (10, None));
            assert!(relative_difference(&episode.source_logits, &golden.get("logits")) < 1e-4);
            let part = |of: fn(&aurist::engine::ObjectiveValue) -> f64| -> Vec<f32> {
                episode
                    .objectives
                    .iter()
                    .map(|objective| of(objective) as f32)
                    .collect()
            };
            for (term, values) in [
                ("losses", part(|o| o.loss)),
                ("entropy", part(|o| o.entropy)),
                ("mcc", part(|o| o.class_confusion)),
            ] {
                let expected = golden.get(&format!("{setting}.{term}"));
                for (step, (value, expected)) in values.iter().zip(&expected).enumerate() {
                    let relative = (value / expected - 1.0).abs();
                    assert!(
                        relative < 1e-5,
                        "{name} {setting} {term} at {step}: {value} against {expected}"
                    );
                }
            }
            let vocabulary = common::vocabulary(&repository("tests/data/goldens").join(name));
            for (text, logits) in [
                ("text".to_string(), &episode.source_logits),
                (format!("{setting}.text"), &episode.adapted_logits),
            ] {
                assert_eq!(
                    aurist::decode::greedy(logits, &vocabulary, 0.02).text,
                    golden.metadata(&text),
                    "{name} {text}"
                );
            }
            let expected = golden.get(&format!("{setting}.adapted_logits"));
            let relative = relative_difference(&episode.adapted_logits, &expected);
            assert!(relative < 1e-4, "{name} {setting} adapted logits: {relative:e}");
            for (stage, steps) in [("after1", 1), ("after10", 10)] {
                let prefix = format!("{setting}.{stage}.");
                let expected: Vec<&String> = names.iter().filter(|name| name.starts_with(&prefix)).collect();
                if expected.is_empty() {
                    assert_eq!(setting, "all");
                    continue;
                }
                let mut adapter = Adapter::new(&backend, model.clone(), &golden_settings(setting, steps)).unwrap();
                adapter.run(&backend, &values).unwrap();
                assert_eq!(adapter.parameters().names().count(), expected.len(), "{name} {prefix}");
                for golden_name in expected {
                    let tensor = golden_name.strip_prefix(&prefix).unwrap();
                    let (values, _) = adapter.parameters().tensor(&backend, tensor).unwrap();
                    let relative = relative_difference(&values, &golden.get(golden_name));
                    assert!(relative < 1e-4, "{name} {golden_name}: {relative:e}");
                }
            }
        }
    }
}

#[test]
fn an_all_blank_utterance_is_not_stepped_on() {
    let backend = CpuBackend::new(1).unwrap();
    for name in MODELS {
        let directory = repository("tests/data/goldens").join(name);
        let golden = Golden::read(&directory);
        let model = common::load_patched(&backend, &directory, |tensor, values| {
            if tensor == "lm_head.bias" {
                values[0] += 100.0;
            }
        });
        let mut adapter = Adapter::new(&backend, model, &golden_settings("layer-norm+feature", 10)).unwrap();
        let episode = adapter.run(&backend, &golden.get("input_values")).unwrap();
        assert_eq!((episode.steps, episode.guard), (0, Some(Guard::AllBlank)), "{name}");
        assert!(relative_difference(&episode.adapted_logits, &golden.get("blank.logits")) < 1e-5);
        assert_eq!(episode.source_logits, episode.adapted_logits);
    }
}

#[test]
fn adapting_the_top_layers_only_gives_their_part_of_the_gradient() {
    let backend = CpuBackend::new(2).unwrap();
    for name in MODELS {
        let (golden, model) = open(name, &backend);
        let layers = model.config().transformer.layers;
        for parameters in [ParameterChoice::LayerNorm, ParameterChoice::Bias, ParameterChoice::All] {
            let config = AdaptationConfig {
                parameters,
                top_layers: Some(1),
                ..golden_settings("all", 1)
            };
            let mut adapter = Adapter::new(&backend, model.clone(), &config).unwrap();
            adapter.run(&backend, &golden.get("input_values")).unwrap();
            let names: Vec<String> = adapter.parameters().names().map(String::from).collect();
            assert!(!names.is_empty());
            for tensor in names {
                let top = format!(".layers.{}.", layers - 1);
                let above = model.config().transformer.norm_first && tensor.contains("encoder.layer_norm.");
                let head = tensor.starts_with("lm_head.");
                assert!(tensor.contains(&top) || above || head, "{name} {tensor}");
                if has_no_gradient(&tensor) {
                    continue;
                }
                let (_, gradient) = adapter.parameters().tensor(&backend, &tensor).unwrap();
                let relative = relative_difference(&gradient, &golden.get(&format!("grad1.{tensor}")));
                assert!(relative < 1e-3, "{name} {parameters:?} {tensor}: {relative:e}");
            }
        }
    }
}

#[test]
fn the_optimisers_duplicates_are_those_of_the_published_list() {
    let backend = CpuBackend::new(1).unwrap();
    for name in MODELS {
        let (golden, model) = open(name, &backend);
        let published: std::collections::BTreeMap<String, u32> =
            serde_json::from_str(&golden.metadata("multiplicity")).unwrap();
        assert!(published.values().any(|count| *count >= 4));
        let selection = Selection {
            choice: ParameterChoice::LayerNormAndFeature,
            top_layers: None,
            lowest_layers: None,
            compatibility: Compatibility::Suta,
            half: aurist::Half::Both,
        };
        for tensor in model.weights().tensors() {
            if let Some(count) = published.get(&tensor.name) {
                assert_eq!(selection.multiplicity(tensor), *count, "{name} {}", tensor.name);
            }
        }
    }
}

#[test]
fn too_short_an_utterance_has_no_frame() {
    let backend = CpuBackend::new(1).unwrap();
    let (_, model) = open("wav2vec2-base", &backend);
    let mut adapter = Adapter::new(&backend, model, &golden_settings("layer-norm", 10)).unwrap();
    for samples in [0, 1, 399] {
        let episode = adapter.run(&backend, &vec![0.1; samples]).unwrap();
        assert_eq!((episode.frames, episode.steps), (0, 0), "{samples}");
    }
    assert_eq!(adapter.run(&backend, &vec![0.1; 400]).unwrap().frames, 1);
}
