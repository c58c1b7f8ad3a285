//! What is asked and answered over HTTP, once for those that answer and those that ask: the bodies
//! ([`answers`], [`export`]), what refuses ([`Refusal`]), whether a process is ready ([`Ready`]), and who asks
//! ([`Principal`]). It knows nothing of how an answer comes about.

pub mod answers;
pub mod export;
mod principal;
mod ready;
mod refusal;

pub use principal::Principal;
pub use ready::Ready;
pub use refusal::Refusal;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};

/// An answer as JSON. Counts change: whoever keeps it must ask again.
#[must_use]
pub fn json(body: &impl serde::Serialize) -> Response {
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))], axum::Json(body))
        .into_response()
}
