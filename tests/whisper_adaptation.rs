//! Adapting a Whisper: the gradients of its decoder's whole path against candle's autograd and central differences, both
//! in f64, and what a session does with them.

mod candle_graph;
mod common;

use aurist::adapt::{AdaptedParameters, Selection, TokenTerms, token_terms};
use aurist::decode::whisper::{DecodingOptions, Evidence};
use aurist::engine::Arena;
use aurist::engine::cpu::CpuBackend;
use aurist::model::{CtcModel, KEEP_ALL, ModelFiles, Tokens};
use aurist::{AdaptationConfig, Error, Guard, Half, Method, ParameterChoice, Recognizer, Utterance, WhisperAdaptation};
use candle_core::{D, DType, Device, Result, Tensor, Var};
use candle_graph::{Graph, softmax};
use common::finite_differences::random;
use common::{Golden, repository};
use std::collections::HashMap;
use std::sync::Arc;

const MODEL: &str = "tests/data/goldens/whisper-tiny";
/// A prompt of three, and a text.
const TOKENS: [u32; 9] = [265, 266, 270, 40, 77, 300, 1700, 40, 12];
const FIRST: usize = 2;
const TARGETS: [u32; 7] = [40, 77, 300, 1700, 40, 12, 264];
const TERMS: TokenTerms = TokenTerms {
    entropy: 0.4,
    likelihood: -0.3,
    temperature: 1.3,
};

fn settings(method: Method, parameters: ParameterChoice, half: Half) -> AdaptationConfig {
    AdaptationConfig {
        method,
        parameters,
        steps: 2,
        learning_rate: 1e-2,
        whisper: Some(WhisperAdaptation {
            half,
            samples: 3,
            guard: false,
            ..WhisperAdaptation::default()
        }),
        ..AdaptationConfig::whisper()
    }
}

/// The terms' value and every adapted tensor's gradient, by the engine.
fn engine_gradients(
    backend: &CpuBackend,
    model: &Arc<CtcModel<CpuBackend>>,
    config: &AdaptationConfig,
    log_mel: &[f32],
) -> (f64, HashMap<String, Vec<f32>>) {
    let mut parameters = AdaptedParameters::new(backend, model.weights().clone(), Selection::of(config)).unwrap();
    let (plan, encoder) = model.plan(backend, log_mel.len(), KEEP_ALL).unwrap();
    let mut encoder_arena = Arena::new(backend, plan.total()).unwrap();
    model.load_input(backend, &mut encoder_arena, &encoder, log_mel);
    model.forward(backend, &parameters, &mut encoder_arena, &encoder, 0);
    let decoder = model.decoder().unwrap();
    // What the forward pass of decoding computes is handed on.
    let (plan, decoding) = decoder.plan(backend, encoder.output_frames(), (1, 1), 16);
    let mut decoding_arena = Arena::new(backend, plan.total()).unwrap();
    let encoded = encoder_arena.view(backend, encoder.encoded());
    decoder.load_source(backend, &parameters, &mut decoding_arena, &decoding, 0, encoded);
    let (plan, a) = decoder.plan_to_adapt(backend, encoder.output_frames(), 16, TARGETS.len());
    let mut arena = Arena::new(backend, plan.total()).unwrap();
    decoder.copy_source(backend, (&decoding_arena, &decoding), encoded, &mut arena, &a);
    decoder.zero_source_gradient(backend, &mut arena, &a);
    parameters.zero_gradients(backend);
    let mut value = 0.0;
    // Twice at half the weight, as samples add up.
    for _ in 0..2 {
        decoder.forward(
            backend,
            &parameters,
            &mut arena,
            &a,
            &TOKENS,
            Tokens::Prompt { hypothesis: 0, from: 0 },
        );
        let slot = decoder.logits(backend, &parameters, &mut arena, &a, FIRST, TARGETS.len());
        let terms = TokenTerms {
            entropy: TERMS.entropy / 2.0,
            likelihood: TERMS.likelihood / 2.0,
            ..TERMS
        };
        let values = token_terms(terms, arena.view_mut(backend, slot), &TARGETS);
        let terms = values
            .iter()
            .map(|v| terms.entropy * v.entropy + terms.likelihood * v.log_probability);
        value += terms.sum::<f64>();
        decoder.backward(backend, &mut parameters, &mut arena, &a, &TOKENS, FIRST);
    }
    decoder.backward_source(backend, &mut parameters, &mut arena, &a);
    let dencoded = arena.view(backend, a.dencoded()).to_vec();
    encoder_arena
        .view_mut(backend, encoder.dencoded())
        .copy_from_slice(&dencoded);
    model.backward_encoded(backend, &mut parameters, &mut encoder_arena, &encoder, None);
    let names: Vec<String> = parameters.names().map(String::from).collect();
    let gradients = names.into_iter().map(|name| {
        let (_, gradient) = parameters.tensor(backend, &name).unwrap();
        (name, gradient)
    });
    (value, gradients.collect())
}

