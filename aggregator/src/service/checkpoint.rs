//! Saves a checkpoint, in a task of its own: that of the partition goes on applying messages.
//!
//! The lock is held only at the two moments at which rows change their place: when they leave the
//! engine, and when they are in the store. In between they are [`Moving`], and a question counts
//! them there.

use std::collections::VecDeque;
use std::sync::Arc;

use eventlog::{Log, Position};
use shared::ambient::Stopwatch;
use shared::{Minute, Timestamp};

use super::partition::End;
use super::{Core, Counted, Moving};
use crate::count::{Changes, Engine};
use crate::facts;
use crate::metrics::PartitionLabel;
use crate::store::rows::{self, FactsIndex, PartitionAndCount, SegmentRow, Swap};
use crate::store::{Change, CheckpointStore, Stores, View};

const DAY_MINUTES: u32 = 24 * 60;

/// Saves what changed, and returns when it is durable. When this fails or is dropped half-way, the
/// partition must be opened anew.
pub(super) async fn save<L: Log, S: Stores>(
    core: Arc<Core<L, S>>,
    own: PartitionAndCount,
    store: Arc<S::Store>,
    mut kept: Kept,
) -> Result<Kept, End> {
    let watch = Stopwatch::start();
    // The semaphore is never closed. If it were, all partitions would write at once, which does no
    // harm.
    let writing = core.writing.acquire().await;
    let slot = &core.slots[usize::from(own.partition)];
    let (changes, before) = {
        let mut counted = slot.write().await;
        let Some(Counted { engine, moving, .. }) = counted.as_mut() else {
            return Err(End::Asked);
        };
        let locked = Stopwatch::start();
        let before = Arc::new(store.view()?);
        if let Some(days) = core.settings.facts_days {
            engine.forget_facts_before(days_ago(engine.clock(), days));
        }
        let changes = Arc::new(engine.checkpoint());
        *moving = Some(Moving { changes: Arc::clone(&changes), before: Arc::clone(&before) });
        show_size(&core, own.partition, engine);
        core.metrics.locked_seconds.observe(locked.elapsed().as_secs_f64());
        (changes, before)
    };
    let mut batch = rows::batch(own, &changes);
    let hour = u32::try_from(changes.clock.0 / 3_600_000).unwrap_or(u32::MAX);
    batch.extend(kept.hours.note(hour, changes.position, core.settings.retention_hours));
    batch.extend(facts(&mut kept.facts, &*before, &changes).await?);
    for swap in std::mem::take(&mut kept.swaps) {
        kept.replaced.extend(swap.segments.iter().cloned());
        batch.extend(kept.facts.swap(swap));
    }
    let (old, forgotten) = kept.facts.forget_before(changes.facts_from);
    kept.replaced.extend(old);
    batch.extend(forgotten);
    // The clock that says which hours are over.
    kept.clock = changes.clock.minute();
    show_loose(&core, own.partition, kept.facts.loose());
    drop(before);
    let bytes: usize = batch.iter().map(Change::bytes).sum();
    drop(changes);
    store.write(batch).await?;
    let facts = Arc::new(kept.facts.clone());
    let moved = slot.write().await.as_mut().map(|counted| {
        counted.facts = facts;
        counted.moving.take()
    });
    // Freed without the lock: there is much of it.
    drop(moved);
    drop(writing);
    store.flush().await?;
    core.metrics.checkpoint_bytes.inc_by(bytes as u64);
    core.metrics.checkpoint_seconds.observe(watch.elapsed().as_secs_f64());
    Ok(kept)
}

/// The beginning of the day (UTC) that was so many days ago.
fn days_ago(clock: Timestamp, days: u32) -> Minute {
    let today = clock.minute().0 / DAY_MINUTES;
    Minute(today.saturating_sub(days) * DAY_MINUTES)
}

/// The rows of the facts of a checkpoint. Columns are made on a thread for long work.
async fn facts<V: View>(
    index: &mut FactsIndex,
    before: &V,
    changes: &Arc<Changes>,
) -> Result<Vec<Change>, End> {
    let sequence = changes.position.map_or(0, |position| position.sequence);
    let changes = Arc::clone(changes);
    let blocks = tokio::task::spawn_blocking(move || facts::blocks(&changes.facts)).await?;
    Ok(index.add(before, blocks, sequence).await?)
}

/// What a partition's task keeps from checkpoint to checkpoint.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) hours: Hours,
    pub(super) facts: FactsIndex,
    /// Segments that were made, and are to be named in the next checkpoint.
    pub(super) swaps: Vec<Swap>,
    /// Segments that the last checkpoint no longer names.
    pub(super) replaced: Vec<SegmentRow>,
    /// The log's clock at the last checkpoint.
    pub(super) clock: Minute,
}

fn show_size<L: Log, S: Stores>(core: &Core<L, S>, partition: u16, engine: &Engine) {
    let label = PartitionLabel { partition };
    let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    let size = engine.size();
    core.metrics.dedup_bytes.get_or_create(&label).set(gauge(size.dedup_bytes));
    core.metrics.cell_bytes.get_or_create(&label).set(gauge(size.cell_bytes));
}

fn show_loose<L: Log, S: Stores>(core: &Core<L, S>, partition: u16, facts: u64) {
    let gauge = core.metrics.loose_facts.get_or_create(&PartitionLabel { partition });
    gauge.set(i64::try_from(facts).unwrap_or(i64::MAX));
}

/// By hour of the log's clock, the sequence at its first checkpoint: oldest first, and no further
/// back than the retention needs.
#[derive(Debug, Default)]
pub(super) struct Hours(VecDeque<(u32, u64)>);

impl Hours {
    pub(super) fn new(hours: Vec<(u32, u64)>) -> Self {
        Self(hours.into())
    }

    /// Notes the sequence when `hour` is a new one, and forgets the hours that trimming needs no
    /// more. Returns the rows to write. `retention`: in hours.
    fn note(&mut self, hour: u32, position: Option<Position>, retention: u32) -> Vec<Change> {
        let Some(position) = position else { return Vec::new() };
        if self.0.back().is_some_and(|(last, _)| *last >= hour) {
            return Vec::new();
        }
        self.0.push_back((hour, position.sequence));
        let mut forget = Vec::new();
        let kept = hour.saturating_sub(retention);
        // The log is trimmed up to the last hour that is as old as the retention or older: all
        // before that hour go.
        while self.0.get(1).is_some_and(|(second, _)| *second <= kept) {
            forget.extend(self.0.pop_front().map(|(hour, _)| hour));
        }
        rows::hours(hour, position.sequence, &forget)
    }

    /// The sequence up to which the log is older than the retention; none while nothing is so old.
    pub(super) fn trimmable(&self, retention: u32) -> Option<u64> {
        let (now, _) = self.0.back()?;
        let (first, sequence) = self.0.front()?;
        (*first <= now.saturating_sub(retention)).then_some(*sequence)
    }
}
