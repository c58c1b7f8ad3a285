//! The question what became of everything that was received.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use api::answers::Doubt;
use eventlog::Log;
use shared::event::REASON_CODES;
use shared::limits::{CLOCK_AHEAD_MS_MAX, HORIZON_MS};
use shared::{Minute, OutboxId, PublisherId, Timestamp};

use super::{Completeness, Look, Question, Unanswered, ask, look};
use crate::count::{Conflict, MinuteAccount, Told};
use crate::service::Slot;
use crate::store::CheckpointStore;

/// The account of a range of minutes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Accounting {
    pub(crate) received: u64,
    pub(crate) counted: u64,
    pub(crate) duplicate: u64,
    pub(crate) reasons: [u64; REASON_CODES],
    /// How many events were received and have no outcome yet. Below zero only when events have an
    /// outcome that were never declared.
    pub(crate) in_flight: i128,
    /// Why the account does not add up. It does when this is empty.
    pub(crate) because: BTreeSet<Doubt>,
    /// How many batches near these minutes were given up.
    pub(crate) given_up: u64,
    /// What page views have told, by publisher.
    pub(crate) told: BTreeMap<PublisherId, Told>,
    pub(crate) gaps: BTreeMap<OutboxId, Vec<Range<u64>>>,
    pub(crate) conflicts: BTreeMap<OutboxId, Conflicts>,
    pub(crate) completeness: Completeness,
}

/// The conflicts of an outbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Conflicts {
    /// How many there were in all.
    pub(crate) count: u64,
    /// The newest of them.
    pub(crate) newest: Vec<Conflict>,
    /// The log's clock at the first; none when it is not known.
    first_at: Option<Timestamp>,
}

impl Conflicts {
    /// Whether events of these minutes may have been in a batch that was skipped. Such an event
    /// happened before the batch came, and not earlier than that by more than the horizon; both
    /// with a margin for the difference of clocks.
    fn may_touch(&self, range: &Range<Minute>) -> bool {
        let last = self.newest.iter().map(|conflict| conflict.at).max();
        let oldest = self.first_at.unwrap_or_default().minus_ms(HORIZON_MS + CLOCK_AHEAD_MS_MAX);
        last.is_some_and(|last| range.start.start() <= last.plus_ms(CLOCK_AHEAD_MS_MAX))
            && range.end.start() > oldest
    }
}

/// The question what became of everything that was received in a range of minutes.
struct Account<'a>(&'a Range<Minute>);

/// The answer of one partition, or of several together.
struct Part {
    minutes: BTreeMap<Minute, Sum>,
    told: BTreeMap<PublisherId, Told>,
    /// By partition, the sequence up to which it has applied its log.
    applied: Vec<u64>,
    /// The missing numbers of each outbox. Where partitions differ: those of the one that misses
    /// most.
    gaps: BTreeMap<OutboxId, Vec<Range<u64>>>,
    /// The conflicts of each outbox. Every partition hears of every batch, so where partitions
    /// differ, some are behind: those of the one that knows most.
    conflicts: BTreeMap<OutboxId, Conflicts>,
    /// Whether missing batches may have had events of the range.
    misses: bool,
    completeness: Completeness,
}

/// The account of one minute, over several partitions.
#[derive(Default)]
struct Sum {
    /// The largest number that a partition has. Partitions that have heard of the same batches have
    /// the same number, and then `declared_sum` is this times their count.
    declared: u64,
    /// The sum of all partitions' numbers.
    declared_sum: u64,
    /// The largest number that a partition has.
    given_up: u64,
    /// The sum of all partitions' accounts. Its `declared` and `given_up` mean nothing.
    account: MinuteAccount,
}

/// How many minutes are added up at once, which bounds what a question holds in memory.
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
    let all = ask(slots, &Account(&range)).await?;
    let at_end = at_end(log, &all.applied).await;
    let partitions = slots.len() as u64;
    let mut total = MinuteAccount::default();
    let (mut received, mut given_up) = (0, 0_u64);
    let mut because = BTreeSet::new();
    for sum in all.minutes.values() {
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
    let in_doubt = all.conflicts.values().any(|conflicts| conflicts.may_touch(&range));
    because.extend(in_doubt.then_some(Doubt::Conflicts));
    because.extend((given_up > 0).then_some(Doubt::GivenUp));
    because.extend(all.misses.then_some(Doubt::Gaps));
    Ok(Accounting {
        received,
        counted: total.counted,
        duplicate: total.duplicate,
        reasons: total.reasons,
        in_flight: i128::from(received) - i128::from(total.outcomes()),
        because,
        given_up,
        told: all.told,
        gaps: all.gaps,
        conflicts: all.conflicts,
        completeness: all.completeness,
    })
}

