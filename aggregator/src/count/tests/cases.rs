//! Single cases.

use std::ops::Range;

use eventlog::Position;
use shared::limits::{CLOCK_JUMP_MS_MAX, HORIZON_MS};
use shared::wire::message::Entry;
use shared::wire::{BatchEntry, ChunkEntry, Control, Judged, MessageBuilder, Word};
use shared::{
    BatchDigest, BlockId, Codes, EdgeId, Fingerprint, Flags, Id, ImpressionId, Kind, Minute, Money,
    Network, OutboxId, Reason, Region, RuleSet, SourceId, Timestamp, Validity, import,
};

use super::read;
use super::store::Store;
use crate::count::{Applied, ContainerKey, Engine, EngineError, Settings, Snapshot};

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const EDGE: EdgeId = Id::literal("edge-1");

/// An engine, the sequence of its last message, and the stamp of the next.
struct Bench {
    engine: Engine,
    sequence: u64,
    now: Timestamp,
}

impl Bench {
    fn new() -> Self {
        Self { engine: Engine::new(0, Settings::default()), sequence: 0, now: NOW }
    }

    fn apply(&mut self, fill: impl FnOnce(&mut MessageBuilder)) -> Result<Applied, EngineError> {
        let mut builder = MessageBuilder::default();
        fill(&mut builder);
        let bytes = builder.finish(0, self.now);
        let applied = self.engine.apply(&read(&bytes), position(self.sequence + 1))?;
        self.sequence += 1;
        Ok(applied)
    }

    /// A message with one batch of these clicks.
    fn batch(&mut self, number: u64, watermark: Timestamp, clicks: &[ImpressionId]) -> Applied {
        let now = self.now;
        let fill = |builder: &mut MessageBuilder| {
            let entry = batch(builder, 1, number, watermark);
            clicks.iter().for_each(|id| click(builder, entry, "demo", *id, now, "ad"));
        };
        self.apply(fill).unwrap()
    }

    /// A message with one chunk that brings a click in each of its rows.
    fn chunk(&mut self, source: SourceId, first_row: u64, end_row: u64) -> Applied {
        let fill = |builder: &mut MessageBuilder| {
            let entry = chunk(builder, source, first_row, end_row);
            for row in first_row..end_row {
                click(builder, entry, "import", import::impression(source, row), NOW, "ad");
            }
        };
        self.apply(fill).unwrap()
    }

    fn count(&self) -> u64 {
        self.engine.ad_count(
            Id::literal("ad"),
            Kind::Click,
            Validity::Valid,
            Minute(0),
            Minute(u32::MAX),
        )
    }
}

fn position(sequence: u64) -> Position {
    Position { identity: [1; 16], sequence, digest: [0; 16] }
}

fn batch(builder: &mut MessageBuilder, epoch: u64, number: u64, watermark: Timestamp) -> Entry {
    let outbox = OutboxId { edge: EDGE, epoch };
    builder.batch(BatchEntry {
        outbox,
        number,
        watermark,
        digest: BatchDigest::UNKNOWN,
        declared: vec![],
    })
}

fn chunk(builder: &mut MessageBuilder, source: SourceId, first_row: u64, end_row: u64) -> Entry {
    let digest = [end_row as u8; 32];
    builder.chunk(ChunkEntry { source, first_row, end_row, digest, declared: vec![] })
}

fn click(
    builder: &mut MessageBuilder,
    entry: Entry,
    issuer: &str,
    id: ImpressionId,
    at: Timestamp,
    ad: &str,
) {
    builder.event(entry, &clicked(issuer, id, at, ad));
}

fn clicked(issuer: &str, id: ImpressionId, at: Timestamp, ad: &str) -> Judged<'static> {
    Judged {
        issuer: issuer.parse().unwrap(),
        id,
        kind: Kind::Click,
        outcome: Ok(None),
        at,
        ad: Id::literal(ad),
        campaign: Id::NONE,
        advertiser: Id::NONE,
        publisher: Id::NONE,
        placement: Id::NONE,
        names: &[],
        issued: None,
        codes: Codes::default(),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint::NONE,
        flags: Flags(0),
        rules: RuleSet::UNKNOWN,
        page: None,
        price: Money::ZERO,
        proof: b"",
    }
}

