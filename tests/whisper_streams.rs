//! Continual adaptation of a Whisper: what is carried from window to window, what teaches nothing, and that a stream goes
//! on where it was stopped.

mod cli_support;
mod common;

use aurist::adapt::StreamState;
use aurist::audio::read_all;
use aurist::decode::whisper::DecodingOptions;
use aurist::{
    AdaptationConfig, ContinualConfig, Error, Guard, Half, Method, Recognizer, Reset, ResetReason, Session, Utterance,
    WhisperAdaptation,
};
use cli_support::{clips, run_into, tree};
use common::repository;
use serde_json::Value;
use std::fs;
use std::path::Path;

const MODEL: &str = "tests/data/goldens/whisper-tiny";

fn settings(method: Method, steps: usize, continual: ContinualConfig) -> AdaptationConfig {
    AdaptationConfig {
        method,
        steps,
        learning_rate: 3e-4,
        continual,
        whisper: Some(WhisperAdaptation {
            half: Half::Both,
            guard: false,
            ..WhisperAdaptation::default()
        }),
        ..AdaptationConfig::whisper()
    }
}

fn buffer(buffer: usize) -> ContinualConfig {
    ContinualConfig {
        buffer,
        ..ContinualConfig::default()
    }
}

/// A few sounds that the random model has something to say about.
fn sound(number: usize) -> Vec<f32> {
    let pace = 0.001 + 0.0002 * number as f32;
    let samples = 0..(2 + number % 3) * 16_000;
    samples.map(|n| ((n as f32).powi(2) * pace).sin() * 0.1).collect()
}

fn session(config: &AdaptationConfig) -> Session {
    let options = DecodingOptions {
        no_speech_threshold: None,
        log_prob_threshold: None,
        compression_ratio_threshold: None,
        temperature: vec![0.0],
        beam_size: 1,
        max_new_tokens: Some(20),
        without_timestamps: true,
        language: Some("en".into()),
        ..DecodingOptions::default()
    };
    let recognizer = Recognizer::from_dir(&repository(MODEL)).expect("the model");
    recognizer.decoding_session(config, &options, 2).expect("a session")
}

fn hear(session: &mut Session, number: usize) -> Utterance {
    let mut heard = session.transcribe_utterance(&sound(number), 0.0).expect("an utterance");
    (heard.compute_seconds, heard.real_time_factor) = (0.0, 0.0);
    heard
}

fn carried(utterance: &Utterance) -> (u64, u64) {
    let carried = utterance.carried.as_ref().expect("a continual method");
    (carried.position, carried.updates)
}

#[test]
fn csuta_goes_on_from_where_the_last_window_ended() {
    let plain = hear(&mut session(&settings(Method::Suta, 2, buffer(5))), 0);
    let mut whole = session(&settings(Method::Csuta, 2, buffer(5)));
    let first = hear(&mut whole, 0);
    assert_eq!(carried(&first), (1, 0));
    let as_suta = Utterance {
        carried: None,
        ..first.clone()
    };
    assert_eq!(as_suta, plain);

    // One step on each of two windows of the same sound is two steps on it, moments included.
    let mut halves = session(&settings(Method::Csuta, 1, buffer(5)));
    let (one, two) = (hear(&mut halves, 0), hear(&mut halves, 0));
    assert_eq!((carried(&one), carried(&two)), ((1, 0), (2, 1)));
    assert_eq!([&one.losses[..], &two.losses].concat(), plain.losses);
    assert_eq!(two.text, plain.text);
    assert_eq!(two.unadapted_text, plain.unadapted_text);
    assert_eq!(two.entropy_before, plain.entropy_before, "the source model's");
    assert_eq!(halves.carried_values(), whole.carried_values());
    let tensors = |session: &mut Session| session.stream_state().policy.tensors;
    assert_eq!(tensors(&mut halves), tensors(&mut whole));

    // A new stream is a new one.
    halves.begin_stream();
    assert_eq!(hear(&mut halves, 0), one);
}

