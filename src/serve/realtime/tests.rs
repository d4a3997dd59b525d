//! Sessions without a socket: what is said in answer to what.

use super::super::ServeConfig;
use super::*;
use crate::Recognizer;
use crate::live::Pool;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use tokio::sync::watch;

fn app() -> Arc<App> {
    static APP: OnceLock<Arc<App>> = OnceLock::new();
    let app = || {
        let recognizer = Recognizer::bundled(crate::Bundled::TinyEnCtc).unwrap();
        let pool = Pool::new(&recognizer, 1, 1).unwrap();
        let (_, ending) = watch::channel(false);
        Arc::new(App::new(recognizer, pool, ServeConfig::default(), ending))
    };
    Arc::clone(APP.get_or_init(app))
}

/// A session, and everything that was said in it.
struct Client {
    realtime: Realtime,
    events: UnboundedReceiver<Event>,
    said: Vec<Value>,
}

impl Client {
    fn new() -> Self {
        let (mut realtime, events) = Realtime::new(&app(), false).unwrap();
        let said = vec![serde_json::from_str(&realtime.created()).unwrap()];
        let mut client = Self { realtime, events, said };
        // The tests' recordings are of 16 kHz; and partial hypotheses as adaptation take their time.
        client.say(
            json!({ "type": "session.update", "session": { "type": "transcription", "aurist": { "method": "none" },
            "audio": { "input": { "format": { "type": "audio/pcm", "rate": 16_000 } } } } }),
        );
        client
    }

    fn say(&mut self, event: Value) -> Vec<Value> {
        let mut said = Vec::new();
        self.realtime.text(&event.to_string(), &mut said).unwrap();
        self.keep(said)
    }

    fn keep(&mut self, said: Vec<String>) -> Vec<Value> {
        let said: Vec<Value> = said.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        self.said.extend(said.iter().cloned());
        said
    }

    fn append(&mut self, samples: &[f32]) -> Vec<Value> {
        let bytes: Vec<u8> = samples
            .iter()
            .flat_map(|sample| ((sample * 32767.0) as i16).to_le_bytes())
            .collect();
        let audio = BASE64_STANDARD.encode(bytes);
        self.say(json!({ "type": "input_audio_buffer.append", "audio": audio }))
    }

    /// Everything that comes of what was said so far.
    fn wait(&mut self) -> Vec<Value> {
        self.realtime.session.wait();
        let mut said = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            self.realtime.event(&event, &mut said);
        }
        self.realtime.settled(&mut said);
        self.keep(said)
    }

    fn of(&self, kind: &str) -> Vec<&Value> {
        self.said.iter().filter(|event| event["type"] == kind).collect()
    }
}

fn speech() -> &'static [f32] {
    static SPEECH: OnceLock<Vec<f32>> = OnceLock::new();
    SPEECH.get_or_init(|| {
        let path = "tests/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav";
        let clip = crate::audio::read_all(path.as_ref()).unwrap();
        [&[0.0; 8_000], &clip[..], &[0.0; 24_000]].concat()
    })
}

