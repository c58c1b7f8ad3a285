//! Remembers which events the outbox already has, so that a repeat is tallied instead of kept
//! again. Pure.
//!
//! An event is remembered once it is durable, never before: if the first of two were lost, the
//! second must not be taken for its repeat. It is identified by the tag of its token, which nobody
//! without the edge secret can choose, by its kind, and by whether it is valid: the engine keeps
//! the first valid and the first invalid one apart, so neither may hide the other.
//!
//! The table has a fixed size, and a full part forgets its oldest event. A repeat of that event is
//! then kept like any other, and the engine recognises the duplicate. So a crowded table tallies
//! less, never more. Entries need not expire, for an expired token is never looked up. The table
//! belongs to one process or isolate and starts empty.

use std::sync::atomic::{AtomicU64, Ordering};

use shared::Kind;
use shared::token::TAG_BYTES;

use crate::decision::Draft;

/// Slots in a part of the table.
const WAYS: usize = 8;
/// Parts of the table, a power of two; 1 MiB and 131 072 events in all.
const PARTS: usize = 16_384;

/// The events that were remembered last. All threads share the table without a lock.
#[derive(Debug)]
pub struct Repeats(Box<[AtomicU64]>);

impl Default for Repeats {
    fn default() -> Self {
        Self((0..PARTS * WAYS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Repeats {
    /// Remembers a durable event. Must be called by one thread at a time: of two calls at once, one
    /// may be lost.
    pub fn remember(&self, event: &Draft) {
        // A token is served only once. An event that is remembered gets no second slot, which would
        // cost another event its own: several requests with the same event may be under way
        // together.
        if event.kind == Kind::Served || self.has(event) {
            return;
        }
        let (part, value) = self.part_and_value(event);
        let filled = part.iter().take_while(|slot| slot.load(Ordering::Relaxed) != 0).count();
        // Shifted from the end on, so that an event which stays is never missing for a reader.
        for to in (1..=filled.min(WAYS - 1)).rev() {
            part[to].store(part[to - 1].load(Ordering::Relaxed), Ordering::Release);
        }
        part[0].store(value, Ordering::Release);
    }

    /// Whether it is remembered.
    #[must_use]
    pub fn has(&self, event: &Draft) -> bool {
        let (part, value) = self.part_and_value(event);
        part.iter().any(|slot| slot.load(Ordering::Acquire) == value)
    }

    /// The event's part of the table and its value there, which is never 0. Both together have 70
    /// bits of the tag, so two events are not mistaken for one within the lifetime of an edge.
    fn part_and_value(&self, event: &Draft) -> (&[AtomicU64], u64) {
        let tag = event.token.last_chunk::<TAG_BYTES>().copied().unwrap_or_default();
        let tag = u128::from_le_bytes(tag);
        let kind = (event.kind as u64) << 2 | u64::from(event.verdict.is_none()) << 1 | 1;
        let first = (tag >> 64) as usize % PARTS * WAYS;
        (&self.0[first..first + WAYS], (tag as u64) << 8 | kind)
    }
}

#[cfg(test)]
mod tests;
