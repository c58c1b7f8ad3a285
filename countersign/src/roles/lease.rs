//! Which aggregator counts: the document `aggregator` names it, and it changes the document again and
//! again to show that it lives. Another one takes the lease over when it has not changed for a while.
//!
//! No clock is compared with another machine's: an aggregator that waits measures how long a
//! revision stays, the holder measures the time since its last change began. So a holder stops
//! answering before anybody else may begin. The safety of the counts does not depend on the lease:
//! whoever opens the stores last fences the others off, and an aggregator that is fenced off cannot
//! save. The lease decides who tries, and who answers.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use eventlog::nats::Documents;
use serde::{Deserialize, Serialize};
use shared::ambient::Stopwatch;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

const DOCUMENT: &str = "aggregator";
/// How often the holder changes the document, and others look at it.
const RENEW_EVERY: Duration = Duration::from_millis(500);
/// A holder that could not change it for this long stops answering …
const HELD_FOR: Duration = Duration::from_millis(2_000);
/// … and another aggregator takes over when it has not changed for this long.
const TAKEN_AFTER: Duration = Duration::from_millis(3_000);

const _: () = assert!(HELD_FOR.as_millis() < TAKEN_AFTER.as_millis());

/// What the document says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// Random, a new one at each start.
    id: String,
    /// The address at which the holder answers, for others to name.
    api: String,
    /// Whether the holder has ended in order, and so given the lease back.
    #[serde(default)]
    over: bool,
}

impl Holder {
    /// A holder that is alive. `id` is random.
    pub(super) fn new(id: String, api: String) -> Self {
        Self { id, api, over: false }
    }
}

/// The lease, held or lost.
pub(super) struct Lease {
    documents: Documents,
    me: Holder,
    revision: u64,
    /// When the last change that went through began.
    renewed: watch::Sender<Stopwatch>,
}

/// Whether the lease is held at this moment.
#[derive(Clone)]
pub(super) struct Held(watch::Receiver<Stopwatch>);

impl Held {
    pub(super) fn now(&self) -> bool {
        self.0.borrow().elapsed() < HELD_FOR
    }
}

impl Lease {
    /// Waits until nobody else has the lease, and takes it. Meanwhile `standing_by` gets the
    /// address of the holder, if there is one.
    pub(super) async fn acquire(
        documents: &Documents,
        me: &Holder,
        standing_by: &watch::Sender<Option<Arc<str>>>,
    ) -> Self {
        let mut unchanged: Option<(u64, Stopwatch)> = None;
        // Ends only when our own change went through: NATS takes one change of each revision, so of
        // several that try at once one gets the lease.
        loop {
            match documents.get(DOCUMENT).await {
                Ok(there) => {
                    let revision = there.as_ref().map_or(0, |there| there.revision);
                    let holder: Option<Holder> =
                        there.and_then(|there| serde_json::from_slice(&there.bytes).ok());
                    if unchanged.is_none_or(|(seen, _)| seen != revision) {
                        unchanged = Some((revision, Stopwatch::start()));
                    }
                    let silent = unchanged.is_some_and(|(_, since)| since.elapsed() > TAKEN_AFTER);
                    let free = silent || holder.as_ref().is_none_or(|holder| holder.over);
                    let began = Stopwatch::start();
                    if free {
                        if let Some(revision) = put(documents, me, revision).await {
                            standing_by.send_replace(None);
                            let (documents, me) = (documents.clone(), me.clone());
                            let renewed = watch::Sender::new(began);
                            return Self { documents, me, revision, renewed };
                        }
                        // If NATS took no changes, the holder was silent only for that reason. It
                        // gets the full time again, so that it can renew first.
                        unchanged = None;
                    }
                    let holder: Option<Arc<str>> = holder.map(|holder| holder.api.into());
                    standing_by.send_if_modified(|old| {
                        let new = *old != holder;
                        old.clone_from(&holder);
                        new
                    });
                }
                Err(error) => tracing::warn!("the lease cannot be read: {error}"),
            }
            tokio::time::sleep(RENEW_EVERY).await;
        }
    }

    /// A handle that tells at any moment whether the lease is held.
    pub(super) fn held(&self) -> Held {
        Held(self.renewed.subscribe())
    }

    /// Renews the lease in a task of its own until the sender is dropped or the lease is lost. The
    /// task returns the lease and, when it was lost, the address of the new holder.
    pub(super) fn keep_until(
        mut self,
    ) -> (JoinHandle<(Self, Option<String>)>, oneshot::Sender<()>) {
        let (enough, dropped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move {
            let lost = tokio::select! {
                who = self.keep() => Some(who),
                _ = dropped => None,
            };
            (self, lost)
        });
        (task, enough)
    }

    /// Renews the lease until the document names another holder, and returns that one's address.
    /// While NATS does not answer it tries on: by then [`Held`] says no.
    async fn keep(&mut self) -> String {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let began = Stopwatch::start();
            if let Some(revision) = put(&self.documents, &self.me, self.revision).await {
                self.revision = revision;
                self.renewed.send_replace(began);
                continue;
            }
            // The revision moved on: either a change of ours went through and its answer was lost,
            // or another aggregator has the lease. The document says which.
            match self.documents.get(DOCUMENT).await {
                Ok(Some(there)) if there.revision > self.revision => {
                    match serde_json::from_slice::<Holder>(&there.bytes) {
                        Ok(holder) if holder.id == self.me.id => self.revision = there.revision,
                        Ok(holder) => return holder.api,
                        Err(error) => return format!("somebody who writes otherwise ({error})"),
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!("the lease cannot be renewed: {error}"),
            }
        }
    }

    /// Gives the lease back, so that another aggregator can take it at once.
    pub(super) async fn release(self) {
        let over = Holder { over: true, ..self.me };
        if put(&self.documents, &over, self.revision).await.is_none() {
            tracing::debug!("the lease was not given back; it runs out");
        }
    }
}

/// Writes the document; the new revision, or `None` when somebody was faster or NATS did not
/// answer.
async fn put(documents: &Documents, holder: &Holder, revision: u64) -> Option<u64> {
    // Strings and a flag always serialize.
    let bytes = serde_json::to_vec(holder).map(Bytes::from).ok()?;
    match tokio::time::timeout(HELD_FOR, documents.put(DOCUMENT, bytes, revision)).await {
        Ok(Ok(revision)) => revision,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the lease");
            None
        }
        Err(_) => None,
    }
}
