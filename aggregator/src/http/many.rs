//! `POST /v1/query`: several questions in one request, all answered from one moment.

use std::sync::Arc;

use api::restatements::{Answered, Answers};
use api::{Principal, Refusal, json, routes};
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Request, StatusCode, Uri, header};
use axum::routing::post;
use eventlog::Log;
use serde::Deserialize;
use serde_json::Value;
use shared::problem::Problem;
use tower::ServiceExt as _;

use super::asked::Snapshot;
use super::params::Params;
use super::{Answer, answer};
use crate::query::Unanswered;
use crate::service::Core;
use crate::store::Stores;

/// The most questions of one request.
const QUESTIONS_MAX: usize = 100;
/// The largest body of a request.
const BODY_BYTES_MAX: usize = 1 << 20;
/// The answers together are no longer than this.
const ANSWERS_BYTES_MAX: usize = 32 << 20;

/// What is asked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    /// Paths with their queries, as a `GET` would have them.
    questions: Vec<String>,
}

/// `questions`: the routes that can be asked.
pub(super) fn router<L: Log, S: Stores>(questions: Router) -> Router<Arc<Core<L, S>>> {
    let handle = move |who: Principal,
                       State(core): State<Arc<Core<L, S>>>,
                       uri: Uri,
                       body: Result<Bytes, BytesRejection>| {
        let questions = questions.clone();
        async move { many(who, &core, questions, &uri, body).await }
    };
    Router::new()
        .route(routes::reports::QUERY.path, post(handle))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

async fn many<L: Log, S: Stores>(
    who: Principal,
    core: &Arc<Core<L, S>>,
    router: Router,
    uri: &Uri,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    Params::read(uri, &[])?;
    let questions = read(body)?;
    answer(core, "query", async {
        let moment = Snapshot::new(core).await?;
        let (mut answers, mut left) = (Vec::with_capacity(questions.len()), ANSWERS_BYTES_MAX);
        // One after the other: each is read by all cores already.
        for question in questions {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = question;
            request.extensions_mut().insert(who);
            request.extensions_mut().insert(moment.clone());
            let (answered, bytes) = ask(&router, request, left).await?;
            left = left.saturating_sub(bytes);
            answers.push(answered);
        }
        Ok(json(&Answers { answers }))
    })
    .await
}

fn read(body: Result<Bytes, BytesRejection>) -> Result<Vec<Uri>, Problem> {
    let refuse = |what: String| Problem::new(400, "invalid_query", what);
    let body = body.map_err(|error| {
        Problem::new(error.status().as_u16(), "body_unreadable", error.body_text())
    })?;
    let example = "give {\"questions\": [\"/v1/top?of=ads&from=…&to=…\", …]}";
    let query: Query =
        serde_json::from_slice(&body).map_err(|error| refuse(format!("{error}; {example}")))?;
    let count = query.questions.len();
    if !(1..=QUESTIONS_MAX).contains(&count) {
        return Err(refuse(format!(
            "questions: there are {count}; ask from 1 to {QUESTIONS_MAX} at once"
        )));
    }
    let question = |(at, text): (usize, &String)| {
        let uri = text.parse::<Uri>().ok().filter(|_| text.starts_with("/v1/"));
        uri.ok_or_else(|| {
            let what = "not a path; it begins with /v1/, and what is special in it is escaped";
            refuse(format!("questions[{at}]: {text:.64?}: {what}"))
        })
    };
    query.questions.iter().enumerate().map(question).collect()
}

/// Asks one of the questions. Its answer may have so many bytes.
async fn ask(
    router: &Router,
    request: Request<Body>,
    bytes_max: usize,
) -> Result<(Answered, usize), Refusal> {
    let path = request.uri().path().to_owned();
    let response = match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = response.status().as_u16();
    let media = response.headers().get(header::CONTENT_TYPE).cloned();
    let refuse = |status: u16, kind: &str, what: String| {
        let body = serde_json::to_value(Problem::new(status, kind, what)).unwrap_or_default();
        Ok((Answered { status, body }, 0))
    };
    if media.is_none() && status == StatusCode::NOT_FOUND.as_u16() {
        let what = format!("{path:.128}: no question that can be asked together with others");
        return refuse(404, "unknown_question", what);
    }
    let Ok(bytes) = to_bytes(response.into_body(), bytes_max).await else {
        let what = format!(
            "the answers together are longer than {ANSWERS_BYTES_MAX} bytes; ask this one by itself"
        );
        return refuse(422, "too_much_to_read", what);
    };
    let is_json = media.is_some_and(|media| media.as_bytes().ends_with(b"json"));
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    let body = match is_json {
        true => serde_json::from_slice(&bytes).unwrap_or_else(|_| text()),
        false => text(),
    };
    // Nothing can be answered any more: the whole request is to be tried again.
    match status {
        503 => Err(Unanswered::from(crate::service::NotReady::Starting(text().to_string())).into()),
        _ => Ok((Answered { status, body }, bytes.len())),
    }
}
