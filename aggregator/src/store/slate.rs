//! Checkpoints in SlateDB: one database per partition under `partition-NN` of an object store.
//!
//! The log is the write-ahead log of the counts; SlateDB's own is left on all the same, because a
//! flush then costs one small file instead of a level-0 table with a new manifest
//! (`docs/decisions/aggregator.md` has the figures).

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use parking_lot::Mutex;
use shared::{Clock, Timestamp, ambient};
use slatedb::bytes::Bytes;
use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, CompressionCodec, GarbageCollectorDirectoryOptions,
    GarbageCollectorOptions, ScanOptions, Settings,
};
use slatedb::db_cache::DbCache;
use slatedb::db_cache::moka::{MokaCache, MokaCacheOptions};
use slatedb::{
    Db, DbIterator, DbSnapshot, Error, ErrorKind, MergeOperator, MergeOperatorError, WriteBatch,
};

use self::clock::{Found, StoreClock};
use self::sealed::{Broken, Sealed};
use super::{Change, CheckpointStore, Stop, StoreError, Stores, TakeRow, View, codec};

/// What the folders of databases begin with, before the number of the partition.
const PARTITION: &str = "partition-";
/// How much a scan reads at once.
const READ_AHEAD_BYTES: usize = 16 << 10;

/// When the disk is slow, rows for so many tables wait in memory; beyond that a write waits.
const UNFLUSHED_FACTOR: usize = 8;
/// Tables that wait for compaction before no further one is written.
const TABLES_MAX: usize = 16;

/// Sizes and times of the databases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlateSettings {
    /// Blocks, indexes and filters of all partitions together that stay in memory, in bytes.
    pub cache_bytes: u64,
    /// What a partition gathers in memory before it becomes a table, in bytes of keys and values.
    /// In memory a row takes about 200 bytes more.
    pub table_bytes: usize,
    /// How often a partition looks for tables to compact.
    pub compact_every: Duration,
    /// How often a partition removes files that nothing needs any more, and how old a file must be
    /// to be removed. No read may last longer.
    pub collect_every: Duration,
}

impl Default for SlateSettings {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            table_bytes: 1 << 20,
            compact_every: Duration::from_secs(2),
            collect_every: Duration::from_secs(120),
        }
    }
}

/// The stores of a deployment in one object store.
pub struct SlateStores {
    objects: Arc<dyn ObjectStore>,
    /// The directory or the URL, for errors.
    place: String,
    /// Whether the object store has conditional writes. With them the process that opens a
    /// partition last fences off the others; without them a lock is needed.
    conditional: bool,
    cache: Arc<dyn DbCache>,
    settings: SlateSettings,
    clock: Arc<dyn Clock>,
    /// Held until [`Stores::release`].
    lock: Mutex<Option<File>>,
}

impl std::fmt::Debug for SlateStores {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlateStores").field("place", &self.place).finish()
    }
}

