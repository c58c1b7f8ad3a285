use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why an operation on segments failed; each says whose fault it is.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SegmentsError {
    /// The caller's fault: the group is over [`super::GROUP_BYTES_MAX`] or
    /// [`super::GROUP_RECORDS_MAX`]. Nothing was written.
    #[error("a group of {bytes} bytes and {records} records is over the limit")]
    TooLarge {
        /// Bytes that the group would have.
        bytes: u64,
        /// Records of the group.
        records: usize,
    },
    /// The reader's position does not fit: the record after it has been trimmed.
    #[error("stream {stream}: sequence {sequence} is trimmed, the first one left is {first}")]
    Trimmed {
        /// Stream asked for.
        stream: u16,
        /// The sequence that would be next.
        sequence: u64,
        /// First sequence that can still be read.
        first: u64,
    },
    /// The reader's position does not fit: it is beyond the end, so records
    /// that were durable are gone.
    #[error("stream {stream}: position {sequence} is beyond the end {end}")]
    StepBack {
        /// Stream asked for.
        stream: u16,
        /// The position.
        sequence: u64,
        /// Last sequence of the stream; 0 when it is empty.
        end: u64,
    },
    /// The store's fault: the disk is full. Nothing was written; try again later.
    #[error("no space left on the device")]
    NoSpace,
    /// The operator's fault: another process has locked the directory.
    #[error("{} is in use by another process (its lock file is held)", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The store's fault: bytes on disk are not what was written. They are never skipped.
    #[error("{}, offset {offset}: {what}", file.display())]
    Damaged {
        /// The segment file.
        file: PathBuf,
        /// Offset in the file, bytes.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// The store's fault: an operation on a file failed.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A write or fsync has failed, so it is not known what is on disk. This
    /// process writes nothing more. The group that was being appended may or
    /// may not be found at the next start.
    #[error("the segments can no longer be written: {why}")]
    Fatal {
        /// The first failure.
        why: String,
    },
}

impl SegmentsError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source: Arc::new(source) }
    }

    pub(super) fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), offset, what: what.into() }
    }
}
