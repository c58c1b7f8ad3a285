//! The machine's clock and randomness: the one file that may touch them (`clippy.toml` forbids
//! them everywhere else). Rims create these and hand them in.
#![expect(clippy::disallowed_methods, reason = "this file wraps them for everyone else")]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::BlockId;
use crate::clock::{Reading, Steady, Step};
use crate::random::Random;
use crate::time::{Clock, Timestamp};

/// The machine's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

/// The operating system's random bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    /// # Panics
    /// When the operating system has no randomness to give: nothing that we sign would be safe.
    fn fill(&mut self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the operating system gives random bytes");
    }
}

/// The machine's wall clock, compared with the time that has passed ([`Steady`]). When the wall
/// clock was set, this clock goes on evenly without it, and [`Clock::trouble`] says so.
#[derive(Debug)]
pub struct SteadyClock(Mutex<Steady>);

impl SteadyClock {
    /// Starts with what the wall clock says now.
    #[must_use]
    pub fn start() -> Self {
        Self(Mutex::new(Steady::new(reading())))
    }

    fn read(&self) -> Result<Timestamp, Step> {
        let mut steady = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Read under the lock, so that readings are taken in their order.
        steady.read(reading())
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        self.read().unwrap_or_else(|step| step.expected)
    }

    fn trouble(&self) -> Option<String> {
        match self.read() {
            Err(step) => Some(step.to_string()),
            Ok(now) if BlockId::opens_at(now) => None,
            Ok(now) => Some(format!(
                "the clock says {now}, a time of which no ids can be made: set it right, and start \
                 this process again"
            )),
        }
    }
}

fn reading() -> Reading {
    let elapsed_ms = u64::try_from(elapsed().as_millis()).unwrap_or(u64::MAX);
    Reading { wall: SystemClock.now(), elapsed_ms }
}

/// Time since the machine was started, including that in which it slept.
fn elapsed() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    // On macOS this clock goes on during sleep by its definition, elsewhere where the system can do
    // that.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    Duration::try_from(rustix::time::clock_gettime(clock)).unwrap_or_default()
}

/// Measures how long something took, including time in which the machine slept: for metrics,
/// benchmarks, progress bars, rate limits, and how long ago something was seen. Never for a
/// decision on an event: a replay must be able to repeat that.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Duration);

impl Stopwatch {
    /// Starts.
    #[must_use]
    pub fn start() -> Self {
        Self(elapsed())
    }

    /// The time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        elapsed().saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_passes_is_counted_from_the_start_of_the_machine_sleep_included() {
        // The kernel tells the same (proc(5), uptime: "including time spent in suspend").
        let Ok(uptime) = std::fs::read_to_string("/proc/uptime") else { return };
        let seconds: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!((elapsed().as_secs_f64() - seconds).abs() < 5.0, "{uptime}");
    }

    #[test]
    fn a_clock_that_nobody_sets_has_no_trouble() {
        let clock = SteadyClock::start();
        let (before, now) = (SystemClock.now(), clock.now());
        assert!(now.0.abs_diff(before.0) < 5_000);
        assert_eq!(clock.trouble(), None);
    }
}
