//! Follows a document, so that what an operator's command changes is in force within seconds.

use std::sync::Arc;
use std::time::Duration;

use eventlog::nats::{Document, Documents};
use shared::ambient::Stopwatch;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::LOOK_EVERY;

/// When a document was last seen.
#[derive(Clone, Debug)]
pub(super) struct Seen(watch::Receiver<Stopwatch>);

impl Seen {
    /// How long ago that was.
    pub(super) fn ago(&self) -> Duration {
        self.0.borrow().elapsed()
    }
}

/// Looks at a document until the task is ended, and hands each change to `take`. A revision that
/// cannot be used changes nothing, and the log says so once.
pub(super) fn follow(
    documents: Arc<Documents>,
    name: String,
    mut revision: u64,
    take: impl Fn(&Document) -> Result<(), String> + Send + 'static,
) -> (Seen, impl Future<Output = ()>) {
    let (sender, seen) = watch::channel(Stopwatch::start());
    let task = async move {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let began = Stopwatch::start();
            match documents.get(&name).await {
                Ok(Some(document)) => {
                    sender.send_replace(began);
                    // A server that lags behind may show an older revision.
                    if document.revision <= revision {
                        continue;
                    }
                    revision = document.revision;
                    match take(&document) {
                        Ok(()) => tracing::info!(name, revision, "changed, and in force"),
                        Err(why) => tracing::error!("{name}, revision {revision}: {why}"),
                    }
                }
                Ok(None) => tracing::error!("the document {name} is gone from NATS"),
                Err(error) => tracing::warn!("the document {name} cannot be read: {error}"),
            }
        }
    };
    (Seen(seen), task)
}
