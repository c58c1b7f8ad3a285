//! Which facts become a segment next.
//!
//! Blocks of an hour become a segment when they are large, or when their hour is over. Segments of
//! an hour become one when they are many; those of a day, when it is over, and those of a month,
//! become one as long as it is not too large. A segment to which little was added since stays as it
//! is, so that a fact is written anew a few times at most.

use shared::Minute;

use super::facts::FactsIndex;
use super::segments::{Level, SegmentRow};

/// So many facts at most become a segment at once, which bounds the memory for it.
const SEALED_FACTS_MAX: u64 = 4 << 20;
/// At most so many at once: each has a row group in memory.
const MERGED_MAX: usize = 62;
/// A segment gets no more facts than this by merging.
const MERGED_FACTS_MAX: u64 = 64 << 20;

/// When facts become segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Blocks with so many facts become a segment before their hour is over.
    pub sealed_facts_min: u64,
    /// So long after its end most facts of a period have come.
    pub settled_minutes: u32,
    /// So many segments become one.
    pub merged_min: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self { sealed_facts_min: 1 << 20, settled_minutes: 15, merged_min: 8 }
    }
}

impl Plan {
    fn is_over(&self, end: Minute, clock: Minute) -> bool {
        end.0.saturating_add(self.settled_minutes) <= clock.0
    }
}

/// What becomes a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Job {
    /// Blocks of an hour: their sequences, in order.
    Seal {
        /// The hour since 1970.
        hour: u32,
        /// The sequences of the blocks.
        sequences: Vec<u64>,
    },
    /// Segments.
    Merge {
        /// How long the new one's period is.
        level: Level,
        /// Its first minute.
        start: Minute,
        /// Those that become one.
        segments: Vec<SegmentRow>,
    },
}

impl FactsIndex {
    /// The next blocks that are to become a segment. `all`: also those of hours that are over by
    /// this clock, however few facts they have.
    pub fn next_seal(&self, plan: &Plan, clock: Minute, all: bool) -> Option<Job> {
        let is_due = |hour: u32, facts: u64| {
            let end = Minute(hour.saturating_add(1).saturating_mul(60));
            facts >= plan.sealed_facts_min || (all && plan.is_over(end, clock))
        };
        let facts = |blocks: &[(u64, u64)]| blocks.iter().map(|(_, facts)| facts).sum::<u64>();
        let due = self
            .blocks
            .iter()
            .find(|(hour, blocks)| !blocks.is_empty() && is_due(**hour, facts(blocks)));
        let (hour, blocks) = due?;
        let mut left = SEALED_FACTS_MAX;
        let fitting = blocks.iter().enumerate().take_while(|(at, (_, facts))| {
            let fits = *at == 0 || *facts <= left;
            left = left.saturating_sub(*facts);
            fits
        });
        let sequences = fitting.map(|(_, (sequence, _))| *sequence).collect();
        Some(Job::Seal { hour: *hour, sequences })
    }

    /// The next segments that are to become one.
    pub fn next_merge(&self, plan: &Plan, clock: Minute) -> Option<Job> {
        [Level::Hour, Level::Day, Level::Month].into_iter().find_map(|level| {
            let mut shorter: Vec<&SegmentRow> =
                self.segments.iter().filter(|segment| segment.level <= level).collect();
            shorter.sort_by_key(|segment| (level.period(segment.start).start, segment.rows));
            let mut periods = shorter.chunk_by(|one, other| {
                level.period(one.start).start == level.period(other.start).start
            });
            periods.find_map(|period| merge(plan, level, period, clock))
        })
    }

    /// Notes that a job is being done.
    pub fn begin(&mut self, job: &Job) {
        if let Job::Seal { hour, sequences } = job {
            self.sealing = sequences.last().map(|last| (*hour, *last));
        }
    }

    /// Notes that a job was not done.
    pub fn give_up(&mut self) {
        self.sealing = None;
    }
}

