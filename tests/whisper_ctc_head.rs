//! Adapting a Whisper through a CTC model that was made of its encoder: what is carried over, what is refused, and what
//! stands.

mod cli_support;
mod common;
mod model_fixtures;

use aurist::adapt::Adapter;
use aurist::audio::{Features, read_all};
use aurist::decode::whisper::DecodingOptions;
use aurist::engine::cpu::CpuBackend;
use aurist::{
    AdaptationConfig, CtcHeadError, Error, Guard, Method, ParameterChoice, Recognizer, Utterance, WhisperAdaptation,
};
use cli_support::{aurist, json_lines, short_clip};
use common::{load, repository};
use model_fixtures::copy_of;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

const WHISPER: &str = "tests/data/goldens/whisper-tiny";
const BANDS: usize = 80;

type Tensors = HashMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors(directory: &Path) -> Tensors {
    let bytes = std::fs::read(directory.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors().into_iter().map(|(name, tensor)| {
        let values = tensor.data().chunks_exact(2);
        let values = values.map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32());
        (name, (tensor.shape().to_vec(), values.collect()))
    });
    tensors.collect()
}

/// In f32 throughout: both of these models are stored alike.
fn write(directory: &Path, tensors: &Tensors) {
    let data: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| (name, shape, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = data
        .iter()
        .map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, (*shape).clone(), data).unwrap()));
    let bytes = safetensors::serialize(views, None).unwrap();
    std::fs::write(directory.join("model.safetensors"), bytes).unwrap();
}

/// A Whisper of one layer, some of its tensors changed.
fn whisper(root: &Path, change: impl Fn(&mut Tensors)) -> PathBuf {
    let to = root.join("whisper");
    copy_of("whisper-tiny", &to);
    let mut made = tensors(&repository(WHISPER));
    change(&mut made);
    write(&to, &made);
    to
}

