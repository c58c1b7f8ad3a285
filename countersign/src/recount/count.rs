//! The plain count: takes each record once, in the order of the log, and keeps sets of what it has
//! seen.
//!
//! The engine makes the same decisions by other code: which batches are repeated, which events come
//! too late, which were seen before, what a cell adds up to. `docs/recount.sql` makes them in SQL,
//! for any engine that reads Parquet; a test holds the three together.
//!
//! Memory: about 18 bytes for each event of the files that are read and 70 for each batch, one
//! file's records (120 bytes each), and 120 bytes for each count. Where that would be too much, the
//! files are read several times ([`Reading`]): first each time for some of the batches, so that it
//! is known which of them count, then each time for the events of some of the blocks.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use archive::Archive;
use hashbrown::{HashMap, HashSet, hash_map::Entry};
use shared::Minute;
use shared::counted::Amount;
use shared::limits::{CLOCK_AHEAD_MS_MAX, HORIZON_MS};

use api::export::{CELL, CutOff};
use shared::ambient::Stopwatch;

use super::engine::Counted;
use super::files::Scope;
use super::names::{Key, Names};
use super::records::{Name, Record, RecordKind, read};
use super::{Compared, Limits, archive_failure};
use crate::failure::Failure;
use crate::progress::Progress;

const MINUTE_MS: i64 = 60_000;
const HORIZON: i64 = HORIZON_MS.cast_signed();
const AHEAD: i64 = CLOCK_AHEAD_MS_MAX.cast_signed();

/// A number that differs, with its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Difference {
    /// The minute.
    pub(crate) minute: Minute,
    /// The names of the cell that are not empty, each with its column; none for an account.
    pub(crate) cell: Vec<(&'static str, String)>,
    /// What is counted: `valid` or `invalid` events, `spend EUR`; of an account `declared`,
    /// `imported`, `counted`, `duplicate` or a reason.
    pub(crate) what: String,
    /// How much of it by the engine.
    pub(crate) engine: i64,
    /// And how much by the archive.
    pub(crate) archive: i64,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.minute.start())?;
        for (column, name) in &self.cell {
            write!(f, " {column}={name}")?;
        }
        write!(f, " {}: engine {}, archive {}", self.what, self.engine, self.archive)
    }
}

/// What one reading of the files takes: a share of the batches, a share of the blocks with their
/// events, or both. Everything else of a record decides alike in all readings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reading {
    /// Which share of the batches; `None` when that is no matter of this reading.
    batches: Option<u32>,
    /// Which share of the events.
    events: Option<u32>,
    /// How many shares there are.
    of: u32,
}

impl Reading {
    /// The readings in their order: one, if that remembers no more than `at_once` records.
    fn all(records: u64, at_once: u64) -> Vec<Self> {
        let of = u32::try_from(records.div_ceil(at_once.max(1)).max(1)).unwrap_or(u32::MAX);
        if of == 1 {
            return vec![Self { batches: Some(0), events: Some(0), of }];
        }
        let batches = (0..of).map(|share| Self { batches: Some(share), events: None, of });
        let events = (0..of).map(|share| Self { batches: None, events: Some(share), of });
        batches.chain(events).collect()
    }

    /// Whether a batch is of this reading.
    fn takes_batch(self, outbox: u32, number: u64) -> bool {
        let share = (u64::from(outbox).wrapping_add(number)) % u64::from(self.of);
        self.batches.is_some_and(|batches| u64::from(batches) == share)
    }

    /// Whether a block's events are of it.
    fn takes_block(self, block: Name) -> bool {
        self.events == Some(block % self.of)
    }
}

/// Counts the files, and compares with what the engine says.
///
/// # Errors
/// When a file cannot be read.
pub(super) async fn compare(
    archive: &Archive,
    scope: Scope,
    counted: Counted,
    range: &Range<Minute>,
    limits: Limits,
    progress: &Progress,
) -> Result<Compared, Failure> {
    let Counted { partitions, sequence, cut_off, names, facts, .. } = counted;
    let mut count = Count::new(range.clone(), names, &cut_off, limits.named);
    for reading in Reading::all(scope.records(), limits.records) {
        count.begin(reading);
        for (entry, _) in &scope.files {
            let watch = Stopwatch::start();
            let bytes = archive.read(entry).await.map_err(|error| archive_failure(&error))?;
            let taken = tokio::task::spawn_blocking(move || {
                let records = read(bytes, sequence, &mut count.names)?;
                count.take(&records);
                Ok::<_, String>(count)
            });
            let taken = taken.await.map_err(|error| Failure::fatal(error.to_string()))?;
            count = taken.map_err(|why| {
                let name = archive.name(&entry.path);
                Failure::data(format!("the archive cannot be counted: {name}: damaged: {why}"))
            })?;
            progress.read(entry.bytes);
            if limits.is_paced {
                tokio::time::sleep(watch.elapsed()).await;
            }
        }
    }
    let (events, bytes) = (scope.events(), scope.bytes());
    Ok(Compared { partitions, cut_off, events, bytes, ..count.compared(&facts) })
}

