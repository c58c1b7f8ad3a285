//! Decides which clients may hold a connection. Used by the edge, and by every other listener of a
//! process.
//!
//! - Each connection holds a permit. The number of permits is fixed, and one network (an IPv4 /24,
//!   an IPv6 /48) has at most a share of them.
//! - A new connection is worth more than one whose client keeps us waiting (for a head, for a body,
//!   or until it takes a reply). So when all permits, or all of a network's share, are taken, a
//!   waiting connection is closed: of the network with most permits, the one that has waited
//!   longest. Silent connections therefore keep nobody out, however many they are, nor do the busy
//!   ones of a few networks. A connection whose request we work on is never closed for another.
//! - When no connection can be closed, a network that has used up its share is refused with 503;
//!   when all permits are at work, new connections wait to be accepted.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{self, Write as _};
use std::net::{IpAddr, Shutdown};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use shared::Network;
use shared::ambient::Stopwatch;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::AbortHandle;

use crate::address::Range;
pub use crate::metrics::{DoorMetrics, Shut};

/// One connection is closed for every so many that wait. A flood of connections then pays for one
/// look through the whole table and frees permits for many of its successors.
const PER_CLOSED: usize = 64;
/// How long closed connections may take to give their permits back before others are closed.
const FREED_WITHIN: Duration = Duration::from_millis(50);
/// The pause after a failed accept (no descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Values of [`Activity::since`] that are no times: a request is worked on; the connection was told
/// to end.
const WORKING: u64 = u64::MAX;
const TOLD: u64 = u64::MAX - 1;
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 0\r\n\r\n";

/// How many permits there are, and for whom.
#[derive(Clone, Debug)]
pub struct DoorSettings {
    /// All permits.
    pub connections_max: usize,
    /// The most permits of one network.
    pub network_max: usize,
    /// Addresses to which no share applies: proxies, for all visitors come through them.
    pub exempt: Vec<Range>,
}

/// The permits of one listener.
pub struct Doors {
    settings: DoorSettings,
    metrics: DoorMetrics,
    room: Arc<Semaphore>,
    table: Mutex<Table>,
    /// The table's clock: it never goes back.
    started: Stopwatch,
}

impl std::fmt::Debug for Doors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doors").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The right to hold one connection, given back on drop. At first the connection counts as waiting
/// for its client; [`Permit::works`] and [`Permit::waits`] change that.
pub struct Permit {
    doors: Arc<Doors>,
    number: u64,
    activity: Arc<Activity>,
    _slot: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What the table must know of a connection to choose which one to close.
#[derive(Debug)]
struct Activity {
    /// Since when we wait for the client, in ms of [`Doors::now`]; or [`WORKING`], or [`TOLD`].
    since: AtomicU64,
    /// Ends the connection. Unset until somebody serves it.
    end: OnceLock<AbortHandle>,
}

impl Doors {
    /// With all permits free.
    #[must_use]
    pub fn new(settings: DoorSettings, metrics: DoorMetrics) -> Arc<Self> {
        let places = settings.connections_max.clamp(1, Semaphore::MAX_PERMITS);
        Arc::new(Self {
            room: Arc::new(Semaphore::new(places)),
            table: Mutex::default(),
            started: Stopwatch::start(),
            settings,
            metrics,
        })
    }

    /// The listener's counters.
    #[must_use]
    pub const fn metrics(&self) -> &DoorMetrics {
        &self.metrics
    }

