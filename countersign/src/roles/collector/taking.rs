//! Takes batches from the work queue: how many at once, each issuer's share of them, and what goes
//! back.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::collector::{Collector, SubmitError};
use bytes::Bytes;
use eventlog::nats::{EdgeQueue, Taken};
use eventlog::{AnyLog, LogError};
use shared::limits::{BUNDLE_BATCHES_MAX, CLOCK_AHEAD_MS_MAX};
use shared::wire::bundle;
use shared::{BatchDigest, IssuerId};
use tokio::sync::{Semaphore, watch};

use super::{keys_unseen, no_edges};
use crate::process;
use crate::roles::follow::Seen;

/// How much this collector holds that is taken and not acknowledged; other collectors get the rest.
const TAKEN: Load = Load { batches: 32_768, bytes: 256 << 20 };
/// The part of it that one issuer may have, so that the batches of others do not wait for an issuer
/// whose batches take hours. A quarter, as in the collector's own queue; and no less than one edge
/// may have unacknowledged in NATS, since what is given back comes again only seconds later.
const TAKEN_PER_ISSUER: Load = Load { batches: TAKEN.batches / 4, bytes: TAKEN.bytes / 4 };
/// After an error the queue is asked again after this.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// While nothing may be taken, the reason is looked at again after this.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A message that goes back to the queue is given out again after this.
const BACK_AFTER: Duration = Duration::from_secs(2);
/// A message of an issuer whose share is full goes back for [`BACK_AFTER`] times the number of its
/// deliveries, at most this many times.
const TURNS_MAX: u32 = 5;
/// A message of an unknown edge goes back so many times before it becomes a dead letter.
const UNKNOWN_TIMES: u64 = 4;
/// A message whose issuer is over its quota is given out again after this at the latest.
const HELD_BACK_MAX: Duration = Duration::from_secs(60);
/// How many batches are remembered as done whose message is not.
const FINISHED_MAX: usize = 65_536;

const _: () =
    assert!(BUNDLE_BATCHES_MAX <= TAKEN_PER_ISSUER.batches as usize, "any bundle can be held");

