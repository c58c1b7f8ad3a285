use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{ENTRY, GROUP_FIXED, SegmentHeader, Streams, encode_group};
pub use super::format::{GROUP_BYTES_MAX, GROUP_RECORDS_MAX};
use super::view::{Segment, sync_dir};
use super::{Recovered, Result, SegmentsError, SegmentsView, Verified};
use crate::position::{Digest, Identity};

/// Settings of [`Segments`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentsConfig {
    /// A segment that would grow beyond this is closed and a new one begun; a
    /// longer group gets a segment of its own. Bytes.
    pub segment_bytes: u64,
}

impl Default for SegmentsConfig {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024 }
    }
}

/// One record to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The stream; any number.
    pub stream: u16,
    /// Opaque; may be empty.
    pub payload: &'a [u8],
}

/// Where a record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The stream.
    pub stream: u16,
    /// Sequence in the stream, from 1 without gaps.
    pub sequence: u64,
    /// Digest of the payload.
    pub digest: Digest,
}

/// The writer; there is one per directory, guarded by a lock file.
#[derive(Debug)]
pub struct Segments {
    view: SegmentsView,
    config: SegmentsConfig,
    /// Held for its lock.
    _lock: File,
    file: ActiveFile,
    segment: Arc<Segment>,
    /// Offset of the next group.
    offset: u64,
    /// Index of the next group.
    group: u64,
    ends: Streams,
    buffer: Vec<u8>,
    /// Why nothing more may be written.
    poisoned: Option<String>,
}

/// What the recovery hands to the writer.
pub(super) struct Opened {
    pub(super) view: SegmentsView,
    pub(super) lock: File,
    pub(super) file: File,
    pub(super) segment: Arc<Segment>,
    pub(super) group: u64,
}

impl Segments {
    /// Opens the directory (creating it when it is missing), checks it and
    /// cuts a torn last group. A directory without segments begins a log with
    /// the identity given, 16 random bytes.
    ///
    /// # Errors
    /// [`SegmentsError::Locked`] when another process has the directory,
    /// [`SegmentsError::Damaged`], [`SegmentsError::NoSpace`] and
    /// [`SegmentsError::Io`].
    pub fn open(
        dir: &Path,
        config: SegmentsConfig,
        identity_if_new: Identity,
    ) -> Result<(Self, Recovered)> {
        let (opened, recovered) = super::recover::open(dir, identity_if_new)?;
        let ends = opened.view.shared.catalog.read().ends.clone();
        let segments = Self {
            config,
            _lock: opened.lock,
            file: ActiveFile::new(opened.file),
            offset: opened.segment.end(),
            segment: opened.segment,
            group: opened.group,
            ends,
            buffer: Vec::new(),
            poisoned: None,
            view: opened.view,
        };
        Ok((segments, recovered))
    }

    /// Writes the records as one group and makes it durable. Gives one
    /// [`Appended`] per record, in order. Without records it does nothing.
    ///
    /// # Errors
    /// [`SegmentsError::TooLarge`] and [`SegmentsError::NoSpace`]: nothing was
    /// written, and the segments stay usable. [`SegmentsError::Fatal`]: the
    /// group may have been written, every later append fails, and the process
    /// must end.
    pub fn append(&mut self, records: &[Record<'_>]) -> Result<Vec<Appended>> {
        if let Some(why) = &self.poisoned {
            return Err(SegmentsError::Fatal { why: why.clone() });
        }
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = group_bytes(records)?;
        if self.offset > self.segment.header_bytes
            && self.offset.saturating_add(bytes) > self.config.segment_bytes
        {
            self.roll()?;
        }
        let mut ends = self.ends.clone();
        let identity = self.view.identity();
        let mut buffer = std::mem::take(&mut self.buffer);
        encode_group(&mut buffer, &identity, self.group, self.offset, records, &mut ends);
        let written = self.write(&buffer);
        let appended = appended(records, &buffer);
        // A group of the usual size keeps its buffer; a huge one gives it back.
        if buffer.capacity() <= 8 * 1024 * 1024 {
            self.buffer = buffer;
        }
        written?;
        self.publish(bytes, ends);
        Ok(appended)
    }

    /// Why the segments can no longer be written; `None` when they can.
    #[must_use]
    pub fn poisoned(&self) -> Option<&str> {
        self.poisoned.as_deref()
    }

    /// The readers' view; it can be cloned and sent to other threads.
    #[must_use]
    pub fn view(&self) -> &SegmentsView {
        &self.view
    }

    /// As [`SegmentsView::trim`].
    ///
    /// # Errors
    /// See there.
    pub fn trim(&self, applied: &[(u16, u64)]) -> Result<u64> {
        self.view.trim(applied)
    }

    /// Checks every byte of a directory's segments: headers, that the segments
    /// follow each other, CRCs, sequences and digests. It only reads, and may
    /// run while a process writes, whose unfinished group then counts as torn.
    ///
    /// # Errors
    /// [`SegmentsError::Damaged`] for the first damage, [`SegmentsError::Io`].
    pub fn verify(dir: &Path) -> Result<Verified> {
        super::verify::verify(dir)
    }

    fn write(&mut self, group: &[u8]) -> Result<()> {
        if let Err(error) = self.file.write(group, self.offset) {
            if is_full(&error) && self.file.cut(self.offset).is_ok() {
                return Err(SegmentsError::NoSpace);
            }
            return Err(self.failed("write", error));
        }
        match self.file.sync() {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed("fdatasync", error)),
        }
    }

