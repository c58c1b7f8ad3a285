//! The log on a local disk: all partitions in one sequence of segments.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::watch;

use crate::group::{GroupCommit, GroupConfig, SendError};
use crate::log::{DEAD, Delivered, Log, LogError, Message, Reader, check_partition};
use crate::position::{Identity, Position};
use crate::segments::{
    GROUP_BYTES_MAX, GROUP_RECORDS_MAX, Record, Recovered, SegmentReader, Segments, SegmentsConfig,
    SegmentsError, SegmentsView, Verified,
};

/// Settings of a [`LocalLog`].
#[derive(Clone, Debug)]
pub struct LocalLogConfig {
    /// Directory of the segments; made when it is missing.
    pub dir: PathBuf,
    /// Number of partitions; fixed for the life of the log, stored by the
    /// deployment.
    pub partitions: u16,
    /// Size of segments.
    pub segments: SegmentsConfig,
    /// Bytes of appends that may wait for the disk; further ones wait for room
    /// outside.
    pub queue_bytes_max: usize,
}

impl LocalLogConfig {
    /// The defaults, for a directory and a number of partitions.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, partitions: u16) -> Self {
        Self {
            dir: dir.into(),
            partitions,
            segments: SegmentsConfig::default(),
            queue_bytes_max: 32 * 1024 * 1024,
        }
    }
}

/// Most bytes of one append, payloads only. With [`APPEND_MESSAGES_MAX`] a
/// group of several appends stays below the limit of a group.
pub const APPEND_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most messages of one append.
pub const APPEND_MESSAGES_MAX: usize = 32 * 1024;
/// Beyond this many bytes a group takes no further append.
const SHARED_GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Appends in one group.
const SHARED_GROUP_ITEMS_MAX: usize = 4096;
/// What a message costs besides its payload.
const MESSAGE_BYTES: usize = 64;

const _: () = assert!(
    APPEND_BYTES_MAX + SHARED_GROUP_BYTES_MAX + MESSAGE_BYTES < GROUP_BYTES_MAX - (4 << 20)
);
const _: () = assert!(APPEND_MESSAGES_MAX <= GROUP_RECORDS_MAX);
const _: () = assert!(SHARED_GROUP_BYTES_MAX / MESSAGE_BYTES >= GROUP_RECORDS_MAX);

type Committed = Result<Vec<Position>, LogError>;

/// A [`Log`] on [`Segments`]: one file sequence for all partitions, one thread
/// that writes, appends that wait at the same time share an fsync, and one
/// append is atomic over its partitions.
///
/// A full disk is [`LogError::NoSpace`], nothing written; a failed write or
/// fsync makes every later append [`LogError::Fatal`]. When many bytes wait,
/// `append` waits for room. Reads go to the page cache or the disk on the
/// caller's thread. `trim` removes whole segments.
///
/// Dropping it waits for what is queued.
#[derive(Debug)]
pub struct LocalLog {
    view: SegmentsView,
    commit: GroupCommit<Vec<Message>, Committed>,
    partitions: u16,
}

impl LocalLog {
    /// Opens or begins the log; `identity_if_new` are 16 random bytes. Blocks
    /// while the last segment is checked.
    ///
    /// # Errors
    /// [`LogError::Damaged`], [`LogError::NoSpace`]; [`LogError::Fatal`] when
    /// another process has the directory, a file operation fails, or it has
    /// partitions beyond the number given.
    pub fn open(
        config: &LocalLogConfig,
        identity_if_new: Identity,
    ) -> Result<(Self, Recovered), LogError> {
        let (segments, recovered) = Segments::open(&config.dir, config.segments, identity_if_new)?;
        let partitions = config.partitions;
        let beyond = |stream: &&u16| **stream >= partitions && **stream != DEAD;
        if let Some(stream) = recovered.ends.keys().find(beyond) {
            return Err(LogError::Fatal(format!(
                "{} has messages of partition {stream}, but is opened with {partitions} partitions",
                config.dir.display()
            )));
        }
        let view = segments.view().clone();
        let group = GroupConfig {
            name: "log-writer".into(),
            queue_items_max: 64 * 1024,
            queue_bytes_max: config.queue_bytes_max,
            group_items_max: SHARED_GROUP_ITEMS_MAX,
            group_bytes_max: SHARED_GROUP_BYTES_MAX,
            ..GroupConfig::default()
        };
        let mut writer = segments;
        let commit = GroupCommit::start(
            group,
            |item: &Vec<Message>| weigh(item),
            move |items| commit(&mut writer, &items),
        )
        .map_err(|error| LogError::Fatal(format!("start the writer thread: {error}")))?;
        let log = Self { view, commit, partitions };
        Ok((log, recovered))
    }

    /// The segments below, for metrics and the command line.
    #[must_use]
    pub fn view(&self) -> &SegmentsView {
        &self.view
    }

    /// As [`Log::trim`], but keeps segments written to at or after a time
    /// (Unix time, milliseconds): the retention. Blocks.
    ///
    /// # Errors
    /// [`LogError::Fatal`] when a file operation fails.
    pub fn trim_unmodified_since(
        &self,
        applied: &[(u16, u64)],
        since_ms: u64,
    ) -> Result<u64, LogError> {
        Ok(self.view.trim(applied, Some(since_ms))?)
    }

    /// Takes no more appends, and blocks until those that wait are durable and
    /// the directory is free. Readers keep what is there.
    pub fn close(&self) {
        self.commit.join();
    }

