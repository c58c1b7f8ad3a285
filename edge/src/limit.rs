//! Limits how often one network may send requests. Pure: the time is an argument.
//!
//! Each network (the /24 or /48 that an event keeps of an address) has a token bucket, in the form
//! of the generic cell rate algorithm (ITU-T I.371): what is stored is the time at which the bucket
//! will be full again. The table has a fixed size. It holds only networks whose bucket is not full,
//! for a full bucket needs no entry; when even these are too many, the one that is nearest to full
//! is forgotten, and so starts full again. A crowded table therefore refuses less, never more.

use std::hash::{BuildHasher as _, Hash};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::FixedState;
use shared::{Network, Random, Timestamp};

/// The highest rate, in requests a second: intervals are whole microseconds.
pub const PER_S_MAX: u32 = 1_000_000;
/// Slots in a part of a table; the keys of a part share them.
const WAYS: usize = 4;
/// Parts in a limit's table, which has 128 KiB.
const PARTS: usize = 4_096;
/// Bits of a slot for the time at which its bucket is full, in µs: almost nine years.
const TIME_BITS: u32 = 48;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// The time that has passed, by a clock that may be set back and where there is no better one. A
/// step back counts as no time, so that no bucket stays empty for as long as the clock had been
/// ahead.
#[derive(Debug)]
pub struct Passed {
    seen: Timestamp,
    ms: u64,
}

impl Passed {
    /// Starts now, with no time passed.
    #[must_use]
    pub const fn since(now: Timestamp) -> Self {
        Self { seen: now, ms: 0 }
    }

    /// The time that has passed until `now`. Never decreases.
    pub fn until(&mut self, now: Timestamp) -> Duration {
        self.ms += now.0.saturating_sub(self.seen.0);
        self.seen = now;
        Duration::from_millis(self.ms)
    }
}

/// A rate for each network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Requests a second in the long run, up to [`PER_S_MAX`]; 0: no limit. A body of events counts
    /// once for each event.
    pub per_s: u32,
    /// Requests at once after a silence; 0 counts as 1.
    pub burst: u32,
}

/// The limits of an edge's public routes. Clicks have their own, so that a visitor who has followed
/// a link is sent on as long as possible, whatever else the network sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rates {
    /// Click links.
    pub clicks: Rate,
    /// All other public routes together.
    pub requests: Rate,
}

impl Rates {
    /// A whole town may stand behind one /24, so only more than a crowd sends is refused.
    pub const DEFAULT: Self = Self {
        clicks: Rate { per_s: 5_000, burst: 20_000 },
        requests: Rate { per_s: 2_000, burst: 10_000 },
    };
}

impl Default for Rates {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Which limit a request falls under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// A click link.
    Click,
    /// Any other public route.
    Request,
}

/// The tables of all limits. All threads share them without a lock.
#[derive(Debug)]
pub struct Limits {
    clicks: Option<Buckets>,
    requests: Option<Buckets>,
}

impl Limits {
    /// Empty tables. `random` decides which networks share a part of a table, so that nobody can
    /// choose addresses that crowd another network out.
    pub fn new(rates: Rates, random: &mut dyn Random) -> Self {
        let mut limiter = |rate: Rate| (rate.per_s > 0).then(|| Buckets::from_rate(rate, random));
        Self { clicks: limiter(rates.clicks), requests: limiter(rates.requests) }
    }

    /// Whether a request of this client is admitted. `now` is the time since any fixed moment, and
    /// never goes back.
    ///
    /// Two clients are not limited: one on the same machine, for it may be a proxy that the
    /// settings do not name, and all visitors would then share one limit; and one that a trusted
    /// proxy hides.
    #[must_use]
    pub fn admit(&self, class: Class, client: Option<IpAddr>, now: Duration) -> bool {
        let limiter = match class {
            Class::Click => &self.clicks,
            Class::Request => &self.requests,
        };
        let take = |limiter: &Buckets, client| limiter.take(Network::from_address(client), now);
        bucket(limiter.as_ref(), client).is_none_or(|(limiter, client)| take(limiter, client))
    }

    /// Whether a request that was admitted may bring `more` events than the one it was admitted
    /// for: all of them or none. A request that costs more than a burst is charged a whole burst.
    #[must_use]
    pub fn admit_more(&self, client: Option<IpAddr>, more: u32, now: Duration) -> bool {
        let take =
            |limiter: &Buckets, client| limiter.take_more(Network::from_address(client), more, now);
        let limiter = self.requests.as_ref();
        bucket(limiter, client).is_none_or(|(limiter, client)| take(limiter, client))
    }
}

