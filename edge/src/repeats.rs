//! Which events the outbox has already, so that a repeat is tallied and not kept once more. Pure.
//!
//! An event is put in when it is durable, never before: were the first of two lost, the second must
//! not be taken for its repeat. What it is known by is its token's tag, which nobody without the edge
//! secret can choose, its kind, and whether it is valid: the engine keeps the first of each apart, so
//! neither hides the other.
//!
//! The table has a fixed size, and of a part that is full the oldest is forgotten: a repeat of that is
//! an event as any other, and the engine knows it for a duplicate. So a crowded table tallies less,
//! never more. Nothing need be forgotten by time, for a token that counts no more is never looked for.
//! It is one process's or one isolate's, and a new one begins with nothing.

use std::sync::atomic::{AtomicU64, Ordering};

use shared::Kind;
use shared::token::TAG_BYTES;

use crate::decision::Draft;

/// Events that share a part of the table.
const WAYS: usize = 8;
/// Parts of the table, a power of two: 1 MiB, 131 072 events.
const PARTS: usize = 16_384;

/// The events that were put in last. Shared by all threads, without a lock.
#[derive(Debug)]
pub struct Repeats(Box<[AtomicU64]>);

impl Default for Repeats {
    fn default() -> Self {
        Self((0..PARTS * WAYS).map(|_| AtomicU64::new(0)).collect())
    }
}

impl Repeats {
    /// Remembers an event that is durable. One thread at a time: of two, one may be forgotten.
    pub fn remember(&self, event: &Draft) {
        // A token is served once. What is there takes no second place, which another would lose:
        // requests that were under way at the same time bring it several times.
        if event.kind == Kind::Served || self.has(event) {
            return;
        }
        let (part, name) = self.place(event);
        let filled = part.iter().take_while(|slot| slot.load(Ordering::Relaxed) != 0).count();
        // From the end on, so that what stays is missing at no moment.
        for to in (1..=filled.min(WAYS - 1)).rev() {
            part[to].store(part[to - 1].load(Ordering::Relaxed), Ordering::Release);
        }
        part[0].store(name, Ordering::Release);
    }

    /// Whether it is remembered.
    #[must_use]
    pub fn has(&self, event: &Draft) -> bool {
        let (part, name) = self.place(event);
        part.iter().any(|slot| slot.load(Ordering::Acquire) == name)
    }

    /// Its part of the table, and what it is called there, never 0. They have 70 bits of the tag: that
    /// two events are taken for one will not happen in the lifetime of an edge.
    fn place(&self, event: &Draft) -> (&[AtomicU64], u64) {
        let tag = event.token.last_chunk::<TAG_BYTES>().copied().unwrap_or_default();
        let tag = u128::from_le_bytes(tag);
        let what = (event.kind as u64) << 2 | u64::from(event.verdict.is_none()) << 1 | 1;
        let first = (tag >> 64) as usize % PARTS * WAYS;
        (&self.0[first..first + WAYS], (tag as u64) << 8 | what)
    }
}

#[cfg(test)]
mod tests;