/// The same value by candle, in f64.
fn exact(graph: &Graph, log_mel: &Tensor) -> Result<Tensor> {
    let logits = graph.decoder_logits(&graph.encoded(log_mel)?, &TOKENS)?;
    let p = softmax(&(logits.narrow(0, FIRST, TARGETS.len())? / TERMS.temperature)?)?;
    let log_p = p.log()?;
    let entropy = (&p * &log_p)?.sum_all()?.neg()?;
    let targets = Tensor::new(&TARGETS, &Device::Cpu)?.unsqueeze(1)?;
    let likelihood = log_p.gather(&targets, D::Minus1)?.sum_all()?;
    (entropy * TERMS.entropy)? + (likelihood * TERMS.likelihood)?
}

#[test]
fn every_gradient_of_encoder_and_decoder_agrees_with_autograd_and_with_differences() -> Result<()> {
    let files = ModelFiles::from_dir(&repository(MODEL)).unwrap();
    let mut graph = Graph::load(&repository(MODEL).join("model.safetensors"), &files.config, "model.")?;
    let bands = 80;
    let host = Golden::read(&repository(MODEL)).get("log_mel")[..60 * bands].to_vec();
    let log_mel = Tensor::from_slice(&host, (60, bands), &Device::Cpu)?.to_dtype(DType::F64)?;
    let value = exact(&graph, &log_mel)?;
    let theirs = value.backward()?;
    let value = value.to_scalar::<f64>()?;
    for threads in [1, 2] {
        let backend = CpuBackend::new(threads).unwrap();
        let model = Arc::new(files.load(&backend).unwrap());
        for (parameters, half) in [
            (ParameterChoice::All, Half::Both),
            (ParameterChoice::LayerNorm, Half::Both),
            (ParameterChoice::LayerNorm, Half::Decoder),
            (ParameterChoice::LayerNormAndConvBias, Half::Encoder),
        ] {
            let config = settings(Method::Suta, parameters, half);
            let (found, gradients) = engine_gradients(&backend, &model, &config, &host);
            assert!((found / value - 1.0).abs() < 1e-5, "{found} against {value}");
            let expected = match (parameters, half) {
                (ParameterChoice::All, _) => graph.variables.len() - 1,
                (ParameterChoice::LayerNormAndConvBias, _) => 6 + 2,
                (_, Half::Decoder) => 14,
                _ => 14 + 6,
            };
            assert_eq!(
                gradients.len(),
                expected,
                "{parameters:?} {half:?}: all but the encoder's fixed positions"
            );
            for (name, ours) in gradients {
                let theirs = theirs
                    .get(&graph.variables[&name])
                    .unwrap_or_else(|| panic!("candle cut {name}"));
                let theirs: Vec<f64> = theirs.flatten_all()?.to_vec1()?;
                let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
                let difference = norm(&mut ours.iter().zip(&theirs).map(|(a, b)| f64::from(*a) - b));
                let relative = difference / norm(&mut theirs.iter().copied());
                assert!(relative < 1e-3, "{parameters:?} {half:?} {name}: {relative:e} relative");
            }
        }
    }
    // Autograd itself, and with it the engine's gradients, against differences along a random direction of each tensor.
    let backend = CpuBackend::new(2).unwrap();
    let model = Arc::new(files.load(&backend).unwrap());
    let config = settings(Method::Suta, ParameterChoice::All, Half::Both);
    let (_, gradients) = engine_gradients(&backend, &model, &config, &host);
    for (name, ours) in gradients {
        let shape = graph.variables[&name].shape().clone();
        let direction = random(ours.len(), 5);
        let slope: f64 = ours.iter().zip(&direction).map(|(a, b)| f64::from(*a) * b).sum();
        let (kept, step) = (graph.variables[&name].as_tensor().copy()?, 1e-5);
        let direction = Tensor::from_vec(direction, shape, &Device::Cpu)?;
        let mut at = |by: f64| -> Result<f64> {
            graph
                .variables
                .insert(name.clone(), Var::from_tensor(&(&kept + (&direction * by)?)?)?);
            exact(&graph, &log_mel)?.to_scalar::<f64>()
        };
        let difference = (at(step)? - at(-step)?) / (2.0 * step);
        at(0.0)?;
        let norm = ours.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        assert!(
            (slope - difference).abs() < 1e-3 * norm.max(1e-6),
            "{name}: {slope:e} along a direction, {difference:e} by differences"
        );
    }
    Ok(())
}

/// Noise that the random model has something to say about.
fn samples() -> Vec<f32> {
    (0..3 * 16_000)
        .map(|n| ((n as f32).powi(2) * 0.001).sin() * 0.1)
        .collect()
}

fn options() -> DecodingOptions {
    DecodingOptions {
        no_speech_threshold: None,
        log_prob_threshold: None,
        compression_ratio_threshold: None,
        temperature: vec![0.0],
        beam_size: 1,
        max_new_tokens: Some(20),
        without_timestamps: true,
        language: Some("en".into()),
        ..DecodingOptions::default()
    }
}

