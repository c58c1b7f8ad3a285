//! Whether the objects of a segment are what was written, byte for byte.

use std::ops::Range;

use bytes::Bytes;
use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::rebuild::NotMade;
use super::{DIRECTORY, FILE, SKETCHES_TYPE, Segments, TOTALS_TYPE, away, path};
use crate::facts::segment::{Directory, Footer, Ranges, SegmentError};
use crate::store::StoreError;
use crate::store::rows::SegmentRow;

/// Sketches and totals are read in parts of so many bytes.
const PART_BYTES: u64 = 8 << 20;
/// What every Parquet file begins with. No digest has it.
const MAGIC: &[u8; 4] = b"PAR1";

/// An object of a segment that is missing, or not what was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Which, from where the stores lie.
    pub object: String,
    /// What is wrong.
    pub what: String,
    /// Whether it can be made anew from the segment's Parquet file.
    pub can_be_rebuilt: bool,
}

impl Fault {
    fn new(path: &Path, what: impl Into<String>) -> Self {
        Self { object: path.to_string(), what: what.into(), can_be_rebuilt: true }
    }
}

/// Hears how many bytes of Parquet files were read.
pub type Read<'a> = dyn Fn(u64) + Send + Sync + 'a;

/// A place in an object, and whether these bytes are what was written there.
type Part<'a> = (Range<u64>, Box<dyn Fn(&[u8]) -> bool + Send + Sync + 'a>);

impl Segments {
    /// What is wrong with the objects of a segment. All of them are read, row group by row group.
    pub(crate) async fn check(
        &self,
        row: &SegmentRow,
        read: &Read<'_>,
    ) -> Result<Vec<Fault>, StoreError> {
        let mut of_file = self.ends_of(row).await?;
        let mut beside = Vec::new();
        match self.directory(row).await? {
            Ok(directory) => {
                if of_file.is_empty() {
                    of_file = self.columns_of(row, &directory, read).await?;
                }
                beside.extend(self.sketches_of(row, &directory).await?);
                beside.extend(self.totals_of(row, &directory).await?);
            }
            Err(fault) => {
                beside.push(fault);
                if of_file.is_empty() {
                    match self.remake(row, None, read).await {
                        Ok((made, _)) => {
                            for path in self.others_than(row, &made).await? {
                                let what = "it is missing, or not what the facts give";
                                beside.push(Fault::new(&path, what));
                            }
                        }
                        Err(NotMade::Segment(why)) => {
                            of_file.push(Fault::new(&path(row, FILE), why));
                        }
                        Err(NotMade::Store(error)) => return Err(error),
                    }
                }
            }
        }
        // Everything is made of the Parquet file, which is made of nothing here.
        let is_sound = of_file.is_empty();
        of_file.iter_mut().for_each(|fault| fault.can_be_rebuilt = false);
        beside.iter_mut().for_each(|fault| fault.can_be_rebuilt = is_sound);
        of_file.extend(beside);
        Ok(of_file)
    }

    /// Whether the Parquet file is there, and as long as it was.
    async fn ends_of(&self, row: &SegmentRow) -> Result<Vec<Fault>, StoreError> {
        let file = path(row, FILE);
        let fault = |what: String| Ok(vec![Fault::new(&file, what)]);
        match self.size(&file).await? {
            None => fault("it is missing".to_owned()),
            Some(bytes) if bytes != row.bytes => {
                fault(format!("it has {bytes} bytes, and {} were written", row.bytes))
            }
            Some(_) => match self.part(&file, 0..MAGIC.len() as u64).await? == MAGIC[..] {
                true => Ok(Vec::new()),
                false => fault("its first bytes are not those of a Parquet file".to_owned()),
            },
        }
    }

    /// The directory of a segment, or what is wrong with it.
    pub(super) async fn directory(
        &self,
        row: &SegmentRow,
    ) -> Result<Result<Directory, Fault>, StoreError> {
        let beside = path(row, DIRECTORY);
        let Some(bytes) = self.there(&beside).await? else {
            return Ok(Err(Fault::new(&beside, "it is missing")));
        };
        Ok(match Directory::read(&bytes) {
            Ok(directory) if directory.rows() as u64 == row.rows => Ok(directory),
            Ok(_) => Err(Fault::new(&beside, "it has other rows than the store names")),
            Err(error) => Err(Fault::new(&beside, error.to_string())),
        })
    }

