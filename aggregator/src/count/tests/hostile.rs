//! Hostile but authenticated senders: nothing that they send stops a partition, every event of
//! theirs has an outcome, and the outcomes are the same however often the partition is restarted.

use std::collections::BTreeMap;
use std::ops::Range;

use eventlog::Position;
use proptest::collection::vec;
use proptest::prelude::*;
use shared::limits::{BATCH_NUMBERS_MAX, HORIZON_MS};
use shared::wire::message::Entry;
use shared::wire::{
    BatchEntry, ChunkEntry, Control, Declared, Judged, MessageBuilder, Tally, Word,
};
use shared::{
    BatchDigest, BlockId, EdgeId, Id, ImpressionId, IssuerId, Kind, Minute, OutboxId, PageSeq,
    PageView, Reason, SourceId, Timestamp, import,
};

use super::store::Store;
use super::{answers, read};
use crate::count::outboxes::{OUTBOXES_PER_EDGE_MAX, RUNS_MAX};
use crate::count::{Applied, CutOff, Engine, Settings};

const NOW: Timestamp = Timestamp(1_790_000_000_000);
const SETTINGS: Settings = Settings { resident_minutes: 10 };

fn source() -> SourceId {
    import::named_source("log")
}

fn edge(number: usize) -> EdgeId {
    [Id::literal("edge-a"), Id::literal("edge-b"), Id::literal("edge-b--1")][number % 3]
}

/// A batch of whose content nothing is known.
fn batch_entry(
    outbox: OutboxId,
    number: u64,
    watermark: Timestamp,
    declared: Declared,
) -> BatchEntry {
    BatchEntry { outbox, number, watermark, digest: BatchDigest::UNKNOWN, declared }
}

/// An event of this block, at this time.
fn event(
    issuer: IssuerId,
    id: ImpressionId,
    at: Timestamp,
    outcome: shared::Outcome,
) -> Judged<'static> {
    Judged {
        issuer,
        id,
        kind: Kind::Click,
        outcome,
        at,
        ad: Id::literal("ad"),
        publisher: Id::literal("pub"),
        page: Some(PageSeq { page: PageView(1), seq: 1 }),
        ..super::blank()
    }
}

/// Impression `seq` of a block that says that it was opened in this minute.
fn impression(opened: Minute, seq: u16) -> ImpressionId {
    let mut block = [9; 10];
    let minute = opened.0.saturating_sub(Minute::BLOCK_EPOCH.0) & 0xff_ffff;
    block[..3].copy_from_slice(&minute.to_be_bytes()[1..]);
    ImpressionId { block: BlockId(block), seq }
}

fn declare(declared: &mut Declared, minute: Minute, count: u32) {
    match declared.binary_search_by_key(&minute, |(minute, _)| *minute) {
        Ok(at) => declared[at].1 += count,
        Err(at) => declared.insert(at, (minute, count)),
    }
}

/// A log, an engine that is never stopped, and one that is.
struct World {
    log: Vec<Vec<u8>>,
    straight: Engine,
    stopped: Engine,
    store: Store,
}

impl World {
    fn new() -> Self {
        let engine = || {
            let mut engine = Engine::new(3, SETTINGS);
            engine.dedup.per_issuer_max = 6;
            engine
        };
        Self { log: Vec::new(), straight: engine(), stopped: engine(), store: Store::default() }
    }

    fn position(number: usize) -> Position {
        Position { identity: [1; 16], sequence: number as u64 + 1, digest: [0; 16] }
    }

    fn apply(&mut self, bytes: Vec<u8>) -> Applied {
        let at = Self::position(self.log.len());
        let applied = tell(&mut self.straight, &bytes, at);
        assert_eq!(tell(&mut self.stopped, &bytes, at), applied);
        self.log.push(bytes);
        applied
    }

    fn message(&mut self, stamp: Timestamp, fill: impl FnOnce(&mut MessageBuilder)) -> Applied {
        let mut builder = MessageBuilder::default();
        fill(&mut builder);
        self.apply(builder.finish(3, stamp))
    }

