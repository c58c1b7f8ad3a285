//! The HTTP gateway: batches and chunks from outside, for edges without NATS, servers and importers.
//!
//! A request is let in by one of two keys. The operator's key is checked by the program that mounts this
//! router. An issuer's key, with which an edge signs a request for batches ([`request`]), is checked here:
//! first what the head alone shows, then the whole request. [`bodies`] bounds what reading bodies costs.
//! An issuer's key speaks for the edges of this issuer and no others; the operator's key for every edge
//! that is registered.

pub(crate) mod bodies;
pub mod letters;
mod runs;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::answers::{Imported, Taken};
use api::routes;
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use eventlog::Log;
use shared::import::ImportChunk;
use shared::keys::Sender;
use shared::keys::request::{self, RequestError};
use shared::limits::GATEWAY_BODY_BYTES_MAX;
use shared::wire::json::JsonBatch;

use self::bodies::{Bodies, Caller};
use self::runs::{RunError, Runs};
use crate::collector::{Collector, Receipt};
use crate::error::SubmitError;
use crate::sender::Refusal;

/// The content type of a batch in its binary form; `application/octet-stream` means the same.
pub const BATCH_CONTENT_TYPE: &str = "application/vnd.countersign.batch";
/// The route for batches: the only one where a signature can take the place of the operator's key.
pub const BATCHES_PATH: &str = routes::BATCHES.path;
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The longest `Retry-After`: there may be room before the quota says so.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

struct Gateway<L> {
    collector: Arc<Collector<L>>,
    bodies: Bodies,
    runs: Runs,
}

type Shared<L> = State<Arc<Gateway<L>>>;

/// Serves `POST /v1/batches` and `POST /v1/import`, and the routes of [`letters`].
///
/// - Batches, signed or with the operator's key: [`BATCH_CONTENT_TYPE`], `application/octet-stream` or
///   `application/json` ([`JsonBatch`]). The answer is 202 with `{"clock_ahead_ms"}` (how far the sender's
///   clock is ahead of ours, see [`Receipt`]) when every partition has the batch durably. A batch that
///   cannot be decoded is answered with 400 and kept with the dead letters.
/// - Import: `application/json` ([`ImportChunk`]); 200 with `{"source","end_row"}` when every partition has
///   the chunk durably. `run=` names one run of an importer. A run begins with a chunk without rows. It
///   gets 503 (`import_busy`) while another run imports the same log, and 409 (`import_taken_over`) when
///   another run has begun meanwhile.
///
/// Errors are RFC 9457 problems: 400, 401 (a signature that is not believed), 403 (`foreign_edge`,
/// `unregistered_edge`, `epoch_ahead`: nothing was written), 405, 408 (a body that comes too slowly),
/// 413 (over [`GATEWAY_BODY_BYTES_MAX`], or more than the log takes), 415, 429 with Retry-After when the
/// issuer has used up a quota (`over_quota`, [`crate::Quotas`]) or sent too much that cannot be decoded
/// (`too_many_dead_letters`; nothing was written), and 503 with Retry-After when the log is away or too
/// many bodies are being read.
pub fn router<L: Log>(collector: Arc<Collector<L>>) -> Router {
    with_bodies(collector, Bodies::default())
}

pub(crate) fn with_bodies<L: Log>(collector: Arc<Collector<L>>, bodies: Bodies) -> Router {
    let letters = letters::router(Arc::clone(&collector));
    let gateway = Arc::new(Gateway { collector, bodies, runs: Runs::default() });
    Router::new()
        .route(BATCHES_PATH, post(batches::<L>).fallback(only_post))
        .route(routes::IMPORT.path, post(import::<L>).fallback(only_post))
        .with_state(gateway)
        .merge(letters)
}

