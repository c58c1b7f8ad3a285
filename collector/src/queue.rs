//! The bounded queue in front: places by number and by bytes. Who finds none waits.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// What an event costs in memory besides its bytes in the batch.
const EVENT_BYTES: usize = 256;

/// Hands out places.
#[derive(Debug)]
pub(crate) struct Queue {
    items: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
    metrics: Arc<Metrics>,
}

/// A place in the queue: held until the batch is acknowledged or given up.
#[derive(Debug)]
pub(crate) struct Place {
    _item: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.queue_items.dec();
        self.metrics.queue_bytes.dec_by(self.bytes.num_permits().try_into().unwrap_or(i64::MAX));
    }
}

impl Queue {
    pub(crate) fn new(items_max: usize, bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX).max(1);
        let permits = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Self {
            items: Arc::new(Semaphore::new(items_max.clamp(1, Semaphore::MAX_PERMITS))),
            bytes: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            bytes_max,
            metrics,
        }
    }

    /// Waits for a place; those who wait are served in their order. One that is larger than the
    /// whole queue waits until it is empty. `None`: the queue is closed.
    pub(crate) async fn place(&self, bytes: usize, events: usize) -> Option<Place> {
        let weight = bytes.saturating_add(events.saturating_mul(EVENT_BYTES)).max(1);
        let weight = u32::try_from(weight).unwrap_or(u32::MAX).min(self.bytes_max);
        let item = Arc::clone(&self.items).acquire_owned().await.ok()?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(weight).await.ok()?;
        self.metrics.queue_items.inc();
        self.metrics.queue_bytes.inc_by(i64::from(weight));
        Some(Place { _item: item, bytes, metrics: Arc::clone(&self.metrics) })
    }

    /// Nobody gets a place any more; those who have one keep it.
    pub(crate) fn close(&self) {
        self.items.close();
        self.bytes.close();
    }
}
