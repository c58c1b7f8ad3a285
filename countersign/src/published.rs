//! What the centre tells edges elsewhere ([`Published`]): `GET /v1/edge/policy`, of whoever signs the
//! request with a key of this deployment; one that was revoked too, for its edge must hear of that.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use collector::CollectorKeys;
use edge::Published;
use serde_json::value::RawValue;
use shared::Clock as _;
use shared::ambient::SystemClock;
use shared::keys::request;
use shared::problem::{CONTENT_TYPE, Problem};
use shared::text::hex;
use tokio::sync::watch;

#[derive(Clone)]
struct Centre {
    keys: watch::Receiver<Arc<CollectorKeys>>,
    catalogue: Arc<PathBuf>,
}

/// The route. The catalogue is read when it is asked for: an edge asks every few seconds.
pub(crate) fn router(keys: watch::Receiver<Arc<CollectorKeys>>, catalogue: PathBuf) -> Router {
    let centre = Centre { keys, catalogue: Arc::new(catalogue) };
    Router::new().route(Published::PATH, get(published).with_state(centre))
}

async fn published(State(centre): State<Centre>, headers: HeaderMap) -> Response {
    let keys = Arc::clone(&centre.keys.borrow());
    let field = headers.get(request::FIELD).and_then(|value| value.to_str().ok());
    let now = SystemClock.now();
    let field = field.unwrap_or_default();
    if let Err(error) = request::verify_known(field, &keys.keyring, Published::PATH, b"", now) {
        return problem(StatusCode::UNAUTHORIZED, "unauthorized", &error.to_string());
    }
    let catalogue = match catalogue(&centre.catalogue).await {
        Ok(catalogue) => catalogue,
        Err(why) => {
            tracing::error!("{}: {why}", centre.catalogue.display());
            let what = "the centre's catalogue cannot be read; its log says why";
            return problem(StatusCode::SERVICE_UNAVAILABLE, "catalogue_unreadable", what);
        }
    };
    let published = Published { public: keys.keyring.iter().cloned().collect(), catalogue };
    let body = match serde_json::to_string(&published) {
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

/// The catalogue as JSON; `None` when there is no file.
async fn catalogue(path: &Path) -> Result<Option<Box<RawValue>>, String> {
    let text = match tokio::fs::read_to_string(path).await {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let is_json = path.extension().is_some_and(|extension| extension == "json");
    let value: serde_json::Value = if is_json {
        serde_json::from_str(&text).map_err(|error| error.to_string())?
    } else {
        toml::from_str(&text).map_err(|error| error.to_string())?
    };
    serde_json::value::to_raw_value(&value).map(Some).map_err(|error| error.to_string())
}

fn problem(status: StatusCode, kind: &str, detail: &str) -> Response {
    let body = Problem::new(status.as_u16(), kind, detail).to_json();
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response()
}
