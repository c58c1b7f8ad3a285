#![allow(clippy::unwrap_used)]

use std::thread;

use tempfile::TempDir;

use super::*;
use crate::position::digest;
use crate::segments::Stored;

/// What the next writes to the file meet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// So many bytes are written, then this error. With 0 bytes the file
    /// cannot be cut either.
    Write {
        upto: usize,
        kind: ErrorKind,
    },
    Sync,
}

const SMALL: SegmentsConfig = SegmentsConfig { segment_bytes: 600 };

fn open(dir: &TempDir, config: SegmentsConfig) -> Segments {
    Segments::open(dir.path(), config, [7; 16]).unwrap().0
}

fn record(stream: u16, payload: &[u8]) -> Record<'_> {
    Record { stream, payload }
}

fn read_all(view: &SegmentsView, stream: u16, after: u64) -> Result<Vec<Stored>> {
    let mut reader = view.reader(stream, after)?;
    let mut out = Vec::new();
    while let Some(stored) = reader.try_next()? {
        assert_eq!(stored.sequence, reader.sequence());
        out.push(stored);
    }
    Ok(out)
}

fn sequences(view: &SegmentsView, stream: u16, after: u64) -> Vec<u64> {
    let all = read_all(view, stream, after).unwrap();
    all.iter().map(|stored| stored.sequence).collect()
}

/// Appends groups of one record for each of the streams 1 and 2.
fn fill(segments: &mut Segments, groups: u64) {
    for _ in 0..groups {
        let next = segments.view().end(1).map_or(1, |end| end.sequence + 1);
        let payload = next.to_le_bytes().repeat(10);
        let both = [record(1, &payload), record(2, b"other")];
        let appended = segments.append(&both).unwrap();
        assert_eq!(appended[0].sequence, next);
        assert_eq!(appended[0].digest, digest(&payload));
    }
}

#[test]
fn streams_are_gapless_over_rolls_and_reopening() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let mut segments = open(&dir, SMALL);
        fill(&mut segments, 10);
        let all: Vec<_> = (1..=round * 10).collect();
        assert_eq!(sequences(segments.view(), 1, 0), all);
        assert_eq!(sequences(segments.view(), 2, 0), all);
        for after in 0..=round * 10 {
            assert_eq!(sequences(segments.view(), 1, after), all[after as usize..]);
        }
        assert_eq!(sequences(segments.view(), 3, 0), [0; 0]);
        assert_eq!(segments.view().streams(), [1, 2]);
        let reader = segments.view().reader(1, 4).unwrap();
        assert_eq!(reader.after_digest(), digest(&4_u64.to_le_bytes().repeat(10)));
    }
    let verified = Segments::verify(dir.path()).unwrap();
    assert_eq!((verified.groups, verified.records), (30, 60));
    assert!(verified.segments > 5 && verified.torn.is_none());
    let (_, recovered) = Segments::open(dir.path(), SMALL, [9; 16]).unwrap();
    assert_eq!(recovered.identity, [7; 16], "an existing log keeps its own");
    assert!(!recovered.created);
    assert_eq!(recovered.segments, verified.segments);
    assert_eq!(recovered.ends[&1].sequence, 30);
}

#[test]
fn a_reader_follows_the_writer_over_rolls() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = open(&dir, SMALL);
    let mut reader = segments.view().reader(1, 0).unwrap();
    assert_eq!(reader.try_next().unwrap(), None);
    for round in 0..30 {
        fill(&mut segments, 1 + round % 3);
        let end = segments.view().end(1).unwrap().sequence;
        while reader.sequence() < end {
            let due = reader.sequence() + 1;
            assert_eq!(reader.try_next().unwrap().unwrap().sequence, due);
        }
        assert_eq!(reader.try_next().unwrap(), None);
    }
    assert!(segments.view().shared.catalog.read().segments.len() > 10);
}

