//! A session's settings: what `session.update` changes, and how they are shown, in the current shape and the beta's.

use crate::audio::EndpointConfig;
use crate::serve::App;
use crate::serve::error::ApiError;
use crate::serve::protocol::Encoding;
use crate::serve::settings::Choice;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The sample rate unless a client says otherwise; OpenAI knows no other.
const RATE: u32 = 24_000;
/// What G.711 is sampled with.
const TELEPHONE: u32 = 8_000;
/// A language or a prompt is kept for being shown, up to so many characters.
const MOST_TEXT: usize = 1024;

/// What a client may choose.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) encoding: Encoding,
    pub(super) rate: u32,
    /// How utterances are found; `None` where the client commits them itself.
    pub(super) turns: Option<Turns>,
    /// aurist's own: how the model is adapted.
    pub(super) choice: Choice,
    model: String,
    language: Option<String>,
    prompt: Option<String>,
}

/// The server finds where somebody speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turns {
    silence_ms: u64,
    padding_ms: u64,
}

impl Default for Turns {
    fn default() -> Self {
        let endpoint = EndpointConfig::default();
        let ms = |seconds: f64| (1000.0 * seconds).round() as u64;
        Self {
            silence_ms: ms(endpoint.hang_over),
            padding_ms: ms(endpoint.pre_roll),
        }
    }
}

type Object = Map<String, Value>;

impl Settings {
    pub(super) fn new(app: &App) -> Self {
        Self {
            encoding: Encoding::Pcm16,
            rate: RATE,
            turns: Some(Turns::default()),
            choice: Choice::default(),
            model: app.model_name(),
            language: None,
            prompt: None,
        }
    }

    /// How utterances are found in the stream.
    pub(super) fn endpoint(&self) -> EndpointConfig {
        let turns = self.turns.unwrap_or_default();
        let seconds = |ms: u64| ms as f64 / 1000.0;
        EndpointConfig {
            pre_roll: seconds(turns.padding_ms),
            hang_over: seconds(turns.silence_ms),
            ..EndpointConfig::default()
        }
    }

    /// With what an update's `session` says; what it leaves out stays, and what the server does not know is passed over.
    pub(super) fn updated(&self, app: &App, session: &Value) -> Result<Self, ApiError> {
        let mut new = self.clone();
        let session = object(Some(session), "session")?.ok_or_else(|| wrong("session"))?;
        if let Some(kind) = session.get("type")
            && kind != "transcription"
        {
            let message = "this server transcribes: `session.type` is `transcription`";
            return Err(ApiError::invalid("session.type", message));
        }
        if let Some(choice) = session.get("aurist") {
            let choice = Choice::deserialize(choice);
            let choice = choice.map_err(|error| ApiError::invalid("session.aurist", error))?;
            app.adaptation(&choice)?;
            new.choice = choice;
        }
        let audio = object(session.get("audio"), "session.audio")?;
        let input = audio.and_then(|audio| audio.get("input"));
        if let Some(input) = object(input, "session.audio.input")? {
            if let Some(format) = object(input.get("format"), "session.audio.input.format")? {
                new.set_format(format)?;
            }
            new.set_common(app, input.get("transcription"), input.get("turn_detection"))?;
        }
        Ok(new)
    }

    /// The same of the beta's `transcription_session.update`.
    pub(super) fn updated_beta(&self, app: &App, session: &Value) -> Result<Self, ApiError> {
        let mut new = self.clone();
        let session = object(Some(session), "session")?.ok_or_else(|| wrong("session"))?;
        (new.encoding, new.rate) = match session.get("input_audio_format").map(|format| format.as_str()) {
            None => (new.encoding, new.rate),
            Some(Some("pcm16")) => (Encoding::Pcm16, RATE),
            Some(Some("g711_ulaw")) => (Encoding::Pcmu, TELEPHONE),
            Some(Some("g711_alaw")) => (Encoding::Pcma, TELEPHONE),
            Some(_) => {
                let message = "`input_audio_format` is pcm16, g711_ulaw or g711_alaw";
                return Err(ApiError::invalid("session.input_audio_format", message));
            }
        };
        let (transcription, turns) = (session.get("input_audio_transcription"), session.get("turn_detection"));
        new.set_common(app, transcription, turns)?;
        Ok(new)
    }

