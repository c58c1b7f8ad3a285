//! The edge's outbox drains into the collector of the same process.

use std::sync::Arc;

use bytes::Bytes;
use collector::{Collector, SubmitError};
use edge::outbox::{BatchSink, SinkError};
use eventlog::LocalLog;

/// A collector as a sink.
pub(super) struct CollectorSink(pub(super) Arc<Collector<LocalLog>>);

impl BatchSink for CollectorSink {
    async fn submit(&self, batch: Bytes) -> Result<(), SinkError> {
        self.0.submit(batch).await.map_err(|error| match error {
            SubmitError::Retry(why) => SinkError::Retry(why),
            SubmitError::Refused(why) => SinkError::Refused(why),
        })
    }
}
