//! An outbox whose batches and slots are rows of a database that writes several rows in one
//! transaction: a shard of an edge that has many processes and no disk.
//!
//! Pure: every operation returns the rows to write. When the write fails, the shard is made anew
//! from what the database has ([`Shard::recover`]).
//!
//! A shard outlives its process, so a restart goes on in the same epoch. A shard that has had no
//! events for a while closes its epoch and sleeps: it holds back no minute and costs nothing. The
//! next event opens a new epoch.

use shared::id::{IdAllocator, IdRange};
use shared::wire::Tally;
use shared::{EdgeId, OutboxId, Random, Timestamp};

use super::parcel::Parcel;
use super::seal::{BatchHead, Sealed, Sealer, next_epoch};
use super::tallies::{SLOT_BYTES, Slot, TallyTable};

/// How many ids an isolate is leased at a time. What a short-lived isolate leaves unused costs at
/// most this many bits of dedup state.
pub const LEASE_IDS: u16 = 256;

/// The row of a slot: its index, and its bytes; `None` deletes the row.
pub type SlotRow = (usize, Option<[u8; SLOT_BYTES]>);

/// Rows to write in this order, all or nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rows {
    /// Batches, to be sent in this order after those that the database has.
    pub batches: Vec<Vec<u8>>,
    /// The slots that have changed.
    pub slots: Vec<SlotRow>,
}

/// An outbox in a database.
#[derive(Clone, Debug)]
pub struct Shard {
    edge: EdgeId,
    /// The sealer of the open epoch; `None` while the shard sleeps.
    sealer: Option<Sealer>,
    /// The last batch that was sealed.
    last: Option<BatchHead>,
    tallies: TallyTable,
    /// When tallies were last put into a batch.
    handed_over: Timestamp,
    /// When the last events came.
    events_at: Timestamp,
    ids: IdAllocator,
}

/// The intervals of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardTiming {
    /// The time between heartbeats without traffic, ms.
    pub heartbeat_ms: u64,
    /// The time between batches that take tallies under traffic, ms.
    pub hand_over_ms: u64,
    /// The time without events after which the epoch is closed, ms.
    pub idle_ms: u64,
}

impl Default for ShardTiming {
    fn default() -> Self {
        Self { heartbeat_ms: 1_000, hand_over_ms: 1_000, idle_ms: 60_000 }
    }
}

/// What a shard does that has nothing left to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Idle {
    /// Write these rows, and send their batches.
    Send(Rows),
    /// Wait until this time.
    Wait(Timestamp),
    /// Wait for the next event: everything is reported and the epoch is closed.
    Sleep,
}

impl Shard {
    /// Goes on from what the database has: the last batch, the slots, and what is left of the block
    /// of ids.
    #[must_use]
    pub fn recover(
        edge: EdgeId,
        last: Option<BatchHead>,
        slots: Vec<Option<Slot>>,
        ids: Option<IdRange>,
    ) -> Self {
        let reported = last.map(|last| (last.outbox.epoch, last.number));
        let (tallies, _) = TallyTable::recover(slots, reported);
        let sealer = last.as_ref().and_then(BatchHead::unclosed);
        let watermark = sealer.as_ref().map_or(Timestamp(0), Sealer::watermark);
        Self {
            edge,
            sealer,
            last,
            tallies,
            handed_over: watermark,
            events_at: watermark,
            ids: IdAllocator::resume(ids),
        }
    }

    /// The outbox with its open epoch; `None` while the shard sleeps.
    #[must_use]
    pub fn outbox(&self) -> Option<OutboxId> {
        self.sealer.as_ref().map(Sealer::outbox)
    }

    /// The time for a request at `now`: not before that of an earlier event, unless the clock was
    /// set back and a new epoch begins.
    #[must_use]
    pub fn time(&self, now: Timestamp) -> Timestamp {
        let sealer = self.sealer.as_ref().filter(|sealer| !sealer.is_ahead_of(now));
        sealer.map_or(now, |sealer| sealer.stamp(now))
    }

    /// Takes a parcel: its events become batches, its losses are counted.
    pub fn take(&mut self, now: Timestamp, parcel: &Parcel, timing: &ShardTiming) -> Rows {
        let mut rows = Rows::default();
        self.note_step(now, &mut rows);
        let time = self.time(now);
        for loss in &parcel.losses {
            let changed = self.tallies.add(time, loss.kind, loss.reason, loss.count);
            rows.slots.push(self.slot_row(changed));
        }
        if !parcel.events.is_empty() {
            self.events_at = time;
            let hand_over = time.minus_ms(timing.hand_over_ms) >= self.handed_over;
            self.seal(now, parcel, hand_over, &mut rows);
        }
        rows
    }

