//! One comparison, as it is kept: what is told of it, and what it needs to go on after a restart.
//! Pure.

use std::collections::BTreeSet;
use std::ops::Range;

use api::reconciliations::{AskedBy, Different, Reconciliation, State};
use serde::{Deserialize, Serialize};
use shared::{Minute, Timestamp};

use crate::failure::{self, Failure};
use crate::recount::Compared;

/// Differences, and conflicts, that are named.
pub(super) const NAMED_MAX: usize = 100;
/// Errors that are named; further ones are of the same kind.
const ERRORS_MAX: usize = 16;
/// How often a partition is tried before the comparison is given up: the archive or the process was
/// away each time.
pub(super) const TRIES_MAX: u32 = 5;

/// A comparison.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    /// What is told of it.
    pub(super) told: Reconciliation,
    /// The first minute, and the one behind the last.
    minutes: (Minute, Minute),
    /// The time of the schedule that it was begun for.
    pub(super) slot: Option<Timestamp>,
    /// How often the next partition was begun.
    pub(super) tries: u32,
    took_ms: u64,
    /// Whether the archive has a gap, or a message twice.
    is_broken: bool,
    /// Why it was not done the last time.
    last_error: String,
    /// Whether it was begun by this process, and need not wait until that has settled.
    #[serde(skip)]
    pub(super) is_ours: bool,
}

/// Whether a comparison goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    /// With the next partition.
    On,
    /// Later, with the same.
    Later,
    /// It has ended.
    Ended,
}

impl Run {
    /// One that begins now.
    pub(super) fn new(
        id: u64,
        range: &Range<Minute>,
        slot: Option<Timestamp>,
        partitions: u16,
        now: Timestamp,
    ) -> Self {
        Self {
            told: Reconciliation {
                id,
                asked_by: if slot.is_some() { AskedBy::Schedule } else { AskedBy::Operator },
                state: State::Running,
                agrees: None,
                from: range.start.start().to_string(),
                to: range.end.start().to_string(),
                started_at: now.to_string(),
                ended_at: None,
                seconds: 0.0,
                partitions,
                partitions_done: 0,
                cells: 0,
                events: 0,
                bytes: 0,
                differences: 0,
                different: Vec::new(),
                conflicts: Vec::new(),
                errors: Vec::new(),
            },
            minutes: (range.start, range.end),
            slot,
            tries: 0,
            took_ms: 0,
            is_broken: false,
            last_error: String::new(),
            is_ours: true,
        }
    }

    pub(super) fn range(&self) -> Range<Minute> {
        self.minutes.0..self.minutes.1
    }

    /// Why the partition that was begun last was not done.
    pub(super) fn last_error(&self) -> &str {
        &self.last_error
    }

    /// Whether it has not ended.
    pub(super) fn is_open(&self) -> bool {
        self.told.state == State::Running
    }

    /// The minute up to which it has compared everything.
    pub(super) fn compared_until(&self) -> Option<Minute> {
        let is_done = matches!(self.told.state, State::Agrees | State::Differs);
        is_done.then_some(self.minutes.1)
    }

    /// Begins the next partition. When that was done too often, it ends.
    pub(super) fn begin(&mut self, now: Timestamp) -> Then {
        let why = match self.last_error.as_str() {
            _ if self.tries < TRIES_MAX => {
                self.tries += 1;
                return Then::On;
            }
            "" => "the process ended while it was compared",
            why => why,
        };
        let why = format!("{why}; given up after {TRIES_MAX} tries");
        self.fail(&why);
        self.end(now);
        Then::Ended
    }

    /// Takes the result for a partition that was begun, which took so long.
    pub(super) fn take(
        &mut self,
        result: Result<Compared, Failure>,
        took_ms: u64,
        now: Timestamp,
    ) -> Then {
        self.took_ms += took_ms;
        self.told.seconds = std::time::Duration::from_millis(self.took_ms).as_secs_f64();
        match result {
            Ok(compared) => self.add(compared),
            // May pass.
            Err(failure) if failure.code == failure::SERVER => {
                self.last_error = failure.message;
                return Then::Later;
            }
            Err(failure) => {
                self.is_broken |= failure.code == failure::DIFFERENT;
                self.fail(&failure.message);
            }
        }
        self.last_error.clear();
        self.tries = 0;
        self.told.partitions_done += 1;
        if self.told.partitions_done < self.told.partitions {
            return Then::On;
        }
        self.end(now);
        Then::Ended
    }

    fn add(&mut self, compared: Compared) {
        let told = &mut self.told;
        let partition = told.partitions_done;
        told.cells += compared.facts;
        told.events += compared.events;
        told.bytes += compared.bytes;
        told.differences += compared.differences_all;
        let room = NAMED_MAX.saturating_sub(told.different.len());
        let named = compared.differences.into_iter().take(room);
        told.different.extend(named.map(|difference| Different {
            partition,
            minute: difference.minute.start().to_string(),
            cell: difference.cell.into_iter().map(|(name, of)| (name.to_owned(), of)).collect(),
            what: difference.what,
            engine: difference.engine,
            archive: difference.archive,
        }));
        // Every partition hears of every batch.
        let known: BTreeSet<&String> = told.conflicts.iter().collect();
        let new = compared.conflicts.into_iter().filter(|conflict| !known.contains(conflict));
        let room = NAMED_MAX.saturating_sub(told.conflicts.len());
        let new: Vec<_> = new.take(room).collect();
        told.conflicts.extend(new);
    }

