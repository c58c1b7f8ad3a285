//! Questions: each is answered from the memory and the store of every partition, and the answers of
//! all partitions are added up.
//!
//! Memory has the resident minutes whole, and of older minutes what is not saved yet. The store has
//! the rest, except for rows that are just moving from memory into it. A question notes the state
//! of all three at one moment, under the lock, so that no row is missed or counted twice. Then it
//! reads the store as it was at that moment, without the lock.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::FixedState;
use futures::future::try_join_all;
use hashbrown::HashMap;
use shared::name::{Named, Noun};
use shared::{AdId, AdName, Id, Kind, Minute, NameBuf, SourceId, Timestamp, Validity};

use crate::count::{Engine, SourceState};
use crate::service::{Counted, Moving, NotReady, Slot};
use crate::store::{CheckpointStore, StoreError};
use stored::Stored;

mod accounting;
mod calendar;
mod edges;
mod export;
mod facts;
mod leading;
mod moment;
mod names;
mod stored;
#[cfg(test)]
mod tests;
mod visitors;

pub(crate) use accounting::{Conflicts, accounting};
pub(crate) use calendar::{Step, Steps, Zone};
pub(crate) use edges::{AllEdges, Edges, OutboxProgress};
pub(crate) use export::{Export, Row, export};
pub(crate) use facts::{AtOf, OfFacts, Tallied};
pub(crate) use leading::leading_ads;
pub(crate) use moment::At;
pub(crate) use names::Names;
pub(crate) use visitors::OfVisitors;

/// Why a question is not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("{0}")]
    NotReady(#[from] NotReady),
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The store was begun by a build that kept no facts.
    #[error("there are facts from {0} on; ask without a filter, or from then on")]
    NoFacts(Timestamp),
    #[error(
        "this reads about {rows} facts, and a question may read {most}; ask for a shorter range"
    )]
    TooMuch { rows: u64, most: u64 },
    #[error(
        "a partition has more than {0} groups; group by fewer columns, ask for longer steps, or filter"
    )]
    TooManyGroups(usize),
}

/// How complete a range of minutes is, in all partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Completeness {
    /// Whether every open outbox is past the range, in every partition.
    pub(crate) is_final: bool,
    /// How many outboxes are not past it, in the partition where they are most.
    pub(crate) behind: usize,
    /// The log's clock, in the partition where it is least.
    pub(crate) as_of: Timestamp,
}

impl Completeness {
    /// When no partition was looked at.
    const NONE: Self = Self { is_final: false, behind: 0, as_of: Timestamp(0) };

    fn from_engine(engine: &Engine, range: &Range<Minute>) -> Self {
        let (finality, last) = (engine.finality(), last(range));
        let behind = finality.behind(last);
        Self { is_final: finality.is_final(last), behind, as_of: engine.clock() }
    }

    fn and(self, other: Self) -> Self {
        Self {
            is_final: self.is_final && other.is_final,
            behind: self.behind.max(other.behind),
            as_of: self.as_of.min(other.as_of),
        }
    }
}

/// The last minute of a range that is not empty.
fn last(range: &Range<Minute>) -> Minute {
    Minute(range.end.0.saturating_sub(1))
}

/// A question as a value. Each partition answers it for itself (a leaf); the parts are merged two
/// by two into the answer of all partitions (the root).
pub(crate) trait Question: Sync {
    /// The answer of one partition, or of several together.
    type Part: Send;

    /// The answer of one partition.
    fn leaf<T: CheckpointStore>(
        &self,
        slot: &Slot<T>,
    ) -> impl Future<Output = Result<Self::Part, Unanswered>> + Send;

    /// The answer of both together. In whatever order parts are merged, the result is the same.
    fn merge(&self, one: Self::Part, other: Self::Part) -> Self::Part;
}

/// Asks all partitions at once, and merges their answers.
pub(crate) async fn ask<Q: Question, T: CheckpointStore>(
    slots: &[Slot<T>],
    question: &Q,
) -> Result<Q::Part, Unanswered> {
    let parts = try_join_all(slots.iter().map(|slot| question.leaf(slot))).await?;
    let all = parts.into_iter().reduce(|one, other| question.merge(one, other));
    all.ok_or_else(|| NotReady::Starting("there are no partitions".to_owned()).into())
}

