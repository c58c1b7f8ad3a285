use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;

use super::format::Streams;
use super::{Result, SegmentReader, SegmentsError};
use crate::position::{Digest, Identity};

/// The last record of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// Its sequence; 0 when the stream has none.
    pub sequence: u64,
    /// Its digest; zero when the stream has none.
    pub digest: Digest,
}

/// One segment file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) first_group: u64,
    /// Offset of the first group.
    pub(super) header_bytes: u64,
    /// Ends of the streams before this segment.
    pub(super) starts: Streams,
    /// Durable bytes of the file; bytes beyond are never read.
    end: AtomicU64,
}

impl Segment {
    pub(super) fn new(
        path: PathBuf,
        first_group: u64,
        header_bytes: u64,
        starts: Streams,
        end: u64,
    ) -> Self {
        Self { path, first_group, header_bytes, starts, end: AtomicU64::new(end) }
    }

    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Called by the writer, after the fsync.
    pub(super) fn set_end(&self, end: u64) {
        self.end.store(end, Ordering::Release);
    }

    pub(super) fn start(&self, stream: u16) -> StreamEnd {
        self.starts.get(&stream).copied().unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct Catalog {
    /// Oldest first; the last one is written to. Never empty.
    pub(super) segments: VecDeque<Arc<Segment>>,
    pub(super) ends: Streams,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) identity: Identity,
    pub(super) catalog: RwLock<Catalog>,
    pub(super) trimming: Mutex<()>,
    /// Number of durable groups; changes after each fsync.
    pub(super) durable: watch::Sender<u64>,
}

/// The segments as readers see them: everything durable, from any thread, while
/// one thread writes. Clones are cheap. It can still be used to read after the
/// writer has gone.
#[derive(Clone, Debug)]
pub struct SegmentsView {
    pub(super) shared: Arc<Shared>,
}

impl SegmentsView {
    /// Identity of the log.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.shared.identity
    }

    /// Directory of the segments.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Streams that ever had a record, in order.
    #[must_use]
    pub fn streams(&self) -> Vec<u16> {
        self.shared.catalog.read().ends.keys().copied().collect()
    }

    /// The stream's last durable record; `None` when it never had one. Also
    /// known when the record is trimmed.
    #[must_use]
    pub fn end(&self, stream: u16) -> Option<StreamEnd> {
        self.shared.catalog.read().ends.get(&stream).copied()
    }

    /// Sequence of the last trimmed record of the stream; 0 when none is
    /// trimmed. A reader after this sequence gets everything that is left.
    #[must_use]
    pub fn trimmed(&self, stream: u16) -> u64 {
        let catalog = self.shared.catalog.read();
        catalog.segments.front().map_or(0, |segment| segment.start(stream).sequence)
    }

    /// Bytes of all segment files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let catalog = self.shared.catalog.read();
        catalog.segments.iter().map(|segment| segment.end()).sum()
    }

    /// A receiver that changes after each durable group.
    #[must_use]
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.shared.durable.subscribe()
    }

    /// A reader of what follows the sequence `after` of a stream (0: from the
    /// first record ever).
    ///
    /// # Errors
    /// [`SegmentsError::StepBack`] when `after` is beyond the end,
    /// [`SegmentsError::Trimmed`] when the next record is gone,
    /// [`SegmentsError::Damaged`] and [`SegmentsError::Io`].
    pub fn reader(&self, stream: u16, after: u64) -> Result<SegmentReader> {
        SegmentReader::open(self.clone(), stream, after)
    }

    /// Removes, oldest first, the segments in which every stream's last
    /// sequence is at or below the one given for it (a stream not listed keeps
    /// all its records). Never the segment that is written to. Returns the
    /// bytes freed.
    ///
    /// # Errors
    /// [`SegmentsError::Io`]; segments before the failing one are gone.
    pub fn trim(&self, applied: &[(u16, u64)]) -> Result<u64> {
        let _one_at_a_time = self.shared.trimming.lock();
        let mut freed = 0;
        // Ends at the first segment that must stay: only the oldest may go, so that no gap arises.
        while let Some(segment) = self.take_trimmable(applied) {
            if let Err(source) = fs::remove_file(&segment.path) {
                let error = SegmentsError::io(&segment.path, "remove", source);
                self.shared.catalog.write().segments.push_front(segment);
                return Err(error);
            }
            // After each removal, so that a crash never leaves a gap between segments.
            sync_dir(&self.shared.dir)?;
            freed += segment.end();
            tracing::debug!(file = %segment.path.display(), "segment trimmed");
        }
        Ok(freed)
    }

    /// Takes the oldest segment out of the catalog if it may go.
    fn take_trimmable(&self, applied: &[(u16, u64)]) -> Option<Arc<Segment>> {
        let mut catalog = self.shared.catalog.write();
        let [Some(oldest), Some(next)] = [catalog.segments.front(), catalog.segments.get(1)] else {
            return None;
        };
        let is_applied = |(stream, end): (&u16, &StreamEnd)| {
            let upto = applied.iter().find(|(s, _)| s == stream);
            // A stream without a record in this segment does not keep it.
            oldest.start(*stream).sequence == end.sequence
                || upto.is_some_and(|(_, upto)| *upto >= end.sequence)
        };
        if !next.starts.iter().all(is_applied) {
            return None;
        }
        catalog.segments.pop_front()
    }

    /// The segment in which a reader of what follows `after` begins: the last one that starts at or before it.
    pub(super) fn locate(&self, stream: u16, after: u64) -> Result<Arc<Segment>> {
        let catalog = self.shared.catalog.read();
        let end = catalog.ends.get(&stream).map_or(0, |end| end.sequence);
        if after > end {
            return Err(SegmentsError::StepBack { stream, sequence: after, end });
        }
        let count =
            catalog.segments.partition_point(|segment| segment.start(stream).sequence <= after);
        match count.checked_sub(1).and_then(|i| catalog.segments.get(i)) {
            Some(segment) => Ok(Arc::clone(segment)),
            None => Err(SegmentsError::Trimmed {
                stream,
                sequence: after + 1,
                first: 1 + catalog
                    .segments
                    .front()
                    .map_or(0, |segment| segment.start(stream).sequence),
            }),
        }
    }

    /// The next segment after this one that is not trimmed; `None` for the last.
    pub(super) fn following(&self, segment: &Segment) -> Option<Arc<Segment>> {
        let catalog = self.shared.catalog.read();
        let index =
            catalog.segments.partition_point(|other| other.first_group <= segment.first_group);
        catalog.segments.get(index).cloned()
    }

    /// Whether the segment has been trimmed.
    pub(super) fn is_trimmed(&self, segment: &Segment) -> bool {
        let catalog = self.shared.catalog.read();
        let oldest = catalog.segments.front();
        oldest.is_some_and(|oldest| oldest.first_group > segment.first_group)
    }
}

/// Makes it durable which names were created in a directory, and which removed.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|file| file.sync_all())
        .map_err(|source| SegmentsError::io(dir, "fsync the directory", source))
}
