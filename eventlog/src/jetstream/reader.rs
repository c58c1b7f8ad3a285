//! Reading a stream in order.
//!
//! Each reader uses a consumer of its own, which the server forgets when it is not used. The reader itself
//! knows the last message that it has given out. Whatever goes wrong (an error, a missed heartbeat, a
//! new connection), it throws the consumer away, compares stream and position as when it was opened, and
//! begins anew after that message. So it never skips a message, and never reads on in a stream that is
//! another one.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::message::Message;
use futures::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;

use super::{Inner, unavailable};
use crate::log::{DEAD, Delivered, LogError, Reader};
use crate::position::{Position, digest};

/// The most messages and bytes of one request to the server. Two such portions may be on their way.
const PORTION_MESSAGES: usize = 256;
const PORTION_BYTES: usize = 8 << 20;
/// The longest pause between two signs of life of the server. When twice this time passes in silence, the
/// reader asks anew; so this is how long events wait when a stream's leader is lost.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// A request that has brought nothing is renewed after this.
const EXPIRES: Duration = Duration::from_secs(30);
/// The server forgets a consumer that was not used for this time.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Reads one partition of a [`super::JetStreamLog`].
#[derive(Debug)]
pub struct JetStreamReader {
    log: Arc<Inner>,
    partition: u16,
    /// Position of the last message that was given out, or that the reader was opened after.
    last: Option<Position>,
    /// While `last` is none: the sequence before the first message to give out.
    before: u64,
    connected: watch::Receiver<u64>,
    /// None: `subscribe` has to be called first.
    messages: Option<Messages>,
}

struct Messages(pull::Stream);

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Messages")
    }
}

impl JetStreamReader {
    pub(super) async fn open(
        log: Arc<Inner>,
        partition: u16,
        after: Option<Position>,
    ) -> Result<Self, LogError> {
        let connected = log.connected.clone();
        let mut reader = Self { log, partition, last: after, before: 0, connected, messages: None };
        reader.subscribe().await?;
        Ok(reader)
    }

    fn sequence(&self) -> u64 {
        self.last.map_or(self.before, |last| last.sequence)
    }

    /// Compares the stream with the position, and begins to receive what follows it.
    async fn subscribe(&mut self) -> Result<(), LogError> {
        // Marked as seen before anything is asked, so that a reconnect in the meantime is not missed.
        self.connected.borrow_and_update();
        let partition = self.partition;
        if let Some(last) = self.last {
            last.check_identity(partition, &self.log.identity)?;
        }
        let stream = self.log.stream(partition).await?;
        let state = &stream.cached_info().state;
        let first = state.first_sequence.max(1);
        if partition == DEAD {
            self.before = first - 1;
        }
        let sequence = self.sequence();
        if state.last_sequence < sequence {
            return Err(LogError::StepBack { partition, sequence, end: state.last_sequence });
        }
        if first > sequence + 1 {
            return Err(LogError::Trimmed { partition, sequence: sequence + 1, first });
        }
        if let Some(last) = self.last {
            let found = self.log.digest_at(&stream, sequence).await?;
            // A trim keeps the last applied message. Where it is gone, the digest cannot be compared.
            let found = found.ok_or(LogError::Trimmed { partition, sequence, first })?;
            last.check_digest(partition, &found)?;
        }
        let consumer = stream
            .create_consumer(pull::Config {
                deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: sequence + 1 },
                ack_policy: AckPolicy::None,
                inactive_threshold: FORGOTTEN_AFTER,
                num_replicas: 1,
                memory_storage: true,
                ..pull::Config::default()
            })
            .await
            .map_err(unavailable)?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(PORTION_MESSAGES)
            .max_bytes_per_batch(PORTION_BYTES)
            .heartbeat(HEARTBEAT)
            .expires(EXPIRES)
            .messages()
            .await
            .map_err(unavailable)?;
        self.messages = Some(Messages(messages));
        Ok(())
    }

    /// Gives a message out; `None` when it is not the next one, so that the reader has to subscribe anew.
    fn take(&mut self, message: Message) -> Option<Delivered> {
        let sequence = message.info().ok()?.stream_sequence;
        if sequence != self.sequence() + 1 {
            return None;
        }
        let payload = message.message.payload;
        let position = Position { identity: self.log.identity, sequence, digest: digest(&payload) };
        self.last = Some(position);
        Some(Delivered { position, payload })
    }
}

impl Reader for JetStreamReader {
    async fn next(&mut self) -> Result<Delivered, LogError> {
        // Each round ends with a message or an error, or subscribes anew. Subscribing finds out why a message
        // was missing: it was trimmed, which is an error, or it is delivered again.
        loop {
            let Some(messages) = &mut self.messages else {
                self.subscribe().await?;
                continue;
            };
            // Either future may be dropped between two polls without losing a message.
            let message = tokio::select! {
                message = messages.0.next() => message,
                // The sender lives as long as the client, so this is never an error.
                Ok(()) = self.connected.changed() => {
                    self.messages = None;
                    continue;
                }
            };
            match message {
                Some(Ok(message)) => match self.take(message) {
                    Some(delivered) => return Ok(delivered),
                    None => self.messages = None,
                },
                Some(Err(error)) => {
                    self.messages = None;
                    return Err(unavailable(error));
                }
                None => {
                    self.messages = None;
                    return Err(unavailable("the consumer has ended"));
                }
            }
        }
    }

    fn try_next(&mut self) -> Result<Option<Delivered>, LogError> {
        if self.connected.has_changed().unwrap_or(true) {
            self.messages = None;
        }
        let Some(messages) = &mut self.messages else {
            return Ok(None);
        };
        // When the message is not the next one, or an error came, the following call of `next` subscribes
        // anew and finds out why.
        let delivered = match messages.0.next().now_or_never() {
            None => return Ok(None),
            Some(Some(Ok(message))) => self.take(message),
            Some(_) => None,
        };
        if delivered.is_none() {
            self.messages = None;
        }
        Ok(delivered)
    }
}
