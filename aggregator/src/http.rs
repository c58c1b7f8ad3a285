//! The aggregator's routes: reads parameters, asks the questions, and makes the bodies of the
//! answers.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use api::answers::{
    self, Account, Conflict, Conflicts, Counted, Edge, Edges, Gap, Missing, Pages, Popular,
    Reasons, Source,
};
use api::reports::Of;
use api::{Principal, Refusal, json, routes};
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use eventlog::Log;
use shared::ambient::Stopwatch;
use shared::event::REASON_CODES;
use shared::keys::registered_name;
use shared::problem::Problem;
use shared::{EdgeId, Minute, OutboxId, PublisherId, PublisherName, Ready, Reason, Timestamp};

use crate::count::{self, Told};
use crate::facts;
use crate::query::{
    self, AllEdges, CountOfAd, CountsOfAds, Names, OfFacts, StateOfSource, Unanswered,
};
use crate::service::{Aggregator, Core, NotReady};
use crate::store::{StoreError, Stores};
use asked::{Asking, Meant, Understood};
use params::Params;

mod asked;
mod export;
mod filters;
mod live;
mod many;
mod params;
mod reports;
mod restatements;
mod table;
#[cfg(test)]
mod tests;

pub use params::{COUNT_MAX, RANGE_MINUTES_MAX};

/// `Retry-After` of an aggregator that is starting.
const RETRY_STARTING: Duration = Duration::from_secs(5);
/// `Retry-After` of an aggregator that an operator must look after.
const RETRY_STOPPED: Duration = Duration::from_secs(60);

/// The status of questions that are understood, and cannot be answered as they are.
const TOO_MUCH: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

impl<L: Log, S: Stores> Aggregator<L, S> {
    /// The routes of all questions, and `/readyz`.
    pub fn router(&self) -> Router {
        router(Arc::clone(&self.core))
    }
}

/// Whoever mounts these routes must say who asks ([`Principal`]). Without that only `/readyz`
/// answers.
fn router<L: Log, S: Stores>(core: Arc<Core<L, S>>) -> Router {
    let questions = Router::new()
        .route(routes::AD_COUNT.path, get(aggregated_count::<L, S>))
        .route(routes::AD_CNT.path, get(aggregated_count::<L, S>))
        .route(routes::POPULAR_ADS.path, get(popular_ads::<L, S>))
        .merge(reports::router());
    Router::new()
        .merge(many::router(questions.clone().with_state(Arc::clone(&core))))
        .merge(questions)
        .route(routes::ACCOUNTING.path, get(accounting::<L, S>))
        .route(routes::EDGES.path, get(edges::<L, S>))
        .route(routes::SOURCE.path, get(source::<L, S>))
        .route(routes::CELLS.path, get(cells::<L, S>))
        .route(routes::READY.path, get(readyz::<L, S>))
        .route(routes::reports::SEGMENTS.path, get(reports::segments::<L, S>))
        .merge(filters::router())
        .merge(restatements::router())
        .merge(live::router())
        .with_state(core)
}

type Answer = Result<Response, Refusal>;

impl From<Unanswered> for Refusal {
    fn from(why: Unanswered) -> Self {
        match why {
            Unanswered::NotReady(why) => why.into(),
            Unanswered::NoFacts(_) => Self::new(TOO_MUCH, "no_facts", why.to_string()),
            Unanswered::TooMuch { .. } => Self::new(TOO_MUCH, "too_much_to_read", why.to_string()),
            Unanswered::TooManyGroups(_) => Self::new(TOO_MUCH, "too_many_groups", why.to_string()),
            Unanswered::Store(StoreError::Damaged(what)) => {
                tracing::error!(%what, "a question met a damaged checkpoint");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged_checkpoint", what)
            }
            Unanswered::Store(error) => {
                tracing::warn!(%error, "a question could not be answered");
                let why = error.to_string();
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", why)
                    .retry_after(RETRY_STARTING)
            }
        }
    }
}