/// Impression `seq` of a block opened at `at`.
fn impression(at: Timestamp, seq: u16) -> ImpressionId {
    let mut block = [9; 10];
    let minute = at.minute().0 - Minute::BLOCK_EPOCH.0;
    block[..3].copy_from_slice(&minute.to_be_bytes()[1..]);
    ImpressionId { block: BlockId(block), seq }
}

#[test]
fn only_the_next_message_is_taken() {
    let mut engine = Engine::new(0, Settings::default());
    let bytes = MessageBuilder::default().finish(0, NOW);
    let message = read(&bytes);
    let sequence = |expected, got| Err(EngineError::Sequence { expected, got });
    assert_eq!(engine.apply(&message, position(2)), sequence(1, 2));
    assert_eq!(engine.position(), None);
    engine.apply(&message, position(1)).unwrap();
    assert_eq!(engine.apply(&message, position(1)), sequence(2, 1));
    assert_eq!(engine.apply(&message, position(3)), sequence(2, 3));
    let other_log = Position { identity: [2; 16], ..position(2) };
    assert_eq!(engine.apply(&message, other_log), Err(EngineError::Identity));
    let bytes = MessageBuilder::default().finish(1, NOW);
    let other = EngineError::Partition { expected: 0, got: 1 };
    assert_eq!(engine.apply(&read(&bytes), position(2)), Err(other));
    assert_eq!(engine.position(), Some(position(1)));
}

#[test]
fn a_wild_clock_moves_the_logs_not_at_all_and_a_checkpoint_remembers_that_it_was_heard() {
    let day = 24 * 3_600_000;
    let mut bench = Bench::new();
    bench.batch(0, NOW, &[]);
    // Thirty days ahead for fifteen seconds.
    for number in 1..300 {
        bench.now = NOW.plus_ms(30 * day + number * 50);
        bench.batch(number, NOW, &[]);
        assert_eq!(bench.engine.clock(), NOW);
    }
    bench.now = NOW.plus_ms(15_000);
    bench.batch(300, NOW, &[impression(NOW, 1)]);
    assert_eq!((bench.count(), bench.engine.clock()), (1, NOW.plus_ms(15_000)));
    // After a day of silence, stamps are believed when they have gone on by as much as a jump may
    // be.
    for (number, ms) in [(301, day), (302, day + CLOCK_JUMP_MS_MAX)] {
        assert!(bench.engine.clock() < NOW.plus_ms(day));
        bench.now = NOW.plus_ms(ms);
        bench.batch(number, NOW, &[]);
    }
    assert_eq!(bench.engine.clock(), NOW.plus_ms(day + CLOCK_JUMP_MS_MAX));
}

#[test]
fn behind_the_horizon_containers_are_dropped_and_events_are_too_late() {
    let mut bench = Bench::new();
    let opened = NOW.minus_ms(HORIZON_MS);
    let late = opened.minus_ms(60_000);
    let applied = bench.batch(0, NOW, &[impression(opened, 1), impression(late, 1)]);
    assert_eq!((applied.counted, applied.reasons[14]), (1, 1));
    assert_eq!(bench.engine.checkpoint().containers.len(), 1);
    bench.now = opened.minute().end().plus_ms(HORIZON_MS);
    let applied = bench.batch(1, NOW, &[impression(opened, 1), impression(opened, 2)]);
    assert_eq!((applied.counted, applied.duplicate), (1, 1));
    bench.now = bench.now.plus_ms(1);
    let applied = bench.batch(2, NOW, &[impression(opened, 1), impression(opened, 3)]);
    assert_eq!((applied.counted, applied.reasons[14]), (0, 2));
    let changes = bench.engine.checkpoint();
    assert_eq!((changes.containers.len(), changes.dropped_containers.len()), (0, 1));
    assert_eq!(bench.count(), 2);
}

