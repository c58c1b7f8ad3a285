//! Counts the archive again and compares it with the aggregator's counts: for the command `recount`
//! and for the job `reconcile`.
//!
//! Of one partition: [`engine`] asks for all that it has counted in the range, at one position
//! ([`asked`] says whom); [`files`] waits until the archive has everything up to there, and says
//! which files matter; [`records`] reads them; [`count`] counts and compares. Nothing of the count
//! engine's code is used.

mod asked;
mod count;
mod engine;
mod files;
mod names;
mod records;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use api::export::CutOff;
use archive::{Archive, ArchiveError};
use shared::Minute;

use crate::failure::Failure;
use crate::progress::Progress;
pub(crate) use asked::Asked;
pub(crate) use count::Difference;

/// How much a count may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Records of which something is remembered at once. Where the files have more, they are read
    /// several times.
    pub(crate) records: u64,
    /// Counts of the engine that are compared at once. Where a range has more, it is halved.
    pub(crate) facts: usize,
    /// Differences that are named; others are only counted. Conflicts likewise.
    pub(crate) named: usize,
    /// Whether it rests after each file for as long as the file took, so that half of a core stays
    /// for others.
    pub(crate) is_paced: bool,
}

impl Limits {
    /// As much as it needs.
    pub(crate) const NONE: Self =
        Self { records: u64::MAX, facts: usize::MAX, named: usize::MAX, is_paced: false };
}

/// What is counted again.
pub(crate) struct Recount<'a> {
    /// Who says what the engine has counted.
    pub(crate) asked: Asked<'a>,
    /// The archive of the engine's log.
    pub(crate) archive: &'a Archive,
    /// Which minutes; not empty.
    pub(crate) range: Range<Minute>,
    /// How long an archive that is behind is waited for.
    pub(crate) patience: Duration,
    /// How much it may take.
    pub(crate) limits: Limits,
    /// Whether a terminal shows a bar.
    pub(crate) is_shown: bool,
}

/// The result for a partition.
#[derive(Debug, Default)]
pub(crate) struct Compared {
    /// How many partitions there are.
    pub(crate) partitions: u16,
    /// Edges of which nothing counts any more.
    pub(crate) cut_off: Vec<CutOff>,
    /// How many counts were compared: names for which either side has a number.
    pub(crate) facts: u64,
    /// Events in the files that were read.
    pub(crate) events: u64,
    /// Length of these files.
    pub(crate) bytes: u64,
    /// Differences, as many as are named, in the order of their names.
    pub(crate) differences: Vec<Difference>,
    /// How many differences there are.
    pub(crate) differences_all: u64,
    /// Batches whose number came with two contents, one line each. It is a set because every
    /// partition hears of them.
    pub(crate) conflicts: BTreeSet<String>,
}

impl Recount<'_> {
    /// Compares a partition, in halves of the range where it has too many counts at once.
    ///
    /// # Errors
    /// When the API or the archive cannot be read, or a file is missing, there twice or damaged.
    pub(crate) async fn partition(&self, partition: u16) -> Result<Compared, Failure> {
        let mut all = Compared::default();
        let mut ranges = vec![self.range.clone()];
        // Ends, for a range of one minute is not halved.
        while let Some(range) = ranges.pop() {
            let most = self.limits.facts;
            let Some(counted) = engine::counted(&self.asked, partition, &range, most).await? else {
                let Some((first, second)) = halves(&range) else {
                    return Err(Failure::fatal(format!(
                        "partition {partition}: {} has more than {most} counts, which do not fit into \
                         the memory that this may take",
                        range.start.start()
                    )));
                };
                ranges.extend([second, first]);
                continue;
            };
            let one = self.part(counted, &range).await?;
            let room = self.limits.named.saturating_sub(all.differences.len());
            all.partitions = one.partitions;
            all.cut_off = one.cut_off;
            all.facts += one.facts;
            all.events += one.events;
            all.bytes += one.bytes;
            all.differences.extend(one.differences.into_iter().take(room));
            all.differences_all += one.differences_all;
            all.conflicts.extend(one.conflicts);
        }
        Ok(all)
    }

    async fn part(
        &self,
        counted: engine::Counted,
        range: &Range<Minute>,
    ) -> Result<Compared, Failure> {
        let scope = files::scope(self.archive, &self.asked, &counted, range, self.patience).await?;
        let (partition, partitions) = (counted.partition, counted.partitions);
        let bar = Progress::start(partition, partitions, scope.bytes(), self.is_shown);
        let compared = count::compare(self.archive, scope, counted, range, self.limits, &bar).await;
        bar.finish();
        compared
    }
}

/// Both halves of a range; `None` when it is one minute.
fn halves(range: &Range<Minute>) -> Option<(Range<Minute>, Range<Minute>)> {
    let middle = Minute(range.start.0.midpoint(range.end.0));
    (middle > range.start).then_some((range.start..middle, middle..range.end))
}

/// The exit code by the kind of error: a gap or an overlap in the archive is a difference, damage
/// belongs to the data.
fn archive_failure(error: &ArchiveError) -> Failure {
    match error {
        ArchiveError::Broken(why) => Failure::different(why),
        ArchiveError::Unavailable(why) => Failure::server(why),
        error => Failure::data(error),
    }
}
