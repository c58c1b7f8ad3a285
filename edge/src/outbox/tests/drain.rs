//! Sending, in spite of lost acknowledgements, refusals, restarts, and with little disk.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_and_resends_are_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let sink = Arc::new(Store::default());
    sink.lost_acks.store(20, Ordering::SeqCst);
    let mut next = 0;
    for _ in 0..4 {
        let (outbox, _) = open(dir.path(), &clock);
        let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
        for _ in 0..40 {
            append(&outbox, [draft(next)]).await;
            next += 1;
        }
        // It dies while some batches are sent and not acknowledged.
        drop(drain);
        drop(outbox);
        // And its record of acknowledgements is lost.
        let _ = std::fs::remove_file(dir.path().join("acked"));
    }
    let (outbox, _) = open(dir.path(), &clock);
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    outbox.close().await.unwrap();
    assert_eq!(drain.finish(Duration::from_secs(10)).await, 0);
    let audit = audit(&sink.batches());
    assert_eq!((audit.events.len(), audit.epochs, audit.closed), (next as usize, 5, 5));
    let sent = sink.got.lock().len();
    let distinct = sink.batches().len();
    assert!(sent > distinct, "there were resends");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let sink = Arc::new(Store::default());
    let (outbox, _) = open(dir.path(), &clock);
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    append(&outbox, [draft(1)]).await;
    outbox.close().await.unwrap();
    assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
    drop(outbox);
    let sent = sink.got.lock().len();
    let (outbox, opened) = open(dir.path(), &clock);
    assert_eq!(opened.unacked, 1, "the new epoch's opening batch");
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
    assert_eq!(sink.got.lock().len(), sent + 1);
}

