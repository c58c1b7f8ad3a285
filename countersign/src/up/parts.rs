//! Opens everything that a process is made of, from the data directory outwards.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aggregator::Aggregator;
use aggregator::store::StoreError;
use aggregator::store::slate::{SlateSettings, SlateStores};
use archive::Archiver;
use catalogue::CatalogueFile;
use collector::clock::WORD_LASTS_MS;
use collector::{Collector, CollectorKeys};
use edge::native::doors::Doors;
use edge::native::{Policies, RimSettings};
use edge::outbox::{DrainSettings, Outbox, OutboxSettings};
use edge::{Durability, Keys, Policy, PublicUrl};
use eventlog::Log as _;
use prometheus_client::registry::Registry;
use shared::ambient::{SteadyClock, SystemRandom};
use shared::{Clock, PartitionMap, Partitions, Timestamp};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;

use super::demo::Demo;
use super::follow::Followers;
use super::log::AnyLog;
use super::{api, demo, hints};
use crate::admin::{self, AdminKey};
use crate::archiving;
use crate::data::{DataDir, LogPlace};
use crate::descriptors::Places;
use crate::disk::Disk;
use crate::failure::Failure;
use crate::listen;
use crate::objects;
use crate::process;
use crate::published;
use crate::settings::{Settings, table};

/// Everything, opened and connected; only the edge's sink is missing.
pub(super) struct Opened {
    pub(super) edge_listener: TcpListener,
    pub(super) edge: EdgeParts,
    pub(super) api_listener: TcpListener,
    pub(super) api: axum::Router,
    pub(super) api_doors: Arc<Doors>,
    pub(super) collector: Arc<Collector<AnyLog>>,
    pub(super) aggregator: Aggregator<AnyLog>,
    pub(super) archiver: Option<Archiver<AnyLog>>,
    pub(super) log: Arc<AnyLog>,
    pub(super) keys: Followers,
    pub(super) dir: DataDir,
    pub(super) disk: Disk,
    /// Held until the process ends: two never share the directory.
    _lock: File,
}

/// The parts of an edge that lacks its sink.
pub(crate) struct EdgeParts {
    pub(crate) policies: Arc<Policies>,
    catalogue: CatalogueFile,
    clock: Arc<dyn Clock>,
    outbox: Outbox,
    metrics: edge::native::Metrics,
    settings: RimSettings,
}

impl EdgeParts {
    /// Where visitors find it.
    fn public_url(&self) -> PublicUrl {
        self.policies.load().public_url.clone()
    }

