//! `GET /v1/stream`: a live stream over a WebSocket.

use super::App;
use super::error::ApiError;
use super::protocol::{Encoding, Say, Tell, samples};
use crate::audio::{EndpointConfig, Resampler};
use crate::live::{Event, LiveConfig, LiveSession};
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// A message's bytes at most: five seconds of 48 kHz stereo in f32.
const MOST_MESSAGE: usize = 2 << 20;
/// How long a client may take to say `start`.
const START_TIME: Duration = Duration::from_secs(15);
/// How long a client that does not read is waited for.
const SEND_TIME: Duration = Duration::from_secs(15);
/// A ping goes out this often; whoever does not answer for three of them is gone.
const PING_TIME: Duration = Duration::from_secs(20);
/// How often it is looked at whether a stream has ended, or there is room again.
const TICK: Duration = Duration::from_millis(50);
const PROTOCOL: &str = "aurist.v1";

/// The handler.
pub(super) async fn upgrade(
    State(app): State<Arc<App>>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let Ok(upgrade) = upgrade else {
        return ApiError::invalid("upgrade", "this address is for WebSockets").into_response();
    };
    if *app.ending.borrow() {
        return ApiError::unavailable("The server is ending").into_response();
    }
    let Ok(permit) = Arc::clone(&app.streams).try_acquire_owned() else {
        app.metrics.refused(axum::http::StatusCode::TOO_MANY_REQUESTS);
        return ApiError::busy("Too many live streams already", 10).into_response();
    };
    upgrade
        .protocols([PROTOCOL])
        .max_message_size(MOST_MESSAGE)
        .max_frame_size(MOST_MESSAGE)
        .on_upgrade(move |socket| async move {
            app.metrics.stream(1);
            let begun = Instant::now();
            let ended = run(&app, socket).await;
            app.metrics.stream(-1);
            tracing::info!(seconds = begun.elapsed().as_secs_f64(), ended, "stream");
            drop(permit);
        })
}

/// A stream from its start to its end, of which it tells how.
async fn run(app: &App, mut socket: WebSocket) -> &'static str {
    let first = tokio::time::timeout(START_TIME, first_text(&mut socket)).await;
    let Ok(Some(text)) = first else { return "no start" };
    let mut stream = match Stream::parts(app, &text) {
        Ok((session, events, format)) => Stream {
            app,
            socket,
            session,
            events,
            format,
            ending: false,
            unanswered: 0,
        },
        Err(message) => {
            let _ = tokio::time::timeout(SEND_TIME, refuse(&mut socket, &message)).await;
            return "refused";
        }
    };
    let ended = stream.run().await;
    stream.close(ended).await;
    ended.unwrap_or_else(|reason| reason)
}

async fn first_text(socket: &mut WebSocket) -> Option<String> {
    loop {
        match socket.recv().await?.ok()? {
            Message::Text(text) => return Some(text.to_string()),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Binary(_) | Message::Close(_) => return None,
        }
    }
}

async fn refuse(socket: &mut WebSocket, message: &str) -> Result<(), axum::Error> {
    let error = serde_json::to_string(&Tell::Error { message }).unwrap_or_default();
    socket.send(Message::Text(error.into())).await?;
    socket.send(closing(close_code::POLICY, "refused")).await
}

fn closing(code: u16, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame {
        code,
        reason: reason.into(),
    }))
}

struct Stream<'a> {
    app: &'a App,
    socket: WebSocket,
    session: LiveSession,
    events: UnboundedReceiver<Event>,
    format: Format,
    /// No more sound is taken.
    ending: bool,
    unanswered: u32,
}

/// What binary messages hold.
struct Format {
    encoding: Encoding,
    channels: u16,
    resampler: Resampler,
}

/// Why a stream ends before its client wants it to.
type Ended = Result<&'static str, &'static str>;