#[test]
fn many_threads_read_while_one_writes() {
    let dir = tempfile::tempdir().unwrap();
    let config = SegmentsConfig { segment_bytes: 20_000 };
    let mut segments = open(&dir, config);
    let view = segments.view().clone();
    let big = vec![5; 70_000];
    thread::scope(|scope| {
        for stream in [1, 2, 3] {
            let view = &view;
            scope.spawn(move || {
                let mut reader = view.reader(stream, 0).unwrap();
                let mut last = 0;
                while last < 200 {
                    match reader.try_next().unwrap() {
                        Some(stored) => {
                            assert_eq!(stored.sequence, last + 1);
                            last += 1;
                        }
                        None => thread::yield_now(),
                    }
                }
            });
        }
        for group in 0..200_usize {
            let payload = vec![group as u8; group * 7];
            // Payloads of every way of reading: in the window and beside it.
            let other = if group % 50 == 0 { &big[..] } else { b"small" };
            let records = [record(1, &payload), record(2, other), record(3, b"")];
            segments.append(&records).unwrap();
        }
    });
}

/// What lies beyond the durable end is being written: a reader neither gives
/// it nor keeps it for later.
#[test]
fn a_reader_sees_nothing_that_is_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = open(&dir, SegmentsConfig::default());
    fill(&mut segments, 2);
    let unfinished = vec![0xee; 500];
    let file = segments.file.file.try_clone().unwrap();
    file.write_all_at(&unfinished, segments.offset).unwrap();
    let mut reader = segments.view().reader(1, 0).unwrap();
    for due in [1, 2] {
        assert_eq!(reader.try_next().unwrap().unwrap().sequence, due);
    }
    assert_eq!(reader.try_next().unwrap(), None);
    fill(&mut segments, 1);
    assert_eq!(reader.try_next().unwrap().unwrap().sequence, 3);
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let segments = open(&dir, SMALL);
    let error = Segments::open(dir.path(), SMALL, [7; 16]).unwrap_err();
    assert!(matches!(error, SegmentsError::Locked { .. }));
    assert!(error.to_string().contains("another process"));
    drop(segments);
    open(&dir, SMALL);
}

#[test]
fn limits_of_a_group() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = open(&dir, SMALL);
    assert_eq!(segments.append(&[]).unwrap(), []);
    let many = vec![record(1, b""); GROUP_RECORDS_MAX + 1];
    let error = segments.append(&many).unwrap_err();
    assert!(matches!(error, SegmentsError::TooLarge { .. }));
    let huge = vec![0; GROUP_BYTES_MAX];
    let error = segments.append(&[record(1, &huge)]).unwrap_err();
    assert!(matches!(error, SegmentsError::TooLarge { .. }));
    assert_eq!(segments.append(&[record(1, b"x")]).unwrap()[0].sequence, 1);
}

#[test]
fn a_full_disk_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = open(&dir, SegmentsConfig::default());
    fill(&mut segments, 2);
    segments.file.fault = Some(Fault::Write { upto: 50, kind: ErrorKind::StorageFull });
    for _ in 0..2 {
        let error = segments.append(&[record(1, b"lost")]).unwrap_err();
        assert!(matches!(error, SegmentsError::NoSpace));
        assert_eq!(sequences(segments.view(), 1, 0), [1, 2]);
        assert_eq!(Segments::verify(dir.path()).unwrap().torn, None);
    }
    segments.file.fault = None;
    fill(&mut segments, 1);
    assert_eq!(sequences(segments.view(), 1, 0), [1, 2, 3]);
    drop(segments);
    let (segments, recovered) = Segments::open(dir.path(), SMALL, [7; 16]).unwrap();
    assert_eq!(recovered.cut, None);
    assert_eq!(sequences(segments.view(), 1, 2), [3]);
}

