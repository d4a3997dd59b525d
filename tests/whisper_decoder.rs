//! A tiny random Whisper, encoder and decoder, against transformers (`benches/reference/whisper_decoder_goldens.py` wrote
//! the directory), and the decoder's memory of what it decoded against passes without one.

mod common;

use aurist::adapt::AdaptedParameters;
use aurist::decode::whisper::{DecodingOptions, WhisperDecoder};
use aurist::engine::Arena;
use aurist::engine::cpu::CpuBackend;
use aurist::model::{CtcModel, DecoderActivations, Generation, KEEP_NOTHING, ModelFiles, SourceParameters, Tokens};
use aurist::{AdaptationConfig, Error, Recognizer};
use common::{Golden, relative_difference, repository};
use std::sync::Arc;

const MODEL: &str = "tests/data/goldens/whisper-tiny";

fn load(backend: &CpuBackend) -> (Arc<CtcModel<CpuBackend>>, Arc<Generation>) {
    let files = ModelFiles::from_dir(&repository(MODEL)).unwrap();
    let generation = files.generation.clone().expect("it has a decoder");
    (Arc::new(files.load(backend).unwrap()), Arc::new(generation))
}

fn tokens(golden: &Golden) -> Vec<u32> {
    golden.get_i32("tokens").into_iter().map(|token| token as u32).collect()
}

#[test]
fn the_encoder_and_the_decoders_logits_are_those_of_transformers() {
    let golden = Golden::read(&repository(MODEL));
    for threads in [1, 2] {
        let backend = CpuBackend::new(threads).unwrap();
        let (model, generation) = load(&backend);
        let (log_mel, expected) = (golden.get("log_mel"), golden.get("logits"));
        let mut window = log_mel.clone();
        window.resize(model.config().most_input_values(), 0.0);
        let (plan, activations) = model.plan(&backend, window.len(), KEEP_NOTHING).unwrap();
        let mut arena = Arena::new(&backend, plan.total()).unwrap();
        let source = AdaptedParameters::new(&backend, model.weights().clone(), None).unwrap();
        model.load_input(&backend, &mut arena, &activations, &window);
        model.forward(&backend, &source, &mut arena, &activations, 0);
        let encoded = arena.view(&backend, activations.encoded());
        let relative = relative_difference(encoded, &golden.get("encoded"));
        assert!(
            relative < 1e-3,
            "the encoder's output is {relative:e} off (goldens are f16)"
        );

        let (none, options) = (AdaptationConfig::none(), DecodingOptions::default());
        let mut decoder = WhisperDecoder::new(&backend, model, &none, generation, options).unwrap();
        let logits = decoder.logits(&backend, &log_mel, &tokens(&golden)).unwrap().concat();
        let relative = relative_difference(&logits, &expected);
        assert!(relative < 1e-5, "{threads} threads: the logits are {relative:e} off");
    }
}

/// A decoder that has heard the golden window.
struct Heard {
    backend: CpuBackend,
    model: Arc<CtcModel<CpuBackend>>,
    source: SourceParameters<CpuBackend>,
    arena: Arena<CpuBackend>,
    activations: DecoderActivations,
}

impl Heard {
    fn new(hypotheses: usize) -> Self {
        let golden = Golden::read(&repository(MODEL));
        let backend = CpuBackend::new(1).unwrap();
        let (model, _) = load(&backend);
        let source = SourceParameters(model.weights().clone());
        let encoded = golden.get("encoded");
        let decoder = model.decoder().unwrap();
        let (plan, activations) = decoder.plan(&backend, 1500, hypotheses, 64);
        let mut arena = Arena::new(&backend, plan.total()).unwrap();
        decoder.load_source(&backend, &source, &mut arena, &activations, &encoded);
        Self {
            backend,
            model,
            source,
            arena,
            activations,
        }
    }

    /// Logits after the last of the tokens, or after each hypothesis' one.
    fn run(&mut self, tokens: &[u32], place: Tokens) -> Vec<f32> {
        let decoder = self.model.decoder().unwrap();
        let (backend, source, a) = (&self.backend, &self.source, &self.activations);
        decoder.forward(backend, source, &mut self.arena, a, tokens, place);
        let (first, count) = match place {
            Tokens::Prompt { .. } => (tokens.len() - 1, 1),
            Tokens::Step { .. } => (0, tokens.len()),
        };
        let logits = decoder.logits(backend, source, &mut self.arena, a, first, count);
        self.arena.view(backend, logits).to_vec()
    }

    fn reorder(&mut self, origins: &[usize], length: usize) {
        let decoder = self.model.decoder().unwrap();
        decoder.reorder(&self.backend, &mut self.arena, &self.activations, origins, length);
    }
}

