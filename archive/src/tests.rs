#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use arrow_array::cast::AsArray;
use arrow_array::types::{UInt32Type, UInt64Type};
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use eventlog::fake::MemLog;
use eventlog::{Log, Message, Reader};
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use shared::event::{Country, Device, Fingerprint, Flags, Network, RuleSet};
use shared::random::{Seeded, below};
use shared::wire::{BatchEntry, ChunkEntry, Control, Judged, Logged, MessageBuilder, Tally, Word};
use shared::{
    BatchDigest, BlockId, Codes, Currency, Id, ImpressionId, Kind, Minute, Money, OutboxId, Reason,
    Region, Timestamp, import,
};

use super::*;

mod content;
mod faults;

/// 2026-01-31T12:50:00Z.
const START: Timestamp = Timestamp(1_769_863_800_000);
const HOUR_MS: u64 = 3_600_000;

/// Makes the messages of one partition: batches, chunks, tallies, heartbeats, and bytes that are no message.
struct History {
    random: Seeded,
    now: Timestamp,
    number: u64,
    row: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        Self { random: Seeded::new(seed), now: START, number: 0, row: 0 }
    }

    fn below(&mut self, bound: u64) -> u64 {
        below(&mut self.random, bound)
    }

    fn event(&mut self) -> Judged<'static> {
        let seq = u16::try_from(self.below(65_536)).unwrap();
        Judged {
            issuer: Id::literal("house"),
            id: ImpressionId { block: BlockId([0x30, 1, 2, 3, 4, 5, 6, 7, 8, 9]), seq },
            kind: Kind::ALL[usize::try_from(self.below(4)).unwrap()],
            outcome: [Ok(None), Ok(Some(Reason::Prefetch)), Err(Reason::Expired)]
                [usize::try_from(self.below(3)).unwrap()],
            at: self.now.minus_ms(self.below(300_000)),
            ad: Id::literal(&format!("ad-{}", self.below(9))),
            campaign: Id::literal("campaign"),
            advertiser: Id::literal("advertiser"),
            publisher: Id::literal("pub-1"),
            placement: Id::literal("top"),
            names: &[],
            issued: None,
            codes: Codes::new(Country::from_bytes(*b"DE").unwrap(), Device::Phone),
            region: Region::UNKNOWN,
            network: Network([4, 203, 0, 113, 0, 0, 0]),
            visitor: Fingerprint(7),
            flags: Flags(1),
            rules: RuleSet(0x1a2b_3c4d),
            page: None,
            price: Money { micros: 1_250, currency: Currency::from_bytes(*b"EUR").unwrap() },
            proof: b"body and signature",
        }
    }

    /// The next message.
    fn message(&mut self, partition: u16) -> Bytes {
        let pause = if self.below(20) == 0 { HOUR_MS / 3 } else { self.below(60_000) };
        self.now = self.now.plus_ms(pause);
        if self.below(15) == 0 {
            return self.word(partition).to_bytes().into();
        }
        if self.below(15) == 0 {
            return Bytes::from_static(b"no message of ours");
        }
        let events = if self.below(3) == 0 { 0 } else { self.below(40) };
        self.filled(partition, events)
    }

    fn word(&mut self, partition: u16) -> Control {
        let edge = Id::literal("edge-0");
        let outbox = OutboxId { edge, epoch: 7 };
        let word = match self.below(2) {
            0 => Word::Retire { edge },
            _ => Word::Resolve { outbox, number: self.below(9) },
        };
        Control { partition, stamp: self.now, word }
    }

    /// The next batch of an edge.
    fn batch(&mut self, declared: Vec<(Minute, u32)>) -> BatchEntry {
        let outbox = OutboxId { edge: Id::literal("edge-1"), epoch: 1 };
        let (number, watermark, digest) = (self.number, self.now, BatchDigest::UNKNOWN);
        self.number += 1;
        BatchEntry { outbox, number, watermark, digest, declared }
    }

    fn filled(&mut self, partition: u16, events: u64) -> Bytes {
        let mut builder = MessageBuilder::default();
        let minute = self.now.minute();
        let entry = builder.batch(self.batch(vec![(minute, u32::try_from(events).unwrap())]));
        for _ in 0..events {
            let event = self.event();
            builder.event(entry, &event);
        }
        if events > 30 {
            let tally = Tally { minute, kind: Kind::Click, reason: Reason::OutboxFull, count: 5 };
            builder.tally(entry, tally);
        } else if events > 20 {
            let source = import::named_source("log.csv");
            let (first_row, end_row) = (self.row, self.row + 3);
            self.row = end_row;
            let declared = vec![(minute, 3)];
            let digest = [5; 32];
            let chunk = builder.chunk(ChunkEntry { source, first_row, end_row, digest, declared });
            for row in first_row..end_row {
                let id = import::impression(source, row);
                let event = Judged { issuer: import::ISSUER, id, ..self.event() };
                builder.event(chunk, &event);
            }
        }
        builder.finish(partition, self.now).into()
    }
}

