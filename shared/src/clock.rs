//! Which clocks may be believed. Pure: readings of clocks are arguments.
//!
//! A wall clock may be set, by hand or by NTP; the time since a machine was started only goes on.
//! [`Steady`] compares the two on a machine that has both. [`LogClock`] is the clock of a log, made
//! of the stamps in it.

use std::fmt;

use crate::limits::{CLOCK_AHEAD_MS_MAX, CLOCK_BACK_STAYS_MS, CLOCK_JUMP_MS_MAX};
use crate::time::Timestamp;

/// A wall clock may be slewed by one part in so many. No daemon slews as fast.
const SLEW: u64 = 10;

/// What a machine's two clocks say at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// The wall clock.
    pub wall: Timestamp,
    /// Time that only goes on, also while the machine sleeps. It may begin at any moment.
    pub elapsed_ms: u64,
}

impl Reading {
    /// What the wall clock would say when the elapsed time is `elapsed_ms`, if it went on evenly.
    fn after(self, elapsed_ms: u64) -> Timestamp {
        self.wall.plus_ms(elapsed_ms.saturating_sub(self.elapsed_ms))
    }
}

/// A wall clock that was set, and by more than clocks may differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What the wall clock says.
    pub wall: Timestamp,
    /// What it would say if it had gone on evenly.
    pub expected: Timestamp,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { wall, expected } = self;
        write!(f, "the clock was set: it says {wall}, and by the time that has passed it is ")?;
        write!(f, "{expected}; set it right, and this goes on by itself; ")?;
        if wall < expected {
            let minutes = CLOCK_BACK_STAYS_MS / 60_000;
            write!(f, "if it is right now, it is believed when it has stayed for {minutes} minutes")
        } else {
            write!(f, "if it is right now, start this process again")
        }
    }
}

/// Follows a wall clock as long as it goes evenly (slewed, or off by at most 60 s), and tells when
/// it was set.
///
/// Nobody knows whether the time before a step is right or that after it. A step ahead is never
/// believed, because it could make others forget what they must remember; a new process starts with
/// the new time. A step back is believed when it has stayed, since it makes nobody forget anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Steady {
    anchor: Reading,
    /// The first reading since which the wall clock is behind and goes evenly.
    behind: Option<Reading>,
}

impl Steady {
    /// Starts with a reading that is believed.
    #[must_use]
    pub const fn new(first: Reading) -> Self {
        Self { anchor: first, behind: None }
    }

    /// The wall clock's time.
    ///
    /// # Errors
    /// [`Step`], with the time to go on with.
    pub fn read(&mut self, at: Reading) -> Result<Timestamp, Step> {
        let expected = self.anchor.after(at.elapsed_ms);
        let off = at.wall.0.abs_diff(expected.0);
        if off <= CLOCK_AHEAD_MS_MAX {
            self.follow(at, expected, off);
            return Ok(at.wall);
        }
        if at.wall > expected {
            self.behind = None;
            return Err(Step { wall: at.wall, expected });
        }
        let since = *self.behind.get_or_insert(at);
        if at.wall.0.abs_diff(since.after(at.elapsed_ms).0) > CLOCK_AHEAD_MS_MAX {
            self.behind = Some(at);
        } else if at.elapsed_ms.saturating_sub(since.elapsed_ms) >= CLOCK_BACK_STAYS_MS {
            *self = Self::new(at);
            return Ok(at.wall);
        }
        Err(Step { wall: at.wall, expected })
    }

    /// Moves the anchor towards the wall clock, as far as a clock may be slewed, so that slow drift
    /// never adds up to a step.
    fn follow(&mut self, at: Reading, expected: Timestamp, off: u64) {
        self.behind = None;
        let most = at.elapsed_ms.saturating_sub(self.anchor.elapsed_ms) / SLEW;
        if most == 0 {
            return;
        }
        let by = off.min(most);
        let wall = if at.wall > expected { expected.plus_ms(by) } else { expected.minus_ms(by) };
        self.anchor = Reading { wall, elapsed_ms: at.elapsed_ms };
    }
}

/// A log's clock: the largest stamp in it, as far as stamps can be believed. All readers of the log
/// come to the same time at the same message.
///
/// A stamp that is ahead by more than [`CLOCK_JUMP_MS_MAX`] is not believed at once: either nobody
/// wrote for a while, or a collector's clock is wrong. It is believed when later stamps have gone
/// on by as much from there. A stamp that is not too far ahead shows that it was wrong. So a
/// collector whose clock is ahead moves the log's clock only if it stays ahead, and nobody else
/// writes, for ten minutes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogClock {
    /// The time; zero before the first stamp.
    pub now: Timestamp,
    /// The earliest of the stamps that are too far ahead and not believed yet.
    pub ahead: Option<Timestamp>,
}

