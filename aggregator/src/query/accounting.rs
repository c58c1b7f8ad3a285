//! What became of what was received.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use api::answers::Doubt;
use eventlog::Log;
use futures::future::try_join_all;
use shared::event::REASON_CODES;
use shared::limits::{CLOCK_AHEAD_MS_MAX, HORIZON_MS};
use shared::{Id, Minute, OutboxId, Timestamp};

use super::{Completeness, Look, Unanswered, all_of, look};
use crate::count::{Conflict, Gap, MinuteAccount, Told};
use crate::service::Slot;
use crate::store::CheckpointStore;

/// The account of a range of minutes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Accounting {
    pub(crate) received: u64,
    pub(crate) counted: u64,
    pub(crate) duplicate: u64,
    pub(crate) reasons: [u64; REASON_CODES],
    /// Received, and without an outcome yet. Below zero only when something was counted that was
    /// never declared.
    pub(crate) in_flight: i128,
    /// Why it does not add up; it does when there is nothing here.
    pub(crate) because: BTreeSet<Doubt>,
    /// Batches of these minutes that were given up.
    pub(crate) given_up: u64,
    /// What pages have told, by publisher.
    pub(crate) told: BTreeMap<Id, Told>,
    pub(crate) gaps: BTreeMap<OutboxId, Vec<Range<u64>>>,
    pub(crate) conflicts: BTreeMap<OutboxId, Conflicts>,
    pub(crate) completeness: Completeness,
}

/// Numbers of an outbox that came with two contents.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Conflicts {
    /// All that there were.
    pub(crate) count: u64,
    /// The newest of them.
    pub(crate) newest: Vec<Conflict>,
    /// The log's clock at the first; none when nobody knows.
    first_at: Option<Timestamp>,
}

impl Conflicts {
    /// Whether events of these minutes may have been in a batch that was skipped, but for what clocks
    /// differ: none came later than it, nor was any older by more than the horizon when it came.
    fn may_touch(&self, range: &Range<Minute>) -> bool {
        let last = self.newest.iter().map(|conflict| conflict.at).max();
        let oldest = self.first_at.unwrap_or_default().minus_ms(HORIZON_MS + CLOCK_AHEAD_MS_MAX);
        last.is_some_and(|last| range.start.start() <= last.plus_ms(CLOCK_AHEAD_MS_MAX))
            && range.end.start() > oldest
    }
}

/// One partition's part.
struct Part {
    accounts: Vec<(Minute, MinuteAccount)>,
    told: BTreeMap<Id, Told>,
    sequence: u64,
    gaps: Vec<Gap>,
    conflicts: Vec<(OutboxId, Conflicts)>,
    /// Whether a gap may hide events of the range.
    misses: bool,
    completeness: Completeness,
}

/// One minute over all partitions.
#[derive(Default)]
struct Sum {
    /// The largest that a partition has, and the sum of all: they agree when the sum is that many
    /// times the largest.
    declared: u64,
    declared_sum: u64,
    /// The largest that a partition has.
    given_up: u64,
    account: MinuteAccount,
}

/// Minutes that are added up at once: what a question holds in memory.
const STEP_MINUTES: u32 = 24 * 60;

/// The account of a range of minutes that is not empty.
pub(crate) async fn accounting<T: CheckpointStore, L: Log>(
    slots: &[Slot<T>],
    log: &L,
    range: Range<Minute>,
) -> Result<Accounting, Unanswered> {
    let end = |from: Minute| Minute(from.0.saturating_add(STEP_MINUTES)).min(range.end);
    let mut from = end(range.start);
    let mut total = step(slots, log, range.start..from).await?;
    while from < range.end {
        let next = step(slots, log, from..end(from)).await?;
        total.add(next);
        from = end(from);
        tokio::task::yield_now().await;
    }
    Ok(total)
}

impl Accounting {
    fn add(&mut self, later: Self) {
        self.received += later.received;
        self.counted += later.counted;
        self.duplicate += later.duplicate;
        self.reasons.iter_mut().zip(later.reasons).for_each(|(to, n)| *to += n);
        self.in_flight += later.in_flight;
        self.because.extend(later.because);
        self.given_up = self.given_up.saturating_add(later.given_up);
        add(&mut self.told, later.told);
        self.gaps = later.gaps;
        self.conflicts = later.conflicts;
        self.completeness = self.completeness.and(later.completeness);
    }
}

async fn step<T: CheckpointStore, L: Log>(
    slots: &[Slot<T>],
    log: &L,
    range: Range<Minute>,
) -> Result<Accounting, Unanswered> {
    let parts = try_join_all(slots.iter().map(|slot| part(slot, &range))).await?;
    let at_end = at_end(log, &parts).await;
    let minutes = by_minute(&parts);
    let partitions = slots.len() as u64;
    let mut total = MinuteAccount::default();
    let (mut received, mut given_up) = (0, 0_u64);
    let mut because = BTreeSet::new();
    for sum in minutes.values() {
        let of_minute = sum.declared + sum.account.imported;
        received += of_minute;
        given_up = given_up.saturating_add(sum.given_up);
        if sum.account.outcomes() > of_minute {
            because.insert(Doubt::MoreOutcomes);
        }
        if at_end && sum.declared_sum != partitions * sum.declared {
            because.insert(Doubt::PartitionsDiffer);
        }
        total.add(&sum.account);
    }
    let conflicts = conflicts(&parts);
    let in_doubt = conflicts.values().any(|of| of.may_touch(&range));
    because.extend(in_doubt.then_some(Doubt::Conflicts));
    because.extend((given_up > 0).then_some(Doubt::GivenUp));
    because.extend(parts.iter().any(|part| part.misses).then_some(Doubt::Gaps));
    let mut told = BTreeMap::new();
    parts.iter().for_each(|part| add(&mut told, part.told.clone()));
    Ok(Accounting {
        received,
        counted: total.counted,
        duplicate: total.duplicate,
        reasons: total.reasons,
        in_flight: i128::from(received) - i128::from(total.outcomes()),
        because,
        given_up,
        told,
        gaps: gaps(&parts),
        conflicts,
        completeness: all_of(parts.iter().map(|part| part.completeness)),
    })
}