    fn fail(&mut self, why: &str) {
        if self.told.errors.len() < ERRORS_MAX {
            let partition = self.told.partitions_done;
            self.told.errors.push(format!("partition {partition}: {why}"));
        }
    }

    fn end(&mut self, now: Timestamp) {
        let told = &mut self.told;
        let differs = self.is_broken || told.differences > 0 || !told.conflicts.is_empty();
        (told.state, told.agrees) = match told.errors.is_empty() {
            _ if differs => (State::Differs, Some(false)),
            false => (State::Failed, None),
            true => (State::Agrees, Some(true)),
        };
        told.ended_at = Some(now.to_string());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::recount::Difference;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn run(partitions: u16) -> Run {
        Run::new(1, &(Minute(60)..Minute(120)), Some(NOW), partitions, NOW)
    }

    fn compared(differences: usize) -> Result<Compared, Failure> {
        let difference = Difference {
            minute: Minute(61),
            cell: vec![("ad", "a".to_owned())],
            what: "valid".to_owned(),
            engine: 2,
            archive: 1,
        };
        Ok(Compared {
            facts: 10,
            events: 5,
            bytes: 7,
            differences: vec![difference; differences],
            differences_all: differences as u64,
            ..Compared::default()
        })
    }

    #[test]
    fn partitions_add_up_and_the_last_one_ends_it() {
        let mut run = run(2);
        assert_eq!(run.begin(NOW), Then::On);
        assert_eq!(run.take(compared(0), 1_500, NOW), Then::On);
        assert!(run.is_open() && run.compared_until().is_none());
        // A restart: what is kept goes on with the next.
        let kept = serde_json::to_vec(&run).unwrap();
        let mut run = Run { is_ours: true, ..serde_json::from_slice(&kept).unwrap() };
        assert_eq!(run.begin(NOW), Then::On);
        assert_eq!(run.take(compared(0), 500, NOW), Then::Ended);
        let told = &run.told;
        assert_eq!((told.state, told.agrees), (State::Agrees, Some(true)));
        assert_eq!((told.cells, told.events, told.bytes), (20, 10, 14));
        assert_eq!((told.partitions_done, told.seconds), (2, 2.0));
        assert_eq!(run.compared_until(), Some(Minute(120)));
    }

    #[test]
    fn a_difference_names_its_cell_and_so_many_are_named() {
        let mut run = run(2);
        run.take(compared(1), 1, NOW);
        assert_eq!(run.take(compared(2 * NAMED_MAX), 1, NOW), Then::Ended);
        let told = &run.told;
        assert_eq!((told.state, told.agrees), (State::Differs, Some(false)));
        assert_eq!((told.differences, told.different.len()), (201, NAMED_MAX));
        let first = &told.different[0];
        assert_eq!((first.partition, &*first.minute), (0, "1970-01-01T01:01:00Z"));
        assert_eq!((first.cell["ad"].as_str(), first.engine, first.archive), ("a", 2, 1));
        assert_eq!(told.different[1].partition, 1);
    }

    #[test]
    fn damage_fails_it_and_a_gap_is_a_difference_and_the_others_are_compared() {
        let mut damaged = run(2);
        assert_eq!(damaged.take(Err(Failure::data("x.parquet: damaged")), 1, NOW), Then::On);
        assert_eq!(damaged.take(compared(0), 1, NOW), Then::Ended);
        assert_eq!((damaged.told.state, damaged.told.agrees), (State::Failed, None));
        assert_eq!(damaged.told.errors, ["partition 0: x.parquet: damaged"]);
        assert_eq!(damaged.compared_until(), None);
        let mut gap = run(1);
        assert_eq!(gap.take(Err(Failure::different("in no file")), 1, NOW), Then::Ended);
        assert_eq!((gap.told.state, gap.told.agrees), (State::Differs, Some(false)));
    }

    #[test]
    fn what_may_pass_is_tried_again_and_given_up_in_the_end() {
        let mut away = run(3);
        for _ in 0..TRIES_MAX {
            assert_eq!(away.begin(NOW), Then::On);
            assert_eq!(away.take(Err(Failure::server("away")), 1, NOW), Then::Later);
        }
        assert_eq!(away.begin(NOW), Then::Ended);
        assert_eq!(away.told.state, State::Failed);
        let said = &away.told.errors[0];
        assert!(said.contains("partition 0: away; given up after 5 tries"), "{said}");
        // A partition at which the process ended each time; one that was done begins anew.
        let mut killed = run(2);
        killed.begin(NOW);
        killed.take(compared(0), 1, NOW);
        for _ in 0..TRIES_MAX {
            assert_eq!(killed.begin(NOW), Then::On);
        }
        assert_eq!(killed.begin(NOW), Then::Ended);
        assert!(killed.told.errors[0].contains("partition 1: the process ended"));
    }
}
