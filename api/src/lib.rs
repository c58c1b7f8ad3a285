//! The HTTP interface, defined once for those that answer and those that ask: the bodies of answers
//! ([`answers`], [`reports`], [`restatements`], [`reconciliations`], [`export`], [`letters`]), which
//! events a question is about ([`filter`]), the routes ([`routes`]), refusals ([`Refusal`]), whether a process is ready
//! ([`ready`]), and who asks ([`Principal`]). How an answer is made is no matter of this room.

pub mod answers;
pub mod export;
pub mod filter;
pub mod letters;
#[cfg(feature = "openapi")]
pub mod openapi;
mod principal;
pub mod reconciliations;
mod refusal;
pub mod reports;
pub mod restatements;
pub mod routes;

pub use principal::Principal;
pub use refusal::Refusal;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use shared::Ready;

/// An answer as JSON. It may not be used from a cache without asking again, because counts change.
#[must_use]
pub fn json(body: &impl serde::Serialize) -> Response {
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))], axum::Json(body))
        .into_response()
}

/// The answer to [`Ready::PATH`].
#[must_use]
pub fn ready(ready: &Ready) -> Response {
    let status = StatusCode::from_u16(ready.code()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, json(ready)).into_response()
}
