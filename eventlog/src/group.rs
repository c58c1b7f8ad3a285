//! Group commit: items that wait at the same time are committed together, so
//! that many share an fsync.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

/// A group of at least so many items is a sign that more are coming. The next
/// group then waits for them: an fsync for every few items would cost too much.
pub const LINGER_ITEMS_LEAST: usize = 4;

/// Limits and times of a [`GroupCommit`].
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Name of the committer thread.
    pub name: String,
    /// The most items that may wait; a further one is refused as
    /// [`SendError::Full`]. 0 counts as 1.
    pub queue_items_max: usize,
    /// The most bytes (as `weigh` gives them) that may wait. An item that would
    /// exceed them is refused as [`SendError::Full`], unless nothing waits.
    pub queue_bytes_max: usize,
    /// The most items of a group; 0 counts as 1.
    pub group_items_max: usize,
    /// The most bytes of a group. Its first item is taken whatever it weighs.
    pub group_bytes_max: usize,
    /// How long a group that is not full waits for more items when the group
    /// before it had at least [`LINGER_ITEMS_LEAST`]. With zero no group waits;
    /// groups still form while the commit before them runs.
    pub linger: Duration,
    /// When no item has come for this time, and each time that it has passed
    /// again, the closure is called with no items. `None`: never.
    pub idle: Option<Duration>,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            name: "group-commit".into(),
            queue_items_max: 16 * 1024,
            queue_bytes_max: 32 * 1024 * 1024,
            group_items_max: 16 * 1024,
            group_bytes_max: 4 * 1024 * 1024,
            linger: Duration::ZERO,
            idle: None,
        }
    }
}

/// Why an item was not taken; the error gives the item back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError<T> {
    /// The queue is full.
    #[error("the commit queue is full")]
    Full(T),
    /// The committer was closed, or its thread has ended.
    #[error("the committer is closed")]
    Closed(T),
}

/// The committer ended without a result for an item (the closure panicked or
/// gave too few results). The item may have been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the committer ended without a result; the item may have been written")]
pub struct Lost;

/// The result of an item that was taken: ready when its group is committed, or
/// [`Lost`]. Dropping it does not take the item back.
#[derive(Debug)]
pub struct Pending<R>(oneshot::Receiver<R>);

impl<R> Pending<R> {
    /// Waits for the result, blocking the thread; not for async code.
    ///
    /// # Errors
    /// [`Lost`] when there will be no result.
    pub fn wait_blocking(self) -> Result<R, Lost> {
        self.0.blocking_recv().map_err(|_| Lost)
    }
}

impl<R> Future for Pending<R> {
    type Output = Result<R, Lost>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| Lost)
    }
}

struct Waiting<T, R> {
    item: T,
    bytes: usize,
    reply: oneshot::Sender<R>,
}

struct Queue<T, R> {
    items: VecDeque<Waiting<T, R>>,
    bytes: usize,
    closed: bool,
    /// The committer lingers; it is woken only when the group is full.
    lingering: bool,
}

struct Shared<T, R> {
    queue: Mutex<Queue<T, R>>,
    group_items_max: usize,
    group_bytes_max: usize,
    /// Wakes the committer: an item came, or the queue was closed.
    arrived: Condvar,
    /// Wakes senders: a group was taken, or the queue was closed.
    room: Notify,
}

/// A committer thread with a bounded queue in front. `T` is an item, `R` its
/// result. Share it by reference or in an `Arc`.
pub struct GroupCommit<T, R> {
    shared: Arc<Shared<T, R>>,
    weigh: fn(&T) -> usize,
    queue_items_max: usize,
    queue_bytes_max: usize,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<T, R> std::fmt::Debug for GroupCommit<T, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupCommit").finish_non_exhaustive()
    }
}

