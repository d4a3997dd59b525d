//! A tiny random Whisper, encoder and decoder, against transformers (`benches/reference/whisper_decoder_goldens.py` wrote
//! the directory), and the decoder's memory of what it decoded against passes without one.

mod common;

use aurist::adapt::AdaptedParameters;
use aurist::decode::whisper::{DecodingOptions, WhisperDecoder};
use aurist::engine::Arena;
use aurist::engine::cpu::CpuBackend;
use aurist::model::{
    CtcModel, DecoderActivations, Generation, KEEP_NOTHING, ModelFiles, Row, SourceParameters, Tokens,
};
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

/// Of the first hypothesis.
fn prompt(from: usize) -> Tokens<'static> {
    Tokens::Prompt { hypothesis: 0, from }
}

/// A decoder that has heard the golden window, and louder ones beside it.
struct Heard {
    backend: CpuBackend,
    model: Arc<CtcModel<CpuBackend>>,
    source: SourceParameters<CpuBackend>,
    arena: Arena<CpuBackend>,
    activations: DecoderActivations,
}

impl Heard {
    fn new(windows: usize, hypotheses: usize) -> Self {
        let golden = Golden::read(&repository(MODEL));
        let backend = CpuBackend::new(1).unwrap();
        let (model, _) = load(&backend);
        let source = SourceParameters(model.weights().clone());
        let encoded = golden.get("encoded");
        let decoder = model.decoder().unwrap();
        let (plan, activations) = decoder.plan(&backend, 1500, (windows, hypotheses), 64);
        let mut arena = Arena::new(&backend, plan.total()).unwrap();
        for window in 0..windows {
            // Windows hear different things: each the same sound, louder.
            let louder: Vec<f32> = encoded
                .iter()
                .map(|value| value * (1.0 + window as f32 / 4.0))
                .collect();
            decoder.load_source(&backend, &source, &mut arena, &activations, window, &louder);
        }
        Self {
            backend,
            model,
            source,
            arena,
            activations,
        }
    }

    /// Logits after the last of the tokens, or after each hypothesis' one.
    fn run(&mut self, tokens: &[u32], place: Tokens<'_>) -> Vec<f32> {
        let decoder = self.model.decoder().unwrap();
        let (backend, source, a) = (&self.backend, &self.source, &self.activations);
        decoder.forward(backend, source, &mut self.arena, a, tokens, place);
        let (first, count) = match place {
            Tokens::Prompt { .. } => (tokens.len() - 1, 1),
            Tokens::Step(_) => (0, tokens.len()),
        };
        let logits = decoder.logits(backend, source, &mut self.arena, a, first, count);
        self.arena.view(backend, logits).to_vec()
    }

    /// A token more for each of the first hypotheses, all at the same position.
    fn step(&mut self, tokens: &[u32], position: usize) -> Vec<f32> {
        let row = |hypothesis| Row { hypothesis, position };
        let rows: Vec<Row> = (0..tokens.len()).map(row).collect();
        self.run(tokens, Tokens::Step(&rows))
    }

    fn reorder(&mut self, window: usize, origins: &[usize], length: usize) {
        let decoder = self.model.decoder().unwrap();
        let (arena, activations) = (&mut self.arena, &self.activations);
        decoder.reorder(&self.backend, arena, activations, window, origins, length);
    }
}

#[test]
fn token_by_token_gives_the_logits_of_one_pass() {
    let golden = Golden::read(&repository(MODEL));
    let sequence = tokens(&golden);
    let whole = Heard::new(1, 1).run(&sequence, prompt(0));
    // Any cut of the sequence into a prompt, a second prompt and steps.
    for (first, second) in [(1, 0), (3, 0), (2, 3)] {
        let mut heard = Heard::new(1, 1);
        let mut last = heard.run(&sequence[..first], prompt(0));
        if second > 0 {
            last = heard.run(&sequence[first..first + second], prompt(first));
        }
        for (position, token) in sequence.iter().enumerate().skip(first + second) {
            last = heard.step(&[*token], position);
        }
        let relative = relative_difference(&last, &whole);
        assert!(relative < 1e-5, "a prompt of {first} and {second}: {relative:e}");
    }
}

#[test]
fn hypotheses_keep_apart_what_they_decoded_and_move_with_it() {
    let (begun, tails) = ([265, 266, 270], [[10, 20], [30, 40], [50, 60]]);
    let alone = |tail: [u32; 2]| Heard::new(1, 1).run(&[&begun[..], &tail].concat(), prompt(0));
    let mut heard = Heard::new(1, 3);
    heard.run(&begun, prompt(0));
    heard.reorder(0, &[0, 0, 0], 3);
    heard.step(&tails.map(|tail| tail[0]), 3);
    // A cycle, and one that goes on twice.
    for origins in [[2, 0, 1], [1, 1, 0]] {
        heard.reorder(0, &origins, 4);
        let order: Vec<usize> = if origins == [2, 0, 1] {
            origins.to_vec()
        } else {
            // After the first reordering.
            origins.iter().map(|index| [2, 0, 1][*index]).collect()
        };
        let next: Vec<u32> = order.iter().map(|index| tails[*index][1]).collect();
        let logits = heard.step(&next, 4);
        for (logits, index) in logits.chunks_exact(logits.len() / 3).zip(order) {
            let relative = relative_difference(logits, &alone(tails[index]));
            assert!(relative < 1e-5, "hypothesis of {:?}: {relative:e}", tails[index]);
        }
    }
}