/// What a partition's memory says, and the rest at the same moment.
struct Look<R, V> {
    memory: R,
    /// None when memory has all minutes that were asked for.
    stored: Option<Stored<V>>,
}

/// Looks at a partition under its lock. `memory` is asked for what is in memory.
async fn look<T: CheckpointStore, R>(
    slot: &Slot<T>,
    range: &Range<Minute>,
    memory: impl FnOnce(&Engine) -> R,
) -> Result<Look<R, T::View>, Unanswered> {
    let counted = slot.read().await;
    let Some(counted) = counted.as_ref() else {
        return Err(NotReady::Starting("it is starting or closing".into()).into());
    };
    let to = range.end.min(counted.engine.resident_from());
    let is_in_memory = range.start >= to;
    let stored = if is_in_memory { None } else { Some(stored(counted, range.start..to)?) };
    Ok(Look { memory: memory(&counted.engine), stored })
}

/// What is not in memory of a range, at this moment.
fn stored<T: CheckpointStore>(
    counted: &Counted<T>,
    range: Range<Minute>,
) -> Result<Stored<T::View>, StoreError> {
    Ok(match &counted.moving {
        None => Stored::new(Arc::new(counted.store.view()?), None, range),
        Some(Moving { changes, before }) => {
            Stored::new(Arc::clone(before), Some(Arc::clone(changes)), range)
        }
    })
}

/// The answer to [`CountOfAd`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AdCount {
    pub(crate) count: u64,
    pub(crate) revision: u64,
    pub(crate) completeness: Completeness,
}

/// The question how many events of a kind an ad has in a range.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CountOfAd {
    pub(crate) ad: AdId,
    pub(crate) kind: Kind,
    pub(crate) validity: Validity,
    pub(crate) range: Range<Minute>,
}

impl Question for CountOfAd {
    type Part = AdCount;

    async fn leaf<T: CheckpointStore>(&self, slot: &Slot<T>) -> Result<AdCount, Unanswered> {
        let Self { ad, kind, validity, range } = self;
        let Look { mut memory, stored } = look(slot, range, |engine| AdCount {
            count: engine.ad_count(*ad, *kind, *validity, range.start, range.end),
            revision: engine.revision(range.start, range.end),
            completeness: Completeness::from_engine(engine, range),
        })
        .await?;
        if let Some(stored) = stored {
            memory.count += stored.ad_count(*ad, *kind, *validity).await?;
            memory.revision += stored.revision().await?;
        }
        Ok(memory)
    }

    fn merge(&self, one: AdCount, other: AdCount) -> AdCount {
        AdCount {
            count: one.count + other.count,
            revision: one.revision + other.revision,
            completeness: one.completeness.and(other.completeness),
        }
    }
}

/// The question how many events of a kind every ad has in a range that is not empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct CountsOfAds {
    pub(crate) kind: Kind,
    pub(crate) validity: Validity,
    pub(crate) range: Range<Minute>,
}

/// The answer to [`CountsOfAds`].
#[derive(Clone, Debug)]
pub(crate) struct AdCounts {
    counts: HashMap<AdId, u64, FixedState>,
    pub(crate) completeness: Completeness,
}

impl AdCounts {
    /// How many events all ads have together.
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// The ads with the most events, most first; those with as many in the order of their names. To
    /// be called when all partitions are merged: the top of each partition would not be the top of
    /// all.
    pub(crate) async fn top<T: CheckpointStore>(
        self,
        slots: &[Slot<T>],
        most: usize,
    ) -> Result<Vec<(AdName, u64)>, Unanswered> {
        ranked(slots, self.counts.into_iter().collect(), most).await
    }
}

