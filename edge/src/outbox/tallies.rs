//! Counts by minute, kind and reason in a fixed number of slots, each of which gets into a batch
//! exactly once.
//!
//! A hand-over has three steps: slots are marked with the batch that takes them, the batch is
//! appended, and the slots are reduced by what the batch took. After a crash the mark decides: when
//! the batch is in the log, the count was reported; when it is not, the count still stands. The
//! table returns which slots have changed; its owner writes them down.

use std::collections::HashMap;

use shared::event::REASON_CODES;
use shared::limits::{BATCH_EVENTS_MAX, BATCH_TALLIES_MAX};
use shared::wire::Tally;
use shared::{Kind, Minute, Reason, Timestamp};

/// The number of slots; all of them fit into one batch.
pub const SLOTS: usize = BATCH_TALLIES_MAX;
/// The last free slots are kept for a kind and reason that has no slot yet, so that every other
/// count finds a slot to merge into.
const SLOTS_KEPT: usize = 4 * REASON_CODES;
/// The most that all tallies of a batch may add up to. Together with the batch's events this fits
/// into a minute's count; what is left goes into the next batch.
const COUNT_MAX: u32 = u32::MAX - (1 << 16);
const _: () = assert!(BATCH_EVENTS_MAX <= 1 << 16);
/// The encoded size of a slot, in bytes.
pub const SLOT_BYTES: usize = 48;

/// The batch that takes a slot's count (epoch, number), and how much of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mark {
    epoch: u64,
    number: u64,
    count: u64,
}

/// The count of one minute, kind and reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    minute: Minute,
    kind: Kind,
    reason: Reason,
    /// What no batch has reported, including what is marked.
    count: u64,
    mark: Option<Mark>,
}

impl Slot {
    /// Encodes a slot, `None` as zeros: minute (4 bytes), kind (1), reason (1), marked (1), used
    /// (1), count (8), then the mark: epoch (8), number (8), count (8), zero (8).
    #[must_use]
    pub fn to_bytes(slot: Option<&Self>) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        let Some(slot) = slot else {
            return bytes;
        };
        bytes[..4].copy_from_slice(&slot.minute.0.to_le_bytes());
        bytes[4..8].copy_from_slice(&[
            slot.kind.code(),
            slot.reason.code(),
            u8::from(slot.mark.is_some()),
            1,
        ]);
        bytes[8..16].copy_from_slice(&slot.count.to_le_bytes());
        if let Some(Mark { epoch, number, count }) = slot.mark {
            bytes[16..24].copy_from_slice(&epoch.to_le_bytes());
            bytes[24..32].copy_from_slice(&number.to_le_bytes());
            bytes[32..40].copy_from_slice(&count.to_le_bytes());
        }
        bytes
    }

    /// Decodes a slot; `Ok(None)` when it is free.
    ///
    /// # Errors
    /// Says what is wrong with the bytes.
    pub fn from_bytes(bytes: &[u8; SLOT_BYTES]) -> Result<Option<Self>, &'static str> {
        if *bytes == [0; SLOT_BYTES] {
            return Ok(None);
        }
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let minute = Minute(u32::from_le_bytes(std::array::from_fn(|i| bytes[i])));
        let kind = Kind::from_code(bytes[4]).ok_or("an unknown kind")?;
        let reason = Reason::from_code(bytes[5]).ok_or("an unknown reason")?;
        let mark = match (bytes[6], bytes[7]) {
            (0, 1) => None,
            (1, 1) => Some(Mark { epoch: u64_at(16), number: u64_at(24), count: u64_at(32) }),
            _ => return Err("an unknown state"),
        };
        let count = u64_at(8);
        if mark.is_some_and(|mark| mark.count > count) {
            return Err("more is marked than counted");
        }
        Ok(Some(Self { minute, kind, reason, count, mark }))
    }
}

/// The slots, and an index of them.
#[derive(Clone, Debug)]
pub struct TallyTable {
    slots: Vec<Option<Slot>>,
    places: HashMap<(Minute, Kind, Reason), usize>,
    /// A stack of the free slots, so that mostly the same few are used.
    free: Vec<usize>,
    /// No count goes into a minute before this one, which a batch may have declared complete.
    floor: Minute,
    /// Whether any slot may be marked. Most batches take no tallies, and then no slot is looked at.
    marked: bool,
}

impl Default for TallyTable {
    fn default() -> Self {
        let (table, _) = Self::recover(vec![None; SLOTS], None);
        table
    }
}

impl TallyTable {
    /// Takes over the slots of an earlier process. `last` is the last batch in the log (epoch,
    /// number): what was marked for it or an earlier batch has been reported. Returns the table and
    /// the indices of the slots that this has changed.
    #[must_use]
    pub fn recover(mut slots: Vec<Option<Slot>>, last: Option<(u64, u64)>) -> (Self, Vec<usize>) {
        slots.resize(SLOTS, None);
        let mut changed = Vec::new();
        for (at, entry) in slots.iter_mut().enumerate() {
            let Some(slot) = entry else { continue };
            if let Some(mark) = slot.mark.take() {
                let reported = last.is_some_and(|last| (mark.epoch, mark.number) <= last);
                slot.count -= if reported { mark.count } else { 0 };
                changed.push(at);
            }
            if slot.count == 0 {
                *entry = None;
            }
        }
        let mut table = Self {
            slots,
            places: HashMap::new(),
            free: Vec::new(),
            floor: Minute(0),
            marked: false,
        };
        for at in (0..SLOTS).rev() {
            match &table.slots[at] {
                Some(slot) => {
                    table.places.insert((slot.minute, slot.kind, slot.reason), at);
                }
                None => table.free.push(at),
            }
        }
        (table, changed)
    }

