//! The sending side: reads the log in order, keeps several batches on their way, and remembers how
//! far the sink has acknowledged without a gap.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use eventlog::segments::{SegmentReader, SegmentsError, Stored};
use shared::Timestamp;
use shared::limits::{CLOCK_AHEAD_MS_MAX, CLOCK_HOLD_MS_MAX};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

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
        }
        let common = Arc::clone(&self.common);
        // What was acknowledged until now need not be sent again.
        let settled = tokio::task::spawn_blocking(move || settle(&common)).await;
        if settled.is_err() {
            tracing::warn!("the acknowledged position could not be written down");
        }
        self.common.end() - self.common.acked.load(Ordering::Acquire)
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
    /// Sequence and bytes of each.
    on_their_way: JoinSet<(u64, usize)>,
    bytes_on_their_way: usize,
    /// Watermarks (ms) of what is on its way, by sequence.
    watermarks: BTreeMap<u64, u64>,
}

/// Records read from the disk at once.
const READ_MAX: usize = 16;

async fn run<S: BatchSink>(mut sender: Sender<S>, mut finishing: watch::Receiver<bool>) {
    let mut durable = sender.common.view.durable();
    let mut trim = tokio::time::interval(sender.settings.trim_pause);
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
                Ok((sequence, bytes)) => sender.acknowledged(sequence, bytes),
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

    /// Puts batches on their way while there are any and there is room.
    async fn fill(&mut self) -> Result<(), SegmentsError> {
        while self.has_room() {
            if self.ready.is_empty() && !self.read().await? {
                return Ok(());
            }
            let Some(record) = self.ready.pop_front() else {
                return Ok(());
            };
            let (sink, settings) = (Arc::clone(&self.sink), self.settings.clone());
            let common = Arc::clone(&self.common);
            if let Some(watermark) = watermark_of(&record.payload) {
                self.watermarks.insert(record.sequence, watermark);
                self.note_oldest();
            }
            let bytes = record.payload.len();
            self.bytes_on_their_way += bytes;
            self.on_their_way.spawn(async move {
                deliver(&*sink, record.payload, &settings, &common).await;
                (record.sequence, bytes)
            });
        }
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

    fn acknowledged(&mut self, sequence: u64, bytes: usize) {
        self.bytes_on_their_way -= bytes;
        self.beyond.insert(sequence);
        let mut acked = self.common.acked.load(Ordering::Relaxed);
        while self.beyond.remove(&(acked + 1)) {
            acked += 1;
        }
        self.common.acked.store(acked, Ordering::Release);
        self.watermarks.remove(&sequence);
        self.note_oldest();
    }

    fn note_oldest(&self) {
        let oldest = self.watermarks.values().next().copied().unwrap_or_default();
        self.common.oldest.store(oldest, Ordering::Release);
    }
}

/// A batch's watermark in ms, without reading the rest; `None` for a closing one, which has no age.
fn watermark_of(batch: &[u8]) -> Option<u64> {
    let bytes = batch.get(36..44)?.try_into().ok()?;
    Some(u64::from_le_bytes(bytes)).filter(|ms| *ms != u64::MAX)
}

/// A batch that is held back is looked at so often: the clock may have been set.
const HOLD_LOOK_MAX: Duration = Duration::from_millis(500);

/// For how long a batch with this watermark, ms, is held back, if it is: it was sealed before the
/// clock was set back, and a collector would have to refuse what is so far ahead. What is ahead by
/// more than a day goes out, for a collector to name its reason.
fn held(watermark: u64, now: Timestamp) -> Option<u64> {
    let ahead_ms = watermark.saturating_sub(now.0);
    (CLOCK_AHEAD_MS_MAX < ahead_ms && ahead_ms <= CLOCK_HOLD_MS_MAX)
        .then(|| ahead_ms - CLOCK_AHEAD_MS_MAX)
}

/// Sends one batch until it is taken.
async fn deliver<S: BatchSink>(sink: &S, batch: Bytes, settings: &DrainSettings, common: &Common) {
    let mut pause = settings.retry_least;
    let mut told = false;
    while let Some(ahead_ms) = watermark_of(&batch).and_then(|ms| held(ms, common.clock.0.now())) {
        tokio::time::sleep(HOLD_LOOK_MAX.min(Duration::from_millis(ahead_ms))).await;
    }
    loop {
        match sink.submit(batch.clone()).await {
            Ok(()) => {
                common.metrics.delivered.inc();
                return;
            }
            Err(SinkError::Retry(why)) => {
                common.metrics.retried.inc();
                tracing::debug!(%why, "a batch is sent again");
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2).min(settings.retry_most);
            }
            Err(SinkError::Refused(why)) => {
                common.metrics.refused.inc();
                if !std::mem::replace(&mut told, true) {
                    let batch = super::seal::Last::read(&batch).ok();
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
    if let Err(error) = common.view.trim(&[(STREAM, before_last)], None) {
        tracing::warn!(%error, "acknowledged segments could not be deleted");
    }
}
