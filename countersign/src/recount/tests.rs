//! Compares the plain count with the engine itself, over histories that have everything: batches
//! and chunks that come again, events that come twice, too late, rejected, flagged or priced;
//! clocks that jump.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use aggregator::count::{Engine, Settings};
use archive::{Archiver, Parts};
use bytes::Bytes;
use eventlog::fake::MemLog;
use eventlog::{Log as _, Message, Reader as _};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prometheus_client::registry::Registry;
use shared::event::{Fingerprint, Flags, Network, RuleSet};
use shared::name::literal;
use shared::random::{Seeded, below};
use shared::wire::{BatchEntry, ChunkEntry, Control, Judged, Logged, MessageBuilder, Tally, Word};
use shared::{
    BlockId, Codes, Currency, Dimensions, EdgeId, Id, ImpressionId, Kind, Minute, Money, OutboxId,
    Outcome, Reason, Region, SourceId, Timestamp, import,
};

use super::engine::{Cell, Counted, Fact};
use super::files::{Scope, needed};
use super::*;

mod halves;

const START: Minute = Minute(29_500_000);
const DAY_MS: u64 = 86_400_000;
/// The edges of three outboxes, whose epochs are 0, 1 and 2.
const EDGES: [EdgeId; 3] = [Id::literal("e1"), Id::literal("e1"), Id::literal("e2")];

/// A batch that may come again.
#[derive(Clone)]
struct Sent {
    entry: BatchEntry,
    events: Vec<Judged<'static>>,
    tallies: Vec<Tally>,
}

struct History {
    random: Seeded,
    now: Timestamp,
    blocks: Vec<BlockId>,
    next: [u64; 3],
    /// Outboxes and numbers that were left out: they come later, or never.
    missing: Vec<(usize, u64)>,
    sent: Vec<Sent>,
    /// How far each log was sent.
    rows: [u64; 2],
}

