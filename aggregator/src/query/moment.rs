//! What questions about facts see: each partition at one moment.

use std::ops::Range;
use std::sync::Arc;

use shared::{Minute, Timestamp};

use super::stored::Stored;
use super::{Completeness, Unanswered, last};
use crate::count::{Changes, Engine, Finality};
use crate::facts::Part;
use crate::service::{Counted, Moving, NotReady, Slot};
use crate::store::rows::{FactsIndex, SegmentRow};
use crate::store::segments::{Segment, Segments};
use crate::store::{CheckpointStore, StoreError, View};

/// All minutes.
const ALWAYS: Range<Minute> = Minute(0)..Minute(u32::MAX);

/// A partition at one moment, as far as a range of minutes needs it. It is made under the lock, in a
/// time that does not grow with what was counted.
#[derive(Debug)]
pub(crate) struct Moment<V> {
    partition: u16,
    clock: Timestamp,
    finality: Finality,
    facts_from: Minute,
    resident_from: Minute,
    parts: Vec<Arc<Part>>,
    /// Of the minutes in memory.
    revisions: Vec<(Minute, u64)>,
    /// The rows of the store, before those are written that are moving.
    view: Arc<V>,
    moving: Option<Arc<Changes>>,
    index: Arc<FactsIndex>,
    files: Arc<Segments>,
}

impl<V: View> Moment<V> {
    /// A partition as it is now.
    pub(super) async fn now<T: CheckpointStore<View = V>>(
        slot: &Slot<T>,
        range: &Range<Minute>,
    ) -> Result<Self, Unanswered> {
        Self::of(slot.read().await.as_ref(), range)
    }

    /// The same, and what else the engine says at this moment.
    pub(super) async fn with<T: CheckpointStore<View = V>, R>(
        slot: &Slot<T>,
        range: &Range<Minute>,
        say: impl FnOnce(&Engine) -> R,
    ) -> Result<(Self, R), Unanswered> {
        let counted = slot.read().await;
        let moment = Self::of(counted.as_ref(), range)?;
        let said = counted.as_ref().map(|counted| say(&counted.engine));
        let starting = || NotReady::Starting("it is starting or closing".into());
        Ok((moment, said.ok_or_else(starting)?))
    }

    fn of<T: CheckpointStore<View = V>>(
        counted: Option<&Counted<T>>,
        range: &Range<Minute>,
    ) -> Result<Self, Unanswered> {
        let Some(Counted { engine, store, moving, facts, segments }) = counted else {
            return Err(NotReady::Starting("it is starting or closing".into()).into());
        };
        let accounts = engine.account(range.start, range.end).into_iter();
        let (view, moving) = match moving {
            None => (Arc::new(store.view()?), None),
            Some(Moving { changes, before }) => (Arc::clone(before), Some(Arc::clone(changes))),
        };
        Ok(Self {
            partition: engine.partition(),
            clock: engine.clock(),
            finality: engine.finality(),
            facts_from: engine.facts_from(),
            resident_from: engine.resident_from(),
            parts: engine.facts(range),
            revisions: accounts.map(|(minute, account)| (minute, account.revision)).collect(),
            view,
            moving,
            index: Arc::clone(facts),
            files: Arc::clone(segments),
        })
    }

    /// Facts that have left memory and may not yet be in the store.
    pub(super) fn moving_facts(&self) -> impl Iterator<Item = &Arc<Part>> {
        self.moving.iter().flat_map(|changes| &changes.facts)
    }

    /// From this minute on there is a fact for each counted event.
    pub(super) const fn facts_from(&self) -> Minute {
        self.facts_from
    }

    /// From this minute on memory has everything but facts.
    pub(super) const fn resident_from(&self) -> Minute {
        self.resident_from
    }

    pub(super) fn stored(&self, range: Range<Minute>) -> Stored<V> {
        Stored::new(Arc::clone(&self.view), self.moving.clone(), range)
    }

