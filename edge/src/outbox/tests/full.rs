//! A full outbox refuses, tallies, and goes on when there is room again.

use super::*;

fn small(dir: &Path) -> OutboxSettings {
    OutboxSettings {
        disk_bytes_max: DISK_BYTES_LEAST,
        heartbeat: Duration::from_millis(20),
        ..OutboxSettings::new(dir, EDGE)
    }
}

async fn fill(outbox: &Outbox) -> u32 {
    for number in 0.. {
        match outbox.append(vec![sized(number, 2_000)]) {
            Ok(pending) => match pending.await {
                Ok(()) => {}
                Err(AppendError::Full) => return number,
                Err(other) => panic!("{other}"),
            },
            Err(AppendError::Full) => return number,
            Err(other) => panic!("{other}"),
        }
    }
    unreachable!("the disk part is bounded")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_outbox_says_so_and_takes_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let (outbox, _) = open_with(&small(dir.path()), &clock);
    let sink = Arc::new(Store::default());
    sink.down.store(true, Ordering::SeqCst);
    let drain = Drain::start(&outbox, Arc::clone(&sink), quick());
    let taken = fill(&outbox).await;
    assert!(taken > 300, "{taken} of 2 KB in 1 MB");
    assert!(outbox.is_full());
    for _ in 0..7 {
        outbox.tally(START, Kind::Click, Reason::OutboxFull, 1);
    }
    // A sink that is silent causes no heartbeats either.
    let before = outbox.depth();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(outbox.depth().disk_bytes, before.disk_bytes);
    assert!(outbox.depth().disk_bytes <= DISK_BYTES_LEAST);

    sink.down.store(false, Ordering::SeqCst);
    eventually("there is room again", || !outbox.is_full()).await;
    append(&outbox, [draft(taken)]).await;
    outbox.close().await.unwrap();
    assert_eq!(drain.finish(Duration::from_secs(5)).await, 0);
    let audit = audit(&sink.batches());
    assert_eq!(audit.events.len(), taken as usize + 1, "what was taken came, and nothing else");
    assert_eq!(audit.tallied[&(Kind::Click, Reason::OutboxFull)], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn losses_while_full_survive_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let (outbox, _) = open_with(&small(dir.path()), &clock);
    let taken = fill(&outbox).await;
    outbox.tally(START, Kind::Click, Reason::OutboxFull, 3);
    let died = tempfile::tempdir().unwrap();
    copy(dir.path(), died.path());
    drop(outbox);
    // It opens full, closes the epoch within its reserve, and reports the loss.
    let (outbox, _) = open_with(&small(died.path()), &clock);
    assert_eq!(fill(&outbox).await, 0);
    drop(outbox);
    let audit = audit(&batches(died.path()));
    assert_eq!((audit.closed, audit.events.len()), (1, taken as usize));
    assert_eq!(audit.tallied[&(Kind::Click, Reason::OutboxFull)], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let bounded = OutboxSettings { queue_items_max: 4, ..settings(dir.path()) };
    let (outbox, _) = open_with(&bounded, &clock);
    let mut waiting = Vec::new();
    let refused = (0..100_000).find_map(|number| match outbox.append(vec![draft(number)]) {
        Ok(pending) => {
            waiting.push(pending);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(refused, Some(AppendError::Full), "no disk is as fast");
    for pending in waiting {
        pending.await.unwrap();
    }
    assert!(!outbox.is_full(), "the disk is not");
}

#[test]
fn an_outbox_that_can_hold_nothing_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let tiny = OutboxSettings { disk_bytes_max: 1 << 16, ..settings(dir.path()) };
    let clock: Arc<dyn Clock> = Hands::at(START);
    let opened = Outbox::open(&tiny, clock, &mut Seeded::new(9), Metrics::default());
    assert!(matches!(opened, Err(OutboxError::Settings(_))));
}
