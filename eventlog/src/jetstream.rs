//! The log on NATS JetStream: one stream per partition, and one for dead letters.
//!
//! The server is trusted for order and durability (with `sync_interval: always`). It is not trusted for
//! dedup, nor to be the same server, with the same data, after a reconnect: each stream carries the log's
//! identity in its metadata, and readers compare identity and digest whenever they connect anew
//! ([`reader`]).
//!
//! Streams have no age limit. Only [`Log::trim`] removes messages; those that are not applied stay,
//! however old they are. A purge keeps the last applied message, so that its digest can be compared.

mod open;
mod reader;

use std::sync::Arc;

use async_nats::jetstream::Context;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{Info, Stream};
use bytes::Bytes;
use shared::text::hex;
use tokio::sync::{OwnedMutexGuard, watch};

pub use reader::JetStreamReader;

use crate::log::{DEAD, Log, LogError, Message, PositionPart, check_partition};
use crate::nats::connect::{HEADROOM_BYTES, find_stream};
use crate::nats::{failed, unavailable};
use crate::position::{Identity, Position, digest};

/// A [`Log`] on a NATS server or cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub struct JetStreamLog {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    context: Context,
    prefix: String,
    identity: Identity,
    partitions: u16,
    /// Counts the times that the client has connected.
    connected: watch::Receiver<u64>,
    /// Held while the messages of one append are handed to the connection, so that no other append comes
    /// between them.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl JetStreamLog {
    fn check_partition(&self, partition: u16) -> Result<(), LogError> {
        check_partition(partition, self.inner.partitions)
    }
}

impl Log for JetStreamLog {
    type Reader = JetStreamReader;

    async fn append(&self, messages: Vec<Message>) -> Result<Vec<Position>, LogError> {
        let largest = self.inner.context.client().max_payload().saturating_sub(HEADROOM_BYTES);
        for message in &messages {
            self.check_partition(message.partition)?;
            if message.payload.len() > largest {
                let bytes = message.payload.len() as u64;
                return Err(LogError::TooLarge { bytes, records: messages.len() });
            }
        }
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        // In a task of its own, so that an append is not cut in two when the caller's future is dropped.
        let inner = Arc::clone(&self.inner);
        let turn = Arc::clone(&inner.turn).lock_owned().await;
        let append = tokio::spawn(async move { inner.publish(&messages, turn).await });
        append.await.unwrap_or_else(|error| Err(LogError::Unavailable(error.to_string())))
    }

    async fn end(&self, partition: u16) -> Result<Option<Position>, LogError> {
        self.check_partition(partition)?;
        let stream = self.inner.stream(partition).await?;
        let state = &stream.cached_info().state;
        let sequence = state.last_sequence;
        if sequence == 0 {
            return Ok(None);
        }
        match self.inner.digest_at(&stream, sequence).await? {
            Some(digest) => Ok(Some(Position { identity: self.inner.identity, sequence, digest })),
            None => {
                Err(LogError::Trimmed { partition, sequence, first: state.first_sequence.max(1) })
            }
        }
    }

    async fn last(&self, partition: u16) -> Result<Option<Bytes>, LogError> {
        self.check_partition(partition)?;
        let stream = self.inner.stream(partition).await?;
        match stream.cached_info().state.last_sequence {
            0 => Ok(None),
            sequence => self.inner.payload_at(&stream, sequence).await,
        }
    }

    async fn reader(
        &self,
        partition: u16,
        after: Option<Position>,
    ) -> Result<Self::Reader, LogError> {
        self.check_partition(partition)?;
        JetStreamReader::open(Arc::clone(&self.inner), partition, after).await
    }

    async fn trim(&self, applied: &[(u16, u64)]) -> Result<u64, LogError> {
        let mut freed = 0;
        for (partition, applied) in applied {
            self.check_partition(*partition)?;
            let stream = self.inner.stream(*partition).await?;
            let state = &stream.cached_info().state;
            // Everything before this message is purged; it stays itself, for its digest.
            let kept = (*applied).min(state.last_sequence);
            if kept > state.first_sequence.max(1) {
                stream.purge().sequence(kept).await.map_err(unavailable)?;
                let left = stream.get_info().await.map_err(unavailable)?.state.bytes;
                freed += state.bytes.saturating_sub(left);
            }
        }
        Ok(freed)
    }

    fn partitions(&self) -> u16 {
        self.inner.partitions
    }

    fn identity(&self) -> Identity {
        self.inner.identity
    }
}

impl Inner {
    async fn publish(
        &self,
        messages: &[Message],
        turn: OwnedMutexGuard<()>,
    ) -> Result<Vec<Position>, LogError> {
        let mut acks = Vec::with_capacity(messages.len());
        for message in messages {
            let publish = PublishMessage::build().payload(message.payload.clone());
            let publish = match message.partition {
                // A letter that is sent again after a lost answer would be there twice, for letters have no
                // numbers: so the server drops the second by its id. That is safe, for only collectors may
                // write to this stream.
                DEAD => publish.message_id(hex(&digest(&message.payload))),
                _ => publish,
            };
            let subject = subject(&self.prefix, message.partition);
            let ack = self.context.send_publish(subject, publish).await;
            acks.push(ack.map_err(|error| failed(&error))?);
        }
        drop(turn);
        let mut positions = Vec::with_capacity(messages.len());
        for (message, ack) in messages.iter().zip(acks) {
            let ack = ack.await.map_err(|error| failed(&error))?;
            let (identity, digest) = (self.identity, digest(&message.payload));
            positions.push(Position { identity, sequence: ack.sequence, digest });
        }
        Ok(positions)
    }

    /// The stream of a partition, after comparing its identity with the log's.
    async fn stream(&self, partition: u16) -> Result<Stream<Info>, LogError> {
        let mismatch = |found: String| LogError::Mismatch {
            partition,
            part: PositionPart::Identity,
            sequence: 0,
            expected: hex(&self.identity),
            found,
        };
        let name = stream_name(&self.prefix, partition);
        let stream = find_stream(&self.context, &name).await.map_err(LogError::Unavailable)?;
        let stream = stream.ok_or_else(|| mismatch(format!("no stream {name}")))?;
        match open::identity_of(stream.cached_info()) {
            Some(identity) if identity == self.identity => Ok(stream),
            Some(other) => Err(mismatch(hex(&other))),
            None => Err(mismatch(format!("a stream {name} that Countersign did not make"))),
        }
    }

    /// The digest of the message at a sequence; `None` when it was removed.
    async fn digest_at(
        &self,
        stream: &Stream<Info>,
        sequence: u64,
    ) -> Result<Option<[u8; 16]>, LogError> {
        Ok(self.payload_at(stream, sequence).await?.map(|payload| digest(&payload)))
    }

    async fn payload_at(
        &self,
        stream: &Stream<Info>,
        sequence: u64,
    ) -> Result<Option<Bytes>, LogError> {
        use async_nats::jetstream::stream::LastRawMessageErrorKind as Kind;
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(Some(message.payload)),
            Err(error) if matches!(error.kind(), Kind::NoMessageFound) => Ok(None),
            Err(error) => Err(unavailable(error)),
        }
    }
}

fn stream_name(prefix: &str, partition: u16) -> String {
    if partition == DEAD { format!("{prefix}DEAD") } else { format!("{prefix}EVENTS-{partition}") }
}

fn subject(prefix: &str, partition: u16) -> String {
    if partition == DEAD {
        format!("{prefix}countersign.dead")
    } else {
        format!("{prefix}countersign.events.{partition}")
    }
}

#[cfg(test)]
mod tests;