#[test]
fn dsutas_slow_state_takes_a_step_at_every_full_buffer() {
    // Of one window the slow step is CSUTA's, whatever the fast ones did.
    let mut slow = session(&settings(Method::Dsuta, 2, buffer(1)));
    let mut by_hand = session(&settings(Method::Csuta, 1, buffer(5)));
    let source = slow.carried_values();
    let first = hear(&mut slow, 0);
    hear(&mut by_hand, 0);
    let carries = first.carried.as_ref().expect("it is continual");
    assert!((carries.slow_loss.expect("an update") - first.losses[0]).abs() < 1e-6);
    assert_ne!(slow.carried_values(), source);
    assert_eq!(slow.carried_values(), by_hand.carried_values());

    // Of the same window twice the mean gradient is the one's.
    let mut twice = session(&settings(Method::Dsuta, 2, buffer(2)));
    let heard: Vec<Utterance> = (0..5).map(|_| hear(&mut twice, 0)).collect();
    let places: Vec<_> = heard.iter().map(carried).collect();
    assert_eq!(places, [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)]);
    let updated: Vec<bool> = heard
        .iter()
        .map(|heard| {
            heard
                .carried
                .as_ref()
                .is_some_and(|carried| carried.slow_loss.is_some())
        })
        .collect();
    assert_eq!(updated, [false, true, false, true, false]);
    let suta = hear(&mut session(&settings(Method::Suta, 2, buffer(5))), 0);
    assert_eq!((&heard[0].text, &heard[0].losses), (&suta.text, &suta.losses));
    assert_eq!(heard[1].losses, suta.losses, "fast steps are thrown away");
    // One slow step is where the first fast one led.
    assert!(
        (heard[2].losses[0] - suta.losses[1]).abs() < 1e-4,
        "{:?}",
        heard[2].losses
    );
}

#[test]
fn a_stream_goes_on_from_its_file_as_if_it_had_not_been_stopped() {
    let continual = |reset| ContinualConfig {
        reset,
        confidence: 0.0,
        reservoir: 3,
        restore_probability: 0.2,
        ..buffer(2)
    };
    for config in [
        settings(Method::Csuta, 1, buffer(5)),
        settings(Method::Dsuta, 1, continual(Reset::Dynamic { window: 6, patience: 1 })),
        settings(Method::Replay, 1, continual(Reset::Fixed { every: 5 })),
    ] {
        let what = format!("{:?}", config.method);
        let mut whole = session(&config);
        let expected: Vec<Utterance> = (0..9).map(|number| hear(&mut whole, number)).collect();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut found = Vec::new();
        for part in [0..3, 3..4, 4..9] {
            let mut session = session(&config);
            if part.start > 0 {
                let state = StreamState::load(file.path()).expect("a state");
                session.resume_stream(&state).expect("it fits");
            }
            found.extend(part.map(|number| hear(&mut session, number)));
            session.stream_state().save(file.path()).expect("a state");
        }
        assert_eq!(found, expected, "{what}");
        let last = StreamState::load(file.path()).expect("a state");
        assert_eq!(last, whole.stream_state(), "{what}");
        // Another model's, in lengths: refused, and a new stream begun.
        let mut spoiled = last.clone();
        spoiled
            .policy
            .tensors
            .values_mut()
            .for_each(|values| values.truncate(5));
        assert!(matches!(whole.resume_stream(&spoiled), Err(Error::Stream(_))), "{what}");
        assert_eq!(hear(&mut whole, 0), expected[0], "{what}");
        match config.method {
            Method::Dsuta => assert!(
                expected
                    .iter()
                    .any(|heard| heard.carried.as_ref().is_some_and(|c| c.deviation.is_some())),
                "the detector compared"
            ),
            Method::Replay => {
                let reset = expected[5].carried.as_ref().and_then(|carried| carried.reset);
                assert_eq!(reset, Some(ResetReason::Fixed));
                assert_eq!(carried(&expected[6]).1, 0);
            }
            _ => {}
        }
    }
}

#[test]
fn a_kept_window_that_is_none_is_passed_over() {
    let config = settings(Method::Dsuta, 1, buffer(2));
    let mut session = session(&config);
    hear(&mut session, 0);
    let mut state = session.stream_state();
    let kept = state.policy.tensors.get_mut("buffer.0").expect("a window");
    kept[2] = 1e6;
    session.resume_stream(&state).expect("lengths are right");
    // The other one alone makes the step.
    let second = hear(&mut session, 0);
    assert!(second.carried.expect("it is continual").slow_loss.is_some());
}

#[test]
fn a_text_that_does_not_stand_teaches_nothing() {
    for method in [Method::Csuta, Method::Dsuta] {
        let steep = AdaptationConfig {
            learning_rate: 0.1,
            ..settings(method, 2, buffer(1))
        };
        let mut session = session(&steep);
        let source = session.carried_values();
        for position in [1, 2] {
            let heard = hear(&mut session, 0);
            assert_eq!(heard.guard, Some(Guard::Emptied), "{method:?}: {heard:?}");
            assert_eq!(heard.text, heard.unadapted_text);
            assert_eq!(carried(&heard), (position, 0), "it counts");
            assert_eq!(session.carried_values(), source, "{method:?}");
        }
    }
}