/// What of a period's segments, the smallest first, is to become one.
fn merge(plan: &Plan, level: Level, period: &[&SegmentRow], clock: Minute) -> Option<Job> {
    let start = level.period(period.first()?.start).start;
    let rows = |segments: &[&SegmentRow]| segments.iter().map(|segment| segment.rows).sum::<u64>();
    let mut all = period.get(..period.len().min(MERGED_MAX))?;
    while rows(all) > MERGED_FACTS_MAX
        && let Some((_, others)) = all.split_last()
    {
        all = others;
    }
    // Those of about one size: a large one to which little would be added stays as it is.
    let mut alike = all;
    while let Some((largest, others)) = alike.split_last()
        && largest.rows > rows(others)
    {
        alike = others;
    }
    let added: Vec<_> = all.iter().filter(|segment| segment.level < level).copied().collect();
    let is_first = period.iter().all(|segment| segment.level < level);
    let is_much = !added.is_empty() && rows(&added) >= rows(all) / 4;
    let is_over = plan.is_over(level.period(start).end, clock);
    let chosen = match level {
        Level::Day | Level::Month if !is_over => return None,
        Level::Day | Level::Month if all.len() >= 2 && (is_first || is_much) => all,
        _ if alike.len() >= plan.merged_min => alike,
        _ => return None,
    };
    let segments = chosen.iter().map(|segment| (*segment).clone()).collect();
    Some(Job::Merge { level, start, segments })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::store::rows::Swap;

    const SETTLED_MINUTES: u32 = 15;

    /// The beginning of a day in 2026.
    const DAY: u32 = 29_663_000 / 1_440 * 1_440;

    fn segment(level: Level, start: u32, id: u64, rows: u64) -> SegmentRow {
        SegmentRow { partition: 0, level, start: Minute(start), id, rows, bytes: 1 }
    }

    /// Does all merges, and says how many facts were written anew.
    fn settle(index: &mut FactsIndex, clock: Minute) -> u64 {
        let mut written = 0;
        while let Some(Job::Merge { level, start, segments }) =
            index.next_merge(&Plan::default(), clock)
        {
            assert!(segments.len() >= 2);
            let rows = segments.iter().map(|segment| segment.rows).sum();
            let period = level.period(start);
            assert!(segments.iter().all(|one| period.contains(&one.start)));
            written += rows;
            let made = segment(level, start.0, 1 << 40 | written, rows);
            drop(index.swap(Swap { blocks: None, segments, made }));
        }
        written
    }

    #[test]
    fn a_year_of_hours_becomes_months_and_a_fact_is_written_few_times() {
        let mut index = FactsIndex::default();
        let (mut facts, mut written) = (0, 0);
        let first = Level::Month.period(Minute(DAY)).start.0;
        for hour in 0..366 * 24 {
            let start = first + 60 * hour;
            let rows = 1_000 + u64::from(hour) * 37 % 5_000;
            facts += rows;
            drop(index.swap(Swap {
                blocks: None,
                segments: Vec::new(),
                made: segment(Level::Hour, start, hour.into(), rows),
            }));
            written += settle(&mut index, Minute(start + 60 + SETTLED_MINUTES));
        }
        assert_eq!(index.segments().iter().map(|one| one.rows).sum::<u64>(), facts);
        assert!(written <= 2 * facts, "{written} of {facts}");
        assert!(index.segments().len() < 12 + 31 + 24, "{}", index.segments().len());
    }

    #[test]
    fn what_comes_late_does_not_write_a_large_segment_anew_each_time() {
        let mut index = FactsIndex::default();
        let (large, mut written) = (10_000_000, 0);
        let swap = |made| Swap { blocks: None, segments: Vec::new(), made };
        drop(index.swap(swap(segment(Level::Day, DAY, 0, large))));
        for hour in 1..100 {
            drop(index.swap(swap(segment(Level::Hour, DAY, hour, 1_000))));
            written += settle(&mut index, Minute(DAY + 1_440 + 60 * u32::try_from(hour).unwrap()));
        }
        assert!(written < 2 * large, "{written}");
        assert!(index.segments().len() <= 2 * Plan::default().merged_min);
    }

    #[test]
    fn segments_that_are_large_together_stay() {
        let mut index = FactsIndex::default();
        for hour in 0..24 {
            let made = segment(Level::Hour, DAY + 60 * hour, hour.into(), MERGED_FACTS_MAX / 2 + 1);
            drop(index.swap(Swap { blocks: None, segments: Vec::new(), made }));
        }
        assert_eq!(settle(&mut index, Minute(DAY + 100_000)), 0);
        assert_eq!(index.segments().len(), 24);
    }

    #[test]
    fn blocks_become_a_segment_when_they_are_large_or_their_hour_is_over() {
        let mut index = FactsIndex::default();
        let hour = DAY / 60;
        index.blocks.insert(hour, vec![(3, 10), (5, 20)]);
        let over = Minute(DAY + 60 + SETTLED_MINUTES);
        assert_eq!(index.next_seal(&Plan::default(), over, false), None);
        assert_eq!(index.next_seal(&Plan::default(), Minute(over.0 - 1), true), None);
        let job = Job::Seal { hour, sequences: vec![3, 5] };
        assert_eq!(index.next_seal(&Plan::default(), over, true), Some(job));
        index.blocks.insert(hour, vec![(3, SEALED_FACTS_MAX), (5, 20)]);
        let job = Job::Seal { hour, sequences: vec![3] };
        assert_eq!(index.next_seal(&Plan::default(), Minute(DAY), false), Some(job.clone()));
        index.begin(&job);
        let made = segment(Level::Hour, DAY, 7, SEALED_FACTS_MAX);
        let blocks = Some((hour, vec![3]));
        drop(index.swap(Swap { blocks, segments: Vec::new(), made }));
        assert_eq!(index.blocks[&hour], [(5, 20)]);
    }

    #[test]
    fn a_month_is_a_month_of_the_calendar() {
        let minute = |day: u32| Minute(day * 1_440 + 7);
        // 2024-02-10; 2024 has a 29th of February.
        let february = Level::Month.period(minute(19_763));
        assert_eq!(february.start.start().to_string(), "2024-02-01T00:00:00Z");
        assert_eq!(february.end.start().to_string(), "2024-03-01T00:00:00Z");
        let last = Level::Month.period(Minute(u32::MAX));
        assert!(last.contains(&Minute(u32::MAX)) || last.end == Minute(u32::MAX));
    }
}