    /// Impressions of so many ads. Only the engine that is stopped gets them.
    fn ads(&mut self, number: u64, at: Timestamp, ads: Range<u16>) -> Applied {
        let outbox = OutboxId { edge: edge(0), epoch: 1 };
        let declared = vec![(at.minute(), u32::try_from(ads.len()).unwrap())];
        let mut builder = MessageBuilder::default();
        let entry = builder.batch(batch_entry(outbox, number, at, declared));
        for ad in ads {
            let of = event(Id::literal("demo"), impression(at.minute(), ad), at, Ok(None));
            builder.event(entry, &Judged { ad: Id::literal(&format!("ad-{ad}")), ..of });
        }
        let bytes = builder.finish(3, at);
        let applied = tell(&mut self.stopped, &bytes, Self::position(self.log.len()));
        self.log.push(bytes);
        applied
    }

    fn retire(&mut self, edge: EdgeId) {
        let word = Control { partition: 3, stamp: NOW, word: Word::Retire { edge } };
        self.apply(word.to_bytes());
    }

    fn checkpoint(&mut self) {
        self.store.write(&self.stopped.checkpoint());
    }

    fn crash(&mut self) {
        self.stopped = Engine::restore(3, SETTINGS, self.store.snapshot()).unwrap();
        self.stopped.dedup.per_issuer_max = self.straight.dedup.per_issuer_max;
        let from = self.stopped.position().map_or(0, |position| position.sequence as usize);
        for (number, bytes) in self.log.iter().enumerate().skip(from) {
            tell(&mut self.stopped, bytes, Self::position(number));
        }
    }

    /// Both engines answer alike, and all that was declared has an outcome.
    fn check(&self) {
        let expected = answers(&self.straight, &Store::default(), &[source()]);
        assert_eq!(answers(&self.stopped, &self.store, &[source()]), expected);
        assert_eq!(self.stopped.cut_off(), self.straight.cut_off());
        for (minute, account) in &expected.accounts {
            assert_eq!(account.outcomes(), account.declared + account.imported, "{minute:?}");
        }
    }
}

fn tell(engine: &mut Engine, bytes: &[u8], at: Position) -> Applied {
    match shared::wire::Logged::read(bytes).unwrap() {
        shared::wire::Logged::Message(message) => engine.apply(&message, at).unwrap(),
        shared::wire::Logged::Control(control) => {
            engine.control(&control, at).unwrap();
            Applied::default()
        }
    }
}

fn over_quota(applied: &Applied) -> u64 {
    applied.reasons[usize::from(Reason::OverQuota.code())]
}

/// Once 860 KB from one sender stopped the engine for good, and retiring the edge did not help.
#[test]
fn batches_with_even_numbers_are_refused_by_name_and_the_partition_goes_on() {
    let mut world = World::new();
    let outbox = OutboxId { edge: edge(0), epoch: 1 };
    let batch = |number| batch_entry(outbox, number, NOW, vec![(NOW.minute(), 1)]);
    let send = |world: &mut World, numbers: Vec<u64>| {
        world.message(NOW, |builder| {
            for number in numbers {
                let entry = builder.batch(batch(number));
                let id = impression(NOW.minute(), 0);
                builder.event(entry, &event(Id::literal("demo"), id, NOW, Ok(None)));
            }
        })
    };
    let mut refused = 0;
    for first in (0..16_600_u64).step_by(4_000) {
        let numbers = (first..16_600.min(first + 4_000)).map(|n| 2 * n + 2).collect();
        refused += over_quota(&send(&mut world, numbers));
    }
    assert_eq!(refused, 16_600 - RUNS_MAX as u64);
    assert_eq!(world.straight.gaps()[0].missing.len(), RUNS_MAX);
    world.checkpoint();
    world.crash();
    // The edge is cut off: no new batch counts, and one that was applied before is still known.
    assert_eq!(over_quota(&send(&mut world, vec![0, 1, 3, 5])), 4);
    let again = send(&mut world, vec![2]);
    assert_eq!(again, Applied { redelivered: 1, ..Applied::default() });
    let at = CutOff { sequence: 5, entry: 384 };
    assert_eq!(world.straight.cut_off(), &BTreeMap::from([(edge(0), at)]));
    // Nobody waits for it, and batches of other edges are taken.
    assert_eq!(world.straight.finality().open(), 0);
    let other = OutboxId { edge: edge(1), epoch: 1 };
    let entry = batch_entry(other, 1, NOW, vec![]);
    world.message(NOW, |builder| _ = builder.batch(entry));
    assert_eq!(world.straight.gaps().len(), 2);
    // When the edge is retired, most of its gaps are given up.
    world.retire(edge(0));
    assert!(world.straight.gaps()[0].missing.len() < 100);
    world.checkpoint();
    world.crash();
    assert_eq!(over_quota(&send(&mut world, (20_000..20_200).map(|n| 2 * n).collect())), 200);
    world.check();
}

