//! Rate limits, over TCP.

use std::sync::Arc;

use edge::limit::{Rate, Rates};
use serde_json::json;
use shared::Kind;

use crate::harness::{Edge, Reply, Store};

const MANY: usize = 40;

/// An edge that lets a network ask three times and click six times at once, and after that once a
/// second. The tests' own address is a trusted proxy.
async fn limited(dir: &std::path::Path) -> Edge {
    Edge::start_with(dir, Arc::new(Store::default()), |parts| {
        let rate = |burst| Rate { per_s: 1, burst };
        parts.settings.rates = Rates { clicks: rate(6), requests: rate(3) };
    })
    .await
}

async fn ask(edge: &Edge, path: &str, client: &str, count: usize) -> Vec<Reply> {
    let mut replies = Vec::new();
    for _ in 0..count {
        let head = format!("GET {path} HTTP/1.1\r\nX-Forwarded-For: {client}");
        replies.push(edge.send(&head, b"").await);
    }
    replies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_asks_too_often_is_told_so_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let edge = limited(dir.path()).await;
    let replies = ask(&edge, "/v1/serve?placement=top", "203.0.113.7", MANY).await;
    assert!(replies[..3].iter().all(|reply| reply.status == 200), "{replies:?}");
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status == 429).collect();
    let reply = refused.first().expect("40 requests take less than 37 s");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    assert_eq!(reply.header("retry-after"), Some("5"));
    assert_eq!(reply.json()["type"], "urn:countersign:too_many_requests");
    for other in ["203.0.114.7", "2001:db8::1"] {
        assert_eq!(ask(&edge, "/v1/serve?placement=top", other, 1).await[0].status, 200);
    }
    // Nothing of a refused body is read.
    let head = "POST /v1/events HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7";
    let post = edge.send(head, &vec![b' '; 5 << 20]).await;
    assert!(post.status == 429 || post.status == 415, "{post:?}");
    let metrics = String::from_utf8(edge.get("/metrics").await.body).unwrap();
    let counted = refused.len() + usize::from(post.status == 429);
    let line = format!("countersign_edge_limited_total{{class=\"request\"}} {counted}");
    assert!(metrics.contains(&line), "{line} is not in\n{metrics}");
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clicks_go_on_while_other_requests_are_refused_and_have_a_limit_too() {
    let dir = tempfile::tempdir().unwrap();
    let edge = limited(dir.path()).await;
    let client = "203.0.113.7";
    let replies = ask(&edge, "/nothing", client, MANY).await;
    assert!(replies.iter().any(|reply| reply.status == 429));
    let path = format!("/v1/c/{}", edge.token(1));
    let clicks = ask(&edge, &path, client, MANY).await;
    assert!(clicks[..6].iter().all(|reply| reply.status == 302), "{clicks:?}");
    let refused = clicks.iter().find(|reply| reply.status == 429).unwrap();
    assert_eq!(refused.header("content-type"), Some("text/plain; charset=utf-8"), "for a person");
    assert_eq!((refused.header("retry-after"), refused.header("location")), (Some("5"), None));
    let sent = clicks.iter().filter(|reply| reply.status == 302).count() as u64;
    let (_, sink) = edge.stop().await;
    assert_eq!(sink.came().0, [(Kind::Click, sent)].into(), "a refused click is no event");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_runs_the_edge_and_who_is_hidden_is_not_limited() {
    let dir = tempfile::tempdir().unwrap();
    let edge = limited(dir.path()).await;
    for _ in 0..MANY {
        assert_eq!(edge.get("/healthz").await.status, 200);
        // Without `X-Forwarded-For` clients cannot be told apart.
        assert_eq!(edge.get("/nothing").await.status, 404);
        assert_eq!(edge.post(&json!([])).await.status, 400);
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_costs_what_its_elements_cost_and_is_refused_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start_with(dir.path(), Arc::new(Store::default()), |parts| {
        let requests = Rate { per_s: 1, burst: 200 };
        parts.settings.rates = Rates { requests, ..Rates::default() };
    })
    .await;
    let body = |events: std::ops::Range<i64>| {
        let event = |n| json!({ "token": edge.token(n), "kind": "impression" });
        json!({ "events": events.map(event).collect::<Vec<_>>() }).to_string()
    };
    let head = "POST /v1/events HTTP/1.1\r\nContent-Type: text/plain\r\n\
                X-Forwarded-For: 203.0.113.7";
    let first = edge.send(head, body(0..150).as_bytes()).await;
    assert_eq!(first.status, 202, "{first:?}");
    let second = edge.send(head, body(150..300).as_bytes()).await;
    assert_eq!((second.status, second.header("retry-after")), (429, Some("5")), "{second:?}");
    let third = edge.send(head, body(300..310).as_bytes()).await;
    assert_eq!(third.status, 202, "the bucket stays as it is: {third:?}");
    let metrics = String::from_utf8(edge.get("/metrics").await.body).unwrap();
    assert!(metrics.contains("countersign_edge_limited_total{class=\"request\"} 1"), "{metrics}");
    let (_, sink) = edge.stop().await;
    assert_eq!(sink.counts().0, [(Kind::Impression, 160)].into());
}
