//! Connections: so many at a time, each with little time to say what it wants, and a shutdown that finishes what was
//! begun.

use super::App;
use super::access::Peer;
use axum::Extension;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// How long a client may take to send a request's head, and may keep silent between two requests.
const HEADER_TIME: Duration = Duration::from_secs(15);
/// Bytes of a request's head at most.
const HEADER_BYTES: usize = 32 * 1024;
/// After the system refuses a connection (no descriptors left, say).
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until the process is asked to end.
pub(super) async fn serve(listener: TcpListener, app: Arc<App>, end: watch::Sender<bool>) {
    let routes = super::routes::routes(Arc::clone(&app));
    let connections = Arc::new(Semaphore::new(app.config.most_connections));
    let mut asked = std::pin::pin!(asked_to_end());
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
        let service = TowerToHyperService::new(routes.clone().layer(Extension(Peer(peer.ip()))));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(HEADER_BYTES)
            .serve_connection(TokioIo::new(socket), service)
            .with_upgrades();
        // A client that reads its answer byte by byte ends here at the latest; a live stream is no longer hyper's.
        let longest = app.config.timeout + 4 * HEADER_TIME;
        let app = Arc::clone(&app);
        let mut ending = app.ending.clone();
        tokio::spawn(async move {
            app.metrics.connection(1);
            let mut connection = std::pin::pin!(connection);
            let served = async {
                tokio::select! {
                    _ = connection.as_mut() => return,
                    _ = ending.changed() => {}
                }
                // A request that was begun is answered; after it, or without one, the connection is closed.
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            };
            let _ = tokio::time::timeout(longest, served).await;
            app.metrics.connection(-1);
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
        () = asked_to_end() => tracing::warn!("ended at once, as asked"),
    }
}

/// All of a semaphore's.
fn permits(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

async fn asked_to_end() {
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