    /// The slot at this index, to be written down; `None` when it is free.
    #[must_use]
    pub fn slot(&self, at: usize) -> Option<&Slot> {
        self.slots.get(at).and_then(Option::as_ref)
    }

    /// Counts, and returns the index of the slot that has changed. When no slot is free, the count
    /// goes into the newest slot of the same kind and reason.
    pub fn add(&mut self, now: Timestamp, kind: Kind, reason: Reason, count: u32) -> usize {
        let minute = now.minute().max(self.floor);
        let at = self.place(minute, kind, reason);
        let slot =
            self.slots[at].get_or_insert(Slot { minute, kind, reason, count: 0, mark: None });
        slot.count = slot.count.saturating_add(u64::from(count));
        at
    }

    /// The index of the slot for a count.
    fn place(&mut self, minute: Minute, kind: Kind, reason: Reason) -> usize {
        if let Some(at) = self.places.get(&(minute, kind, reason)) {
            return *at;
        }
        let alike = |slot: &&Slot| slot.kind == kind && slot.reason == reason;
        let at = if self.free.len() > SLOTS_KEPT {
            self.free.pop()
        } else {
            let newest = self.slots.iter().flatten().filter(alike).max_by_key(|slot| slot.minute);
            match newest {
                Some(slot) => return self.places[&(slot.minute, slot.kind, slot.reason)],
                None => self.free.pop(),
            }
        };
        let at = at.expect("each kind and reason has a slot kept for it");
        self.places.insert((minute, kind, reason), at);
        at
    }

    /// Whether a batch with this watermark must take the tallies: some are of a minute that it
    /// declares complete.
    #[must_use]
    pub fn is_due(&self, watermark: Timestamp) -> bool {
        let minute = watermark.minute();
        self.places.keys().any(|(counted, _, _)| *counted < minute)
    }

    /// Whether there is nothing to report.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The sum of all counts that are not reported yet.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.slots.iter().flatten().map(|slot| slot.count).sum()
    }

    /// From now on nothing is counted into a minute before that of the watermark.
    pub fn raise_floor(&mut self, watermark: Timestamp) {
        if watermark != Timestamp::MAX {
            self.floor = self.floor.max(watermark.minute());
        }
    }

    /// A new epoch begins at an earlier time, so its minutes are open for counts.
    pub fn lower_floor(&mut self, now: Timestamp) {
        self.floor = self.floor.min(now.minute());
    }

    /// Marks all slots for a batch; when their sum is more than a batch may report, the oldest
    /// ones. Returns the batch's tallies and the indices of the slots that have changed.
    /// [`TallyTable::reported`] or [`TallyTable::kept`] must follow.
    pub fn mark(&mut self, epoch: u64, number: u64) -> (Vec<Tally>, Vec<usize>) {
        self.marked = true;
        let mut due: Vec<_> = self.places.iter().map(|(counted, at)| (*counted, *at)).collect();
        due.sort_unstable();
        let (mut tallies, mut changed) = (Vec::new(), Vec::new());
        let mut left = COUNT_MAX;
        for ((minute, kind, reason), at) in due {
            let Some(slot) = self.slots[at].as_mut().filter(|_| left > 0) else { continue };
            let count = u32::try_from(slot.count).unwrap_or(u32::MAX).min(left);
            left -= count;
            slot.mark = Some(Mark { epoch, number, count: u64::from(count) });
            tallies.push(Tally { minute, kind, reason, count });
            changed.push(at);
        }
        (tallies, changed)
    }

    /// The batch is durable, so what it took is subtracted. Returns the indices of the slots that
    /// have changed.
    pub fn reported(&mut self) -> Vec<usize> {
        self.clear_marks(true)
    }

    /// The batch was not written, so the counts stay as they were. Returns the indices of the slots
    /// that have changed.
    pub fn kept(&mut self) -> Vec<usize> {
        self.clear_marks(false)
    }

    fn clear_marks(&mut self, reported: bool) -> Vec<usize> {
        let mut changed = Vec::new();
        if !std::mem::take(&mut self.marked) {
            return changed;
        }
        for (at, entry) in self.slots.iter_mut().enumerate() {
            let Some(slot) = entry else { continue };
            let Some(mark) = slot.mark.take() else { continue };
            changed.push(at);
            if reported {
                slot.count -= mark.count;
            }
            if slot.count == 0 {
                self.places.remove(&(slot.minute, slot.kind, slot.reason));
                self.free.push(at);
                *entry = None;
            }
        }
        changed
    }
}

const _: () = assert!(Kind::ALL.len() * REASON_CODES <= SLOTS_KEPT && SLOTS_KEPT < SLOTS / 8);

#[cfg(test)]
mod tests;
