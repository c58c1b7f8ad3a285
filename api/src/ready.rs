//! `GET /readyz`: whether a process answers, and how well. One shape for every role.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use crate::Refusal;

/// Whether a process is ready: 200 when it works, with a word where it does not work as it should; else the
/// problem `unready` (503), or one of a kind of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Ready {
    /// It works.
    Ready,
    /// It works, but not as it should: nobody would be helped if it stopped.
    Degraded {
        /// What is not as it should be.
        reasons: Vec<String>,
    },
}

impl Ready {
    /// Where the path is.
    pub const PATH: &'static str = "/readyz";

    /// The kind of the problem of a process that is not ready.
    pub const UNREADY: &'static str = "unready";

    /// What a process says that is ready unless there is a reason against it.
    #[must_use]
    pub fn unless(why: Option<String>) -> Response {
        match why {
            None => Self::Ready.into_response(),
            Some(why) => {
                Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Self::UNREADY, why).into_response()
            }
        }
    }
}

impl IntoResponse for Ready {
    fn into_response(self) -> Response {
        crate::json(&self)
    }
}
