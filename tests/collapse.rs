//! What a stream hears that is not the speech it is for must not stay: after silence, noise and tones the guarded method is
//! at once where the source model is, or better.

use aurist::audio::read_all;
use aurist::eval::testset::{TestSet, TestSetOptions};
use aurist::eval::{Costs, Normaliser, word_counts};
use aurist::{AdaptationConfig, Emitted, Method, Recognizer};
use std::path::Path;

const SECOND: usize = 16_000;

/// Two seconds each of nothing, of white noise, and of two tones.
fn disturbances() -> Vec<Vec<f32>> {
    let mut draws = fastrand::Rng::with_seed(1);
    let mut disturbances = vec![vec![0.0; 2 * SECOND]; 2];
    for _ in 0..5 {
        disturbances.push((0..2 * SECOND).map(|_| 0.2 * (draws.f32() - 0.5)).collect());
    }
    for n in 0..5 {
        let tone = |i: usize, hertz: f32| (std::f32::consts::TAU * hertz * i as f32 / SECOND as f32).sin();
        let chord = |i| 0.2 * (tone(i, 220.0 + 40.0 * n as f32) + tone(i, 523.0));
        disturbances.push((0..2 * SECOND).map(chord).collect());
    }
    disturbances
}

#[test]
fn what_is_not_speech_is_forgotten_at_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let recognizer = Recognizer::from_dir(&root.join("models/whisper-tiny.en-ctc")).expect("the bundled model");
    let config = AdaptationConfig {
        method: Method::Guarded,
        ..recognizer.default_adaptation().fast()
    };
    let mut session = recognizer.session(&config, 1).expect("a session");
    for samples in disturbances() {
        let utterance = session.transcribe_utterance(&samples, 0.0).expect("an utterance");
        let carried = utterance.carried.expect("what is carried");
        if samples.iter().all(|sample| *sample == 0.0) {
            assert_eq!(
                (carried.updates, carried.emitted),
                (0, Some(Emitted::Unadapted)),
                "silence teaches nothing"
            );
        }
    }
    let set = TestSet::open(root.join("tests/data/librivox.jsonl"), &TestSetOptions::default()).expect("the readings");
    let (mut unadapted, mut adapted) = (0, 0);
    for utterance in &set.utterances {
        let samples = read_all(&utterance.audio).expect("a recording");
        let heard = session.transcribe_utterance(&samples, 0.0).expect("an utterance");
        let errors = |text: &str| {
            let normalised = |text: &str| Normaliser::Basic.apply(text);
            word_counts(&normalised(&utterance.reference), &normalised(text), Costs::Levenshtein).errors()
        };
        unadapted += errors(&heard.unadapted_text);
        adapted += errors(&heard.text);
    }
    assert!(
        adapted <= unadapted,
        "{adapted} word errors, and {unadapted} without adaptation"
    );
}