impl History {
    fn new(seed: u64) -> Self {
        let random = Seeded::new(seed);
        let now = START.start();
        Self {
            random,
            now,
            blocks: vec![],
            next: [0; 3],
            missing: vec![],
            sent: vec![],
            rows: [0; 2],
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        below(&mut self.random, bound)
    }

    fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()].clone()
    }

    fn event(&mut self, at: Timestamp) -> Judged<'static> {
        let outcomes: [Outcome; 9] = [
            Ok(Some(Reason::Test)),
            Err(Reason::Expired),
            Err(Reason::BadSeal),
            Ok(Some(Reason::Prefetch)),
            Ok(Some(Reason::HeadRequest)),
            Ok(None),
            Ok(None),
            Ok(None),
            Ok(None),
        ];
        let outcome = self.pick(&outcomes);
        let unknown = outcome.is_err() && self.below(2) == 0;
        let block = match self.below(30) {
            // Opened long before the log began.
            0 => BlockId::open(START.start().minus_ms(9 * DAY_MS), &mut Seeded::new(1)),
            _ => self.pick(&self.blocks.clone()),
        };
        let currency = self.pick(&["EUR", "USD"]).parse::<Currency>().unwrap();
        // Once in a while the highest amount, so that sums reach their bound.
        let most = if self.below(20) == 0 { i64::MAX } else { 70 };
        let micros = [0, 1_500, most][usize::try_from(self.below(3)).unwrap()];
        let ids = ["a", "b", "Zz_9", "ad-10"].map(literal);
        Judged {
            issuer: if unknown { Id::NONE } else { Id::literal("house") },
            id: ImpressionId { block, seq: u16::try_from(self.below(12)).unwrap() },
            kind: self.pick(Kind::ALL),
            outcome,
            at,
            issued: None,
            ad: if unknown { Id::NONE } else { self.pick(&ids) },
            campaign: Id::NONE,
            advertiser: Id::NONE,
            publisher: self.pick(&[Id::NONE, Id::literal("p1"), Id::literal("p2")]),
            placement: Id::NONE,
            names: &[],
            codes: self.pick(&[Codes::default(), Codes::nth(1), Codes::nth(2), Codes::nth(3)]),
            region: Region::UNKNOWN,
            network: Network::default(),
            visitor: Fingerprint::NONE,
            flags: Flags::default(),
            rules: RuleSet::UNKNOWN,
            page: None,
            price: Money { micros, currency },
            proof: &[],
        }
    }

    fn at(&mut self) -> Timestamp {
        let back = self.below(400_000);
        self.now.minus_ms(back)
    }

    /// A time from a clock that is wrong.
    fn wild(&mut self) -> Timestamp {
        let by = self.below(400_000);
        match self.below(3) {
            0 => self.now.plus_ms(400 * DAY_MS + by),
            1 => self.now.minus_ms(8 * DAY_MS + by),
            _ => self.now.plus_ms(by),
        }
    }

    fn tallies(&mut self) -> Vec<Tally> {
        let count = u32::try_from(self.below(4)).unwrap();
        let minute = if self.below(40) == 0 { self.wild() } else { self.now }.minute();
        let tally = Tally { minute, kind: Kind::Click, reason: Reason::OutboxFull, count };
        if self.below(4) == 0 { vec![tally] } else { vec![] }
    }

    fn batch(&mut self) -> Sent {
        let index = usize::try_from(self.below(3)).unwrap();
        let edge = EDGES[index];
        let outbox = OutboxId { edge, epoch: index as u64 };
        let number = self.number(index);
        let is_wild = self.below(40) == 0;
        let events: Vec<_> = (0..self.below(12))
            .map(|_| {
                let at = if is_wild { self.wild() } else { self.at() };
                self.event(at)
            })
            .collect();
        let mut declared = BTreeMap::new();
        events.iter().for_each(|event| *declared.entry(event.at.minute()).or_insert(0) += 1);
        let declared = declared.into_iter().collect();
        let watermark = self.now;
        let digest = shared::BatchDigest([1; 16]);
        let entry = BatchEntry { outbox, number, watermark, digest, declared };
        Sent { entry, events, tallies: self.tallies() }
    }

    /// The next number, one that was left out before, or the one behind a gap.
    fn number(&mut self, index: usize) -> u64 {
        let left_out = self.missing.iter().position(|(of, _)| *of == index);
        match (self.below(12), left_out) {
            (0, Some(at)) => return self.missing.remove(at).1,
            (1, _) => {
                self.missing.push((index, self.next[index]));
                self.next[index] += 1;
            }
            _ => {}
        }
        self.next[index] += 1;
        self.next[index] - 1
    }

    /// More gaps than the engine keeps of one edge.
    fn gaps(&mut self) -> Vec<Bytes> {
        let of = |first: u64| {
            let mut builder = MessageBuilder::default();
            for number in first..first + 4_000 {
                let mut sent = self.batch();
                sent.entry.outbox = OutboxId { edge: EDGES[0], epoch: 0 };
                sent.entry.number = 1_000_000 + 2 * number;
                Self::put(&mut builder, &sent);
            }
            builder.finish(0, self.now).into()
        };
        (0..20_000).step_by(4_000).map(of).collect()
    }

    fn put(builder: &mut MessageBuilder, sent: &Sent) {
        let entry = builder.batch(sent.entry.clone());
        sent.events.iter().for_each(|event| builder.event(entry, event));
        sent.tallies.iter().for_each(|tally| builder.tally(entry, *tally));
    }

    /// The next rows of a log, the same again, or rows beyond a gap.
    fn chunk(&mut self, builder: &mut MessageBuilder) {
        let log = usize::try_from(self.below(2)).unwrap();
        let source: SourceId = import::named_source(["one.csv", "two.csv"][log]);
        let (taken, length) = (self.rows[log], 1 + self.below(30));
        let first_row = match self.below(4) {
            0 => taken.saturating_sub(self.below(60)),
            1 => taken + self.below(20),
            _ => taken,
        };
        // One of them crosses a block's end.
        let offset = if log == 0 { 65_500 } else { 0 };
        let first_row = if taken == 0 && log == 0 { 0 } else { first_row };
        let end_row = if first_row == 0 && log == 0 { offset } else { first_row + length };
        self.rows[log] = taken.max(end_row);
        let digest = [1; 32];
        let declared = vec![(START, 3)];
        let entry = builder.chunk(ChunkEntry { source, first_row, end_row, digest, declared });
        for row in first_row.max(end_row.saturating_sub(length))..end_row {
            if self.below(4) == 0 {
                continue;
            }
            // A log of long ago: its rows are counted in their own minutes.
            let at = Minute(START.0 - 9_000 + u32::try_from(row % 90).unwrap()).start();
            let id = import::impression(source, row);
            let event = self.event(at);
            let price = Money::ZERO;
            builder.event(entry, &Judged { issuer: import::ISSUER, id, price, ..event });
        }
        for tally in self.tallies() {
            builder.tally(entry, tally);
        }
    }

    /// An operator's word: an edge is out of service, or a batch of an outbox never comes (although
    /// it may). The batch may be missing; or the operator errs, and it has come already, or is one
    /// of the next.
    fn word(&mut self) -> Control {
        let index = usize::try_from(self.below(3)).unwrap();
        let edge = EDGES[index];
        let outbox = OutboxId { edge, epoch: index as u64 };
        let missing = self.missing.iter().find(|(of, _)| *of == index).copied();
        let word = match (self.next[index], missing) {
            (0, _) => Word::Retire { edge },
            (_, Some((_, number))) if self.below(2) == 0 => Word::Resolve { outbox, number },
            (next, _) => Word::Resolve { outbox, number: (next + self.below(4)).saturating_sub(1) },
        };
        Control { partition: 0, stamp: self.now, word }
    }

    fn message(&mut self) -> Bytes {
        let pause = match self.below(25) {
            0 => DAY_MS,
            1 => 7_200_000,
            _ => self.below(120_000),
        };
        self.now = self.now.plus_ms(pause);
        if self.below(20) == 0 {
            return self.word().to_bytes().into();
        }
        if self.blocks.is_empty() || self.below(6) == 0 {
            self.blocks.push(BlockId::open(self.now, &mut self.random));
            // An impression's events come within days of its issue.
            let old = self.blocks.len().saturating_sub(4);
            self.blocks.drain(..old);
        }
        let mut builder = MessageBuilder::default();
        for _ in 0..1 + self.below(3) {
            let sent = self.batch();
            Self::put(&mut builder, &sent);
            if self.below(8) == 0 {
                // Twice in one message.
                Self::put(&mut builder, &sent);
            }
            self.sent.push(sent);
        }
        if self.below(3) == 0 {
            let mut sent = self.pick(&self.sent.clone());
            if self.below(4) == 0 {
                // Another content under its number.
                sent.entry.digest = shared::BatchDigest([2; 16]);
                sent.events.truncate(1);
            }
            Self::put(&mut builder, &sent);
        }
        // Only in some files: the minutes of chunks are all over the place, and every file would
        // have to be read.
        if self.below(12) == 0 {
            for _ in 0..1 + self.below(3) {
                self.chunk(&mut builder);
            }
        }
        builder.finish(0, self.now).into()
    }
}