/// Takes messages until `stop`, and then finishes those that were taken.
pub(super) async fn take_batches(
    queue: EdgeQueue,
    collector: Arc<Collector<AnyLog>>,
    seen: Seen,
    unready: watch::Sender<Option<String>>,
    stop: watch::Receiver<bool>,
) {
    let (places, bytes) =
        (Semaphore::new(TAKEN.batches as usize), Semaphore::new(TAKEN.bytes as usize));
    let (places, bytes, shares) =
        (Arc::new(places), Arc::new(bytes), Arc::new(IssuerShares::default()));
    let finished = Arc::new(Finished::default());
    let mut taker = queue.taker();
    let mut stopped = std::pin::pin!(process::stopped(stop));
    loop {
        let next = async {
            // The semaphores are never closed, so an error cannot come: only a wait.
            let place = Arc::clone(&places).acquire_owned().await;
            while keys_unseen(&seen).is_some()
                || !collector.knows_edges()
                || collector.trouble().is_some()
            {
                if let Some(why) = no_edges(&collector) {
                    unready.send_if_modified(|told| told.replace(why.clone()).is_none());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            unready.send_if_modified(|why| why.take().is_some());
            (taker.next().await, place)
        };
        let (next, place) = tokio::select! {
            () = &mut stopped => break,
            next = next => next,
        };
        match next.map(Message::new) {
            Ok(message) => {
                unready.send_if_modified(|why| why.take().is_some());
                let Load { batches, bytes: size } = message.load();
                let room = async {
                    let more = Arc::clone(&places).acquire_many_owned(batches - 1).await;
                    (place, more, Arc::clone(&bytes).acquire_many_owned(size).await)
                };
                let room = tokio::select! {
                    () = &mut stopped => {
                        message.answered(message.taken.again(BACK_AFTER).await);
                        break;
                    }
                    room = room => room,
                };
                let issuer = collector.issuer_of(&message.taken.edge);
                let share = IssuerShares::take(&shares, issuer, message.load());
                let (queue, collector) = (queue.clone(), Arc::clone(&collector));
                let finished = Arc::clone(&finished);
                tokio::spawn(async move {
                    match share {
                        Some(_share) => {
                            handle_message(&queue, &collector, &finished, &message).await
                        }
                        None => message.answered(message.taken.again(message.turn()).await),
                    }
                    drop(room);
                });
            }
            Err(error) => {
                tracing::warn!("the work queue: {error}; asked again");
                unready.send_replace(Some(format!("queue: {error}")));
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }
    taker.close().await;
    // Every message returns its permits when it is answered, so all permits mean that all are.
    let _ = places.acquire_many(TAKEN.batches).await;
    queue.flush().await;
}

/// A message of the queue, and the batches that are in it.
struct Message {
    taken: Taken,
    batches: Vec<Bytes>,
}

impl Message {
    fn new(taken: Taken) -> Self {
        // A message that begins like a bundle and is none is no batch either: it is refused as one.
        let batches = bundle::split(&taken.batch).unwrap_or_else(|_| vec![&taken.batch]);
        let batches = batches.into_iter().map(|batch| taken.batch.slice_ref(batch)).collect();
        Self { taken, batches }
    }

    fn load(&self) -> Load {
        let bytes = u32::try_from(self.taken.batch.len()).unwrap_or(u32::MAX);
        let batches = u32::try_from(self.batches.len()).unwrap_or(u32::MAX);
        Load { batches, bytes: bytes.min(TAKEN_PER_ISSUER.bytes) }
    }

    /// How long the message goes back when its issuer's share is full: longer each time.
    fn turn(&self) -> Duration {
        let times = u32::try_from(self.taken.deliveries()).unwrap_or(u32::MAX);
        BACK_AFTER.saturating_mul(times.clamp(1, TURNS_MAX))
    }

    fn answered(&self, done: Result<(), LogError>) {
        if let Err(error) = done {
            tracing::debug!(edge = self.taken.edge, %error, "not answered; it comes again");
        }
    }
}

/// Batches that are done although their message went back to the queue for the sake of others in
/// it. When the message comes again they are left out and cost their issuer nothing. A batch that
/// was forgotten is submitted again, which is known by its number.
#[derive(Default)]
struct Finished(Mutex<HashSet<BatchDigest>>);

impl Finished {
    /// The batches that are not done yet.
    fn left<'a>(&self, batches: &'a [Bytes]) -> Vec<&'a Bytes> {
        let finished = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_left = |batch: &&Bytes| {
            finished.is_empty() || !finished.contains(&BatchDigest::compute(batch))
        };
        batches.iter().filter(is_left).collect()
    }

    /// Forgets a message's batches: it is done, and does not come again.
    fn forget(&self, batches: &[Bytes]) {
        let mut finished = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !finished.is_empty() {
            for batch in batches {
                finished.remove(&BatchDigest::compute(batch));
            }
        }
    }

    fn keep<'a>(&self, batches: impl Iterator<Item = &'a Bytes>) {
        let mut finished = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if finished.len() >= FINISHED_MAX {
            finished.clear();
        }
        finished.extend(batches.map(|batch| BatchDigest::compute(batch)));
    }
}

/// What becomes of a message for the sake of one of its batches.
enum Done {
    /// The batch needs nothing more.
    Yes,
    /// The message must come again after this.
    Again(Duration),
}

/// Submits the batches of a message, and answers the message: it is done when all of them are, else
/// it comes again after the longest of their waits.
async fn handle_message(
    queue: &EdgeQueue,
    collector: &Collector<AnyLog>,
    finished: &Finished,
    message: &Message,
) {
    let Message { taken, batches } = message;
    // The edge may have been registered a moment ago, and this collector has not seen it yet.
    if collector.issuer_of(&taken.edge).is_none() && taken.deliveries() <= UNKNOWN_TIMES {
        return message.answered(taken.again(BACK_AFTER).await);
    }
    let left = finished.left(batches);
    let each = left.iter().map(|batch| submit(queue, collector, &taken.edge, batch));
    let done = taken.while_it_lasts(futures::future::join_all(each)).await;
    let again = done.iter().filter_map(|done| match done {
        Done::Yes => None,
        Done::Again(after) => Some(*after),
    });
    match again.max() {
        None => {
            finished.forget(batches);
            message.answered(taken.done().await);
        }
        Some(after) => {
            let pairs = left.iter().zip(&done).filter(|(_, done)| matches!(done, Done::Yes));
            finished.keep(pairs.map(|(batch, _)| *batch));
            message.answered(taken.again(after).await);
        }
    }
}

async fn submit(
    queue: &EdgeQueue,
    collector: &Collector<AnyLog>,
    edge: &str,
    batch: &Bytes,
) -> Done {
    match collector.submit_from_edge(edge, batch.clone()).await {
        Ok(receipt) => {
            if receipt.clock_ahead_ms > CLOCK_AHEAD_MS_MAX
                && let Err(error) = queue.tell_clock_ahead(edge, receipt.clock_ahead_ms).await
            {
                tracing::warn!(edge, %error, "the edge could not be told of its clock");
            }
            Done::Yes
        }
        // The batch is among the dead letters, or was dropped.
        Err(SubmitError::Refused(_) | SubmitError::NotAllowed(..)) => Done::Yes,
        Err(SubmitError::TooManyLetters(after, _)) => Done::Again(after),
        Err(SubmitError::Retry(why)) => {
            tracing::debug!(edge, %why, "a batch goes back to the queue");
            Done::Again(BACK_AFTER)
        }
        // Nothing is lost: the batch comes again when there may be room for it.
        Err(SubmitError::OverQuota { why, after }) => {
            tracing::debug!(edge, %why, "a batch is held back");
            Done::Again(after.clamp(BACK_AFTER, HELD_BACK_MAX))
        }
    }
}

/// An amount of batches that are taken and not answered yet.
#[derive(Clone, Copy, Default)]
struct Load {
    batches: u32,
    bytes: u32,
}

/// What each issuer has taken of [`TAKEN_PER_ISSUER`]. Unknown edges together are one issuer,
/// `None`.
#[derive(Default)]
struct IssuerShares(Mutex<HashMap<Option<IssuerId>, Load>>);

/// A message's part of its issuer's share; dropping it gives it back.
struct Share {
    shares: Arc<IssuerShares>,
    issuer: Option<IssuerId>,
    held: Load,
}

impl IssuerShares {
    /// Takes a part of the issuer's share; `None` when it is full.
    fn take(shares: &Arc<Self>, issuer: Option<IssuerId>, more: Load) -> Option<Share> {
        let mut held = shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.entry(issuer).or_default();
        if more.batches > TAKEN_PER_ISSUER.batches - held.batches
            || more.bytes > TAKEN_PER_ISSUER.bytes - held.bytes
        {
            return None;
        }
        *held = Load { batches: held.batches + more.batches, bytes: held.bytes + more.bytes };
        Some(Share { shares: Arc::clone(shares), issuer, held: more })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.get_mut(&self.issuer) {
            let Load { batches, bytes } = self.held;
            *held = Load { batches: held.batches - batches, bytes: held.bytes - bytes };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_has_a_part_of_the_hands_and_gives_them_back() {
        let shares = Arc::new(IssuerShares::default());
        let [one, other] = ["one", "other"].map(|name| Some(IssuerId::literal(name)));
        let take = |issuer, bytes| IssuerShares::take(&shares, issuer, Load { batches: 1, bytes });
        let mut held: Vec<_> = (0..TAKEN_PER_ISSUER.batches).map(|_| take(one, 1)).collect();
        assert!(held.iter().all(Option::is_some) && take(one, 1).is_none());
        assert!(take(other, 1).is_some() && take(None, 1).is_some());
        drop(held.pop());
        let again = take(one, 1);
        assert!(again.is_some() && take(one, 1).is_none());
        let (large, small) = (take(other, TAKEN_PER_ISSUER.bytes), take(other, 1));
        assert!(large.is_some() && small.is_none());
        drop(large);
        assert!(take(other, 1).is_some());
    }
}