    /// What of the Parquet file is not what was written, by its directory.
    async fn columns_of(
        &self,
        row: &SegmentRow,
        directory: &Directory,
        read: &Read<'_>,
    ) -> Result<Vec<Fault>, StoreError> {
        let file = path(row, FILE);
        let end = self.part(&file, directory.footer().min(row.bytes)..row.bytes).await?;
        let footer = match Footer::read(end, row.bytes, directory) {
            Ok(footer) => footer,
            Err(error) => return Ok(vec![Fault::new(&file, error.to_string())]),
        };
        let mut faults = Vec::new();
        for group in 0..directory.groups() {
            let range = footer.bytes_of_group(group);
            let bytes = self.part(&file, range.clone()).await?;
            read(bytes.len() as u64);
            let bytes = Ranges::new(row.bytes, vec![(range.start, bytes)]);
            for name in footer.damaged(group, &bytes, directory) {
                let what = format!("column {name} of row group {group} is not what was written");
                faults.push(Fault::new(&file, what));
            }
        }
        Ok(faults)
    }

    async fn sketches_of(
        &self,
        row: &SegmentRow,
        directory: &Directory,
    ) -> Result<Option<Fault>, StoreError> {
        let parts = directory.nodes.all().iter().map(|node| {
            let is_of = |bytes: &[u8]| node.is_of(bytes);
            (node.bytes(), Box::new(is_of) as Box<_>)
        });
        self.parts_of(&path(row, SKETCHES_TYPE), "sketches", parts.collect()).await
    }

    async fn totals_of(
        &self,
        row: &SegmentRow,
        directory: &Directory,
    ) -> Result<Option<Fault>, StoreError> {
        let parts = directory.totals.all().iter().map(|place| {
            let is_of = |bytes: &[u8]| place.is_of(bytes);
            (place.bytes(), Box::new(is_of) as Box<_>)
        });
        self.parts_of(&path(row, TOTALS_TYPE), "totals", parts.collect()).await
    }

    /// Checks an object that is parts, one behind the other. One without parts need not be there.
    async fn parts_of(
        &self,
        path: &Path,
        called: &str,
        mut parts: Vec<Part<'_>>,
    ) -> Result<Option<Fault>, StoreError> {
        parts.sort_unstable_by_key(|(range, _)| range.start);
        let Some(length) = parts.last().map(|(range, _)| range.end) else { return Ok(None) };
        match self.size(path).await? {
            None => return Ok(Some(Fault::new(path, "it is missing"))),
            Some(bytes) if bytes != length => {
                let what = format!("it has {bytes} bytes, and {length} were written");
                return Ok(Some(Fault::new(path, what)));
            }
            Some(_) => {}
        }
        let (mut damaged, all) = (0, parts.len());
        let mut left = &parts[..];
        while let Some((first, _)) = left.first() {
            let start = first.start;
            let fitting = left.partition_point(|(range, _)| range.end <= start + PART_BYTES).max(1);
            let (now, later) = left.split_at(fitting);
            let end = now.last().map_or(start, |(range, _)| range.end);
            let bytes = self.part(path, start..end).await?;
            let is_damaged = |(range, is_of): &&Part<'_>| {
                let at = |byte: u64| usize::try_from(byte - start).unwrap_or(usize::MAX);
                !bytes.get(at(range.start)..at(range.end)).is_some_and(is_of)
            };
            damaged += now.iter().filter(is_damaged).count();
            left = later;
        }
        let what = format!("{damaged} of its {all} {called} are not what was written");
        Ok((damaged > 0).then(|| Fault::new(path, what)))
    }

    /// How many bytes an object has; none: it is missing.
    async fn size(&self, path: &Path) -> Result<Option<u64>, StoreError> {
        match self.objects.head(path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(away(path, error)),
        }
    }

    /// The whole of an object; none: it is missing.
    pub(super) async fn there(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        match self.objects.get(path).await {
            Ok(found) => found.bytes().await.map(Some).map_err(|error| away(path, error)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(away(path, error)),
        }
    }
}

impl From<SegmentError> for NotMade {
    fn from(why: SegmentError) -> Self {
        Self::Segment(why.to_string())
    }
}
