//! Live recognition as its users meet it: the command `listen`, and the server.
#![cfg(feature = "bundled-model")]

mod cli_support;
mod live;