impl Stream<'_> {
    fn parts(app: &App, text: &str) -> Result<(LiveSession, UnboundedReceiver<Event>, Format), String> {
        let say = serde_json::from_str(text).map_err(|error| format!("the first message is `start`: {error}"))?;
        let Say::Start {
            sample_rate,
            channels,
            encoding,
            adapt,
            partial_interval,
            hang_over,
            longest,
            latency,
            profile,
        } = say
        else {
            return Err("the first message is `start`".into());
        };
        if !(8_000..=192_000).contains(&sample_rate) || !(1..=8).contains(&channels) {
            return Err("`sample_rate` is from 8000 to 192000, `channels` from 1 to 8".into());
        }
        let plain = [partial_interval, hang_over, longest, latency];
        if plain.iter().any(|value| !(0.0..=3600.0).contains(value)) {
            return Err("times are seconds, from 0 to 3600".into());
        }
        app.recognizer.check_live().map_err(|error| error.to_string())?;
        let settings = adapt
            .settings(&app.recognizer.default_adaptation())
            .map_err(|error| error.message)?;
        let config = LiveConfig {
            endpoint: EndpointConfig {
                hang_over,
                longest,
                ..EndpointConfig::default()
            },
            // More than five a second would only take from the others.
            partial_interval: if partial_interval > 0.0 {
                partial_interval.max(0.2)
            } else {
                f64::INFINITY
            },
            latency,
            ..LiveConfig::new(settings)
        };
        let resampler = Resampler::new(sample_rate).map_err(|error| error.to_string())?;
        let (send, events) = unbounded_channel();
        let mut session = LiveSession::new(&app.pool, config, move |event| {
            let _ = send.send(event);
        });
        if let Some(name) = profile {
            session
                .resume(app.profiles.load(&name)?)
                .map_err(|error| error.to_string())?;
        }
        let format = Format {
            encoding,
            channels,
            resampler,
        };
        Ok((session, events, format))
    }

    async fn run(&mut self) -> Ended {
        self.ready().await?;
        let mut ending = self.app.ending.clone();
        let mut ping = tokio::time::interval(PING_TIME);
        ping.reset();
        loop {
            if self.ending && self.session.is_idle() && self.events.is_empty() {
                let seconds = self.session.clock();
                self.tell(&Tell::Done { seconds }).await?;
                return Ok("finished");
            }
            // While recognition is behind nothing is read: the client's sound waits where it is.
            let room = self.ending || self.session.has_room();
            tokio::select! {
                Some(event) = self.events.recv() => self.event(&event).await?,
                message = self.socket.recv(), if room => match message {
                    Some(Ok(message)) => self.message(message).await?,
                    _ => return Err("connection lost"),
                },
                _ = ending.changed(), if !self.ending => self.finish(),
                _ = ping.tick() => {
                    self.unanswered += 1;
                    if self.unanswered > 3 {
                        return Err("no answer to pings");
                    }
                    self.send(Message::Ping(Vec::new().into())).await?;
                }
                () = tokio::time::sleep(TICK), if self.ending || !room => {}
            }
        }
    }

    async fn message(&mut self, message: Message) -> Result<(), &'static str> {
        // Whoever sends is there.
        self.unanswered = 0;
        match message {
            Message::Binary(_) if self.ending => Ok(()),
            Message::Binary(bytes) => match samples(&bytes, self.format.encoding, self.format.channels) {
                Some(samples) => {
                    let samples = self.format.resampler.push(&samples).map_err(|_| "resampling")?;
                    self.session.push(&samples);
                    Ok(())
                }
                None => self.error("a binary message is a whole number of frames").await,
            },
            Message::Text(text) => match serde_json::from_str(&text) {
                Ok(say) => self.say(say).await,
                Err(error) => self.error(&format!("not understood: {error}")).await,
            },
            Message::Close(_) => Err("closed by the client"),
            Message::Ping(_) | Message::Pong(_) => Ok(()),
        }
    }

    async fn say(&mut self, say: Say) -> Result<(), &'static str> {
        match say {
            Say::Start { .. } => self.error("the stream has started").await,
            Say::Adapt { adapt } => match adapt.settings(&self.app.recognizer.default_adaptation()) {
                Ok(settings) => {
                    self.session.set_adaptation(settings);
                    self.ready().await
                }
                Err(error) => self.error(&error.message).await,
            },
            Say::Reset => {
                self.session.reset();
                self.ready().await
            }
            Say::SaveProfile { name } => {
                let state = self
                    .session
                    .state()
                    .ok_or("nothing is carried yet: adapt with csuta, dsuta, replay, awmc or guarded first");
                let saved = state
                    .map_err(String::from)
                    .and_then(|state| self.app.profiles.save(&name, &state));
                match saved {
                    Ok(()) => self.tell(&Tell::Saved { name: &name }).await,
                    Err(message) => self.error(&message).await,
                }
            }
            Say::Gap { seconds } if (0.0..=86_400.0).contains(&seconds) => {
                self.session.gap(seconds);
                Ok(())
            }
            Say::Gap { .. } => self.error("`seconds` is from 0 to 86400").await,
            Say::Finish => {
                self.finish();
                Ok(())
            }
        }
    }

    fn finish(&mut self) {
        if !self.ending {
            self.ending = true;
            if let Ok(rest) = self.format.resampler.finish() {
                self.session.push(&rest);
            }
            self.session.end();
        }
    }

    async fn event(&mut self, event: &Event) -> Result<(), &'static str> {
        let metrics = &self.app.metrics;
        match event {
            Event::Final(is_final) => {
                metrics.utterance(is_final.end - is_final.start);
                metrics.final_after(is_final.delay);
            }
            Event::Revision(revision) => {
                metrics.revision_after(revision.delay, revision.skipped.is_some());
                if self.app.config.log_text {
                    tracing::info!(text = revision.result.text, start = revision.result.start, "utterance");
                }
            }
            Event::Partial(_) | Event::Failed { .. } => {}
        }
        self.tell(&Tell::Event(event)).await
    }

    async fn ready(&mut self) -> Result<(), &'static str> {
        let settings = self.session.adaptation();
        let model = self.app.recognizer.info();
        self.tell(&Tell::Ready {
            model,
            settings: &settings,
        })
        .await
    }

    async fn error(&mut self, message: &str) -> Result<(), &'static str> {
        self.tell(&Tell::Error { message }).await
    }

    async fn tell(&mut self, tell: &Tell<'_>) -> Result<(), &'static str> {
        let text = serde_json::to_string(tell).map_err(|_| "a message that cannot be written")?;
        self.send(Message::Text(text.into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), &'static str> {
        match tokio::time::timeout(SEND_TIME, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("connection lost"),
            Err(_) => Err("the client does not read"),
        }
    }

    async fn close(mut self, ended: Ended) {
        let code = if ended.is_ok() {
            close_code::NORMAL
        } else {
            close_code::POLICY
        };
        let _ = self.send(closing(code, ended.unwrap_or_else(|reason| reason))).await;
    }
}
