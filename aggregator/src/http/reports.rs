//! The routes of reports: what happened to an ad, a campaign, an advertiser, a publisher or a
//! placement, under a filter.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::reports::{
    Breakdown, Count, Group, Metrics, Micros, Of, Place, Point, Scope, Segment, Segments, Series,
    Top, Uniques, Visitors,
};
use api::{Principal, Refusal, json, routes};
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::routing::get;
use base64::Engine as _;
use eventlog::Log;
use shared::name::Any;
use shared::{AnyId, Kind, NameBuf, Validity};

use super::asked::{Asked, Asking, column, thing};
use super::params::{self, By, Params, Sketch};
use super::table::{self, Format, Heading};
use super::{Answer, answer, time};
use crate::facts::{self, Key, Measures, Select, Sum, Tally, Value};
use crate::query::{self, Names, OfFacts, Tallied};
use crate::service::Core;
use crate::store::Stores;
use crate::store::rows::SegmentRow;
use crate::store::segments::file;

/// Unique visitors of one thing are exact up to so many.
const EXACT_VISITORS_MAX: usize = 65_536;
/// Unique visitors of each of several groups or steps are exact up to so many: all of them are
/// remembered at once.
const EXACT_VISITORS_OF_GROUP_MAX: usize = 1_024;
/// The most groups of which unique visitors are told: each has a sketch.
const VISITED_GROUPS_MAX: usize = 1_000;

/// The name in a path.
type Id = Result<Path<String>, PathRejection>;

type VisitorsOfGroup = facts::Visitors<EXACT_VISITORS_OF_GROUP_MAX>;

/// The routes of the reports of all kinds of things.
pub(super) fn router<L: Log, S: Stores>() -> Router<Arc<Core<L, S>>> {
    // The handler of one report, told what the report is of.
    macro_rules! of {
        ($of:expr, $handler:ident) => {
            get(move |asking: Asking<L, S>, id: Id, uri: Uri| $handler(asking, $of, id, uri))
        };
    }
    let of = |of, reports: routes::reports::Reports| {
        Router::new()
            .route(reports.count.path, of!(of, count))
            .route(reports.uniques.path, of!(of, uniques))
            .route(reports.series.path, of!(of, series))
            .route(reports.breakdown.path, of!(of, breakdown))
    };
    Router::new()
        .merge(of(Of::Ad, routes::reports::ADS))
        .merge(of(Of::Campaign, routes::reports::CAMPAIGNS))
        .merge(of(Of::Advertiser, routes::reports::ADVERTISERS))
        .merge(of(Of::Publisher, routes::reports::PUBLISHERS))
        .merge(of(Of::Placement, routes::reports::PLACEMENTS))
        .route(routes::reports::TOP.path, get(top::<L, S>))
}

async fn count<L: Log, S: Stores>(asking: Asking<L, S>, of: Of, path: Id, uri: Uri) -> Answer {
    let params = Params::read(&uri, &["from", "to", "event", "validity", "filter", "where"])?;
    let asked = Asked::new(&params, thing(of, path)?)?;
    let (event, validity) = (params.event()?, params.validity()?);
    answer(&asking.core, "count", async {
        let report = asked.with_filter(&asking).await?;
        let question = report.question::<facts::Count>(events(event, validity));
        let found = question.ask(&asking.core, &asking.at).await?;
        let (of, id) = report.named();
        let scope = report.scope(found.completeness, found.revision);
        Ok(json(&Count { of, id, event, validity, count: sum(found.tally).0, scope }))
    })
    .await
}

/// Events of a kind and validity.
pub(super) fn events(event: Kind, validity: Validity) -> Vec<Select> {
    vec![Select::kind(event), Select::validity(validity)]
}

/// The sum of all groups.
pub(super) fn sum<S: Sum + Default + 'static>(tally: Tally<S>) -> S {
    let mut all = S::default();
    tally.into_groups().for_each(|(_, sum)| all.merge(sum));
    all
}

