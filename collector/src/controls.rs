//! An operator's decisions ([`Word`]) are written into every partition of the log, so that a replay meets
//! them at the same position. Two are written: that an edge is out of service, as soon as the keys say
//! so; and that a batch will never come, when the operator asks for it ([`crate::Collector::resolve`]).

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

/// Pause before the clock or the log is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Appends a word to every partition. Appending it again changes nothing.
///
/// # Errors
/// [`LogError`]: some partitions may have the word all the same.
pub(crate) async fn append<L: Log>(log: &L, clock: &dyn Clock, word: Word) -> Result<(), LogError> {
    let stamp = clock.now();
    let message = |partition| {
        let control = Control { partition, stamp, word };
        Message { partition, payload: Bytes::from(control.to_bytes()) }
    };
    log.append((0..log.partitions()).map(message).collect()).await.map(drop)
}

/// Tells every partition which edges are out of service, at the start and whenever the keys name a new
/// one, so that counting does not wait for these edges. Every collector does this, without regard to the
/// others: a word that is repeated changes nothing. Returns when the sender of the keys is gone.
pub(crate) async fn tell_retired<L: Log>(
    log: Arc<L>,
    clock: Arc<dyn Clock>,
    mut keys: watch::Receiver<Arc<CollectorKeys>>,
) {
    let mut told: BTreeSet<EdgeId> = BTreeSet::new();
    loop {
        let all: Vec<EdgeId> = keys.borrow_and_update().retired_edges.keys().copied().collect();
        for edge in all.into_iter().filter(|edge| !told.contains(edge)).collect::<Vec<_>>() {
            // Both loops go on until they succeed: an edge that is left out would be waited for for ever.
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