/// Nobody waits for a retired edge, so its oldest gaps are given up, and it is not cut off.
#[test]
fn an_edge_out_of_service_keeps_few_gaps() {
    let mut world = World::new();
    world.retire(edge(0));
    let outbox = OutboxId { edge: edge(0), epoch: 1 };
    for first in (0..20_000_u64).step_by(4_000) {
        let applied = world.message(NOW, |builder| {
            for number in first..first + 4_000 {
                builder.batch(batch_entry(outbox, 2 * number + 2, NOW, vec![]));
            }
        });
        assert_eq!(over_quota(&applied), 0);
    }
    assert!(world.straight.gaps()[0].missing.len() < 100 && world.straight.cut_off().is_empty());
    world.checkpoint();
    world.crash();
    world.check();
}

/// Nobody gets a larger quota by naming shards: they share that of their edge, and are retired with
/// it.
#[test]
fn shards_have_no_more_than_their_edge() {
    let mut world = World::new();
    let shard = |number: u64| OutboxId { edge: format!("m--{number}").parse().unwrap(), epoch: 1 };
    let mut refused = 0;
    for first in (0..RUNS_MAX as u64 + 100).step_by(4_000) {
        let last = (first + 4_000).min(RUNS_MAX as u64 + 100);
        refused += over_quota(&world.message(NOW, |builder| {
            for number in first..last {
                let declared = vec![(NOW.minute(), 1)];
                let batch = batch_entry(shard(number % 50), number / 50 * 2 + 1, NOW, declared);
                let entry = builder.batch(batch);
                let (minute, kind, reason) = (NOW.minute(), Kind::Click, Reason::OutboxFull);
                builder.tally(entry, Tally { minute, kind, reason, count: 1 });
            }
        }));
    }
    assert_eq!(refused, 100);
    assert_eq!(world.straight.cut_off().keys().collect::<Vec<_>>(), [&Id::literal("m")]);
    assert_eq!(world.straight.finality().open(), 0);
    world.checkpoint();
    world.crash();
    let own =
        batch_entry(OutboxId { edge: Id::literal("m"), epoch: 1 }, 0, NOW, vec![(NOW.minute(), 1)]);
    let applied = world.message(NOW, |builder| {
        let entry = builder.batch(own);
        let (minute, kind, reason) = (NOW.minute(), Kind::Click, Reason::OutboxFull);
        builder.tally(entry, Tally { minute, kind, reason, count: 1 });
    });
    assert_eq!(over_quota(&applied), 1);
    world.check();
}

#[test]
fn one_edge_has_so_many_outboxes_and_no_more() {
    let mut world = World::new();
    let mut send = |epochs: std::ops::Range<u64>, close: bool| {
        let mut refused = 0;
        for first in epochs.clone().step_by(4_000) {
            let applied = world.message(NOW, |builder| {
                for epoch in first..epochs.end.min(first + 4_000) {
                    let outbox = OutboxId { edge: edge(0), epoch };
                    let watermark = if close { Timestamp::MAX } else { NOW };
                    let declared = vec![(NOW.minute(), 1)];
                    let number = u64::from(close);
                    let entry = builder.batch(batch_entry(outbox, number, watermark, declared));
                    let (minute, kind, reason) = (NOW.minute(), Kind::Click, Reason::OutboxFull);
                    builder.tally(entry, Tally { minute, kind, reason, count: 1 });
                }
            });
            refused += over_quota(&applied);
        }
        (refused, world.straight.size().outboxes)
    };
    let most = OUTBOXES_PER_EDGE_MAX as u64;
    assert_eq!(send(0..most, false), (0, OUTBOXES_PER_EDGE_MAX));
    // Closed outboxes make no room for new ones: if they were forgotten, their batches could be
    // applied once more.
    assert_eq!(send(0..3, true), (0, OUTBOXES_PER_EDGE_MAX));
    assert_eq!(send(most..most + 4, false), (4, OUTBOXES_PER_EDGE_MAX));
    assert_eq!(send(3..6, true), (3, OUTBOXES_PER_EDGE_MAX));
    world.checkpoint();
    world.crash();
    assert_eq!(world.stopped.cut_off().keys().collect::<Vec<_>>(), [&edge(0)]);
    world.check();
}

