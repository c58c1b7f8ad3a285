//! The sending side: reads the log in order, keeps several batches on their way, and records up to
//! where the sink has acknowledged all of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use eventlog::segments::{SegmentReader, SegmentsError, Stored};
use shared::Timestamp;
use shared::limits::{CLOCK_AHEAD_MS_MAX, CLOCK_HOLD_MS_MAX, EPOCH_AHEAD_MS_MAX};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::seal::BatchHead;
use super::sink::{BatchSink, SinkError};
use super::writer::{Common, Outbox, STREAM};

/// Settings of a [`Drain`].
#[derive(Clone, Debug)]
pub struct DrainSettings {
    /// The most batches on their way at once.
    pub window: usize,
    /// No further batch is sent while this many bytes are on their way.
    pub window_bytes: usize,
    /// The pause after the first [`SinkError::Retry`] of a batch; it doubles with each further one
    /// …
    pub retry_least: Duration,
    /// … up to this.
    pub retry_most: Duration,
    /// The pause after a [`SinkError::Refused`].
    pub refused_pause: Duration,
    /// How often the acknowledged position is written down and the log before it is deleted.
    pub trim_pause: Duration,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            window: 256,
            window_bytes: 8 << 20,
            retry_least: Duration::from_millis(50),
            retry_most: Duration::from_secs(5),
            refused_pause: Duration::from_secs(30),
            trim_pause: Duration::from_secs(1),
        }
    }
}

/// Sends what an outbox holds. When it is dropped the sending stops and nothing is lost.
#[derive(Debug)]
pub struct Drain {
    task: JoinHandle<()>,
    finish: watch::Sender<bool>,
    common: Arc<Common>,
}

impl Drain {
    /// Starts to send what is not acknowledged. Needs a tokio runtime; an outbox has one drain at a
    /// time.
    pub fn start<S: BatchSink>(outbox: &Outbox, sink: Arc<S>, settings: DrainSettings) -> Self {
        let common = Arc::clone(&outbox.common);
        let (finish, finishing) = watch::channel(false);
        let sender = Sender::new(Arc::clone(&common), sink, settings);
        let task = tokio::spawn(run(sender, finishing));
        Self { task, finish, common }
    }

