//! Either log: segments on a local disk, or streams on NATS.

use bytes::Bytes;

use crate::jetstream::{JetStreamLog, JetStreamReader};
use crate::{Delivered, Identity, LocalLog, LocalReader, Log, LogError, Message, Position, Reader};

/// One of the two logs.
#[derive(Debug)]
pub enum AnyLog {
    /// Segments on a local disk.
    Local(LocalLog),
    /// Streams on NATS.
    Nats(JetStreamLog),
}

/// A reader of an [`AnyLog`].
#[derive(Debug)]
pub enum AnyReader {
    /// Of segments.
    Local(LocalReader),
    /// Of a stream.
    Nats(Box<JetStreamReader>),
}

impl AnyLog {
    /// Closes a local log: it takes no more appends, and this blocks until the waiting ones are durable.
    /// Does nothing on NATS, where each append waits for its own acknowledgement.
    pub fn close(&self) {
        match self {
            Self::Local(log) => log.close(),
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
