//! Segments of facts as objects: reads them, keeps what was read for the next question, and writes
//! new ones.
//!
//! A segment is some objects that are never changed: `facts/PP/NAME.parquet` and, beside it,
//! `NAME.directory` and, where it has large runs, `NAME.sketches` and `NAME.totals`. A row of the
//! partition's store names it; an object that no row names is nobody's, and is collected. Names are never used twice.

mod check;
mod rebuild;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use moka::sync::Cache;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};
use shared::Timestamp;

use super::StoreError;
use super::rows::SegmentRow;
use crate::facts::segment::nodes::Node;
use crate::facts::segment::totals::{Place, Totals};
use crate::facts::segment::{Directory, Footer, Made, Ranges, SegmentError};
use crate::facts::{Block, Column, Name, Runs};
pub use check::{Fault, Read};
pub use rebuild::{NotMade, Rebuilt};

/// A file is uploaded in parts of so many bytes. In tests too there shall be several.
const PART_BYTES: usize = if cfg!(test) { 2 << 10 } else { 10 << 20 };
/// The folder of all segments.
const FOLDER: &str = "facts";
/// What the objects of a segment end with.
const TYPES: [&str; 4] = [DIRECTORY, SKETCHES_TYPE, TOTALS_TYPE, FILE];
const FILE: &str = "parquet";
const DIRECTORY: &str = "directory";
const SKETCHES_TYPE: &str = "sketches";
const TOTALS_TYPE: &str = "totals";
/// What an opened segment is named by in the cache; its columns are named by their row group.
const OPENED: u32 = u32::MAX;
/// What its sketches are named by, with their places.
const SKETCHES: u32 = u32::MAX - 1;
/// What its totals are named by, with their run.
const TOTALS: u32 = u32::MAX - 2;

/// A segment that is opened.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) row: SegmentRow,
    pub(crate) directory: Directory,
    footer: Footer,
    /// What its parts are named by in the cache. A directory that was made anew may number prices
    /// in another order, so parts that were read by another directory are not its own.
    tag: u64,
}

/// What something that is kept is named by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    /// A segment's id, or its tag, the row group, and the column.
    Segment(u64, u32, usize),
    /// A partition, an hour, and the sequence at which a block of it was saved.
    Loose(u16, u32, u64),
}

/// What is kept of facts.
#[derive(Clone)]
enum Kept {
    Opened(Arc<Segment>),
    Column(Column),
    Sketch(Bytes),
    Totals(Arc<Totals>),
    /// A block of a partition's store.
    Loose(Arc<Block>),
}

/// The segments of all partitions, and what was read of them and of loose blocks.
pub(crate) struct Segments {
    objects: Arc<dyn ObjectStore>,
    cache: Cache<Key, Kept>,
}

impl std::fmt::Debug for Segments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segments").finish_non_exhaustive()
    }
}

