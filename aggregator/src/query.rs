//! The questions: what memory holds and what the store holds of it, of all partitions, added up.
//!
//! Memory has the resident minutes whole, and of older ones what is not yet saved; the store has the
//! rest, but for what is moving from one to the other. All are looked at under one lock, so that
//! nothing moves past us; the rest is then read as it was at that moment, without the lock.

use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::FixedState;
use futures::future::try_join_all;
use hashbrown::HashMap;
use shared::{Id, Kind, Minute, SourceId, Timestamp, Validity};

use crate::count::{Engine, SourceState};
use crate::service::{Counted, Moving, NotReady, Slot};
use crate::store::{CheckpointStore, StoreError};
use stored::Stored;

mod accounting;
mod edges;
mod export;
mod stored;
#[cfg(test)]
mod tests;

pub(crate) use accounting::{Conflicts, accounting};
pub(crate) use edges::{Edges, Outbox, edges};
pub(crate) use export::{Export, Row, export};

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("{0}")]
    NotReady(#[from] NotReady),
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// How complete a range of minutes is, in all partitions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Completeness {
    /// Every open outbox is past it in every partition.
    pub(crate) is_final: bool,
    /// How many are not, in the partition where they are most.
    pub(crate) behind: usize,
    /// The log's clock, where it is least.
    pub(crate) as_of: Timestamp,
}

impl Completeness {
    fn of(engine: &Engine, range: &Range<Minute>) -> Self {
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

fn all_of(parts: impl IntoIterator<Item = Completeness>) -> Completeness {
    let none = Completeness { is_final: false, behind: 0, as_of: Timestamp(0) };
    parts.into_iter().reduce(Completeness::and).unwrap_or(none)
}

/// What memory says, and where the rest is at the same moment.
struct Look<R, V> {
    memory: R,
    stored: Option<Stored<V>>,
}

async fn look<T: CheckpointStore, R>(
    slot: &Slot<T>,
    range: &Range<Minute>,
    memory: impl FnOnce(&Engine) -> R,
) -> Result<Look<R, T::View>, Unanswered> {
    let counted = slot.read().await;
    let Some(Counted { engine, store, moving }) = counted.as_ref() else {
        return Err(NotReady::Starting("it is starting or closing".into()).into());
    };
    let to = range.end.min(engine.resident_from());
    let stored = match moving {
        _ if range.start >= to => None,
        None => Some(Stored::new(Arc::new(store.view()?), None, range.start..to)),
        Some(Moving { changes, before }) => {
            Some(Stored::new(Arc::clone(before), Some(Arc::clone(changes)), range.start..to))
        }
    };
    Ok(Look { memory: memory(engine), stored })
}

/// The count of an ad.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AdCount {
    pub(crate) count: u64,
    pub(crate) revision: u64,
    pub(crate) completeness: Completeness,
}

/// How many events of a kind an ad has in a range.
pub(crate) async fn ad_count<T: CheckpointStore>(
    slots: &[Slot<T>],
    ad: Id,
    kind: Kind,
    validity: Validity,
    range: Range<Minute>,
) -> Result<AdCount, Unanswered> {
    let parts = slots.iter().map(|slot| ad_count_of(slot, ad, kind, validity, &range));
    let parts = try_join_all(parts).await?;
    let sum = |of: fn(&AdCount) -> u64| parts.iter().map(of).sum();
    Ok(AdCount {
        count: sum(|part| part.count),
        revision: sum(|part| part.revision),
        completeness: all_of(parts.iter().map(|part| part.completeness)),
    })
}

async fn ad_count_of<T: CheckpointStore>(
    slot: &Slot<T>,
    ad: Id,
    kind: Kind,
    validity: Validity,
    range: &Range<Minute>,
) -> Result<AdCount, Unanswered> {
    let Look { mut memory, stored } = look(slot, range, |engine| AdCount {
        count: engine.ad_count(ad, kind, validity, range.start, range.end),
        revision: engine.revision(range.start, range.end),
        completeness: Completeness::of(engine, range),
    })
    .await?;
    if let Some(stored) = stored {
        memory.count += stored.ad_count(ad, kind, validity).await?;
        memory.revision += stored.revision().await?;
    }
    Ok(memory)
}

/// The ads with the most events.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Popular {
    /// Most first, then by id.
    pub(crate) ads: Vec<(Id, u64)>,
    pub(crate) completeness: Completeness,
}

/// The `most` ads with the most events of a kind in a range, all partitions summed before they are
/// ranked.
pub(crate) async fn popular<T: CheckpointStore>(
    slots: &[Slot<T>],
    kind: Kind,
    validity: Validity,
    range: Range<Minute>,
    most: usize,
) -> Result<Popular, Unanswered> {
    let mut totals: HashMap<Id, u64, FixedState> = HashMap::default();
    let mut completeness = Vec::with_capacity(slots.len());
    for slot in slots {
        // Each minute under a lock of its own: no hold is longer than one minute's ads.
        for minute in (range.start.0..range.end.0).map(Minute) {
            let one = minute..Minute(minute.0 + 1);
            let Look { memory, stored } = look(slot, &one, |engine| {
                let mut add = |ad, n| *totals.entry(ad).or_default() += n;
                engine.ad_totals(minute, kind, validity, &mut add);
                Completeness::of(engine, &range)
            })
            .await?;
            if let Some(stored) = stored {
                let add = |ad, n| *totals.entry(ad).or_default() += n;
                stored.totals(kind, validity, add).await?;
            }
            if minute.0 + 1 == range.end.0 {
                completeness.push(memory);
            }
            tokio::task::yield_now().await;
        }
    }
    Ok(Popular { ads: top(totals.into_iter().collect(), most), completeness: all_of(completeness) })
}

/// The largest, ties by id.
fn top(mut ads: Vec<(Id, u64)>, most: usize) -> Vec<(Id, u64)> {
    let rank = |a: &(Id, u64), b: &(Id, u64)| b.1.cmp(&a.1).then(a.0.cmp(&b.0));
    if most < ads.len() {
        ads.select_nth_unstable_by(most, rank);
        ads.truncate(most);
    }
    ads.sort_unstable_by(rank);
    ads
}

/// How far an imported log has been taken, and what became of its events in all partitions. `None`
/// when no partition knows it.
pub(crate) async fn source<T: CheckpointStore>(
    slots: &[Slot<T>],
    id: SourceId,
) -> Result<Option<SourceState>, Unanswered> {
    let mut sum: Option<SourceState> = None;
    let mut least = SourceState { rows: u64::MAX, ..SourceState::default() };
    let nowhere = Minute(0)..Minute(0);
    for slot in slots {
        let Look { memory, .. } = look(slot, &nowhere, |engine| engine.source(id)).await?;
        let part = memory.unwrap_or_default();
        if part.rows < least.rows {
            (least.rows, least.digest) = (part.rows, part.digest);
        }
        if memory.is_some() {
            let sum = sum.get_or_insert_default();
            sum.counted += part.counted;
            sum.duplicate += part.duplicate;
            sum.reasons.iter_mut().zip(part.reasons).for_each(|(to, n)| *to += n);
        }
    }
    Ok(sum.map(|sum| SourceState { rows: least.rows, digest: least.digest, ..sum }))
}
