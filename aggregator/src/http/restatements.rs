//! The routes of restatements and of the credits that follow from them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use api::filter::verdict;
use api::reports::Micros;
use api::restatements::{Credit, Credits, Effect, Restatements};
use api::{Principal, Refusal, json, restatements, routes};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use eventlog::Log;
use shared::event::VERDICTS;
use shared::name::Any;
use shared::problem::Problem;
use shared::{AnyId, Kind, Minute, Timestamp, Verdict};

use super::params::Params;
use super::{Answer, answer, time};
use crate::facts::{Measures, Name, Overlay, Select, Sum as _};
use crate::query::{At, AtOf, Names, OfFacts, Unanswered};
use crate::restatements::{Restated, Restatement, RestatementError, What};
use crate::service::Core;
use crate::store::Stores;

/// The largest body: a filter and why.
const BODY_BYTES_MAX: usize = 64 << 10;
/// The longest reason, in bytes.
const WHY_BYTES_MAX: usize = 1_000;
/// The most campaigns that are listed.
const CREDITS_LISTED_MAX: usize = 1_000;
/// So many minutes are read at once: no answer about a long range is refused for its length.
const READ_MINUTES: u32 = 60;

pub(super) fn router<L: Log, S: Stores>() -> Router<Arc<Core<L, S>>> {
    let all = get(list::<L, S>).merge(post(make::<L, S>));
    Router::new()
        .route(routes::reports::RESTATEMENTS.path, all)
        .route(routes::reports::CREDITS.path, get(credits::<L, S>))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

impl From<RestatementError> for Refusal {
    fn from(why: RestatementError) -> Self {
        let (status, kind) = match &why {
            RestatementError::Store(error) => return Unanswered::Store(error.clone()).into(),
            RestatementError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_restatement"),
            RestatementError::TakenBack(..) | RestatementError::TakesBack(_) => {
                (StatusCode::CONFLICT, "restatement_taken_back")
            }
            RestatementError::TooMany => (StatusCode::CONFLICT, "too_many_restatements"),
            RestatementError::Changed => (StatusCode::CONFLICT, "restatement_changed"),
        };
        Self::new(status, kind, why.to_string())
    }
}

fn told(restated: &Restated, id: Option<u32>, one: &Restatement) -> restatements::Restatement {
    let range = restated.range(one);
    let mut told = restatements::Restatement {
        restatement_id: id,
        from: time(range.start),
        to: time(range.end),
        taken_back_by: id.and_then(|id| restated.taken_back_by(id)),
        why: one.why.clone(),
        made_at: id.map(|_| one.at.to_string()),
        ..restatements::Restatement::default()
    };
    match &one.what {
        What::TakesBack(id) => told.takes_back = Some(*id),
        What::Judged { filter, event, verdict, .. } => {
            told.filter = Some(filter.to_string());
            told.event = event.map(|event| event.to_string());
            told.verdict = Some(word(*verdict));
        }
    }
    told
}

fn word(verdict: Verdict) -> String {
    verdict.map_or_else(|| "valid".to_owned(), |reason| reason.to_string())
}

async fn list<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    uri: Uri,
) -> Answer {
    Params::read(&uri, &[])?;
    answer(&core, "restatements", async {
        let restated = core.restatements.all().await.map_err(Unanswered::from)?;
        let restatements = restated.all().map(|(id, one)| told(&restated, Some(id), one));
        Ok(json(&Restatements { restatements: restatements.collect() }))
    })
    .await
}

/// What a body asks for.
struct Asked {
    what: What,
    why: String,
    confirm: Option<String>,
}

