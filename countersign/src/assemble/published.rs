//! `GET /v1/edge/policy`: what the centre tells edges elsewhere ([`Published`]). The request must
//! be signed with a key of this deployment. A revoked key may ask too, because its edge must learn
//! that it was revoked. Each issuer is told only of the ads and placements that its keys may sign
//! for.

use std::path::PathBuf;
use std::sync::Arc;

use api::Refusal;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use catalogue::{Published, part, stored};
use collector::CollectorKeys;
use serde_json::Value;
use serde_json::value::to_raw_value;
use shared::Clock as _;
use shared::ambient::SystemClock;
use shared::keys::request;
use shared::text::hex;
use tokio::sync::watch;

#[derive(Clone)]
struct Centre {
    keys: watch::Receiver<Arc<CollectorKeys>>,
    catalogue: Option<Arc<PathBuf>>,
    /// Why these keys may be out of date, if they may.
    stale: Arc<dyn Fn() -> Option<String> + Send + Sync>,
}

/// The route. The catalogue, if there is one, is read at each request: an edge asks only every few
/// seconds.
pub(crate) fn router(
    keys: watch::Receiver<Arc<CollectorKeys>>,
    catalogue: Option<PathBuf>,
    stale: impl Fn() -> Option<String> + Send + Sync + 'static,
) -> Router {
    let centre = Centre { keys, catalogue: catalogue.map(Arc::new), stale: Arc::new(stale) };
    Router::new().route(Published::PATH, get(published).with_state(centre))
}

async fn published(State(centre): State<Centre>, headers: HeaderMap) -> Response {
    let keys = Arc::clone(&centre.keys.borrow());
    let field = headers.get(request::FIELD).and_then(|value| value.to_str().ok());
    let now = SystemClock.now();
    let field = field.unwrap_or_default();
    let asks = match request::verify_known(field, &keys.keyring, Published::PATH, b"", now) {
        Ok(key) => key,
        Err(error) => {
            return problem(StatusCode::UNAUTHORIZED, "unauthorized", &error.to_string());
        }
    };
    // The edge will take this answer for the current state, so keys that may be out of date are not
    // given out: one of them may have been revoked meanwhile.
    if let Some(why) = (centre.stale)() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "keys_unseen", &why);
    }
    let catalogue = match catalogue(centre.catalogue.as_deref()).await {
        Ok(catalogue) => catalogue.filter(|_| !asks.revoked),
        Err(why) => {
            tracing::error!("{why}");
            let what = "the centre's catalogue cannot be read; its log says why";
            return problem(StatusCode::SERVICE_UNAVAILABLE, "catalogue_unreadable", what);
        }
    };
    let public = keys.keyring.iter().map(|key| key.told_to(asks.issuer)).collect();
    let own: Vec<_> = keys.keyring.iter().filter(|key| key.issuer == asks.issuer).collect();
    let catalogue =
        catalogue.map(|whole| to_raw_value(&part(stored(whole), &own, now))).transpose();
    let published = catalogue.map(|catalogue| Published { public, catalogue });
    let body = match published.and_then(|published| serde_json::to_string(&published)) {
        Ok(body) => body,
        Err(error) => {
            return problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", &error.to_string());
        }
    };
    let etag = format!("\"{}\"", hex(&blake3::hash(body.as_bytes()).as_bytes()[..16]));
    let fields = [(header::ETAG, etag.as_str()), (header::CACHE_CONTROL, "private, no-cache")];
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, fields).into_response();
    }
    (fields, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Reads the catalogue as a JSON value.
async fn catalogue(path: Option<&PathBuf>) -> Result<Option<Value>, String> {
    let Some(path) = path else { return Ok(None) };
    let shown = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let text = tokio::fs::read_to_string(path).await.map_err(|error| shown(&error))?;
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    if is_json {
        serde_json::from_str(&text).map(Some).map_err(|error| shown(&error))
    } else {
        toml::from_str(&text).map(Some).map_err(|error| shown(&error))
    }
}

fn problem(status: StatusCode, kind: &str, detail: &str) -> Response {
    Refusal::new(status, kind, detail).into_response()
}
