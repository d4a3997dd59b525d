//! `/v1/realtime`: OpenAI's transcription events over a WebSocket.

use super::server::{Server, eventually};
use super::web_socket::{Client, speech};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use proptest::prelude::*;
use serde_json::{Value, json};
use tungstenite::Message;

const PATH: &str = "/v1/realtime?intent=transcription";
const TRANSCRIPTION: &str = "conversation.item.input_audio_transcription";

/// 24 kHz of it, and not adapted to: what most clients send, as quickly as it can be tested.
fn begin(server: &Server, headers: &[(&'static str, &str)]) -> Client {
    let mut client = Client::connect(server, PATH, headers).expect("connected");
    let created = client.hear().expect("a session");
    assert_eq!(created["type"], "session.created");
    assert_eq!(created["session"]["type"], "transcription");
    let format = &created["session"]["audio"]["input"]["format"];
    assert_eq!(*format, json!({ "type": "audio/pcm", "rate": 24_000 }));
    update(&mut client, json!({}));
    client
}

fn update(client: &mut Client, input: Value) -> Value {
    client.say(&json!({ "type": "session.update", "session": {
        "type": "transcription", "audio": { "input": input }, "aurist": { "method": "none" },
        "include": ["item.input_audio_transcription.logprobs"] } }));
    client.until("session.updated")
}

/// Each sample one and a half times: 24 kHz, well enough for a test.
fn at_24_khz(samples: &[f32]) -> Vec<f32> {
    let between = |pair: &[f32]| {
        [
            pair[0],
            pair[0] / 3.0 + 2.0 * pair[1] / 3.0,
            pair[1] / 3.0 + 2.0 * pair[1] / 3.0,
        ]
    };
    samples.chunks_exact(2).flat_map(between).collect()
}

fn append(client: &mut Client, samples: &[f32]) {
    for piece in samples.chunks(2400) {
        let bytes: Vec<u8> = piece
            .iter()
            .flat_map(|sample| ((sample * 32767.0) as i16).to_le_bytes())
            .collect();
        let audio = BASE64_STANDARD.encode(bytes);
        client.say(&json!({ "type": "input_audio_buffer.append", "audio": audio }));
    }
}

#[test]
fn an_utterance_becomes_an_item_and_its_transcript() {
    let server = Server::start(&[]);
    let mut client = begin(&server, &[]);
    append(&mut client, &at_24_khz(&speech()));
    let started = client.until("input_audio_buffer.speech_started");
    let item = &started["item_id"];
    let stopped = client.until("input_audio_buffer.speech_stopped");
    assert!(started["audio_start_ms"].as_u64() < stopped["audio_end_ms"].as_u64());
    let committed = client.until("input_audio_buffer.committed");
    assert_eq!(
        (&committed["item_id"], &committed["previous_item_id"]),
        (item, &Value::Null)
    );
    let added = client.until("conversation.item.added");
    assert_eq!((&added["item"]["id"], &added["item"]["role"]), (item, &"user".into()));
    let mut told = String::new();
    let completed = loop {
        let event = client.hear().expect("the transcript");
        if event["type"] == format!("{TRANSCRIPTION}.completed") {
            break event;
        }
        if event["type"] == format!("{TRANSCRIPTION}.delta") {
            told.push_str(event["delta"].as_str().expect("a text"));
        }
    };
    let text = completed["transcript"].as_str().expect("a text");
    assert!(!text.is_empty() && !told.is_empty() && completed["item_id"] == *item);
    assert!(completed["usage"]["seconds"].as_f64() > Some(1.0));
    // The same over the other address, whose sound is not resampled.
    let mut captions = Client::connect(&server, "/v1/stream", &[]).expect("connected");
    captions.say(&json!({ "type": "start", "adapt": { "method": "none" } }));
    captions.sound(&speech());
    let other = captions.until("revision")["text"].as_str().expect("a text").to_owned();
    let same = text.split(' ').filter(|word| other.contains(word)).count();
    assert!(2 * same > other.split(' ').count(), "{text} / {other}");
    assert_eq!(server.metric("aurist_streams"), 2.0);

    // By hand.
    update(&mut client, json!({ "turn_detection": null }));
    append(&mut client, &at_24_khz(&speech()));
    client.say(&json!({ "type": "input_audio_buffer.commit" }));
    let again = client.until("input_audio_buffer.committed");
    assert_eq!(again["previous_item_id"], *item);
    let completed = client.until(&format!("{TRANSCRIPTION}.completed"));
    assert_eq!(completed["item_id"], again["item_id"]);
    assert!(completed["transcript"].as_str().is_some_and(|text| !text.is_empty()));
    client.say(&json!({ "type": "input_audio_buffer.commit", "event_id": "empty" }));
    assert_eq!(client.until("error")["error"]["event_id"], "empty");
    client.say(&json!({ "type": "input_audio_buffer.clear" }));
    client.until("input_audio_buffer.cleared");
    client.say(&json!({ "type": "response.create" }));
    assert_eq!(client.until("error")["error"]["type"], "invalid_request_error");
}

#[test]
fn the_beta_has_its_own_names() {
    let server = Server::start(&[]);
    let mut client = Client::connect(&server, PATH, &[("openai-beta", "realtime=v1")]).expect("connected");
    client.until("transcription_session.created");
    client.say(&json!({ "type": "transcription_session.update", "session": {
        "input_audio_format": "pcm16", "turn_detection": { "type": "server_vad", "silence_duration_ms": 600 },
        "input_audio_transcription": { "model": "whisper-1" } } }));
    let updated = client.until("transcription_session.updated");
    assert_eq!(updated["session"]["turn_detection"]["silence_duration_ms"], 600);
    append(&mut client, &at_24_khz(&speech()));
    client.until("input_audio_buffer.committed");
    client.until("conversation.item.created");
    client.until(&format!("{TRANSCRIPTION}.completed"));
}

#[test]
fn sessions_are_checked_and_bounded() {
    let server = Server::start(&["--api-key", "secret", "--max-streams", "1"]);
    assert_eq!(Client::connect(&server, PATH, &[]).err(), Some(401));
    let foreign = [("authorization", "Bearer secret"), ("origin", "https://example.org")];
    assert_eq!(Client::connect(&server, PATH, &foreign).err(), Some(403));
    let wrong = [("sec-websocket-protocol", "realtime, openai-insecure-api-key.wrong")];
    assert_eq!(Client::connect(&server, PATH, &wrong).err(), Some(401));
    let key = [("authorization", "Bearer secret")];
    assert_eq!(
        Client::connect(&server, "/v1/realtime?model=gpt-9", &key).err(),
        Some(404)
    );
    // As browsers do.
    let by_protocol = [("sec-websocket-protocol", "realtime, openai-insecure-api-key.secret")];
    let first = begin(&server, &by_protocol);
    assert_eq!(Client::connect(&server, PATH, &key).err(), Some(429));
    drop(first);
    eventually("its place is free", || Client::connect(&server, PATH, &key).is_ok());
}

#[cfg(unix)]
#[test]
fn at_the_servers_end_what_was_heard_is_completed() {
    let mut server = Server::start(&[]);
    let mut client = begin(&server, &[]);
    let samples = at_24_khz(&speech());
    append(&mut client, &samples[..samples.len() - 36_000]);
    client.until("input_audio_buffer.speech_started");
    server.terminate();
    let completed = client.until(&format!("{TRANSCRIPTION}.completed"));
    assert!(completed["transcript"].as_str().is_some_and(|text| !text.is_empty()));
    assert_eq!(client.hear(), None);
    drop(client);
    assert!(server.ends_well());
}

#[test]
fn a_message_that_is_too_long_is_said_to_be() {
    let server = Server::start(&[]);
    let mut client = begin(&server, &[]);
    let _ = client.0.send(Message::Text("x".repeat(3 << 20).into()));
    let closed = loop {
        match client.0.read() {
            Ok(Message::Close(Some(frame))) => break frame,
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(u16::from(closed.code), 1009, "{closed:?}");
}

#[test]
fn any_messages_leave_the_server_serving() {
    let server = Server::start(&["--rate", "0"]);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let message = prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..400).prop_map(|bytes| Message::Binary(bytes.into())),
        ".{0,60}".prop_map(|text| Message::Text(text.into())),
        proptest::collection::vec(any::<u8>(), 0..9000).prop_map(|bytes| {
            let audio = BASE64_STANDARD.encode(bytes);
            let event = json!({ "type": "input_audio_buffer.append", "audio": audio });
            Message::Text(event.to_string().into())
        }),
        prop_oneof![
            Just(r#"{"type":"input_audio_buffer.commit"}"#),
            Just(r#"{"type":"input_audio_buffer.clear","event_id":7}"#),
            Just(r#"{"type":"input_audio_buffer.append","audio":"%%%"}"#),
            Just(r#"{"type":"input_audio_buffer.append"}"#),
            Just(r#"{"type":"session.update"}"#),
            Just(r#"{"type":"session.update","session":{"type":"transcription","audio":{"input":{"turn_detection":null}}}}"#),
            Just(r#"{"type":"session.update","session":{"audio":{"input":{"format":{"type":"audio/pcm","rate":1e99}}}}}"#),
            Just(r#"{"type":"session.update","session":{"audio":{"input":{"format":{"type":"audio/pcma"}}}}}"#),
            Just(r#"{"type":"session.update","session":{"aurist":{"method":"dsuta","steps":18446744073709551615}}}"#),
            Just(r#"{"type":"transcription_session.update","session":{"turn_detection":{"silence_duration_ms":1e300}}}"#),
            Just("null"),
            Just("[[[["),
        ]
        .prop_map(|text| Message::Text(text.into())),
        Just(Message::Ping(vec![1, 2, 3].into())),
    ];
    let ran = runner.run(&proptest::collection::vec(message, 0..12), |messages| {
        let mut client = Client::connect(&server, PATH, &[]).expect("connected");
        let asked = messages
            .iter()
            .filter(|message| message.is_text() || message.is_binary())
            .count();
        for message in messages {
            if client.0.send(message).is_err() {
                break;
            }
        }
        // It is answered as long as it is there.
        client.say(&json!({ "type": "session.update", "session": { "type": "magic" }, "event_id": "last" }));
        for _ in 0..=asked * 12 + 1 {
            let event = client.hear().expect("an answer");
            prop_assert!(event["event_id"].is_string() && event["type"].is_string());
            if event["error"]["event_id"] == "last" {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("no answer to the last message"))
    });
    ran.expect("all answered");
    let mut last = begin(&server, &[]);
    append(&mut last, &at_24_khz(&speech()));
    last.until(&format!("{TRANSCRIPTION}.completed"));
}