    /// The next connection, with its permit. No error ends this: each concerns a single connection
    /// or passes (no descriptor left).
    pub async fn next(
        self: &Arc<Self>,
        listener: &TcpListener,
    ) -> (std::net::TcpStream, IpAddr, Permit) {
        let mut failing = false;
        loop {
            let accepted = listener.accept().await.and_then(|(stream, peer)| {
                let _ = stream.set_nodelay(true);
                // A tokio stream belongs to the runtime that made it, and another runtime will
                // serve this one.
                Ok((stream.into_std()?, peer.ip()))
            });
            match accepted {
                Ok((stream, peer)) => {
                    failing = false;
                    match self.admit(peer).await {
                        Some(permit) => return (stream, peer, permit),
                        None => refuse(&stream),
                    }
                }
                Err(error) => {
                    self.metrics.shut(Shut::Failed);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "connections cannot be accepted for now");
                    }
                    if is_out_of_files(&error) {
                        // The connection that has waited longest holds a descriptor that another
                        // one needs.
                        self.displace(|_| true);
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Gives a permit, and waits as long as every connection is at work. `None` when the network
    /// has used up its share and works on all of it.
    pub async fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Permit> {
        let network = (!self.settings.exempt.iter().any(|range| range.contains(peer)))
            .then(|| Network::from_address(peer));
        if let Some(network) = network {
            let taken = self.table.lock().networks.get(&network).copied().unwrap_or(0);
            if taken >= self.settings.network_max.max(1)
                && !self.displace(|entry| entry.network == Some(network))
            {
                self.metrics.shut(Shut::Refused);
                return None;
            }
        }
        // Ends as soon as any connection ends. Every round closes more of those that wait; when
        // none waits, one at work ends in time, for its life is bounded.
        let slot = loop {
            match Arc::clone(&self.room).try_acquire_owned() {
                Ok(slot) => break slot,
                Err(_) => self.displace(|_| true),
            };
            let freed = Arc::clone(&self.room).acquire_owned();
            // The semaphore is never closed, so this is an error only by timeout.
            if let Ok(Ok(slot)) = tokio::time::timeout(FREED_WITHIN, freed).await {
                break slot;
            }
        };
        let activity =
            Arc::new(Activity { since: AtomicU64::new(self.now()), end: OnceLock::new() });
        let number = self.table.lock().add(network, Arc::clone(&activity));
        self.metrics.open.inc();
        Some(Permit { doors: Arc::clone(self), number, activity, _slot: slot })
    }

    /// Returns when no connection is open.
    pub async fn emptied(&self) {
        let all = self.settings.connections_max.clamp(1, Semaphore::MAX_PERMITS);
        let _ = self.room.acquire_many(u32::try_from(all).unwrap_or(u32::MAX)).await;
    }

    /// Closes waiting connections, among those that `may` be closed: first those of the networks
    /// with most permits, of these the longest waiting; those of exempt networks last. False when
    /// no connection could be closed.
    fn displace(&self, may: impl Fn(&Entry) -> bool) -> bool {
        let told = self.table.lock().tell(may);
        for _ in 0..told {
            self.metrics.shut(Shut::Displaced);
        }
        told > 0
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).map_or(TOLD - 1, |now| now.min(TOLD - 1))
    }
}

impl Permit {
    /// Sets what ends the connection when its permit is needed; before this call it cannot be
    /// closed. Waiting for the client counts from this call on, for what the client had sent before
    /// lay unread.
    pub fn ended_by(&self, end: AbortHandle) {
        self.waits();
        let _ = self.activity.end.set(end);
    }

    /// From now on a request is worked on.
    pub fn works(&self) {
        self.set(WORKING);
    }

    /// From now on the client is waited for.
    pub fn waits(&self) {
        self.set(self.doors.now());
    }

    /// Counts why the connection was ended.
    pub fn shut(&self, why: Shut) {
        self.doors.metrics.shut(why);
    }

    fn set(&self, since: u64) {
        // A connection that was told to end does so whatever its state, so that mark stays.
        let unless_told = |before| (before != TOLD).then_some(since);
        let _ = self.activity.since.fetch_update(Ordering::Relaxed, Ordering::Relaxed, unless_told);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.doors.table.lock().remove(self.number);
        self.doors.metrics.open.dec();
    }
}

/// All connections that hold a permit.
#[derive(Default)]
struct Table {
    next: u64,
    all: HashMap<u64, Entry>,
    /// How many permits each network has, without those that were told to end.
    networks: HashMap<Network, usize>,
}

struct Entry {
    /// None when no share applies, or when the connection was told to end.
    network: Option<Network>,
    activity: Arc<Activity>,
}

impl Table {
    fn add(&mut self, network: Option<Network>, activity: Arc<Activity>) -> u64 {
        let number = self.next;
        self.next += 1;
        if let Some(network) = network {
            *self.networks.entry(network).or_default() += 1;
        }
        self.all.insert(number, Entry { network, activity });
        number
    }

    fn remove(&mut self, number: u64) {
        if let Some(network) = self.all.remove(&number).and_then(|entry| entry.network) {
            self.leave(network);
        }
    }

    fn leave(&mut self, network: Network) {
        if let Some(count) = self.networks.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.networks.remove(&network);
            }
        }
    }

