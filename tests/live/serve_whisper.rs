//! A whole Whisper behind the server: its decoder heeds the form's fields, and the live addresses say that it is none for
//! them. The tests' model is a tiny one of random weights, whose text shows every difference.

use super::server::Server;
use super::web_socket::Client;
use crate::cli_support::{aurist, short_clip};
use serde_json::{Value, json};
use std::fs;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/goldens/whisper-tiny");

/// The command's transcript, with options.
fn transcript(options: &[&str]) -> Value {
    let mut command = aurist();
    command
        .args(["transcribe", "--model", MODEL, "--vad-filter", "-f", "json"])
        .args(options)
        .arg(short_clip());
    let ended = command.assert().success();
    serde_json::from_slice(&ended.get_output().stdout).expect("JSON")
}

#[test]
fn its_decoder_heeds_prompt_language_and_temperature() {
    let server = Server::start(&["--model", MODEL]);
    let clip = fs::read(short_clip()).expect("a recording");
    let ask = |fields: &[(&str, &str)]| {
        let own = [("model", "whisper-tiny"), ("response_format", "verbose_json")];
        server.transcribe(&clip, &[&own[..], fields].concat(), "")
    };
    let mut texts = Vec::new();
    type Fields<'a> = &'a [(&'a str, &'a str)];
    let same: [(Fields<'_>, &[&str]); 4] = [
        (&[], &[]),
        (&[("prompt", "hello")], &["--initial-prompt", "hello"]),
        (&[("temperature", "0.7")], &["--temperature-fallback", "0.7"]),
        (&[("language", "en"), ("temperature", "0")], &["--language", "en"]),
    ];
    for (fields, options) in same {
        let (answered, expected) = (ask(fields).json(), transcript(options));
        assert_eq!(answered["text"], expected["text"], "{options:?}");
        assert_eq!(answered["language"], expected["language"]["code"], "{options:?}");
        let segment = &answered["segments"][0];
        assert!(segment["tokens"].as_array().is_some_and(|tokens| !tokens.is_empty()));
        texts.push(answered["text"].to_string());
    }
    let count = texts.len();
    texts.sort();
    texts.dedup();
    assert_eq!(texts.len(), count, "a field has no effect");
    let quick = ("temperature", "0.7");
    let words = ask(&[("timestamp_granularities[]", "word"), quick]).json();
    assert!(
        words["words"].as_array().is_some_and(|words| !words.is_empty()),
        "{words}"
    );
    for (field, value) in [("language", "xx"), ("adapt", "guarded"), ("temperature", "1.5")] {
        let refused = ask(&[(field, value)]);
        assert_eq!(
            (refused.status, refused.json()["error"]["param"].as_str()),
            (400, Some(field))
        );
    }
    let adapted = ask(&[("adapt", "suta"), ("steps", "1"), quick]).json();
    assert_eq!(adapted["segments"][0]["aurist"]["steps"], 1, "{adapted}");
    // A request is a stream of its own: what one taught a continual method the next one does not hear of.
    let continual = [("adapt", "csuta"), ("steps", "1"), ("learning_rate", "0.01"), quick];
    let (first, again) = (ask(&continual).json(), ask(&continual).json());
    assert_eq!(first["segments"][0]["aurist"]["steps"], 1, "{first}");
    assert_eq!(first["segments"], again["segments"]);
    let models = server.get("/v1/models", "").json();
    assert_eq!(models["data"][0]["id"], "whisper-tiny");
}

#[test]
fn the_live_addresses_say_that_it_is_none_for_them() {
    let server = Server::start(&["--model", MODEL]);
    assert_eq!(Client::connect(&server, "/v1/realtime", &[]).err(), Some(400));
    let mut client = Client::connect(&server, "/v1/stream", &[]).expect("connected");
    client.say(&json!({ "type": "start" }));
    let message = client.until("error")["message"].to_string();
    assert!(message.contains("CTC"), "{message}");
    assert_eq!(client.hear(), None);
}
