//! The ads with the most events that pass a filter, without counting all ads.
//!
//! A segment knows its largest ads and how many facts each has, so no ad can have more events than
//! its facts in all segments together. Ads are counted in the order of this bound, the largest
//! first, until no other one can reach the last place (a threshold algorithm: R. Fagin, A. Lotem,
//! M. Naor, "Optimal aggregation algorithms for middleware", 2003, section 4). What is in no
//! segment yet is counted for all ads.

use std::cmp::Reverse;
use std::sync::Arc;

use eventlog::Log;
use foldhash::fast::FixedState;
use futures::future::try_join_all;
use hashbrown::HashMap;
use shared::AnyId;
use tokio::task::JoinSet;

use super::facts::{Adding, AtOf, OfFacts, Tallied, merge_all};
use super::moment::Seen;
use super::{Completeness, Unanswered};
use crate::facts::{Count, Name, Scope, Tally};
use crate::service::{Core, NotReady};
use crate::store::segments::Segment;
use crate::store::{CheckpointStore, Stores};

/// So many of a segment's largest ads are looked at first; then eight times as many, …
const SHOWN_MIN: usize = 1 << 10;
const SHOWN_MAX: usize = 1 << 16;
/// When so many ads were counted and it is not enough, all are.
const COUNTED_MAX: usize = 1 << 14;

type Counts = HashMap<AnyId, u64, FixedState>;
type View<S> = <<S as Stores>::Store as CheckpointStore>::View;

/// What a partition has of the question's range, opened.
struct Partition<S: Stores> {
    seen: Seen<View<S>>,
    segments: Vec<Arc<Segment>>,
}

/// What is known of ads before they are counted.
#[derive(Default)]
struct Bounds {
    /// By ad, its facts in the segments that show it, and how many it can have in those at most if
    /// they did not show it.
    known: HashMap<AnyId, (u64, u64), FixedState>,
    /// How many facts an ad has at most that no segment shows.
    rest: u64,
}

impl Bounds {
    fn new<'s>(segments: impl Iterator<Item = &'s Arc<Segment>>, shown: usize) -> Self {
        let mut bounds = Self::default();
        for segment in segments {
            let (largest, rest) = segment.directory.largest(shown);
            for (ad, rows) in largest {
                let (facts, rests) = bounds.known.entry(ad).or_default();
                *facts += rows;
                *rests += rest;
            }
            bounds.rest += rest;
        }
        bounds
    }

    fn of(&self, ad: AnyId) -> u64 {
        let (facts, rests) = self.known.get(&ad).copied().unwrap_or_default();
        facts + self.rest - rests
    }
}

/// The ads with the most facts that a question is about, in no order: at least `most` of them, if there
/// are as many, and all that have as many as the last. To be ranked by their names.
pub(crate) async fn leading_ads<L: Log, S: Stores>(
    core: &Arc<Core<L, S>>,
    at: &AtOf<S>,
    mut question: OfFacts<Count>,
    most: usize,
) -> Result<Tallied<Vec<(AnyId, u64)>>, Unanswered> {
    let range = question.range.clone();
    question.by = vec![Name::Ad];
    let question = question.with_limit(core.slots.len());
    let _reading = core.reading.acquire().await;
    let look = async |partition| {
        let moment = at.of(&core.slots, partition, &range).await?;
        Seen::new(&moment, &range).await
    };
    let seen = try_join_all((0..core.slots.len()).map(look)).await?;
    let mut partitions: Vec<Arc<Partition<S>>> = Vec::with_capacity(seen.len());
    let mut told: Option<(u64, Completeness)> = None;
    for seen in seen {
        let (revision, complete) = seen.told();
        told = Some(match told {
            Some((sum, all)) => (sum + revision, all.and(complete)),
            None => (revision, complete),
        });
        let segments = seen.segments(&range).await?;
        partitions.push(Arc::new(Partition { seen, segments }));
    }
    let starting = || NotReady::Starting("there are no partitions".to_owned());
    let (revision, completeness) = told.ok_or_else(starting)?;
    let newest = add(&partitions, &question, false).await?;
    let tally = match lead(&partitions, &question, &newest, most).await? {
        Some(leading) => leading,
        None => {
            question.check_cost(core).await?;
            let mut all = newest;
            for (ad, count) in add(&partitions, &question, true).await? {
                *all.entry(ad).or_default() += count;
            }
            all.into_iter().collect()
        }
    };
    Ok(Tallied { tally, revision, completeness })
}

