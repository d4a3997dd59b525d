//! Streams of real speech through the bundled model.

use super::{Event, LiveConfig, LiveSession, Pool, Skipped};
use crate::audio::SAMPLE_RATE;
use crate::{AdaptationConfig, Recognizer};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};

/// Clips with silence between them: 15 seconds.
fn speech() -> Vec<f32> {
    let mut samples = vec![0.0; 8_000];
    for name in ["0880", "0930", "0890"] {
        let path = format!("tests/data/librivox/sense_and_sensibility_01_austen_64kb-{name}.wav");
        samples.extend(crate::audio::read_all(path.as_ref()).unwrap());
        samples.extend(std::iter::repeat_n(0.0, 24_000));
    }
    samples
}

fn pool() -> Pool {
    Pool::new(&Recognizer::bundled(crate::Bundled::TinyEnCtc).unwrap(), 1, 1).unwrap()
}

fn begin(pool: &Pool, config: LiveConfig) -> (LiveSession, Receiver<Event>) {
    let (send, events) = channel();
    let session = LiveSession::new(pool, config, move |event| {
        let _ = send.send(event);
    });
    (session, events)
}

/// What is the same in every run.
fn timeless(event: Event) -> String {
    let mut value = serde_json::to_value(event).unwrap();
    for field in ["delay", "compute_seconds", "real_time_factor"] {
        value.as_object_mut().unwrap().remove(field);
    }
    value.to_string()
}

/// That committed words never change, and that each utterance has one final and then one revision.
fn assert_kept(events: &[Event]) -> (Vec<String>, Vec<String>) {
    let mut committed: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let (mut finals, mut revisions) = (BTreeMap::new(), BTreeMap::new());
    for event in events {
        let words = |words: &[crate::Word]| words.iter().map(|word| word.word.clone()).collect::<Vec<_>>();
        match event {
            Event::Partial(partial) => {
                assert!(!finals.contains_key(&partial.utterance), "a partial after the final");
                let known = committed.entry(partial.utterance).or_default();
                let all = words(&partial.words);
                assert!(partial.stable >= known.len(), "what was committed is no more");
                assert_eq!(all[..known.len()], known[..]);
                *known = all[..partial.stable].to_vec();
            }
            Event::Final(is_final) => {
                let known = committed.remove(&is_final.utterance).unwrap_or_default();
                assert_eq!(words(&is_final.words)[..known.len()], known[..]);
                assert_eq!(finals.insert(is_final.utterance, is_final.text.clone()), None);
            }
            Event::Revision(revision) => {
                let text = &revision.result.text;
                assert_eq!(revision.changed, finals[&revision.utterance] != *text);
                assert_eq!(revisions.insert(revision.utterance, text.clone()), None);
            }
            Event::Failed { message, .. } => panic!("{message}"),
        }
    }
    assert_eq!(finals.len(), revisions.len());
    (finals.into_values().collect(), revisions.into_values().collect())
}

#[test]
fn any_chunking_gives_the_same_events() {
    let (pool, samples) = (pool(), speech());
    let run = |chunks: &mut dyn FnMut() -> usize| {
        let config = LiveConfig {
            lockstep: true,
            partial_interval: 1.0,
            ..LiveConfig::new(AdaptationConfig::of_method(
                crate::Method::Csuta,
                &pool.recognizer().default_adaptation(),
            ))
        };
        let (mut session, events) = begin(&pool, config);
        let mut at = 0;
        while at < samples.len() {
            let end = (at + chunks()).min(samples.len());
            session.push(&samples[at..end]);
            at = end;
        }
        session.end();
        session.wait();
        assert_eq!(session.clock(), samples.len() as f64 / f64::from(SAMPLE_RATE));
        events.try_iter().collect::<Vec<Event>>()
    };
    let whole = run(&mut || usize::MAX / 2);
    let (finals, _) = assert_kept(&whole);
    assert_eq!(finals.len(), 3);
    let stable = |event: &Event| matches!(event, Event::Partial(partial) if partial.stable > 0);
    assert!(whole.iter().any(stable), "nothing was ever committed");
    let carried = |event: &Event| match event {
        Event::Revision(revision) => revision.result.carried.as_ref().map(|carried| carried.updates),
        _ => None,
    };
    assert_eq!(whole.iter().filter_map(carried).collect::<Vec<_>>(), [0, 1, 2]);
    let whole: Vec<String> = whole.into_iter().map(timeless).collect();
    let mut sizes = [1, 160, 4097, 333, 50_000].into_iter().cycle();
    let pieces = run(&mut || sizes.next().unwrap());
    assert_eq!(pieces.into_iter().map(timeless).collect::<Vec<_>>(), whole);
}

#[test]
fn behind_time_adaptation_is_skipped_and_nothing_is_lost() {
    let (pool, samples) = (pool(), speech());
    let config = LiveConfig {
        latency: 0.0,
        ..LiveConfig::new(pool.recognizer().default_adaptation())
    };
    let (mut session, events) = begin(&pool, config);
    // All at once: far faster than real time.
    session.push(&samples);
    session.end();
    session.wait();
    let events: Vec<Event> = events.try_iter().collect();
    let (finals, revisions) = assert_kept(&events);
    assert_eq!((finals.len(), revisions.len()), (3, 3));
    let skipped = events.iter().filter(|event| match event {
        Event::Revision(revision) => revision.skipped == Some(Skipped::Behind),
        _ => false,
    });
    assert_eq!(skipped.count(), 3);
}

