//! Errors as OpenAI's clients expect them.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// `{"error": {"message", "type", "param", "code"}}` and a status.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    kind: &'static str,
    pub(super) code: Option<&'static str>,
    pub(super) param: Option<&'static str>,
    pub(super) message: String,
    /// Seconds.
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl ToString) -> Self {
        Self {
            status,
            kind,
            code: None,
            param: None,
            message: message.to_string(),
            retry_after: None,
        }
    }

    /// The request asks for what cannot be.
    pub(super) fn invalid(param: &'static str, message: impl ToString) -> Self {
        Self {
            param: Some(param),
            ..Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
        }
    }

    /// The request is larger or longer than is allowed.
    pub(super) fn too_large(message: impl ToString) -> Self {
        Self {
            param: Some("file"),
            ..Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
        }
    }

    /// No model of that name.
    pub(super) fn no_model(name: &str) -> Self {
        let message = format!("The model `{name}` does not exist here; GET /v1/models lists what does");
        Self {
            code: Some("model_not_found"),
            param: Some("model"),
            ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
        }
    }

    /// No such page.
    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            "There is nothing at this address",
        )
    }

    /// The page is there, but not for this method.
    pub(super) fn not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            "This address does not take the request's method",
        )
    }

    /// No key, or a wrong one.
    pub(super) fn unauthorised() -> Self {
        Self {
            code: Some("invalid_api_key"),
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                "invalid_request_error",
                "Give the server's key as `Authorization: Bearer KEY`",
            )
        }
    }

    /// From where it is not allowed.
    pub(super) fn forbidden(message: impl ToString) -> Self {
        Self::new(StatusCode::FORBIDDEN, "invalid_request_error", message)
    }

    /// Too much to do; come back in so many seconds.
    pub(super) fn busy(message: impl ToString, retry_after: u64) -> Self {
        Self {
            code: Some("rate_limit_exceeded"),
            retry_after: Some(retry_after.max(1)),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
        }
    }

    /// It took too long to arrive.
    pub(super) fn slow(message: impl ToString) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message)
    }

    /// The server is ending, or cannot do it now.
    pub(super) fn unavailable(message: impl ToString) -> Self {
        Self {
            retry_after: Some(10),
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
        }
    }

    /// It took too long to compute.
    pub(super) fn late() -> Self {
        Self::unavailable("The transcription took too long, and was given up")
    }

    /// An error of ours.
    pub(super) fn internal(message: impl ToString) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// The body.
    pub(super) fn body(&self) -> serde_json::Value {
        serde_json::json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
