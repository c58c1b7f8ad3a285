//! The service: one task for each partition, which reads the log, applies messages and saves
//! checkpoints; and the state that questions read.
//!
//! The tasks run on the runtime that [`Aggregator::start`] is called on. They apply messages in
//! short bursts, so that other tasks on the runtime get their turn.

use std::sync::Arc;
use std::time::Duration;

use eventlog::Log;
use prometheus_client::registry::Registry;
use shared::Clock;
use shared::keys::EdgeRegistry;
use tokio::sync::{RwLock, Semaphore, watch};
use tokio::task::JoinSet;

use crate::count::{self, Changes, Engine};
use crate::filters::Filters;
use crate::metrics::Metrics;
use crate::restatements::Restatements;
use crate::store::rows::{FactsIndex, Plan};
use crate::store::segments::Segments;
use crate::store::slate::SlateStores;
use crate::store::{CheckpointStore, Stores};

mod checkpoint;
mod partition;
mod seal;
mod status;
#[cfg(test)]
mod tests;
mod trim;

pub(crate) use status::Board;
pub use status::{NotReady, Status};

/// Partitions that may write a checkpoint at once.
const WRITING_MAX: usize = 2;

/// Questions that may read facts at once.
const READING_MAX: usize = 2;

/// When things happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// The settings of the engines.
    pub engine: count::Settings,
    /// How long after it has counted something a partition saves a checkpoint.
    pub checkpoint_every: Duration,
    /// A partition in which only heartbeats came saves a checkpoint after so many times
    /// `checkpoint_every`.
    pub idle_checkpoints: u32,
    /// A partition saves a checkpoint earlier when it has applied so many bytes of messages. This
    /// bounds what it keeps in memory between two checkpoints, and what it applies again after a
    /// crash.
    pub checkpoint_bytes: usize,
    /// How long the log keeps what every partition has saved, in hours.
    pub retention_hours: u32,
    /// How often the log is trimmed.
    pub trim_every: Duration,
    /// How long a question waits for the aggregator to be ready.
    pub ready_wait: Duration,
    /// After how long a log that could not be reached is tried again, and at first an object store
    /// in which a segment could not be made.
    pub retry_after: Duration,
    /// When facts become segments.
    pub facts: Plan,
    /// Facts are kept for so many days from their events on; without it for ever.
    pub facts_days: Option<u32>,
    /// So many bytes of segments of facts stay in memory for the next question.
    pub facts_cache_bytes: u64,
    /// So many events of a thing in a segment are read one by one when its visitors are counted; of
    /// more, sketches are united.
    pub visitors_read_max: u64,
    /// For how long a segment that another one has taken the place of can still be read: no
    /// question may last longer.
    pub segments_kept: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            engine: count::Settings::default(),
            checkpoint_every: Duration::from_secs(10),
            idle_checkpoints: 30,
            checkpoint_bytes: 8 << 20,
            retention_hours: 7 * 24,
            trim_every: Duration::from_secs(300),
            ready_wait: Duration::from_secs(30),
            retry_after: Duration::from_secs(1),
            facts: Plan::default(),
            facts_days: None,
            facts_cache_bytes: 64 << 20,
            visitors_read_max: 65_536,
            segments_kept: Duration::from_secs(600),
        }
    }
}

/// Says which edges are registered at the moment.
pub type Registered = Box<dyn Fn() -> EdgeRegistry + Send + Sync>;

/// What an aggregator is made of.
pub struct Parts<'a, L, S = SlateStores> {
    /// The log; its number of partitions is the deployment's.
    pub log: Arc<L>,
    /// Where checkpoints go.
    pub stores: S,
    /// For the default minute of a question, and for nothing that is counted.
    pub clock: Arc<dyn Clock>,
    /// When things happen.
    pub settings: Settings,
    /// By partition, the sequence up to which the log is archived: the log behind it is not
    /// trimmed. None where nothing is archived.
    pub archived: Option<watch::Receiver<Vec<u64>>>,
    /// Which edges are registered, for answers, and for nothing that is counted.
    pub registered: Registered,
    /// Where the metrics are registered.
    pub registry: &'a mut Registry,
}

impl<L, S> std::fmt::Debug for Parts<'_, L, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// One partition as questions see it.
#[derive(Debug)]
pub(crate) struct Counted<T: CheckpointStore> {
    pub(crate) engine: Engine,
    pub(crate) store: Arc<T>,
    pub(crate) moving: Option<Moving<T::View>>,
    /// Which blocks and segments of facts the store names, but for those that are moving.
    pub(crate) facts: Arc<FactsIndex>,
    pub(crate) segments: Arc<Segments>,
}