impl From<NotReady> for Refusal {
    fn from(why: NotReady) -> Self {
        let (kind, after) = match &why {
            NotReady::Starting(_) => ("not_ready", RETRY_STARTING),
            NotReady::Stopped(_) => ("partition_stopped", RETRY_STOPPED),
        };
        Self::new(StatusCode::SERVICE_UNAVAILABLE, kind, why.to_string()).retry_after(after)
    }
}

/// A part of the path. When its percent-encoding is wrong, the refusal names the parameter, which
/// that of axum would not.
fn part(name: &str, path: Result<Path<String>, PathRejection>) -> Result<String, Problem> {
    let Path(text) = path.map_err(|error| {
        Problem::new(400, "invalid_parameter", format!("{name}: {}", error.body_text()))
    })?;
    Ok(text)
}

/// Waits until the aggregator is ready, does the work, and notes how long both took.
async fn answer<L: Log, S: Stores>(
    core: &Core<L, S>,
    query: &'static str,
    work: impl Future<Output = Answer> + Send,
) -> Answer {
    let watch = Stopwatch::start();
    core.board.ready(core.settings.ready_wait).await?;
    let answer = work.await;
    core.metrics.query(query, watch);
    answer
}

/// Without facts a top list is of so many minutes at most.
const TOTALS_MINUTES_MAX: u32 = 24 * 60;

/// Whether a top list that facts do not answer is answered from totals.
fn is_of_totals(range: &Range<Minute>, why: &Unanswered) -> bool {
    matches!(why, Unanswered::NoFacts(_)) && range.end.0 - range.start.0 <= TOTALS_MINUTES_MAX
}

