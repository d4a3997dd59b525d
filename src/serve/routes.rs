//! What is where.

use super::error::ApiError;
use super::{App, access, page, stream, transcriptions};
use crate::live::Lane;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde_json::{Value, json};
use std::sync::Arc;

/// Every route, behind the checks of access.
pub(super) fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/audio/transcriptions", post(transcriptions::transcribe))
        .route("/v1/stream", get(stream::upgrade))
        .fallback(|| async { ApiError::not_found() })
        .layer(DefaultBodyLimit::max(app.config.most_upload))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), access::check))
        .with_state(app)
}

impl App {
    /// Whether a client means this server's model: by its name, or by the names that clients send unless told otherwise.
    pub(super) fn is_model(&self, name: &str) -> bool {
        name == self.recognizer.info().name || matches!(name, "aurist" | "whisper-1")
    }

    /// The language of transcripts, as far as the model's name tells.
    pub(super) fn language(&self) -> &'static str {
        if self.recognizer.info().name.contains(".en") {
            "english"
        } else {
            "unknown"
        }
    }

    fn model_object(&self) -> Value {
        let info = self.recognizer.info();
        json!({
            "id": info.name, "object": "model", "created": 0, "owned_by": "aurist",
            "architecture": info.architecture, "parameters": info.parameters, "identity": info.identity,
        })
    }
}

async fn health(State(app): State<Arc<App>>) -> Response {
    if *app.ending.borrow() {
        return ApiError::unavailable("The server is ending").into_response();
    }
    Json(json!({ "status": "ok", "version": crate::VERSION, "model": app.recognizer.info().name })).into_response()
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let waiting = [Lane::Decode, Lane::Adapt].map(|lane| app.pool.waiting(lane));
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, app.metrics.text(waiting)).into_response()
}

async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [app.model_object()] }))
}

async fn model(State(app): State<Arc<App>>, Path(name): Path<String>) -> Response {
    if app.is_model(&name) {
        Json(app.model_object()).into_response()
    } else {
        ApiError::no_model(&name.chars().take(80).collect::<String>()).into_response()
    }
}
