//! A live stream's WebSocket, whatever is spoken on it: who gets one, time limits, pings, what waits for what, and how it
//! ends.

use super::App;
use super::access::Peer;
use super::error::ApiError;
use super::pace::Pace;
use crate::live::{Event, LiveSession};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;

/// A message's bytes at most: five seconds of 48 kHz stereo in f32.
const MOST_MESSAGE: usize = 2 << 20;
/// Events that may wait to be sent; a client that reads slowly is not listened to meanwhile.
const MOST_EVENTS: usize = 64;
/// How often it is looked at whether a stream has ended, or there is room again.
const TICK: Duration = Duration::from_millis(50);

/// A request for a WebSocket, or what is wrong with it.
pub(super) type Upgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// How a stream ended: as its client wanted it, or before.
pub(super) type Ended = Result<&'static str, &'static str>;

const TOO_LONG: &str = "a message is longer than 2 MiB";

/// Opens a live stream for a client, if there is a place. `run` tells how it ended.
pub(super) fn open<F, R>(app: Arc<App>, peer: &Peer, upgrade: Upgrade, protocol: &'static str, run: F) -> Response
where
    F: FnOnce(Arc<App>, Socket) -> R + Send + 'static,
    R: Future<Output = &'static str> + Send,
{
    let Ok(upgrade) = upgrade else {
        return ApiError::invalid("upgrade", "this address is for WebSockets").into_response();
    };
    if *app.ending.borrow() {
        return ApiError::unavailable("The server is ending").into_response();
    }
    let Ok(permit) = Arc::clone(&app.streams).try_acquire_owned() else {
        app.metrics.refused(StatusCode::TOO_MANY_REQUESTS);
        return ApiError::busy("Too many live streams already", 10).into_response();
    };
    // From here on the limit on writing is `Socket::send`'s.
    peer.patient.set();
    upgrade
        .protocols([protocol])
        .max_message_size(MOST_MESSAGE)
        .max_frame_size(MOST_MESSAGE)
        .on_upgrade(move |inner| async move {
            app.metrics.stream(1);
            let begun = Instant::now();
            let pace = Pace::new(app.config.patience.stall);
            let ended = run(Arc::clone(&app), Socket { inner, pace }).await;
            app.metrics.stream(-1);
            tracing::info!(seconds = begun.elapsed().as_secs_f64(), ended, protocol, "stream");
            drop(permit);
        })
}

/// The connection.
pub(super) struct Socket {
    inner: WebSocket,
    pace: Pace,
}

impl Socket {
    /// The first text message; `None` where something else came, or nothing in time.
    pub(super) async fn first_text(&mut self, time: Duration) -> Option<String> {
        let first = async {
            loop {
                match self.inner.recv().await?.ok()? {
                    Message::Text(text) => return Some(text.to_string()),
                    Message::Ping(_) | Message::Pong(_) => {}
                    Message::Binary(_) | Message::Close(_) => return None,
                }
            }
        };
        tokio::time::timeout(time, first).await.ok()?
    }

    async fn recv(&mut self) -> Result<Message, &'static str> {
        match self.inner.recv().await {
            Some(Ok(message)) => Ok(message),
            Some(Err(error)) if error.to_string().contains("too long") => Err(TOO_LONG),
            Some(Err(_)) | None => Err("connection lost"),
        }
    }

    pub(super) async fn send(&mut self, text: String) -> Result<(), &'static str> {
        self.send_message(Message::Text(text.into())).await
    }

    async fn send_message(&mut self, message: Message) -> Result<(), &'static str> {
        let bytes = match &message {
            Message::Text(text) => text.len(),
            _ => 0,
        };
        match self.pace.within(self.inner.send(message)).await {
            Ok(Ok(())) => {
                self.pace.moved(bytes);
                Ok(())
            }
            Ok(Err(_)) => Err("connection lost"),
            Err(_) => Err("the client does not read"),
        }
    }

    /// Says goodbye; a client that does not read has as long to come round as it had to read.
    pub(super) async fn close(mut self, app: &App, ended: Ended) {
        let code = match ended {
            Ok(_) => close_code::NORMAL,
            Err(TOO_LONG) => close_code::SIZE,
            Err(_) => close_code::POLICY,
        };
        let reason = ended.unwrap_or_else(|reason| reason);
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        self.pace = Pace::new(app.config.patience.stall);
        let _ = self.send_message(Message::Close(Some(frame))).await;
    }
}