#[test]
fn a_failed_write_or_fsync_ends_it() {
    let faults = [
        Fault::Sync,
        Fault::Write { upto: 20, kind: ErrorKind::Other },
        Fault::Write { upto: 0, kind: ErrorKind::StorageFull },
    ];
    for fault in faults {
        let dir = tempfile::tempdir().unwrap();
        let mut segments = open(&dir, SegmentsConfig::default());
        fill(&mut segments, 2);
        segments.file.fault = Some(fault);
        let error = segments.append(&[record(1, b"x")]).unwrap_err();
        assert!(matches!(error, SegmentsError::Fatal { .. }), "{fault:?}");
        segments.file.fault = None;
        let error = segments.append(&[record(1, b"x")]).unwrap_err();
        assert!(matches!(error, SegmentsError::Fatal { .. }), "{fault:?}");
        assert!(segments.poisoned().is_some());
        assert_eq!(sequences(segments.view(), 1, 0), [1, 2], "not durable");
        drop(segments);
        let mut segments = open(&dir, SegmentsConfig::default());
        // After a failed fsync alone the record is whole, and found.
        let found = matches!(fault, Fault::Sync);
        let all = sequences(segments.view(), 1, 0);
        assert_eq!(all.len(), 2 + usize::from(found), "{fault:?}");
        fill(&mut segments, 1);
    }
}

#[test]
fn trimming_takes_whole_segments_that_all_have_applied() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = open(&dir, SMALL);
    fill(&mut segments, 20);
    let files = || super::super::recover::list(dir.path()).unwrap().len();
    let before = files();
    assert_eq!(segments.trim(&[(1, 20)]).unwrap(), 0, "2 is not listed");
    assert_eq!(segments.trim(&[(1, 20), (2, 0)]).unwrap(), 0);
    assert_eq!(files(), before);
    assert!(segments.trim(&[(1, 12), (2, 9)]).unwrap() > 0);
    let trimmed = segments.view().trimmed(1);
    assert!((4..=9).contains(&trimmed), "{trimmed}");
    let rest: Vec<_> = (trimmed + 1..=20).collect();
    assert_eq!(sequences(segments.view(), 1, trimmed), rest);
    match segments.view().reader(1, trimmed - 1) {
        Err(SegmentsError::Trimmed { sequence, first, .. }) => {
            assert_eq!((sequence, first), (trimmed, trimmed + 1));
        }
        other => panic!("{other:?}"),
    }
    drop(segments);
    let segments = open(&dir, SMALL);
    assert_eq!(segments.view().trimmed(1), trimmed);
    segments.trim(&[(1, u64::MAX), (2, u64::MAX)]).unwrap();
    assert_eq!(files(), 1, "the one that is written to stays");
    assert_eq!(segments.view().end(1).unwrap().sequence, 20);
    Segments::verify(dir.path()).unwrap();
}

#[test]
fn readers_that_trimming_overtakes() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = open(&dir, SMALL);
    fill(&mut segments, 1);
    segments.append(&[record(9, b"dead")]).unwrap();
    let mut idle = segments.view().reader(9, 1).unwrap();
    let mut slow = segments.view().reader(1, 0).unwrap();
    fill(&mut segments, 20);
    let applied = [(1, 20), (2, 20), (9, 1)];
    assert!(segments.trim(&applied).unwrap() > 0);
    let error = loop {
        match slow.try_next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a jump to the end"),
            Err(error) => break error,
        }
    };
    let due = slow.sequence() + 1;
    let again = slow.try_next().unwrap_err();
    for error in [error, again] {
        let is_trimmed =
            matches!(error, SegmentsError::Trimmed { sequence, .. } if sequence == due);
        assert!(is_trimmed, "{error}");
    }
    // Streams that have nothing in a segment need not be listed for it.
    fill(&mut segments, 20);
    assert!(segments.trim(&[(1, 40), (2, 40)]).unwrap() > 0);
    // Nothing of its stream was lost for this one: it goes on.
    assert_eq!(idle.try_next().unwrap(), None);
    segments.append(&[record(9, b"more")]).unwrap();
    assert_eq!(idle.try_next().unwrap().unwrap().sequence, 2);
}

#[test]
fn beyond_the_end_is_a_step_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut segments = open(&dir, SMALL);
    fill(&mut segments, 3);
    let error = segments.view().reader(1, 4).unwrap_err();
    let SegmentsError::StepBack { sequence, end, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((sequence, end), (4, 3));
    let error = segments.view().reader(5, 1).unwrap_err();
    assert!(matches!(error, SegmentsError::StepBack { end: 0, .. }));
}
