//! What an operator does with dead letters.
//!
//! - `GET /v1/deadletters`: those that nobody has looked at, oldest first, at most [`LISTED_MAX`]:
//!   `{"letters":[{"sequence","at","sender","from","reason","bytes","batch":{"edge","epoch",
//!   "number"}}],"more"}`. The sender is who had authenticated himself: `"operator"`,
//!   `{"issuer":ID}`, `{"edge":ID}`; null where that is not known.
//! - `GET /v1/deadletters/{sequence}`: the bytes as they came; the sender in [`SENDER_FIELD`].
//! - `POST /v1/deadletters/{sequence}/resolve`: it has been looked at. Its batch is waited for no
//!   more: without a body the one that its bytes name, when that batch's edge belongs to the letter's
//!   sender, else 403 `foreign_edge`, and nothing is changed; or the one of the body (`{"edge",
//!   "epoch","number"}`), which the operator answers for; or none, when the body is `null`.

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
use crate::sender::Refusal;

/// Who had authenticated himself when a letter came, as text.
pub const SENDER_FIELD: &str = "countersign-sender";
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
            let letter = DeadLetter::read(&payload);
            let sender = letter.and_then(|letter| letter.sender);
            let sender = sender.map_or_else(|| dead::UNKNOWN.to_owned(), |who| who.to_string());
            let fields = [
                (header::CONTENT_TYPE.as_str(), "application/octet-stream".to_owned()),
                (SENDER_FIELD, sender),
            ];
            (fields, letter.map_or_else(Vec::new, |letter| letter.bytes.to_vec())).into_response()
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
        b"" => match claimed(&collector, sequence, &payload) {
            Ok(named) => named,
            Err(error) => return refused(&error),
        },
        body => match serde_json::from_slice::<Option<BatchName>>(body) {
            Ok(named) => named,
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

/// The batch that a letter says that it was: believed when it is its sender's.
fn claimed<L: Log>(
    collector: &Collector<L>,
    sequence: u64,
    payload: &[u8],
) -> Result<Option<BatchName>, SubmitError> {
    let letter = DeadLetter::read(payload);
    let sender = letter.and_then(|letter| letter.sender);
    let Some(named) = letter.and_then(|letter| dead::name_of(letter.bytes)) else {
        return Ok(None);
    };
    if collector.speaks_for(sender, named.edge) {
        return Ok(Some(named));
    }
    let who = match sender {
        Some(sender) => format!("came from the {sender}, whose edge {} is not", named.edge),
        None => {
            format!("says that it was of the edge {}, and who sent it is not known", named.edge)
        }
    };
    let BatchName { edge, epoch, number } = named;
    Err(SubmitError::NotAllowed(
        Refusal::ForeignEdge,
        format!(
            "dead letter {sequence} {who}: `--batch {edge}/{epoch}/{number}` gives that batch up all \
             the same, for ever; `--no-batch` resolves the letter alone"
        ),
    ))
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
