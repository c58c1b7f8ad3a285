//! The API's address: the aggregator's answers, the collector's gateway, the archive, the
//! metrics; behind the operator's key.

use std::sync::Arc;

use api::Refusal;
use api::routes::{OPENAPI, Role, Route};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use collector::CollectorKeys;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use shared::ambient::SystemClock;
use shared::keys::{Jwks, jwks};
use shared::{Clock as _, Ready};
use tokio::sync::watch;

use crate::admin::{self, AdminKey};

/// The routes of all roles, as a document (OpenAPI 3.1).
const DOCUMENT: &str = include_str!("../../../docs/openapi.json");
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Which process this operator's side belongs to; decides what a 404 advises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// All roles in one process.
    Up,
    /// An edge alone.
    Edge,
    /// A collector alone.
    Collector,
    /// An aggregator alone.
    Aggregator,
}

/// A role's routes and `/metrics`, behind the operator's key; `/healthz`, `/readyz` and the API's
/// description are open.
pub(crate) fn guarded(
    side: Side,
    routes: Router,
    registry: Arc<Registry>,
    key: Arc<AdminKey>,
) -> Router {
    let guarded = routes
        .route("/metrics", get(metrics).with_state(registry))
        .fallback(move |uri: Uri| async move { not_found(side, &uri) })
        .method_not_allowed_fallback(other_method)
        .layer(axum::middleware::from_fn_with_state(key, admin::guard));
    // `/healthz` says only that the process answers; whether it takes work is `/readyz`.
    let open = Router::new().route("/healthz", get(|| async { "ok\n" })).route(
        OPENAPI.path,
        get(|| async { ([(header::CONTENT_TYPE, "application/json")], DOCUMENT) }),
    );
    guarded.merge(open.method_not_allowed_fallback(other_method))
}

/// The route of the public keys, open to everybody.
pub(crate) fn open_keys(keys: watch::Receiver<Arc<CollectorKeys>>) -> Router {
    let route = Router::new().route(jwks::PATH, get(public_keys).with_state(keys));
    route.method_not_allowed_fallback(other_method)
}

/// Adds to the routes' `/readyz` what is not as it should be, while it still says yes
/// ([`degrade`]).
pub(crate) fn degradable(routes: Router, degraded: watch::Receiver<Option<String>>) -> Router {
    routes.layer(axum::middleware::from_fn_with_state(degraded, degrade))
}

/// Lets the routes' `/readyz` say no, with the reason, while `why` gives one.
pub(crate) fn unready_when(
    routes: Router,
    why: impl Fn() -> Option<String> + Clone + Send + Sync + 'static,
) -> Router {
    routes.layer(axum::middleware::from_fn(move |request: Request, next: Next| {
        let why = (request.uri().path() == Ready::PATH).then(&why).flatten();
        async move {
            match why {
                None => next.run(request).await,
                Some(why) => api::ready(&Ready::Unready { reasons: vec![why] }),
            }
        }
    }))
}

/// While a reason is there, `/readyz` names it and still says yes: the process works, and a load
/// balancer that took it out would stop its redirects too.
async fn degrade(
    State(degraded): State<watch::Receiver<Option<String>>>,
    request: Request,
    next: Next,
) -> Response {
    let is_ready = request.uri().path() == Ready::PATH;
    let response = next.run(request).await;
    let why = degraded.borrow().clone().filter(|_| is_ready && response.status().is_success());
    let Some(why) = why else { return response };
    api::ready(&Ready::Degraded { reasons: vec![why] })
}

/// Answers with the public keys that are in force now.
async fn public_keys(
    State(keys): State<watch::Receiver<Arc<CollectorKeys>>>,
    headers: HeaderMap,
) -> Response {
    let set = Jwks::new(&keys.borrow().keyring, SystemClock.now());
    let known = headers.get(header::IF_NONE_MATCH).map_or(&b""[..], HeaderValue::as_bytes);
    let fields = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::CACHE_CONTROL, jwks::CACHE_CONTROL),
        (header::CONTENT_TYPE, jwks::CONTENT_TYPE),
    ];
    let tag = [(header::ETAG, set.etag.clone())];
    if set.is_known(known) {
        return (StatusCode::NOT_MODIFIED, fields, tag).into_response();
    }
    (fields, tag, set.body).into_response()
}

async fn metrics(State(registry): State<Arc<Registry>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn not_found(side: Side, uri: &Uri) -> Refusal {
    let path = uri.path();
    let hint = match (side, Route::role_of(path)) {
        (Side::Up, _) => "this is the API, and ads are served at the edge's address",
        (Side::Edge, Some(Role::Edge)) => {
            "this is the operator's side of an edge: ads are served at edge.listen"
        }
        (Side::Edge, Some(Role::Collector)) => "this is an edge; a collector answers that",
        (Side::Edge, _) if path == Ready::PATH => {
            "this is the operator's side of an edge: it says at edge.listen whether it is ready"
        }
        (Side::Edge, Some(_)) => "this is an edge; an aggregator answers that",
        (Side::Edge, None) => "this is the operator's side of an edge",
        (Side::Collector, Some(Role::Edge)) => {
            "this is a collector; ads are served at an edge's address"
        }
        (Side::Collector, Some(Role::Aggregator)) => {
            "this is a collector; an aggregator answers that"
        }
        (Side::Collector, _) => "this is a collector",
        (Side::Aggregator, Some(Role::Edge)) => {
            "this is an aggregator; ads are served at an edge's address"
        }
        (Side::Aggregator, Some(Role::Collector)) => {
            "this is an aggregator; a collector answers that"
        }
        (Side::Aggregator, _) => "this is an aggregator",
    };
    let what = format!(
        "{}: there is no such route here; {hint}",
        path.chars().take(100).collect::<String>()
    );
    Refusal::new(StatusCode::NOT_FOUND, "not_found", what)
}

/// The router itself lists the allowed methods, in the header `Allow`.
async fn other_method() -> Refusal {
    let what = "this path has other methods: see `Allow`";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", what)
}