impl SlateStores {
    /// Stores in a local directory. It is made when it is missing, locked against other processes,
    /// and written with fsync.
    ///
    /// # Errors
    /// [`StoreError::Locked`]; [`StoreError::Unusable`] when the directory cannot be made or
    /// opened.
    pub fn local(dir: &Path, settings: SlateSettings) -> Result<Self, StoreError> {
        let unusable = |error: &dyn std::fmt::Display| {
            StoreError::Unusable(format!("{}: {error}", dir.display()))
        };
        std::fs::create_dir_all(dir).map_err(|error| unusable(&error))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("lock"))
            .map_err(|error| unusable(&error))?;
        lock.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => StoreError::Locked(dir.display().to_string()),
            std::fs::TryLockError::Error(error) => unusable(&error),
        })?;
        if let Err(error) = remove_unfinished(dir) {
            tracing::warn!(%error, "files that were not written to their end may still be there");
        }
        let objects = LocalFileSystem::new_with_prefix(dir).map_err(|error| unusable(&error))?;
        let objects = Arc::new(objects.with_fsync(true));
        Ok(Self {
            conditional: false,
            lock: Mutex::new(Some(lock)),
            ..Self::remote(objects, dir.display().to_string(), settings)
        })
    }

    /// Stores in an object store that has conditional writes: the process that opens a partition
    /// last has it, and the others are fenced off. `place`: where it is, for error texts.
    #[must_use]
    pub fn remote(objects: Arc<dyn ObjectStore>, place: String, settings: SlateSettings) -> Self {
        let cache = MokaCacheOptions {
            max_capacity: settings.cache_bytes,
            time_to_live: None,
            time_to_idle: None,
        };
        let cache = Arc::new(MokaCache::new_with_opts(cache));
        let clock = Arc::new(ambient::SystemClock);
        let objects = Arc::new(Sealed(objects));
        Self { objects, place, conditional: true, cache, settings, clock, lock: Mutex::new(None) }
    }

    async fn database(
        &self,
        folder: String,
        partition: u16,
        found: Timestamp,
    ) -> Result<Db, Error> {
        let now = self.clock.now();
        let ahead = Duration::from_millis(found.0.saturating_sub(now.0));
        Db::builder(folder, Arc::clone(&self.objects))
            .with_settings(self.db_settings(ahead))
            .with_system_clock(Arc::new(StoreClock::from(found.max(now))))
            .with_merge_operator(Arc::new(Sum))
            .with_db_cache(Arc::clone(&self.cache), u64::from(partition))
            .build()
            .await
    }

    /// Settings of a database whose clock is by `ahead` ahead of the one that dates the files of
    /// the object store: files must look older by as much before they are removed.
    fn db_settings(&self, ahead: Duration) -> Settings {
        let SlateSettings { table_bytes, compact_every, collect_every, .. } = self.settings;
        let collect = Some(GarbageCollectorDirectoryOptions {
            interval: Some(collect_every),
            min_age: collect_every + ahead,
            dry_run: false,
        });
        let codec = Some(CompressionCodec::Lz4);
        let worker = CompactionWorkerOptions {
            max_concurrent_compactions: 1,
            compactions_poll_interval: compact_every,
            max_sst_size: 64 << 20,
            max_fetch_tasks: 1,
            bytes_to_fetch: 256 << 10,
            max_subcompactions: 1,
            compression_codec: codec,
            ..CompactionWorkerOptions::default()
        };
        Settings {
            // Only a checkpoint flushes.
            flush_interval: None,
            manifest_poll_interval: compact_every,
            l0_sst_size_bytes: table_bytes,
            max_unflushed_bytes: UNFLUSHED_FACTOR * table_bytes,
            l0_max_ssts: TABLES_MAX,
            l0_max_ssts_per_key: TABLES_MAX,
            l0_flush_parallelism: 1,
            compression_codec: codec,
            compactor_options: Some(CompactorOptions {
                poll_interval: compact_every,
                commit_compacted_interval: compact_every,
                max_concurrent_compactions: 1,
                checkpoint_lifetime: collect_every,
                worker: Some(worker),
                ..CompactorOptions::default()
            }),
            garbage_collector_options: Some(GarbageCollectorOptions {
                manifest_options: collect,
                wal_options: collect,
                // Never removed: a fence must outlive every writer that it may have to stop.
                wal_fence_options: None,
                compacted_options: collect,
                compactions_options: collect,
                detach_options: None,
                boundary_files_enabled: self.conditional,
                ..GarbageCollectorOptions::default()
            }),
            ..Settings::default()
        }
    }
}

impl Stores for SlateStores {
    type Store = SlateStore;

    async fn open(&self, partition: u16) -> Result<SlateStore, StoreError> {
        let folder = folder(partition);
        let name = format!("{}/{folder}", self.place);
        let blame = |error: Error| blame(&name, &error);
        let Found { last, missing, .. } =
            clock::look(&folder, &self.objects).await.map_err(blame)?;
        if let Some(write) = missing {
            return Err(lacks(&name, write));
        }
        let db = self.database(folder, partition, last).await.map_err(blame)?;
        Ok(SlateStore { db, name })
    }

    fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    fn release(&self) {
        self.lock.lock().take();
    }
}

/// Removes the files that a process did not write to their end because it was killed: `NAME#1`, which
/// [`LocalFileSystem`] renames when it is whole, and never lists. Nobody else may be writing.
fn remove_unfinished(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.rsplit_once('#')).map(|(_, number)| number);
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        if entry.file_type()?.is_dir() {
            remove_unfinished(&entry.path())?;
        } else if number.is_some_and(is_number) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Adds rows up, as [`codec::add`] says.
struct Sum;

impl MergeOperator for Sum {
    fn merge(
        &self,
        key: &Bytes,
        existing: Option<Bytes>,
        value: Bytes,
    ) -> Result<Bytes, MergeOperatorError> {
        self.merge_batch(key, existing, &[value])
    }

