//! From a partition's log to an answer: messages in the log, on a local disk or on a real
//! nats-server that fsyncs; an aggregator that starts with nothing; the real store with fsync on;
//! and a question in the end.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aggregator::store::slate::{SlateSettings, SlateStores};
use aggregator::{Aggregator, Parts, Settings};
use axum::body::{Body, to_bytes};
use axum::http::Request;
use bytes::Bytes;
use eventlog::jetstream::JetStreamLog;
use eventlog::nats::JetStreamConfig;
use eventlog::nats::server::NatsServer;
use eventlog::{LocalLog, LocalLogConfig, Log, Message};
use prometheus_client::registry::Registry;
use shared::ambient::{Stopwatch, SystemClock};
use tower::ServiceExt as _;

use super::tokens::per_second;
use super::{Measured, Size};
use crate::dataset::{Dataset, Shape};

const ANSWER_BYTES_MAX: usize = 1 << 20;

/// On a local disk.
pub(super) fn measure(size: Size) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let config = LocalLogConfig::new(dir.path().join("log"), 1);
    let (log, _) = LocalLog::open(&config, [7; 16]).map_err(|error| error.to_string())?;
    let names = ["log/to-answer", "log/to-saved", "log/bytes-per-event"];
    runtime()?.block_on(log_to_answer(dir.path(), log, size, "log", names))
}

/// On a nats-server.
pub(super) fn nats(size: Size) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let server = NatsServer::start(&dir.path().join("nats"));
    let names = ["nats-log/to-answer", "nats-log/to-saved", "nats-log/bytes-per-event"];
    runtime()?.block_on(async {
        let config = JetStreamConfig::new(server.url(), 1);
        let log = JetStreamLog::open(&config, Some([7; 16])).await;
        let (log, _) = log.map_err(|error| error.to_string())?;
        log_to_answer(dir.path(), log, size, "log on nats-server", names).await
    })
}

pub(super) fn runtime() -> Result<tokio::runtime::Runtime, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())
}

async fn log_to_answer<L: Log>(
    dir: &Path,
    log: L,
    size: Size,
    place: &str,
    names: [&'static str; 3],
) -> Result<Vec<Measured>, String> {
    let events = size.choose(3_000_000, 30_000);
    let shape = Shape { events: events as u64, full_cells: true, ..Shape::FULL };
    let mut dataset = Dataset::new(shape, 1);
    while let Some(message) = dataset.message(None) {
        let messages = vec![Message { partition: 0, payload: Bytes::from(message) }];
        log.append(messages).await.map_err(|error| error.to_string())?;
    }

    let written = bytes_written()?;
    let watch = Stopwatch::start();
    let stores = SlateStores::local(&dir.join("state"), SlateSettings::default())
        .map_err(|error| error.to_string())?;
    let aggregator = Aggregator::start(Parts {
        log: Arc::new(log),
        stores,
        clock: Arc::new(SystemClock),
        settings: Settings::default(),
        archived: None,
        registered: Box::new(shared::keys::EdgeRegistry::default),
        registry: &mut Registry::default(),
    });
    aggregator.ready(Duration::from_secs(300)).await.map_err(|error| format!("{error:?}"))?;
    let answer = ask(&aggregator).await?;
    let answered = watch.elapsed();
    aggregator.close().await;
    let saved = watch.elapsed();
    let written = bytes_written()?.saturating_sub(written);

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let bytes_per_event = written as f64 / events as f64;
    Ok(vec![
        Measured::new(
            names[0],
            format!("{place} to answer: one partition, full cells, checkpoints fsynced"),
            per_second(events, answered),
            "events/s",
        )
        .hash(blake3::hash(&answer)),
        Measured::new(
            names[1],
            "the same until everything is saved and closed",
            per_second(events, saved),
            "events/s",
        ),
        Measured::new(
            names[2],
            "written to disk by the store, per event",
            bytes_per_event,
            "bytes",
        ),
    ])
}

async fn ask<L: Log>(aggregator: &Aggregator<L>) -> Result<Vec<u8>, String> {
    let question = "/v1/ads/popular_ads?count=100&window=60&at=2026-10-01T13:00:00Z";
    let request = Request::get(question).body(Body::empty()).map_err(|error| error.to_string())?;
    let response = api::Principal::Operator
        .asks(aggregator.router())
        .oneshot(request)
        .await
        .map_err(|error| error.to_string())?;
    let status = response.status();
    let body = to_bytes(response.into_body(), ANSWER_BYTES_MAX).await;
    let body = body.map_err(|error| error.to_string())?;
    if status.is_success() { Ok(body.to_vec()) } else { Err(format!("{status}: {body:?}")) }
}

/// What this process has caused to be written to disk, as Linux tells it.
fn bytes_written() -> Result<u64, String> {
    let io = std::fs::read_to_string("/proc/self/io").map_err(|error| error.to_string())?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    line.and_then(|n| n.parse().ok()).ok_or_else(|| "no write_bytes in /proc/self/io".to_owned())
}