fn facts(engine: &Engine, range: &std::ops::Range<Minute>) -> Vec<Fact> {
    let mut facts = Vec::new();
    for (minute, account) in engine.account(range.start, range.end) {
        let fixed = [
            ("declared", account.declared),
            ("imported", account.imported),
            ("counted", account.counted),
            ("duplicate", account.duplicate),
        ];
        let reasons = Reason::ALL.iter().map(|reason| (reason.name(), account.reason(*reason)));
        for (what, n) in fixed.into_iter().chain(reasons) {
            let (what, n) = (what.to_owned(), i64::try_from(n).unwrap());
            facts.push(Fact { minute, cell: Cell::default(), what, n });
        }
        engine.cells(minute, &mut |c| {
            let what = if c.dimensions.valid { "valid" } else { "invalid" }.to_owned();
            let n = i64::try_from(c.count).unwrap();
            facts.push(Fact { minute, cell: cell(&c.dimensions), what, n });
        });
        engine.amounts(minute, &mut |row| {
            let what = format!("{} {}", row.amount, row.currency);
            facts.push(Fact { minute, cell: cell(&row.dimensions), what, n: row.micros });
        });
    }
    facts
}

fn cell(of: &Dimensions) -> Cell {
    let names = of.names().map(|id| id.text().unwrap().to_owned());
    let texts: Vec<String> =
        names.into_iter().chain(of.codes().texts()).chain([of.kind.to_string()]).collect();
    texts.try_into().unwrap()
}