/// The words that the rules use, as numbers.
struct Words {
    accepted: Name,
    test: Name,
    impression: Name,
    malformed: Name,
    too_late: Name,
    clock_ahead: Name,
    duplicate: Name,
    over_quota: Name,
    declared: Name,
    counted: Name,
    imported: Name,
    valid: Name,
    invalid: Name,
}

/// Why nothing of a batch counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Skipped {
    /// The batch came before.
    Repeated,
    /// The batch's edge is cut off.
    OverQuota,
}

struct Count {
    range: Range<Minute>,
    reading: Reading,
    /// How many conflicts and differences are named.
    named: usize,
    names: Names,
    words: Words,
    /// Outboxes (edge and epoch) as numbers, each with one more than the highest number of its
    /// batches.
    outboxes: HashMap<(Name, u64), (u32, u64)>,
    /// Blocks (issuer and block) as numbers.
    blocks: HashMap<(Name, Name), u32>,
    /// The digest of each batch that came, by outbox and number; 0 for one that an operator has
    /// given up.
    batches: HashMap<(u32, u64), u128>,
    conflicts: BTreeSet<String>,
    /// Edges of which nothing counts any more, from this message (sequence) and batch (entry) on.
    cut_off: HashMap<String, (u64, u64)>,
    /// Batches of which nothing counts, by the message's sequence and the entry in it.
    skipped: HashMap<(u64, u64), Skipped>,
    /// For each imported log: the sequence of the last message with a chunk of it, and up to which
    /// row it was taken before that message and with it.
    taken: HashMap<Name, (u64, u64, u64)>,
    kinds: Vec<Name>,
    /// Events that came: block, then seq, kind and validity in one number.
    seen: HashSet<(u32, u32)>,
    facts: HashMap<Key, i64>,
}

impl Count {
    /// `names` are those of the engine's facts.
    fn new(range: Range<Minute>, mut names: Names, cut_off: &[CutOff], named: usize) -> Self {
        let words = Words {
            accepted: names.number("accepted"),
            test: names.number("test"),
            impression: names.number("impression"),
            malformed: names.number("malformed"),
            too_late: names.number("too_late"),
            clock_ahead: names.number("clock_ahead"),
            duplicate: names.number("duplicate"),
            over_quota: names.number("over_quota"),
            declared: names.number("declared"),
            counted: names.number("counted"),
            imported: names.number("imported"),
            valid: names.number("valid"),
            invalid: names.number("invalid"),
        };
        Self {
            range,
            reading: Reading { batches: None, events: None, of: 1 },
            named,
            names,
            words,
            outboxes: HashMap::new(),
            blocks: HashMap::new(),
            batches: HashMap::new(),
            conflicts: BTreeSet::new(),
            cut_off: cut_off
                .iter()
                .map(|edge| (edge.edge.to_string(), (edge.sequence, u64::from(edge.entry))))
                .collect(),
            skipped: HashMap::new(),
            taken: HashMap::new(),
            kinds: Vec::new(),
            seen: HashSet::new(),
            facts: HashMap::new(),
        }
    }

    /// Begins to read all files from the first on. What is kept from the readings before it: names,
    /// which batches do not count, and the facts.
    fn begin(&mut self, reading: Reading) {
        self.reading = reading;
        self.outboxes.clear();
        self.blocks.clear();
        self.batches.clear();
        self.taken.clear();
        self.seen.clear();
    }

    /// Takes records, which must come in the order of the log.
    fn take(&mut self, records: &[Record]) {
        let Reading { batches, events, .. } = self.reading;
        for record in records {
            match record.what {
                RecordKind::Resolved if batches.is_some() => self.resolve(record),
                RecordKind::Batch if batches.is_some() => {
                    if let Err(why) = self.take_batch(record) {
                        self.skipped.insert((record.sequence, record.entry), why);
                    }
                }
                RecordKind::Chunk if events.is_some() => self.take_chunk(record),
                RecordKind::Event if self.reading.takes_block(record.block) => self.outcome(record),
                RecordKind::Tally | RecordKind::Declared if events == Some(0) => {
                    self.outcome(record);
                }
                // A matter of another reading.
                _ => {}
            }
        }
    }

