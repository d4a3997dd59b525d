//! Clients that are slow, silent or gone: each is let go in its time, and the others are served meanwhile.

use super::server::{Server, answer, eventually, form};
use super::web_socket::Client;
use crate::cli_support::{clips, short_clip};
use aurist::serve::{Patience, ServeConfig};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
const QUICK: [(&str, &str); 2] = [("model", "aurist"), ("adapt", "none")];

/// Seconds in place of minutes, and as little as can be that the system keeps for who does not read.
fn impatient() -> ServeConfig {
    ServeConfig {
        rate: 0,
        signals: false,
        patience: Patience {
            head: SECOND,
            body: 3 * SECOND,
            stall: SECOND,
            ping: SECOND / 4,
            send_buffer: 1,
        },
        ..ServeConfig::default()
    }
}

/// A connection for which the client's system, too, keeps little.
fn narrow(server: &Server) -> TcpStream {
    let address: SocketAddr = server.address.parse().expect("an address");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(1).expect("a small buffer");
    socket.connect(&address.into()).expect("a connection");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(60 * SECOND)).expect("a time limit");
    stream
}

fn is_served(server: &Server) {
    let clip = std::fs::read(short_clip()).expect("a recording");
    assert_eq!(server.get("/healthz", "").status, 200);
    let transcribed = server.transcribe(&clip, &QUICK, "");
    assert_eq!(transcribed.status, 200, "{}", transcribed.text());
}

/// Whether the server closes a connection, with what it sent before.
fn closed(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(20 * SECOND)).expect("a time limit");
    let mut read = Vec::new();
    let ended = stream.read_to_end(&mut read);
    let timed_out = ended.is_err_and(|error| matches!(error.kind(), std::io::ErrorKind::WouldBlock));
    assert!(!timed_out, "still open after 20 seconds");
    read
}

/// A byte every tenth of a second.
fn trickle(mut stream: TcpStream, bytes: Vec<u8>) {
    std::thread::spawn(move || {
        for byte in bytes {
            if stream.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::sleep(SECOND / 10);
        }
    });
}

/// Many utterances: pauses of over three seconds cut a recording.
fn long_recording() -> Vec<u8> {
    let word = aurist::audio::read_all(&clips()[1]).expect("audio");
    let mut samples = Vec::new();
    for _ in 0..120 {
        samples.extend_from_slice(&word[..16_000]);
        samples.extend(std::iter::repeat_n(0.0, 54_000));
    }
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("long.wav");
    aurist::audio::mix::write_wav(&path, &samples).expect("a recording");
    std::fs::read(path).expect("a file")
}

#[test]
fn half_open_connections_and_trickling_heads_are_closed() {
    let server = Server::with(impatient());
    let silent = server.connect();
    let slow = server.connect();
    trickle(slow.try_clone().expect("a twin"), vec![b'G'; 300]);
    let mut half = server.connect();
    half.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n").expect("sent");
    is_served(&server);
    assert_eq!(closed(silent), b"");
    closed(slow);
    closed(half);
    assert_eq!(server.metric("aurist_connections_slow_total"), 3.0);
    // Between two requests too.
    let mut idle = server.connect();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .expect("sent");
    let answered = closed(idle);
    assert!(answered.starts_with(b"HTTP/1.1 200"));
    is_served(&server);
}

#[test]
fn rapid_connections_leave_the_server_serving() {
    let server = Server::with(ServeConfig {
        most_connections: 64,
        ..impatient()
    });
    let half_open: Vec<_> = (0..40).map(|_| server.connect()).collect();
    for n in 0..2_000 {
        let Ok(mut stream) = TcpStream::connect(&server.address) else {
            continue;
        };
        if n % 3 == 0 {
            let _ = stream.write_all(b"GET /he");
        }
    }
    eventually("others are served", || server.get("/healthz", "").status == 200);
    half_open.into_iter().for_each(|stream| drop(closed(stream)));
    eventually("all are closed", || server.metric("aurist_connections") <= 1.0);
}

#[test]
fn a_trickling_upload_is_a_408() {
    let server = Server::with(ServeConfig {
        most_requests: 1,
        ..impatient()
    });
    let body = form(&vec![0; 100_000], &QUICK);
    let request = server.posted(&body, "");
    let head = request.len() - body.len() + 300;
    // A few bytes a second: too few. And enough of them, but for too long.
    for (pieces, reason) in [(1, "slowly"), (400, "took over")] {
        let begun = Instant::now();
        let stream = server.connect();
        let mut sending = stream.try_clone().expect("a twin");
        let rest = request[head..].to_vec();
        sending.write_all(&request[..head]).expect("sent");
        std::thread::spawn(move || {
            for piece in rest.chunks(pieces) {
                if sending.write_all(piece).is_err() {
                    break;
                }
                std::thread::sleep(SECOND / 10);
            }
        });
        let answer = answer(stream);
        assert_eq!(answer.status, 408, "{}", answer.text());
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains(reason), "{message}");
        assert!(begun.elapsed() < 10 * SECOND);
        // Its place is free.
        is_served(&server);
    }
}