/// Without its segments an outbox would start anew, and nobody would learn what was in them.
#[tokio::test(flavor = "multi_thread")]
async fn segments_that_are_gone_are_missed() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let (outbox, _) = open(dir.path(), &clock);
    let drain = Drain::start(&outbox, Arc::new(Store::default()), quick());
    append(&outbox, [draft(1)]).await;
    outbox.close().await.unwrap();
    assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
    drop(outbox);
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|kind| kind == "seg") {
            std::fs::remove_file(path).unwrap();
        }
    }
    // It is refused the second time too: the first attempt has made a new segment with nothing in
    // it.
    for _ in 0..2 {
        let clock: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
        let random = &mut Seeded::new(9);
        let opened = Outbox::open(&settings(dir.path()), clock, random, Metrics::default());
        let refused = opened.err().unwrap().to_string();
        assert!(refused.contains("acked") && refused.contains("no segment is there"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_leaves_the_rest_for_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let sink = Arc::new(Store::default());
    sink.down.store(true, Ordering::SeqCst);
    let (outbox, _) = open(dir.path(), &clock);
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    append(&outbox, [draft(1)]).await;
    outbox.close().await.unwrap();
    assert_eq!(drain.finish(Duration::from_millis(50)).await, 3, "opening, event, closing");
    drop(outbox);
    sink.down.store(false, Ordering::SeqCst);
    let (outbox, opened) = open(dir.path(), &clock);
    assert_eq!(opened.unacked, 4);
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
    assert!(audit(&sink.batches()).events.contains(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_is_kept_while_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let sink = Arc::new(Store::default());
    sink.refused.store(1 + 2, Ordering::SeqCst);
    let (outbox, _) = open(dir.path(), &clock);
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    for number in 0..30 {
        append(&outbox, [draft(number)]).await;
    }
    // The opening batch and 30 more, less the one that is refused.
    eventually("the others arrive", || sink.batches().len() == 30).await;
    assert_eq!(outbox.depth().unacked, 31 - 2, "acknowledged up to the gap");
    sink.refused.store(0, Ordering::SeqCst);
    outbox.close().await.unwrap();
    assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
    assert_eq!(audit(&sink.batches()).events.len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pauses_goes_on_as_soon_as_another_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let sink = Arc::new(Store::default());
    sink.down.store(true, Ordering::SeqCst);
    let (outbox, _) = open(dir.path(), &clock);
    let hour = Duration::from_secs(3_600);
    let settings = DrainSettings { retry_least: hour, retry_most: hour, ..quick() };
    let drain = Drain::start(&outbox, Arc::clone(&sink), settings);
    for number in 0..30 {
        append(&outbox, [draft(number)]).await;
    }
    let tried = || outbox.common.metrics.retried.get() == 31;
    eventually("all were tried, the opening batch too", tried).await;
    sink.down.store(false, Ordering::SeqCst);
    append(&outbox, [draft(30)]).await;
    outbox.close().await.unwrap();
    assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
    assert_eq!(audit(&sink.batches()).events.len(), 31);
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_move_the_watermark_and_take_tallies() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let sink = Arc::new(Store::default());
    let often = OutboxSettings { heartbeat: Duration::from_millis(10), ..settings(dir.path()) };
    let (outbox, _) = open_with(&often, &clock);
    let _drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    outbox.tally(START, Kind::Impression, Reason::Malformed, 2);
    clock.set(START.plus_ms(90_000));
    let watermark = |sink: &Store| {
        sink.batches().iter().map(|bytes| Batch::read(bytes).unwrap().watermark).max()
    };
    eventually("a heartbeat", || watermark(&sink) == Some(START.plus_ms(90_000))).await;
    eventually("the tallies", || {
        audit(&sink.batches()).tallied.contains_key(&(Kind::Impression, Reason::Malformed))
    })
    .await;
    let audit = audit(&sink.batches());
    assert_eq!(audit.tallied[&(Kind::Impression, Reason::Malformed)], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn disk_use_stays_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let sink = Arc::new(Store::default());
    let small = OutboxSettings { disk_bytes_max: DISK_BYTES_LEAST, ..settings(dir.path()) };
    let (outbox, _) = open_with(&small, &clock);
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    let mut sent = 0;
    // Ten times as much as it may hold.
    while sent < 10 * (DISK_BYTES_LEAST as u32) / 20_000 {
        match outbox.append(vec![sized(sent * 10, 2_000); 1]) {
            Ok(pending) => match pending.await {
                Ok(()) => {
                    append_more(&outbox, sent).await;
                    sent += 1;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            },
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    outbox.close().await.unwrap();
    assert_eq!(drain.finish(Duration::from_secs(10)).await, 0);
    let on_disk: u64 = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(on_disk < DISK_BYTES_LEAST, "{on_disk} bytes after {sent} rounds");
    audit(&sink.batches());
}

/// Nine more of a round, as far as there is room.
async fn append_more(outbox: &Outbox, round: u32) {
    let drafts = (1..10).map(|n| sized(round * 10 + n, 2_000)).collect();
    if let Ok(pending) = outbox.append(drafts) {
        let _ = pending.await;
    }
}

/// A batch that was sealed before the clock was set back waits until its time comes; but one whose
/// time is more than a day away is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_ahead_of_the_clock_is_held_back_until_it_is_reached() {
    const MINUTES: u64 = 600_000;
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let (outbox, _) = open(dir.path(), &clock);
    clock.set(START.plus_ms(MINUTES));
    append(&outbox, [draft(1)]).await;
    clock.set(START.plus_ms(30 * 86_400_000));
    append(&outbox, [draft(2)]).await;
    clock.set(START);
    append(&outbox, [draft(3)]).await;
    let sink = Arc::new(Store::default());
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    let events = || {
        let mut events: Vec<_> = audit_events(&sink.batches());
        events.sort_unstable();
        events
    };
    eventually("what is not ahead", || events() == [2, 3]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(events(), [2, 3]);
    clock.set(START.plus_ms(MINUTES - 60_000));
    eventually("its time has come", || events() == [1, 2, 3]).await;
    outbox.close().await.unwrap();
    assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
}

fn sorted_events(sink: &Store) -> Vec<u32> {
    let mut events = audit_events(&sink.batches());
    events.sort_unstable();
    events
}

/// After one start with a clock that is ahead, nothing later waits for what was sealed then,
/// however much that is.
#[tokio::test(flavor = "multi_thread")]
async fn what_follows_does_not_wait_for_what_is_held_back() {
    for ahead_ms in [7_200_000, 30 * 86_400_000] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Hands::at(START.plus_ms(ahead_ms));
        let (outbox, _) = open(dir.path(), &clock);
        let held = DrainSettings::default().window as u32 + 50;
        for number in 0..held {
            append(&outbox, [draft(number)]).await;
        }
        drop(outbox);
        clock.set(START);
        let (outbox, _) = open(dir.path(), &clock);
        let sink = Arc::new(Store::default());
        let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
        append(&outbox, [draft(1_000)]).await;
        eventually("what follows", || sorted_events(&sink) == [1_000]).await;
        eventually("all are held", || outbox.depth().held >= held.into()).await;
        let epochs = sink.batches();
        let epochs = epochs.iter().map(|bytes| Batch::read(bytes).unwrap().outbox.epoch);
        assert!(epochs.max().unwrap() <= START.plus_ms(86_400_000).0, "a collector takes them");
        clock.set(START.plus_ms(ahead_ms));
        append(&outbox, [draft(1_001)]).await;
        let all: Vec<_> = (0..held).chain([1_000, 1_001]).collect();
        eventually("their time has come", || sorted_events(&sink) == all).await;
        eventually("none is held", || outbox.depth().held == 0).await;
        outbox.close().await.unwrap();
        assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
    }
}

/// Batches that are held back for days keep the outbox neither from being emptied nor from
/// reporting how far it is. A restart finds them, and they are removed when they have been taken.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_back_fills_no_disk_and_stops_no_heartbeat() {
    const AHEAD_MS: u64 = 30 * 86_400_000;
    let dir = tempfile::tempdir().unwrap();
    let small = OutboxSettings {
        disk_bytes_max: DISK_BYTES_LEAST,
        heartbeat: Duration::from_millis(10),
        ..settings(dir.path())
    };
    let clock = Hands::at(START.plus_ms(AHEAD_MS));
    let (outbox, _) = open_with(&small, &clock);
    for number in 0..5 {
        append(&outbox, [draft(number)]).await;
    }
    drop(outbox);
    clock.set(START);
    let sink = Arc::new(Store::default());
    let mut sent = 0;
    for start in 1..=2 {
        let (outbox, _) = open_when_free(&small, &clock).await;
        let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
        eventually("they are held", || outbox.depth().held >= 5).await;
        // Three times as much as it may hold, in each of two lives.
        while u64::from(sent) * 100_000 < start * 3 * DISK_BYTES_LEAST {
            let drafts = (0..50).map(|n| sized(1_000 + sent * 50 + n, 2_000)).collect();
            match outbox.append(drafts) {
                Ok(pending) => match pending.await {
                    Ok(()) => sent += 1,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                },
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
        clock.set(START.plus_ms(start * 90_000));
        let told = || {
            let batches = sink.batches();
            let watermarks = batches.iter().map(|bytes| Batch::read(bytes).unwrap().watermark);
            watermarks.filter(|watermark| *watermark != Timestamp::MAX).max()
        };
        eventually("a heartbeat", || told() == Some(START.plus_ms(start * 90_000))).await;
        assert!(!audit_events(&sink.batches()).iter().any(|event| *event < 5));
        drain.finish(Duration::from_millis(1)).await;
        drop(outbox);
    }
    assert!(dir.path().join("held").is_dir());
    clock.set(START.plus_ms(AHEAD_MS + 60_000));
    // No sink takes them: they are no longer held back, but they still wait.
    sink.down.store(true, Ordering::SeqCst);
    let (outbox, _) = open_when_free(&small, &clock).await;
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    let waits = |outbox: &Outbox| {
        let Depth { held, unacked, .. } = outbox.depth();
        held == 0 && unacked >= 5
    };
    eventually("they wait", || waits(&outbox)).await;
    assert!(drain.finish(Duration::from_millis(1)).await >= 5);
    drop(outbox);
    sink.down.store(false, Ordering::SeqCst);
    let (outbox, _) = open_when_free(&small, &clock).await;
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    eventually("their time has come", || {
        let events = audit_events(&sink.batches());
        (0..5).all(|event| events.contains(&event))
    })
    .await;
    eventually("nothing is kept apart", || !dir.path().join("held").exists()).await;
    outbox.close().await.unwrap();
    assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
    audit(&sink.batches());
}

/// A clock that is set back while batches wait for a collector.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_collector_is_held_back_too_when_the_clock_is_set_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START.plus_ms(600_000));
    let sink = Arc::new(Store::default());
    sink.down.store(true, Ordering::SeqCst);
    let (outbox, _) = open(dir.path(), &clock);
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    append(&outbox, [draft(1)]).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    clock.set(START);
    append(&outbox, [draft(2)]).await;
    eventually("it is held", || outbox.depth().held > 0).await;
    sink.down.store(false, Ordering::SeqCst);
    eventually("what follows", || sorted_events(&sink) == [2]).await;
    clock.set(START.plus_ms(600_000));
    eventually("its time has come", || sorted_events(&sink) == [1, 2]).await;
    outbox.close().await.unwrap();
    assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
}

fn audit_events(batches: &[Vec<u8>]) -> Vec<u32> {
    let read = batches.iter().map(|bytes| Batch::read(bytes).unwrap());
    read.flat_map(|batch| batch.events)
        .map(|event| u32::from_le_bytes(event.token[..4].try_into().unwrap()))
        .collect()
}
