//! Continual SUTA, one step an utterance with parameters and moments carried on, against PyTorch
//! (`benches/reference/wav2vec2_goldens.py`): the store's part in it, pass by pass.

mod common;

use aurist::adapt::{AdaptedParameters, Selection};
use aurist::engine::cpu::CpuBackend;
use aurist::engine::{AdamW, Arena, Backend, ObjectiveTerms, Rows};
use aurist::{Compatibility, ParameterChoice};
use common::{Golden, relative_difference, repository};

#[test]
fn three_utterances_follow_pytorch() {
    let directory = repository("tests/data/goldens/wav2vec2-base");
    let (golden, backend) = (Golden::read(&directory), CpuBackend::new(1).unwrap());
    let model = common::load(&backend, &directory);
    let selection = Selection {
        choice: ParameterChoice::LayerNormAndFeature,
        top_layers: None,
        lowest_layers: None,
        compatibility: Compatibility::None,
        half: aurist::Half::Both,
    };
    let mut parameters = AdaptedParameters::new(&backend, model.weights().clone(), Some(selection)).unwrap();
    let lowest = model.lowest_adapted_stage(&parameters);
    let losses = golden.get("csuta.losses");
    assert_eq!(losses.len(), 3);
    for (n, expected) in losses.iter().enumerate() {
        let values = golden.get(&format!("csuta.input.{n}"));
        let (plan, a) = model.plan(&backend, values.len(), lowest).unwrap();
        let mut arena = Arena::new(&backend, plan.total()).unwrap();
        model.load_input(&backend, &mut arena, &a, &values);
        model.forward(&backend, &parameters, &mut arena, &a, 0);
        let config = model.config();
        let terms = ObjectiveTerms {
            temperature: 2.5,
            entropy_weight: 0.3,
            blank: config.blank,
        };
        let shape = Rows {
            rows: a.output_frames(),
            cols: config.vocab_size,
        };
        let ([logits], [dlogits]) = arena.split(&backend, [a.logits()], [a.dlogits()]);
        let loss = backend.entropy_mcc(&terms, shape, None, logits, dlogits).loss;
        assert!(
            (loss / f64::from(*expected) - 1.0).abs() < 1e-5,
            "utterance {n}: {loss} against {expected}"
        );
        parameters.zero_gradients(&backend);
        model.backward(&backend, &mut parameters, &mut arena, &a);
        parameters.update(&backend, &AdamW::suta(1e-3));
        model.forward(&backend, &parameters, &mut arena, &a, 0);
        let relative = relative_difference(
            arena.view(&backend, a.logits()),
            &golden.get(&format!("csuta.logits.{n}")),
        );
        assert!(relative < 1e-4, "utterance {n}: logits {relative:e}");
    }
}
