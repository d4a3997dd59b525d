//! The server over HTTP: OpenAI's shapes, its errors, and what a hostile client can do.

use super::server::{Server, answer, eventually, form};
use crate::cli_support::{aurist, clips, short_clip};
use predicates::str::contains;
use proptest::prelude::*;
use std::fs;
use std::io::Write;
use std::time::Duration;

const QUICK: [(&str, &str); 2] = [("model", "whisper-1"), ("adapt", "none")];

fn clip() -> Vec<u8> {
    fs::read(short_clip()).expect("a recording")
}

fn with<'a>(fields: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    QUICK.iter().chain(fields).copied().collect()
}

#[test]
fn every_response_format_has_the_same_words() {
    let server = Server::start(&[]);
    let json = server.transcribe(&clip(), &QUICK, "");
    assert_eq!(json.status, 200, "{}", json.text());
    let text = json.json()["text"].as_str().expect("a text").to_owned();
    let batch = aurist()
        .args(["transcribe", "--adapt", "none"])
        .arg(short_clip())
        .assert()
        .success();
    assert_eq!(String::from_utf8_lossy(&batch.get_output().stdout).trim(), text);

    assert_eq!(
        server
            .transcribe(&clip(), &with(&[("response_format", "text")]), "")
            .text()
            .trim(),
        text
    );
    let srt = server
        .transcribe(&clip(), &with(&[("response_format", "srt")]), "")
        .text();
    assert!(srt.starts_with("1\n00:00:0") && srt.contains(" --> "), "{srt}");
    let vtt = server.transcribe(&clip(), &with(&[("response_format", "vtt")]), "");
    assert!(vtt.text().starts_with("WEBVTT\n\n") && vtt.head.contains("text/vtt"));
    let both = [
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "word"),
        ("timestamp_granularities[]", "segment"),
    ];
    let verbose = server.transcribe(&clip(), &with(&both), "").json();
    assert_eq!(verbose["text"], text.as_str());
    let words: Vec<&str> = verbose["words"]
        .as_array()
        .expect("words")
        .iter()
        .filter_map(|w| w["word"].as_str())
        .collect();
    assert_eq!(words.join(" "), text);
    assert_eq!(verbose["segments"][0]["text"], text.as_str());

    let stream = server.transcribe(&clip(), &with(&[("stream", "true")]), "");
    assert!(stream.head.contains("text/event-stream"), "{}", stream.head);
    let events: Vec<serde_json::Value> = stream
        .text()
        .lines()
        .filter_map(|line| {
            line.strip_prefix("data: ")
                .map(|data| serde_json::from_str(data).expect("JSON"))
        })
        .collect();
    assert_eq!(events[0]["type"], "transcript.text.delta");
    let last = events.last().expect("events");
    assert_eq!(
        (&last["type"], &last["text"]),
        (&"transcript.text.done".into(), &text.as_str().into())
    );

    let adapted = with(&[("adapt", "suta"), ("steps", "2"), ("response_format", "verbose_json")]);
    let adapted = server.transcribe(&clip(), &adapted, "").json();
    assert_eq!(adapted["segments"][0]["aurist"]["steps"], 2);

    let models = server.get("/v1/models", "").json();
    assert_eq!(models["data"][0]["object"], "model");
    assert_eq!(server.get("/healthz", "").json()["status"], "ok");
    let metrics = server.get("/metrics", "").text();
    assert!(metrics.contains("aurist_requests_total{status=\"200\"} 7"), "{metrics}");
    let page = server.get("/", "");
    assert!(page.head.contains("content-security-policy") && page.text().contains("<h1>aurist"));
    assert!(!page.text().contains("{{nonce}}"));
}

