//! More clicks of one visitor than a person makes. Pure: the time is an argument.
//!
//! A visitor is an address (of IPv6 a /64, what a household gets) and a user agent. With consent
//! there is a fingerprint as well, but it is made of the same two and the day, and would tell no two
//! visitors apart that these do not. Nothing of it leaves the table: 16 bits of a hash that is
//! seeded anew at every start.
//!
//! Each has a bucket of `clicks` that fills in `window`, and whoever goes on clicking while it is
//! empty keeps it so ([`Buckets::take_or_owe`]). So with at most `clicks` in every window nobody is
//! ever flagged, a program that clicks faster than that is flagged from the first click too many to
//! the last, and after one window of silence a visitor has clicks again. When too many are busy for
//! the table, the least busy one is forgotten: less is flagged, never more.
//!
//! The table is one process's or one isolate's: visitors that reach several edges are counted by
//! each alone. What is seen of all edges together is the engine's to tell.

use std::net::IpAddr;
use std::time::Duration;

use shared::Random;

use crate::limit::Buckets;

/// The longest window, in seconds: a day.
pub const WINDOW_S_MAX: u32 = 86_400;
/// Parts of the table: 512 KiB, 65 536 busy visitors.
const PARTS: usize = 16_384;

/// How often one visitor may click before that is no person's doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Clicks in a window; 0: any number.
    pub clicks: u32,
    /// The window, in seconds, from 1 to [`WINDOW_S_MAX`].
    pub window_s: u32,
}

impl Pace {
    /// 30 in a minute. A person who clicks an ad leaves the page for another: one every two seconds
    /// for a minute is nobody. And a thousand people with the same browser behind one address who
    /// click one of 200 ads, an ad a minute each, are five in a minute.
    pub const DEFAULT: Self = Self { clicks: 30, window_s: 60 };
}

impl Default for Pace {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The clicks of the last window, by visitor. Shared by all threads, without a lock.
#[derive(Debug)]
pub struct Clicks(Option<Buckets>);

impl Clicks {
    /// An empty table. `random` decides who shares a part of it, so that nobody can choose agents
    /// that crowd another out.
    pub fn new(pace: Pace, random: &mut dyn Random) -> Self {
        let window_us = u64::from(pace.window_s.clamp(1, WINDOW_S_MAX)) * 1_000_000;
        let mut buckets = |clicks: u32| {
            // Rounded down: nobody who keeps to the pace is flagged after years of it.
            let interval_us = window_us / u64::from(clicks);
            Buckets::new(clicks, interval_us, PARTS, random)
        };
        Self((pace.clicks > 0).then(|| buckets(pace.clicks)))
    }

    /// Remembers a click, and says whether it is one too many. `now` is the time since any one
    /// moment, and never goes back.
    ///
    /// Never one too many: of a client on the same machine, and of one that a trusted proxy hides,
    /// for both may be many visitors.
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
