//! The log on a local disk: all partitions in one sequence of segments, and the dead letters in another, so
//! that a letter that waits for an operator keeps no segment with events from being trimmed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::sync::watch;

use crate::group::{GroupCommit, GroupConfig, SendError};
use crate::log::{DEAD, Delivered, Log, LogError, Message, Reader, check_partition};
use crate::position::{Identity, Position};
use crate::segments::{
    GROUP_BYTES_MAX, GROUP_RECORDS_MAX, Record, Recovered, SegmentReader, Segments, SegmentsConfig,
    SegmentsError, SegmentsView,
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
    /// Bytes of appends that may wait for the disk; a further `append` waits
    /// until there is room.
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

/// Most bytes of one append, payloads only. Together with
/// [`APPEND_MESSAGES_MAX`] it keeps a group of several appends below the limits
/// of a group.
pub const APPEND_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most messages of one append.
pub const APPEND_MESSAGES_MAX: usize = 32 * 1024;
/// Beyond this many bytes a group takes no further append.
const SHARED_GROUP_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Appends in one group.
const SHARED_GROUP_ITEMS_MAX: usize = 4096;
/// Bytes that a message costs besides its payload.
const MESSAGE_BYTES: usize = 64;

const _: () = assert!(
    APPEND_BYTES_MAX + SHARED_GROUP_BYTES_MAX + MESSAGE_BYTES < GROUP_BYTES_MAX - (4 << 20)
);
const _: () = assert!(APPEND_MESSAGES_MAX <= GROUP_RECORDS_MAX);
const _: () = assert!(SHARED_GROUP_BYTES_MAX / MESSAGE_BYTES >= GROUP_RECORDS_MAX);

type Committed = Result<Vec<Position>, LogError>;

/// A [`Log`] on [`Segments`]: one sequence of files for all partitions, written
/// by one thread. Appends that wait at the same time share an fsync, and one
/// append is atomic over its partitions. [`DEAD`] has a subdirectory and a
/// thread of its own, so an append to it and to others is not atomic.
///
/// On a full disk an append fails with [`LogError::NoSpace`] and nothing is
/// written; after a failed write or fsync every later append is
/// [`LogError::Fatal`]. When many bytes wait, `append` waits for room. Reads go
/// to the page cache or the disk on the caller's thread. `trim` removes whole
/// segments.
///
/// Dropping it waits until queued appends are written.
#[derive(Debug)]
pub struct LocalLog {
    events: Part,
    letters: Part,
    partitions: u16,
}

/// The directory of the letters, in the log's directory …
const LETTERS: &str = "dead";
/// … and its name while letters of an earlier build are copied into it.
const LETTERS_NEW: &str = "dead-new";
/// Segments of letters are small, for a segment is removed only when all letters in it are resolved.
const LETTERS_SEGMENT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// One sequence of segments, and the thread that writes it.
#[derive(Debug)]
struct Part {
    view: SegmentsView,
    commit: GroupCommit<Vec<Message>, Committed>,
}

impl Part {
    fn start(name: &str, segments: Segments, queue_bytes_max: usize) -> Result<Self, LogError> {
        let view = segments.view().clone();
        let group = GroupConfig {
            name: name.into(),
            queue_items_max: 64 * 1024,
            queue_bytes_max,
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
        .map_err(|error| LogError::Fatal(format!("start the thread {name}: {error}")))?;
        Ok(Self { view, commit })
    }

    async fn append(&self, messages: Vec<Message>) -> Committed {
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
}

impl LocalLog {
    /// Opens or begins the log; `identity_if_new` are 16 random bytes. Blocks
    /// while the last segment is checked. Letters that an earlier build has
    /// written among the events are copied once to the letters' directory.
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
        let letters = open_letters(config, segments.view())?;
        let log = Self {
            events: Part::start("log-writer", segments, config.queue_bytes_max)?,
            letters: Part::start("letters-writer", letters, config.queue_bytes_max)?,
            partitions,
        };
        Ok((log, recovered))
    }

    /// Takes no more appends, and blocks until waiting ones are durable and the
    /// directory is unlocked. Readers can still read what is there.
    pub fn close(&self) {
        self.events.commit.join();
        self.letters.commit.join();
    }

    fn part(&self, partition: u16) -> &Part {
        if partition == DEAD { &self.letters } else { &self.events }
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
        let (identity, view) = (self.identity(), &self.part(partition).view);
        let first = if partition == DEAD { view.trimmed(DEAD) } else { 0 };
        let sequence = after.map_or(first, |after| after.sequence);
        if let Some(after) = after {
            after.check_identity(partition, &identity)?;
        }
        // Subscribed before the first look, so that no append is missed.
        let durable = view.durable();
        let reader = view.reader(partition, sequence)?;
        if let Some(after) = after {
            after.check_digest(partition, &reader.after_digest())?;
        }
        Ok(LocalReader { reader, identity, durable })
    }
}

/// Opens the segments of the letters. When there are none yet, letters that an earlier build has written
/// into `events` are copied first, with the same sequences. They are copied into a directory that gets its
/// name at the end, so a crash leaves all of them there or none.
fn open_letters(config: &LocalLogConfig, events: &SegmentsView) -> Result<Segments, LogError> {
    let segment_bytes = config.segments.segment_bytes.min(LETTERS_SEGMENT_BYTES_MAX);
    let open =
        |dir: &Path| Segments::open(dir, SegmentsConfig { segment_bytes }, events.identity());
    let dir = config.dir.join(LETTERS);
    let are_among_events = events.end(DEAD).is_some() && events.trimmed(DEAD) == 0;
    if are_among_events && !dir.exists() {
        let new = config.dir.join(LETTERS_NEW);
        let failed = |what: &str, error: std::io::Error| {
            LogError::Fatal(format!("{what} {}: {error}", new.display()))
        };
        match fs::remove_dir_all(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("remove", error));
            }
            _ => {}
        }
        let (mut letters, _) = open(&new)?;
        let mut reader = events.reader(DEAD, 0)?;
        // Copies in order from the first letter, so each gets the sequence that it had.
        while let Some(letter) = reader.try_next()? {
            letters.append(&[Record { stream: DEAD, payload: &letter.payload }])?;
        }
        drop(letters);
        fs::rename(&new, &dir).map_err(|error| failed("rename", error))?;
    }
    let (letters, _) = open(&dir)?;
    Ok(letters)
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
        if !messages.iter().any(|message| message.partition == DEAD) {
            return self.events.append(messages).await;
        }
        let is_letter: Vec<_> = messages.iter().map(|m| m.partition == DEAD).collect();
        let (letters, events) = messages.into_iter().partition(|m| m.partition == DEAD);
        let mut letters = self.letters.append(letters).await?.into_iter();
        let mut events = self.events.append(events).await?.into_iter();
        let next = |is_letter| if is_letter { letters.next() } else { events.next() };
        Ok(is_letter.into_iter().filter_map(next).collect())
    }

    async fn end(&self, partition: u16) -> Result<Option<Position>, LogError> {
        self.check_partition(partition)?;
        let end = self.part(partition).view.end(partition);
        Ok(end.map(|end| Position {
            identity: self.identity(),
            sequence: end.sequence,
            digest: end.digest,
        }))
    }

    async fn last(&self, partition: u16) -> Result<Option<Bytes>, LogError> {
        self.check_partition(partition)?;
        let view = self.part(partition).view.clone();
        let Some(end) = view.end(partition) else { return Ok(None) };
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
        let (events, letters) = (self.events.view.clone(), self.letters.view.clone());
        let mut applied = applied.to_vec();
        // Removing a file of this size takes milliseconds.
        let trimmed = tokio::task::spawn_blocking(move || {
            let freed = letters.trim(&applied)?;
            // Letters among the events, written by an earlier build, have been copied and hold no segment.
            applied.retain(|(partition, _)| *partition != DEAD);
            applied.push((DEAD, u64::MAX));
            Ok::<_, SegmentsError>(freed + events.trim(&applied)?)
        });
        let trimmed = trimmed.await;
        match trimmed {
            Ok(freed) => Ok(freed?),
            Err(error) => Err(LogError::Unavailable(format!("trim: {error}"))),
        }
    }

    fn partitions(&self) -> u16 {
        self.partitions
    }

    fn identity(&self) -> Identity {
        self.events.view.identity()
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
            // Marked as seen before the log is looked at, so that an append in between is not missed.
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

#[cfg(test)]
mod tests;
