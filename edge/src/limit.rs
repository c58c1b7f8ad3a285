//! How often one network may ask, and the table for that. Pure: the time is an argument.
//!
//! A token bucket for each network (the /24 or /48 that an event keeps of an address), in the form
//! of the generic cell rate algorithm (ITU-T I.371): what is stored is the time at which the bucket
//! will be full again. The table has a fixed size. A network whose bucket is full needs no place in
//! it, so it holds those that are busy; when even they are too many, the one that is nearest to a
//! full bucket is forgotten, and begins with a full one. So a crowded table refuses less, never
//! more.

use std::hash::{BuildHasher as _, Hash};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use foldhash::fast::FixedState;
use shared::{Network, Random, Timestamp};

/// The most requests a second that a limit may say: its times are whole microseconds.
pub const PER_S_MAX: u32 = 1_000_000;
/// Keys that share a part of a table.
const WAYS: usize = 4;
/// Parts of a limit's table: 128 KiB.
const PARTS: usize = 4_096;
/// Bits of a slot that hold the time at which its bucket is full, µs: almost nine years.
const TIME_BITS: u32 = 48;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// Time that has passed by a clock that may be set back, where there is no other: by what it goes
/// back is left out, so that nobody's bucket is empty for as long as the clock was ahead.
#[derive(Debug)]
pub struct Passed {
    seen: Timestamp,
    ms: u64,
}

impl Passed {
    /// None yet.
    #[must_use]
    pub const fn since(now: Timestamp) -> Self {
        Self { seen: now, ms: 0 }
    }

    /// How much it is now. Never goes back.
    pub fn at(&mut self, now: Timestamp) -> Duration {
        self.ms += now.0.saturating_sub(self.seen.0);
        self.seen = now;
        Duration::from_millis(self.ms)
    }
}

/// A rate for each network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// Requests a second in the long run, up to [`PER_S_MAX`]; 0: no limit. A body of events counts
    /// as so many.
    pub per_s: u32,
    /// Requests at once, after a silence; at least one is let through.
    pub burst: u32,
}

/// The limits of an edge's public routes. Clicks have their own: a visitor who followed a link is
/// sent on as long as that is possible, whatever else a network asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rates {
    /// Click links.
    pub clicks: Rate,
    /// All other public routes together.
    pub requests: Rate,
}

impl Rates {
    /// Networks of whole towns stand behind one /24: only what no crowd asks for is refused.
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

/// The tables of all limits. Shared by all threads, without a lock.
#[derive(Debug)]
pub struct Limits {
    clicks: Option<Buckets>,
    requests: Option<Buckets>,
}

impl Limits {
    /// Empty tables. `random` decides which networks share a part of one, so that nobody can choose
    /// addresses that crowd another out.
    pub fn new(rates: Rates, random: &mut dyn Random) -> Self {
        let mut limiter = |rate: Rate| (rate.per_s > 0).then(|| Buckets::of(rate, random));
        Self { clicks: limiter(rates.clicks), requests: limiter(rates.requests) }
    }

    /// Whether a request of this client is let through. `now` is the time since any one moment, and
    /// never goes back.
    ///
    /// Not limited: a client on the same machine (there, a proxy that nobody has named as one would
    /// make one network of all visitors), and one that a trusted proxy hides.
    #[must_use]
    pub fn admit(&self, class: Class, client: Option<IpAddr>, now: Duration) -> bool {
        let limiter = match class {
            Class::Click => &self.clicks,
            Class::Request => &self.requests,
        };
        let take = |limiter: &Buckets, client| limiter.take(Network::from_address(client), now);
        bucket(limiter.as_ref(), client).is_none_or(|(limiter, client)| take(limiter, client))
    }

    /// Whether a request that was let through may bring `more` events than the one that it was let
    /// through for: all of them or none. What costs more than a burst costs a whole one.
    #[must_use]
    pub fn admit_more(&self, client: Option<IpAddr>, more: u32, now: Duration) -> bool {
        let take =
            |limiter: &Buckets, client| limiter.take_more(Network::from_address(client), more, now);
        let limiter = self.requests.as_ref();
        bucket(limiter, client).is_none_or(|(limiter, client)| take(limiter, client))
    }
}

/// Who has a bucket.
fn bucket(limiter: Option<&Buckets>, client: Option<IpAddr>) -> Option<(&Buckets, IpAddr)> {
    limiter.zip(client.filter(|client| !client.is_loopback()))
}

/// Buckets, each found by its key. A slot is 16 bits that tell keys of a part apart, and the time at
/// which the bucket is full; all zeros are a slot that is free.
#[derive(Debug)]
pub(crate) struct Buckets {
    slots: Box<[AtomicU64]>,
    hasher: FixedState,
    /// In which one comes back, µs.
    interval: u64,
    /// In which an empty bucket fills, µs.
    full: u64,
}

impl Buckets {
    /// Buckets of `size` that get one back in `interval_us`; so many that `parts` times [`WAYS`] may
    /// be less than full at a time.
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

    fn of(rate: Rate, random: &mut dyn Random) -> Self {
        let interval = u64::from(PER_S_MAX / rate.per_s.clamp(1, PER_S_MAX));
        Self::new(rate.burst, interval, PARTS, random)
    }

    /// Takes one. False: there is none, and the bucket stays as it is.
    pub(crate) fn take(&self, key: impl Hash, now: Duration) -> bool {
        self.change(key, now, self.interval, 0)
    }

    /// Takes as many more of a bucket that one was taken of, or all that it can hold besides. False:
    /// so many are not there, and the bucket stays as it is.
    pub(crate) fn take_more(&self, key: impl Hash, more: u32, now: Duration) -> bool {
        let cost = self.interval.saturating_mul(more.into()).min(self.full - self.interval);
        self.change(key, now, cost, 0)
    }

    /// Takes one. False: there is none; then the bucket lacks one more than all, so that whoever
    /// goes on as fast as it fills, or faster, never gets one.
    pub(crate) fn take_or_owe(&self, key: impl Hash, now: Duration) -> bool {
        self.change(key, now, self.interval, self.interval)
    }

    fn change(&self, key: impl Hash, now: Duration, cost: u64, debt: u64) -> bool {
        let now = u64::try_from(now.as_micros()).unwrap_or(u64::MAX) & TIME_MASK;
        let hash = self.hasher.hash_one(key);
        let tag = hash & !TIME_MASK;
        let first = hash as usize % (self.slots.len() / WAYS) * WAYS;
        let part = &self.slots[first..first + WAYS];
        loop {
            let (slot, seen) = find(part, tag);
            let full_at = if seen & !TIME_MASK == tag { seen & TIME_MASK } else { 0 };
            let next = full_at.max(now) + cost;
            let is_there = next <= now + self.full;
            if !is_there && debt == 0 {
                return false;
            }
            let next = next.min(now + self.full + debt);
            // Nine years on, slots are past counting: nobody is refused any more.
            let Some(new) = (next <= TIME_MASK).then_some(tag | next) else { return true };
            let set = slot.compare_exchange_weak(seen, new, Ordering::Relaxed, Ordering::Relaxed);
            if set.is_ok() {
                return is_there;
            }
        }
    }
}

/// The slot of the key; else the one whose bucket is full first.
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