async fn uniques<L: Log, S: Stores>(asking: Asking<L, S>, of: Of, path: Id, uri: Uri) -> Answer {
    let params =
        Params::read(&uri, &["from", "to", "event", "validity", "sketch", "filter", "where"])?;
    let asked = Asked::new(&params, thing(of, path)?)?;
    let (event, validity) = (params.event()?, params.validity()?);
    let kind = params.sketch()?;
    answer(&asking.core, "uniques", async {
        let report = asked.with_filter(&asking).await?;
        let of_facts =
            report.question::<facts::Visitors<EXACT_VISITORS_MAX>>(events(event, validity));
        // Sketches are of all events, and of one kind: no other kind of sketch is made of them.
        let is_plain = report.filter.filter.is_none() && of_facts.overlay.is_empty();
        let has_nodes = is_plain && kind != Some(Sketch::Hll);
        let event_of = facts::segment::nodes::event_of(event, validity).filter(|_| has_nodes);
        let read_max = asking.core.settings.visitors_read_max;
        let question = query::OfVisitors { facts: of_facts, event: event_of, read_max };
        let found = question.ask(&asking.core, &asking.at).await?;
        let (of, id) = report.named();
        let scope = report.scope(found.completeness, found.revision);
        let found = found.tally;
        let sketch = kind.map(|kind| sketch(kind, &found)).transpose()?;
        let (visitors, visitor_of) = (visitors(&found), "day".to_owned());
        Ok(json(&Uniques { of, id, event, validity, visitors, sketch, visitor_of, scope }))
    })
    .await
}

/// A sketch of visitors, in base64.
fn sketch<const MAX: usize>(kind: Sketch, found: &facts::Visitors<MAX>) -> Result<String, Refusal> {
    let bytes = match kind {
        Sketch::Cpc => found.uniques.to_cpc(),
        Sketch::Hll => found.uniques.to_hll().map_err(|error| {
            let what = format!("sketch: {error}");
            Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, "no_such_sketch", what)
        })?,
    };
    Ok(base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn heading(scope: &Scope) -> Heading<'_> {
    Heading { is_final: scope.is_final, revision: scope.revision, as_of: &scope.as_of }
}

fn visitors<const MAX: usize>(found: &facts::Visitors<MAX>) -> Visitors {
    let estimate = found.uniques.estimate();
    Visitors {
        uniques: estimate.uniques,
        exact: estimate.exact,
        std_error: estimate.std_error,
        low: estimate.low,
        high: estimate.high,
        events: found.events,
        without_visitor: found.without_visitor,
    }
}

/// What is summed up for metrics: with visitors, where they are asked for.
#[derive(Debug, Default)]
struct Told {
    measures: Measures,
    visitors: Option<VisitorsOfGroup>,
}

/// Asks for measures in groups, and for visitors only where the metrics need them.
async fn told<L: Log, S: Stores>(
    Asking { core, at, .. }: &Asking<L, S>,
    measured: OfFacts<Measures>,
    metrics: &[&str],
) -> Result<Tallied<Grouped>, query::Unanswered> {
    let plain = |measures| Told { measures, visitors: None };
    if !metrics.contains(&"uniques") {
        return Ok(measured.ask(core, at).await?.map(|tally| grouped(tally, plain)));
    }
    let both: OfFacts<(Measures, VisitorsOfGroup)> = measured.summing(VISITED_GROUPS_MAX);
    let told = |(measures, visitors)| Told { measures, visitors: Some(visitors) };
    Ok(both.ask(core, at).await?.map(|tally| grouped(tally, told)))
}

/// Groups by their keys.
type Grouped = Vec<(Key, Told)>;

fn grouped<S: Sum + Default + 'static>(tally: Tally<S>, told: impl Fn(S) -> Told) -> Grouped {
    tally.into_groups().map(|(key, sum)| (key, told(sum))).collect()
}

impl Told {
    fn merge(&mut self, other: Self) {
        self.measures.merge(other.measures);
        match (&mut self.visitors, other.visitors) {
            (Some(visitors), Some(others)) => visitors.merge(others),
            (visitors, others) => *visitors = visitors.take().or(others),
        }
    }

