//! The bounded queue in front: places by number and by bytes. Who finds none waits. One issuer has a
//! share of both, what waits for a place included, so that nobody fills the queue for all.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use shared::IssuerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// What an event costs in memory besides its bytes in the batch.
const EVENT_BYTES: usize = 256;
/// One issuer has one of so many parts of the bytes, and of the places.
const SHARES: u32 = 4;

/// Hands out places.
#[derive(Debug)]
pub(crate) struct Queue {
    items: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
    /// What each item weighs in its issuer's share at least, so that small ones do not take all the
    /// places.
    item_bytes: u32,
    /// By issuer: as many as the deployment has.
    shares: Mutex<HashMap<IssuerId, Arc<Semaphore>>>,
    metrics: Arc<Metrics>,
}

/// What a batch or chunk weighs, about, in bytes of memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight(u32);

impl Weight {
    pub(crate) fn new(bytes: usize, events: usize) -> Self {
        let weight = bytes.saturating_add(events.saturating_mul(EVENT_BYTES)).max(1);
        Self(u32::try_from(weight).unwrap_or(u32::MAX))
    }
}

/// A part of an issuer's share.
pub(crate) type Share = OwnedSemaphorePermit;

/// A place in the queue: held until the batch is acknowledged or given up.
#[derive(Debug)]
pub(crate) struct Permit {
    _share: Option<Share>,
    _item: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.metrics.queue_items.dec();
        self.metrics.queue_bytes.dec_by(self.bytes.num_permits().try_into().unwrap_or(i64::MAX));
    }
}

impl Queue {
    pub(crate) fn new(items_max: usize, bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX).max(1);
        let items_max = items_max.clamp(1, Semaphore::MAX_PERMITS);
        let item_bytes = bytes_max / u32::try_from(items_max).unwrap_or(u32::MAX);
        let permits = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Self {
            items: Arc::new(Semaphore::new(items_max)),
            bytes: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            bytes_max,
            item_bytes,
            shares: Mutex::default(),
            metrics,
        }
    }

    /// A part of the issuer's share. One that is larger than a whole share gets all of it. The future
    /// gives `None` when the queue is closed.
    ///
    /// # Errors
    /// The future that waits for it, when there is none now.
    pub(crate) fn share(
        &self,
        issuer: IssuerId,
        weight: Weight,
    ) -> Result<Share, impl Future<Output = Option<Share>> + Send + use<>> {
        let most = (self.bytes_max / SHARES).max(1);
        let new = || Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(usize::MAX)));
        let all = Arc::clone(self.shares.lock().entry(issuer).or_insert_with(new));
        let weight = weight.0.max(self.item_bytes).min(most);
        Arc::clone(&all)
            .try_acquire_many_owned(weight)
            .map_err(|_| async move { all.acquire_many_owned(weight).await.ok() })
    }

    /// Waits for a place; those who wait are served in their order. One that is larger than the
    /// whole queue waits until it is empty. `None`: the queue is closed.
    pub(crate) async fn acquire(&self, weight: Weight, share: Option<Share>) -> Option<Permit> {
        let weight = weight.0.min(self.bytes_max);
        let item = Arc::clone(&self.items).acquire_owned().await.ok()?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(weight).await.ok()?;
        self.metrics.queue_items.inc();
        self.metrics.queue_bytes.inc_by(i64::from(weight));
        Some(Permit { _share: share, _item: item, bytes, metrics: Arc::clone(&self.metrics) })
    }

    /// Nobody gets a place any more; those who have one keep it.
    pub(crate) fn close(&self) {
        self.items.close();
        self.bytes.close();
        self.shares.lock().values().for_each(|share| share.close());
    }
}
