//! One partition's task: read, apply, checkpoint.

use std::collections::VecDeque;
use std::sync::Arc;

use eventlog::{Delivered, Log, LogError, Position, Reader};
use shared::ambient::Stopwatch;
use shared::wire::MessageView;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::{Core, Counted, Status, asked};
use crate::count::{Engine, EngineError};
use crate::metrics::PartitionLabel;
use crate::store::rows::{self, Place, Restored};
use crate::store::{Change, CheckpointStore, StoreError, Stores};

/// Messages are applied in bursts of about so many bytes, each under one hold of the lock: some
/// milliseconds.
const BURST_BYTES: usize = 512 << 10;
/// While a checkpoint is being made durable a partition applies at most so many times
/// [`super::Settings::checkpoint_bytes`], then it waits.
const UNSAVED_FACTOR_MAX: usize = 4;

/// Why a task ends.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("it was asked to")]
    Asked,
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the message at sequence {sequence} is refused: {error}")]
    Refused { sequence: u64, error: EngineError },
    #[error("the message at sequence {sequence} cannot be read: {error}")]
    Unreadable { sequence: u64, error: shared::wire::WireError },
    #[error("its checkpoint is refused: {0}")]
    Restore(EngineError),
    #[error("its task has failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// However the task ends, the board knows.
struct Ended<'a, L: Log, S: Stores> {
    core: &'a Core<L, S>,
    partition: u16,
    status: Status,
}

impl<L: Log, S: Stores> Drop for Ended<'_, L, S> {
    fn drop(&mut self) {
        self.core.board.set(self.partition, self.status.clone());
    }
}

pub(super) async fn run<L: Log, S: Stores>(
    core: Arc<Core<L, S>>,
    partition: u16,
    mut stop: watch::Receiver<bool>,
) {
    let status = Status::Stopped("its task has panicked".into());
    let mut ended = Ended { core: &*core, partition, status };
    let result = match Task::open(&core, partition, &mut stop).await {
        Ok((task, reader)) => task.run(reader, &mut stop).await,
        Err(end) => Err(end),
    };
    match result {
        Ok(()) | Err(End::Asked) => ended.status = Status::Closed,
        Err(end) => {
            tracing::error!(partition, why = %end, "the partition has stopped");
            core.metrics.stopped.inc();
            ended.status = Status::Stopped(end.to_string());
        }
    }
}

/// A checkpoint that is written, and not yet durable.
struct Flush {
    done: JoinHandle<Result<(), StoreError>>,
    watch: Stopwatch,
    trimmable: Option<u64>,
}

struct Task<'a, L: Log, S: Stores> {
    core: &'a Core<L, S>,
    place: Place,
    store: Arc<S::Store>,
    /// The end of the log at the start.
    target: u64,
    position: Option<Position>,
    /// The sequence at the first checkpoint of each hour of the log's clock, within the retention.
    hours: VecDeque<(u32, u64)>,
    /// Bytes of messages applied since the last checkpoint.
    unsaved_bytes: usize,
    /// Whether there were events among them, or rows of a log.
    unsaved_events: bool,
    /// Ticks since the last checkpoint.
    ticks: u32,
}

