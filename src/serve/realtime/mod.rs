//! `GET /v1/realtime`: OpenAI's Realtime protocol, as far as it transcribes; docs/server.md describes what of it is here.

mod items;
mod settings;
#[cfg(all(test, feature = "bundled-model"))]
mod tests;

use super::App;
use super::access::Peer;
use super::error::ApiError;
use super::protocol::samples;
use super::socket::{self, Dialogue, Socket, Upgrade, converse};
use crate::audio::{ENDPOINT_FRAME, Resampler};
use crate::live::{Event, LiveConfig, LiveSession};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use items::{Items, News};
use serde::Deserialize;
use serde_json::{Value, json};
use settings::Settings;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

const PROTOCOL: &str = "realtime";
/// Seconds that may wait to be committed.
const MOST_UNCOMMITTED: f64 = 3600.0;
/// Characters of a client's event_id that are repeated.
const MOST_ID: usize = 512;

#[derive(Deserialize)]
pub(super) struct Asked {
    model: Option<String>,
}

/// The handler.
pub(super) async fn upgrade(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    asked: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
    upgrade: Upgrade,
) -> Response {
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(error) => return ApiError::invalid("model", error).into_response(),
    };
    if let Some(model) = asked.model.filter(|model| !app.is_model(model)) {
        return ApiError::no_model(&model.chars().take(80).collect::<String>()).into_response();
    }
    if let Err(error) = app.recognizer.check_live() {
        return ApiError::invalid("model", error).into_response();
    }
    let is_beta = asks_for_beta(&headers);
    socket::open(app, &peer, upgrade, PROTOCOL, move |app, socket| {
        run(app, socket, is_beta)
    })
}

/// Whether the client speaks the protocol as it was before its release.
fn asks_for_beta(headers: &HeaderMap) -> bool {
    let has = |name: &str, what: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.into_iter().any(|value| value.contains(what))
    };
    has("openai-beta", "realtime=v1") || has(header::SEC_WEBSOCKET_PROTOCOL.as_str(), "openai-beta.realtime-v1")
}

async fn run(app: Arc<App>, mut socket: Socket, is_beta: bool) -> &'static str {
    let (mut realtime, mut events) = match Realtime::new(&app, is_beta) {
        Ok(begun) => begun,
        Err(reason) => {
            socket.close(&app, Err(reason)).await;
            return reason;
        }
    };
    let created = realtime.created();
    let ended = converse(&app, &mut socket, &mut realtime, &mut events, vec![created]).await;
    socket.close(&app, ended).await;
    ended.unwrap_or_else(|reason| reason)
}

/// One session.
struct Realtime {
    app: Arc<App>,
    id: String,
    is_beta: bool,
    session: LiveSession,
    settings: Settings,
    resampler: Resampler,
    items: Items,
    /// Utterances that have ended, as far as the client was told.
    ended: u64,
    /// Where the one after them has begun.
    begun: Option<f64>,
    /// Seconds of sound since the last item.
    uncommitted: f64,
    /// Events told.
    told: u64,
    finishing: bool,
}

/// What is wrong with a message.
struct Refused {
    param: Option<&'static str>,
    code: Option<&'static str>,
    message: String,
}

impl Refused {
    fn new(code: &'static str, message: impl ToString) -> Self {
        Self {
            param: None,
            code: Some(code),
            message: message.to_string(),
        }
    }

    fn of(param: &'static str, message: impl ToString) -> Self {
        Self {
            param: Some(param),
            ..Self::new("invalid_value", message)
        }
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self {
            param: error.param,
            code: error.code.or(Some("invalid_value")),
            message: error.message,
        }
    }
}

