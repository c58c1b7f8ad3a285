//! The work queue between edges and collectors: the stream `EDGE`.
//!
//! An edge puts a batch in, and forgets it when the server has it durably. Collectors share the batches; one
//! is deleted when the collector that took it says that every partition has it. Nothing expires: a batch
//! waits until a collector comes. Order is not kept, and a batch may be delivered more than once; readers
//! of the log recognise it by its number.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use async_nats::jetstream::consumer::{self, AckPolicy, pull};
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::{AckKind, PublishMessage};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, State, StorageType};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::time::{Interval, MissedTickBehavior};

use super::connect::{self, JetStreamConfig, OpenError};
use super::headerless::{Deliveries, Delivery};
use super::{failed, unavailable};
use crate::log::LogError;

/// The one consumer that all collectors share.
const COLLECTORS: &str = "collectors";
/// A batch that was taken and neither acknowledged nor given back is delivered again after this.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// The most batches that are delivered and not acknowledged, for all collectors together. A batch that is
/// given back keeps its place among them, so there are places for all that a thousand edges may have in the
/// queue.
const TAKEN_MAX: i64 = 1 << 20;
/// The most batches of one edge in the queue; further ones wait in the edge's own outbox. Without this bound
/// the batches of a few edges, given back again and again, could fill all places of [`TAKEN_MAX`], and the
/// disk that the log lies on as well.
const EDGE_MESSAGES_MAX: i64 = 1_024;
/// The largest batch that the queue takes, in bytes. An edge seals none that is larger
/// (`shared::limits::BATCH_BYTES_MAX`). Without this bound a sender could make the server write a MiB each
/// time, and wait for its disk, for a batch that a collector then refuses.
pub const EDGE_BATCH_BYTES_MAX: usize = 400 << 10;
/// A mark in the stream's metadata: collectors can read several batches in one message. `countersign init`
/// sets it, of a build whose collectors can; without the mark an edge puts each batch in by itself.
const BUNDLES: (&str, &str) = ("countersign.bundles", "1");
/// How long a taker that closes waits for messages that are on their way to it …
const CLOSE_SILENT: Duration = Duration::from_millis(100);
/// … and after how long these are delivered again, to other takers.
const CLOSE_BACK_AFTER: Duration = Duration::from_millis(500);
/// How often the queue is checked for batches that are delivered to nobody: nats-server has been seen to
/// lose track of batches whose neighbours were purged while they were being delivered.
const STUCK_EVERY: Duration = Duration::from_secs(60);

/// The queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EdgeQueue {
    context: Context,
    config: Arc<JetStreamConfig>,
    takes_bundles: bool,
}

/// A message that was taken from the queue, and has to be answered.
#[derive(Debug)]
pub struct Taken {
    /// The edge that put it in: the last word of its subject. The server lets nobody else publish to it.
    pub edge: String,
    /// The payload as it was put in.
    pub batch: Bytes,
    queue: EdgeQueue,
    /// The subject to which the answer goes, over the queue's own connection and not the one over which
    /// the message came.
    reply: Subject,
}

/// One of several takers of batches, with a connection of its own ([`super::headerless`]).
pub struct Taker {
    queue: EdgeQueue,
    deliveries: Option<Deliveries>,
    stuck_checks: Interval,
    /// The first sequence that seemed to be stuck at the last check.
    stuck_from: Option<u64>,
}

