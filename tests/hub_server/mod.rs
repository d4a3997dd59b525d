//! A small hub on this machine, with the faults that real ones have.
#![allow(dead_code, reason = "each test file uses its own part")]

use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server misbehaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    /// Every request is answered with this status.
    pub(crate) status: Option<u16>,
    /// A content's connection ends after so many bytes, this many times.
    pub(crate) cut_after: Option<usize>,
    pub(crate) cuts: usize,
    /// Range is ignored.
    pub(crate) no_range: bool,
    /// Contents are not those that were announced.
    pub(crate) damaged: bool,
    /// A pause before every 64 kB of a content.
    pub(crate) pause: Duration,
    /// Where contents are instead: another server's address.
    pub(crate) contents_at: Option<String>,
    /// The repository's old name, which is answered with where it is now.
    pub(crate) renamed_from: Option<String>,
}

/// What was asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) range: Option<usize>,
    pub(crate) authorization: Option<String>,
}

struct State {
    name: String,
    files: Vec<(String, Vec<u8>)>,
    faults: Mutex<Faults>,
    requests: Mutex<Vec<Request>>,
}

pub(crate) struct Server {
    pub(crate) address: String,
    state: Arc<State>,
}

impl Server {
    /// A hub with one repository. Files of 4 kB or more are stored apart, as large ones are on the hub.
    pub(crate) fn start(name: &str, files: &[(&str, &[u8])], faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(State {
            name: name.into(),
            files: files
                .iter()
                .map(|(name, bytes)| ((*name).into(), bytes.to_vec()))
                .collect(),
            faults: Mutex::new(faults),
            requests: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A client that goes away is its own affair.
                    let _ = state.answer(stream);
                });
            }
        });
        Self { address, state }
    }

    pub(crate) fn set(&self, faults: Faults) {
        *self.state.faults.lock().expect("unpoisoned") = faults;
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().expect("unpoisoned").clone()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A small file's etag: git's blob.
fn git_etag(bytes: &[u8]) -> String {
    let mut hasher = Sha1::new();
    hasher.update(format!("blob {}\0", bytes.len()).as_bytes());
    hasher.update(bytes);
    hexadecimal(&hasher.finalize())
}

impl State {
    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let path = line.split(' ').nth(1).unwrap_or_default().to_string();
        let mut request = Request {
            path,
            range: None,
            authorization: None,
        };
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header)? <= 2 {
                break;
            }
            let (name, value) = header.trim().split_once(": ").unwrap_or_default();
            match name.to_lowercase().as_str() {
                "range" => request.range = value.trim_start_matches("bytes=").trim_end_matches('-').parse().ok(),
                "authorization" => request.authorization = Some(value.into()),
                _ => {}
            }
        }
        self.requests.lock().expect("unpoisoned").push(request.clone());
        self.route(stream, &request)
    }

    fn route(&self, mut stream: TcpStream, request: &Request) -> std::io::Result<()> {
        let faults = self.faults.lock().expect("unpoisoned").clone();
        let path = request.path.as_str();
        if let Some(status) = faults.status {
            return write!(
                stream,
                "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        if let Some(old) = faults.renamed_from.as_deref().filter(|old| path.contains(*old)) {
            let to = path.replace(old, &self.name);
            return write!(
                stream,
                "HTTP/1.1 307 Moved\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        if path.starts_with(&format!("/api/models/{}/revision/", self.name)) {
            let siblings: Vec<_> = self
                .files
                .iter()
                .map(|(name, _)| serde_json::json!({ "rfilename": name }))
                .collect();
            let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
            let length = body.len();
            return write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
        let file = path.rsplit('/').next().unwrap_or_default();
        let known = path.starts_with(&format!("/{}/resolve/", self.name)) || path.starts_with("/contents/");
        let Some((_, bytes)) = self.files.iter().find(|(name, _)| known && name == file) else {
            return write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        };
        if path.starts_with("/contents/") {
            return self.content(stream, request, bytes, &faults, "");
        }
        if bytes.len() < 4096 {
            let headers = format!("ETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n", git_etag(bytes));
            return self.content(stream, request, bytes, &faults, &headers);
        }
        let (etag, length) = (hexadecimal(&Sha256::digest(bytes)), bytes.len());
        let at = faults.contents_at.unwrap_or_default();
        write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {at}/contents/{file}\r\nX-Linked-Etag: \"{etag}\"\r\nX-Linked-Size: {length}\r\n\
             X-Repo-Commit: {COMMIT}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
    }

    fn content(
        &self,
        mut stream: TcpStream,
        request: &Request,
        bytes: &[u8],
        faults: &Faults,
        headers: &str,
    ) -> std::io::Result<()> {
        let from = request.range.filter(|_| !faults.no_range).unwrap_or(0);
        let (status, total) = (if from > 0 { "206 Partial Content" } else { "200 OK" }, bytes.len());
        let range = format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1);
        let range = if from > 0 { range.as_str() } else { "" };
        let length = total - from;
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{range}{headers}Connection: close\r\n\r\n"
        )?;
        let mut body = bytes[from..].to_vec();
        if faults.damaged && headers.is_empty() {
            body[0] ^= 1;
        }
        if let (Some(after), true, true) = (faults.cut_after, faults.cuts > 0, headers.is_empty()) {
            self.faults.lock().expect("unpoisoned").cuts -= 1;
            body.truncate(after);
        }
        for piece in body.chunks(1 << 16) {
            std::thread::sleep(faults.pause);
            stream.write_all(piece)?;
        }
        stream.flush()
    }
}
