//! The server over WebSocket: captions, policies, profiles, and what a hostile client can send.

use super::server::{Server, eventually};
use super::web_socket::{Client, speech};
use proptest::prelude::*;
use serde_json::json;
use tungstenite::Message;

const PATH: &str = "/v1/stream";

#[test]
fn captions_policies_and_profiles() {
    let server = Server::start(&[]);
    let mut client = Client::connect(&server, PATH, &[]).expect("connected");
    // However slow the machine is, nothing is skipped.
    client.say(&json!({ "type": "start", "adapt": { "method": "csuta" }, "latency": 3600 }));
    assert_eq!(client.until("ready")["settings"]["method"], "csuta");
    client.sound(&speech());
    let is_final = client.until("final");
    assert!(is_final["text"].as_str().is_some_and(|text| !text.is_empty()));
    let revision = client.until("revision");
    assert_eq!(revision["carried"]["updates"], 0);
    client.say(&json!({ "type": "save-profile", "name": "me" }));
    client.until("saved");
    client.say(&json!({ "type": "save-profile", "name": "../me" }));
    client.until("error");
    client.say(&json!({ "type": "adapt", "adapt": { "method": "none" } }));
    client.until("ready");
    client.sound(&speech());
    client.say(&json!({ "type": "finish" }));
    assert_eq!(client.until("revision")["skipped"], "off");
    let (done, heard) = (client.until("done"), 2 * speech().len());
    assert_eq!(done["seconds"].as_f64(), Some(heard as f64 / 16_000.0), "{done}");
    assert_eq!(client.hear(), None);

    let mut next = Client::connect(&server, PATH, &[]).expect("connected");
    let start =
        json!({ "type": "start", "adapt": { "method": "csuta" }, "profile": "me", "encoding": "f32", "latency": 3600 });
    next.say(&start);
    next.until("ready");
    let samples = speech();
    let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    for piece in bytes.chunks(64_000) {
        next.0.send(Message::Binary(piece.to_vec().into())).expect("sent");
    }
    next.say(&json!({ "type": "finish" }));
    let revision = next.until("revision");
    assert!(revision["carried"]["updates"].as_u64() > Some(0), "{revision}");
    next.until("done");

    let mut missing = Client::connect(&server, PATH, &[]).expect("connected");
    missing.say(&json!({ "type": "start", "profile": "nobody" }));
    assert!(
        missing.until("error")["message"]
            .as_str()
            .is_some_and(|text| text.contains("nobody"))
    );
    assert_eq!(missing.hear(), None);
}

#[test]
fn connections_are_checked_and_bounded() {
    let server = Server::start(&["--api-key", "secret", "--max-streams", "1"]);
    assert_eq!(Client::connect(&server, PATH, &[]).err(), Some(401));
    let foreign = [("authorization", "Bearer secret"), ("origin", "https://example.org")];
    assert_eq!(Client::connect(&server, PATH, &foreign).err(), Some(403));
    let by_protocol = [("sec-websocket-protocol", "aurist.v1, aurist.key.secret")];
    let mut first = Client::connect(&server, PATH, &by_protocol).expect("connected");
    assert_eq!(Client::connect(&server, PATH, &by_protocol).err(), Some(429));
    first.say(&json!({ "type": "start" }));
    first.until("ready");
    first.say(&json!({ "type": "finish" }));
    first.until("done");
    assert_eq!(first.hear(), None);
    drop(first);
    eventually("its place is free", || {
        Client::connect(&server, PATH, &by_protocol).is_ok()
    });
}

#[cfg(unix)]
#[test]
fn at_the_servers_end_a_stream_gets_its_last_captions() {
    let mut server = Server::start(&[]);
    let mut client = Client::connect(&server, PATH, &[]).expect("connected");
    client.say(&json!({ "type": "start", "adapt": { "method": "none" } }));
    client.until("ready");
    let samples = speech();
    client.sound(&samples[..samples.len() - 24_000]);
    client.until("partial");
    server.terminate();
    assert!(
        client.until("final")["text"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
    );
    client.until("done");
    drop(client);
    assert!(server.ends_well());
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
        proptest::collection::vec(any::<u8>(), 0..4000).prop_map(|bytes| Message::Binary(bytes.into())),
        ".{0,60}".prop_map(|text| Message::Text(text.into())),
        prop_oneof![
            Just(r#"{"type":"start"}"#),
            Just(r#"{"type":"start","encoding":"f32","sample_rate":44100,"channels":2}"#),
            Just(r#"{"type":"start","sample_rate":4294967295}"#),
            Just(r#"{"type":"start","hang_over":-1e308}"#),
            Just(r#"{"type":"adapt","adapt":{"method":"dsuta"}}"#),
            Just(r#"{"type":"adapt","adapt":{"steps":18446744073709551615}}"#),
            Just(r#"{"type":"gap","seconds":1e300}"#),
            Just(r#"{"type":"gap","seconds":3.5}"#),
            Just(r#"{"type":"reset"}"#),
            Just(r#"{"type":"finish"}"#),
        ]
        .prop_map(|text| Message::Text(text.into())),
        Just(Message::Ping(vec![1, 2, 3].into())),
    ];
    let start = any::<bool>();
    let ran = runner.run(
        &(start, proptest::collection::vec(message, 0..12)),
        |(start, messages)| {
            let mut client = Client::connect(&server, PATH, &[]).expect("connected");
            if start {
                client.say(&json!({ "type": "start" }));
            }
            for message in messages {
                if client.0.send(message).is_err() {
                    break;
                }
            }
            // Gone without a word.
            drop(client);
            Ok(())
        },
    );
    ran.expect("all sent");
    // Bytes that are no WebSocket frames at all.
    let mut client = Client::connect(&server, PATH, &[]).expect("connected");
    for n in 0..20_u8 {
        let _ = std::io::Write::write_all(client.0.get_mut(), &[n.wrapping_mul(37), 0xff, n, 0x7f, 0xff, 0xff]);
    }
    drop(client);
    let mut last = Client::connect(&server, PATH, &[]).expect("connected");
    last.say(&json!({ "type": "start", "adapt": { "method": "none" } }));
    last.sound(&speech());
    last.say(&json!({ "type": "finish" }));
    last.until("final");
    last.until("done");
}
