//! Whether a collector's clock agrees with the log. When they disagree it is not known which is wrong, so
//! the collector takes nothing, and senders keep what they have.
//!
//! The clock itself ([`Clock::trouble`]) notices when it was set while the process runs. This module
//! compares it with the newest stamp in the log, which another collector or an earlier process has
//! written: at the start, and from then on again and again where others may write to the log too.

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

/// Pause between two looks at the log's newest stamp.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an operator's word that the clock is right counts, in ms from the time that it names. A
/// process that is started again much later with the same setting must not believe it.
pub const WORD_LASTS_MS: u64 = 3_600_000;

/// What a log says of the time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Newest {
    /// The newest stamp; zero in an empty log.
    pub stamp: Timestamp,
    /// The stamp has grown since the last look: another collector is writing.
    pub live: bool,
}

/// How a collector's clock and the log differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the collector's time, and the newest stamp in the log")]
pub enum Disagreement {
    /// The log's newest stamp is ahead of the clock.
    Behind { now: Timestamp, log: Timestamp },
    /// At the start: the clock is so far ahead of the log that, if it is wrong, engines would forget
    /// what they have counted.
    FarAhead { now: Timestamp, log: Timestamp },
    /// At the start: others are writing to the log, with earlier stamps.
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

/// Whether the clock and the log agree, from one look to the next. Pure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreement {
    /// The time that the operator has named when saying that the clock is right.
    confirmed_at: Option<Timestamp>,
    /// The clock has agreed with the log once. From then on a clock that is ahead of the log only shows
    /// that time has passed.
    has_agreed: bool,
    /// The log's newest stamp when the operator's word was believed against it. Stamps up to this one are
    /// no disagreement any more.
    forgiven_up_to: Timestamp,
}

impl Agreement {
    /// Before the first look. `confirmed_at` is the time that an operator has named when saying that the
    /// clock is right.
    #[must_use]
    pub const fn new(confirmed_at: Option<Timestamp>) -> Self {
        Self { confirmed_at, has_agreed: false, forgiven_up_to: Timestamp(0) }
    }

    /// Compares the collector's time with the log's. The operator's word is believed once, before the
    /// first agreement.
    ///
    /// # Errors
    /// How they disagree.
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

/// A collector's clock, and whether it agrees with the log.
pub(crate) struct AgreedClock {
    clock: Arc<dyn Clock>,
    agreement: Mutex<Agreement>,
    /// None until the first look at the log.
    newest: watch::Sender<Option<Newest>>,
    /// The latest time in ms that [`AgreedClock::agreed`] has given out. Messages with this stamp may be in
    /// the log already, before the next look.
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
            // When the patience is over, `trouble` answers from what is known then.
            let _ = tokio::time::timeout(patience, newest.wait_for(Option::is_some)).await;
        }
        if let Some(why) = self.trouble() {
            return Err(why);
        }
        let now = self.now();
        self.given.fetch_max(now.0, Ordering::Relaxed);
        Ok(now)
    }

    /// Looks at the log: once, or with `follow` every second from then on. Logs when trouble with the clock
    /// begins and when it ends. Never returns.
    pub(crate) async fn watch<L: Log>(self: Arc<Self>, log: Arc<L>, follow: bool) {
        // Until the log can be read nothing is known, and nothing is taken.
        let first = loop {
            match newest(&*log).await {
                Ok(stamp) => break stamp,
                Err(error) => warn!("the log's newest message cannot be read yet: {error}"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let mut seen = Newest { stamp: first, live: false };
        // An empty log says nothing of the time, so there is nobody to wait for.
        let has_any = first != Timestamp(0);
        if follow && has_any && self.now() > first.plus_ms(CLOCK_AHEAD_MS_MAX) {
            // Either nobody has written for a while, or somebody writes an earlier time: a second look
            // tells which.
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

/// The newest stamp in the log. Every append goes to all partitions, so the first and the last are enough.
async fn newest<L: Log>(log: &L) -> Result<Timestamp, LogError> {
    let mut newest = Timestamp(0);
    for partition in [0, log.partitions().saturating_sub(1)] {
        let last = log.last(partition).await?;
        let stamp = last.and_then(|payload| match Logged::read(&payload) {
            Ok(Logged::Message(view)) => Some(view.stamp),
            Ok(Logged::Control(control)) => Some(control.stamp),
            // Bytes that are no message have no stamp.
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
        // Another collector's clock is ahead of this one while it runs.
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
        // After one agreement a difference is time that has passed: the clock itself tells when it was set.
        assert_eq!(agreement.check(NOW.plus_ms(7_200_000), live), Ok(()));
    }
}