impl Realtime {
    fn new(app: &Arc<App>, is_beta: bool) -> Result<(Self, UnboundedReceiver<Event>), &'static str> {
        let settings = Settings::new(app);
        let config = LiveConfig {
            endpoint: settings.endpoint(),
            ..LiveConfig::new(app.recognizer.default_adaptation())
        };
        let resampler = Resampler::new(settings.rate).map_err(|_| "resampling")?;
        let (send, events) = unbounded_channel();
        let session = LiveSession::new(&app.pool, config, move |event| {
            let _ = send.send(event);
        });
        let name = format!("{:016x}", fastrand::u64(..));
        let realtime = Self {
            app: Arc::clone(app),
            id: format!("sess_{name}"),
            is_beta,
            session,
            settings,
            resampler,
            items: Items::new(format!("item_{name}")),
            ended: 0,
            begun: None,
            uncommitted: 0.0,
            told: 0,
            finishing: false,
        };
        Ok((realtime, events))
    }

    fn created(&mut self) -> String {
        self.session_event("created")
    }

    /// `session.created` or `session.updated`.
    fn session_event(&mut self, what: &str) -> String {
        if self.is_beta {
            let session = self.settings.shown_beta(&self.id);
            self.message(&format!("transcription_session.{what}"), json!({ "session": session }))
        } else {
            let session = self.settings.shown(&self.id);
            self.message(&format!("session.{what}"), json!({ "session": session }))
        }
    }

    /// An event as it is sent, with a name of its own.
    fn message(&mut self, kind: &str, mut fields: Value) -> String {
        self.told += 1;
        fields["type"] = kind.into();
        fields["event_id"] = format!("event_{}_{}", &self.id[5..], self.told).into();
        fields.to_string()
    }

    fn refuse(&mut self, refused: &Refused, event_id: Option<&str>) -> String {
        let event_id = event_id.map(|id| id.chars().take(MOST_ID).collect::<String>());
        let error = json!({
            "type": "invalid_request_error", "code": refused.code, "message": refused.message,
            "param": refused.param, "event_id": event_id,
        });
        self.message("error", json!({ "error": error }))
    }

    fn hear(&mut self, event: &Value, say: &mut Vec<String>) -> Result<(), Refused> {
        match event["type"].as_str() {
            Some("input_audio_buffer.append") => self.append(&event["audio"], say),
            Some("input_audio_buffer.commit") => self.commit_by_hand(say),
            Some("input_audio_buffer.clear") => {
                self.clear()?;
                say.push(self.message("input_audio_buffer.cleared", json!({})));
                Ok(())
            }
            Some("session.update") => {
                let new = self.settings.updated(&self.app, &event["session"])?;
                self.update(new, say)
            }
            Some("transcription_session.update") => {
                let new = self.settings.updated_beta(&self.app, &event["session"])?;
                self.is_beta = true;
                self.update(new, say)
            }
            Some(kind) => {
                let kind: String = kind.chars().take(80).collect();
                Err(Refused::of(
                    "type",
                    format!("this server only transcribes: it does not know `{kind}`"),
                ))
            }
            None => Err(Refused::of("type", "an event needs a `type`")),
        }
    }

    fn append(&mut self, audio: &Value, say: &mut Vec<String>) -> Result<(), Refused> {
        if self.finishing {
            return Ok(());
        }
        let audio = audio.as_str().and_then(|audio| BASE64_STANDARD.decode(audio).ok());
        let audio = audio.ok_or_else(|| Refused::of("audio", "`audio` is base64"))?;
        let heard = samples(&audio, self.settings.encoding, 1);
        let heard = heard.ok_or_else(|| Refused::of("audio", "`audio` is a whole number of samples"))?;
        let seconds = heard.len() as f64 / f64::from(self.settings.rate);
        if self.settings.turns.is_none() && self.uncommitted + seconds > MOST_UNCOMMITTED {
            let message = format!("over {MOST_UNCOMMITTED} s are not committed: commit or clear them");
            return Err(Refused::new("input_audio_buffer_full", message));
        }
        self.uncommitted += seconds;
        let heard = self.resampler.push(&heard).map_err(|error| broken(&error))?;
        self.push(&heard, say);
        Ok(())
    }

    /// What the resampler still holds of the sound so far.
    fn flush(&mut self, say: &mut Vec<String>) -> Result<(), Refused> {
        let rest = self.resampler.finish().map_err(|error| broken(&error))?;
        self.resampler = Resampler::new(self.settings.rate).map_err(|error| broken(&error))?;
        self.push(&rest, say);
        Ok(())
    }

    fn push(&mut self, samples: &[f32], say: &mut Vec<String>) {
        // As much at once as can begin or end one utterance.
        for piece in samples.chunks(ENDPOINT_FRAME) {
            self.session.push(piece);
            self.follow(say);
        }
    }

    /// Tells where utterances began and ended.
    fn follow(&mut self, say: &mut Vec<String>) {
        let heard = self.session.heard();
        let ms = |seconds: f64| (1000.0 * seconds).round() as u64;
        let by_server = self.settings.turns.is_some();
        if heard.ended > self.ended {
            self.ended = heard.ended;
            let begun = self.begun.take().unwrap_or(heard.last_end);
            if by_server {
                let fields = json!({ "audio_end_ms": ms(heard.last_end), "item_id": self.items.open() });
                say.push(self.message("input_audio_buffer.speech_stopped", fields));
                self.commit(heard.last_end - begun, say);
            }
        }
        if let Some(start) = heard.open
            && self.begun.is_none()
        {
            self.begun = Some(start);
            self.items.begin(self.ended + 1, by_server);
            if by_server {
                let fields = json!({ "audio_start_ms": ms(start), "item_id": self.items.open() });
                say.push(self.message("input_audio_buffer.speech_started", fields));
            }
        }
    }

    /// Makes an item of the sound since the last one, of which so many seconds count.
    fn commit(&mut self, seconds: f64, say: &mut Vec<String>) {
        self.uncommitted = 0.0;
        let committed = self.items.commit(seconds);
        let (item, previous) = (committed.item, committed.previous);
        let fields = json!({ "item_id": item, "previous_item_id": previous });
        say.push(self.message("input_audio_buffer.committed", fields));
        let item = json!({
            "id": item, "object": "realtime.item", "type": "message", "status": "completed", "role": "user",
            "content": [{ "type": "input_audio", "transcript": null }],
        });
        let fields = json!({ "item": item, "previous_item_id": previous });
        if self.is_beta {
            say.push(self.message("conversation.item.created", fields));
        } else {
            say.push(self.message("conversation.item.added", fields.clone()));
            say.push(self.message("conversation.item.done", fields));
        }
        self.report(false, say);
    }

    fn commit_by_hand(&mut self, say: &mut Vec<String>) -> Result<(), Refused> {
        if self.uncommitted == 0.0 {
            let message = "there is no sound since the last item";
            return Err(Refused::new("input_audio_buffer_commit_empty", message));
        }
        let before = self.items.open().to_owned();
        self.end_speech(say)?;
        // Where nobody spoke, this is an item too: its client waits for one.
        if self.items.open() == before {
            self.commit(self.uncommitted, say);
        }
        Ok(())
    }

    /// Ends the utterance that is open, and an item in which somebody spoke.
    fn end_speech(&mut self, say: &mut Vec<String>) -> Result<(), Refused> {
        self.flush(say)?;
        self.session.end();
        self.follow(say);
        // The server's own are committed already.
        if self.items.has_speech() {
            self.commit(self.uncommitted, say);
        }
        Ok(())
    }

    fn clear(&mut self) -> Result<(), Refused> {
        self.resampler = Resampler::new(self.settings.rate).map_err(|error| broken(&error))?;
        self.session.discard();
        self.ended = self.session.heard().ended;
        self.begun = None;
        self.uncommitted = 0.0;
        self.items.clear();
        Ok(())
    }

    fn update(&mut self, new: Settings, say: &mut Vec<String>) -> Result<(), Refused> {
        // What was heard so far was heard as before.
        if new.turns.is_some() != self.settings.turns.is_some() {
            self.end_speech(say)?;
        }
        if (new.encoding, new.rate) != (self.settings.encoding, self.settings.rate) {
            let resampler = Resampler::new(new.rate).map_err(|error| broken(&error))?;
            self.flush(say)?;
            self.resampler = resampler;
        }
        if new.choice != self.settings.choice {
            self.session.set_adaptation(self.app.adaptation(&new.choice)?);
        }
        self.settings = new;
        self.session.set_endpoint(self.settings.endpoint());
        say.push(self.session_event("updated"));
        Ok(())
    }

    /// Tells what is new of the items' texts.
    fn report(&mut self, idle: bool, say: &mut Vec<String>) {
        for news in self.items.news(idle) {
            let transcription = "conversation.item.input_audio_transcription";
            say.push(match news {
                News::Delta { item, delta } => {
                    let fields = json!({ "item_id": item, "content_index": 0, "delta": delta });
                    self.message(&format!("{transcription}.delta"), fields)
                }
                News::Completed { item, text, seconds } => {
                    let usage = json!({ "type": "duration", "seconds": seconds });
                    let fields = json!({ "item_id": item, "content_index": 0, "transcript": text, "usage": usage });
                    self.message(&format!("{transcription}.completed"), fields)
                }
                News::Failed { item, message } => {
                    let error = json!({ "type": "server_error", "code": null, "message": message, "param": null });
                    let fields = json!({ "item_id": item, "content_index": 0, "error": error });
                    self.message(&format!("{transcription}.failed"), fields)
                }
            });
        }
    }
}

