//! The sending side: reads the log in order, keeps several batches on their way, and remembers how
//! far the sink has acknowledged without a gap.

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

use super::seal::Last;
use super::sink::{BatchSink, SinkError};
use super::writer::{Common, Outbox, STREAM};

/// Settings of a [`Drain`].
#[derive(Clone, Debug)]
pub struct DrainSettings {
    /// The most batches on their way at once …
    pub window: usize,
    /// … and while so many bytes are, no further one is sent.
    pub window_bytes: usize,
    /// The first pause after a [`SinkError::Retry`]; each further one is twice as long …
    pub retry_least: Duration,
    /// … up to this.
    pub retry_most: Duration,
    /// The pause after a [`SinkError::Refused`].
    pub refused_pause: Duration,
    /// How often the acknowledged position is written down, and what is behind it deleted.
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

/// Sends what an outbox holds. Dropping it stops the sending; nothing is lost.
#[derive(Debug)]
pub struct Drain {
    task: JoinHandle<()>,
    finish: watch::Sender<bool>,
    common: Arc<Common>,
}

impl Drain {
    /// Starts sending what is not acknowledged. Needs a tokio runtime. One drain for an outbox.
    pub fn start<S: BatchSink>(outbox: &Outbox, sink: Arc<S>, settings: DrainSettings) -> Self {
        let common = Arc::clone(&outbox.common);
        let (finish, finishing) = watch::channel(false);
        let sender = Sender::new(Arc::clone(&common), sink, settings);
        let task = tokio::spawn(run(sender, finishing));
        Self { task, finish, common }
    }

