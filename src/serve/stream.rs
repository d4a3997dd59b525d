//! `GET /v1/stream`: a live stream over a WebSocket.

use super::App;
use super::access::Peer;
use super::protocol::{Encoding, Say, Tell, samples};
use super::socket::{self, Dialogue, Socket, Upgrade, converse};
use crate::audio::{EndpointConfig, Resampler};
use crate::live::{Event, LiveConfig, LiveSession};
use axum::extract::{Extension, State};
use axum::response::Response;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const PROTOCOL: &str = "aurist.v1";

/// The handler.
pub(super) async fn upgrade(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    upgrade: Upgrade,
) -> Response {
    socket::open(app, &peer, upgrade, PROTOCOL, run)
}

/// A stream from its start to its end, of which it tells how.
async fn run(app: Arc<App>, mut socket: Socket) -> &'static str {
    let Some(text) = socket.first_text(app.config.patience.head).await else {
        socket.close(&app, Err("no start")).await;
        return "no start";
    };
    let (mut captions, mut events) = match Captions::begin(&app, &text) {
        Ok(begun) => begun,
        Err(message) => {
            let _ = socket.send(Tell::Error { message: &message }.text()).await;
            socket.close(&app, Err("refused")).await;
            return "refused";
        }
    };
    let ready = vec![captions.ready()];
    let mut ended = converse(&app, &mut socket, &mut captions, &mut events, ready).await;
    if ended.is_ok() {
        let seconds = captions.session.clock();
        let done = socket.send(Tell::Done { seconds }.text()).await;
        ended = done.and(ended);
    }
    socket.close(&app, ended).await;
    ended.unwrap_or_else(|reason| reason)
}

/// The protocol that docs/server.md describes.
struct Captions {
    app: Arc<App>,
    session: LiveSession,
    format: Format,
    /// No more sound is taken.
    finishing: bool,
}

/// What binary messages hold.
struct Format {
    encoding: Encoding,
    channels: u16,
    resampler: Resampler,
}

impl Captions {
    /// What a first message asks for.
    fn begin(app: &Arc<App>, text: &str) -> Result<(Self, UnboundedReceiver<Event>), String> {
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
        let settings = app.adaptation(&adapt).map_err(|error| error.message)?;
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
        let captions = Self {
            app: Arc::clone(app),
            session,
            format,
            finishing: false,
        };
        Ok((captions, events))
    }

    fn ready(&self) -> String {
        let settings = self.session.adaptation();
        let model = self.app.recognizer.info();
        Tell::Ready {
            model,
            settings: &settings,
        }
        .text()
    }

    /// The answer to a message, where it has one.
    fn answer(&mut self, said: Say) -> Result<Option<String>, String> {
        match said {
            Say::Start { .. } => return Err("the stream has started".into()),
            Say::Adapt { adapt } => {
                let settings = self.app.adaptation(&adapt).map_err(|error| error.message)?;
                self.session.set_adaptation(settings);
                return Ok(Some(self.ready()));
            }
            Say::Reset => {
                self.session.reset();
                return Ok(Some(self.ready()));
            }
            Say::SaveProfile { name } => {
                let state = self.session.state();
                let state =
                    state.ok_or("nothing is carried yet: adapt with csuta, dsuta, replay, awmc or guarded first")?;
                self.app.profiles.save(&name, &state)?;
                return Ok(Some(Tell::Saved { name: &name }.text()));
            }
            Say::Gap { seconds } if (0.0..=86_400.0).contains(&seconds) => self.session.gap(seconds),
            Say::Gap { .. } => return Err("`seconds` is from 0 to 86400".into()),
            Say::Finish => self.end(),
        }
        Ok(None)
    }

    fn end(&mut self) {
        if !self.finishing {
            self.finishing = true;
            if let Ok(rest) = self.format.resampler.finish() {
                self.session.push(&rest);
            }
            self.session.end();
        }
    }
}

impl Dialogue for Captions {
    fn session(&self) -> &LiveSession {
        &self.session
    }

    fn text(&mut self, text: &str, say: &mut Vec<String>) -> Result<(), &'static str> {
        let said = serde_json::from_str(text).map_err(|error| format!("not understood: {error}"));
        let answer = said.and_then(|said| self.answer(said));
        say.extend(answer.unwrap_or_else(|message| Some(Tell::Error { message: &message }.text())));
        Ok(())
    }

    fn binary(&mut self, bytes: &[u8], say: &mut Vec<String>) -> Result<(), &'static str> {
        if self.finishing {
            return Ok(());
        }
        match samples(bytes, self.format.encoding, self.format.channels) {
            Some(samples) => {
                let samples = self.format.resampler.push(&samples).map_err(|_| "resampling")?;
                self.session.push(&samples);
            }
            None => {
                let message = "a binary message is a whole number of frames";
                say.push(Tell::Error { message }.text());
            }
        }
        Ok(())
    }

    fn event(&mut self, event: &Event, say: &mut Vec<String>) {
        say.push(Tell::Event(event).text());
    }

    fn finish(&mut self, _: &mut Vec<String>) {
        self.end();
    }

    fn is_finishing(&self) -> bool {
        self.finishing
    }

    fn settled(&mut self, _: &mut Vec<String>) {}
}
