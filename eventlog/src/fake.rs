//! An in-memory log with fault switches, for deterministic simulations.
//!
//! No threads and no timers: every future but [`MemReader::next`] at the end
//! of the log is ready at its first poll.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::log::{DEAD, Delivered, Log, LogError, Message, Reader, check_partition};
use crate::position::{Identity, Position, digest};

/// Faults of the next appends: each field is the number of appends that have
/// the fault, and counts down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Appends that fail before anything is written.
    pub fail_before_write: u32,
    /// Appends that are written but answered with an error.
    pub lose_ack: u32,
    /// Appends of which only the first half of the messages, rounded down, is
    /// written, and that then fail.
    pub write_half: u32,
    /// Appends that find the disk full.
    pub no_space: u32,
}

#[derive(Debug, Default)]
struct Partition {
    /// Messages up to and including this sequence are trimmed.
    trimmed: u64,
    /// Digest of the message at `trimmed`.
    trimmed_digest: [u8; 16],
    messages: Vec<Bytes>,
}

impl Partition {
    fn end(&self) -> u64 {
        self.trimmed + self.messages.len() as u64
    }

    /// Digest at a sequence in `trimmed ..= end`.
    fn digest_at(&self, sequence: u64) -> [u8; 16] {
        match sequence.checked_sub(self.trimmed + 1) {
            Some(index) => digest(&self.messages[index as usize]),
            None => self.trimmed_digest,
        }
    }
}

#[derive(Debug)]
struct State {
    identity: Identity,
    partitions: BTreeMap<u16, Partition>,
    faults: Faults,
    /// The most bytes of a message.
    message_bytes_max: usize,
    /// Grows with each crash and each new log; readers of an older generation
    /// are cut off.
    generation: u64,
}

/// The fake. Clones share one log.
#[derive(Clone, Debug)]
pub struct MemLog {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    partitions: u16,
}

impl MemLog {
    /// An empty log.
    #[must_use]
    pub fn new(partitions: u16, identity: Identity) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                identity,
                partitions: BTreeMap::new(),
                faults: Faults::default(),
                message_bytes_max: usize::MAX,
                generation: 0,
            })),
            changed: watch::Sender::new(0),
            partitions,
        }
    }

    /// Sets the faults of the next appends.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// From now on an append with a larger message fails, as with the `max_payload` of a NATS server.
    pub fn set_message_bytes_max(&self, most: usize) {
        self.state.lock().message_bytes_max = most;
    }

    /// The faults that are still to come.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.state.lock().faults
    }

    /// The log's process dies and comes back. Readers that were open fail with
    /// [`LogError::Unavailable`] for ever, faults to come are forgotten, and
    /// nothing durable is lost.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.faults = Faults::default();
        drop(state);
        self.wake();
    }

    /// Breaks the log's promise: durable messages vanish, the partition ends at
    /// `end` again, and the sequences after it will be used anew. A position
    /// beyond `end` must then be answered with an error.
    pub fn vanish(&self, partition: u16, end: u64) {
        let mut state = self.state.lock();
        if let Some(partition) = state.partitions.get_mut(&partition) {
            let keep = end.saturating_sub(partition.trimmed) as usize;
            partition.messages.truncate(keep);
        }
    }

    /// Breaks the log's promise: puts another payload at a sequence. A position
    /// there must then no longer match. Does nothing when the sequence does not
    /// exist or is trimmed.
    pub fn replace(&self, partition: u16, sequence: u64, payload: Bytes) {
        let mut state = self.state.lock();
        if let Some(partition) = state.partitions.get_mut(&partition)
            && let Some(index) = sequence.checked_sub(partition.trimmed + 1)
            && let Some(slot) = partition.messages.get_mut(index as usize)
        {
            *slot = payload;
        }
    }

    /// The log is created anew under another identity, and is empty.
    pub fn recreate(&self, identity: Identity) {
        let mut state = self.state.lock();
        state.identity = identity;
        state.partitions.clear();
        state.generation += 1;
        drop(state);
        self.wake();
    }

    /// All messages of a partition that are not trimmed, oldest first.
    #[must_use]
    pub fn messages(&self, partition: u16) -> Vec<Bytes> {
        let state = self.state.lock();
        state.partitions.get(&partition).map_or_else(Vec::new, |p| p.messages.clone())
    }

    fn wake(&self) {
        self.changed.send_modify(|version| *version += 1);
    }

    fn check_partition(&self, partition: u16) -> Result<(), LogError> {
        check_partition(partition, self.partitions)
    }

    fn append_now(&self, messages: Vec<Message>) -> Result<Vec<Position>, LogError> {
        for message in &messages {
            self.check_partition(message.partition)?;
        }
        if messages.is_empty() {
            return Ok(Vec::new());
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let sizes = messages.iter().map(|message| message.payload.len());
        if sizes.clone().any(|bytes| bytes > state.message_bytes_max) {
            let bytes = sizes.sum::<usize>() as u64;
            return Err(LogError::TooLarge { bytes, records: messages.len() });
        }
        if fires(&mut state.faults.fail_before_write) {
            return Err(LogError::Unavailable("fake: failed before write".into()));
        }
        if fires(&mut state.faults.no_space) {
            return Err(LogError::NoSpace);
        }
        let half = fires(&mut state.faults.write_half);
        let lost = fires(&mut state.faults.lose_ack);
        let count = if half { messages.len() / 2 } else { messages.len() };
        let mut positions = Vec::with_capacity(count);
        for message in messages.into_iter().take(count) {
            let partition = state.partitions.entry(message.partition).or_default();
            let digest = digest(&message.payload);
            partition.messages.push(message.payload);
            positions.push(Position {
                identity: state.identity,
                sequence: partition.end(),
                digest,
            });
        }
        drop(guard);
        self.wake();
        if half || lost {
            return Err(LogError::Unavailable("fake: acknowledgement lost".into()));
        }
        Ok(positions)
    }

    fn reader_now(&self, partition: u16, after: Option<Position>) -> Result<MemReader, LogError> {
        self.check_partition(partition)?;
        let mut state = self.state.lock();
        let identity = state.identity;
        let generation = state.generation;
        let stored = state.partitions.entry(partition).or_default();
        let mut sequence = if partition == DEAD { stored.trimmed } else { 0 };
        if let Some(after) = after {
            sequence = after.sequence;
            after.check_identity(partition, &identity)?;
            check_range(partition, stored, sequence)?;
            after.check_digest(partition, &stored.digest_at(sequence))?;
        }
        check_range(partition, stored, sequence)?;
        Ok(MemReader {
            log: self.clone(),
            changed: self.changed.subscribe(),
            partition,
            sequence,
            generation,
        })
    }
}