#[test]
fn a_test_is_in_the_accounts_alone() {
    let mut bench = Bench::new();
    let euro = Money { micros: 5, currency: "EUR".parse().unwrap() };
    let outcomes = [
        (Kind::Click, Ok(Some(Reason::HeadRequest))),
        (Kind::Click, Ok(Some(Reason::Test))),
        (Kind::Click, Ok(Some(Reason::Test))),
        (Kind::Impression, Ok(Some(Reason::Test))),
    ];
    let fill = |builder: &mut MessageBuilder| {
        let entry = batch(builder, 1, 0, NOW);
        for (kind, outcome) in outcomes {
            let event = clicked("demo", impression(NOW, 1), NOW, "ad");
            builder.event(entry, &Judged { kind, outcome, price: euro, ..event });
        }
    };
    let applied = bench.apply(fill).unwrap();
    assert_eq!((applied.counted, applied.duplicate), (0, 1));
    let with = |reason: Reason| applied.reasons[usize::from(reason.code())];
    assert_eq!((with(Reason::Test), with(Reason::HeadRequest)), (2, 1));
    assert_eq!(bench.count(), 0);
    bench.engine.amounts(NOW.minute(), &mut |row| panic!("a test was spent: {row:?}"));
    let rows = bench.engine.checkpoint().minutes;
    let cells: u64 = rows.iter().flat_map(|rows| &rows.cells).map(|cell| cell.count).sum();
    assert_eq!(cells, 1, "the HEAD request's");
}

#[test]
fn a_log_taken_in_order_leaves_no_containers() {
    let source = import::named_source("log");
    let mut bench = Bench::new();
    for (first, end) in [(0, 40_000), (40_000, 65_530), (65_530, 65_540), (65_540, 70_000)] {
        assert_eq!(bench.chunk(source, first, end).counted, end - first);
        assert_eq!(bench.engine.source(source).unwrap().rows, end);
    }
    let changes = bench.engine.checkpoint();
    assert_eq!((changes.containers, changes.dropped_containers), (vec![], vec![]));
    assert_eq!(bench.chunk(source, 0, 60_000).duplicate, 60_000);
    let applied = bench.chunk(source, 69_990, 70_010);
    assert_eq!((applied.duplicate, applied.counted), (10, 10));
    assert_eq!(bench.engine.source(source).unwrap().digest, [70_010_u64 as u8; 32]);
    assert_eq!(bench.count(), 70_010);
}

#[test]
fn chunks_out_of_order_count_once_and_let_go_of_their_containers() {
    let source = import::named_source("log");
    let mut bench = Bench::new();
    bench.chunk(source, 65_000, 66_000);
    assert_eq!(bench.engine.source(source).unwrap().rows, 0);
    assert_eq!(bench.engine.checkpoint().containers.len(), 2);
    bench.chunk(source, 0, 60_000);
    bench.chunk(source, 60_000, 65_000);
    assert_eq!(bench.engine.source(source).unwrap().rows, 65_000);
    assert_eq!(bench.engine.checkpoint().dropped_containers, []);
    assert_eq!(bench.chunk(source, 64_500, 67_000).counted, 1_000);
    assert_eq!(bench.engine.source(source).unwrap().rows, 67_000);
    assert_eq!(bench.engine.checkpoint().dropped_containers.len(), 2);
    assert_eq!(bench.count(), 67_000);
}

#[test]
fn a_closed_outbox_is_forgotten_after_the_horizon_and_never_taken_again() {
    let mut bench = Bench::new();
    bench.batch(0, NOW, &[impression(NOW, 0)]);
    assert_eq!(bench.engine.finality().open(), 1);
    bench.batch(1, Timestamp::MAX, &[]);
    assert_eq!((bench.engine.finality().open(), bench.engine.finality().watermark), (0, NOW));
    let mut store = Store::default();
    store.write(&bench.engine.checkpoint());
    bench.engine = Engine::restore(0, Settings::default(), store.snapshot()).unwrap();
    for hour in 1..=24 * 7 + 2 {
        bench.now = NOW.plus_ms(hour * 3_600_000);
        let fill = |builder: &mut MessageBuilder| {
            batch(builder, 2, hour, NOW);
            batch(builder, 1, 0, NOW);
        };
        assert_eq!(bench.apply(fill).unwrap().redelivered, 1);
    }
    let changes = bench.engine.checkpoint();
    assert_eq!(changes.dropped_outboxes, [OutboxId { edge: EDGE, epoch: 1 }]);
    assert_eq!(changes.epochs, [(EDGE, 1)]);
    store.write(&changes);
    bench.engine = Engine::restore(0, Settings::default(), store.snapshot()).unwrap();
    assert_eq!(bench.batch(7, NOW, &[impression(NOW, 9)]).redelivered, 1);
    assert_eq!(bench.engine.size().outboxes, 1);
}

