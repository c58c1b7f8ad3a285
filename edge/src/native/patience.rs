//! Waiting with a limit.

use std::pin::Pin;
use std::time::Duration;

use shared::ambient::Stopwatch;
use tokio::time::Sleep;

/// A time limit for many waits that hardly ever reach it. The timer is set again when it fires, not
/// for each wait, which saves most of its cost.
pub(super) struct Patience {
    limit: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, timer: Box::pin(tokio::time::sleep(limit)) }
    }

    /// The output of the future, or `None` when the limit passed before it.
    pub(super) async fn wait<T>(
        &mut self,
        mut future: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let watch = Stopwatch::start();
        // The timer may have been set by an earlier wait and fire early. It is then set to the rest
        // of this wait's time, so the loop ends at the limit at the latest.
        loop {
            tokio::select! {
                biased;
                output = future.as_mut() => return Some(output),
                () = self.timer.as_mut() => {
                    let left = self.limit.saturating_sub(watch.elapsed());
                    if left.is_zero() {
                        return None;
                    }
                    self.timer.set(tokio::time::sleep(left));
                }
            }
        }
    }
}
