//! The log fails, answers late, or not at all; the queue is full; the collector closes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use eventlog::fake::{Faults, MemLog, MemReader};
use eventlog::{Log, LogError, Message, Position};
use shared::wire::{DeadLetter, MessageView};
use shared::{BatchDigest, Kind, Reason};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::world::{EDGE, HOUR_MS, NOW, Rig, World, batch, event, read_all, read_partition, rig};
use crate::coalesce::Coalescer;
use crate::{Refusal, Settings, SubmitError};

/// A log whose appends wait for a permit, and can fail for good.
struct GateLog {
    log: MemLog,
    gate: Arc<Semaphore>,
    broken: bool,
}

impl Log for GateLog {
    type Reader = MemReader;

    async fn append(&self, messages: Vec<Message>) -> Result<Vec<Position>, LogError> {
        self.gate.acquire().await.unwrap().forget();
        if self.broken {
            return Err(LogError::Fatal("fsync failed".to_owned()));
        }
        self.log.append(messages).await
    }

    async fn end(&self, partition: u16) -> Result<Option<Position>, LogError> {
        self.log.end(partition).await
    }

    async fn last(&self, partition: u16) -> Result<Option<Bytes>, LogError> {
        self.log.last(partition).await
    }

    async fn reader(&self, p: u16, after: Option<Position>) -> Result<MemReader, LogError> {
        self.log.reader(p, after).await
    }

    async fn trim(&self, applied: &[(u16, u64)]) -> Result<u64, LogError> {
        self.log.trim(applied).await
    }

    fn partitions(&self) -> u16 {
        self.log.partitions()
    }

    fn identity(&self) -> eventlog::position::Identity {
        self.log.identity()
    }
}

fn settings() -> Settings {
    Settings { verify_threads: 1, flush_ms: 5, retry_for_ms: 1_000, ..Settings::default() }
}

fn gated(settings: Settings, broken: bool) -> (Rig<GateLog>, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let log = GateLog { log: MemLog::new(4, [1; 16]), gate: Arc::clone(&gate), broken };
    (rig(log, &World::new(), settings), gate)
}

fn click(number: u64) -> Bytes {
    let token = World::new().token(1);
    batch(number, vec![event(Kind::Click, &token)], Vec::new())
}

type Submit = JoinHandle<Result<(), SubmitError>>;

fn submit<L: Log>(rig: &Rig<L>, bytes: Bytes) -> Submit {
    let collector = Arc::clone(&rig.collector);
    tokio::spawn(async move { collector.submit(bytes).await.map(drop) })
}

/// Lets everything run that can; with a paused clock, time then goes on by so much.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

