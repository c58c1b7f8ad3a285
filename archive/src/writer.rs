//! One partition's writer: from the last message that is archived to the end of the log, file by
//! file. The files are its only state: what a crash leaves behind is a file or none.

use std::sync::Arc;
use std::time::Duration;

use eventlog::{Delivered, Log, LogError, Position, Reader as _};
use shared::clock::LogClock;
use shared::wire::Logged;

use super::file::{FileInfo, Made, is_later_hour, make};
use super::store::{Archive, ArchiveError};

/// A message that is in the log comes within this time, or the log is asked anew.
const NEXT_MAX: Duration = Duration::from_secs(20);
/// What is declared of a minute has 8 bytes in the log and makes a record of its own: so many more bytes
/// it weighs, so that a file of nothing else takes no more memory than one of events.
const DECLARED_COSTS: usize = 32;

/// Why a partition is not archived any further.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Halt {
    /// For now: it is tried again.
    #[error("{0}")]
    Later(String),
    /// Until an operator has looked at it.
    #[error("{0}")]
    ForGood(String),
}

impl From<ArchiveError> for Halt {
    fn from(error: ArchiveError) -> Self {
        match error {
            ArchiveError::Unavailable(_) => Self::Later(error.to_string()),
            _ => Self::ForGood(error.to_string()),
        }
    }
}

impl From<LogError> for Halt {
    fn from(error: LogError) -> Self {
        match error {
            error if error.is_retryable() => Self::Later(error.to_string()),
            LogError::Closed => Self::Later(error.to_string()),
            LogError::Mismatch { .. } | LogError::StepBack { .. } => Self::ForGood(format!(
                "the archive has what this log has not: {error}. Either the log has lost its end, or all of \
                 it: bring back a backup of both. Or the archive is another deployment's: name the right one \
                 (archive.url)"
            )),
            LogError::Trimmed { .. } => Self::ForGood(format!(
                "the log no longer has what the archive lacks: {error}; an archive is complete from \
                 the first message on, or it is none: bring back the files that it had, or set \
                 archive.enabled = false"
            )),
            error => Self::ForGood(error.to_string()),
        }
    }
}

/// Up to where a partition is archived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct At {
    /// None before the first message.
    last: Option<Position>,
    /// The log's clock there.
    clock: LogClock,
}

impl From<FileInfo> for At {
    fn from(info: FileInfo) -> Self {
        Self { last: Some(info.last), clock: info.clock }
    }
}

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Wrote {
    pub(super) files: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Messages that are still to be archived.
    pub(super) lag: u64,
}

/// Messages that follow each other.
struct Gathered {
    messages: Vec<Delivered>,
    /// Whether no further message belongs into the same file.
    is_whole: bool,
    has_content: bool,
}

/// See the module.
pub(super) struct Writer<L> {
    log: Arc<L>,
    archive: Archive,
    partition: u16,
    file_bytes: usize,
    /// None until the archive was looked at.
    at: Option<At>,
}

impl<L: Log> Writer<L> {
    pub(super) fn new(log: Arc<L>, archive: Archive, partition: u16, file_bytes: usize) -> Self {
        Self { log, archive, partition, file_bytes, at: None }
    }

    /// The last sequence that is archived; 0 when there is none, or none is known.
    pub(super) fn archived(&self) -> u64 {
        self.at.and_then(|at| at.last).map_or(0, |last| last.sequence)
    }

    /// Looks for the last file, and compares it with the log.
    pub(super) async fn open(&mut self) -> Result<(), Halt> {
        if self.at.is_some() {
            return Ok(());
        }
        let at = match self.archive.last(self.partition).await? {
            None => At::default(),
            Some(entry) => self.archive.info(&entry, self.partition).await?.into(),
        };
        self.log.reader(self.partition, at.last).await?;
        self.at = Some(at);
        Ok(())
    }

    /// Archives what is in the log now. Messages that carry no event and whose hour has not ended
    /// are left for later, unless `all` are wanted.
    pub(super) async fn write(&mut self, all: bool) -> Result<Wrote, Halt> {
        self.open().await?;
        let end = self.log.end(self.partition).await?.map_or(0, |end| end.sequence);
        let mut wrote = Wrote::default();
        while self.archived() < end {
            let Gathered { messages, is_whole, has_content } = self.gather(end).await?;
            if !(is_whole || has_content || all) {
                break;
            }
            self.file(messages, &mut wrote).await?;
        }
        wrote.lag = end.saturating_sub(self.archived());
        Ok(wrote)
    }

    /// The messages of the next file.
    async fn gather(&self, end: u64) -> Result<Gathered, Halt> {
        let At { last, mut clock } = self.at.unwrap_or_default();
        let mut reader = self.log.reader(self.partition, last).await?;
        let mut gathered = Gathered { messages: Vec::new(), is_whole: false, has_content: false };
        let (mut bytes, mut first) = (0, None);
        loop {
            let next = tokio::time::timeout(NEXT_MAX, reader.next()).await;
            let silent = |_| Halt::Later("the log does not give what it has".to_owned());
            let next = next.map_err(silent)??;
            let (stamp, has_content, declared) = match Logged::read(&next.payload) {
                Ok(Logged::Message(view)) => {
                    let is_filled = view.rows().len() > 0
                        || !view.chunks.is_empty()
                        || !view.tallies.is_empty();
                    (Some(view.stamp), is_filled, view.declared())
                }
                Ok(Logged::Control(control)) => (Some(control.stamp), true, 0),
                // What cannot be read is archived as it is.
                Err(_) => (None, true, 0),
            };
            stamp.into_iter().for_each(|stamp| clock.hear(stamp));
            if is_later_hour(*first.get_or_insert(clock.now), clock.now) {
                gathered.is_whole = true;
                return Ok(gathered);
            }
            gathered.has_content |= has_content;
            bytes += next.payload.len() + declared * DECLARED_COSTS;
            let at_end = next.position.sequence >= end;
            gathered.messages.push(next);
            gathered.is_whole = bytes >= self.file_bytes;
            if gathered.is_whole || at_end {
                return Ok(gathered);
            }
        }
    }

    /// Writes one file, or goes on behind the one that somebody else has written in its place.
    async fn file(&mut self, messages: Vec<Delivered>, wrote: &mut Wrote) -> Result<(), Halt> {
        let (partition, clock) = (self.partition, self.at.unwrap_or_default().clock);
        let made = tokio::task::spawn_blocking(move || make(partition, clock, &messages)).await;
        let made = match made {
            Ok(Ok(Some(made))) => made,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(Halt::ForGood(format!("a file cannot be made: {error}"))),
            Err(error) => return Err(Halt::ForGood(format!("a file cannot be made: {error}"))),
        };
        let Made { path, bytes, info, records } = made;
        let length = bytes.len() as u64;
        if self.archive.put(&path, bytes).await? {
            self.at = Some(info.into());
            wrote.files += 1;
            wrote.records += records as u64;
            wrote.bytes += length;
            return Ok(());
        }
        let entry = self.archive.find(&path, info.first).await?;
        let theirs = self.archive.info(&entry, partition).await?;
        tracing::info!(partition, file = path, "a file was there already: it is gone on behind it");
        // It is of this log, or the next reader says that it is not.
        self.at = Some(theirs.into());
        Ok(())
    }
}
