//! The log of this process: segments in the data directory, or streams on NATS.

use bytes::Bytes;
use eventlog::jetstream::{JetStreamConfig, JetStreamLog, JetStreamReader};
use eventlog::{
    Delivered, Identity, LocalLog, LocalLogConfig, LocalReader, Log, LogError, Message, Position,
    Reader,
};

use crate::data::{DataDir, Deployment};
use crate::deployment;
use crate::failure::Failure;
use crate::settings::Settings;

/// Either log.
#[derive(Debug)]
pub(crate) enum AnyLog {
    Local(LocalLog),
    Nats(JetStreamLog),
}

/// Its reader.
#[derive(Debug)]
pub(crate) enum AnyReader {
    Local(LocalReader),
    Nats(Box<JetStreamReader>),
}

impl AnyLog {
    /// Opens what the settings name.
    ///
    /// # Errors
    /// Says what is damaged, away or of another deployment, and where.
    pub(crate) async fn open(
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
            deployment::warn_if_lax(settings).await;
            let config = deployment::nats(settings, "up", deployment.partitions)?;
            let open = || JetStreamLog::open(&config, Some(identity));
            let (log, new) = deployment::patiently(open).await?;
            tracing::info!(url = config.url, new, "the log is on NATS");
            (Self::Nats(log), config.url)
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

    /// The log of a deployment on NATS: it must be there, and the one that belongs to it.
    ///
    /// # Errors
    /// As [`AnyLog::open`].
    pub(crate) async fn of_deployment(
        config: &JetStreamConfig,
        fixed: &Deployment,
    ) -> Result<Self, Failure> {
        let config = JetStreamConfig { partitions: fixed.partitions, ..config.clone() };
        let (log, _) = deployment::patiently(|| JetStreamLog::open(&config, None)).await?;
        if Some(log.identity()) != fixed.log_identity() {
            return Err(Failure::data(format!(
                "{}: the log's streams are not those of deployment {}",
                config.url, fixed.deployment
            )));
        }
        Ok(Self::Nats(log))
    }

    /// Takes no more appends, and blocks until those that wait are durable.
    pub(crate) fn close(&self) {
        match self {
            Self::Local(log) => log.close(),
            // An append there ends with its acknowledgement.
            Self::Nats(_) => {}
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

    async fn last(&self, partition: u16) -> Result<Option<Bytes>, LogError> {
        match self {
            Self::Local(log) => log.last(partition).await,
            Self::Nats(log) => log.last(partition).await,
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
