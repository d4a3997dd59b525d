//! A server of the tests' own, and a small HTTP client.

use aurist::Recognizer;
use aurist::serve::{ServeConfig, serve};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

pub(crate) struct Server {
    /// Where it is a process of its own.
    child: Option<Child>,
    /// 127.0.0.1:PORT
    pub(crate) address: String,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Server {
    pub(crate) fn start(options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_aurist"))
            .args(["serve", "--port", "0"])
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("aurist");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let address = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening on http://").map(String::from))
            .expect("the server listens");
        std::thread::spawn(move || lines.for_each(drop));
        let child = Some(child);
        Self { child, address }
    }

    /// One in this process, for as long as that lives, with the settings that the command has no options for.
    pub(crate) fn with(config: ServeConfig) -> Self {
        static MODEL: OnceLock<Recognizer> = OnceLock::new();
        let recognizer =
            MODEL.get_or_init(|| Recognizer::bundled(aurist::Bundled::TinyEnCtc).expect("the bundled model"));
        let (send, address) = std::sync::mpsc::channel();
        let listening = move |address| send.send(address).expect("somebody waits");
        std::thread::spawn(move || serve(recognizer.clone(), config, listening).expect("served"));
        Self {
            child: None,
            address: address.recv().expect("the server listens").to_string(),
        }
    }

    /// Asks its process to end.
    #[cfg(unix)]
    pub(crate) fn terminate(&self) {
        let child = self.child.as_ref().expect("a process");
        let terminated = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(terminated.expect("kill").success());
    }

    /// Waits for its process; whether all was well.
    pub(crate) fn ends_well(&mut self) -> bool {
        let child = self.child.as_mut().expect("a process");
        child.wait().expect("ended").success()
    }

    /// A metric's value.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics", "").text();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("a connection");
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .expect("a time limit");
        stream
    }

    /// Sends a request as it is, and reads the answer to its end.
    pub(crate) fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        // The server may answer, and close, before it has read all.
        let _ = stream.write_all(request);
        answer(stream)
    }

    pub(crate) fn get(&self, path: &str, headers: &str) -> Answer {
        let host = &self.address;
        self.raw(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n").as_bytes())
    }

    /// Posts a form to the transcriptions: fields, and the file.
    pub(crate) fn transcribe(&self, file: &[u8], fields: &[(&str, &str)], headers: &str) -> Answer {
        self.post_form(&form(file, fields), headers)
    }

    pub(crate) fn post_form(&self, body: &[u8], headers: &str) -> Answer {
        self.raw(&self.posted(body, &format!("Connection: close\r\n{headers}")))
    }

    /// A form as it goes over the wire.
    pub(crate) fn posted(&self, body: &[u8], headers: &str) -> Vec<u8> {
        let mut request = format!(
            "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: {}\r\n{headers}\
             Content-Type: multipart/form-data; boundary=xyz\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        request
    }
}

/// A form's body: fields, and the file.
pub(crate) fn form(file: &[u8], fields: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let part = format!("--xyz\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
        body.extend_from_slice(part.as_bytes());
    }
    let part = "--xyz\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n";
    body.extend_from_slice(part.as_bytes());
    body.extend_from_slice(file);
    body.extend_from_slice(b"\r\n--xyz--\r\n");
    body
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// That something becomes so, within a time that a busy machine needs.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < Duration::from_secs(120),
            "{what}: not so after two minutes"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn answer(stream: TcpStream) -> Answer {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).unwrap_or(0) > 2 && !head.ends_with("\r\n\r\n") {}
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let mut body = Vec::new();
    let _ = reader.read_to_end(&mut body);
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = unchunked(&body);
    }
    Answer { status, head, body }
}

fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end])
            .ok()
            .and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let Some(size) = size.filter(|size| *size > 0) else {
            break;
        };
        out.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        bytes = &bytes[end + 4 + size..];
    }
    out
}