async fn batches<L: Log>(State(gateway): Shared<L>, request: Request) -> Response {
    let json = match content_type(request.headers()).as_deref() {
        Some(BATCH_CONTENT_TYPE | "application/octet-stream") => false,
        Some("application/json") => true,
        other => return unsupported(other, "a binary batch or application/json"),
    };
    let from = sender(&request);
    let signature = request.headers().get(request::FIELD).cloned();
    let collector = &gateway.collector;
    let whose = match &signature {
        None => Caller::Operator,
        Some(signature) => {
            let hash = request.headers().get(request::BODY_FIELD).map(HeaderValue::as_bytes);
            match collector.check_head(signature.as_bytes(), hash, BATCHES_PATH) {
                Ok(Some(issuer)) => Caller::Issuer(issuer),
                Ok(None) => Caller::Unproven,
                Err(error) => return unauthorized(collector, &error),
            }
        }
    };
    let body = gateway.bodies.read(whose, request.into_body(), GATEWAY_BODY_BYTES_MAX);
    let body = match body.await {
        Ok(body) => body,
        Err(response) => return response,
    };
    // A request without a signature was let in by the operator's key.
    let signed = signature.map_or(Ok(Sender::Operator), |signature| {
        collector.check_request(signature.as_bytes(), BATCHES_PATH, &body)
    });
    let sender = match signed {
        Ok(sender) => sender,
        Err(error) => return unauthorized(collector, &error),
    };
    let batch = match if json { from_json(&body) } else { Ok(body.clone()) } {
        Ok(batch) => batch,
        Err(reason) => {
            return refused(&collector.refuse(Some(sender), &from, reason, body).await);
        }
    };
    // The JSON text of a batch is many times as long as its binary form, and its turn has been given back.
    drop(body);
    match collector.submit_from(sender, &from, batch).await {
        Ok(Receipt { clock_ahead_ms, .. }) => {
            (StatusCode::ACCEPTED, axum::Json(Taken { clock_ahead_ms })).into_response()
        }
        Err(error) => refused(&error),
    }
}

async fn import<L: Log>(State(gateway): Shared<L>, request: Request) -> Response {
    match content_type(request.headers()).as_deref() {
        Some("application/json") => {}
        other => return unsupported(other, "application/json"),
    }
    let (run, is_over) = match run_of(request.uri()) {
        Ok(run) => run,
        Err(what) => return problem(StatusCode::BAD_REQUEST, "invalid_parameter", what),
    };
    let body = gateway.bodies.read(Caller::Operator, request.into_body(), GATEWAY_BODY_BYTES_MAX);
    let body = match body.await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let chunk: ImportChunk = match serde_json::from_slice(&body) {
        Ok(chunk) => chunk,
        Err(error) => return refused(&SubmitError::Refused(format!("no import chunk: {error}"))),
    };
    let (source, rows) = (chunk.source, chunk.first_row..chunk.end_row);
    let take = |run: &String| gateway.runs.take(source, run, rows.clone());
    let (end, _under_way) = match run.as_ref().map(take).transpose() {
        Ok(taken) => taken.unzip(),
        Err(RunError::Busy) => {
            let detail = "another import of this log is under way; send the same again later";
            return soon("import_busy", detail);
        }
        Err(RunError::TakenOver) => {
            let detail = "another import under this name has followed this one, which was silent: run \
                          the same command again";
            return problem(StatusCode::CONFLICT, "import_taken_over", detail);
        }
    };
    if let Some(run) = run.filter(|_| is_over) {
        gateway.runs.end(source, &run);
    }
    if rows.is_empty() && chunk.events.is_empty() && end.is_some() {
        return axum::Json(Imported { source, end_row: end.unwrap_or_default() }).into_response();
    }
    let answer = Imported { source, end_row: chunk.end_row };
    match gateway.collector.import(chunk).await {
        Ok(()) => axum::Json(answer).into_response(),
        Err(error) => refused(&error),
    }
}

