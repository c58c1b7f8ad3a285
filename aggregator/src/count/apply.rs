//! Applies one message, in passes: which batches are new (entries), what each event becomes (rows),
//! which names it has (ids), and what it adds to the minutes (cells, then totals). Most of the time
//! goes into waiting for memory. So each pass is a short loop over a flat array, without branches
//! that depend on what was read, and the processor waits for many reads at once.

use shared::counted::{Amount, Packed};
use shared::event::REASON_CODES;
use shared::keys::registered_name;
use shared::limits::CLOCK_AHEAD_MS_MAX;
use shared::wire::{ChunkEntry, MessageView, Row};
use shared::{AnyId, Dimensions, EdgeId, Kind, Reason, Timestamp, import};

use super::accounts::MinuteAccount;
use super::cells::{AdKey, CellKey, Minutes};
use super::dedup::{BitmapKey, Dedup, is_behind_horizon};
use super::engine::{Applied, Engine};
use super::intern::Interner;
use super::outboxes::{CutOff, Taken};
use super::sources::{ChunkRows, SourceState};
use super::window::Window;

/// The fate of an event is an index into [`Fates`]: the code of its reason, or this when it was
/// counted (no reason has the code 0) …
const COUNTED: usize = 0;
/// … or this when it was seen before.
const DUPLICATE: usize = REASON_CODES;
/// Counted beside the fates: the event came in a chunk.
const IMPORTED: usize = REASON_CODES + 1;
/// Counted beside the fates: the event was added to a cell.
const IN_CELLS: usize = REASON_CODES + 2;

/// How many events have each fate. 32 bits are enough: a message has 65 535 events at most.
type Fates = [u32; REASON_CODES + 3];

/// Stands for a bitmap that has not been looked up yet.
const UNRESOLVED: u32 = u32::MAX;
/// Stands for a reason's code: the block is one of an imported log, whose events only a chunk may
/// bring.
const OF_A_LOG: u8 = u8::MAX;
/// A block that says it was opened later than this after the collector's stamp is refused: no
/// clocks that may be believed differ so much. The receipt of an event may be ahead of the
/// collector's clock by [`CLOCK_AHEAD_MS_MAX`], the issue of its token ahead of the receipt by as
/// much, and the opening of the block ahead of the issue by as much again.
const OPENED_AHEAD_MS_MAX: u64 = 3 * CLOCK_AHEAD_MS_MAX;
const KINDS: usize = Kind::ALL.len();
/// Two for each kind: of the events with a verdict, and of the valid ones.
const BITMAPS_PER_BLOCK: usize = KINDS * 2;

/// A batch or chunk of the message, which brings events.
#[derive(Clone, Copy, Debug)]
enum Entry {
    /// A batch that was applied before, or under whose number another was.
    Skipped,
    Batch,
    /// A chunk, with its number among the message's chunks.
    Chunk(u16),
    /// A batch or chunk that is not taken: all its events have this reason.
    Refused {
        reason: Reason,
        imported: bool,
    },
}

/// A chunk, and what was known of its source when the message came.
#[derive(Clone, Copy, Debug)]
struct Chunk {
    /// None when it covers more rows than it may.
    rows: Option<ChunkRows>,
    /// How many rows of its log had been taken before this message.
    taken: u64,
    fates: Fates,
}

/// An event that adds to a cell. Minute, names and price are numbers in the tables of the message.
#[derive(Clone, Copy, Debug)]
struct Added {
    minute: u16,
    names: [u16; Dimensions::NAMES.len()],
    /// One of the names: numbered events are counted by publisher.
    publisher: u16,
    packed: Packed,
    /// A page view numbers it.
    numbered: bool,
    /// 0 unless the event costs something.
    price: u16,
}