    /// Goes on until everything that is on disk now is acknowledged or the deadline has passed,
    /// then stops. Returns how many batches are left for the next start.
    pub async fn finish(mut self, deadline: Duration) -> u64 {
        self.finish.send_replace(true);
        if tokio::time::timeout(deadline, &mut self.task).await.is_err() {
            self.task.abort();
            // The next start finds the directory free only when the task is gone.
            let _ = (&mut self.task).await;
        }
        let common = Arc::clone(&self.common);
        // Spares the next start from sending again what was acknowledged.
        let settled = tokio::task::spawn_blocking(move || settle(&common)).await;
        if settled.is_err() {
            tracing::warn!("the acknowledged position could not be written down");
        }
        self.common.unacked()
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The state of the sending task.
struct Sender<S> {
    common: Arc<Common>,
    sink: Arc<S>,
    settings: DrainSettings,
    reader: Option<SegmentReader>,
    /// Batches that were read and are not yet on their way.
    ready: VecDeque<Stored>,
    /// Sequences that are acknowledged while some before them are not.
    beyond: BTreeSet<u64>,
    /// Batches held back because they were sealed ahead of the clock. They take no part in the
    /// window, for later batches must not wait for them, and move to the side log, so that the
    /// outbox can be trimmed meanwhile.
    held: BTreeMap<Location, BatchHead>,
    /// Held batches whose time has come, in order …
    due: VecDeque<Location>,
    /// … and the reader of the last one that was read, which is used again when the next one
    /// follows it.
    held_reader: Option<(Location, SegmentReader)>,
    /// Signals that the sink has taken a batch, so that those that pause try again.
    taken: Arc<Notify>,
    /// How many batches are in the side log and not taken yet.
    in_side_log: usize,
    on_their_way: JoinSet<Sent>,
    bytes_on_their_way: usize,
    /// The watermarks, in ms, of the batches on their way.
    watermarks: BTreeMap<Location, u64>,
}

/// Which log a batch lies in, and its sequence there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Location {
    /// In the side log ([`super::side_log`]).
    SideLog(u64),
    /// In the outbox's own log.
    Log(u64),
}

impl Location {
    /// Whether it is the next one after `before` in the same log.
    fn follows(self, before: Self) -> bool {
        match (before, self) {
            (Self::SideLog(before), Self::SideLog(sequence))
            | (Self::Log(before), Self::Log(sequence)) => before + 1 == sequence,
            _ => false,
        }
    }
}

/// A batch to send.
struct Outgoing {
    location: Location,
    batch: Bytes,
}

/// What came of a batch that was on its way.
struct Sent {
    outgoing: Outgoing,
    /// Set when the batch was not taken, and is to be held back since the clock was set back behind
    /// it. `None`: it was taken.
    held: Option<BatchHead>,
}

/// The most records that are read from the disk at once.
const READ_MAX: usize = 16;

/// Fills the window, then waits for whatever comes first: an answer, a new batch, a timer. Ends
/// when told to finish and nothing is on its way, or with the outbox's failure.
async fn run<S: BatchSink>(mut sender: Sender<S>, mut finishing: watch::Receiver<bool>) {
    let mut durable = sender.common.view.durable();
    let mut trim = tokio::time::interval(sender.settings.trim_pause);
    let mut look = tokio::time::interval(HOLD_LOOK);
    if let Err(error) = sender.find_held().await {
        return sender.common.fail(&error);
    }
    loop {
        if let Err(error) = sender.fill().await {
            // Damage is never skipped, so what lies behind it stays where it is.
            return sender.common.fail(&error);
        }
        let idle = sender.on_their_way.is_empty();
        if idle && *finishing.borrow() {
            return;
        }
        tokio::select! {
            Some(done) = sender.on_their_way.join_next(), if !idle => match done {
                Ok(sent) => if let Err(error) = sender.arrived(sent).await {
                    return sender.common.fail(&error);
                },
                Err(error) => return sender.common.fail(&error),
            },
            changed = durable.changed(), if sender.has_room() => {
                // The writer lives as long as the view that `common` holds.
                debug_assert!(changed.is_ok());
            }
            _ = trim.tick() => {
                let common = Arc::clone(&sender.common);
                if let Err(error) = tokio::task::spawn_blocking(move || settle(&common)).await {
                    return sender.common.fail(&error);
                }
            }
            _ = look.tick(), if !sender.held.is_empty() => sender.find_due(),
            Ok(()) = finishing.changed() => {}
        }
    }
}

impl<S: BatchSink> Sender<S> {
    fn new(common: Arc<Common>, sink: Arc<S>, settings: DrainSettings) -> Self {
        Self {
            common,
            sink,
            settings,
            reader: None,
            ready: VecDeque::new(),
            held: BTreeMap::new(),
            due: VecDeque::new(),
            held_reader: None,
            taken: Arc::default(),
            in_side_log: 0,
            beyond: BTreeSet::new(),
            on_their_way: JoinSet::new(),
            bytes_on_their_way: 0,
            watermarks: BTreeMap::new(),
        }
    }

    fn has_room(&self) -> bool {
        self.on_their_way.len() < self.settings.window
            && self.bytes_on_their_way < self.settings.window_bytes
    }

    /// Finds what an earlier drain has moved to the side log.
    async fn find_held(&mut self) -> Result<(), SegmentsError> {
        let found = self.blocking(|common| common.side_log.read_all()).await?;
        self.set_in_side_log(found.len());
        self.held
            .extend(found.into_iter().map(|(sequence, last)| (Location::SideLog(sequence), last)));
        self.note_held();
        Ok(())
    }

    /// Runs work that blocks for the disk on a thread for that.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Common) -> Result<T, SegmentsError> + Send + 'static,
    ) -> Result<T, SegmentsError> {
        let common = Arc::clone(&self.common);
        match tokio::task::spawn_blocking(move || work(&common)).await {
            Ok(done) => done,
            // The work panicked, or the runtime is going down.
            Err(error) => Err(SegmentsError::Fatal { why: error.to_string() }),
        }
    }

    /// Puts batches on their way while there are batches and room in the window.
    async fn fill(&mut self) -> Result<(), SegmentsError> {
        while self.has_room() {
            let Some(outgoing) = self.next().await? else { return Ok(()) };
            if let Some(last) = ahead(&outgoing.batch, self.common.clock.0.now()) {
                self.hold(outgoing, last).await?;
                continue;
            }
            let (sink, settings) = (Arc::clone(&self.sink), self.settings.clone());
            let (common, taken) = (Arc::clone(&self.common), Arc::clone(&self.taken));
            if let Some(watermark) = watermark_of(&outgoing.batch) {
                self.watermarks.insert(outgoing.location, watermark);
                self.note_oldest();
            }
            self.bytes_on_their_way += outgoing.batch.len();
            self.on_their_way.spawn(async move {
                let held =
                    deliver(&*sink, outgoing.batch.clone(), &settings, &common, &taken).await;
                Sent { outgoing, held }
            });
        }
        Ok(())
    }