    /// The whole.
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

/// Opens everything and tells where it listens.
///
/// # Errors
/// Says which part cannot be opened, and why.
pub(super) async fn open(settings: &Settings, demo: Option<Demo>) -> Result<Opened, Failure> {
    let clock: Arc<dyn Clock> = Arc::new(SteadyClock::start());
    let random = &mut SystemRandom;
    let dir = DataDir::new(&settings.data);
    let lock = dir.take()?;
    if !settings.collector.catalogue.as_os_str().is_empty() {
        let what =
            "collector.catalogue: `up` tells edges elsewhere of its own edge's (edge.catalogue)";
        return Err(Failure::usage(what));
    }
    let log_place = log_place(settings);
    dir.check_log_place(&log_place)?;
    let edge_listener = bind("edge.listen", settings.edge.listen).await?;
    let api_listener = bind("api.listen", settings.api.listen).await?;
    let edge_url = url_of("edge.listen", &edge_listener)?;
    let api_url = url_of("api.listen", &api_listener)?;

    let keys = dir.keys_or_new(settings.edge.name, settings.edge.issuer, clock.now(), random)?;
    let deployment = dir.deployment(settings.partitions()?, &keys, clock.now(), random)?;
    let variable = std::env::var(admin::VARIABLE).ok();
    let (admin, origin) = AdminKey::find(&dir.path("admin.key"), variable.as_deref(), random)?;

    let log = Arc::new(AnyLog::open(settings, &dir, &deployment).await?);
    dir.note_log_place(&deployment, log_place)?;
    let mut registry = Registry::default();
    let api_doors = listen::api_doors(settings);
    listen::register(&api_doors, &mut registry);
    let disk = Disk::new(settings.data.clone(), settings.disk.warn_free_bytes, &mut registry);
    let collector_keys = CollectorKeys::of_store(&keys).map_err(Failure::data)?;
    let (collector, collector_keys) =
        open_collector(settings, collector_keys, &log, &clock, &mut registry)?;
    let stores = open_stores(settings, &dir).await?;
    let archiver = archiving::open(settings, &dir, &log, &mut registry).await?;
    let archived = archiver.as_ref().map(Archiver::archived);
    let known = collector_keys.subscribe();
    let registered = Box::new(move || known.borrow().edges.clone());
    let aggregator =
        start_aggregator(settings, stores, &log, &clock, archived, registered, &mut registry);
    let catalogue_file = settings.catalogue();
    let is_demo = demo.is_some();
    demo::write_catalogue(&catalogue_file, is_demo.then_some(api_url.as_str()))?;
    let edge_keys = Keys::of_store(&keys, settings.edge.issuer)
        .map_err(|error| Failure::usage(format!("edge.issuer: {error}")))?;
    let edge = open_edge(settings, &dir, edge_keys, &edge_url, &clock, &mut registry)?;

    let public_keys = collector_keys.subscribe();
    let keys = Followers {
        deployment: deployment.deployment,
        issuer: settings.edge.issuer,
        policies: Arc::clone(&edge.policies),
        collector: collector_keys,
    };
    let more = archiver.as_ref().map(archiving::router).unwrap_or_default();
    let api = api::router(
        &aggregator,
        more.merge(collector::gateway::router(Arc::clone(&collector))),
        Arc::new(registry),
        Arc::new(admin),
        public_keys,
        disk.degraded(),
        demo.map(|demo| (demo, edge.public_url())),
    );
    let unready = Arc::clone(&collector);
    let api = api::unready_when(api, move || unready.trouble());
    let told = published::router(keys.collector.subscribe(), Some(catalogue_file), || None);
    let api = api.merge(told);
    hints::print(settings, &edge_url, &api_url, &origin, is_demo);
    Ok(Opened {
        edge_listener,
        edge,
        api_listener,
        api,
        api_doors,
        collector,
        aggregator,
        archiver,
        log,
        keys,
        dir,
        disk,
        _lock: lock,
    })
}

/// Where the settings say that the log is.
fn log_place(settings: &Settings) -> LogPlace {
    let wanted = &settings.eventlog;
    if wanted.url.is_empty() {
        LogPlace::Local
    } else {
        LogPlace::Nats { prefix: wanted.prefix.clone() }
    }
}

/// Connections that the system has taken and that wait to be accepted.
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

/// How the listener is reached from this machine.
pub(crate) fn url_of(setting: &str, listener: &TcpListener) -> Result<String, Failure> {
    let mut address =
        listener.local_addr().map_err(|error| Failure::usage(format!("{setting}: {error}")))?;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Ok(format!("http://{address}"))
}

pub(crate) type CollectorParts = (Arc<Collector<AnyLog>>, watch::Sender<Arc<CollectorKeys>>);

/// The operator's word on the clock. It is good for an hour from the time that it names; one that names
/// a time that has not come says itself that the clock is wrong, or was mistyped.
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

/// A collector that appends to a log, and who hands it new keys.
///
/// # Errors
/// When it cannot start.
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

/// Where the checkpoints are.
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

/// Starts counting. What is not `archived` is not trimmed; none where nothing is archived.
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
            ..aggregator::Settings::default()
        },
        archived,
        registered,
        registry: registry.sub_registry_with_prefix("countersign"),
    })
}

/// An edge that lacks its sink.
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
    let public_url = if wanted.public_url.is_empty() { url } else { &wanted.public_url };
    let public_url: PublicUrl =
        public_url.parse().map_err(|why| Failure::usage(format!("edge.public_url: {why}")))?;
    let (catalogue, first) = CatalogueFile::open(settings.catalogue())
        // Line by line: it has one for each place, and TOML shows where in the text.
        .map_err(|error| Failure::usage(format!("edge.catalogue: it is wrong:\n{error}")))?;
    let beacons =
        if settings.outbox.beacons_durable { Durability::Durable } else { Durability::Queued };
    let (verdicts, pace) = (wanted.verdicts.rules()?, wanted.verdicts.pace()?);
    let rule_set = verdicts.set(pace);
    tracing::info!(rules = %rule_set, "verdicts have a rule set");
    let policy = Policy {
        public_url,
        link_days: wanted.link_days,
        beacons,
        verdicts,
        rule_set,
        privacy: wanted.privacy.policy()?,
        keys: Arc::new(keys),
        catalogue: Arc::new(first),
    };
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
        connections_max: Places::of(settings).edge,
        connections_per_network_max: wanted.connections_per_network_max,
        rates: wanted.limits.rates()?,
        pace: wanted.verdicts.pace()?,
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