/// Whether a fault is due for this append; counts it down.
fn fires(counter: &mut u32) -> bool {
    let armed = *counter > 0;
    *counter = counter.saturating_sub(1);
    armed
}

/// Checks that what follows `sequence` can be read.
fn check_range(number: u16, partition: &Partition, sequence: u64) -> Result<(), LogError> {
    if sequence > partition.end() {
        return Err(LogError::StepBack { partition: number, sequence, end: partition.end() });
    }
    if sequence < partition.trimmed {
        return Err(LogError::Trimmed {
            partition: number,
            sequence: sequence + 1,
            first: partition.trimmed + 1,
        });
    }
    Ok(())
}

impl Log for MemLog {
    type Reader = MemReader;

    async fn append(&self, messages: Vec<Message>) -> Result<Vec<Position>, LogError> {
        self.append_now(messages)
    }

    async fn end(&self, partition: u16) -> Result<Option<Position>, LogError> {
        self.check_partition(partition)?;
        let state = self.state.lock();
        let Some(stored) = state.partitions.get(&partition) else {
            return Ok(None);
        };
        let sequence = stored.end();
        Ok((sequence > 0).then(|| Position {
            identity: state.identity,
            sequence,
            digest: stored.digest_at(sequence),
        }))
    }

    async fn last(&self, partition: u16) -> Result<Option<Bytes>, LogError> {
        self.check_partition(partition)?;
        let state = self.state.lock();
        let stored = state.partitions.get(&partition);
        Ok(stored.and_then(|stored| stored.messages.last().cloned()))
    }

    async fn reader(
        &self,
        partition: u16,
        after: Option<Position>,
    ) -> Result<Self::Reader, LogError> {
        self.reader_now(partition, after)
    }

    async fn trim(&self, applied: &[(u16, u64)]) -> Result<u64, LogError> {
        let mut state = self.state.lock();
        let mut freed = 0;
        for (number, applied) in applied {
            let Some(partition) = state.partitions.get_mut(number) else {
                continue;
            };
            let upto = (*applied).min(partition.end());
            if upto <= partition.trimmed {
                continue;
            }
            partition.trimmed_digest = partition.digest_at(upto);
            let gone = (upto - partition.trimmed) as usize;
            freed += partition.messages.drain(..gone).map(|m| m.len() as u64).sum::<u64>();
            partition.trimmed = upto;
        }
        Ok(freed)
    }

    fn partitions(&self) -> u16 {
        self.partitions
    }

    fn identity(&self) -> Identity {
        self.state.lock().identity
    }
}

/// Reads one partition of a [`MemLog`].
#[derive(Debug)]
pub struct MemReader {
    log: MemLog,
    changed: watch::Receiver<u64>,
    partition: u16,
    sequence: u64,
    generation: u64,
}

impl Reader for MemReader {
    async fn next(&mut self) -> Result<Delivered, LogError> {
        loop {
            // The version is marked as seen before the log is looked at, so an append in between is not
            // missed.
            self.changed.borrow_and_update();
            if let Some(delivered) = self.try_next()? {
                return Ok(delivered);
            }
            // The sender lives in `self.log`, so this cannot fail.
            let _ = self.changed.changed().await;
        }
    }

    fn try_next(&mut self) -> Result<Option<Delivered>, LogError> {
        let state = self.log.state.lock();
        if state.generation != self.generation {
            return Err(LogError::Unavailable("fake: reader cut off".into()));
        }
        let empty = Partition::default();
        let stored = state.partitions.get(&self.partition).unwrap_or(&empty);
        check_range(self.partition, stored, self.sequence)?;
        let index = (self.sequence - stored.trimmed) as usize;
        let Some(payload) = stored.messages.get(index).cloned() else {
            return Ok(None);
        };
        self.sequence += 1;
        Ok(Some(Delivered {
            position: Position {
                identity: state.identity,
                sequence: self.sequence,
                digest: digest(&payload),
            },
            payload,
        }))
    }
}