/// Working space that is kept from message to message. All but `added` are indexed by the numbers
/// that the message gives its entries, chunks, blocks, ids and minutes.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    entries: Vec<Entry>,
    chunks: Vec<Chunk>,
    /// By block: the code of the reason why none of its events can count, or [`OF_A_LOG`], else 0.
    refused: Vec<u8>,
    window: Window,
    /// [`BITMAPS_PER_BLOCK`] for each block: numbers of [`Dedup`], or [`UNRESOLVED`].
    bitmaps: Vec<u32>,
    /// By id: whether an event that adds to a cell has it.
    named: Vec<bool>,
    /// By id: its number in the [`Interner`], if it is named.
    ids: Vec<u32>,
    /// By minute of the window.
    fates: Vec<Fates>,
    /// By minute of the window: its place in [`Minutes`], if it has any fates.
    places: Vec<usize>,
    added: Vec<Added>,
    /// The places in the message of the events that add to a cell.
    counted: Vec<u16>,
    /// [`KINDS`] for each id: the totals of one minute.
    sums: Vec<u32>,
}

impl Engine {
    /// Applies a message.
    pub(super) fn take(&mut self, message: &MessageView<'_>, sequence: u64) -> Applied {
        self.begin(message.stamp);
        let settled = self.settled;
        let has_room = self.minutes.make_room(message.ids.len());
        self.scratch.window.begin(message, self.clock);
        let mut applied = Applied::default();
        self.take_entries(message, sequence, has_room, &mut applied);
        self.account_for_given_up();
        self.scratch.prepare(message, self.clock);
        self.scratch.judge(message, &mut self.dedup);
        self.scratch.name(message, &mut self.minutes.ids);
        self.take_tallies(message, &mut applied);
        self.scratch.settle(settled, &mut self.minutes, &mut applied);
        self.scratch.count(message, &mut self.minutes);
        self.tail.take(message, &self.scratch.counted);
        self.take_page_views(message);
        for (entry, chunk) in self.scratch.taken_chunks(message) {
            self.sources.change(entry.source).add(&chunk.fates);
        }
        let taken = self.scratch.taken_chunks(message).map(|(entry, _)| entry);
        self.sources.advance(taken, &mut self.dedup);
        applied
    }

    /// Takes the numbers of the batches, and how many events they declare. `has_room`: there is
    /// room for the message's ids; without it every new batch and chunk is refused.
    fn take_entries(
        &mut self,
        message: &MessageView<'_>,
        sequence: u64,
        has_room: bool,
        applied: &mut Applied,
    ) {
        self.scratch.entries.clear();
        let refused = |reason, imported| Entry::Refused { reason, imported };
        // MESSAGE_ENTRIES_MAX keeps the numbers of batches and chunks far below 2^16.
        for (entry, batch) in (0_u16..).zip(&message.batches) {
            let at = CutOff { sequence, entry };
            let entry = match self.outboxes.take(batch, at, self.clock) {
                Taken::New if has_room => Entry::Batch,
                Taken::New | Taken::OverQuota => refused(Reason::OverQuota, false),
                Taken::Malformed => refused(Reason::Malformed, false),
                taken @ (Taken::Known | Taken::Conflict) => {
                    applied.redelivered += u64::from(taken == Taken::Known);
                    applied.conflicts += u64::from(taken == Taken::Conflict);
                    self.scratch.entries.push(Entry::Skipped);
                    continue;
                }
            };
            self.scratch.entries.push(entry);
            for (minute, count) in batch.declared.iter().filter(|(_, count)| *count > 0) {
                let (minute, _) = self.scratch.window.within(*minute, false);
                let place = self.minutes.place(minute);
                self.minutes.unsaved(place).account.declared += u64::from(*count);
            }
        }
        self.scratch.chunks.clear();
        for (number, chunk) in (0_u16..).zip(&message.chunks) {
            let rows = ChunkRows::from_chunk(chunk);
            self.scratch.entries.push(match rows {
                Some(_) if has_room => Entry::Chunk(number),
                Some(_) => refused(Reason::OverQuota, true),
                None => refused(Reason::Malformed, true),
            });
            let taken = self.sources.rows(chunk.source);
            self.scratch.chunks.push(Chunk { rows, taken, fates: Fates::default() });
        }
    }

