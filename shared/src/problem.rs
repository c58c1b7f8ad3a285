//! Errors of every HTTP interface: RFC 9457 problem details.

use serde::{Deserialize, Serialize};

/// The content type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// One problem. `title` is the same for every occurrence of a `type`; `detail` says what was wrong
/// here and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What sort of problem: `about:blank`, or a name of ours such as `urn:countersign:expired`.
    pub r#type: String,
    /// The sort in words.
    pub title: String,
    /// The HTTP status code.
    pub status: u16,
    /// This occurrence: what was wrong, where, what to do.
    pub detail: String,
}

impl Problem {
    /// A problem of ours: `kind` becomes `urn:countersign:kind`, and its words the title.
    #[must_use]
    pub fn new(status: u16, kind: &str, detail: impl Into<String>) -> Self {
        let r#type = format!("urn:countersign:{kind}");
        Self { r#type, title: kind.replace('_', " "), status, detail: detail.into() }
    }

    /// The problem as JSON, for the body of a response.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and a number always serialize")
    }
}
