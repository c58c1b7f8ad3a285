//! The one task that coalesces and appends.
//!
//! One append runs at a time, so that appends stay in order. Meanwhile the next one is gathered; when
//! that is full too, the queue in front fills up and callers wait.
//!
//! An append may be too large for the log although each item in it would fit, or because one item alone
//! does not fit. It is then cut into halves and each half is tried, down to single items; only an item
//! that is too large alone is refused. So one bad item never fails the others.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use eventlog::{Log, LogError, Message};
use shared::ambient::Stopwatch;
use shared::{Clock, PartitionMap, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, error, warn};

use crate::coalesce::{Coalescer, Flush};
use crate::error::SubmitError;
use crate::metrics::Metrics;
use crate::queue::Permit;
use crate::sender::Refusal;
use crate::settings::Settings;
use crate::verify::{JudgedBatch, JudgedChunk};

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What is handed to the task. It is kept until the log has it, for an append that is too large is cut and
/// coalesced again.
pub(crate) enum Item {
    Batch(Arc<JudgedBatch>, Ticket),
    Chunk(Arc<JudgedChunk>, Ticket),
}

impl Item {
    fn resolve(self, result: Result<(), SubmitError>) {
        let (Self::Batch(_, ticket) | Self::Chunk(_, ticket)) = self;
        ticket.resolve(result);
    }

    fn gather_in(self, gather: &mut Coalescer<Self>) {
        match &self {
            Self::Batch(batch, _) => gather.batch(&Arc::clone(batch), self),
            Self::Chunk(chunk, _) => gather.chunk(&Arc::clone(chunk), self),
        }
    }
}

/// The caller who waits for an acknowledgement, and the permit that is free afterwards.
pub(crate) struct Ticket {
    pub(crate) ack: oneshot::Sender<Result<(), SubmitError>>,
    pub(crate) permit: Permit,
}

impl Ticket {
    fn resolve(self, result: Result<(), SubmitError>) {
        drop(self.permit);
        // This fails when the caller has hung up; its sender sends again.
        let _ = self.ack.send(result);
    }
}

/// The state of the task.
pub(crate) struct Flusher<L> {
    pub(crate) log: Arc<L>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: Settings,
    pub(crate) fatal: watch::Sender<Option<String>>,
    pub(crate) items: mpsc::Receiver<Item>,
    pub(crate) map: PartitionMap,
    pub(crate) gather: Coalescer<Item>,
}

/// Why an append was given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// The messages may have been written; the senders send again.
    Retry(String),
    /// More than the log takes in one append: nothing was written, and trying again would not help.
    TooLarge(String),
    /// The log cannot be written any more: the process must end.
    Fatal(String),
}

/// An append under way; it gives `false` when the log has failed for good.
type InFlight = Pin<Box<dyn Future<Output = bool> + Send>>;

impl<L: Log> Flusher<L> {
    /// Runs until all senders of items are gone and their items are in the log or given up, or until the
    /// log has failed for good.
    pub(crate) async fn run(mut self) {
        let window = Duration::from_millis(self.settings.flush_ms);
        let mut timer: Option<Pin<Box<tokio::time::Sleep>>> = None;
        let mut in_flight: Option<InFlight> = None;
        let (mut open, mut overdue) = (true, false);
        // No item waits for ever: the first one gathered starts the timer, and when that fires, or the size
        // is reached, or nobody can send any more, the flush starts as soon as no append is under way.
        loop {
            let now = overdue || self.gather.is_due() || !open;
            if now && in_flight.is_none() && !self.gather.is_empty() {
                in_flight = Some(self.flush());
                (timer, overdue) = (None, false);
            }
            if !open && in_flight.is_none() && self.gather.is_empty() {
                return;
            }
            tokio::select! {
                go_on = ready(&mut in_flight) => {
                    in_flight = None;
                    if !go_on {
                        return;
                    }
                }
                item = self.items.recv(), if open && !self.gather.is_due() => match item {
                    Some(item) => {
                        if self.gather.is_empty() {
                            timer = Some(Box::pin(tokio::time::sleep(window)));
                        }
                        self.gather(item);
                    }
                    None => open = false,
                },
                () = ready(&mut timer) => (timer, overdue) = (None, true),
            }
        }
    }

    fn gather(&mut self, item: Item) {
        match &item {
            Item::Batch(batch, _) => self.metrics.count_outcomes(&batch.rows),
            Item::Chunk(chunk, _) => self.metrics.count_outcomes(&chunk.rows),
        }
        item.gather_in(&mut self.gather);
    }

    fn flush(&mut self) -> InFlight {
        let stamp = self.clock.now();
        let flush = self.gather.finish(stamp);
        let group = Group {
            log: Arc::clone(&self.log),
            metrics: Arc::clone(&self.metrics),
            retry_for: Duration::from_millis(self.settings.retry_for_ms),
            fatal: self.fatal.clone(),
            map: self.map.clone(),
            stamp,
        };
        Box::pin(group.append(flush))
    }
}

