//! Where batches go.

use std::future::Future;

use bytes::Bytes;

/// Takes an outbox's batches: a collector in the same process, or one across a network.
///
/// What an implementation must keep to: `Ok` means that every partition has the batch durably. What
/// it must expect: a batch that it has taken may come again, as the same bytes, when an
/// acknowledgement was lost; several batches may come at once, and out of order. What callers must
/// expect: after an error the batch may still have been taken, and so it may after the future was
/// dropped.
pub trait BatchSink: Send + Sync + 'static {
    /// Takes one batch ([`shared::wire::Batch`], binary form).
    fn submit(&self, batch: Bytes) -> impl Future<Output = Result<(), SinkError>> + Send;

    /// What the edge should learn about itself; anything here makes it not ready.
    fn news(&self) -> News {
        News::default()
    }
}

/// What a sink has learnt about the edge.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct News {
    /// How far the edge's clock is ahead of the collector's, in ms, when that is more than
    /// [`shared::limits::CLOCK_AHEAD_MS_MAX`].
    pub clock_ahead_ms: Option<u64>,
    /// The edge's name is out of service: nothing that it sends is counted.
    pub is_out_of_service: bool,
}

/// Why a batch was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// Not now: the outbox sends the batch again.
    #[error("not now: {0}")]
    Retry(String),
    /// Never in this form: the outbox keeps the batch, reports it to the operator, and tries again
    /// slowly.
    #[error("refused: {0}")]
    Refused(String),
}