    /// Those that are asked for.
    fn metrics(&self, asked: &[&str]) -> Metrics {
        let measures = &self.measures;
        let is_asked = |name| asked.contains(&name);
        let valid =
            |name, kind: Kind| is_asked(name).then(|| measures.valid[usize::from(kind.code())]);
        let of = |kind: Kind| measures.valid[usize::from(kind.code())];
        let (impressions, clicks) = (of(Kind::Impression), of(Kind::Click));
        let spend = |per: u64, times: i128| -> Micros {
            let share = |micros: i64| i128::from(micros) * times / i128::from(per.max(1));
            let amounts = measures.spend.iter().filter(|_| per > 0);
            let amounts = amounts.map(|(currency, micros)| {
                (currency.to_string(), i64::try_from(share(*micros)).unwrap_or(i64::MAX))
            });
            amounts.collect()
        };
        let empty = VisitorsOfGroup::default;
        let reasons =
            || measures.by_reason().map(|(reason, count)| (reason.to_string(), count)).collect();
        Metrics {
            served: valid("served", Kind::Served),
            impressions: valid("impressions", Kind::Impression),
            viewable: valid("viewable", Kind::Viewable),
            clicks: valid("clicks", Kind::Click),
            click_rate: rate(clicks, impressions).filter(|_| is_asked("click_rate")),
            viewable_rate: rate(of(Kind::Viewable), impressions)
                .filter(|_| is_asked("viewable_rate")),
            spend_micros: is_asked("spend").then(|| spend(1, 1)),
            ecpm_micros: is_asked("ecpm").then(|| spend(impressions, 1_000)),
            ecpc_micros: is_asked("ecpc").then(|| spend(clicks, 1)),
            flagged: is_asked("flagged").then(reasons),
            uniques: is_asked("uniques")
                .then(|| self.visitors.as_ref().map_or_else(|| visitors(&empty()), visitors)),
        }
    }
}

/// One of these for each of those. Numbers beyond 2^53 lose their last digits in it.
#[expect(clippy::cast_precision_loss, reason = "a rate is rounded")]
fn rate(one: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| one as f64 / of as f64)
}

async fn series<L: Log, S: Stores>(asking: Asking<L, S>, of: Of, path: Id, uri: Uri) -> Answer {
    let params =
        Params::read(&uri, &["from", "to", "step", "tz", "metrics", "format", "filter", "where"])?;
    let asked = Asked::new(&params, thing(of, path)?)?;
    let (metrics, format) = (params.metrics()?, params.format()?);
    let (steps, step, zone) = params.steps(&asked.range)?;
    answer(&asking.core, "series", async {
        let report = asked.with_filter(&asking).await?;
        let steps = Arc::new(steps);
        let mut question = report.question(Vec::new());
        question.steps = Some(Arc::clone(&steps));
        let found = told(&asking, question, &metrics).await?;
        let mut points: Vec<Told> =
            std::iter::repeat_with(Told::default).take(steps.len()).collect();
        for (key, told) in found.tally {
            if let Value::Number(at) = &key[0]
                && let Some(point) = usize::try_from(*at).ok().and_then(|at| points.get_mut(at))
            {
                point.merge(told);
            }
        }
        let points = points.iter().zip(steps.starts());
        let points = points.map(|(told, start)| Point { start, metrics: told.metrics(&metrics) });
        let (of, id) = report.named();
        let scope = report.scope(found.completeness, found.revision);
        let (step, tz) = (step.to_string(), zone.name().to_owned());
        let points: Vec<_> = points.collect();
        Ok(match format {
            Format::Csv => table::csv(&["start"], &points, &heading(&scope)),
            Format::Json => json(&Series { of, id, step, tz, points, scope }),
        })
    })
    .await
}

async fn breakdown<L: Log, S: Stores>(asking: Asking<L, S>, of: Of, path: Id, uri: Uri) -> Answer {
    let known = ["from", "to", "by", "event", "count", "metrics", "format", "filter", "where"];
    let params = Params::read(&uri, &known)?;
    let asked = Asked::new(&params, thing(of, path)?)?;
    let (metrics, by, event) = (params.metrics()?, params.by()?, params.event()?);
    let format = params.format()?;
    let most = params.number("count", 100, params::COUNT_MAX)?;
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    answer(&asking.core, "breakdown", async {
        let report = asked.with_filter(&asking).await?;
        let mut question = report.question(Vec::new());
        question.by = by.iter().flat_map(|by| by.columns()).collect();
        let found = told(&asking, question, &metrics).await?;
        let mut groups = found.tally;
        let groups_in_all = groups.len();
        let size = |told: &Told| told.measures.valid[usize::from(event.code())];
        groups.sort_unstable_by(|(key, one), (other_key, other)| {
            size(other).cmp(&size(one)).then_with(|| key.cmp(other_key))
        });
        let mut other = Told::default();
        groups.drain(most.min(groups_in_all)..).for_each(|(_, told)| other.merge(told));
        let ids = groups.iter().flat_map(|(key, _)| key).filter_map(|value| value.id());
        let names = Names::look_up(&asking.core.slots, ids).await?;
        let group = |(key, told): (Key, Told)| {
            let group = labels(&by, &key, &names)?;
            Ok(Group { group, metrics: told.metrics(&metrics) })
        };
        let groups =
            groups.into_iter().map(group).collect::<Result<Vec<_>, query::Unanswered>>()?;
        let (of, id) = report.named();
        let scope = report.scope(found.completeness, found.revision);
        if format == Format::Csv {
            return Ok(table::csv(&["group."], &groups, &heading(&scope)));
        }
        Ok(json(&Breakdown {
            of,
            id,
            by: by.iter().map(|by| by.label.to_owned()).collect(),
            groups,
            other: other.metrics(&metrics),
            groups_in_all,
            scope,
        }))
    })
    .await
}

