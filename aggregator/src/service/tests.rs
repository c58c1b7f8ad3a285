#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use eventlog::fake::MemLog;
use eventlog::{LocalLog, LocalLogConfig, Message};
use serde_json::{Value, json};
use shared::keys::EdgeRegistry;
use shared::{Kind, Minute, Reason, Timestamp, Validity};
use tower::ServiceExt;

use super::*;
use crate::store::keys;
use crate::store::memory::MemStores;
use crate::store::slate::SlateSettings;
use crate::testing::{Oracle, PARTITIONS, START, World, named, source};

mod counting;
mod export;
mod faults;
mod faulty;
mod forgotten;
mod missing;
mod old;
mod reports;
mod restated;
mod segments;

#[derive(Debug)]
struct Fixed(Timestamp);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// Few resident minutes, many checkpoints and small segments, so that most answers come from memory,
/// store and segments.
fn settings() -> Settings {
    Settings {
        engine: count::Settings { resident_minutes: 2 },
        checkpoint_every: Duration::from_millis(20),
        idle_checkpoints: 2,
        checkpoint_bytes: 6_000,
        ready_wait: Duration::from_millis(300),
        retry_after: Duration::from_millis(5),
        facts: Plan { sealed_facts_min: 40, settled_minutes: 0, merged_min: 3 },
        segments_kept: Duration::from_secs(5),
        visitors_read_max: 0,
        ..Settings::default()
    }
}

fn start_with<L: Log, S: Stores>(log: &Arc<L>, stores: S, settings: Settings) -> Aggregator<L, S> {
    Aggregator::start(Parts {
        log: Arc::clone(log),
        stores,
        clock: Arc::new(Fixed(START.start().plus_ms(600_000))),
        settings,
        archived: None,
        registered: Box::new(EdgeRegistry::default),
        registry: &mut Registry::default(),
    })
}

fn start<L: Log, S: Stores>(log: &Arc<L>, stores: S) -> Aggregator<L, S> {
    start_with(log, stores, settings())
}