    /// Entries of chunks have numbers above those of the batches, and are never skipped.
    fn outcome(&mut self, record: &Record) {
        let skipped = self.skipped.get(&(record.sequence, record.entry)).copied();
        if skipped != Some(Skipped::Repeated) {
            self.judge(record, skipped.is_some());
        }
    }

    /// Whether a batch counts. One that came before, or that an operator has given up, is skipped
    /// with all that it brings. What a cut-off edge brings is over its quota, as often as it comes.
    fn take_batch(&mut self, record: &Record) -> Result<(), Skipped> {
        let is_cut_off = self.is_cut_off(record);
        let next = number(self.outboxes.len());
        let (outbox, end) = self.outboxes.entry((record.edge, record.epoch)).or_insert((next, 0));
        if !is_cut_off {
            *end = record.number.saturating_add(1).max(*end);
        }
        if !self.reading.takes_batch(*outbox, record.number) {
            return Ok(());
        }
        let first = match self.batches.entry((*outbox, record.number)) {
            Entry::Vacant(_) if is_cut_off => return Err(Skipped::OverQuota),
            Entry::Vacant(vacant) => {
                vacant.insert(record.digest);
                return Ok(());
            }
            Entry::Occupied(first) => *first.get(),
        };
        let is_conflict = first != 0 && record.digest != 0 && first != record.digest;
        if is_conflict && self.conflicts.len() < self.named {
            self.conflicts.insert(format!(
                "edge {} epoch {} batch {}: it came with two contents, and only the first was counted: \
                 digests {first:032x}, {:032x}",
                self.names.text(record.edge),
                record.epoch,
                record.number,
                record.digest
            ));
        }
        Err(Skipped::Repeated)
    }

    /// An operator has given a batch up. That has an effect only when it is missing, though a later
    /// batch of its outbox has come.
    fn resolve(&mut self, record: &Record) {
        let outbox = self.outboxes.get(&(record.edge, record.epoch));
        let Some((outbox, end)) = outbox.copied() else { return };
        let is_ours = self.reading.takes_batch(outbox, record.number);
        if is_ours && record.number < end && !self.is_cut_off(record) {
            self.batches.entry((outbox, record.number)).or_insert(0);
        }
    }

    fn is_cut_off(&self, record: &Record) -> bool {
        let edge = self.names.text(record.edge);
        let name = edge.split_once("--").map_or(edge, |(name, _)| name);
        let at = self.cut_off.get(if name.is_empty() { edge } else { name });
        at.is_some_and(|at| *at <= (record.sequence, record.entry))
    }

    /// A log counts as taken as far as its chunks follow each other from its first row on. The rows
    /// of a message are judged by what was taken before that message.
    fn take_chunk(&mut self, record: &Record) {
        let (sequence, before, upto) = self.taken.entry(record.source).or_default();
        if *sequence != record.sequence {
            (*sequence, *before) = (record.sequence, *upto);
        }
        let first = record.source_row.unwrap_or(0);
        if (first..record.source_end).contains(upto) {
            *upto = record.source_end;
        }
    }

    fn judge(&mut self, record: &Record, is_over_quota: bool) {
        let (minute, outside) = self.within(record);
        let over_quota = is_over_quota.then_some(self.words.over_quota);
        let fate = self.fate(record, over_quota, outside);
        let range = i64::from(self.range.start.0)..i64::from(self.range.end.0);
        let of_chunk = record.source != 0;
        if !range.contains(&minute) || (record.what == RecordKind::Declared && of_chunk) {
            return;
        }
        let words = &self.words;
        let valid = record.verdict == 0;
        let account = match fate {
            Some(fate) => fate,
            None if valid => words.counted,
            None => record.verdict,
        };
        let mut add = |cell: [Name; CELL.len()], what: Name, n: i64| {
            // No amount is negative, so a sum that reaches its bound does so in whatever order it
            // is added up.
            let sum = self.facts.entry(Key { minute, cell, what }).or_insert(0);
            *sum = sum.saturating_add(n);
        };
        add([0; CELL.len()], account, record.count);
        if of_chunk {
            add([0; CELL.len()], words.imported, record.count);
        }
        // A test is counted in the accounts alone, in no cell.
        if fate.is_some() || record.verdict == words.test {
            return;
        }
        let cell = record.cell;
        add(cell, if valid { words.valid } else { words.invalid }, record.count);
        if valid && record.kind == words.impression && record.currency != 0 {
            let what = format!("{} {}", Amount::Spend, self.names.text(record.currency));
            add(cell, self.names.number(&what), record.price_micros);
        }
    }