fn add(to: &mut BTreeMap<PublisherId, Told>, more: BTreeMap<PublisherId, Told>) {
    more.into_iter().for_each(|(publisher, told)| to.entry(publisher).or_default().add(told));
}

impl Question for Account<'_> {
    type Part = Part;

    async fn leaf<T: CheckpointStore>(&self, slot: &Slot<T>) -> Result<Part, Unanswered> {
        let range = self.0;
        let (from, to) = (range.start.start(), range.end.start());
        let mut accounts: BTreeMap<Minute, MinuteAccount> = BTreeMap::new();
        let Look { memory: mut part, stored } = look(slot, range, |engine| {
            add_up(&mut accounts, engine.account(range.start, range.end));
            let conflicts = engine.conflicts().map(|(outbox, state)| {
                let contents = &state.contents;
                let (count, newest) = (contents.conflicts_all, contents.conflicts.clone());
                (outbox, Conflicts { count, newest, first_at: contents.first_conflict_at })
            });
            Part {
                minutes: BTreeMap::new(),
                told: engine.told(range.start, range.end),
                applied: vec![engine.position().map_or(0, |position| position.sequence)],
                gaps: engine.gaps().into_iter().map(|gap| (gap.outbox, gap.missing)).collect(),
                conflicts: conflicts.collect(),
                misses: engine.outboxes().any(|(outbox, state)| {
                    state.misses_between(outbox.epoch, engine.clock(), from, to)
                }),
                completeness: Completeness::from_engine(engine, range),
            }
        })
        .await?;
        // A part of a minute's account may be in memory, and another in the store.
        if let Some(stored) = stored {
            add_up(&mut accounts, stored.accounts().await?);
            add(&mut part.told, stored.told().await?);
        }
        let sums = accounts.into_iter().map(|(minute, of)| (minute, Sum::from_account(of)));
        part.minutes = sums.collect();
        Ok(part)
    }

    fn merge(&self, mut one: Part, other: Part) -> Part {
        for (minute, sum) in other.minutes {
            one.minutes.entry(minute).or_default().add(&sum);
        }
        add(&mut one.told, other.told);
        one.applied.extend(other.applied);
        let missing = |runs: &[Range<u64>]| runs.iter().map(|run| run.end - run.start).sum::<u64>();
        for (outbox, runs) in other.gaps {
            let known = one.gaps.entry(outbox).or_default();
            if missing(known) < missing(&runs) {
                *known = runs;
            }
        }
        for (outbox, conflicts) in other.conflicts {
            match one.conflicts.entry(outbox) {
                Entry::Occupied(known) if known.get().count >= conflicts.count => {}
                known => drop(known.insert_entry(conflicts)),
            }
        }
        one.misses |= other.misses;
        one.completeness = one.completeness.and(other.completeness);
        one
    }
}

fn add_up(
    to: &mut BTreeMap<Minute, MinuteAccount>,
    more: impl IntoIterator<Item = (Minute, MinuteAccount)>,
) {
    more.into_iter().for_each(|(minute, account)| to.entry(minute).or_default().add(&account));
}

impl Sum {
    /// The account of one partition.
    fn from_account(account: MinuteAccount) -> Self {
        let (declared, given_up) = (account.declared, account.given_up);
        Self { declared, declared_sum: declared, given_up, account }
    }

    fn add(&mut self, other: &Self) {
        self.account.add(&other.account);
        self.declared = self.declared.max(other.declared);
        self.declared_sum += other.declared_sum;
        self.given_up = self.given_up.max(other.given_up);
    }
}

/// Whether every partition had applied its whole log when it was looked at. The ends of the logs
/// are asked for only now: a message that came in between makes a partition look late, but never up
/// to date.
async fn at_end<L: Log>(log: &L, applied: &[u64]) -> bool {
    for (partition, applied) in (0..).zip(applied) {
        match log.end(partition).await {
            Ok(end) if end.map_or(0, |end| end.sequence) == *applied => {}
            _ => return false,
        }
    }
    true
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
        let since = |first_at| Conflicts { count: 2, newest: vec![newest], first_at };
        let touches = |conflicts: &Conflicts, from: u32, to: u32| {
            conflicts.may_touch(&(Minute(from)..Minute(to)))
        };
        let known = since(Some(first.start()));
        assert!(touches(&known, first.0, first.0 + 1) && touches(&known, 0, u32::MAX));
        assert!(touches(&known, last.0, last.0 + 1) && !touches(&known, last.0 + 2, last.0 + DAY));
        assert!(touches(&known, first.0 - 7 * DAY, first.0 - 7 * DAY + 1));
        assert!(!touches(&known, first.0 - 365 * DAY, first.0 - 8 * DAY));
        // Of conflicts that an earlier build has kept it is not known when they began.
        assert!(touches(&since(None), first.0 - 365 * DAY, first.0 - 8 * DAY));
    }
}
