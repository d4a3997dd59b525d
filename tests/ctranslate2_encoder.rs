//! Whisper tiny.en read from a CTranslate2 directory against transformers on real speech: runs when `AURIST_CTRANSLATE2`
//! names a directory that `benches/reference/ctranslate2_encoder.py` wrote (`just ctranslate2` does both).

mod common;

use aurist::adapt::AdaptedParameters;
use aurist::engine::Arena;
use aurist::engine::cpu::CpuBackend;
use aurist::model::KEEP_ALL;
use common::{Golden, largest_difference, relative_difference};
use std::path::PathBuf;

#[test]
fn hidden_states_are_those_of_transformers() {
    let Some(directory) = std::env::var_os("AURIST_CTRANSLATE2").map(PathBuf::from) else {
        eprintln!("skipped: AURIST_CTRANSLATE2 names no directory; `just ctranslate2` makes one");
        return;
    };
    let (golden, backend) = (Golden::read(&directory), CpuBackend::new(2).unwrap());
    let model = common::load(&backend, &directory);
    let source = AdaptedParameters::new(&backend, model.weights().clone(), None).unwrap();
    let values = golden.get("log_mel");
    let (plan, activations) = model.plan(&backend, values.len(), KEEP_ALL).unwrap();
    let mut arena = Arena::new(&backend, plan.total()).unwrap();
    model.load_input(&backend, &mut arena, &activations, &values);
    model.forward(&backend, &source, &mut arena, &activations, 0);
    let layers = model.config().transformer.layers;
    let names = (0..=layers)
        .map(|n| format!("hidden.{n}"))
        .chain(["normed".to_string()]);
    let states = activations.hidden_states();
    assert_eq!(states.len(), layers + 2);
    for (slot, name) in states.into_iter().zip(names) {
        let (found, expected) = (arena.view(&backend, slot), golden.get(&name));
        let (largest, relative) = (
            largest_difference(found, &expected),
            relative_difference(found, &expected),
        );
        println!("{name}: largest difference {largest:.1e}, {relative:.1e} relative");
        assert!(largest < 1e-3, "{name}: {largest:e}");
    }
}
