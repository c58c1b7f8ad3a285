//! The archive of the log that this process counts.

use std::sync::Arc;
use std::time::Duration;

use api::answers::Archived;
use api::{Refusal, routes};
use archive::{Archive, Archiver, Flusher, Halt, Parts, Settings as ArchiveSettings};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use eventlog::AnyLog;
use prometheus_client::registry::Registry;

use crate::assemble::objects;
use crate::data::DataDir;
use crate::failure::Failure;
use crate::process;
use crate::settings::Settings;

/// The folder in the data directory.
pub(crate) const FOLDER: &str = "archive";

/// Refuses a local archive beside a shared state: several aggregators that share their state must
/// share the archive too.
///
/// # Errors
/// Says what to set.
pub(crate) fn check(settings: &Settings) -> Result<(), Failure> {
    let (state, wanted) = (&settings.aggregator.state_url, &settings.archive);
    if !state.is_empty() && wanted.enabled && wanted.url.is_empty() {
        return Err(Failure::usage(
            "archive.url: with aggregator.state_url the archive must be in an object store as well, \
             for whichever machine counts next must find it; or set archive.enabled = false",
        ));
    }
    Ok(())
}

/// The archive that the settings name; `None` when it is turned off.
///
/// # Errors
/// Says what cannot be used.
pub(crate) async fn place(settings: &Settings, dir: &DataDir) -> Result<Option<Archive>, Failure> {
    let wanted = &settings.archive;
    if !wanted.enabled {
        return Ok(None);
    }
    let archive = match wanted.url.as_str() {
        "" => Archive::local(&dir.path(FOLDER)).map_err(Failure::data)?,
        url => open_url(url).await.map_err(|why| Failure::usage(format!("archive.url: {why}")))?,
    };
    Ok(Some(archive))
}

/// Starts to archive; `None` when there is no archive.
///
/// # Errors
/// Says what is damaged, or does not belong to this log.
pub(crate) async fn open(
    settings: &Settings,
    archive: Option<&Archive>,
    log: &Arc<AnyLog>,
    registry: &mut Registry,
) -> Result<Option<Archiver<AnyLog>>, Failure> {
    let Some(archive) = archive.cloned() else { return Ok(None) };
    let wanted = &settings.archive;
    let place = archive.place().to_owned();
    let settings = ArchiveSettings {
        every: Duration::from_millis(wanted.every_ms.max(1)),
        file_bytes: wanted.file_bytes,
    };
    let registry = registry.sub_registry_with_prefix("countersign");
    let archiver = Archiver::start(Parts { log: Arc::clone(log), archive, settings, registry });
    archiver.await.map(Some).map_err(|why| Failure::data(format!("{place}: {why}")))
}

/// Archives what is in the log now, and stops archiving.
///
/// # Errors
/// When it takes too long.
pub(crate) async fn close(archiver: Option<Archiver<AnyLog>>) -> Result<(), Failure> {
    let Some(archiver) = archiver else { return Ok(()) };
    process::within("the archive: it could not be brought up to date", archiver.close()).await
}

/// Opens the archive at a URL, with the credentials of the environment.
///
/// # Errors
/// Says why it cannot be used.
pub(crate) async fn open_url(url: &str) -> Result<Archive, String> {
    let objects = objects::open(url, process::environment()).await?;
    Ok(Archive::new(objects, url.to_owned()))
}

/// `POST /v1/archive/{partition}`: archives what is in its log now.
pub(crate) fn router(archiver: &Archiver<AnyLog>) -> Router {
    Router::new().route(routes::ARCHIVE.path, post(flush)).with_state(archiver.flusher())
}

async fn flush(State(flusher): State<Flusher<AnyLog>>, Path(partition): Path<String>) -> Response {
    let flushed = match partition.parse() {
        Ok(partition) => flusher.flush(partition).await,
        Err(_) => None,
    };
    let (status, kind, what) = match flushed {
        Some(Ok(sequence)) => {
            return axum::Json(Archived { archived: sequence }).into_response();
        }
        Some(Err(Halt::Later(why))) => (StatusCode::SERVICE_UNAVAILABLE, "not_archived", why),
        Some(Err(Halt::ForGood(why))) => (StatusCode::CONFLICT, "archive_halted", why),
        None => (StatusCode::NOT_FOUND, "not_found", "there is no such partition".to_owned()),
    };
    Refusal::new(status, kind, what).into_response()
}