fn broken(error: &crate::audio::AudioError) -> Refused {
    Refused::new("server_error", error)
}

impl Dialogue for Realtime {
    fn session(&self) -> &LiveSession {
        &self.session
    }

    fn text(&mut self, text: &str, say: &mut Vec<String>) -> Result<(), &'static str> {
        let event: Result<Value, _> = serde_json::from_str(text);
        let (heard, event_id) = match &event {
            Ok(event) => (self.hear(event, say), event["event_id"].as_str()),
            Err(error) => (Err(Refused::new("invalid_json", error)), None),
        };
        if let Err(refused) = heard {
            say.push(self.refuse(&refused, event_id));
        }
        Ok(())
    }

    fn binary(&mut self, _: &[u8], say: &mut Vec<String>) -> Result<(), &'static str> {
        let message = "messages are text: sound goes into `input_audio_buffer.append`, in base64";
        say.push(self.refuse(&Refused::new("invalid_json", message), None));
        Ok(())
    }

    fn event(&mut self, event: &Event, say: &mut Vec<String>) {
        self.items.event(event);
        self.report(false, say);
    }

    fn finish(&mut self, say: &mut Vec<String>) {
        if !std::mem::replace(&mut self.finishing, true) {
            // Nothing more can be done for what cannot be resampled.
            let _ = self.end_speech(say);
        }
    }

    fn is_finishing(&self) -> bool {
        self.finishing
    }

    fn settled(&mut self, say: &mut Vec<String>) {
        self.report(true, say);
    }
}
