//! Which aggregator counts: the document `aggregator` names it, and it changes the document again and
//! again to show that it lives. Another one takes the lease over when it has not changed for a while.
//!
//! No clock is compared with another machine's: who waits measures how long a revision stays, who
//! holds measures since when its last change began. A holder stops answering before anybody else
//! may begin. Safety of the counts does not rest on this: whoever opens the stores last fences the
//! others off, and a fenced one cannot save. The lease decides who tries, and who answers.

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
/// A holder that could not change it for so long does not answer …
const HELD_FOR: Duration = Duration::from_millis(2_000);
/// … and after so long another one takes over.
const TAKEN_AFTER: Duration = Duration::from_millis(3_000);

const _: () = assert!(HELD_FOR.as_millis() < TAKEN_AFTER.as_millis());

/// What the document says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holder {
    /// Random: one for each start.
    id: String,
    /// Where it answers, for those who look for it.
    api: String,
    /// It has ended in order.
    #[serde(default)]
    over: bool,
}

impl Holder {
    /// One that lives. `id` is random.
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
    /// Waits until nobody else has it. `standing_by` hears who does, while somebody does.
    pub(super) async fn acquire(
        documents: &Documents,
        me: &Holder,
        standing_by: &watch::Sender<Option<Arc<str>>>,
    ) -> Self {
        let mut unchanged: Option<(u64, Stopwatch)> = None;
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
                        // Nobody could change it, and so it was silent: the holder comes first.
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

    /// Tells at any moment whether it is held.
    pub(super) fn held(&self) -> Held {
        Held(self.renewed.subscribe())
    }

    /// Keeps it in a task of its own until the sender is dropped; the task ends with who has it,
    /// when that is another one.
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

    async fn keep(&mut self) -> String {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let began = Stopwatch::start();
            if let Some(revision) = put(&self.documents, &self.me, self.revision).await {
                self.revision = revision;
                self.renewed.send_replace(began);
                continue;
            }
            // Either a change of ours went through and its answer was lost, or it is another's.
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

    /// Lets others have it at once.
    pub(super) async fn release(self) {
        let over = Holder { over: true, ..self.me };
        if put(&self.documents, &over, self.revision).await.is_none() {
            tracing::debug!("the lease was not given back; it runs out");
        }
    }
}

/// The new revision; none when somebody was faster, or NATS does not answer.
async fn put(documents: &Documents, holder: &Holder, revision: u64) -> Option<u64> {
    // Strings and a flag can always be written.
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
