//! The contents of an outbox's newest batches, as digests. A number that comes again with the same
//! content is a redelivery; with other content it is a conflict.

use std::collections::BTreeMap;

use shared::wire::BatchEntry;
use shared::{BatchDigest, Timestamp};

/// How many digests are kept of an outbox: those of its largest numbers. An outbox has fewer
/// batches on their way at once. A redelivery of an older number is not compared; the archive has
/// all digests.
const DIGESTS_MAX: u64 = 128;
/// How many digests are kept of an edge with its shards: the outboxes share them evenly, and each
/// has at least one.
const DIGESTS_PER_EDGE: u64 = 8_192;
/// How many conflicts of an outbox are kept, the newest ones. The others are only counted.
const CONFLICTS_MAX: usize = 16;
/// How many conflicts are kept of an edge with its shards, not counting the newest of each outbox:
/// that one is always kept, because it tells up to when the outbox is in doubt.
pub(super) const CONFLICTS_PER_EDGE: usize = 64;

/// What is known of the contents of an outbox's batches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Contents {
    /// The digests of the newest numbers, as far as they are known.
    pub digests: BTreeMap<u64, BatchDigest>,
    /// The newest conflicts, the newest last.
    pub conflicts: Vec<Conflict>,
    /// How many conflicts there were, those included that are no longer kept.
    pub conflicts_all: u64,
    /// The log's clock at the first of them. None when there was none, or when an earlier build saw
    /// it, which did not keep this.
    pub first_conflict_at: Option<Timestamp>,
}

/// Two batches of one outbox came under one number. The first was applied, the second was skipped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conflict {
    /// The number of both.
    pub number: u64,
    /// The digest of the batch that was applied.
    pub applied: BatchDigest,
    /// The digest of the batch that was skipped.
    pub skipped: BatchDigest,
    /// How many events the skipped batch declares.
    pub events: u64,
    /// The log's clock when the skipped batch came.
    pub at: Timestamp,
}

impl Contents {
    /// Keeps the digest of a number that was just taken. `end`: one more than the largest number of
    /// the outbox; `outboxes`: how many outboxes its edge has.
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

    /// Compares a batch whose number was taken before. True when its content is other than that of
    /// the batch that was applied, and this is not among the kept conflicts yet. False when a
    /// digest is not known. `kept`: how many conflicts its edge keeps beside the newest of each
    /// outbox.
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
        // An edge that makes many outboxes in conflict keeps one conflict in most of them: no
        // memory is allocated for more.
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

    /// Drops the oldest conflicts when the outbox or its edge has more than are kept.
    pub(super) fn keep_newest(&mut self, kept: &mut usize) {
        let all = self.conflicts.len();
        let too_many =
            all.saturating_sub(CONFLICTS_MAX).max(kept.saturating_sub(CONFLICTS_PER_EDGE));
        let gone = too_many.min(all.saturating_sub(1));
        self.conflicts.drain(..gone);
        *kept -= gone;
    }

    /// Whether a checkpoint can have written this.
    pub(super) fn is_sound(&self) -> bool {
        self.digests.len() as u64 <= DIGESTS_MAX
            && self.conflicts.len() <= CONFLICTS_MAX
            && self.conflicts.len() as u64 <= self.conflicts_all
    }
}