/// Three windows, each with its own sound, two hypotheses and a prompt of its own length, against each by itself.
#[test]
fn windows_side_by_side_hear_each_their_own_sound() {
    let prompts: [&[u32]; 3] = [&[265, 266], &[265, 266, 270, 10], &[265, 20, 30]];
    let next = [[11, 12], [21, 22], [31, 32]];
    let mut together = Heard::new(3, 2);
    for (window, prompt) in prompts.iter().enumerate() {
        let (hypothesis, from) = (2 * window, 0);
        together.run(prompt, Tokens::Prompt { hypothesis, from });
        together.reorder(window, &[0, 0], prompt.len());
    }
    // The middle one rests in the second step.
    for (step, windows) in [&[0, 1, 2][..], &[0, 2]].into_iter().enumerate() {
        let (mut rows, mut tokens) = (Vec::new(), Vec::new());
        for window in windows {
            for (index, token) in next[*window].iter().enumerate() {
                let (hypothesis, position) = (2 * window + index, prompts[*window].len() + step);
                rows.push(Row { hypothesis, position });
                tokens.push(token + step as u32);
            }
        }
        let logits = together.run(&tokens, Tokens::Step(&rows));
        for (row, logits) in rows.iter().zip(logits.chunks_exact(logits.len() / rows.len())) {
            let window = row.hypothesis / 2;
            let mut alone = Heard::new(3, 1);
            let token = next[window][row.hypothesis % 2];
            let sequence: Vec<u32> = prompts[window]
                .iter()
                .copied()
                .chain((0..=step as u32).map(|more| token + more))
                .collect();
            let (hypothesis, from) = (window, 0);
            let expected = alone.run(&sequence, Tokens::Prompt { hypothesis, from });
            let relative = relative_difference(logits, &expected);
            assert!(relative < 1e-5, "step {step}, {row:?}: {relative:e}");
        }
    }
}

/// Stretches of other lengths, three of them side by side, against each by itself: text, times and scores.
#[test]
fn stretches_decoded_in_a_batch_are_those_decoded_alone() {
    let backend = CpuBackend::new(2).unwrap();
    let (model, generation) = load(&backend);
    let golden = Golden::read(&repository(MODEL)).get("log_mel");
    let bands = 80;
    let stretches: Vec<Vec<f32>> = [golden.len() / bands, 400, 3500, 90, 1200]
        .into_iter()
        .enumerate()
        .map(|(number, frames)| {
            let cycle = golden.iter().cycle().skip(number * 37 * bands);
            cycle.take(frames * bands).copied().collect()
        })
        .collect();
    let stretches: Vec<&[f32]> = stretches.iter().map(Vec::as_slice).collect();
    for beam_size in [1, 3] {
        let options = |batch_size| DecodingOptions {
            beam_size,
            batch_size,
            best_of: 2,
            language: Some("de".into()),
            no_speech_threshold: None,
            word_timestamps: true,
            temperature: vec![0.0],
            ..DecodingOptions::default()
        };
        let decode = |batch_size| {
            let none = AdaptationConfig::none();
            let (model, generation) = (model.clone(), generation.clone());
            let mut decoder = WhisperDecoder::new(&backend, model, &none, generation, options(batch_size)).unwrap();
            let found = decoder.transcribe_together(&backend, &stretches, &mut |_, _| true);
            found.unwrap().expect("not stopped")
        };
        let (alone, together) = (decode(1), decode(3));
        assert_eq!((alone.len(), together.len()), (stretches.len(), stretches.len()));
        let mut compared = 0;
        for (alone, together) in alone.iter().zip(&together) {
            assert_eq!(alone.segments.len(), together.segments.len());
            for (alone, together) in alone.segments.iter().zip(&together.segments) {
                assert_eq!(
                    (&alone.text, &alone.decoding.tokens),
                    (&together.text, &together.decoding.tokens)
                );
                assert_eq!((alone.start, alone.end), (together.start, together.end));
                let words = |segment: &aurist::decode::whisper::Segment| -> Vec<(String, f64)> {
                    segment
                        .words
                        .iter()
                        .map(|word| (word.word.clone(), word.start))
                        .collect()
                };
                assert_eq!(words(alone), words(together));
                assert!((alone.decoding.avg_logprob - together.decoding.avg_logprob).abs() < 1e-4);
                compared += 1;
            }
        }
        assert!(compared >= stretches.len(), "{compared} segments");
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
