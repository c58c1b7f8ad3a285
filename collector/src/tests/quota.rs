//! What one issuer may cost: over it, it is held back, nothing is lost, and nobody else waits.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use bytes::Bytes;
use eventlog::DEAD;
use eventlog::fake::MemLog;
use prometheus_client::registry::Registry;
use shared::keys::request;
use shared::problem::Problem;
use shared::token::Signer;
use shared::wire::{Batch, Tally};
use shared::{IssuerId, Kind, Minute, OutboxId, Reason};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

use super::world::{
    EDGE, ISSUER, LIMITED, LIMITED_EDGE, NOW, Rig, World, batch, event, read_all, rig,
};
use crate::gateway::{BATCH_CONTENT_TYPE, BATCHES_PATH, router};
use crate::verify::inspect;
use crate::{Metrics, Quota, Quotas, Sender, Settings, SubmitError};

/// No limits; a test sets one of them, so low that what is over it stays over it throughout the test.
const NONE: Quotas = Quotas {
    bytes_per_s: 0,
    bytes_burst: 0,
    blocks_per_hour: 0,
    blocks_burst: 0,
    outboxes_per_hour: 0,
    outboxes_burst: 0,
};

fn start(quotas: Quotas) -> Rig<MemLog> {
    let settings = Settings { verify_threads: 1, flush_ms: 1, quotas, ..Settings::default() };
    rig(MemLog::new(4, [1; 16]), &World::new(), settings)
}

/// A click on an impression of the block of this number.
fn click(world: &World, issuer: IssuerId, outbox: OutboxId, number: u64, block: u16) -> Bytes {
    let token = world.token_of(issuer, block, |_| ());
    let (watermark, events) = (NOW, vec![event(Kind::Click, &token)]);
    Batch { outbox, number, watermark, events, tallies: Vec::new() }.to_bytes().into()
}

/// The answer's status and kind, and what it says to wait.
async fn send(
    rig: &Rig<MemLog>,
    issuer: IssuerId,
    body: Bytes,
) -> (StatusCode, String, Option<u64>) {
    let world = World::new();
    let signer = Signer::new(world.key(issuer));
    let field = request::sign(&signer, world.store.deployment, BATCHES_PATH, &body, NOW);
    let request = Request::post(BATCHES_PATH)
        .header(header::CONTENT_TYPE, BATCH_CONTENT_TYPE)
        .header(request::FIELD, field)
        .body(Body::from(body))
        .unwrap();
    let response = router(Arc::clone(&rig.collector)).oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let wait =
        headers.get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().parse().unwrap());
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let problem = serde_json::from_slice(&body).map(|problem: Problem| problem.r#type);
    (status, problem.unwrap_or_default().replace("urn:countersign:", ""), wait)
}

fn written(batch: &[u8]) -> u64 {
    inspect(batch).unwrap().log_bytes(4) as u64
}

/// Every partition lists every batch with its minutes, so these bytes are charged too.
#[tokio::test]
async fn what_the_log_gets_is_paid_for() {
    let sparse = (0..4_096).map(|minute| Tally {
        minute: Minute(NOW.minute().0 - 4_096 + minute),
        kind: Kind::Click,
        reason: Reason::Repeated,
        count: 1,
    });
    let sparse: Bytes = batch(0, Vec::new(), sparse.collect());
    let rig = start(NONE);
    let world = World::new();
    let click = click(&world, ISSUER, OutboxId { edge: EDGE, epoch: 1 }, 0, 1);
    let in_log = || (0..4).flat_map(|p| rig.log.messages(p)).map(|m| m.len() as u64).sum::<u64>();
    for batch in [sparse.clone(), click] {
        let before = in_log();
        rig.collector.submit(batch.clone()).await.unwrap();
        let (grew, paid) = (in_log() - before, written(&batch));
        assert!(paid >= grew / 2 && paid <= grew * 3 / 2, "{paid} for {grew} bytes");
    }
    assert!(written(&sparse) > 3 * sparse.len() as u64);
}

#[tokio::test]
async fn an_issuer_that_is_over_is_held_back_and_nobody_else_is() {
    let world = World::new();
    let outbox = |edge, epoch| OutboxId { edge, epoch };
    let bytes = written(&click(&world, ISSUER, outbox(EDGE, 1), 0, 1));
    for (quota, quotas) in [
        (Quota::Bytes, Quotas { bytes_per_s: 1, bytes_burst: bytes * 3, ..NONE }),
        (Quota::Blocks, Quotas { blocks_per_hour: 1, blocks_burst: 3, ..NONE }),
        (Quota::Outboxes, Quotas { outboxes_per_hour: 1, outboxes_burst: 3, ..NONE }),
    ] {
        let rig = start(quotas);
        // Each of an outbox and a block of its own.
        let nth = |n: u16| click(&world, ISSUER, outbox(EDGE, n.into()), 0, n);
        for n in 0..3 {
            assert_eq!(send(&rig, ISSUER, nth(n)).await.0, StatusCode::ACCEPTED, "{quota:?}");
        }
        let (status, kind, wait) = send(&rig, ISSUER, nth(3)).await;
        assert_eq!((status, kind.as_str()), (StatusCode::TOO_MANY_REQUESTS, "over_quota"));
        assert!((1..=60).contains(&wait.unwrap()), "{quota:?}: {wait:?}");
        // Over NATS the batch is given back to the queue, not kept with the dead letters.
        let by_nats = rig.collector.submit_from_edge(EDGE.as_str(), nth(3)).await;
        assert!(matches!(by_nats, Err(SubmitError::OverQuota { .. })), "{by_nats:?}");
        assert_eq!(rig.collector.metrics().over_quota_of(quota).get(), 2);
        assert_eq!(read_all(&*rig.log).await.len(), 3, "nothing of it is written");
        assert!(rig.log.messages(DEAD).is_empty());
        // What it has sent before may come again.
        if quota != Quota::Bytes {
            assert_eq!(send(&rig, ISSUER, nth(2)).await.0, StatusCode::ACCEPTED, "{quota:?}");
        }
        // Another issuer may still send, and so may the operator for an edge of this one.
        let other = click(&world, LIMITED, outbox(LIMITED_EDGE, 1), 0, 9);
        assert_eq!(send(&rig, LIMITED, other).await.0, StatusCode::ACCEPTED, "{quota:?}");
        rig.collector.submit(nth(3)).await.unwrap();
        assert_eq!(read_all(&*rig.log).await.len(), 5);
    }
}