/// What is spoken on a live stream. What it has to say it adds to `say`, messages of text that are sent in this order.
pub(super) trait Dialogue: Send {
    /// The stream.
    fn session(&self) -> &LiveSession;

    /// A text message came; an error ends the stream.
    fn text(&mut self, text: &str, say: &mut Vec<String>) -> Result<(), &'static str>;

    /// A binary message came.
    fn binary(&mut self, bytes: &[u8], say: &mut Vec<String>) -> Result<(), &'static str>;

    /// Something was recognised.
    fn event(&mut self, event: &Event, say: &mut Vec<String>);

    /// No more sound is taken, and what was heard is finished; may be called again.
    fn finish(&mut self, say: &mut Vec<String>);

    /// Whether [`Dialogue::finish`] was called, by whomever.
    fn is_finishing(&self) -> bool;

    /// Everything asked for so far is done, and all its events were told. Called often.
    fn settled(&mut self, say: &mut Vec<String>);
}

/// Speaks until the stream ends.
pub(super) async fn converse(
    app: &App,
    socket: &mut Socket,
    dialogue: &mut impl Dialogue,
    events: &mut UnboundedReceiver<Event>,
    mut say: Vec<String>,
) -> Ended {
    let mut ending = app.ending.clone();
    let mut ping = tokio::time::interval(app.config.patience.ping);
    ping.reset();
    let mut unanswered = 0;
    loop {
        // In this order: an event is told before its task is done.
        let settled = dialogue.session().is_idle() && events.is_empty();
        if settled {
            dialogue.settled(&mut say);
        }
        for text in say.drain(..) {
            socket.send(text).await?;
        }
        let finishing = dialogue.is_finishing();
        if settled && finishing {
            return Ok("finished");
        }
        // While recognition, or the client's reading, is behind, nothing is read: its sound waits where it is.
        let room = (finishing || dialogue.session().has_room()) && events.len() < MOST_EVENTS;
        tokio::select! {
            Some(event) = events.recv() => {
                count(app, &event);
                dialogue.event(&event, &mut say);
            }
            message = socket.recv(), if room => {
                let message = message?;
                // Whoever sends is there.
                unanswered = 0;
                match message {
                    Message::Text(text) => dialogue.text(&text, &mut say)?,
                    Message::Binary(bytes) => dialogue.binary(&bytes, &mut say)?,
                    Message::Close(_) => return Err("closed by the client"),
                    Message::Ping(_) | Message::Pong(_) => {}
                }
            }
            _ = ending.changed(), if !finishing => dialogue.finish(&mut say),
            _ = ping.tick() => {
                unanswered += 1;
                if unanswered > 3 {
                    return Err("no answer to pings");
                }
                socket.send_message(Message::Ping(Vec::new().into())).await?;
            }
            () = tokio::time::sleep(TICK), if finishing || !room || !settled => {}
        }
    }
}

fn count(app: &App, event: &Event) {
    match event {
        Event::Final(is_final) => {
            app.metrics.utterance(is_final.end - is_final.start);
            app.metrics.final_after(is_final.delay);
        }
        Event::Revision(revision) => {
            app.metrics.revision_after(revision.delay, revision.skipped.is_some());
            if app.config.log_text {
                tracing::info!(text = revision.result.text, start = revision.result.start, "utterance");
            }
        }
        Event::Partial(_) | Event::Failed { .. } => {}
    }
}