    /// Tells some of those that `may` be closed to end: one in [`PER_CLOSED`] and at least one,
    /// first those of the networks with most permits, of these the longest waiting. Returns how
    /// many.
    fn tell(&mut self, may: impl Fn(&Entry) -> bool) -> usize {
        let waits = |entry: &Entry| {
            let since = entry.activity.since.load(Ordering::Relaxed);
            (since < TOLD && entry.activity.end.get().is_some()).then_some(since)
        };
        let permits_of_network = |entry: &Entry| {
            let network = entry.network.as_ref();
            network.and_then(|network| self.networks.get(network)).copied().unwrap_or(0)
        };
        let mut waiting: Vec<(Reverse<usize>, u64, u64)> = self
            .all
            .iter()
            .filter(|(_, entry)| may(entry))
            .filter_map(|(number, entry)| {
                Some((Reverse(permits_of_network(entry)), waits(entry)?, *number))
            })
            .collect();
        let count = (waiting.len() / PER_CLOSED).max(1);
        if count < waiting.len() {
            waiting.select_nth_unstable(count);
            waiting.truncate(count);
        }
        waiting.into_iter().filter(|(_, since, number)| self.tell_one(*number, *since)).count()
    }

    /// False when the state has changed since it was read (the client has come): the connection
    /// then stays.
    fn tell_one(&mut self, number: u64, since: u64) -> bool {
        let Some(entry) = self.all.get_mut(&number) else { return false };
        let told = entry.activity.since.compare_exchange(
            since,
            TOLD,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if told.is_err() {
            return false;
        }
        if let Some(end) = entry.activity.end.get() {
            end.abort();
        }
        if let Some(network) = entry.network.take() {
            self.leave(network);
        }
        true
    }
}

/// Sends the refusal, or as much of it as the socket takes at once.
fn refuse(mut stream: &std::net::TcpStream) {
    let _ = stream.write_all(REFUSAL);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Drives a connection to its end. When it is `closing`, or has lived for `life`, `shut_down` makes
/// it end after the request under way, which may take `last`.
pub async fn drive<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    shut_down: impl FnOnce(Pin<&mut C>),
    permit: &Permit,
    mut closing: watch::Receiver<bool>,
    life: Duration,
    last: Duration,
) {
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        // A client that goes away or does not speak HTTP is nothing to report.
        result = connection.as_mut() => {
            if result.is_err_and(|error| is_timeout(&error)) {
                permit.shut(Shut::TimedOut);
            }
            return;
        }
        Ok(_) = closing.wait_for(|closing| *closing) => {}
        () = tokio::time::sleep(life) => {}
    }
    shut_down(connection.as_mut());
    if tokio::time::timeout(last, connection).await.is_err() {
        permit.shut(Shut::TimedOut);
    }
}

/// Whether a connection ended because its client was too slow: with a head, or in taking a reply.
fn is_timeout(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error);
    let io = source.and_then(|source| source.downcast_ref::<io::Error>());
    error.is_timeout() || io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// `ENFILE` and `EMFILE`.
fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

#[cfg(test)]
mod tests;