async fn append<L: Log>(log: &L, history: &mut History, messages: usize) {
    for _ in 0..messages {
        let messages = (0..log.partitions())
            .map(|partition| Message { partition, payload: history.message(partition) });
        log.append(messages.collect()).await.unwrap();
    }
}

fn in_memory() -> Archive {
    Archive::new(Arc::new(InMemory::new()), "memory".to_owned())
}

/// What tells one record of a partition from every other: sequence, kind of record, row.
type Keys = BTreeSet<(u64, String, u32)>;

async fn batches(archive: &Archive, entry: &Entry) -> Vec<RecordBatch> {
    let bytes = archive.read(entry).await.unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

fn column<'b>(batch: &'b RecordBatch, name: &str) -> &'b dyn Array {
    batch.column_by_name(name).unwrap()
}

/// All records of a partition's files. Checks that no file overlaps another or leaves a gap, that each holds
/// what its footer says, and that no record is there twice.
async fn archived(archive: &Archive, partition: u16) -> Keys {
    let mut keys = Keys::new();
    let mut next = 1;
    for entry in archive.list(partition).await.unwrap() {
        let info = archive.info(&entry, partition).await.unwrap();
        assert_eq!(info.first, next, "{}", entry.path);
        next = info.last.sequence + 1;
        let mut events = 0;
        for batch in batches(archive, &entry).await {
            let sequences = column(&batch, "sequence").as_primitive::<UInt64Type>().clone();
            let rows = column(&batch, "row").as_primitive::<UInt32Type>().clone();
            let records = column(&batch, "record").as_string::<i32>().clone();
            for at in 0..batch.num_rows() {
                let sequence = sequences.value(at);
                assert!((info.first..next).contains(&sequence), "{}", entry.path);
                let record = records.value(at).to_owned();
                events += u64::from(record == "event");
                let key = (sequence, record, rows.value(at));
                assert!(keys.insert(key), "{} has a record twice", entry.path);
            }
        }
        assert_eq!(events, info.events);
    }
    keys
}

/// The same from the log.
async fn logged<L: Log>(log: &L, partition: u16) -> Keys {
    let mut keys = Keys::new();
    let mut reader = log.reader(partition, None).await.unwrap();
    while let Some(next) = reader.try_next().unwrap() {
        let sequence = next.position.sequence;
        let mut add = |record: &str, count: usize| {
            let rows = (0_u32..).zip(0..count);
            keys.extend(rows.map(|(row, _)| (sequence, record.to_owned(), row)));
        };
        match Logged::read(&next.payload) {
            Ok(Logged::Control(Control { word: Word::Retire { .. }, .. })) => add("retired", 1),
            Ok(Logged::Control(Control { word: Word::Resolve { .. }, .. })) => add("resolved", 1),
            Ok(Logged::Message(view)) => {
                let batches = view.batches.iter().map(|batch| batch.declared.len());
                let chunks = view.chunks.iter().map(|chunk| chunk.declared.len());
                add("declared", batches.chain(chunks).sum());
                add("batch", view.batches.len());
                add("chunk", view.chunks.len());
                add("event", view.rows().len());
                add("tally", view.tallies.len());
            }
            Err(_) => add("unreadable", 1),
        }
    }
    keys
}

async fn holds_the_log<L: Log>(archive: &Archive, log: &L) {
    for partition in 0..log.partitions() {
        let (archived, logged) = (archived(archive, partition).await, logged(log, partition).await);
        assert!(!logged.is_empty());
        let missing = logged.difference(&archived).next();
        let beyond = archived.difference(&logged).next();
        assert_eq!((missing, beyond), (None, None), "partition {partition}");
    }
}

fn start_writer<L: Log>(log: &Arc<L>, archive: &Archive, file_bytes: usize) -> Writer<L> {
    Writer::new(Arc::clone(log), archive.clone(), 0, file_bytes)
}

async fn start<L: Log>(log: &Arc<L>, archive: &Archive, file_bytes: usize) -> Archiver<L> {
    let settings = Settings { every: Duration::from_millis(2), file_bytes };
    let registry = &mut Registry::default();
    let parts = Parts { log: Arc::clone(log), archive: archive.clone(), settings, registry };
    Archiver::start(parts).await.unwrap()
}

async fn flush_all<L: Log>(archiver: &Archiver<L>, partitions: u16) {
    for partition in 0..partitions {
        archiver.flusher().flush(partition).await.unwrap().unwrap();
    }
}
