//! Looks after the segments of a deployment from outside of the process that counts, which may run
//! meanwhile: whether their objects are what was written, and makes anew what can be.

use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use crate::store::StoreError;
pub use crate::store::rows::SegmentRow;
use crate::store::segments::Segments;
pub use crate::store::segments::{Fault, NotMade, Read, Rebuilt};
use crate::store::slate::reader;

/// The segments of a deployment.
#[derive(Debug)]
pub struct Upkeep {
    objects: Arc<dyn ObjectStore>,
    /// Where the stores are, for errors.
    place: String,
    segments: Segments,
}

impl Upkeep {
    /// Those beside the stores in a local directory.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] when there is no such directory.
    pub fn local(dir: &Path) -> Result<Self, StoreError> {
        let unusable = |error| StoreError::Unusable(format!("{}: {error}", dir.display()));
        let objects = LocalFileSystem::new_with_prefix(dir).map_err(unusable)?.with_fsync(true);
        Ok(Self::new(Arc::new(objects), dir.display().to_string()))
    }

    /// Those beside the stores in an object store. `place`: where it is, for errors.
    #[must_use]
    pub fn new(objects: Arc<dyn ObjectStore>, place: String) -> Self {
        let segments = Segments::new(Arc::clone(&objects), 0);
        Self { objects, place, segments }
    }

    /// The partitions that have a store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn partitions(&self) -> Result<Vec<u16>, StoreError> {
        reader::partitions(&self.objects).await
    }

    /// The segments that the store of a partition names now.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn segments(&self, partition: u16) -> Result<Vec<SegmentRow>, StoreError> {
        reader::segments(&self.objects, &self.place, partition).await
    }

    /// What is wrong with the objects of a segment; every byte of them is read. A segment that the
    /// store does not name any more may be deleted meanwhile, and is then no fault.
    ///
    /// # Errors
    /// [`StoreError`] when the objects cannot be read.
    pub async fn check(&self, row: &SegmentRow, read: &Read<'_>) -> Result<Vec<Fault>, StoreError> {
        self.segments.check(row, read).await
    }

    /// Makes what stands beside a segment's Parquet file anew, and writes what is missing or
    /// damaged of it.
    ///
    /// # Errors
    /// [`NotMade`].
    pub async fn rebuild(&self, row: &SegmentRow, read: &Read<'_>) -> Result<Rebuilt, NotMade> {
        self.segments.rebuild(row, read).await
    }

    /// The objects of a partition that are of none of these segments: how many, and their bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unnamed(
        &self,
        partition: u16,
        named: &[SegmentRow],
    ) -> Result<(u64, u64), StoreError> {
        let objects = self.segments.unnamed(partition, named).await?;
        Ok((objects.len() as u64, objects.iter().map(|object| object.size).sum()))
    }
}