#[test]
fn an_issuer_with_too_many_blocks_is_over_quota_and_others_are_not() {
    let mut world = World::new();
    let outbox = OutboxId { edge: edge(0), epoch: 1 };
    let declared = vec![(NOW.minute(), 9)];
    let applied = world.message(NOW, |builder| {
        let entry = builder.batch(batch_entry(outbox, 0, NOW, declared));
        for ago in 0..8 {
            let id = impression(Minute(NOW.minute().0 - ago), 0);
            builder.event(entry, &event(Id::literal("demo"), id, NOW, Ok(None)));
        }
        let id = impression(NOW.minute(), 0);
        builder.event(entry, &event(Id::literal("other"), id, NOW, Ok(None)));
    });
    assert_eq!((applied.counted, over_quota(&applied)), (7, 2));
    world.checkpoint();
    world.crash();
    world.check();
}

#[test]
fn more_ids_than_can_be_told_apart_let_go_of_what_is_saved_and_stop_nothing() {
    let mut world = World::new();
    for engine in [&mut world.straight, &mut world.stopped] {
        engine.minutes.ids.most = 40;
        engine.dedup.per_issuer_max = 1_000;
    }
    assert_eq!(world.ads(0, NOW, 0..30).counted, 30);
    // Minutes that are not saved yet cannot be dropped.
    assert_eq!(over_quota(&world.ads(1, NOW, 30..60)), 30);
    world.checkpoint();
    assert_eq!(world.ads(2, NOW, 60..90).counted, 30);
    let expected = answers(&world.stopped, &world.store, &[]);
    let account = expected.accounts[&NOW.minute()];
    assert_eq!((account.counted, account.outcomes(), account.declared), (60, 90, 90));
    assert_eq!(expected.cells.values().sum::<u64>(), 60, "memory and store hold each once");
}

#[test]
fn however_many_ads_are_named_memory_holds_so_many_rows_and_answers_are_the_same() {
    let mut world = World::new();
    (world.stopped.minutes.saved_most, world.stopped.dedup.per_issuer_max) = (200, 1_000);
    let mut held = Vec::new();
    for number in 0..6_u16 {
        let at = NOW.plus_ms(u64::from(number) * 60_000);
        world.ads(number.into(), at, number * 40..(number + 1) * 40);
        world.checkpoint();
        held.push(world.stopped.size().resident_cells);
    }
    // A minute has 80 rows, cells and totals together: there is room for two, and the oldest goes
    // first.
    assert_eq!(held, [40, 80, 80, 80, 80, 80]);
    assert_eq!(world.stopped.resident_from().0, NOW.minute().0 + 4);
    let all = answers(&world.stopped, &world.store, &[]);
    assert_eq!((all.cells.len(), all.cells.values().sum::<u64>()), (240, 240));
    world.crash();
    assert_eq!(world.stopped.size().resident_cells, 80);
    assert!(answers(&world.stopped, &world.store, &[]) == all);
}

#[test]
fn what_no_minute_holds_is_named_and_kept_in_the_nearest() {
    let mut world = World::new();
    let outbox = OutboxId { edge: edge(0), epoch: 1 };
    let far = Minute(4_223_376_000);
    let [old, last] = [NOW.minus_ms(HORIZON_MS).minute(), NOW.plus_ms(60_000).minute()];
    let applied = world.message(NOW, |builder| {
        let declared = vec![(Minute(7), 2), (NOW.minute(), 1), (far, 10), (Minute(u32::MAX), 1)];
        let entry = builder.batch(batch_entry(outbox, 0, NOW, declared));
        let (kind, reason) = (Kind::Click, Reason::OutboxFull);
        builder.tally(entry, Tally { minute: far, kind, reason, count: 9 });
        builder.tally(entry, Tally { minute: Minute(7), kind, reason, count: 1 });
        let mut seq = 0;
        for at in [Minute(7).start(), NOW, far.start(), Timestamp::MAX] {
            seq += 1;
            let id = impression(NOW.minute(), seq);
            builder.event(entry, &event(Id::literal("demo"), id, at, Ok(None)));
        }
    });
    let of = |reason: Reason| applied.reasons[usize::from(reason.code())];
    assert_eq!((applied.counted, of(Reason::ClockAhead), of(Reason::TooLate)), (1, 11, 2));
    let answers = answers(&world.straight, &Store::default(), &[]);
    let minutes: Vec<_> = answers.accounts.keys().copied().collect();
    assert_eq!(minutes, [old, NOW.minute(), last]);
    world.check();
}

