//! What each partition is doing, and whether questions can be answered.

use std::time::Duration;

use tokio::sync::watch;

/// What a partition is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its checkpoint is being read.
    Opening,
    /// It has not yet applied everything that was in the log when it started.
    Replaying {
        /// The last sequence applied.
        at: u64,
        /// The last sequence of the log at the start.
        to: u64,
    },
    /// It has applied that, and applies new messages as they come.
    Ready,
    /// It counts nothing any more: why.
    Stopped(String),
    /// The aggregator was closed.
    Closed,
}

/// Why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The aggregator is starting or closing: asked again later, it may answer.
    #[error("{0}")]
    Starting(String),
    /// A partition has stopped: an operator has to look at it.
    #[error("{0}")]
    Stopped(String),
}

/// The statuses of all partitions. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Board(watch::Sender<Vec<Status>>);

impl Board {
    pub(crate) fn new(partitions: u16) -> Self {
        Self(watch::Sender::new(vec![Status::Opening; usize::from(partitions)]))
    }

    pub(crate) fn set(&self, partition: u16, status: Status) {
        self.0.send_if_modified(|all| {
            let slot = &mut all[usize::from(partition)];
            let changed = *slot != status;
            *slot = status;
            changed
        });
    }

    pub(crate) fn all(&self) -> Vec<Status> {
        self.0.borrow().clone()
    }

    pub(crate) fn check(&self) -> Result<(), NotReady> {
        check(&self.0.borrow())
    }

    /// Waits, for at most `wait`, until questions can be answered, or a partition has stopped.
    pub(crate) async fn ready(&self, wait: Duration) -> Result<(), NotReady> {
        let mut changes = self.0.subscribe();
        let settled = changes.wait_for(|all| !matches!(check(all), Err(NotReady::Starting(_))));
        // Whether the wait ended well or not: the statuses now are the answer.
        let _ = tokio::time::timeout(wait, settled).await;
        self.check()
    }
}

fn check(all: &[Status]) -> Result<(), NotReady> {
    let mut starting = Vec::new();
    for (partition, status) in all.iter().enumerate() {
        match status {
            Status::Ready => {}
            Status::Stopped(why) => {
                let text = format!("partition {partition} has stopped: {why}");
                return Err(NotReady::Stopped(text));
            }
            Status::Closed => return Err(NotReady::Starting("it is closing".into())),
            Status::Opening => starting.push(format!("partition {partition} reads its checkpoint")),
            Status::Replaying { at, to } => {
                starting.push(format!("partition {partition} has applied {at} of {to} messages"));
            }
        }
    }
    match starting.len() {
        0 => Ok(()),
        1 => Err(NotReady::Starting(starting.swap_remove(0))),
        n => Err(NotReady::Starting(format!("{}, and {} others like it", starting[0], n - 1))),
    }
}
