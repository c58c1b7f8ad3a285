//! Many batches and chunks become one message per partition. Pure.
//!
//! Every partition's message lists *every* batch and chunk, with how many events it declares in all. So
//! each partition knows which numbers have come and how far the watermarks are, even when a batch has
//! no event for it.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use eventlog::Message;
use shared::wire::message::Entry;
use shared::wire::{Judged, MessageBuilder};
use shared::{BatchDigest, OutboxId, PageSeq, PageView, PartitionMap, Timestamp};

use crate::verify::{JudgedBatch, JudgedChunk, JudgedRow};

/// A flush is due when the messages of all partitions together have this many bytes, however short each
/// is: one append carries at most 32 MiB.
pub const FLUSH_BYTES_ALL: usize = 8 << 20;

/// Gathers batches and chunks until a flush is due. `A` acknowledges one of them.
#[derive(Debug)]
pub struct Coalescer<A> {
    map: PartitionMap,
    builders: Vec<MessageBuilder>,
    batches: HashSet<(OutboxId, u64, BatchDigest)>,
    acks: Vec<A>,
    due: bool,
}

/// What goes to the log in one append, and the acknowledgements that depend on it.
#[derive(Debug)]
pub struct Flush<A> {
    /// One message per partition, in the order of partitions.
    pub messages: Vec<Message>,
    /// To be given when all messages are durable, and not before.
    pub acks: Vec<A>,
}

impl<A> Coalescer<A> {
    /// A coalescer that has gathered nothing.
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

    /// Adds a batch. When one with the same outbox, number and digest was added since the last flush, it
    /// is the same batch sent again: it is not listed twice, and is acknowledged together with the first.
    /// A batch with the same number and other content is added, for the engine reports such a conflict.
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

    /// Adds a chunk. A chunk that is sent again is listed again; the engine counts its rows as duplicates.
    pub fn chunk(&mut self, chunk: &JudgedChunk, ack: A) {
        self.acks.push(ack);
        let mut number = Entry::Chunk(0);
        for builder in &mut self.builders {
            number = builder.chunk(chunk.entry.clone());
        }
        self.rows(number, &chunk.rows);
        self.update_due();
    }

    /// Whether nothing was added since the last flush.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.acks.is_empty()
    }

    /// Whether what was gathered is large enough to be flushed now. It is looked at after each addition,
    /// so it goes over the bound by at most one batch or chunk.
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

    /// A page view numbers the events that it reports. The partition that remembers a page view gets the
    /// largest number of it in this batch or chunk, with the minute of that event. Only accepted events
    /// count: what a rejected one says is not believed.
    fn pages(&mut self, entry: Entry, rows: &[JudgedRow]) {
        let mut largest: BTreeMap<PageView, &JudgedRow> = BTreeMap::new();
        // Of each page view the row with the largest number stays; the first one where numbers are equal.
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
