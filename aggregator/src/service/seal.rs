//! Makes segments of facts: of blocks of the store, and of other segments. It works on a thread for
//! long work, one segment at a time in the process, and gives way while a partition catches up.
//!
//! What is made becomes part of the counts in the partition's next checkpoint: the atomic write
//! that names the segment forgets what it was made of. Until then it is nobody's: what a job that
//! failed has written is deleted, and what a process that ended has written is collected at the next
//! start. Nothing here keeps a partition from counting, however slow the object store is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eventlog::Log;
use foldhash::fast::FixedState;
use futures::FutureExt as _;
use hashbrown::HashMap;
use object_store::buffered::BufWriter;
use shared::ambient::{Stopwatch, SystemRandom};
use shared::name::Any;
use shared::{AnyId, Minute, NameBuf, Random as _, Timestamp};
use tokio::io::AsyncWriteExt as _;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::Core;
use super::checkpoint::Kept;
use super::partition::End;
use crate::facts::segment::{self, Made, SegmentError, Tables, Writer};
use crate::facts::{Block, Name};
use crate::store::rows::{self, Job, Level, SegmentRow, Swap};
use crate::store::segments::{Segment, Segments};
use crate::store::{CheckpointStore as _, StoreError, Stores, View};

/// The longest pause after a row group while the partition catches up.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// When a segment could not be made, it is tried again at first after
/// [`super::Settings::retry_after`], then after twice the time, and so on up to this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

/// What a partition's task knows of its segments.
#[derive(Debug, Default)]
pub(super) struct Sealing {
    job: Option<Running>,
    /// What was made, and is to be named in the next checkpoint.
    made: Option<Swap>,
    /// Since when no other job is begun, because one has failed, and how many have in a row.
    failed: Option<(Stopwatch, u32)>,
    has_failed: bool,
    /// The hour of the log's clock up to which hours that are over were looked for.
    hour: Option<u32>,
    /// How many facts no segment had at the last tick, and whether they were as many at the one
    /// before: no facts come just now.
    loose: u64,
    is_quiet: bool,
    /// Segments that no checkpoint names any more, and since when.
    replaced: VecDeque<(Stopwatch, SegmentRow)>,
    /// Segments that are to be deleted: nobody reads them any more, or their job has failed. Those
    /// of failed jobs grow slowly, since jobs that fail are begun ever more seldom.
    unwanted: Vec<SegmentRow>,
    /// Deletes segments, and returns those that it could not delete.
    deleting: Option<JoinHandle<Vec<SegmentRow>>>,
    /// When the partition was opened, as the object store dates objects: what is older and not named
    /// was left by an earlier process. None when it was collected.
    left_before: Option<Timestamp>,
}

/// A job at work. It is told to end when this is dropped.
#[derive(Debug)]
struct Running {
    task: JoinHandle<Result<Option<Swap>, End>>,
    ending: Arc<AtomicBool>,
    what: What,
}

/// What a job does.
#[derive(Clone, Debug)]
enum What {
    /// Deletes what an earlier process left, up to this time.
    Clean(Timestamp),
    /// Makes this segment, whose size is not known yet.
    Make(SegmentRow),
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        self.task.abort();
    }
}

impl Sealing {
    /// `left_before`: when the partition was opened, as the object store dates objects.
    pub(super) fn new(left_before: Timestamp) -> Self {
        Self { left_before: Some(left_before), ..Self::default() }
    }

    /// Begins the next job, unless one is at work. `kept` is what the last checkpoint left, and
    /// `store` has it.
    pub(super) fn next<L: Log, S: Stores>(
        &mut self,
        core: &Arc<Core<L, S>>,
        partition: u16,
        store: &S::Store,
        kept: &mut Kept,
    ) -> Result<(), End> {
        if std::mem::take(&mut self.has_failed) {
            kept.facts.give_up();
        }
        let is_waiting = self.failed.as_ref().is_some_and(|(since, times)| {
            since.elapsed() < pause_after(core.settings.retry_after, *times)
        });
        if self.job.is_some() || self.made.is_some() || is_waiting {
            return Ok(());
        }
        let (core, ending) = (Arc::clone(core), Arc::new(AtomicBool::new(false)));
        if let Some(before) = self.left_before.take() {
            let named = kept.facts.segments().to_vec();
            let task = tokio::spawn(clean(core, partition, named, before));
            self.job = Some(Running { task, ending, what: What::Clean(before) });
            return Ok(());
        }
        // While facts come, hours that are over are looked for once an hour, so that the few facts
        // that come late do not become many small segments.
        let hour = kept.clock.0 / 60;
        let all = self.is_quiet || self.hour != Some(hour);
        let plan = &core.settings.facts;
        let job = kept.facts.next_seal(plan, kept.clock, all);
        let behind = core.metrics.is_behind(partition);
        let merge = || kept.facts.next_merge(plan, kept.clock).filter(|_| !behind);
        let Some(job) = job.or_else(merge) else {
            self.hour = Some(hour);
            return Ok(());
        };
        kept.facts.begin(&job);
        let (view, row) = (store.view()?, row_of(partition, &job));
        let what = What::Make(row.clone());
        let task = tokio::spawn(run(core, row, view, job, Arc::clone(&ending)));
        self.job = Some(Running { task, ending, what });
        Ok(())
    }