/// The names with the most events, most first; those with as many in their order. To be called
/// with the counts of all partitions.
pub(crate) async fn ranked<T: CheckpointStore, N: Named>(
    slots: &[Slot<T>],
    mut counts: Vec<(Id<N>, u64)>,
    most: usize,
) -> Result<Vec<(NameBuf<N>, u64)>, Unanswered> {
    // Where every id is its own name, ids are in the order of names.
    if counts.iter().all(|(id, _)| !id.is_digest()) {
        counts = top(counts, most);
    } else if let Some(place) = most.checked_sub(1).filter(|_| most < counts.len()) {
        // All with as many events as the last place stay: the names, which are looked up below,
        // tell which of them are in.
        let (_, (_, last), _) = counts.select_nth_unstable_by_key(place, |(_, n)| Reverse(*n));
        let last = *last;
        counts.retain(|(_, n)| *n >= last);
    }
    let names = Names::look_up(slots, counts.iter().map(|(id, _)| *id)).await?;
    let named = counts.into_iter().map(|(id, n)| Ok((names.name(id)?, n)));
    let mut ranked = named.collect::<Result<Vec<_>, StoreError>>()?;
    ranked.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    ranked.truncate(most);
    Ok(ranked)
}

impl Question for CountsOfAds {
    type Part = AdCounts;

    async fn leaf<T: CheckpointStore>(&self, slot: &Slot<T>) -> Result<AdCounts, Unanswered> {
        let Self { kind, validity, range } = self;
        let mut counts: HashMap<AdId, u64, FixedState> = HashMap::default();
        let mut completeness = None;
        // The lock is taken for each minute anew, so that it is never held for longer than the ads
        // of one minute need.
        for minute in (range.start.0..range.end.0).map(Minute) {
            let one = minute..Minute(minute.0 + 1);
            let Look { memory, stored } = look(slot, &one, |engine| {
                let mut add = |ad, n| *counts.entry(ad).or_default() += n;
                engine.ad_totals(minute, *kind, *validity, &mut add);
                Completeness::from_engine(engine, range)
            })
            .await?;
            if let Some(stored) = stored {
                let add = |ad, n| *counts.entry(ad).or_default() += n;
                stored.totals(*kind, *validity, add).await?;
            }
            // The last look is the newest.
            completeness = Some(memory);
            tokio::task::yield_now().await;
        }
        Ok(AdCounts { counts, completeness: completeness.unwrap_or(Completeness::NONE) })
    }

    fn merge(&self, one: AdCounts, other: AdCounts) -> AdCounts {
        let completeness = one.completeness.and(other.completeness);
        let (mut counts, fewer) = match one.counts.len() >= other.counts.len() {
            true => (one.counts, other.counts),
            false => (other.counts, one.counts),
        };
        fewer.into_iter().for_each(|(ad, n)| *counts.entry(ad).or_default() += n);
        AdCounts { counts, completeness }
    }
}

/// The ids with the most events, most first; those with as many in the order of their ids.
fn top<N: Noun>(mut counts: Vec<(Id<N>, u64)>, most: usize) -> Vec<(Id<N>, u64)> {
    let rank = |a: &(Id<N>, u64), b: &(Id<N>, u64)| b.1.cmp(&a.1).then(a.0.cmp(&b.0));
    if most < counts.len() {
        counts.select_nth_unstable_by(most, rank);
        counts.truncate(most);
    }
    counts.sort_unstable_by(rank);
    counts
}

/// The question how far an imported log has been taken, and what became of its events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StateOfSource(pub(crate) SourceId);

impl Question for StateOfSource {
    type Part = SourceState;

    /// A partition that does not know the log says: no rows.
    async fn leaf<T: CheckpointStore>(&self, slot: &Slot<T>) -> Result<SourceState, Unanswered> {
        let nowhere = Minute(0)..Minute(0);
        let Look { memory, .. } = look(slot, &nowhere, |engine| engine.source(self.0)).await?;
        Ok(memory.unwrap_or_default())
    }

    /// The log is taken as far as the partition has taken it that is furthest behind.
    fn merge(&self, one: SourceState, other: SourceState) -> SourceState {
        let least = if other.rows < one.rows { &other } else { &one };
        let (rows, digest) = (least.rows, least.digest);
        let mut reasons = one.reasons;
        reasons.iter_mut().zip(other.reasons).for_each(|(to, n)| *to += n);
        let (counted, duplicate) = (one.counted + other.counted, one.duplicate + other.duplicate);
        SourceState { rows, digest, counted, duplicate, reasons }
    }
}
