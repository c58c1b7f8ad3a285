//! Reads a partition's database without opening it: beside the process that has it, of which it
//! takes nothing away, and without writing.

use std::sync::Arc;
use std::time::Duration;

use object_store::ObjectStore;
use shared::Clock as _;
use shared::ambient::SystemClock;
use slatedb::config::DbReaderOptions;
use slatedb::{DbReader, DbReaderMode, Error};

use super::clock::{Found, StoreClock, look};
use super::sealed::Sealed;
use super::{PARTITION, Sum, blame, each, folder, lacks, scan_options};
use crate::store::rows::{FactsIndex, SegmentRow};
use crate::store::{StoreError, TakeRow, View};

/// Reading is tried so often, for a file that was listed may be removed before it is read: the
/// process that has the database has made another of it.
const TRIES: u32 = 3;
const AGAIN_AFTER: Duration = Duration::from_millis(300);
/// How often a request is tried again before the object store is taken to be away.
const RETRIES_MAX: u32 = 5;

/// The partitions that have a folder of a database.
pub(crate) async fn partitions(objects: &Arc<dyn ObjectStore>) -> Result<Vec<u16>, StoreError> {
    let listed = objects.list_with_delimiter(None).await;
    let listed = listed.map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let number = |path: &object_store::path::Path| {
        path.filename()?.strip_prefix(PARTITION)?.parse::<u16>().ok()
    };
    let mut partitions: Vec<u16> = listed.common_prefixes.iter().filter_map(number).collect();
    partitions.sort_unstable();
    Ok(partitions)
}

/// The segments that a partition's database names now. `place`: where it is, for errors.
pub(crate) async fn segments(
    objects: &Arc<dyn ObjectStore>,
    place: &str,
    partition: u16,
) -> Result<Vec<SegmentRow>, StoreError> {
    let mut tries = 1;
    loop {
        match read(objects, place, partition).await {
            Err(_) if tries < TRIES => tries += 1,
            done => return done,
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
}

async fn read(
    objects: &Arc<dyn ObjectStore>,
    place: &str,
    partition: u16,
) -> Result<Vec<SegmentRow>, StoreError> {
    let folder = folder(partition);
    let name = format!("{place}/{folder}");
    let objects: Arc<dyn ObjectStore> = Arc::new(Sealed(Arc::clone(objects)));
    let at_fault = |error: Error| blame(&name, &error);
    let Found { is_there, last, missing } = look(&folder, &objects).await.map_err(at_fault)?;
    if !is_there {
        return Ok(Vec::new());
    }
    if let Some(write) = missing {
        return Err(lacks(&name, write));
    }
    let options = DbReaderOptions {
        object_store_max_retries: Some(RETRIES_MAX),
        ..DbReaderOptions::default()
    };
    let reader = DbReader::builder(folder, objects)
        // Any other mode writes into the manifest.
        .with_reader_mode(DbReaderMode::FollowLatest)
        .with_options(options)
        .with_merge_operator(Arc::new(Sum))
        .with_system_clock(Arc::new(StoreClock::from(last.max(SystemClock.now()))))
        .with_db_cache_disabled()
        .build()
        .await
        .map_err(at_fault)?;
    let rows = Rows { reader, name: name.clone() };
    let index = FactsIndex::load(&rows, partition).await;
    let closed = rows.reader.close().await.map_err(at_fault);
    let segments = index?.segments().to_vec();
    closed.map(|()| segments)
}

/// The rows of a database that another process may have.
struct Rows {
    reader: DbReader,
    name: String,
}

impl View for Rows {
    async fn scan(&self, from: &[u8], to: &[u8], take: &mut TakeRow<'_>) -> Result<(), StoreError> {
        if from >= to {
            return Ok(());
        }
        let (range, options) = (from.to_vec()..to.to_vec(), scan_options());
        let rows = self.reader.scan_with_options(range, &options).await;
        each(&self.name, rows, take).await
    }
}
