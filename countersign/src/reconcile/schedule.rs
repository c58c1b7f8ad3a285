//! When a comparison is due, and of which minutes. Pure.

use std::ops::Range;

use shared::{Minute, Timestamp};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const DAY_MINUTES: u32 = 24 * 60;
/// How many days before those of the schedule are made up for, when nothing was compared for a
/// while.
const MISSED_DAYS_MAX: u32 = 7;

/// Once a day.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Schedule {
    /// From which hour on, UTC.
    pub(super) hour: u64,
    /// So many days that have ended.
    pub(super) days: u32,
}

impl Schedule {
    /// The last time at which one was to begin; none before the first in 1970.
    fn last(self, now: Timestamp) -> Option<Timestamp> {
        let since_hour = now.0.checked_sub(self.hour * HOUR_MS)?;
        Some(Timestamp(since_hour / DAY_MS * DAY_MS + self.hour * HOUR_MS))
    }

    /// The time of the one that is to begin now. `begun` is the time of the newest that has begun:
    /// of each time there is one. What was missed while nothing ran is made up for by one.
    pub(super) fn due(self, now: Timestamp, begun: Option<Timestamp>) -> Option<Timestamp> {
        self.last(now).filter(|last| begun.is_none_or(|begun| begun < *last))
    }

    /// The time of the next: that of the one that is due, or a time to come.
    pub(super) fn next(self, now: Timestamp, begun: Option<Timestamp>) -> Timestamp {
        let after = || {
            // A clock that was set back: of the times that it sees again none is due.
            let last = self.last(now).max(begun);
            last.map_or(Timestamp(self.hour * HOUR_MS), |last| last.plus_ms(DAY_MS))
        };
        self.due(now, begun).unwrap_or_else(after)
    }

    /// The minutes of the one of this time: the days that have ended, and what lies between
    /// `until`, the minute up to which everything was compared, and these days.
    pub(super) fn range(self, time: Timestamp, until: Option<Minute>) -> Range<Minute> {
        let to = Minute(time.day().saturating_mul(DAY_MINUTES));
        let days_before = |days: u32| Minute(to.0.saturating_sub(days.saturating_mul(DAY_MINUTES)));
        let from = days_before(self.days);
        let earliest = days_before(self.days.saturating_add(MISSED_DAYS_MAX));
        let missed = until.filter(|until| *until < from).map(|until| until.max(earliest));
        missed.unwrap_or(from)..to
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const AT_THREE: Schedule = Schedule { hour: 3, days: 1 };

    fn time(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    fn minute(text: &str) -> Minute {
        time(text).minute()
    }

    #[test]
    fn it_is_due_once_a_day_from_its_hour_on() {
        let due = |now, begun: Option<&str>| AT_THREE.due(time(now), begun.map(time));
        let (second, third) = ("2026-11-02T03:00:00Z", "2026-11-03T03:00:00Z");
        // Before the hour that of the day before counts, and it has begun.
        assert_eq!(due("2026-11-03T02:59:59.999Z", Some(second)), None);
        assert_eq!(due("2026-11-03T03:00:00Z", Some(second)), Some(time(third)));
        assert_eq!(due("2026-11-03T23:59:59Z", Some(second)), Some(time(third)));
        assert_eq!(due("2026-11-03T23:59:59Z", Some(third)), None);
        assert_eq!(due("2026-11-04T02:59:59Z", Some(third)), None);
        // After a week of silence there is one, not seven.
        assert_eq!(due("2026-11-10T12:00:00Z", Some(third)), Some(time("2026-11-10T03:00:00Z")));
        assert_eq!(due("2026-11-10T12:00:00Z", Some("2026-11-10T03:00:00Z")), None);
        // The first of a deployment, and a clock that was set back.
        assert_eq!(due("2026-11-03T12:00:00Z", None), Some(time(third)));
        assert_eq!(due("2026-11-03T12:00:00Z", Some("2026-11-09T03:00:00Z")), None);
        assert_eq!(due("1970-01-01T02:00:00Z", None), None);
        let midnight = Schedule { hour: 0, days: 1 };
        assert_eq!(midnight.due(time("2026-11-03T00:00:00Z"), None), Some(time("2026-11-03")));
    }

    #[test]
    fn the_next_is_the_one_that_is_due_or_one_to_come() {
        let next = |now, begun: Option<&str>| AT_THREE.next(time(now), begun.map(time)).to_string();
        assert_eq!(next("2026-11-03T12:00:00Z", None), "2026-11-03T03:00:00Z");
        let begun = Some("2026-11-03T03:00:00Z");
        assert_eq!(next("2026-11-03T12:00:00Z", begun), "2026-11-04T03:00:00Z");
        assert_eq!(next("2026-11-04T02:00:00Z", begun), "2026-11-04T03:00:00Z");
        assert_eq!(next("2026-11-04T04:00:00Z", begun), "2026-11-04T03:00:00Z");
        assert_eq!(next("2026-11-01T04:00:00Z", begun), "2026-11-04T03:00:00Z");
    }

    #[test]
    fn its_minutes_are_days_that_have_ended_and_what_was_missed() {
        let at = time("2026-11-20T03:00:00Z");
        let range = |schedule: Schedule, until: Option<&str>| {
            let range = schedule.range(at, until.map(minute));
            (range.start.start().to_string(), range.end.start().to_string())
        };
        let to = |from: &str| (from.to_owned(), "2026-11-20T00:00:00Z".to_owned());
        assert_eq!(range(AT_THREE, None), to("2026-11-19T00:00:00Z"));
        let week = Schedule { days: 7, ..AT_THREE };
        assert_eq!(range(week, Some("2026-11-19T00:00:00Z")), to("2026-11-13T00:00:00Z"));
        assert_eq!(range(AT_THREE, Some("2026-11-20T00:00:00Z")), to("2026-11-19T00:00:00Z"));
        // The last one stopped short of its end, or days were missed; not for ever.
        assert_eq!(range(AT_THREE, Some("2026-11-18T20:17:00Z")), to("2026-11-18T20:17:00Z"));
        assert_eq!(range(AT_THREE, Some("2026-10-01T00:00:00Z")), to("2026-11-12T00:00:00Z"));
    }
}