#[test]
fn errors_are_as_openai_clients_expect_them() {
    let server = Server::start(&["--max-upload", "1", "--max-duration", "2"]);
    /// A file, the other fields, the status and the error's code.
    type Case<'a> = (&'a [u8], &'a [(&'a str, &'a str)], u16, &'a str);
    let cases: &[Case<'_>] = &[
        (b"RIFF nonsense", &QUICK, 400, "file"),
        (b"", &QUICK, 400, "file"),
        (b"x", &[("model", "gpt-9")], 404, "model"),
        (b"x", &[], 400, "model"),
        (
            b"x",
            &[("model", "aurist"), ("response_format", "docx")],
            400,
            "response_format",
        ),
        (b"x", &[("model", "aurist"), ("temperature", "7")], 400, "temperature"),
        (b"x", &[("model", "aurist"), ("adapt", "magic")], 400, "adapt"),
        (b"x", &[("model", "aurist"), ("steps", "100000")], 400, "steps"),
        (&[0; 2_000_000], &QUICK, 413, "file"),
    ];
    for (file, fields, status, param) in cases {
        let answer = server.transcribe(file, fields, "");
        assert_eq!(answer.status, *status, "{fields:?} {}", answer.text());
        let error = &answer.json()["error"];
        assert_eq!(error["param"], *param, "{fields:?}");
        assert!(error["message"].is_string() && error["type"] == "invalid_request_error");
    }
    // Longer than two seconds.
    assert_eq!(server.transcribe(&clip(), &QUICK, "").status, 413);
    assert_eq!(server.get("/../../etc/passwd", "").status, 404);
    assert_eq!(server.get("/v1/models/../../etc/passwd", "").status, 404);
    let wrong_method = server.get("/v1/audio/transcriptions", "");
    assert_eq!(
        (wrong_method.status, wrong_method.json()["error"]["type"].as_str()),
        (405, Some("invalid_request_error"))
    );
    // A method that the model does not have.
    let adapt = [("model", "aurist"), ("adapt", "sequence-entropy")];
    let refused = server.transcribe(b"x", &adapt, "");
    assert_eq!(
        (refused.status, refused.json()["error"]["param"].as_str()),
        (400, Some("adapt"))
    );
    let plain = server.raw(b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(
        (plain.status, plain.json()["error"]["type"].as_str()),
        (400, Some("invalid_request_error"))
    );
}

#[test]
fn strangers_are_kept_out() {
    aurist()
        .args(["serve", "--host", "0.0.0.0"])
        .assert()
        .code(2)
        .stderr(contains("--no-auth"));
    let server = Server::start(&["--api-key", "secret", "--rate", "8"]);
    assert_eq!(server.get("/healthz", "").status, 200);
    assert_eq!(server.get("/v1/models", "").status, 401);
    assert_eq!(server.get("/v1/models", "Authorization: Bearer wrong\r\n").status, 401);
    assert_eq!(server.get("/v1/models", "Authorization: Bearer secret\r\n").status, 200);
    let foreign = "Authorization: Bearer secret\r\nOrigin: https://example.org\r\n";
    assert_eq!(server.get("/v1/models", foreign).status, 403);
    let own = format!("Authorization: Bearer secret\r\nOrigin: http://{}\r\n", server.address);
    assert_eq!(server.get("/v1/models", &own).status, 200);
    // Guesses count too.
    let mut many = (0..10).map(|_| server.get("/v1/models", "Authorization: Bearer guess\r\n"));
    let refused = many.find(|answer| answer.status == 429).expect("a limit");
    assert_eq!(server.get("/healthz", "").status, 200);
    assert!(
        refused.head.to_ascii_lowercase().contains("retry-after: "),
        "{}",
        refused.head
    );
    // Without a key, only this machine's names are answered.
    let open = Server::start(&["--allow-origin", "https://example.org"]);
    let rebound = b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(open.raw(rebound).status, 403);
    let preflight = format!(
        "OPTIONS /v1/audio/transcriptions HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nOrigin: https://example.org\r\n\
         Access-Control-Request-Headers: authorization, x-stainless-lang\r\n\r\n",
        open.address
    );
    let preflight = open.raw(preflight.as_bytes());
    assert!(
        preflight
            .head
            .contains("access-control-allow-headers: authorization, x-stainless-lang"),
        "{}",
        preflight.head
    );
    let allowed = open.get("/v1/models", "Origin: https://example.org\r\n");
    assert!(
        allowed.status == 200
            && allowed
                .head
                .contains("access-control-allow-origin: https://example.org")
    );
}

/// All clips again and again, each an utterance: much work in small pieces.
fn long_recording() -> Vec<u8> {
    let pause = vec![0.0; 56_000];
    let once = clips().into_iter().flat_map(|clip| {
        let clip = aurist::audio::read_all(&clip).expect("audio");
        [clip, pause.clone()].concat()
    });
    let samples = once.collect::<Vec<f32>>().repeat(12);
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("long.wav");
    aurist::audio::mix::write_wav(&path, &samples).expect("a recording");
    fs::read(path).expect("a file")
}

#[test]
fn more_requests_than_allowed_are_told_to_come_back() {
    let server = Server::start(&["--max-requests", "1"]);
    let adapted = form(
        &long_recording(),
        &[("model", "aurist"), ("adapt", "suta"), ("steps", "5")],
    );
    let mut long = server.connect();
    long.write_all(&server.posted(&adapted, "")).expect("sent");
    // A form without a file takes no place.
    let mut refused = None;
    eventually("its place is taken", || {
        refused = Some(server.post_form(b"--xyz--\r\n", "")).filter(|answer| answer.status == 429);
        refused.is_some()
    });
    let refused = refused.expect("an answer");
    assert!(refused.head.to_ascii_lowercase().contains("retry-after: "));
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    // It gives up: its place is free after the utterance that is being computed.
    drop(long);
    eventually("its place is free", || {
        server.transcribe(&clip(), &QUICK, "").status == 200
    });
}

