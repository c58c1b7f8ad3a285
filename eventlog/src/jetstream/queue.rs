//! The work queue between edges and collectors: the stream `EDGE`.
//!
//! An edge puts a batch in and forgets it when the server has it durably; collectors share what is
//! there, and a batch is deleted when one of them says that every partition has it. Nothing ages:
//! a batch waits until a collector comes. Order means nothing here, and a batch may be delivered
//! more than once; its number tells.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::{AckKind, PublishMessage};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures::StreamExt as _;

use super::open::{self, JetStreamConfig, OpenError};
use super::{failed, unavailable};
use crate::log::LogError;

/// The one consumer that all collectors share.
const COLLECTORS: &str = "collectors";
/// A batch that was taken and neither acknowledged nor given back is given out again after this.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Batches that are taken and not acknowledged, by all collectors together.
const TAKEN_MAX: i64 = 16 << 10;
/// Batches of one edge that may lie in the queue. What it has beyond waits in its own outbox: those that are
/// given back to the queue keep their places among [`TAKEN_MAX`], so that one edge could have all of them,
/// and fill the disk that the log lies on as well.
const EDGE_MESSAGES_MAX: i64 = 1_024;
/// Batches and bytes that a collector asks for at once.
const PORTION_MESSAGES: usize = 256;
const PORTION_BYTES: usize = 8 << 20;
const HEARTBEAT: Duration = Duration::from_secs(1);
const EXPIRES: Duration = Duration::from_secs(30);

/// The queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EdgeQueue {
    context: Context,
    prefix: String,
}

/// A batch that was taken.
#[derive(Debug)]
pub struct Taken {
    /// Which edge put it in: the last word of its subject, to which the server lets nobody else
    /// publish.
    pub edge: String,
    /// As it was put in.
    pub batch: Bytes,
    message: jetstream::Message,
}

/// Takes batches, as one of several.
pub struct Taker {
    queue: EdgeQueue,
    messages: Option<pull::Stream>,
}

impl std::fmt::Debug for Taker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taker").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl EdgeQueue {
    /// Connects, and opens the stream; makes it when it is not there and `make` says so.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Foreign`] when it is not there.
    pub async fn open(config: &JetStreamConfig, make: bool) -> Result<Self, OpenError> {
        let (context, _) = open::context(config).await?;
        let name = stream_name(&config.prefix);
        let found = open::find(&context, &name).await;
        let found = found.map_err(|why| OpenError::Away { url: config.url.clone(), why })?;
        match found {
            Some(stream) => {
                open::warn_of_few_copies(config, stream.cached_info());
                let retention = stream.cached_info().config.retention;
                if retention != RetentionPolicy::WorkQueue {
                    return Err(OpenError::Foreign(format!(
                        "the stream {name} is no work queue ({retention:?}): Countersign did not \
                         make it"
                    )));
                }
                bound(config, &context, stream.cached_info().config.clone(), make).await?;
            }
            None if !make => {
                return Err(OpenError::Foreign(format!(
                    "{}: there is no stream {name}: `countersign init` makes it",
                    config.url
                )));
            }
            None => {
                let wanted = Config {
                    name: name.clone(),
                    subjects: vec![format!("{}countersign.edge.*", config.prefix)],
                    retention: RetentionPolicy::WorkQueue,
                    storage: StorageType::File,
                    num_replicas: config.replicas,
                    max_bytes: config.stream_bytes_max.unwrap_or(-1),
                    discard: DiscardPolicy::New,
                    max_messages_per_subject: EDGE_MESSAGES_MAX,
                    discard_new_per_subject: true,
                    duplicate_window: Duration::from_millis(100),
                    ..Config::default()
                };
                context.create_stream(wanted).await.map_err(|error| {
                    open::cannot_make(config, &format!("the stream {name}"), &error)
                })?;
            }
        }
        Ok(Self { context, prefix: config.prefix.clone() })
    }

    /// Puts a batch in; the server has it durably when this returns `Ok`. `edge` is one word of
    /// letters, digits, `_` and `-`.
    ///
    /// # Errors
    /// As [`crate::Log::append`]: it may be there all the same.
    pub async fn put(&self, edge: &str, batch: Bytes) -> Result<(), LogError> {
        let largest = self.context.client().max_payload();
        if batch.len() > largest {
            return Err(LogError::TooLarge { bytes: batch.len() as u64, records: 1 });
        }
        let subject = format!("{}countersign.edge.{edge}", self.prefix);
        let publish = PublishMessage::build().payload(batch);
        let ack = self.context.send_publish(subject, publish).await;
        let ack = ack.map_err(|error| failed(&error))?;
        ack.await.map(drop).map_err(|error| match is_too_many(&error) {
            true => unavailable(format_args!(
                "{EDGE_MESSAGES_MAX} batches of this edge are in the queue already, and no collector has \
                 taken them"
            )),
            false => failed(&error),
        })
    }

    /// The server's time, ms since 1970.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn server_time_ms(&self) -> Result<u64, LogError> {
        let subject = format!("STREAM.INFO.{}", stream_name(&self.prefix));
        let answer: serde_json::Value =
            self.context.request(subject, &()).await.map_err(unavailable)?;
        let time = answer["ts"].as_str().and_then(|ts| ts.parse::<jiff::Timestamp>().ok());
        let time = time.ok_or_else(|| unavailable("the server does not say what time it is"))?;
        Ok(u64::try_from(time.as_millisecond()).unwrap_or(0))
    }

    /// Tells an edge how many ms its clock is ahead. It hears of it when it listens; nothing is
    /// kept.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn tell_clock_ahead(&self, edge: &str, ms: u64) -> Result<(), LogError> {
        let payload = Bytes::copy_from_slice(&ms.to_le_bytes());
        let subject = clock_subject(&self.prefix, edge);
        self.context.client().publish(subject, payload).await.map_err(unavailable)
    }

    /// What [`EdgeQueue::tell_clock_ahead`] tells an edge from now on.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn clock_ahead_ms(
        &self,
        edge: &str,
    ) -> Result<impl futures::Stream<Item = u64> + Send + use<>, LogError> {
        let subject = clock_subject(&self.prefix, edge);
        let told = self.context.client().subscribe(subject).await.map_err(unavailable)?;
        Ok(told.filter_map(|message| {
            let ms = message.payload.first_chunk().copied().map(u64::from_le_bytes);
            std::future::ready(ms)
        }))
    }

    /// How many batches are in it, those that are taken included.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn depth(&self) -> Result<u64, LogError> {
        let name = stream_name(&self.prefix);
        let found = open::find(&self.context, &name).await.map_err(LogError::Unavailable)?;
        let stream = found.ok_or_else(|| unavailable(format_args!("no stream {name}")))?;
        Ok(stream.cached_info().state.messages)
    }

    /// One more that takes.
    #[must_use]
    pub fn taker(&self) -> Taker {
        Taker { queue: self.clone(), messages: None }
    }

    async fn subscribe(&self) -> Result<pull::Stream, LogError> {
        let name = stream_name(&self.prefix);
        let stream = self.context.get_stream_no_info(&name).await.map_err(unavailable)?;
        let wanted = pull::Config {
            durable_name: Some(COLLECTORS.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: TAKEN_MAX,
            ..pull::Config::default()
        };
        let consumer =
            stream.get_or_create_consumer(COLLECTORS, wanted).await.map_err(unavailable)?;
        let portions = consumer
            .stream()
            .max_messages_per_batch(PORTION_MESSAGES)
            .max_bytes_per_batch(PORTION_BYTES)
            .heartbeat(HEARTBEAT)
            .expires(EXPIRES);
        portions.messages().await.map_err(unavailable)
    }
}

