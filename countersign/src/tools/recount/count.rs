//! The plain count: takes each record once, in the order of the log, and keeps sets of what it has
//! seen.
//!
//! The engine makes the same decisions by other code: which batches are repeated, which events come
//! too late, which were seen before, what a cell adds up to. `docs/recount.sql` makes them in SQL,
//! for any engine that reads Parquet; a test holds the three together.
//!
//! Memory: about 18 bytes for each event of the files that are read, one file's records (120 bytes
//! each), and the facts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use archive::Archive;
use hashbrown::{HashMap, HashSet, hash_map::Entry};
use shared::Minute;
use shared::counted::Amount;
use shared::limits::{CLOCK_AHEAD_MS_MAX, HORIZON_MS};

use super::archive_failure;
use api::export::{CELL, CutOff};

use super::engine::{Cell, Counted, Fact};
use super::files::Scope;
use super::names::Names;
use super::progress::Progress;
use super::records::{Name, Record, RecordKind, read};
use crate::failure::Failure;

const MINUTE_MS: i64 = 60_000;
const HORIZON: i64 = HORIZON_MS.cast_signed();
const AHEAD: i64 = CLOCK_AHEAD_MS_MAX.cast_signed();

/// The result for a partition.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// How many facts were compared: names for which either side has a number.
    pub(super) facts: u64,
    /// One line each.
    pub(super) differences: Vec<String>,
    /// Batches whose number came with two contents, one line each. It is a set because every
    /// partition hears of them.
    pub(super) conflicts: BTreeSet<String>,
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
    progress: &Progress,
) -> Result<Compared, Failure> {
    let sequence = counted.sequence;
    let mut count = Count::new(range.clone(), counted.cut_off);
    for (entry, _) in &scope.files {
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
    }
    Ok(count.compared(&counted.facts))
}

/// The names of a fact: those of a cell; an account of a minute has none of these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    minute: i64,
    /// Those of [`CELL`].
    cell: [Name; CELL.len()],
    what: Name,
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
    /// The current message's sequence, and its entries of which nothing counts.
    skipped: (u64, HashMap<u64, Skipped>),
    /// For each imported log: the sequence of the last message with a chunk of it, and up to which
    /// row it was taken before that message and with it.
    taken: HashMap<Name, (u64, u64, u64)>,
    kinds: Vec<Name>,
    /// Events that came: block, then seq, kind and validity in one number.
    seen: HashSet<(u32, u32)>,
    facts: HashMap<Key, i64>,
}

impl Count {
    fn new(range: Range<Minute>, cut_off: Vec<CutOff>) -> Self {
        let mut names = Names::default();
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
            names,
            words,
            outboxes: HashMap::new(),
            blocks: HashMap::new(),
            batches: HashMap::new(),
            conflicts: BTreeSet::new(),
            cut_off: cut_off
                .into_iter()
                .map(|edge| (edge.edge.to_string(), (edge.sequence, u64::from(edge.entry))))
                .collect(),
            skipped: (0, HashMap::new()),
            taken: HashMap::new(),
            kinds: Vec::new(),
            seen: HashSet::new(),
            facts: HashMap::new(),
        }
    }

    /// Takes records, which must come in the order of the log.
    fn take(&mut self, records: &[Record]) {
        for record in records {
            if self.skipped.0 != record.sequence {
                self.skipped = (record.sequence, HashMap::new());
            }
            match record.what {
                RecordKind::Resolved => self.resolve(record),
                RecordKind::Batch => {
                    if let Err(why) = self.take_batch(record) {
                        self.skipped.1.insert(record.entry, why);
                    }
                }
                RecordKind::Chunk => self.take_chunk(record),
                // Entries of chunks have numbers above those of the batches, and are never skipped.
                RecordKind::Event | RecordKind::Tally | RecordKind::Declared => {
                    let skipped = self.skipped.1.get(&record.entry).copied();
                    if skipped != Some(Skipped::Repeated) {
                        self.judge(record, skipped.is_some());
                    }
                }
            }
        }
    }

    /// Whether a batch counts. One that came before, or that an operator has given up, is skipped
    /// with all that it brings. What a cut-off edge brings is over its quota, as often as it comes.
    fn take_batch(&mut self, record: &Record) -> Result<(), Skipped> {
        let is_cut_off = self.is_cut_off(record);
        let next = number(self.outboxes.len());
        let (outbox, end) = self.outboxes.entry((record.edge, record.epoch)).or_insert((next, 0));
        let first = match self.batches.entry((*outbox, record.number)) {
            Entry::Vacant(_) if is_cut_off => return Err(Skipped::OverQuota),
            Entry::Vacant(vacant) => {
                vacant.insert(record.digest);
                *end = record.number.saturating_add(1).max(*end);
                return Ok(());
            }
            Entry::Occupied(first) => *first.get(),
        };
        if first != 0 && record.digest != 0 && first != record.digest {
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
        if record.number < end && !self.is_cut_off(record) {
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

    /// Compares both sides name by name; each difference is a line, in the order of the names.
    fn compared(mut self, engine: &[Fact]) -> Compared {
        let mut both: BTreeMap<(i64, Cell, String), (i64, i64)> = BTreeMap::new();
        for (key, n) in std::mem::take(&mut self.facts) {
            let text = |name| self.names.text(name).to_owned();
            both.entry((key.minute, key.cell.map(text), text(key.what))).or_default().0 += n;
        }
        for Fact { minute, cell, what, n } in engine {
            let names = (i64::from(minute.0), cell.clone(), what.clone());
            both.entry(names).or_default().1 += n;
        }
        both.retain(|_, sides| *sides != (0, 0));
        let different = both.iter().filter(|(_, (archived, counted))| archived != counted);
        let differences = different.map(|(names, sides)| describe(names, *sides)).collect();
        Compared { facts: both.len() as u64, differences, conflicts: self.conflicts }
    }
}

/// As a 32-bit number: so many of anything would not fit into memory.
fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A difference as a line.
fn describe((minute, cell, what): &(i64, Cell, String), (archived, counted): (i64, i64)) -> String {
    let minute = u32::try_from(*minute).map_or(Minute(u32::MAX), Minute);
    let mut line = minute.start().to_string();
    for (value, name) in cell.iter().zip(CELL) {
        if !value.is_empty() {
            line.push_str(&format!(" {name}={value}"));
        }
    }
    format!("{line} {what}: engine {counted}, archive {archived}")
}
