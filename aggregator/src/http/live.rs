//! `GET /v1/live`: what is being counted, told each second (server-sent events, WHATWG HTML 9.2).
//!
//! Each event has the whole state, so a client that comes back has missed nothing that the next
//! event does not say. Questions that are the same are answered once a second for all clients.

use std::collections::HashMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use api::reports::{Live, Place};
use api::{Principal, Refusal, routes};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use eventlog::Log;
use futures::stream;
use shared::event::{REASON_CODES, VERDICTS};
use shared::{AdName, Kind, Minute, Timestamp, Validity};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};

use super::params::Params;
use super::{Answer, asked, time};
use crate::facts::{Measures, Name, Sum as _};
use crate::query::{self, At, CountsOfAds, OfFacts, Unanswered};
use crate::restatements::Restated;
use crate::service::Core;
use crate::store::Stores;

/// How often an event is sent.
const EVERY: Duration = Duration::from_secs(1);
/// Clients that may listen at once.
const LISTENING_MAX: usize = 256;
/// The longest window, in minutes.
const WINDOW_MAX: u32 = 60;
/// The most ads that are listed.
const COUNT_MAX: u32 = 100;
/// When a client comes back whose connection has ended.
const RETRY: Duration = Duration::from_secs(2);

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Asked {
    window: u32,
    count: u32,
    kind: Kind,
}

/// What clients share.
struct Shared {
    listening: Arc<Semaphore>,
    /// The newest answers, and the second in which each was given.
    answers: Mutex<HashMap<Asked, (u64, Arc<Answered>)>>,
}

struct Answered {
    as_of: Timestamp,
    body: String,
}

pub(super) fn router<L: Log, S: Stores>() -> Router<Arc<Core<L, S>>> {
    let shared = Arc::new(Shared {
        listening: Arc::new(Semaphore::new(LISTENING_MAX)),
        answers: Mutex::new(HashMap::new()),
    });
    let handle = move |_: Principal, State(core): State<Arc<Core<L, S>>>, uri: Uri| {
        let shared = Arc::clone(&shared);
        async move { live(core, shared, &uri).await }
    };
    Router::new().route(routes::reports::LIVE.path, get(handle))
}

async fn live<L: Log, S: Stores>(core: Arc<Core<L, S>>, shared: Arc<Shared>, uri: &Uri) -> Answer {
    let params = Params::read(uri, &["window", "count", "event"])?;
    let asked = Asked {
        window: params.number("window", 5, WINDOW_MAX)?,
        count: params.number("count", 10, COUNT_MAX)?,
        kind: params.event()?,
    };
    let permit = Arc::clone(&shared.listening).try_acquire_owned().map_err(|_| {
        let what = format!("{LISTENING_MAX} clients listen already");
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "busy", what).retry_after(RETRY)
    })?;
    core.board.ready(core.settings.ready_wait).await?;
    // The first answer comes before the head of the reply, so that a refusal is one.
    let first = answer(&core, &shared, asked).await?;
    let start = Listening { core, shared, asked, next: Some(first), _permit: permit };
    let events = stream::unfold(start, |mut listening| async move {
        let answered = match listening.next.take() {
            Some(first) => first,
            None => {
                tokio::time::sleep(EVERY).await;
                // The stream ends where the aggregator does; the client comes back to the next one.
                listening.core.board.check().ok()?;
                answer(&listening.core, &listening.shared, listening.asked).await.ok()?
            }
        };
        let event = Event::default().event("live").id(answered.as_of.0.to_string());
        let event = event.retry(RETRY).data(&answered.body);
        Some((Ok::<_, Infallible>(event), listening))
    });
    let response: Response = Sse::new(events).keep_alive(KeepAlive::default()).into_response();
    Ok(response)
}

struct Listening<L, S: Stores> {
    core: Arc<Core<L, S>>,
    shared: Arc<Shared>,
    asked: Asked,
    next: Option<Arc<Answered>>,
    _permit: OwnedSemaphorePermit,
}

