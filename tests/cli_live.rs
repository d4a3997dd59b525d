//! Live recognition as its users meet it: the command `listen`, and the server.
#![cfg(feature = "bundled-model")]

mod cli_support;
#[path = "live/listen.rs"]
mod listen;
#[cfg(feature = "serve")]
#[path = "live/serve_http.rs"]
mod serve_http;
#[cfg(feature = "serve")]
#[path = "live/serve_stream.rs"]
mod serve_stream;
#[cfg(feature = "serve")]
#[path = "live/server.rs"]
mod server;