impl std::fmt::Debug for Taker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Taker").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl EdgeQueue {
    /// Connects and opens the stream; with `make`, creates it when it is missing, and sets the bounds of this
    /// build when an earlier one has created it.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Foreign`] when the stream is missing and not to be created, or is no work
    /// queue.
    pub async fn open(config: &JetStreamConfig, make: bool) -> Result<Self, OpenError> {
        let (context, _) = connect::context(config).await?;
        let name = stream_name(&config.prefix);
        let found = connect::find_stream(&context, &name).await;
        let found = found.map_err(|why| OpenError::Away { url: config.url.clone(), why })?;
        let is_marked =
            |found: &Config| found.metadata.get(BUNDLES.0).is_some_and(|on| on == BUNDLES.1);
        let takes_bundles =
            make || found.as_ref().is_some_and(|s| is_marked(&s.cached_info().config));
        match found {
            Some(stream) => {
                connect::warn_of_few_copies(config, stream.cached_info());
                let retention = stream.cached_info().config.retention;
                if retention != RetentionPolicy::WorkQueue {
                    return Err(OpenError::Foreign(format!(
                        "the stream {name} is no work queue ({retention:?}): Countersign did not \
                         make it"
                    )));
                }
                update_bounds(config, &context, stream.cached_info().config.clone(), make).await?;
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
                    duplicate_window: Duration::from_millis(100),
                    ..Config::default()
                };
                context.create_stream(with_bounds(wanted)).await.map_err(|error| {
                    connect::cannot_make(config, &format!("the stream {name}"), &error)
                })?;
            }
        }
        Ok(Self { context, config: Arc::new(config.clone()), takes_bundles })
    }

    /// Whether a message may have several batches.
    #[must_use]
    pub const fn takes_bundles(&self) -> bool {
        self.takes_bundles
    }

    /// Puts a batch in; the server has it durably when this returns `Ok`. `edge` is one word of
    /// letters, digits, `_` and `-`.
    ///
    /// # Errors
    /// As [`crate::Log::append`]: the batch may be in the queue all the same.
    pub async fn put(&self, edge: &str, batch: Bytes) -> Result<(), LogError> {
        if batch.len() > self.context.client().max_payload().min(EDGE_BATCH_BYTES_MAX) {
            return Err(LogError::TooLarge { bytes: batch.len() as u64, records: 1 });
        }
        let subject = format!("{}countersign.edge.{edge}", self.config.prefix);
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
        let subject = format!("STREAM.INFO.{}", stream_name(&self.config.prefix));
        let answer: serde_json::Value =
            self.context.request(subject, &()).await.map_err(unavailable)?;
        let time = answer["ts"].as_str().and_then(|ts| ts.parse::<jiff::Timestamp>().ok());
        let time = time.ok_or_else(|| unavailable("the server does not say what time it is"))?;
        Ok(u64::try_from(time.as_millisecond()).unwrap_or(0))
    }

    /// Tells an edge how many ms its clock is ahead. Only an edge that is listening now gets it; it is not
    /// stored.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn tell_clock_ahead(&self, edge: &str, ms: u64) -> Result<(), LogError> {
        let payload = Bytes::copy_from_slice(&ms.to_le_bytes());
        let subject = clock_subject(&self.config.prefix, edge);
        self.context.client().publish(subject, payload).await.map_err(unavailable)
    }

    /// Listens to what [`EdgeQueue::tell_clock_ahead`] tells an edge from now on.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn clock_ahead_ms(
        &self,
        edge: &str,
    ) -> Result<impl futures::Stream<Item = u64> + Send + use<>, LogError> {
        let subject = clock_subject(&self.config.prefix, edge);
        let told = self.context.client().subscribe(subject).await.map_err(unavailable)?;
        Ok(told.filter_map(|message| {
            let ms = message.payload.first_chunk().copied().map(u64::from_le_bytes);
            std::future::ready(ms)
        }))
    }

    /// Waits until answers to batches have been sent to the server. A process calls this before it ends.
    pub async fn flush(&self) {
        if let Err(error) = self.context.client().flush().await {
            tracing::debug!(%error, "what was given back may come late");
        }
    }

    /// Number of messages in the queue, with those that are taken and not acknowledged.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn depth(&self) -> Result<u64, LogError> {
        Ok(self.state().await?.messages)
    }

    async fn state(&self) -> Result<State, LogError> {
        let name = stream_name(&self.config.prefix);
        let found =
            connect::find_stream(&self.context, &name).await.map_err(LogError::Unavailable)?;
        let stream = found.ok_or_else(|| unavailable(format_args!("no stream {name}")))?;
        Ok(stream.cached_info().state.clone())
    }

    /// A further taker.
    #[must_use]
    pub fn taker(&self) -> Taker {
        let mut stuck_checks = tokio::time::interval(STUCK_EVERY);
        stuck_checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Taker { queue: self.clone(), deliveries: None, stuck_checks, stuck_from: None }
    }

    async fn consumer_info(&self) -> Result<consumer::Info, LogError> {
        let name = stream_name(&self.config.prefix);
        let stream = self.context.get_stream_no_info(&name).await.map_err(unavailable)?;
        stream.consumer_info(COLLECTORS).await.map_err(unavailable)
    }

    /// The first message that seems to be stuck: it lies in the stream, though the consumer says that it has
    /// delivered everything and waits for no answer. Nobody would ever get it.
    async fn stuck_from(&self) -> Result<Option<u64>, LogError> {
        let info = self.consumer_info().await?;
        if info.num_pending > 0 || info.num_ack_pending > 0 {
            return Ok(None);
        }
        let state = self.state().await?;
        let is_behind = state.first_sequence <= info.delivered.stream_sequence;
        Ok(Some(state.first_sequence).filter(|_| state.messages > 0 && is_behind))
    }

    /// Deletes the consumer. The next `subscribe` creates it anew, and it delivers all that lies in the stream.
    async fn recreate_consumer(&self) -> Result<(), LogError> {
        let name = stream_name(&self.config.prefix);
        tracing::warn!("batches lie in the queue that nobody is given: its consumer is made anew");
        let subject = format!("CONSUMER.DELETE.{name}.{COLLECTORS}");
        let answer = self.context.request::<_, _, serde_json::Value>(subject, &()).await;
        answer.map(drop).map_err(unavailable)
    }

    async fn subscribe(&self) -> Result<Deliveries, LogError> {
        let name = stream_name(&self.config.prefix);
        let stream = self.context.get_stream_no_info(&name).await.map_err(unavailable)?;
        let wanted = pull::Config {
            durable_name: Some(COLLECTORS.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: TAKEN_MAX,
            ..pull::Config::default()
        };
        let found = stream.get_consumer::<pull::Config>(COLLECTORS).await;
        match found {
            Ok(found) if found.cached_info().config.max_ack_pending == TAKEN_MAX => {}
            // There is no consumer yet, or an earlier build has created it, with fewer places.
            _ => drop(stream.create_consumer(wanted).await.map_err(unavailable)?),
        }
        let inbox = self.context.client().new_inbox();
        Deliveries::start(&self.config, &inbox, &name, COLLECTORS).await.map_err(unavailable)
    }
}

