//! An operator's words go into the log of every partition, so that a replay hears them at the same
//! place: edges that are out of service by the keys' word, batches that never come by a request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eventlog::{Log, LogError, Message};
use shared::wire::{Control, Word};
use shared::{Clock, EdgeId};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::keys::CollectorKeys;

/// A log that did not take a word is asked again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Appends a word to every partition. Heard twice, it changes nothing.
///
/// # Errors
/// [`LogError`]: some partitions may have it.
pub(crate) async fn append<L: Log>(log: &L, clock: &dyn Clock, word: Word) -> Result<(), LogError> {
    let stamp = clock.now();
    let message = |partition| {
        let control = Control { partition, stamp, word };
        Message { partition, payload: Bytes::from(control.to_bytes()) }
    };
    log.append((0..log.partitions()).map(message).collect()).await.map(drop)
}

/// Tells every partition of the edges that are out of service, when it starts and whenever one is
/// added: whoever counts need not wait for them. Every collector does, and need not know of others.
pub(crate) async fn tell_retired<L: Log>(
    log: Arc<L>,
    clock: Arc<dyn Clock>,
    mut keys: watch::Receiver<Arc<CollectorKeys>>,
) {
    let mut told: BTreeSet<EdgeId> = BTreeSet::new();
    loop {
        let all: Vec<EdgeId> = keys.borrow_and_update().retired_edges.keys().copied().collect();
        for edge in all.into_iter().filter(|edge| !told.contains(edge)).collect::<Vec<_>>() {
            while let Some(why) = clock.trouble() {
                debug!(%edge, "the log is not told yet that it is out of service: {why}");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            while let Err(error) = append(&*log, &*clock, Word::Retire { edge }).await {
                warn!(%edge, "it is out of service, and the log cannot be told yet: {error}");
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            info!(%edge, "out of service: nobody waits for it any more");
            told.insert(edge);
        }
        if keys.changed().await.is_err() {
            return;
        }
    }
}
