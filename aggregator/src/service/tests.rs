#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use bytes::Bytes;
use eventlog::fake::MemLog;
use eventlog::{LocalLog, LocalLogConfig, Message};
use serde_json::{Value, json};
use shared::{Id, Kind, Minute, Reason, Timestamp};
use tower::ServiceExt;

use super::*;
use crate::store::keys;
use crate::store::memory::MemStores;
use crate::store::slate::SlateSettings;
use crate::testing::{Oracle, PARTITIONS, START, World, source};

#[derive(Debug)]
struct Fixed(Timestamp);

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// Few resident minutes and many checkpoints, so that most answers come from memory and store.
fn settings() -> Settings {
    Settings {
        engine: count::Settings { resident_minutes: 2 },
        checkpoint_every: Duration::from_millis(20),
        idle_checkpoints: 2,
        checkpoint_bytes: 6_000,
        ready_wait: Duration::from_millis(300),
        retry_after: Duration::from_millis(5),
        ..Settings::default()
    }
}

fn start_with<L: Log, S: Stores>(log: &Arc<L>, stores: S, settings: Settings) -> Aggregator<L, S> {
    Aggregator::start(Parts {
        log: Arc::clone(log),
        stores,
        clock: Arc::new(Fixed(START.start().plus_ms(600_000))),
        settings,
        registry: &mut Registry::default(),
    })
}

fn start<L: Log, S: Stores>(log: &Arc<L>, stores: S) -> Aggregator<L, S> {
    start_with(log, stores, settings())
}

async fn ask<L: Log, S: Stores>(of: &Aggregator<L, S>, uri: &str) -> (StatusCode, Value) {
    let request = Request::builder().uri(uri).body(Body::empty()).unwrap();
    let response = of.router().oneshot(request).await.unwrap();
    let status = response.status();
    let body = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap())
}

async fn good<L: Log, S: Stores>(of: &Aggregator<L, S>, uri: &str) -> Value {
    let (status, body) = ask(of, uri).await;
    assert_eq!(status, StatusCode::OK, "{uri}: {body}");
    body
}

