//! Opens the parts of a process from the settings: an edge, a collector, an aggregator and its
//! stores.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aggregator::Aggregator;
use aggregator::store::StoreError;
use aggregator::store::slate::{SlateSettings, SlateStores};
use catalogue::CatalogueFile;
use collector::clock::WORD_LASTS_MS;
use collector::{Collector, CollectorKeys};
use edge::native::{Policies, RimSettings};
use edge::outbox::{DrainSettings, Outbox, OutboxSettings};
use edge::{Keys, PublicUrl};
use eventlog::{AnyLog, Log as _};
use prometheus_client::registry::Registry;
use shared::ambient::SystemRandom;
use shared::{Clock, PartitionMap, Partitions, Timestamp};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use crate::assemble::descriptors::ConnectionLimits;
use crate::assemble::objects;
use crate::data::{DataDir, Mode, read_if_there, write_file};
use crate::failure::Failure;
use crate::process;
use crate::settings::{Settings, table};

/// The parts of an edge without its sink, which is where its batches go.
pub(crate) struct EdgeParts {
    pub(crate) policies: Arc<Policies>,
    catalogue: CatalogueFile,
    clock: Arc<dyn Clock>,
    outbox: Outbox,
    metrics: edge::native::Metrics,
    settings: RimSettings,
}

impl EdgeParts {
    /// The URL at which visitors reach the edge.
    pub(crate) fn public_url(&self) -> PublicUrl {
        self.policies.load().public_url.clone()
    }

    /// The complete edge.
    pub(crate) fn with<S>(self, sink: Arc<S>) -> edge::native::Parts<S> {
        let Self { policies, catalogue, clock, outbox, metrics, settings } = self;
        edge::native::Parts {
            policies,
            catalogue: Some(Box::new(catalogue)),
            outbox,
            sink,
            drain: DrainSettings::default(),
            clock,
            random: Box::new(SystemRandom),
            metrics,
            // The edge's metrics are shown on the API's side, behind the operator's key.
            registry: None,
            settings,
        }
    }
}

/// Written where an edge finds no catalogue: comments that explain how to write one.
pub(crate) const STARTER: &str = include_str!("starter.toml");

/// How many connections the system may hold that wait to be accepted.
const BACKLOG: u32 = 4_096;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

pub(crate) async fn bind(setting: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    listen(address).map_err(|error| {
        Failure::usage(format!(
            "{setting}: cannot listen on {address}: {error}; port 0 takes a free one"
        ))
    })
}

/// The URL at which this machine reaches the listener.
pub(crate) fn url_of(setting: &str, listener: &TcpListener) -> Result<String, Failure> {
    let mut address =
        listener.local_addr().map_err(|error| Failure::usage(format!("{setting}: {error}")))?;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Ok(format!("http://{address}"))
}

pub(crate) type CollectorParts = (Arc<Collector<AnyLog>>, watch::Sender<Arc<CollectorKeys>>);

/// The time that the operator vouches for as the time now. It counts for an hour from that time. A
/// time more than an hour ahead is refused: either this machine's clock is wrong, or it was
/// mistyped.
fn clock_is_right(settings: &Settings, now: Timestamp) -> Result<Option<Timestamp>, Failure> {
    let Some(word) = settings.collector.clock_is_right()? else { return Ok(None) };
    if word > now.plus_ms(WORD_LASTS_MS) {
        return Err(Failure::usage(format!(
            "collector.clock_is_right (--clock-is-right): it names {word}, and this machine's clock says \
             {now}: set the clock, or name the time that it is"
        )));
    }
    if now > word.plus_ms(WORD_LASTS_MS) {
        tracing::warn!(
            "collector.clock_is_right names {word}, more than an hour before {now}: it says nothing any \
             more"
        );
    }
    Ok(Some(word))
}

/// Opens a collector that appends to `log`; through the sender it is given new keys.
///
/// # Errors
/// When the operator's word on the clock is refused, or the collector cannot start.
pub(crate) fn open_collector(
    settings: &Settings,
    keys: CollectorKeys,
    log: &Arc<AnyLog>,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
) -> Result<CollectorParts, Failure> {
    let metrics = collector::Metrics::default();
    metrics.register(registry.sub_registry_with_prefix("countersign"));
    let (sender, keys) = watch::channel(Arc::new(keys));
    let partitions = Partitions::new(log.partitions())
        .ok_or_else(|| Failure::data("the log has no partitions"))?;
    let parts = collector::Parts {
        log: Arc::clone(log),
        map: PartitionMap::new(partitions),
        keys,
        clock: Arc::clone(clock),
        metrics: Arc::new(metrics),
        settings: collector::Settings {
            verify_threads: settings.collector.verify_threads,
            verified_tokens_max: settings.collector.verified_tokens_max,
            flush_ms: settings.collector.flush_ms,
            dead_letter_bytes_per_hour: settings.collector.dead_letter_bytes_per_hour,
            follow_log: matches!(**log, AnyLog::Nats(_)),
            clock_is_right: clock_is_right(settings, clock.now())?,
            quotas: settings.collector.quotas,
            ..collector::Settings::default()
        },
    };
    let collector = Collector::new(parts).map_err(|error| Failure::fatal(error.to_string()))?;
    Ok((Arc::new(collector), sender))
}

