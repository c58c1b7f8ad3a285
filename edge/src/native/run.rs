//! Runs the edge: accepts connections until it is told to stop, then finishes its requests, closes
//! the outbox and drains it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use catalogue::CatalogueSource;
use hyper::header::HeaderName;
use prometheus_client::registry::Registry;
use shared::{Clock, Random};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::doors::{DoorSettings, Doors};
use super::networks::Tables;
use super::policies::watch as watch_catalogue;
use super::rim::{Rim, RimParts};
use super::threads::Threads;
use super::{Metrics, Policies};
use crate::address::Range;
use crate::clicks::Pace;
use crate::limit::Rates;
use crate::outbox::{BatchSink, Drain, DrainSettings, Outbox};

/// Settings of the HTTP side.
#[derive(Clone, Debug)]
pub struct RimSettings {
    /// Only of these proxies are `X-Forwarded-For` and the country header believed.
    pub trusted_proxies: Vec<Range>,
    /// The header in which a trusted proxy names the country in two letters; `None`: the country
    /// comes from [`Self::countries`].
    pub country_header: Option<String>,
    /// How often one network may send requests.
    pub rates: Rates,
    /// How often one visitor may click before that is no person's doing.
    pub pace: Pace,
    /// The table of networks in MaxMind's form (`.mmdb`), by which data centres are told; `None`:
    /// nothing is known of networks.
    pub networks: Option<PathBuf>,
    /// The table of countries in MaxMind's form, used where no proxy names the country; `None`:
    /// `ZZ`.
    pub countries: Option<PathBuf>,
    /// The most connections at once. A further one displaces the connection whose client has been
    /// waited for longest ([`super::doors`]).
    pub connections_max: usize,
    /// The most connections of one network; 0: a quarter of all. Trusted proxies and this machine
    /// itself are exempt.
    pub connections_per_network_max: usize,
    /// The threads that serve connections; 0: as many as there are cores.
    pub threads: usize,
    /// The longest request head, bytes; at least 8 192.
    pub head_bytes_max: usize,
    /// How long a client may take to send a request's head, and may stay silent between requests.
    pub head_timeout: Duration,
    /// How long a client may take to send a request's body.
    pub body_timeout: Duration,
    /// A connection is closed at this age, between two requests, so that a client which takes no
    /// replies cannot hold one for ever.
    pub connection_life: Duration,
    /// A redirect waits for the disk for this long at most; its event stays in the queue.
    pub redirect_wait: Duration,
    /// How often the catalogue's source is asked.
    pub catalogue_pause: Duration,
    /// At shutdown: how long requests may take to finish …
    pub close_deadline: Duration,
    /// … and then how long the outbox may take to drain. What is left waits for the next start.
    pub drain_deadline: Duration,
}

impl Default for RimSettings {
    fn default() -> Self {
        Self {
            trusted_proxies: Vec::new(),
            country_header: None,
            rates: Rates::default(),
            pace: Pace::default(),
            networks: None,
            countries: None,
            connections_max: 4_096,
            connections_per_network_max: 0,
            threads: 0,
            head_bytes_max: 16 << 10,
            head_timeout: Duration::from_secs(20),
            body_timeout: Duration::from_secs(10),
            connection_life: Duration::from_secs(600),
            redirect_wait: Duration::from_millis(500),
            catalogue_pause: Duration::from_secs(1),
            close_deadline: Duration::from_secs(5),
            drain_deadline: Duration::from_secs(10),
        }
    }
}

impl RimSettings {
    fn doors(&self) -> DoorSettings {
        let network_max = match self.connections_per_network_max {
            0 => self.connections_max.div_ceil(4),
            most => most,
        };
        let exempt = self.trusted_proxies.iter().copied().chain(Range::LOOPBACK).collect();
        DoorSettings { connections_max: self.connections_max, network_max, exempt }
    }
}

/// What a running edge is made of.
pub struct Parts<S> {
    /// The policy in force; the owner may replace it while the edge runs.
    pub policies: Arc<Policies>,
    /// Where new catalogues come from; `None`: whoever owns `policies` replaces the catalogue.
    pub catalogue: Option<Box<dyn CatalogueSource>>,
    /// The outbox.
    pub outbox: Outbox,
    /// Where its batches go.
    pub sink: Arc<S>,
    /// How the batches are sent.
    pub drain: DrainSettings,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The random source for ids and for the choice of ads.
    pub random: Box<dyn Random>,
    /// The metrics; must be those that the outbox was opened with.
    pub metrics: Metrics,
    /// What `GET /metrics` shows; `None`: that path is a 404.
    pub registry: Option<Arc<Registry>>,
    /// The settings of the HTTP side.
    pub settings: RimSettings,
}

