//! The server: transcription over HTTP as OpenAI's clients speak it, live captions over WebSocket, and a page.
//!
//! Nothing of a request is ever a path. Every queue is bounded, and everything a peer may be slow at has a time limit.

mod access;
mod connections;
mod error;
mod form;
mod job;
mod metrics;
mod pace;
mod page;
mod profiles;
mod protocol;
mod realtime;
mod routes;
mod settings;
mod socket;
mod stream;
mod transcriptions;

use crate::Recognizer;
use crate::live::Pool;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, watch};

/// Connections that the system may hold ready before they are accepted.
const READY: u32 = 1024;

/// How the server runs.
#[derive(Debug, Clone)]
pub struct ServeConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// What clients must present, as `Authorization: Bearer KEY`; `None` to let everybody in.
    pub api_key: Option<String>,
    /// Other origins whose pages may call; `*` for all.
    pub allowed_origins: Vec<String>,
    /// Bytes of a request's body at most.
    pub most_upload: usize,
    /// Seconds of one recording at most.
    pub most_seconds: f64,
    /// Requests that may be in hand or wait.
    pub most_requests: usize,
    /// Live streams at the same time.
    pub most_streams: usize,
    /// Connections at the same time.
    pub most_connections: usize,
    /// Requests a minute from one address; 0 for no limit.
    pub rate: u32,
    /// How long one request may take, and how long shutting down waits for those in hand.
    pub timeout: Duration,
    /// Where named profiles are kept; `None` for in memory.
    pub profiles: Option<std::path::PathBuf>,
    /// Whether transcripts may appear in the log.
    pub log_text: bool,
    /// How slow a peer may be.
    pub patience: Patience,
    /// Whether Ctrl-C and SIGTERM end it: they are the whole process's, so not where the server is a part of another.
    pub signals: bool,
}

impl Default for ServeConfig {
    /// What `aurist serve` runs with, at any port that is free.
    fn default() -> Self {
        Self {
            address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
            api_key: None,
            allowed_origins: Vec::new(),
            most_upload: 64 << 20,
            most_seconds: 14_400.0,
            most_requests: 16,
            most_streams: 32,
            most_connections: 512,
            rate: 600,
            timeout: Duration::from_secs(900),
            profiles: None,
            log_text: false,
            patience: Patience::default(),
            signals: true,
        }
    }
}

/// How slow a peer may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    /// For a request's head, between two requests of a connection, and for a live stream's first message.
    pub head: Duration,
    /// For a request's whole body.
    pub body: Duration,
    /// While a body does not come, or an answer or a caption is not read. Every KiB that moves gives back a second of it,
    /// so that in the long run nobody may be slower than a KiB a second.
    pub stall: Duration,
    /// Between two pings of a live stream, of which three may stay unanswered.
    pub ping: Duration,
    /// Bytes that the system keeps for a connection whose peer does not read.
    pub send_buffer: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(15),
            body: Duration::from_secs(120),
            stall: Duration::from_secs(15),
            ping: Duration::from_secs(20),
            // The system's own choice may be megabytes, and there may be hundreds of connections.
            send_buffer: 128 << 10,
        }
    }
}

/// What all requests share.
struct App {
    recognizer: Recognizer,
    pool: Pool,
    config: ServeConfig,
    requests: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    metrics: metrics::Metrics,
    rates: access::Rates,
    profiles: profiles::Profiles,
    /// Becomes true when the server is to end.
    ending: watch::Receiver<bool>,
}

impl App {
    fn new(recognizer: Recognizer, pool: Pool, config: ServeConfig, ending: watch::Receiver<bool>) -> Self {
        Self {
            requests: Arc::new(Semaphore::new(config.most_requests)),
            uploads: Arc::new(form::memory(config.most_upload, config.most_requests)),
            streams: Arc::new(Semaphore::new(config.most_streams)),
            metrics: metrics::Metrics::default(),
            rates: access::Rates::new(config.rate),
            profiles: profiles::Profiles::new(config.profiles.clone()),
            recognizer,
            pool,
            config,
            ending,
        }
    }
}

/// Why the server could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, or not this machine's.
    #[error("cannot listen on {address}: {reason}; choose another with --host and --port")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// Threads could not be started.
    #[error("cannot start: {0}")]
    Start(#[from] std::io::Error),
}

/// Serves until Ctrl-C or SIGTERM (see [`ServeConfig::signals`]), then finishes what was begun. `listening` is told the address once it is open.
pub fn serve(
    recognizer: Recognizer,
    config: ServeConfig,
    listening: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let pool = Pool::on_all_cores(&recognizer)?;
    runtime.block_on(async {
        let address = config.address;
        let listener = listen(address, config.patience).map_err(|reason| ServeError::Bind { address, reason })?;
        listening(listener.local_addr()?);
        let (end, ending) = watch::channel(false);
        let app = App::new(recognizer, pool, config, ending);
        connections::serve(listener, Arc::new(app), end).await;
        Ok(())
    })
}

fn listen(address: SocketAddr, patience: Patience) -> std::io::Result<tokio::net::TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // On Windows this would let two servers have one address.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    // Connections inherit it.
    socket.set_send_buffer_size(patience.send_buffer)?;
    socket.bind(address)?;
    socket.listen(READY)
}