/// Rows that have left the engine and may not yet be in the store.
#[derive(Debug)]
pub(crate) struct Moving<V> {
    pub(crate) changes: Arc<Changes>,
    /// The rows of the store before they are written.
    pub(crate) before: Arc<V>,
}

/// A partition's state; none until its checkpoint is read. Under the lock every row is in exactly
/// one place: in the engine, moving, or in the store.
pub(crate) type Slot<T> = RwLock<Option<Counted<T>>>;

/// Waits until the task is asked to stop: the aggregator is closed, or was dropped.
async fn asked(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What tasks and questions share.
pub(crate) struct Core<L, S: Stores> {
    pub(crate) log: Arc<L>,
    pub(crate) stores: S,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    pub(crate) board: Board,
    /// Lets [`WRITING_MAX`] partitions write at once, which bounds the rows that are moving.
    writing: Semaphore,
    pub(crate) slots: Vec<Slot<S::Store>>,
    /// By partition, the sequence up to which the log is older than the retention and saved.
    pub(crate) trimmable: parking_lot::Mutex<Vec<Option<u64>>>,
    pub(crate) registered: Registered,
    pub(crate) filters: Filters,
    pub(crate) restatements: Restatements,
    /// Lets [`READING_MAX`] questions read facts at once: others wait, and counting goes on.
    pub(crate) reading: Semaphore,
    pub(crate) segments: Arc<Segments>,
    /// Lets one segment be made at a time.
    sealing: Semaphore,
    /// By partition, the sequence up to which the log is archived.
    archived: Option<watch::Receiver<Vec<u64>>>,
}

/// The aggregator: it counts from [`Aggregator::start`] to [`Aggregator::close`].
pub struct Aggregator<L: Log, S: Stores = SlateStores> {
    pub(crate) core: Arc<Core<L, S>>,
    tasks: JoinSet<()>,
    stop: watch::Sender<bool>,
}

impl<L: Log, S: Stores> std::fmt::Debug for Aggregator<L, S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aggregator").field("statuses", &self.statuses()).finish_non_exhaustive()
    }
}

impl<L: Log, S: Stores> Aggregator<L, S> {
    /// Starts the tasks on the current runtime, and returns at once. A partition whose checkpoint
    /// is damaged or does not fit the log stops, which [`Aggregator::ready`] says.
    #[must_use]
    pub fn start(parts: Parts<'_, L, S>) -> Self {
        let Parts { log, stores, clock, settings, archived, registered, registry } = parts;
        let partitions = log.partitions();
        let core = Arc::new(Core {
            filters: Filters::new(stores.objects()),
            restatements: Restatements::new(stores.objects()),
            reading: Semaphore::new(READING_MAX),
            segments: Arc::new(Segments::new(stores.objects(), settings.facts_cache_bytes)),
            sealing: Semaphore::new(1),
            log,
            stores,
            clock,
            settings,
            metrics: Metrics::new(registry),
            board: Board::new(partitions),
            writing: Semaphore::new(WRITING_MAX),
            slots: (0..partitions).map(|_| RwLock::new(None)).collect(),
            trimmable: parking_lot::Mutex::new(vec![None; usize::from(partitions)]),
            registered,
            archived,
        });
        let stop = watch::Sender::new(false);
        let mut tasks = JoinSet::new();
        for partition in 0..partitions {
            tasks.spawn(partition::run(Arc::clone(&core), partition, stop.subscribe()));
        }
        tasks.spawn(trim::run(Arc::clone(&core), stop.subscribe()));
        Self { core, tasks, stop }
    }

    /// Waits, for at most `wait`, until everything is applied that was in the log at the start.
    ///
    /// # Errors
    /// [`NotReady`] says which partition is behind, or has stopped and why.
    pub async fn ready(&self, wait: Duration) -> Result<(), NotReady> {
        self.core.board.ready(wait).await
    }

    /// What each partition is doing.
    #[must_use]
    pub fn statuses(&self) -> Vec<Status> {
        self.core.board.all()
    }

    /// Saves everything and ends. Questions are not answered any more.
    pub async fn close(mut self) {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a task of the aggregator has failed");
            }
        }
        for slot in &self.core.slots {
            let counted = slot.write().await.take();
            if let Some(counted) = counted
                && let Err(error) = counted.store.close().await
            {
                tracing::warn!(%error, "a store was not closed in order");
            }
        }
        self.core.stores.release();
    }
}