#[test]
fn a_gap_ends_the_utterance_and_the_clock_goes_on() {
    let (pool, samples) = (pool(), speech());
    let config = LiveConfig {
        lockstep: true,
        partial_interval: f64::INFINITY,
        ..LiveConfig::new(AdaptationConfig::none())
    };
    let (mut session, events) = begin(&pool, config);
    session.push(&samples[..40_000]);
    session.gap(100.0);
    session.push(&samples[..80_000]);
    session.end();
    session.wait();
    let events: Vec<Event> = events.try_iter().collect();
    assert_kept(&events);
    let finals: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            Event::Final(is_final) => Some(is_final),
            _ => None,
        })
        .collect();
    assert!(finals[0].end <= 2.5 && finals[1].start >= 102.5, "{finals:?}");
    let inside = |word: &crate::Word| word.start >= 102.5 && word.end <= 107.6;
    assert!(finals[1].words.iter().all(inside) && !finals[1].words.is_empty());
}

#[test]
fn a_stream_goes_on_from_a_state_and_a_reset_forgets_it() {
    let (pool, samples) = (pool(), speech());
    let of_model = pool.recognizer().default_adaptation();
    let config = LiveConfig {
        lockstep: true,
        partial_interval: f64::INFINITY,
        ..LiveConfig::new(AdaptationConfig::of_method(crate::Method::Csuta, &of_model))
    };
    let (mut session, first) = begin(&pool, config.clone());
    session.push(&samples);
    session.end();
    session.wait();
    let state = session.state().unwrap();
    let updates = |events: &Receiver<Event>| {
        let carried = |event| match event {
            Event::Revision(revision) => revision.result.carried.map(|carried| carried.updates),
            _ => None,
        };
        events.try_iter().filter_map(carried).collect::<Vec<_>>()
    };
    assert_eq!(updates(&first), [0, 1, 2]);
    let (mut resumed, events) = begin(&pool, config);
    resumed.resume(state.clone()).unwrap();
    resumed.push(&samples);
    resumed.end();
    resumed.wait();
    assert_eq!(updates(&events), [3, 4, 5]);
    resumed.reset();
    assert_eq!(resumed.state(), None);
    resumed.push(&samples);
    resumed.end();
    resumed.wait();
    assert_eq!(updates(&events), [0, 1, 2]);
    // Of other settings it is refused, and the stream stays as it was.
    resumed.set_adaptation(AdaptationConfig::of_method(crate::Method::Dsuta, &of_model));
    assert!(resumed.resume(state).is_err());
}

/// An hour in which nobody speaks, and half a minute of endless speech that nobody waits for, leave nothing behind.
#[test]
fn memory_is_bounded() {
    let pool = pool();
    let config = LiveConfig {
        partial_interval: f64::INFINITY,
        ..LiveConfig::new(AdaptationConfig::none())
    };
    let (mut session, _events) = begin(&pool, config);
    let silence = vec![1e-6; SAMPLE_RATE as usize];
    for _ in 0..3600 {
        session.push(&silence);
        assert!(session.buffered() < 2 * SAMPLE_RATE as usize);
    }
    let speech = speech();
    for piece in speech.chunks(8_000).cycle().take(120) {
        session.push(piece);
        assert!(session.buffered() <= 22 * SAMPLE_RATE as usize);
    }
    session.end();
    session.wait();
    assert!(session.has_room() && session.buffered() == 0);
}

/// A fault while a hypothesis is handed on costs that event: partials still come, and the time that waits to be recognised
/// is given back (it was not, and a minute of it stopped the stream for good).
#[test]
fn a_stream_goes_on_after_a_fault() {
    let (pool, samples) = (pool(), speech());
    let mut settings = pool.recognizer().default_adaptation();
    settings.steps = 0;
    let config = LiveConfig {
        lockstep: true,
        partial_interval: 1.0,
        ..LiveConfig::new(settings)
    };
    let (send, events) = channel();
    let mut session = LiveSession::new(&pool, config, move |event| {
        let fails = matches!(event, Event::Partial(_) | Event::Final(_));
        let _ = send.send(event);
        assert!(!fails, "a fault of the test's");
    });
    for _ in 0..8 {
        session.push(&samples);
    }
    session.end();
    session.wait();
    assert!(session.has_room() && session.buffered() == 0);
    let events: Vec<Event> = events.try_iter().collect();
    let count = |wanted: fn(&Event) -> bool| events.iter().filter(|event| wanted(event)).count();
    let (partials, finals) = (
        count(|event| matches!(event, Event::Partial(_))),
        count(|event| matches!(event, Event::Final(_))),
    );
    assert!(partials > 24 && finals == 24, "{partials} partials, {finals} finals");
    assert_eq!(count(|event| matches!(event, Event::Failed { .. })), partials + finals);
}

/// A stream that sends much faster than it is recognised keeps nobody waiting until it is done: others' partials take turns
/// with its finals (which went before them, all of them).
#[test]
fn a_flood_leaves_turns_to_the_others() {
    let (pool, samples) = (pool(), speech());
    let config = LiveConfig {
        partial_interval: 1.0,
        ..LiveConfig::new(AdaptationConfig::none())
    };
    let (mut flood, finals) = begin(&pool, config.clone());
    for _ in 0..6 {
        flood.push(&samples);
    }
    let (mut other, events) = begin(&pool, config);
    other.push(&samples[..40_000]);
    let first = events.recv().unwrap();
    assert!(matches!(first, Event::Partial(_)), "{first:?}");
    let done = finals
        .try_iter()
        .filter(|event| matches!(event, Event::Final(_)))
        .count();
    assert!(done < 9, "{done} of the flood's 18 finals were before it");
}
