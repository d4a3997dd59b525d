//! wav2vec2-base's full-size architecture on 10 s of real speech against PyTorch: runs when `AURIST_FULL_SIZE` names a
//! directory that `benches/reference/full_size.py` wrote (`just full-size` does both).

mod common;

use aurist::adapt::Adapter;
use aurist::audio::Features;
use aurist::engine::cpu::CpuBackend;
use aurist::{AdaptationConfig, Compatibility};
use common::{Golden, largest_difference, relative_difference};
use std::path::PathBuf;

#[test]
fn full_size_wav2vec2_base_follows_pytorch() {
    let Some(directory) = std::env::var_os("AURIST_FULL_SIZE").map(PathBuf::from) else {
        eprintln!("skipped: AURIST_FULL_SIZE names no directory; `just full-size` makes one");
        return;
    };
    let golden = Golden::read(&directory);
    let backend = CpuBackend::new(std::thread::available_parallelism().map_or(1, |n| n.get())).unwrap();
    let model = common::load(&backend, &directory);
    let values = Features::waveform(true).compute(&golden.get("samples"));
    let relative = relative_difference(&values, &golden.get("input_values"));
    println!("input: {relative:.1e} relative");
    assert!(relative < 1e-6);
    for (setting, compatibility) in [
        ("layer-norm+feature", Compatibility::None),
        ("compat", Compatibility::Suta),
    ] {
        let config = AdaptationConfig {
            compatibility,
            ..AdaptationConfig::paper()
        };
        let mut adapter = Adapter::new(&backend, model.clone(), &config).unwrap();
        let start = std::time::Instant::now();
        let episode = backend.within(|| adapter.run(&backend, &values)).unwrap();
        let seconds = start.elapsed().as_secs_f64();
        let source = relative_difference(&episode.source_logits, &golden.get("logits"));
        let losses: Vec<f32> = episode.objectives.iter().map(|o| o.loss as f32).collect();
        let expected = golden.get(&format!("{setting}.losses"));
        let loss = largest_difference(&losses, &expected);
        let adapted = relative_difference(
            &episode.adapted_logits,
            &golden.get(&format!("{setting}.adapted_logits")),
        );
        println!(
            "{setting}: logits {source:.1e} relative, ten losses within {loss:.1e}, adapted logits {adapted:.1e} relative, {seconds:.1} s"
        );
        assert_eq!((episode.steps, losses.len()), (10, 10));
        assert!(
            source < 1e-4 && loss < 1e-5 && adapted < 1e-4,
            "{setting}: {losses:?} against {expected:?}"
        );
        let text = aurist::decode::greedy(&episode.adapted_logits, &common::vocabulary(&directory), 0.02).text;
        assert_eq!(text, golden.metadata(&format!("{setting}.text")));
    }
}