async fn aggregated_count<L: Log, S: Stores>(
    asking: Asking<L, S>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Answer {
    let ad = params::ad(&part("ad_id", path)?)?;
    let params = Params::read(&uri, &["from", "to", "event", "validity", "filter", "where"])?;
    let (range, kind, validity) = (params.range()?, params.event()?, params.validity()?);
    let filter = params.filter()?;
    let core = &asking.core;
    answer(core, "aggregated_count", async {
        let meant = Meant::new(core, filter).await?;
        let filter = meant.filter.as_ref();
        let restated = asking.restated().await?;
        let thing = Some((Of::Ad, ad.id().any()));
        let others = reports::events(kind, validity);
        let of_facts: OfFacts<facts::Count> =
            asked::question(range.clone(), filter, thing, others, &restated);
        // Totals have no other columns, and know of no restatement.
        let has_totals = filter.is_none() && of_facts.overlay.is_empty();
        let found = match has_totals && asking.is_recent(&range) {
            true => None,
            false => Some(of_facts.ask(core, &asking.at).await),
        };
        let (count, revision, complete) = match found {
            Some(Ok(found)) => {
                let facts::Count(count) = reports::sum(found.tally);
                (count, found.revision, found.completeness)
            }
            Some(Err(why)) if !has_totals || !matches!(why, Unanswered::NoFacts(_)) => {
                return Err(why.into());
            }
            // In memory, and before facts begin, there are totals.
            _ => {
                let question = CountOfAd { ad: ad.id(), kind, validity, range: range.clone() };
                let found = query::ask(&core.slots, &question).await?;
                (found.count, found.revision, found.completeness)
            }
        };
        let Understood { filter_id, filter_version, filter, networks } = meant.understood();
        Ok(json(&Counted {
            ad_id: ad,
            event: kind,
            validity,
            from: time(range.start),
            to: time(range.end),
            running: range.end > core.clock.now().minute(),
            count,
            filter_id,
            filter_version,
            filter,
            networks,
            is_final: complete.is_final,
            behind: (!complete.is_final).then_some(complete.behind),
            revision: revision + restated.revisions(&range),
            as_of: complete.as_of.to_string(),
        }))
    })
    .await
}

async fn popular_ads<L: Log, S: Stores>(asking: Asking<L, S>, uri: Uri) -> Answer {
    let params = Params::read(
        &uri,
        &["count", "window", "event", "validity", "at", "running", "filter", "where"],
    )?;
    let count = params.number("count", 100, COUNT_MAX)?;
    let window = params.number("window", 1, RANGE_MINUTES_MAX)?;
    let (kind, validity, filter) = (params.event()?, params.validity()?, params.filter()?);
    let core = &asking.core;
    let now = core.clock.now().minute();
    let at = match (params.minute("at")?, params.is_true("running")?) {
        (Some(_), true) => {
            let what = "running: with `at` the window ends there; give one of the two";
            return Err(Problem::new(400, "invalid_parameter", what).into());
        }
        (at, is_running) => at.unwrap_or(Minute(now.0 + u32::from(is_running))),
    };
    let range = Minute(at.0.saturating_sub(window))..at;
    if range.is_empty() {
        let what = "at: before 1970-01-01T00:01:00Z there is no minute";
        return Err(Problem::new(400, "invalid_parameter", what).into());
    }
    answer(core, "popular_ads", async {
        let most = usize::try_from(count).unwrap_or(usize::MAX);
        let meant = Meant::new(core, filter).await?;
        let filter = meant.filter.as_ref();
        let restated = asking.restated().await?;
        let others = reports::events(kind, validity);
        let question: OfFacts<facts::Count> =
            asked::question(range.clone(), filter, None, others, &restated);
        let has_totals = filter.is_none() && question.overlay.is_empty();
        let found = match has_totals && asking.is_recent(&range) {
            true => None,
            false => Some(query::leading_ads(core, &asking.at, question, most).await),
        };
        let (top, complete) = match found {
            Some(Ok(found)) => {
                let counts = found.tally.into_iter();
                let counts = counts.map(|(ad, count)| (ad.cast(), count)).collect();
                (query::ranked(&core.slots, counts, most).await?, found.completeness)
            }
            Some(Err(why)) if !has_totals || !is_of_totals(&range, &why) => {
                return Err(why.into());
            }
            // In memory, and before facts begin, there are totals.
            _ => {
                let question = CountsOfAds { kind, validity, range: range.clone() };
                let found = query::ask(&core.slots, &question).await?;
                let complete = found.completeness;
                (found.top(&core.slots, most).await?, complete)
            }
        };
        let (ad_ids, counts) = top.into_iter().unzip();
        let Understood { filter_id, filter_version, filter, networks } = meant.understood();
        Ok(json(&Popular {
            ad_ids,
            counts,
            validity,
            window_start: time(range.start),
            window_end: time(range.end),
            filter_id,
            filter_version,
            filter,
            networks,
            running: range.end > now,
            is_final: complete.is_final,
            behind: (!complete.is_final).then_some(complete.behind),
        }))
    })
    .await
}

async fn accounting<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    uri: Uri,
) -> Answer {
    let params = Params::read(&uri, &["from", "to", "publisher"])?;
    let (range, publisher) = (params.range()?, params.publisher()?);
    answer(&core, "accounting", async {
        let mut found = query::accounting(&core.slots, &*core.log, range.clone()).await?;
        if let Some(publisher) = publisher {
            found.told.retain(|told, _| *told == publisher.id());
        }
        let publishers_with_pages = found.told.len();
        let told = with_most_counted(found.told);
        let names =
            Names::look_up(&core.slots, told.iter().map(|(publisher, _)| *publisher)).await?;
        let complete = found.completeness;
        Ok(json(&Account {
            from: time(range.start),
            to: time(range.end),
            received: found.received,
            counted: found.counted,
            duplicate: found.duplicate,
            reasons: reasons(&found.reasons),
            in_flight: found.in_flight,
            adds_up: found.because.is_empty(),
            because: found.because,
            given_up: found.given_up,
            is_final: complete.is_final,
            behind: (!complete.is_final).then_some(complete.behind),
            publishers_with_pages,
            pages: pages(told, &names)?,
            outboxes_with_gaps: found.gaps.len(),
            gaps: gaps(found.gaps),
            outboxes_with_conflicts: found.conflicts.len(),
            conflicts: conflicts(found.conflicts),
        }))
    })
    .await
}

