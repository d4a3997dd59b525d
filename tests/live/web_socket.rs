//! A small WebSocket client.

use super::server::Server;
use crate::cli_support::short_clip;
use serde_json::Value;
use std::net::TcpStream;
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

/// A client of a live stream.
pub(crate) struct Client(pub(crate) WebSocket<TcpStream>);

impl Client {
    /// With a header or two; the status where the server refuses.
    pub(crate) fn connect(server: &Server, path: &str, headers: &[(&'static str, &str)]) -> Result<Self, u16> {
        Self::over(server.connect(), server, path, headers)
    }

    pub(crate) fn over(
        stream: TcpStream,
        server: &Server,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, u16> {
        let mut request = format!("ws://{}{path}", server.address)
            .into_client_request()
            .expect("a request");
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().expect("a header"));
        }
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Self(socket)),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn say(&mut self, value: &Value) {
        self.0.send(Message::Text(value.to_string().into())).expect("sent");
    }

    pub(crate) fn sound(&mut self, samples: &[f32]) {
        for piece in samples.chunks(1600) {
            let bytes: Vec<u8> = piece
                .iter()
                .flat_map(|x| ((x * 32767.0) as i16).to_le_bytes())
                .collect();
            self.0.send(Message::Binary(bytes.into())).expect("sent");
        }
    }

    /// The next message; `None` when the server has closed.
    pub(crate) fn hear(&mut self) -> Option<Value> {
        loop {
            match self.0.read().ok()? {
                Message::Text(text) => return Some(serde_json::from_str(&text).expect("JSON")),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    pub(crate) fn until(&mut self, kind: &str) -> Value {
        loop {
            let message = self.hear().unwrap_or_else(|| panic!("closed before {kind}"));
            if message["type"] == kind {
                return message;
            }
        }
    }
}

/// A clip, and a second and a half of silence.
pub(crate) fn speech() -> Vec<f32> {
    let mut samples = aurist::audio::read_all(&short_clip()).expect("audio");
    samples.extend(std::iter::repeat_n(0.0, 24_000));
    samples
}
