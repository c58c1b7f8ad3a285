//! How much of each sender goes to the dead letters in an hour: they lie in the log until an operator
//! has looked at them, and nobody shall fill it with them.

use std::collections::HashMap;
use std::time::Duration;

use shared::Timestamp;
use shared::keys::Sender;
use shared::wire::dead::LETTER_BYTES_MAX;

/// So much may be kept of anybody: less would not hold one letter.
pub(crate) const BYTES_PER_HOUR_MIN: u64 = 2 * LETTER_BYTES_MAX as u64;
/// So long the work queue keeps what is over the quota before it gives it out again …
pub(crate) const HELD_FOR: Duration = Duration::from_secs(60);
/// … so many of one sender in that time, for each holds one of the places of everybody.
const HELD_MAX: u64 = 256;
/// Whoever has used nothing for an hour need not be remembered; beyond so many that is looked at.
const SENDERS_MAX: usize = 1 << 10;
const HOUR_MS: u64 = 3_600_000;

/// What each has used of what it may: fills up again steadily, and never holds more than all of it.
#[derive(Debug)]
pub(crate) struct Quotas {
    letters: Buckets,
    held: Buckets,
}

impl Quotas {
    /// Nobody has used anything.
    pub(crate) fn new(bytes_per_hour: u64) -> Self {
        let letters = Buckets::new(bytes_per_hour.max(BYTES_PER_HOUR_MIN), HOUR_MS);
        Self { letters, held: Buckets::new(HELD_MAX, HELD_FOR.as_millis() as u64) }
    }

    /// Takes so many bytes for a letter.
    ///
    /// # Errors
    /// It is too much: when to come again.
    pub(crate) fn take(
        &mut self,
        whose: Option<Sender>,
        bytes: u64,
        now: Timestamp,
    ) -> Result<(), Duration> {
        self.letters.take(whose, bytes, now)
    }

    /// The letter was not kept after all.
    pub(crate) fn give_back(&mut self, whose: Option<Sender>, bytes: u64) {
        if let Some(used) = self.letters.used.get_mut(&whose) {
            used.amount = used.amount.saturating_sub(bytes);
        }
    }

    /// Whether one more batch may be held back.
    pub(crate) fn hold(&mut self, whose: Option<Sender>, now: Timestamp) -> bool {
        self.held.take(whose, 1, now).is_ok()
    }
}

/// Each may use `most` at once, and gets as much back in every period.
#[derive(Debug)]
struct Buckets {
    most: u64,
    period_ms: u64,
    used: HashMap<Option<Sender>, Used>,
}

#[derive(Debug)]
struct Used {
    amount: u64,
    /// Up to here it has been given back.
    at: Timestamp,
}

impl Buckets {
    fn new(most: u64, period_ms: u64) -> Self {
        Self { most, period_ms, used: HashMap::new() }
    }

    fn take(&mut self, whose: Option<Sender>, amount: u64, now: Timestamp) -> Result<(), Duration> {
        let (most, period_ms) = (self.most, self.period_ms);
        if self.used.len() >= SENDERS_MAX {
            self.used.retain(|_, used| used.left(most, period_ms, now) > 0);
        }
        let used = self.used.entry(whose).or_insert(Used { amount: 0, at: now });
        let wanted = used.left(most, period_ms, now).saturating_add(amount);
        let over = wanted.saturating_sub(most);
        if over > 0 {
            return Err(Duration::from_millis(share(over, period_ms, most).saturating_add(1)));
        }
        used.amount = wanted;
        Ok(())
    }
}

impl Used {
    /// What is still used at `now`.
    fn left(&mut self, most: u64, period_ms: u64, now: Timestamp) -> u64 {
        let back = share(now.0.saturating_sub(self.at.0), most, period_ms);
        self.amount = self.amount.saturating_sub(back);
        // Only the time that something was given back for: the rest is not lost to who asks often.
        self.at =
            if self.amount == 0 { now } else { self.at.plus_ms(share(back, period_ms, most)) };
        self.amount
    }
}

/// `amount × part ÷ whole`, rounded down.
fn share(amount: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(amount) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::Id;

    const A: Option<Sender> = Some(Sender::Issuer(Id::literal("a")));
    const B: Option<Sender> = Some(Sender::Issuer(Id::literal("b")));

    #[test]
    fn each_has_as_much_as_the_settings_say_and_gets_it_back_steadily() {
        let mut quotas = Quotas::new(3_600_000);
        let mut now = Timestamp(HOUR_MS);
        for _ in 0..36 {
            assert_eq!(quotas.take(A, 100_000, now), Ok(()));
        }
        // A byte a millisecond.
        assert_eq!(quotas.take(A, 5_000, now), Err(Duration::from_millis(5_001)));
        assert_eq!(quotas.take(B, 5_000, now), Ok(()), "what one has used is not another's");
        for _ in 0..4_999 {
            now = now.plus_ms(1);
            assert!(quotas.take(A, 5_000, now).is_err(), "{now:?}");
        }
        assert_eq!(quotas.take(A, 5_000, now.plus_ms(1)), Ok(()));
        quotas.give_back(A, 5_000);
        assert_eq!(quotas.take(A, 5_000, now.plus_ms(1)), Ok(()));
        // A clock that goes back gives nothing, and takes nothing.
        assert!(quotas.take(A, 1, Timestamp(0)).is_err());
        assert_eq!(quotas.take(A, 3_600_000, now.plus_ms(HOUR_MS + 1)), Ok(()));
    }

    #[test]
    fn however_little_is_allowed_a_letter_goes() {
        let mut quotas = Quotas::new(0);
        assert_eq!(quotas.take(A, BYTES_PER_HOUR_MIN, Timestamp(0)), Ok(()));
        assert!(quotas.take(A, 1, Timestamp(0)).is_err());
        assert_eq!(quotas.take(A, BYTES_PER_HOUR_MIN, Timestamp(HOUR_MS)), Ok(()));
    }

    #[test]
    fn a_few_are_held_back_of_each() {
        let mut quotas = Quotas::new(0);
        let held = (0..1_000).filter(|_| quotas.hold(A, Timestamp(1))).count();
        assert_eq!((held as u64, quotas.hold(B, Timestamp(1))), (HELD_MAX, true));
        assert!(quotas.hold(A, Timestamp(1).plus_ms(1_000)));
    }

    #[test]
    fn who_has_used_nothing_for_long_is_forgotten() {
        let mut quotas = Quotas::new(0);
        for n in 0..5_000_u64 {
            let edge = Some(Sender::Edge(format!("e{n}").parse().unwrap()));
            assert_eq!(quotas.take(edge, 1, Timestamp(n * HOUR_MS)), Ok(()));
        }
        assert!(quotas.letters.used.len() <= SENDERS_MAX);
    }
}
