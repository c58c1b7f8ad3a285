//! The log: what collectors append to and aggregators read from.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use shared::text::hex;

use crate::position::{Digest, Identity, Position};
use crate::segments::SegmentsError;

/// The partition of dead letters, where batches that could not be decoded wait
/// for an operator. It is a stream of its own, and [`Log::partitions`] does not
/// count it.
pub const DEAD: u16 = u16::MAX;

/// One message to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Below [`Log::partitions`], or [`DEAD`].
    pub partition: u16,
    /// Opaque to the log.
    pub payload: Bytes,
}

/// One message as a reader gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// Position of the message; a reader that is opened after it goes on with the next message.
    pub position: Position,
    /// What was appended.
    pub payload: Bytes,
}

/// A log of numbered, ordered partitions.
///
/// Duties of every adapter and fake (the suite in [`crate::contract`] checks
/// them):
///
/// - **Order.** A partition's messages have the sequences 1, 2, 3, … without
///   gaps, and every reader gets them in this order. The messages of one
///   `append` to one partition follow each other in the order given. Two
///   concurrent `append`s come in some order; nothing is promised across
///   partitions.
/// - **Durability.** When `append` returns `Ok`, every message of it survives
///   the loss of power. A reader never gets a message that is not durable.
/// - **Errors.** An `Err` from `append` does *not* mean that nothing was
///   written: the acknowledgement may have been lost after the write, or only
///   some partitions written. The caller appends again, and readers recognise
///   repeated content by the batch numbers in it. An adapter never retries by
///   itself.
/// - **Atomicity.** A message is delivered whole or not at all. Several
///   messages of one `append` are not atomic in general.
/// - **Concurrency.** All methods may be called from many tasks at once.
///   Dropping the future of `append` does not take the write back.
/// - **Identity.** `identity` never changes while the log's contents live, and
///   a log that is created anew gets another one.
pub trait Log: Send + Sync + 'static {
    /// The reader of one partition.
    type Reader: Reader + 'static;

    /// Appends messages; they are durable when this returns `Ok`, which has one
    /// position per message, in the order given. Without messages nothing is
    /// written.
    fn append(
        &self,
        messages: Vec<Message>,
    ) -> impl Future<Output = Result<Vec<Position>, LogError>> + Send;

    /// Position of the partition's last durable message; `None` when nothing
    /// was ever appended to it. Also known when that message is trimmed.
    fn end(
        &self,
        partition: u16,
    ) -> impl Future<Output = Result<Option<Position>, LogError>> + Send;

    /// The partition's last durable message; `None` when nothing was ever
    /// appended to it, or the message is trimmed.
    fn last(&self, partition: u16) -> impl Future<Output = Result<Option<Bytes>, LogError>> + Send;

    /// A reader of what follows `after`. `None` begins with the first message
    /// ever, and for [`DEAD`] with the first that is not trimmed.
    ///
    /// # Errors
    /// The position is compared with the log: [`LogError::Mismatch`] when its
    /// identity or digest differs, [`LogError::StepBack`] when the log ends
    /// before it, [`LogError::Trimmed`] when the message after it is gone.
    fn reader(
        &self,
        partition: u16,
        after: Option<Position>,
    ) -> impl Future<Output = Result<Self::Reader, LogError>> + Send;

    /// Allows the log to remove the messages of each partition up to and
    /// including the given sequence; a partition that is not listed keeps
    /// everything. The log may keep more, never less. Returns the bytes freed.
    fn trim(&self, applied: &[(u16, u64)]) -> impl Future<Output = Result<u64, LogError>> + Send;

    /// Number of partitions without [`DEAD`]; fixed at creation.
    fn partitions(&self) -> u16;

    /// Identity of the log.
    fn identity(&self) -> Identity;
}

/// Reads one partition in order, from where it was opened.
///
/// After an error other than a retryable one (see [`LogError::is_retryable`])
/// the reader stays where it was and gives the same error again; it never
/// jumps.
pub trait Reader: Send {
    /// The next message; waits for one at the end of the log. Cancel-safe: a
    /// dropped future takes no message with it.
    fn next(&mut self) -> impl Future<Output = Result<Delivered, LogError>> + Send;

    /// The next message if one can be had without waiting for an append.
    ///
    /// A local log's `None` means the durable end; a remote one may also say
    /// `None` while messages are on their way, so compare with [`Log::end`]
    /// where it matters.
    fn try_next(&mut self) -> Result<Option<Delivered>, LogError>;
}

/// The part of a position that does not match the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PositionPart {
    /// The identity: this is another log (created anew, or a wrong directory).
    Identity,
    /// The digest: the message at this sequence is another one.
    Digest,
}

