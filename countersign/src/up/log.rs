//! The log of this process: segments in the data directory, or streams on NATS.

use std::time::Duration;

use eventlog::jetstream::{JetStreamConfig, JetStreamLog, JetStreamReader, OpenError};
use eventlog::{
    Delivered, Identity, LocalLog, LocalLogConfig, LocalReader, Log, LogError, Message, Position,
    Reader,
};

use crate::data::{DataDir, Deployment};
use crate::failure::Failure;
use crate::settings::Settings;

/// A server that does not answer at the start is asked again so often …
const AGAIN_EVERY: Duration = Duration::from_secs(1);
/// … and so many times.
const TRIES_MAX: u32 = 30;

/// Either log.
#[derive(Debug)]
pub(super) enum AnyLog {
    Local(LocalLog),
    Nats(JetStreamLog),
}

/// Its reader.
#[derive(Debug)]
pub(super) enum AnyReader {
    Local(LocalReader),
    Nats(Box<JetStreamReader>),
}

impl AnyLog {
    /// Opens what the settings name.
    ///
    /// # Errors
    /// Says what is damaged, away or of another deployment, and where.
    pub(super) async fn open(
        settings: &Settings,
        dir: &DataDir,
        deployment: &Deployment,
    ) -> Result<Self, Failure> {
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
            (Self::Local(log), place)
        } else {
            let config = nats_config(settings, deployment.partitions);
            (Self::Nats(open_nats(&config, identity).await?), config.url)
        };
        if log.identity() != identity {
            return Err(Failure::data(format!(
                "{place}: this log is of another deployment: restore the one that belongs here, or \
                 use the data directory that belongs to it"
            )));
        }
        Ok(log)
    }

    /// Takes no more appends, and blocks until those that wait are durable.
    pub(super) fn close(&self) {
        match self {
            Self::Local(log) => log.close(),
            // An append there ends with its acknowledgement.
            Self::Nats(_) => {}
        }
    }
}

fn nats_config(settings: &Settings, partitions: u16) -> JetStreamConfig {
    let wanted = &settings.eventlog;
    let path = |text: &str| (!text.is_empty()).then(|| text.into());
    JetStreamConfig {
        credentials: path(&wanted.credentials),
        ca: path(&wanted.ca),
        prefix: wanted.prefix.clone(),
        replicas: wanted.replicas,
        stream_bytes_max: i64::try_from(wanted.stream_bytes_max).ok().filter(|most| *most > 0),
        ..JetStreamConfig::new(&wanted.url, partitions)
    }
}

async fn open_nats(config: &JetStreamConfig, identity: Identity) -> Result<JetStreamLog, Failure> {
    let mut tries = 0;
    loop {
        match JetStreamLog::open(config, Some(identity)).await {
            Ok((log, new)) => {
                tracing::info!(url = config.url, new, "the log is on NATS");
                return Ok(log);
            }
            Err(error) if error.is_retryable() && tries < TRIES_MAX => {
                tries += 1;
                tracing::warn!("{error}; asked again every {} s", AGAIN_EVERY.as_secs());
                tokio::time::sleep(AGAIN_EVERY).await;
            }
            Err(error @ OpenError::Foreign(_)) => return Err(Failure::data(error.to_string())),
            Err(error) => return Err(Failure::usage(format!("eventlog.url: {error}"))),
        }
    }
}

impl Log for AnyLog {
    type Reader = AnyReader;

    async fn append(&self, messages: Vec<Message>) -> Result<Vec<Position>, LogError> {
        match self {
            Self::Local(log) => log.append(messages).await,
            Self::Nats(log) => log.append(messages).await,
        }
    }

    async fn end(&self, partition: u16) -> Result<Option<Position>, LogError> {
        match self {
            Self::Local(log) => log.end(partition).await,
            Self::Nats(log) => log.end(partition).await,
        }
    }

    async fn reader(&self, partition: u16, after: Option<Position>) -> Result<AnyReader, LogError> {
        match self {
            Self::Local(log) => log.reader(partition, after).await.map(AnyReader::Local),
            Self::Nats(log) => {
                log.reader(partition, after).await.map(|reader| AnyReader::Nats(Box::new(reader)))
            }
        }
    }

    async fn trim(&self, applied: &[(u16, u64)]) -> Result<u64, LogError> {
        match self {
            Self::Local(log) => log.trim(applied).await,
            Self::Nats(log) => log.trim(applied).await,
        }
    }

    fn partitions(&self) -> u16 {
        match self {
            Self::Local(log) => log.partitions(),
            Self::Nats(log) => log.partitions(),
        }
    }

    fn identity(&self) -> Identity {
        match self {
            Self::Local(log) => log.identity(),
            Self::Nats(log) => log.identity(),
        }
    }
}

impl Reader for AnyReader {
    async fn next(&mut self) -> Result<Delivered, LogError> {
        match self {
            Self::Local(reader) => reader.next().await,
            Self::Nats(reader) => reader.next().await,
        }
    }

    fn try_next(&mut self) -> Result<Option<Delivered>, LogError> {
        match self {
            Self::Local(reader) => reader.try_next(),
            Self::Nats(reader) => reader.try_next(),
        }
    }
}
