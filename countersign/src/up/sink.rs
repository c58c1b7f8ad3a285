//! The sink into which the edge's outbox drains: the collector of the same process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use collector::{Collector, SubmitError};
use edge::outbox::{BatchSink, News, SinkError};
use eventlog::AnyLog;
use shared::limits::CLOCK_AHEAD_MS_MAX;

/// A collector as an edge's sink.
pub(super) struct CollectorSink {
    collector: Arc<Collector<AnyLog>>,
    /// From the last batch's receipt. One process has one clock, but a batch that an earlier one
    /// sealed may be ahead of it.
    clock_ahead_ms: AtomicU64,
    is_out_of_service: AtomicBool,
}

impl CollectorSink {
    pub(super) fn new(collector: Arc<Collector<AnyLog>>) -> Self {
        Self {
            collector,
            clock_ahead_ms: AtomicU64::new(0),
            is_out_of_service: AtomicBool::new(false),
        }
    }
}

impl BatchSink for CollectorSink {
    async fn submit(&self, batch: Bytes) -> Result<(), SinkError> {
        let receipt = self.collector.submit(batch).await.map_err(|error| match error {
            SubmitError::Retry(why) | SubmitError::OverQuota { why, .. } => SinkError::Retry(why),
            // The batch stays in the outbox, until an operator has mended what keeps it out.
            SubmitError::Refused(why)
            | SubmitError::NotAllowed(_, why)
            | SubmitError::TooManyLetters(_, why) => SinkError::Refused(why),
        })?;
        self.clock_ahead_ms.store(receipt.clock_ahead_ms, Ordering::Relaxed);
        self.is_out_of_service.store(receipt.is_out_of_service, Ordering::Relaxed);
        Ok(())
    }

    fn news(&self) -> News {
        let ahead = self.clock_ahead_ms.load(Ordering::Relaxed);
        News {
            clock_ahead_ms: (ahead > CLOCK_AHEAD_MS_MAX).then_some(ahead),
            is_out_of_service: self.is_out_of_service.load(Ordering::Relaxed),
        }
    }
}
