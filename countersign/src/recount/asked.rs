//! Who is asked for what the engine has counted, and to archive it: an API elsewhere, or the routes
//! of this process.

use api::routes;
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use shared::problem::Problem;
use tower::ServiceExt as _;

use crate::client::Api;
use crate::failure::Failure;

/// The most bytes that are read of a refusal.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// The most bytes of an answer that is read as a whole.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Who is asked.
pub(crate) enum Asked<'a> {
    /// An API elsewhere.
    Api(&'a Api),
    /// The routes of this process, with the operator as the one who asks.
    Routes(&'a Router),
}

impl Asked<'_> {
    /// Asks for an answer that may be long, and hands it to `take` piece by piece until that says
    /// that it is enough; false then.
    ///
    /// # Errors
    /// When there is no answer, or it is cut off. Those of `take`.
    pub(super) async fn pieces(
        &self,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<bool, String>,
    ) -> Result<bool, Failure> {
        let wrong = |why: String| Failure::server(format!("{path}: {why}"));
        match self {
            Self::Api(api) => {
                let answer = api.bytes(path).await?.ok_or_else(|| api.absent(path))?;
                take(&answer).map_err(wrong)
            }
            Self::Routes(routes) => {
                let response = send(routes, Method::GET, path).await?;
                let response = response.ok_or_else(|| wrong("it is not there".to_owned()))?;
                let mut pieces = response.into_body().into_data_stream();
                while let Some(piece) = pieces.next().await {
                    let piece = piece.map_err(|error| wrong(error.to_string()))?;
                    if !take(&piece).map_err(wrong)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }

    /// Asks for JSON that must be there.
    ///
    /// # Errors
    /// When there is no answer, or another than is understood.
    pub(crate) async fn require<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        let routes = match self {
            Self::Api(api) => return api.require(path).await,
            Self::Routes(routes) => routes,
        };
        let wrong = |why: String| Failure::server(format!("{path}: {why}"));
        let response = send(routes, Method::GET, path).await?;
        let response = response.ok_or_else(|| wrong("it is not there".to_owned()))?;
        let body = axum::body::to_bytes(response.into_body(), ANSWER_BYTES_MAX).await;
        let body = body.map_err(|error| wrong(error.to_string()))?;
        serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))
    }

    /// Asks that a partition is archived; there may be no such route, when another process
    /// archives.
    ///
    /// # Errors
    /// When it is refused.
    pub(super) async fn archive(&self, partition: u16) -> Result<(), Failure> {
        let path = routes::ARCHIVE.at(&[&partition]);
        match self {
            Self::Api(api) => api.ask(&path).await.map(drop),
            Self::Routes(routes) => send(routes, Method::POST, &path).await.map(drop),
        }
    }
}

/// Sends a request without a body to the routes; `None` when there is no such thing.
async fn send(routes: &Router, method: Method, path: &str) -> Result<Option<Response>, Failure> {
    let request = Request::builder().method(method).uri(path).body(Body::empty());
    let request = request.map_err(|error| Failure::fatal(format!("{path}: {error}")))?;
    let response = routes.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    let status = response.status();
    if status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if status.is_success() {
        return Ok(Some(response));
    }
    let body = axum::body::to_bytes(response.into_body(), REFUSAL_BYTES_MAX).await;
    let problem = body.ok().and_then(|body| serde_json::from_slice::<Problem>(&body).ok());
    let said = problem.map_or_else(|| status.to_string(), |problem| problem.detail);
    Err(Failure::server(format!("{path}: {said}")))
}
