//! One message, in passes: what is new (entries), what each event becomes (rows), whom it names
//! (ids), and what it adds to the minutes (cells, then totals). Each pass is a short loop over a flat
//! array without branches that depend on what memory says, so that the processor waits for many
//! places in memory at once: that is where the time goes.

use shared::event::REASON_CODES;
use shared::wire::{MessageView, Row};
use shared::{Kind, Reason, Timestamp, import};

use super::accounts::MinuteAccount;
use super::cells::{AdKey, CellKey, CellRest, Minutes};
use super::dedup::{BitmapKey, Dedup, is_behind_horizon};
use super::engine::{Applied, Engine};
use super::error::EngineError;
use super::intern::Interner;
use super::sources::{ChunkRows, SourceState};

/// What becomes of an event, as an index: the code of a reason, or one of these. No reason has the
/// code 0.
const COUNTED: usize = 0;
const DUPLICATE: usize = REASON_CODES;
/// Beside its fate: it came in a chunk.
const IMPORTED: usize = REASON_CODES + 1;
/// Beside its fate: it added to a cell.
const IN_CELLS: usize = REASON_CODES + 2;

/// How many events of a message became what. 32 bits are enough: a message has 65 535 at most.
type Fates = [u32; REASON_CODES + 3];

const UNRESOLVED: u32 = u32::MAX;
const KINDS: usize = Kind::ALL.len();
const BITMAPS_PER_BLOCK: usize = KINDS * 2;

/// What brought an event.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Redelivered,
    Batch,
    /// The number of the chunk among the chunks.
    Chunk(u16),
}

/// A chunk, and what was known of its source when the message came.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    rows: ChunkRows,
    taken: u64,
    fates: Fates,
}

/// An event that adds to a cell, in the numbers of the message.
#[derive(Clone, Copy, Debug)]
struct Added {
    minute: u16,
    ad: u16,
    publisher: u16,
    rest: CellRest,
    /// A page view numbers it.
    numbered: bool,
    /// None (0) unless it is spent.
    price: u16,
}

/// Working space that is kept from message to message. All but `added` are indexed by the numbers
/// that the message gives its entries, chunks, blocks, ids and minutes.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    entries: Vec<Entry>,
    chunks: Vec<Chunk>,
    /// The reason's code when nothing of the block can count, else 0.
    refused: Vec<u8>,
    /// [`BITMAPS_PER_BLOCK`] for each block.
    bitmaps: Vec<u32>,
    named: Vec<bool>,
    ids: Vec<u32>,
    fates: Vec<Fates>,
    places: Vec<usize>,
    added: Vec<Added>,
    /// [`KINDS`] for each id: the totals of one minute.
    sums: Vec<u32>,
}

impl Engine {
    /// Looks for everything that would make this message no message of ours. Changes no state.
    pub(super) fn check(&mut self, message: &MessageView<'_>) -> Result<(), EngineError> {
        if message.partition != self.partition {
            let (expected, got) = (self.partition, message.partition);
            return Err(EngineError::Partition { expected, got });
        }
        if !self.minutes.ids.has_room(message.ids.len()) {
            return Err(EngineError::TooManyIds);
        }
        for batch in &message.batches {
            self.outboxes.check(batch.outbox, batch.number)?;
        }
        self.scratch.chunks.clear();
        for (entry, chunk) in message.chunks.iter().enumerate() {
            let rows = ChunkRows::of(chunk).ok_or(EngineError::ChunkRows { entry })?;
            let taken = self.sources.rows(chunk.source);
            self.scratch.chunks.push(Chunk { rows, taken, fates: Fates::default() });
        }
        let imports = message.blocks.iter().any(|(issuer, _)| *issuer == import::ISSUER);
        if imports || !message.chunks.is_empty() {
            self.check_blocks(message)?;
        }
        Ok(())
    }