/// Sixteen of them used to keep everybody else out.
#[test]
fn uploads_that_do_not_come_hold_no_place() {
    let server = Server::start(&["--max-requests", "1"]);
    let request = server.posted(&form(&clip(), &QUICK), "");
    let begin = || {
        let mut begun = server.connect();
        begun.write_all(&request[..request.len() / 2]).expect("sent");
        begun
    };
    let unsent = [begin(), begin(), begin(), begin()];
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(server.transcribe(&clip(), &QUICK, "").status, 200);
    drop(unsent);
}

/// A megabyte an upload, one place: there is no room for a second while the first is held.
#[test]
fn uploads_share_a_bounded_memory() {
    let server = Server::start(&["--max-requests", "1", "--max-upload", "1"]);
    let body = vec![0; 900_000];
    let request = server.posted(&form(&body, &QUICK), "");
    let (mut begun, mut refused) = (None, None);
    eventually("there is no room for another", || {
        // Unless the one before still had it: then this one was itself refused, and another is tried.
        let mut held = server.connect();
        held.write_all(&request[..800_000]).expect("sent");
        begun = Some(held);
        std::thread::sleep(Duration::from_millis(200));
        refused = Some(server.transcribe(&body, &QUICK, "")).filter(|answer| answer.status == 429);
        refused.is_some()
    });
    assert!(refused.expect("an answer").text().contains("uploaded"));
    drop(begun);
    eventually("there is room again", || {
        server.transcribe(&clip(), &QUICK, "").status == 200
    });
}

#[cfg(unix)]
#[test]
fn a_request_that_was_begun_is_finished_before_the_end() {
    let mut server = Server::start(&[]);
    let (address, file) = (server.address.clone(), clip());
    let mut begun = server.connect();
    let mut body = b"--xyz\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\naurist\r\n".to_vec();
    body.extend_from_slice(b"--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n");
    body.extend_from_slice(&file);
    body.extend_from_slice(b"\r\n--xyz--\r\n");
    let head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: {address}\r\n\
         Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    begun.write_all(head.as_bytes()).expect("sent");
    begun.write_all(&body[..body.len() / 2]).expect("sent");
    std::thread::sleep(Duration::from_millis(200));
    server.terminate();
    std::thread::sleep(Duration::from_millis(200));
    begun.write_all(&body[body.len() / 2..]).expect("sent");
    let answer = answer(begun);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(server.ends_well());
}

#[test]
fn any_form_is_answered() {
    let server = Server::start(&["--rate", "0"]);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let piece = prop_oneof![
        Just(b"--xyz".to_vec()),
        Just(b"--xyz--".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
        Just(b"Content-Disposition: form-data; name=\"file\"; filename=\"../../x.wav\"".to_vec()),
        Just(b"Content-Disposition: form-data; name=\"model\"".to_vec()),
        Just(b"RIFF\x24\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00".to_vec()),
        Just(b"ID3\x04\x00\xff\xfb\x90\x64".to_vec()),
        Just(b"fLaC\x00\x00\x00\x22".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..300),
    ];
    let body = proptest::collection::vec(piece, 0..20);
    let answered = runner.run(&body, |pieces| {
        let answer = server.post_form(&pieces.concat(), "");
        prop_assert!(
            (400..500).contains(&answer.status),
            "{} {}",
            answer.status,
            answer.text()
        );
        prop_assert!(answer.json()["error"]["message"].is_string());
        Ok(())
    });
    answered.expect("every form is answered with an error");
    // Real recordings that were damaged: an answer of some kind, never a hang or the server's end.
    let whole = clip();
    for n in 0..12 {
        let mut bytes = whole.clone();
        for k in 0..40 {
            let at = (n * 7919 + k * 104_729) % if n % 2 == 0 { 64 } else { bytes.len() };
            bytes[at] = bytes[at].wrapping_mul(31).wrapping_add(n as u8);
        }
        let answer = server.transcribe(&bytes, &QUICK, "");
        assert!(
            matches!(answer.status, 200 | 400 | 413),
            "{} {}",
            answer.status,
            answer.text()
        );
    }
    assert_eq!(server.transcribe(&whole, &QUICK, "").status, 200);
}