    /// The minute in which a record is counted, and the reason when that is not its own minute. No
    /// minute is further ahead of the collector's clock than clocks may differ; and none is behind
    /// the horizon, except in an imported log.
    fn within(&self, record: &Record) -> (i64, Option<Name>) {
        let minute = record.at_ms / MINUTE_MS;
        let first = record.clock_ms.saturating_sub(HORIZON).max(0) / MINUTE_MS;
        let last = (record.stamp_ms.saturating_add(AHEAD) / MINUTE_MS).max(first);
        if minute > last {
            (last, Some(self.words.clock_ahead))
        } else if minute < first && record.source == 0 {
            (first, Some(self.words.too_late))
        } else {
            (minute, None)
        }
    }

    /// Why a record does not count; `None` when it counts, or is flagged, as the first of its kind.
    fn fate(
        &mut self,
        record: &Record,
        over_quota: Option<Name>,
        outside: Option<Name>,
    ) -> Option<Name> {
        let words = &self.words;
        if record.what == RecordKind::Declared {
            return Some(words.declared);
        }
        if over_quota.is_some() {
            return over_quota;
        }
        if record.what == RecordKind::Tally {
            return outside.or(Some(record.outcome));
        }
        if record.outcome != words.accepted {
            return Some(record.outcome);
        }
        if outside.is_some() {
            return outside;
        }
        if record.block == 0 {
            return Some(words.malformed);
        }
        let last = |opened: i64| opened.saturating_add(MINUTE_MS).saturating_add(HORIZON);
        if record.opened_ms.is_some_and(|opened| last(opened) < record.clock_ms) {
            return Some(words.too_late);
        }
        // A test is compared with valid events, since without the mark it would be one.
        let valid = record.verdict == 0 || record.verdict == words.test;
        let taken = self.taken.get(&record.source).map(|(_, before, _)| *before);
        let is_taken = record.source_row.zip(taken).is_some_and(|(row, taken)| row < taken);
        let is_first = self.is_first(record, valid);
        (is_taken || !is_first).then_some(self.words.duplicate)
    }

    /// Whether an event is the first of its impression and kind. Valid events and others are told
    /// apart.
    fn is_first(&mut self, record: &Record, valid: bool) -> bool {
        let next = number(self.blocks.len());
        let block = *self.blocks.entry((record.issuer, record.block)).or_insert(next);
        let kinds = &mut self.kinds;
        let kind = kinds.iter().position(|kind| *kind == record.kind).unwrap_or_else(|| {
            kinds.push(record.kind);
            kinds.len() - 1
        });
        // The few kinds fit into the 16 bits beside `seq`.
        let kind = number(kind) * 2 + u32::from(valid);
        self.seen.insert((block, u32::from(record.seq) | kind << 16))
    }

    /// Compares both sides name by name.
    fn compared(&self, engine: &HashMap<Key, i64>) -> Compared {
        let (mut facts, mut different) = (0, Vec::new());
        let of_archive =
            self.facts.iter().map(|(key, n)| (key, engine.get(key).copied().unwrap_or(0), *n));
        let of_engine = engine.iter().filter(|(key, _)| !self.facts.contains_key(*key));
        for (key, counted, archived) in of_archive.chain(of_engine.map(|(key, n)| (key, *n, 0))) {
            facts += u64::from((counted, archived) != (0, 0));
            if counted != archived {
                different.push((key, counted, archived));
            }
        }
        let text = |name: &Name| self.names.text(*name);
        different.sort_unstable_by(|(a, ..), (b, ..)| {
            let minutes = a.minute.cmp(&b.minute);
            let cells = || a.cell.iter().map(text).cmp(b.cell.iter().map(text));
            minutes.then_with(cells).then_with(|| text(&a.what).cmp(text(&b.what)))
        });
        let differences_all = different.len() as u64;
        let named = different.into_iter().take(self.named);
        let named = named.map(|(key, engine, archive)| Difference {
            minute: Minute(u32::try_from(key.minute).unwrap_or(u32::MAX)),
            cell: CELL
                .iter()
                .zip(key.cell)
                .filter(|(_, name)| *name != 0)
                .map(|(column, name)| (*column, text(&name).to_owned()))
                .collect(),
            what: text(&key.what).to_owned(),
            engine,
            archive,
        });
        let (differences, conflicts) = (named.collect(), self.conflicts.clone());
        Compared { facts, differences, differences_all, conflicts, ..Compared::default() }
    }
}

/// As a 32-bit number: so many of anything would not fit into memory.
fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