/// The leading ads with their counts; none when too many would have to be counted one by one.
async fn lead<S: Stores>(
    partitions: &[Arc<Partition<S>>],
    question: &OfFacts<Count>,
    newest: &Counts,
    most: usize,
) -> Result<Option<Vec<(AnyId, u64)>>, Unanswered> {
    let segments = || partitions.iter().flat_map(|partition| &partition.segments);
    let mut counted: Counts = HashMap::default();
    let mut shown = SHOWN_MIN.max(2 * most);
    while shown <= SHOWN_MAX {
        let bounds = Bounds::new(segments(), shown);
        let bound = |ad: AnyId| bounds.of(ad) + newest.get(&ad).copied().unwrap_or_default();
        let mut ads: Vec<(u64, AnyId)> = bounds
            .known
            .keys()
            .chain(newest.keys().filter(|ad| !bounds.known.contains_key(*ad)))
            .filter(|ad| !ad.is_none() && !counted.contains_key(*ad))
            .map(|ad| (bound(*ad), *ad))
            .collect();
        ads.sort_unstable_by_key(|ad| Reverse(*ad));
        let mut ads = ads.into_iter().peekable();
        let mut batch = most.max(64);
        loop {
            let last = last_place(&counted, most);
            let next: Vec<AnyId> = std::iter::from_fn(|| ads.next_if(|(bound, _)| *bound >= last))
                .take(batch)
                .map(|(_, ad)| ad)
                .collect();
            if next.is_empty() {
                break;
            }
            if counted.len() + next.len() > COUNTED_MAX {
                return Ok(None);
            }
            let mut question = question.clone();
            question.scope = Scope::new(Name::Ad, next.clone());
            let found = add(partitions, &Arc::new(question), true).await?;
            for ad in next {
                let of = |counts: &Counts| counts.get(&ad).copied().unwrap_or_default();
                counted.insert(ad, of(&found) + of(newest));
            }
            batch *= 2;
        }
        let last = last_place(&counted, most);
        if bounds.rest == 0 || bounds.rest < last {
            return Ok(Some(counted.into_iter().filter(|(_, count)| *count > 0).collect()));
        }
        shown *= 8;
    }
    Ok(None)
}

/// The count of the last place, as far as ads were counted; 1 as long as there are too few.
fn last_place(counted: &Counts, most: usize) -> u64 {
    let Some(place) = most.checked_sub(1).filter(|place| *place < counted.len()) else { return 1 };
    let mut counts: Vec<u64> = counted.values().copied().collect();
    let (_, last, _) = counts.select_nth_unstable_by_key(place, |count| Reverse(*count));
    (*last).max(1)
}

/// Counts by ad in all partitions, each in a task of its own: in segments, or in what no segment
/// has.
async fn add<S: Stores>(
    partitions: &[Arc<Partition<S>>],
    question: &OfFacts<Count>,
    in_segments: bool,
) -> Result<Counts, Unanswered> {
    let question = Arc::new(question.clone());
    let mut tasks = JoinSet::new();
    for partition in partitions {
        let (partition, question) = (Arc::clone(partition), Arc::clone(&question));
        tasks.spawn(async move {
            let mut adding = Adding::new(&question.by);
            if in_segments {
                for segment in &partition.segments {
                    question.add_segment(&partition.seen, segment, &mut adding).await?;
                }
            } else {
                question.add_newest(&partition.seen, &mut adding).await?;
            }
            Ok(adding.tally)
        });
    }
    let merge = |mut one: Tally<Count>, other| {
        one.merge(other);
        one
    };
    let tally = merge_all(tasks, merge).await?;
    let groups = tally.into_iter().flat_map(Tally::into_groups);
    Ok(groups.filter_map(|(key, count)| Some((key[1].id()?, count.0))).collect())
}