/// The values of a group's columns, by what these are called.
fn labels(
    by: &[By],
    key: &Key,
    names: &Names,
) -> Result<BTreeMap<String, String>, query::Unanswered> {
    // The first value of a key is its place in a series.
    let mut values = key.iter().skip(1);
    let mut labels = BTreeMap::new();
    for by in by {
        let mut texts = Vec::new();
        for (column, value) in by.columns().into_iter().zip(&mut values) {
            let text = match value {
                Value::Id(AnyId::NONE) => String::new(),
                Value::Id(id) => names.name::<Any>(*id)?.as_str().to_owned(),
                Value::Number(_) => value.text(column),
            };
            if !text.is_empty() || texts.is_empty() {
                texts.push(text);
            }
        }
        labels.insert(by.label.to_owned(), texts.join("-"));
    }
    Ok(labels)
}

async fn top<L: Log, S: Stores>(asking: Asking<L, S>, uri: Uri) -> Answer {
    let known = ["of", "from", "to", "count", "event", "validity", "format", "filter", "where"];
    let params = Params::read(&uri, &known)?;
    let asked = Asked::new(&params, None)?;
    let (of, event, validity) = (params.of()?, params.event()?, params.validity()?);
    let format = params.format()?;
    let most = params.number("count", 100, params::COUNT_MAX)?;
    answer(&asking.core, "top", async {
        let report = asked.with_filter(&asking).await?;
        let mut question = report.question::<facts::Count>(events(event, validity));
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let found = match of {
            Of::Ad => query::leading_ads(&asking.core, &asking.at, question, most).await?,
            _ => {
                question.by = vec![column(of)];
                question.ask(&asking.core, &asking.at).await?.map(counts)
            }
        };
        let ranked = query::ranked::<_, Any>(&asking.core.slots, found.tally, most).await?;
        let place =
            |(name, count): (NameBuf<Any>, u64)| Place { id: name.as_str().to_owned(), count };
        let top: Vec<_> = ranked.into_iter().map(place).collect();
        let of = of.one().to_owned();
        let scope = report.scope(found.completeness, found.revision);
        Ok(match format {
            Format::Csv => table::csv(&["id"], &top, &heading(&scope)),
            Format::Json => json(&Top { of, event, validity, top, scope }),
        })
    })
    .await
}

/// How many events each id has; those without one are left out.
fn counts(tally: Tally<facts::Count>) -> Vec<(AnyId, u64)> {
    let ids = tally.into_groups().filter_map(|(key, count)| {
        let id = key[1].id()?;
        (!id.is_none()).then_some((id, count.0))
    });
    ids.collect()
}

pub(super) async fn segments<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    uri: Uri,
) -> Answer {
    Params::read(&uri, &[])?;
    answer(&core, "segments", async {
        let (mut rows, mut loose_events) = (Vec::new(), 0);
        for slot in &core.slots {
            if let Some(counted) = slot.read().await.as_ref() {
                loose_events += counted.facts.loose();
                rows.extend(counted.facts.segments().iter().cloned());
            }
        }
        rows.sort_unstable_by_key(|row| (row.partition, row.start, row.id));
        let segment = |row: SegmentRow| {
            let (period, file) = (row.period(), file(&row));
            let (from, to) = (time(period.start), time(period.end));
            let SegmentRow { partition, rows: events, bytes, .. } = row;
            Segment { file, partition, from, to, events, bytes }
        };
        let segments = rows.into_iter().map(segment).collect();
        Ok(json(&Segments { segments, loose_events }))
    })
    .await
}