/// Items that go to the log together, and what is needed to coalesce a part of them again.
struct Group<L> {
    log: Arc<L>,
    metrics: Arc<Metrics>,
    retry_for: Duration,
    fatal: watch::Sender<Option<String>>,
    map: PartitionMap,
    stamp: Timestamp,
}

impl<L: Log> Group<L> {
    /// Appends the flush, in as many parts as the log wants, and answers each item. `false` when the log
    /// has failed for good.
    async fn append(self, whole: Flush<Item>) -> bool {
        // A stack whose top is the oldest part, so that items reach the log in their order. The loop ends:
        // a part is appended, refused, given up, or replaced by two smaller ones.
        let mut parts = vec![whole];
        while let Some(Flush { messages, acks: mut items }) = parts.pop() {
            match append(&*self.log, messages, &self.metrics, self.retry_for).await {
                Ok(()) => items.into_iter().for_each(|item| self.acknowledge(item)),
                Err(GivenUp::TooLarge(why)) if items.len() > 1 => {
                    self.metrics.appends_split.inc();
                    debug!(items = items.len(), "it goes in halves: {why}");
                    let rest = items.split_off(items.len() / 2);
                    parts.extend([rest, items].map(|items| self.gather(items)));
                }
                Err(GivenUp::TooLarge(why)) => {
                    items.into_iter().for_each(|item| self.refuse(item, &why));
                }
                // The parts that are left would fail the same way, and have waited long enough.
                Err(GivenUp::Retry(why)) => {
                    let waiting = items.into_iter().chain(parts.drain(..).flat_map(|p| p.acks));
                    self.metrics.appends_failed.inc();
                    let told = waiting.map(|item| item.resolve(Err(retry(&why)))).count();
                    warn!(waiting = told, "append given up: {why}");
                }
                Err(GivenUp::Fatal(why)) => {
                    error!("the log has failed, the process must end: {why}");
                    self.fatal.send_replace(Some(why.clone()));
                    let waiting = items.into_iter().chain(parts.drain(..).flat_map(|p| p.acks));
                    waiting.for_each(|item| item.resolve(Err(retry(&why))));
                    return false;
                }
            }
        }
        true
    }

    fn gather(&self, items: Vec<Item>) -> Flush<Item> {
        let mut gather = Coalescer::new(self.map.clone());
        items.into_iter().for_each(|item| item.gather_in(&mut gather));
        gather.finish(self.stamp)
    }

    fn acknowledge(&self, item: Item) {
        match &item {
            Item::Batch(..) => self.metrics.batches.inc(),
            Item::Chunk(..) => self.metrics.chunks.inc(),
        };
        item.resolve(Ok(()));
    }

    /// Refuses an item that is too large alone.
    fn refuse(&self, item: Item, why: &str) {
        self.metrics.count_refused(Refusal::BatchTooLarge);
        let why = format!("it is larger than what the log takes, by itself: {why}");
        warn!("a batch or chunk is refused: {why}");
        item.resolve(Err(SubmitError::NotAllowed(Refusal::BatchTooLarge, why)));
    }
}

fn retry(why: &str) -> SubmitError {
    SubmitError::Retry(why.to_owned())
}

/// Appends the same messages again and again until they are durable, or the pauses add up to `retry_for`.
/// An error does not mean that nothing was written; readers recognise repeated batches by their numbers.
///
/// # Errors
/// [`GivenUp`].
pub(crate) async fn append<L: Log>(
    log: &L,
    messages: Vec<Message>,
    metrics: &Metrics,
    retry_for: Duration,
) -> Result<(), GivenUp> {
    let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
    let watch = Stopwatch::start();
    let (mut backoff, mut waited) = (BACKOFF_FIRST, Duration::ZERO);
    // The pauses double up to `BACKOFF_MAX` and are added up, so the number of attempts is bounded.
    loop {
        match log.append(messages.clone()).await {
            Ok(_) => {
                metrics.flush_bytes.observe(bytes as f64);
                metrics.flush_seconds.observe(watch.elapsed().as_secs_f64());
                return Ok(());
            }
            Err(error) if error.is_retryable() && waited < retry_for => {
                metrics.append_retries.inc();
                warn!("append failed, trying again: {error}");
                tokio::time::sleep(backoff).await;
                waited += backoff;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
            Err(error) => {
                let kind = match &error {
                    LogError::TooLarge { .. } => GivenUp::TooLarge,
                    LogError::Closed => GivenUp::Retry,
                    error if error.is_retryable() => GivenUp::Retry,
                    _ => GivenUp::Fatal,
                };
                return Err(kind(error.to_string()));
            }
        }
    }
}

/// The future's output when there is one; otherwise waits for ever.
async fn ready<F: Future + ?Sized>(future: &mut Option<Pin<Box<F>>>) -> F::Output {
    match future {
        Some(future) => future.as_mut().await,
        None => std::future::pending().await,
    }
}
