//! Many batches and chunks become one message per partition. Pure.
//!
//! Every partition's message lists *every* batch and chunk, with what it declared in all: so each
//! partition knows which numbers it has seen and how far the watermarks are, whether or not there
//! was an event for it.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use eventlog::Message;
use shared::wire::message::Entry;
use shared::wire::{Judged, MessageBuilder};
use shared::{BatchDigest, OutboxId, PageSeq, PageView, PartitionMap, Timestamp};

use crate::verify::{JudgedBatch, JudgedChunk, JudgedRow};

/// What has been coalesced goes when all partitions' parts together have this many bytes, however
/// little each has: an append carries at most 32 MiB.
pub const FLUSH_BYTES_ALL: usize = 8 << 20;

/// Gathers until it is due. `A` is what acknowledges a batch or chunk.
#[derive(Debug)]
pub struct Coalescer<A> {
    map: PartitionMap,
    builders: Vec<MessageBuilder>,
    batches: HashSet<(OutboxId, u64, BatchDigest)>,
    acks: Vec<A>,
    due: bool,
}

/// What goes to the log in one append, and who waits for it.
#[derive(Debug)]
pub struct Flush<A> {
    /// One message per partition, in their order.
    pub messages: Vec<Message>,
    /// To be fired when all messages are durable, and not before.
    pub acks: Vec<A>,
}

impl<A> Coalescer<A> {
    /// Empty.
    #[must_use]
    pub fn new(map: PartitionMap) -> Self {
        let mut this = Self {
            map,
            builders: Vec::new(),
            batches: HashSet::new(),
            acks: Vec::new(),
            due: false,
        };
        this.begin();
        this
    }

    /// Adds a batch. One that is here already, by outbox, number and digest, is the same batch sent
    /// again: it is acknowledged with the first. Another content under the same number goes to the
    /// log: the engine tells of it.
    pub fn batch(&mut self, batch: &JudgedBatch, ack: A) {
        self.acks.push(ack);
        let key = (batch.entry.outbox, batch.entry.number, batch.entry.digest);
        if !self.batches.insert(key) {
            return;
        }
        let mut number = Entry::Batch(0);
        for builder in &mut self.builders {
            number = builder.batch(batch.entry.clone());
        }
        self.rows(number, &batch.rows);
        let tallies = self.map.of_tallies(batch.entry.outbox);
        for tally in &batch.tallies {
            self.builders[usize::from(tallies)].tally(number, *tally);
        }
        self.update_due();
    }

    /// Adds a chunk. One that is sent again is listed again: its rows are then duplicates.
    pub fn chunk(&mut self, chunk: &JudgedChunk, ack: A) {
        self.acks.push(ack);
        let mut number = Entry::Chunk(0);
        for builder in &mut self.builders {
            number = builder.chunk(chunk.entry.clone());
        }
        self.rows(number, &chunk.rows);
        self.update_due();
    }

    /// True when nobody waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.acks.is_empty()
    }

    /// True when it should go now, by its size. Whoever gathers on gathers at most one more.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.due
    }

    /// Takes what was gathered, stamped with the collector's time, and begins anew.
    pub fn finish(&mut self, stamp: Timestamp) -> Flush<A> {
        let builders = std::mem::take(&mut self.builders);
        let acks = std::mem::take(&mut self.acks);
        self.begin();
        let message = |(partition, builder): (u16, MessageBuilder)| {
            let payload = Bytes::from(builder.finish(partition, stamp));
            Message { partition, payload }
        };
        let partitions = self.map.partitions().all();
        Flush { messages: partitions.zip(builders).map(message).collect(), acks }
    }

    fn begin(&mut self) {
        self.builders = self.map.partitions().all().map(|_| MessageBuilder::default()).collect();
        self.batches.clear();
        self.due = false;
    }

    fn rows(&mut self, entry: Entry, rows: &[JudgedRow]) {
        for row in rows {
            let judged = Judged { proof: &row.proof, names: &row.names, ..row.judged };
            self.builders[usize::from(row.partition)].event(entry, &judged);
        }
        self.pages(entry, rows);
    }

    /// What page views say that they have told, each to the partition that remembers it: of those of
    /// a batch the largest number, in the minute in which it came. Only what is believed says
    /// anything.
    fn pages(&mut self, entry: Entry, rows: &[JudgedRow]) {
        let mut largest: BTreeMap<PageView, &JudgedRow> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.judged.outcome.is_ok()) {
            let Some(PageSeq { page, seq }) = row.judged.page else { continue };
            let last = largest.entry(page).or_insert(row);
            if last.judged.page.is_none_or(|last| last.seq < seq) {
                *last = row;
            }
        }
        for (page, row) in largest {
            let Some(told) = row.judged.page else { continue };
            let builder = &mut self.builders[usize::from(self.map.of_page_view(page))];
            builder.page_view(entry, &Judged { names: &row.names, ..row.judged }, told);
        }
    }

    fn update_due(&mut self) {
        let bytes: usize = self.builders.iter().map(MessageBuilder::bytes).sum();
        self.due = bytes >= FLUSH_BYTES_ALL || self.builders.iter().any(MessageBuilder::is_due);
    }
}
