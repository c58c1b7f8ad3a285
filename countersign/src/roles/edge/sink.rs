//! The work queue as the edge's sink: batches that wait at the same time go in as one message.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ::edge::outbox::seal::epoch_of;
use ::edge::outbox::{BatchSink, News, SinkError};
use bytes::Bytes;
use eventlog::LogError;
use eventlog::nats::{EDGE_BATCH_BYTES_MAX, EdgeQueue, JetStreamConfig};
use shared::ambient::Stopwatch;
use shared::limits::{BATCH_BYTES_MAX, BUNDLE_BATCHES_MAX, CLOCK_AHEAD_MS_MAX, EPOCH_AHEAD_MS_MAX};
use shared::wire::bundle;
use tokio::sync::{OnceCell, Semaphore, oneshot, watch};

/// When the queue has taken no batch for this long, although there are some, an error in the log
/// says why.
const TOLD_AFTER: Duration = Duration::from_secs(20);
/// How many messages may be on their way at once. Batches that come meanwhile wait and go together:
/// the lower the number, the larger the messages.
const PUTS: usize = 4;

/// The work queue as a sink. Connects with the first batch, and again as often as it must.
pub(super) struct QueueSink {
    config: JetStreamConfig,
    edge: String,
    queue: OnceCell<EdgeQueue>,
    clock_ahead_ms: watch::Sender<u64>,
    /// The newest epoch that was compared with the server's clock and found right.
    seen_epoch: AtomicU64,
    /// By how much an epoch is ahead of the server's clock, when no collector would take it; else
    /// 0.
    far_ahead_ms: AtomicU64,
    /// Since when the queue takes nothing, and whether the log was told.
    refused: Mutex<Option<(Stopwatch, bool)>>,
    /// Batches that wait to be put in, in the order in which they came …
    waiting: Mutex<VecDeque<Waiting>>,
    /// … and permits for the messages on their way.
    puts: Semaphore,
}

struct Waiting {
    batch: Bytes,
    answer: oneshot::Sender<Result<(), SinkError>>,
}

impl QueueSink {
    pub(super) fn new(config: JetStreamConfig, edge: String) -> Self {
        let clock_ahead_ms = watch::Sender::new(0);
        let (seen_epoch, far_ahead_ms) = (AtomicU64::new(0), AtomicU64::new(0));
        let (queue, refused, waiting) = (OnceCell::new(), Mutex::default(), Mutex::default());
        let puts = Semaphore::new(PUTS);
        Self {
            config,
            edge,
            queue,
            clock_ahead_ms,
            seen_epoch,
            far_ahead_ms,
            refused,
            waiting,
            puts,
        }
    }

    pub(super) fn edge(&self) -> &str {
        &self.edge
    }

    /// Notes what a collector says about this edge's clock; 0: nothing.
    pub(super) fn told_clock_ahead(&self, ms: u64) {
        self.clock_ahead_ms.send_replace(ms);
    }

    pub(super) async fn queue(&self) -> Result<&EdgeQueue, SinkError> {
        let open = || EdgeQueue::open(&self.config, false);
        let queue = self.queue.get_or_try_init(open).await;
        queue.map_err(|error| {
            if !error.is_retryable() {
                tracing::error!("batches wait in the outbox: {error}");
            }
            SinkError::Retry(error.to_string())
        })
    }
}

const _: () =
    assert!(BATCH_BYTES_MAX < EDGE_BATCH_BYTES_MAX, "what an edge seals fits into the queue");

/// How far an epoch may be ahead of the server's clock: a little less than of a collector's,
/// because these two clocks differ as well.
const EPOCH_AHEAD_MS: u64 = EPOCH_AHEAD_MS_MAX - CLOCK_AHEAD_MS_MAX;

impl QueueSink {
    /// Refuses a batch of an epoch that no collector would take: it stays in the outbox, while in
    /// the queue it would end as a dead letter. Asks the server for its time once for each epoch.
    async fn look_at_epoch(&self, queue: &EdgeQueue, batch: &[u8]) -> Result<(), LogError> {
        // A batch that cannot be read is refused by a collector, with the reason.
        let Some(epoch) = epoch_of(batch) else { return Ok(()) };
        if epoch <= self.seen_epoch.load(Ordering::Relaxed) {
            return Ok(());
        }
        let ahead = epoch.saturating_sub(queue.server_time_ms().await?);
        if ahead > EPOCH_AHEAD_MS {
            if self.far_ahead_ms.swap(ahead, Ordering::Relaxed) == 0 {
                tracing::error!(
                    epoch,
                    "the clock is ahead of the NATS server's by {} s: batches wait in the outbox; set it \
                     right, and start this edge again",
                    ahead / 1_000
                );
            }
            let why = format!("the epoch {epoch} is ahead of the server's clock by {ahead} ms");
            return Err(LogError::Unavailable(why));
        }
        self.far_ahead_ms.store(0, Ordering::Relaxed);
        self.seen_epoch.fetch_max(epoch, Ordering::Relaxed);
        Ok(())
    }

