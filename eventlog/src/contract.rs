//! The contract of a [`Log`], as one test that every adapter and fake passes.
//!
//! It panics with what is broken. Run it in a tokio test:
//!
//! ```ignore
//! eventlog::contract::check(&mut MySubject::new()).await;
//! ```
//!
//! A *lost acknowledgement* cannot be caused through the trait. An adapter that
//! can be made to lose one is tested with [`check_lost_ack`].

#![allow(clippy::unwrap_used, reason = "a test: a panic is how it says what is broken")]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::log::{DEAD, Log, LogError, Message, PositionPart, Reader};
use crate::position::{Position, digest};

/// What the contract is checked on.
pub trait Subject {
    /// The log.
    type Log: Log;

    /// An empty log with at least 3 partitions, and with segments (or what
    /// corresponds to them) of at most 4 KiB, so that trimming has something
    /// to remove. Every call gives a new log with another identity.
    fn fresh(&mut self) -> impl Future<Output = Self::Log>;

    /// Closes the log and opens it again, as a process does that ends and starts.
    fn reopen(&mut self, log: Self::Log) -> impl Future<Output = Self::Log>;
}

/// Checks everything. Panics when the contract is broken.
pub async fn check<S: Subject>(subject: &mut S) {
    order_and_positions(&subject.fresh().await).await;
    empty_log(&subject.fresh().await).await;
    limits(&subject.fresh().await).await;
    readers_begin_where_told(&subject.fresh().await).await;
    wrong_positions(&subject.fresh().await, &subject.fresh().await).await;
    waiting(&subject.fresh().await).await;
    concurrent(&subject.fresh().await).await;
    trimming(subject).await;
    trimming_letters(subject).await;
    reopening(subject).await;
}

/// A message of a partition.
fn message(partition: u16, payload: impl Into<Bytes>) -> Message {
    Message { partition, payload: payload.into() }
}

async fn append<L: Log>(log: &L, partition: u16, payload: impl Into<Bytes>) -> Position {
    let positions = log.append(vec![message(partition, payload)]).await.unwrap();
    positions[0]
}

/// Reads everything up to the end, with a reader that has given out the messages up to `after`.
async fn drain<L: Log>(
    log: &L,
    partition: u16,
    reader: &mut L::Reader,
    after: u64,
) -> Vec<(u64, Bytes)> {
    let end = log.end(partition).await.unwrap().map_or(0, |end| end.sequence);
    let mut out = Vec::new();
    for _ in after..end {
        let delivered = reader.next().await.unwrap();
        assert_eq!(delivered.position.digest, digest(&delivered.payload));
        out.push((delivered.position.sequence, delivered.payload));
    }
    assert_eq!(reader.try_next().unwrap(), None, "nothing is behind the end");
    out
}

