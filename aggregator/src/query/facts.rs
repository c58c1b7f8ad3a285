//! Questions that are answered from facts.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use eventlog::Log;
use shared::Minute;
use shared::event::VERDICTS;
use tokio::task::JoinSet;

use super::moment::{At, Moment, Seen};
use super::{Completeness, Look, Question, Unanswered, ask, look};
use crate::count::MinuteAccount;
use crate::facts::segment::totals::Places;
use crate::facts::{Block, Column, Key, Name, Overlay, Runs, Scope, Select, Sum, Tally};
use crate::query::calendar::Steps;
use crate::service::{Core, NotReady, Slot};
use crate::store::segments::Segment;
use crate::store::{CheckpointStore, Stop, StoreError, Stores, View};

/// The most facts that one question may read, in all partitions.
const FACTS_MAX: u64 = 200_000_000;
/// The groups of a question may have so many bytes, in all partitions.
const GROUPS_BYTES_MAX: usize = 512 << 20;
/// A partition may make so many groups in any case.
const GROUPS_MIN: usize = 1_000;

/// Of which moment a question is, in stores of a kind.
pub(crate) type AtOf<T> = At<<<T as Stores>::Store as CheckpointStore>::View>;

/// The question what the facts of a range that pass a filter add up to, in groups.
#[derive(Clone, Debug)]
pub(crate) struct OfFacts<S> {
    pub(crate) range: Range<Minute>,
    pub(crate) select: Select,
    /// All facts that can pass are of these.
    pub(crate) scope: Option<Scope>,
    /// The columns by which they are grouped.
    pub(crate) by: Vec<Name>,
    /// The steps of time by which they are grouped; one group, when there are none.
    pub(crate) steps: Option<Arc<Steps>>,
    /// The verdicts that facts were given after they were counted.
    pub(crate) overlay: Overlay,
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
        let (by, overlay) = (Vec::new(), Overlay::default());
        let (scope, steps, groups_max) = (None, None, None);
        Self { range, select, scope, by, steps, overlay, groups_max, sum: PhantomData }
    }

    /// The same question for something else that is summed up, in at most so many groups.
    pub(crate) fn summing<O: Sum + Default>(self, groups_max: usize) -> OfFacts<O> {
        let Self { range, select, scope, by, steps, overlay, .. } = self;
        let groups_max = Some(groups_max);
        OfFacts { range, select, scope, by, steps, overlay, groups_max, sum: PhantomData }
    }

    /// Asks all partitions, when the answer does not need more facts than may be read.
    pub(crate) async fn ask<L: Log, T: Stores>(
        self,
        core: &Arc<Core<L, T>>,
        at: &AtOf<T>,
    ) -> Result<Tallied<Tally<S>>, Unanswered> {
        self.check_cost(core).await?;
        ask_in_tasks(core, at, self.with_limit(core.slots.len())).await
    }

    /// Refuses what needs more facts than may be read, as far as this is known before. What is
    /// asked of a scope reads far less than all facts of its range.
    pub(super) async fn check_cost<L: Log, T: Stores>(
        &self,
        core: &Arc<Core<L, T>>,
    ) -> Result<(), Unanswered> {
        if self.scope.is_some() {
            return Ok(());
        }
        let rows = ask(&core.slots, &FactsIn(self.range.clone())).await?;
        if rows > FACTS_MAX {
            return Err(Unanswered::TooMuch { rows, most: FACTS_MAX });
        }
        Ok(())
    }

    /// The question with the limit that each of so many partitions has.
    pub(super) fn with_limit(self, partitions: usize) -> Self {
        let most = GROUPS_BYTES_MAX / size_of::<(Key, S)>() / partitions.max(1);
        let groups_max = self.groups_max.unwrap_or(most.max(GROUPS_MIN));
        Self { groups_max: Some(groups_max), ..self }
    }

    /// Adds the rows of a block that are meant.
    fn add(&self, adding: &mut Adding<S>, block: &Block) -> Result<(), Unanswered> {
        let spans = block.spans(self.scope.as_ref());
        self.add_spans(adding, block, spans)
    }

    /// Adds those of these rows of a block that are meant.
    fn add_spans(
        &self,
        adding: &mut Adding<S>,
        block: &Block,
        spans: Vec<Range<usize>>,
    ) -> Result<(), Unanswered> {
        let tally = &mut adding.tally;
        let block = &*self.overlay.judge(block);
        for span in spans {
            adding.rows += span.len() as u64;
            let mask = self.select.rows(block, span);
            match &self.steps {
                None => tally.add(block, &mask),
                Some(steps) => tally.add_with(block, &mask, None, |minute| place(steps, minute)),
            }
        }
        self.check_limits(adding)
    }

    /// Adds those of the totals of a run that are meant.
    fn add_totals(
        &self,
        adding: &mut Adding<S>,
        block: &Block,
        facts: &Column,
    ) -> Result<(), Unanswered> {
        let rows = block.within(0..block.rows(), &self.range);
        adding.rows += rows.len() as u64;
        let block = &*self.overlay.judge(block);
        let mask = self.select.rows(block, rows);
        adding.tally.add_with(block, &mask, Some(facts), |minute| match &self.steps {
            None => Some(0),
            Some(steps) => place(steps, minute),
        });
        self.check_limits(adding)
    }

    fn check_limits(&self, adding: &Adding<S>) -> Result<(), Unanswered> {
        let groups_max = self.groups_max.unwrap_or(GROUPS_MIN);
        if adding.tally.len() > groups_max {
            return Err(Unanswered::TooManyGroups(groups_max));
        }
        if adding.rows > FACTS_MAX {
            return Err(Unanswered::TooMuch { rows: adding.rows, most: FACTS_MAX });
        }
        Ok(())
    }

    /// Adds the facts that no segment has.
    pub(super) async fn add_newest<V: View>(
        &self,
        seen: &Seen<V>,
        adding: &mut Adding<S>,
    ) -> Result<(), Unanswered> {
        for part in &seen.parts {
            self.add(adding, part.block())?;
        }
        for (hour, sequence) in &seen.blocks {
            let key = (seen.partition, *hour, *sequence);
            let block = seen.files.loose(key, || seen.stored.block(*hour, *sequence)).await?;
            self.add(adding, &block)?;
            // Other tasks get their turn, and nothing goes on when nobody waits any more.
            tokio::task::yield_now().await;
        }
        let mut failed = None;
        let add = |block: &Block| {
            self.add(adding, block).map_err(|error| {
                failed = Some(error);
                Stop::Enough
            })
        };
        seen.stored.moving_facts(add)?;
        failed.map_or(Ok(()), Err)
    }

    /// Adds the facts of a segment.
    pub(super) async fn add_segment<V: View>(
        &self,
        seen: &Seen<V>,
        segment: &Segment,
        adding: &mut Adding<S>,
    ) -> Result<(), Unanswered> {
        let directory = &segment.directory;
        if let Some(scope) = &self.scope {
            let mut names = Tally::<S>::names(&self.by);
            self.select.names(&mut |name| names.push(name));
            self.overlay.names(&mut |name| names.push(name));
            names.retain(|name| !Runs::has(*name));
            let has_totals = Places::have(&names);
            let (mut places, mut pieces) = (Vec::new(), Vec::new());
            for run in directory.runs_of(scope) {
                match directory.totals.find(run).filter(|_| has_totals) {
                    Some(place) => places.push(place),
                    None => pieces.push((directory.runs.span(run), self.range.clone())),
                }
            }
            for (run, totals) in seen.files.totals(segment, &places).await? {
                self.add_totals(adding, &directory.totals(run, &totals), &totals.facts)?;
            }
            return self.add_pieces(seen, segment, &pieces, adding).await;
        }
        let reading = self.reading(segment, false);
        for group in 0..directory.groups() {
            let block = reading.block(seen, segment, group).await?;
            self.add(adding, &block)?;
            // Other tasks get their turn, and nothing goes on when nobody waits any more.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Adds the facts of rows and minutes of a segment; the rows of each piece are of one run, and
    /// pieces are in the order of their rows.
    pub(super) async fn add_pieces<V: View>(
        &self,
        seen: &Seen<V>,
        segment: &Segment,
        pieces: &[(Range<usize>, Range<Minute>)],
        adding: &mut Adding<S>,
    ) -> Result<(), Unanswered> {
        let is_narrower = pieces.iter().any(|(_, minutes)| *minutes != self.range);
        let reading = self.reading(segment, is_narrower);
        for group in 0..segment.directory.groups() {
            let rows = segment.directory.group(group);
            let first = pieces.partition_point(|(own, _)| own.end <= rows.start);
            let last = pieces.partition_point(|(own, _)| own.start < rows.end);
            let Some(pieces) = pieces.get(first..last).filter(|pieces| !pieces.is_empty()) else {
                continue;
            };
            let block = reading.block(seen, segment, group).await?;
            let span = |(own, minutes): &(Range<usize>, Range<Minute>)| {
                let (from, to) = (own.start.max(rows.start), own.end.min(rows.end));
                block.within(from - rows.start..to - rows.start, minutes)
            };
            let spans = pieces.iter().map(span).filter(|span| !span.is_empty()).collect();
            self.add_spans(adding, &block, spans)?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// What is read of a segment. `minutes`: which minute a row is of makes a difference, even when
    /// the question is about all of them.
    fn reading(&self, segment: &Segment, minutes: bool) -> Reading {
        let mut names = Tally::<S>::names(&self.by);
        self.select.names(&mut |name| names.push(name));
        self.overlay.names(&mut |name| names.push(name));
        let own = &segment.directory.minutes;
        let is_whole = self.range.start <= own.start && own.end <= self.range.end;
        let is_judged = !self.overlay.is_empty();
        let is_told =
            minutes || is_judged || self.steps.is_some() || self.by.contains(&Name::Minute);
        let minute = (is_whole && !is_told).then_some(u64::from(own.start.0));
        names.push(Name::Minute);
        names.retain(|name| !Runs::has(*name) && (*name != Name::Minute || minute.is_none()));
        names.sort_unstable();
        names.dedup();
        let by_run = self.steps.is_none() && self.by.iter().all(|name| Runs::has(*name));
        let expand = self.by.iter().copied().filter(|name| Runs::has(*name) && !by_run).collect();
        Reading { names, expand, minute }
    }
}

/// The place of a minute among steps.
fn place(steps: &Steps, minute: u64) -> Option<u64> {
    let minute = u32::try_from(minute).ok().map(Minute)?;
    Some(steps.at(minute) as u64)
}

/// What is read of a segment.
struct Reading {
    names: Vec<Name>,
    /// Columns that are made of its runs.
    expand: Vec<Name>,
    /// A minute that stands for those of all its rows: which they are makes no difference.
    minute: Option<u64>,
}

impl Reading {
    /// A row group.
    async fn block<V: View>(
        &self,
        seen: &Seen<V>,
        segment: &Segment,
        group: usize,
    ) -> Result<Block, StoreError> {
        let mut columns = seen.files.columns(segment, group, &self.names).await?;
        columns.extend(self.minute.map(|minute| (Name::Minute, Column::constant(minute))));
        Ok(segment.directory.block(group, columns, &self.expand))
    }
}

/// What was added up so far.
pub(super) struct Adding<S> {
    pub(super) tally: Tally<S>,
    /// How many facts were looked at.
    rows: u64,
}

impl<S: Sum + Default> Adding<S> {
    pub(super) fn new(by: &[Name]) -> Self {
        Self { tally: Tally::new(by.to_vec()), rows: 0 }
    }
}

/// A question that is answered from facts, partition by partition.
pub(super) trait FactsQuestion: Send + Sync + 'static {
    /// The answer of one partition, or of several together.
    type Part: Send + 'static;

    fn range(&self) -> &Range<Minute>;

    /// The answer of one partition.
    fn leaf<V: View>(
        &self,
        moment: &Moment<V>,
    ) -> impl Future<Output = Result<Self::Part, Unanswered>> + Send;

    /// The answer of both together. In whatever order parts are merged, the result is the same.
    fn merge(&self, one: Self::Part, other: Self::Part) -> Self::Part;
}

/// Asks all partitions what reads facts. Each is read in a task of its own, so that all cores work;
/// the tasks end when nobody waits for the answer any more.
pub(super) async fn ask_in_tasks<Q: FactsQuestion, L: Log, T: Stores>(
    core: &Arc<Core<L, T>>,
    at: &AtOf<T>,
    question: Q,
) -> Result<Q::Part, Unanswered> {
    // The semaphore is never closed. If it were, all questions would read at once, which does no
    // harm.
    let _reading = core.reading.acquire().await;
    let question = Arc::new(question);
    let mut tasks = JoinSet::new();
    for partition in 0..core.slots.len() {
        let (core, at, question) = (Arc::clone(core), at.clone(), Arc::clone(&question));
        tasks.spawn(async move {
            let moment = at.of(&core.slots, partition, question.range()).await?;
            question.leaf(&moment).await
        });
    }
    let all = merge_all(tasks, |one, other| question.merge(one, other)).await?;
    all.ok_or_else(|| NotReady::Starting("there are no partitions".to_owned()).into())
}

/// Waits for all tasks, and merges what they return.
pub(super) async fn merge_all<T: Send + 'static>(
    mut tasks: JoinSet<Result<T, Unanswered>>,
    merge: impl Fn(T, T) -> T,
) -> Result<Option<T>, Unanswered> {
    let mut all = None;
    while let Some(part) = tasks.join_next().await {
        let part = part.map_err(|error| StoreError::Unavailable(error.to_string()))??;
        all = Some(match all {
            Some(one) => merge(one, part),
            None => part,
        });
    }
    Ok(all)
}

impl<S: Sum + Default + 'static> FactsQuestion for OfFacts<S> {
    type Part = Tallied<Tally<S>>;

    fn range(&self) -> &Range<Minute> {
        &self.range
    }

    async fn leaf<V: View>(&self, moment: &Moment<V>) -> Result<Self::Part, Unanswered> {
        let seen = Seen::new(moment, &self.range).await?;
        let mut adding = Adding::new(&self.by);
        self.add_newest(&seen, &mut adding).await?;
        for segment in seen.segments(&self.range).await? {
            self.add_segment(&seen, &segment, &mut adding).await?;
        }
        let (revision, completeness) = seen.told();
        Ok(Tallied { tally: adding.tally, revision, completeness })
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
