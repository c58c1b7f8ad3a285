//! What a question is about: of which moment, which thing, which minutes, under which filter.

use std::ops::Range;
use std::sync::Arc;

use api::filter::Filter;
use api::reports::{Of, Scope};
use api::{Principal, Refusal};
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use eventlog::Log;
use shared::name::Any;
use shared::{AnyId, Minute, NameBuf};

use super::params::{self, Filtering, Params};
use super::{part, time};
use crate::facts::{self, Name, Select, Sum};
use crate::query::{At, AtOf, Completeness, OfFacts, Unanswered};
use crate::restatements::Restated;
use crate::service::Core;
use crate::store::Stores;

/// Who is asked, and the moment of which the answer is to be.
pub(super) struct Asking<L, S: Stores> {
    pub(super) core: Arc<Core<L, S>>,
    pub(super) at: AtOf<S>,
    /// The restatements of that moment; none: those of now.
    then: Option<Arc<Restated>>,
}

/// The moment of which the answers of one request are, in its extensions.
pub(super) struct Snapshot<S: Stores> {
    at: AtOf<S>,
    restated: Arc<Restated>,
}

impl<S: Stores> Clone for Snapshot<S> {
    fn clone(&self) -> Self {
        Self { at: self.at.clone(), restated: Arc::clone(&self.restated) }
    }
}

impl<S: Stores> Snapshot<S> {
    /// This moment.
    pub(super) async fn new<L: Log>(core: &Core<L, S>) -> Result<Self, Unanswered> {
        let restated = core.restatements.all().await?;
        Ok(Self { at: At::this_moment(&core.slots).await?, restated })
    }
}

/// Memory has so many minutes, or most of them.
const RECENT_MINUTES: u32 = 60;

impl<L: Log, S: Stores> Asking<L, S> {
    /// Whether memory has most of a range, so that totals are quicker to add up than facts. Totals
    /// are of now.
    pub(super) fn is_recent(&self, range: &Range<Minute>) -> bool {
        let is_now = matches!(self.at, At::Now);
        is_now && range.start.0 + RECENT_MINUTES > self.core.clock.now().minute().0
    }

    /// The restatements of the moment.
    pub(super) async fn restated(&self) -> Result<Arc<Restated>, Unanswered> {
        match &self.then {
            Some(restated) => Ok(Arc::clone(restated)),
            None => Ok(self.core.restatements.all().await?),
        }
    }
}

impl<L: Log, S: Stores> FromRequestParts<Arc<Core<L, S>>> for Asking<L, S> {
    type Rejection = Refusal;

    async fn from_request_parts(
        parts: &mut Parts,
        core: &Arc<Core<L, S>>,
    ) -> Result<Self, Refusal> {
        Principal::from_request_parts(parts, core).await?;
        let core = Arc::clone(core);
        Ok(match parts.extensions.get::<Snapshot<S>>().cloned() {
            Some(Snapshot { at, restated }) => Self { core, at, then: Some(restated) },
            None => Self { core, at: At::Now, then: None },
        })
    }
}

/// What a report is about.
pub(super) struct Asked {
    pub(super) range: Range<Minute>,
    /// The thing, if it is about one.
    thing: Option<(Of, NameBuf<Any>)>,
    filtering: Filtering,
}

impl Asked {
    pub(super) fn new(params: &Params, thing: Option<(Of, NameBuf<Any>)>) -> Answered<Self> {
        Ok(Self { range: params.range()?, thing, filtering: params.filter()? })
    }

    /// Looks up the stored filter.
    pub(super) async fn with_filter<L: Log, S: Stores>(
        self,
        asking: &Asking<L, S>,
    ) -> Result<Report, Refusal> {
        let Self { range, thing, filtering } = self;
        let filter = Meant::new(&asking.core, filtering).await?;
        let restated = asking.restated().await?;
        let now = asking.core.clock.now().minute();
        Ok(Report { range, thing, filter, restated, now })
    }
}

/// What a report is about, with the filter looked up.
pub(super) struct Report {
    range: Range<Minute>,
    thing: Option<(Of, NameBuf<Any>)>,
    pub(super) filter: Meant,
    restated: Arc<Restated>,
    now: Minute,
}