impl Asked {
    fn read(body: Result<Bytes, BytesRejection>) -> Result<Self, Problem> {
        const KNOWN: &[&str] =
            &["where", "from", "to", "verdict", "event", "why", "takes_back", "confirm"];
        let refuse = |what: &str| Problem::new(400, "invalid_restatement", what);
        let body = body.map_err(|error| {
            Problem::new(error.status().as_u16(), "body_unreadable", error.body_text())
        })?;
        let params = Params::from_body(&body, KNOWN)?;
        let why = params.get("why").map_or("", str::trim);
        if !(1..=WHY_BYTES_MAX).contains(&why.len()) {
            return Err(refuse("why: say it in 1 to 1000 bytes; whoever gets a credit reads it"));
        }
        let what = match params.get("takes_back") {
            Some(_) => {
                let of_events = ["where", "from", "to", "verdict", "event"];
                if of_events.iter().any(|name| params.get(name).is_some()) {
                    return Err(refuse(
                        "takes_back: give it without where, from, to, verdict, event",
                    ));
                }
                What::TakesBack(params.number("takes_back", 0, u32::MAX)?)
            }
            None => {
                let which = "where: it is missing; say which events, such as \"network=123.1.2.3\"";
                let filter = params.filter()?.filter.ok_or_else(|| refuse(which))?;
                let text = params.get("verdict").ok_or_else(|| {
                    refuse("verdict: it is missing; give `valid`, or the reason to flag them for")
                })?;
                let verdict = verdict(text).map_err(|what| refuse(&format!("verdict: {what}")))?;
                let event = params.get("event").map(|_| params.event()).transpose()?;
                What::Judged { filter, event, range: params.range()?, verdict }
            }
        };
        let confirm = params.get("confirm").map(ToOwned::to_owned);
        Ok(Self { what, why: why.to_owned(), confirm })
    }

    /// What stands for this restatement after so many others.
    fn digest(&self, after: usize) -> String {
        let text = format!("{after} {:?} {:?}", self.what, self.why);
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

async fn make<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    Params::read(&uri, &[])?;
    let asked = Asked::read(body)?;
    answer(&core, "restatements", async {
        let before = core.restatements.all().await.map_err(Unanswered::from)?;
        let confirm = asked.digest(before.len());
        let is_dry = match &asked.confirm {
            None => true,
            Some(given) if *given == confirm => false,
            Some(_) => return Err(RestatementError::Changed.into()),
        };
        // A dry run is of no moment.
        let at = if is_dry { Timestamp(0) } else { core.clock.now() };
        let restatement = Restatement { what: asked.what, why: asked.why, at };
        let after = before.with(restatement.clone())?;
        let range = after.range(&restatement);
        let moment = At::this_moment(&core.slots).await?;
        let old = spent(&core, &moment, &range, &before.overlay).await?;
        let new = spent(&core, &moment, &range, &after.overlay).await?;
        let (verdicts, valid) = (verdicts(&old, &new), valid(&old, &new));
        let (credits, campaigns) = compared(&core, old, new).await?;
        let id = match is_dry {
            true => None,
            false => Some(core.restatements.make(restatement.clone(), before.len()).await?),
        };
        let effect = Effect {
            dry_run: is_dry,
            confirm: is_dry.then_some(confirm),
            restatement: told(&after, id, &restatement),
            verdicts,
            valid,
            credits,
            campaigns,
        };
        let status = if is_dry { StatusCode::OK } else { StatusCode::CREATED };
        Ok((status, json(&effect)).into_response())
    })
    .await
}

async fn credits<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let range = Params::read(&uri, &["from", "to"])?.range()?;
    answer(&core, "credits", async {
        let restated = core.restatements.all().await.map_err(Unanswered::from)?;
        let moment = At::this_moment(&core.slots).await?;
        let mut old = BTreeMap::new();
        let mut new = BTreeMap::new();
        // Only minutes of which something was judged again are looked at.
        for part in parts(&range).filter(|part| !restated.overlay.of(part).is_empty()) {
            add(&mut old, spent(&core, &moment, &part, &Overlay::default()).await?);
            add(&mut new, spent(&core, &moment, &part, &restated.overlay).await?);
        }
        let (credits, campaigns) = compared(&core, old, new).await?;
        Ok(json(&Credits { from: time(range.start), to: time(range.end), credits, campaigns }))
    })
    .await
}

/// What was measured, by campaign.
type ByCampaign = BTreeMap<AnyId, Measures>;

fn add(to: &mut ByCampaign, from: ByCampaign) {
    from.into_iter().for_each(|(campaign, own)| to.entry(campaign).or_default().merge(own));
}