/// Steps far too large make a row of dashes of a real model's text; the same without the guard is what teaches.
#[test]
fn a_text_that_the_evidence_rejects_leaves_the_slow_state_as_it_is() {
    let recognizer = Recognizer::from_dir(&repository("models/whisper-tiny.en")).expect("the model");
    let spoken = read_all(&clips()[1]).expect("a recording");
    for guard in [true, false] {
        let mut steep = AdaptationConfig {
            method: Method::Dsuta,
            learning_rate: 0.3,
            continual: buffer(1),
            ..AdaptationConfig::whisper()
        };
        steep.whisper.as_mut().expect("a Whisper's").guard = guard;
        let options = DecodingOptions {
            beam_size: 1,
            temperature: vec![0.0],
            ..DecodingOptions::default()
        };
        let mut session = recognizer.decoding_session(&steep, &options, 2).expect("a session");
        let source = session.carried_values();
        let heard = session.transcribe_utterance(&spoken, 0.0).expect("an utterance");
        assert_eq!(heard.guard == Some(Guard::Rejected), guard, "{heard:?}");
        assert_eq!(session.carried_values() == source, guard);
        let slow_loss = heard.carried.expect("it is continual").slow_loss;
        assert_eq!(slow_loss.is_none(), guard);
    }
}

#[test]
fn a_collapse_takes_the_stream_back_to_the_source_model() {
    let collapsing = ContinualConfig {
        reset: Reset::Collapse { below: 1e3 },
        ..buffer(1)
    };
    let mut session = session(&settings(Method::Dsuta, 1, collapsing));
    let source = session.carried_values();
    let heard = hear(&mut session, 0);
    assert_eq!(
        heard.carried.expect("it is continual").reset,
        Some(ResetReason::Collapse)
    );
    assert_eq!(session.carried_values(), source);
}

#[test]
fn methods_without_a_meaning_here_are_refused_with_what_to_take() {
    let recognizer = Recognizer::from_dir(&repository(MODEL)).expect("the model");
    for method in [Method::Guarded, Method::Awmc, Method::Cea] {
        let Err(error) = recognizer.session(&settings(method, 1, buffer(5)), 1) else {
            panic!("{method:?} is not a Whisper's");
        };
        assert!(error.to_string().contains("dsuta for guarded or awmc"), "{error}");
    }
}

#[test]
fn a_directory_gives_the_same_whatever_the_jobs_and_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().expect("a directory");
    let library = dir.path().join("library");
    for (place, folder) in ["a", "b"].iter().enumerate() {
        fs::create_dir_all(library.join(folder)).expect("a directory");
        for n in 0..3 {
            fs::copy(
                &clips()[1 + (n + place) % 4],
                library.join(folder).join(format!("{n}.wav")),
            )
            .expect("a copy");
        }
    }
    let model = repository(MODEL);
    let model = model.to_str().expect("a path");
    let options = |jobs: &'static str| -> Vec<&str> {
        let adaptation = [
            "--adapt",
            "dsuta",
            "--buffer",
            "2",
            "--steps",
            "1",
            "--stream-by",
            "directory",
            "--no-guard",
        ];
        let decoding = [
            "--beam-size",
            "1",
            "--temperature-fallback",
            "0",
            "--no-speech-threshold",
            "1",
            "-f",
            "json",
        ];
        [&adaptation[..], &decoding, &["-m", model, "-j", jobs]].concat()
    };
    let read = |out: &Path| -> Vec<(String, Value)> {
        let documents = tree(out).into_iter().filter(|name| name.ends_with(".json"));
        let read = documents.map(|name| {
            let text = fs::read_to_string(out.join(&name)).expect("an output");
            let mut document: Value = serde_json::from_str(&text).expect("JSON");
            for utterance in document["utterances"].as_array_mut().expect("utterances") {
                let fields = utterance.as_object_mut().expect("an object");
                fields.retain(|field, _| field != "compute_seconds" && field != "real_time_factor");
            }
            (name, document)
        });
        read.collect()
    };
    let [alone, together, late] = ["alone", "together", "late"].map(|name| dir.path().join(name));
    assert_eq!(run_into(&alone, &library, &options("1")), (6, 0));
    assert_eq!(run_into(&together, &library, &options("4")), (6, 0));
    let expected = read(&alone);
    assert_eq!(read(&together), expected);
    let last = &expected
        .iter()
        .find(|(name, _)| name == "a/2.json")
        .expect("an output")
        .1;
    let told = &last["utterances"][0]["carried"];
    assert_eq!((&told["position"], &told["updates"]), (&3.into(), &1.into()), "{last}");

    let kept = dir.path().join("kept.wav");
    fs::rename(library.join("a/2.wav"), &kept).expect("a move");
    assert_eq!(run_into(&late, &library, &options("2")), (5, 0));
    fs::rename(&kept, library.join("a/2.wav")).expect("a move");
    assert_eq!(run_into(&late, &library, &options("2")), (1, 5));
    assert_eq!(read(&late), expected);
}