/// Why an operation on the log failed, sorted by who can do something about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    // The caller's fault.
    /// The partition is neither below the log's number of partitions nor
    /// [`DEAD`].
    #[error("partition {partition} does not exist: the log has {partitions}")]
    UnknownPartition {
        /// As asked for.
        partition: u16,
        /// How many the log has.
        partitions: u16,
    },
    /// More than one append may carry. Nothing was written.
    #[error("an append of {bytes} bytes and {records} messages is over the limit")]
    TooLarge {
        /// Bytes of all payloads.
        bytes: u64,
        /// Number of messages.
        records: usize,
    },

    // The position does not fit: the log is not what the reader knew. Never retried.
    /// The position is of another log, or the message there is another one now.
    #[error(
        "partition {partition}: {part:?} of the position at sequence {sequence} is {expected}, but the log has {found}"
    )]
    Mismatch {
        /// Partition asked for.
        partition: u16,
        /// Which part differs.
        part: PositionPart,
        /// Sequence of the position.
        sequence: u64,
        /// The position's value, in hex.
        expected: String,
        /// The log's value, in hex.
        found: String,
    },
    /// The log ends before the position: messages that were durable are gone.
    #[error("partition {partition}: the position is at {sequence}, but the log ends at {end}")]
    StepBack {
        /// Partition asked for.
        partition: u16,
        /// Sequence of the position.
        sequence: u64,
        /// Last sequence of the log; 0 when it is empty.
        end: u64,
    },
    /// The next message has been trimmed.
    #[error("partition {partition}: sequence {sequence} is trimmed, the first one left is {first}")]
    Trimmed {
        /// Partition asked for.
        partition: u16,
        /// The sequence that would be next.
        sequence: u64,
        /// The first sequence that can still be read.
        first: u64,
    },

    // The store's fault, for now: worth trying again.
    /// The disk is full. Nothing was written.
    #[error("no space left for the log")]
    NoSpace,
    /// The log cannot be reached, or the acknowledgement was lost. The messages
    /// may have been written.
    #[error("the log is not available: {0}")]
    Unavailable(String),

    // The store's fault, for good.
    /// Stored bytes are damaged; the text has the file, the offset and what is wrong.
    #[error(
        "damaged log: {0}; bring back a backup (`countersign restore`), for nothing is guessed"
    )]
    Damaged(String),
    /// The log can no longer be written, for example after a failed fsync. The
    /// messages may have been written. The process must end.
    #[error("the log has failed: {0}")]
    Fatal(String),
    /// The log was closed by its owner. Nothing was written.
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    /// Whether the same call may succeed later: the log comes back, or an
    /// operator makes room.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::NoSpace | Self::Unavailable(_))
    }

    /// Whether the process must end (a failed fsync ends the process).
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Fatal(_))
    }
}

/// Checks that a partition exists: that it is below `partitions`, or [`DEAD`].
pub(crate) fn check_partition(partition: u16, partitions: u16) -> Result<(), LogError> {
    if partition < partitions || partition == DEAD {
        return Ok(());
    }
    Err(LogError::UnknownPartition { partition, partitions })
}

impl Position {
    /// Checks that a log with the identity `found` is the one of this position.
    pub(crate) fn check_identity(&self, partition: u16, found: &Identity) -> Result<(), LogError> {
        self.compare(partition, PositionPart::Identity, &self.identity, found)
    }

    /// Checks that a message with the digest `found` is the one of this position.
    pub(crate) fn check_digest(&self, partition: u16, found: &Digest) -> Result<(), LogError> {
        self.compare(partition, PositionPart::Digest, &self.digest, found)
    }

    fn compare(
        &self,
        partition: u16,
        part: PositionPart,
        expected: &[u8],
        found: &[u8],
    ) -> Result<(), LogError> {
        if expected == found {
            return Ok(());
        }
        let (sequence, expected, found) = (self.sequence, hex(expected), hex(found));
        Err(LogError::Mismatch { partition, part, sequence, expected, found })
    }
}

impl From<SegmentsError> for LogError {
    fn from(error: SegmentsError) -> Self {
        match error {
            SegmentsError::Trimmed { stream, sequence, first } => {
                Self::Trimmed { partition: stream, sequence, first }
            }
            SegmentsError::StepBack { stream, sequence, end } => {
                Self::StepBack { partition: stream, sequence, end }
            }
            SegmentsError::TooLarge { bytes, records } => Self::TooLarge { bytes, records },
            SegmentsError::NoSpace => Self::NoSpace,
            SegmentsError::Damaged { .. } => Self::Damaged(error.to_string()),
            SegmentsError::Locked { .. }
            | SegmentsError::Io { .. }
            | SegmentsError::Fatal { .. } => Self::Fatal(error.to_string()),
        }
    }
}

impl<L: Log> Log for Arc<L> {
    type Reader = L::Reader;

    fn append(
        &self,
        messages: Vec<Message>,
    ) -> impl Future<Output = Result<Vec<Position>, LogError>> + Send {
        (**self).append(messages)
    }

    fn end(
        &self,
        partition: u16,
    ) -> impl Future<Output = Result<Option<Position>, LogError>> + Send {
        (**self).end(partition)
    }

    fn last(&self, partition: u16) -> impl Future<Output = Result<Option<Bytes>, LogError>> + Send {
        (**self).last(partition)
    }

    fn reader(
        &self,
        partition: u16,
        after: Option<Position>,
    ) -> impl Future<Output = Result<Self::Reader, LogError>> + Send {
        (**self).reader(partition, after)
    }

    fn trim(&self, applied: &[(u16, u64)]) -> impl Future<Output = Result<u64, LogError>> + Send {
        (**self).trim(applied)
    }

    fn partitions(&self) -> u16 {
        (**self).partitions()
    }

    fn identity(&self) -> Identity {
        (**self).identity()
    }
}