/// Everything in the log is applied.
async fn caught_up<L: Log, S: Stores>(of: &Aggregator<L, S>) {
    of.ready(Duration::from_secs(20)).await.unwrap();
    for partition in 0..PARTITIONS {
        let end = of.core.log.end(partition).await.unwrap();
        for round in 0.. {
            let slot = of.core.slots[usize::from(partition)].read().await;
            if slot.as_ref().and_then(|counted| counted.engine.position()) == end {
                break;
            }
            drop(slot);
            assert!(round < 4_000, "partition {partition} does not get on: {:?}", of.statuses());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn range(from: Minute, to: Minute) -> String {
    format!("from={}&to={}", from.start().seconds(), to.start().seconds())
}

/// All answers that depend on nothing but the log: two runs over one log give the same.
async fn answers<L: Log, S: Stores>(of: &Aggregator<L, S>, oracle: &Oracle) -> Vec<Value> {
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
            all.push(good(of, &uri).await);
        }
    }
    for minute in [START.0 + 2, last.0, first.0 + 2] {
        let at = Minute(minute).start().seconds();
        all.push(good(of, &format!("/v1/ads/popular_ads?count=3&window=2&at={at}")).await);
    }
    for minute in &oracle.minutes {
        let uri = format!("/v1/accounting?{}", range(*minute, Minute(minute.0 + 1)));
        all.push(good(of, &uri).await);
    }
    all.push(good(of, &format!("/v1/import/sources/{}", source())).await);
    all
}

/// Every answer equals what was computed another way.
async fn check<L: Log, S: Stores>(of: &Aggregator<L, S>, world: &World) {
    let oracle = &world.oracle;
    let first = *oracle.minutes.first().unwrap();
    let last = Minute(oracle.minutes.last().unwrap().0 + 1);
    check_counts(of, oracle, first, last).await;
    for kind in Kind::ALL {
        for (from, to) in
            [(START, Minute(START.0 + 1)), (START, last), (first, Minute(first.0 + 8))]
        {
            let (window, at) = (to.0 - from.0, to.start().seconds());
            let uri = format!("/v1/ads/popular_ads?count=4&window={window}&event={kind}&at={at}");
            let body = good(of, &uri).await;
            let expected: Vec<_> = oracle.popular(*kind, from, to).into_iter().take(4).collect();
            let (ids, counts): (Vec<Id>, Vec<u64>) = expected.into_iter().unzip();
            assert_eq!((&body["ad_ids"], &body["counts"]), (&json!(ids), &json!(counts)), "{uri}");
            assert_eq!(body["window_start"], json!(from.start().to_string()));
            assert_eq!(body["window_end"], json!(to.start().to_string()));
        }
    }
    for minute in &oracle.minutes {
        let to = Minute(minute.0 + 1);
        check_account(
            &good(of, &format!("/v1/accounting?{}", range(*minute, to))).await,
            oracle,
            *minute,
            to,
        );
    }
    check_account(
        &good(of, &format!("/v1/accounting?{}", range(START, last))).await,
        oracle,
        START,
        last,
    );
    let body = good(of, &format!("/v1/import/sources/{}", source())).await;
    assert_eq!(body["rows"], world.imported());
    assert_eq!(body["digest"], "07".repeat(32));
    let reasons = body["reasons"].as_object().unwrap().values().map(|n| n.as_u64().unwrap());
    let sum = body["counted"].as_u64().unwrap() + body["duplicate"].as_u64().unwrap();
    assert_eq!(sum + reasons.sum::<u64>(), world.imported());
}

async fn check_counts<L: Log, S: Stores>(
    of: &Aggregator<L, S>,
    oracle: &Oracle,
    first: Minute,
    last: Minute,
) {
    let ads = ["ad-1", "ad-2", "a", "b", "Zz_9", "ad-10", "nobody"];
    for (ad, kind) in ads.iter().flat_map(|ad| Kind::ALL.iter().map(move |kind| (ad, kind))) {
        let middle = Minute(START.0 + (last.0 - START.0) / 2);
        for (from, to) in
            [(first, Minute(first.0 + 3)), (START, middle), (middle, last), (START, last)]
        {
            let name = if *kind == Kind::Click { "aggregated_cnt" } else { "aggregated_count" };
            let uri = format!("/v1/ads/{ad}/{name}?event={kind}&{}", range(from, to));
            let body = good(of, &uri).await;
            let expected = oracle.count(ad.parse().unwrap(), *kind, from, to);
            assert_eq!(body["count"], expected, "{uri}: {body}");
            assert_eq!((&body["ad_id"], &body["event"]), (&json!(ad), &json!(kind)));
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
    let mut world = World::new(seed);
    let all = (0..flushes).map(|_| world.flush()).collect();
    (world, all)
}

#[tokio::test]
async fn answers_equal_the_oracle_straight_and_stopped_at_every_point() {
    let (world, flushes) = history(1, 30);
    let log = mem_log();
    for messages in &flushes {
        log.append(messages.clone()).await.unwrap();
    }
    let straight = start(&log, MemStores::new());
    caught_up(&straight).await;
    check(&straight, &world).await;
    let expected = answers(&straight, &world.oracle).await;
    straight.close().await;
    for at in 0..flushes.len() {
        let (log, stores) = (mem_log(), MemStores::new());
        for messages in &flushes[..at] {
            log.append(messages.clone()).await.unwrap();
        }
        let first = start(&log, stores.clone());
        if at % 3 > 0 {
            caught_up(&first).await;
        }
        if at % 2 == 0 {
            first.close().await;
        } else {
            drop(first);
            stores.crash();
        }
        for messages in &flushes[at..] {
            log.append(messages.clone()).await.unwrap();
        }
        let second = start(&log, stores.clone());
        caught_up(&second).await;
        assert_eq!(answers(&second, &world.oracle).await, expected, "stopped after {at} flushes");
        second.close().await;
        // All is saved: a third one answers from the store alone.
        let third = start(&log, stores);
        caught_up(&third).await;
        assert_eq!(answers(&third, &world.oracle).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_log_and_slatedb_stopped_and_killed() {
    let dir = tempfile::tempdir().unwrap();
    let config = LocalLogConfig::new(dir.path().join("log"), PARTITIONS);
    let log = Arc::new(LocalLog::open(&config, [3; 16]).unwrap().0);
    let state = dir.path().join("state");
    let stores = || {
        let settings = SlateSettings { table_bytes: 64 << 10, ..SlateSettings::default() };
        SlateStores::local(&state, settings).unwrap()
    };
    let mut world = World::new(2);
    for round in 0..6 {
        let running = start(&log, stores());
        for _ in 0..25 {
            log.append(world.flush()).await.unwrap();
        }
        if round < 5 {
            caught_up(&running).await;
        }
        if round % 2 == 0 {
            check_after(&running, &world, round < 5).await;
            running.close().await;
        } else {
            check(&running, &world).await;
            kill(running).await;
        }
    }
    let running = start(&log, stores());
    caught_up(&running).await;
    check(&running, &world).await;
    running.close().await;
}

async fn check_after<L: Log, S: Stores>(of: &Aggregator<L, S>, world: &World, caught_up: bool) {
    if caught_up {
        check(of, world).await;
    }
}

/// Ends its tasks without a last checkpoint, and waits until nothing holds the stores' lock.
async fn kill<L: Log, S: Stores>(running: Aggregator<L, S>) {
    let core = Arc::downgrade(&running.core);
    drop(running);
    while core.strong_count() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_only_grow_while_checkpoints_move_them() {
    let (world, flushes) = history(3, 120);
    let (log, stores) = (mem_log(), MemStores::new());
    let settings = Settings { checkpoint_bytes: 1, ..settings() };
    // Rows are moving most of the time.
    (0..PARTITIONS).for_each(|partition| stores.slow(partition, Duration::from_millis(3)));
    let running = start_with(&log, stores, settings);
    let first = *world.oracle.minutes.first().unwrap();
    let uri = format!("/v1/ads/ad-1/aggregated_count?{}", range(START, Minute(START.0 + 5)));
    let old = format!("/v1/ads/ad-1/aggregated_count?{}", range(first, Minute(first.0 + 8)));
    let top = format!("/v1/ads/popular_ads?window=8&at={}", Minute(first.0 + 8).start());
    let asked = async {
        let mut last = [0; 3];
        loop {
            let mut now = [0; 3];
            now[0] = good(&running, &uri).await["count"].as_u64().unwrap();
            now[1] = good(&running, &old).await["count"].as_u64().unwrap();
            let counts = good(&running, &top).await["counts"].clone();
            now[2] = counts.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).sum();
            assert!(now.iter().zip(last).all(|(now, last)| *now >= last), "{last:?} then {now:?}");
            last = now;
            let account =
                good(&running, &format!("/v1/accounting?{}", range(first, Minute(START.0)))).await;
            assert_eq!(account["adds_up"], true, "{account}");
            tokio::task::yield_now().await;
        }
    };
    let append = async {
        for messages in &flushes {
            log.append(messages.clone()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        () = append => {}
        () = asked => {}
    }
    caught_up(&running).await;
    check(&running, &world).await;
    running.close().await;
}

async fn stopped<L: Log, S: Stores>(of: &Aggregator<L, S>, partition: u16, why: &str) {
    let error = of.ready(Duration::from_secs(10)).await.unwrap_err();
    let NotReady::Stopped(text) = &error else { panic!("{error}") };
    let begins = format!("partition {partition} has stopped: ");
    assert!(text.starts_with(&begins) && text.contains(why), "{text} does not say {why}");
    for uri in ["/readyz", "/v1/ads/a/aggregated_count?from=0&to=60", "/v1/ads/popular_ads"] {
        let (status, body) = ask(of, uri).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["detail"], json!(text));
        assert_eq!(body["type"], "urn:countersign:partition_stopped");
    }
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

#[tokio::test]
async fn a_log_that_does_not_fit_stops_the_partition() {
    let (log, stores, _) = saved().await;
    log.replace(1, 10, Bytes::from_static(b"other"));
    stopped(&start(&log, stores), 1, "Digest of the position at sequence 10").await;

    let (log, stores, _) = saved().await;
    log.vanish(2, 9);
    stopped(&start(&log, stores), 2, "the position is at 10, but the log ends at 9").await;

    let (log, stores, _) = saved().await;
    log.recreate([1; 16]);
    stopped(&start(&log, stores), 0, "Identity").await;

    let (log, _, _) = saved().await;
    log.trim(&[(3, 4)]).await.unwrap();
    stopped(&start(&log, MemStores::new()), 3, "sequence 1 is trimmed").await;
}

#[tokio::test]
async fn a_message_that_is_none_stops_the_partition_and_is_never_skipped() {
    let (log, stores, mut world) = saved().await;
    let running = start(&log, stores.clone());
    caught_up(&running).await;
    let bad = Message { partition: 1, payload: Bytes::from_static(b"CSM1 and no more") };
    log.append(vec![bad]).await.unwrap();
    log.append(world.flush()).await.unwrap();
    while running.ready(Duration::ZERO).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stopped(&running, 1, "the message at sequence 11 cannot be read").await;
    running.close().await;
    stopped(&start(&log, stores), 1, "the message at sequence 11 cannot be read").await;

    let (log, stores, mut world) = saved().await;
    let mut foreign = world.flush();
    foreign[0].partition = 3;
    log.append(foreign).await.unwrap();
    stopped(&start(&log, stores), 3, "the message is of partition 0, the engine of 3").await;
}

#[tokio::test]
async fn a_damaged_checkpoint_is_refused_by_name() {
    for key in [keys::META.to_vec(), keys::source(source())] {
        let (log, stores, _) = saved().await;
        stores.damage(2, &key, &[7]);
        stopped(&start(&log, stores), 2, &keys::describe(&key)).await;
    }
    // A row that only a question reads: that question is refused, never answered without it.
    let (log, stores, world) = saved().await;
    let rows = stores.rows(2);
    let (key, value) = rows.iter().find(|(key, _)| key[0] == keys::CELLS).unwrap();
    stores.damage(2, key, &value[..value.len() - 1]);
    let ad = String::from_utf8(key[1..17].iter().copied().filter(|b| *b > 0).collect()).unwrap();
    let running = start(&log, stores);
    caught_up(&running).await;
    let last = Minute(world.oracle.minutes.last().unwrap().0 + 1);
    let range = range(Minute(START.0 - 500_000), last);
    let (status, body) = ask(&running, &format!("/v1/ads/{ad}/aggregated_count?{range}")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body["detail"].as_str().unwrap().contains(&format!("cells of ad {ad}")), "{body}");
}

#[tokio::test]
async fn a_store_that_fails_stops_the_partition_and_a_restart_goes_on() {
    let (log, stores, mut world) = saved().await;
    let running = start(&log, stores.clone());
    caught_up(&running).await;
    stores.fail(3, 1);
    log.append(world.flush()).await.unwrap();
    while running.ready(Duration::ZERO).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stopped(&running, 3, "told to fail").await;
    drop(running);
    stores.crash();
    let running = start(&log, stores);
    caught_up(&running).await;
    check(&running, &world).await;
}

#[tokio::test]
async fn a_log_that_is_away_for_a_while_is_waited_for() {
    let (log, stores, mut world) = saved().await;
    let running = start(&log, stores);
    caught_up(&running).await;
    log.crash();
    log.append(world.flush()).await.unwrap();
    caught_up(&running).await;
    check(&running, &world).await;
}

#[tokio::test]
async fn the_log_is_trimmed_behind_retention_and_checkpoints() {
    let (log, stores) = (mem_log(), MemStores::new());
    let settings =
        Settings { retention_hours: 2, trim_every: Duration::from_millis(10), ..settings() };
    let mut world = World::new(5);
    let running = start_with(&log, stores.clone(), settings);
    let mut begins = Vec::new();
    for hour in 0..6_u32 {
        begins.push(log.end(0).await.unwrap().map_or(0, |end| end.sequence));
        for _ in 0..5 {
            log.append(world.flush()).await.unwrap();
        }
        caught_up(&running).await;
        tokio::time::sleep(Duration::from_millis(120)).await;
        let kept = log.messages(0).len() as u64;
        let end = log.end(0).await.unwrap().unwrap().sequence;
        let least = begins[usize::try_from(hour.saturating_sub(2)).unwrap()];
        assert!(end - kept <= least + 5, "hour {hour}: {kept} of {end} are kept, from {least}");
        if hour < 2 {
            assert_eq!(kept, end, "nothing is older than the retention");
        } else if hour >= 4 {
            assert!(kept < end, "something is");
        }
        world.now = world.now.plus_ms(3_600_000);
    }
    running.close().await;
    let running = start_with(&log, stores, settings);
    caught_up(&running).await;
}

#[tokio::test]
async fn a_question_waits_for_the_start_and_says_so_when_it_takes_too_long() {
    let log = mem_log();
    for messages in history(6, 40).1 {
        log.append(messages).await.unwrap();
    }
    let stores = MemStores::new();
    let running = start(&log, stores.clone());
    let (status, body) = ask(&running, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body["detail"].as_str().unwrap().contains("reads its checkpoint"), "{body}");
    // Waits for all that was there.
    let popular = good(&running, &format!("/v1/ads/popular_ads?at={}", START.end())).await;
    assert!(!popular["ad_ids"].as_array().unwrap().is_empty());
    assert_eq!(good(&running, "/readyz").await, json!({"status": "ready"}));
    // A store that never opens: the question gives up.
    let settings = Settings { ready_wait: Duration::from_millis(20), ..settings() };
    let stuck = start_with(&log, Stuck, settings);
    let request =
        Request::builder().uri("/v1/accounting?from=0&to=60").body(Body::empty()).unwrap();
    let response = stuck.router().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "5");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let router = running.router();
    running.close().await;
    let request = Request::builder().uri("/readyz").body(Body::empty()).unwrap();
    let status = router.oneshot(request).await.unwrap().status();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "closed");
}

struct Stuck;

impl Stores for Stuck {
    type Store = crate::store::memory::MemStore;

    async fn open(&self, _: u16) -> Result<Self::Store, crate::store::StoreError> {
        std::future::pending().await
    }
}
