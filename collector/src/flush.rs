//! The one task that coalesces and appends.
//!
//! One append is on its way at a time, so that appends stay in order; meanwhile the next is
//! gathered, and when that is full too, the queue in front fills up and whoever submits waits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use eventlog::{Log, LogError, Message};
use shared::Clock;
use shared::ambient::Stopwatch;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, warn};

use crate::coalesce::{Coalescer, Flush};
use crate::collector::{Settings, SubmitError};
use crate::metrics::Metrics;
use crate::queue::Place;
use crate::verify::{JudgedBatch, JudgedChunk};

const BACKOFF_FIRST: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What is handed to the task.
pub(crate) enum Item {
    Batch(JudgedBatch, Ticket),
    Chunk(JudgedChunk, Ticket),
}

/// Who waits for an acknowledgement, and the place that is free afterwards.
pub(crate) struct Ticket {
    pub(crate) ack: oneshot::Sender<Result<(), SubmitError>>,
    pub(crate) place: Place,
}

impl Ticket {
    fn resolve(self, result: Result<(), SubmitError>) {
        drop(self.place);
        // Nobody waits any more: the sender has hung up, and will send again.
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
    pub(crate) gather: Coalescer<Ticket>,
}

/// Why an append was given up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// It may have been written; the senders send again.
    Retry(String),
    /// The log cannot be written any more: the process must end.
    Fatal(String),
}

type InFlight = Pin<Box<dyn Future<Output = (Vec<Ticket>, Result<(), GivenUp>)> + Send>>;

impl<L: Log> Flusher<L> {
    /// Runs until all senders of items are gone and what they sent is in the log.
    pub(crate) async fn run(mut self) {
        let window = Duration::from_millis(self.settings.flush_ms);
        let mut timer: Option<Pin<Box<tokio::time::Sleep>>> = None;
        let mut in_flight: Option<InFlight> = None;
        let (mut open, mut overdue) = (true, false);
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
                (tickets, result) = ready(&mut in_flight) => {
                    in_flight = None;
                    if !self.resolve(tickets, result) {
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
        match item {
            Item::Batch(batch, ticket) => {
                self.metrics.judged(&batch.rows);
                self.metrics.batches.inc();
                self.gather.batch(&batch, ticket);
            }
            Item::Chunk(chunk, ticket) => {
                self.metrics.judged(&chunk.rows);
                self.metrics.chunks.inc();
                self.gather.chunk(&chunk, ticket);
            }
        }
    }

    fn flush(&mut self) -> InFlight {
        let Flush { messages, acks } = self.gather.finish(self.clock.now());
        let (log, metrics) = (Arc::clone(&self.log), Arc::clone(&self.metrics));
        let retry_for = Duration::from_millis(self.settings.retry_for_ms);
        Box::pin(async move { (acks, append(&*log, messages, &metrics, retry_for).await) })
    }

    /// Acknowledges; false when the task must end.
    fn resolve(&self, tickets: Vec<Ticket>, result: Result<(), GivenUp>) -> bool {
        let (answer, go_on) = match result {
            Ok(()) => (Ok(()), true),
            Err(GivenUp::Retry(why)) => {
                self.metrics.appends_failed.inc();
                warn!(waiting = tickets.len(), "append given up: {why}");
                (Err(SubmitError::Retry(why)), true)
            }
            Err(GivenUp::Fatal(why)) => {
                error!("the log has failed, the process must end: {why}");
                self.fatal.send_replace(Some(why.clone()));
                (Err(SubmitError::Retry(why)), false)
            }
        };
        tickets.into_iter().for_each(|ticket| ticket.resolve(answer.clone()));
        go_on
    }
}

/// Appends the same messages until they are durable, or for `retry_for`. An error does not mean
/// that nothing was written; readers know what they have by the batches' numbers.
pub(crate) async fn append<L: Log>(
    log: &L,
    messages: Vec<Message>,
    metrics: &Metrics,
    retry_for: Duration,
) -> Result<(), GivenUp> {
    let bytes: usize = messages.iter().map(|message| message.payload.len()).sum();
    metrics.flush_bytes.observe(bytes as f64);
    let watch = Stopwatch::start();
    let (mut backoff, mut waited) = (BACKOFF_FIRST, Duration::ZERO);
    loop {
        match log.append(messages.clone()).await {
            Ok(_) => {
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
                let recoverable = error.is_retryable()
                    || matches!(error, LogError::Closed | LogError::TooLarge { .. });
                let kind = if recoverable { GivenUp::Retry } else { GivenUp::Fatal };
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
