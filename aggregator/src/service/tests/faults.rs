//! Logs, messages and stores that are not what they should be; starts and ends.

use eventlog::Reader as _;
use object_store::ObjectStoreExt as _;
use shared::keys::EdgeRegistry;

use super::*;

async fn stopped<L: Log, S: Stores>(aggregator: &Aggregator<L, S>, partition: u16, why: &str) {
    let error = aggregator.ready(Duration::from_secs(10)).await.unwrap_err();
    let NotReady::Stopped(text) = &error else { panic!("{error}") };
    let begins = format!("partition {partition} has stopped: ");
    assert!(text.starts_with(&begins) && text.contains(why), "{text} does not say {why}");
    let (status, body) = ask(aggregator, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let reasons = json!([format!("partition_stopped: {text}")]);
    assert_eq!(body, json!({ "status": "unready", "reasons": reasons }));
    for uri in ["/v1/ads/a/aggregated_count?from=0&to=60", "/v1/ads/popular_ads"] {
        let (status, body) = ask(aggregator, uri).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body["detail"], json!(text));
        assert_eq!(body["type"], "urn:countersign:partition_stopped");
    }
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
async fn a_foreign_message_is_a_dead_letter_and_what_follows_counts() {
    let (log, stores, mut world) = saved().await;
    let running = start(&log, stores.clone());
    caught_up(&running).await;
    let stranger = Message { partition: 1, payload: Bytes::from_static(b"{\"not\": \"ours\"}") };
    log.append(vec![stranger]).await.unwrap();
    log.append(world.flush()).await.unwrap();
    caught_up(&running).await;
    assert!(running.ready(Duration::ZERO).await.is_ok());
    let mut dead = log.reader(eventlog::DEAD, None).await.unwrap();
    let letter = dead.next().await.unwrap();
    let letter = shared::wire::DeadLetter::read(&letter.payload).unwrap();
    assert_eq!(letter.bytes, b"{\"not\": \"ours\"}");
    assert!(letter.from.contains("partition 1, sequence 11"), "{}", letter.from);
    assert_eq!(letter.sender, None);
    running.close().await;
    // And after a restart it is behind the checkpoint.
    let running = start(&log, stores);
    caught_up(&running).await;
    assert!(running.ready(Duration::ZERO).await.is_ok());
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
    let minute = |key: &[u8]| u32::from_be_bytes(key[17..21].try_into().unwrap());
    let is_cells = |key: &[u8]| key[0] == keys::CELLS && minute(key) >= START.0;
    let (key, value) = rows.iter().find(|(key, _)| is_cells(key)).unwrap();
    stores.damage(2, key, &value[..value.len() - 1]);
    let ad = String::from_utf8(key[1..17].iter().copied().filter(|b| *b > 0).collect()).unwrap();
    let running = start(&log, stores);
    caught_up(&running).await;
    let last = Minute(world.oracle.minutes.last().unwrap().0 + 1);
    // What is asked of the last hour is answered from totals.
    let range = range(START, last);
    let (status, body) = ask(&running, &format!("/v1/ads/{ad}/aggregated_count?{range}")).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body["detail"].as_str().unwrap().contains(&format!("cells of ad {ad}")), "{body}");
}

#[tokio::test]
async fn a_segment_that_is_damaged_or_missing_is_named() {
    // None is merged meanwhile.
    let facts = Plan { sealed_facts_min: 40, settled_minutes: u32::MAX, merged_min: 1_000 };
    let settings = || Settings { facts, ..settings() };
    for (kind, is_missing) in [("directory", false), ("directory", true), ("parquet", true)] {
        let (log, stores, world) = saved().await;
        let running = start_with(&log, stores.clone(), settings());
        caught_up(&running).await;
        let first = *world.oracle.minutes.first().unwrap();
        let last = Minute(world.oracle.minutes.last().unwrap().0 + 1);
        let uri = format!("/v1/top?of=publishers&{}", range(first, last));
        let listed = loop {
            let listed = good(&running, "/v1/segments").await;
            if !listed["segments"].as_array().unwrap().is_empty() {
                break listed;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        good(&running, &uri).await;
        running.close().await;
        let file = listed["segments"][0]["file"].as_str().unwrap();
        let path = object_store::path::Path::from(file.replace("parquet", kind));
        let objects = stores.objects();
        match is_missing {
            true => objects.delete(&path).await.unwrap(),
            false => drop(objects.put(&path, "what is no directory".into()).await.unwrap()),
        }
        let running = start_with(&log, stores, settings());
        caught_up(&running).await;
        let (status, body) = ask(&running, &uri).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{body}");
        assert!(body["detail"].as_str().unwrap().contains(path.as_ref()), "{body}");
    }
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
async fn what_is_not_archived_is_not_trimmed() {
    let log = mem_log();
    let mut world = World::new(5);
    for _ in 0..12 {
        log.append(world.flush()).await.unwrap();
        world.now = world.now.plus_ms(1_200_000);
    }
    let settings = Settings {
        retention_hours: 1,
        trim_every: Duration::from_millis(5),
        checkpoint_bytes: 1,
        ..settings()
    };
    let (archived, receiver) = watch::channel(vec![0, 2, 4]);
    let running = Aggregator::start(Parts {
        log: Arc::clone(&log),
        stores: MemStores::new(),
        clock: Arc::new(Fixed(START.start())),
        settings,
        archived: Some(receiver),
        registered: Box::new(EdgeRegistry::default),
        registry: &mut Registry::default(),
    });
    let kept = || (0..PARTITIONS).map(|p| log.messages(p).len()).collect::<Vec<_>>();
    for _ in 0..20 {
        log.append(world.flush()).await.unwrap();
        world.now = world.now.plus_ms(1_200_000);
        caught_up(&running).await;
    }
    let all = usize::try_from(log.end(0).await.unwrap().unwrap().sequence).unwrap();
    // Of the fourth nothing is known.
    let expected = [all, all - 2, all - 4, all];
    for round in 0.. {
        if kept() == expected {
            break;
        }
        assert!(round < 4_000, "{:?} are kept of {all}", kept());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(kept(), expected, "it goes no further");
    archived.send_replace(vec![u64::MAX; usize::from(PARTITIONS)]);
    while kept()[0] == all {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
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
    let reason = body["reasons"][0].as_str().unwrap();
    assert!(reason.starts_with("not_ready: "), "{body}");
    assert!(reason.contains("reads its checkpoint"), "{body}");
    // Waits for all that was there.
    let popular = good(&running, &format!("/v1/ads/popular_ads?at={}", START.end())).await;
    assert!(!popular["ad_ids"].as_array().unwrap().is_empty());
    assert_eq!(good(&running, "/readyz").await, json!({"status": "ready"}));
    // A store that never opens: the question gives up.
    let settings = Settings { ready_wait: Duration::from_millis(20), ..settings() };
    let stuck = start_with(&log, Stuck, settings);
    let request =
        Request::builder().uri("/v1/accounting?from=0&to=60").body(Body::empty()).unwrap();
    let response = api::Principal::Operator.asks(stuck.router()).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "5");
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let router = api::Principal::Operator.asks(running.router());
    running.close().await;
    let request = Request::builder().uri("/readyz").body(Body::empty()).unwrap();
    let status = router.oneshot(request).await.unwrap().status();
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "closed");
}

struct Stuck;

impl Stores for Stuck {
    fn objects(&self) -> Arc<dyn object_store::ObjectStore> {
        MemStores::new().objects()
    }

    type Store = crate::store::memory::MemStore;

    async fn open(&self, _: u16) -> Result<Self::Store, crate::store::StoreError> {
        std::future::pending().await
    }
}
