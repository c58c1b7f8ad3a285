//! The routes with which an operator reads and resolves dead letters.
//!
//! - `GET /v1/deadletters` lists the letters that are not resolved, oldest first: at most [`LISTED_MAX`] of
//!   them, or `limit=`; only those above the sequence `after=N`; only those of `sender=`
//!   ([`dead::parse_sender`]). The answer is `{"letters":[{"sequence","at","sender","from","reason","bytes",
//!   "batch":{"edge","epoch","number"}}],"more","all","senders":[{"sender","letters","bytes"}],"others",
//!   "end"}`. `all`, `senders` and `others` count all letters, whatever was asked for, so that one sender's
//!   letters cannot be hidden by a flood of another's. `sender` is the authenticated sender: `"operator"`,
//!   `{"issuer":ID}`, `{"edge":ID}`, or null where it is not known.
//! - `GET /v1/deadletters/{sequence}` gives the bytes that were kept, and the sender in [`SENDER_FIELD`].
//! - `POST /v1/deadletters/{sequence}/resolve` marks a letter as resolved, and gives up its batch: counting
//!   does not wait for it any more. Without a body, the batch is the one that the letter's bytes name; its
//!   edge must belong to the letter's sender, else the answer is 403 `foreign_edge` and nothing is changed.
//!   With a body `{"edge","epoch","number"}` it is that batch, on the operator's responsibility. With the
//!   body `null` no batch is given up.
//! - `POST /v1/deadletters/resolve?sender=` does the same for each letter of a sender, above `after=N` and
//!   up to `until=N`, without a body or with `null`. Letters that would be refused stay as they are. The
//!   answer is `{"resolved","batches","kept","why","next","end"}`. One request resolves at most
//!   [`RESOLVED_MAX`] letters and gives up at most [`GIVEN_UP_MAX`] batches; when it stops there, `next` is
//!   the `after` of the following request.
//!
//! A parameter that is not known is answered with 400 `invalid_parameter`.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use api::letters::{BatchName, Resolved, ResolvedAll};
use api::routes;
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use eventlog::{Log, LogError};

use shared::wire::DeadLetter;

use super::bodies::{self, Pace};
use super::{only_post, problem, refused};
use crate::collector::Collector;
use crate::dead::{self, Unresolved, Wanted};
use crate::error::SubmitError;
use crate::sender::Refusal;

/// The response header with the letter's authenticated sender, as text.
pub const SENDER_FIELD: &str = "countersign-sender";
/// The most letters of one answer.
pub const LISTED_MAX: usize = 1_000;
/// The most letters that one request resolves …
pub const RESOLVED_MAX: u64 = 100_000;
/// … and the most batches that it gives up: each costs a message to every partition.
pub const GIVEN_UP_MAX: u64 = 1_000;
/// Notes of resolved letters in one append.
const NOTES_MAX: usize = 1_000;
/// The longest body of these routes in bytes, more than the name of a batch needs.
const NAME_BYTES_MAX: usize = 4 << 10;

type Shared<L> = State<Arc<Collector<L>>>;

pub(super) fn router<L: Log>(collector: Arc<Collector<L>>) -> Router {
    Router::new()
        .route(routes::DEAD_LETTERS.path, get(list::<L>))
        .route(routes::RESOLVE_ALL.path, post(resolve_all::<L>).fallback(only_post))
        .route(routes::DEAD_LETTER.path, get(show::<L>))
        .route(routes::RESOLVE.path, post(resolve::<L>).fallback(only_post))
        .with_state(collector)
}