    fn completeness(&self, range: &Range<Minute>) -> Completeness {
        let last = last(range);
        Completeness {
            is_final: self.finality.is_final(last),
            behind: self.finality.behind(last),
            as_of: self.clock,
        }
    }
}

/// The moment of which a question is.
#[derive(Debug)]
pub(crate) enum At<V> {
    /// Each partition as it is when it is asked.
    Now,
    /// All partitions as they were together.
    Then(Arc<[Arc<Moment<V>>]>),
}

impl<V> Clone for At<V> {
    fn clone(&self) -> Self {
        match self {
            Self::Now => Self::Now,
            Self::Then(moments) => Self::Then(Arc::clone(moments)),
        }
    }
}

impl<V: View> At<V> {
    /// This moment, of all partitions and minutes. Nothing is counted while it is taken.
    pub(crate) async fn this_moment<T: CheckpointStore<View = V>>(
        slots: &[Slot<T>],
    ) -> Result<Self, Unanswered> {
        // One lock after the other, in the order of the partitions; nobody who writes has two of them.
        // Not with `join_all`, which has some while it waits for others: of two moments each would
        // then wait behind a writer who waits for the other one, for ever.
        let mut locked = Vec::with_capacity(slots.len());
        for slot in slots {
            locked.push(slot.read().await);
        }
        let moment = |counted: &Option<Counted<T>>| Moment::of(counted.as_ref(), &ALWAYS);
        let moments = locked.iter().map(|counted| moment(counted).map(Arc::new));
        Ok(Self::Then(moments.collect::<Result<_, Unanswered>>()?))
    }

    /// A partition at this moment.
    pub(super) async fn of<T: CheckpointStore<View = V>>(
        &self,
        slots: &[Slot<T>],
        partition: usize,
        range: &Range<Minute>,
    ) -> Result<Arc<Moment<V>>, Unanswered> {
        match self {
            Self::Now => Ok(Arc::new(Moment::now(&slots[partition], range).await?)),
            Self::Then(moments) => Ok(Arc::clone(&moments[partition])),
        }
    }
}

/// What a partition has of a range at one moment: in memory, moving, in blocks of the store and in
/// segments. So each fact is met once.
pub(super) struct Seen<V> {
    pub(super) parts: Vec<Arc<Part>>,
    pub(super) stored: Stored<V>,
    pub(super) partition: u16,
    /// The blocks of the store: hour and sequence.
    pub(super) blocks: Vec<(u32, u64)>,
    pub(super) files: Arc<Segments>,
    rows: Vec<SegmentRow>,
    revision: u64,
    completeness: Completeness,
}

impl<V: View> Seen<V> {
    pub(super) async fn new(moment: &Moment<V>, range: &Range<Minute>) -> Result<Self, Unanswered> {
        if range.start < moment.facts_from {
            return Err(Unanswered::NoFacts(moment.facts_from.start()));
        }
        let in_memory = moment.revisions.iter().filter(|(minute, _)| range.contains(minute));
        let mut revision = in_memory.map(|(_, revision)| revision).sum();
        let older = range.start..range.end.min(moment.resident_from);
        if !older.is_empty() {
            revision += moment.stored(older).revision().await?;
        }
        Ok(Self {
            parts: moment.parts.iter().filter(|part| part.meets(range)).cloned().collect(),
            stored: moment.stored(range.clone()),
            partition: moment.partition,
            blocks: moment.index.blocks_of(range),
            files: Arc::clone(&moment.files),
            rows: moment.index.segments_of(range),
            revision,
            completeness: moment.completeness(range),
        })
    }

    /// The segments that have facts of a range.
    pub(super) async fn segments(
        &self,
        range: &Range<Minute>,
    ) -> Result<Vec<Arc<Segment>>, StoreError> {
        let mut opened = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let segment = self.files.open(row).await?;
            let minutes = &segment.directory.minutes;
            if minutes.start < range.end && range.start < minutes.end {
                opened.push(segment);
            }
        }
        Ok(opened)
    }

    pub(super) fn told(&self) -> (u64, Completeness) {
        (self.revision, self.completeness)
    }
}
