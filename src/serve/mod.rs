//! The server: transcription over HTTP as OpenAI's clients speak it, live captions over WebSocket, and a page.
//!
//! Nothing of a request is ever a path. Every queue is bounded, and everything a peer may be slow at has a time limit.

mod access;
mod connections;
mod error;
mod form;
mod job;
mod metrics;
mod page;
mod profiles;
mod protocol;
mod routes;
mod settings;
mod stream;
mod transcriptions;

use crate::Recognizer;
use crate::live::Pool;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

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
}

/// What all requests share.
struct App {
    recognizer: Recognizer,
    pool: Pool,
    config: ServeConfig,
    requests: Arc<Semaphore>,
    streams: Arc<Semaphore>,
    metrics: metrics::Metrics,
    rates: access::Rates,
    profiles: profiles::Profiles,
    /// Becomes true when the server is to end.
    ending: watch::Receiver<bool>,
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

/// Serves until Ctrl-C (or SIGTERM), then finishes what was begun. `listening` is told the address once it is open.
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
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .map_err(|reason| ServeError::Bind { address, reason })?;
        listening(listener.local_addr()?);
        let (end, ending) = watch::channel(false);
        let app = Arc::new(App {
            requests: Arc::new(Semaphore::new(config.most_requests)),
            streams: Arc::new(Semaphore::new(config.most_streams)),
            metrics: metrics::Metrics::default(),
            rates: access::Rates::new(config.rate),
            profiles: profiles::Profiles::new(config.profiles.clone()),
            recognizer,
            pool,
            config,
            ending,
        });
        connections::serve(listener, app, end).await;
        Ok(())
    })
}