    /// The next batch to send: held batches whose time has come go before the log.
    async fn next(&mut self) -> Result<Option<Outgoing>, SegmentsError> {
        if let Some(location) = self.due.pop_front() {
            return self.read_held(location).await;
        }
        if self.ready.is_empty() && !self.read().await? {
            return Ok(None);
        }
        let stored = self.ready.pop_front();
        Ok(stored.map(|Stored { sequence, payload, .. }| Outgoing {
            location: Location::Log(sequence),
            batch: payload,
        }))
    }

    async fn read_held(&mut self, location: Location) -> Result<Option<Outgoing>, SegmentsError> {
        let known = self.held_reader.take().filter(|(before, _)| location.follows(*before));
        let (reader, record) = self
            .blocking(move |common| {
                let mut reader = match (known, location) {
                    (Some((_, reader)), _) => reader,
                    (None, Location::Log(sequence)) => common.view.reader(STREAM, sequence - 1)?,
                    (None, Location::SideLog(sequence)) => {
                        match common.side_log.reader(sequence - 1)? {
                            Some(reader) => reader,
                            None => return Ok((None, None)),
                        }
                    }
                };
                let record = reader.try_next()?;
                Ok((Some(reader), record))
            })
            .await?;
        self.held_reader = reader.map(|reader| (location, reader));
        Ok(record.map(|record| Outgoing { location, batch: record.payload }))
    }

    /// Holds a batch back, and moves it to the side log unless it is there. On a full disk it stays
    /// in the outbox, which then keeps everything after it too.
    async fn hold(&mut self, outgoing: Outgoing, last: BatchHead) -> Result<(), SegmentsError> {
        if self.held.is_empty() {
            tracing::warn!(
                until = %last.watermark, epoch = last.outbox.epoch,
                "batches were sealed ahead of the clock: they are held back until it is reached"
            );
        }
        let Outgoing { location, batch } = outgoing;
        let location = match location {
            Location::SideLog(_) => location,
            Location::Log(sequence) => match self.blocking(move |c| c.side_log.put(&batch)).await {
                Ok(kept) => {
                    self.set_in_side_log(self.in_side_log + 1);
                    self.acknowledged(sequence);
                    Location::SideLog(kept)
                }
                Err(SegmentsError::NoSpace) => location,
                Err(error) => return Err(error),
            },
        };
        self.held.insert(location, last);
        self.note_held();
        Ok(())
    }

    /// Looks for held batches whose time has come.
    fn find_due(&mut self) {
        let now = self.common.clock.0.now();
        let due = self.held.extract_if(.., |_, last| !is_held(last, now));
        self.due.extend(due.map(|(location, _)| location));
        self.note_held();
    }

    fn set_in_side_log(&mut self, count: usize) {
        self.in_side_log = count;
        self.common.in_side_log.store(count as u64, Ordering::Release);
    }

    fn note_held(&self) {
        self.common.held.store(self.held.len() as u64, Ordering::Release);
    }

    async fn arrived(&mut self, sent: Sent) -> Result<(), SegmentsError> {
        let Sent { outgoing, held } = sent;
        let location = outgoing.location;
        self.bytes_on_their_way -= outgoing.batch.len();
        self.watermarks.remove(&location);
        match (held, location) {
            (Some(last), _) => self.hold(outgoing, last).await?,
            (None, Location::Log(sequence)) => self.acknowledged(sequence),
            (None, Location::SideLog(_)) => {
                self.set_in_side_log(self.in_side_log - 1);
                if self.in_side_log == 0 {
                    self.held_reader = None;
                    self.blocking(|common| common.side_log.clear()).await?;
                }
            }
        }
        self.note_oldest();
        Ok(())
    }

    /// Reads the next records of the log; false at its durable end.
    async fn read(&mut self) -> Result<bool, SegmentsError> {
        let mut reader = match self.reader.take() {
            Some(reader) if reader.sequence() == self.common.end() => {
                self.reader = Some(reader);
                return Ok(false);
            }
            Some(reader) => reader,
            None => self.common.view.reader(STREAM, self.common.acked.load(Ordering::Acquire))?,
        };
        // Blocks for the disk.
        let read = tokio::task::spawn_blocking(move || {
            let mut records = VecDeque::new();
            while records.len() < READ_MAX {
                match reader.try_next()? {
                    Some(record) => records.push_back(record),
                    None => break,
                }
            }
            Ok::<_, SegmentsError>((reader, records))
        });
        let (reader, records) = match read.await {
            Ok(read) => read?,
            // The runtime is going down.
            Err(_) => return Ok(false),
        };
        self.reader = Some(reader);
        self.ready = records;
        Ok(!self.ready.is_empty())
    }