#[tokio::test(start_paused = true)]
async fn an_acknowledgement_comes_after_the_write_and_not_before() {
    let (rig, gate) = gated(settings(), false);
    let first = submit(&rig, click(0));
    settle().await;
    assert!(!first.is_finished());
    gate.add_permits(1);
    assert_eq!(first.await.unwrap(), Ok(()));
    assert_eq!(read_all(&*rig.log).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_makes_the_next_wait_and_drops_nothing() {
    let (rig, gate) = gated(Settings { queue_items_max: 2, ..settings() }, false);
    let submits: Vec<_> = (0..5).map(|number| submit(&rig, click(number))).collect();
    settle().await;
    assert_eq!(rig.collector.metrics().queue_items.get(), 2);
    assert!(submits.iter().all(|submit| !submit.is_finished()));
    gate.add_permits(1);
    settle().await;
    assert_eq!(submits.iter().filter(|submit| submit.is_finished()).count(), 2);
    gate.add_permits(10);
    for submit in submits {
        assert_eq!(submit.await.unwrap(), Ok(()));
    }
    assert_eq!(read_all(&*rig.log).await.len(), 5);
    assert_eq!(rig.collector.metrics().queue_items.get(), 0);
    assert_eq!(rig.collector.metrics().queue_bytes.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_in_bytes_and_still_takes_what_is_larger_than_it() {
    let (rig, gate) = gated(Settings { queue_bytes_max: 700, ..settings() }, false);
    let small: Vec<_> = (0..3).map(|number| submit(&rig, click(number))).collect();
    settle().await;
    assert_eq!(rig.collector.metrics().queue_items.get(), 1);
    let token = World::new().token(1);
    let large = batch(3, vec![event(Kind::Click, &token); 40], Vec::new());
    assert!(large.len() > 700);
    let large = submit(&rig, large);
    gate.add_permits(10);
    for submit in small.into_iter().chain([large]) {
        assert_eq!(submit.await.unwrap(), Ok(()));
    }
    assert_eq!(read_all(&*rig.log).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn what_waits_while_an_append_runs_goes_together_and_in_order() {
    let (rig, gate) = gated(settings(), false);
    let mut submits = Vec::new();
    for number in 0..6 {
        submits.push(submit(&rig, click(number)));
        settle().await;
    }
    gate.add_permits(2);
    for submit in submits {
        assert_eq!(submit.await.unwrap(), Ok(()));
    }
    for partition in 0..4 {
        let messages = rig.log.log.messages(partition);
        let numbers = |bytes: &Bytes| -> Vec<u64> {
            MessageView::read(bytes).unwrap().batches.iter().map(|batch| batch.number).collect()
        };
        let numbers: Vec<_> = messages.iter().map(numbers).collect();
        assert_eq!(numbers, [vec![0], vec![1, 2, 3, 4, 5]]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_acknowledgement_repeats_the_same_messages() {
    for faults in [
        Faults { lose_ack: 2, ..Faults::default() },
        Faults { write_half: 1, ..Faults::default() },
        Faults { fail_before_write: 3, ..Faults::default() },
        Faults { no_space: 1, ..Faults::default() },
    ] {
        let rig = rig(MemLog::new(4, [1; 16]), &World::new(), settings());
        rig.log.set_faults(faults);
        assert_eq!(submit(&rig, click(0)).await.unwrap(), Ok(()));
        for partition in 0..4 {
            let messages = rig.log.messages(partition);
            assert!(messages.windows(2).all(|pair| pair[0] == pair[1]), "{faults:?}");
            let skipped = read_partition(&*rig.log, partition).await.1;
            assert_eq!(skipped, messages.len() - 1);
            if faults.lose_ack > 0 {
                assert_eq!(messages.len(), 3);
            }
        }
        assert_eq!(read_all(&*rig.log).await["edge-1/1/0"].rows.len(), 1);
        assert!(rig.collector.metrics().append_retries.get() > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_append_that_is_given_up_is_sent_again_by_its_sender() {
    let rig = rig(MemLog::new(4, [1; 16]), &World::new(), settings());
    // Half is written, then the log is away for longer than an append is tried: two seconds of
    // backoff are at most seven attempts.
    rig.log.set_faults(Faults { write_half: 1, fail_before_write: 0, ..Faults::default() });
    let first = submit(&rig, click(0));
    tokio::time::sleep(Duration::from_millis(6)).await;
    rig.log.set_faults(Faults { fail_before_write: 100, ..Faults::default() });
    assert!(matches!(first.await.unwrap(), Err(SubmitError::Retry(_))));
    assert_eq!(rig.collector.metrics().appends_failed.get(), 1);
    rig.log.set_faults(Faults::default());
    // The key is revoked before the batch is sent again: the row that was written the first time stays, and
    // no second row for the same event is written elsewhere.
    let mut world = World::new();
    world.store.revoke(world.store.issuers[0].public.id).unwrap();
    rig.keys.send_replace(Arc::new(world.keys()));
    assert_eq!(submit(&rig, click(0)).await.unwrap(), Ok(()));
    let rows = &read_all(&*rig.log).await["edge-1/1/0"].rows;
    assert_eq!(rows.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_log_that_failed_for_good_ends_the_process() {
    let (rig, gate) = gated(settings(), true);
    let waiting = submit(&rig, click(0));
    settle().await;
    let collector = Arc::clone(&rig.collector);
    let fatal = tokio::spawn(async move { collector.fatal().await });
    settle().await;
    assert!(!fatal.is_finished());
    gate.add_permits(10);
    assert!(
        matches!(waiting.await.unwrap(), Err(SubmitError::Retry(why)) if why.contains("fsync"))
    );
    assert!(fatal.await.unwrap().contains("fsync failed"));
    assert!(matches!(submit(&rig, click(1)).await.unwrap(), Err(SubmitError::Retry(_))));
    rig.collector.close().await;
}

#[tokio::test(start_paused = true)]
async fn closing_flushes_what_was_taken_and_takes_nothing_more() {
    let slow = Settings { flush_ms: 3_600_000, ..settings() };
    let rig = rig(MemLog::new(4, [1; 16]), &World::new(), slow);
    let submits: Vec<_> = (0..3).map(|number| submit(&rig, click(number))).collect();
    settle().await;
    assert!(submits.iter().all(|submit| !submit.is_finished()));
    tokio::time::timeout(Duration::from_secs(1), rig.collector.close()).await.unwrap();
    for submit in submits {
        assert_eq!(submit.await.unwrap(), Ok(()));
    }
    assert_eq!(read_all(&*rig.log).await.len(), 3);
    assert!(matches!(submit(&rig, click(9)).await.unwrap(), Err(SubmitError::Retry(_))));
    rig.collector.close().await;
}

#[tokio::test(start_paused = true)]
async fn closing_lets_those_who_wait_for_a_place_know() {
    let (rig, gate) = gated(Settings { queue_items_max: 1, ..settings() }, false);
    let taken = submit(&rig, click(0));
    settle().await;
    let waiting = submit(&rig, click(1));
    settle().await;
    let collector = Arc::clone(&rig.collector);
    let close = tokio::spawn(async move { collector.close().await });
    assert!(matches!(waiting.await.unwrap(), Err(SubmitError::Retry(_))));
    gate.add_permits(1);
    assert_eq!(taken.await.unwrap(), Ok(()));
    close.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_batch_sent_twice_at_once_is_there_once_and_acknowledged_twice() {
    let rig = rig(MemLog::new(4, [1; 16]), &World::new(), settings());
    let submits = [submit(&rig, click(0)), submit(&rig, click(0)), submit(&rig, click(1))];
    for submit in submits {
        assert_eq!(submit.await.unwrap(), Ok(()));
    }
    for partition in 0..4 {
        let messages = rig.log.messages(partition);
        assert_eq!(messages.len(), 1);
        assert_eq!(MessageView::read(&messages[0]).unwrap().batches.len(), 2);
    }
    assert_eq!(read_all(&*rig.log).await.len(), 2);
}

// Verified on other threads: the time is real.
#[tokio::test]
async fn a_partition_that_is_full_goes_at_once() {
    // The timer alone would flush after an hour.
    let slow = Settings { flush_ms: 3_600_000, ..settings() };
    let rig = rig(MemLog::new(1, [1; 16]), &World::new(), slow);
    let token = World::new().token(1);
    // 8 batches × 500 served events with proof are more than 256 KiB.
    let large = |number| batch(number, vec![event(Kind::Served, &token); 500], Vec::new());
    let submits: Vec<_> = (0..8).map(|number| submit(&rig, large(number))).collect();
    while !submits.iter().any(|submit| submit.is_finished()) {
        settle().await;
    }
    rig.collector.close().await;
    for submit in submits {
        assert_eq!(submit.await.unwrap(), Ok(()));
    }
    assert_eq!(read_all(&*rig.log).await.len(), 8);
}

#[test]
fn a_coalescer_begins_anew() {
    let mut coalescer: Coalescer<u8> = Coalescer::new(super::world::map(3));
    let batch = crate::verify::JudgedBatch {
        entry: shared::wire::BatchEntry {
            outbox: shared::OutboxId { edge: super::world::EDGE, epoch: 1 },
            number: 0,
            watermark: NOW,
            digest: BatchDigest([1; 16]),
            declared: vec![(NOW.minute(), 5)],
        },
        tallies: vec![shared::wire::Tally {
            minute: NOW.minute(),
            kind: Kind::Click,
            reason: Reason::OutboxFull,
            count: 5,
        }],
        rows: Vec::new(),
    };
    for round in 0..2 {
        assert!(coalescer.is_empty());
        coalescer.batch(&batch, 1);
        coalescer.batch(&batch, 2);
        let flush = coalescer.finish(NOW);
        assert_eq!(flush.acks, [1, 2], "round {round}");
        let tallies: usize = flush
            .messages
            .iter()
            .map(|message| MessageView::read(&message.payload).unwrap().tallies.len())
            .sum();
        assert_eq!((flush.messages.len(), tallies), (3, 1));
    }
    // Another content under the same number is not the same batch.
    let mut other = batch.clone();
    other.entry.digest = BatchDigest([2; 16]);
    coalescer.batch(&batch, 1);
    coalescer.batch(&other, 2);
    for message in coalescer.finish(NOW).messages {
        let digests = MessageView::read(&message.payload).unwrap().batches;
        assert_eq!(digests.iter().map(|batch| batch.digest.0[0]).collect::<Vec<_>>(), [1, 2]);
    }
}

#[test]
fn many_partitions_are_due_by_their_sum() {
    let mut coalescer: Coalescer<()> = Coalescer::new(super::world::map(1_024));
    let batch = |number| crate::verify::JudgedBatch {
        entry: shared::wire::BatchEntry {
            outbox: shared::OutboxId { edge: super::world::EDGE, epoch: 1 },
            number,
            watermark: NOW,
            digest: BatchDigest([1; 16]),
            declared: Vec::new(),
        },
        tallies: Vec::new(),
        rows: Vec::new(),
    };
    let mut number = 0;
    while !coalescer.is_due() {
        coalescer.batch(&batch(number), ());
        number += 1;
    }
    let flush = coalescer.finish(NOW);
    let bytes: usize = flush.messages.iter().map(|message| message.payload.len()).sum();
    assert!(bytes <= crate::coalesce::FLUSH_BYTES_ALL, "{bytes}");
    assert!(!coalescer.is_due() && coalescer.is_empty());
}

/// A collector whose clock disagrees with the log's takes nothing of any kind, and says why; when it
/// is right again, it goes on by itself.
#[tokio::test]
async fn behind_the_log_nothing_is_taken_and_nothing_is_lost() {
    let log = MemLog::new(4, [1; 16]);
    let before = rig(log.clone(), &World::new(), settings());
    before.clock.0.store(NOW.plus_ms(7_200_000).0, Ordering::SeqCst);
    before.collector.submit(click(0)).await.unwrap();
    before.collector.close().await;
    let written = log.messages(0).len();

    let rig = rig(log.clone(), &World::new(), settings());
    let refused = rig.collector.submit(click(1)).await;
    assert!(
        matches!(&refused, Err(SubmitError::Retry(why)) if why.contains("--clock-is-right 2026-01-31T12:00:00Z")),
        "{refused:?}"
    );
    let garbage = rig.collector.submit(Bytes::from_static(b"garbage")).await;
    assert!(matches!(garbage, Err(SubmitError::Retry(_))), "{garbage:?}");
    let outbox = shared::OutboxId { edge: EDGE, epoch: 1 };
    assert!(matches!(rig.collector.resolve(outbox, 3).await, Err(SubmitError::Retry(_))));
    let why = rig.collector.trouble().unwrap();
    assert!(why.contains("the log is ahead") && why.contains("2026-01-31T14:00:00Z"), "{why}");
    assert_eq!((log.messages(0).len(), log.messages(eventlog::DEAD).len()), (written, 0));

    rig.clock.0.store(NOW.plus_ms(7_199_000).0, Ordering::SeqCst);
    rig.collector.submit(click(1)).await.unwrap();
    assert_eq!(rig.collector.trouble(), None);
    // What this process has written stands in the log too.
    rig.clock.0.store(NOW.0, Ordering::SeqCst);
    assert!(matches!(rig.collector.submit(click(2)).await, Err(SubmitError::Retry(_))));
}

#[tokio::test]
async fn an_operator_may_say_that_the_clock_is_right() {
    let log = MemLog::new(4, [1; 16]);
    let before = rig(log.clone(), &World::new(), settings());
    before.clock.0.store(NOW.minus_ms(30 * 24 * HOUR_MS).0, Ordering::SeqCst);
    before.collector.submit(click(0)).await.unwrap();
    let rig_without = rig(log.clone(), &World::new(), settings());
    assert!(rig_without.collector.submit(click(1)).await.is_err());
    let said = Settings { clock_is_right: Some(NOW.minus_ms(20_000)), ..settings() };
    let rig_with = rig(log, &World::new(), said);
    rig_with.collector.submit(click(1)).await.unwrap();
}

/// A log that takes messages of 8 KiB, and what fits and does not. A flush gathers all that comes
/// within half a second.
fn small_log() -> (Rig<MemLog>, Bytes) {
    let rig = rig(MemLog::new(4, [1; 16]), &World::new(), Settings { flush_ms: 500, ..settings() });
    rig.log.set_message_bytes_max(8 << 10);
    let world = World::new();
    let tokens: Vec<_> = (0..300).map(|seq| world.token(seq)).collect();
    let events = tokens.iter().map(|token| event(Kind::Served, token)).collect();
    (rig, batch(1_000, events, Vec::new()))
}

/// A batch that the log never takes once made the whole append fail, and all senders send again.
#[tokio::test]
async fn one_batch_that_is_too_large_for_the_log_fails_no_other() {
    let (rig, poison) = small_log();
    let mut good: Vec<_> = (0..9).map(|number| submit(&rig, click(number))).collect();
    let refused = submit(&rig, poison);
    good.extend((9..20).map(|number| submit(&rig, click(number))));
    for submit in good {
        assert_eq!(submit.await.unwrap(), Ok(()));
    }
    let refused = refused.await.unwrap();
    assert!(
        matches!(&refused, Err(SubmitError::NotAllowed(Refusal::BatchTooLarge, why)) if why.contains("by itself")),
        "{refused:?}"
    );
    let all = read_all(&*rig.log).await;
    assert_eq!(all.len(), 20);
    for partition in 0..4 {
        assert_eq!(read_partition(&*rig.log, partition).await.1, 0, "each went once");
    }
    assert!(rig.log.messages(eventlog::DEAD).is_empty(), "its sender has it, and was told");
    let metrics = rig.collector.metrics();
    assert!((1..=6).contains(&metrics.appends_split.get()), "{}", metrics.appends_split.get());
    assert_eq!(metrics.appends_failed.get(), 0);
}

#[tokio::test]
async fn what_is_too_large_together_goes_apart_and_in_order() {
    let (rig, _) = small_log();
    // 60 × 10 rows of some 200 bytes are more than 4 × 8 KiB.
    let token = World::new().token(1);
    let many = |number| batch(number, vec![event(Kind::Served, &token); 10], Vec::new());
    let submits: Vec<_> = (0..60).map(|number| submit(&rig, many(number))).collect();
    for submit in submits {
        assert_eq!(submit.await.unwrap(), Ok(()));
    }
    assert_eq!(read_all(&*rig.log).await.len(), 60);
    let messages = rig.log.messages(0);
    assert!(messages.len() > 1);
    let numbers = |bytes: &Bytes| -> Vec<u64> {
        MessageView::read(bytes).unwrap().batches.iter().map(|batch| batch.number).collect()
    };
    assert!(messages.iter().flat_map(numbers).is_sorted());
}

/// Over NATS the sender gets no answer, so the batch is kept with the dead letters: as many bytes of it as
/// the log takes.
#[tokio::test]
async fn a_dead_letter_is_as_small_as_the_log_wants_it() {
    let (rig, poison) = small_log();
    let refused = rig.collector.submit_from_edge(EDGE.as_str(), poison.clone()).await;
    assert!(matches!(refused, Err(SubmitError::Refused(_))), "{refused:?}");
    let letters = rig.log.messages(eventlog::DEAD);
    let letter = DeadLetter::read(&letters[0]).unwrap();
    assert!(letters.len() == 1 && poison.starts_with(letter.bytes));
    assert!(letter.bytes.len() >= 4 << 10, "{}", letter.bytes.len());
    assert!(letter.reason.contains(&format!("of {} bytes", poison.len())), "{}", letter.reason);
}
