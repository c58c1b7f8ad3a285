//! Who asks.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::{Extension, Router};

use crate::Refusal;

/// Who has proved to be whom, by the key of the request. Whoever guards a route puts it into the request, and
/// a handler takes it as an argument: one that forgets to ask has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Principal {
    /// Who runs this deployment: may ask everything.
    Operator,
}

impl Principal {
    /// Routes as this one asks them: for the questions that a process asks itself.
    pub fn asks(self, routes: Router) -> Router {
        routes.layer(Extension(self))
    }
}

impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        parts.extensions.get::<Self>().copied().ok_or_else(|| {
            let what = "nobody has said who asks: send the key (`Authorization: Bearer …`)";
            Refusal::new(StatusCode::UNAUTHORIZED, "unauthorized", what)
        })
    }
}
