//! The writing side: a bounded queue in front of a thread that seals what waits as one batch.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use eventlog::group::{self, GroupCommit, GroupConfig, SendError};
use eventlog::segments::{Segments, SegmentsConfig, SegmentsError, SegmentsView};
use shared::limits::CLOCK_AHEAD_MS_MAX;
use shared::{Clock, EdgeId, Kind, OutboxId, Random, Reason, Timestamp};
use tokio::sync::watch;

use super::commit::{Committer, Item};
use super::seal::{BatchHead, weight};
use super::side_log::SideLog;
use super::tally_file::TallyFile;
use crate::decision::Draft;
use crate::metrics::Metrics;
use crate::repeats::Repeats;

/// The one stream that an outbox uses in its segments.
pub(super) const STREAM: u16 = 0;
/// What events must leave free on the disk for heartbeats, closing batches and tallies, in bytes.
const RESERVE_BYTES: u64 = 64 << 10;
/// The smallest [`OutboxSettings::disk_bytes_max`].
pub const DISK_BYTES_LEAST: u64 = 1 << 20;

/// Settings of an [`Outbox`].
#[derive(Clone, Debug)]
pub struct OutboxSettings {
    /// The directory; made when it is missing.
    pub dir: PathBuf,
    /// The edge whose outbox it is.
    pub edge: EdgeId,
    /// The most bytes on disk, at least [`DISK_BYTES_LEAST`]; the outbox is full beyond that.
    pub disk_bytes_max: u64,
    /// The most requests that may wait for the disk.
    pub queue_items_max: usize,
    /// The most bytes of events that may wait for the disk.
    pub queue_bytes_max: usize,
    /// How long a group waits for more requests under heavy traffic ([`GroupConfig::linger`]).
    pub linger: Duration,
    /// The time between heartbeats without traffic.
    pub heartbeat: Duration,
    /// The time, in ms, between batches that take tallies under traffic.
    pub hand_over_ms: u64,
}

impl OutboxSettings {
    /// The default settings.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, edge: EdgeId) -> Self {
        Self {
            dir: dir.into(),
            edge,
            disk_bytes_max: 1 << 30,
            queue_items_max: 16 << 10,
            queue_bytes_max: 16 << 20,
            linger: Duration::from_millis(1),
            heartbeat: Duration::from_secs(1),
            hand_over_ms: 1_000,
        }
    }
}

/// Why an outbox cannot be opened, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// An error of the segments.
    #[error(transparent)]
    Segments(#[from] SegmentsError),
    /// Bytes on disk are not what was written.
    #[error("{}, offset {offset}: {what}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The position, in bytes.
        offset: u64,
        /// What is wrong.
        what: String,
    },
    /// An operation on a file failed.
    #[error("{}: {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        action: &'static str,
        /// The error of the system.
        source: io::Error,
    },
    /// A setting is out of range.
    #[error("{0}")]
    Settings(String),
}

impl OutboxError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }
}

/// Why events were not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The queue or the disk is full; nothing was written.
    #[error("the outbox is full")]
    Full,
    /// The outbox is closed; nothing was written.
    #[error("the outbox is closed")]
    Closed,
    /// A write or fsync failed. The events may be on disk or not, and this process must end.
    #[error("the outbox has failed")]
    Failed,
}

/// What was found when the outbox was opened.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The new epoch.
    pub outbox: OutboxId,
    /// The last batch of the previous process, if there was one.
    pub last: Option<BatchHead>,
    /// Where and why a torn last group was cut off, if there was one.
    pub cut: Option<eventlog::segments::Cut>,
    /// Batches that are not acknowledged, as far as is known.
    pub unacked: u64,
}

/// How full an outbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Batches that are not acknowledged.
    pub unacked: u64,
    /// Bytes on disk, including acknowledged batches that are not trimmed yet.
    pub disk_bytes: u64,
    /// The sum of the counts that no batch has reported.
    pub tallied: u64,
    /// The watermark of the oldest batch that is on its way to the sink.
    pub oldest: Option<Timestamp>,
    /// Batches that were sealed ahead of the clock and are held back until it gets there.
    pub held: u64,
}

/// The edge's clock, in a wrapper that makes `Debug` derivable.
pub(super) struct EdgeClock(pub(super) Arc<dyn Clock>);

impl std::fmt::Debug for EdgeClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EdgeClock")
    }
}

/// What the writer and the drain share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) dir: PathBuf,
    pub(super) clock: EdgeClock,
    pub(super) view: SegmentsView,
    pub(super) tallies: TallyFile,
    /// The events that this process has written.
    pub(super) repeats: Repeats,
    /// The sequence up to which all records are acknowledged.
    pub(super) acked: AtomicU64,
    /// The last watermark that is durable, in ms.
    pub(super) watermark: AtomicU64,
    /// The watermark, in ms, of the oldest batch that is on its way; 0 when there is none.
    pub(super) oldest: AtomicU64,
    /// Batches in the side log that are not taken yet. The log of the outbox counts them as
    /// acknowledged.
    pub(super) in_side_log: AtomicU64,
    /// Batches that are held back, wherever they lie.
    pub(super) held: AtomicU64,
    /// Where held batches are kept, unless the disk was full.
    pub(super) side_log: SideLog,
    /// Whether the disk refused the last group.
    pub(super) disk_full: AtomicBool,
    pub(super) closed: AtomicBool,
    /// Events are refused when more bytes than this would be on disk.
    pub(super) events_bytes_max: u64,
    pub(super) failed: watch::Sender<Option<String>>,
    pub(super) metrics: Metrics,
}