fn kinds(said: &[Value]) -> Vec<&str> {
    said.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

const TRANSCRIPTION: &str = "conversation.item.input_audio_transcription";

#[test]
fn the_server_finds_an_utterance_and_its_text() {
    let mut client = Client::new();
    let said = client.append(speech());
    assert_eq!(
        kinds(&said),
        [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
        ]
    );
    let item = &said[0]["item_id"];
    assert!(said[1..3].iter().all(|event| event["item_id"] == *item) && said[3]["item"]["id"] == *item);
    let (start, end) = (
        said[0]["audio_start_ms"].as_u64().unwrap(),
        said[1]["audio_end_ms"].as_u64().unwrap(),
    );
    let clip_end = (speech().len() as u64 - 24_000) / 16;
    assert!(
        start <= 600 && end >= clip_end - 300 && end <= clip_end + 500,
        "{start} {end} {clip_end}"
    );
    let said = client.wait();
    let (completed, deltas) = said.split_last().unwrap();
    assert_eq!(completed["type"], format!("{TRANSCRIPTION}.completed"));
    let text = completed["transcript"].as_str().unwrap();
    assert!(!text.is_empty() && completed["item_id"] == *item);
    assert!((completed["usage"]["seconds"].as_f64().unwrap() - (end - start) as f64 / 1000.0).abs() < 0.01);
    // Without adaptation the committed words may be undone, but the final is all told.
    let told: String = deltas.iter().map(|event| event["delta"].as_str().unwrap()).collect();
    assert!(!told.is_empty() && !told.starts_with(' '), "{told:?}");
}

#[test]
fn a_client_commits_by_hand() {
    let mut client = Client::new();
    let by_hand = json!({ "type": "session.update",
        "session": { "type": "transcription", "audio": { "input": { "turn_detection": null } } } });
    assert_eq!(
        client.say(by_hand)[0]["session"]["audio"]["input"]["turn_detection"],
        Value::Null
    );
    let commit = json!({ "type": "input_audio_buffer.commit", "event_id": "mine" });
    let refused = client.say(commit.clone());
    assert_eq!(refused[0]["error"]["code"], "input_audio_buffer_commit_empty");
    assert_eq!(refused[0]["error"]["event_id"], "mine");
    // Two utterances are one item, of which nothing is said before it is committed.
    for _ in 0..2 {
        client.append(speech());
        client.wait();
    }
    assert_eq!(client.of("input_audio_buffer.speech_started").len(), 0);
    assert_eq!(client.of(&format!("{TRANSCRIPTION}.delta")).len(), 0);
    client.say(commit.clone());
    client.wait();
    let completed = client.of(&format!("{TRANSCRIPTION}.completed"));
    let text = completed[0]["transcript"].as_str().unwrap();
    let (first, second) = text.split_at(text.len() / 2);
    assert_eq!(first, second.trim(), "the same clip twice");
    let seconds = 2.0 * speech().len() as f64 / 16_000.0;
    assert_eq!(completed[0]["usage"]["seconds"].as_f64(), Some(seconds));
    // What was cleared is not heard of.
    client.append(speech());
    assert_eq!(
        kinds(&client.say(json!({ "type": "input_audio_buffer.clear" }))),
        ["input_audio_buffer.cleared"]
    );
    client.append(&[0.0; 16_000]);
    client.say(commit);
    client.wait();
    let completed = client.of(&format!("{TRANSCRIPTION}.completed"));
    assert_eq!((completed.len(), completed[1]["transcript"].as_str()), (2, Some("")));
    let previous = client.of("input_audio_buffer.committed");
    assert_eq!(previous[1]["previous_item_id"], previous[0]["item_id"]);
}

#[test]
fn a_session_is_changed_field_by_field() {
    let mut client = Client::new();
    let mut update = |input: Value| {
        client.say(json!({ "type": "session.update", "event_id": "e1",
            "session": { "type": "transcription", "audio": { "input": input } } }))[0]
            .clone()
    };
    let shown = update(
        json!({ "turn_detection": { "type": "server_vad", "silence_duration_ms": 500 },
        "noise_reduction": { "type": "near_field" } }),
    );
    let input = &shown["session"]["audio"]["input"];
    assert_eq!(input["turn_detection"]["silence_duration_ms"], 500);
    assert_eq!(input["turn_detection"]["prefix_padding_ms"], 400);
    assert_eq!(input["format"], json!({ "type": "audio/pcm", "rate": 16_000 }));
    let shown = update(
        json!({ "format": { "type": "audio/pcmu" }, "transcription": { "model": "whisper-1", "language": "en" } }),
    );
    let input = &shown["session"]["audio"]["input"];
    assert_eq!(
        (&input["format"]["type"], &input["transcription"]["language"]),
        (&"audio/pcmu".into(), &"en".into())
    );
    assert_eq!(input["turn_detection"]["silence_duration_ms"], 500);
    for (input, code) in [
        (json!({ "format": { "type": "audio/mp3" } }), "invalid_value"),
        (json!({ "format": { "type": "audio/pcm", "rate": 0 } }), "invalid_value"),
        (json!({ "transcription": { "model": "gpt-9" } }), "model_not_found"),
        (json!({ "transcription": null }), "invalid_value"),
        (json!({ "turn_detection": { "type": "magic" } }), "invalid_value"),
        (
            json!({ "turn_detection": { "silence_duration_ms": -1 } }),
            "invalid_value",
        ),
        (json!([]), "invalid_value"),
    ] {
        let refused = update(input.clone());
        assert_eq!(refused["type"], "error", "{input}");
        assert_eq!(
            (&refused["error"]["code"], &refused["error"]["event_id"]),
            (&code.into(), &"e1".into()),
            "{input}"
        );
    }
    // A refused update changes nothing.
    assert_eq!(update(json!({}))["session"], shown["session"]);
    let conversation = client.say(json!({ "type": "session.update", "session": { "type": "realtime" } }));
    assert_eq!(conversation[0]["error"]["param"], "session.type");
    let beta = client.say(json!({ "type": "transcription_session.update",
        "session": { "input_audio_format": "g711_alaw", "turn_detection": null } }));
    assert_eq!(kinds(&beta), ["transcription_session.updated"]);
    assert_eq!(beta[0]["session"]["input_audio_format"], "g711_alaw");
}

#[derive(Debug, Clone)]
enum Step {
    Speech(usize),
    Silence(usize),
    Say(Value),
    Raw(String),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let update = |input: Value| {
        Step::Say(json!({ "type": "session.update",
            "session": { "type": "transcription", "audio": { "input": input } } }))
    };
    prop_oneof![
        4 => (0..48_000usize).prop_map(Step::Speech),
        2 => (0..32_000usize).prop_map(Step::Silence),
        2 => Just(Step::Say(json!({ "type": "input_audio_buffer.commit" }))),
        1 => Just(Step::Say(json!({ "type": "input_audio_buffer.clear" }))),
        1 => Just(update(json!({ "turn_detection": null }))),
        1 => Just(update(json!({ "turn_detection": { "type": "server_vad", "silence_duration_ms": 300 } }))),
        1 => Just(update(json!({ "format": { "type": "audio/pcmu" } }))),
        1 => Just(update(json!({ "format": { "type": "audio/pcm", "rate": 16_000 } }))),
        1 => Just(Step::Wait),
        1 => "[\\[\\]{}:,\"a-z0-9_. -]{0,40}".prop_map(Step::Raw),
        1 => ("(session\\.update|input_audio_buffer\\.append|transcription_session\\.update|[a-z.]{0,9})", ".{0,20}")
            .prop_map(|(kind, text)| Step::Say(json!({ "type": kind, "session": text, "audio": text }))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a client says: answers have names of their own, an item is committed before it is added, and completed
    /// once, after all its deltas; in the end each that was committed is.
    #[test]
    fn any_messages_leave_items_whole(steps in prop::collection::vec(step(), 1..12)) {
        let mut client = Client::new();
        for step in steps {
            match step {
                Step::Speech(samples) => drop(client.append(&speech()[..samples.min(speech().len())])),
                Step::Silence(samples) => drop(client.append(&vec![0.0; samples])),
                Step::Say(event) => drop(client.say(event)),
                Step::Raw(text) => {
                    let mut said = Vec::new();
                    client.realtime.text(&text, &mut said).unwrap();
                    client.keep(said);
                }
                Step::Wait => drop(client.wait()),
            }
        }
        let mut said = Vec::new();
        client.realtime.finish(&mut said);
        client.keep(said);
        client.wait();
        let ids: BTreeSet<_> = client.said.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
        prop_assert_eq!(ids.len(), client.said.len());
        // committed, added, done, ended
        let mut items: BTreeMap<&str, [u32; 4]> = BTreeMap::new();
        for event in &client.said {
            let kind = event["type"].as_str().unwrap();
            let id = event["item_id"].as_str().or(event["item"]["id"].as_str()).unwrap_or_default();
            let seen = items.entry(id).or_default();
            match kind.rsplit('.').next().unwrap() {
                "committed" => seen[0] += 1,
                "added" | "created" if !id.is_empty() => { prop_assert_eq!(*seen, [1, 0, 0, 0]); seen[1] += 1; }
                "done" => { prop_assert_eq!(*seen, [1, 1, 0, 0]); seen[2] += 1; }
                "delta" => prop_assert_eq!(seen[3], 0),
                "completed" => { prop_assert!(seen[..2] == [1, 1] && seen[3] == 0); seen[3] += 1; }
                "failed" => prop_assert!(false, "{}", event),
                _ => {}
            }
        }
        items.remove("");
        for seen in items.values() {
            // Committed and completed, or neither: it was cleared.
            prop_assert!(seen[0] == seen[3] && seen[0] <= 1, "{:?}", seen);
        }
    }
}
