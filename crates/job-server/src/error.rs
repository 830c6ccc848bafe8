//! What a caller is told when a callback cannot be taken.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use job_utils::http_server::BodyError;
use job_utils::wire::callback::{BadBody, Malformed};
use serde_json::json;

/// A refused callback. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallbackError {
    #[error("Missing X-Job-Id header")]
    NoJobId,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the callback is not signed for this job: post to X-Callback-Url as it is, with its query")]
    Unsigned,
    #[error(transparent)]
    Body(BodyError),
    #[error("the body took too long to arrive")]
    TooSlow,
    #[error("the outcome cannot be stored now, call back again")]
    Unavailable,
    #[error("too many large callbacks at once, call back again")]
    NoRoom,
    #[error("the outcome was refused by the database")]
    Refused,
    #[error("no such route: callbacks are POST /callback and POST /callback/extend")]
    NoRoute,
    #[error("method not allowed: callbacks are POST /callback")]
    BadMethod,
}

impl CallbackError {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Malformed(Malformed::BadBody(BadBody::Encoding(_))) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Malformed(Malformed::BadBody(BadBody::TooLarge(_))) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NoJobId | Self::Malformed(_) | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::Unsigned => StatusCode::UNAUTHORIZED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Unavailable | Self::NoRoom => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused => StatusCode::UNPROCESSABLE_ENTITY,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::BadMethod => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}

impl From<BodyError> for CallbackError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::NoRoom => Self::NoRoom,
            other => Self::Body(other),
        }
    }
}

impl IntoResponse for CallbackError {
    fn into_response(self) -> Response {
        let status = self.status();
        let body = Json(json!({ "error": self.to_string() }));
        match self {
            Self::Unavailable | Self::NoRoom => (status, [(header::RETRY_AFTER, "1")], body).into_response(),
            Self::BadMethod => (status, [(header::ALLOW, "POST")], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}
