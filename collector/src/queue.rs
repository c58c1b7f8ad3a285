//! The bounded queue in front of the log. A batch or chunk needs a [`Permit`] to enter; permits are
//! limited by their number and by their bytes, and a caller waits while none is left.
//!
//! One issuer can hold at most a [`Share`] of the queue. A batch takes its part of the share before it
//! waits for a permit, so batches that wait count too, and no issuer can fill the queue for all others.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use shared::IssuerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// Memory of an event besides its bytes in the batch, about.
const EVENT_BYTES: usize = 256;
/// An issuer's share is the queue's bytes (and so its permits) divided by this.
const SHARES: u32 = 4;

/// Hands out permits.
#[derive(Debug)]
pub(crate) struct Queue {
    items: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
    /// The least that an item weighs in its issuer's share: the queue's bytes divided by its items, so
    /// that an issuer with many small items does not take all permits.
    item_bytes: u32,
    /// The share of each issuer that has sent something; at most as many as the deployment has issuers.
    shares: Mutex<HashMap<IssuerId, Arc<Semaphore>>>,
    metrics: Arc<Metrics>,
}

/// Memory of a batch or chunk, about, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weight(u32);

impl Weight {
    pub(crate) fn new(bytes: usize, events: usize) -> Self {
        let weight = bytes.saturating_add(events.saturating_mul(EVENT_BYTES)).max(1);
        Self(u32::try_from(weight).unwrap_or(u32::MAX))
    }
}

/// A part of an issuer's share; dropping it gives it back.
pub(crate) type Share = OwnedSemaphorePermit;

/// Leave to be in the queue, held until the batch or chunk is acknowledged or given up.
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

    /// Takes a part of the issuer's share at once. An item that is heavier than a whole share gets all
    /// of it.
    ///
    /// # Errors
    /// When too little of the share is free now: the future that waits for it, and gives `None` when
    /// the queue is closed.
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

    /// Waits for a permit; callers are served in the order in which they came. An item that is heavier
    /// than the whole queue waits until the queue is empty. `None`: the queue is closed.
    pub(crate) async fn acquire(&self, weight: Weight, share: Option<Share>) -> Option<Permit> {
        let weight = weight.0.min(self.bytes_max);
        let item = Arc::clone(&self.items).acquire_owned().await.ok()?;
        let bytes = Arc::clone(&self.bytes).acquire_many_owned(weight).await.ok()?;
        self.metrics.queue_items.inc();
        self.metrics.queue_bytes.inc_by(i64::from(weight));
        Some(Permit { _share: share, _item: item, bytes, metrics: Arc::clone(&self.metrics) })
    }

    /// Hands out no more permits; those that were handed out stay valid.
    pub(crate) fn close(&self) {
        self.items.close();
        self.bytes.close();
        self.shares.lock().values().for_each(|share| share.close());
    }
}