    fn merge_batch(
        &self,
        key: &Bytes,
        existing: Option<Bytes>,
        values: &[Bytes],
    ) -> Result<Bytes, MergeOperatorError> {
        if let (None, [one]) = (&existing, values) {
            return Ok(one.clone());
        }
        let all = existing.iter().chain(values).map(|value| &value[..]);
        codec::add(key, all)
            .map(Bytes::from)
            .map_err(|error| MergeOperatorError::Callback { message: error.to_string() })
    }
}

/// The store of one partition.
pub struct SlateStore {
    db: Db,
    /// Where it is, for errors.
    name: String,
}

impl std::fmt::Debug for SlateStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlateStore").field("name", &self.name).finish()
    }
}

/// The write with this number is in no file of the write-ahead log.
fn lacks(name: &str, write: u64) -> StoreError {
    StoreError::Damaged(format!(
        "{name}: a file in `wal` is missing or empty: the write {write} is in none"
    ))
}

/// The folder of a partition's database.
fn folder(partition: u16) -> String {
    format!("{PARTITION}{partition:02}")
}

fn blame(name: &str, error: &Error) -> StoreError {
    let text = format!("{name}: {error}");
    match error.kind() {
        _ if Broken::is_cause_of(error) => StoreError::Damaged(text),
        // A merge that meets a row that it cannot read fails as `Invalid`, and nothing else that is
        // asked for here does.
        ErrorKind::Data | ErrorKind::Invalid => StoreError::Damaged(text),
        ErrorKind::Closed(_) => StoreError::Closed(text),
        _ => StoreError::Unavailable(text),
    }
}

impl CheckpointStore for SlateStore {
    type View = SlateView;

    async fn write(&self, batch: Vec<Change>) -> Result<(), StoreError> {
        // All keys and values that are put are copied into one allocation: SlateDB frees them on
        // another thread, which is slow for one allocation each.
        let put = |change: &Change| matches!(change, Change::Put(..)).then(|| change.bytes());
        let mut all = Vec::with_capacity(batch.iter().filter_map(put).sum());
        for change in &batch {
            if let Change::Put(key, value) = change {
                all.extend_from_slice(key);
                all.extend_from_slice(value);
            }
        }
        let mut all = Bytes::from(all);
        let mut rows = WriteBatch::new();
        for change in batch {
            match change {
                Change::Put(key, value) => {
                    let key = all.split_to(key.len());
                    rows.put_bytes(key, all.split_to(value.len()));
                }
                Change::Add(key, value) => rows.merge(key, value),
                Change::Delete(key) => rows.delete(key),
            }
        }
        self.db.write(rows).await.map_err(|error| blame(&self.name, &error)).map(drop)
    }

    async fn flush(&self) -> Result<(), StoreError> {
        self.db.flush().await.map_err(|error| blame(&self.name, &error))
    }

    fn view(&self) -> Result<SlateView, StoreError> {
        let snapshot = self.db.snapshot().map_err(|error| blame(&self.name, &error))?;
        Ok(SlateView { snapshot, name: self.name.clone() })
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.db.close().await.map_err(|error| blame(&self.name, &error))
    }
}

/// The rows of one moment.
pub struct SlateView {
    snapshot: Arc<DbSnapshot>,
    name: String,
}

impl View for SlateView {
    async fn scan(&self, from: &[u8], to: &[u8], take: &mut TakeRow<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let range = from.to_vec()..to.to_vec();
        let rows = self.snapshot.scan_with_options(range, &scan_options()).await;
        each(&self.name, rows, take).await
    }
}

fn scan_options() -> ScanOptions {
    ScanOptions { cache_blocks: true, read_ahead_bytes: READ_AHEAD_BYTES, ..ScanOptions::default() }
}

/// Hands rows to `take` until it stops. `name`: the store, for errors.
async fn each(
    name: &str,
    rows: Result<DbIterator, Error>,
    take: &mut TakeRow<'_>,
) -> Result<(), StoreError> {
    let blame = |error: Error| blame(name, &error);
    let mut rows = rows.map_err(blame)?;
    while let Some(row) = rows.next().await.map_err(blame)? {
        match take(&row.key, &row.value) {
            Ok(()) => {}
            Err(Stop::Enough) => break,
            Err(Stop::Failed(StoreError::Damaged(what))) => {
                return Err(StoreError::Damaged(format!("{name}: {what}")));
            }
            Err(Stop::Failed(other)) => return Err(other),
        }
    }
    Ok(())
}

mod clock;
pub(crate) mod reader;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod s3;
mod sealed;
#[cfg(test)]
mod tests;