impl Taker {
    /// Takes no more, and gives back messages that were delivered and not taken. Without this, other takers
    /// would get them only after some 30 seconds.
    pub async fn close(mut self) {
        let Some(mut deliveries) = self.deliveries.take() else { return };
        deliveries.close();
        while let Ok(Ok(given)) = tokio::time::timeout(CLOSE_SILENT, deliveries.next()).await {
            let taken = Taken::new(&self.queue, given);
            // The delay is longer than this taker stays.
            if let Err(error) = taken.again(CLOSE_BACK_AFTER).await {
                tracing::debug!(edge = taken.edge, %error, "not given back; it comes again");
            }
        }
    }

    /// The next message; waits for one. Cancel-safe.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: call it again, a little later.
    pub async fn next(&mut self) -> Result<Taken, LogError> {
        loop {
            let deliveries = match &mut self.deliveries {
                Some(deliveries) => deliveries,
                none => none.insert(self.queue.subscribe().await?),
            };
            let given = tokio::select! {
                given = deliveries.next() => given,
                _ = self.stuck_checks.tick() => {
                    self.check_stuck().await?;
                    continue;
                }
            };
            return given.map(|given| Taken::new(&self.queue, given)).map_err(|why| {
                self.deliveries = None;
                unavailable(why)
            });
        }
    }

