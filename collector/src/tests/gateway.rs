//! The gateway, answer by answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use axum::response::Response;
use eventlog::DEAD;
use eventlog::fake::{Faults, MemLog};
use shared::keys::request;
use shared::limits::GATEWAY_BODY_BYTES_MAX;
use shared::problem::Problem;
use shared::token::Signer;
use shared::wire::Batch;
use shared::wire::json::JsonBatch;
use shared::{Kind, OutboxId};
use tower::ServiceExt;

use super::world::{ISSUER, NOW, Rig, World, batch, event, read_all, rig};
use crate::Settings;
use crate::gateway::{BATCH_CONTENT_TYPE, BATCHES_PATH, router};

fn start() -> Rig<MemLog> {
    let settings =
        Settings { verify_threads: 1, flush_ms: 1, retry_for_ms: 0, ..Settings::default() };
    rig(MemLog::new(4, [1; 16]), &World::new(), settings)
}

async fn post(
    rig: &Rig<MemLog>,
    path: &str,
    content_type: &str,
    body: impl Into<Body>,
) -> Response {
    let request =
        Request::post(path).header(header::CONTENT_TYPE, content_type).body(body.into()).unwrap();
    router(Arc::clone(&rig.collector)).oneshot(request).await.unwrap()
}

async fn text(response: Response) -> String {
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Checks that the answer is a problem, and gives its kind and detail.
async fn problem(response: Response, status: StatusCode) -> (String, String) {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
    let problem: Problem = serde_json::from_str(&text(response).await).unwrap();
    assert_eq!(problem.status, status.as_u16());
    (problem.r#type.strip_prefix("urn:countersign:").unwrap().to_owned(), problem.detail)
}

fn chunk(end_row: u64) -> String {
    let digest = "00".repeat(32);
    format!(
        r#"{{"source":"000102030405060708090a0b0c0d0e0f","first_row":0,"end_row":{end_row},
        "digest":"{digest}","events":[{{"row":0,"kind":"click","at":1769860800000,"ad":"a"}}]}}"#
    )
}

#[tokio::test]
async fn batches_are_taken_in_all_their_forms() {
    let rig = start();
    let token = World::new().token(1);
    let bytes = |number| batch(number, vec![event(Kind::Click, &token)], Vec::new());
    let json = |number| {
        let bytes = bytes(number);
        serde_json::to_string(&JsonBatch::new(&Batch::read(&bytes).unwrap())).unwrap()
    };
    for (content_type, body) in [
        (BATCH_CONTENT_TYPE, Body::from(bytes(0))),
        ("application/octet-stream", Body::from(bytes(1))),
        ("application/json", Body::from(json(2))),
        ("Application/JSON; charset=utf-8", Body::from(json(3))),
    ] {
        let response = post(&rig, "/v1/batches", content_type, body).await;
        assert_eq!(response.status(), StatusCode::ACCEPTED, "{content_type}");
    }
    let all = read_all(&*rig.log).await;
    assert_eq!(all.len(), 4);
    assert!(all.values().all(|news| news.rows.len() == 1 && news.rows[0].outcome == Ok(None)));
}

#[tokio::test]
async fn a_signature_lets_its_own_batch_in() {
    let rig = start();
    let world = World::new();
    let token = world.token(1);
    let bytes = |number| batch(number, vec![event(Kind::Click, &token)], Vec::new());
    let signer = Signer::new(world.key(ISSUER));
    let signature =
        |body: &[u8]| request::sign(&signer, world.store.deployment, BATCHES_PATH, body, NOW);
    let send = async |signature: String, body: bytes::Bytes| {
        let request = Request::post(BATCHES_PATH).header(request::FIELD, signature);
        let request = request.header(header::CONTENT_TYPE, BATCH_CONTENT_TYPE);
        let request = request.body(Body::from(body)).unwrap();
        router(Arc::clone(&rig.collector)).oneshot(request).await.unwrap()
    };
    let response = send(signature(&bytes(0)), bytes(0)).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    for wrong in [signature(&bytes(0)), String::new(), "x".to_owned()] {
        let (kind, _) = problem(send(wrong, bytes(1)).await, StatusCode::UNAUTHORIZED).await;
        assert_eq!(kind, "unauthorized");
    }
    assert_eq!(read_all(&*rig.log).await.len(), 1);
    assert!(rig.log.messages(DEAD).is_empty(), "who is not let in fills no dead letters");
}