    /// Goes on until everything that is on disk now is acknowledged, or the deadline has passed;
    /// then stops. Returns how many records are left for the next start.
    pub async fn finish(mut self, deadline: Duration) -> u64 {
        self.finish.send_replace(true);
        if tokio::time::timeout(deadline, &mut self.task).await.is_err() {
            self.task.abort();
            // Only when it is gone the next start finds the directory free.
            let _ = (&mut self.task).await;
        }
        let common = Arc::clone(&self.common);
        // What was acknowledged until now need not be sent again.
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

/// What the sending task has.
struct Sender<S> {
    common: Arc<Common>,
    sink: Arc<S>,
    settings: DrainSettings,
    reader: Option<SegmentReader>,
    /// Read and not yet on their way.
    ready: VecDeque<Stored>,
    /// Acknowledged, with a gap before them.
    beyond: BTreeSet<u64>,
    /// Held back: what was sealed ahead of the clock. It takes no part of the window, for what follows
    /// must not wait for it, and is kept apart, for the outbox is trimmed meanwhile.
    held: BTreeMap<Place, Last>,
    /// Those whose time has come, in order …
    due: VecDeque<Place>,
    /// … and what reads them.
    again: Option<(Place, SegmentReader)>,
    /// One was taken: those that pause try again.
    taken: Arc<Notify>,
    /// How many are kept apart and not taken yet.
    apart: usize,
    on_their_way: JoinSet<Sent>,
    bytes_on_their_way: usize,
    /// Watermarks (ms) of what is on its way.
    watermarks: BTreeMap<Place, u64>,
}

/// Where a batch lies, and its sequence there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Place {
    /// Kept apart ([`super::apart`]).
    Apart(u64),
    /// In the outbox.
    Log(u64),
}

impl Place {
    /// Whether it follows another one, which was read last.
    fn follows(self, before: Self) -> bool {
        match (before, self) {
            (Self::Apart(before), Self::Apart(sequence))
            | (Self::Log(before), Self::Log(sequence)) => before + 1 == sequence,
            _ => false,
        }
    }
}

/// A batch that is to be sent.
struct Outgoing {
    place: Place,
    batch: Bytes,
}

/// A batch that was on its way.
struct Sent {
    outgoing: Outgoing,
    /// It was not taken before the clock was set back behind it.
    held: Option<Last>,
}

/// Records read from the disk at once.
const READ_MAX: usize = 16;

async fn run<S: BatchSink>(mut sender: Sender<S>, mut finishing: watch::Receiver<bool>) {
    let mut durable = sender.common.view.durable();
    let mut trim = tokio::time::interval(sender.settings.trim_pause);
    let mut look = tokio::time::interval(HOLD_LOOK);
    if let Err(error) = sender.find_apart().await {
        return sender.common.fail(&error);
    }
    loop {
        if let Err(error) = sender.fill().await {
            // Damage is never skipped: what is behind it stays where it is.
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
            _ = look.tick(), if !sender.held.is_empty() => sender.look(),
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
            again: None,
            taken: Arc::default(),
            apart: 0,
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

    /// What an earlier drain has kept apart.
    async fn find_apart(&mut self) -> Result<(), SegmentsError> {
        let found = self.blocking(|common| common.apart.read_all()).await?;
        self.lie_apart(found.len());
        self.held.extend(found.into_iter().map(|(sequence, last)| (Place::Apart(sequence), last)));
        self.note_held();
        Ok(())
    }

    /// Does what blocks for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Common) -> Result<T, SegmentsError> + Send + 'static,
    ) -> Result<T, SegmentsError> {
        let common = Arc::clone(&self.common);
        match tokio::task::spawn_blocking(move || work(&common)).await {
            Ok(done) => done,
            // It panicked, or the runtime is going down.
            Err(error) => Err(SegmentsError::Fatal { why: error.to_string() }),
        }
    }

    /// Puts batches on their way while there are any and there is room.
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
                self.watermarks.insert(outgoing.place, watermark);
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

    /// What is to be sent next: what was held back, then what follows.
    async fn next(&mut self) -> Result<Option<Outgoing>, SegmentsError> {
        if let Some(place) = self.due.pop_front() {
            return self.read_again(place).await;
        }
        if self.ready.is_empty() && !self.read().await? {
            return Ok(None);
        }
        let stored = self.ready.pop_front();
        Ok(stored.map(|Stored { sequence, payload, .. }| Outgoing {
            place: Place::Log(sequence),
            batch: payload,
        }))
    }

    async fn read_again(&mut self, place: Place) -> Result<Option<Outgoing>, SegmentsError> {
        let known = self.again.take().filter(|(before, _)| place.follows(*before));
        let (reader, record) = self
            .blocking(move |common| {
                let mut reader = match (known, place) {
                    (Some((_, reader)), _) => reader,
                    (None, Place::Log(sequence)) => common.view.reader(STREAM, sequence - 1)?,
                    (None, Place::Apart(sequence)) => match common.apart.reader(sequence - 1)? {
                        Some(reader) => reader,
                        None => return Ok((None, None)),
                    },
                };
                let record = reader.try_next()?;
                Ok((Some(reader), record))
            })
            .await?;
        self.again = reader.map(|reader| (place, reader));
        Ok(record.map(|record| Outgoing { place, batch: record.payload }))
    }

    /// Keeps a batch apart, where it is not yet. On a full disk it stays where it is, and what follows it
    /// in the outbox with it.
    async fn hold(&mut self, outgoing: Outgoing, last: Last) -> Result<(), SegmentsError> {
        if self.held.is_empty() {
            tracing::warn!(
                until = %last.watermark, epoch = last.outbox.epoch,
                "batches were sealed ahead of the clock: they are held back until it is reached"
            );
        }
        let Outgoing { place, batch } = outgoing;
        let place = match place {
            Place::Apart(_) => place,
            Place::Log(sequence) => match self.blocking(move |c| c.apart.put(&batch)).await {
                Ok(kept) => {
                    self.lie_apart(self.apart + 1);
                    self.acknowledged(sequence);
                    Place::Apart(kept)
                }
                Err(SegmentsError::NoSpace) => place,
                Err(error) => return Err(error),
            },
        };
        self.held.insert(place, last);
        self.note_held();
        Ok(())
    }

    /// Looks for those whose time has come.
    fn look(&mut self) {
        let now = self.common.clock.0.now();
        let due = self.held.extract_if(.., |_, last| !is_held(last, now));
        self.due.extend(due.map(|(place, _)| place));
        self.note_held();
    }

    fn lie_apart(&mut self, count: usize) {
        self.apart = count;
        self.common.lying_apart.store(count as u64, Ordering::Release);
    }

    fn note_held(&self) {
        self.common.held.store(self.held.len() as u64, Ordering::Release);
    }

    async fn arrived(&mut self, sent: Sent) -> Result<(), SegmentsError> {
        let Sent { outgoing, held } = sent;
        let place = outgoing.place;
        self.bytes_on_their_way -= outgoing.batch.len();
        self.watermarks.remove(&place);
        match (held, place) {
            (Some(last), _) => self.hold(outgoing, last).await?,
            (None, Place::Log(sequence)) => self.acknowledged(sequence),
            (None, Place::Apart(_)) => {
                self.lie_apart(self.apart - 1);
                if self.apart == 0 {
                    self.again = None;
                    self.blocking(|common| common.apart.clear()).await?;
                }
            }
        }
        self.note_oldest();
        Ok(())
    }

    /// Reads on; false at the durable end.
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

/// A batch's watermark in ms, without reading the rest; `None` for a closing one, which has no age.
fn watermark_of(batch: &[u8]) -> Option<u64> {
    let bytes = batch.get(36..44)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes)).filter(|ms| *ms != u64::MAX)
}

/// What is held back is looked at so often: the clock may have been set.
const HOLD_LOOK: Duration = Duration::from_millis(500);

/// What a batch says of itself, if it is to be held back.
fn ahead(batch: &[u8], now: Timestamp) -> Option<Last> {
    // Most say by their watermark alone that they are not.
    if watermark_of(batch).is_some_and(|ms| ms <= now.plus_ms(CLOCK_AHEAD_MS_MAX).0) {
        return None;
    }
    Last::read(batch).ok().filter(|last| is_held(last, now))
}

/// Whether a batch is held back: it was sealed before the clock was set back, and a collector would have
/// to refuse what is so far ahead. Of an epoch that has begun in its time what is ahead by more than a
/// day goes out, for a collector to name its reason.
fn is_held(last: &Last, now: Timestamp) -> bool {
    let (watermark, epoch) = (last.watermark, Timestamp(last.outbox.epoch));
    if watermark == Timestamp::MAX {
        // It has no time of its own; but no collector knows an epoch that is so far ahead.
        return epoch > now.plus_ms(EPOCH_AHEAD_MS_MAX);
    }
    let soon = now.plus_ms(CLOCK_AHEAD_MS_MAX);
    watermark > soon && (watermark <= now.plus_ms(CLOCK_HOLD_MS_MAX) || epoch > soon)
}

/// Sends one batch until it is taken, or is to be held back.
async fn deliver<S: BatchSink>(
    sink: &S,
    batch: Bytes,
    settings: &DrainSettings,
    common: &Common,
    taken: &Notify,
) -> Option<Last> {
    let mut pause = settings.retry_least;
    let mut told = false;
    loop {
        // It may have waited here for a collector while the clock was set back.
        let held = ahead(&batch, common.clock.0.now());
        if held.is_some() {
            return held;
        }
        match sink.submit(batch.clone()).await {
            Ok(()) => {
                common.metrics.delivered.inc();
                // All that pause, for a sink may take them together; and whoever begins to in this moment.
                taken.notify_waiters();
                taken.notify_one();
                return None;
            }
            Err(SinkError::Retry(why)) => {
                common.metrics.retried.inc();
                tracing::debug!(%why, "a batch is sent again");
                // Where one is taken there is room for others, however long this one was to wait.
                let _ = tokio::time::timeout(pause, taken.notified()).await;
                pause = pause.saturating_mul(2).min(settings.retry_most);
            }
            Err(SinkError::Refused(why)) => {
                common.metrics.refused.inc();
                if !std::mem::replace(&mut told, true) {
                    let batch = Last::read(&batch).ok();
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

/// Writes the acknowledged position down and deletes the segments before it; the last record stays,
/// for it tells the next start where the numbers are. Errors only cost a resend or some disk.
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