impl<S> std::fmt::Debug for Parts<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Why the edge ended without being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A write or fsync of the outbox failed. What is on disk is then unknown, so this process must
    /// end (exit code 70) and the next one finds out.
    #[error("the outbox has failed: {0}")]
    Outbox(String),
    /// A setting is out of range.
    #[error("{0}")]
    Settings(String),
    /// The threads for connections cannot be started.
    #[error("cannot start a thread that serves connections: {0}")]
    Threads(std::io::Error),
}

/// How the edge ended when it was told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Batches that the sink has not acknowledged; they wait for the next start.
    pub left: u64,
    /// Whether the epoch was closed; if not, the next start closes it.
    pub closed: bool,
}

/// Serves until `shutdown` completes. Then it accepts no more connections, finishes the requests
/// under way, closes the outbox's epoch, drains the outbox and returns. Nothing that was accepted
/// is lost.
///
/// # Errors
/// [`RunError`].
pub async fn run<S: BatchSink>(
    listener: TcpListener,
    parts: Parts<S>,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<Summary, RunError> {
    let Parts {
        policies,
        catalogue,
        outbox,
        sink,
        drain,
        clock,
        random,
        metrics,
        registry,
        settings,
    } = parts;
    let country_header = settings.country_header.as_deref().map(str::parse::<HeaderName>);
    let country_header = country_header.transpose().map_err(|_| {
        RunError::Settings("the country header's name is none that HTTP allows".to_owned())
    })?;
    if settings.connections_max == 0 || settings.head_bytes_max < 8_192 {
        let least = "an edge needs at least 1 connection and 8192 bytes for a request's head";
        return Err(RunError::Settings(least.to_owned()));
    }
    let tables = Tables::open(&settings).map_err(RunError::Settings)?;
    let drain = Drain::start(&outbox, Arc::clone(&sink), drain);
    let rim = Arc::new(Rim::new(RimParts {
        policies: Arc::clone(&policies),
        outbox,
        clock,
        random,
        metrics: metrics.clone(),
        registry,
        country_header,
        tables,
        settings: settings.clone(),
        news: Box::new(move || sink.news()),
    }));
    let (closing, told) = watch::channel(false);
    let threads = match settings.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    let doors = Doors::new(settings.doors(), metrics.doors.clone());
    let threads =
        Threads::start(threads, listener, &doors, &rim, &told).map_err(RunError::Threads)?;
    // Dropped, and so ended, with this function, however it ends.
    let mut helpers = JoinSet::new();
    if let Some(source) = catalogue {
        helpers.spawn(watch_catalogue(source, policies, metrics, settings.catalogue_pause));
    }
    helpers.spawn({
        let rim = Arc::clone(&rim);
        async move { rim.sample().await }
    });
    let mut failed = rim.outbox().failed();
    let work = async {
        serve(threads, doors, closing, settings.close_deadline, shutdown).await;
        let closed = rim.outbox().close().await;
        if let Err(error) = closed {
            tracing::warn!(%error, "the epoch was not closed; the next start does it");
        }
        let left = drain.finish(settings.drain_deadline).await;
        Summary { left, closed: closed.is_ok() }
    };
    tokio::select! {
        biased;
        failure = failed.wait_for(Option::is_some) => {
            let why = failure.ok().and_then(|why| why.clone()).unwrap_or_default();
            Err(RunError::Outbox(why))
        }
        summary = work => Ok(summary),
    }
}

/// Waits for `shutdown`, then for the requests under way, until `deadline` at most.
async fn serve(
    threads: Threads,
    doors: Arc<Doors>,
    closing: watch::Sender<bool>,
    deadline: Duration,
    shutdown: impl Future<Output = ()> + Send,
) {
    shutdown.await;
    closing.send_replace(true);
    threads.closed().await;
    let _ = tokio::time::timeout(deadline, doors.emptied()).await;
    threads.end().await;
}