    /// When the same message is stuck at two checks in a row, has the consumer created anew. A single check
    /// may have seen a delivery that was just under way.
    async fn check_stuck(&mut self) -> Result<(), LogError> {
        let before = self.stuck_from.take();
        let now = self.queue.stuck_from().await?;
        if now.is_some() && now == before {
            self.deliveries = None;
            return self.queue.recreate_consumer().await;
        }
        self.stuck_from = now;
        Ok(())
    }
}

impl Taken {
    fn new(queue: &EdgeQueue, given: Delivery) -> Self {
        let edge = given.subject.rsplit('.').next().unwrap_or_default().to_owned();
        Self { edge, batch: given.payload, queue: queue.clone(), reply: given.reply.into() }
    }

    /// How often it was delivered, with this time; 1 when the server does not say.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        let words: Vec<&str> = self.reply.split('.').collect();
        // The subject has the words `$JS`, `ACK`, in newer servers a domain and an account, then stream,
        // consumer, and the number of deliveries.
        let at = if words.len() > 9 { 6 } else { 4 };
        words.get(at).and_then(|word| word.parse().ok()).unwrap_or(1)
    }

    /// Says that it need not be kept: every partition has it, or it is with the dead letters. Returns when
    /// the server has confirmed that it is deleted.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: it may be delivered again.
    pub async fn done(&self) -> Result<(), LogError> {
        let client = self.queue.context.client();
        let done = client.request(self.reply.clone(), AckKind::Ack.into());
        done.await.map(drop).map_err(unavailable)
    }

    /// Waits for `work` on it, however long that takes. The server is told again and again that the work goes
    /// on, and delivers it to nobody else.
    pub async fn while_it_lasts<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        // Reports three times within the server's patience, so one lost report does no harm.
        loop {
            match tokio::time::timeout(ACK_WAIT / 3, &mut work).await {
                Ok(done) => return done,
                // If the server never gets it, the batch is delivered again, and its number is known then.
                Err(_) => drop(self.tell(AckKind::Progress).await),
            }
        }
    }

    /// Gives it back: it is delivered again, to any taker, after this time.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: it is then delivered again after some 30 seconds.
    pub async fn again(&self, after: Duration) -> Result<(), LogError> {
        self.tell(AckKind::Nak(Some(after))).await
    }

    async fn tell(&self, what: AckKind) -> Result<(), LogError> {
        let client = self.queue.context.client();
        client.publish(self.reply.clone(), what.into()).await.map_err(unavailable)
    }
}

/// The config with this build's bounds on what one edge may put in, unless the operator has set other ones,
/// and with the mark [`BUNDLES`].
fn with_bounds(config: Config) -> Config {
    let largest = i32::try_from(EDGE_BATCH_BYTES_MAX).unwrap_or(i32::MAX);
    let messages = config.max_messages_per_subject;
    let mut metadata = config.metadata.clone();
    metadata.insert(BUNDLES.0.to_owned(), BUNDLES.1.to_owned());
    Config {
        metadata,
        max_messages_per_subject: if messages > 0 { messages } else { EDGE_MESSAGES_MAX },
        discard_new_per_subject: true,
        max_message_size: if config.max_message_size > 0 {
            config.max_message_size
        } else {
            largest
        },
        ..config
    }
}

/// Sets this build's bounds on a queue that an earlier build has created, so that no edge can fill it.
/// Without `make` it only warns.
async fn update_bounds(
    config: &JetStreamConfig,
    context: &Context,
    found: Config,
    make: bool,
) -> Result<(), OpenError> {
    let wanted = with_bounds(found.clone());
    if found == wanted {
        return Ok(());
    }
    if !make {
        tracing::warn!(
            stream = found.name,
            "an earlier build has made the queue: an edge may put more into it than it needs, and each batch by \
             itself; `countersign init` mends that, when every collector is of this build"
        );
        return Ok(());
    }
    let updated = context.update_stream(&wanted).await;
    updated.map(drop).map_err(|error| {
        let name = &wanted.name;
        OpenError::Unfit(format!("{}: the stream {name} cannot be bounded: {error}", config.url))
    })
}

/// Whether the server has refused a batch because too many of its edge are in the queue.
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