/// It used to hold its place until its connection's end, a minute and more after the request's time was over: sixteen of
/// them, and everybody else was told to come back later.
#[test]
fn a_client_that_does_not_read_its_answer_holds_no_place() {
    let mut config = impatient();
    // So that it is not the time for reading that frees the place.
    config.patience.stall = 600 * SECOND;
    config.patience.body = 60 * SECOND;
    let server = Server::with(ServeConfig {
        most_requests: 1,
        ..config
    });
    let fields = [QUICK[0], QUICK[1], ("stream", "true")];
    let mut unread = narrow(&server);
    let request = server.posted(&form(&long_recording(), &fields), "");
    unread.write_all(&request).expect("sent");
    // Its answer has begun: it has the place.
    let mut begin = [0; 12];
    unread.read_exact(&mut begin).expect("a status");
    assert_eq!(&begin, b"HTTP/1.1 200");
    eventually("its place is free", || {
        let clip = std::fs::read(short_clip()).expect("a recording");
        server.transcribe(&clip, &QUICK, "").status == 200
    });
    // And its answer is whole, once it reads.
    let mut rest = Vec::new();
    while !rest.ends_with(b"0\r\n\r\n") {
        let mut piece = [0; 4096];
        let count = unread.read(&mut piece).expect("more");
        assert!(count > 0, "the answer breaks off");
        rest.extend_from_slice(&piece[..count]);
    }
    let events = String::from_utf8_lossy(&rest);
    assert!(events.matches("transcript.text.delta").count() > 100, "{events}");
    assert_eq!(events.matches("transcript.text.done").count(), 1);
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    let server = Server::with(impatient());
    let slow = || server.metric("aurist_connections_slow_total");
    // More than any buffer holds: answer after answer.
    let page = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(30);
    let mut unread = narrow(&server);
    unread.write_all(page.as_bytes()).expect("sent");
    is_served(&server);
    eventually("who reads nothing is let go", || slow() == 1.0);
    // The same of server-sent events.
    let mut events = narrow(&server);
    let fields = [QUICK[0], QUICK[1], ("stream", "true")];
    let request = server.posted(&form(&long_recording(), &fields), "");
    events.write_all(&request).expect("sent");
    eventually("who does not read events is let go", || slow() == 2.0);
    // A byte now and then is not enough.
    let mut trickle = narrow(&server);
    trickle.write_all(page.as_bytes()).expect("sent");
    let mut byte = [0];
    eventually("who reads byte by byte is let go", || {
        let _ = trickle.read(&mut byte);
        slow() == 3.0
    });
    drop((unread, events));
    is_served(&server);
}

/// The bytes of a close frame with code 1008 are among these.
fn is_let_go(bytes: &[u8], reason: &str) -> bool {
    let close = [&[0x88, reason.len() as u8 + 2, 0x03, 0xf0], reason.as_bytes()].concat();
    bytes.windows(close.len()).any(|window| window == close)
}

#[test]
fn a_live_client_that_does_not_read_is_let_go() {
    let mut config = impatient();
    config.patience.stall = 2 * SECOND;
    // This is not about pings.
    config.patience.ping = 60 * SECOND;
    let server = Server::with(config);
    for reads in [false, true] {
        let mut client = Client::over(narrow(&server), &server, "/v1/stream", &[]).expect("connected");
        client.say(&json!({ "type": "start", "adapt": { "method": "none" } }));
        client.until("ready");
        for _ in 0..300 {
            client.say(&json!({ "type": "reset" }));
        }
        is_served(&server);
        // It is told, if it comes round within as much again.
        let begun = Instant::now();
        let (stream, mut bytes) = (client.0.get_mut(), Vec::new());
        while begun.elapsed() < 3 * SECOND {
            let mut byte = [0];
            if reads {
                stream.read_exact(&mut byte).expect("a byte");
                bytes.extend(byte);
            }
            std::thread::sleep(SECOND / 10);
        }
        let _ = stream.read_to_end(&mut bytes);
        assert!(is_let_go(&bytes, "the client does not read"), "{} bytes", bytes.len());
    }
    eventually("no stream is left", || server.metric("aurist_streams") == 0.0);
}

#[test]
fn a_live_client_that_answers_no_pings_is_let_go() {
    let server = Server::with(impatient());
    let mut client = Client::connect(&server, "/v1/stream", &[]).expect("connected");
    client.say(&json!({ "type": "start" }));
    client.until("ready");
    // A client that reads answers by itself; this one does not say a word.
    let mut there = Client::connect(&server, "/v1/stream", &[]).expect("connected");
    there.say(&json!({ "type": "start" }));
    there.until("ready");
    let begun = Instant::now();
    there
        .0
        .get_mut()
        .set_read_timeout(Some(SECOND / 5))
        .expect("a time limit");
    while begun.elapsed() < 2 * SECOND {
        let read = there.0.read();
        assert!(!matches!(read, Ok(tungstenite::Message::Close(_))), "{read:?}");
    }
    let mut bytes = Vec::new();
    let _ = client.0.get_mut().read_to_end(&mut bytes);
    // An empty ping is two bytes.
    assert_eq!(bytes.windows(2).filter(|pair| *pair == [0x89, 0]).count(), 3);
    assert!(is_let_go(&bytes, "no answer to pings"), "{bytes:?}");
    there
        .0
        .get_mut()
        .set_read_timeout(Some(60 * SECOND))
        .expect("a time limit");
    there.say(&json!({ "type": "finish" }));
    there.until("done");
}

#[test]
fn a_live_client_without_a_word_is_let_go() {
    let server = Server::with(impatient());
    let mut silent = Client::connect(&server, "/v1/stream", &[]).expect("connected");
    let mut bytes = Vec::new();
    let _ = silent.0.get_mut().read_to_end(&mut bytes);
    assert!(is_let_go(&bytes, "no start"), "{bytes:?}");
    // A frame that never ends is no answer to pings either.
    let mut half = Client::connect(&server, "/v1/stream", &[]).expect("connected");
    half.say(&json!({ "type": "start" }));
    half.until("ready");
    half.0.get_mut().write_all(&[0x82, 0xfe, 0xff]).expect("sent");
    let mut bytes = Vec::new();
    let _ = half.0.get_mut().read_to_end(&mut bytes);
    assert!(is_let_go(&bytes, "no answer to pings"), "{bytes:?}");
    is_served(&server);
}