    /// Notes how many facts no segment has.
    pub(super) fn tick(&mut self, loose: u64) {
        self.is_quiet = loose == self.loose;
        self.loose = loose;
    }

    /// Waits until a job is done; for ever, if none is at work.
    pub(super) async fn done(&mut self) {
        let Some(job) = &mut self.job else { return std::future::pending().await };
        let done = (&mut job.task).await;
        let what = job.what.clone();
        self.job = None;
        let failed = self.failed.take();
        match done.map_err(End::from).flatten() {
            Ok(made) => self.made = made,
            Err(error) => {
                tracing::warn!(%error, "making segments of facts has failed, it is tried again");
                let times = failed.map_or(0, |(_, times)| times.saturating_add(1));
                (self.has_failed, self.failed) = (true, Some((Stopwatch::start(), times)));
                match what {
                    What::Clean(before) => self.left_before = Some(before),
                    // An error does not mean that nothing was written.
                    What::Make(row) => self.unwanted.push(row),
                }
            }
        }
    }

    /// Whether something was made that is not named yet.
    pub(super) fn is_made(&self) -> bool {
        self.made.is_some()
    }

    /// Hands it out.
    pub(super) fn take(&mut self) -> Option<Swap> {
        self.made.take()
    }

    /// Notes that a checkpoint no longer names these.
    pub(super) fn replaced(&mut self, rows: Vec<SegmentRow>) {
        self.replaced.extend(rows.into_iter().map(|row| (Stopwatch::start(), row)));
    }

    /// Begins to delete what is unwanted, and those of the replaced ones that no question reads any
    /// more, unless that is being done.
    pub(super) fn collect(&mut self, segments: &Arc<Segments>, kept: Duration) {
        if let Some(deleting) = &mut self.deleting {
            // Asked once it has ended, so that it need not be waited for.
            let Some(left) = deleting.now_or_never() else { return };
            self.unwanted.extend(left.unwrap_or_default());
            self.deleting = None;
        }
        while let Some((since, _)) = self.replaced.front()
            && since.elapsed() >= kept
        {
            self.unwanted.extend(self.replaced.pop_front().map(|(_, row)| row));
        }
        if !self.unwanted.is_empty() {
            let rows = std::mem::take(&mut self.unwanted);
            self.deleting = Some(tokio::spawn(delete(Arc::clone(segments), rows)));
        }
    }
}

/// How long after a failed job, which `times` others before it were too, the next one is begun.
fn pause_after(first: Duration, times: u32) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(RETRY_AFTER_MAX)
}

/// Deletes segments, and returns those that are to be tried again.
async fn delete(segments: Arc<Segments>, rows: Vec<SegmentRow>) -> Vec<SegmentRow> {
    let mut left = Vec::new();
    for row in rows {
        if let Err(error) = segments.delete(&row).await {
            tracing::warn!(%error, "a segment was not deleted, it is tried again");
            left.push(row);
        }
    }
    left
}

/// Deletes what an earlier process left.
async fn clean<L: Log, S: Stores>(
    core: Arc<Core<L, S>>,
    partition: u16,
    named: Vec<SegmentRow>,
    before: Timestamp,
) -> Result<Option<Swap>, End> {
    let deleted = core.segments.collect(partition, &named, before).await?;
    if deleted > 0 {
        tracing::info!(partition, deleted, "objects of facts that nothing names were deleted");
    }
    Ok(None)
}

/// The segment that a job makes, before its size is known.
fn row_of(partition: u16, job: &Job) -> SegmentRow {
    let (level, start) = match job {
        Job::Seal { hour, .. } => (Level::Hour, Minute(hour * 60)),
        Job::Merge { level, start, .. } => (*level, *start),
    };
    SegmentRow { partition, level, start, id: new_id(), rows: 0, bytes: 0 }
}