#[test]
fn token_by_token_gives_the_logits_of_one_pass() {
    let golden = Golden::read(&repository(MODEL));
    let sequence = tokens(&golden);
    let whole = Heard::new(1).run(&sequence, Tokens::Prompt { from: 0 });
    // Any cut of the sequence into a prompt, a second prompt and steps.
    for (first, second) in [(1, 0), (3, 0), (2, 3)] {
        let mut heard = Heard::new(1);
        let mut last = heard.run(&sequence[..first], Tokens::Prompt { from: 0 });
        if second > 0 {
            last = heard.run(&sequence[first..first + second], Tokens::Prompt { from: first });
        }
        for (position, token) in sequence.iter().enumerate().skip(first + second) {
            last = heard.run(&[*token], Tokens::Step { position });
        }
        let relative = relative_difference(&last, &whole);
        assert!(relative < 1e-5, "a prompt of {first} and {second}: {relative:e}");
    }
}

#[test]
fn hypotheses_keep_apart_what_they_decoded_and_move_with_it() {
    let (prompt, tails) = ([265, 266, 270], [[10, 20], [30, 40], [50, 60]]);
    let alone = |tail: [u32; 2]| Heard::new(1).run(&[&prompt[..], &tail].concat(), Tokens::Prompt { from: 0 });
    let mut heard = Heard::new(3);
    heard.run(&prompt, Tokens::Prompt { from: 0 });
    heard.reorder(&[0, 0, 0], 3);
    heard.run(&tails.map(|tail| tail[0]), Tokens::Step { position: 3 });
    // A cycle, and one that goes on twice.
    for origins in [[2, 0, 1], [1, 1, 0]] {
        heard.reorder(&origins, 4);
        let order: Vec<usize> = if origins == [2, 0, 1] {
            origins.to_vec()
        } else {
            // After the first reordering.
            origins.iter().map(|index| [2, 0, 1][*index]).collect()
        };
        let next: Vec<u32> = order.iter().map(|index| tails[*index][1]).collect();
        let logits = heard.run(&next, Tokens::Step { position: 4 });
        for (logits, index) in logits.chunks_exact(logits.len() / 3).zip(order) {
            let relative = relative_difference(logits, &alone(tails[index]));
            assert!(relative < 1e-5, "hypothesis of {:?}: {relative:e}", tails[index]);
        }
    }
}

#[test]
fn a_whisper_transcribes_from_start_to_end_and_says_what_it_cannot() {
    let recognizer = Recognizer::from_dir(&repository(MODEL)).unwrap();
    assert!(recognizer.is_whisper());
    // Not unless it is asked for.
    assert_eq!(recognizer.default_adaptation().planned_steps(), 0);
    let session = |options: &DecodingOptions| recognizer.decoding_session(&AdaptationConfig::none(), options, 1);
    // Two windows of noise: the model is random, so is its text, but times must be in order and within the recording.
    let samples: Vec<f32> = (0..35 * 16_000)
        .map(|n| ((n as f32).powi(2) * 0.001).sin() * 0.1)
        .collect();
    let lenient = DecodingOptions {
        no_speech_threshold: None,
        beam_size: 2,
        best_of: 2,
        temperature: vec![0.0, 0.5],
        ..DecodingOptions::default()
    };
    let transcript = session(&lenient)
        .unwrap()
        .transcribe_recording(&samples, &mut |_| true)
        .unwrap();
    let transcript = transcript.expect("not stopped");
    assert!(transcript.language.is_some() && transcript.duration == 35.0);
    assert!(!transcript.utterances.is_empty());
    for utterance in &transcript.utterances {
        assert!(0.0 <= utterance.start && utterance.start <= utterance.end && utterance.end <= 60.0);
        let decoding = utterance.decoding.as_ref().expect("a decoder's");
        assert!(decoding.avg_logprob < 0.0 && (0.0..=1.0).contains(&decoding.no_speech_prob));
    }
    // The same again: draws are seeded.
    let again = session(&lenient)
        .unwrap()
        .transcribe_recording(&samples, &mut |_| true)
        .unwrap();
    assert_eq!(again.map(|transcript| transcript.text()), Some(transcript.text()));
    // Stopped, silence of no length, an unknown language.
    let stopped = session(&lenient)
        .unwrap()
        .transcribe_recording(&samples, &mut |_| false)
        .unwrap();
    assert!(stopped.is_none());
    let nothing = session(&lenient)
        .unwrap()
        .transcribe_recording(&[], &mut |_| true)
        .unwrap();
    assert_eq!(nothing.expect("not stopped").utterances.len(), 0);
    let unknown = DecodingOptions {
        language: Some("xx".into()),
        ..lenient
    };
    let error = session(&unknown)
        .unwrap()
        .transcribe_recording(&samples, &mut |_| true)
        .unwrap_err();
    assert!(error.to_string().contains("`xx`"), "{error}");
}

