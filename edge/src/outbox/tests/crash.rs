//! A process that dies: its directory, as it was at some moment, is opened again.

use super::super::tally_file::TallyFile;
use super::*;

const FORGED: (Kind, Reason) = (Kind::Click, Reason::BadSeal);

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_is_closed_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    for (round, epoch) in [(0_u32, START.0), (1, START.0 + 1), (2, START.0 + 2)] {
        // The clock stands still, and yet no epoch comes twice.
        let (outbox, opened) = open(dir.path(), &clock);
        assert_eq!(opened.outbox.epoch, epoch);
        append(&outbox, [draft(round * 2), draft(round * 2 + 1)]).await;
        outbox.tally(START, FORGED.0, FORGED.1, 5);
        drop(outbox);
    }
    let audit = audit(&batches(dir.path()));
    assert_eq!((audit.epochs, audit.closed), (3, 2), "the last one died as well");
    assert_eq!(audit.events.len(), 6);
    assert_eq!(audit.tallied[&FORGED], 10, "the last 5 are still in their file");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_end_leaves_nothing_to_close() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let (outbox, _) = open(dir.path(), &clock);
    append(&outbox, [draft(1)]).await;
    outbox.tally(START, FORGED.0, FORGED.1, 5);
    outbox.close().await.unwrap();
    assert_eq!(outbox.append(vec![draft(2)]).unwrap_err(), AppendError::Closed);
    drop(outbox);
    let closed = audit(&batches(dir.path()));
    assert_eq!((closed.epochs, closed.closed, closed.tallied[&FORGED]), (1, 1, 5));
    let (outbox, opened) = open(dir.path(), &clock);
    assert_eq!(opened.last.unwrap().watermark, Timestamp::MAX);
    drop(outbox);
    assert_eq!(audit(&batches(dir.path())).closed, 1, "and the new one is open");
}

/// The log, cut at every byte after its last acknowledged group: what a crash during a write
/// leaves.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_last_write_leaves_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let (outbox, _) = open(dir.path(), &clock);
    append(&outbox, [draft(1)]).await;
    let durable = outbox.depth().disk_bytes;
    append(&outbox, [draft(2)]).await;
    let whole = outbox.depth().disk_bytes;
    drop(outbox);
    for length in (durable..=whole).step_by(7).chain([whole - 1, whole]) {
        let torn = tempfile::tempdir().unwrap();
        copy(dir.path(), torn.path());
        let segment = torn.path().join(format!("{:020}.seg", 0));
        std::fs::OpenOptions::new().write(true).open(segment).unwrap().set_len(length).unwrap();
        let (outbox, _) = open(torn.path(), &clock);
        append(&outbox, [draft(3)]).await;
        outbox.close().await.unwrap();
        drop(outbox);
        let audit = audit(&batches(torn.path()));
        assert_eq!((audit.epochs, audit.closed), (2, 2));
        assert_eq!(audit.events.contains(&2), length == whole, "cut at {length} of {whole}");
        assert!(audit.events.contains(&1) && audit.events.contains(&3));
    }
}

/// Every moment between the marking of a hand-over and its clearing, with the files as they are
/// then.
#[tokio::test(flavor = "multi_thread")]
async fn tallies_are_reported_once_wherever_it_dies() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let (outbox, opened) = open(dir.path(), &clock);
    let epoch = opened.outbox.epoch;
    outbox.tally(START, FORGED.0, FORGED.1, 3);
    // The files as the page cache has them while the outbox runs: the log has the opening batch,
    // number 0.
    let counted = tempfile::tempdir().unwrap();
    copy(dir.path(), counted.path());
    // Batch 1 takes the tallies.
    clock.set(START.plus_ms(2_000));
    append(&outbox, [draft(1)]).await;
    let cleared = tempfile::tempdir().unwrap();
    copy(dir.path(), cleared.path());
    outbox.tally(START, FORGED.0, FORGED.1, 4);
    drop(outbox);
    // The marked file, as it is before and after the append.
    let marked = tempfile::tempdir().unwrap();
    copy(counted.path(), marked.path());
    let file = TallyFile::open(marked.path(), Some((epoch, 0))).unwrap();
    assert_eq!(file.begin(clock.now(), (epoch, 1), true).unwrap()[0].count, 3);
    file.add(START.plus_ms(2_000), FORGED.0, FORGED.1, 2).unwrap();
    drop(file);

    let cases = [
        ("before the mark", counted.path(), counted.path(), 3),
        ("marked, not appended", counted.path(), marked.path(), 5),
        ("appended, not cleared", cleared.path(), marked.path(), 5),
        ("cleared", cleared.path(), cleared.path(), 3),
        ("cleared, and counted on", dir.path(), dir.path(), 7),
    ];
    for (name, log, tallies, expected) in cases {
        let died = tempfile::tempdir().unwrap();
        copy(log, died.path());
        std::fs::copy(tallies.join("tallies"), died.path().join("tallies")).unwrap();
        // Twice, for the process that recovers may die too.
        for _ in 0..2 {
            drop(open(died.path(), &clock));
        }
        let (outbox, _) = open(died.path(), &clock);
        outbox.close().await.unwrap();
        drop(outbox);
        let audit = audit(&batches(died.path()));
        assert_eq!(audit.tallied[&FORGED], expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_tally_file_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let (outbox, _) = open(dir.path(), &clock);
    outbox.tally(START, FORGED.0, FORGED.1, 3);
    drop(outbox);
    let path = dir.path().join("tallies");
    let good = std::fs::read(&path).unwrap();
    for (at, offset) in [(64 + 9, 64), (0, 0), (8, 0)] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let clock: Arc<dyn Clock> = Arc::clone(&clock) as Arc<dyn Clock>;
        let opened =
            Outbox::open(&settings(dir.path()), clock, &mut Seeded::new(9), Metrics::default());
        let error = opened.unwrap_err().to_string();
        assert!(error.contains(&format!("tallies, offset {offset}")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_cannot_have_one_outbox() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let (_first, _) = open(dir.path(), &clock);
    let clock: Arc<dyn Clock> = clock;
    let second =
        Outbox::open(&settings(dir.path()), clock, &mut Seeded::new(9), Metrics::default());
    assert!(second.unwrap_err().to_string().contains("in use by another process"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_a_little_moves_no_stamp_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Hands::at(START);
    let (outbox, _) = open(dir.path(), &clock);
    let jumps = [0_u64, 70_000, 10_000, 3_600_000, 3_540_000, 3_540_005, 3_700_000];
    for (number, now) in jumps.into_iter().enumerate() {
        clock.set(START.plus_ms(now));
        assert!(outbox.time(clock.now()) >= START.plus_ms(if number > 3 { 3_600_000 } else { 0 }));
        outbox.tally(outbox.time(clock.now()), FORGED.0, FORGED.1, 1);
        append(&outbox, [draft(number as u32)]).await;
    }
    outbox.close().await.unwrap();
    drop(outbox);
    // `audit` checks each stamp and tally against the watermarks.
    let audit = audit(&batches(dir.path()));
    assert_eq!((audit.events.len(), audit.tallied[&FORGED], audit.epochs), (7, 7, 1));
}
