//! The work queue between edges and collectors: the stream `EDGE`.
//!
//! An edge puts a batch in and forgets it when the server has it durably; collectors share what is
//! there, and a batch is deleted when one of them says that every partition has it. Nothing ages:
//! a batch waits until a collector comes. Order means nothing here, and a batch may be delivered
//! more than once; its number tells.

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
/// A batch that was taken and neither acknowledged nor given back is given out again after this.
const ACK_WAIT: Duration = Duration::from_secs(30);
/// Batches that are taken and not acknowledged, by all collectors together: those that are given back keep
/// their places, so there are as many as a thousand edges may have in the queue.
const TAKEN_MAX: i64 = 1 << 20;
/// Batches of one edge that may lie in the queue. What it has beyond waits in its own outbox: those that are
/// given back to the queue keep their places among [`TAKEN_MAX`], so that some edges could have all of them,
/// and fill the disk that the log lies on as well.
const EDGE_MESSAGES_MAX: i64 = 1_024;
/// The largest batch that the queue takes. An edge seals none that is larger
/// (`shared::limits::BATCH_BYTES_MAX`); a sender that writes a MiB each time would have the server write,
/// and wait for its disk, for what a collector then refuses.
pub const EDGE_BATCH_BYTES_MAX: usize = 400 << 10;
/// In the metadata of the stream: collectors read several batches in one message. `countersign init` of a
/// build whose collectors do marks it; until then an edge puts each batch in by itself.
const BUNDLES: (&str, &str) = ("countersign.bundles", "1");
/// Who takes no more waits so long for what is on its way to it …
const CLOSE_SILENT: Duration = Duration::from_millis(100);
/// … which is given out again after this.
const CLOSE_BACK_AFTER: Duration = Duration::from_millis(500);
/// How often it is looked whether anything lies in the queue that nobody is given: nats-server has been seen
/// to lose track of batches whose neighbours were purged while they were given out.
const STUCK_EVERY: Duration = Duration::from_secs(60);

/// The queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EdgeQueue {
    context: Context,
    config: Arc<JetStreamConfig>,
    takes_bundles: bool,
}

/// A batch that was taken.
#[derive(Debug)]
pub struct Taken {
    /// Which edge put it in: the last word of its subject, to which the server lets nobody else
    /// publish.
    pub edge: String,
    /// As it was put in.
    pub batch: Bytes,
    queue: EdgeQueue,
    /// Where its answer goes, by the queue's own connection and not by the one that it came by.
    reply: Subject,
}

/// Takes batches, as one of several, over a connection of its own: see [`super::headerless`].
pub struct Taker {
    queue: EdgeQueue,
    deliveries: Option<Deliveries>,
    /// When it is looked whether something is stuck, and from which sequence on something may be.
    stuck_checks: Interval,
    stuck_from: Option<u64>,
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

    /// Whether a message may be several batches.
    #[must_use]
    pub const fn takes_bundles(&self) -> bool {
        self.takes_bundles
    }

    /// Puts a batch in; the server has it durably when this returns `Ok`. `edge` is one word of
    /// letters, digits, `_` and `-`.
    ///
    /// # Errors
    /// As [`crate::Log::append`]: it may be there all the same.
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

    /// Tells an edge how many ms its clock is ahead. It hears of it when it listens; nothing is
    /// kept.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn tell_clock_ahead(&self, edge: &str, ms: u64) -> Result<(), LogError> {
        let payload = Bytes::copy_from_slice(&ms.to_le_bytes());
        let subject = clock_subject(&self.config.prefix, edge);
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
        let subject = clock_subject(&self.config.prefix, edge);
        let told = self.context.client().subscribe(subject).await.map_err(unavailable)?;
        Ok(told.filter_map(|message| {
            let ms = message.payload.first_chunk().copied().map(u64::from_le_bytes);
            std::future::ready(ms)
        }))
    }

    /// What was said of batches that were taken is at the server: a process that ends says so before.
    pub async fn flush(&self) {
        if let Err(error) = self.context.client().flush().await {
            tracing::debug!(%error, "what was given back may come late");
        }
    }

    /// How many batches are in it, those that are taken included.
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

    /// One more that takes.
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

    /// The first message that lies in the stream though the consumer has given out all and waits for no
    /// answer: nobody would ever get it.
    async fn stuck_from(&self) -> Result<Option<u64>, LogError> {
        let info = self.consumer_info().await?;
        if info.num_pending > 0 || info.num_ack_pending > 0 {
            return Ok(None);
        }
        let state = self.state().await?;
        let is_behind = state.first_sequence <= info.delivered.stream_sequence;
        Ok(Some(state.first_sequence).filter(|_| state.messages > 0 && is_behind))
    }

    /// The consumer is made anew, and gives out what lies in the stream.
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
            // There is none, or an earlier build has made it, with fewer places.
            _ => drop(stream.create_consumer(wanted).await.map_err(unavailable)?),
        }
        let inbox = self.context.client().new_inbox();
        Deliveries::start(&self.config, &inbox, &name, COLLECTORS).await.map_err(unavailable)
    }
}

impl Taker {
    /// Takes no more, and gives back what was given meanwhile and nobody has taken: it would wait for this one
    /// until its time is over.
    pub async fn close(mut self) {
        let Some(mut deliveries) = self.deliveries.take() else { return };
        deliveries.close();
        while let Ok(Ok(given)) = tokio::time::timeout(CLOSE_SILENT, deliveries.next()).await {
            let taken = Taken::new(&self.queue, given);
            // Later than this one has gone.
            if let Err(error) = taken.again(CLOSE_BACK_AFTER).await {
                tracing::debug!(edge = taken.edge, %error, "not given back; it comes again");
            }
        }
    }

    /// The next batch; waits for one. Cancel-safe.
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

    /// How often it was given out, this time too; 1 when the server does not say so.
    #[must_use]
    pub fn deliveries(&self) -> u64 {
        let words: Vec<&str> = self.reply.split('.').collect();
        // `$JS.ACK`, in newer servers a domain and an account, then stream, consumer, and this.
        let at = if words.len() > 9 { 6 } else { 4 };
        words.get(at).and_then(|word| word.parse().ok()).unwrap_or(1)
    }

    /// Every partition has it, or it lies with the dead letters: it is deleted, and that is
    /// confirmed.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: it may come again.
    pub async fn done(&self) -> Result<(), LogError> {
        let client = self.queue.context.client();
        let done = client.request(self.reply.clone(), AckKind::Ack.into());
        done.await.map(drop).map_err(unavailable)
    }

    /// Does what is to be done with it, however long that takes: the server hears meanwhile that it is
    /// worked on, and gives it to nobody else.
    pub async fn while_it_lasts<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(ACK_WAIT / 3, &mut work).await {
                Ok(done) => return done,
                // Where the server does not hear it, the batch comes again, and is known.
                Err(_) => drop(self.tell(AckKind::Progress).await),
            }
        }
    }

    /// Not now: it is given out again, to anybody, after so long.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: it then comes again after some 30 seconds.
    pub async fn again(&self, after: Duration) -> Result<(), LogError> {
        self.tell(AckKind::Nak(Some(after))).await
    }

    async fn tell(&self, what: AckKind) -> Result<(), LogError> {
        let client = self.queue.context.client();
        client.publish(self.reply.clone(), what.into()).await.map_err(unavailable)
    }
}

/// With bounds for what one edge may put in, where the operator has set none, and the mark of what may be in it.
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

/// That no edge can fill a queue which an earlier build has made.
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
