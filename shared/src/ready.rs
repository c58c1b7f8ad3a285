//! `GET /readyz`: whether a process takes work. One shape for every role, native and Wasm.

use serde::{Deserialize, Serialize};

/// Whether a process is ready. Each reason begins with a fixed word for programs, and a colon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Ready {
    /// It works: 200.
    Ready,
    /// It works, but not as it should. Stopping it would help nobody: 200.
    Degraded {
        /// What is not as it should be.
        reasons: Vec<String>,
    },
    /// Send no work here: 503.
    Unready {
        /// Why not.
        reasons: Vec<String>,
    },
}

impl Ready {
    /// The path of the route.
    pub const PATH: &'static str = "/readyz";

    /// Ready, unless there are reasons against it.
    #[must_use]
    pub fn unless(reasons: Vec<String>) -> Self {
        if reasons.is_empty() { Self::Ready } else { Self::Unready { reasons } }
    }

    /// The HTTP status code.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::Ready | Self::Degraded { .. } => 200,
            Self::Unready { .. } => 503,
        }
    }
}