/// Opens the stores of the checkpoints, in the data directory or an object store.
///
/// # Errors
/// When they cannot be used.
pub(crate) async fn open_stores(
    settings: &Settings,
    dir: &DataDir,
) -> Result<SlateStores, Failure> {
    let slate =
        SlateSettings { cache_bytes: settings.aggregator.cache_bytes, ..SlateSettings::default() };
    match settings.aggregator.state_url.as_str() {
        "" => SlateStores::local(&dir.path("state"), slate).map_err(|error| match error {
            StoreError::Locked(_) => Failure::locked(error),
            other => Failure::data(other),
        }),
        url => {
            let objects = objects::open(url, process::environment()).await;
            let objects =
                objects.map_err(|why| Failure::usage(format!("aggregator.state_url: {why}")))?;
            Ok(SlateStores::remote(objects, url.to_owned(), slate))
        }
    }
}

/// Starts counting. `archived` tells for each partition up to where the archive has its messages,
/// and the log is trimmed no further; `None`: nothing is archived, and trimming waits for no
/// archive.
pub(crate) fn start_aggregator(
    settings: &Settings,
    stores: SlateStores,
    log: &Arc<AnyLog>,
    clock: &Arc<dyn Clock>,
    archived: Option<watch::Receiver<Vec<u64>>>,
    registered: aggregator::Registered,
    registry: &mut Registry,
) -> Aggregator<AnyLog> {
    Aggregator::start(aggregator::Parts {
        log: Arc::clone(log),
        stores,
        clock: Arc::clone(clock),
        settings: aggregator::Settings {
            checkpoint_every: Duration::from_millis(settings.aggregator.checkpoint_ms),
            retention_hours: settings.aggregator.retention_hours,
            facts_days: Some(settings.aggregator.facts_days).filter(|days| *days > 0),
            facts_cache_bytes: settings.aggregator.facts_cache_bytes,
            ..aggregator::Settings::default()
        },
        archived,
        registered,
        registry: registry.sub_registry_with_prefix("countersign"),
    })
}

/// Opens an edge that still needs its sink. `url` is its public URL when no setting names one.
///
/// # Errors
/// When a setting is wrong, or the catalogue or the outbox cannot be used.
pub(crate) fn open_edge(
    settings: &Settings,
    dir: &DataDir,
    keys: Keys,
    url: &str,
    clock: &Arc<dyn Clock>,
    registry: &mut Registry,
) -> Result<EdgeParts, Failure> {
    let wanted = &settings.edge;
    let told = wanted.told()?;
    let public_url: PublicUrl = match told.public_url.clone() {
        Some(public_url) => public_url,
        None => url.parse().map_err(|why| Failure::usage(format!("edge.public_url: {why}")))?,
    };
    let file = settings.catalogue();
    if read_if_there(&file)?.is_none() {
        write_file(&file, STARTER.as_bytes(), Mode::Plain)?;
    }
    let (catalogue, first) = CatalogueFile::open(file)
        // The error begins on a line of its own: it has a line for each mistake, and TOML's shows
        // the place in the text.
        .map_err(|error| Failure::usage(format!("edge.catalogue: it is wrong:\n{error}")))?;
    let policy = told.policy(public_url, wanted.verdicts.data_centres()?, keys, first);
    tracing::info!(rules = %policy.rule_set, "verdicts have a rule set");
    let trusted_proxies = wanted
        .trusted_proxies
        .iter()
        .map(|range| range.parse())
        .collect::<Result<_, String>>()
        .map_err(|why| Failure::usage(format!("edge.trusted_proxies: {why}")))?;
    let metrics = edge::native::Metrics::default();
    metrics.register(registry);
    let outbox = OutboxSettings {
        disk_bytes_max: settings.outbox.disk_bytes_max,
        ..OutboxSettings::new(dir.path("outbox"), wanted.name)
    };
    let (outbox, opened) =
        Outbox::open(&outbox, Arc::clone(clock), &mut SystemRandom, metrics.clone())
            .map_err(|error| Failure::data(format!("outbox: {error}")))?;
    if let Some(cut) = opened.cut {
        tracing::warn!(?cut, "the outbox's last group was not written whole, and is cut off");
    }
    tracing::info!(epoch = opened.outbox.epoch, waiting = opened.unacked, "the outbox is open");
    let rim = RimSettings {
        trusted_proxies,
        country_header: (!wanted.country_header.is_empty()).then(|| wanted.country_header.clone()),
        connections_max: ConnectionLimits::from_settings(settings).edge,
        connections_per_network_max: wanted.connections_per_network_max,
        rates: told.rates,
        pace: told.pace,
        redirect_wait: Duration::from_millis(told.redirect_wait_ms),
        networks: table(&wanted.verdicts.networks),
        countries: table(&wanted.countries),
        ..RimSettings::default()
    };
    Ok(EdgeParts {
        policies: Arc::new(Policies::new(policy)),
        catalogue,
        clock: Arc::clone(clock),
        outbox,
        metrics,
        settings: rim,
    })
}

/// How often each partition is asked whether it has stopped.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Returns when a partition has stopped for good: its counts cannot be trusted to go on, and only
/// an operator can help. The log still has everything.
pub(crate) async fn partition_stopped(aggregator: &Aggregator<AnyLog>) -> Failure {
    loop {
        let stopped =
            aggregator.statuses().into_iter().enumerate().find_map(|(at, status)| match status {
                aggregator::Status::Stopped(why) => Some((at, why)),
                _ => None,
            });
        if let Some((partition, why)) = stopped {
            return Failure::fatal(format!("aggregator: partition {partition} has stopped: {why}"));
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}