impl<T: Send + 'static, R: Send + 'static> GroupCommit<T, R> {
    /// Starts the committer thread. `weigh` gives an item's bytes; `commit`
    /// gets the items of a group in the order in which they were taken, makes
    /// them durable, and gives one result per item, in the same order. When the
    /// queue is idle ([`GroupConfig::idle`]) it is called with no items, and its
    /// results are dropped.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        config: GroupConfig,
        weigh: fn(&T) -> usize,
        commit: impl FnMut(Vec<T>) -> Vec<R> + Send + 'static,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                items: VecDeque::new(),
                bytes: 0,
                closed: false,
                lingering: false,
            }),
            group_items_max: config.group_items_max,
            group_bytes_max: config.group_bytes_max,
            arrived: Condvar::new(),
            room: Notify::new(),
        });
        let (queue_items_max, queue_bytes_max) = (config.queue_items_max, config.queue_bytes_max);
        let thread = thread::Builder::new().name(config.name.clone()).spawn({
            let shared = Arc::clone(&shared);
            move || run(&shared, &config, commit)
        })?;
        Ok(Self {
            shared,
            weigh,
            queue_items_max: queue_items_max.max(1),
            queue_bytes_max,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues an item, or gives it back at once when there is no room.
    ///
    /// # Errors
    /// [`SendError::Full`] and [`SendError::Closed`].
    pub fn try_send(&self, item: T) -> Result<Pending<R>, SendError<T>> {
        let bytes = (self.weigh)(&item);
        let mut queue = self.shared.queue.lock();
        if queue.closed {
            return Err(SendError::Closed(item));
        }
        let over = queue.bytes.saturating_add(bytes) > self.queue_bytes_max;
        if queue.items.len() >= self.queue_items_max || (over && !queue.items.is_empty()) {
            return Err(SendError::Full(item));
        }
        let (reply, result) = oneshot::channel();
        queue.bytes += bytes;
        queue.items.push_back(Waiting { item, bytes, reply });
        let wanted = match queue.lingering {
            true => self.shared.is_full(&queue),
            false => queue.items.len() == 1,
        };
        drop(queue);
        if wanted {
            self.shared.arrived.notify_one();
        }
        Ok(Pending(result))
    }

    /// Queues an item, waiting for room. Dropping the future before it is
    /// ready leaves the item out of the queue.
    ///
    /// # Errors
    /// [`SendError::Closed`] only.
    pub async fn send(&self, mut item: T) -> Result<Pending<R>, SendError<T>> {
        // Ends when the item is queued or the queue is closed. Each round tries again after room was made;
        // another sender may have been faster.
        loop {
            // Registered before the try, so that room made in between is not missed.
            let room = self.shared.room.notified();
            match self.try_send(item) {
                Err(SendError::Full(back)) => item = back,
                other => return other,
            }
            room.await;
        }
    }

    /// Number of items and of bytes that wait now, for metrics.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.shared.queue.lock();
        (queue.items.len(), queue.bytes)
    }

    /// Takes no more items; those in the queue are still committed.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Closes, and blocks until everything queued is committed and the thread,
    /// with the closure and what it owns, is gone.
    pub fn join(&self) {
        self.close();
        join_thread(&self.thread);
    }
}

impl<T, R> Drop for GroupCommit<T, R> {
    /// As [`GroupCommit::join`].
    fn drop(&mut self) {
        self.shared.close();
        join_thread(&self.thread);
    }
}

fn join_thread(slot: &Mutex<Option<JoinHandle<()>>>) {
    let thread = slot.lock().take();
    if let Some(thread) = thread
        // When the closure owns the last reference, this runs on the committer thread, which cannot wait
        // for itself.
        && thread.thread().id() != thread::current().id()
        && thread.join().is_err()
    {
        tracing::error!("a committer thread has panicked");
    }
}

impl<T, R> Shared<T, R> {
    fn close(&self) {
        self.queue.lock().closed = true;
        self.arrived.notify_all();
        self.room.notify_waiters();
    }

    fn is_full(&self, queue: &Queue<T, R>) -> bool {
        queue.items.len() >= self.group_items_max || queue.bytes >= self.group_bytes_max
    }

    /// The items of the next group; none of them when the queue was idle;
    /// `None` when it is closed and empty.
    fn take_group(&self, config: &GroupConfig, linger: bool) -> Option<Vec<Waiting<T, R>>> {
        let mut queue = self.queue.lock();
        if linger && !config.linger.is_zero() {
            queue.lingering = true;
            let partial = |queue: &mut Queue<T, R>| !queue.closed && !self.is_full(queue);
            self.arrived.wait_while_for(&mut queue, partial, config.linger);
            queue.lingering = false;
        }
        let nothing = |queue: &mut Queue<T, R>| queue.items.is_empty() && !queue.closed;
        match config.idle {
            Some(idle) => {
                let wait = self.arrived.wait_while_for(&mut queue, nothing, idle);
                if wait.timed_out() && queue.items.is_empty() && !queue.closed {
                    return Some(Vec::new());
                }
            }
            None => self.arrived.wait_while(&mut queue, nothing),
        }
        if queue.items.is_empty() {
            return None;
        }
        let mut group = Vec::new();
        let mut bytes = 0_usize;
        // Takes items from the front until the next one would go over a bound, but at least one.
        while let Some(first) = queue.items.front() {
            bytes = bytes.saturating_add(first.bytes);
            let full = group.len() >= config.group_items_max || bytes > config.group_bytes_max;
            if full && !group.is_empty() {
                break;
            }
            queue.bytes -= first.bytes;
            group.extend(queue.items.pop_front());
        }
        drop(queue);
        self.room.notify_waiters();
        Some(group)
    }
}

/// Closes the queue when the thread ends, also by a panic, and drops what is
/// left in it, so that everybody who waits for a result gets [`Lost`].
struct EndGuard<'a, T, R>(&'a Shared<T, R>);

impl<T, R> Drop for EndGuard<'_, T, R> {
    fn drop(&mut self) {
        self.0.close();
        let left = std::mem::take(&mut self.0.queue.lock().items);
        drop(left);
    }
}

fn run<T, R>(
    shared: &Shared<T, R>,
    config: &GroupConfig,
    mut commit: impl FnMut(Vec<T>) -> Vec<R>,
) {
    let _guard = EndGuard(shared);
    let mut linger = false;
    while let Some(group) = shared.take_group(config, linger) {
        linger = group.len() >= LINGER_ITEMS_LEAST;
        let mut items = Vec::with_capacity(group.len());
        let mut replies = Vec::with_capacity(group.len());
        for waiting in group {
            items.push(waiting.item);
            replies.push(waiting.reply);
        }
        let results = commit(items);
        for (reply, result) in replies.into_iter().zip(results) {
            // This fails when nobody waits for the result any more.
            let _ = reply.send(result);
        }
    }
}

#[cfg(test)]
mod tests;
