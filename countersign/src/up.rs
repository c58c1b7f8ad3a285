//! `countersign up`: every role in one process, and what connects them.
//!
//! edge → outbox → [`sink`] → collector → log → aggregator → API. [`open`] opens them from the data
//! directory, [`follow`] hands changed keys to those that use them, [`demo`] is for a newcomer's
//! first look.
//!
//! Shutdown follows the way of an event: the edge stops accepting, seals its outbox with a closing
//! batch and drains it; the API finishes the requests that it has; the collector flushes; the
//! aggregator saves; the archive takes what it lacks. So nothing that was accepted waits for the
//! next start, unless a deadline passes: what is left is then on disk, and does wait.

pub(crate) mod demo;
mod follow;
mod hints;
mod open;
mod sink;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aggregator::Aggregator;
use archive::Archiver;
use collector::Collector;
use eventlog::AnyLog;

use crate::assemble::listen::{self, ClientTimeouts};
use crate::assemble::{archiving, parts};
use crate::cli::UpArgs;
use crate::failure::Failure;
use crate::process;
use crate::settings::Settings;
use sink::CollectorSink;

/// Runs the command until a signal ends it.
///
/// # Errors
/// When a setting is wrong, the data directory cannot be used, or a part fails for good.
pub(crate) fn run(args: &UpArgs) -> Result<ExitCode, Failure> {
    let settings = Settings::load(&args.given(), process::environment())?;
    let demo = args.demo.then(|| demo::Demo::read(args.sdk.as_deref())).transpose()?;
    // A failed start is undone only when the log is local: streams on NATS were made too, and would
    // be left without the directory that they belong to.
    let is_new = !settings.data.exists() && settings.eventlog.url.is_empty();
    let is_open = AtomicBool::new(false);
    let ended = process::run(&settings.log, up(settings.clone(), demo, &is_open));
    if ended.is_err() && is_new && !is_open.into_inner() {
        // The process was never open, so nothing in the directory was accepted from anybody; and
        // nothing of it runs any more that could write there. A failed first start leaves nothing
        // behind.
        let _ = std::fs::remove_dir_all(&settings.data);
    }
    ended
}

async fn up(
    settings: Settings,
    demo: Option<demo::Demo>,
    is_open: &AtomicBool,
) -> Result<(), Failure> {
    // Listens before anything is opened: then an early signal ends in order what was begun.
    let stop = process::signals()?;
    let opened = open::open(&settings, demo).await?;
    is_open.store(true, Ordering::Relaxed);
    let (collector, aggregator) = (opened.collector, opened.aggregator);
    let edge = opened.edge.with(Arc::new(CollectorSink::new(Arc::clone(&collector))));
    let edge = edge::native::run(opened.edge_listener, edge, process::stopped(stop.clone()));
    let api = listen::serve_api(
        opened.api_listener,
        opened.api,
        opened.api_doors,
        ClientTimeouts::default(),
        process::stopped(stop.clone()),
    );
    let follower = tokio::spawn(follow::keys(opened.dir, opened.keys));
    let disk = tokio::spawn(opened.disk.watch());
    let reconciler = tokio::spawn(opened.reconciler.run());
    let result = tokio::select! {
        biased;
        why = collector.fatal() => Err(Failure::fatal(format!("collector: {why}"))),
        failure = parts::partition_stopped(&aggregator) => Err(failure),
        result = process::edge_and_api(edge, api) => result,
    };
    follower.abort();
    disk.abort();
    reconciler.abort();
    // After a failure too, so that what was accepted goes as far as it can.
    let closed = close(&collector, aggregator, opened.archiver, opened.log).await;
    result.and(closed)?;
    tracing::info!("ended in order");
    Ok(())
}

/// Closes the centre, in the order in which events go through it.
async fn close(
    collector: &Collector<AnyLog>,
    aggregator: Aggregator<AnyLog>,
    archiver: Option<Archiver<AnyLog>>,
    log: Arc<AnyLog>,
) -> Result<(), Failure> {
    process::within("the collector: it could not empty its queue", collector.close()).await?;
    process::within("the aggregator: it could not save its state", aggregator.close()).await?;
    archiving::close(archiver).await?;
    let log = tokio::task::spawn_blocking(move || log.close());
    process::within("the log: it could not be closed", log).await?.map_err(Failure::fatal)
}