#[test]
fn an_outbox_that_is_silent_holds_no_minute_open_behind_the_horizon() {
    let mut world = World::new();
    let send = |world: &mut World, at: Timestamp, edge: EdgeId, number: u64| {
        let outbox = OutboxId { edge, epoch: 1 };
        let entry = batch_entry(outbox, number, at, vec![]);
        world.message(at, |builder| _ = builder.batch(entry));
    };
    send(&mut world, NOW, edge(0), 5);
    for hour in 0..24 * 8 {
        send(&mut world, NOW.plus_ms(hour * 3_600_000), edge(1), hour);
    }
    let finality = world.straight.finality();
    assert!(finality.is_final(NOW.minute()) && finality.open() == 2, "{finality:?}");
    assert!(!finality.is_final(NOW.plus_ms(2 * 24 * 3_600_000).minute()));
    world.check();
}

#[derive(Clone, Debug)]
enum Op {
    Message { ms: u64, batches: Vec<BatchOp>, chunks: Vec<(u64, u64, Vec<EventOp>)> },
    Retire(usize),
    Resolve(usize, u64),
    Checkpoint,
    Restart,
    Crash,
}

#[derive(Clone, Debug)]
struct BatchOp {
    edge: usize,
    epoch: u64,
    number: u64,
    watermark: u64,
    events: Vec<EventOp>,
    tallies: Vec<(u32, u32)>,
}

#[derive(Clone, Debug)]
struct EventOp {
    issuer: usize,
    opened: u32,
    seq: u16,
    at: u64,
    outcome: shared::Outcome,
}

fn minute() -> impl Strategy<Value = u32> {
    let now = NOW.minute().0;
    prop_oneof![4 => now - 3..now + 3, 1 => Just(now - 7 * 24 * 60), 1 => any::<u32>()]
}

fn time() -> impl Strategy<Value = u64> {
    let now = NOW.0;
    prop_oneof![4 => now - 200_000..now + 200_000, 1 => Just(u64::MAX), 1 => any::<u64>()]
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![6 => 0..40_u64, 1 => Just(BATCH_NUMBERS_MAX - 1), 1 => any::<u64>()]
}

fn events() -> impl Strategy<Value = Vec<EventOp>> {
    let outcome = prop_oneof![
        5 => Just(Ok(None)),
        1 => Just(Ok(Some(Reason::Test))),
        1 => Just(Ok(Some(Reason::Bot))),
        1 => Just(Err(Reason::BadSeal)),
    ];
    let event = (0..4_usize, minute(), 0..4_u16, time(), outcome).prop_map(
        |(issuer, opened, seq, at, outcome)| EventOp { issuer, opened, seq, at, outcome },
    );
    vec(event, 0..5)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let batch = (0..3_usize, 0..4_u64, number(), time(), events(), vec((minute(), 0..9_u32), 0..3))
        .prop_map(|(edge, epoch, number, watermark, events, tallies)| BatchOp {
            edge,
            epoch,
            number,
            watermark,
            events,
            tallies,
        });
    let row = prop_oneof![4 => 0..30_u64, 1 => 65_000..70_000_u64, 1 => any::<u64>()];
    let rows = prop_oneof![4 => 0..20_u64, 1 => Just(65_537), 1 => any::<u64>()];
    let chunk = (row, rows, events());
    let ms = prop_oneof![6 => 0..90_000_u64, 1 => Just(3_700_000), 1 => Just(90_000_000)];
    let op = prop_oneof![
        12 => (ms, vec(batch, 0..4), vec(chunk, 0..2))
            .prop_map(|(ms, batches, chunks)| Op::Message { ms, batches, chunks }),
        1 => (0..3_usize).prop_map(Op::Retire),
        1 => (0..3_usize, 0..40_u64).prop_map(|(edge, number)| Op::Resolve(edge, number)),
        2 => Just(Op::Checkpoint),
        1 => Just(Op::Restart),
        2 => Just(Op::Crash),
    ];
    vec(op, 1..30)
}

