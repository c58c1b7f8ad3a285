//! The API's address: the aggregator's answers, the collector's gateway, the metrics; behind the
//! operator's key.

use std::sync::Arc;

use aggregator::Aggregator;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use shared::problem::{CONTENT_TYPE, Problem};

use super::demo;
use super::log::AnyLog;
use crate::admin::{self, AdminKey};

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The routes of `up`. With `demo_edge`, the demo's pages too: they need no key.
pub(super) fn router(
    aggregator: &Aggregator<AnyLog>,
    collector: Arc<Collector<AnyLog>>,
    registry: Arc<Registry>,
    key: Arc<AdminKey>,
    demo_edge: Option<&str>,
) -> Router {
    let answers = aggregator.router();
    let demo = demo_edge.map(|edge| demo::router(edge, answers.clone()));
    let routes = answers.merge(collector::gateway::router(collector));
    guarded(routes, registry, key).merge(demo.unwrap_or_default())
}

/// A role's routes behind the operator's key, the metrics among them; `/healthz` and `/readyz` are
/// open.
pub(crate) fn guarded(routes: Router, registry: Arc<Registry>, key: Arc<AdminKey>) -> Router {
    let guarded = routes
        .route("/metrics", get(metrics).with_state(registry))
        .fallback(not_found)
        .layer(axum::middleware::from_fn_with_state(key, admin::guard));
    // Alive: it answers. Whether it is ready to is `/readyz`.
    guarded.route("/healthz", get(|| async { "ok\n" }))
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

async fn not_found(uri: Uri) -> Response {
    let what = format!(
        "{}: there is no such route here; this is the API, and ads are served at the edge's address",
        uri.path().chars().take(100).collect::<String>()
    );
    let problem = Problem::new(StatusCode::NOT_FOUND.as_u16(), "not_found", what);
    (StatusCode::NOT_FOUND, [(header::CONTENT_TYPE, CONTENT_TYPE)], problem.to_json())
        .into_response()
}
