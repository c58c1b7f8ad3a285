//! The question which edges there are, and how far their outboxes are counted.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use shared::{EdgeId, OutboxId, Timestamp};

use super::{Question, Unanswered};
use crate::count::Engine;
use crate::service::{Counted, NotReady, Slot};
use crate::store::CheckpointStore;

/// How far an outbox is counted, over all partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct OutboxProgress {
    /// All numbers before this one have been counted, in every partition.
    pub(crate) next: u64,
    /// The least watermark that a partition has; [`Timestamp::MAX`] when the outbox is closed in
    /// all of them.
    pub(crate) watermark: Timestamp,
    /// Ranges of numbers that have not come to some partition although larger ones have: first and
    /// last.
    pub(crate) missing: BTreeSet<(u64, u64)>,
}

/// The answer to [`AllEdges`]: all outboxes that are remembered, and the edges that are out of
/// service or cut off.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Edges {
    pub(crate) outboxes: BTreeMap<OutboxId, OutboxProgress>,
    pub(crate) retired: BTreeMap<EdgeId, Timestamp>,
    /// The registered names of edges of which nothing counts any more.
    pub(crate) cut_off: BTreeSet<EdgeId>,
}

/// The question about all edges.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct AllEdges;

impl Question for AllEdges {
    type Part = Edges;

    async fn leaf<T: CheckpointStore>(&self, slot: &Slot<T>) -> Result<Edges, Unanswered> {
        let counted = slot.read().await;
        let Some(Counted { engine, .. }) = counted.as_ref() else {
            return Err(NotReady::Starting("it is starting or closing".into()).into());
        };
        Ok(Edges::from_engine(engine))
    }

    fn merge(&self, mut one: Edges, other: Edges) -> Edges {
        for (outbox, state) in other.outboxes {
            match one.outboxes.entry(outbox) {
                Entry::Vacant(free) => drop(free.insert(state)),
                Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    known.next = known.next.min(state.next);
                    known.watermark = known.watermark.min(state.watermark);
                    known.missing.extend(state.missing);
                }
            }
        }
        one.retired.extend(other.retired);
        one.cut_off.extend(other.cut_off);
        one
    }
}

impl Edges {
    fn from_engine(engine: &Engine) -> Self {
        let outboxes = engine.outboxes().map(|(outbox, state)| {
            let missing = state.missing().into_iter().map(|gap| (gap.start, gap.end - 1));
            let missing = missing.collect();
            (outbox, OutboxProgress { next: state.next, watermark: state.watermark, missing })
        });
        Self {
            outboxes: outboxes.collect(),
            retired: engine.retired().clone(),
            cut_off: engine.cut_off().keys().copied().collect(),
        }
    }
}