/// The bucket table and address to charge; `None` when the client is not limited.
fn bucket(limiter: Option<&Buckets>, client: Option<IpAddr>) -> Option<(&Buckets, IpAddr)> {
    limiter.zip(client.filter(|client| !client.is_loopback()))
}

/// Buckets by key. A slot has 16 bits of the key's hash, which tell keys of a part apart, and the
/// time at which its bucket is full. A slot of zeros is free.
#[derive(Debug)]
pub(crate) struct Buckets {
    slots: Box<[AtomicU64]>,
    hasher: FixedState,
    /// The time in which one token comes back, in µs.
    interval: u64,
    /// The time in which an empty bucket fills, in µs.
    full: u64,
}

impl Buckets {
    /// Buckets of `size` tokens that get one back every `interval_us`. `parts` times [`WAYS`] of
    /// them may be less than full at a time.
    pub(crate) fn new(size: u32, interval_us: u64, parts: usize, random: &mut dyn Random) -> Self {
        let mut seed = [0; 8];
        random.fill(&mut seed);
        Self {
            slots: (0..parts * WAYS).map(|_| AtomicU64::new(0)).collect(),
            hasher: FixedState::with_seed(u64::from_le_bytes(seed)),
            interval: interval_us,
            full: interval_us
                .saturating_mul(u64::from(size.max(1)))
                .min(TIME_MASK / 4)
                .max(interval_us),
        }
    }

    fn from_rate(rate: Rate, random: &mut dyn Random) -> Self {
        let interval = u64::from(PER_S_MAX / rate.per_s.clamp(1, PER_S_MAX));
        Self::new(rate.burst, interval, PARTS, random)
    }

    /// Takes a token. False: the bucket is empty, and stays as it is.
    pub(crate) fn take(&self, key: impl Hash, now: Duration) -> bool {
        self.change(key, now, self.interval, 0)
    }

    /// Takes `more` tokens from a bucket that one was taken from, but at most what a full bucket
    /// would still hold. False: there are not enough, and the bucket stays as it is.
    pub(crate) fn take_more(&self, key: impl Hash, more: u32, now: Duration) -> bool {
        let cost = self.interval.saturating_mul(more.into()).min(self.full - self.interval);
        self.change(key, now, cost, 0)
    }

    /// Takes a token. False: the bucket is empty, and then owes one: a client that goes on as fast
    /// as the bucket fills, or faster, never gets another.
    pub(crate) fn take_or_owe(&self, key: impl Hash, now: Duration) -> bool {
        self.change(key, now, self.interval, self.interval)
    }

    fn change(&self, key: impl Hash, now: Duration, cost: u64, debt: u64) -> bool {
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX) & TIME_MASK;
        let hash = self.hasher.hash_one(key);
        let tag = hash & !TIME_MASK;
        let first = hash as usize % (self.slots.len() / WAYS) * WAYS;
        let part = &self.slots[first..first + WAYS];
        // The exchange fails when another thread has changed the slot meanwhile (or by chance);
        // then the decision is made again on what the slot holds now.
        loop {
            let (slot, seen) = find(part, tag);
            let full_at = if seen & !TIME_MASK == tag { seen & TIME_MASK } else { 0 };
            let next = full_at.max(now) + cost;
            let has_enough = next <= now + self.full;
            if !has_enough && debt == 0 {
                return false;
            }
            let next = next.min(now + self.full + debt);
            // After nine years the time no longer fits into a slot; nobody is refused any more.
            let Some(new) = (next <= TIME_MASK).then_some(tag | next) else { return true };
            let set = slot.compare_exchange_weak(seen, new, Ordering::Relaxed, Ordering::Relaxed);
            if set.is_ok() {
                return has_enough;
            }
        }
    }
}

/// The slot of the key; if there is none, the slot whose bucket is full first (free slots come
/// before all others), which the key may take over.
fn find(part: &[AtomicU64], tag: u64) -> (&AtomicU64, u64) {
    let mut least = (&part[0], part[0].load(Ordering::Relaxed));
    for slot in part {
        let seen = slot.load(Ordering::Relaxed);
        if seen & !TIME_MASK == tag {
            return (slot, seen);
        }
        if seen & TIME_MASK < least.1 & TIME_MASK {
            least = (slot, seen);
        }
    }
    least
}

#[cfg(test)]
mod tests;
