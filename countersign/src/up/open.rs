//! Opens everything that the process is made of, from the data directory outwards.

use std::fs::File;
use std::sync::Arc;

use aggregator::Aggregator;
use api::Principal;
use archive::Archiver;
use axum::Router;
use collector::{Collector, CollectorKeys};
use edge::native::doors::Doors;
use edge::{Keys, PublicUrl};
use eventlog::AnyLog;
use prometheus_client::registry::Registry;
use shared::ambient::{SteadyClock, SystemRandom};
use shared::{Clock, Name};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::demo::{self, Demo};
use super::follow::Followers;
use super::hints;
use crate::admin::{self, AdminKey};
use crate::assemble::counting::{self, Counting};
use crate::assemble::disk::Disk;
use crate::assemble::guard::{self, Side};
use crate::assemble::listen;
use crate::assemble::log;
use crate::assemble::parts::{EdgeParts, bind, open_collector, open_edge, open_stores, url_of};
use crate::assemble::published;
use crate::data::{DataDir, LogPlace};
use crate::failure::Failure;
use crate::reconcile::Reconciler;
use crate::settings::Settings;

/// Everything, opened and connected; only the edge's sink is missing.
pub(super) struct Opened {
    pub(super) edge_listener: TcpListener,
    pub(super) edge: EdgeParts,
    pub(super) api_listener: TcpListener,
    pub(super) api: Router,
    pub(super) api_doors: Arc<Doors>,
    pub(super) collector: Arc<Collector<AnyLog>>,
    pub(super) aggregator: Aggregator<AnyLog>,
    pub(super) archiver: Option<Archiver<AnyLog>>,
    pub(super) log: Arc<AnyLog>,
    pub(super) keys: Followers,
    pub(super) dir: DataDir,
    pub(super) disk: Disk,
    pub(super) reconciler: Reconciler,
    /// Held until the process ends, so that two never share the directory.
    _lock: File,
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
    check(settings)?;
    let place = log_place(settings);
    dir.check_log_place(&place)?;
    let edge_listener = bind("edge.listen", settings.edge.listen).await?;
    let api_listener = bind("api.listen", settings.api.listen).await?;
    let edge_url = url_of("edge.listen", &edge_listener)?;
    let api_url = url_of("api.listen", &api_listener)?;

    let keys = dir.keys_or_new(settings.edge.name, settings.edge.issuer, clock.now(), random)?;
    let deployment = dir.deployment(settings.partitions()?, &keys, clock.now(), random)?;
    let variable = std::env::var(admin::VARIABLE).ok();
    let (admin, origin) = AdminKey::find(&dir.path("admin.key"), variable.as_deref(), random)?;

    let log = Arc::new(log::open(settings, &dir, &deployment).await?);
    dir.note_log_place(&deployment, place)?;
    let mut registry = Registry::default();
    let api_doors = listen::api_doors(settings);
    listen::register(&api_doors, &mut registry);
    let disk = Disk::new(settings.data.clone(), settings.disk.warn_free_bytes, &mut registry);
    let collector_keys = CollectorKeys::of_store(&keys).map_err(Failure::data)?;
    let (collector, collector_keys) =
        open_collector(settings, collector_keys, &log, &clock, &mut registry)?;
    let stores = open_stores(settings, &dir).await?;
    let known = collector_keys.subscribe();
    let registered = Box::new(move || known.borrow().edges.clone());
    let Counting { aggregator, archiver, reconciler, more } =
        counting::open(settings, &dir, stores, &log, &clock, registered, &mut registry).await?;
    let catalogue_file = settings.catalogue();
    let is_demo = demo.is_some();
    if is_demo {
        demo::write_catalogue(&catalogue_file, &api_url)?;
    }
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
    let api = router(
        &aggregator,
        more.merge(collector::gateway::router(Arc::clone(&collector))),
        Arc::new(registry),
        Arc::new(admin),
        public_keys,
        disk.degraded(),
        demo.map(|demo| (demo, edge.public_url())),
    );
    let unready = Arc::clone(&collector);
    let api =
        guard::unready_when(api, move || unready.trouble().map(|why| format!("clock: {why}")));
    let told = published::router(keys.collector.subscribe(), Some(catalogue_file), || None);
    let api = api.merge(told);
    let shows = || keys.policies.load().catalogue.placement(Name::literal("demo-top")).is_some();
    hints::print(settings, &edge_url, &api_url, &origin, is_demo.then(shows));
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
        reconciler,
        _lock: lock,
    })
}

/// Refuses a setting that is for roles alone.
fn check(settings: &Settings) -> Result<(), Failure> {
    if settings.collector.catalogue.as_os_str().is_empty() {
        return Ok(());
    }
    Err(Failure::usage(
        "collector.catalogue: `up` tells edges elsewhere of its own edge's (edge.catalogue)",
    ))
}

/// Where the log is, by the settings.
fn log_place(settings: &Settings) -> LogPlace {
    let wanted = &settings.eventlog;
    if wanted.url.is_empty() {
        LogPlace::Local
    } else {
        LogPlace::Nats { prefix: wanted.prefix.clone() }
    }
}

/// The routes of `up`: the aggregator's, and `more` of other parts. With a demo also its pages,
/// which need no key and send to the edge at this URL.
fn router(
    aggregator: &Aggregator<AnyLog>,
    more: Router,
    registry: Arc<Registry>,
    key: Arc<AdminKey>,
    keys: watch::Receiver<Arc<CollectorKeys>>,
    degraded: watch::Receiver<Option<String>>,
    demo: Option<(Demo, PublicUrl)>,
) -> Router {
    let answers = aggregator.router();
    let demo = demo
        .map(|(demo, edge)| demo.router(edge.as_str(), Principal::Operator.asks(answers.clone())));
    let routes = guard::degradable(answers.merge(more), degraded);
    guard::guarded(Side::Up, routes, registry, key)
        .merge(guard::open_keys(keys))
        .merge(demo.unwrap_or_default())
}
