//! What is asked and answered over HTTP, once for those that answer and those that ask: the bodies
//! ([`answers`], [`export`], [`letters`]), where each is asked for ([`routes`]), what refuses ([`Refusal`]), whether a process is ready ([`ready`]), and who asks
//! ([`Principal`]). It knows nothing of how an answer comes about.

pub mod answers;
pub mod export;
pub mod letters;
#[cfg(feature = "openapi")]
pub mod openapi;
mod principal;
mod refusal;
pub mod routes;

pub use principal::Principal;
pub use refusal::Refusal;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use shared::Ready;

/// An answer as JSON. Counts change: whoever keeps it must ask again.
#[must_use]
pub fn json(body: &impl serde::Serialize) -> Response {
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))], axum::Json(body))
        .into_response()
}

/// The answer of [`Ready::PATH`].
#[must_use]
pub fn ready(ready: &Ready) -> Response {
    let status = StatusCode::from_u16(ready.code()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, json(ready)).into_response()
}
