//! Connections: so many at a time, each with little time to say what it wants, and a shutdown that finishes what was
//! begun.

use super::App;
use super::access::{Patient, Peer};
use super::pace::Paced;
use axum::Extension;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// Bytes of a request's head at most.
const HEADER_BYTES: usize = 32 * 1024;
/// After the system refuses a connection (no descriptors left, say).
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until the process is asked to end.
pub(super) async fn serve(listener: TcpListener, app: Arc<App>, end: watch::Sender<bool>) {
    let routes = super::routes::routes(Arc::clone(&app));
    let connections = Arc::new(Semaphore::new(app.config.most_connections));
    let mut asked = std::pin::pin!(asked_to_end(app.config.signals));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut asked => break,
        };
        let Ok((socket, peer)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Full: closed at once, so that the client knows and those inside are not disturbed.
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            app.metrics.connection_refused();
            continue;
        };
        let _ = socket.set_nodelay(true);
        let (patience, patient) = (app.config.patience, Patient::default());
        let peer = Peer {
            ip: peer.ip(),
            patient: patient.clone(),
        };
        let service = TowerToHyperService::new(routes.clone().layer(Extension(peer)));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(patience.head)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(Paced::new(socket, patience.stall, patient)), service)
            .with_upgrades();
        let app = Arc::clone(&app);
        let mut ending = app.ending.clone();
        tokio::spawn(async move {
            app.metrics.connection(1);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                _ = ending.changed() => {
                    // A request that was begun is answered; after it, or without one, the connection is closed.
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            app.metrics.connection(-1);
            if ended.is_err_and(|error| is_slow(&error)) {
                app.metrics.connection_slow();
            }
            drop(permit);
        });
    }
    tracing::info!("ending: finishing what was begun");
    drop(listener);
    let _ = end.send(true);
    let finished = async {
        let _ = connections.acquire_many(permits(app.config.most_connections)).await;
        // Live streams end by themselves, each after its last utterance.
        let _ = app.streams.acquire_many(permits(app.config.most_streams)).await;
    };
    tokio::select! {
        ended = tokio::time::timeout(app.config.timeout, finished) => {
            if ended.is_err() {
                tracing::warn!("ended before all was finished");
            }
        }
        () = asked_to_end(app.config.signals) => tracing::warn!("ended at once, as asked"),
    }
}

/// Whether a connection ended because its peer took too long to send a head, or to read.
fn is_slow(error: &hyper::Error) -> bool {
    let reason = std::error::Error::source(error).and_then(|reason| reason.downcast_ref::<std::io::Error>());
    error.is_timeout() || reason.is_some_and(|reason| reason.kind() == std::io::ErrorKind::TimedOut)
}

/// All of a semaphore's.
fn permits(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

async fn asked_to_end(by_signals: bool) {
    if !by_signals {
        return std::future::pending().await;
    }
    #[cfg(unix)]
    {
        let terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        if let Ok(mut terminated) = terminated {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
