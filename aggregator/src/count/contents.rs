//! What came under the newest numbers of an outbox: a number that comes again with the same content is
//! a redelivery, with another a conflict.

use std::collections::BTreeMap;

use shared::wire::BatchEntry;
use shared::{BatchDigest, Timestamp};

/// The digests of so many numbers of an outbox are kept, from its largest one down: more than an outbox
/// has on its way at once. What comes again from before them is not compared; the archive has the digests
/// of all.
const DIGESTS_MAX: u64 = 128;
/// All outboxes of an edge share so many, as evenly as they come.
const DIGESTS_PER_EDGE: u64 = 8_192;
/// So many conflicts of an outbox are kept, the newest. All of them are numbered.
const CONFLICTS_MAX: usize = 16;
/// Beside the newest of each, which tells up to when it is in doubt, all outboxes of an edge, with its
/// shards, keep so many.
pub(super) const CONFLICTS_PER_EDGE: usize = 64;

/// What came under the numbers of an outbox.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// The digests of the newest numbers, as far as they are known.
    pub digests: BTreeMap<u64, BatchDigest>,
    /// Numbers that came with two contents, the newest last.
    pub conflicts: Vec<Conflict>,
    /// How many there were.
    pub conflicts_all: u64,
    /// The log's clock at the first of all. None of what an earlier build has kept.
    pub first_conflict_at: Option<Timestamp>,
}

/// Two batches of one outbox came under one number. One of them was applied, and nothing of the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conflict {
    /// Their number.
    pub number: u64,
    /// Of the one that was applied.
    pub applied: BatchDigest,
    /// Of the other.
    pub skipped: BatchDigest,
    /// How many events the other declares.
    pub events: u64,
    /// The log's clock when that came.
    pub at: Timestamp,
}

impl Contents {
    /// Notes what came under a number that was just taken, of an outbox whose numbers end at `end`, and
    /// whose edge has so many `outboxes`.
    pub(super) fn remember(&mut self, number: u64, digest: BatchDigest, end: u64, outboxes: usize) {
        let most = DIGESTS_PER_EDGE / u64::try_from(outboxes).unwrap_or(u64::MAX).max(1);
        let most = most.clamp(1, DIGESTS_MAX);
        if digest.is_known() {
            self.digests.insert(number, digest);
        }
        while let Some(first) = self.digests.first_entry()
            && *first.key() + most < end
        {
            first.remove();
        }
    }

    /// Compares a batch whose number was taken before; true when it is another for the first time, as far
    /// as is known. `kept`: how many conflicts its edge keeps beside the newest of each outbox.
    pub(super) fn is_conflict(
        &mut self,
        batch: &BatchEntry,
        clock: Timestamp,
        kept: &mut usize,
    ) -> bool {
        let (number, skipped) = (batch.number, batch.digest);
        let Some(applied) = self.digests.get(&number).copied() else { return false };
        let told = |one: &Conflict| one.number == number && one.skipped == skipped;
        if !skipped.is_known() || skipped == applied || self.conflicts.iter().any(told) {
            return false;
        }
        let events = batch.declared.iter().map(|(_, count)| u64::from(*count)).sum();
        // One by one: most outboxes of whoever makes many keep one.
        self.conflicts.reserve_exact(1);
        self.conflicts.push(Conflict { number, applied, skipped, events, at: clock });
        *kept += usize::from(self.conflicts.len() > 1);
        self.keep_newest(kept);
        if self.conflicts_all == 0 {
            self.first_conflict_at = Some(clock);
        }
        self.conflicts_all += 1;
        true
    }

    /// Lets go of the oldest conflicts beyond what is kept.
    pub(super) fn keep_newest(&mut self, kept: &mut usize) {
        let all = self.conflicts.len();
        let too_many =
            all.saturating_sub(CONFLICTS_MAX).max(kept.saturating_sub(CONFLICTS_PER_EDGE));
        let gone = too_many.min(all.saturating_sub(1));
        self.conflicts.drain(..gone);
        *kept -= gone;
    }

    /// Whether it can be what a checkpoint wrote.
    pub(super) fn is_sound(&self) -> bool {
        self.digests.len() as u64 <= DIGESTS_MAX
            && self.conflicts.len() <= CONFLICTS_MAX
            && self.conflicts.len() as u64 <= self.conflicts_all
    }
}
