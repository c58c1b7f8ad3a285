//! Answers beside an oracle, straight and stopped.

use super::reports::check_reports;
use super::*;

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
    check_reports(&straight, &world).await;
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
        if at % 5 == 0 {
            check_reports(&third, &world).await;
        }
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
            check_reports(&running, &world).await;
            kill(running).await;
        }
    }
    let running = start(&log, stores());
    caught_up(&running).await;
    check(&running, &world).await;
    check_reports(&running, &world).await;
    running.close().await;
}

async fn check_after<L: Log, S: Stores>(
    aggregator: &Aggregator<L, S>,
    world: &World,
    caught_up: bool,
) {
    if caught_up {
        check(aggregator, world).await;
    }
}

/// Ends its tasks without a last checkpoint, and waits until nothing holds the stores' lock.
pub(super) async fn kill<L: Log, S: Stores>(running: Aggregator<L, S>) {
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
