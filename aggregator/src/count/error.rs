//! Why a message or a snapshot is refused.

/// Why an engine refused a message or a snapshot. A refused message has changed nothing. The log or
/// the store is not what it should be, so the partition stops, and says so. Nothing that a sender
/// can write leads to such an error: all of that gets an outcome.
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
    /// The message comes from another log than those before it.
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
    /// The snapshot contradicts itself: how.
    #[error("the snapshot is damaged: {0}")]
    Snapshot(&'static str),
}