impl Taker {
    /// The next batch; waits for one. Cancel-safe.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: call it again, a little later.
    pub async fn next(&mut self) -> Result<Taken, LogError> {
        if self.messages.is_none() {
            self.messages = Some(self.queue.subscribe().await?);
        }
        let message = match &mut self.messages {
            Some(messages) => messages.next().await,
            None => None,
        };
        match message {
            Some(Ok(message)) => {
                let edge = message.subject.rsplit('.').next().unwrap_or_default().to_owned();
                Ok(Taken { edge, batch: message.payload.clone(), message })
            }
            Some(Err(error)) => {
                self.messages = None;
                Err(unavailable(error))
            }
            None => {
                self.messages = None;
                Err(unavailable("the consumer has ended"))
            }
        }
    }
}

impl Taken {
    /// Every partition has it, or it lies with the dead letters: it is deleted, and that is
    /// confirmed.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: it may come again.
    pub async fn done(&self) -> Result<(), LogError> {
        self.message.double_ack().await.map_err(unavailable)
    }

    /// Does what is to be done with it, however long that takes: the server hears meanwhile that it is
    /// worked on, and gives it to nobody else.
    pub async fn while_it_lasts<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(ACK_WAIT / 3, &mut work).await {
                Ok(done) => return done,
                // Where the server does not hear it, the batch comes again, and is known.
                Err(_) => drop(self.message.ack_with(AckKind::Progress).await),
            }
        }
    }

    /// Not now: it is given out again, to anybody, after so long.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: it then comes again after some 30 seconds.
    pub async fn again(&self, after: Duration) -> Result<(), LogError> {
        self.message.ack_with(AckKind::Nak(Some(after))).await.map_err(unavailable)
    }
}

/// That no edge can fill a queue which an earlier build has made.
async fn bound(
    config: &JetStreamConfig,
    context: &Context,
    found: Config,
    make: bool,
) -> Result<(), OpenError> {
    if found.discard_new_per_subject && found.max_messages_per_subject > 0 {
        return Ok(());
    }
    if !make {
        tracing::warn!(
            stream = found.name,
            "any edge may fill the queue, for an earlier build has made it: `countersign init` bounds it"
        );
        return Ok(());
    }
    let wanted = Config {
        max_messages_per_subject: EDGE_MESSAGES_MAX,
        discard_new_per_subject: true,
        ..found
    };
    let updated = context.update_stream(&wanted).await;
    updated.map(drop).map_err(|error| {
        let name = &wanted.name;
        OpenError::Unfit(format!("{}: the stream {name} cannot be bounded: {error}", config.url))
    })
}

/// Whether the queue refuses a batch because it has too many of the edge.
fn is_too_many(error: &PublishError) -> bool {
    let source = std::error::Error::source(error);
    let error = source.and_then(|source| source.downcast_ref::<jetstream::Error>());
    error.is_some_and(|error| error.to_string().contains("maximum messages per subject exceeded"))
}

fn stream_name(prefix: &str) -> String {
    format!("{prefix}EDGE")
}

fn clock_subject(prefix: &str, edge: &str) -> String {
    format!("{prefix}countersign.clock.{edge}")
}