/// What waits for blocks or an outbox comes again and again, and is written once.
#[tokio::test]
async fn what_is_held_back_uses_up_nothing_else() {
    let world = World::new();
    let outbox = |epoch| OutboxId { edge: EDGE, epoch };
    let bytes = written(&click(&world, ISSUER, outbox(1), 0, 1));
    let few = Quotas { bytes_per_s: 1, bytes_burst: bytes * 3, ..NONE };
    for quotas in [
        Quotas { blocks_per_hour: 1, blocks_burst: 1, ..few },
        Quotas { outboxes_per_hour: 1, outboxes_burst: 1, ..few },
    ] {
        let rig = start(quotas);
        assert_eq!(send(&rig, ISSUER, click(&world, ISSUER, outbox(1), 0, 1)).await.0, 202);
        for _ in 0..9 {
            let held_back = click(&world, ISSUER, outbox(2), 0, 2);
            assert_eq!(send(&rig, ISSUER, held_back).await.0, 429);
        }
        assert_eq!(rig.collector.metrics().over_quota_of(Quota::Bytes).get(), 0);
        assert_eq!(send(&rig, ISSUER, click(&world, ISSUER, outbox(1), 1, 1)).await.0, 202);
    }
}

/// A token that is not believed, or is another's, makes nobody remember a block.
#[tokio::test]
async fn what_does_not_count_uses_up_no_blocks() {
    let world = World::new();
    let rig = start(Quotas { blocks_per_hour: 1, blocks_burst: 1, ..NONE });
    let outbox = OutboxId { edge: EDGE, epoch: 1 };
    for number in 0..4 {
        let foreign = click(&world, LIMITED, outbox, number, number as u16);
        assert_eq!(send(&rig, ISSUER, foreign).await.0, StatusCode::ACCEPTED);
    }
    let own = click(&world, ISSUER, outbox, 4, 4);
    assert_eq!(send(&rig, ISSUER, own).await.0, StatusCode::ACCEPTED);
    let next = click(&world, ISSUER, outbox, 5, 5);
    assert_eq!(send(&rig, ISSUER, next).await.0, StatusCode::TOO_MANY_REQUESTS);
}

/// What is not acknowledged lies in memory, and a body that waits for a place does too.
#[tokio::test]
async fn one_issuer_has_a_share_of_the_queue_and_no_more() {
    // Once the bytes of the events use up the share, once the number of batches does.
    for events in [9, 0] {
        share_of_the_queue(events).await;
    }
}

/// Sends batches of so many events; two of them use up an issuer's share.
async fn share_of_the_queue(events: usize) {
    // Nothing is acknowledged before the end.
    let settings = Settings {
        verify_threads: 1,
        flush_ms: 3_600_000,
        queue_bytes_max: 40_000,
        queue_items_max: 8,
        ..Settings::default()
    };
    let rig = rig(MemLog::new(4, [1; 16]), &World::new(), settings);
    let token = World::new().token(1);
    let half = |number| batch(number, vec![event(Kind::Click, &token); events], Vec::new());
    let submit = |sender, bytes: Bytes| {
        let collector = Arc::clone(&rig.collector);
        tokio::spawn(async move { collector.submit_from(sender, "test", bytes).await })
    };
    let house = Sender::Issuer(ISSUER);
    let mut taken = vec![submit(house, half(0)), submit(house, half(1))];
    tokio::time::sleep(Duration::from_millis(100)).await;
    let refused = rig.collector.submit_from(house, "test", half(2)).await;
    assert!(matches!(refused, Err(SubmitError::OverQuota { .. })), "{refused:?}");
    assert_eq!(rig.collector.metrics().over_quota_of(Quota::Queue).get(), 1);
    // What NATS has given out waits; it is not thrown back and forth.
    let waits = submit(Sender::Edge(EDGE), half(3));
    let outbox = OutboxId { edge: LIMITED_EDGE, epoch: 1 };
    let other = click(&World::new(), LIMITED, outbox, 0, 1);
    taken.push(submit(Sender::Issuer(LIMITED), other));
    taken.push(submit(Sender::Operator, half(4)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.collector.metrics().queue_items.get(), 4);
    assert!(!waits.is_finished());
    rig.collector.close().await;
    for taken in taken {
        taken.await.unwrap().unwrap();
    }
    let waited = waits.await.unwrap();
    assert!(matches!(waited, Err(SubmitError::Retry(_))), "{waited:?}");
}

#[test]
fn every_quota_is_told_from_the_start() {
    let mut registry = Registry::default();
    Metrics::default().register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for quota in Quota::ALL {
        let line = format!("collector_over_quota_total{{quota=\"{}\"}} 0", quota.name());
        assert!(text.contains(&line), "{line} is not in\n{text}");
    }
}