/// A CTC model of two layers, of which the lower one is that Whisper's.
fn ctc_model(root: &Path, change: impl Fn(&mut Tensors)) -> PathBuf {
    let to = root.join("ctc");
    copy_of("whisper-ctc-tiny", &to);
    let config = std::fs::read_to_string(to.join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    for (key, value) in [
        ("encoder_attention_heads", 2),
        ("encoder_ffn_dim", 48),
        ("max_source_positions", 1500),
    ] {
        config[key] = value.into();
    }
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
    let mut made = Tensors::new();
    for (name, tensor) in tensors(&repository(WHISPER)) {
        let Some(name) = name.strip_prefix("model.").filter(|name| name.starts_with("encoder.")) else {
            continue;
        };
        if name.starts_with("encoder.layers.0.") {
            let (shape, values) = &tensor;
            let values = values.iter().map(|value| 1.1 * value).collect();
            made.insert(name.replace("layers.0", "layers.1"), (shape.clone(), values));
        }
        made.insert(name.to_string(), tensor);
    }
    let random = |count: usize, scale: f32| -> Vec<f32> {
        let numbers = (0..count).map(|n| ((n * n + 7 * n) as f32 * 0.37).sin() * scale);
        numbers.collect()
    };
    made.insert("ctc_head.weight".into(), (vec![32, 32], random(32 * 32, 0.5)));
    made.insert("ctc_head.bias".into(), (vec![32], random(32, 0.1)));
    change(&mut made);
    write(&to, &made);
    to
}

fn keep(_: &mut Tensors) {}

/// Both, the one beside the other.
fn recognizer(root: &Path, change_of_ctc: impl Fn(&mut Tensors)) -> Result<Recognizer, Error> {
    let whisper = Recognizer::from_dir(&whisper(root, keep)).unwrap();
    whisper.with_ctc_head(&Recognizer::from_dir(&ctc_model(root, change_of_ctc)).unwrap())
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

/// Its own settings but for the rate, and the guard by evidence.
fn settings(recognizer: &Recognizer, learning_rate: f64, guard: bool) -> AdaptationConfig {
    let config = recognizer.default_adaptation();
    AdaptationConfig {
        learning_rate,
        steps: 3,
        whisper: config
            .whisper
            .clone()
            .map(|whisper| WhisperAdaptation { guard, ..whisper }),
        ..config
    }
}

fn transcribe(recognizer: &Recognizer, config: &AdaptationConfig) -> Utterance {
    let mut session = recognizer.decoding_session(config, &options(), 1).unwrap();
    session.transcribe_utterance(&samples(), 0.0).unwrap()
}

fn tokens(utterance: &Utterance) -> (Vec<u32>, f64) {
    let decoding = utterance.decoding.as_ref().unwrap();
    (decoding.tokens.clone(), decoding.avg_logprob)
}

/// The adapted Whisper writes, to the last bit of its log-probability, what one writes that was stored with the values which
/// SUTA on the CTC model ends with.
#[test]
fn what_suta_on_the_ctc_model_ends_with_is_carried_over() {
    let root = tempfile::tempdir().unwrap();
    let recognizer = recognizer(root.path(), keep).unwrap();
    assert_eq!(recognizer.shared_layers(), Some(1));
    let plain = transcribe(&recognizer, &AdaptationConfig::none());
    let backend = CpuBackend::new(1).unwrap();
    for (parameters, count) in [
        (ParameterChoice::LayerNorm, 4),
        (ParameterChoice::LayerNormAndConvBias, 6),
        (ParameterChoice::BiasAndLayerNorm, 9),
    ] {
        let config = AdaptationConfig {
            parameters,
            ..settings(&recognizer, 3e-3, false)
        };
        let found = transcribe(&recognizer, &config);
        assert_eq!(
            (found.steps, found.losses.len(), found.backwards),
            (3, 3, 3),
            "{parameters:?}"
        );
        assert!(found.losses[2] < found.losses[0] && found.entropy_after < found.entropy_before);
        assert_eq!(found.unadapted_text, plain.text);
        // The same by the CTC model's own adapter, in whose place the Whisper's settings have no part.
        let alone = AdaptationConfig {
            whisper: None,
            ..config.clone()
        };
        let model = load(&backend, &root.path().join("ctc"));
        let mut adapter = Adapter::of_lowest_layers(&backend, model, &alone, Some(1)).unwrap();
        let episode = adapter
            .run(&backend, &Features::log_mel(BANDS).compute(&samples()))
            .unwrap();
        let losses: Vec<f32> = episode
            .objectives
            .iter()
            .map(|objective| objective.loss as f32)
            .collect();
        assert_eq!(found.losses, losses);
        let adapted: Vec<_> = adapter.parameters().tensors(&backend).collect();
        assert_eq!(adapted.len(), count, "{parameters:?}");
        let stored = tempfile::tempdir().unwrap();
        let directory = whisper(stored.path(), |tensors| {
            for (name, shape, values) in &adapted {
                let before = tensors.insert(format!("model.{name}"), (shape.clone(), values.clone()));
                assert_ne!(before.unwrap().1, *values, "{name} did not move");
            }
        });
        let stored = Recognizer::from_dir(&directory).unwrap();
        let written = transcribe(&stored, &AdaptationConfig::none());
        assert_eq!(tokens(&found), tokens(&written), "{parameters:?}");
        assert_ne!(tokens(&found).1, tokens(&plain).1, "it has an effect");
        // Each utterance begins with the source models.
        let mut session = recognizer.decoding_session(&config, &options(), 1).unwrap();
        for _ in 0..2 {
            let again = session.transcribe_utterance(&samples(), 0.0).unwrap();
            assert_eq!((&again.losses, tokens(&again)), (&found.losses, tokens(&found)));
        }
    }
}

#[test]
fn models_that_share_nothing_are_refused_by_the_first_difference() {
    let root = tempfile::tempdir().unwrap();
    let moved = |name: &'static str| {
        move |tensors: &mut Tensors| {
            tensors.get_mut(name).unwrap().1[5] += 1e-5;
        }
    };
    for (tensor, in_the_ctc_model) in [
        ("conv2.weight", "encoder.conv2.weight"),
        (
            "layers.0.final_layer_norm.bias",
            "encoder.layers.0.final_layer_norm.bias",
        ),
    ] {
        let error = recognizer(root.path(), moved(in_the_ctc_model)).err().unwrap();
        assert!(
            matches!(&error, Error::CtcHead(CtcHeadError::NothingShared { .. })),
            "{error}"
        );
        assert!(error.to_string().contains(&format!("`{tensor}`")), "{error}");
    }
    // What lies above does not matter.
    let above = recognizer(root.path(), moved("encoder.layers.1.fc1.weight")).unwrap();
    assert_eq!(above.shared_layers(), Some(1));
    let other = Recognizer::from_dir(&repository("tests/data/goldens/whisper-ctc-tiny")).unwrap();
    let error = above.with_ctc_head(&other).err().unwrap();
    assert!(error.to_string().contains("2 attention heads"), "{error}");
    let wav2vec2 = Recognizer::from_dir(&repository("tests/data/goldens/wav2vec2-base")).unwrap();
    let error = above.with_ctc_head(&wav2vec2).err().unwrap();
    assert!(error.to_string().contains("waveform"), "{error}");
    let error = above.with_ctc_head(&above).err().unwrap();
    assert!(matches!(error, Error::CtcHead(CtcHeadError::NoHead(_))), "{error}");
    let error = other.with_ctc_head(&other).err().unwrap();
    assert!(matches!(error, Error::CtcHead(CtcHeadError::NoDecoder(_))), "{error}");
}

#[test]
fn what_cannot_be_carried_over_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let recognizer = recognizer(root.path(), keep).unwrap();
    let config = recognizer.default_adaptation();
    assert_eq!(
        (config.method, config.parameters),
        (Method::Suta, ParameterChoice::LayerNorm)
    );
    for (wrong, says) in [
        (
            AdaptationConfig {
                method: Method::Dsuta,
                ..config.clone()
            },
            "--adapt suta",
        ),
        (
            AdaptationConfig {
                method: Method::SequenceEntropy,
                ..config.clone()
            },
            "--adapt suta",
        ),
        (
            AdaptationConfig {
                parameters: ParameterChoice::All,
                ..config.clone()
            },
            "layer-norm",
        ),
        (
            AdaptationConfig {
                parameters: ParameterChoice::Feature,
                ..config.clone()
            },
            "layer-norm",
        ),
        (
            AdaptationConfig {
                top_layers: Some(1),
                ..config.clone()
            },
            "--top-layers",
        ),
    ] {
        let error = recognizer.session(&wrong, 1).err().unwrap();
        assert!(matches!(error, Error::CtcHead(_)), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    let alone = Recognizer::from_dir(&root.path().join("whisper")).unwrap();
    let error = alone.session(&config, 1).err().unwrap();
    assert!(matches!(error, Error::CtcHead(CtcHeadError::Another)), "{error}");
    // A server's client may ask for no adaptation with the rest of the settings as they are.
    let none = AdaptationConfig {
        method: Method::None,
        ..config
    };
    let plain = transcribe(&alone, &AdaptationConfig::none());
    assert_eq!(tokens(&transcribe(&recognizer, &none)), tokens(&plain));
    // Beside a CTC head the Whisper can still be adapted by its own text.
    let own = AdaptationConfig {
        method: Method::Suta,
        ..AdaptationConfig::whisper()
    };
    assert_eq!(transcribe(&recognizer, &own).losses, transcribe(&alone, &own).losses);
}

#[test]
fn the_guard_takes_back_what_the_source_whisper_finds_unlikely() {
    let root = tempfile::tempdir().unwrap();
    // A random model finds all texts much alike: this one is made surer of itself.
    let sure = whisper(root.path(), |tensors| {
        let (_, gains) = tensors.get_mut("model.decoder.layer_norm.weight").unwrap();
        gains.iter_mut().for_each(|gain| *gain *= 4.0);
    });
    let ctc = Recognizer::from_dir(&ctc_model(root.path(), keep)).unwrap();
    let recognizer = Recognizer::from_dir(&sure).unwrap().with_ctc_head(&ctc).unwrap();
    let plain = transcribe(&recognizer, &AdaptationConfig::none());
    let mut rejected = 0;
    for learning_rate in [0.01, 0.03, 0.05] {
        let free = transcribe(&recognizer, &settings(&recognizer, learning_rate, false));
        let guarded = transcribe(&recognizer, &settings(&recognizer, learning_rate, true));
        assert_eq!((free.steps, guarded.steps, &free.losses), (3, 3, &guarded.losses));
        let Some(evidence) = &guarded.evidence else {
            assert_eq!(
                tokens(&free).0,
                tokens(&plain).0,
                "{learning_rate}: a changed text has evidence"
            );
            continue;
        };
        assert_eq!(free.evidence.as_ref(), Some(evidence));
        if !evidence.favours_adapted && free.guard != Some(Guard::Emptied) {
            rejected += 1;
            assert_eq!(guarded.guard, Some(Guard::Rejected));
            assert_eq!(tokens(&guarded), tokens(&plain));
            assert_ne!(tokens(&free).0, tokens(&plain).0);
        }
    }
    assert!(rejected > 0, "no text was rejected");
}

#[test]
fn what_a_guard_cut_short_is_not_carried_over() {
    let root = tempfile::tempdir().unwrap();
    let recognizer_of = |change: fn(&mut Tensors)| recognizer(root.path(), change).unwrap();
    let sound = recognizer_of(keep);
    let plain = transcribe(&sound, &AdaptationConfig::none());
    let found = transcribe(&sound, &settings(&sound, 1e38, false));
    // Such values end in numbers that are not finite, or in none but blanks.
    assert!(
        matches!(found.guard, Some(Guard::NonFinite | Guard::AllBlank)),
        "{:?}",
        found.guard
    );
    assert_eq!(found.steps, 0);
    assert_eq!((tokens(&found), found.evidence), (tokens(&plain), None));
    // Every frame's best symbol is the blank: there is no entropy to lower.
    let blank = recognizer_of(|tensors| tensors.get_mut("ctc_head.bias").unwrap().1[0] = 100.0);
    let found = transcribe(&blank, &settings(&blank, 1e-3, true));
    assert_eq!(
        (found.guard, found.steps, found.backwards),
        (Some(Guard::AllBlank), 0, 0)
    );
    assert_eq!((tokens(&found), found.entropy_before), (tokens(&plain), None));
}

#[cfg(feature = "bundled-model")]
#[test]
fn the_bundled_models_share_two_layers_and_without_a_step_nothing_changes() {
    use aurist::Bundled;
    let whisper = Recognizer::bundled(Bundled::TinyEn).unwrap();
    let whisper = whisper
        .with_ctc_head(&Recognizer::bundled(Bundled::TinyEnCtc).unwrap())
        .unwrap();
    // One is stored in 8 bits, the other in f16.
    assert_eq!(whisper.shared_layers(), Some(2));
    let samples = read_all(&short_clip()).unwrap();
    let greedy = DecodingOptions {
        beam_size: 1,
        temperature: vec![0.0],
        ..DecodingOptions::default()
    };
    let run = |config: &AdaptationConfig| {
        let mut session = whisper.decoding_session(config, &greedy, 2).unwrap();
        let heard = session.transcribe_recording(&samples, &mut |_| true).unwrap();
        heard.unwrap().utterances.remove(0)
    };
    let config = whisper.default_adaptation();
    assert_eq!(
        (config.steps, config.learning_rate, config.temperature),
        (10, 1e-3, 2.5)
    );
    let (plain, adapted) = (run(&AdaptationConfig::none()), run(&config));
    let still = run(&AdaptationConfig {
        learning_rate: 0.0,
        ..config
    });
    assert_eq!((still.steps, tokens(&still)), (10, tokens(&plain)));
    assert_eq!(adapted.steps, 10);
    assert!(adapted.entropy_after < adapted.entropy_before && adapted.unadapted_text == plain.text);
}

#[cfg(feature = "bundled-model")]
#[test]
fn the_command_adapts_through_a_ctc_head_and_says_what_is_wrong() {
    let clip = short_clip();
    let run = |options: &[&str]| {
        let mut command = aurist();
        command
            .arg("transcribe")
            .arg(&clip)
            .args(["-f", "json", "-m", "tiny.en"])
            .args(options);
        command
    };
    let ended = run(&["--adapt", "suta", "--ctc-head", "tiny.en-ctc", "--steps", "2"])
        .assert()
        .success();
    let json: serde_json::Value = serde_json::from_slice(&ended.get_output().stdout).unwrap();
    assert_eq!(json["utterances"][0]["steps"], 2, "{json}");
    assert_eq!(json["utterances"][0]["losses"].as_array().map(Vec::len), Some(2));
    for (options, says) in [
        (
            ["--adapt", "dsuta", "--ctc-head", "tiny.en-ctc"],
            "leave out --ctc-head",
        ),
        (["--parameters", "all", "--ctc-head", "tiny.en-ctc"], "layer-norm"),
        (["--half", "both", "--ctc-head", "tiny.en-ctc"], "--half"),
        (["--adapt", "suta", "--ctc-head", "tiny.en"], "name a CTC model"),
        (["-m", "tiny.en-ctc", "--ctc-head", "tiny.en-ctc"], "-m"),
    ] {
        let ended = run(&options).assert().failure();
        let message = String::from_utf8_lossy(&ended.get_output().stderr).into_owned();
        assert!(message.contains(says), "{options:?}: {message}");
    }
    let mut command = aurist();
    command
        .args(["listen", "--input"])
        .arg(&clip)
        .args(["--ctc-head", "tiny.en-ctc"]);
    let ended = command.assert().failure();
    assert!(String::from_utf8_lossy(&ended.get_output().stderr).contains("aurist transcribe"));
}

/// The journal has what benches/whisper_adaptation.py reads: both texts, and the evidence where they differ.
#[test]
fn a_benchmarks_method_may_go_through_a_ctc_head() {
    let root = tempfile::tempdir().unwrap();
    let (whisper, ctc) = (whisper(root.path(), keep), ctc_model(root.path(), keep));
    let manifest = root.path().join("set.jsonl");
    let line = serde_json::json!({ "audio_filepath": short_clip(), "text": "words" });
    std::fs::write(&manifest, line.to_string()).unwrap();
    let out = root.path().join("run");
    let method = format!("suta:ctc-head={},steps=2,lr=0.3,no-guard", ctc.display());
    let mut command = aurist();
    command
        .arg("bench")
        .arg(&manifest)
        .arg("-o")
        .arg(&out)
        .arg("-m")
        .arg(&whisper);
    command.args(["--method", &method]).assert().success();
    let journal = json_lines(&std::fs::read(out.join("journal.jsonl")).unwrap());
    let adapted = journal
        .iter()
        .find(|entry| entry["method"] == *method)
        .expect("its entry");
    let result = &adapted["result"];
    assert_eq!(
        (result["steps"].as_u64(), result["losses"].as_array().map(Vec::len)),
        (Some(2), Some(2))
    );
    assert!(result["unadapted_text"].is_string());
    assert_eq!(
        result["evidence"].is_object(),
        result["text"] != result["unadapted_text"],
        "{result}"
    );
}