impl Report {
    /// The question for the events that also pass these.
    pub(super) fn question<S: Sum + Default + 'static>(&self, others: Vec<Select>) -> OfFacts<S> {
        let thing = self.thing.as_ref().map(|(of, name)| (*of, name.id()));
        let filter = self.filter.filter.as_ref();
        question(self.range.clone(), filter, thing, others, &self.restated)
    }

    pub(super) fn scope(&self, complete: Completeness, revision: u64) -> Scope {
        let Understood { filter_id, filter_version, filter, networks } = self.filter.understood();
        Scope {
            from: time(self.range.start),
            to: time(self.range.end),
            filter_id,
            filter_version,
            filter,
            networks,
            running: self.range.end > self.now,
            is_final: complete.is_final,
            behind: (!complete.is_final).then_some(complete.behind),
            revision: revision + self.restated.revisions(&self.range),
            as_of: complete.as_of.to_string(),
        }
    }

    /// The word and the name of the thing.
    pub(super) fn named(&self) -> (String, String) {
        self.thing.as_ref().map_or_else(Default::default, |(of, name)| {
            (of.one().to_owned(), name.as_str().to_owned())
        })
    }
}

type Answered<T> = Result<T, shared::problem::Problem>;

/// The filter of a question: a stored one, one that it brings, or both together.
pub(super) struct Meant {
    pub(super) filter: Option<Filter>,
    /// The number of the stored one, and its version.
    stored: Option<(u32, usize)>,
}

/// What an answer says of its filter.
pub(super) struct Understood {
    pub(super) filter_id: Option<u32>,
    pub(super) filter_version: Option<usize>,
    pub(super) filter: Option<String>,
    pub(super) networks: Vec<String>,
}

impl Meant {
    pub(super) async fn new<L: Log, S: Stores>(
        core: &Core<L, S>,
        filtering: Filtering,
    ) -> Result<Self, Refusal> {
        let Filtering { stored, filter } = filtering;
        let Some(id) = stored else { return Ok(Self { filter, stored: None }) };
        let stored = core.filters.get(id, None).await?;
        let both = std::iter::once(stored.filter).chain(filter).collect::<Vec<_>>();
        let filter = match <[Filter; 1]>::try_from(both) {
            Ok([one]) => one,
            Err(both) => Filter::All(both),
        };
        Ok(Self { filter: Some(filter), stored: Some((stored.id, stored.version)) })
    }

    pub(super) fn understood(&self) -> Understood {
        let networks = self.filter.iter().flat_map(Filter::networks).map(|net| net.to_string());
        Understood {
            filter_id: self.stored.map(|(id, _)| id),
            filter_version: self.stored.map(|(_, version)| version),
            filter: self.filter.as_ref().map(ToString::to_string),
            networks: networks.collect(),
        }
    }
}

/// The question for the facts of a thing that pass a filter, and also pass `others`.
pub(super) fn question<S: Sum + Default + 'static>(
    range: Range<Minute>,
    filter: Option<&Filter>,
    thing: Option<(Of, AnyId)>,
    mut others: Vec<Select>,
    restated: &Restated,
) -> OfFacts<S> {
    others.push(Select::Minutes(range.clone()));
    others.extend(thing.map(|(of, id)| Select::Id(column(of), vec![id])));
    others.extend(filter.map(Select::from));
    let mut question = OfFacts::new(range, Select::All(others));
    question.overlay = restated.overlay.of(&question.range);
    question.scope = thing.and_then(|(of, id)| facts::Scope::new(column(of), vec![id]));
    question
}

/// The column that names the thing.
pub(super) fn column(of: Of) -> Name {
    match of {
        Of::Ad => Name::Ad,
        Of::Campaign => Name::Campaign,
        Of::Advertiser => Name::Advertiser,
        Of::Publisher => Name::Publisher,
        Of::Placement => Name::Placement,
    }
}

pub(super) fn thing(
    of: Of,
    path: Result<Path<String>, PathRejection>,
) -> Answered<Option<(Of, NameBuf<Any>)>> {
    Ok(Some((of, params::name("id", &part("id", path)?)?)))
}