async fn source<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Answer {
    let id = params::source(&part("source", path)?)?;
    Params::read(&uri, &[])?;
    answer(&core, "source", async {
        let found = query::ask(&core.slots, &StateOfSource(id)).await?;
        Ok(json(&Source {
            source: id,
            rows: found.rows,
            digest: (found.rows > 0).then(|| shared::text::hex(&found.digest)),
            counted: found.counted,
            duplicate: found.duplicate,
            reasons: reasons(&found.reasons),
        }))
    })
    .await
}

async fn edges<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    uri: Uri,
) -> Answer {
    Params::read(&uri, &[])?;
    answer(&core, "edges", async {
        let query::Edges { outboxes, retired, cut_off } =
            query::ask(&core.slots, &AllEdges).await?;
        let registered = (core.registered)();
        let known = outboxes.keys().map(|outbox| outbox.edge).chain(retired.keys().copied());
        let mut names: BTreeSet<EdgeId> = known.collect();
        // An edge that sends by its shards has no outbox of its own.
        let sends: BTreeSet<EdgeId> = names.iter().map(|edge| registered_name(*edge)).collect();
        names.extend(registered.iter().map(|(name, _)| name).filter(|name| !sends.contains(name)));
        let retired_at =
            |edge: EdgeId| retired.get(&edge).or_else(|| retired.get(&registered_name(edge)));
        let edge = |edge: EdgeId| Edge {
            edge,
            issuer: registered.owner(edge),
            retired_at: retired_at(edge).map(ToString::to_string),
            cut_off: cut_off.contains(&registered_name(edge)),
            outboxes: outboxes
                .range(OutboxId { edge, epoch: 0 }..=OutboxId { edge, epoch: u64::MAX })
                .map(|(id, found)| outbox(id.epoch, found))
                .collect(),
        };
        Ok(json(&Edges { edges: names.into_iter().map(edge).collect() }))
    })
    .await
}

async fn cells<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Answer {
    let partition = params::partition(&part("partition", path)?, core.slots.len())?;
    let range = Params::read(&uri, &["from", "to"])?.range()?;
    answer(&core, "cells", async {
        let found = query::export(&core.slots[usize::from(partition)], range.clone()).await?;
        let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
        // The log's number of partitions is a u16.
        let partitions = u16::try_from(core.slots.len()).unwrap_or(u16::MAX);
        Ok((kind, export::body(partition, partitions, found)).into_response())
    })
    .await
}

fn outbox(epoch: u64, outbox: &query::OutboxProgress) -> answers::Outbox {
    let closed = outbox.watermark == Timestamp::MAX;
    let missing = outbox.missing.iter().map(|(first, last)| Missing { first: *first, last: *last });
    answers::Outbox {
        epoch,
        batches: outbox.next,
        closed,
        watermark: (!closed).then(|| outbox.watermark.to_string()),
        missing: missing.collect(),
    }
}

async fn readyz<L: Log, S: Stores>(State(core): State<Arc<Core<L, S>>>) -> Response {
    let reason = core.board.check().err().map(|why| match why {
        NotReady::Starting(why) => format!("not_ready: {why}"),
        NotReady::Stopped(why) => format!("partition_stopped: {why}"),
    });
    api::ready(&Ready::unless(reason.into_iter().collect()))
}

fn time(minute: Minute) -> String {
    minute.start().to_string()
}

fn reasons(counts: &[u64; REASON_CODES]) -> Reasons {
    let named = Reason::ALL
        .iter()
        .map(|reason| (reason.name().to_owned(), counts[usize::from(reason.code())]));
    named.filter(|(_, count)| *count > 0).collect()
}

/// How many publishers an answer lists at most under `pages`: an issuer can sign for as many
/// publishers as it likes. Any publisher can be asked for by name.
const PUBLISHERS_LISTED_MAX: usize = 256;

