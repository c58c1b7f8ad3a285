//! Questions that are answered from facts.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use shared::event::VERDICTS;
use shared::{AnyId, Minute};

use super::{Completeness, Look, Question, Unanswered, ask, look, stored};
use crate::count::MinuteAccount;
use crate::facts::{Name, Select, Sum, Tally};
use crate::query::calendar::Steps;
use crate::service::{NotReady, Slot};
use crate::store::{CheckpointStore, Stop};

/// The most facts that one question may read, in all partitions.
const FACTS_MAX: u64 = 200_000_000;
/// The most groups that a partition may make, unless a question sets another limit.
const GROUPS_MAX: usize = 1 << 20;

/// The question what the facts of a range that pass a filter add up to, in groups.
#[derive(Clone, Debug)]
pub(crate) struct OfFacts<S> {
    pub(crate) range: Range<Minute>,
    pub(crate) select: Select,
    /// All facts that can pass are of this ad.
    pub(crate) ad: Option<AnyId>,
    /// The columns by which they are grouped.
    pub(crate) by: Vec<Name>,
    /// The steps of time by which they are grouped; one group, when there are none.
    pub(crate) steps: Option<Arc<Steps>>,
    /// The most groups that a partition may make.
    groups_max: usize,
    sum: PhantomData<fn() -> S>,
}

/// The answer to [`OfFacts`]: a [`Tally`], or what was made of it.
#[derive(Clone, Debug)]
pub(crate) struct Tallied<T> {
    pub(crate) tally: T,
    pub(crate) revision: u64,
    pub(crate) completeness: Completeness,
}

impl<T> Tallied<T> {
    pub(crate) fn map<U>(self, with: impl FnOnce(T) -> U) -> Tallied<U> {
        let Self { tally, revision, completeness } = self;
        Tallied { tally: with(tally), revision, completeness }
    }
}

impl<S: Sum + Default> OfFacts<S> {
    /// One sum of all.
    pub(crate) fn new(range: Range<Minute>, select: Select) -> Self {
        let (by, groups_max) = (Vec::new(), GROUPS_MAX);
        Self { range, select, ad: None, by, steps: None, groups_max, sum: PhantomData }
    }

    /// The same question for something else that is summed up, in at most so many groups.
    pub(crate) fn summing<O: Sum + Default>(self, groups_max: usize) -> OfFacts<O> {
        let Self { range, select, ad, by, steps, .. } = self;
        OfFacts { range, select, ad, by, steps, groups_max, sum: PhantomData }
    }

    /// Asks all partitions, when the answer does not need more facts than may be read.
    pub(crate) async fn ask<T: CheckpointStore>(
        &self,
        slots: &[Slot<T>],
    ) -> Result<Tallied<Tally<S>>, Unanswered> {
        let rows = ask(slots, &FactsIn(self.range.clone())).await?;
        if rows > FACTS_MAX {
            return Err(Unanswered::TooMuch { rows, most: FACTS_MAX });
        }
        ask(slots, self).await
    }

    fn add(&self, tally: &mut Tally<S>, block: &crate::facts::Block) {
        let mask = self.select.rows(block, self.ad);
        match &self.steps {
            None => tally.add(block, &mask),
            Some(steps) => tally.add_with(block, &mask, |minute| {
                let minute = u32::try_from(minute).ok().map(Minute)?;
                Some(steps.at(minute) as u64)
            }),
        }
    }
}

impl<S: Sum + Default> Question for OfFacts<S> {
    type Part = Tallied<Tally<S>>;

    async fn leaf<T: CheckpointStore>(&self, slot: &Slot<T>) -> Result<Self::Part, Unanswered> {
        let range = &self.range;
        // In memory, moving and stored at one moment: so each fact is met once.
        let (parts, stored, revision, older, completeness) = {
            let counted = slot.read().await;
            let Some(counted) = counted.as_ref() else {
                return Err(NotReady::Starting("it is starting or closing".into()).into());
            };
            let engine = &counted.engine;
            if range.start < engine.facts_from() {
                return Err(Unanswered::NoFacts(engine.facts_from().start()));
            }
            let older = range.start..range.end.min(engine.resident_from());
            (
                engine.facts(range),
                stored(counted, range.clone())?,
                engine.revision(range.start, range.end),
                if older.is_empty() { None } else { Some(stored(counted, older)?) },
                Completeness::from_engine(engine, range),
            )
        };
        let mut tally = Tally::new(self.by.clone());
        let mut add = |block: &crate::facts::Block| {
            self.add(&mut tally, block);
            if tally.len() > self.groups_max { Err(Stop::Enough) } else { Ok(()) }
        };
        for part in parts {
            if add(part.block()).is_err() {
                break;
            }
        }
        stored.facts(&mut add).await?;
        if tally.len() > self.groups_max {
            return Err(Unanswered::TooManyGroups(self.groups_max));
        }
        let saved = match older {
            Some(older) => older.revision().await?,
            None => 0,
        };
        Ok(Tallied { tally, revision: revision + saved, completeness })
    }

    fn merge(&self, mut one: Self::Part, other: Self::Part) -> Self::Part {
        one.tally.merge(other.tally);
        one.revision += other.revision;
        one.completeness = one.completeness.and(other.completeness);
        one
    }
}

/// The question how many facts a range has.
struct FactsIn(Range<Minute>);

impl Question for FactsIn {
    type Part = u64;

    async fn leaf<T: CheckpointStore>(&self, slot: &Slot<T>) -> Result<u64, Unanswered> {
        let facts = |account: &MinuteAccount| {
            let flagged = VERDICTS.iter().map(|verdict| usize::from(verdict.code()));
            account.counted + flagged.map(|code| account.reasons[code]).sum::<u64>()
        };
        let range = &self.0;
        let Look { memory, stored } = look(slot, range, |engine| {
            engine.account(range.start, range.end).iter().map(|(_, account)| facts(account)).sum()
        })
        .await?;
        let memory: u64 = memory;
        let Some(stored) = stored else { return Ok(memory) };
        let saved = stored.accounts().await?;
        Ok(memory + saved.iter().map(|(_, account)| facts(account)).sum::<u64>())
    }

    fn merge(&self, one: u64, other: u64) -> u64 {
        one + other
    }
}
