//! The work queue between edges and collectors: the stream `EDGE`.
//!
//! An edge puts a batch in and forgets it when the server has it durably; collectors share what is
//! there, and a batch is deleted when one of them says that every partition has it. Nothing ages:
//! a batch waits until a collector comes. Order means nothing here, and a batch may be delivered
//! more than once; its number tells.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_nats::Client;
use async_nats::Subject;
use async_nats::jetstream::consumer::{self, AckPolicy, pull};
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::message::{AckKind, PublishMessage};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::open::{self, JetStreamConfig, OpenError};
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
/// Batches and bytes that a collector asks for at once.
const PORTION_MESSAGES: usize = 256;
const PORTION_BYTES: usize = 8 << 20;
/// How often it is looked whether the connection that batches come by lives, and how long that may take.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
const ALIVE_MAX: Duration = Duration::from_secs(5);
/// Every so many times it is looked whether anything lies in the queue that nobody is given: nats-server has
/// been seen to lose track of batches whose neighbours were purged while they were given out.
const STUCK_TICKS: u32 = 12;
/// So many messages are looked at when something is amiss.
const APART_MAX: usize = 4_096;
const HEARTBEAT: Duration = Duration::from_secs(1);
const EXPIRES: Duration = Duration::from_secs(30);

/// The queue. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EdgeQueue {
    context: Context,
    config: Arc<JetStreamConfig>,
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
    message: Delivered,
}

/// How a batch came. It is answered by the queue's own connection, not by the one that it came by.
#[derive(Debug)]
enum Delivered {
    /// And where answers go.
    ByConsumer(Subject),
    /// It was looked for, for no client can read its headers: see [`Taker`].
    Apart(u64),
}

/// Takes batches, as one of several, over a connection of its own.
///
/// NATS lets an edge write headers that are none, and hands them on; the client ends its connection over
/// them, or its task. So whatever is amiss, it is looked for such batches, which the server tells as JSON,
/// and nothing else that the process does with NATS is disturbed.
pub struct Taker {
    queue: EdgeQueue,
    messages: Option<Messages>,
    /// Whether it has to be looked for what cannot be delivered.
    is_amiss: bool,
    apart: VecDeque<Taken>,
    /// When it is looked whether the connection lives, and how often that was.
    looks: Interval,
    ticks: u32,
    /// From which sequence on something may be stuck.
    stuck_from: Option<u64>,
}

/// What its connection brings.
struct Messages {
    client: Client,
    stream: pull::Stream,
    /// How often it has connected: the client does so again by itself, and is given the same once more.
    connected: watch::Receiver<u64>,
}

/// What a taker waits for.
#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
enum Heard {
    Message(Option<Result<jetstream::Message, pull::MessagesError>>),
    /// Its connection.
    Lost,
    Tick,
}