fn poll_once<F: Future>(future: std::pin::Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

async fn order_and_positions<L: Log>(log: &L) {
    let first = vec![message(0, "a"), message(1, "b"), message(0, ""), message(DEAD, "d")];
    let positions = log.append(first).await.unwrap();
    let sequences: Vec<_> = positions.iter().map(|p| p.sequence).collect();
    assert_eq!(sequences, [1, 1, 2, 1], "positions are in the order given");
    assert_eq!(positions[0].digest, digest(b"a"));
    assert!(positions.iter().all(|p| p.identity == log.identity()));
    assert_eq!(append(log, 0, "e").await.sequence, 3);

    let mut reader = log.reader(0, None).await.unwrap();
    let delivered = reader.next().await.unwrap();
    assert_eq!(delivered.position, positions[0]);
    assert_eq!(delivered.payload, "a");
    let rest = [(2, Bytes::new()), (3, Bytes::from("e"))];
    assert_eq!(drain(log, 0, &mut reader, 1).await, rest);
    let mut dead = log.reader(DEAD, None).await.unwrap();
    assert_eq!(drain(log, DEAD, &mut dead, 0).await, [(1, Bytes::from("d"))]);
    assert_eq!(log.end(0).await.unwrap().unwrap().sequence, 3);
    assert_eq!(log.end(1).await.unwrap(), Some(positions[1]));
    let last = [log.last(0).await.unwrap(), log.last(1).await.unwrap()];
    assert_eq!(last, [Some(Bytes::from("e")), Some(Bytes::from("b"))]);
}

async fn empty_log<L: Log>(log: &L) {
    assert!(log.partitions() >= 3);
    for partition in [0, log.partitions() - 1, DEAD] {
        assert_eq!(log.end(partition).await.unwrap(), None);
        assert_eq!(log.last(partition).await.unwrap(), None);
        let mut reader = log.reader(partition, None).await.unwrap();
        assert_eq!(reader.try_next().unwrap(), None);
    }
    assert_eq!(log.append(Vec::new()).await.unwrap(), []);
    assert_eq!(log.end(0).await.unwrap(), None, "no message, no write");
    assert_eq!(log.trim(&[(0, 9)]).await.unwrap(), 0);
}

async fn limits<L: Log>(log: &L) {
    let beyond = log.partitions();
    let unknown = |error| matches!(error, LogError::UnknownPartition { partition, .. } if partition == beyond);
    let both = vec![message(0, "x"), message(beyond, "y")];
    assert!(unknown(log.append(both).await.unwrap_err()));
    assert_eq!(log.end(0).await.unwrap(), None, "nothing of it is written");
    assert!(unknown(log.end(beyond).await.unwrap_err()));
    let Err(error) = log.reader(beyond, None).await else {
        panic!("a reader of a partition that does not exist");
    };
    assert!(unknown(error));
}

async fn readers_begin_where_told<L: Log>(log: &L) {
    let mut positions = Vec::new();
    for number in 0..40_u8 {
        positions.push(append(log, 1, vec![number; 500]).await);
        append(log, 2, vec![number; 700]).await;
    }
    for (index, position) in positions.iter().enumerate() {
        let mut reader = log.reader(1, Some(*position)).await.unwrap();
        let got = drain(log, 1, &mut reader, position.sequence).await;
        assert_eq!(got.len(), 39 - index);
        for (back, (sequence, payload)) in got.iter().rev().enumerate() {
            assert_eq!(*sequence, 40 - back as u64);
            assert_eq!(payload[..], [39 - back as u8; 500]);
        }
    }
    let again = log.append(vec![message(1, "x"), message(1, "y")]).await;
    assert_eq!(again.unwrap()[1].sequence, 42);
}

async fn wrong_positions<L: Log>(log: &L, other: &L) {
    append(log, 0, "a").await;
    let good = append(log, 0, "b").await;
    assert_ne!(log.identity(), other.identity());
    append(other, 0, "a").await;
    let foreign = append(other, 0, "b").await;
    let of_digest = Position { digest: digest(b"c"), ..good };
    for (position, part) in [(foreign, PositionPart::Identity), (of_digest, PositionPart::Digest)] {
        match log.reader(0, Some(position)).await {
            Err(LogError::Mismatch { part: found, .. }) => assert_eq!(found, part),
            Err(error) => panic!("{part:?} differs, but: {error}"),
            Ok(_) => panic!("{part:?} differs, but a reader was given"),
        }
    }
    let ahead = Position { sequence: 3, ..good };
    match log.reader(0, Some(ahead)).await {
        Err(LogError::StepBack { sequence, end, .. }) => assert_eq!((sequence, end), (3, 2)),
        Err(error) => panic!("the position is beyond the end, but: {error}"),
        Ok(_) => panic!("the position is beyond the end, but a reader was given"),
    }
    let mut reader = log.reader(0, Some(good)).await.unwrap();
    assert_eq!(reader.try_next().unwrap(), None);
}

async fn waiting<L: Log>(log: &L) {
    let mut reader = log.reader(1, None).await.unwrap();
    {
        let mut next = pin!(reader.next());
        assert!(poll_once(next.as_mut()).is_pending(), "waits at the end");
        append(log, 0, "another partition's").await;
        assert!(poll_once(next.as_mut()).is_pending(), "still waits");
    }
    // The future above was dropped: nothing may be lost with it.
    let (delivered, _) = tokio::join!(reader.next(), append(log, 1, "x"));
    assert_eq!(delivered.unwrap().payload, "x");
    append(log, 1, "y").await;
    append(log, 1, "z").await;
    assert_eq!(reader.next().await.unwrap().payload, "y");
    assert_eq!(reader.next().await.unwrap().position.sequence, 3);
    assert_eq!(reader.try_next().unwrap(), None);
}

async fn concurrent<L: Log>(log: &L) {
    let write = |writer: u8| async move {
        for number in 0..25_u8 {
            let messages = (0..3).map(|_| message(0, vec![writer, number])).collect();
            let positions = log.append(messages).await.unwrap();
            let first = positions[0].sequence;
            assert_eq!(positions[2].sequence, first + 2, "they follow each other");
        }
    };
    let read = async {
        let mut reader = log.reader(0, None).await.unwrap();
        let mut last = [None; 4];
        for index in 0..100 {
            let mut three = Vec::new();
            for part in 1..=3 {
                let delivered = reader.next().await.unwrap();
                assert_eq!(delivered.position.sequence, index * 3 + part, "gapless");
                three.push(delivered.payload);
            }
            assert!(three.iter().all(|payload| *payload == three[0]));
            let (writer, number) = (three[0][0], three[0][1]);
            let before = last[usize::from(writer)].replace(number);
            assert_eq!(before, number.checked_sub(1), "a writer's order is kept");
        }
    };
    tokio::join!(write(0), write(1), write(2), write(3), read);
}

async fn trimming<S: Subject>(subject: &mut S) {
    let log = subject.fresh().await;
    let mut positions = Vec::new();
    // A letter that is not resolved keeps letters from being trimmed, and nothing else.
    append(&log, DEAD, "letter").await;
    for number in 0..60_u8 {
        positions.push(append(&log, 0, vec![number; 500]).await);
    }
    append(&log, 1, "kept").await;
    let mut slow = log.reader(0, None).await.unwrap();
    assert_eq!(slow.next().await.unwrap().payload[..], [0; 500]);
    let applied = positions[39];
    assert!(log.trim(&[(0, applied.sequence), (1, 0)]).await.unwrap() > 0);

    match log.reader(0, None).await {
        Err(LogError::Trimmed { sequence, first, .. }) => {
            assert_eq!(sequence, 1);
            assert!(first > 1 && first <= applied.sequence + 1);
        }
        Err(error) => panic!("the start is trimmed, but: {error}"),
        Ok(_) => panic!("the start is trimmed, but a reader was given"),
    }
    overtaken(&mut slow).await;
    after_trim(&log, applied).await;
    let log = subject.reopen(log).await;
    after_trim(&log, applied).await;
    // Everything applied, even beyond the end: the ends stay known.
    let all = [(0, u64::MAX), (1, u64::MAX)];
    log.trim(&all).await.unwrap();
    assert_eq!(log.end(0).await.unwrap(), Some(positions[59]));
    let mut reader = log.reader(0, Some(positions[59])).await.unwrap();
    assert_eq!(reader.try_next().unwrap(), None);
    assert_eq!(append(&log, 0, "on").await.sequence, 61);
    assert_eq!(drain(&log, 0, &mut reader, 60).await, [(61, Bytes::from("on"))]);
}

/// Trimmed letters go, and a reader without a position begins with the first that is left.
async fn trimming_letters<S: Subject>(subject: &mut S) {
    let log = subject.fresh().await;
    append(&log, 0, "an event").await;
    for number in 1..=60_u8 {
        append(&log, DEAD, vec![number; 500]).await;
    }
    assert!(log.trim(&[(DEAD, 40)]).await.unwrap() > 0);
    let log = subject.reopen(log).await;
    let mut letters = log.reader(DEAD, None).await.unwrap();
    let first = letters.next().await.unwrap();
    assert!((2..=41).contains(&first.position.sequence), "{:?}", first.position);
    for sequence in first.position.sequence + 1..=60 {
        let letter = letters.next().await.unwrap();
        assert_eq!(letter.position.sequence, sequence);
        assert_eq!(letter.payload[..], [sequence as u8; 500]);
    }
    let mut events = log.reader(0, None).await.unwrap();
    assert_eq!(drain(&log, 0, &mut events, 0).await, [(1, Bytes::from("an event"))]);
}

/// A reader that trimming has overtaken goes on without a gap or says so.
async fn overtaken(reader: &mut impl Reader) {
    let mut last = 1;
    while last < 60 {
        match reader.next().await {
            Ok(delivered) => {
                assert_eq!(delivered.position.sequence, last + 1, "a jump");
                last += 1;
            }
            Err(LogError::Trimmed { sequence, .. }) => return assert_eq!(sequence, last + 1),
            Err(error) => panic!("overtaken by trimming, but: {error}"),
        }
    }
}

async fn after_trim<L: Log>(log: &L, applied: Position) {
    let mut reader = log.reader(0, Some(applied)).await.unwrap();
    let left: Vec<_> =
        drain(log, 0, &mut reader, applied.sequence).await.into_iter().map(|(s, _)| s).collect();
    let expected: Vec<_> = (applied.sequence + 1..=60).collect();
    assert_eq!(left, expected, "what follows a trimmed position stays");
    let other = Position { digest: digest(b"other"), ..applied };
    let result = log.reader(0, Some(other)).await;
    assert!(matches!(result, Err(LogError::Mismatch { .. })));
    let mut kept = log.reader(1, None).await.unwrap();
    assert_eq!(drain(log, 1, &mut kept, 0).await, [(1, Bytes::from("kept"))]);
}

async fn reopening<S: Subject>(subject: &mut S) {
    let mut log = subject.fresh().await;
    let identity = log.identity();
    let mut positions = Vec::new();
    for round in 0..4_u8 {
        for number in 0..10_u8 {
            positions.push(append(&log, 0, vec![round, number]).await);
        }
        log = subject.reopen(log).await;
        assert_eq!(log.identity(), identity);
        assert_eq!(log.end(0).await.unwrap(), positions.last().copied());
        assert_eq!(log.end(1).await.unwrap(), None);
        for position in &positions {
            let mut reader = log.reader(0, Some(*position)).await.unwrap();
            let left = positions.len() as u64 - position.sequence;
            let got = drain(&log, 0, &mut reader, position.sequence).await;
            assert_eq!(got.len() as u64, left);
        }
    }
    abandoned(&log, positions.len() as u64).await;
}

/// An append whose future is dropped is written whole or not at all, and
/// before whatever is appended later.
async fn abandoned<L: Log>(log: &L, end: u64) {
    {
        let mut gone = pin!(log.append(vec![message(0, "gone"), message(0, "gone")]));
        let _ = poll_once(gone.as_mut());
    }
    let later = append(log, 0, "later").await;
    let mut reader = log.reader(0, None).await.unwrap();
    let got = drain(log, 0, &mut reader, 0).await;
    let tail: Vec<_> = got[end as usize..].iter().map(|(_, p)| &p[..]).collect();
    match later.sequence - end {
        1 => assert_eq!(tail, [&b"later"[..]]),
        3 => assert_eq!(tail, [&b"gone"[..], b"gone", b"later"]),
        other => panic!("{other} messages where 1 or 3 were possible"),
    }
}

/// Checks a lost acknowledgement: `lose_next` makes the log write the next
/// append and answer it with an error. The error must be retryable, the message
/// must be there, and appending it again must add it a second time; readers
/// see both, without a gap.
pub async fn check_lost_ack<L: Log>(log: &L, lose_next: impl FnOnce()) {
    let first = append(log, 0, "first").await;
    lose_next();
    let error = log.append(vec![message(0, "again")]).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert_eq!(append(log, 0, "again").await.sequence, first.sequence + 2);
    let mut reader = log.reader(0, Some(first)).await.unwrap();
    let payloads: Vec<_> =
        drain(log, 0, &mut reader, first.sequence).await.into_iter().map(|(_, p)| p).collect();
    assert_eq!(payloads, ["again", "again"]);
}

#[cfg(test)]
mod tests;