    fn set_format(&mut self, format: &Object) -> Result<(), ApiError> {
        const PARAM: &str = "session.audio.input.format";
        (self.encoding, self.rate) = match format.get("type").and_then(Value::as_str) {
            Some("audio/pcm") => {
                let rate = match format.get("rate") {
                    None | Some(Value::Null) => Some(RATE.into()),
                    Some(rate) => rate.as_u64(),
                };
                let rate = rate.filter(|rate| (8_000..=192_000).contains(rate));
                let message = "`rate` is 24000, or what the sound has, from 8000 to 192000";
                (
                    Encoding::Pcm16,
                    rate.ok_or_else(|| ApiError::invalid(PARAM, message))? as u32,
                )
            }
            Some("audio/pcmu") => (Encoding::Pcmu, TELEPHONE),
            Some("audio/pcma") => (Encoding::Pcma, TELEPHONE),
            _ => {
                let message = "`type` is audio/pcm, audio/pcmu or audio/pcma";
                return Err(ApiError::invalid(PARAM, message));
            }
        };
        Ok(())
    }

    fn set_common(
        &mut self,
        app: &App,
        transcription: Option<&Value>,
        turn_detection: Option<&Value>,
    ) -> Result<(), ApiError> {
        if transcription.is_some_and(Value::is_null) {
            let message = "transcription cannot be turned off: there is nothing else here";
            return Err(ApiError::invalid("session.audio.input.transcription", message));
        }
        if let Some(transcription) = object(transcription, "session.audio.input.transcription")? {
            if let Some(model) = transcription.get("model").and_then(Value::as_str) {
                if !app.is_model(model) {
                    return Err(ApiError::no_model(&shortened(model, 80)));
                }
                self.model = model.into();
            }
            let text = |value: &Value| value.as_str().map(|text| shortened(text, MOST_TEXT));
            if let Some(language) = transcription.get("language") {
                self.language = text(language);
            }
            if let Some(prompt) = transcription.get("prompt") {
                self.prompt = text(prompt);
            }
        }
        match turn_detection {
            None => {}
            Some(Value::Null) => self.turns = None,
            Some(turns) => self.turns = Some(self.turns.unwrap_or_default().updated(turns)?),
        }
        Ok(())
    }

    /// The session as its client sees it.
    pub(super) fn shown(&self, id: &str) -> Value {
        let format = match self.encoding {
            Encoding::Pcmu => json!({ "type": "audio/pcmu" }),
            Encoding::Pcma => json!({ "type": "audio/pcma" }),
            Encoding::Pcm16 | Encoding::F32 => json!({ "type": "audio/pcm", "rate": self.rate }),
        };
        json!({
            "id": id, "object": "realtime.transcription_session", "type": "transcription",
            "audio": { "input": {
                "format": format, "noise_reduction": null, "transcription": self.transcription(),
                "turn_detection": self.turns.map(Turns::shown),
            } },
            "include": null, "aurist": self.choice,
        })
    }

    /// The same in the beta's shape.
    pub(super) fn shown_beta(&self, id: &str) -> Value {
        let format = match self.encoding {
            Encoding::Pcmu => "g711_ulaw",
            Encoding::Pcma => "g711_alaw",
            Encoding::Pcm16 | Encoding::F32 => "pcm16",
        };
        json!({
            "id": id, "object": "realtime.transcription_session", "modalities": ["audio", "text"],
            "input_audio_format": format, "input_audio_transcription": self.transcription(),
            "input_audio_noise_reduction": null, "turn_detection": self.turns.map(Turns::shown), "include": null,
        })
    }

    fn transcription(&self) -> Value {
        json!({ "model": self.model, "language": self.language, "prompt": self.prompt })
    }
}

impl Turns {
    fn updated(mut self, turns: &Value) -> Result<Self, ApiError> {
        const PARAM: &str = "session.audio.input.turn_detection";
        let turns = object(Some(turns), PARAM)?.ok_or_else(|| wrong(PARAM))?;
        if turns.get("type").is_some_and(|kind| kind != "server_vad") {
            return Err(ApiError::invalid(PARAM, "`type` is server_vad; null to commit by hand"));
        }
        let ms = |name: &str, old: u64, (least, most): (u64, u64)| match turns.get(name) {
            None | Some(Value::Null) => Ok(old),
            Some(value) => {
                let ms = value.as_u64().map(|ms| ms.clamp(least, most));
                ms.ok_or_else(|| ApiError::invalid(PARAM, format!("`{name}` is a number of milliseconds")))
            }
        };
        // What the detector keeps to.
        self.silence_ms = ms("silence_duration_ms", self.silence_ms, (200, 5000))?;
        self.padding_ms = ms("prefix_padding_ms", self.padding_ms, (0, 2000))?;
        Ok(self)
    }

    fn shown(self) -> Value {
        json!({
            "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": self.padding_ms,
            "silence_duration_ms": self.silence_ms,
        })
    }
}

/// An object, nothing, or something else, which is an error.
fn object<'a>(value: Option<&'a Value>, param: &'static str) -> Result<Option<&'a Object>, ApiError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(wrong(param)),
    }
}

fn wrong(param: &'static str) -> ApiError {
    ApiError::invalid(param, format!("`{param}` is an object"))
}

fn shortened(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}