    fn check_blocks(&self, message: &MessageView<'_>) -> Result<(), EngineError> {
        for (number, row) in message.rows().enumerate() {
            let (issuer, block) = message.blocks[usize::from(row.block)];
            let fits = match usize::from(row.entry).checked_sub(message.batches.len()) {
                _ if row.block == 0 || row.outcome.is_err() => true,
                None => issuer != import::ISSUER,
                Some(chunk) => {
                    let rows = &self.scratch.chunks[chunk].rows;
                    issuer == import::ISSUER && rows.row(block, row.seq).is_some()
                }
            };
            if !fits {
                return Err(EngineError::ForeignBlock { row: number });
            }
        }
        Ok(())
    }

    /// Applies a message that was [checked](Self::check).
    pub(super) fn take(&mut self, message: &MessageView<'_>) -> Applied {
        self.begin(message.stamp);
        let settled = self.settled;
        let redelivered = self.take_entries(message);
        let mut applied = Applied { redelivered, ..Applied::default() };
        self.scratch.prepare(message, self.clock);
        self.scratch.judge(message, &mut self.dedup);
        self.scratch.name(message, &mut self.minutes.ids);
        self.take_tallies(message, &mut applied);
        self.scratch.settle(message, settled, &mut self.minutes, &mut applied);
        self.scratch.count(message, &mut self.minutes);
        self.take_pages(message);
        for (entry, chunk) in message.chunks.iter().zip(&self.scratch.chunks) {
            self.sources.change(entry.source).add(&chunk.fates);
        }
        self.sources.advance(&message.chunks, &mut self.dedup);
        applied
    }

    /// Takes the numbers of the batches and what they declare; returns how many were known.
    fn take_entries(&mut self, message: &MessageView<'_>) -> u64 {
        let mut redelivered = 0;
        self.scratch.entries.clear();
        for batch in &message.batches {
            if !self.outboxes.take(batch.outbox, batch.number, batch.watermark, self.clock) {
                redelivered += 1;
                self.scratch.entries.push(Entry::Redelivered);
                continue;
            }
            self.scratch.entries.push(Entry::Batch);
            for (minute, count) in batch.declared.iter().filter(|(_, count)| *count > 0) {
                let place = self.minutes.place(*minute);
                self.minutes.unsaved(place).account.declared += u64::from(*count);
            }
        }
        // MESSAGE_ENTRIES_MAX keeps the numbers of chunks far below 2^16.
        let chunks = (0_u16..).take(message.chunks.len());
        self.scratch.entries.extend(chunks.map(Entry::Chunk));
        redelivered
    }

    /// Takes what page views say that they have sent.
    fn take_pages(&mut self, message: &MessageView<'_>) {
        for row in &message.pages {
            if matches!(self.scratch.entries[usize::from(row.entry)], Entry::Redelivered) {
                continue;
            }
            let sent = self.pages.take(row.told, self.clock);
            if sent > 0 {
                let place = self.minutes.place(message.minutes[usize::from(row.minute)]);
                let publisher = self.minutes.ids.number(message.ids[usize::from(row.publisher)]);
                self.minutes.unsaved(place).told.entry(publisher).or_default().sent += sent;
            }
        }
    }

    fn take_tallies(&mut self, message: &MessageView<'_>, applied: &mut Applied) {
        for entry in &message.tallies {
            let tally = entry.tally;
            let (code, count) = (usize::from(tally.reason.code()), u64::from(tally.count));
            let chunk = match self.scratch.entries[usize::from(entry.entry)] {
                Entry::Redelivered => continue,
                Entry::Batch => None,
                Entry::Chunk(number) => Some(&message.chunks[usize::from(number)]),
            };
            if count == 0 {
                continue;
            }
            let place = self.minutes.place(tally.minute);
            let account = &mut self.minutes.unsaved(place).account;
            account.reasons[code] += count;
            if let Some(chunk) = chunk {
                account.imported += count;
                self.sources.change(chunk.source).reasons[code] += count;
            }
            applied.events += count;
            applied.reasons[code] += count;
        }
    }
}

