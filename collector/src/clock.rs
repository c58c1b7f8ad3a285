//! Whether a collector's time agrees with the log's. Nobody knows whose is wrong when they do not, so
//! then nothing is taken, and whoever sends keeps what it has.
//!
//! Its own clock is held against the time that passes by whoever made it ([`Clock::trouble`]). Here it
//! is held against the newest stamp in the log, which is another collector's or that of the process
//! before: when it starts, and from then on where others may write too.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use eventlog::{Log, LogError};
use parking_lot::Mutex;
use shared::limits::{CLOCK_AHEAD_MS_MAX, CLOCK_START_AHEAD_MS_MAX};
use shared::wire::Logged;
use shared::{Clock, Timestamp};
use tokio::sync::watch;
use tracing::{error, info, warn};

/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an operator's word that the clock is right counts, in ms from the time that it names. A
/// process that is started again much later with the same setting must not believe it.
pub const WORD_LASTS_MS: u64 = 3_600_000;

/// What a log says of the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Newest {
    /// The newest stamp; zero in an empty log.
    pub stamp: Timestamp,
    /// Somebody writes at this moment.
    pub live: bool,
}

/// How a collector's time and the log's differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the collector's time, and the newest stamp in the log")]
pub enum Disagreement {
    /// Others have written later than now.
    Behind { now: Timestamp, log: Timestamp },
    /// At a start: so far ahead that what was counted would be forgotten.
    FarAhead { now: Timestamp, log: Timestamp },
    /// At a start: others write, and say that it is earlier.
    AheadOfOthers { now: Timestamp, log: Timestamp },
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (now, log, what) = match self {
            Self::Behind { now, log } => (now, log, "the log is ahead of it"),
            Self::FarAhead { now, log } => (now, log, "nobody has written to the log for long"),
            Self::AheadOfOthers { now, log } => (now, log, "others are writing to the log"),
        };
        write!(f, "the clock says {now}, and {what}: its newest message is of {log}; ")?;
        write!(
            f,
            "nothing is taken. Set the clock right, and start this process again if it was "
        )?;
        write!(f, "started with the wrong one; if it is right, start again with ")?;
        write!(f, "--clock-is-right {now}")
    }
}

/// What a collector believes. Pure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreement {
    /// When the operator has said that the clock is right.
    confirmed_at: Option<Timestamp>,
    /// It has agreed with the log once: what is ahead from then on is time that has passed.
    has_agreed: bool,
    /// What the log said when the operator's word was against it.
    forgiven_up_to: Timestamp,
}

impl Agreement {
    /// Nothing is agreed yet; `word` is when an operator has said that the clock is right.
    #[must_use]
    pub const fn new(confirmed_at: Option<Timestamp>) -> Self {
        Self { confirmed_at, has_agreed: false, forgiven_up_to: Timestamp(0) }
    }

    /// Whether the collector's time can be believed.
    ///
    /// # Errors
    /// How it disagrees with the log.
    pub fn check(&mut self, now: Timestamp, log: Newest) -> Result<(), Disagreement> {
        let Newest { stamp, live } = log;
        let is_new = !self.has_agreed && stamp != Timestamp(0);
        let found = if stamp > now.plus_ms(CLOCK_AHEAD_MS_MAX) && stamp > self.forgiven_up_to {
            Err(Disagreement::Behind { now, log: stamp })
        } else if is_new && now > stamp.plus_ms(CLOCK_START_AHEAD_MS_MAX) {
            Err(Disagreement::FarAhead { now, log: stamp })
        } else if is_new && live && now > stamp.plus_ms(CLOCK_AHEAD_MS_MAX) {
            Err(Disagreement::AheadOfOthers { now, log: stamp })
        } else {
            Ok(())
        };
        if found.is_err() {
            if self.has_agreed || !self.is_confirmed(now) {
                return found;
            }
            self.forgiven_up_to = stamp;
        }
        self.has_agreed = true;
        Ok(())
    }

    fn is_confirmed(&self, now: Timestamp) -> bool {
        self.confirmed_at.is_some_and(|at| {
            now >= at.minus_ms(CLOCK_AHEAD_MS_MAX) && now <= at.plus_ms(WORD_LASTS_MS)
        })
    }
}

/// A collector's clock, and whether it agrees.
pub(crate) struct AgreedClock {
    clock: Arc<dyn Clock>,
    agreement: Mutex<Agreement>,
    /// None until the log was looked at.
    newest: watch::Sender<Option<Newest>>,
    /// The latest time that was given out: what this process has written is in the log too.
    given: AtomicU64,
}

impl Clock for AgreedClock {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn trouble(&self) -> Option<String> {
        if let Some(why) = self.clock.trouble() {
            return Some(why);
        }
        let Some(mut newest) = *self.newest.borrow() else {
            return Some("the log's newest message is not known yet".to_owned());
        };
        newest.stamp = newest.stamp.max(Timestamp(self.given.load(Ordering::Relaxed)));
        self.agreement.lock().check(self.clock.now(), newest).err().map(|why| why.to_string())
    }
}

impl AgreedClock {
    pub(crate) fn new(clock: Arc<dyn Clock>, confirmed_at: Option<Timestamp>) -> Self {
        let agreement = Mutex::new(Agreement::new(confirmed_at));
        Self { clock, agreement, newest: watch::Sender::new(None), given: AtomicU64::new(0) }
    }

