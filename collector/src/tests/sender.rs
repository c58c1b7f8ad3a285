//! A sender is bound to what it says.

use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use eventlog::DEAD;
use eventlog::fake::MemLog;
use shared::keys::request;
use shared::limits::EPOCH_AHEAD_MS_MAX;
use shared::problem::Problem;
use shared::random::Seeded;
use shared::token::Signer;
use shared::wire::{Batch, DeadLetter, MessageView};
use shared::{EdgeId, IssuerId, Kind, Money, OutboxId, Reason, Timestamp};
use std::sync::Arc;
use tower::ServiceExt;

use super::world::{
    EDGE, ISSUER, LIMITED, LIMITED_EDGE, MODEST, MODEST_EDGE, NOW, Rig, World, batch, event, id,
    price, read_all, rig,
};
use crate::gateway::{BATCH_CONTENT_TYPE, BATCHES_PATH, router};
use crate::{Refusal, Sender, Settings, SubmitError};

pub(super) fn start(world: &World) -> Rig<MemLog> {
    let settings = Settings { verify_threads: 1, flush_ms: 1, ..Settings::default() };
    rig(MemLog::new(4, [1; 16]), world, settings)
}

/// A batch of this outbox, with a click on each token.
pub(super) fn clicks(edge: EdgeId, epoch: u64, number: u64, tokens: &[&[u8]]) -> Bytes {
    let events = tokens.iter().map(|token| event(Kind::Click, token)).collect();
    let outbox = OutboxId { edge, epoch };
    let watermark = NOW;
    Batch { outbox, number, watermark, events, tallies: Vec::new() }.to_bytes().into()
}

/// Sends a batch, signed with the newest key of an issuer, or with the operator's key.
pub(super) async fn send(
    rig: &Rig<MemLog>,
    world: &World,
    issuer: Option<IssuerId>,
    body: Bytes,
) -> Response {
    let mut request = Request::post(BATCHES_PATH).header(header::CONTENT_TYPE, BATCH_CONTENT_TYPE);
    if let Some(issuer) = issuer {
        let signer = Signer::new(world.store.signing(issuer, NOW).unwrap());
        let field = request::sign(&signer, world.store.deployment, BATCHES_PATH, &body, NOW);
        request = request.header(request::FIELD, field);
    }
    let request = request.body(Body::from(body)).unwrap();
    router(Arc::clone(&rig.collector)).oneshot(request).await.unwrap()
}