fn add(to: &mut BTreeMap<Id, Told>, more: BTreeMap<Id, Told>) {
    more.into_iter().for_each(|(publisher, told)| to.entry(publisher).or_default().add(told));
}

fn by_minute(parts: &[Part]) -> BTreeMap<Minute, Sum> {
    let mut minutes: BTreeMap<Minute, Sum> = BTreeMap::new();
    for part in parts {
        // What a partition knows of a minute may lie in memory and in the store.
        let mut own: BTreeMap<Minute, MinuteAccount> = BTreeMap::new();
        for (minute, account) in &part.accounts {
            own.entry(*minute).or_default().add(account);
        }
        for (minute, account) in own {
            let sum = minutes.entry(minute).or_default();
            sum.account.add(&account);
            sum.declared = sum.declared.max(account.declared);
            sum.declared_sum += account.declared;
            sum.given_up = sum.given_up.max(account.given_up);
        }
    }
    minutes
}

async fn part<T: CheckpointStore>(
    slot: &Slot<T>,
    range: &Range<Minute>,
) -> Result<Part, Unanswered> {
    let (from, to) = (range.start.start(), range.end.start());
    let Look { mut memory, stored } = look(slot, range, |engine| Part {
        accounts: engine.account(range.start, range.end),
        told: engine.told(range.start, range.end),
        sequence: engine.position().map_or(0, |position| position.sequence),
        gaps: engine.gaps(),
        conflicts: engine
            .conflicts()
            .map(|(outbox, state)| {
                let contents = &state.contents;
                let (count, newest) = (contents.conflicts_all, contents.conflicts.clone());
                (outbox, Conflicts { count, newest, first_at: contents.first_conflict_at })
            })
            .collect(),
        misses: engine
            .outboxes()
            .any(|(outbox, state)| state.misses_between(outbox.epoch, engine.clock(), from, to)),
        completeness: Completeness::of(engine, range),
    })
    .await?;
    if let Some(stored) = stored {
        memory.accounts.extend(stored.accounts().await?);
        add(&mut memory.told, stored.told().await?);
    }
    Ok(memory)
}

/// Whether every partition had applied its whole log when it was looked at. The ends are asked for
/// after that, so that a message in between makes a partition late, never wrong.
async fn at_end<L: Log>(log: &L, parts: &[Part]) -> bool {
    for (partition, part) in (0..).zip(parts) {
        match log.end(partition).await {
            Ok(end) if end.map_or(0, |end| end.sequence) == part.sequence => {}
            _ => return false,
        }
    }
    true
}

/// Missing numbers of each outbox; where partitions differ, of the one that misses most.
fn gaps(parts: &[Part]) -> BTreeMap<OutboxId, Vec<Range<u64>>> {
    let missing = |runs: &[Range<u64>]| runs.iter().map(|run| run.end - run.start).sum::<u64>();
    let mut gaps: BTreeMap<OutboxId, Vec<Range<u64>>> = BTreeMap::new();
    for gap in parts.iter().flat_map(|part| &part.gaps) {
        let known = gaps.entry(gap.outbox).or_default();
        if missing(known) < missing(&gap.missing) {
            known.clone_from(&gap.missing);
        }
    }
    gaps
}

/// Every partition hears of every batch: where they differ, one is behind.
fn conflicts(parts: &[Part]) -> BTreeMap<OutboxId, Conflicts> {
    let mut conflicts: BTreeMap<OutboxId, Conflicts> = BTreeMap::new();
    for (outbox, of_part) in parts.iter().flat_map(|part| &part.conflicts) {
        let known = conflicts.entry(*outbox).or_insert_with(|| of_part.clone());
        if known.count < of_part.count {
            known.clone_from(of_part);
        }
    }
    conflicts
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use shared::BatchDigest;

    use super::*;

    #[test]
    fn a_conflict_puts_in_doubt_what_may_have_been_in_what_was_skipped_and_nothing_else() {
        const DAY: u32 = 24 * 60;
        let (first, last) = (Minute(29_000_000), Minute(29_000_000 + DAY));
        let [applied, skipped] = [1, 2].map(|byte| BatchDigest([byte; 16]));
        let newest = Conflict { number: 7, applied, skipped, events: 3, at: last.start() };
        let of = |first_at| Conflicts { count: 2, newest: vec![newest], first_at };
        let touches =
            |of: &Conflicts, from: u32, to: u32| of.may_touch(&(Minute(from)..Minute(to)));
        let known = of(Some(first.start()));
        assert!(touches(&known, first.0, first.0 + 1) && touches(&known, 0, u32::MAX));
        assert!(touches(&known, last.0, last.0 + 1) && !touches(&known, last.0 + 2, last.0 + DAY));
        assert!(touches(&known, first.0 - 7 * DAY, first.0 - 7 * DAY + 1));
        assert!(!touches(&known, first.0 - 365 * DAY, first.0 - 8 * DAY));
        // What an earlier build has kept does not say when it began.
        assert!(touches(&of(None), first.0 - 365 * DAY, first.0 - 8 * DAY));
    }
}