/// A range, an hour at a time.
fn parts(range: &Range<Minute>) -> impl Iterator<Item = Range<Minute>> {
    let end = range.end;
    let starts = (range.start.0..end.0).step_by(READ_MINUTES as usize);
    starts.map(move |start| Minute(start)..Minute((start + READ_MINUTES).min(end.0)))
}

/// What happened in a range, by campaign, with these judgements.
async fn spent<L: Log, S: Stores>(
    core: &Arc<Core<L, S>>,
    moment: &AtOf<S>,
    range: &Range<Minute>,
    overlay: &Overlay,
) -> Result<ByCampaign, Unanswered> {
    let mut all = BTreeMap::new();
    for part in parts(range) {
        let select = Select::Minutes(part.clone());
        let mut question: OfFacts<Measures> = OfFacts::new(part, select);
        question.overlay = overlay.of(&question.range);
        question.by = vec![Name::Campaign];
        let found = question.ask(core, moment).await?;
        let groups = found.tally.into_groups();
        add(&mut all, groups.filter_map(|(key, own)| Some((key[1].id()?, own))).collect());
    }
    Ok(all)
}

fn grown(old: u64, new: u64) -> i64 {
    i64::try_from(i128::from(new) - i128::from(old)).unwrap_or_default()
}

fn sum(all: &ByCampaign, of: impl Fn(&Measures) -> u64) -> u64 {
    all.values().map(of).sum()
}

fn verdicts(old: &ByCampaign, new: &ByCampaign) -> BTreeMap<String, i64> {
    let verdicts = std::iter::once(None).chain(VERDICTS.iter().copied().map(Some));
    let count = |all: &ByCampaign, verdict: Verdict| match verdict {
        None => sum(all, |own| own.valid.iter().sum()),
        Some(reason) => sum(all, |own| own.reasons[usize::from(reason.code())]),
    };
    let grown = |verdict| (word(verdict), grown(count(old, verdict), count(new, verdict)));
    verdicts.map(grown).filter(|(_, by)| *by != 0).collect()
}

fn valid(old: &ByCampaign, new: &ByCampaign) -> BTreeMap<String, i64> {
    let count = |all, kind: Kind| sum(all, |own| own.valid[usize::from(kind.code())]);
    let grown = |kind: &Kind| (kind.to_string(), grown(count(old, *kind), count(new, *kind)));
    Kind::ALL.iter().map(grown).filter(|(_, by)| *by != 0).collect()
}

/// What campaigns get back, and how many do.
async fn compared<L: Log, S: Stores>(
    core: &Core<L, S>,
    old: ByCampaign,
    mut new: ByCampaign,
) -> Result<(Vec<Credit>, usize), Unanswered> {
    let mut changed = Vec::new();
    for (campaign, before) in old {
        let after = new.remove(&campaign).unwrap_or_default();
        if before.spend != after.spend {
            changed.push((campaign, before.spend, after.spend));
        }
    }
    let campaigns = changed.len();
    let size =
        |spend: &BTreeMap<_, i64>| spend.values().map(|micros| i128::from(*micros)).sum::<i128>();
    changed
        .sort_by_key(|(campaign, before, after)| (Reverse(size(before) - size(after)), *campaign));
    changed.truncate(CREDITS_LISTED_MAX);
    let names = Names::look_up(&core.slots, changed.iter().map(|(campaign, ..)| *campaign)).await?;
    let mut credits = Vec::with_capacity(changed.len());
    for (campaign, before, after) in changed {
        let micros = |spend: &BTreeMap<shared::Currency, i64>| -> Micros {
            spend.iter().map(|(currency, micros)| (currency.to_string(), *micros)).collect()
        };
        let (before, after) = (micros(&before), micros(&after));
        let mut credit = before.clone();
        for (currency, micros) in &after {
            let left = credit.entry(currency.clone()).or_default();
            *left = left.saturating_sub(*micros);
        }
        credit.retain(|_, micros| *micros != 0);
        let campaign = match campaign {
            AnyId::NONE => String::new(),
            campaign => names.name::<Any>(campaign)?.as_str().to_owned(),
        };
        let (spend_before_micros, spend_after_micros) = (before, after);
        let credit_micros = credit;
        credits.push(Credit { campaign, spend_before_micros, spend_after_micros, credit_micros });
    }
    Ok((credits, campaigns))
}