#[test]
fn a_retired_edge_is_not_waited_for_whatever_it_sends() {
    let mut bench = Bench::new();
    let minute = NOW.minute();
    let word = |bench: &mut Bench, edge| {
        let word = Word::Retire { edge };
        let control = Control { partition: 0, stamp: bench.now, word };
        bench.sequence += 1;
        bench.engine.control(&control, position(bench.sequence)).unwrap();
    };
    bench.batch(0, minute.start(), &[impression(NOW, 0)]);
    assert!(!bench.engine.finality().is_final(minute));
    bench.now = NOW.plus_ms(120_000);
    word(&mut bench, EDGE);
    let finality = bench.engine.finality();
    assert!(finality.is_final(minute) && finality.open() == 0, "{finality:?}");
    word(&mut bench, Id::literal("never-seen"));
    bench.now = bench.now.plus_ms(1);
    word(&mut bench, EDGE);
    let mut store = Store::default();
    store.write(&bench.engine.checkpoint());
    bench.engine = Engine::restore(0, Settings::default(), store.snapshot()).unwrap();
    assert_eq!(given_up(&bench), 0);
    let since: Vec<_> = bench.engine.retired().iter().map(|(edge, at)| (*edge, *at)).collect();
    let at = NOW.plus_ms(120_000);
    assert_eq!(since, [(EDGE, at), (Id::literal("never-seen"), at)], "the first word stands");
    // Whether events of a retired edge are rejected is the collector's to judge: those that it
    // accepts are counted.
    bench.batch(1, minute.start(), &[impression(NOW, 1)]);
    assert!(bench.engine.finality().is_final(minute));
    assert_eq!(bench.count(), 2);
    assert_eq!(bench.engine.revision(minute, Minute(minute.0 + 1)), 0);
    // Gaps beyond the limit are given up, and the accounts say so.
    for run in 1..=100 {
        bench.batch(2 * run + 1, minute.start(), &[]);
    }
    let missing = bench.engine.gaps().iter().map(|gap| gap.missing.len() as u64).sum::<u64>();
    assert_eq!((missing, given_up(&bench)), (64, 36));
    // The same with numbers that are as large as an outbox may have.
    for run in 1..=100 {
        bench.batch((1 << 62) + 2 * run, minute.start(), &[]);
    }
    assert!(given_up(&bench) > 1 << 61, "{}", given_up(&bench));
}

/// Batches that were given up, in all minutes.
fn given_up(bench: &Bench) -> u64 {
    let accounts = bench.engine.account(Minute(0), Minute(u32::MAX));
    accounts.iter().map(|(_, account)| account.given_up).sum()
}