impl<'a, L: Log, S: Stores> Task<'a, L, S> {
    async fn open(
        core: &'a Core<L, S>,
        partition: u16,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(Self, L::Reader), End> {
        let place = Place { partition, partitions: core.log.partitions() };
        let store = Arc::new(core.stores.open(partition).await?);
        let restored = rows::restore(&store.view()?, place).await?;
        let settings = core.settings.engine;
        let (engine, hours) = match restored {
            None => (Engine::new(partition, settings), VecDeque::new()),
            Some(Restored { snapshot, hours }) => {
                let engine = Engine::restore(partition, settings, snapshot);
                (engine.map_err(End::Restore)?, hours.into())
            }
        };
        let position = engine.position();
        let mut task = Self {
            core,
            place,
            store: Arc::clone(&store),
            target: 0,
            position,
            hours,
            unsaved_bytes: 0,
            unsaved_events: false,
            ticks: 0,
        };
        *core.slots[usize::from(partition)].write().await = Some(Counted { engine, store });
        let reader = task.reader(stop).await?;
        let end = core.log.end(partition).await?;
        task.target = end.map_or(0, |end| end.sequence);
        task.show();
        Ok((task, reader))
    }

    /// A reader of what follows, as soon as there is one.
    async fn reader(&self, stop: &mut watch::Receiver<bool>) -> Result<L::Reader, End> {
        loop {
            match self.core.log.reader(self.place.partition, self.position).await {
                Err(error) if error.is_retryable() => {
                    tracing::warn!(partition = self.place.partition, %error, "trying the log again");
                }
                done => return Ok(done?),
            }
            tokio::select! {
                () = tokio::time::sleep(self.core.settings.retry_after) => {}
                () = asked(stop) => return Err(End::Asked),
            }
        }
    }

    async fn run(
        mut self,
        mut reader: L::Reader,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), End> {
        let settings = &self.core.settings;
        let mut tick = tokio::time::interval(settings.checkpoint_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The partitions save one after the other, not all at once.
        let share = f64::from(self.place.partition) / f64::from(self.place.partitions);
        tick.reset_after(settings.checkpoint_every.mul_f64(share));
        let mut flush: Option<Flush> = None;
        loop {
            let unsaved_max = settings.checkpoint_bytes.saturating_mul(UNSAVED_FACTOR_MAX);
            let room = flush.is_none() || self.unsaved_bytes < unsaved_max;
            tokio::select! {
                biased;
                () = asked(stop) => break,
                done = flushed(&mut flush), if flush.is_some() => {
                    done??;
                    self.flushed(flush.take());
                }
                _ = tick.tick() => {
                    self.ticks = self.ticks.saturating_add(1);
                    self.show_lag().await;
                }
                first = reader.next(), if room => match first {
                    Ok(first) => self.burst(first, &mut reader).await?,
                    Err(error) if error.is_retryable() => reader = self.reader(stop).await?,
                    Err(error) => return Err(error.into()),
                },
            }
            if flush.is_none() && self.is_due() {
                flush = Some(self.checkpoint().await?);
            }
        }
        if flush.is_some() {
            flushed(&mut flush).await??;
            self.flushed(flush.take());
        }
        if self.unsaved_bytes > 0 {
            let mut flush = Some(self.checkpoint().await?);
            flushed(&mut flush).await??;
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        let settings = &self.core.settings;
        let ticks = if self.unsaved_events { 1 } else { settings.idle_checkpoints };
        let timely = self.ticks >= ticks && self.unsaved_bytes > 0;
        timely || self.unsaved_bytes >= settings.checkpoint_bytes
    }

    /// Applies what can be had without waiting, up to a burst.
    async fn burst(&mut self, first: Delivered, reader: &mut L::Reader) -> Result<(), End> {
        let mut bytes = first.payload.len();
        let mut messages = vec![first];
        // An error will be there again at the next call.
        while bytes < BURST_BYTES
            && let Ok(Some(next)) = reader.try_next()
        {
            bytes += next.payload.len();
            messages.push(next);
        }
        let mut views = Vec::with_capacity(messages.len());
        for message in &messages {
            let sequence = message.position.sequence;
            let view = MessageView::read(&message.payload);
            views.push((
                view.map_err(|error| End::Unreadable { sequence, error })?,
                message.position,
            ));
        }
        let slot = &self.core.slots[usize::from(self.place.partition)];
        let mut applied = Vec::with_capacity(views.len());
        let result: Result<(), End> = {
            let mut counted = slot.write().await;
            let Some(Counted { engine, .. }) = counted.as_mut() else {
                return Err(End::Asked);
            };
            views.iter().try_for_each(|(view, position)| {
                let sequence = position.sequence;
                let done = engine.apply(view, *position);
                applied.push(done.map_err(|error| End::Refused { sequence, error })?);
                self.position = Some(*position);
                Ok(())
            })
        };
        for (applied, (view, _)) in applied.iter().zip(&views) {
            self.unsaved_events |= applied.events > 0 || !view.chunks.is_empty();
            self.core.metrics.applied(applied);
        }
        self.unsaved_bytes += bytes;
        self.show();
        result?;
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Writes what changed. What is written is visible at once and durable when the flush is done.
    async fn checkpoint(&mut self) -> Result<Flush, End> {
        let watch = Stopwatch::start();
        let bytes = {
            let slot = &self.core.slots[usize::from(self.place.partition)];
            let mut counted = slot.write().await;
            let Some(Counted { engine, .. }) = counted.as_mut() else {
                return Err(End::Asked);
            };
            let changes = engine.checkpoint();
            let hour = u32::try_from(changes.clock.0 / 3_600_000).unwrap_or(u32::MAX);
            let mut batch = rows::batch(self.place, &changes);
            batch.extend(self.hour(hour, changes.position));
            let bytes: usize = batch.iter().map(Change::bytes).sum();
            // Under the lock: until it is written, the rows are neither here nor there.
            self.store.write(batch).await?;
            bytes
        };
        self.core.metrics.checkpoint_bytes.inc_by(bytes as u64);
        (self.unsaved_bytes, self.unsaved_events, self.ticks) = (0, false, 0);
        let store = Arc::clone(&self.store);
        let done = tokio::spawn(async move { store.flush().await });
        Ok(Flush { done, watch, trimmable: self.trimmable() })
    }

    /// Notes where a new hour began, and forgets those that no trim will ask for.
    fn hour(&mut self, hour: u32, position: Option<Position>) -> Vec<Change> {
        let Some(position) = position else { return Vec::new() };
        if self.hours.back().is_some_and(|(last, _)| *last >= hour) {
            return Vec::new();
        }
        self.hours.push_back((hour, position.sequence));
        let mut forget = Vec::new();
        let kept = hour.saturating_sub(self.core.settings.retention_hours);
        // The last one at or before the retention's beginning is the one that is trimmed up to.
        while self.hours.get(1).is_some_and(|(second, _)| *second <= kept) {
            forget.extend(self.hours.pop_front().map(|(hour, _)| hour));
        }
        rows::hours(hour, position.sequence, &forget)
    }

    fn trimmable(&self) -> Option<u64> {
        let (now, _) = self.hours.back()?;
        let (first, sequence) = self.hours.front()?;
        let kept = now.saturating_sub(self.core.settings.retention_hours);
        (*first <= kept).then_some(*sequence)
    }

    fn flushed(&self, flush: Option<Flush>) {
        let Some(Flush { watch, trimmable, .. }) = flush else { return };
        self.core.metrics.checkpoint_seconds.observe(watch.elapsed().as_secs_f64());
        if let Some(upto) = trimmable {
            self.core.trimmable.lock()[usize::from(self.place.partition)] = Some(upto);
        }
    }

    /// Tells the board how far it is.
    fn show(&self) {
        let (at, to) = (self.position.map_or(0, |position| position.sequence), self.target);
        let status = if at < to { Status::Replaying { at, to } } else { Status::Ready };
        self.core.board.set(self.place.partition, status);
    }

    async fn show_lag(&self) {
        let partition = self.place.partition;
        if let Ok(end) = self.core.log.end(partition).await {
            let end = end.map_or(0, |end| end.sequence);
            let lag = end.saturating_sub(self.position.map_or(0, |position| position.sequence));
            let gauge = self.core.metrics.lag.get_or_create(&PartitionLabel { partition });
            gauge.set(i64::try_from(lag).unwrap_or(i64::MAX));
        }
    }
}

/// Waits for a flush; for ever when there is none.
async fn flushed(
    flush: &mut Option<Flush>,
) -> Result<Result<(), StoreError>, tokio::task::JoinError> {
    match flush {
        Some(flush) => (&mut flush.done).await,
        None => std::future::pending().await,
    }
}
