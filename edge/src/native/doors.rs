//! Who may hold a connection. Used by the edge, and by whatever else of a process listens.
//!
//! - There are so many places, and one network (an IPv4 /24, an IPv6 /48) has at most a share of them.
//! - A new connection is worth more than one whose client has let us wait: when the places, or those of
//!   its network, are taken, one is closed that waits for its client (for a head, a body, or until a reply
//!   is taken): of the network that has most places, the one that has waited longest. So silent
//!   connections, however many, keep nobody out, nor do busy ones of a few networks. One with a request
//!   that we work on is never closed for another.
//! - Where nobody can be closed, a network that has its share is refused with 503, and what comes when
//!   all places work waits to be accepted.

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

/// Of so many places one more is closed at a time: a flood of connections costs a look through all of
/// them once for many, and the next ones find room.
const PER_CLOSED: usize = 64;
/// How long those that were closed may take to give their places back, before others are closed.
const FREED_WITHIN: Duration = Duration::from_millis(50);
/// After a failed accept (no descriptor left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// [`State::since`] of a connection that works, and of one that was told to go.
const WORKING: u64 = u64::MAX;
const TOLD: u64 = u64::MAX - 1;
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 0\r\n\r\n";

/// How many places there are, and for whom.
#[derive(Clone, Debug)]
pub struct DoorSettings {
    /// All places.
    pub connections_max: usize,
    /// Those of one network.
    pub network_max: usize,
    /// Networks without a share of their own: proxies, behind which all visitors are.
    pub exempt: Vec<Range>,
}

/// The places of one listener.
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

/// A connection's place, given back when it is dropped. Its client is waited for until it says
/// otherwise.
pub struct Place {
    doors: Arc<Doors>,
    number: u64,
    state: Arc<State>,
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What others may know of a connection.
#[derive(Debug)]
struct State {
    /// Since when its client is waited for, ms.
    since: AtomicU64,
    /// Ends it.
    end: OnceLock<AbortHandle>,
}

impl Doors {
    /// All places are free.
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

    /// What is counted of them.
    #[must_use]
    pub const fn metrics(&self) -> &DoorMetrics {
        &self.metrics
    }

