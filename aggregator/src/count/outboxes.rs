//! Which numbered batches have been applied, and what every outbox is past.

use std::ops::Range;

use shared::{Minute, OutboxId, Timestamp};

/// What a partition knows of an outbox.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OutboxState {
    /// All numbers before this one have been applied.
    pub next: u64,
    /// The watermark of the last of them: nothing older comes any more. [`Timestamp::MAX`] when the
    /// outbox is closed, and zero while there is none.
    pub watermark: Timestamp,
    /// Runs of numbers above `next` that have been applied, in order, never touching.
    pub above: Vec<Run>,
    /// The log's clock when the outbox was closed.
    pub closed_at: Option<Timestamp>,
}

/// Neighbouring numbers that have been applied beyond a gap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Run {
    /// The first.
    pub first: u64,
    /// The one after the last.
    pub end: u64,
    /// The largest watermark among them; it holds when the gap before them is filled.
    pub watermark: Timestamp,
}

/// Numbers of an outbox that have not come although larger ones have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// Whose.
    pub outbox: OutboxId,
    /// Which.
    pub missing: Vec<Range<u64>>,
}

/// How complete the minutes of a partition are.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Finality {
    /// Nothing older than this comes any more: the least watermark of the open outboxes, or the
    /// log's clock when none is open.
    pub watermark: Timestamp,
    /// The watermarks of the open outboxes, in order.
    pub(super) open: Vec<Timestamp>,
}

impl Finality {
    /// True when every open outbox is past this minute.
    #[must_use]
    pub fn is_final(&self, minute: Minute) -> bool {
        self.watermark >= minute.end()
    }

    /// How many open outboxes are not past this minute.
    #[must_use]
    pub fn behind(&self, minute: Minute) -> usize {
        self.open.partition_point(|watermark| *watermark < minute.end())
    }

    /// How many outboxes are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }
}