#[test]
fn a_resolved_number_is_waited_for_no_more() {
    let mut bench = Bench::new();
    let outbox = OutboxId { edge: EDGE, epoch: 1 };
    let resolve = |bench: &mut Bench, outbox, number| {
        let word = Word::Resolve { outbox, number };
        let control = Control { partition: 0, stamp: bench.now, word };
        let done = bench.engine.control(&control, position(bench.sequence + 1));
        bench.sequence += u64::from(done.is_ok());
        done
    };
    bench.batch(0, NOW.plus_ms(10), &[]);
    bench.batch(2, NOW.plus_ms(30), &[]);
    assert_eq!(bench.engine.gaps()[0].missing, [Range { start: 1, end: 2 }]);
    assert_eq!(bench.engine.finality().watermark, NOW.plus_ms(10));
    // A number of an outbox that does not exist, and one that has come: nothing changes.
    resolve(&mut bench, OutboxId { edge: EDGE, epoch: 9 }, 0).unwrap();
    resolve(&mut bench, outbox, 2).unwrap();
    // A number that is not missing, since no larger one has come, may still come: nothing changes.
    resolve(&mut bench, outbox, 3).unwrap();
    resolve(&mut bench, outbox, 9).unwrap();
    assert_eq!(given_up(&bench), 0);
    assert_eq!((bench.engine.size().outboxes, bench.engine.gaps().len()), (1, 1));
    resolve(&mut bench, outbox, 1).unwrap();
    assert_eq!(
        (bench.engine.gaps().len(), bench.engine.finality().watermark),
        (0, NOW.plus_ms(30))
    );
    let account = bench.engine.account(NOW.minute(), Minute(NOW.minute().0 + 1));
    assert_eq!(account[0].1.given_up, 1);
    assert_eq!(bench.batch(1, NOW.plus_ms(20), &[impression(NOW, 0)]).redelivered, 1);
    assert_eq!(given_up(&bench), 1);
    assert_eq!(bench.batch(3, NOW.plus_ms(40), &[impression(NOW, 0)]).redelivered, 0);
    resolve(&mut bench, outbox, u64::MAX).unwrap();
    assert_eq!(bench.engine.gaps().len(), 0);
    let foreign = Control { partition: 1, stamp: NOW, word: Word::Retire { edge: EDGE } };
    let foreign = bench.engine.control(&foreign, position(bench.sequence + 1)).unwrap_err();
    assert!(matches!(foreign, EngineError::Partition { .. }), "{foreign}");
    let word = Control { partition: 0, stamp: NOW, word: Word::Retire { edge: EDGE } };
    let gap = bench.engine.control(&word, position(bench.sequence + 2)).unwrap_err();
    assert!(matches!(gap, EngineError::Sequence { .. }), "{gap}");
}

#[test]
fn what_counts_into_a_final_minute_raises_its_revision_once_a_message() {
    let source = import::named_source("log");
    let mut bench = Bench::new();
    let minute = NOW.minute();
    let revision = |bench: &Bench| bench.engine.revision(minute, Minute(minute.0 + 1));
    bench.batch(0, minute.start(), &[impression(NOW, 0)]);
    bench.chunk(source, 0, 2);
    assert_eq!(revision(&bench), 0);
    assert_eq!(bench.engine.finality().behind(minute), 1);
    bench.batch(1, minute.end(), &[impression(NOW, 1)]);
    assert_eq!(revision(&bench), 0, "it was not final when this came");
    assert!(bench.engine.finality().is_final(minute));
    bench.chunk(source, 2, 5);
    assert_eq!(revision(&bench), 1);
    bench.chunk(source, 2, 5);
    assert_eq!(revision(&bench), 1, "duplicates change nothing");
}

#[test]
fn ids_that_no_resident_minute_names_are_forgotten() {
    let mut bench = Bench::new();
    let mut seq = 0;
    for round in 0..8_u64 {
        bench.now = NOW.plus_ms(round * 3_600_000);
        let now = bench.now;
        let fill = |builder: &mut MessageBuilder| {
            let entry = batch(builder, 1, round, now);
            click(builder, entry, "demo", impression(now, 0), now, "ad");
            for _ in 0..20_000 {
                seq += 1;
                let id = impression(now, (seq % 20_000 + 1) as u16);
                click(builder, entry, "demo", id, now, &format!("ad-{seq}"));
            }
        };
        bench.apply(fill).unwrap();
        let _ = bench.engine.checkpoint();
        assert!(bench.engine.size().ids < 140_000);
    }
    assert!(bench.engine.size().ids < 70_000, "{:?}", bench.engine.size());
    let mut named = 0;
    bench.engine.ad_totals(bench.now.minute(), Kind::Click, Validity::Valid, &mut |ad, count| {
        let number: u64 =
            ad.text().unwrap().trim_start_matches("ad").trim_matches('-').parse().unwrap_or(seq);
        assert!(count == 1 && number > seq - 20_000 && number <= seq, "{ad:?} {count}");
        named += 1;
    });
    assert_eq!(named, 20_001);
}

