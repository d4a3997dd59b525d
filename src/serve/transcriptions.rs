//! `POST /v1/audio/transcriptions`.

use super::App;
use super::error::ApiError;
use super::form::{Form, ResponseFormat};
use super::job::{Job, Order, Progress};
use crate::decode::whisper::{DecodingOptions, SpokenLanguage};
use crate::live::Seat;
use crate::output::{Document, Format};
use crate::{AdaptationConfig, Transcript, Utterance};
use axum::Json;
use axum::extract::{Multipart, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout_at;

/// What a request in hand takes, about, for Retry-After.
const SECONDS_EACH: u64 = 5;

/// The handler.
pub(super) async fn transcribe(
    State(app): State<Arc<App>>,
    multipart: Result<Multipart, axum::extract::multipart::MultipartRejection>,
) -> Response {
    let begun = Instant::now();
    let response = match answer(&app, multipart).await {
        Ok(response) => response,
        Err(error) => {
            tracing::info!(
                status = error.status.as_u16(),
                reason = error.message,
                "transcription refused"
            );
            error.into_response()
        }
    };
    app.metrics.request(response.status());
    tracing::info!(
        status = response.status().as_u16(),
        seconds = begun.elapsed().as_secs_f64(),
        "transcription"
    );
    response
}

async fn answer(
    app: &Arc<App>,
    multipart: Result<Multipart, axum::extract::multipart::MultipartRejection>,
) -> Result<Response, ApiError> {
    let multipart = multipart
        .map_err(|_| ApiError::invalid("file", "send a form: Content-Type multipart/form-data with a boundary"))?;
    let full = || {
        let wait = SECONDS_EACH * app.config.most_requests as u64 / 2;
        ApiError::busy("Too many requests are waiting already", wait)
    };
    // Nobody sends a recording for nothing, as far as that can be told beforehand.
    if app.requests.available_permits() == 0 {
        return Err(full());
    }
    let deadline = tokio::time::Instant::now() + app.config.timeout;
    let patience = app.config.patience;
    let mut form = tokio::time::timeout(patience.body, Form::read(multipart, patience.stall, &app.uploads))
        .await
        .map_err(|_| ApiError::slow(format!("the request took over {:?} to arrive", patience.body)))??;
    // Only now: who sends slowly keeps nobody else from a place.
    let place = Arc::clone(&app.requests).try_acquire_owned().map_err(|_| full())?;
    if !app.is_model(&form.model) {
        return Err(ApiError::no_model(&form.model.chars().take(80).collect::<String>()));
    }
    let settings = app.adaptation(&form.choice)?;
    let (send, progress) = unbounded_channel();
    let file = (std::mem::take(&mut form.file), form.extension.take());
    let seat = Arc::new(app.pool.seat());
    let order = Order {
        recognizer: app.recognizer.clone(),
        settings: settings.clone(),
        decoding: form.decoding(app),
        most_seconds: app.config.most_seconds,
        deadline,
        _place: (place, std::mem::take(&mut form.share)),
    };
    Job::new(order, file, send, Arc::clone(&seat)).submit();
    let running = Running {
        app: Arc::clone(app),
        progress,
        deadline,
        seat,
    };
    if form.stream {
        return streamed(running).await;
    }
    let transcript = running.whole().await?;
    Ok(form.render(app, &settings, &transcript))
}

type End = (f64, Option<SpokenLanguage>);

/// A job, as its request sees it.
struct Running {
    app: Arc<App>,
    progress: UnboundedReceiver<Progress>,
    deadline: tokio::time::Instant,
    seat: Arc<Seat>,
}

impl Drop for Running {
    /// Nobody waits for the job any more: it gives up its turn, and its place with it.
    fn drop(&mut self) {
        self.seat.leave();
    }
}

impl Running {
    /// The next utterance, or at the end the seconds heard and the language.
    async fn next(&mut self) -> Result<Result<Utterance, End>, ApiError> {
        let came = timeout_at(self.deadline, self.progress.recv()).await;
        match came.map_err(|_| ApiError::late())? {
            Some(Progress::Utterance(utterance)) => {
                self.app.metrics.utterance(utterance.end - utterance.start);
                if self.app.config.log_text {
                    tracing::info!(text = utterance.text, start = utterance.start, "utterance");
                }
                Ok(Ok(*utterance))
            }
            Some(Progress::Done(seconds, language)) => Ok(Err((seconds, language))),
            Some(Progress::Failed(error)) => Err(error),
            // The task panicked: hostile audio, most likely.
            None => Err(ApiError::invalid("file", "the recording cannot be decoded")),
        }
    }

    async fn whole(mut self) -> Result<Transcript, ApiError> {
        let mut transcript = Transcript::default();
        loop {
            match self.next().await? {
                Ok(utterance) => transcript.utterances.push(utterance),
                Err((duration, language)) => {
                    (transcript.duration, transcript.language) = (duration, language);
                    return Ok(transcript);
                }
            }
        }
    }
}

/// Server-sent events. An error before the first utterance still has its status; a later one is an event.
async fn streamed(mut running: Running) -> Result<Response, ApiError> {
    let first = running.next().await?;
    let begin = (running, String::new(), Some(first), false);
    let events = stream::unfold(begin, |(mut running, mut text, first, is_over)| async move {
        if is_over {
            return None;
        }
        let next = match first {
            Some(first) => Ok(first),
            None => running.next().await,
        };
        let (event, is_over) = match next {
            Ok(Ok(utterance)) => {
                let gap = if text.is_empty() || utterance.text.is_empty() {
                    ""
                } else {
                    " "
                };
                let delta = format!("{gap}{}", utterance.text);
                text.push_str(&delta);
                (json!({ "type": "transcript.text.delta", "delta": delta }), false)
            }
            Ok(Err(_)) => (json!({ "type": "transcript.text.done", "text": text }), true),
            Err(error) => (error.body(), true),
        };
        let event = Event::default().data(event.to_string());
        Some((Ok::<_, Infallible>(event), (running, text, None, is_over)))
    });
    Ok(Sse::new(events).into_response())
}

impl Form {
    /// What of the form a Whisper's decoder heeds.
    fn decoding(&self, app: &App) -> DecodingOptions {
        let default = DecodingOptions::default();
        if !app.recognizer.is_whisper() {
            return default;
        }
        DecodingOptions {
            language: self.language.clone(),
            initial_prompt: self.prompt.clone(),
            temperature: match self.temperature {
                // As OpenAI's: it may rise by itself.
                Some(temperature) if temperature > 0.0 => vec![temperature],
                _ => default.temperature,
            },
            word_timestamps: self.words,
            ..default
        }
    }

    fn render(&self, app: &App, settings: &AdaptationConfig, transcript: &Transcript) -> Response {
        let document = Document {
            file: "",
            transcript,
            model: app.recognizer.info(),
            settings,
            decoding: None,
            stream: None,
            warnings: &[],
        };
        let text = |format: Format, kind: &'static str| {
            (StatusCode::OK, [(header::CONTENT_TYPE, kind)], format.render(&document)).into_response()
        };
        match self.format {
            ResponseFormat::Json => {
                Json(json!({ "text": transcript.text(), "usage": usage(transcript) })).into_response()
            }
            ResponseFormat::Text => {
                let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
                (kind, transcript.text() + "\n").into_response()
            }
            ResponseFormat::Srt => text(Format::Srt, "application/x-subrip; charset=utf-8"),
            ResponseFormat::Vtt => text(Format::Vtt, "text/vtt; charset=utf-8"),
            ResponseFormat::VerboseJson => Json(self.verbose(app, transcript)).into_response(),
        }
    }

    /// OpenAI's fields, and under `aurist` in each segment what else is known of it. `seek`, `tokens`,
    /// `compression_ratio` and `no_speech_prob` are a Whisper's decoder's: of a CTC model they say nothing.
    fn verbose(&self, app: &App, transcript: &Transcript) -> Value {
        let segment = |(id, utterance): (usize, &Utterance)| {
            let logs: Vec<f64> = utterance
                .words
                .iter()
                .map(|word| f64::from(word.confidence).max(1e-9).ln())
                .collect();
            let mean = if logs.is_empty() {
                0.0
            } else {
                logs.iter().sum::<f64>() / logs.len() as f64
            };
            let mut segment = json!({
                "id": id, "seek": 0, "start": utterance.start, "end": utterance.end, "text": utterance.text,
                "tokens": [], "temperature": 0.0, "avg_logprob": mean, "compression_ratio": 1.0, "no_speech_prob": 0.0,
                "aurist": {
                    "unadapted_text": utterance.unadapted_text,
                    "entropy_before": utterance.entropy_before, "entropy_after": utterance.entropy_after,
                    "steps": utterance.steps, "guard": utterance.guard,
                },
            });
            if let Some(decoding) = &utterance.decoding {
                segment["seek"] = json!(decoding.seek);
                segment["tokens"] = json!(decoding.tokens);
                segment["temperature"] = json!(decoding.temperature);
                segment["avg_logprob"] = json!(decoding.avg_logprob);
                segment["compression_ratio"] = json!(decoding.compression_ratio);
                segment["no_speech_prob"] = json!(decoding.no_speech_prob);
            }
            segment
        };
        let word = |word: &crate::Word| json!({ "word": word.word, "start": word.start, "end": word.end, "confidence": word.confidence });
        let language = transcript.language.as_ref().map(|language| language.code.as_str());
        let mut verbose = json!({
            "task": "transcribe", "duration": transcript.duration, "text": transcript.text(),
            "language": language.or(self.language.as_deref()).unwrap_or(app.language()),
            "usage": usage(transcript),
        });
        if self.segments || !self.words {
            verbose["segments"] = transcript.utterances.iter().enumerate().map(segment).collect();
        }
        if self.words {
            verbose["words"] = transcript
                .utterances
                .iter()
                .flat_map(|utterance| &utterance.words)
                .map(word)
                .collect();
        }
        verbose
    }
}

/// What was heard, as OpenAI bills it.
fn usage(transcript: &Transcript) -> Value {
    json!({ "type": "duration", "seconds": transcript.duration })
}