/// The answer of this second. One is made at a time, however many clients listen.
async fn answer<L: Log, S: Stores>(
    core: &Arc<Core<L, S>>,
    shared: &Shared,
    asked: Asked,
) -> Result<Arc<Answered>, Unanswered> {
    let mut answers = shared.answers.lock().await;
    let second = core.clock.now().seconds();
    if let Some((at, answered)) = answers.get(&asked)
        && *at == second
    {
        return Ok(Arc::clone(answered));
    }
    let answered = Arc::new(make(core, asked).await?);
    answers.retain(|_, (at, _)| *at + 60 > second);
    answers.insert(asked, (second, Arc::clone(&answered)));
    Ok(answered)
}

/// What is told of the minutes.
#[derive(Default)]
struct Counts {
    /// Valid events by the code of their kind.
    totals: [u64; Kind::ALL.len()],
    /// Flagged events by the code of their verdict.
    reasons: [u64; REASON_CODES],
    top: Vec<(AdName, u64)>,
    as_of: Timestamp,
}

impl Counts {
    /// From what is added up in memory as events come.
    async fn from_totals<L: Log, S: Stores>(
        core: &Core<L, S>,
        Asked { count, kind, .. }: Asked,
        range: &Range<Minute>,
    ) -> Result<Self, Unanswered> {
        let mut counts = Self { as_of: Timestamp::MAX, ..Self::default() };
        for of in Kind::ALL {
            let (kind_of, validity) = (*of, Validity::Valid);
            let question = CountsOfAds { kind: kind_of, validity, range: range.clone() };
            let found = query::ask(&core.slots, &question).await?;
            counts.as_of = counts.as_of.min(found.completeness.as_of);
            counts.totals[usize::from(of.code())] = found.total();
            if *of == kind {
                let most = usize::try_from(count).unwrap_or(usize::MAX);
                counts.top = found.top(&core.slots, most).await?;
            }
        }
        let accounting = query::accounting(&core.slots, &*core.log, range.clone()).await?;
        counts.reasons = accounting.reasons;
        Ok(counts)
    }

    /// From facts, of which some were judged again.
    async fn from_facts<L: Log, S: Stores>(
        core: &Arc<Core<L, S>>,
        Asked { count, kind, .. }: Asked,
        range: &Range<Minute>,
        restated: &Restated,
    ) -> Result<Self, Unanswered> {
        let mut question: OfFacts<Measures> =
            asked::question(range.clone(), None, None, Vec::new(), restated);
        question.by = vec![Name::Ad];
        let found = question.ask(core, &At::Now).await?;
        let (mut all, mut ads) = (Measures::default(), Vec::new());
        for (key, measures) in found.tally.into_groups() {
            let count = measures.valid[usize::from(kind.code())];
            ads.extend(key[1].id().filter(|_| count > 0).map(|ad| (ad.cast(), count)));
            all.merge(measures);
        }
        let most = usize::try_from(count).unwrap_or(usize::MAX);
        let top = query::ranked(&core.slots, ads, most).await?;
        let as_of = found.completeness.as_of;
        Ok(Self { totals: all.valid, reasons: all.reasons, top, as_of })
    }
}

async fn make<L: Log, S: Stores>(
    core: &Arc<Core<L, S>>,
    asked: Asked,
) -> Result<Answered, Unanswered> {
    let end = Minute(core.clock.now().minute().0.saturating_add(1));
    let range = Minute(end.0.saturating_sub(asked.window))..end;
    let restated = core.restatements.all().await?;
    let Counts { totals, reasons, top, as_of } = match restated.overlay.of(&range).is_empty() {
        true => Counts::from_totals(core, asked, &range).await?,
        false => Counts::from_facts(core, asked, &range, &restated).await?,
    };
    let flagged =
        VERDICTS.iter().map(|reason| (reason.to_string(), reasons[usize::from(reason.code())]));
    let of = |kind: Kind| totals[usize::from(kind.code())];
    let body = Live {
        from: time(range.start),
        to: time(range.end),
        as_of: as_of.to_string(),
        served: of(Kind::Served),
        impressions: of(Kind::Impression),
        viewable: of(Kind::Viewable),
        clicks: of(Kind::Click),
        flagged: flagged.filter(|(_, count)| *count > 0).collect(),
        event: asked.kind,
        top: top
            .into_iter()
            .map(|(ad, count)| Place { id: ad.as_str().to_owned(), count })
            .collect(),
    };
    Ok(Answered { as_of, body: serde_json::to_string(&body).unwrap_or_default() })
}