    /// Adds up how many events page views say that they have sent.
    fn take_page_views(&mut self, message: &MessageView<'_>) {
        for row in &message.page_views {
            let entry = self.scratch.entries[usize::from(row.entry)];
            if matches!(entry, Entry::Skipped | Entry::Refused { .. }) {
                continue;
            }
            // Chunks of ours bring no page views. One that does all the same has no edge.
            let edge = message.batches.get(usize::from(row.entry));
            let edge = edge.map_or(EdgeId::NONE, |batch| registered_name(batch.outbox.edge));
            let sent = self.page_views.take(row.told, edge, self.clock);
            if sent > 0 {
                let minute = message.minutes[usize::from(row.minute)];
                let imported = matches!(entry, Entry::Chunk(_));
                let (minute, _) = self.scratch.window.within(minute, imported);
                let place = self.minutes.place(minute);
                let publisher = message.ids[usize::from(row.publisher)];
                let name = message.name(row.publisher);
                let publisher = self.minutes.ids.number_named(publisher, name);
                self.minutes.unsaved(place).told.entry(publisher).or_default().sent += sent;
            }
        }
    }

    fn take_tallies(&mut self, message: &MessageView<'_>, applied: &mut Applied) {
        for entry in &message.tallies {
            let tally = entry.tally;
            let count = u64::from(tally.count);
            let (chunk, imported, refused) = match self.scratch.entries[usize::from(entry.entry)] {
                Entry::Skipped => continue,
                Entry::Batch => (None, false, None),
                Entry::Chunk(number) => (Some(&message.chunks[usize::from(number)]), true, None),
                Entry::Refused { reason, imported } => (None, imported, Some(reason)),
            };
            if count == 0 {
                continue;
            }
            let (minute, outside) = self.scratch.window.within(tally.minute, imported);
            let code = usize::from(refused.or(outside).unwrap_or(tally.reason).code());
            let place = self.minutes.place(minute);
            let account = &mut self.minutes.unsaved(place).account;
            account.reasons[code] += count;
            account.imported += if imported { count } else { 0 };
            if let Some(chunk) = chunk {
                self.sources.change(chunk.source).reasons[code] += count;
            }
            applied.events += count;
            applied.reasons[code] += count;
        }
    }
}

impl Scratch {
    fn prepare(&mut self, message: &MessageView<'_>, clock: Timestamp) {
        let opened = message.stamp.plus_ms(OPENED_AHEAD_MS_MAX);
        let refused = message.blocks.iter().map(|(issuer, block)| {
            if *issuer == import::ISSUER {
                OF_A_LOG
            } else if is_behind_horizon(*block, clock) {
                Reason::TooLate.code()
            } else if block.opened().start() > opened {
                Reason::Malformed.code()
            } else {
                0
            }
        });
        self.refused.clear();
        self.refused.extend(refused);
        // Block 0 stands for "no block". A collector accepts no event without one, so an accepted
        // event that has none is not from a collector of ours.
        self.refused[0] = Reason::Malformed.code();
        refill(&mut self.bitmaps, message.blocks.len() * BITMAPS_PER_BLOCK, UNRESOLVED);
        refill(&mut self.named, message.ids.len(), false);
        refill(&mut self.fates, self.window.minutes().len(), Fates::default());
        self.added.clear();
        self.counted.clear();
    }