/// The publishers to list: those with the most counted events. How many events were sent is not
/// looked at first, since that is only a claim of page views.
fn with_most_counted(told: BTreeMap<PublisherId, Told>) -> Vec<(PublisherId, Told)> {
    let mut all: Vec<_> = told.into_iter().collect();
    if all.len() > PUBLISHERS_LISTED_MAX {
        all.sort_by_key(|(_, told)| std::cmp::Reverse((told.counted, told.sent)));
        all.truncate(PUBLISHERS_LISTED_MAX);
    }
    all
}

/// The rows of `pages`, in the order of the publishers' names.
fn pages(told: Vec<(PublisherId, Told)>, names: &Names) -> Result<Vec<Pages>, Unanswered> {
    let page = |(publisher, Told { sent, counted }): (PublisherId, Told)| {
        let publisher: PublisherName = names.name(publisher)?;
        Ok(Pages { publisher, sent, counted, lost: i128::from(sent) - i128::from(counted) })
    };
    let mut pages = told.into_iter().map(page).collect::<Result<Vec<_>, StoreError>>()?;
    pages.sort_unstable_by(|a, b| a.publisher.cmp(&b.publisher));
    Ok(pages)
}

/// How many outboxes with gaps an answer lists at most, and how many with conflicts.
const OUTBOXES_LISTED_MAX: usize = 256;
/// How many gaps of an outbox it lists at most.
const GAPS_LISTED_MAX: usize = 16;

/// The outboxes to list: of each edge with its shards the same number, so that no edge hides those
/// of others behind a thousand of its own. Of one edge those are listed that began last.
fn fair_share<T>(all: BTreeMap<OutboxId, T>) -> BTreeMap<OutboxId, T> {
    if all.len() <= OUTBOXES_LISTED_MAX {
        return all;
    }
    let mut by_edge: BTreeMap<EdgeId, Vec<(u64, OutboxId)>> = BTreeMap::new();
    for outbox in all.keys() {
        let of_edge = by_edge.entry(registered_name(outbox.edge)).or_default();
        of_edge.push((outbox.epoch, *outbox));
    }
    let mut ranked = Vec::with_capacity(all.len());
    for mut of_edge in by_edge.into_values() {
        of_edge.sort_unstable_by_key(|outbox| std::cmp::Reverse(*outbox));
        ranked.extend(of_edge.into_iter().enumerate().map(|(rank, (_, outbox))| (rank, outbox)));
    }
    ranked.sort_unstable();
    ranked.truncate(OUTBOXES_LISTED_MAX);
    let listed: BTreeSet<OutboxId> = ranked.into_iter().map(|(_, outbox)| outbox).collect();
    all.into_iter().filter(|(outbox, _)| listed.contains(outbox)).collect()
}

fn gaps(gaps: BTreeMap<OutboxId, Vec<Range<u64>>>) -> Vec<Gap> {
    let gap = |(outbox, missing): (OutboxId, Vec<Range<u64>>)| Gap {
        edge: outbox.edge,
        epoch: outbox.epoch,
        count: missing.iter().map(|run| run.end - run.start).sum(),
        missing: missing
            .into_iter()
            .take(GAPS_LISTED_MAX)
            .map(|run| Missing { first: run.start, last: run.end.saturating_sub(1) })
            .collect(),
    };
    fair_share(gaps).into_iter().map(gap).collect()
}

fn conflicts(found: BTreeMap<OutboxId, query::Conflicts>) -> Vec<Conflicts> {
    let one = |conflict: count::Conflict| Conflict {
        number: conflict.number,
        counted: conflict.applied,
        skipped: conflict.skipped,
        events: conflict.events,
        at: conflict.at.to_string(),
    };
    let of_outbox = |(outbox, found): (OutboxId, query::Conflicts)| Conflicts {
        edge: outbox.edge,
        epoch: outbox.epoch,
        count: found.count,
        newest: found.newest.into_iter().map(one).collect(),
    };
    fair_share(found).into_iter().map(of_outbox).collect()
}