impl Segments {
    /// Keeps so many bytes of what was read.
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, cache_bytes: u64) -> Self {
        let weight = |_: &Key, kept: &Kept| {
            let bytes = match kept {
                Kept::Opened(segment) => segment.directory.bytes(),
                Kept::Column(column) => column.bytes(),
                Kept::Sketch(sketch) => sketch.len(),
                Kept::Totals(totals) => totals.bytes(),
                Kept::Loose(block) => block.bytes(),
            };
            u32::try_from(bytes + 200).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(cache_bytes).weigher(weight).build();
        Self { objects, cache }
    }

    /// A segment, opened: from memory, or read.
    pub(crate) async fn open(&self, row: &SegmentRow) -> Result<Arc<Segment>, StoreError> {
        let key = opened(row);
        if let Some(Kept::Opened(segment)) = self.cache.get(&key) {
            return Ok(segment);
        }
        let (file, beside) = (path(row, FILE), path(row, DIRECTORY));
        let bytes = self.whole(&beside).await?;
        let directory = Directory::read(&bytes).map_err(|error| damaged(&beside, &error))?;
        let end = self.part(&file, directory.footer().min(row.bytes)..row.bytes).await?;
        let footer = Footer::read(end, row.bytes, &directory);
        let footer = footer.map_err(|error| damaged(&file, &error))?;
        let rows: u64 = footer.groups().sum();
        if rows != row.rows || directory.rows() as u64 != rows {
            let what = SegmentError::new("it has other rows than its directory");
            return Err(damaged(&file, &what));
        }
        let digest = bytes.last_chunk().copied().unwrap_or_default();
        let tag = row.id ^ u64::from_le_bytes(digest);
        let segment = Arc::new(Segment { row: row.clone(), directory, footer, tag });
        self.cache.insert(key, Kept::Opened(Arc::clone(&segment)));
        Ok(segment)
    }

    /// Columns of a row group: from memory, or read.
    pub(crate) async fn columns(
        &self,
        segment: &Segment,
        group: usize,
        names: &[Name],
    ) -> Result<Vec<(Name, Column)>, StoreError> {
        let number = u32::try_from(group).unwrap_or(TOTALS - 1);
        let key = |name: Name| Key::Segment(segment.tag, number, name.index());
        let mut columns = Vec::with_capacity(names.len());
        let mut missing = Vec::new();
        for name in names {
            match self.cache.get(&key(*name)) {
                Some(Kept::Column(column)) => columns.push((*name, column)),
                _ => missing.push(*name),
            }
        }
        if !missing.is_empty() {
            for (name, column) in missing.iter().zip(self.read(segment, group, &missing).await?) {
                self.cache.insert(key(*name), Kept::Column(column.clone()));
                columns.push((*name, column));
            }
        }
        Ok(columns)
    }

    /// A row group with these columns. None of them is kept for later.
    pub(crate) async fn block(
        &self,
        segment: &Segment,
        group: usize,
        names: impl Iterator<Item = Name>,
    ) -> Result<Block, StoreError> {
        let (expand, names): (Vec<_>, Vec<_>) = names.partition(|name| Runs::has(*name));
        let columns = self.read(segment, group, &names).await?;
        Ok(segment.directory.block(group, names.into_iter().zip(columns).collect(), &expand))
    }

    async fn read(
        &self,
        segment: &Segment,
        group: usize,
        names: &[Name],
    ) -> Result<Vec<Column>, StoreError> {
        let file = path(&segment.row, FILE);
        let ranges = segment.footer.bytes_of(group, names);
        let bytes = self.parts(&file, &ranges).await;
        let bytes = bytes.map_err(|error| self.blamed(segment, error))?;
        let parts = ranges.iter().map(|range| range.start).zip(bytes).collect();
        let parts = Ranges::new(segment.row.bytes, parts);
        let read = segment.footer.columns(group, names, &parts, &segment.directory);
        read.map_err(|error| self.blamed(segment, damaged(&file, &error)))
    }

    /// An error of a part of a segment, which is opened anew by the next question: its directory
    /// may have been made anew.
    fn blamed(&self, segment: &Segment, error: StoreError) -> StoreError {
        self.cache.invalidate(&opened(&segment.row));
        error
    }

    /// A block of a partition's store: from memory, or as `read` reads it. `key`: the partition, the
    /// hour and the sequence, which no other block ever had.
    pub(crate) async fn loose<F: Future<Output = Result<Block, StoreError>>>(
        &self,
        (partition, hour, sequence): (u16, u32, u64),
        read: impl FnOnce() -> F,
    ) -> Result<Arc<Block>, StoreError> {
        let key = Key::Loose(partition, hour, sequence);
        if let Some(Kept::Loose(block)) = self.cache.get(&key) {
            return Ok(block);
        }
        let block = Arc::new(read().await?);
        self.cache.insert(key, Kept::Loose(Arc::clone(&block)));
        Ok(block)
    }

    /// The sketches of nodes of a segment.
    pub(crate) async fn sketches(
        &self,
        segment: &Segment,
        nodes: &[Node],
    ) -> Result<Vec<Bytes>, StoreError> {
        let key = |node: &Node| {
            let at = usize::try_from(node.bytes().start).unwrap_or(usize::MAX);
            Key::Segment(segment.tag, SKETCHES, at)
        };
        let mut sketches = Vec::with_capacity(nodes.len());
        let mut missing = Vec::new();
        for node in nodes {
            match self.cache.get(&key(node)) {
                Some(Kept::Sketch(sketch)) => sketches.push(sketch),
                _ => missing.push(*node),
            }
        }
        if missing.is_empty() {
            return Ok(sketches);
        }
        let path = path(&segment.row, SKETCHES_TYPE);
        let ranges: Vec<_> = missing.iter().map(Node::bytes).collect();
        let found = self.parts(&path, &ranges).await;
        let found = found.map_err(|error| self.blamed(segment, error))?;
        for (node, sketch) in missing.iter().zip(found) {
            if !node.is_of(&sketch) {
                let what = SegmentError::new("a sketch is not what was written");
                return Err(self.blamed(segment, damaged(&path, &what)));
            }
            self.cache.insert(key(node), Kept::Sketch(sketch.clone()));
            sketches.push(sketch);
        }
        Ok(sketches)
    }

    /// The totals of runs of a segment.
    pub(crate) async fn totals(
        &self,
        segment: &Segment,
        places: &[Place],
    ) -> Result<Vec<(usize, Arc<Totals>)>, StoreError> {
        let key = |place: &Place| Key::Segment(segment.tag, TOTALS, place.run as usize);
        let mut found = Vec::with_capacity(places.len());
        let mut missing = Vec::new();
        for place in places {
            match self.cache.get(&key(place)) {
                Some(Kept::Totals(totals)) => found.push((place.run as usize, totals)),
                _ => missing.push(*place),
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        let path = path(&segment.row, TOTALS_TYPE);
        let ranges: Vec<_> = missing.iter().map(Place::bytes).collect();
        let bytes = self.parts(&path, &ranges).await;
        let bytes = bytes.map_err(|error| self.blamed(segment, error))?;
        for (place, bytes) in missing.iter().zip(bytes) {
            let totals = Totals::read(&bytes, place, segment.directory.prices.len());
            let totals = totals
                .map_err(|what| self.blamed(segment, damaged(&path, &SegmentError::new(what))))?;
            let totals = Arc::new(totals);
            self.cache.insert(key(place), Kept::Totals(Arc::clone(&totals)));
            found.push((place.run as usize, totals));
        }
        Ok(found)
    }

    /// Parts of an object. One that ends before them is damaged.
    async fn parts(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, StoreError> {
        let error = match self.objects.get_ranges(path, ranges).await {
            Ok(parts) => return Ok(parts),
            Err(error) => error,
        };
        let end = ranges.iter().map(|range| range.end).max().unwrap_or_default();
        match self.objects.head(path).await {
            Ok(meta) if meta.size < end => {
                let what = format!("it is cut off: it has {} bytes", meta.size);
                Err(damaged(path, &SegmentError::new(what)))
            }
            _ => Err(away(path, error)),
        }
    }

    async fn part(&self, path: &Path, range: Range<u64>) -> Result<Bytes, StoreError> {
        let parts = self.parts(path, &[range]).await?;
        parts
            .into_iter()
            .next()
            .ok_or_else(|| StoreError::Unavailable(format!("{path}: no answer")))
    }

    async fn whole(&self, path: &Path) -> Result<Bytes, StoreError> {
        let found = self.objects.get(path).await.map_err(|error| away(path, error))?;
        found.bytes().await.map_err(|error| away(path, error))
    }

    /// A writer of the Parquet file of a new segment.
    pub(crate) fn upload(&self, row: &SegmentRow) -> BufWriter {
        BufWriter::with_capacity(Arc::clone(&self.objects), path(row, FILE), PART_BYTES)
    }

    /// Writes what stands beside it.
    pub(crate) async fn put_beside(&self, row: &SegmentRow, made: Made) -> Result<(), StoreError> {
        let Made { directory, sketches, totals, .. } = made;
        let directory = directory.to_bytes();
        for (kind, bytes) in
            [(SKETCHES_TYPE, sketches), (TOTALS_TYPE, totals), (DIRECTORY, directory)]
        {
            if !bytes.is_empty() {
                let path = path(row, kind);
                let done = self.objects.put(&path, bytes.into()).await;
                done.map_err(|error| away(&path, error))?;
            }
        }
        Ok(())
    }

    /// Deletes a segment's objects. Those that are not there are not missed.
    pub(crate) async fn delete(&self, row: &SegmentRow) -> Result<(), StoreError> {
        for path in TYPES.map(|kind| path(row, kind)) {
            match self.objects.delete(&path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(away(&path, error)),
            }
        }
        Ok(())
    }

    /// The time of the object store, as it dates objects.
    pub(crate) async fn time(&self, partition: u16) -> Result<Timestamp, StoreError> {
        let path = folder(partition).join("opened");
        let put = self.objects.put(&path, Bytes::new().into()).await;
        put.map_err(|error| away(&path, error))?;
        let found = self.objects.head(&path).await.map_err(|error| away(&path, error))?;
        Ok(time_of(&found))
    }

    /// Deletes the objects of a partition that no row names and that are older than `before`: what
    /// was begun and not named before the partition was opened. Others may be another process's,
    /// which has taken the partition over; so may those that are as old, since object stores date
    /// by the second. Returns how many.
    pub(crate) async fn collect(
        &self,
        partition: u16,
        named: &[SegmentRow],
        before: Timestamp,
    ) -> Result<usize, StoreError> {
        let nobodys = self.unnamed(partition, named).await?.into_iter();
        let nobodys = nobodys.filter(|object| time_of(object) < before);
        // Object stores delete many in one request.
        let paths = nobodys.map(|object| Ok(object.location)).collect::<Vec<_>>();
        let paths = futures::stream::iter(paths).boxed();
        let results: Vec<_> = self.objects.delete_stream(paths).collect().await;
        let mut deleted = 0;
        for result in results {
            match result {
                Ok(_) => deleted += 1,
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(away(&folder(partition), error)),
            }
        }
        Ok(deleted)
    }

    /// The objects of a partition that are of none of these segments.
    pub(crate) async fn unnamed(
        &self,
        partition: u16,
        named: &[SegmentRow],
    ) -> Result<Vec<ObjectMeta>, StoreError> {
        let of = |row: &SegmentRow| TYPES.map(|kind| path(row, kind));
        let mut names: Vec<Path> = named.iter().flat_map(of).collect();
        names.sort_unstable();
        let folder = folder(partition);
        let found: Result<Vec<_>, _> = self.objects.list(Some(&folder)).try_collect().await;
        let mut found = found.map_err(|error| away(&folder, error))?;
        found.retain(|object| {
            let is_ours = object.location.extension().is_some_and(|kind| TYPES.contains(&kind));
            is_ours && names.binary_search(&object.location).is_err()
        });
        Ok(found)
    }
}

fn time_of(object: &ObjectMeta) -> Timestamp {
    Timestamp(u64::try_from(object.last_modified.timestamp_millis()).unwrap_or_default())
}

fn folder(partition: u16) -> Path {
    Path::from(format!("{FOLDER}/{partition:02}"))
}

/// The Parquet file of a segment, from where the stores lie.
pub(crate) fn file(row: &SegmentRow) -> String {
    path(row, FILE).to_string()
}

fn path(row: &SegmentRow, kind: &str) -> Path {
    folder(row.partition).join(format!("{}.{kind}", row.name()))
}

/// What an opened segment is named by in the cache.
fn opened(row: &SegmentRow) -> Key {
    Key::Segment(row.id, OPENED, 0)
}

fn damaged(path: &Path, error: &SegmentError) -> StoreError {
    let remedy = match path.extension() {
        Some(FILE) => "`countersign facts check` says what of it",
        _ => "`countersign facts rebuild` makes it anew",
    };
    StoreError::Damaged(format!("{path}: {error} ({remedy})"))
}

fn away(path: &Path, error: object_store::Error) -> StoreError {
    match error {
        object_store::Error::NotFound { .. } => damaged(path, &SegmentError::new("it is missing")),
        error => StoreError::Unavailable(format!("{path}: {error}")),
    }
}