    /// The time, when it may be relied on; waits for the first look at the log.
    ///
    /// # Errors
    /// Why nothing may be taken now.
    pub(crate) async fn agreed(&self, patience: Duration) -> Result<Timestamp, String> {
        if self.newest.borrow().is_none() {
            let mut newest = self.newest.subscribe();
            // It is asked for what it knows then, whatever that is.
            let _ = tokio::time::timeout(patience, newest.wait_for(Option::is_some)).await;
        }
        if let Some(why) = self.trouble() {
            return Err(why);
        }
        let now = self.now();
        self.given.fetch_max(now.0, Ordering::Relaxed);
        Ok(now)
    }

    /// Looks at the log, once or as long as it lives, and tells when the clock begins and ceases to
    /// be in trouble.
    pub(crate) async fn watch<L: Log>(self: Arc<Self>, log: Arc<L>, follow: bool) {
        let first = loop {
            match newest(&*log).await {
                Ok(stamp) => break stamp,
                Err(error) => warn!("the log's newest message cannot be read yet: {error}"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let mut seen = Newest { stamp: first, live: false };
        // An empty log says nothing of the time, and nobody is waited for.
        let has_any = first != Timestamp(0);
        if follow && has_any && self.now() > first.plus_ms(CLOCK_AHEAD_MS_MAX) {
            // Was nobody there, or is somebody writing an earlier time?
            tokio::time::sleep(LOOK_EVERY * 2).await;
            let stamp = newest(&*log).await.unwrap_or(first);
            seen = Newest { stamp, live: stamp > first };
        }
        self.newest.send_replace(Some(seen));
        let mut told = false;
        loop {
            let trouble = self.trouble();
            match &trouble {
                Some(why) if !told => error!("nothing is taken: {why}"),
                None if told => info!("the clock and the log agree again"),
                _ => {}
            }
            told = trouble.is_some();
            tokio::time::sleep(LOOK_EVERY).await;
            if follow && let Ok(stamp) = newest(&*log).await {
                seen = Newest { stamp: stamp.max(seen.stamp), live: stamp > seen.stamp };
                self.newest.send_replace(Some(seen));
            }
        }
    }
}

/// The newest stamp: every append is of all partitions, so two of them are enough.
async fn newest<L: Log>(log: &L) -> Result<Timestamp, LogError> {
    let mut newest = Timestamp(0);
    for partition in [0, log.partitions().saturating_sub(1)] {
        let last = log.last(partition).await?;
        let stamp = last.and_then(|payload| match Logged::read(&payload) {
            Ok(Logged::Message(view)) => Some(view.stamp),
            Ok(Logged::Control(control)) => Some(control.stamp),
            // What is no message says no time.
            Err(_) => None,
        });
        newest = newest.max(stamp.unwrap_or_default());
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_790_000_000_000);
    const DAY: u64 = 86_400_000;

    fn log(stamp: Timestamp) -> Newest {
        Newest { stamp, live: false }
    }

    #[test]
    fn an_empty_log_and_a_weekend_of_silence_are_no_reason() {
        assert_eq!(Agreement::default().check(NOW, log(Timestamp(0))), Ok(()));
        assert_eq!(Agreement::default().check(NOW, log(NOW.minus_ms(3 * DAY))), Ok(()));
    }

    #[test]
    fn behind_the_log_nothing_is_taken_until_it_is_reached() {
        let mut agreement = Agreement::default();
        let ahead = NOW.plus_ms(600_000);
        let behind = Err(Disagreement::Behind { now: NOW, log: ahead });
        assert_eq!(agreement.check(NOW, log(ahead)), behind);
        assert_eq!(agreement.check(NOW.plus_ms(540_000), log(ahead)), Ok(()));
        // Another collector is ahead of one that runs.
        let later = NOW.plus_ms(DAY);
        assert!(agreement.check(NOW.plus_ms(541_000), log(later)).is_err());
    }

    #[test]
    fn a_month_after_the_last_message_an_operator_has_to_say_that_the_clock_is_right() {
        let mut agreement = Agreement::default();
        let long_ago = log(NOW.minus_ms(30 * DAY));
        let why = agreement.check(NOW, long_ago).unwrap_err().to_string();
        assert!(why.contains("--clock-is-right 2026-09-21T14:13:20Z"), "{why}");
        let confirmed = |at| Agreement::new(Some(at));
        assert_eq!(confirmed(NOW.minus_ms(5_000)).check(NOW, long_ago), Ok(()));
        // What the operator said last month no longer counts.
        assert!(confirmed(NOW.minus_ms(30 * DAY)).check(NOW, long_ago).is_err());
    }

    #[test]
    fn a_word_against_a_log_that_is_ahead_forgives_what_it_had_then_and_no_more() {
        let mut agreement = Agreement { confirmed_at: Some(NOW), ..Agreement::default() };
        let ahead = NOW.plus_ms(DAY);
        assert_eq!(agreement.check(NOW.plus_ms(1_000), log(ahead)), Ok(()));
        assert_eq!(agreement.check(NOW.plus_ms(2_000), log(ahead)), Ok(()));
        assert!(agreement.check(NOW.plus_ms(3_000), log(ahead.plus_ms(1))).is_err());
    }

    #[test]
    fn a_new_collector_that_is_ahead_of_those_who_write_takes_nothing() {
        let live = Newest { stamp: NOW, live: true };
        let mut agreement = Agreement::default();
        assert!(agreement.check(NOW.plus_ms(7_200_000), live).is_err());
        assert_eq!(agreement.check(NOW.plus_ms(1_000), live), Ok(()));
        // Once it agreed, it is time that has passed: its own clock tells when it was set.
        assert_eq!(agreement.check(NOW.plus_ms(7_200_000), live), Ok(()));
    }
}
