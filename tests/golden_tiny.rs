//! A tiny random Whisper-CTC model against PyTorch (`benches/reference/goldens.py` wrote the file, and its versions
//! stand in the metadata): every hidden state, the logits, and for each choice of parameters ten steps of SUTA.
//! 60 and 61 input frames: the second convolution's stride meets even and odd lengths.

mod common;

use aurist::adapt::{AdaptedParameters, Adapter};
use aurist::engine::Arena;
use aurist::engine::cpu::CpuBackend;
use aurist::model::{KEEP_ALL, KEEP_NOTHING};
use aurist::{AdaptationConfig, ParameterChoice};
use common::{Golden, relative_difference, repository};

const MODEL: &str = "tests/data/goldens/whisper-ctc-tiny";
const LENGTHS: [&str; 2] = ["60", "61"];
const CHOICES: [(&str, ParameterChoice); 4] = [
    ("layer-norm", ParameterChoice::LayerNorm),
    ("feature", ParameterChoice::Feature),
    ("layer-norm+feature", ParameterChoice::LayerNormAndFeature),
    ("bias", ParameterChoice::Bias),
];

#[test]
fn hidden_states_after_every_layer() {
    let golden = Golden::read(&repository(MODEL));
    let backend = CpuBackend::new(2).unwrap();
    let model = common::load(&backend, &repository(MODEL));
    for length in LENGTHS {
        let log_mel = golden.get(&format!("{length}.log_mel"));
        let (plan, activations) = model.plan(&backend, log_mel.len(), KEEP_ALL).unwrap();
        let mut arena = Arena::new(&backend, plan.total()).unwrap();
        let source = AdaptedParameters::new(&backend, model.weights().clone(), None).unwrap();
        model.load_input(&backend, &mut arena, &activations, &log_mel);
        model.forward(&backend, &source, &mut arena, &activations, 0);
        let names = ["stem", "layer.0", "layer.1", "norm"].map(String::from);
        let states = activations.hidden_states();
        assert_eq!(states.len(), names.len());
        let slots = states
            .into_iter()
            .zip(names)
            .chain([(activations.logits(), "logits".to_string())]);
        for (slot, name) in slots {
            let relative = relative_difference(arena.view(&backend, slot), &golden.get(&format!("{length}.{name}")));
            assert!(relative < 1e-5, "{length} {name}: {relative:e}");
        }
        // The memory-saving layout computes the same.
        let (plan, shared) = model.plan(&backend, log_mel.len(), KEEP_NOTHING).unwrap();
        let mut arena = Arena::new(&backend, plan.total()).unwrap();
        model.load_input(&backend, &mut arena, &shared, &log_mel);
        model.forward(&backend, &source, &mut arena, &shared, 0);
        let relative = relative_difference(
            arena.view(&backend, shared.logits()),
            &golden.get(&format!("{length}.logits")),
        );
        assert!(relative < 1e-5, "{length} without kept activations: {relative:e}");
    }
}

#[test]
fn ten_steps_of_every_parameter_choice() {
    let golden = Golden::read(&repository(MODEL));
    let backend = CpuBackend::new(1).unwrap();
    let model = common::load(&backend, &repository(MODEL));
    let names = golden.names();
    let mut compared = 0;
    for (length, (name, parameters)) in LENGTHS.iter().flat_map(|length| CHOICES.map(|choice| (length, choice))) {
        let log_mel = golden.get(&format!("{length}.log_mel"));
        let prefix = format!("{length}.{name}");
        let run = |steps: usize| {
            let config = AdaptationConfig {
                learning_rate: 1e-3,
                parameters,
                steps,
                ..AdaptationConfig::paper()
            };
            let mut adapter = Adapter::new(&backend, model.clone(), &config).unwrap();
            let episode = adapter.run(&backend, &log_mel).unwrap();
            (adapter, episode)
        };
        let (_, episode) = run(10);
        assert_eq!((episode.steps, episode.guard), (10, None));
        for (part, values) in [
            (
                "losses",
                episode.objectives.iter().map(|o| o.loss as f32).collect::<Vec<_>>(),
            ),
            ("entropy", episode.objectives.iter().map(|o| o.entropy as f32).collect()),
            (
                "mcc",
                episode.objectives.iter().map(|o| o.class_confusion as f32).collect(),
            ),
        ] {
            let relative = relative_difference(&values, &golden.get(&format!("{prefix}.{part}")));
            assert!(relative < 1e-5, "{prefix} {part}: {relative:e}");
        }
        let relative = relative_difference(
            &episode.adapted_logits,
            &golden.get(&format!("{prefix}.adapted_logits")),
        );
        assert!(relative < 1e-4, "{prefix} adapted logits: {relative:e}");

        let (untouched, _) = run(0);
        assert_eq!(untouched.parameters().count(), 0, "no step, nothing to adapt");
        for (stage, steps) in [("grad1", 1), ("after1", 1), ("after10", 10)] {
            let stage_prefix = format!("{prefix}.{stage}.");
            let expected: Vec<&String> = names.iter().filter(|name| name.starts_with(&stage_prefix)).collect();
            if expected.is_empty() {
                continue;
            }
            let (adapter, _) = run(steps);
            // The golden's tensors and ours are the same set.
            assert_eq!(adapter.parameters().names().count(), expected.len(), "{stage_prefix}");
            for name in expected {
                let tensor = name.strip_prefix(&stage_prefix).unwrap();
                let (values, gradient) = adapter.parameters().tensor(&backend, tensor).unwrap();
                let engine = if stage == "grad1" { gradient } else { values };
                let relative = relative_difference(&engine, &golden.get(name));
                assert!(
                    relative < if stage == "grad1" { 1e-3 } else { 1e-4 },
                    "{name}: {relative:e}"
                );
                compared += 1;
            }
        }
    }
    assert!(compared > 100, "only {compared} tensors were compared");
}
