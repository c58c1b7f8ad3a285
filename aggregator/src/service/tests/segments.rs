//! Segments of facts under faults: a process that dies at any request to its stores, requests that
//! fail, whose answers are lost or that never end, and two processes that both make segments.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures::TryStreamExt as _;
use object_store::ObjectStore;

use super::faulty::{Fate, FaultyStores, Request};
use super::*;
use crate::store::s3_server;

/// For one that makes no segments, and only collects what others have left.
fn still() -> Settings {
    let (sealed_facts_min, settled_minutes, merged_min) = (u64::MAX, u32::MAX, usize::MAX);
    Settings { facts: Plan { sealed_facts_min, settled_minutes, merged_min }, ..settings() }
}

/// Three flushes, then five hours of nothing, and so on: hours and days end.
fn days(seed: u64, rounds: usize) -> (World, Vec<Vec<Message>>) {
    let mut world = World::new(seed);
    let mut flushes = Vec::new();
    for _ in 0..rounds {
        flushes.extend((0..3).map(|_| world.flush()));
        world.now = world.now.plus_ms(5 * 3_600_000);
    }
    (world, flushes)
}

/// Appends some flushes one after the other, so that there are many checkpoints.
async fn append(log: &MemLog, flushes: &[Vec<Message>]) {
    for messages in flushes {
        log.append(messages.clone()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
}

/// What is asked of facts and accounts over all time.
fn questions(oracle: &Oracle) -> Vec<String> {
    let first = *oracle.minutes.first().unwrap();
    let last = Minute(oracle.minutes.last().unwrap().0 + 1);
    let (all, late) = (range(first, last), range(Minute(START.0 + 60), last));
    vec![
        format!("/v1/accounting?{all}"),
        format!("/v1/top?of=ads&event=served&validity=all&{all}"),
        format!("/v1/top?of=placements&where=country=DE&{all}"),
        format!("/v1/publishers/p1/series?step=day&{all}"),
        format!("/v1/publishers/example.com/series?step=hour&{late}"),
        format!("/v1/advertisers/a2/breakdown?by=campaign,event,device&{all}"),
        format!("/v1/ads/ad-1/uniques?event=impression&{late}"),
    ]
}

async fn asked_all<L: Log, S: Stores>(
    aggregator: &Aggregator<L, S>,
    oracle: &Oracle,
) -> Vec<Value> {
    let mut all = Vec::new();
    for uri in questions(oracle) {
        all.push(good(aggregator, &uri).await);
    }
    all
}

/// What is asked after the whole log was counted by one that nothing disturbs, which an oracle
/// checks.
async fn undisturbed(world: &World, flushes: &[Vec<Message>]) -> Vec<Value> {
    let log = mem_log();
    let running = start_with(&log, MemStores::new(), settings());
    append(&log, flushes).await;
    caught_up(&running).await;
    reports::check_reports(&running, world).await;
    let expected = asked_all(&running, &world.oracle).await;
    let account = &expected[0];
    let reasons = account["reasons"].as_object().unwrap().values().map(|n| n.as_u64().unwrap());
    let sum = account["counted"].as_u64().unwrap() + account["duplicate"].as_u64().unwrap();
    assert_eq!(account["received"], sum + reasons.sum::<u64>(), "{account}");
    expected
}

/// Objects of segments that there are, and those of segments that are named.
async fn objects_and_named<L: Log, S: Stores>(
    aggregator: &Aggregator<L, S>,
) -> (BTreeSet<String>, BTreeSet<String>) {
    let listed = good(aggregator, "/v1/segments").await;
    let of = |segment: &Value| segment["file"].as_str().unwrap().to_owned();
    let named = listed["segments"].as_array().unwrap().iter().map(of).collect();
    let objects = aggregator.core.stores.objects();
    let found: Vec<_> = objects.list(Some(&"facts".into())).try_collect().await.unwrap();
    let found = found.into_iter().map(|object| object.location.to_string());
    (found.filter(|path| !path.ends_with("/opened")).collect(), named)
}

/// Waits until there are the objects of named segments and no others.
async fn nothing_is_left<L: Log, S: Stores>(aggregator: &Aggregator<L, S>, why: &str) {
    for round in 0.. {
        let (found, named) = objects_and_named(aggregator).await;
        let of = |path: &String| format!("{}.parquet", path.rsplit_once('.').unwrap().0);
        let left: Vec<_> = found.iter().filter(|path| !named.contains(&of(path))).collect();
        let is_whole = |file: &&String| {
            found.contains(*file) && found.contains(&file.replace(".parquet", ".directory"))
        };
        if left.is_empty() && named.iter().all(|file| is_whole(&file)) {
            return;
        }
        assert!(round < 1_500, "{why}: nobody names {left:?}; there are {found:?}, {named:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A process dies before or after its request with each number; what it leaves is counted on by
/// another one, as if nothing had happened.
#[tokio::test]
async fn a_process_may_die_at_any_request() {
    /// Of so many requests one is chosen: of the first ones, and of the others.
    const EACH: [usize; 2] = [6, 43];
    let (world, flushes) = days(21, 8);
    let expected = undisturbed(&world, &flushes).await;
    let (half, rest) = flushes.split_at(flushes.len() / 2);
    let mut died_at = BTreeSet::new();
    let mut at = 1;
    loop {
        let (log, disk) = (mem_log(), MemStores::new());
        let crash = disk.clone();
        let stores = FaultyStores::new(disk.clone(), move || crash.crash());
        let what = Arc::new(parking_lot::Mutex::new(None));
        let told = Arc::clone(&what);
        stores.faults.set(move |number, request, _| {
            if number != at {
                return Fate::Done;
            }
            *told.lock() = Some(request);
            if at.is_multiple_of(2) { Fate::DeadBefore } else { Fate::DeadAfter }
        });
        append(&log, half).await;
        let first = start_with(&log, stores.clone(), settings());
        append(&log, rest).await;
        for _ in 0..100 {
            if !stores.faults.is_dead() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        drop(first);
        let Some(request) = *what.lock() else {
            assert!(at > 60, "it came to an end at {at}");
            break;
        };
        died_at.insert(format!("{request:?}"));
        // What is as old as the opening is left for the next one.
        tokio::time::sleep(Duration::from_millis(3)).await;
        // Stores of its own: what is still at work of the first one stays dead.
        let second = start_with(&log, disk.clone(), settings());
        caught_up(&second).await;
        let why = format!("died at {at}, {request:?}");
        assert_eq!(asked_all(&second, &world.oracle).await, expected, "{why}");
        counting::kill(second).await;
        tokio::time::sleep(Duration::from_millis(3)).await;
        let third = start_with(&log, disk, still());
        caught_up(&third).await;
        nothing_is_left(&third, &why).await;
        assert_eq!(asked_all(&third, &world.oracle).await, expected, "{why}, later");
        at += if at < 30 { EACH[0] } else { EACH[1] };
    }
    // How many of which there are depends on how busy the machine is.
    assert!(died_at.len() > 1, "{died_at:?}");
}

/// Requests to the object store fail, before they are done or after; the process goes on, answers
/// nothing that is wrong, and what failed leaves nothing.
#[tokio::test]
async fn requests_that_fail_or_whose_answers_are_lost_change_nothing() {
    let (world, flushes) = days(22, 8);
    let expected = undisturbed(&world, &flushes).await;
    for fate in [Fate::Refused, Fate::Lost] {
        let (log, stores) = (mem_log(), FaultyStores::new(MemStores::new(), || {}));
        let failed = Arc::new(AtomicUsize::new(0));
        let settings = Settings { segments_kept: Duration::from_secs(2), ..settings() };
        let (running, told) = (start_with(&log, stores.clone(), settings), Arc::clone(&failed));
        running.ready(Duration::from_secs(60)).await.unwrap();
        stores.faults.set(move |number, request, _| {
            // The checkpoints' own writes stop a partition: another test has that.
            let is_met = !matches!(request, Request::Write | Request::Flush);
            if !is_met || number * 7 % 40 >= 5 {
                return Fate::Done;
            }
            told.fetch_add(1, Ordering::Relaxed);
            fate
        });
        append(&log, &flushes).await;
        caught_up(&running).await;
        let mut answered = 0;
        for round in 0..20 {
            for (uri, expected) in questions(&world.oracle).iter().zip(&expected) {
                let (status, body) = ask(&running, uri).await;
                match status {
                    StatusCode::OK => assert_eq!(body, *expected, "{fate:?}, {round}: {uri}"),
                    status => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}"),
                }
                answered += usize::from(status == StatusCode::OK);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(answered > 70 && failed.load(Ordering::Relaxed) > 20, "{answered}, {failed:?}");
        stores.faults.set(|_, _, _| Fate::Done);
        nothing_is_left(&running, &format!("{fate:?}")).await;
        assert_eq!(asked_all(&running, &world.oracle).await, expected);
        running.close().await;
    }
}

/// Counting and answers go on while no request of one sort is answered.
#[tokio::test]
async fn requests_that_never_end_keep_nobody_from_counting() {
    for hanging in [Request::Put, Request::Delete] {
        let (world, flushes) = days(23, 8);
        let expected = undisturbed(&world, &flushes).await;
        let (log, stores) = (mem_log(), FaultyStores::new(MemStores::new(), || {}));
        let settings = Settings { segments_kept: Duration::from_millis(30), ..settings() };
        let running = start_with(&log, stores.clone(), settings);
        running.ready(Duration::from_secs(60)).await.unwrap();
        let met = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&met);
        stores.faults.set(move |_, request, _| {
            if request != hanging {
                return Fate::Done;
            }
            told.store(true, Ordering::Relaxed);
            Fate::Late(Duration::from_secs(3_600))
        });
        // A day is over before the last ones: its segments are merged, and then deleted.
        let (most, rest) = flushes.split_at(flushes.len() - 3);
        append(&log, most).await;
        for round in 0.. {
            if met.load(Ordering::Relaxed) {
                break;
            }
            assert!(round < 4_000, "no {hanging:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        append(&log, rest).await;
        caught_up(&running).await;
        assert_eq!(asked_all(&running, &world.oracle).await, expected, "{hanging:?}");
        running.close().await;
    }
}

/// One process has been put aside in the middle of its work, which it goes on with while another one
/// has its partitions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_put_aside_and_makes_segments_harms_nothing() {
    let (world, flushes) = days(24, 8);
    let expected = undisturbed(&world, &flushes).await;
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("counts")).unwrap();
    let endpoint = s3_server::serve(root.path());
    let stores = || {
        let objects = s3_server::open(&endpoint, "counts", "production");
        SlateStores::remote(objects, "s3://counts/production".into(), SlateSettings::default())
    };
    let (log, aside) = (mem_log(), FaultyStores::new(stores(), || {}));
    let uploading = Arc::new(AtomicUsize::new(0));
    let told = Arc::clone(&uploading);
    // It begins to delete what others left, and ends its uploads, when the other one has long begun.
    aside.faults.set(move |_, request, path| match request {
        Request::List => Fate::Late(Duration::from_millis(1_500)),
        Request::Put if path.ends_with(".parquet") => {
            told.fetch_add(1, Ordering::Relaxed);
            Fate::Late(Duration::from_millis(700))
        }
        _ => Fate::Done,
    });
    let (half, rest) = flushes.split_at(flushes.len() / 2);
    append(&log, half).await;
    let first = start_with(&log, aside.clone(), settings());
    first.ready(Duration::from_secs(60)).await.unwrap();
    for round in 0.. {
        if uploading.load(Ordering::Relaxed) > 0 {
            break;
        }
        assert!(round < 4_000, "no upload");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let second = start_with(&log, stores(), settings());
    second.ready(Duration::from_secs(60)).await.unwrap();
    append(&log, rest).await;
    caught_up(&second).await;
    assert_eq!(asked_all(&second, &world.oracle).await, expected);
    for partition in 0..PARTITIONS {
        while !matches!(first.statuses()[usize::from(partition)], Status::Stopped(_)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(asked_all(&second, &world.oracle).await, expected, "the first one has stopped");
    let at_work = Arc::downgrade(&first.core);
    first.close().await;
    second.close().await;
    // An upload of the first one may end even later; and object stores date by the second.
    while at_work.strong_count() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let third = start_with(&log, stores(), still());
    caught_up(&third).await;
    nothing_is_left(&third, "the first one wrote beside the second").await;
    assert_eq!(asked_all(&third, &world.oracle).await, expected);
    third.close().await;
}

/// Merging can wait, and does while there is something to count.
#[tokio::test]
async fn a_partition_that_is_behind_merges_nothing() {
    let (_, flushes) = days(25, 8);
    let (log, stores) = (mem_log(), MemStores::new());
    // All facts become segments as they come, and no period is over by the log's clock.
    let facts = Plan { sealed_facts_min: 1, settled_minutes: u32::MAX / 2, merged_min: 1_000 };
    let running = start_with(&log, stores.clone(), Settings { facts, ..settings() });
    append(&log, &flushes).await;
    caught_up(&running).await;
    while good(&running, "/v1/segments").await["loose_events"] != 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let core = Arc::clone(&running.core);
    running.close().await;
    let store = stores.open(0).await.unwrap();
    let facts = FactsIndex::load(&store.view().unwrap(), 0).await.unwrap();
    let clock = Minute(u32::MAX);
    let mut kept = checkpoint::Kept { facts, clock, ..checkpoint::Kept::default() };
    let mut sealing = seal::Sealing::default();
    let lag = |messages| {
        let label = crate::metrics::PartitionLabel { partition: 0 };
        core.metrics.lag.get_or_create(&label).set(messages);
    };
    lag(1_000);
    sealing.next(&core, 0, &store, &mut kept).unwrap();
    let done = tokio::time::timeout(Duration::from_millis(100), sealing.done()).await;
    assert!(done.is_err() && !sealing.is_made(), "it is behind");
    lag(0);
    sealing.next(&core, 0, &store, &mut kept).unwrap();
    sealing.done().await;
    assert!(sealing.is_made());
}
