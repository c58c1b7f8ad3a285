//! The routes of stored filters.

use std::sync::Arc;

use api::filter::Filter;
use api::reports::{StoredFilter, StoredFilters};
use api::{Principal, Refusal, json, routes};
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use eventlog::Log;
use serde_json::Value;
use shared::problem::Problem;

use super::params::{self, Params};
use super::{Answer, answer, part};
use crate::filters::{FilterError, Stored};
use crate::service::Core;
use crate::store::Stores;

/// The largest body: a filter and its name.
const BODY_BYTES_MAX: usize = 64 << 10;
/// The longest name of a filter, in bytes.
const NAME_BYTES_MAX: usize = 256;

pub(super) fn router<L: Log, S: Stores>() -> Router<Arc<Core<L, S>>> {
    Router::new()
        .route(routes::reports::FILTERS.path, get(list::<L, S>).merge(post(make::<L, S>)))
        .route(
            routes::reports::FILTER.path,
            get(read::<L, S>).put(change::<L, S>).delete(delete::<L, S>),
        )
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

impl From<FilterError> for Refusal {
    fn from(why: FilterError) -> Self {
        let (status, kind) = match &why {
            FilterError::Store(error) => {
                return crate::query::Unanswered::Store(error.clone()).into();
            }
            FilterError::Unknown(_) | FilterError::NoVersion(..) | FilterError::Deleted(_) => {
                (StatusCode::NOT_FOUND, "unknown_filter")
            }
            FilterError::Exists(_) => (StatusCode::CONFLICT, "filter_exists"),
            FilterError::TooMany | FilterError::TooManyVersions(_) => {
                (StatusCode::CONFLICT, "too_many_filters")
            }
        };
        Self::new(status, kind, why.to_string())
    }
}

fn told(stored: Stored) -> StoredFilter {
    StoredFilter {
        filter_id: stored.id,
        version: stored.version,
        name: stored.name,
        filter: stored.filter.to_string(),
        json: stored.filter.to_json(),
        changed_at: stored.at.to_string(),
    }
}

/// What a body says of a filter.
struct Given {
    id: Option<u32>,
    name: Option<String>,
    filter: Option<Filter>,
}

fn given(body: Result<Bytes, BytesRejection>) -> Result<Given, Problem> {
    let refuse = |what: String| Problem::new(400, "invalid_filter", what);
    let body = body.map_err(|error| {
        let status = error.status().as_u16();
        Problem::new(status, "body_unreadable", error.body_text())
    })?;
    let value: Value = serde_json::from_slice(&body)
        .map_err(|error| refuse(format!("the body is not JSON: {error}")))?;
    let Value::Object(mut fields) = value else {
        return Err(refuse("give an object: {\"name\": …, \"where\": …}".to_owned()));
    };
    let name = match fields.remove("name") {
        None => None,
        Some(Value::String(name)) if (1..=NAME_BYTES_MAX).contains(&name.trim().len()) => {
            Some(name.trim().to_owned())
        }
        Some(_) => return Err(refuse(format!("name: text of 1 to {NAME_BYTES_MAX} bytes"))),
    };
    let id = fields.get("filter_id").map(|id| match id {
        Value::String(text) => params::filter_id("filter_id", text),
        other => params::filter_id("filter_id", &other.to_string()),
    });
    let (id, filter) = match fields.remove("where") {
        Some(filter) => {
            fields.remove("filter_id");
            if let Some(unknown) = fields.keys().next() {
                let there_are = "there are: filter_id, name, where";
                return Err(refuse(format!("{unknown:.64}: unknown field; {there_are}")));
            }
            let filter = match &filter {
                Value::String(text) => Filter::parse(text),
                json => Filter::from_json(json),
            };
            (id, Some(filter.map_err(|error| refuse(format!("where: {error}")))?))
        }
        // The row of a table: the other fields are columns.
        None if fields.keys().any(|field| field != "filter_id") => {
            let row = Filter::from_row(&Value::Object(fields));
            let (_, filter) = row.map_err(|error| refuse(error.to_string()))?;
            (id, Some(filter))
        }
        None => (id, None),
    };
    Ok(Given { id: id.transpose()?, name, filter })
}

async fn list<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    uri: Uri,
) -> Answer {
    Params::read(&uri, &[])?;
    answer(&core, "filters", async {
        let filters = core.filters.all().await?.into_iter().map(told).collect();
        Ok(json(&StoredFilters { filters }))
    })
    .await
}

async fn make<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    Params::read(&uri, &[])?;
    let Given { id, name, filter } = given(body)?;
    let filter = filter.ok_or_else(|| {
        let what = "where: it is missing; give a filter, such as \"country!=US\"";
        Problem::new(400, "invalid_filter", what)
    })?;
    answer(&core, "filters", async {
        let name = name.unwrap_or_else(|| filter.to_string().chars().take(64).collect());
        let made = core.filters.make(id, &name, &filter, core.clock.now()).await?;
        Ok((StatusCode::CREATED, json(&told(made))).into_response())
    })
    .await
}

async fn read<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Answer {
    let id = params::filter_id("filter_id", &part("filter_id", path)?)?;
    let version = Params::read(&uri, &["version"])?.version()?;
    answer(&core, "filters", async { Ok(json(&told(core.filters.get(id, version).await?))) }).await
}

async fn change<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let id = params::filter_id("filter_id", &part("filter_id", path)?)?;
    Params::read(&uri, &[])?;
    let Given { id: said, name, filter } = given(body)?;
    if said.is_some_and(|said| said != id) {
        let what = format!("filter_id: the path says {id}; a filter keeps its number");
        return Err(Problem::new(400, "invalid_filter", what).into());
    }
    if name.is_none() && filter.is_none() {
        let what = "nothing is changed; give name, where or both";
        return Err(Problem::new(400, "invalid_filter", what).into());
    }
    answer(&core, "filters", async {
        let now = core.clock.now();
        let changed = core.filters.change(id, name.as_deref(), filter.as_ref(), now).await?;
        Ok(json(&told(changed)))
    })
    .await
}

async fn delete<L: Log, S: Stores>(
    _: Principal,
    State(core): State<Arc<Core<L, S>>>,
    path: Result<Path<String>, PathRejection>,
    uri: Uri,
) -> Result<Response, Refusal> {
    let id = params::filter_id("filter_id", &part("filter_id", path)?)?;
    Params::read(&uri, &[])?;
    answer(&core, "filters", async {
        core.filters.delete(id, core.clock.now()).await?;
        Ok(StatusCode::NO_CONTENT.into_response())
    })
    .await
}
