//! The tests by what they talk to.

mod listen;
#[cfg(feature = "serve")]
mod serve_http;
#[cfg(feature = "serve")]
mod serve_realtime;
#[cfg(feature = "serve")]
mod serve_slow;
#[cfg(feature = "serve")]
mod serve_stream;
#[cfg(feature = "serve")]
mod serve_whisper;
#[cfg(feature = "serve")]
mod server;
#[cfg(feature = "serve")]
mod web_socket;
