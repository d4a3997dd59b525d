//! Whisper tiny.en with its real weights, end to end: the decoder's logits against transformers, words where they were
//! spoken, and nothing made up where nobody speaks. Runs when `AURIST_CTRANSLATE2` names a directory that
//! `benches/reference/ctranslate2_encoder.py` wrote (`just ctranslate2` does both).

mod common;

use aurist::audio::read_all;
use aurist::decode::whisper::{DecodingOptions, WhisperDecoder, compression_ratio};
use aurist::engine::cpu::CpuBackend;
use aurist::model::ModelFiles;
use aurist::{AdaptationConfig, Guard, Method, Recognizer, Transcript};
use common::{Golden, largest_difference, repository};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::path::PathBuf;
use std::sync::Arc;

fn directory() -> Option<PathBuf> {
    let directory = std::env::var_os("AURIST_CTRANSLATE2").map(PathBuf::from);
    if directory.is_none() {
        eprintln!("skipped: AURIST_CTRANSLATE2 names no directory; `just ctranslate2` makes one");
    }
    directory
}

#[test]
fn the_decoders_logits_are_those_of_transformers() {
    let Some(directory) = directory() else { return };
    let (golden, backend) = (Golden::read(&directory), CpuBackend::new(2).unwrap());
    let files = ModelFiles::from_dir(&directory).unwrap();
    let generation = Arc::new(files.generation.clone().expect("it has a decoder"));
    let model = Arc::new(files.load(&backend).unwrap());
    let (none, options) = (AdaptationConfig::none(), DecodingOptions::default());
    let mut decoder = WhisperDecoder::new(&backend, model, &none, generation, options).unwrap();
    let tokens: Vec<u32> = golden.get_i32("tokens").into_iter().map(|token| token as u32).collect();
    let logits = decoder
        .logits(&backend, &golden.get("log_mel"), &tokens)
        .unwrap()
        .concat();
    let largest = largest_difference(&logits, &golden.get("logits"));
    println!("logits after {} tokens: largest difference {largest:.1e}", tokens.len());
    assert!(largest < 1e-3, "{largest:e}");
}

fn transcribe(
    directory: &std::path::Path,
    config: &AdaptationConfig,
    options: &DecodingOptions,
    samples: &[f32],
) -> Transcript {
    let recognizer = Recognizer::from_dir(directory).unwrap();
    let mut session = recognizer.decoding_session(config, options, 2).unwrap();
    let found = session.transcribe_recording(samples, &mut |_| true).unwrap();
    found.expect("not stopped")
}

#[test]
fn words_have_times_where_they_were_spoken() {
    let Some(directory) = directory() else { return };
    let clip = repository("tests/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav");
    let spoken = read_all(&clip).unwrap();
    let silence = vec![0.0; 2 * 16_000];
    let options = DecodingOptions {
        word_timestamps: true,
        ..DecodingOptions::default()
    };
    let words = |samples: &[f32]| {
        let transcript = transcribe(&directory, &AdaptationConfig::none(), &options, samples);
        let words = transcript.utterances.into_iter().flat_map(|utterance| utterance.words);
        words.collect::<Vec<_>>()
    };
    let (alone, later) = (words(&spoken), words(&[silence.clone(), spoken.clone()].concat()));
    assert!(alone.len() >= 5, "{alone:?}");
    assert!(
        alone
            .windows(2)
            .all(|pair| pair[0].start <= pair[1].start && pair[0].start <= pair[0].end)
    );
    assert!(
        alone
            .iter()
            .all(|word| word.end <= spoken.len() as f64 / 16_000.0 + 0.1)
    );
    // Two seconds of silence before the speech move every word by two seconds.
    assert_eq!(alone.len(), later.len());
    for (word, moved) in alone.iter().zip(&later).skip(1) {
        assert!((moved.end - word.end - 2.0).abs() < 0.3, "{word:?} became {moved:?}");
    }
}

