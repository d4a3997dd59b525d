//! Several utterances adapted in one pass: each comes out as it does alone, whoever is beside it.
#![cfg(feature = "cuda")]

mod common;
mod cuda_support;

use aurist::adapt::{Adapter, BatchAdapter, Episode};
use aurist::engine::cuda::CudaBackend;
use aurist::model::{CtcModel, ModelFiles};
use aurist::{AdaptationConfig, ParameterChoice};
#[cfg(feature = "bundled-model")]
use aurist::{Bundled, Device, Recognizer, engine::CudaPrecision};
use common::{Golden, golden_settings, relative_difference, repository};
use proptest::prelude::*;
use std::sync::Arc;

fn load(backend: &CudaBackend, name: &str) -> (Golden, Arc<CtcModel<CudaBackend>>) {
    let directory = repository("tests/data/goldens").join(name);
    let model = ModelFiles::from_dir(&directory).unwrap().load(backend).unwrap();
    (Golden::read(&directory), Arc::new(model))
}

fn assert_alike(case: &str, together: &Episode, alone: &Episode) {
    let counts = |episode: &Episode| (episode.frames, episode.steps, episode.rollbacks, episode.guard);
    assert_eq!(counts(together), counts(alone), "{case}");
    assert_eq!(together.objectives.len(), alone.objectives.len(), "{case}");
    for (together, alone) in together.objectives.iter().zip(&alone.objectives) {
        let difference = (together.loss - alone.loss).abs();
        assert!(difference < 1e-5 * alone.loss.abs(), "{case}: {together:?} {alone:?}");
    }
    for (together, alone) in [
        (&together.source_logits, &alone.source_logits),
        (&together.adapted_logits, &alone.adapted_logits),
    ] {
        let relative = relative_difference(together, alone);
        assert!(relative < 1e-5, "{case}: logits {relative:e} apart");
    }
}

/// A batch of these inputs against each input by itself.
fn batch_equals_single(
    backend: &CudaBackend,
    model: &Arc<CtcModel<CudaBackend>>,
    config: &AdaptationConfig,
    inputs: &[&[f32]],
) {
    let mut batch = BatchAdapter::new(backend, model.clone(), config).unwrap().unwrap();
    // Again, with the graphs and what the first left behind.
    let first = batch.run(backend, inputs).unwrap();
    let again = batch.run(backend, inputs).unwrap();
    assert_eq!(first.len(), inputs.len());
    let mut single = Adapter::new(backend, model.clone(), config).unwrap();
    let mut place = 0;
    for (index, input) in inputs.iter().enumerate() {
        let alone = single.run(backend, input).unwrap();
        let case = format!("utterance {index} of {} values", input.len());
        if alone.frames == 0 {
            assert_eq!((first[index].frames, again[index].frames), (0, 0));
            continue;
        }
        assert_alike(&case, &first[index], &alone);
        assert_alike(&case, &again[index], &alone);
        let alone = single.parameters().values(backend);
        let relative = relative_difference(&batch.values(backend, place), &alone);
        assert!(relative < 1e-5, "{case}: adapted values {relative:e} apart");
        place += 1;
    }
}

#[test]
fn whispers_encoder_in_batches() {
    let Some(backend) = cuda_support::backend() else { return };
    let (golden, model) = load(&backend, "whisper-ctc-tiny");
    let (even, odd) = (golden.get("60.log_mel"), golden.get("61.log_mel"));
    for choice in [ParameterChoice::LayerNorm, ParameterChoice::LayerNormAndFeature] {
        let config = AdaptationConfig {
            parameters: choice,
            ..golden_settings("layer-norm+feature", 3)
        };
        batch_equals_single(&backend, &model, &config, &[&even, &odd, &[], &odd[..odd.len() / 2]]);
    }
}

#[test]
fn wav2vec2_in_batches_with_its_own_convolutions_and_with_steps_taken_back() {
    let Some(backend) = cuda_support::backend() else { return };
    for name in ["wav2vec2-base", "wav2vec2-large", "data2vec-audio"] {
        let (golden, model) = load(&backend, name);
        let values = golden.get("input_values");
        let settings = golden_settings("layer-norm+feature", 2);
        let config = AdaptationConfig {
            learning_rate: 100.0 * settings.learning_rate,
            safeguard: true,
            ..settings
        };
        let shorter = &values[..values.len() - 1_111];
        let mut inputs = vec![shorter, &values[..3], &values];
        if name == "wav2vec2-base" {
            // Five, beside which there is an empty place.
            inputs.extend([1, 2, 3].map(|part| &values[..values.len() * part / 4]));
        }
        batch_equals_single(&backend, &model, &config, &inputs);
    }
}