    /// Notes whether batches could be put into the queue. A short failure is not reported. One that
    /// lasts is, once: the edge itself goes on and is ready, so an edge under a name that its NATS
    /// user may not use would fill its disk in silence.
    fn note(&self, put: &Result<(), LogError>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(why) = put else {
            *refused = None;
            return;
        };
        let (since, told) = refused.get_or_insert_with(|| (Stopwatch::start(), false));
        if since.elapsed() >= TOLD_AFTER && !std::mem::replace(told, true) {
            tracing::error!(
                edge = self.edge,
                "batches wait in the outbox, none was taken for {} s: {why}. If that lasts, look whether \
                 NATS answers and its disk keeps up, and whether this edge's NATS user may put batches in: \
                 under its own name only (deploy/nats/accounts.conf)",
                since.elapsed().as_secs()
            );
        }
    }
}

impl QueueSink {
    /// Takes the first of those that wait, as many as fit into one message.
    fn take_waiting(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = bundle::HEADER_BYTES;
        let fit = waiting.iter().take(BUNDLE_BATCHES_MAX).take_while(|next| {
            bytes += bundle::LENGTH_BYTES + next.batch.len();
            bytes <= EDGE_BATCH_BYTES_MAX
        });
        let fit = fit.count();
        // A batch alone is no bundle. It is taken even when a bundle with it would be too large:
        // whether the queue takes it, the queue says.
        let count = fit.max(1).min(waiting.len());
        waiting.drain(..count).collect()
    }

    async fn put_one(&self, queue: &EdgeQueue, message: Bytes) -> Result<(), SinkError> {
        let put = queue.put(&self.edge, message).await;
        self.note(&put);
        put.map_err(|error| SinkError::Retry(error.to_string()))
    }

    async fn put(&self, queue: &EdgeQueue, together: Vec<Waiting>) {
        let (batches, answers): (Vec<_>, Vec<_>) =
            together.into_iter().map(|Waiting { batch, answer }| (batch, answer)).unzip();
        let message = match &batches[..] {
            [alone] => alone.clone(),
            several => bundle::join(several).into(),
        };
        let put = self.put_one(queue, message).await;
        for answer in answers {
            // A caller that no longer waits sends the batch again.
            let _ = answer.send(put.clone());
        }
    }
}

impl BatchSink for QueueSink {
    /// Puts a batch in, together with others that wait at the same time: whoever gets a permit
    /// takes along all that wait.
    async fn submit(&self, batch: Bytes) -> Result<(), SinkError> {
        let queue = self.queue().await?;
        if let Err(error) = self.look_at_epoch(queue, &batch).await {
            let retry = SinkError::Retry(error.to_string());
            self.note(&Err(error));
            return Err(retry);
        }
        if !queue.takes_bundles() {
            return self.put_one(queue, batch).await;
        }
        let (answer, mut answered) = oneshot::channel();
        let waiting = Waiting { batch, answer };
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(waiting);
        // Ends when this batch has its answer. With a permit this caller puts in what waits, which
        // may not yet include its own batch when more wait than fit into one message; then it asks
        // for another.
        let gone = |_| Err(SinkError::Retry("whoever put it has gone".to_owned()));
        loop {
            let place = tokio::select! {
                biased;
                put = &mut answered => return put.unwrap_or_else(gone),
                place = self.puts.acquire() => place,
            };
            let together = self.take_waiting();
            if together.is_empty() {
                // Another caller has taken this batch along; its answer comes from there.
                drop(place);
                return answered.await.unwrap_or_else(gone);
            }
            self.put(queue, together).await;
        }
    }

    fn news(&self) -> News {
        let ahead = self.far_ahead_ms.load(Ordering::Relaxed).max(*self.clock_ahead_ms.borrow());
        // Collectors cannot tell an edge through the queue that its name is out of service; their
        // own logs say so.
        News {
            clock_ahead_ms: Some(ahead).filter(|ahead| *ahead > CLOCK_AHEAD_MS_MAX),
            is_out_of_service: false,
        }
    }
}
