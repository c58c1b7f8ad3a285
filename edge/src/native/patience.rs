//! Waiting, but not for ever.

use std::pin::Pin;
use std::time::Duration;

use shared::ambient::Stopwatch;
use tokio::time::Sleep;

/// A bound for waits that hardly ever reach it: the timer is set again when it rings, not for each
/// wait.
pub(super) struct Patience {
    limit: Duration,
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, timer: Box::pin(tokio::time::sleep(limit)) }
    }

    /// What comes, or `None` when nothing has come within the limit.
    pub(super) async fn wait<T>(
        &mut self,
        mut what: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let watch = Stopwatch::start();
        loop {
            tokio::select! {
                biased;
                done = what.as_mut() => return Some(done),
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