impl Scratch {
    fn prepare(&mut self, message: &MessageView<'_>, clock: Timestamp) {
        let refused = message.blocks.iter().map(|(issuer, block)| {
            let late = *issuer != import::ISSUER && is_behind_horizon(*block, clock);
            if late { Reason::TooLate.code() } else { 0 }
        });
        self.refused.clear();
        self.refused.extend(refused);
        // Block 0 is none: what has none cannot have been accepted by a collector of ours.
        self.refused[0] = Reason::Malformed.code();
        refill(&mut self.bitmaps, message.blocks.len() * BITMAPS_PER_BLOCK, UNRESOLVED);
        refill(&mut self.named, message.ids.len(), false);
        refill(&mut self.fates, message.minutes.len(), Fates::default());
        self.added.clear();
    }

    /// Gives every event its fate.
    fn judge(&mut self, message: &MessageView<'_>, dedup: &mut Dedup) {
        for row in message.rows() {
            let chunk = match self.entries[usize::from(row.entry)] {
                Entry::Redelivered => continue,
                Entry::Batch => None,
                Entry::Chunk(number) => Some(usize::from(number)),
            };
            let fate = match (row.outcome, self.refused[usize::from(row.block)]) {
                (Err(reason), _) => usize::from(reason.code()),
                (Ok(_), refused @ 1..) => usize::from(refused),
                (Ok(_), 0) if self.is_taken(message, &row, chunk) => DUPLICATE,
                (Ok(_), 0) if !self.is_new(message, &row, dedup) => DUPLICATE,
                // A test is in the accounts alone.
                (Ok(Some(Reason::Test)), 0) => usize::from(Reason::Test.code()),
                (Ok(verdict), 0) => {
                    self.add(&row);
                    verdict.map_or(COUNTED, |reason| usize::from(reason.code()))
                }
            };
            let fates = &mut self.fates[usize::from(row.minute)];
            fates[fate] += 1;
            if let Some(chunk) = chunk {
                fates[IMPORTED] += 1;
                self.chunks[chunk].fates[fate] += 1;
            }
        }
    }

    /// Whether this is a row of a log that was taken with all before it: no bitmap is kept of them.
    #[inline]
    fn is_taken(&self, message: &MessageView<'_>, row: &Row, chunk: Option<usize>) -> bool {
        let Some(chunk) = chunk.map(|chunk| &self.chunks[chunk]) else { return false };
        let (_, block) = message.blocks[usize::from(row.block)];
        chunk.rows.row(block, row.seq).is_some_and(|row| row < chunk.taken)
    }

    #[inline]
    fn is_new(&mut self, message: &MessageView<'_>, row: &Row, dedup: &mut Dedup) -> bool {
        // All of an impression is a test or none is: a test's bit is that of what would be counted.
        let valid = matches!(row.outcome, Ok(None | Some(Reason::Test)));
        let number = usize::from(row.kind.code()) * 2 + usize::from(valid);
        let bitmap = &mut self.bitmaps[usize::from(row.block) * BITMAPS_PER_BLOCK + number];
        if *bitmap == UNRESOLVED {
            let (issuer, block) = message.blocks[usize::from(row.block)];
            *bitmap = dedup.bitmap(BitmapKey { issuer, block, kind: row.kind, valid });
        }
        dedup.insert(*bitmap, row.seq)
    }

    #[inline]
    fn add(&mut self, row: &Row) {
        let Row { minute, ad, publisher, kind, numbered, .. } = *row;
        let valid = row.outcome == Ok(None);
        let rest = CellRest::new(row.country, row.device, kind, valid);
        let price = if valid && kind == Kind::Impression { row.price } else { 0 };
        self.added.push(Added { minute, ad, publisher, rest, numbered, price });
        self.named[usize::from(ad)] = true;
        self.named[usize::from(publisher)] = true;
        self.fates[usize::from(minute)][IN_CELLS] += 1;
    }

    /// Resolves the ads and publishers of what is added.
    fn name(&mut self, message: &MessageView<'_>, ids: &mut Interner) {
        let named = message.ids.iter().zip(&self.named);
        self.ids.clear();
        self.ids.extend(named.map(|(id, named)| if *named { ids.number(*id) } else { 0 }));
    }

