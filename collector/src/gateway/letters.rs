//! What an operator does with dead letters.
//!
//! - `GET /v1/deadletters`: those that nobody has looked at, oldest first, at most [`LISTED_MAX`]:
//!   `{"letters":[{"sequence","at","sender","reason","bytes","batch":{"edge","epoch","number"}}],
//!   "more"}`.
//! - `GET /v1/deadletters/{sequence}`: the bytes as they came.
//! - `POST /v1/deadletters/{sequence}/resolve`: it has been looked at. Its batch is waited for no
//!   more: the one that its bytes name, or that of the body (`{"edge","epoch","number"}`).

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use eventlog::{Log, LogError};

use shared::wire::DeadLetter;

use super::bodies::{self, Pace};
use super::{only_post, problem, refused};
use crate::collector::{Collector, SubmitError};
use crate::dead::{self, BatchName};

/// The most letters of one answer.
pub const LISTED_MAX: usize = 1_000;
/// The name of a batch is shorter.
const NAME_BYTES_MAX: usize = 4 << 10;

type Shared<L> = State<Arc<Collector<L>>>;

pub(super) fn router<L: Log>(collector: Arc<Collector<L>>) -> Router {
    Router::new()
        .route("/v1/deadletters", get(list::<L>))
        .route("/v1/deadletters/{sequence}", get(show::<L>))
        .route("/v1/deadletters/{sequence}/resolve", post(resolve::<L>).fallback(only_post))
        .with_state(collector)
}

async fn list<L: Log>(State(collector): Shared<L>) -> Response {
    match dead::unresolved(collector.log(), LISTED_MAX).await {
        Ok((letters, more)) => {
            axum::Json(serde_json::json!({ "letters": letters, "more": more })).into_response()
        }
        Err(error) => away(&error),
    }
}

async fn show<L: Log>(State(collector): Shared<L>, Path(sequence): Path<u64>) -> Response {
    match letter(&collector, sequence).await {
        Ok(payload) => {
            let bytes = DeadLetter::read(&payload).map(|letter| letter.bytes.to_vec());
            let kind = [(header::CONTENT_TYPE, "application/octet-stream")];
            (kind, bytes.unwrap_or_default()).into_response()
        }
        Err(response) => response,
    }
}

async fn resolve<L: Log>(
    State(collector): Shared<L>,
    Path(sequence): Path<u64>,
    request: Request,
) -> Response {
    let body = match bodies::read(request.into_body(), NAME_BYTES_MAX, &Pace::default()).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let payload = match letter(&collector, sequence).await {
        Ok(payload) => payload,
        Err(response) => return response,
    };
    let named = match &body[..] {
        b"" => DeadLetter::read(&payload).and_then(|letter| dead::name_of(letter.bytes)),
        body => match serde_json::from_slice::<BatchName>(body) {
            Ok(named) => Some(named),
            Err(error) => {
                let what = format!("no name of a batch (edge, epoch, number): {error}");
                return refused(&SubmitError::Refused(what));
            }
        },
    };
    if let Some(named) = named
        && let Err(error) = collector.resolve(named.outbox(), named.number).await
    {
        return refused(&error);
    }
    match dead::resolve(collector.log(), sequence, collector.now()).await {
        Ok(()) => {
            axum::Json(serde_json::json!({ "sequence": sequence, "batch": named })).into_response()
        }
        Err(error) => away(&error),
    }
}

async fn letter<L: Log>(collector: &Collector<L>, sequence: u64) -> Result<bytes::Bytes, Response> {
    let found = dead::find(collector.log(), sequence).await.map_err(|error| away(&error))?;
    found.ok_or_else(|| {
        let what =
            format!("there is no dead letter {sequence}; `deadletter list` shows those there are");
        problem(StatusCode::NOT_FOUND, "not_found", what)
    })
}

fn away(error: &LogError) -> Response {
    refused(&SubmitError::Retry(error.to_string()))
}
