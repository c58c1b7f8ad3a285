//! The raw archive: a consumer of the log that writes immutable Parquet files.
//!
//! Each file has whole messages of one partition, of a range of positions. Its name follows from the first
//! of them, and a file is written only when none of this name exists. So each event is in one file, however
//! many archivers run at once and whenever they are killed. An archiver that starts looks for the last file
//! of each partition, compares the position in its footer with the log, and goes on behind it. There is no
//! other state.
//!
//! The log is the buffer: when a partition's turn comes, its messages are read and a file is made and
//! written; between turns nothing is kept in memory. So the log must not be trimmed before it is archived;
//! [`Archiver::archived`] says how far it is.
//!
//! [`columns`] says what a record holds, [`records`] makes records of messages, and [`file`](mod@file)
//! makes a file of records; all three are pure. [`store`] is the directory or object store, and [`writer`]
//! writes one partition.

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
    /// Pause between two rounds in which each partition has its turn.
    pub every: Duration,
    /// The most bytes of messages in one file, about. Making a file takes several times as much memory.
    pub file_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { every: Duration::from_secs(300), file_bytes: 32 << 20 }
    }
}

/// What an archiver is made of.
pub struct Parts<'a, L> {
    /// The log to archive.
    pub log: Arc<L>,
    /// The archive to write to.
    pub archive: Archive,
    /// When files are written.
    pub settings: Settings,
    /// Where the metrics are registered.
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
    /// [`Halt::ForGood`] when the archive is of another log, is damaged, or lacks messages that the log no
    /// longer has. An archive or log that is merely not available is tried again later.
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

    /// For each partition the sequence up to which it is archived; 0 when nothing is.
    #[must_use]
    pub fn archived(&self) -> watch::Receiver<Vec<u64>> {
        self.core.archived.subscribe()
    }

    /// A handle to archive a partition before its turn.
    #[must_use]
    pub fn flusher(&self) -> Flusher<L> {
        Flusher { core: Arc::clone(&self.core) }
    }

    /// Ends the task, and then archives the events that are in the log now.
    pub async fn close(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the task that archives has failed");
        }
        self.core.turn().await;
    }
}

/// Archives a partition before its turn.
pub struct Flusher<L> {
    core: Arc<Core<L>>,
}

impl<L> Clone for Flusher<L> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core) }
    }
}

impl<L: Log> Flusher<L> {
    /// Archives everything that is in a partition's log now. Gives the sequence up to which it is archived
    /// then; none when there is no such partition.
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
            // This may stop a turn at any point: a file is written whole or not at all.
            _ = stop.wait_for(|stop| *stop) => return,
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

impl<L: Log> Core<L> {
    /// Gives every partition its turn.
    async fn turn(&self) {
        for partition in (0_u16..).take(self.partitions.len()) {
            // `write` has logged the error; the next turn tries again.
            let _ = self.write(partition, false).await;
        }
    }

    /// Archives one partition (`all`: see [`Writer::write`]), and remembers when it must not go on.
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
            Ok(written) => {
                self.metrics.count_turn(partition, &written);
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