/// Until a connection was lost: it is there again, or its task has ended.
async fn connects_again(connected: &mut watch::Receiver<u64>) {
    let _ = connected.wait_for(|times| *times > 1).await;
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
        Ok(Self { context, config: Arc::new(config.clone()) })
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

    /// How many batches are in it, those that are taken included.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn depth(&self) -> Result<u64, LogError> {
        let name = stream_name(&self.config.prefix);
        let found = open::find(&self.context, &name).await.map_err(LogError::Unavailable)?;
        let stream = found.ok_or_else(|| unavailable(format_args!("no stream {name}")))?;
        Ok(stream.cached_info().state.messages)
    }

    /// One more that takes.
    #[must_use]
    pub fn taker(&self) -> Taker {
        let mut looks = tokio::time::interval(ALIVE_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (queue, apart) = (self.clone(), VecDeque::new());
        Taker { queue, messages: None, is_amiss: true, apart, looks, ticks: 0, stuck_from: None }
    }

    /// Batches whose headers nobody can read: of those that were given out and have no answer, and of the
    /// same edges.
    async fn unreadable(&self) -> Result<VecDeque<Taken>, LogError> {
        let info = self.consumer_info().await?;
        let (mut next, end) = (info.ack_floor.stream_sequence + 1, info.delivered.stream_sequence);
        let mut found = VecDeque::new();
        let mut edges = BTreeSet::new();
        for _ in 0..APART_MAX {
            if next > end {
                break;
            }
            let Some(one) = self.from(next, ">").await? else { break };
            next = one.sequence + 1;
            if !one.is_readable {
                edges.insert(one.subject.clone());
                found.push_back(one);
            }
        }
        // What waits behind it would do the same, one by one.
        for subject in edges {
            for _ in 0..EDGE_MESSAGES_MAX {
                let Some(one) = self.from(next, &subject).await? else { break };
                next = one.sequence + 1;
                if !one.is_readable {
                    found.push_back(one);
                }
            }
        }
        if !found.is_empty() {
            let edges: BTreeSet<_> = found.iter().map(|one| one.subject.as_str()).collect();
            tracing::warn!(?edges, count = found.len(), "batches whose headers are none of NATS");
        }
        Ok(found.into_iter().map(|one| one.taken(self)).collect())
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
        let delivered = info.delivered.stream_sequence;
        let first = self.from(1, ">").await?.map(|one| one.sequence);
        Ok(first.filter(|first| *first <= delivered))
    }

    /// The consumer is made anew, and gives out what lies in the stream.
    async fn begin_anew(&self) -> Result<(), LogError> {
        let name = stream_name(&self.config.prefix);
        tracing::warn!("batches lie in the queue that nobody is given: its consumer is made anew");
        let subject = format!("CONSUMER.DELETE.{name}.{COLLECTORS}");
        let answer = self.context.request::<_, _, serde_json::Value>(subject, &()).await;
        answer.map(drop).map_err(unavailable)
    }

    /// The first message from a sequence on.
    async fn from(&self, sequence: u64, subject: &str) -> Result<Option<Apart>, LogError> {
        let name = stream_name(&self.config.prefix);
        let wanted = serde_json::json!({ "seq": sequence, "next_by_subj": subject });
        let answer: serde_json::Value = self
            .context
            .request(format!("STREAM.MSG.GET.{name}"), &wanted)
            .await
            .map_err(unavailable)?;
        let message = &answer["message"];
        let Some(sequence) = message["seq"].as_u64() else { return Ok(None) };
        let bytes = |field: &str| {
            let text = message[field].as_str().unwrap_or_default();
            STANDARD.decode(text).unwrap_or_default()
        };
        let (headers, data) = (bytes("hdrs"), bytes("data"));
        Ok(Some(Apart {
            sequence,
            subject: message["subject"].as_str().unwrap_or_default().to_owned(),
            is_readable: are_headers(&headers),
            bytes: [headers, data].concat().into(),
        }))
    }

    /// Deletes a message; one that is gone is as good. Where it is given out it is acknowledged first, as
    /// whoever had got it would: a server that deletes what is given out has been seen to lose track of its
    /// neighbours.
    async fn delete(&self, sequence: u64) -> Result<(), LogError> {
        let name = stream_name(&self.config.prefix);
        let reply = format!("$JS.ACK.{name}.{COLLECTORS}.1.{sequence}.{sequence}.0.0");
        let client = self.context.client();
        client.publish(reply, AckKind::Ack.into()).await.map_err(unavailable)?;
        let wanted = serde_json::json!({ "seq": sequence, "no_erase": true });
        let subject = format!("STREAM.MSG.DELETE.{name}");
        let answer = self.context.request::<_, _, serde_json::Value>(subject, &wanted).await;
        answer.map(drop).map_err(unavailable)
    }

    async fn subscribe(&self) -> Result<Messages, LogError> {
        let name = stream_name(&self.config.prefix);
        let (context, connected) = open::context(&self.config).await.map_err(unavailable)?;
        let stream = context.get_stream_no_info(&name).await.map_err(unavailable)?;
        let wanted = pull::Config {
            durable_name: Some(COLLECTORS.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: TAKEN_MAX,
            ..pull::Config::default()
        };
        let found = stream.get_consumer::<pull::Config>(COLLECTORS).await;
        let consumer = match found {
            Ok(found) if found.cached_info().config.max_ack_pending == TAKEN_MAX => found,
            // There is none, or an earlier build has made it, with fewer places.
            _ => stream.create_consumer(wanted).await.map_err(unavailable)?,
        };
        let portions = consumer
            .stream()
            .max_messages_per_batch(PORTION_MESSAGES)
            .max_bytes_per_batch(PORTION_BYTES)
            .heartbeat(HEARTBEAT)
            .expires(EXPIRES);
        let stream = portions.messages().await.map_err(unavailable)?;
        Ok(Messages { client: context.client(), stream, connected })
    }
}

impl Taker {
    /// The next batch; waits for one. Cancel-safe.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: call it again, a little later.
    pub async fn next(&mut self) -> Result<Taken, LogError> {
        loop {
            if self.is_amiss && self.messages.is_none() && self.apart.is_empty() {
                // There is no consumer before the first collector has made it.
                self.apart = self.queue.unreadable().await.unwrap_or_default();
            }
            if let Some(apart) = self.apart.pop_front() {
                return Ok(apart);
            }
            let messages = match &mut self.messages {
                Some(messages) => messages,
                none => none.insert(self.queue.subscribe().await?),
            };
            self.is_amiss = false;
            let heard = tokio::select! {
                message = messages.stream.next() => Heard::Message(message),
                () = connects_again(&mut messages.connected) => Heard::Lost,
                _ = self.looks.tick() => Heard::Tick,
            };
            let message = match heard {
                Heard::Message(message) => message,
                Heard::Lost => {
                    (self.messages, self.is_amiss) = (None, true);
                    continue;
                }
                Heard::Tick => {
                    // A client whose task has panicked over what it read is silent for ever.
                    let alive = tokio::time::timeout(ALIVE_MAX, messages.client.flush()).await;
                    if !matches!(alive, Ok(Ok(()))) {
                        (self.messages, self.is_amiss) = (None, true);
                        continue;
                    }
                    self.ticks += 1;
                    if self.ticks.is_multiple_of(STUCK_TICKS) {
                        self.look_for_stuck().await?;
                    }
                    continue;
                }
            };
            let why = match message {
                Some(Ok(message)) => match Taken::new(&self.queue, &message) {
                    Some(taken) => return Ok(taken),
                    None => continue,
                },
                Some(Err(error)) => unavailable(error),
                None => unavailable("the consumer has ended"),
            };
            (self.messages, self.is_amiss) = (None, true);
            return Err(why);
        }
    }

    async fn look_for_stuck(&mut self) -> Result<(), LogError> {
        let before = self.stuck_from.take();
        let now = self.queue.stuck_from().await?;
        if now.is_some() && now == before {
            self.messages = None;
            return self.queue.begin_anew().await;
        }
        self.stuck_from = now;
        Ok(())
    }
}

impl Taken {
    /// None of what cannot be answered, which the server gives out no more.
    fn new(queue: &EdgeQueue, message: &jetstream::Message) -> Option<Self> {
        let edge = message.subject.rsplit('.').next().unwrap_or_default().to_owned();
        let (queue, batch) = (queue.clone(), message.payload.clone());
        Some(Self { edge, batch, queue, message: Delivered::ByConsumer(message.reply.clone()?) })
    }

    /// Every partition has it, or it lies with the dead letters: it is deleted, and that is
    /// confirmed.
    ///
    /// # Errors
    /// [`LogError::Unavailable`]: it may come again.
    pub async fn done(&self) -> Result<(), LogError> {
        let client = self.queue.context.client();
        match &self.message {
            Delivered::ByConsumer(reply) => {
                let done = client.request(reply.clone(), AckKind::Ack.into());
                done.await.map(drop).map_err(unavailable)
            }
            Delivered::Apart(sequence) => self.queue.delete(*sequence).await,
        }
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
        match &self.message {
            Delivered::ByConsumer(reply) => {
                let client = self.queue.context.client();
                client.publish(reply.clone(), what.into()).await.map_err(unavailable)
            }
            // It is found again.
            Delivered::Apart(_) => Ok(()),
        }
    }
}

/// A message that was looked for.
struct Apart {
    sequence: u64,
    subject: String,
    is_readable: bool,
    /// Its headers and what follows them.
    bytes: Bytes,
}

impl Apart {
    fn taken(self, queue: &EdgeQueue) -> Taken {
        let Self { sequence, subject, bytes, .. } = self;
        let edge = subject.rsplit('.').next().unwrap_or_default().to_owned();
        Taken { edge, batch: bytes, queue: queue.clone(), message: Delivered::Apart(sequence) }
    }
}

/// Whether these are headers as our edges write them, if any: stricter than any client is.
fn are_headers(bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return true;
    }
    let text = std::str::from_utf8(bytes).ok();
    let body = text.and_then(|text| text.strip_prefix("NATS/1.0\r\n")?.strip_suffix("\r\n\r\n"));
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_value = |value: &str| value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    let is_header = |line: &str| {
        line.split_once(':').is_some_and(|(name, value)| is_name(name) && is_value(value))
    };
    body.is_some_and(|body| body.split("\r\n").all(is_header))
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
