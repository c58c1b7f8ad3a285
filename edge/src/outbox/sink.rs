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

    /// What the edge should hear of; makes it unready.
    fn news(&self) -> News {
        News::default()
    }
}

/// What a sink knows of the edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// How many ms its clock is ahead of the collector's, when that is more than
    /// [`shared::limits::CLOCK_AHEAD_MS_MAX`].
    pub clock_ahead_ms: Option<u64>,
    /// Its name is out of service: nothing that it sends is counted.
    pub is_out_of_service: bool,
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
