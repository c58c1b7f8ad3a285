//! Makes the objects beside a segment's Parquet file anew where they are not what they should be.

use object_store::ObjectStoreExt as _;
use object_store::path::Path;

use super::check::Read;
use super::{DIRECTORY, FILE, SKETCHES_TYPE, Segments, TOTALS_TYPE, away, path};
use crate::facts::segment::{Directory, Made, Rebuild, SegmentError};
use crate::store::StoreError;
use crate::store::rows::SegmentRow;

/// What was made anew of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rebuilt {
    /// The objects that were written, from where the stores lie.
    pub objects: Vec<String>,
    /// Whether digests say that the Parquet file, of which they were made, is what was written. A
    /// file of an earlier build has none but in its directory.
    pub is_proved: bool,
}

/// Why nothing is made.
#[derive(Debug, thiserror::Error)]
pub enum NotMade {
    /// The Parquet file is not what was written.
    #[error("{0}")]
    Segment(String),
    /// The object store.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// Works on bytes that may not be what was written. Where the decoder panics, they are not.
async fn decode<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SegmentError> + Send + 'static,
) -> Result<T, NotMade> {
    let done = tokio::task::spawn_blocking(work).await;
    let failed = |error: tokio::task::JoinError| match error.is_panic() {
        true => NotMade::Segment("its bytes cannot be decoded".to_owned()),
        false => StoreError::Closed("the process ends".to_owned()).into(),
    };
    Ok(done.map_err(failed)??)
}

impl Segments {
    /// Makes what stands beside the Parquet file anew from it, and writes what is missing or
    /// another: the directory last, which says what the others are.
    pub(crate) async fn rebuild(
        &self,
        row: &SegmentRow,
        read: &Read<'_>,
    ) -> Result<Rebuilt, NotMade> {
        let known = self.directory(row).await?.ok();
        let (mut made, is_proved) = self.remake(row, known.clone(), read).await?;
        // A sound directory stays as it is, unless this build makes other sketches or totals than
        // the one that wrote it.
        let same = |known: &Directory| {
            known.nodes == made.directory.nodes
                && (known.totals.all().is_empty() || known.totals == made.directory.totals)
        };
        if let Some(known) = known.filter(same) {
            if known.totals.all().is_empty() {
                made.totals.clear();
            }
            made.directory = known;
        }
        let mut objects = Vec::new();
        for path in self.others_than(row, &made).await? {
            let kind = path.extension().unwrap_or_default().to_owned();
            let bytes = beside(&made, &kind);
            let done = self.objects.put(&path, bytes.into()).await;
            done.map_err(|error| away(&path, error))?;
            objects.push(path.to_string());
        }
        Ok(Rebuilt { objects, is_proved })
    }

    /// The objects beside the Parquet file that are missing or are not what was made. A directory
    /// is what was made when it means the same, whatever its version.
    pub(super) async fn others_than(
        &self,
        row: &SegmentRow,
        made: &Made,
    ) -> Result<Vec<Path>, StoreError> {
        let mut others = Vec::new();
        for kind in [SKETCHES_TYPE, TOTALS_TYPE, DIRECTORY] {
            let (path, bytes) = (path(row, kind), beside(made, kind));
            let found = self.there(&path).await?;
            let is_same = match &found {
                Some(found) if kind == DIRECTORY => {
                    Directory::read(found).is_ok_and(|found| found == made.directory)
                }
                Some(found) => bytes.is_empty() || *found == bytes,
                None => bytes.is_empty(),
            };
            if !is_same {
                others.push(path);
            }
        }
        Ok(others)
    }

    /// Makes what stands beside the Parquet file anew, in memory; and whether digests say that the
    /// file is what was written.
    pub(super) async fn remake(
        &self,
        row: &SegmentRow,
        known: Option<Directory>,
        read: &Read<'_>,
    ) -> Result<(Made, bool), NotMade> {
        let (file, length, rows) = (path(row, FILE), row.bytes, row.rows);
        let tail = self.part(&file, length.saturating_sub(Rebuild::TAIL_BYTES)..length).await?;
        let first = decode(move || Rebuild::metadata_at(&tail, length)).await?;
        let end = self.part(&file, first..length).await?;
        let is_known = known.is_some();
        let mut rebuild = decode(move || {
            let mut rebuild = Rebuild::new(end, first, length, rows)?;
            known.iter().for_each(|directory| rebuild.know(directory));
            Ok(rebuild)
        })
        .await?;
        let (groups, footer_at) = (rebuild.groups().to_vec(), rebuild.footer_at());
        let is_proved = rebuild.is_proved();
        for (number, group) in groups.iter().enumerate().filter(|_| !is_known) {
            let bytes = self.parts(&file, &group.names).await?;
            let parts = group.names.iter().map(|range| range.start).zip(bytes).collect();
            rebuild = decode(move || rebuild.learn(number, parts).map(|()| rebuild)).await?;
        }
        for group in groups {
            let bytes = self.part(&file, group.whole).await?;
            read(bytes.len() as u64);
            rebuild = decode(move || rebuild.take(bytes).map(|()| rebuild)).await?;
        }
        let footer = self.part(&file, footer_at..length).await?;
        Ok((decode(move || rebuild.finish(&footer)).await?, is_proved))
    }
}

/// The bytes of an object of this kind.
fn beside(made: &Made, kind: &str) -> Vec<u8> {
    match kind {
        SKETCHES_TYPE => made.sketches.clone(),
        TOTALS_TYPE => made.totals.clone(),
        _ => made.directory.to_bytes(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;

    #[tokio::test]
    async fn a_decoder_that_panics_has_met_bytes_that_were_not_written() {
        let done = decode::<()>(|| panic!("an index out of bounds")).await;
        let Err(NotMade::Segment(what)) = done else { panic!("{done:?}") };
        assert_eq!(what, "its bytes cannot be decoded");
    }
}
