//! The pure half: stamps, numbers, splitting.

use shared::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, TOKEN_BYTES_MAX};
use shared::wire::Tally;
use shared::{Minute, OutboxId};

use super::super::seal::{BatchHead, Sealer, next_epoch};
use super::*;

fn sealer() -> Sealer {
    Sealer::new(OutboxId { edge: EDGE, epoch: 1 })
}

#[test]
fn the_clock_may_go_back_and_the_stamps_do_not() {
    let mut sealer = sealer();
    let mut last = Timestamp(0);
    for now in [5_000, 9_000, 1_000, 9_001, 0, u64::MAX, 3] {
        let sealed = sealer.seal(Timestamp(now), &[draft(1)], &[]);
        sealer.commit(&sealed);
        let batch = Batch::read(&sealed.batches[0]).unwrap();
        assert!(batch.watermark >= last && batch.watermark < Timestamp::MAX);
        assert_eq!(batch.events[0].at, batch.watermark);
        last = batch.watermark;
    }
}

#[test]
fn what_was_not_written_uses_no_number() {
    let mut sealer = sealer();
    let lost = sealer.seal(START, &[draft(1)], &[]);
    let again = sealer.seal(START.plus_ms(1), &[draft(1)], &[]);
    assert_eq!((lost.first, again.first), (0, 0));
    sealer.commit(&again);
    assert_eq!(sealer.seal(START, &[], &[]).first, 1);
}

#[test]
fn a_group_that_is_too_large_becomes_several_batches() {
    let tally = Tally { minute: Minute(3), kind: Kind::Click, reason: Reason::Expired, count: 2 };
    let groups = [
        (BATCH_EVENTS_MAX + 1, 100, 2),
        (BATCH_EVENTS_MAX, 56, 1),
        (400, TOKEN_BYTES_MAX, 3),
        (1, TOKEN_BYTES_MAX, 1),
        (0, 100, 1),
    ];
    for (events, bytes, expected) in groups {
        let drafts: Vec<Draft> = (0..events).map(|n| sized(n as u32, bytes)).collect();
        let sealed = sealer().seal(START, &drafts, &[tally]);
        assert_eq!(sealed.batches.len(), expected, "{events} events of {bytes} bytes");
        assert!(sealed.batches.iter().all(|batch| batch.len() <= BATCH_BYTES_MAX));
        let audit = audit(&sealed.batches);
        assert_eq!(audit.events.len(), events);
        assert_eq!(audit.tallied[&(Kind::Click, Reason::Expired)], 2);
    }
}

#[test]
fn epochs_only_grow() {
    let last = |epoch, watermark| BatchHead {
        outbox: OutboxId { edge: EDGE, epoch },
        number: 4,
        watermark: Timestamp(watermark),
    };
    assert_eq!(next_epoch(EDGE, START, None).epoch, START.0);
    assert_eq!(next_epoch(EDGE, START, Some(&last(START.0, 1))).epoch, START.0 + 1);
    let day = 86_400_000;
    assert_eq!(next_epoch(EDGE, START, Some(&last(START.0 + day - 1, 1))).epoch, START.0 + day);
    // No collector takes an epoch that is more than a day ahead.
    assert_eq!(next_epoch(EDGE, START, Some(&last(START.0 + day, 1))).epoch, START.0);
    assert!(last(1, u64::MAX).unclosed().is_none());
    let closing = last(1, 77).unclosed().unwrap().close(&[]);
    let batch = Batch::read(&closing.batches[0]).unwrap();
    assert_eq!((batch.number, batch.watermark, batch.outbox.epoch), (5, Timestamp::MAX, 1));
}

/// The clock is two hours ahead for a while, then right: a new epoch has the right time at once.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_step_back_a_new_epoch_has_the_right_time_and_nothing_is_lost() {
    const HOURS: u64 = 7_200_000;
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let (outbox, opened) = open(dir.path(), &clock);
    append(&outbox, [draft(1)]).await;
    clock.set(START.plus_ms(HOURS));
    append(&outbox, [draft(2)]).await;
    outbox.tally(outbox.time(START.plus_ms(HOURS)), Kind::Click, Reason::BadSeal, 3);
    let right = START.plus_ms(3_000);
    clock.set(right);
    // Tokens and tallies have the right time before anything is sealed.
    assert_eq!(outbox.time(right), right);
    append(&outbox, [draft(3)]).await;
    outbox.tally(outbox.time(right), Kind::Click, Reason::BadSeal, 4);
    outbox.close().await.unwrap();
    drop(outbox);
    let batches = batches(dir.path());
    let audit = audit(&batches);
    assert_eq!((audit.events.len(), audit.epochs, audit.closed), (3, 2, 2));
    assert_eq!(audit.tallied[&(Kind::Click, Reason::BadSeal)], 7);
    let of_new = |batch: &Batch<'_>| batch.outbox.epoch > opened.outbox.epoch;
    let new: Vec<_> =
        batches.iter().map(|bytes| Batch::read(bytes).unwrap()).filter(of_new).collect();
    let stamps = new.iter().flat_map(|batch| batch.events.iter().map(|event| event.at));
    assert_eq!(stamps.collect::<Vec<_>>(), [right]);
    let minutes = new.iter().flat_map(|batch| batch.tallies.iter().map(|tally| tally.minute));
    assert!(minutes.eq([right.minute()]), "{new:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_step_back_goes_on_in_the_same_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START.plus_ms(60_000));
    let (outbox, _) = open(dir.path(), &clock);
    clock.set(START);
    append(&outbox, [draft(1)]).await;
    assert_eq!(outbox.time(START), START.plus_ms(60_000));
    outbox.close().await.unwrap();
    drop(outbox);
    assert_eq!(audit(&batches(dir.path())).epochs, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batchs_epoch_is_read_without_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (outbox, opened) = open(dir.path(), &Hands::at(START));
    append(&outbox, [draft(1)]).await;
    drop(outbox);
    for batch in batches(dir.path()) {
        assert_eq!(super::super::seal::epoch_of(&batch), Some(opened.outbox.epoch));
    }
    assert_eq!(super::super::seal::epoch_of(&[0; 27]), None);
}
