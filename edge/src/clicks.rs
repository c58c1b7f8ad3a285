//! Finds visitors who click more often than a person does. Pure: the time is an argument.
//!
//! A visitor is told by address (of IPv6 the /64, which a household gets) and user agent. The
//! fingerprint that exists with consent would tell no more visitors apart: it is made of these two
//! and the day. Nothing of this leaves the table, which holds only 16 bits of a hash that is seeded
//! anew at every start.
//!
//! Each visitor has a bucket of `clicks` clicks that refills within `window`. A visitor who goes on
//! clicking while the bucket is empty keeps it empty ([`Buckets::take_or_owe`]). So with at most
//! `clicks` in every window nobody is ever flagged; a program that clicks faster is flagged from
//! its first click too many to its last; and after one window of silence the bucket is full again.
//! When more visitors are busy than the table can hold, the least busy one is forgotten, so a
//! crowded table flags less and never more.
//!
//! The table belongs to one process or isolate. Visitors who reach several edges are counted by
//! each edge alone; what all edges together see is for the engine to judge.

use std::net::IpAddr;
use std::time::Duration;

use shared::Random;

use crate::limit::Buckets;

/// The longest window, in seconds: a day.
pub const WINDOW_S_MAX: u32 = 86_400;
/// Parts of the table, which has 512 KiB in all and room for 65 536 busy visitors.
const PARTS: usize = 16_384;

/// How often one visitor may click before the clicks are no longer taken for a person's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Clicks in a window; 0: no limit.
    pub clicks: u32,
    /// The window, in seconds, from 1 to [`WINDOW_S_MAX`].
    pub window_s: u32,
}

impl Pace {
    /// 30 clicks in a minute. A person who clicks an ad leaves the page for another one, so nobody
    /// clicks every two seconds for a whole minute. And a thousand people with the same browser
    /// behind one address, who each see an ad a minute and click one in 200, make five clicks a
    /// minute together.
    pub const DEFAULT: Self = Self { clicks: 30, window_s: 60 };
}

impl Default for Pace {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The recent clicks of each visitor. All threads share the table without a lock.
#[derive(Debug)]
pub struct Clicks(Option<Buckets>);

impl Clicks {
    /// An empty table. `random` decides which visitors share a part of it, so that nobody can
    /// choose user agents that crowd another visitor out.
    pub fn new(pace: Pace, random: &mut dyn Random) -> Self {
        let window_us = u64::from(pace.window_s.clamp(1, WINDOW_S_MAX)) * 1_000_000;
        let mut buckets = |clicks: u32| {
            // Rounded down, so that a visitor who keeps exactly to the pace is never flagged, even
            // after years.
            let interval_us = window_us / u64::from(clicks);
            Buckets::new(clicks, interval_us, PARTS, random)
        };
        Self((pace.clicks > 0).then(|| buckets(pace.clicks)))
    }

    /// Records a click and says whether it is one too many. `now` is the time since any fixed
    /// moment, and never goes back.
    ///
    /// A click from the same machine, or from a client that a trusted proxy hides, is never one too
    /// many: either address may stand for many visitors.
    #[must_use]
    pub fn too_often(&self, client: Option<IpAddr>, user_agent: &[u8], now: Duration) -> bool {
        match (&self.0, client) {
            (Some(buckets), Some(client)) if !client.is_loopback() => {
                !buckets.take_or_owe((subscriber(client), user_agent), now)
            }
            _ => false,
        }
    }
}

/// An IPv4 address, or the /64 of an IPv6 address (RFC 6177: an end site has at least that).
fn subscriber(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(v4) => u64::from(v4.to_bits()),
        IpAddr::V6(v6) => (v6.to_bits() >> 64) as u64,
    }
}

#[cfg(test)]
mod tests;
