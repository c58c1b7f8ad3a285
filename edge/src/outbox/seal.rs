//! Seals events: gives them stamps, numbers and watermarks, and so makes batches of them that never
//! change.

use shared::limits::{
    BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BATCH_TALLIES_MAX, CLOCK_AHEAD_MS_MAX, EPOCH_AHEAD_MS_MAX,
};
use shared::wire::batch::{EVENT_BYTES, HEADER_BYTES, PAGE_VIEW_BYTES, TALLY_BYTES};
use shared::wire::{Batch, Tally};
use shared::{EdgeId, OutboxId, Timestamp};

use crate::decision::Draft;

/// The sealer of one epoch of an outbox. It changes only by [`Sealer::commit`], once what it has
/// sealed is durable. So an append that failed and left nothing behind has used up no number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealer {
    outbox: OutboxId,
    next: u64,
    watermark: Timestamp,
}

/// Batches that were sealed together. [`Sealer::commit`] takes them once they are durable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sealed {
    /// The number of the first batch.
    pub first: u64,
    /// The encoded batches, in the order of their numbers; at least one.
    pub batches: Vec<Vec<u8>>,
    /// The stamp of all events, and the watermark of all batches.
    pub watermark: Timestamp,
}

impl Sealer {
    /// The sealer of a new epoch.
    #[must_use]
    pub const fn new(outbox: OutboxId) -> Self {
        Self { outbox, next: 0, watermark: Timestamp(0) }
    }

    /// The outbox and epoch of its batches.
    #[must_use]
    pub const fn outbox(&self) -> OutboxId {
        self.outbox
    }

    /// The number of the next batch.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// The watermark: nothing that is sealed from now on was received before it.
    #[must_use]
    pub const fn watermark(&self) -> Timestamp {
        self.watermark
    }

    /// The stamp for what is sealed at `now`. It never goes back, even when the clock does.
    #[must_use]
    pub fn stamp(&self, now: Timestamp) -> Timestamp {
        // The largest timestamp is reserved for the closing batch.
        now.max(self.watermark).min(Timestamp(Timestamp::MAX.0 - 1))
    }

    /// Whether the clock has gone back behind the watermark by more than clocks may differ. The
    /// epoch must then be closed. The next one has the right time: its epoch number is larger, but
    /// its watermark need not be.
    #[must_use]
    pub fn is_ahead_of(&self, now: Timestamp) -> bool {
        self.watermark > now.plus_ms(CLOCK_AHEAD_MS_MAX)
    }

    /// Seals a group of events, and tallies from its first batch on: as one batch, or as several
    /// when one would be too large. All events get one stamp, which is also the watermark of each
    /// batch, so that no later event has an earlier stamp. Without events this makes a heartbeat.
    #[must_use]
    pub fn seal(&self, now: Timestamp, events: &[Draft], tallies: &[Tally]) -> Sealed {
        let watermark = self.stamp(now);
        let mut sealed = Sealed { first: self.next, batches: Vec::new(), watermark };
        let (mut rest, mut tallies) = (events, tallies);
        // Each round takes at least one of the events that are left, and as many tallies as a batch
        // may have, so both run out.
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

    /// Seals the last batch of the epoch; its watermark says that nothing follows. The tallies fit
    /// into it, for there are as many slots as a batch may have tallies.
    #[must_use]
    pub fn close(&self, tallies: &[Tally]) -> Sealed {
        let shown = &tallies[..tallies.len().min(BATCH_TALLIES_MAX)];
        let batch = self.encode(self.next, Timestamp::MAX, &[], shown);
        Sealed { first: self.next, batches: vec![batch], watermark: Timestamp::MAX }
    }

    /// Takes note that what was sealed is durable.
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
        let events = events.iter().map(|draft| draft.stamped(watermark)).collect();
        let tallies = tallies.to_vec();
        Batch { outbox: self.outbox, number, watermark, events, tallies }.to_bytes()
    }
}

/// How many of the events, from the first on, fit into a batch that has `bytes` already. At least
/// one does (see the assertion at the end).
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

/// The size of an event in a batch, in bytes.
#[must_use]
pub fn weight(draft: &Draft) -> usize {
    draft.stamped(Timestamp(0)).bytes()
}

/// The epoch of an encoded batch, without decoding the rest; `None` when it is too short.
#[must_use]
pub fn epoch_of(batch: &[u8]) -> Option<u64> {
    batch.get(20..28)?.try_into().ok().map(u64::from_le_bytes)
}

/// What a batch says of itself, apart from its events and tallies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHead {
    /// Its outbox and epoch.
    pub outbox: OutboxId,
    /// Its number.
    pub number: u64,
    /// Its watermark; [`Timestamp::MAX`] when it closes the epoch.
    pub watermark: Timestamp,
}

impl BatchHead {
    /// Reads the head of an encoded batch.
    ///
    /// # Errors
    /// When the bytes are not a batch.
    pub fn read(bytes: &[u8]) -> Result<Self, shared::wire::WireError> {
        let Batch { outbox, number, watermark, .. } = Batch::read(bytes)?;
        Ok(Self { outbox, number, watermark })
    }

    /// For the last batch of a log: the sealer that goes on with its epoch; `None` when the epoch
    /// is closed.
    #[must_use]
    pub fn unclosed(&self) -> Option<Sealer> {
        let Self { outbox, number, watermark } = *self;
        (watermark != Timestamp::MAX).then_some(Sealer { outbox, next: number + 1, watermark })
    }
}

/// The outbox of a process that starts now. Its epoch is the time in ms, or one more than the last
/// epoch when the clock has gone back since, so that epochs grow. But an epoch may not be further
/// ahead than collectors accept: when the last one began while the clock was wrong by days, all
/// later ones would be held back for days too, so the new one begins at `now`. That is safe. A
/// collector that took the epoch ahead believed the same clock, and forgets it only a week later
/// than it says; by then all epochs in between are known.
#[must_use]
pub fn next_epoch(edge: EdgeId, now: Timestamp, last: Option<&BatchHead>) -> OutboxId {
    let after = last.map_or(0, |last| last.outbox.epoch.saturating_add(1));
    let epoch = if after > now.plus_ms(EPOCH_AHEAD_MS_MAX).0 { now.0 } else { now.0.max(after) };
    OutboxId { edge, epoch }
}

const _: () = {
    // A batch of one event with the most tallies is never too large.
    let event = EVENT_BYTES + PAGE_VIEW_BYTES + shared::limits::TOKEN_BYTES_MAX;
    assert!(HEADER_BYTES + event + BATCH_TALLIES_MAX * TALLY_BYTES <= BATCH_BYTES_MAX);
};