/// A directory as CTranslate2 converts the model, its weights stored in one way.
fn ctranslate2(weights: &str) -> tempfile::TempDir {
    let (formats, folder) = (
        repository("tests/data/formats/ctranslate2"),
        tempfile::tempdir().unwrap(),
    );
    let copy = |from: std::path::PathBuf, to: &str| std::fs::copy(from, folder.path().join(to)).unwrap();
    copy(formats.join(format!("{weights}.bin")), "model.bin");
    copy(formats.join("config.json"), "config.json");
    copy(repository(MODEL).join("tokenizer.json"), "tokenizer.json");
    folder
}

#[test]
fn every_ctranslate2_format_gives_the_logits_it_can() {
    let golden = Golden::read(&repository(MODEL));
    let backend = CpuBackend::new(1).unwrap();
    for (weights, least, most) in [
        ("float16", 0.0, 1e-5),
        ("int8", 1e-4, 0.05),
        ("int8_float16", 1e-4, 0.05),
    ] {
        let folder = ctranslate2(weights);
        let files = ModelFiles::from_dir(folder.path()).unwrap();
        let generation = Arc::new(files.generation.clone().expect("it has a decoder"));
        assert_eq!(generation.alignment_heads, [(0, 1), (1, 2), (1, 3)]);
        let model = Arc::new(files.load(&backend).unwrap());
        let (none, options) = (AdaptationConfig::none(), DecodingOptions::default());
        let mut decoder = WhisperDecoder::new(&backend, model, &none, generation, options).unwrap();
        let logits = decoder
            .logits(&backend, &golden.get("log_mel"), &tokens(&golden))
            .unwrap();
        let relative = relative_difference(&logits.concat(), &golden.get("logits"));
        assert!(least <= relative && relative < most, "{weights}: {relative:e}");
    }
}

/// Every search, rule and time against faster-whisper's on the same model, in float32.
#[test]
fn segments_are_those_of_faster_whisper() {
    let log_mel = Golden::read(&repository(MODEL)).get("log_mel");
    let text = std::fs::read(repository("tests/data/formats/ctranslate2/transcripts.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let folder = ctranslate2("float16");
    let backend = CpuBackend::new(2).unwrap();
    let files = ModelFiles::from_dir(folder.path()).unwrap();
    let generation = Arc::new(files.generation.clone().expect("it has a decoder"));
    let model = Arc::new(files.load(&backend).unwrap());
    let mut segments = 0;
    for case in cases {
        let mut options = serde_json::json!({ "temperature": [0.0], "no_speech_threshold": null,
            "log_prob_threshold": null, "compression_ratio_threshold": null });
        let given = case["options"].as_object().unwrap();
        options.as_object_mut().unwrap().extend(given.clone());
        let options: DecodingOptions = serde_json::from_value(options).unwrap();
        let none = AdaptationConfig::none();
        let mut decoder = WhisperDecoder::new(&backend, model.clone(), &none, generation.clone(), options).unwrap();
        let found = decoder
            .transcribe(&backend, &log_mel, &mut |_| true)
            .unwrap()
            .expect("not stopped");
        let what = &case["options"];
        let expected = case["segments"].as_array().unwrap();
        let close = |value: f64, expected: &serde_json::Value, tolerance: f64| {
            let expected = expected.as_f64().unwrap();
            assert!(
                (value - expected).abs() < tolerance,
                "{what}: {value} against {expected}"
            );
        };
        assert_eq!(found.segments.len(), expected.len(), "{what}: {:#?}", found.segments);
        for (segment, expected) in found.segments.iter().zip(expected) {
            assert_eq!(serde_json::json!(segment.decoding.tokens), expected["tokens"], "{what}");
            close(segment.start, &expected["start"], 1e-9);
            close(segment.end, &expected["end"], 1e-9);
            close(segment.decoding.avg_logprob, &expected["avg_logprob"], 1e-4);
            close(segment.decoding.no_speech_prob, &expected["no_speech_prob"], 1e-5);
            segments += 1;
        }
    }
    assert!(segments > 20, "{segments} segments were compared");
}

/// What live captions cannot do with a decoder is said before anything is heard.
#[test]
fn live_captions_say_at_once_that_they_need_a_ctc_head() {
    let recognizer = Recognizer::from_dir(&repository(MODEL)).unwrap();
    assert!(matches!(recognizer.check_live(), Err(Error::NotLive)));
}