    /// The chunks that were not refused.
    fn taken_chunks<'a>(
        &'a self,
        message: &'a MessageView<'_>,
    ) -> impl Iterator<Item = (&'a ChunkEntry, &'a Chunk)> {
        let entries = &self.entries[message.batches.len()..];
        let chunks = message.chunks.iter().zip(&self.chunks).zip(entries);
        chunks.filter(|(_, entry)| matches!(entry, Entry::Chunk(_))).map(|(chunk, _)| chunk)
    }

    /// Gives every event its fate.
    fn judge(&mut self, message: &MessageView<'_>, dedup: &mut Dedup) {
        // A message has at most MESSAGE_ROWS_MAX rows, fewer than 2^16.
        for (at, row) in (0_u16..).zip(message.rows()) {
            let (chunk, imported, refused) = match self.entries[usize::from(row.entry)] {
                Entry::Skipped => continue,
                Entry::Batch => (None, false, None),
                Entry::Chunk(number) => (Some(usize::from(number)), true, None),
                Entry::Refused { reason, imported } => (None, imported, Some(reason)),
            };
            let (minute, outside) = self.window.place(row.minute, imported);
            let fate = match (refused, outside) {
                (Some(reason), _) => usize::from(reason.code()),
                (None, Some(reason)) => usize::from(row.outcome.err().unwrap_or(reason).code()),
                (None, None) => self.fate(message, (at, &row), chunk, dedup),
            };
            let fates = &mut self.fates[minute];
            fates[fate] += 1;
            if imported {
                fates[IMPORTED] += 1;
            }
            if let Some(chunk) = chunk {
                self.chunks[chunk].fates[fate] += 1;
            }
        }
    }

    /// The fate of an event whose time and entry are good.
    #[inline]
    fn fate(
        &mut self,
        message: &MessageView<'_>,
        (at, row): (u16, &Row),
        chunk: Option<usize>,
        dedup: &mut Dedup,
    ) -> usize {
        let verdict = match row.outcome {
            Err(reason) => return usize::from(reason.code()),
            Ok(verdict) => verdict,
        };
        match (self.refused[usize::from(row.block)], chunk) {
            (0, None) => {}
            (OF_A_LOG, Some(chunk)) => match self.row_of(message, row, chunk) {
                None => return usize::from(Reason::Malformed.code()),
                // All rows before `taken` were taken; their bits may have been dropped since.
                Some(at) if at < self.chunks[chunk].taken => return DUPLICATE,
                Some(_) => {}
            },
            // A batch may not bring rows of a log, and a chunk may bring nothing else.
            (OF_A_LOG, None) | (_, Some(_)) => return usize::from(Reason::Malformed.code()),
            (refused, None) => return usize::from(refused),
        }
        match (self.is_new(message, row, dedup), verdict) {
            (None, _) => usize::from(Reason::OverQuota.code()),
            (Some(false), _) => DUPLICATE,
            // A test stands in the accounts, and in no cell.
            (Some(true), Some(Reason::Test)) => usize::from(Reason::Test.code()),
            (Some(true), verdict) => {
                self.add(at, row);
                verdict.map_or(COUNTED, |reason| usize::from(reason.code()))
            }
        }
    }

    /// The number of the row in its log; none when it lies outside the chunk that brought it.
    #[inline]
    fn row_of(&self, message: &MessageView<'_>, row: &Row, chunk: usize) -> Option<u64> {
        let (_, block) = message.blocks[usize::from(row.block)];
        self.chunks[chunk].rows?.row(block, row.seq)
    }

    /// Whether the event was never seen before; none when its issuer may have no further bitmap.
    #[inline]
    fn is_new(&mut self, message: &MessageView<'_>, row: &Row, dedup: &mut Dedup) -> Option<bool> {
        // Either all events of an impression are tests or none is, so a test may use the bit that
        // the event would have if it were counted.
        let valid = matches!(row.outcome, Ok(None | Some(Reason::Test)));
        let kind = row.kind();
        let number = usize::from(kind.code()) * 2 + usize::from(valid);
        let bitmap = &mut self.bitmaps[usize::from(row.block) * BITMAPS_PER_BLOCK + number];
        if *bitmap == UNRESOLVED {
            let (issuer, block) = message.blocks[usize::from(row.block)];
            *bitmap = dedup.bitmap(BitmapKey { issuer, block, kind, valid })?;
        }
        Some(dedup.insert(*bitmap, row.seq))
    }

    #[inline]
    fn add(&mut self, at: u16, row: &Row) {
        let Row { minute, publisher, packed, numbered, .. } = *row;
        let names = row.names();
        let costs = packed.is_valid() && packed.kind() == Kind::Impression;
        let price = if costs { row.price } else { 0 };
        self.counted.push(at);
        self.added.push(Added { minute, names, publisher, packed, numbered, price });
        names.iter().for_each(|name| self.named[usize::from(*name)] = true);
        self.fates[usize::from(minute)][IN_CELLS] += 1;
    }

    /// Looks up the numbers of the ads and publishers of all events that add to a cell.
    fn name(&mut self, message: &MessageView<'_>, ids: &mut Interner) {
        let named = (0..).zip(&message.ids).zip(&self.named);
        let number = |((number, id), named): ((u16, &AnyId), &bool)| match named {
            true if id.is_digest() => ids.number_named(*id, message.name(number)),
            true => ids.number(*id),
            false => 0,
        };
        self.ids.clear();
        self.ids.extend(named.map(number));
    }

    /// Adds the fates to the accounts of their minutes, and notes the places of these minutes.
    fn settle(&mut self, settled: Timestamp, minutes: &mut Minutes, applied: &mut Applied) {
        self.places.clear();
        for (minute, fates) in self.window.minutes().iter().zip(&self.fates) {
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

    /// Adds the events to cells, totals and amounts, and counts by publisher those that page views
    /// number.
    fn count(&mut self, message: &MessageView<'_>, minutes: &mut Minutes) {
        for added in &self.added {
            minutes.unsaved(self.place(added)).cells.add_one(self.key(added));
        }
        self.sum(minutes);
        for added in self.added.iter().filter(|added| added.price != 0) {
            let price = message.prices[usize::from(added.price)];
            let minute = minutes.unsaved(self.place(added));
            minute.add((self.key(added), Amount::Spend, price.currency), price.micros);
        }
        for added in self.added.iter().filter(|added| added.numbered) {
            let publisher = self.ids[usize::from(added.publisher)];
            let minute = minutes.unsaved(self.place(added));
            minute.told.entry(publisher).or_default().counted += 1;
        }
    }

    /// Adds the events to the totals of their ads. Most events of a message are valid, of one
    /// minute and of few ads: these are summed up in an array first, so that the table is asked
    /// once for each ad. All others are added one by one.
    fn sum(&mut self, minutes: &mut Minutes) {
        if self.added.is_empty() {
            return;
        }
        let most = self.fates.iter().enumerate().max_by_key(|(_, fates)| fates[IN_CELLS]);
        let most = most.map_or(0, |(minute, _)| minute);
        refill(&mut self.sums, self.ids.len() * KINDS, 0);
        for added in &self.added {
            // The ad is the first of the names.
            let ad = usize::from(added.names[0]);
            if added.packed.is_valid() && usize::from(added.minute) == most {
                self.sums[ad * KINDS + usize::from(added.packed.kind().code())] += 1;
            } else {
                let key = AdKey::new(self.ids[ad], added.packed);
                minutes.unsaved(self.place(added)).totals.add_one(key);
            }
        }
        let totals = &mut minutes.unsaved(self.places[most]).totals;
        for (number, sums) in self.ids.iter().zip(self.sums.chunks_exact(KINDS)) {
            for (kind, sum) in Kind::ALL.iter().zip(sums).filter(|(_, sum)| **sum > 0) {
                totals.add(AdKey::new(*number, Packed::new(0, *kind, true)), u64::from(*sum));
            }
        }
    }

    #[inline]
    fn place(&self, added: &Added) -> usize {
        self.places[usize::from(added.minute)]
    }

    #[inline]
    fn key(&self, added: &Added) -> CellKey {
        CellKey::new(added.names.map(|name| self.ids[usize::from(name)]), added.packed)
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
