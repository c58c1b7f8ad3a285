//! Whose batches are counted, and how far each is.

use std::collections::{BTreeMap, BTreeSet};

use shared::{Id, OutboxId, Timestamp};

use super::Unanswered;
use crate::count::Engine;
use crate::service::{Counted, NotReady, Slot};
use crate::store::CheckpointStore;

/// An outbox, over all partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Outbox {
    /// All numbers before this one have been counted, in every partition.
    pub(crate) next: u64,
    /// The least of the partitions; [`Timestamp::MAX`] when it is closed everywhere.
    pub(crate) watermark: Timestamp,
    /// Numbers that have not come although larger ones have, in some partition: first and last.
    pub(crate) missing: BTreeSet<(u64, u64)>,
}

/// All outboxes that are remembered, and the edges that are out of service or cut off.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Edges {
    pub(crate) outboxes: BTreeMap<OutboxId, Outbox>,
    pub(crate) retired: BTreeMap<Id, Timestamp>,
    /// By registered name: nothing of them counts any more.
    pub(crate) cut_off: BTreeSet<Id>,
}

/// All edges.
pub(crate) async fn edges<T: CheckpointStore>(slots: &[Slot<T>]) -> Result<Edges, Unanswered> {
    let mut edges = Edges::default();
    for slot in slots {
        let counted = slot.read().await;
        let Some(Counted { engine, .. }) = counted.as_ref() else {
            return Err(NotReady::Starting("it is starting or closing".into()).into());
        };
        edges.add(engine);
    }
    Ok(edges)
}

impl Edges {
    fn add(&mut self, engine: &Engine) {
        for (outbox, state) in engine.outboxes() {
            let missing = state.missing().into_iter().map(|gap| (gap.start, gap.end - 1));
            let first = || Outbox {
                next: state.next,
                watermark: state.watermark,
                missing: BTreeSet::new(),
            };
            let known = self.outboxes.entry(outbox).or_insert_with(first);
            known.next = known.next.min(state.next);
            known.watermark = known.watermark.min(state.watermark);
            known.missing.extend(missing);
        }
        self.retired.extend(engine.retired());
        self.cut_off.extend(engine.cut_off().keys());
    }
}