async fn ask<L: Log, S: Stores>(aggregator: &Aggregator<L, S>, uri: &str) -> (StatusCode, Value) {
    let request = Request::builder().uri(uri).body(Body::empty()).unwrap();
    let response =
        api::Principal::Operator.asks(aggregator.router()).oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 16 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn good<L: Log, S: Stores>(aggregator: &Aggregator<L, S>, uri: &str) -> Value {
    let (status, body) = ask(aggregator, uri).await;
    assert_eq!(status, StatusCode::OK, "{uri}: {body}");
    body
}

/// Everything in the log is applied.
async fn caught_up<L: Log, S: Stores>(aggregator: &Aggregator<L, S>) {
    aggregator.ready(Duration::from_secs(20)).await.unwrap();
    for partition in 0..PARTITIONS {
        let end = aggregator.core.log.end(partition).await.unwrap();
        for round in 0.. {
            let slot = aggregator.core.slots[usize::from(partition)].read().await;
            if slot.as_ref().and_then(|counted| counted.engine.position()) == end {
                break;
            }
            drop(slot);
            assert!(
                round < 4_000,
                "partition {partition} does not get on: {:?}",
                aggregator.statuses()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn range(from: Minute, to: Minute) -> String {
    format!("from={}&to={}", from.start().seconds(), to.start().seconds())
}

/// All answers that depend on nothing but the log: two runs over one log give the same.
async fn answers<L: Log, S: Stores>(aggregator: &Aggregator<L, S>, oracle: &Oracle) -> Vec<Value> {
    let first = *oracle.minutes.first().unwrap();
    let last = *oracle.minutes.last().unwrap();
    let mut all = Vec::new();
    for ad in ["ad-1", "Zz_9", "nobody"] {
        for (from, to) in [
            (first, Minute(first.0 + 4)),
            (START, Minute(START.0 + 3)),
            (START, Minute(last.0 + 1)),
        ] {
            let uri = format!("/v1/ads/{ad}/aggregated_count?{}", range(from, to));
            all.push(good(aggregator, &uri).await);
        }
    }
    for minute in [START.0 + 2, last.0, first.0 + 2] {
        let at = Minute(minute).start().seconds();
        all.push(good(aggregator, &format!("/v1/ads/popular_ads?count=3&window=2&at={at}")).await);
    }
    for minute in &oracle.minutes {
        let uri = format!("/v1/accounting?{}", range(*minute, Minute(minute.0 + 1)));
        all.push(good(aggregator, &uri).await);
    }
    all.push(good(aggregator, &format!("/v1/import/sources/{}", source())).await);
    all
}

/// Every answer equals what was computed another way.
async fn check<L: Log, S: Stores>(aggregator: &Aggregator<L, S>, world: &World) {
    let oracle = &world.oracle;
    let first = *oracle.minutes.first().unwrap();
    let last = Minute(oracle.minutes.last().unwrap().0 + 1);
    check_counts(aggregator, oracle, first, last).await;
    for (kind, validity) in asked() {
        for (from, to) in
            [(START, Minute(START.0 + 1)), (START, last), (first, Minute(first.0 + 8))]
        {
            let (window, at) = (to.0 - from.0, to.start().seconds());
            let which = format!("event={kind}&validity={validity}");
            let uri = format!("/v1/ads/popular_ads?count=4&window={window}&{which}&at={at}");
            let body = good(aggregator, &uri).await;
            let expected = oracle.popular(kind, validity, &(from..to)).into_iter().take(4);
            let (ids, counts): (Vec<&str>, Vec<u64>) = expected.into_iter().unzip();
            assert_eq!((&body["ad_ids"], &body["counts"]), (&json!(ids), &json!(counts)), "{uri}");
            assert_eq!(body["window_start"], json!(from.start().to_string()));
            assert_eq!(body["window_end"], json!(to.start().to_string()));
        }
    }
    for minute in &oracle.minutes {
        let to = Minute(minute.0 + 1);
        check_account(
            &good(aggregator, &format!("/v1/accounting?{}", range(*minute, to))).await,
            oracle,
            *minute,
            to,
        );
    }
    check_account(
        &good(aggregator, &format!("/v1/accounting?{}", range(START, last))).await,
        oracle,
        START,
        last,
    );
    // Some days, of which most are empty.
    let days = Minute(first.0 + 5 * 1440 + 7);
    check_account(
        &good(aggregator, &format!("/v1/accounting?{}", range(first, days))).await,
        oracle,
        first,
        days,
    );
    let body = good(aggregator, &format!("/v1/import/sources/{}", source())).await;
    assert_eq!(body["rows"], world.imported());
    assert_eq!(body["digest"], "07".repeat(32));
    let reasons = body["reasons"].as_object().unwrap().values().map(|n| n.as_u64().unwrap());
    let sum = body["counted"].as_u64().unwrap() + body["duplicate"].as_u64().unwrap();
    assert_eq!(sum + reasons.sum::<u64>(), world.imported());
}

/// Every kind of event with every validity.
fn asked() -> impl Iterator<Item = (Kind, Validity)> {
    Kind::ALL.iter().flat_map(|kind| Validity::ALL.iter().map(move |validity| (*kind, *validity)))
}

async fn check_counts<L: Log, S: Stores>(
    aggregator: &Aggregator<L, S>,
    oracle: &Oracle,
    first: Minute,
    last: Minute,
) {
    let ads = oracle.ads.into_iter().chain(["nobody"]);
    for (ad, (kind, validity)) in ads.flat_map(|ad| asked().map(move |which| (ad, which))) {
        let middle = Minute(START.0 + (last.0 - START.0) / 2);
        for (from, to) in
            [(first, Minute(first.0 + 3)), (START, middle), (middle, last), (START, last)]
        {
            let name = if kind == Kind::Click { "aggregated_cnt" } else { "aggregated_count" };
            let range = range(from, to);
            let path = shared::text::escaped(ad);
            let uri = format!("/v1/ads/{path}/{name}?event={kind}&validity={validity}&{range}");
            let body = good(aggregator, &uri).await;
            let expected = oracle.count(named(ad).id(), kind, validity, &(from..to));
            assert_eq!(body["count"], expected, "{uri}: {body}");
            assert_eq!((&body["ad_id"], &body["event"]), (&json!(ad), &json!(kind)));
            assert_eq!(body["validity"], json!(validity));
            assert_eq!(body["from"], json!(from.start().to_string()));
            assert_eq!(body["to"], json!(to.start().to_string()));
            // Both outboxes are at the log's clock.
            assert_eq!(body["final"].as_bool().unwrap(), body.get("behind").is_none());
        }
    }
}

fn check_account(body: &Value, oracle: &Oracle, from: Minute, to: Minute) {
    let sum = |of: &BTreeMap<Minute, u64>| of.range(from..to).map(|(_, n)| n).sum::<u64>();
    assert_eq!(body["received"], sum(&oracle.received), "{body}");
    assert_eq!(body["counted"], sum(&oracle.counted), "{body}");
    assert_eq!(body["duplicate"], sum(&oracle.duplicate), "{body}");
    for reason in Reason::ALL {
        let mine =
            oracle.reasons.range((*reason, from)..(*reason, to)).map(|(_, n)| n).sum::<u64>();
        let given = body["reasons"].get(reason.name()).map_or(0, |n| n.as_u64().unwrap());
        assert_eq!(given, mine, "{reason}: {body}");
    }
    assert_eq!((&body["in_flight"], &body["adds_up"]), (&json!(0), &json!(true)), "{body}");
    assert!(body.get("gaps").is_none());
}

fn mem_log() -> Arc<MemLog> {
    Arc::new(MemLog::new(PARTITIONS, [9; 16]))
}

fn history(seed: u64, flushes: usize) -> (World, Vec<Vec<Message>>) {
    history_of(World::new(seed), flushes)
}

fn history_of(mut world: World, flushes: usize) -> (World, Vec<Vec<Message>>) {
    let all = (0..flushes).map(|_| world.flush()).collect();
    (world, all)
}

/// Ten flushes applied and saved.
async fn saved() -> (Arc<MemLog>, MemStores, World) {
    let (log, stores) = (mem_log(), MemStores::new());
    let (world, flushes) = history(4, 10);
    for messages in flushes {
        log.append(messages).await.unwrap();
    }
    let running = start(&log, stores.clone());
    caught_up(&running).await;
    running.close().await;
    (log, stores, world)
}
