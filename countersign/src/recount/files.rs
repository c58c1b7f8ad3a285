//! Finds out which files of a partition must be read, and checks that each message is in exactly
//! one.

use std::ops::Range;
use std::time::Duration;

use archive::{Archive, ArchiveError, Entry, FileInfo};
use futures::{StreamExt as _, TryStreamExt as _};
use shared::ambient::Stopwatch;
use shared::limits::{BLOCK_LIFE_MS, CLOCK_AHEAD_MS_MAX, HORIZON_MS, OUTBOX_DELAY_MS_MAX};
use shared::text::hex;
use shared::{Minute, Timestamp};

use super::engine::Counted;
use super::{Asked, archive_failure};
use crate::failure::Failure;

/// How long to wait before an archive that is behind is looked at again.
const AGAIN_EVERY: Duration = Duration::from_millis(500);
/// How many footers are read at a time.
const FOOTERS_AT_ONCE: usize = 32;
/// How much earlier than a minute the copy of one of its events may have been stamped: dedup goes
/// back to the horizon, and a block was opened at most a block's life before.
const LOOK_BACK_MS: u64 = HORIZON_MS + BLOCK_LIFE_MS;

/// The files of a partition that are read.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    pub(super) files: Vec<(Entry, FileInfo)>,
}

impl Scope {
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|(entry, _)| entry.bytes).sum()
    }

    /// How many events are in the files.
    pub(super) fn events(&self) -> u64 {
        self.files.iter().map(|(_, info)| info.events).sum()
    }

    /// How many records of all kinds.
    pub(super) fn records(&self) -> u64 {
        self.files.iter().map(|(_, info)| info.records).sum()
    }
}

/// Waits until the archive has what the engine has counted, for as long as `patience` lasts;
/// returns the files that must be read.
///
/// # Errors
/// When it is not there in time, is of another log, damaged, has a gap or a message twice.
pub(super) async fn scope(
    archive: &Archive,
    asked: &Asked<'_>,
    counted: &Counted,
    range: &Range<Minute>,
    patience: Duration,
) -> Result<Scope, Failure> {
    if counted.sequence == 0 {
        return Ok(Scope::default());
    }
    let watch = Stopwatch::start();
    let mut is_told = false;
    // Ends when the archive has the last counted message, or with the patience. The archive is
    // asked once to write what it lacks, and then only looked at.
    let entries = loop {
        let entries = archive.list(counted.partition).await.map_err(|e| archive_failure(&e))?;
        let mut has = 0;
        if let Some(last) = entries.last() {
            let info = info(archive, last, counted.partition).await?;
            check_same_log(archive, counted, last, &info)
                .map_err(|error| archive_failure(&error))?;
            has = info.last.sequence;
        }
        if has >= counted.sequence {
            break entries;
        }
        if !is_told {
            asked.archive(counted.partition).await?;
            is_told = true;
            continue;
        }
        if watch.elapsed() >= patience {
            return Err(Failure::server(format!(
                "{}: partition {} is archived up to message {has}, and the engine has counted {}: \
                 see that something archives (archive.enabled), or wait longer with --patience",
                archive.place(),
                counted.partition,
                counted.sequence
            )));
        }
        tokio::time::sleep(AGAIN_EVERY).await;
    };
    let wanted = entries.into_iter().filter(|entry| entry.first <= counted.sequence);
    let footers = wanted.map(|entry| async {
        let info = info(archive, &entry, counted.partition).await?;
        Ok::<_, Failure>((entry, info))
    });
    let files: Vec<_> =
        futures::stream::iter(footers).buffered(FOOTERS_AT_ONCE).try_collect().await?;
    check(archive, counted, &files, range.start).map_err(|error| archive_failure(&error))?;
    Ok(Scope { files: needed(files, range) })
}

async fn info(archive: &Archive, entry: &Entry, partition: u16) -> Result<FileInfo, Failure> {
    archive.info(entry, partition).await.map_err(|error| archive_failure(&error))
}

/// Checks that the archive's file is of the log that the engine counts.
fn check_same_log(
    archive: &Archive,
    counted: &Counted,
    entry: &Entry,
    info: &FileInfo,
) -> Result<(), ArchiveError> {
    let of_another = |what: &str| ArchiveError::Damaged {
        file: archive.name(&entry.path),
        what: format!("it is of another log than the one that the engine counts ({what})"),
    };
    if hex(&info.last.identity) != counted.log {
        return Err(of_another("identity"));
    }
    if info.last.sequence == counted.sequence && hex(&info.last.digest) != counted.digest {
        return Err(of_another("digest of its last message"));
    }
    Ok(())
}

/// Checks that every message is in one file, and that all files are of the engine's log.
fn check(
    archive: &Archive,
    counted: &Counted,
    files: &[(Entry, FileInfo)],
    from: Minute,
) -> Result<(), ArchiveError> {
    let partition = counted.partition;
    let mut before: Option<&(Entry, FileInfo)> = None;
    for file in files {
        let (entry, info) = file;
        check_same_log(archive, counted, entry, info)?;
        let next = before.map_or(1, |(_, info)| info.last.sequence + 1);
        let behind = before.map_or_else(String::new, |(entry, _)| format!(" after {}", entry.path));
        // Files may be missing at the beginning, if they are older than anything that matters here.
        let beginning = before.is_none() && info.stamps.0.0 < from.start().minus_ms(LOOK_BACK_MS).0;
        if info.first > next && !beginning {
            return Err(ArchiveError::Broken(format!(
                "{}: partition {partition}: messages {next} to {} are in no file{behind}",
                archive.place(),
                info.first - 1
            )));
        }
        if info.first < next {
            return Err(ArchiveError::Broken(format!(
                "{}: partition {partition}: messages {} to {} are in two files: {}{behind}",
                archive.place(),
                info.first,
                info.last.sequence.min(next - 1),
                entry.path
            )));
        }
        before = Some(file);
    }
    Ok(())
}

/// The files with events of these minutes; those before the last of them in which an earlier copy
/// can be; and all before it that tell how far logs were imported.
pub(super) fn needed(
    files: Vec<(Entry, FileInfo)>,
    range: &Range<Minute>,
) -> Vec<(Entry, FileInfo)> {
    // An event too far behind or ahead of its stamp is counted in another minute than its own, so
    // its file may matter whatever minutes it names.
    let moved = |info: &FileInfo, low: Minute, high: Minute| {
        low.start() < info.stamps.0.minus_ms(OUTBOX_DELAY_MS_MAX)
            || high.start() > info.stamps.1.plus_ms(CLOCK_AHEAD_MS_MAX)
    };
    let touches = |info: &FileInfo| {
        info.minutes.is_some_and(|(low, high)| {
            (low < range.end && high >= range.start) || moved(info, low, high)
        })
    };
    let Some(last) = files.iter().rposition(|(_, info)| touches(info)) else { return Vec::new() };
    let since: Timestamp = range.start.start().minus_ms(LOOK_BACK_MS);
    let mut files = files;
    files.truncate(last + 1);
    files.retain(|(_, info)| touches(info) || info.stamps.1 >= since || info.chunks > 0);
    files
}