#[tokio::test]
async fn an_edge_sends_for_its_shards_and_nobody_else() {
    let rig = start();
    let token = World::new().token(1);
    // `batch` names the edge `edge-1`.
    let bytes = batch(0, vec![event(Kind::Click, &token)], Vec::new());
    let edge = Batch::read(&bytes).unwrap().outbox.edge.to_string();
    let shard = Batch {
        outbox: OutboxId { edge: "w--FRA-0".parse().unwrap(), epoch: 1 },
        ..Batch::read(&bytes).unwrap()
    }
    .to_bytes();
    let shard = bytes::Bytes::from(shard);
    for (sender, batch, taken) in [
        (edge.as_str(), &bytes, true),
        ("w", &shard, true),
        ("w--FRA-0", &shard, true),
        ("w-", &shard, false),
        ("v", &shard, false),
        (&edge[..edge.len() - 1], &bytes, false),
    ] {
        let submitted = rig.collector.submit_from_edge(sender, batch.clone()).await;
        assert_eq!(submitted.is_ok(), taken, "{sender}");
    }
}

#[tokio::test]
async fn chunks_are_taken() {
    let rig = start();
    let response = post(&rig, "/v1/import", "application/json", chunk(9)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let answer = text(response).await;
    assert_eq!(answer, r#"{"end_row":9,"source":"000102030405060708090a0b0c0d0e0f"}"#);
    assert_eq!(read_all(&*rig.log).await.len(), 1);
}

#[tokio::test]
async fn two_imports_of_one_log_are_made_one_after_the_other() {
    let rig = start();
    let router = router(Arc::clone(&rig.collector));
    let send = async |query: &str, body: String| {
        let request = Request::post(format!("/v1/import{query}"));
        let request = request.header(header::CONTENT_TYPE, "application/json");
        router.clone().oneshot(request.body(Body::from(body)).unwrap()).await.unwrap()
    };
    let source = "000102030405060708090a0b0c0d0e0f";
    let begin = || {
        let digest = "0".repeat(64);
        format!(
            r#"{{"source":"{source}","first_row":0,"end_row":0,"digest":"{digest}","events":[]}}"#
        )
    };
    assert_eq!(send("?run=a", begin()).await.status(), StatusCode::OK);
    assert!(read_all(&*rig.log).await.is_empty(), "nothing is written for that");
    assert_eq!(send("?run=a", chunk(9)).await.status(), StatusCode::OK);
    let busy = send("?run=b", begin()).await;
    assert!(busy.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(problem(busy, StatusCode::SERVICE_UNAVAILABLE).await.0, "import_busy");
    let other = problem(send("?run=b", chunk(9)).await, StatusCode::CONFLICT).await;
    assert_eq!(other.0, "import_taken_over");
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    let answer = text(send("?run=b", begin()).await).await;
    assert_eq!(answer, format!(r#"{{"end_row":9,"source":"{source}"}}"#));
    assert_eq!(send("?run=a", chunk(9)).await.status(), StatusCode::CONFLICT);
    // An importer of an earlier build, and one that errs.
    for (query, status) in [
        ("", StatusCode::OK),
        ("?begin=11", StatusCode::OK),
        ("?run=", StatusCode::BAD_REQUEST),
        ("?run=b&run=b", StatusCode::BAD_REQUEST),
        ("?x=1&run=b", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(send(query, chunk(9)).await.status(), status, "{query}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_a_400_that_says_where() {
    let rig = start();
    let cases = [
        ("/v1/batches", BATCH_CONTENT_TYPE, "CSB9".to_owned(), "at byte 0"),
        ("/v1/batches", "application/json", "{\"version\":1,".to_owned(), "line 1 column 13"),
        (
            "/v1/batches",
            "application/json",
            r#"{"version":2,"edge":"e","epoch":1,"number":0,"watermark":0}"#.to_owned(),
            "this build reads version 1",
        ),
        (
            "/v1/batches",
            "application/json",
            r#"{"version":1,"edge":"e","epoch":1,"number":0,"watermark":0,"x":1}"#.to_owned(),
            "unknown field `x`",
        ),
        ("/v1/import", "application/json", chunk(9).replace("\"row\"", "\"raw\""), "`raw`"),
        ("/v1/import", "application/json", chunk(0), "outside the chunk"),
        ("/v1/import", "application/json", chunk(65_537), "at most 65536 rows"),
    ];
    let batches = cases.iter().filter(|case| case.0 == "/v1/batches").count();
    for (path, content_type, body, detail) in cases {
        let response = post(&rig, path, content_type, body.clone()).await;
        let (kind, found) = problem(response, StatusCode::BAD_REQUEST).await;
        assert_eq!(kind, "malformed");
        assert!(found.contains(detail), "{body}: {found}");
    }
    assert_eq!(rig.log.messages(DEAD).len(), batches);
    assert!(read_all(&*rig.log).await.is_empty());
}

#[tokio::test]
async fn other_content_types_methods_and_sizes_are_refused() {
    let rig = start();
    for (path, content_type) in [("/v1/batches", "text/plain"), ("/v1/import", BATCH_CONTENT_TYPE)]
    {
        let response = post(&rig, path, content_type, "{}").await;
        let (kind, detail) = problem(response, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
        assert_eq!(kind, "unsupported_media_type");
        assert!(detail.contains(content_type) && detail.contains("application/json"), "{detail}");

        let bare = Request::post(path).body(Body::empty()).unwrap();
        let response = router(Arc::clone(&rig.collector)).oneshot(bare).await.unwrap();
        problem(response, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;

        let get = Request::builder().method(Method::GET).uri(path).body(Body::empty()).unwrap();
        let response = router(Arc::clone(&rig.collector)).oneshot(get).await.unwrap();
        assert_eq!(response.headers()[header::ALLOW], "POST");
        problem(response, StatusCode::METHOD_NOT_ALLOWED).await;

        let long = vec![b' '; GATEWAY_BODY_BYTES_MAX + 1];
        let response = post(&rig, path, "application/json", long).await;
        let (kind, detail) = problem(response, StatusCode::PAYLOAD_TOO_LARGE).await;
        assert_eq!(kind, "body_too_large");
        assert!(detail.contains("8388608"), "{detail}");
    }
    assert!(rig.log.messages(DEAD).is_empty());
}

#[tokio::test]
async fn a_log_that_is_away_is_a_503_with_retry_after() {
    let rig = start();
    let token = World::new().token(1);
    let click = batch(0, vec![event(Kind::Click, &token)], Vec::new());
    for (path, content_type, body) in [
        ("/v1/batches", BATCH_CONTENT_TYPE, Body::from(click.clone())),
        // The log has no space for the dead letter either, so this must be sent again, too.
        ("/v1/batches", BATCH_CONTENT_TYPE, Body::from("CSB2")),
        ("/v1/import", "application/json", Body::from(chunk(9))),
    ] {
        rig.log.set_faults(Faults { no_space: 1, ..Faults::default() });
        let response = post(&rig, path, content_type, body).await;
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
        let (kind, _) = problem(response, StatusCode::SERVICE_UNAVAILABLE).await;
        assert_eq!(kind, "log_away");
    }
    let response = post(&rig, "/v1/batches", BATCH_CONTENT_TYPE, click).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);

    rig.collector.close().await;
    let response = post(&rig, "/v1/import", "application/json", chunk(9)).await;
    problem(response, StatusCode::SERVICE_UNAVAILABLE).await;
}

/// With a batch of 1.5 MB a partition's message became larger than NATS takes, and nobody's went.
#[tokio::test]
async fn a_batch_that_no_outbox_seals_is_413_and_nothing_of_it_is_kept() {
    let rig = start();
    let world = World::new();
    let tokens: Vec<_> = (0..2_000).map(|seq| world.token(seq)).collect();
    let events = |n: usize| tokens[..n].iter().map(|token| event(Kind::Click, token)).collect();
    let large = batch(0, events(2_000), Vec::new());
    assert!(large.len() > shared::limits::BATCH_BYTES_MAX);
    let response = post(&rig, "/v1/batches", BATCH_CONTENT_TYPE, large.clone()).await;
    let (kind, detail) = problem(response, StatusCode::PAYLOAD_TOO_LARGE).await;
    assert_eq!(kind, "batch_too_large");
    assert!(detail.contains("393216"), "{detail}");
    assert!(read_all(&*rig.log).await.is_empty() && rig.log.messages(DEAD).is_empty());
    // Over NATS nobody hears an answer: there it is a dead letter, and a small one.
    assert!(rig.collector.submit_from_edge(super::world::EDGE.as_str(), large).await.is_err());
    let letters = rig.log.messages(DEAD);
    assert_eq!(letters.len(), 1);
    assert!(letters[0].len() < 100_000, "{}", letters[0].len());
    let response = post(&rig, "/v1/batches", BATCH_CONTENT_TYPE, batch(0, events(9), vec![])).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
}