impl Common {
    /// The sequence of the last durable record.
    pub(super) fn end(&self) -> u64 {
        self.view.end(STREAM).map_or(0, |end| end.sequence)
    }

    /// How many batches no collector has taken yet.
    pub(super) fn unacked(&self) -> u64 {
        let in_side_log = self.in_side_log.load(Ordering::Acquire);
        self.end() - self.acked.load(Ordering::Acquire) + in_side_log
    }

    /// The bytes on disk of all batches.
    pub(super) fn bytes(&self) -> u64 {
        self.view.bytes() + self.side_log.bytes()
    }

    /// Reports that the outbox has failed; the first reason is the one that is kept.
    pub(super) fn fail(&self, why: &dyn std::fmt::Display) {
        tracing::error!(%why, "the outbox has failed; this process must end");
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert_with(|| why.to_string());
            first
        });
    }
}

/// The outbox of one edge process. Dropping it without [`Outbox::close`] is like a crash: the next
/// process closes the epoch.
#[derive(Debug)]
pub struct Outbox {
    commit: Arc<GroupCommit<Item, Result<(), AppendError>>>,
    pub(super) common: Arc<Common>,
}

/// Events on their way to the disk; ready when they are durable or were refused.
#[derive(Debug)]
pub struct Pending(group::Pending<Result<(), AppendError>>);

impl Future for Pending {
    type Output = Result<(), AppendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let done = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(done.unwrap_or(Err(AppendError::Failed)))
    }
}

impl Outbox {
    /// Opens the outbox of a directory, or makes it there; closes the previous epoch if that is
    /// still open, and begins a new one. Blocks while the last segment is checked.
    ///
    /// # Errors
    /// [`OutboxError`]: the directory is in use, damaged or cannot be written, or a setting is out
    /// of range. A full disk is no error when the outbox was begun before: it then opens full.
    pub fn open(
        settings: &OutboxSettings,
        clock: Arc<dyn Clock>,
        random: &mut dyn Random,
        metrics: Metrics,
    ) -> Result<(Self, Opened), OutboxError> {
        if settings.disk_bytes_max < DISK_BYTES_LEAST {
            let least = format!("an outbox needs at least {DISK_BYTES_LEAST} bytes on disk");
            return Err(OutboxError::Settings(least));
        }
        let mut identity = [0; 16];
        random.fill(&mut identity);
        let segment_bytes = (settings.disk_bytes_max / 16).clamp(64 << 10, 64 << 20);
        let config = SegmentsConfig { segment_bytes };
        let (segments, recovered) = Segments::open(&settings.dir, config, identity)?;
        let side_log = SideLog::open(&settings.dir, config, recovered.identity)?;
        let view = segments.view().clone();
        let last = last_batch(&view, &settings.dir)?;
        if last.is_none() && super::acked::is_there(&settings.dir) {
            let what = "batches of this outbox were acknowledged, and no segment is there: bring them \
                        back; or remove this file, if what they held may be lost";
            let (file, what) = (settings.dir.join(super::acked::NAME), what.to_owned());
            return Err(OutboxError::Damaged { file, offset: 0, what });
        }
        let reported = last.map(|last| (last.outbox.epoch, last.number));
        let tallies = TallyFile::open(&settings.dir, reported)?;
        let end = view.end(STREAM).map_or(0, |end| end.sequence);
        let acked = super::acked::read(&settings.dir, &recovered.identity);
        let common = Arc::new(Common {
            dir: settings.dir.clone(),
            clock: EdgeClock(Arc::clone(&clock)),
            tallies,
            repeats: Repeats::default(),
            // A position beyond the end belongs to records that a power failure has undone.
            acked: AtomicU64::new(acked.clamp(view.trimmed(STREAM), end)),
            watermark: AtomicU64::new(0),
            oldest: AtomicU64::new(0),
            in_side_log: AtomicU64::new(0),
            held: AtomicU64::new(0),
            side_log,
            disk_full: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            events_bytes_max: settings.disk_bytes_max - RESERVE_BYTES,
            failed: watch::Sender::new(None),
            metrics,
            view,
        });
        let mut committer =
            Committer::new(segments, Arc::clone(&common), clock, settings, last.as_ref());
        committer.begin()?;
        let opened = Opened {
            outbox: committer.outbox(),
            last,
            cut: recovered.cut,
            unacked: common.end() - common.acked.load(Ordering::Relaxed),
        };
        let commit = start(settings, committer)
            .map_err(|error| OutboxError::io(&settings.dir, "start the writer thread", error))?;
        Ok((Self { commit: Arc::new(commit), common }, opened))
    }