/// The name of the importer's run, if the query has one, and whether the run ends with this request.
///
/// # Errors
/// Says what the query may have.
fn run_of(uri: &axum::http::Uri) -> Result<(Option<String>, bool), &'static str> {
    let (mut run, mut is_over) = (None, false);
    for pair in uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let is_name = |run: &&str| {
            (1..=64).contains(&run.len()) && run.bytes().all(|byte| byte.is_ascii_alphanumeric())
        };
        match pair.split_once('=') {
            Some(("run", name)) if run.is_none() && is_name(&name) => run = Some(name.to_owned()),
            // Importers of earlier builds send `begin=`; nothing depends on it any more.
            Some(("begin", _)) => {}
            Some(("end", "true")) => is_over = true,
            _ => return Err("there is run=, once, of 1 to 64 letters and digits, and end=true"),
        }
    }
    Ok((run, is_over))
}

fn from_json(body: &[u8]) -> Result<Bytes, String> {
    let json: JsonBatch =
        serde_json::from_slice(body).map_err(|error| format!("no JSON batch: {error}"))?;
    let batch = json.batch()?;
    Ok(Bytes::from(batch.to_bytes_2().unwrap_or_else(|| batch.to_bytes())))
}

async fn only_post() -> Response {
    let detail = "only POST is understood here";
    let refusal = api::Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
    refusal.allow("POST").into_response()
}

/// The media type in lower case, without parameters.
fn content_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn sender(request: &Request) -> String {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map_or_else(
        || "gateway".to_owned(),
        |ConnectInfo(peer)| format!("gateway {}", network(peer.ip())),
    )
}

/// The network of an address, /24 or /48: only that may be written down.
fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            format!("{a:x}:{b:x}:{c:x}::/48")
        }
    }
}

fn unsupported(found: Option<&str>, wanted: &str) -> Response {
    let found = found.unwrap_or("nothing");
    let detail = format!("the content type says {found:.80}; send {wanted}");
    problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
}

fn unauthorized<L: Log>(collector: &Collector<L>, error: &RequestError) -> Response {
    // While this collector's own clock is in doubt, it does not blame the sender's.
    if let (RequestError::Time, Some(trouble)) = (error, collector.trouble()) {
        return refused(&SubmitError::Retry(trouble));
    }
    problem(StatusCode::UNAUTHORIZED, "unauthorized", error.to_string())
}

fn refused(error: &SubmitError) -> Response {
    match error {
        SubmitError::Refused(why) => problem(StatusCode::BAD_REQUEST, "malformed", why.as_str()),
        SubmitError::NotAllowed(why @ Refusal::BatchTooLarge, detail) => {
            problem(StatusCode::PAYLOAD_TOO_LARGE, why.name(), detail.as_str())
        }
        SubmitError::NotAllowed(why, detail) => {
            problem(StatusCode::FORBIDDEN, why.name(), detail.as_str())
        }
        SubmitError::TooManyLetters(after, _) => {
            let detail = format!("{error}; nothing of it is kept");
            later("too_many_dead_letters", &detail, *after)
        }
        SubmitError::OverQuota { why, after } => later("over_quota", why, *after),
        SubmitError::Retry(why) => soon("log_away", format!("{why}; send the same again later")),
    }
}

/// 429: the same request may be sent again after this time.
fn later(kind: &str, detail: &str, after: Duration) -> Response {
    let after = (after + Duration::from_secs(1)).min(RETRY_AFTER_MAX);
    let refusal = api::Refusal::new(StatusCode::TOO_MANY_REQUESTS, kind, detail);
    refusal.retry_after(after).into_response()
}

/// 503: the same request may be sent again in a moment.
fn soon(kind: &str, detail: impl Into<String>) -> Response {
    let refusal = api::Refusal::new(StatusCode::SERVICE_UNAVAILABLE, kind, detail);
    refusal.retry_after(RETRY_AFTER).into_response()
}

fn problem(status: StatusCode, kind: &str, detail: impl Into<String>) -> Response {
    api::Refusal::new(status, kind, detail).into_response()
}

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn no_whole_address_is_written_down() {
        let of = |address: &str| network(address.parse().unwrap());
        assert_eq!(of("203.0.113.77"), "203.0.113.0/24");
        assert_eq!(of("::ffff:203.0.113.77"), "203.0.113.0/24");
        assert_eq!(of("2001:db8:1:2::3"), "2001:db8:1::/48");
    }
}
