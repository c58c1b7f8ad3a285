//! Where batches go.

use std::future::Future;

use bytes::Bytes;

/// Takes an outbox's batches: a collector in the same process, or one behind a network.
///
/// Duties. `Ok` means that every partition has the batch durably. It may be called again with a
/// batch that it has taken (an acknowledgement was lost), for several batches at once, and out of
/// order; it is given the same bytes each time. An error does not mean that nothing happened.
/// Dropping the future may leave the batch taken or not.
pub trait BatchSink: Send + Sync + 'static {
    /// Takes one batch ([`shared::wire::Batch`], binary form).
    fn submit(&self, batch: Bytes) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// How many ms this edge's clock is ahead of the collector's, when that is more than
    /// [`shared::limits::CLOCK_AHEAD_MS_MAX`], as far as the sink knows; makes the edge unready.
    fn clock_ahead_ms(&self) -> Option<u64> {
        None
    }
}

/// Why a batch was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// Not now: the batch is sent again.
    #[error("not now: {0}")]
    Retry(String),
    /// Never as it is: the batch is kept, an operator is told, and it is tried again slowly.
    #[error("refused: {0}")]
    Refused(String),
}
