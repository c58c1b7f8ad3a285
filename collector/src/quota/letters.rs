//! How many bytes of dead letters each sender may cause in an hour. Letters stay in the log until an
//! operator resolves them, and no sender shall be able to fill the log with them.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use shared::Timestamp;
use shared::keys::Sender;
use shared::wire::dead::LETTER_BYTES_MAX;

use super::{Bucket, HOUR, Rate, SECOND, TELL_EVERY};

/// The least quota in bytes an hour: with less, one letter might not fit.
pub(crate) const BYTES_PER_HOUR_MIN: u64 = 2 * LETTER_BYTES_MAX as u64;
/// How long the work queue on NATS holds back a batch that is over the quota of dead letters …
pub(crate) const HELD_FOR: Duration = Duration::from_secs(60);
/// … and how many of one sender in that time. Each takes one of the places in the work queue that all
/// edges share.
const HELD_MAX: u64 = 256;
const HELD: Rate = Rate { per: HELD_FOR.as_secs() * SECOND, amount: HELD_MAX, burst: HELD_MAX };
/// When so many senders are remembered, those whose buckets are full again are forgotten.
const SENDERS_MAX: usize = 1 << 10;

/// What each sender has used of its quota.
#[derive(Debug)]
pub(crate) struct Letters {
    rate: Rate,
    senders: Mutex<HashMap<Option<Sender>, Used>>,
}

#[derive(Debug, Default)]
struct Used {
    bytes: Bucket,
    held: Bucket,
    /// When it was logged last that a batch of the sender was dropped …
    told: Option<Duration>,
    /// … and that one was kept.
    told_kept: Option<Duration>,
}

impl Letters {
    /// With all quotas unused.
    pub(crate) fn new(bytes_per_hour: u64) -> Self {
        let bytes = bytes_per_hour.max(BYTES_PER_HOUR_MIN);
        let rate = Rate { per: HOUR, amount: bytes, burst: bytes };
        Self { rate, senders: Mutex::default() }
    }

    /// Charges the sender for a letter of so many bytes.
    ///
    /// # Errors
    /// The quota is used up: after how long there is room for the letter.
    pub(crate) fn take(
        &self,
        whose: Option<Sender>,
        bytes: u64,
        now: Timestamp,
    ) -> Result<(), Duration> {
        self.with_sender(whose, now, |used, now| used.bytes.take(self.rate, bytes, now))
    }

    /// Gives back the bytes of a letter that was not kept after all.
    pub(crate) fn give_back(&self, whose: Option<Sender>, bytes: u64) {
        if let Some(used) = self.senders.lock().get_mut(&whose) {
            used.bytes.give_back(self.rate, bytes);
        }
    }

    /// Whether one more batch of the sender may be held back in the work queue; if so, it is counted.
    pub(crate) fn hold(&self, whose: Option<Sender>, now: Timestamp) -> bool {
        self.with_sender(whose, now, |used, now| used.held.take(HELD, 1, now).is_ok())
    }

    /// Whether to log now that a batch was dropped: once in a while, for such a sender sends many.
    pub(crate) fn tells(&self, whose: Option<Sender>, now: Timestamp) -> bool {
        self.with_sender(whose, now, |used, now| once_in_a_while(&mut used.told, now))
    }

    /// Whether to log now that a letter was kept: once in a while.
    pub(crate) fn tells_kept(&self, whose: Option<Sender>, now: Timestamp) -> bool {
        self.with_sender(whose, now, |used, now| once_in_a_while(&mut used.told_kept, now))
    }

    fn with_sender<T>(
        &self,
        whose: Option<Sender>,
        now: Timestamp,
        ask: impl FnOnce(&mut Used, Duration) -> T,
    ) -> T {
        let now = Duration::from_millis(now.0);
        let mut senders = self.senders.lock();
        if senders.len() >= SENDERS_MAX {
            senders.retain(|_, used| !(used.bytes.is_full(now) && used.held.is_full(now)));
        }
        ask(senders.entry(whose).or_default(), now)
    }
}

fn once_in_a_while(told: &mut Option<Duration>, now: Duration) -> bool {
    let tells = !told.is_some_and(|told| now.abs_diff(told) < TELL_EVERY);
    if tells {
        *told = Some(now);
    }
    tells
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::Id;

    const A: Option<Sender> = Some(Sender::Issuer(Id::literal("a")));
    const B: Option<Sender> = Some(Sender::Issuer(Id::literal("b")));
    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn each_has_as_much_as_the_settings_say_and_gets_it_back_steadily() {
        let letters = Letters::new(3_600_000);
        let mut now = Timestamp(HOUR_MS);
        for _ in 0..36 {
            assert_eq!(letters.take(A, 100_000, now), Ok(()));
        }
        // The quota comes back at a byte a millisecond.
        assert_eq!(letters.take(A, 5_000, now), Err(Duration::from_millis(5_000)));
        assert_eq!(letters.take(B, 5_000, now), Ok(()), "what one has used is not another's");
        for _ in 0..4_999 {
            now = now.plus_ms(1);
            assert!(letters.take(A, 5_000, now).is_err(), "{now:?}");
        }
        assert_eq!(letters.take(A, 5_000, now.plus_ms(1)), Ok(()));
        letters.give_back(A, 5_000);
        assert_eq!(letters.take(A, 5_000, now.plus_ms(1)), Ok(()));
        // A clock that goes back gives nothing, and takes nothing.
        assert!(letters.take(A, 1, Timestamp(0)).is_err());
        assert_eq!(letters.take(A, 3_600_000, now.plus_ms(HOUR_MS + 1)), Ok(()));
    }

    #[test]
    fn however_little_is_allowed_a_letter_goes() {
        let letters = Letters::new(0);
        assert_eq!(letters.take(A, BYTES_PER_HOUR_MIN, Timestamp(0)), Ok(()));
        assert!(letters.take(A, 1, Timestamp(0)).is_err());
        assert_eq!(letters.take(A, BYTES_PER_HOUR_MIN, Timestamp(HOUR_MS)), Ok(()));
    }

    #[test]
    fn what_is_let_go_of_is_told_once_a_minute_of_each_wherever_the_clock_goes() {
        let letters = Letters::new(0);
        let told = [0, 1, 59_999, 60_000, 60_001];
        let told = told.map(|ms| letters.tells(A, Timestamp(HOUR_MS).plus_ms(ms)));
        assert_eq!(told, [true, false, false, true, false]);
        assert!(letters.tells(B, Timestamp(HOUR_MS)) && letters.tells(None, Timestamp(HOUR_MS)));
        assert!(letters.tells(A, Timestamp(0)), "a clock that was set back");
    }

    #[test]
    fn a_few_are_held_back_of_each() {
        let letters = Letters::new(0);
        let held = (0..1_000).filter(|_| letters.hold(A, Timestamp(1))).count();
        assert_eq!((held as u64, letters.hold(B, Timestamp(1))), (HELD_MAX, true));
        assert!(letters.hold(A, Timestamp(1).plus_ms(1_000)));
    }

    #[test]
    fn who_has_used_nothing_for_long_is_forgotten() {
        let letters = Letters::new(0);
        for n in 0..5_000_u64 {
            let edge = Some(Sender::Edge(format!("e{n}").parse().unwrap()));
            assert_eq!(letters.take(edge, 1, Timestamp(n * HOUR_MS)), Ok(()));
        }
        assert!(letters.senders.lock().len() <= SENDERS_MAX);
    }
}
