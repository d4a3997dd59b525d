//! The multipart form of a transcription request.

use super::error::ApiError;
use super::pace::{Pace, TooSlow};
use super::settings::Choice;
use crate::Method;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of a field that is no file.
const MOST_TEXT: usize = 16 * 1024;
/// Fields at most, known or not.
const MOST_FIELDS: usize = 64;

/// What is counted when memory for uploads is shared out.
const KIB: usize = 1024;

/// Memory for uploads: all requests together hold no more than each place's largest.
pub(super) fn memory(most_upload: usize, most_requests: usize) -> Semaphore {
    Semaphore::new((most_upload.div_ceil(KIB).saturating_mul(most_requests)).min(Semaphore::MAX_PERMITS))
}

/// A request's share of it.
#[derive(Debug, Default)]
pub(super) struct Share {
    held: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Share {
    /// So many bytes more.
    fn take(&mut self, bytes: usize, memory: &Arc<Semaphore>) -> Result<(), ApiError> {
        self.bytes += bytes;
        let held = self.held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = self.bytes.div_ceil(KIB).saturating_sub(held);
        let more = Arc::clone(memory).try_acquire_many_owned(missing as u32);
        let more = more.map_err(|_| ApiError::busy("Too much is being uploaded already", 10))?;
        match &mut self.held {
            Some(held) => held.merge(more),
            None => self.held = Some(more),
        }
        Ok(())
    }
}

/// A form as it comes in.
struct Incoming<'a> {
    pace: Pace,
    share: Share,
    memory: &'a Arc<Semaphore>,
}

impl Incoming<'_> {
    async fn bytes(&mut self, field: &mut Field<'_>, most: usize) -> Result<Vec<u8>, ApiError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.pace.within(field.chunk()).await.map_err(slow)?.map_err(broken)? {
            self.pace.moved(chunk.len());
            self.share.take(chunk.len(), self.memory)?;
            bytes.extend_from_slice(&chunk);
            if bytes.len() > most {
                return Err(ApiError::too_large(format!("a field is longer than {most} bytes")));
            }
        }
        Ok(bytes)
    }
}

fn slow(_: TooSlow) -> ApiError {
    ApiError::slow("the request arrives too slowly")
}

/// How the answer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ResponseFormat {
    #[default]
    Json,
    Text,
    Srt,
    Vtt,
    VerboseJson,
}

/// A request, its fields checked one by one.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) file: Vec<u8>,
    /// The file name's extension: a hint at the format, and all that is kept of the name.
    pub(super) extension: Option<String>,
    pub(super) model: String,
    pub(super) language: Option<String>,
    pub(super) prompt: Option<String>,
    pub(super) temperature: Option<f64>,
    pub(super) format: ResponseFormat,
    pub(super) stream: bool,
    pub(super) words: bool,
    pub(super) segments: bool,
    pub(super) choice: Choice,
    /// Of the memory that the file is in.
    pub(super) share: Share,
}

impl Form {
    /// Reads the whole form; `stall` is how long its client may stand still.
    pub(super) async fn read(
        mut multipart: Multipart,
        stall: Duration,
        memory: &Arc<Semaphore>,
    ) -> Result<Self, ApiError> {
        let mut form = Self::default();
        let mut incoming = Incoming {
            pace: Pace::new(stall),
            share: Share::default(),
            memory,
        };
        let (mut has_file, mut fields) = (false, 0);
        while let Some(mut field) = incoming
            .pace
            .within(multipart.next_field())
            .await
            .map_err(slow)?
            .map_err(broken)?
        {
            fields += 1;
            if fields > MOST_FIELDS {
                return Err(ApiError::invalid("file", format!("more than {MOST_FIELDS} fields")));
            }
            let name = field.name().unwrap_or_default().to_owned();
            if name == "file" {
                let extension = field
                    .file_name()
                    .and_then(|name| name.rsplit_once('.'))
                    .map(|(_, end)| end);
                let is_plain = |end: &&str| end.len() <= 8 && end.bytes().all(|byte| byte.is_ascii_alphanumeric());
                form.extension = extension.filter(is_plain).map(str::to_ascii_lowercase);
                // The whole request has a limit of its own.
                form.file = incoming.bytes(&mut field, usize::MAX).await?;
                has_file = true;
            } else {
                let text = incoming.bytes(&mut field, MOST_TEXT).await?;
                form.set(&name, String::from_utf8_lossy(&text).trim())?;
            }
        }
        form.share = incoming.share;
        if !has_file {
            return Err(ApiError::invalid(
                "file",
                "the form needs a field `file`: the recording",
            ));
        }
        if form.model.is_empty() {
            return Err(ApiError::invalid(
                "model",
                "the form needs a field `model`; `aurist` will do",
            ));
        }
        Ok(form)
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), ApiError> {
        match name {
            "model" => self.model = text.into(),
            "language" => self.language = Some(text.chars().take(32).collect()).filter(|_| !text.is_empty()),
            "prompt" => self.prompt = Some(text.into()).filter(|_| !text.is_empty()),
            "response_format" => self.format = format(text)?,
            "stream" => self.stream = parsed("stream", text)?,
            "temperature" => {
                let temperature: f64 = parsed("temperature", text)?;
                if !(0.0..=1.0).contains(&temperature) {
                    return Err(ApiError::invalid("temperature", "`temperature` is from 0 to 1"));
                }
                self.temperature = Some(temperature);
            }
            "timestamp_granularities[]" | "timestamp_granularities" => match text {
                "word" => self.words = true,
                "segment" => self.segments = true,
                _ => {
                    return Err(ApiError::invalid(
                        "timestamp_granularities",
                        "`timestamp_granularities[]` is `word` or `segment`",
                    ));
                }
            },
            "adapt" => {
                let method: Result<Method, _> = serde_json::from_value(text.into());
                let known = "`adapt` is none, suta, sdpl, cea, csuta, dsuta, replay, awmc or guarded; for a Whisper none, \
                             suta, sdpl, sequence-entropy, csuta, dsuta or replay";
                self.choice.method = Some(method.map_err(|_| ApiError::invalid("adapt", known))?);
            }
            "steps" => self.choice.steps = Some(parsed("steps", text)?),
            "learning_rate" => self.choice.learning_rate = Some(parsed("learning_rate", text)?),
            "fast" => self.choice.fast = parsed("fast", text)?,
            // What newer clients may send: without effect, as documented.
            _ => {}
        }
        Ok(())
    }
}

fn parsed<T: DeserializeOwned>(name: &'static str, text: &str) -> Result<T, ApiError> {
    let value = serde_json::from_str(&text.to_ascii_lowercase());
    value.map_err(|_| ApiError::invalid(name, format!("`{name}` cannot be `{}`", short(text))))
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}

fn format(text: &str) -> Result<ResponseFormat, ApiError> {
    Ok(match text {
        "json" => ResponseFormat::Json,
        "text" => ResponseFormat::Text,
        "srt" => ResponseFormat::Srt,
        "vtt" => ResponseFormat::Vtt,
        "verbose_json" => ResponseFormat::VerboseJson,
        _ => {
            let message = format!(
                "`response_format` is json, text, srt, verbose_json or vtt, not `{}`",
                short(text)
            );
            return Err(ApiError::invalid("response_format", message));
        }
    })
}

fn broken(error: MultipartError) -> ApiError {
    if error.status() == StatusCode::PAYLOAD_TOO_LARGE {
        ApiError::too_large("the request is larger than this server takes (--max-upload)")
    } else {
        ApiError::invalid("file", format!("the form cannot be read: {}", error.body_text()))
    }
}
