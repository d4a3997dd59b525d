//! The multipart form of a transcription request.

use super::error::ApiError;
use super::settings::Choice;
use crate::Method;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;

/// Bytes of a field that is no file.
const MOST_TEXT: usize = 16 * 1024;
/// Fields at most, known or not.
const MOST_FIELDS: usize = 64;

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
    pub(super) format: ResponseFormat,
    pub(super) stream: bool,
    pub(super) words: bool,
    pub(super) segments: bool,
    pub(super) choice: Choice,
}

impl Form {
    /// Reads the whole form.
    pub(super) async fn read(mut multipart: Multipart) -> Result<Self, ApiError> {
        let mut form = Self::default();
        let (mut has_file, mut fields) = (false, 0);
        while let Some(field) = multipart.next_field().await.map_err(broken)? {
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
                form.file = field.bytes().await.map_err(broken)?.into();
                has_file = true;
            } else {
                let text = short_text(field).await?;
                form.set(&name, &text)?;
            }
        }
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
            "language" => self.language = Some(text.chars().take(32).collect()),
            "response_format" => self.format = format(text)?,
            "stream" => self.stream = parsed("stream", text)?,
            "temperature" => {
                let temperature: f64 = parsed("temperature", text)?;
                if !(0.0..=1.0).contains(&temperature) {
                    return Err(ApiError::invalid("temperature", "`temperature` is from 0 to 1"));
                }
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
                let known = "`adapt` is none, suta, sdpl, csuta, dsuta or awmc";
                self.choice.method = Some(method.map_err(|_| ApiError::invalid("adapt", known))?);
            }
            "steps" => self.choice.steps = Some(parsed("steps", text)?),
            "learning_rate" => self.choice.learning_rate = Some(parsed("learning_rate", text)?),
            "fast" => self.choice.fast = parsed("fast", text)?,
            // `prompt`, and what newer clients may send: without effect, as documented.
            _ => {}
        }
        Ok(())
    }
}

async fn short_text(mut field: Field<'_>) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(broken)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MOST_TEXT {
            return Err(ApiError::too_large(format!("a field is longer than {MOST_TEXT} bytes")));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
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
