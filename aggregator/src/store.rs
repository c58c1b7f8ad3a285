//! Checkpoints: what an engine must not forget, saved together with its position in one atomic
//! write.
//!
//! Two layers. [`CheckpointStore`] is an ordered map of bytes with atomic batches and rows that add
//! up; it has two adapters, [`slate`] and (feature `testing`) [`memory`], and one contract test,
//! [`contract`]. On top, [`rows`] knows what the rows mean: it turns an engine's changes into a
//! batch and reads them back, and [`codec`] knows their bytes. A row that cannot be read is an
//! error that names its key; nothing is skipped.

use std::future::Future;
use std::sync::Arc;

use object_store::ObjectStore;

pub mod codec;
#[cfg(any(test, feature = "testing"))]
pub mod contract;
pub mod keys;
#[cfg(any(test, feature = "testing"))]
pub mod memory;
pub(crate) mod row_values;
pub mod rows;
#[cfg(any(test, feature = "testing"))]
pub mod s3_server;
pub(crate) mod segments;
pub mod slate;

/// One row of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Replaces the row.
    Put(Vec<u8>, Vec<u8>),
    /// Is added to the row by [`codec::add`]; where there is no row yet, becomes it.
    Add(Vec<u8>, Vec<u8>),
    /// Removes the row, if it is there.
    Delete(Vec<u8>),
}

impl Change {
    /// Bytes of key and value.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Put(key, value) | Self::Add(key, value) => key.len() + value.len(),
            Self::Delete(key) => key.len(),
        }
    }
}

/// Why a store failed, sorted by what must be done about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process has the directory.
    #[error("{0} is in use by another process")]
    Locked(String),
    /// The settings or the directory cannot be used.
    #[error("the store cannot be opened: {0}")]
    Unusable(String),
    /// A row or a file is missing, or is not what was written.
    #[error(
        "damaged checkpoint: {0}; bring back a backup (`countersign restore`), for nothing is guessed"
    )]
    Damaged(String),
    /// The store cannot be reached, or its acknowledgement was lost. A batch may have been written
    /// all the same.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// Another process has taken the partition over, or the store was closed.
    #[error("the store is closed: {0}")]
    Closed(String),
}

impl StoreError {
    /// [`StoreError::Damaged`] because of this row.
    #[must_use]
    pub fn row(key: &[u8], what: &str) -> Self {
        Self::Damaged(format!("{}: {what}", keys::describe(key)))
    }
}

/// The store of one partition: rows by key.
///
/// Duties of every adapter and fake (the suite in [`contract`] checks them):
///
/// - **Atomicity.** A batch is written whole or not at all, whatever happens, and batches become
///   durable in the order of their writes: after a crash there is a whole number of them.
/// - **Visibility.** When `write` returns `Ok`, every later `view` has the batch, durable or not. A
///   view shows the rows of one moment: no later batch changes them.
/// - **Durability.** When `flush` returns `Ok`, every batch written before its call survives the
///   loss of power.
/// - **Addition.** The rows of `Add` are added with [`codec::add`], in the order of their writes, to
///   the row that was put or added before. When that is done is the store's choice.
/// - **Damage.** Bytes that are not what was written give [`StoreError::Damaged`], never a missing
///   row.
/// - **Concurrency.** `view` and `flush` may run beside a `write`; two writes may not.
/// - **Errors.** After an error of `write` or `flush` the caller opens the store anew.
pub trait CheckpointStore: Send + Sync + 'static {
    /// The rows of one moment.
    type View: View;

    /// Writes a batch. No key is in it twice.
    fn write(&self, batch: Vec<Change>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Makes durable all that was written before.
    fn flush(&self) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The rows as they are now. Does not wait.
    ///
    /// # Errors
    /// [`StoreError::Closed`].
    fn view(&self) -> Result<Self::View, StoreError>;

    /// Flushes and ends.
    fn close(&self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Takes one row of a scan: its key and its value.
pub type TakeRow<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Stop> + Send + 'a;

/// Why a scan is to end before its last row.
#[derive(Debug)]
pub enum Stop {
    /// No further row is wanted: the scan returns `Ok`.
    Enough,
    /// The row cannot be used: the scan returns this error.
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// The rows of one moment.
pub trait View: Send + Sync + 'static {
    /// Hands the rows from `from` (inclusive) to `to` (exclusive) to `take`, in the order of their
    /// keys, until it stops.
    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        take: &mut TakeRow<'_>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// Opens the stores of a deployment's partitions.
pub trait Stores: Send + Sync + 'static {
    /// The store of one.
    type Store: CheckpointStore;

    /// Opens a partition's store, or begins it.
    fn open(&self, partition: u16) -> impl Future<Output = Result<Self::Store, StoreError>> + Send;

    /// Where the stores lie, for what is kept beside them.
    fn objects(&self) -> Arc<dyn ObjectStore>;

    /// Lets another process open the stores. Called last, after every store was closed.
    fn release(&self) {}
}
