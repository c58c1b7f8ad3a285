//! One partition's writer. It archives, file by file, from the last message that is archived to the end of
//! the log. The files are its only state, and a crash leaves a whole file or none.

use std::sync::Arc;
use std::time::Duration;

use eventlog::{Delivered, Log, LogError, Position, Reader as _};
use shared::clock::LogClock;
use shared::wire::Logged;

use super::file::{FileInfo, Made, is_later_hour, make};
use super::store::{Archive, ArchiveError};

/// How long the log may take to give a message that it has. After that the turn fails, and the next one
/// opens a new reader.
const NEXT_MAX: Duration = Duration::from_secs(20);
/// Bytes that a declaration counts in a file's size besides its 8 bytes in the log. It becomes a record of
/// its own; with this weight, a file of declarations alone takes no more memory than one of events.
const DECLARED_BYTES: usize = 32;

/// Why a partition is not archived any further.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Halt {
    /// For now; the next turn tries again.
    #[error("{0}")]
    Later(String),
    /// Until an operator has done something about it.
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

/// How far a partition is archived.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Progress {
    /// Position of the last archived message; none before the first.
    last: Option<Position>,
    /// The log's clock after that message.
    clock: LogClock,
}

impl From<FileInfo> for Progress {
    fn from(info: FileInfo) -> Self {
        Self { last: Some(info.last), clock: info.clock }
    }
}

/// What was written in a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Written {
    pub(super) files: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// Messages that are still to be archived.
    pub(super) lag: u64,
}

/// Consecutive messages for one file.
struct Gathered {
    messages: Vec<Delivered>,
    /// No further message belongs into the same file.
    is_whole: bool,
    /// One of the messages has an event, a tally, a chunk or a word, or cannot be read.
    has_content: bool,
}

/// Archives one partition; see the module.
pub(super) struct Writer<L> {
    log: Arc<L>,
    archive: Archive,
    partition: u16,
    file_bytes: usize,
    /// None until the archive was looked into.
    progress: Option<Progress>,
}

impl<L: Log> Writer<L> {
    pub(super) fn new(log: Arc<L>, archive: Archive, partition: u16, file_bytes: usize) -> Self {
        Self { log, archive, partition, file_bytes, progress: None }
    }

    /// The last sequence that is archived; 0 when there is none, or it is not known yet.
    pub(super) fn archived(&self) -> u64 {
        self.progress.and_then(|progress| progress.last).map_or(0, |last| last.sequence)
    }

    /// Looks for the last file, and compares its position with the log. Does nothing when that was done.
    pub(super) async fn open(&mut self) -> Result<(), Halt> {
        if self.progress.is_some() {
            return Ok(());
        }
        let progress = match self.archive.last(self.partition).await? {
            None => Progress::default(),
            Some(entry) => self.archive.info(&entry, self.partition).await?.into(),
        };
        self.log.reader(self.partition, progress.last).await?;
        self.progress = Some(progress);
        Ok(())
    }

    /// Archives the messages that are in the log now. Messages without content at the end of the log, whose
    /// hour has not ended, are left for a later turn, unless `all` is set.
    pub(super) async fn write(&mut self, all: bool) -> Result<Written, Halt> {
        self.open().await?;
        let end = self.log.end(self.partition).await?.map_or(0, |end| end.sequence);
        let mut written = Written::default();
        // Each file moves the last archived sequence on, so this ends: at `end`, or at messages that are left
        // for later.
        while self.archived() < end {
            let Gathered { messages, is_whole, has_content } = self.gather(end).await?;
            if !(is_whole || has_content || all) {
                break;
            }
            self.write_file(messages, &mut written).await?;
        }
        written.lag = end.saturating_sub(self.archived());
        Ok(written)
    }

    /// Reads the messages of the next file, which begins behind what is archived and ends at `end` at the
    /// latest. The caller has made sure that `end` is not reached yet.
    async fn gather(&self, end: u64) -> Result<Gathered, Halt> {
        let Progress { last, mut clock } = self.progress.unwrap_or_default();
        let mut reader = self.log.reader(self.partition, last).await?;
        let mut gathered = Gathered { messages: Vec::new(), is_whole: false, has_content: false };
        let (mut bytes, mut first) = (0, None);
        // Ends with the message before a new hour, or the one that reaches the size or `end`. Where it ends
        // depends on the log and the size alone, except at `end`.
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
                // Bytes that cannot be read are archived as they are.
                Err(_) => (None, true, 0),
            };
            stamp.into_iter().for_each(|stamp| clock.hear(stamp));
            if is_later_hour(*first.get_or_insert(clock.now), clock.now) {
                gathered.is_whole = true;
                return Ok(gathered);
            }
            gathered.has_content |= has_content;
            bytes += next.payload.len() + declared * DECLARED_BYTES;
            let at_end = next.position.sequence >= end;
            gathered.messages.push(next);
            gathered.is_whole = bytes >= self.file_bytes;
            if gathered.is_whole || at_end {
                return Ok(gathered);
            }
        }
    }

    /// Writes one file, or goes on behind the file of the same name that another archiver has written.
    async fn write_file(
        &mut self,
        messages: Vec<Delivered>,
        written: &mut Written,
    ) -> Result<(), Halt> {
        let (partition, clock) = (self.partition, self.progress.unwrap_or_default().clock);
        let made = tokio::task::spawn_blocking(move || make(partition, clock, &messages)).await;
        let made = match made {
            Ok(Ok(Some(made))) => made,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(Halt::ForGood(format!("a file cannot be made: {error}"))),
            Err(error) => return Err(Halt::ForGood(format!("a file cannot be made: {error}"))),
        };
        let Made { path, bytes, info } = made;
        let length = bytes.len() as u64;
        if self.archive.put(&path, bytes).await? {
            self.progress = Some(info.into());
            written.files += 1;
            written.records += info.records;
            written.bytes += length;
            return Ok(());
        }
        let entry = self.archive.find(&path, info.first).await?;
        let theirs = self.archive.info(&entry, partition).await?;
        tracing::info!(partition, file = path, "a file was there already: it is gone on behind it");
        // If that file is of another log, opening the next reader at its position fails.
        self.progress = Some(theirs.into());
        Ok(())
    }
}