/// Sounds that nobody speaks in, 12 s each.
fn no_speech() -> Vec<(&'static str, Vec<f32>)> {
    let mut generator = StdRng::seed_from_u64(1);
    let seconds = |n: usize| n as f32 / 16_000.0;
    let count = 12 * 16_000;
    let tone = |n: usize| {
        // Three notes, one after the other, with overtones.
        let pitch = [220.0, 277.2, 329.6][n / 8_000 % 3];
        let overtones = (1..4).map(|k| (seconds(n) * pitch * k as f32 * std::f32::consts::TAU).sin() / k as f32);
        0.1 * overtones.sum::<f32>()
    };
    let hum = |n: usize| 0.05 * (seconds(n) * 50.0 * std::f32::consts::TAU).sin();
    vec![
        ("silence", vec![0.0; count]),
        (
            "noise",
            (0..count).map(|_| generator.random_range(-0.1f32..0.1)).collect(),
        ),
        (
            "faint noise",
            (0..count).map(|_| generator.random_range(-1e-3f32..1e-3)).collect(),
        ),
        ("tones", (0..count).map(tone).collect()),
        ("hum", (0..count).map(hum).collect()),
        (
            "clicks",
            (0..count).map(|n| if n % 8_000 == 0 { 0.8 } else { 0.0 }).collect(),
        ),
    ]
}

fn check(name: &str, found: &Transcript) {
    let text = found.text();
    assert!(compression_ratio(&text) < 2.4, "{name} loops: {text}");
    assert!(text.split_whitespace().count() <= 12, "{name}: {text}");
    for utterance in &found.utterances {
        let decoding = utterance.decoding.as_ref().expect("a decoder's");
        let doubtful = decoding.avg_logprob < -0.5 || decoding.no_speech_prob > 0.3 || decoding.temperature > 0.0;
        assert!(doubtful, "{name}: `{}` with {decoding:?}", utterance.text);
    }
}

/// With the default thresholds: no text, or a short one that its numbers give away, and never a loop; adapted or not.
#[test]
fn nothing_is_made_up_where_nobody_speaks() {
    let Some(directory) = directory() else { return };
    let adapted = AdaptationConfig {
        method: Method::Suta,
        ..AdaptationConfig::whisper()
    };
    for (name, samples) in no_speech() {
        for config in [AdaptationConfig::none(), adapted.clone()] {
            let found = transcribe(&directory, &config, &DecodingOptions::default(), &samples);
            println!("{name}, {:?}: `{}`", config.method, found.text());
            check(name, &found);
        }
        let filtered = DecodingOptions {
            vad_filter: true,
            ..DecodingOptions::default()
        };
        let found = transcribe(&directory, &AdaptationConfig::none(), &filtered, &samples);
        println!("{name}, filtered: `{}`", found.text());
        check(name, &found);
    }
}

/// Speech that itself repeats compresses as a loop does: it is written as often as it was said, or its numbers say that it
/// is doubtful.
#[test]
fn repeated_phrases_become_no_unflagged_loop() {
    let Some(directory) = directory() else { return };
    let clip = repository("tests/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav");
    let spoken = read_all(&clip).unwrap();
    let phrase = &spoken[..(2 * 16_000).min(spoken.len())];
    let hear = |times: usize| {
        let samples = vec![phrase; times].concat();
        transcribe(
            &directory,
            &AdaptationConfig::none(),
            &DecodingOptions::default(),
            &samples,
        )
    };
    let words = |found: &Transcript| found.text().split_whitespace().count();
    let (once, found) = (words(&hear(1)).max(1), hear(8));
    println!("{once} words once; 8 times: `{}`", found.text());
    let flagged = |utterance: &aurist::Utterance| {
        let decoding = utterance.decoding.as_ref().expect("a decoder's");
        decoding.temperature > 0.0 || decoding.compression_ratio > 2.4
    };
    assert!(
        words(&found) <= 2 * 8 * once || found.utterances.iter().all(flagged),
        "{} words for 8 times {once}: {:?}",
        words(&found),
        found.utterances
    );
}

/// Steps far too large make another text, which the evidence rejects.
#[test]
fn the_guard_keeps_the_source_models_text_where_adaptation_went_astray() {
    let Some(directory) = directory() else { return };
    let spoken = read_all(&repository(
        "tests/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav",
    ))
    .unwrap();
    let options = DecodingOptions {
        beam_size: 1,
        temperature: vec![0.0],
        ..DecodingOptions::default()
    };
    let run = |method: Method, guard: bool| {
        let mut config = AdaptationConfig {
            method,
            learning_rate: 0.3,
            ..AdaptationConfig::whisper()
        };
        config.whisper.as_mut().unwrap().guard = guard;
        transcribe(&directory, &config, &options, &spoken)
    };
    let (plain, free, guarded) = (
        run(Method::None, true),
        run(Method::Suta, false),
        run(Method::Suta, true),
    );
    assert_ne!(free.text(), plain.text());
    assert_eq!(guarded.text(), plain.text());
    let guard = guarded.utterances[0].guard;
    assert!(matches!(guard, Some(Guard::Rejected | Guard::Emptied)), "{guard:?}");
}