    /// Queues events, all in one batch or in several that become durable together.
    ///
    /// # Errors
    /// [`AppendError::Full`] and [`AppendError::Closed`]: nothing was taken.
    pub fn append(&self, events: Vec<Draft>) -> Result<Pending, AppendError> {
        if self.common.closed.load(Ordering::Acquire) {
            return Err(AppendError::Closed);
        }
        if self.is_full() {
            return Err(AppendError::Full);
        }
        match self.commit.try_send(Item::Events(events)) {
            Ok(pending) => Ok(Pending(pending)),
            Err(SendError::Full(_)) => Err(AppendError::Full),
            Err(SendError::Closed(_)) => Err(AppendError::Closed),
        }
    }

    /// Counts something that is not kept as events. The count survives kill -9 when this returns,
    /// and goes into the next batch. `now` is the time at which the request was received.
    pub fn tally(&self, now: Timestamp, kind: Kind, reason: Reason, count: u32) {
        self.common.metrics.tallied(reason, count);
        if let Err(error) = self.common.tallies.add(now, kind, reason, count) {
            self.common.fail(&error);
        }
    }

    /// Whether an event of the same kind and token is known to be durable.
    #[must_use]
    pub fn has(&self, event: &Draft) -> bool {
        self.common.repeats.has(event)
    }

    /// The time for a request at `now`: at least the outbox's watermark, when the clock has gone
    /// back a little, so that tokens and tallies are never older than the events before them. When
    /// the clock is back by more than clocks may differ, it was set; then this is `now`, and the
    /// next group begins a new epoch.
    #[must_use]
    pub fn time(&self, now: Timestamp) -> Timestamp {
        let watermark = Timestamp(self.common.watermark.load(Ordering::Acquire));
        if watermark > now.plus_ms(CLOCK_AHEAD_MS_MAX) { now } else { now.max(watermark) }
    }

    /// Whether events are refused because the disk, or the outbox's share of it, is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.common.disk_full.load(Ordering::Acquire)
            || self.common.bytes() >= self.common.events_bytes_max
    }

    /// How full it is.
    #[must_use]
    pub fn depth(&self) -> Depth {
        let held = self.common.held.load(Ordering::Acquire);
        Depth {
            unacked: self.common.unacked(),
            disk_bytes: self.common.bytes(),
            tallied: self.common.tallies.total(),
            oldest: Some(Timestamp(self.common.oldest.load(Ordering::Acquire)))
                .filter(|oldest| oldest.0 != 0),
            held,
        }
    }

    /// Becomes `Some(why)` when a write or fsync has failed. The process must then end, for what is
    /// on disk is unknown; the next start finds out.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.common.failed.subscribe()
    }

    /// Takes no more events, makes the waiting ones durable, and closes the epoch with a last
    /// batch, so that the central count no longer waits for this outbox.
    ///
    /// # Errors
    /// [`AppendError`] when the closing batch could not be written; the next start writes it.
    pub async fn close(&self) -> Result<(), AppendError> {
        self.common.closed.store(true, Ordering::Release);
        let closing = match self.commit.send(Item::Close).await {
            Ok(pending) => pending.await.unwrap_or(Err(AppendError::Failed)),
            Err(_) => Err(AppendError::Closed),
        };
        let commit = Arc::clone(&self.commit);
        // Joins the writer thread, so that the directory's lock is free when this returns.
        if tokio::task::spawn_blocking(move || commit.join()).await.is_err() {
            return Err(AppendError::Failed);
        }
        closing
    }
}

fn start(
    settings: &OutboxSettings,
    mut committer: Committer,
) -> io::Result<GroupCommit<Item, Result<(), AppendError>>> {
    let config = GroupConfig {
        name: "outbox".into(),
        queue_items_max: settings.queue_items_max,
        queue_bytes_max: settings.queue_bytes_max,
        group_items_max: 4_096,
        group_bytes_max: 4 << 20,
        linger: settings.linger,
        idle: Some(settings.heartbeat),
    };
    let weigh = |item: &Item| match item {
        Item::Events(events) => events.iter().map(weight).sum(),
        Item::Close => 0,
    };
    GroupCommit::start(config, weigh, move |items| committer.commit(items))
}

fn last_batch(view: &SegmentsView, dir: &Path) -> Result<Option<BatchHead>, OutboxError> {
    let end = view.end(STREAM).map_or(0, |end| end.sequence);
    if end == 0 {
        return Ok(None);
    }
    let damaged = |what: String| OutboxError::Damaged { file: dir.to_owned(), offset: 0, what };
    let record = view.reader(STREAM, end - 1)?.try_next()?;
    let record = record.ok_or_else(|| damaged(format!("record {end} is missing")))?;
    BatchHead::read(&record.payload)
        .map(Some)
        .map_err(|error| damaged(format!("record {end} is no outbox batch: {error}")))
}