pub(super) async fn refusal(response: Response) -> (StatusCode, String, String) {
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let problem: Problem = serde_json::from_slice(&body).unwrap();
    (status, problem.r#type.replace("urn:countersign:", ""), problem.detail)
}

fn written(rig: &Rig<MemLog>) -> usize {
    (0..4).chain([DEAD]).map(|partition| rig.log.messages(partition).len()).sum()
}

#[tokio::test]
async fn a_key_speaks_for_the_edges_of_its_issuer_alone() {
    let mut world = World::new();
    let rig = start(&world);
    let token = world.token(1);
    for stolen in [
        clicks(EDGE, 1, 0, &[&token]),
        clicks(id("w--FRA-0"), 1, 0, &[]),
        clicks(id("w"), 1, 0, &[]),
    ] {
        let response = send(&rig, &world, Some(LIMITED), stolen).await;
        let (status, kind, detail) = refusal(response).await;
        assert_eq!((status, kind.as_str()), (StatusCode::FORBIDDEN, "foreign_edge"), "{detail}");
    }
    assert_eq!(written(&rig), 0, "nothing is written, not even among the dead letters");
    let refused =
        rig.collector.metrics().refused.get_or_create_owned(&[("reason", "foreign_edge")]);
    assert_eq!(refused.get(), 3);

    // The numbers are still free for the real owner's edge and its shards, with its next key as well.
    for mine in [clicks(EDGE, 1, 0, &[&token]), clicks(id("w--FRA-0"), 1, 0, &[])] {
        assert_eq!(send(&rig, &world, Some(ISSUER), mine).await.status(), StatusCode::ACCEPTED);
    }
    world.store.rotate(ISSUER, NOW, 0, &mut Seeded::new(7)).unwrap();
    rig.keys.send_replace(Arc::new(world.keys()));
    let next = send(&rig, &world, Some(ISSUER), clicks(EDGE, 1, 1, &[])).await;
    assert_eq!(next.status(), StatusCode::ACCEPTED);
}

#[tokio::test]
async fn an_edge_that_nobody_has_registered_is_told_the_command() {
    let world = World::new();
    let rig = start(&world);
    let batch = clicks(id("new--FRA-0"), 1, 0, &[]);
    // Refused with the operator's key too: without an owner it is not known whose tokens the edge may report.
    for issuer in [Some(ISSUER), None] {
        let response = send(&rig, &world, issuer, batch.clone()).await;
        let (status, kind, detail) = refusal(response).await;
        assert_eq!((status, kind.as_str()), (StatusCode::FORBIDDEN, "unregistered_edge"));
        assert!(detail.contains("countersign edges register new --issuer"), "{detail}");
    }
    assert!(matches!(
        rig.collector.submit(batch.clone()).await,
        Err(SubmitError::NotAllowed(Refusal::UnregisteredEdge, _))
    ));
    assert_eq!(written(&rig), 0);
    // Over NATS there is no answer: the batch is kept with the dead letters, with the same reason.
    let refused = rig.collector.submit_from_edge("new", batch.clone()).await;
    assert!(matches!(refused, Err(SubmitError::Refused(_))), "{refused:?}");
    let dead = rig.log.messages(DEAD);
    let letter = DeadLetter::read(&dead[0]).unwrap();
    assert!(letter.reason.contains("edges register new"), "{}", letter.reason);
    assert_eq!(letter.bytes, &batch[..]);
}

#[tokio::test]
async fn tokens_of_another_issuer_burn_nothing_of_it() {
    let world = World::new();
    let rig = start(&world);
    let token = world.token(1);
    // An issuer reports clicks on another issuer's token, which is public: by HTTP, over NATS, and through
    // the operator. Then the real visitor clicks.
    let by_http = send(&rig, &world, Some(LIMITED), clicks(LIMITED_EDGE, 1, 0, &[&token])).await;
    assert_eq!(by_http.status(), StatusCode::ACCEPTED);
    let by_nats = clicks(LIMITED_EDGE, 1, 1, &[&token]);
    rig.collector.submit_from_edge("edge-2", by_nats).await.unwrap();
    let by_operator = clicks(LIMITED_EDGE, 1, 2, &[&token]);
    rig.collector.submit_from(Sender::Operator, "test", by_operator).await.unwrap();
    rig.collector.submit(batch(0, vec![event(Kind::Click, &token)], Vec::new())).await.unwrap();
    let all = read_all(&*rig.log).await;
    for number in 0..3 {
        let rows = &all[&format!("edge-2/1/{number}")].rows;
        assert_eq!(rows[0].outcome, Err(Reason::ForeignIssuer), "{number}");
    }
    assert_eq!(all["edge-1/1/0"].rows[0].outcome, Ok(None));
    // A token of its own is accepted.
    let own = world.token_of(LIMITED, 2, |_| ());
    rig.collector.submit_from_edge("edge-2", clicks(LIMITED_EDGE, 1, 3, &[&own])).await.unwrap();
    assert_eq!(read_all(&*rig.log).await["edge-2/1/3"].rows[0].outcome, Ok(None));
}

#[tokio::test]
async fn what_an_issuer_may_not_sell_is_not_counted() {
    let world = World::new();
    let rig = start(&world);
    let cover = world.store.price_key(world.key(MODEST).public.id);
    let priced =
        |seq, price| world.token_of(MODEST, seq, |token| token.price = cover.seal(token.id, price));
    let limit = Err(Reason::IssuerLimit);
    let sorts = [
        (priced(1, price()), Ok(None)),
        (world.token_of(MODEST, 2, |token| token.advertiser = id("advertiser-3")), limit),
        (priced(3, Money { micros: price().micros + 1, ..price() }), limit),
        (priced(4, Money { micros: 1, currency: "USD".parse().unwrap() }), limit),
    ];
    for (number, (token, outcome)) in (0..).zip(&sorts) {
        rig.collector
            .submit_from_edge("edge-3", clicks(MODEST_EDGE, 1, number, &[token]))
            .await
            .unwrap();
        let all = read_all(&*rig.log).await;
        assert_eq!(all[&format!("edge-3/1/{number}")].rows[0].outcome, *outcome, "{number}");
    }
}

#[tokio::test]
async fn an_epoch_far_ahead_is_refused() {
    let world = World::new();
    let rig = start(&world);
    let furthest = NOW.0 + EPOCH_AHEAD_MS_MAX;
    for (epoch, is_taken) in [(furthest, true), (furthest + 1, false), (u64::MAX, false)] {
        let response = send(&rig, &world, Some(ISSUER), clicks(EDGE, epoch, 0, &[])).await;
        if is_taken {
            assert_eq!(response.status(), StatusCode::ACCEPTED);
        } else {
            let (status, kind, detail) = refusal(response).await;
            assert_eq!((status, kind.as_str()), (StatusCode::FORBIDDEN, "epoch_ahead"), "{detail}");
            let over_nats =
                rig.collector.submit_from_edge("edge-1", clicks(EDGE, epoch, 0, &[])).await;
            assert!(matches!(over_nats, Err(SubmitError::Refused(_))), "{over_nats:?}");
        }
    }
    assert_eq!(read_all(&*rig.log).await.len(), 1);
}

#[tokio::test]
async fn no_watermark_is_believed_beyond_what_clocks_may_differ() {
    let world = World::new();
    let rig = start(&world);
    let most = NOW.plus_ms(60_000);
    for (number, said, believed) in [
        (0, NOW, NOW),
        (1, most, most),
        (2, Timestamp(u64::MAX - 1), most),
        (3, Timestamp::MAX, Timestamp::MAX),
    ] {
        let mut bytes = batch(number, Vec::new(), Vec::new()).to_vec();
        bytes[36..44].copy_from_slice(&said.0.to_le_bytes());
        rig.collector.submit(bytes.into()).await.unwrap();
        let messages = rig.log.messages(0);
        let view = MessageView::read(messages.last().unwrap()).unwrap();
        assert_eq!(view.batches[0].watermark, believed, "{said:?}");
    }
}
