//! The CUDA backend through whole models, against PyTorch: the tiny random models of every architecture, all their
//! gradients and ten steps of SUTA (the goldens that `golden_wav2vec2.rs` and `golden_tiny.rs` hold the CPU to).
#![cfg(feature = "cuda")]

mod common;
mod cuda_support;

use aurist::adapt::Adapter;
use aurist::engine::Backend;
use aurist::engine::cuda::CudaBackend;
use aurist::model::{CtcModel, ModelFiles};
use common::{Golden, golden_settings, has_no_gradient, relative_difference, repository};
use std::sync::Arc;

fn load(backend: &CudaBackend, name: &str) -> (Golden, Arc<CtcModel<CudaBackend>>) {
    let directory = repository("tests/data/goldens").join(name);
    let model = ModelFiles::from_dir(&directory).unwrap().load(backend).unwrap();
    (Golden::read(&directory), Arc::new(model))
}

/// Ten steps: the losses, the adapted logits, every adapted tensor; in front of the golden's names stands `at`.
fn ten_steps(model: &str, input: &str, at: &str, setting: &str) {
    let Some(backend) = cuda_support::backend() else { return };
    let (golden, loaded) = load(&backend, model);
    let values = golden.get(input);
    let mut adapter = Adapter::new(&backend, loaded, &golden_settings(setting, 10)).unwrap();
    let episode = adapter.run(&backend, &values).unwrap();
    assert_eq!((episode.steps, episode.guard), (10, None));
    // Of ten steps all but the first few run as a graph each.
    assert!(backend.graph_launches() >= 7, "{} replays", backend.graph_launches());
    let losses: Vec<f32> = episode.objectives.iter().map(|o| o.loss as f32).collect();
    let relative = relative_difference(&losses, &golden.get(&format!("{at}{setting}.losses")));
    assert!(relative < 1e-5, "{model} {setting} losses: {relative:e}");
    let expected = golden.get(&format!("{at}{setting}.adapted_logits"));
    let relative = relative_difference(&episode.adapted_logits, &expected);
    assert!(relative < 1e-4, "{model} {setting} adapted logits: {relative:e}");
    let prefix = format!("{at}{setting}.after10.");
    for name in golden.names().iter().filter(|name| name.starts_with(&prefix)) {
        let (values, _) = adapter.parameters().tensor(&backend, &name[prefix.len()..]).unwrap();
        let relative = relative_difference(&values, &golden.get(name));
        assert!(relative < 1e-4, "{model} {name}: {relative:e}");
    }
}

/// After one step on every tensor: each gradient.
fn every_gradient(model: &str) {
    let Some(backend) = cuda_support::backend() else { return };
    let (golden, loaded) = load(&backend, model);
    let mut adapter = Adapter::new(&backend, loaded, &golden_settings("all", 1)).unwrap();
    let episode = adapter.run(&backend, &golden.get("input_values")).unwrap();
    let relative = relative_difference(&episode.source_logits, &golden.get("logits"));
    assert!(relative < 1e-5, "{model} logits: {relative:e}");
    let mut compared = 0;
    for name in golden.names().iter().filter(|name| name.starts_with("grad1.")) {
        if has_no_gradient(name) {
            continue;
        }
        let (_, gradient) = adapter.parameters().tensor(&backend, &name["grad1.".len()..]).unwrap();
        let relative = relative_difference(&gradient, &golden.get(name));
        assert!(relative < 1e-3, "{model} {name}: {relative:e}");
        compared += 1;
    }
    assert!(compared > 30, "{model}: only {compared} gradients were compared");
}

#[test]
fn a_group_norm_frontend_and_norms_after_each_part() {
    every_gradient("wav2vec2-base");
    ten_steps("wav2vec2-base", "input_values", "", "layer-norm+feature");
    ten_steps("wav2vec2-base", "input_values", "", "compat");
}

#[test]
fn layer_norms_throughout_the_frontend_and_before_each_part() {
    every_gradient("wav2vec2-large");
    ten_steps("wav2vec2-large", "input_values", "", "layer-norm+feature");
}

#[test]
fn a_stack_of_positional_convolutions() {
    every_gradient("data2vec-audio");
    ten_steps("data2vec-audio", "input_values", "", "all");
}

#[test]
fn gated_relative_positions() {
    every_gradient("wavlm-base");
    every_gradient("wavlm-large");
    ten_steps("wavlm-base", "input_values", "", "layer-norm+feature");
}

#[test]
fn whispers_encoder_with_a_ctc_head() {
    for length in ["60.", "61."] {
        ten_steps(
            "whisper-ctc-tiny",
            &format!("{length}log_mel"),
            length,
            "layer-norm+feature",
        );
    }
    ten_steps("whisper-ctc-tiny", "61.log_mel", "61.", "bias");
}

/// Two sessions share a model and nothing else.
#[test]
fn two_streams_at_once_give_what_each_gives_alone() {
    let Some(first) = cuda_support::backend() else { return };
    let (golden, model) = load(&first, "wav2vec2-base");
    let values = golden.get("input_values");
    let shorter = &values[..values.len() - 700];
    let run = |backend: &CudaBackend, values: &[f32]| {
        let mut adapter = Adapter::new(backend, model.clone(), &golden_settings("layer-norm+feature", 2)).unwrap();
        adapter.run(backend, values).unwrap().adapted_logits
    };
    let alone = [run(&first, &values), run(&first, shorter)];
    let second = cuda_support::backend().unwrap();
    let together = std::thread::scope(|scope| {
        let one = scope.spawn(|| run(&first, &values));
        let other = scope.spawn(|| run(&second, shorter));
        [one.join().unwrap(), other.join().unwrap()]
    });
    assert_eq!(alone, together);
    first.status().unwrap();
}