/// A history in an engine and in an archive.
struct Both {
    engine: Engine,
    archive: Archive,
    files: Vec<(archive::Entry, archive::FileInfo)>,
    _dir: tempfile::TempDir,
}

async fn both(seed: u64, messages: usize) -> Both {
    let mut history = History::new(seed);
    logged((0..messages).map(|_| history.message()).collect()).await
}

async fn logged(messages: Vec<Bytes>) -> Both {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::local(dir.path()).unwrap();
    let log = Arc::new(MemLog::new(1, [7; 16]));
    for payload in messages {
        log.append(vec![Message { partition: 0, payload }]).await.unwrap();
    }
    let mut engine = Engine::new(0, Settings::default());
    let mut reader = log.reader(0, None).await.unwrap();
    while let Some(next) = reader.try_next().unwrap() {
        match Logged::read(&next.payload).unwrap() {
            Logged::Message(view) => engine.apply(&view, next.position).map(|_| ()).unwrap(),
            Logged::Control(word) => engine.control(&word, next.position).unwrap(),
        }
    }
    let registry = &mut Registry::default();
    let settings = archive::Settings { every: Duration::from_secs(60), file_bytes: 9_000 };
    let parts = Parts { log: Arc::clone(&log), archive: archive.clone(), settings, registry };
    let archiver = Archiver::start(parts).await.unwrap();
    archiver.flusher().flush(0).await.unwrap().unwrap();
    archiver.close().await;
    let mut files = Vec::new();
    for entry in archive.list(0).await.unwrap() {
        let info = archive.info(&entry, 0).await.unwrap();
        files.push((entry, info));
    }
    Both { engine, archive, files, _dir: dir }
}

impl Both {
    async fn compare(&self, range: std::ops::Range<Minute>) -> Compared {
        self.compare_within(range, Limits::NONE).await
    }

    async fn compare_within(&self, range: std::ops::Range<Minute>, limits: Limits) -> Compared {
        let counted = self.counted(facts(&self.engine, &range));
        let scope = Scope { files: needed(self.files.clone(), &range) };
        let bar = Progress::start(0, 1, 0, false);
        count::compare(&self.archive, scope, counted, &range, limits, &bar).await.unwrap()
    }

    /// What the engine says, with these facts.
    fn counted(&self, facts: Vec<Fact>) -> Counted {
        let cut_off = self.engine.cut_off().iter().map(|(edge, at)| CutOff {
            edge: *edge,
            sequence: at.sequence,
            entry: at.entry,
        });
        let (sequence, cut_off) = (self.engine.position().unwrap().sequence, cut_off.collect());
        let mut counted = Counted { partitions: 1, sequence, cut_off, ..Counted::default() };
        facts.iter().for_each(|fact| counted.add(fact));
        counted
    }
}

