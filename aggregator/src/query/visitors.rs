//! The question how many different visitors the events of a thing have. Where these are many, the
//! sketches of whole periods are united, and only what is left at the ends of the range is read.

use std::ops::Range;
use std::sync::Arc;

use eventlog::Log;
use shared::Minute;

use super::Unanswered;
use super::facts::{Adding, AtOf, FactsQuestion, OfFacts, Tallied, ask_in_tasks};
use super::moment::{Moment, Seen};
use crate::facts::segment::nodes::{Cover, Node};
use crate::facts::{Sum as _, Visitors};
use crate::service::Core;
use crate::store::segments::Segment;
use crate::store::{StoreError, Stores, View};

/// The question how many different visitors the events of a scope have.
#[derive(Clone, Debug)]
pub(crate) struct OfVisitors<const MAX: usize> {
    /// Which events: all events of one kind, valid or flagged, of the question's scope.
    pub(crate) facts: OfFacts<Visitors<MAX>>,
    /// What nodes call these events. Without it all events are read.
    pub(crate) event: Option<u8>,
    /// So many events of a thing in a segment are read one by one, so that its visitors are counted
    /// exactly.
    pub(crate) read_max: u64,
}

impl<const MAX: usize> OfVisitors<MAX> {
    /// Asks all partitions.
    pub(crate) async fn ask<L: Log, T: Stores>(
        self,
        core: &Arc<Core<L, T>>,
        at: &AtOf<T>,
    ) -> Result<Tallied<Visitors<MAX>>, Unanswered> {
        self.facts.check_cost(core).await?;
        ask_in_tasks(core, at, self).await
    }

    /// Adds the visitors of a segment.
    async fn add<V: View>(
        &self,
        seen: &Seen<V>,
        segment: &Segment,
        adding: &mut Adding<Visitors<MAX>>,
        sketched: &mut Visitors<MAX>,
    ) -> Result<(), Unanswered> {
        let directory = &segment.directory;
        let many =
            self.facts.scope.as_ref().filter(|scope| directory.rows_of(scope) > self.read_max);
        let Some((scope, event)) = many.zip(self.event) else {
            return self.facts.add_segment(seen, segment, adding).await;
        };
        let (mut nodes, mut pieces) = (Vec::new(), Vec::new());
        for run in directory.runs_of(scope) {
            let Cover { nodes: whole, minutes } =
                directory.nodes.cover(run, event, &self.facts.range);
            nodes.extend(whole);
            let rows = directory.runs.span(run);
            pieces.extend(minutes.into_iter().map(|minutes| (rows.clone(), minutes)));
        }
        self.facts.add_pieces(seen, segment, &pieces, adding).await?;
        self.unite(seen, segment, &nodes, sketched).await
    }

    async fn unite<V: View>(
        &self,
        seen: &Seen<V>,
        segment: &Segment,
        nodes: &[Node],
        sketched: &mut Visitors<MAX>,
    ) -> Result<(), Unanswered> {
        for sketch in seen.files.sketches(segment, nodes).await? {
            sketched.uniques.merge_sketch(&sketch).map_err(|error| {
                StoreError::Damaged(format!("the sketches of {}: {error}", segment.row.name()))
            })?;
        }
        for node in nodes {
            sketched.events += u64::from(node.events);
            sketched.without_visitor += u64::from(node.without_visitor);
        }
        Ok(())
    }
}

impl<const MAX: usize> FactsQuestion for OfVisitors<MAX> {
    type Part = Tallied<Visitors<MAX>>;

    fn range(&self) -> &Range<Minute> {
        &self.facts.range
    }

    async fn leaf<V: View>(&self, moment: &Moment<V>) -> Result<Self::Part, Unanswered> {
        let seen = Seen::new(moment, &self.facts.range).await?;
        let mut adding = Adding::new(&[]);
        let mut all = Visitors::default();
        self.facts.add_newest(&seen, &mut adding).await?;
        for segment in seen.segments(&self.facts.range).await? {
            self.add(&seen, &segment, &mut adding, &mut all).await?;
        }
        adding.tally.into_groups().for_each(|(_, sum)| all.merge(sum));
        let (revision, completeness) = seen.told();
        Ok(Tallied { tally: all, revision, completeness })
    }

    fn merge(&self, mut one: Self::Part, other: Self::Part) -> Self::Part {
        one.tally.merge(other.tally);
        one.revision += other.revision;
        one.completeness = one.completeness.and(other.completeness);
        one
    }
}