#[test]
fn every_method_lowers_what_it_lowers_and_leaves_no_trace() {
    let recognizer = Recognizer::from_dir(&repository(MODEL)).unwrap();
    let transcribe = |config: &AdaptationConfig| {
        let mut session = recognizer.decoding_session(config, &options(), 2).unwrap();
        let first = session.transcribe_utterance(&samples(), 0.0).unwrap();
        // Episodic: the next utterance is adapted to from the source model again.
        let again = session.transcribe_utterance(&samples(), 0.0).unwrap();
        assert_eq!((&first.text, &first.losses), (&again.text, &again.losses));
        first
    };
    let plain = transcribe(&AdaptationConfig::none());
    assert!(!plain.text.is_empty() && plain.steps == 0);
    for half in [Half::Both, Half::Encoder, Half::Decoder] {
        for method in [Method::Suta, Method::Sdpl, Method::SequenceEntropy] {
            let found = transcribe(&settings(method, ParameterChoice::LayerNorm, half));
            let what = format!("{method:?} {half:?}");
            assert_eq!((found.steps, found.backwards, found.losses.len()), (2, 2, 2), "{what}");
            assert_eq!(found.unadapted_text, plain.text, "{what}");
            let (before, after) = (found.entropy_before.unwrap(), found.entropy_after.unwrap());
            match method {
                Method::Sdpl => assert!(found.losses[1] < found.losses[0], "{what}: {:?}", found.losses),
                _ => assert!(after < before, "{what}: {before} to {after}"),
            }
        }
    }
}

/// The random model soon writes nothing but special tokens; tests/ctranslate2_decoder.rs has a real one's text rejected.
#[test]
fn an_empty_text_never_takes_the_place_of_another() {
    let recognizer = Recognizer::from_dir(&repository(MODEL)).unwrap();
    let run = |config: &AdaptationConfig| {
        let mut session = recognizer.decoding_session(config, &options(), 1).unwrap();
        session.transcribe_utterance(&samples(), 0.0).unwrap()
    };
    let tokens = |utterance: &Utterance| utterance.decoding.as_ref().unwrap().tokens.clone();
    let plain = run(&AdaptationConfig::none());
    let mut emptied = 0;
    for learning_rate in [0.003, 0.01, 0.03, 0.1] {
        let found = run(&AdaptationConfig {
            learning_rate,
            ..settings(Method::Suta, ParameterChoice::LayerNorm, Half::Both)
        });
        // The settings are without the guard by evidence.
        let stands = found.evidence.is_some() && found.guard != Some(Guard::Emptied);
        assert_eq!(tokens(&found) != tokens(&plain), stands, "{learning_rate}");
        emptied += usize::from(found.guard == Some(Guard::Emptied));
    }
    assert!(emptied > 0);
}

#[test]
fn evidence_speaks_against_what_is_unlikely_repetitive_or_another_text() {
    let options = DecodingOptions::default();
    let alike = Evidence {
        log_probability: [-0.4, -0.45],
        compression_ratio: [1.4, 1.5],
        words: [20, 21],
        disagreement: 0.1,
        favours_adapted: false,
    };
    assert!(alike.favours_adapted(&options));
    for worse in [
        Evidence {
            log_probability: [-0.4, -0.9],
            ..alike
        },
        Evidence {
            compression_ratio: [1.4, 5.0],
            ..alike
        },
        Evidence {
            words: [20, 8],
            ..alike
        },
        Evidence {
            disagreement: 0.8,
            ..alike
        },
    ] {
        assert!(!worse.favours_adapted(&options), "{worse:?}");
    }
    // A looping text is no standard for the length of one that does not loop.
    let looped = Evidence {
        log_probability: [-0.3, -0.4],
        compression_ratio: [8.0, 1.5],
        words: [200, 20],
        disagreement: 0.95,
        favours_adapted: false,
    };
    assert!(looped.favours_adapted(&options));
}

#[test]
fn what_a_model_cannot_be_adapted_with_is_said_at_once() {
    let recognizer = Recognizer::from_dir(&repository(MODEL)).unwrap();
    for config in [
        AdaptationConfig::guarded(),
        AdaptationConfig {
            safeguard: true,
            ..settings(Method::Suta, ParameterChoice::LayerNorm, Half::Both)
        },
    ] {
        assert!(matches!(recognizer.session(&config, 1), Err(Error::NotAdaptable)));
    }
    #[cfg(feature = "bundled-model")]
    {
        let bundled = Recognizer::bundled(aurist::Bundled::TinyEnCtc).unwrap();
        let config = settings(Method::SequenceEntropy, ParameterChoice::LayerNorm, Half::Both);
        assert!(matches!(bundled.session(&config, 1), Err(Error::NoDecoderToAdapt)));
    }
}
