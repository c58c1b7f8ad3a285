//! The names of ids. An id that is a digest has its name in the partitions that count it.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use shared::name::{Any, Named};
use shared::{AnyId, Id, Minute, NameBuf};

use super::{Look, Question, Unanswered, ask, look};
use crate::service::Slot;
use crate::store::{CheckpointStore, StoreError};

/// The names of some ids.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(HashMap<AnyId, NameBuf<Any>, FixedState>);

impl Names {
    /// The names of these ids, from whatever partition knows them.
    pub(crate) async fn look_up<T: CheckpointStore, N: Named>(
        slots: &[Slot<T>],
        ids: impl Iterator<Item = Id<N>>,
    ) -> Result<Self, Unanswered> {
        let mut digests: Vec<_> = ids.map(Id::any).filter(AnyId::is_digest).collect();
        if digests.is_empty() {
            return Ok(Self::default());
        }
        digests.sort_unstable();
        digests.dedup();
        ask(slots, &NamesOf(digests)).await
    }

    pub(crate) fn extend(&mut self, names: impl IntoIterator<Item = (AnyId, NameBuf<Any>)>) {
        self.0.extend(names);
    }

    /// The name of one of the ids.
    pub(crate) fn name<N: Named>(&self, id: Id<N>) -> Result<NameBuf<N>, StoreError> {
        let known = id.own_name().or_else(|| self.0.get(&id.any()).cloned().map(NameBuf::cast));
        // The name of a digest comes with its first event that is counted, and is saved with that
        // event's cell: it can only be missing when the store is damaged.
        known.ok_or_else(|| StoreError::Damaged(format!("the name of {id:?} is missing")))
    }
}

/// The question for the names of ids that are digests. The ids are in order.
struct NamesOf(Vec<AnyId>);

impl Question for NamesOf {
    type Part = Names;

    async fn leaf<T: CheckpointStore>(&self, slot: &Slot<T>) -> Result<Names, Unanswered> {
        let mut names = Names::default();
        let always = Minute(0)..Minute(u32::MAX);
        let Look { memory: left, stored } = look(slot, &always, |engine| {
            let mut left = self.0.clone();
            left.retain(|id| match engine.name(*id) {
                Some(name) => names.0.insert(*id, name.clone()).is_some(),
                None => true,
            });
            left
        })
        .await?;
        if let (Some(stored), false) = (stored, left.is_empty()) {
            names.extend(stored.names(&left).await?);
        }
        Ok(names)
    }

    fn merge(&self, mut one: Names, other: Names) -> Names {
        one.extend(other.0);
        one
    }
}