const ALL: std::ops::Range<Minute> = Minute(START.0 - 100_000)..Minute(START.0 + 1_000_000);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plain_count_says_what_the_engine_says() {
    let mut whats = BTreeSet::new();
    for seed in 0..4 {
        let both = both(seed, 150).await;
        assert!(both.files.len() > 10, "{} files", both.files.len());
        let compared = both.compare(ALL).await;
        let differences = compared.differences;
        assert!(
            differences.is_empty(),
            "seed {seed}: {:#?}",
            &differences[..differences.len().min(9)]
        );
        assert!(compared.facts > 1_000, "{}", compared.facts);
        // The engine keeps a bounded number of conflicts; the archive has all.
        let told: u64 =
            both.engine.conflicts().map(|(_, state)| state.contents.conflicts_all).sum();
        assert!(told > 0 && compared.conflicts.len() as u64 >= told, "{told}");
        let all = facts(&both.engine, &ALL);
        whats.extend(all.into_iter().filter(|fact| fact.n != 0).map(|fact| fact.what));
    }
    // Each of these happened, so none was left untested.
    let all = [
        "bad_seal",
        "clock_ahead",
        "counted",
        "declared",
        "duplicate",
        "expired",
        "head_request",
        "imported",
        "invalid",
        "outbox_full",
        "prefetch",
        "spend EUR",
        "spend USD",
        "test",
        "too_late",
        "valid",
    ];
    assert_eq!(whats.iter().map(String::as_str).collect::<Vec<_>>(), all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plain_count_knows_where_an_edge_was_cut_off() {
    let mut history = History::new(7);
    let mut messages: Vec<_> = (0..30).map(|_| history.message()).collect();
    messages.extend(history.gaps());
    messages.extend((0..60).map(|_| history.message()));
    let both = logged(messages).await;
    assert_eq!(both.engine.cut_off().keys().collect::<Vec<_>>(), [&EDGES[0]]);
    let compared = both.compare(ALL).await;
    let differences = compared.differences;
    assert!(differences.is_empty(), "{:#?}", &differences[..differences.len().min(9)]);
    let of = |what: &str| {
        let all = facts(&both.engine, &ALL);
        all.into_iter().filter(|fact| fact.what == what).map(|fact| fact.n).sum::<i64>()
    };
    assert!(of("over_quota") > 10_000 && of("counted") > 100, "{}", of("over_quota"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_minutes_is_counted_from_a_part_of_the_files() {
    let both = both(11, 200).await;
    let last = both.engine.clock().minute();
    let mut fewer = 0;
    let sixth = (last.0 - START.0) / 6;
    for from in (START.0..last.0).step_by(usize::try_from(sixth).unwrap()) {
        let range = Minute(from)..Minute(from + sixth / 3);
        fewer += usize::from(needed(both.files.clone(), &range).len() < both.files.len());
        let differences = both.compare(range).await.differences;
        assert!(differences.is_empty(), "{from}: {differences:#?}");
    }
    assert!(fewer > 0, "all files were read for every part");
}

/// The first columns of a file.
fn with_columns(file: &Bytes, columns: usize) -> Bytes {
    let reader = ParquetRecordBatchReaderBuilder::try_new(file.clone()).unwrap();
    let reader = reader.build().unwrap();
    let first: Vec<usize> = (0..columns).collect();
    let schema = Arc::new(arrow_array::RecordBatchReader::schema(&reader).project(&first).unwrap());
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).unwrap();
    reader.for_each(|batch| writer.write(&batch.unwrap().project(&first).unwrap()).unwrap());
    writer.close().unwrap();
    bytes.into()
}

#[tokio::test]
async fn a_file_of_before_lacks_the_last_columns() {
    let both = both(5, 20).await;
    let file = both.archive.read(&both.files[0].0).await.unwrap();
    let all = archive::schema().fields().len();
    let read = |bytes| records::read(bytes, u64::MAX, &mut names::Names::default());
    let whole = read(file.clone()).unwrap().len();
    assert!(whole > 20, "{whole} records");
    assert_eq!(read(with_columns(&file, all - 1)).unwrap().len(), whole);
    // A file may lack the last columns, but none in between.
    let refused = read(with_columns(&file, 10)).unwrap_err();
    assert!(refused.contains("not those of an archive"), "{refused}");
    assert!(read(file.slice(..file.len() - 9)).is_err());
    assert!(read(Bytes::new()).is_err());
}

#[tokio::test]
async fn each_difference_is_one_line() {
    let both = both(3, 30).await;
    let mut all = facts(&both.engine, &ALL);
    let at = all.iter().position(|fact| fact.what == "valid").unwrap();
    all[at].n += 1;
    let wrong = all[at].clone();
    let counted = both.counted(all);
    let scope = Scope { files: both.files.clone() };
    let bar = Progress::start(0, 1, 0, false);
    let compared =
        count::compare(&both.archive, scope, counted, &ALL, Limits::NONE, &bar).await.unwrap();
    let line: Vec<_> = compared.differences.iter().map(ToString::to_string).collect();
    assert_eq!(line.len(), 1, "{line:?}");
    let ends = format!(
        "kind={} valid: engine {}, archive {}",
        wrong.cell.last().unwrap(),
        wrong.n,
        wrong.n - 1
    );
    let begins = format!("{} ad={}", wrong.minute.start(), wrong.cell[0]);
    assert!(line[0].starts_with(&begins) && line[0].ends_with(&ends), "{line:?}");
}

/// Files that are read in shares give what they give at once, whatever is remembered at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_count_in_shares_is_the_count_at_once() {
    let mut history = History::new(8);
    let plain = logged((0..120).map(|_| history.message()).collect()).await;
    // With an edge that is cut off, whose gaps are many records.
    let mut history = History::new(7);
    let mut messages: Vec<_> = (0..30).map(|_| history.message()).collect();
    messages.extend(history.gaps());
    messages.extend((0..30).map(|_| history.message()));
    let both = logged(messages).await;
    for (both, shares) in [(&plain, 2), (&plain, 9), (&both, 2)] {
        let whole = both.compare(ALL).await;
        assert!(whole.differences.is_empty() && !whole.conflicts.is_empty(), "{whole:?}");
        let all = Scope { files: both.files.clone() }.records();
        let limits = Limits { records: all.div_ceil(shares), ..Limits::NONE };
        let compared = both.compare_within(ALL, limits).await;
        let differences = &compared.differences;
        assert!(differences.is_empty(), "{:#?}", &differences[..differences.len().min(9)]);
        assert_eq!((compared.facts, &compared.conflicts), (whole.facts, &whole.conflicts));
    }
    let (both, whole) = (&plain, plain.compare(ALL).await);
    // An engine that has counted nothing: every count differs, and some are named.
    let limits = Limits { records: 1_000, named: 7, ..Limits::NONE };
    let scope = Scope { files: both.files.clone() };
    let bar = Progress::start(0, 1, 0, false);
    let none = both.counted(Vec::new());
    let compared = count::compare(&both.archive, scope, none, &ALL, limits, &bar).await.unwrap();
    assert_eq!((compared.differences.len(), compared.differences_all), (7, whole.facts));
    assert!(compared.conflicts.len() <= 7);
}

#[test]
fn a_range_is_halved_until_it_is_one_minute() {
    let halves = |from, to| halves(&(Minute(from)..Minute(to)));
    assert_eq!(halves(7, 8), None);
    assert_eq!(halves(7, 9), Some((Minute(7)..Minute(8), Minute(8)..Minute(9))));
    assert_eq!(halves(0, 1_441), Some((Minute(0)..Minute(720), Minute(720)..Minute(1_441))));
}
