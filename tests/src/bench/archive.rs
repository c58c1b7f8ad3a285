//! The archive: how fast a partition's log becomes Parquet files, how large they are, and how fast
//! the real binary counts them again.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use archive::{Archive, Archiver, Parts, Settings};
use bytes::Bytes;
use eventlog::{LocalLog, LocalLogConfig, Log, Message};
use prometheus_client::registry::Registry;
use shared::ambient::{Stopwatch, SystemClock};
use shared::{Clock as _, Minute};

use super::process::{KEY, Server, binary};
use super::tokens::per_second;
use super::{Measured, Size};
use crate::dataset::{Dataset, Shape};

/// Longer than anything here takes: files are written when they are asked for.
const NEVER: Duration = Duration::from_secs(100_000);

fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())
}

/// From the log on disk to fsynced files on disk.
pub(super) fn write(size: Size) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    runtime()?.block_on(archived(dir.path(), size.choose(2_000_000, 20_000)))
}

async fn archived(dir: &Path, events: usize) -> Result<Vec<Measured>, String> {
    let log_bytes = fill(&dir.join("log"), events, Shape::FULL.start).await?;
    let config = LocalLogConfig::new(dir.join("log"), 1);
    let (log, _) = LocalLog::open(&config, [7; 16]).map_err(|error| error.to_string())?;
    let archive = Archive::local(&dir.join("archive")).map_err(|error| error.to_string())?;
    let settings = Settings { every: NEVER, ..Settings::default() };
    let registry = &mut Registry::default();
    let parts = Parts { log: Arc::new(log), archive: archive.clone(), settings, registry };
    let archiver = Archiver::start(parts).await.map_err(|error| error.to_string())?;
    let watch = Stopwatch::start();
    let flushed = archiver.flusher().flush(0).await.ok_or("no partition 0")?;
    flushed.map_err(|error| error.to_string())?;
    let took = watch.elapsed();
    archiver.close().await;
    let (mut bytes, mut found, mut hasher) = (0, 0, blake3::Hasher::new());
    for entry in archive.list(0).await.map_err(|error| error.to_string())? {
        let info = archive.info(&entry, 0).await.map_err(|error| error.to_string())?;
        hasher.update(&info.first.to_le_bytes()).update(&info.events.to_le_bytes());
        bytes += entry.bytes;
        found += info.events;
    }
    if found != events as u64 {
        return Err(format!("{events} events were in the log, {found} are in the archive"));
    }
    Ok(vec![
        Measured::new(
            "archive/rows",
            "archive: log to Parquet files, full cells, one partition, fsynced",
            per_second(events, took),
            "events/s",
        )
        .hash(hasher.finalize()),
        Measured::new(
            "archive/bytes-per-event",
            "size of the files, clicks without tokens",
            per_event(bytes, events),
            "bytes",
        ),
        Measured::new(
            "archive/log-bytes-per-event",
            "size of the same in the log",
            per_event(log_bytes, events),
            "bytes",
        ),
    ])
}

/// How long the binary takes to compare an archive with its engine, cell by cell.
pub(super) fn recount(size: Size) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    runtime()?.block_on(recounted(dir.path(), size.choose(1_000_000, 10_000)))
}

async fn recounted(dir: &Path, events: usize) -> Result<Vec<Measured>, String> {
    let settings = dir.join("settings.toml");
    std::fs::write(&settings, "partitions = 1\n").map_err(|error| error.to_string())?;
    let flags = [OsStr::new("--config"), settings.as_os_str()];
    let data = dir.join("data");
    // This start makes the deployment; its log is then filled as a collector would.
    Server::start_with(&data, &flags)?.end()?;
    // Events of the last hours: those behind the horizon would have no cells.
    let start = Minute(SystemClock.now().minute().0 - 120);
    fill(&data.join("log"), events, start).await?;
    let server = Server::start_with(&data, &flags)?;
    let recount = || {
        let output = binary()?
            .args(["recount", "--from", &(start.0 * 60 - 3_600).to_string()])
            .args(["--to", &(start.0 * 60 + 7_200).to_string()])
            .args(["--api", &server.api, "--key", KEY, "--data"])
            .arg(&data)
            .output()
            .map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(said) } else { Err(format!("recount: {output:?}")) }
    };
    // This run writes the archive; the next one finds everything in the page cache.
    recount()?;
    let watch = Stopwatch::start();
    let said = recount()?;
    let took = watch.elapsed();
    if said.contains(": 0 counts ") {
        return Err(format!("nothing was compared: {said}"));
    }
    // Seconds and sizes differ from run to run; what was compared does not.
    let compared = said.split(" in ").next().unwrap_or_default();
    Ok(vec![
        Measured::new(
            "recount/rows",
            "recount: archive to comparison with the engine, full cells, one partition",
            per_second(events, took),
            "events/s",
        )
        .hash(blake3::hash(compared.as_bytes())),
    ])
}

/// Appends the data set to partition 0 of a log; returns its bytes.
async fn fill(dir: &Path, events: usize, start: Minute) -> Result<u64, String> {
    let config = LocalLogConfig::new(dir, 1);
    let (log, _) = LocalLog::open(&config, [7; 16]).map_err(|error| error.to_string())?;
    let shape = Shape { events: events as u64, start, full_cells: true, ..Shape::FULL };
    let mut dataset = Dataset::new(shape, 1);
    let mut bytes = 0;
    while let Some(message) = dataset.message(None) {
        bytes += message.len() as u64;
        let messages = vec![Message { partition: 0, payload: Bytes::from(message) }];
        log.append(messages).await.map_err(|error| error.to_string())?;
    }
    log.close();
    Ok(bytes)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn per_event(bytes: u64, events: usize) -> f64 {
    bytes as f64 / events as f64
}
