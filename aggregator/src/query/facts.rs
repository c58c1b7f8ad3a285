//! Questions that are answered from facts.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use eventlog::Log;
use shared::event::VERDICTS;
use shared::{AnyId, Minute};
use tokio::task::JoinSet;

use super::{Completeness, Look, Question, Unanswered, ask, look, stored};
use crate::count::MinuteAccount;
use crate::facts::{Key, Name, Select, Sum, Tally};
use crate::query::calendar::Steps;
use crate::service::{Core, NotReady, Slot};
use crate::store::{CheckpointStore, Stop, StoreError, Stores};

/// The most facts that one question may read, in all partitions.
const FACTS_MAX: u64 = 200_000_000;
/// The groups of a question may have so many bytes, in all partitions.
const GROUPS_BYTES_MAX: usize = 512 << 20;
/// A partition may make so many groups in any case.
const GROUPS_MIN: usize = 1_000;

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
    /// The most groups that a partition may make, if the question has a limit of its own.
    groups_max: Option<usize>,
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

impl<S: Sum + Default + 'static> OfFacts<S> {
    /// One sum of all.
    pub(crate) fn new(range: Range<Minute>, select: Select) -> Self {
        let by = Vec::new();
        Self { range, select, ad: None, by, steps: None, groups_max: None, sum: PhantomData }
    }

    /// The same question for something else that is summed up, in at most so many groups.
    pub(crate) fn summing<O: Sum + Default>(self, groups_max: usize) -> OfFacts<O> {
        let Self { range, select, ad, by, steps, .. } = self;
        let groups_max = Some(groups_max);
        OfFacts { range, select, ad, by, steps, groups_max, sum: PhantomData }
    }

    /// Asks all partitions, when the answer does not need more facts than may be read. Each
    /// partition is read in a task of its own, so that all cores work; the tasks end when nobody
    /// waits for the answer any more.
    pub(crate) async fn ask<L: Log, T: Stores>(
        self,
        core: &Arc<Core<L, T>>,
    ) -> Result<Tallied<Tally<S>>, Unanswered> {
        let rows = ask(&core.slots, &FactsIn(self.range.clone())).await?;
        if rows > FACTS_MAX {
            return Err(Unanswered::TooMuch { rows, most: FACTS_MAX });
        }
        // The semaphore is never closed. If it were, all questions would read at once, which does
        // no harm.
        let _reading = core.reading.acquire().await;
        let partitions = core.slots.len().max(1);
        let most = GROUPS_BYTES_MAX / size_of::<(Key, S)>() / partitions;
        let groups_max = self.groups_max.unwrap_or(most.max(GROUPS_MIN));
        let question = Arc::new(Self { groups_max: Some(groups_max), ..self });
        let mut tasks = JoinSet::new();
        for partition in 0..core.slots.len() {
            let (core, question) = (Arc::clone(core), Arc::clone(&question));
            tasks.spawn(async move { question.leaf(&core.slots[partition]).await });
        }
        let mut all: Option<Tallied<Tally<S>>> = None;
        while let Some(part) = tasks.join_next().await {
            let part = part.map_err(|error| StoreError::Unavailable(error.to_string()))??;
            all = Some(match all {
                Some(one) => question.merge(one, part),
                None => part,
            });
        }
        all.ok_or_else(|| NotReady::Starting("there are no partitions".to_owned()).into())
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

impl<S: Sum + Default + 'static> Question for OfFacts<S> {
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
        let groups_max = self.groups_max.unwrap_or(GROUPS_MIN);
        let mut add = |block: &crate::facts::Block| {
            self.add(&mut tally, block);
            if tally.len() > groups_max { Err(Stop::Enough) } else { Ok(()) }
        };
        for part in parts {
            if add(part.block()).is_err() {
                break;
            }
        }
        stored.facts(&mut add).await?;
        if tally.len() > groups_max {
            return Err(Unanswered::TooManyGroups(groups_max));
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
