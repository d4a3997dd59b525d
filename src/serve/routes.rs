//! What is where.

use super::error::ApiError;
use super::{App, access, page, realtime, stream, transcriptions};
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
        .route("/v1/realtime", get(realtime::upgrade))
        .fallback(|| async { ApiError::not_found() })
        .method_not_allowed_fallback(|| async { ApiError::not_allowed() })
        .layer(DefaultBodyLimit::max(app.config.most_upload))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), access::check))
        .with_state(app)
}

impl App {
    /// Whether a client means this server's model: by its name, or by the names that clients send unless told otherwise.
    pub(super) fn is_model(&self, name: &str) -> bool {
        name == self.model_name() || name == self.recognizer.info().name || matches!(name, "aurist" | "whisper-1")
    }

    /// The model's name, for everybody: where it is on the disk is nobody's business.
    pub(super) fn model_name(&self) -> String {
        name_of(&self.recognizer.info().name)
    }

    /// The language of transcripts where the model does not tell.
    pub(super) fn language(&self) -> &'static str {
        // A Whisper of several languages tells.
        if self.recognizer.is_whisper() || self.recognizer.info().name.contains(".en") {
            "english"
        } else {
            "unknown"
        }
    }

    fn model_object(&self) -> Value {
        let info = self.recognizer.info();
        json!({
            "id": self.model_name(), "object": "model", "created": 0, "owned_by": "aurist",
            "architecture": info.architecture, "parameters": info.parameters, "identity": info.identity,
        })
    }
}

async fn health(State(app): State<Arc<App>>) -> Response {
    if *app.ending.borrow() {
        return ApiError::unavailable("The server is ending").into_response();
    }
    Json(json!({ "status": "ok", "version": crate::VERSION, "model": app.model_name() })).into_response()
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

/// Of a directory the last part; of one in the Hugging Face cache the repository, as it is asked for.
fn name_of(model: &str) -> String {
    let parts = || model.split(['/', '\\']).filter(|part| !part.is_empty());
    let repository = parts().find_map(|part| part.strip_prefix("models--"));
    match repository {
        Some(repository) => repository.replacen("--", "/", 1),
        None => parts().next_back().unwrap_or(model).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn a_models_name_tells_nothing_of_its_directory() {
        for (model, name) in [
            ("bundled:tiny.en-ctc", "bundled:tiny.en-ctc"),
            ("/home/me/models/mine", "mine"),
            ("models/mine/", "mine"),
            ("C:\\models\\mine", "mine"),
            (
                "/c/hub/models--facebook--wav2vec2-base-960h/snapshots/22aad52d",
                "facebook/wav2vec2-base-960h",
            ),
            ("..", ".."),
        ] {
            assert_eq!(name_of(model), name, "{model}");
        }
    }
}