#[test]
fn damaged_snapshots_are_refused() {
    let mut bench = Bench::new();
    bench.batch(0, NOW, &[impression(NOW, 0)]);
    bench.batch(3, NOW, &[impression(NOW, 1)]);
    let mut store = Store::default();
    store.write(&bench.engine.checkpoint());
    let good = store.snapshot();
    let restore = |change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = good.clone();
        change(&mut snapshot);
        Engine::restore(0, Settings::default(), snapshot).map(|engine| engine.position())
    };
    assert_eq!(restore(&|_| {}), Ok(Some(position(2))));
    let damage: [&dyn Fn(&mut Snapshot); 7] = [
        &|s| s.containers.push(s.containers[0].clone()),
        &|s| s.containers[0].0 = ContainerKey { index: 16, ..s.containers[0].0 },
        &|s| s.minutes.push(s.minutes[0].clone()),
        &|s| s.resident_from = Minute(u32::MAX),
        &|s| s.minutes[0].cells.clear(),
        &|s| s.outboxes.push(s.outboxes[0].clone()),
        &|s| s.outboxes[0].1.above[0].first = 1,
    ];
    for (number, change) in damage.iter().enumerate() {
        let refused = restore(change);
        assert!(matches!(refused, Err(EngineError::Snapshot(_))), "{number}: {refused:?}");
    }
}

/// Other content under a number that was taken is kept as a conflict, with both digests, also after
/// a restart. The same content is what comes again when an acknowledgement was lost.
#[test]
fn a_number_with_two_contents_is_a_conflict() {
    let mut bench = Bench::new();
    let (first, other) = (BatchDigest([1; 16]), BatchDigest([2; 16]));
    let outbox = OutboxId { edge: EDGE, epoch: 1 };
    let send = |bench: &mut Bench, number, digest, seq| {
        let declared = vec![(NOW.minute(), 1)];
        let entry = BatchEntry { outbox, number, watermark: NOW, digest, declared };
        let applied = bench.apply(|builder: &mut MessageBuilder| {
            let entry = builder.batch(entry);
            click(builder, entry, "demo", impression(NOW, seq), NOW, "ad");
        });
        let Applied { counted, redelivered, conflicts, .. } = applied.unwrap();
        (counted, redelivered, conflicts)
    };
    assert_eq!(send(&mut bench, 0, first, 0), (1, 0, 0));
    assert_eq!(send(&mut bench, 0, first, 0), (0, 1, 0));
    assert_eq!(send(&mut bench, 0, other, 1), (0, 0, 1));
    let mut store = Store::default();
    store.write(&bench.engine.checkpoint());
    bench.engine = Engine::restore(0, Settings::default(), store.snapshot()).unwrap();
    // The same conflict is noted once.
    assert_eq!(send(&mut bench, 0, other, 1), (0, 1, 0));
    assert_eq!(send(&mut bench, 0, BatchDigest([3; 16]), 2), (0, 0, 1));
    // A message of an earlier version has no digest to compare.
    assert_eq!(send(&mut bench, 0, BatchDigest::UNKNOWN, 3), (0, 1, 0));
    let told: Vec<_> = bench.engine.conflicts().collect();
    assert_eq!((told[0].0, told.len(), told[0].1.contents.conflicts_all), (outbox, 1, 2));
    let conflict = told[0].1.contents.conflicts[0];
    assert_eq!((conflict.number, conflict.applied, conflict.skipped), (0, first, other));
    assert_eq!((conflict.events, conflict.at), (1, NOW));
    assert_eq!(bench.count(), 1);
    // A number whose digest is no longer kept is not compared.
    for number in 1..200 {
        assert_eq!(send(&mut bench, number, first, 0).1, 0);
    }
    assert_eq!(send(&mut bench, 0, BatchDigest([4; 16]), 9), (0, 1, 0));
    assert_eq!(send(&mut bench, 199, other, 9), (0, 0, 1));
    assert_eq!(bench.engine.outboxes().next().unwrap().1.contents.digests.len(), 128);
    for n in 5..30 {
        send(&mut bench, 199, BatchDigest([n; 16]), 9);
    }
    let (_, state) = bench.engine.conflicts().next().unwrap();
    assert_eq!((state.contents.conflicts.len(), state.contents.conflicts_all), (16, 28));
}
