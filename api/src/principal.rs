//! Who asks.

use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::{Extension, Router};

use crate::Refusal;

/// Who asks, as proved by the key of the request. The guard of a route puts it into the request,
/// and a handler takes it as an argument. Where no guard has done that, the handler is not called:
/// the request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Principal {
    /// The operator, who runs this deployment and may ask everything.
    Operator,
}

impl Principal {
    /// Makes this principal the one that asks all requests to these routes: for questions that a
    /// process asks itself.
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