impl LogClock {
    /// Takes the next stamp. The first stamp of a log is believed as it is.
    pub fn hear(&mut self, stamp: Timestamp) {
        if self.now == Timestamp(0) || stamp <= self.now.plus_ms(CLOCK_JUMP_MS_MAX) {
            *self = Self { now: self.now.max(stamp), ahead: None };
            return;
        }
        let began = self.ahead.map_or(stamp, |began| began.min(stamp));
        *self = if stamp >= began.plus_ms(CLOCK_JUMP_MS_MAX) {
            Self { now: stamp, ahead: None }
        } else {
            Self { ahead: Some(began), ..*self }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);
    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;

    /// A reading `ms` after the start, with the wall clock off by so much.
    fn reading(ms: u64, off: i64) -> Reading {
        Reading {
            wall: Timestamp(NOW.plus_ms(ms).0.saturating_add_signed(off)),
            elapsed_ms: 77 + ms,
        }
    }

    fn started() -> Steady {
        Steady::new(reading(0, 0))
    }

    #[test]
    fn a_clock_that_is_off_by_less_than_clocks_may_differ_is_followed() {
        let mut steady = started();
        for (ms, off) in [(1_000, 0), (2_000, 59_000), (3_000, -59_000), (4_000, 0)] {
            let at = reading(ms, off);
            assert_eq!(steady.read(at), Ok(at.wall));
        }
    }

    #[test]
    fn a_clock_that_is_slewed_for_days_is_followed() {
        let mut steady = started();
        for second in 0..200_000_u64 {
            let at = reading(second * 1_000, -i64::try_from(second * 5).unwrap());
            assert_eq!(steady.read(at), Ok(at.wall), "after {second} s");
        }
    }

    #[test]
    fn small_steps_one_after_the_other_are_a_step() {
        let mut steady = started();
        assert!(steady.read(reading(1_000, 55_000)).is_ok());
        assert!(steady.read(reading(2_000, 110_000)).is_err());
    }

    #[test]
    fn a_step_ahead_is_never_believed_and_forgotten_when_the_clock_is_right() {
        let mut steady = started();
        for ms in [1_000, HOUR, 24 * HOUR] {
            let at = reading(ms, 7_200_000);
            let step = Step { wall: at.wall, expected: NOW.plus_ms(ms) };
            assert_eq!(steady.read(at), Err(step));
            assert!(step.to_string().contains("start this process again"), "{step}");
        }
        assert_eq!(steady.read(reading(25 * HOUR, 0)), Ok(NOW.plus_ms(25 * HOUR)));
    }

    #[test]
    fn a_step_back_is_believed_when_it_has_stayed() {
        let mut steady = started();
        for minute in 1..=10 {
            let step = steady.read(reading(minute * MINUTE, -600_000)).unwrap_err();
            assert_eq!(step.expected, NOW.plus_ms(minute * MINUTE));
            assert!(step.to_string().contains("10 minutes"), "{step}");
        }
        let at = reading(11 * MINUTE, -600_000);
        assert_eq!(steady.read(at), Ok(at.wall));
        // It is the clock from now on.
        assert!(steady.read(reading(12 * MINUTE, 0)).is_err());
    }

    #[test]
    fn a_clock_that_goes_on_jumping_back_is_not_believed() {
        let mut steady = started();
        for minute in 1..=30_i64 {
            let ms = minute.unsigned_abs() * MINUTE;
            assert!(steady.read(reading(ms, -600_000 * minute)).is_err());
        }
        // The time that a machine sleeps counts, so it wakes with nothing wrong.
        assert_eq!(steady.read(reading(48 * HOUR, 0)), Ok(NOW.plus_ms(48 * HOUR)));
    }

    fn log(stamps: impl IntoIterator<Item = Timestamp>) -> LogClock {
        let mut clock = LogClock::default();
        stamps.into_iter().for_each(|stamp| clock.hear(stamp));
        clock
    }

    #[test]
    fn fifteen_seconds_of_stamps_thirty_days_ahead_move_the_logs_clock_not_at_all() {
        let wild = (0..300).map(|n| NOW.plus_ms(30 * 24 * HOUR + n * 50));
        let clock = log([NOW].into_iter().chain(wild));
        assert_eq!(clock.now, NOW);
        let right = NOW.plus_ms(15_000);
        let mut clock = clock;
        clock.hear(right);
        assert_eq!(clock, LogClock { now: right, ahead: None });
    }

    #[test]
    fn after_a_weekend_of_silence_the_logs_clock_follows_within_ten_minutes() {
        let monday = NOW.plus_ms(60 * HOUR);
        let stamps = (0..=600).map(|second| monday.plus_ms(second * 1_000));
        let clock = log([NOW].into_iter().chain(stamps));
        assert_eq!(clock.now, monday.plus_ms(600_000));
        // One message an hour is as good.
        assert_eq!(log([NOW, monday, monday.plus_ms(HOUR)]).now, monday.plus_ms(HOUR));
    }

    #[test]
    fn while_somebody_writes_the_right_time_a_wrong_one_is_never_believed() {
        let both = (0..7_200).flat_map(|n| {
            let right = NOW.plus_ms(n * 1_000);
            [right, right.plus_ms(24 * HOUR)]
        });
        let clock = log(both);
        assert_eq!(clock.now, NOW.plus_ms(7_199_000));
    }

    #[test]
    fn the_first_stamp_and_short_jumps_are_taken_as_they_are() {
        assert_eq!(log([NOW]).now, NOW);
        let next = NOW.plus_ms(CLOCK_JUMP_MS_MAX);
        assert_eq!(log([NOW, next, NOW]), LogClock { now: next, ahead: None });
    }
}