    /// Adds the fates to the accounts, and finds the place of every minute that has any.
    fn settle(
        &mut self,
        message: &MessageView<'_>,
        settled: Timestamp,
        minutes: &mut Minutes,
        applied: &mut Applied,
    ) {
        self.places.clear();
        for (minute, fates) in message.minutes.iter().zip(&self.fates) {
            if *fates == Fates::default() {
                self.places.push(usize::MAX);
                continue;
            }
            let place = minutes.place(*minute);
            self.places.push(place);
            let mut account = account_of(fates);
            account.revision = u64::from(fates[IN_CELLS] > 0 && settled >= minute.end());
            applied.add(&account);
            minutes.unsaved(place).account.add(&account);
        }
    }

    /// Adds to cells, totals, spend, and what was counted of pages.
    fn count(&mut self, message: &MessageView<'_>, minutes: &mut Minutes) {
        for added in &self.added {
            minutes.unsaved(self.place(added)).cells.add_one(self.key(added));
        }
        self.sum(minutes);
        for added in self.added.iter().filter(|added| added.price != 0) {
            let price = message.prices[usize::from(added.price)];
            let minute = minutes.unsaved(self.place(added));
            minute.spend(self.key(added), price.currency, price.micros);
        }
        for added in self.added.iter().filter(|added| added.numbered) {
            let publisher = self.ids[usize::from(added.publisher)];
            let minute = minutes.unsaved(self.place(added));
            minute.told.entry(publisher).or_default().counted += 1;
        }
    }

    /// Adds to the totals of ads. In the minute that most events are of, those of an ad are summed
    /// up first: the few ads that most events are of cost one look-up each then. Those with a verdict
    /// are few.
    fn sum(&mut self, minutes: &mut Minutes) {
        if self.added.is_empty() {
            return;
        }
        let most = self.fates.iter().enumerate().max_by_key(|(_, fates)| fates[IN_CELLS]);
        let most = most.map_or(0, |(minute, _)| minute);
        refill(&mut self.sums, self.ids.len() * KINDS, 0);
        for added in &self.added {
            let (kind, valid) = (added.rest.kind(), added.rest.is_valid());
            if valid && usize::from(added.minute) == most {
                let kind = usize::from(kind.code());
                self.sums[usize::from(added.ad) * KINDS + kind] += 1;
            } else {
                let key = AdKey::new(self.ids[usize::from(added.ad)], kind, valid);
                minutes.unsaved(self.place(added)).totals.add_one(key);
            }
        }
        let totals = &mut minutes.unsaved(self.places[most]).totals;
        for (number, sums) in self.ids.iter().zip(self.sums.chunks_exact(KINDS)) {
            for (kind, sum) in Kind::ALL.iter().zip(sums).filter(|(_, sum)| **sum > 0) {
                totals.add(AdKey::new(*number, *kind, true), u64::from(*sum));
            }
        }
    }

    #[inline]
    fn place(&self, added: &Added) -> usize {
        self.places[usize::from(added.minute)]
    }

    #[inline]
    fn key(&self, added: &Added) -> CellKey {
        let number = |at: u16| self.ids[usize::from(at)];
        CellKey::new(number(added.ad), number(added.publisher), added.rest)
    }
}

fn refill<T: Clone>(list: &mut Vec<T>, length: usize, with: T) {
    list.clear();
    list.resize(length, with);
}

fn account_of(fates: &Fates) -> MinuteAccount {
    let mut reasons: [u64; REASON_CODES] = std::array::from_fn(|code| u64::from(fates[code]));
    let counted = std::mem::take(&mut reasons[COUNTED]);
    MinuteAccount {
        counted,
        duplicate: u64::from(fates[DUPLICATE]),
        imported: u64::from(fates[IMPORTED]),
        reasons,
        ..MinuteAccount::default()
    }
}

impl SourceState {
    fn add(&mut self, fates: &Fates) {
        let MinuteAccount { counted, duplicate, reasons, .. } = account_of(fates);
        self.counted += counted;
        self.duplicate += duplicate;
        self.reasons.iter_mut().zip(reasons).for_each(|(to, n)| *to += n);
    }
}

impl Applied {
    fn add(&mut self, account: &MinuteAccount) {
        self.events += account.outcomes();
        self.counted += account.counted;
        self.duplicate += account.duplicate;
        self.reasons.iter_mut().zip(account.reasons).for_each(|(to, n)| *to += n);
    }
}
