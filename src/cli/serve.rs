//! `aurist serve`: transcription over HTTP and live captions over WebSocket.

use super::transcribe::{load_model, with_ctc_head};
use super::{Exit, Failure, tell};
use crate::serve::{Patience, ServeConfig, serve};
use crate::{Bundled, Device};
use clap::Args;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  aurist serve                                        http://127.0.0.1:8080, for this machine alone
  curl -F file=@talk.mp3 -F model=aurist http://127.0.0.1:8080/v1/audio/transcriptions
  aurist serve --host 0.0.0.0 --api-key SECRET        for others, who need the key
  AURIST_API_KEY=SECRET aurist serve --host 0.0.0.0   the same, with the key out of sight

Addresses: / (a page with live captions), /v1/audio/transcriptions and /v1/models (as OpenAI's clients speak them),
/v1/realtime (WebSocket, OpenAI's transcription events), /v1/stream (WebSocket, aurist's own), /healthz, /metrics (Prometheus). docs/server.md describes them.

The log, on standard error, is one JSON object a line; neither audio nor text is in it, unless --log-text asks for it.
Ctrl-C or SIGTERM: no new requests, those begun are finished, live streams get their last captions.";

/// `aurist serve`, as typed.
#[derive(Debug, Args)]
#[command(after_help = "Run with --help for examples.", after_long_help = EXAMPLES)]
pub(super) struct Arguments {
    /// Directory or name of a CTC model: bundled, or fetched by `aurist models pull` [default: $AURIST_MODEL, or
    /// tiny.en-ctc, which is bundled].
    #[arg(short, long, value_name = "DIR|NAME")]
    model: Option<PathBuf>,

    /// Start every utterance from the speaker's or room's profile in FILE, made with --save-adapted.
    #[arg(long, value_name = "FILE")]
    load_adapted: Option<PathBuf>,

    /// Of a Whisper: the CTC model, made of its encoder, that it is adapted through (`aurist transcribe --help`); requests
    /// that choose no method are then adapted to so.
    #[arg(long, value_name = "DIR|NAME")]
    ctc_head: Option<PathBuf>,

    /// Address to listen on. Any but this machine's own (127.0.0.1, ::1) needs --api-key or --no-auth.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: IpAddr,

    /// Port to listen on; 0 for any that is free.
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,

    /// What clients must send as `Authorization: Bearer KEY`; also from the environment's AURIST_API_KEY.
    #[arg(long, value_name = "KEY", conflicts_with = "no_auth")]
    api_key: Option<String>,

    /// Let everybody in who reaches the address.
    #[arg(long)]
    no_auth: bool,

    /// Let pages of this origin call, such as https://example.org; repeatable, `*` for all.
    #[arg(long, value_name = "ORIGIN")]
    allow_origin: Vec<String>,

    /// Largest upload in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    max_upload: u16,

    /// Longest recording in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 14_400)]
    max_duration: u32,

    /// Transcription requests in hand or waiting; more are told to come back (429).
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=4096))]
    max_requests: u16,

    /// Live streams at the same time; more are told to come back (429).
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=4096))]
    max_streams: u16,

    /// Connections at the same time; more are closed at once.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    max_connections: u16,

    /// Requests a minute from one address; 0 for no limit.
    #[arg(long, value_name = "N", default_value_t = 600)]
    rate: u32,

    /// Seconds that one transcription may take, and that shutting down waits.
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    timeout: u32,

    /// Keep named profiles in DIR instead of in memory.
    #[arg(long, value_name = "DIR")]
    profiles: Option<PathBuf>,

    /// Let transcripts appear in the log.
    #[arg(long)]
    log_text: bool,
}

/// Runs the command.
pub(super) fn run(typed: Arguments) -> Result<Exit, Failure> {
    let from_environment = std::env::var("AURIST_API_KEY").ok().filter(|key| !key.is_empty());
    let api_key = typed.api_key.or(from_environment.filter(|_| !typed.no_auth));
    if !typed.host.is_loopback() && api_key.is_none() && !typed.no_auth {
        return Err(Failure::usage(format_args!(
            "--host {} lets other machines in: give --api-key KEY, or --no-auth if that is meant",
            typed.host
        )));
    }
    // A header cannot hold other characters, so such a key could never be given.
    if api_key
        .as_ref()
        .is_some_and(|key| key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        return Err(Failure::usage(
            "--api-key KEY is made of visible ASCII characters, without spaces",
        ));
    }
    if let Some(folder) = &typed.profiles {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::failed(format_args!("cannot write to {}: {error}", folder.display())))?;
    }
    let recognizer = load_model(
        typed.model.as_deref(),
        Bundled::TinyEnCtc,
        typed.load_adapted.as_deref(),
        Device::Cpu,
    )?;
    let recognizer = with_ctc_head(recognizer, typed.ctc_head.as_deref())?;
    let config = ServeConfig {
        address: SocketAddr::new(typed.host, typed.port),
        api_key,
        allowed_origins: typed.allow_origin,
        most_upload: usize::from(typed.max_upload) << 20,
        most_seconds: typed.max_duration.into(),
        most_requests: typed.max_requests.into(),
        most_streams: typed.max_streams.into(),
        most_connections: typed.max_connections.into(),
        rate: typed.rate,
        timeout: Duration::from_secs(typed.timeout.into()),
        profiles: typed.profiles,
        log_text: typed.log_text,
        patience: Patience::default(),
        signals: true,
    };
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .init();
    let open = |address: SocketAddr| tell(format_args!("listening on http://{address}"));
    serve(recognizer, config, open).map_err(Failure::failed)?;
    Ok(Exit::Done)
}