    /// What to do when all batches are acknowledged.
    pub fn idle(&mut self, now: Timestamp, timing: &ShardTiming) -> Idle {
        let mut rows = Rows::default();
        if self.note_step(now, &mut rows) {
            return Idle::Send(rows);
        }
        if self.sealer.is_none() {
            if self.tallies.is_empty() {
                return Idle::Sleep;
            }
            // Losses came without an event: an epoch is opened for them, and the next turn closes
            // it.
            self.seal(now, &Parcel::default(), true, &mut rows);
            return Idle::Send(rows);
        }
        let time = self.time(now);
        if time.minus_ms(timing.idle_ms) >= self.events_at {
            self.close(&mut rows);
            return Idle::Send(rows);
        }
        let watermark = self.last.map_or(Timestamp(0), |last| last.watermark);
        let due = watermark.plus_ms(timing.heartbeat_ms);
        if time < due {
            return Idle::Wait(due);
        }
        self.seal(now, &Parcel::default(), true, &mut rows);
        Idle::Send(rows)
    }

    /// Leases ids, and returns what is left of their block, which must be written before the ids
    /// are given out.
    pub fn lease(&mut self, now: Timestamp, random: &mut dyn Random) -> (IdRange, Option<IdRange>) {
        let leased = self.ids.lease(now, random, LEASE_IDS);
        (leased, self.ids.open().copied())
    }

    /// Seals events, and with `hand_over`, or when they are due, the tallies.
    fn seal(&mut self, now: Timestamp, parcel: &Parcel, hand_over: bool, rows: &mut Rows) {
        let open = || Sealer::new(next_epoch(self.edge, now, self.last.as_ref()));
        let sealer = self.sealer.clone().unwrap_or_else(open);
        let watermark = sealer.stamp(now);
        self.tallies.raise_floor(watermark);
        let due = hand_over || self.tallies.is_due(watermark);
        let tallies = if due { self.hand_over(watermark, &sealer) } else { Vec::new() };
        let sealed = sealer.seal(now, &parcel.events, &tallies);
        self.sealer = Some(sealer);
        self.commit(sealed, rows);
    }

    /// Closes the epoch when the clock was set back, so that the next one has the right time.
    /// Returns whether it was.
    fn note_step(&mut self, now: Timestamp, rows: &mut Rows) -> bool {
        let stepped = self.sealer.as_ref().is_some_and(|sealer| sealer.is_ahead_of(now));
        if stepped {
            self.close(rows);
            self.tallies.lower_floor(now);
            // Times from before the step say nothing any more.
            (self.handed_over, self.events_at) = (now, now);
        }
        stepped
    }

    fn close(&mut self, rows: &mut Rows) {
        if let Some(sealer) = self.sealer.clone() {
            let tallies = self.hand_over(sealer.watermark(), &sealer);
            let sealed = sealer.close(&tallies);
            self.commit(sealed, rows);
            self.sealer = None;
        }
    }

    /// Takes all tallies for the next batch.
    fn hand_over(&mut self, now: Timestamp, sealer: &Sealer) -> Vec<Tally> {
        self.handed_over = now;
        if self.tallies.is_empty() {
            return Vec::new();
        }
        self.tallies.mark(sealer.outbox().epoch, sealer.next()).0
    }

    /// Batches and slots are written in one transaction, so the database never has a marked slot.
    fn commit(&mut self, sealed: Sealed, rows: &mut Rows) {
        for changed in self.tallies.reported() {
            rows.slots.push(self.slot_row(changed));
        }
        if let Some(sealer) = &mut self.sealer {
            sealer.commit(&sealed);
            let number = sealer.next() - 1;
            let outbox = sealer.outbox();
            self.last = Some(BatchHead { outbox, number, watermark: sealed.watermark });
        }
        rows.batches.extend(sealed.batches);
    }

    fn slot_row(&self, at: usize) -> SlotRow {
        (at, self.tallies.slot(at).map(|slot| Slot::to_bytes(Some(slot))))
    }
}

#[cfg(test)]
mod tests;
