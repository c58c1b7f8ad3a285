//! A problem (RFC 9457) as a response.

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use shared::problem::{CONTENT_TYPE, Problem};

/// A refusal of a request: a problem, and the header fields that belong to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    problem: Problem,
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// A problem of ours, by its kind (`urn:countersign:kind`) and what was wrong here.
    #[must_use]
    pub fn new(status: StatusCode, kind: &str, detail: impl Into<String>) -> Self {
        Problem::new(status.as_u16(), kind, detail).into()
    }

    /// With `Retry-After`, in whole seconds: the same request may succeed after that.
    #[must_use]
    pub fn retry_after(self, after: Duration) -> Self {
        self.with(header::RETRY_AFTER, HeaderValue::from(after.as_secs()))
    }

    /// With `Allow`: the methods that the route has.
    #[must_use]
    pub fn allow(self, methods: &'static str) -> Self {
        self.with(header::ALLOW, HeaderValue::from_static(methods))
    }

    /// With another header field.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.push((name, value));
        self
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { problem, fields: Vec::new() }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.problem.status);
        let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE))];
        let mut response = (status, kind, self.problem.to_json()).into_response();
        response.headers_mut().extend(self.fields);
        response
    }
}