async fn list<L: Log>(State(collector): Shared<L>, uri: Uri) -> Response {
    let asked = Params::read(&uri, &["after", "limit", "sender"]).and_then(|params| {
        let most = LISTED_MAX as u64;
        Ok((params.wanted()?, params.number("limit", 1..=most)?.unwrap_or(most)))
    });
    let (wanted, most) = match asked {
        Ok((wanted, most)) => (wanted, usize::try_from(most).unwrap_or(LISTED_MAX)),
        Err(why) => return invalid(why),
    };
    match dead::unresolved(collector.log(), &wanted, most).await {
        Ok(listing) => axum::Json(listing).into_response(),
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
    match dead::resolve(collector.log(), &[sequence], collector.now()).await {
        Ok(()) => {
            forget(&collector).await;
            axum::Json(Resolved { sequence, batch: named }).into_response()
        }
        Err(error) => away(&error),
    }
}

async fn resolve_all<L: Log>(State(collector): Shared<L>, uri: Uri, request: Request) -> Response {
    let asked = Params::read(&uri, &["after", "sender", "until"]).and_then(|params| {
        let wanted = params.wanted()?;
        wanted.sender.map(|_| wanted).ok_or_else(|| "sender: say whose letters".to_owned())
    });
    let wanted = match asked {
        Ok(wanted) => wanted,
        Err(why) => return invalid(why),
    };
    let body = match bodies::read(request.into_body(), NAME_BYTES_MAX, &Pace::default()).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let gives_up = match &body[..] {
        b"" => true,
        b"null" => false,
        _ => {
            let what = "a body that is neither empty nor null: each letter names its own batch";
            return refused(&SubmitError::Refused(what.to_owned()));
        }
    };
    let done = resolve_each(&collector, &wanted, gives_up).await;
    forget(&collector).await;
    match done {
        Ok(done) => axum::Json(done).into_response(),
        Err(error) => refused(&error),
    }
}

/// Resolves each letter that is wanted. When `gives_up`, the batches that the letters name are given up
/// too, and letters that name an edge of another sender stay as they are.
async fn resolve_each<L: Log>(
    collector: &Collector<L>,
    wanted: &Wanted,
    gives_up: bool,
) -> Result<ResolvedAll, SubmitError> {
    let retry = |error: LogError| SubmitError::Retry(error.to_string());
    let mut unresolved = Unresolved::open(collector.log()).await.map_err(retry)?;
    let mut done = ResolvedAll { end: unresolved.end(), ..ResolvedAll::default() };
    let (mut notes, mut given_up) = (Vec::new(), BTreeSet::new());
    // A letter is noted as resolved only after its batch was given up. When a request stops between the
    // two, the next one finds the letter again, and giving the batch up twice changes nothing.
    while let Some((sequence, payload)) = unresolved.next().await.map_err(retry)? {
        let sender = DeadLetter::read(&payload).and_then(|letter| letter.sender);
        if !wanted.takes(sequence, sender) {
            continue;
        }
        let named = if gives_up { claimed(collector, sequence, &payload) } else { Ok(None) };
        match named {
            Ok(named) => {
                // A batch that came many times is given up once.
                if let Some(named) = named
                    && given_up.insert(named)
                {
                    collector.resolve(named.outbox(), named.number).await?;
                    done.batches += 1;
                }
                notes.push(sequence);
                done.resolved += 1;
            }
            Err(SubmitError::NotAllowed(_, why)) => {
                done.kept += 1;
                done.why.get_or_insert(why);
            }
            Err(error) => return Err(error),
        }
        let is_much = done.resolved >= RESOLVED_MAX || done.batches >= GIVEN_UP_MAX;
        if notes.len() >= NOTES_MAX || is_much {
            note(collector, &mut notes).await?;
        }
        if is_much {
            done.next = Some(sequence);
            break;
        }
    }
    note(collector, &mut notes).await?;
    Ok(done)
}

async fn note<L: Log>(collector: &Collector<L>, notes: &mut Vec<u64>) -> Result<(), SubmitError> {
    let noted = dead::resolve(collector.log(), &std::mem::take(notes), collector.now()).await;
    noted.map_err(|error| SubmitError::Retry(error.to_string()))
}

/// Removes resolved letters from the log. When that fails they stay until the next letter is resolved.
async fn forget<L: Log>(collector: &Collector<L>) {
    if let Err(error) = dead::forget(collector.log()).await {
        tracing::warn!(%error, "the dead letters that are resolved stay in the log for now");
    }
}

/// The parameters of a request, each at most once and none that is not known.
struct Params(Vec<(String, String)>);

impl Params {
    fn read(uri: &Uri, known: &[&str]) -> Result<Self, String> {
        let Ok(Query(given)) = Query::<Vec<(String, String)>>::try_from_uri(uri) else {
            return Err("query: write it as name=value&name=value".to_owned());
        };
        for (at, (name, _)) in given.iter().enumerate() {
            if !known.contains(&name.as_str()) {
                let there_are = known.join(", ");
                return Err(format!("{name:.64}: there is none such; there are: {there_are}"));
            }
            if given[..at].iter().any(|(before, _)| before == name) {
                return Err(format!("{name}: it is there twice; give it once"));
            }
        }
        Ok(Self(given))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    fn number(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, String> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| range.contains(number));
        let (least, most) = (range.start(), range.end());
        let wrong = || format!("{name}: give a whole number from {least} to {most}");
        number.map(Some).ok_or_else(wrong)
    }

    fn wanted(&self) -> Result<Wanted, String> {
        let sender = self.get("sender").map(dead::parse_sender).transpose();
        let sender = sender.map_err(|why| format!("sender: {why}"))?;
        let all = Wanted::default();
        let after = self.number("after", 0..=u64::MAX)?.unwrap_or(all.after);
        let until = self.number("until", 0..=u64::MAX)?.unwrap_or(all.until);
        Ok(Wanted { after, until, sender })
    }
}

fn invalid(why: String) -> Response {
    problem(StatusCode::BAD_REQUEST, "invalid_parameter", why)
}

/// The batch that a letter's bytes name; none when they name none.
///
/// # Errors
/// [`Refusal::ForeignEdge`] when that batch's edge is not the sender's, so that the letter is not believed.
fn claimed<L: Log>(
    collector: &Collector<L>,
    sequence: u64,
    payload: &[u8],
) -> Result<Option<BatchName>, SubmitError> {
    let letter = DeadLetter::read(payload);
    let sender = letter.and_then(|letter| letter.sender);
    let Some(named) = letter.and_then(|letter| dead::batch_name(letter.bytes)) else {
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