#[test]
fn what_batches_cannot_do_is_said() {
    let Some(backend) = cuda_support::backend() else { return };
    let (_, wavlm) = load(&backend, "wavlm-base");
    let (_, whisper) = load(&backend, "whisper-ctc-tiny");
    let settings = golden_settings("layer-norm+feature", 2);
    let all = AdaptationConfig {
        parameters: ParameterChoice::All,
        ..settings.clone()
    };
    let continual = AdaptationConfig::csuta();
    for (model, config) in [(&wavlm, &settings), (&whisper, &all), (&whisper, &continual)] {
        assert!(BatchAdapter::new(&backend, model.clone(), config).unwrap().is_none());
    }
}

/// What `transcribe` does with a recording's utterances.
#[cfg(feature = "bundled-model")]
#[test]
fn a_session_transcribes_utterances_together_as_it_does_one_by_one() {
    if cuda_support::device().is_none() {
        return;
    }
    let clip = aurist::audio::read_all(&repository("tests/data/cards/002.wav")).unwrap();
    let utterances = [(&clip[..], 0.0), (&clip[..20_000], 7.5)];
    let lens = || utterances.iter().map(|(samples, _)| samples.len());
    let config = AdaptationConfig {
        steps: 1,
        ..Recognizer::bundled(Bundled::TinyEnCtc).unwrap().default_adaptation()
    };
    let session = |device: Device, config: &AdaptationConfig| {
        let recognizer = Recognizer::open(&Bundled::TinyEnCtc.into(), None, device).unwrap();
        recognizer.session(config, 1).unwrap()
    };
    let mut gpu = session(Device::Cuda(0, CudaPrecision::Exact), &config);
    // Eight are enough, and so is a minute; a minute and more is too much.
    assert_eq!((gpu.together(lens()), gpu.together([16_000; 20])), (2, 8));
    assert_eq!((gpu.together([600_000; 3]), gpu.together([2_000_000; 2])), (1, 1));
    assert!(!gpu.are_enough(lens()) && gpu.are_enough([16_000; 8]) && gpu.are_enough([600_000; 2]));
    let together = gpu.transcribe_together(&utterances).unwrap().unwrap();
    assert!(together[0].real_time_factor == together[1].real_time_factor);
    let mut cpu = session(Device::Cpu, &config);
    for (together, (samples, start)) in together.iter().zip(utterances) {
        let alone = gpu.transcribe_utterance(samples, start).unwrap();
        let on_cpu = cpu.transcribe_utterance(samples, start).unwrap();
        for other in [&alone, &on_cpu] {
            assert_eq!(
                (&together.text, together.steps, together.start),
                (&other.text, other.steps, other.start)
            );
            let difference = together.losses[0] / other.losses[0] - 1.0;
            assert!(difference.abs() < 1e-4, "{together:?} {other:?}");
        }
    }
    assert!(!together[0].text.is_empty());
    // One by one: on the processor, with a method that carries something, with a sample that is no number.
    assert!(cpu.together(lens()) == 1 && cpu.are_enough(lens().take(1)) && !cpu.are_enough([]));
    assert!(cpu.transcribe_together(&utterances).unwrap().is_none());
    assert_eq!(
        session(Device::Cuda(0, CudaPrecision::Exact), &AdaptationConfig::csuta()).together(lens()),
        1
    );
    let spoiled = [(&clip[..], 0.0), (&[f32::NAN; 20_000][..], 7.5)];
    assert!(gpu.transcribe_together(&spoiled).unwrap().is_none());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]
    #[test]
    fn any_lengths_beside_each_other(lens in proptest::collection::vec(0usize..62, 1..8)) {
        let Some(backend) = cuda_support::backend() else { return Ok(()) };
        let (golden, model) = load(&backend, "whisper-ctc-tiny");
        let log_mel = golden.get("61.log_mel");
        let bands = log_mel.len() / 61;
        let inputs: Vec<&[f32]> = lens.iter().map(|len| &log_mel[..len.min(&61) * bands]).collect();
        let config = AdaptationConfig {
            parameters: ParameterChoice::LayerNorm,
            ..golden_settings("layer-norm+feature", 1)
        };
        batch_equals_single(&backend, &model, &config, &inputs);
    }
}
