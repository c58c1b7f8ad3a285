//! The task of one partition: reads the log, applies messages, and saves checkpoints.

use std::sync::Arc;

use eventlog::{DEAD, Delivered, Log, LogError, Message, Position, Reader};
use shared::wire::{DeadLetter, Logged, WireError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::checkpoint::{self, Hours, Kept};
use super::seal::Sealing;
use super::{Core, Counted, Status, asked};
use crate::count::{Applied, Engine, EngineError};
use crate::metrics::PartitionLabel;
use crate::store::rows::{self, PartitionAndCount, Restored};
use crate::store::{CheckpointStore, StoreError, Stores};

/// Messages are applied in bursts of about so many bytes. The lock is held for a whole burst: some
/// milliseconds.
const BURST_BYTES: usize = 512 << 10;
/// While a checkpoint is being made durable, a partition applies at most so many times
/// [`super::Settings::checkpoint_bytes`] of messages, and then waits for it.
const UNSAVED_FACTOR_MAX: usize = 4;

/// How often a partition tries again to append a foreign message to the dead letters before it
/// stops.
const FOREIGN_TRIES_MAX: u32 = 30;

/// Why a task ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("it was asked to")]
    Asked,
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the message at sequence {sequence} is refused: {error}")]
    Refused { sequence: u64, error: EngineError },
    #[error("the message at sequence {sequence} cannot be read: {error}")]
    Unreadable { sequence: u64, error: WireError },
    #[error("its checkpoint is refused: {0}")]
    Restore(EngineError),
    #[error("its task has failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Puts the task's last status on the board when it is dropped, so that it is there even after a
/// panic.
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

struct Task<L: Log, S: Stores> {
    core: Arc<Core<L, S>>,
    own: PartitionAndCount,
    store: Arc<S::Store>,
    /// The last sequence of the log at the start.
    target: u64,
    position: Option<Position>,
    /// Empty while a checkpoint is being saved: the checkpoint's task has it.
    kept: Kept,
    /// Bytes of messages applied since the last checkpoint began.
    unsaved_bytes: usize,
    /// Whether there was anything but heartbeats among these messages.
    unsaved_events: bool,
    /// Ticks of `checkpoint_every` since the last checkpoint began.
    ticks: u32,
    sealing: Sealing,
    /// Asks how far the log is.
    asking: Option<JoinHandle<()>>,
}

impl<L: Log, S: Stores> Task<L, S> {
    async fn open(
        core: &Arc<Core<L, S>>,
        partition: u16,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(Self, L::Reader), End> {
        let own = PartitionAndCount { partition, partitions: core.log.partitions() };
        // Before the store is opened: what a process that takes it over later writes is younger.
        let before = core.segments.time(partition).await?;
        let store = Arc::new(core.stores.open(partition).await?);
        let restored = rows::restore(&store.view()?, own).await?;
        let settings = core.settings.engine;
        let (engine, kept) = match restored {
            None => (Engine::new(partition, settings), Kept::default()),
            Some(Restored { snapshot, hours, facts }) => {
                let clock = snapshot.clock.minute();
                let engine = Engine::restore(partition, settings, snapshot);
                let kept = Kept { hours: Hours::new(hours), facts, clock, ..Kept::default() };
                (engine.map_err(End::Restore)?, kept)
            }
        };
        let position = engine.position();
        let (facts, segments) = (Arc::new(kept.facts.clone()), Arc::clone(&core.segments));
        let mut task = Self {
            core: Arc::clone(core),
            own,
            store: Arc::clone(&store),
            target: 0,
            position,
            kept,
            unsaved_bytes: 0,
            unsaved_events: false,
            ticks: 0,
            sealing: Sealing::new(before),
            asking: None,
        };
        *core.slots[usize::from(partition)].write().await =
            Some(Counted { engine, store, moving: None, facts, segments });
        let reader = task.reader(stop).await?;
        let end = task.patiently(stop, || core.log.end(partition)).await?;
        task.target = end.map_or(0, |end| end.sequence);
        task.show();
        Ok((task, reader))
    }

    /// A reader of the messages behind the task's position, as soon as the log gives one.
    async fn reader(&self, stop: &mut watch::Receiver<bool>) -> Result<L::Reader, End> {
        let PartitionAndCount { partition, .. } = self.own;
        self.patiently(stop, || self.core.log.reader(partition, self.position)).await
    }

    /// Asks the log until it answers, or with an error that trying again does not mend: a log that
    /// cannot be reached will be there again. Ends early when the task is asked to stop.
    async fn patiently<T, F: Future<Output = Result<T, LogError>>>(
        &self,
        stop: &mut watch::Receiver<bool>,
        ask: impl Fn() -> F,
    ) -> Result<T, End> {
        loop {
            match ask().await {
                Err(error) if error.is_retryable() => {
                    tracing::warn!(partition = self.own.partition, %error, "trying the log again");
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
        let settings = self.core.settings;
        let mut tick = tokio::time::interval(settings.checkpoint_every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is spread over the partitions, so that they do not all save at once.
        let share = f64::from(self.own.partition) / f64::from(self.own.partitions);
        tick.reset_after(settings.checkpoint_every.mul_f64(share));
        let mut save: Option<Save> = None;
        loop {
            let unsaved_max = settings.checkpoint_bytes.saturating_mul(UNSAVED_FACTOR_MAX);
            let room = save.is_none() || self.unsaved_bytes < unsaved_max;
            tokio::select! {
                biased;
                () = asked(stop) => break,
                done = saved(&mut save), if save.is_some() => {
                    save = None;
                    self.saved(done?);
                    self.seal()?;
                }
                () = self.sealing.done() => {
                    if save.is_none() {
                        self.seal()?;
                    }
                }
                _ = tick.tick() => {
                    self.ticks = self.ticks.saturating_add(1);
                    self.show_lag();
                    self.sealing.collect(&self.core.segments, settings.segments_kept);
                    if save.is_none() {
                        self.sealing.tick(self.kept.facts.loose());
                        self.seal()?;
                    }
                }
                first = reader.next(), if room => match first {
                    Ok(first) => self.burst(first, &mut reader).await?,
                    Err(error) if error.is_retryable() => reader = self.reader(stop).await?,
                    Err(error) => return Err(error.into()),
                },
            }
            if save.is_none() && self.is_due() {
                save = Some(self.save());
            }
        }
        if save.is_some() {
            let done = saved(&mut save).await?;
            self.saved(done);
        }
        if self.unsaved_bytes > 0 {
            saved(&mut Some(self.save())).await?;
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        let settings = &self.core.settings;
        let ticks = if self.unsaved_events { 1 } else { settings.idle_checkpoints };
        let timely = self.ticks >= ticks && self.unsaved_bytes > 0;
        timely || self.unsaved_bytes >= settings.checkpoint_bytes || self.sealing.is_made()
    }

    /// Applies `first` and the messages behind it that can be had without waiting, up to
    /// [`BURST_BYTES`].
    async fn burst(&mut self, first: Delivered, reader: &mut L::Reader) -> Result<(), End> {
        let mut bytes = first.payload.len();
        let mut messages = vec![first];
        // Ends at the end of the log, or at an error, which comes again at the next call.
        while bytes < BURST_BYTES
            && let Ok(Some(next)) = reader.try_next()
        {
            bytes += next.payload.len();
            messages.push(next);
        }
        let mut views = Vec::with_capacity(messages.len());
        for message in &messages {
            let view = match Logged::read(&message.payload) {
                Ok(view) => Some(view),
                // Written by us, but damaged or of a later version: its events would be lost.
                Err(error) if Logged::is_ours(&message.payload) => {
                    let sequence = message.position.sequence;
                    return Err(End::Unreadable { sequence, error });
                }
                Err(error) => {
                    // Kept before it is passed over: a crash in between keeps it twice, but it is
                    // never lost.
                    self.foreign(message, &error).await?;
                    None
                }
            };
            views.push((view, message.position));
        }
        let slot = &self.core.slots[usize::from(self.own.partition)];
        let mut applied = Vec::with_capacity(views.len());
        let result: Result<(), End> = {
            let mut counted = slot.write().await;
            let Some(Counted { engine, .. }) = counted.as_mut() else {
                return Err(End::Asked);
            };
            views.iter().try_for_each(|(view, position)| {
                let sequence = position.sequence;
                let done = match view {
                    Some(Logged::Message(message)) => engine.apply(message, *position),
                    Some(Logged::Control(control)) => {
                        engine.control(control, *position).map(|()| Applied::default())
                    }
                    None => engine.pass_over(*position).map(|()| Applied::default()),
                };
                applied.push(done.map_err(|error| End::Refused { sequence, error })?);
                self.position = Some(*position);
                Ok(())
            })
        };
        for (applied, (view, _)) in applied.iter().zip(&views) {
            self.unsaved_events |= match view {
                Some(Logged::Message(message)) => applied.events > 0 || !message.chunks.is_empty(),
                Some(Logged::Control(_)) | None => true,
            };
            self.core.metrics.applied(applied);
        }
        self.unsaved_bytes += bytes;
        self.show();
        result?;
        tokio::task::yield_now().await;
        Ok(())
    }

    /// Appends a message that no program of ours wrote to the dead letters. Tries again while the
    /// log cannot be reached, up to [`FOREIGN_TRIES_MAX`] times.
    async fn foreign(&self, message: &Delivered, error: &WireError) -> Result<(), End> {
        let PartitionAndCount { partition, .. } = self.own;
        let sequence = message.position.sequence;
        tracing::error!(partition, sequence, %error, "a foreign message, kept with the dead letters");
        self.core.metrics.foreign.inc();
        let from = format!("partition {partition}, sequence {sequence}");
        let reason = error.to_string();
        let (at, bytes) = (self.core.clock.now(), &message.payload[..]);
        let letter = DeadLetter { at, sender: None, from: &from, reason: &reason, bytes };
        let letter = Message { partition: DEAD, payload: letter.to_bytes().into() };
        let mut tries = 0;
        loop {
            match self.core.log.append(vec![letter.clone()]).await {
                Err(error) if error.is_retryable() && tries < FOREIGN_TRIES_MAX => tries += 1,
                done => return Ok(done.map(drop)?),
            }
            tokio::time::sleep(self.core.settings.retry_after).await;
        }
    }

    /// Begins a checkpoint. Messages that are applied from now on may still get into it, but are
    /// taken as unsaved.
    fn save(&mut self) -> Save {
        (self.unsaved_bytes, self.unsaved_events, self.ticks) = (0, false, 0);
        let mut kept = std::mem::take(&mut self.kept);
        kept.swaps.extend(self.sealing.take());
        let (core, store) = (Arc::clone(&self.core), Arc::clone(&self.store));
        Save(tokio::spawn(checkpoint::save(core, self.own, store, kept)))
    }

    /// Begins to make the next segment of facts, if one is due.
    fn seal(&mut self) -> Result<(), End> {
        self.sealing.next(&self.core, self.own.partition, &*self.store, &mut self.kept)
    }

    fn saved(&mut self, mut kept: Kept) {
        self.sealing.replaced(std::mem::take(&mut kept.replaced));
        if let Some(upto) = kept.hours.trimmable(self.core.settings.retention_hours) {
            self.core.trimmable.lock()[usize::from(self.own.partition)] = Some(upto);
        }
        self.kept = kept;
    }

    /// Puts on the board how far the partition is.
    fn show(&self) {
        let (at, to) = (self.position.map_or(0, |position| position.sequence), self.target);
        let status = if at < to { Status::Replaying { at, to } } else { Status::Ready };
        self.core.board.set(self.own.partition, status);
    }

    /// Asks the log how far it is, beside the counting: a log that is slow to say so keeps nothing
    /// from being counted.
    fn show_lag(&mut self) {
        if self.asking.as_ref().is_some_and(|asking| !asking.is_finished()) {
            return;
        }
        let (core, partition) = (Arc::clone(&self.core), self.own.partition);
        let at = self.position.map_or(0, |position| position.sequence);
        self.asking = Some(tokio::spawn(async move {
            if let Ok(end) = core.log.end(partition).await {
                let lag = end.map_or(0, |end| end.sequence).saturating_sub(at);
                let gauge = core.metrics.lag.get_or_create(&PartitionLabel { partition });
                gauge.set(i64::try_from(lag).unwrap_or(i64::MAX));
            }
        }));
    }
}

/// A checkpoint that is being saved. Dropping it aborts the saving.
struct Save(JoinHandle<Result<Kept, End>>);

impl Drop for Save {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Waits until the checkpoint is durable. Without one it waits for ever.
async fn saved(save: &mut Option<Save>) -> Result<Kept, End> {
    match save {
        Some(save) => (&mut save.0).await?,
        None => std::future::pending().await,
    }
}