    /// Shows a durable group to the readers.
    fn publish(&mut self, bytes: u64, ends: Streams) {
        self.offset += bytes;
        self.group += 1;
        self.ends.clone_from(&ends);
        let mut catalog = self.view.shared.catalog.write();
        self.segment.set_end(self.offset);
        catalog.ends = ends;
        drop(catalog);
        self.view.shared.durable.send_replace(self.group);
    }

    /// Begins the next segment. The current one is durable already.
    fn roll(&mut self) -> Result<()> {
        let header = SegmentHeader {
            identity: self.view.identity(),
            first_group: self.group,
            previous_first_group: self.segment.first_group,
            previous_bytes: self.offset,
            starts: self.ends.clone(),
        };
        let (file, segment) = match create(&self.view.shared.dir, &header) {
            Ok(created) => created,
            Err(SegmentsError::NoSpace) => return Err(SegmentsError::NoSpace),
            Err(error) => return Err(self.poison(error.to_string())),
        };
        self.file.file = file;
        self.offset = segment.header_bytes;
        self.segment = Arc::clone(&segment);
        let mut catalog = self.view.shared.catalog.write();
        catalog.segments.push_back(segment);
        Ok(())
    }

    fn failed(&mut self, action: &'static str, error: io::Error) -> SegmentsError {
        let error = SegmentsError::io(&self.segment.path, action, error);
        self.poison(error.to_string())
    }

    fn poison(&mut self, why: String) -> SegmentsError {
        tracing::error!(%why, "segments failed; nothing more is written");
        self.poisoned = Some(why.clone());
        SegmentsError::Fatal { why }
    }
}

/// Length in bytes of the group of these records.
fn group_bytes(records: &[Record<'_>]) -> Result<u64> {
    let payloads: u64 = records.iter().map(|r| r.payload.len() as u64).sum();
    let bytes = payloads + (GROUP_FIXED + ENTRY * records.len()) as u64;
    if records.len() > GROUP_RECORDS_MAX || bytes > GROUP_BYTES_MAX as u64 {
        return Err(SegmentsError::TooLarge { bytes, records: records.len() });
    }
    Ok(bytes)
}

/// Reads sequences and digests back from the directory just encoded.
fn appended(records: &[Record<'_>], group: &[u8]) -> Vec<Appended> {
    let entries = group[GROUP_FIXED..].chunks_exact(ENTRY);
    records
        .iter()
        .zip(entries)
        .map(|(record, entry)| {
            let (mut sequence, mut digest) = ([0; 8], [0; 16]);
            sequence.copy_from_slice(&entry[8..16]);
            digest.copy_from_slice(&entry[16..32]);
            Appended { stream: record.stream, sequence: u64::from_le_bytes(sequence), digest }
        })
        .collect()
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Path of the segment that begins with this group.
pub(super) fn segment_path(dir: &Path, first_group: u64) -> PathBuf {
    dir.join(format!("{first_group:020}.seg"))
}

/// Creates a segment that holds its header only. It gets its name when the
/// header is durable, so a named segment never has a torn header.
pub(super) fn create(dir: &Path, header: &SegmentHeader) -> Result<(File, Arc<Segment>)> {
    let path = segment_path(dir, header.first_group);
    let new = path.with_extension("new");
    let bytes = header.encode();
    let made = (|| {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(true).read(true).write(true).open(&new)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        Ok(file)
    })();
    let file = match made {
        Ok(file) => file,
        Err(error) if is_full(&error) => {
            // If this fails, the file is removed at the next open, or written over.
            let _ = fs::remove_file(&new);
            return Err(SegmentsError::NoSpace);
        }
        Err(error) => return Err(SegmentsError::io(&path, "create", error)),
    };
    sync_dir(dir)?;
    let length = bytes.len() as u64;
    let starts = header.starts.clone();
    let segment = Segment::new(path, header.first_group, length, starts, length);
    Ok((file, Arc::new(segment)))
}

/// The file that is written to; tests can make its operations fail.
#[derive(Debug)]
struct ActiveFile {
    file: File,
    #[cfg(test)]
    fault: Option<tests::Fault>,
}

impl ActiveFile {
    fn new(file: File) -> Self {
        Self {
            file,
            #[cfg(test)]
            fault: None,
        }
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(tests::Fault::Write { upto, kind }) = self.fault {
            self.file.write_all_at(&bytes[..upto], offset)?;
            return Err(kind.into());
        }
        self.file.write_all_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(tests::Fault::Sync) = self.fault {
            return Err(ErrorKind::Other.into());
        }
        self.file.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        #[cfg(test)]
        if let Some(tests::Fault::Write { upto: 0, .. }) = self.fault {
            return Err(ErrorKind::Other.into());
        }
        self.file.set_len(length)
    }
}

#[cfg(test)]
mod tests;