    /// As [`Segments::verify`].
    ///
    /// # Errors
    /// See there.
    pub fn verify(dir: &Path) -> Result<Verified, LogError> {
        Ok(Segments::verify(dir)?)
    }

    fn check_partition(&self, partition: u16) -> Result<(), LogError> {
        check_partition(partition, self.partitions)
    }

    fn open_reader(
        &self,
        partition: u16,
        after: Option<Position>,
    ) -> Result<LocalReader, LogError> {
        self.check_partition(partition)?;
        let identity = self.view.identity();
        let sequence = after.map_or(0, |after| after.sequence);
        if let Some(after) = after {
            after.check_identity(partition, &identity)?;
        }
        // Subscribed before the first look, so that no append is missed.
        let durable = self.view.durable();
        let reader = self.view.reader(partition, sequence)?;
        if let Some(after) = after {
            after.check_digest(partition, &reader.after_digest())?;
        }
        Ok(LocalReader { reader, identity, durable })
    }
}

fn weigh(messages: &[Message]) -> usize {
    messages.iter().map(|message| message.payload.len() + MESSAGE_BYTES).sum()
}

/// Writes the appends of a group; runs on the writer's thread.
fn commit(segments: &mut Segments, items: &[Vec<Message>]) -> Vec<Committed> {
    let records: Vec<_> = items
        .iter()
        .flatten()
        .map(|message| Record { stream: message.partition, payload: &message.payload })
        .collect();
    let identity = segments.view().identity();
    match segments.append(&records) {
        Ok(appended) => {
            let mut positions = appended.into_iter().map(|appended| Position {
                identity,
                sequence: appended.sequence,
                digest: appended.digest,
            });
            items.iter().map(|item| Ok(positions.by_ref().take(item.len()).collect())).collect()
        }
        Err(error) => {
            let error = LogError::from(error);
            items.iter().map(|_| Err(error.clone())).collect()
        }
    }
}

impl Log for LocalLog {
    type Reader = LocalReader;

    async fn append(&self, messages: Vec<Message>) -> Result<Vec<Position>, LogError> {
        for message in &messages {
            self.check_partition(message.partition)?;
        }
        let bytes: usize = messages.iter().map(|m| m.payload.len()).sum();
        if bytes > APPEND_BYTES_MAX || messages.len() > APPEND_MESSAGES_MAX {
            return Err(LogError::TooLarge { bytes: bytes as u64, records: messages.len() });
        }
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let pending = match self.commit.send(messages).await {
            Ok(pending) => pending,
            Err(SendError::Full(_) | SendError::Closed(_)) => return Err(LogError::Closed),
        };
        let lost = |lost: crate::group::Lost| Err(LogError::Fatal(lost.to_string()));
        pending.await.unwrap_or_else(lost)
    }

    async fn end(&self, partition: u16) -> Result<Option<Position>, LogError> {
        self.check_partition(partition)?;
        let end = self.view.end(partition);
        Ok(end.map(|end| Position {
            identity: self.view.identity(),
            sequence: end.sequence,
            digest: end.digest,
        }))
    }

    async fn last(&self, partition: u16) -> Result<Option<Bytes>, LogError> {
        self.check_partition(partition)?;
        let Some(end) = self.view.end(partition) else { return Ok(None) };
        let view = self.view.clone();
        let read = move || view.reader(partition, end.sequence - 1)?.try_next();
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(stored)) => Ok(stored.map(|stored| stored.payload)),
            Ok(Err(SegmentsError::Trimmed { .. })) => Ok(None),
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(LogError::Unavailable(format!("read: {error}"))),
        }
    }

    async fn reader(
        &self,
        partition: u16,
        after: Option<Position>,
    ) -> Result<Self::Reader, LogError> {
        self.open_reader(partition, after)
    }

    async fn trim(&self, applied: &[(u16, u64)]) -> Result<u64, LogError> {
        let (view, applied) = (self.view.clone(), applied.to_vec());
        // Removing a file of this size takes milliseconds.
        let trimmed = tokio::task::spawn_blocking(move || view.trim(&applied, None)).await;
        match trimmed {
            Ok(freed) => Ok(freed?),
            Err(error) => Err(LogError::Unavailable(format!("trim: {error}"))),
        }
    }

    fn partitions(&self) -> u16 {
        self.partitions
    }

    fn identity(&self) -> Identity {
        self.view.identity()
    }
}

/// Reads one partition of a [`LocalLog`].
#[derive(Debug)]
pub struct LocalReader {
    reader: SegmentReader,
    identity: Identity,
    durable: watch::Receiver<u64>,
}

impl LocalReader {
    fn delivered(&self, sequence: u64, digest: [u8; 16], payload: Bytes) -> Delivered {
        Delivered { position: Position { identity: self.identity, sequence, digest }, payload }
    }
}

impl Reader for LocalReader {
    async fn next(&mut self) -> Result<Delivered, LogError> {
        loop {
            // Seen before looked at: an append in between is not missed.
            self.durable.borrow_and_update();
            if let Some(delivered) = self.try_next()? {
                return Ok(delivered);
            }
            // The sender lives in the reader's view, so this cannot fail.
            let _ = self.durable.changed().await;
        }
    }

    fn try_next(&mut self) -> Result<Option<Delivered>, LogError> {
        let stored = self.reader.try_next()?;
        Ok(stored.map(|s| self.delivered(s.sequence, s.digest, s.payload)))
    }
}
