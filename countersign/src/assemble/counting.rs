//! Whoever counts: the aggregator, the archive of its log, and the comparison of both.

use std::sync::Arc;

use aggregator::Aggregator;
use aggregator::store::Stores as _;
use aggregator::store::slate::SlateStores;
use archive::Archiver;
use axum::Router;
use eventlog::{AnyLog, Log as _};
use prometheus_client::registry::Registry;
use shared::Clock;

use crate::assemble::{archiving, parts};
use crate::data::DataDir;
use crate::failure::Failure;
use crate::reconcile::{self, Reconciler};
use crate::settings::Settings;

/// What counts, and its routes.
pub(crate) struct Counting {
    pub(crate) aggregator: Aggregator<AnyLog>,
    pub(crate) archiver: Option<Archiver<AnyLog>>,
    pub(crate) reconciler: Reconciler,
    /// Without those of the aggregator itself.
    pub(crate) more: Router,
}

/// Opens the archive, and starts to archive and to count. The comparison is not started.
///
/// # Errors
/// Says what cannot be used, is damaged, or does not belong to this log.
pub(crate) async fn open(
    settings: &Settings,
    dir: &DataDir,
    stores: SlateStores,
    log: &Arc<AnyLog>,
    clock: &Arc<dyn Clock>,
    registered: aggregator::Registered,
    registry: &mut Registry,
) -> Result<Counting, Failure> {
    let archive = archiving::place(settings, dir).await?;
    let archiver = archiving::open(settings, archive.as_ref(), log, registry).await?;
    let archived = archiver.as_ref().map(Archiver::archived);
    let objects = stores.objects();
    let aggregator =
        parts::start_aggregator(settings, stores, log, clock, archived, registered, registry);
    let of_archive = archiver.as_ref().map(archiving::router).unwrap_or_default();
    let reconciler = Reconciler::new(reconcile::Parts {
        routes: aggregator.router().merge(of_archive.clone()),
        partitions: log.partitions(),
        archive,
        objects,
        clock: Arc::clone(clock),
        settings: &settings.aggregator.reconcile,
        registry,
    });
    let more = of_archive.merge(reconciler.router());
    Ok(Counting { aggregator, archiver, reconciler, more })
}