    /// Records an acknowledgement. The acknowledged position moves on over the records that are
    /// acknowledged without a gap, and stops before the first that is not.
    fn acknowledged(&mut self, sequence: u64) {
        self.beyond.insert(sequence);
        let mut acked = self.common.acked.load(Ordering::Relaxed);
        while self.beyond.remove(&(acked + 1)) {
            acked += 1;
        }
        self.common.acked.store(acked, Ordering::Release);
    }

    fn note_oldest(&self) {
        let oldest = self.watermarks.values().min().copied().unwrap_or_default();
        self.common.oldest.store(oldest, Ordering::Release);
    }
}

/// A batch's watermark in ms, without decoding the rest; `None` for a closing batch, which has no
/// time of its own.
fn watermark_of(batch: &[u8]) -> Option<u64> {
    let bytes = batch.get(36..44)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes)).filter(|ms| *ms != u64::MAX)
}

/// How often held batches are looked at; the clock may have been set meanwhile.
const HOLD_LOOK: Duration = Duration::from_millis(500);

/// The head of a batch that is to be held back; `None` when it may be sent.
fn ahead(batch: &[u8], now: Timestamp) -> Option<BatchHead> {
    // For most batches the watermark alone shows that they may be sent.
    if watermark_of(batch).is_some_and(|ms| ms <= now.plus_ms(CLOCK_AHEAD_MS_MAX).0) {
        return None;
    }
    BatchHead::read(batch).ok().filter(|last| is_held(last, now))
}

/// Whether a batch is held back: its watermark is ahead of the clock by more than clocks may
/// differ, so a collector would have to refuse it. It was sealed before the clock was set back.
/// There is an exception: when the epoch began at a plausible time and the watermark is ahead by
/// more than a day, the batch is sent, and the collector names its reason.
fn is_held(last: &BatchHead, now: Timestamp) -> bool {
    let (watermark, epoch) = (last.watermark, Timestamp(last.outbox.epoch));
    if watermark == Timestamp::MAX {
        // A closing batch has no time of its own, but no collector takes an epoch that is so far
        // ahead.
        return epoch > now.plus_ms(EPOCH_AHEAD_MS_MAX);
    }
    let soon = now.plus_ms(CLOCK_AHEAD_MS_MAX);
    watermark > soon && (watermark <= now.plus_ms(CLOCK_HOLD_MS_MAX) || epoch > soon)
}

/// Sends one batch again and again until the sink takes it (`None`), or until it is to be held
/// back. Attempts are not limited: an event stays in the outbox until it is acknowledged.
async fn deliver<S: BatchSink>(
    sink: &S,
    batch: Bytes,
    settings: &DrainSettings,
    common: &Common,
    taken: &Notify,
) -> Option<BatchHead> {
    let mut pause = settings.retry_least;
    let mut told = false;
    loop {
        // While the batch waited here the clock may have been set back.
        let held = ahead(&batch, common.clock.0.now());
        if held.is_some() {
            return held;
        }
        match sink.submit(batch.clone()).await {
            Ok(()) => {
                common.metrics.delivered.inc();
                // Wakes all that pause, for a sink may take them together, and whichever begins to
                // pause in this very moment.
                taken.notify_waiters();
                taken.notify_one();
                return None;
            }
            Err(SinkError::Retry(why)) => {
                common.metrics.retried.inc();
                tracing::debug!(%why, "a batch is sent again");
                // When the sink takes another batch it has room again, so this pause ends early.
                let _ = tokio::time::timeout(pause, taken.notified()).await;
                pause = pause.saturating_mul(2).min(settings.retry_most);
            }
            Err(SinkError::Refused(why)) => {
                common.metrics.refused.inc();
                if !std::mem::replace(&mut told, true) {
                    let batch = BatchHead::read(&batch).ok();
                    tracing::error!(
                        %why, ?batch,
                        "a batch is refused; it is kept and holds back what follows it"
                    );
                }
                tokio::time::sleep(settings.refused_pause).await;
            }
        }
    }
}

/// Writes the acknowledged position down and deletes the segments before it. The last record is
/// kept: it tells the next start where the numbers are. An error here costs only a resend or some
/// disk.
fn settle(common: &Common) {
    let acked = common.acked.load(Ordering::Acquire);
    if let Err(error) = super::acked::write(&common.dir, &common.view.identity(), acked) {
        tracing::warn!(%error, "the acknowledged position could not be written down");
    }
    let before_last = acked.min(common.end().saturating_sub(1));
    if let Err(error) = common.view.trim(&[(STREAM, before_last)]) {
        tracing::warn!(%error, "acknowledged segments could not be deleted");
    }
}
