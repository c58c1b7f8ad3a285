//! `/v1/reconciliations`: what came of the comparisons, and an operator's way to begin one.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use api::reconciliations::{Reconciliations, Time, Wanted};
use api::{Principal, Refusal, json, routes};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use shared::Minute;

use super::{Core, Unbegun};
use crate::cli::minute;

/// The largest body: two times.
const BODY_BYTES_MAX: usize = 4 << 10;
/// `Retry-After` when the store or the engine cannot answer.
const RETRY_AFTER: Duration = Duration::from_secs(5);

pub(super) fn router(core: Arc<Core>) -> Router {
    Router::new()
        .route(routes::RECONCILIATIONS.path, get(list).post(begin))
        .route(routes::RECONCILIATION.path, get(one))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(core)
}

type Answer = Result<Response, Refusal>;

fn invalid(what: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "invalid_parameter", what)
}

/// A parameter that is not known is refused, never left out of account.
fn without_query(uri: &Uri) -> Result<(), Refusal> {
    match uri.query().filter(|query| !query.is_empty()) {
        None => Ok(()),
        Some(query) => {
            let name: String = query.chars().take_while(|c| *c != '=').take(64).collect();
            Err(invalid(format!("{name}: unknown parameter; there are none")))
        }
    }
}

impl From<Unbegun> for Refusal {
    fn from(why: Unbegun) -> Self {
        let (status, kind) = match &why {
            Unbegun::NoArchive(_) => (StatusCode::CONFLICT, "no_archive"),
            Unbegun::Running(_) => (StatusCode::CONFLICT, "reconciliation_running"),
            Unbegun::NotFinal(_) => (StatusCode::CONFLICT, "not_final"),
            Unbegun::Away(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
        };
        let refusal = Self::new(status, kind, why.to_string());
        if let Unbegun::Away(_) = why { refusal.retry_after(RETRY_AFTER) } else { refusal }
    }
}

async fn list(_: Principal, State(core): State<Arc<Core>>, uri: Uri) -> Answer {
    without_query(&uri)?;
    let (next_at, waits) = core.next().await?;
    let reconciliations = core.told().await?;
    Ok(json(&Reconciliations { next_at, waits, reconciliations }))
}

async fn one(
    _: Principal,
    State(core): State<Arc<Core>>,
    Path(id): Path<String>,
    uri: Uri,
) -> Answer {
    without_query(&uri)?;
    let number = id.parse::<u64>().ok().filter(|id| *id > 0);
    let number = number.ok_or_else(|| invalid("id: a whole number from 1 on".to_owned()))?;
    let found = core.told().await?.into_iter().find(|told| told.id == number);
    found.map(|told| json(&told)).ok_or_else(|| {
        let what = format!("there is no reconciliation {number}, or it is not kept any more");
        Refusal::new(StatusCode::NOT_FOUND, "unknown_reconciliation", what)
    })
}

async fn begin(
    _: Principal,
    State(core): State<Arc<Core>>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    without_query(&uri)?;
    let body =
        body.map_err(|error| Refusal::new(error.status(), "body_unreadable", error.body_text()))?;
    let range = range(&body)?;
    let told = core.asked(range).await?;
    let place = routes::RECONCILIATION.at(&[&told.id]);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], json(&told)).into_response())
}

fn range(body: &[u8]) -> Result<Range<Minute>, Refusal> {
    let wanted: Wanted = serde_json::from_slice(body).map_err(|error| {
        let what = format!("give {{\"from\": …, \"to\": …}}, two whole minutes: {error}");
        Refusal::new(StatusCode::BAD_REQUEST, "malformed", what)
    })?;
    let read = |name: &str, time: Time| {
        let text = match time {
            Time::Seconds(seconds) => seconds.to_string(),
            Time::Text(text) => text,
        };
        minute(&text).map_err(|why| invalid(format!("{name}: {why}")))
    };
    let (from, to) = (read("from", wanted.from)?, read("to", wanted.to)?);
    if from >= to {
        return Err(invalid(
            "to: it is not after from; it is the minute behind the last".to_owned(),
        ));
    }
    if to.0 - from.0 > aggregator::RANGE_MINUTES_MAX {
        let days = aggregator::RANGE_MINUTES_MAX / 24 / 60;
        return Err(invalid(format!("to: more than {days} days after from")));
    }
    Ok(from..to)
}