/// Makes a segment. `view`: the rows of a moment at which the job's blocks were there.
async fn run<L: Log, S: Stores, V: View>(
    core: Arc<Core<L, S>>,
    row: SegmentRow,
    view: V,
    job: Job,
    ending: Arc<AtomicBool>,
) -> Result<Option<Swap>, End> {
    // The semaphore is never closed. If it were, several would be made at once, which does no harm.
    let _one = core.sealing.acquire().await;
    let watch = Stopwatch::start();
    let partition = row.partition;
    let inputs = match &job {
        Job::Seal { hour, sequences } => {
            let blocks = rows::blocks(&view, *hour, sequences).await?.into_iter();
            blocks.map(|block| Source::Block(Some(Box::new(block.in_order_of_runs())))).collect()
        }
        Job::Merge { segments, .. } => {
            let mut sources = Vec::with_capacity(segments.len());
            for row in segments {
                sources.push(Source::Segment(core.segments.open(row).await?, 0));
            }
            sources
        }
    };
    let tables = Tables::of(inputs.iter().map(Source::tables));
    let names = rows::names(&view, &tables.digests()).await?.into_iter().collect();
    drop(view);
    let writing = Writing {
        segments: Arc::clone(&core.segments),
        file: core.segments.upload(&row),
        names,
        handle: Handle::current(),
        ending,
        is_behind: {
            let core = Arc::clone(&core);
            Box::new(move || core.metrics.is_behind(partition))
        },
    };
    let made = tokio::task::spawn_blocking(move || writing.write(&tables, inputs)).await??;
    let rows = made.directory.rows() as u64;
    let row = SegmentRow { rows, bytes: made.bytes, ..row };
    core.segments.put_beside(&row, made).await?;
    core.metrics.sealed(rows, &watch);
    tracing::debug!(partition, segment = row.name(), rows, "a segment of facts was made");
    let (blocks, segments) = match job {
        Job::Seal { hour, sequences } => (Some((hour, sequences)), Vec::new()),
        Job::Merge { segments, .. } => (None, segments),
    };
    Ok(Some(Swap { blocks, segments, made: row }))
}

/// An id that no segment ever had: its objects are never written twice.
fn new_id() -> u64 {
    let mut bytes = [0; 8];
    SystemRandom.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// What a segment is made of.
enum Source {
    Block(Option<Box<Block>>),
    /// The number of the next row group.
    Segment(Arc<Segment>, usize),
}

impl Source {
    fn tables(&self) -> (&[AnyId], &[shared::Money]) {
        match self {
            Self::Block(Some(block)) => (block.ids(), block.prices()),
            Self::Block(None) => (&[], &[]),
            Self::Segment(segment, _) => (&segment.directory.ids, &segment.directory.prices),
        }
    }
}

/// What is needed to write a segment on a thread of its own.
struct Writing {
    segments: Arc<Segments>,
    file: BufWriter,
    names: HashMap<AnyId, NameBuf<Any>, FixedState>,
    handle: Handle,
    ending: Arc<AtomicBool>,
    is_behind: Box<dyn Fn() -> bool + Send>,
}

/// Why a segment is not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotMade {
    #[error("{0}")]
    Segment(#[from] SegmentError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the partition ends")]
    Ending,
}

impl From<NotMade> for End {
    fn from(why: NotMade) -> Self {
        match why {
            NotMade::Segment(error) => Self::Store(StoreError::Damaged(error.to_string())),
            NotMade::Store(error) => Self::Store(error),
            NotMade::Ending => Self::Asked,
        }
    }
}

impl Writing {
    fn write(mut self, tables: &Tables, mut sources: Vec<Source>) -> Result<Made, NotMade> {
        let names = std::mem::take(&mut self.names);
        let name = |id: AnyId| names.get(&id).cloned();
        let mut writer = tables.writer(&name)?;
        let inputs = sources.iter().map(Source::tables);
        let inputs = inputs.map(|(ids, prices)| tables.input(ids, prices)).collect();
        let (segments, handle) = (Arc::clone(&self.segments), self.handle.clone());
        let next = |number: usize| match sources.get_mut(number) {
            Some(Source::Block(block)) => Ok(block.take().map(|block| *block)),
            Some(Source::Segment(segment, group)) if *group < segment.directory.groups() => {
                *group += 1;
                let block = handle.block_on(segments.block(segment, *group - 1, Name::all()))?;
                Ok(Some(block))
            }
            Some(Source::Segment(..)) | None => Ok::<_, NotMade>(None),
        };
        let mut watch = Stopwatch::start();
        let result = segment::merge(inputs, &mut writer, next, |writer| {
            self.put(writer)?;
            if (self.is_behind)() {
                std::thread::sleep(watch.elapsed().min(PAUSE_MAX));
            }
            watch = Stopwatch::start();
            if self.ending.load(Ordering::Relaxed) { Err(NotMade::Ending) } else { Ok(()) }
        });
        let finished = result.and_then(|()| Ok(writer.finish()?));
        let (last, made) = match finished {
            Ok(finished) => finished,
            Err(why) => {
                // What was written of it goes; if that fails, it is collected later.
                drop(self.handle.block_on(self.file.abort()));
                return Err(why);
            }
        };
        let whole = async {
            self.file.put(last.into()).await.map_err(|error| away(&error))?;
            self.file.shutdown().await.map_err(|error| away(&error))
        };
        self.handle.block_on(whole)?;
        Ok(made)
    }

    /// Uploads what was written.
    fn put(&mut self, writer: &mut Writer<'_>) -> Result<(), NotMade> {
        let bytes = writer.take();
        Ok(self.handle.block_on(self.file.put(bytes.into())).map_err(|error| away(&error))?)
    }
}

fn away(error: &dyn std::error::Error) -> StoreError {
    StoreError::Unavailable(format!("a segment cannot be written: {error}"))
}