    /// The next connection that has a place. Errors are of single connections, or pass (no file left to
    /// open): they never end it.
    pub async fn next(
        self: &Arc<Self>,
        listener: &TcpListener,
    ) -> (std::net::TcpStream, IpAddr, Place) {
        let mut failing = false;
        loop {
            let accepted = listener.accept().await.and_then(|(stream, peer)| {
                let _ = stream.set_nodelay(true);
                // For the runtime that will serve it.
                Ok((stream.into_std()?, peer.ip()))
            });
            match accepted {
                Ok((stream, peer)) => {
                    failing = false;
                    match self.admit(peer).await {
                        Some(place) => return (stream, peer, place),
                        None => refuse(&stream),
                    }
                }
                Err(error) => {
                    self.metrics.shut(Shut::Failed);
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "connections cannot be accepted for now");
                    }
                    if is_out_of_files(&error) {
                        // Whoever waits longest has one that somebody else needs.
                        self.displace(|_| true);
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A place; waits while all work. `None` when the network has its share, and works with all of it.
    pub async fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
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
        let permit = loop {
            match Arc::clone(&self.room).try_acquire_owned() {
                Ok(permit) => break permit,
                Err(_) => self.displace(|_| true),
            };
            let freed = Arc::clone(&self.room).acquire_owned();
            // Never closed, so a permit always comes in the end.
            if let Ok(Ok(permit)) = tokio::time::timeout(FREED_WITHIN, freed).await {
                break permit;
            }
        };
        let state = Arc::new(State { since: AtomicU64::new(self.now()), end: OnceLock::new() });
        let number = self.table.lock().add(network, Arc::clone(&state));
        self.metrics.open.inc();
        Some(Place { doors: Arc::clone(self), number, state, _permit: permit })
    }

    /// Returns when no connection is open.
    pub async fn emptied(&self) {
        let all = self.settings.connections_max.clamp(1, Semaphore::MAX_PERMITS);
        let _ = self.room.acquire_many(u32::try_from(all).unwrap_or(u32::MAX)).await;
    }

    /// Ends connections whose clients are waited for, of those that `may` go: of the networks that have
    /// most places, those that wait longest; those without a share last. False when none may.
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

impl Place {
    /// What ends the connection when somebody else needs its place; until it is known, it stays. Its
    /// client is waited for from now on: what it has sent lay unread before.
    pub fn ended_by(&self, end: AbortHandle) {
        self.waits();
        let _ = self.state.end.set(end);
    }

    /// A request is worked on.
    pub fn works(&self) {
        self.set(WORKING);
    }

    /// From now on its client is waited for.
    pub fn waits(&self) {
        self.set(self.doors.now());
    }

    /// Counts how it ended.
    pub fn shut(&self, why: Shut) {
        self.doors.metrics.shut(why);
    }

    fn set(&self, since: u64) {
        // One that was told to go is about to end, whatever it does.
        let unless_told = |before| (before != TOLD).then_some(since);
        let _ = self.state.since.fetch_update(Ordering::Relaxed, Ordering::Relaxed, unless_told);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.doors.table.lock().remove(self.number);
        self.doors.metrics.open.dec();
    }
}

/// All connections that have a place.
#[derive(Default)]
struct Table {
    next: u64,
    all: HashMap<u64, Entry>,
    /// How many places each network has; those that were told to go do not count any more.
    networks: HashMap<Network, usize>,
}

struct Entry {
    /// None: it has no share of its own, or was told to go.
    network: Option<Network>,
    state: Arc<State>,
}

impl Table {
    fn add(&mut self, network: Option<Network>, state: Arc<State>) -> u64 {
        let number = self.next;
        self.next += 1;
        if let Some(network) = network {
            *self.networks.entry(network).or_default() += 1;
        }
        self.all.insert(number, Entry { network, state });
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

    /// Tells some of those that `may` go to do so: one of [`PER_CLOSED`], those of the networks that have
    /// most places, and of these those that have waited longest.
    fn tell(&mut self, may: impl Fn(&Entry) -> bool) -> usize {
        let waits = |entry: &Entry| {
            let since = entry.state.since.load(Ordering::Relaxed);
            (since < TOLD && entry.state.end.get().is_some()).then_some(since)
        };
        let places = |entry: &Entry| {
            let network = entry.network.as_ref();
            network.and_then(|network| self.networks.get(network)).copied().unwrap_or(0)
        };
        let mut waiting: Vec<(Reverse<usize>, u64, u64)> = self
            .all
            .iter()
            .filter(|(_, entry)| may(entry))
            .filter_map(|(number, entry)| Some((Reverse(places(entry)), waits(entry)?, *number)))
            .collect();
        let count = (waiting.len() / PER_CLOSED).max(1);
        if count < waiting.len() {
            waiting.select_nth_unstable(count);
            waiting.truncate(count);
        }
        waiting.into_iter().filter(|(_, since, number)| self.tell_one(*number, *since)).count()
    }

    /// False when its client has just come.
    fn tell_one(&mut self, number: u64, since: u64) -> bool {
        let Some(entry) = self.all.get_mut(&number) else { return false };
        let told =
            entry.state.since.compare_exchange(since, TOLD, Ordering::Relaxed, Ordering::Relaxed);
        if told.is_err() {
            return false;
        }
        if let Some(end) = entry.state.end.get() {
            end.abort();
        }
        if let Some(network) = entry.network.take() {
            self.leave(network);
        }
        true
    }
}

/// Says so, as far as the socket takes it at once.
fn refuse(mut stream: &std::net::TcpStream) {
    let _ = stream.write_all(REFUSAL);
    let _ = stream.shutdown(Shutdown::Write);
}

/// Drives a connection to its end. When it is `closing`, or its `life` is over, `shut_down` tells it to
/// end after the request under way, which has `last` for that.
pub async fn drive<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    shut_down: impl FnOnce(Pin<&mut C>),
    place: &Place,
    mut closing: watch::Receiver<bool>,
    life: Duration,
    last: Duration,
) {
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        // Clients that go away or send what is no HTTP are no news.
        result = connection.as_mut() => {
            if result.is_err_and(|error| is_timeout(&error)) {
                place.shut(Shut::TimedOut);
            }
            return;
        }
        Ok(_) = closing.wait_for(|closing| *closing) => {}
        () = tokio::time::sleep(life) => {}
    }
    shut_down(connection.as_mut());
    if tokio::time::timeout(last, connection).await.is_err() {
        place.shut(Shut::TimedOut);
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
