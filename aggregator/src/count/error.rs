//! Why a message or a snapshot is refused.

use shared::OutboxId;

/// Why an engine refused a message or a snapshot. A refused message has changed nothing. All but
/// [`EngineError::TooManyIds`] mean that the log, the collector or the store is not what it should
/// be: the partition stops, and says so.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EngineError {
    /// The message is not the one that follows.
    #[error("the message has sequence {got} where {expected} follows")]
    Sequence {
        /// One more than the sequence of the last message applied; 1 for the first.
        expected: u64,
        /// What was handed in.
        got: u64,
    },
    /// The message comes from another log than the ones before.
    #[error("the message comes from another log than the ones before it")]
    Identity,
    /// The message is of another partition.
    #[error("the message is of partition {got}, the engine of {expected}")]
    Partition {
        /// The engine's.
        expected: u16,
        /// The message's.
        got: u16,
    },
    /// A chunk of an imported log covers more rows than it may.
    #[error("chunk {entry} of the message covers too many rows")]
    ChunkRows {
        /// Its number among the chunks of the message.
        entry: usize,
    },
    /// An event's block does not belong to what brought it: a row of a log lies outside its chunk,
    /// or a batch brought a row of a log.
    #[error("event {row} of the message has a block that its batch or chunk cannot have")]
    ForeignBlock {
        /// Its number within the message.
        row: usize,
    },
    /// A batch number that no outbox ever reaches.
    #[error("{outbox:?} sent the number {number}, which no outbox reaches")]
    Number {
        /// Whose.
        outbox: OutboxId,
        /// Which.
        number: u64,
    },
    /// An outbox has more gaps than are kept.
    #[error("the numbers of {outbox:?} have too many gaps: take the edge out of service")]
    Gaps {
        /// Whose.
        outbox: OutboxId,
    },
    /// More distinct ads and publishers than an engine can tell apart. A checkpoint lets go of those
    /// that no resident minute has; if that does not help: fewer resident minutes.
    #[error("too many distinct ads and publishers in the resident minutes")]
    TooManyIds,
    /// A snapshot that contradicts itself.
    #[error("the snapshot is damaged: {0}")]
    Snapshot(&'static str),
}
