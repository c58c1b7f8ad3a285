//! Opens the log of this process: segments in the data directory, or streams on NATS.

use eventlog::jetstream::JetStreamLog;
use eventlog::nats::JetStreamConfig;
use eventlog::{AnyLog, LocalLog, LocalLogConfig, Log as _};

use crate::data::{DataDir, Deployment};
use crate::deployment;
use crate::failure::Failure;
use crate::settings::Settings;

/// Opens what the settings name.
///
/// # Errors
/// When the log is damaged, cannot be reached or belongs to another deployment; says where it is.
pub(crate) async fn open(
    settings: &Settings,
    dir: &DataDir,
    deployment: &Deployment,
) -> Result<AnyLog, Failure> {
    let identity = deployment.log_identity().unwrap_or_default();
    let (log, place) = if settings.eventlog.url.is_empty() {
        let path = dir.path("log");
        let place = path.display().to_string();
        let config = LocalLogConfig::new(&path, deployment.partitions);
        let (log, recovered) = LocalLog::open(&config, identity)
            .map_err(|error| Failure::data(format!("{place}: {error}")))?;
        if let Some(cut) = recovered.cut {
            tracing::warn!(?cut, "the log's last group was not written whole, and is cut off");
        }
        (AnyLog::Local(log), place)
    } else {
        deployment::warn_if_lax(settings).await;
        let config = deployment::nats(settings, "up", deployment.partitions)?;
        let open = || JetStreamLog::open(&config, Some(identity));
        let (log, new) = deployment::patiently(open).await?;
        tracing::info!(url = config.url, new, "the log is on NATS");
        (AnyLog::Nats(log), config.url)
    };
    if log.identity() != identity {
        return Err(Failure::data(format!(
            "{place}: this log is of another deployment, and {} is not its data directory: restore \
             the log that belongs here, or name the directory that belongs to this log with --data",
            settings.data.display()
        )));
    }
    Ok(log)
}

/// Opens the log of a deployment on NATS, which must exist and belong to `fixed`.
///
/// # Errors
/// As [`open`].
pub(crate) async fn open_existing(
    config: &JetStreamConfig,
    fixed: &Deployment,
) -> Result<AnyLog, Failure> {
    let config = JetStreamConfig { partitions: fixed.partitions, ..config.clone() };
    let (log, _) = deployment::patiently(|| JetStreamLog::open(&config, None)).await?;
    if Some(log.identity()) != fixed.log_identity() {
        return Err(Failure::data(format!(
            "{}: the log's streams are not those of deployment {}",
            config.url, fixed.deployment
        )));
    }
    Ok(AnyLog::Nats(log))
}
