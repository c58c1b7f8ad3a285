//! What every command that runs until a signal does: its log lines, its descriptors, its runtime,
//! the signals.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use edge::native::{RunError, Summary};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::watch;

use crate::failure::Failure;
use crate::settings::{Log, LogFormat};

/// How long each part of the centre may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(30);
/// The exit code when a second signal ends the process at once.
const INTERRUPTED: i32 = 130;

/// The environment variables whose names and values are valid UTF-8.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Runs `work` to its end, with log lines, descriptors and a runtime; the exit code is 0 on
/// success.
///
/// # Errors
/// That of `work`; when the log's filter is wrong, or the machine gives no threads.
pub(crate) fn run(
    log: &Log,
    work: impl Future<Output = Result<(), Failure>>,
) -> Result<ExitCode, Failure> {
    log_to_stderr(log)?;
    raise_descriptors();
    // One thread per core; blocking ones come and go.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("countersign")
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .map_err(|error| Failure::fatal(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(work);
    // A thread that is still blocked, on a disk that does not answer, is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result.map(|()| ExitCode::SUCCESS)
}

/// Raises the limit of descriptors as far as it may: the soft limit is often 1 024, for the sake of
/// programs that use `select`.
fn raise_descriptors() {
    let now = getrlimit(Resource::Nofile);
    if now.current != now.maximum {
        let wanted = Rlimit { current: now.maximum, ..now };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            tracing::warn!(%error, "the limit of open files stays as it is (ulimit -n)");
        }
    }
}

fn log_to_stderr(wanted: &Log) -> Result<(), Failure> {
    use tracing_subscriber::EnvFilter;
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => filter,
        Err(_) => wanted.filter.clone(),
    };
    let filter = EnvFilter::try_new(&filter)
        .map_err(|error| Failure::usage(format!("log.filter: {filter:?}: {error}")))?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match wanted.format {
        LogFormat::Text => builder.with_target(false).with_ansi(is_terminal).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Waits for a part to close, at most [`CLOSE_MAX`]. `what` begins the failure's message.
///
/// # Errors
/// When it has not closed by then.
pub(crate) async fn within<T>(what: &str, closing: impl Future<Output = T>) -> Result<T, Failure> {
    tokio::time::timeout(CLOSE_MAX, closing).await.map_err(|_| {
        Failure::fatal(format!(
            "{what} within {} s; what was accepted is on disk, and the next start takes it up",
            CLOSE_MAX.as_secs()
        ))
    })
}

/// Runs an edge and the API beside it until both have ended. A failure of the edge ends both: when
/// its outbox has failed the process must end, although the API would go on answering.
///
/// # Errors
/// That of the edge.
pub(crate) async fn edge_and_api(
    edge: impl Future<Output = Result<Summary, RunError>>,
    api: impl Future<Output = ()>,
) -> Result<(), Failure> {
    let edge = async {
        let summary = edge.await.map_err(|error| match error {
            RunError::Settings(why) => Failure::usage(format!("edge: {why}")),
            error => Failure::fatal(format!("edge: {error}")),
        })?;
        if summary.left > 0 {
            tracing::warn!(batches = summary.left, "left in the outbox for the next start");
        }
        Ok(())
    };
    let api = async {
        api.await;
        Ok(())
    };
    tokio::try_join!(edge, api).map(drop)
}

/// True after the first SIGTERM or SIGINT; the second ends the process at once.
///
/// # Errors
/// When the system gives no signals.
pub(crate) fn signals() -> Result<watch::Receiver<bool>, Failure> {
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

/// Returns at the first SIGTERM or SIGINT; for work that has begun nothing which must be ended in
/// order.
pub(crate) async fn signalled() {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
    let [Ok(mut terminate), Ok(mut interrupt)] = kinds.map(signal) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Returns at the first signal.
pub(crate) async fn stopped(mut stop: watch::Receiver<bool>) {
    // The sender lives in a task that never ends.
    let _ = stop.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_outbox_that_has_failed_ends_the_process_though_the_api_answers() {
        let edge = async { Err(RunError::Outbox("fsync".to_owned())) };
        let failure = edge_and_api(edge, std::future::pending()).await.unwrap_err();
        assert_eq!(failure.code, crate::failure::FATAL);
        assert!(failure.message.contains("fsync"), "{}", failure.message);
    }
}
