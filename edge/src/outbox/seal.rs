//! Numbers, stamps and watermarks: what turns waiting events into batches that never change.

use shared::limits::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BATCH_TALLIES_MAX, CLOCK_AHEAD_MS_MAX, EPOCH_AHEAD_MS_MAX,
};
use shared::wire::batch::{EVENT_BYTES, HEADER_BYTES, PAGE_VIEW_BYTES, TALLY_BYTES};
use shared::wire::{Batch, Tally};
use shared::{EdgeId, OutboxId, Timestamp};

use crate::decision::Draft;

/// One outbox of one epoch. It changes only by [`Sealer::commit`], after what it sealed is
/// durable: an append that failed and left nothing behind has used up no number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealer {
    outbox: OutboxId,
    next: u64,
    watermark: Timestamp,
}

/// Batches that were sealed together, and what the sealer becomes when they are durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// Number of the first batch.
    pub first: u64,
    /// The batches, in the order of their numbers. Not empty.
    pub batches: Vec<Vec<u8>>,
    /// The stamp of all events, and the watermark of all batches.
    pub watermark: Timestamp,
}

impl Sealer {
    /// A new epoch.
    #[must_use]
    pub const fn new(outbox: OutboxId) -> Self {
        Self { outbox, next: 0, watermark: Timestamp(0) }
    }

    /// Whose batches it seals.
    #[must_use]
    pub const fn outbox(&self) -> OutboxId {
        self.outbox
    }

    /// The number of the next batch.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Nothing that is sealed from now on was received before this.
    #[must_use]
    pub const fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// The stamp of what is sealed at `now`: the clock may have gone back, the stamp never does.
    #[must_use]
    pub fn stamp(&self, now: Timestamp) -> Timestamp {
        // The largest time is the closing batch's alone.
        now.max(self.watermark).min(Timestamp(Timestamp::MAX.0 - 1))
    }

    /// Whether the clock has gone back behind what was sealed by more than clocks may differ. The
    /// epoch is closed then, and the next one has the right time: its own number is larger, its
    /// watermark need not be.
    #[must_use]
    pub fn is_ahead_of(&self, now: Timestamp) -> bool {
        self.watermark > now.plus_ms(CLOCK_AHEAD_MS_MAX)
    }

    /// Seals a group of events, with tallies in its first batch: one batch, or several when one
    /// would be too large. All events have one stamp, which is the watermark of every batch: those
    /// that follow have it too, or a later one. No events: a heartbeat.
    #[must_use]
    pub fn seal(&self, now: Timestamp, events: &[Draft], tallies: &[Tally]) -> Sealed {
        let watermark = self.stamp(now);
        let mut sealed = Sealed { first: self.next, batches: Vec::new(), watermark };
        let (mut rest, mut tallies) = (events, tallies);
        loop {
            let (now_tallies, later_tallies) =
                tallies.split_at(tallies.len().min(BATCH_TALLIES_MAX));
            let fit = fitting(rest, HEADER_BYTES + now_tallies.len() * TALLY_BYTES);
            let (events, later) = rest.split_at(fit);
            let number = self.next + sealed.batches.len() as u64;
            sealed.batches.push(self.encode(number, watermark, events, now_tallies));
            (rest, tallies) = (later, later_tallies);
            if rest.is_empty() && tallies.is_empty() {
                return sealed;
            }
        }
    }

    /// The last batch of the epoch: its watermark says that nothing follows.
    #[must_use]
    pub fn close(&self, tallies: &[Tally]) -> Sealed {
        let shown = &tallies[..tallies.len().min(BATCH_TALLIES_MAX)];
        let batch = self.encode(self.next, Timestamp::MAX, &[], shown);
        Sealed { first: self.next, batches: vec![batch], watermark: Timestamp::MAX }
    }

    /// What was sealed is durable.
    pub fn commit(&mut self, sealed: &Sealed) {
        self.next = sealed.first + sealed.batches.len() as u64;
        self.watermark = sealed.watermark;
    }

    fn encode(
        &self,
        number: u64,
        watermark: Timestamp,
        events: &[Draft],
        tallies: &[Tally],
    ) -> Vec<u8> {
        let events = events.iter().map(|draft| draft.at(watermark)).collect();
        let tallies = tallies.to_vec();
        Batch { outbox: self.outbox, number, watermark, events, tallies }.to_bytes()
    }
}

/// How many of the events fit into a batch that has `bytes` already; at least one, which always
/// fits.
fn fitting(events: &[Draft], mut bytes: usize) -> usize {
    let mut fit = 0;
    for draft in events.iter().take(BATCH_EVENTS_MAX) {
        bytes += weight(draft);
        if bytes > BATCH_BYTES_MAX && fit > 0 {
            break;
        }
        fit += 1;
    }
    fit
}

/// Bytes of an event in a batch.
#[must_use]
pub fn weight(draft: &Draft) -> usize {
    draft.at(Timestamp(0)).bytes()
}

/// A batch's epoch, without reading the rest.
#[must_use]
pub fn epoch_of(batch: &[u8]) -> Option<u64> {
    batch.get(20..28)?.try_into().ok().map(u64::from_le_bytes)
}

/// The last batch that a log holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Last {
    /// Whose it is.
    pub outbox: OutboxId,
    /// Its number.
    pub number: u64,
    /// Its watermark; [`Timestamp::MAX`] when the epoch is closed.
    pub watermark: Timestamp,
}

impl Last {
    /// Reads it from its batch.
    ///
    /// # Errors
    /// When the bytes are no batch.
    pub fn read(bytes: &[u8]) -> Result<Self, shared::wire::WireError> {
        let Batch { outbox, number, watermark, .. } = Batch::read(bytes)?;
        Ok(Self { outbox, number, watermark })
    }

    /// The sealer that closes its epoch; `None` when it is closed.
    #[must_use]
    pub fn unclosed(&self) -> Option<Sealer> {
        let Self { outbox, number, watermark } = *self;
        (watermark != Timestamp::MAX).then_some(Sealer { outbox, next: number + 1, watermark })
    }
}

/// The outbox of a process that starts now: its epoch is the time in ms, or more when the clock
/// went back since the last one. No more than collectors take, though: one that was begun when the clock
/// was wrong by days would keep all that follow waiting for days. Whoever took that one believed the
/// same clock, and forgets it a week later than it says, so that all between are known by then.
#[must_use]
pub fn next_epoch(edge: EdgeId, now: Timestamp, last: Option<&Last>) -> OutboxId {
    let after = last.map_or(0, |last| last.outbox.epoch.saturating_add(1));
    let epoch = if after > now.plus_ms(EPOCH_AHEAD_MS_MAX).0 { now.0 } else { now.0.max(after) };
    OutboxId { edge, epoch }
}

const _: () = {
    // A batch of one event and as many tallies as may be is never too large.
    let event = EVENT_BYTES + PAGE_VIEW_BYTES + shared::limits::TOKEN_BYTES_MAX;
    assert!(HEADER_BYTES + event + BATCH_TALLIES_MAX * TALLY_BYTES <= BATCH_BYTES_MAX);
};