impl EventOp {
    /// Adds the event with whatever block it claims, also one that its batch or chunk cannot have.
    fn put(&self, builder: &mut MessageBuilder, entry: Entry) -> Minute {
        let issuers = [Id::literal("demo"), Id::literal("other"), Id::NONE, import::ISSUER];
        let id = match issuers[self.issuer] {
            import::ISSUER => import::impression(source(), u64::from(self.seq) * 21_000),
            _ => impression(Minute(self.opened), self.seq),
        };
        let event = event(issuers[self.issuer], id, Timestamp(self.at), self.outcome);
        builder.event(entry, &event);
        if let (Some(told), true) = (event.page, self.outcome.is_ok()) {
            builder.page_view(entry, &event, told);
        }
        event.at.minute()
    }
}

impl BatchOp {
    fn put(&self, builder: &mut MessageBuilder) {
        let Self { edge: of, epoch, number, .. } = *self;
        let mut declared = Declared::new();
        for event in &self.events {
            declare(&mut declared, Timestamp(event.at).minute(), 1);
        }
        for (minute, count) in &self.tallies {
            declare(&mut declared, Minute(*minute), *count);
        }
        let outbox = OutboxId { edge: edge(of), epoch };
        let watermark = Timestamp(self.watermark);
        let entry = builder.batch(batch_entry(outbox, number, watermark, declared));
        for event in &self.events {
            event.put(builder, entry);
        }
        for (minute, count) in &self.tallies {
            let (kind, reason) = (Kind::Click, Reason::OutboxFull);
            builder.tally(entry, Tally { minute: Minute(*minute), kind, reason, count: *count });
        }
    }
}

fn run(world: &mut World, clock: &mut Timestamp, op: &Op) {
    match op {
        Op::Message { ms, batches, chunks } => {
            *clock = clock.plus_ms(*ms);
            world.message(*clock, |builder| {
                batches.iter().for_each(|batch| batch.put(builder));
                for (first_row, rows, events) in chunks {
                    let end_row = first_row.saturating_add(*rows);
                    let (source, first_row, digest) = (source(), *first_row, [0; 32]);
                    let declared = vec![];
                    let chunk = ChunkEntry { source, first_row, end_row, digest, declared };
                    let entry = builder.chunk(chunk);
                    for event in events {
                        event.put(builder, entry);
                    }
                }
            });
        }
        Op::Retire(of) => world.retire(edge(*of)),
        Op::Resolve(of, number) => {
            let outbox = OutboxId { edge: edge(*of), epoch: 1 };
            let word = Word::Resolve { outbox, number: *number };
            world.apply(Control { partition: 3, stamp: *clock, word }.to_bytes());
        }
        Op::Checkpoint => world.checkpoint(),
        Op::Restart => {
            world.checkpoint();
            world.crash();
        }
        Op::Crash => world.crash(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn whatever_senders_write_has_an_outcome_and_stops_nothing(ops in ops()) {
        let mut world = World::new();
        let mut clock = NOW;
        for op in &ops {
            run(&mut world, &mut clock, op);
            world.check();
        }
    }
}

#[test]
fn a_message_of_an_unknown_reason_is_damaged_and_never_accepted() {
    let mut builder = MessageBuilder::default();
    let outbox = OutboxId { edge: edge(0), epoch: 1 };
    let entry = builder.batch(batch_entry(outbox, 0, NOW, vec![]));
    let id = impression(NOW.minute(), 0);
    builder.event(entry, &event(Id::literal("demo"), id, NOW, Err(Reason::OverQuota)));
    let mut bytes = builder.finish(3, NOW);
    assert_eq!(read(&bytes).rows().next().unwrap().outcome, Err(Reason::OverQuota));
    let at = bytes.iter().rposition(|byte| *byte == Reason::OverQuota.code()).unwrap();
    bytes[at] = shared::event::REASON_CODES as u8 - 1;
    if Reason::from_code(bytes[at]).is_none() {
        assert!(shared::wire::MessageView::read(&bytes).is_err());
    }
}
