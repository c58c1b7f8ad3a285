//! `countersign up`: every role in one process, and what connects them.
//!
//! edge → outbox → [`sink`] → collector → log → aggregator → [`api`]. [`parts`] opens them from the
//! data directory, [`follow`] hands changed keys to those that use them, [`demo`] is what a
//! newcomer looks at first.
//!
//! Shutdown goes the way of an event: the edge stops accepting, seals its outbox with a closing
//! batch and drains it; the API finishes the requests that it has; the collector flushes; the
//! aggregator saves. So nothing that was accepted waits for the next start, and if a deadline
//! passes, what is left is on disk and does.

mod api;
mod demo;
mod follow;
mod hints;
mod log;
mod parts;
mod sink;

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use aggregator::Aggregator;
use collector::Collector;
use tokio::sync::watch;

use crate::cli::UpArgs;
use crate::failure::Failure;
use crate::settings::{LogFormat, Settings};
use log::AnyLog;
use parts::Opened;
use sink::CollectorSink;

/// How often the partitions are asked whether one has stopped.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// How long the API's last requests may take.
const API_CLOSE_MAX: Duration = Duration::from_secs(10);
/// How long each part of the centre may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(30);
/// The exit code when a second signal ends the process at once.
const INTERRUPTED: i32 = 130;

/// Runs the command until a signal ends it.
///
/// # Errors
/// When a setting is wrong, the data directory cannot be used, or a part fails for good.
pub(crate) fn run(args: &UpArgs) -> Result<ExitCode, Failure> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let settings = Settings::load(args, environment)?;
    log_to_stderr(&settings)?;
    // One thread per core; blocking ones come and go.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("countersign")
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .map_err(|error| Failure::fatal(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(up(settings, args.demo));
    // What still blocks on a disk that does not answer is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.map(|()| ExitCode::SUCCESS)
}

fn log_to_stderr(settings: &Settings) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => filter,
        Err(_) => settings.log.filter.clone(),
    };
    let filter = EnvFilter::try_new(&filter)
        .map_err(|error| Failure::usage(format!("log.filter: {filter:?}: {error}")))?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log.format {
        LogFormat::Text => builder.with_target(false).with_ansi(is_terminal).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

async fn up(settings: Settings, demo: bool) -> Result<(), Failure> {
    // Before anything is opened: a signal that comes early ends what was begun in order.
    let stop = signals()?;
    let opened = parts::open(&settings, demo).await?;
    let Opened {
        edge_listener,
        edge,
        api_listener,
        api,
        collector,
        aggregator,
        log,
        keys,
        dir,
        disk,
        ..
    } = opened;
    let sink = Arc::new(CollectorSink::new(Arc::clone(&collector)));
    let edge = edge::native::run(edge_listener, edge.with(sink), stopped(stop.clone()));
    let api = serve_api(api_listener, api, stopped(stop.clone()));
    let follower = tokio::spawn(follow::keys(dir, keys));
    let disk = tokio::spawn(disk.watch());
    let work = async {
        let (edge, api) = tokio::join!(edge, api);
        let summary = edge.map_err(|error| Failure::fatal(format!("edge: {error}")))?;
        if summary.left > 0 {
            tracing::warn!(batches = summary.left, "left in the outbox for the next start");
        }
        api
    };
    let result = tokio::select! {
        biased;
        why = collector.fatal() => Err(Failure::fatal(format!("collector: {why}"))),
        failure = partition_stopped(&aggregator) => Err(failure),
        result = work => result,
    };
    follower.abort();
    disk.abort();
    // After a failure too: what was taken in goes as far as it can.
    let closed = close(&collector, aggregator, log).await;
    result.and(closed)?;
    tracing::info!("ended in order");
    Ok(())
}

/// Closes the centre, in the order in which events go through it.
async fn close(
    collector: &Collector<AnyLog>,
    aggregator: Aggregator<AnyLog>,
    log: Arc<AnyLog>,
) -> Result<(), Failure> {
    within("the collector: it could not empty its queue", collector.close()).await?;
    within("the aggregator: it could not save its state", aggregator.close()).await?;
    let log = tokio::task::spawn_blocking(move || log.close());
    within("the log: it could not be closed", log).await?.map_err(Failure::fatal)
}

async fn within<T>(what: &str, closing: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(CLOSE_MAX, closing).await.map_err(|_| {
        Failure::fatal(format!(
            "{what} within {} s; what was accepted is on disk, and the next start takes it up",
            CLOSE_MAX.as_secs()
        ))
    })
}

/// The API until `stop`, and then its last requests for a while.
async fn serve_api(
    listener: tokio::net::TcpListener,
    router: axum::Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Failure> {
    let (stopping, mut stopped) = watch::channel(false);
    let stop = async move {
        stop.await;
        stopping.send_replace(true);
    };
    let service = router.into_make_service_with_connect_info::<std::net::SocketAddr>();
    let serve = axum::serve(listener, service).with_graceful_shutdown(stop);
    let late = async {
        // An error says that the sender is gone: then `serve` has ended.
        let _ = stopped.wait_for(|stopped| *stopped).await;
        tokio::time::sleep(API_CLOSE_MAX).await;
    };
    tokio::select! {
        result = serve => result.map_err(|error| Failure::fatal(format!("api: {error}"))),
        () = late => {
            tracing::warn!("requests to the API were cut off: they took too long to end");
            Ok(())
        }
    }
}

/// Becomes ready when a partition cannot go on: what it would count is no longer known, and only an
/// operator can help. The log has everything.
async fn partition_stopped(aggregator: &Aggregator<AnyLog>) -> Failure {
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

/// True after the first SIGTERM or SIGINT; the second ends the process at once.
fn signals() -> Result<watch::Receiver<bool>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let cannot = |error| Failure::fatal(format!("cannot listen to signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if sender.send_replace(true) {
                tracing::warn!(
                    "ended at once by a second signal; the next start takes up the rest"
                );
                std::process::exit(INTERRUPTED);
            }
            tracing::info!("ending: finishing what was accepted (a second signal ends at once)");
        }
    });
    Ok(receiver)
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender lives in a task that never ends.
    let _ = stop.wait_for(|stop| *stop).await;
}
