//! The raw archive: a consumer of the log that writes immutable Parquet files.
//!
//! Each file has the messages of a range of positions of one partition, whole; its name follows
//! from the first of them, and it is written only where none of this name is. So an event is in one
//! file, whoever archives, how many at once, and whenever they are killed: who starts looks for the
//! last file of each partition, compares the position in its footer with the log, and goes on
//! behind it. There is no other state.
//!
//! The buffer is the log: a partition is read when its turn comes, a file is made and written, and
//! nothing is kept in memory in between. So the log must not be trimmed before it is archived
//! ([`Archiver::archived`] says up to where it is).
//!
//! [`columns`] says what a record holds, [`records`] makes them of messages, [`file`](mod@file) a
//! file of those (all three pure); [`store`] is the directory or object store, [`writer`] one
//! partition's writer.

mod columns;
mod file;
mod metrics;
mod records;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use eventlog::Log;
use futures::future::join_all;
use prometheus_client::registry::Registry;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

pub use columns::schema;
pub use file::FileInfo;
pub use store::{Archive, ArchiveError, Entry};
pub use writer::Halt;

use metrics::Metrics;
use writer::Writer;

/// When files are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// How often the partitions have their turn.
    pub every: Duration,
    /// A file has messages of about so many bytes at most: what is held in memory while it is
    /// made is some times that.
    pub file_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { every: Duration::from_secs(300), file_bytes: 32 << 20 }
    }
}

/// What an archiver is made of.
pub struct Parts<'a, L> {
    /// What is archived.
    pub log: Arc<L>,
    /// Where to.
    pub archive: Archive,
    /// When.
    pub settings: Settings,
    /// Takes the metrics.
    pub registry: &'a mut Registry,
}

/// Archives all partitions, one after the other, until it is closed.
pub struct Archiver<L> {
    core: Arc<Core<L>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

struct Core<L> {
    partitions: Vec<Mutex<Partition<L>>>,
    archived: watch::Sender<Vec<u64>>,
    metrics: Metrics,
}

struct Partition<L> {
    writer: Writer<L>,
    /// Why it is not archived any more.
    halted: Option<Halt>,
}

impl<L: Log> Archiver<L> {
    /// Looks up how far each partition is archived, compares that with the log, and starts.
    ///
    /// # Errors
    /// [`Halt::ForGood`] when the archive is of another log, damaged, or lacks what the log no
    /// longer has. One that is merely away is asked again.
    pub async fn start(parts: Parts<'_, L>) -> Result<Self, Halt> {
        let Parts { log, archive, settings, registry } = parts;
        let count = log.partitions();
        let writer =
            |p| Writer::new(Arc::clone(&log), archive.clone(), p, settings.file_bytes.max(1));
        let mut writers: Vec<_> = (0..count).map(writer).collect();
        for opened in join_all(writers.iter_mut().map(Writer::open)).await {
            match opened {
                Err(halt @ Halt::ForGood(_)) => return Err(halt),
                Err(halt) => tracing::warn!(%halt, "the archive or the log is asked again"),
                Ok(()) => {}
            }
        }
        let archived = watch::Sender::new(writers.iter().map(Writer::archived).collect());
        let partition = |writer| Mutex::new(Partition { writer, halted: None });
        let partitions = writers.into_iter().map(partition).collect();
        let core = Arc::new(Core { partitions, archived, metrics: Metrics::new(registry) });
        let stop = watch::Sender::new(false);
        let task = tokio::spawn(run(Arc::clone(&core), settings.every, stop.subscribe()));
        Ok(Self { core, stop, task })
    }

    /// By partition: up to which sequence it is archived; 0 when nothing is.
    #[must_use]
    pub fn archived(&self) -> watch::Receiver<Vec<u64>> {
        self.core.archived.subscribe()
    }

    /// A handle with which a partition's turn can be brought forward.
    #[must_use]
    pub fn flusher(&self) -> Flusher<L> {
        Flusher { core: Arc::clone(&self.core) }
    }

    /// Archives the events that are in the log now, and ends.
    pub async fn close(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the task that archives has failed");
        }
        self.core.turn().await;
    }
}

/// Brings a partition's turn forward.
pub struct Flusher<L> {
    core: Arc<Core<L>>,
}

impl<L> Clone for Flusher<L> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core) }
    }
}

impl<L: Log> Flusher<L> {
    /// Archives everything that is in a partition's log now; the sequence up to which it is
    /// archived then. None when there is no such partition.
    ///
    /// # Errors
    /// [`Halt`].
    pub async fn flush(&self, partition: u16) -> Option<Result<u64, Halt>> {
        let known = self.core.partitions.len() > usize::from(partition);
        if known { Some(self.core.write(partition, true).await) } else { None }
    }
}

async fn run<L: Log>(core: Arc<Core<L>>, every: Duration, mut stop: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = core.turn() => {}
            // A file that is being written is written whole, or not at all.
            _ = stop.wait_for(|stop| *stop) => return,
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

impl<L: Log> Core<L> {
    /// Every partition's turn.
    async fn turn(&self) {
        for partition in (0_u16..).take(self.partitions.len()) {
            // An error has been told there, and is met again at the next turn or start.
            let _ = self.write(partition, false).await;
        }
    }

    async fn write(&self, partition: u16, all: bool) -> Result<u64, Halt> {
        let mut guard = self.partitions[usize::from(partition)].lock().await;
        let Partition { writer, halted } = &mut *guard;
        if let Some(halt) = halted {
            return Err(halt.clone());
        }
        let result = writer.write(all).await;
        let upto = writer.archived();
        self.archived.send_if_modified(|archived| {
            let known = &mut archived[usize::from(partition)];
            std::mem::replace(known, upto) != upto
        });
        match result {
            Ok(wrote) => {
                self.metrics.wrote(partition, &wrote);
                Ok(upto)
            }
            Err(halt @ Halt::Later(_)) => {
                self.metrics.failed.inc();
                tracing::warn!(partition, why = %halt, "not archived, it is tried again");
                Err(halt)
            }
            Err(halt) => {
                self.metrics.failed.inc();
                self.metrics.halted.inc();
                tracing::error!(partition, why = %halt, "this partition is no longer archived");
                *halted = Some(halt.clone());
                Err(halt)
            }
        }
    }
}
