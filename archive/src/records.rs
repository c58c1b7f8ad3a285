//! Makes records of messages, in the order that they have in a file. Pure.

use std::ops::Range;

use eventlog::Delivered;
use shared::clock::LogClock;
use shared::wire::{
    BatchEntry, ChunkEntry, Cold, Control, Logged, MessageView, Row, WireError, Word,
};
use shared::{AnyId, Id, Minute, Money, Network, Region, RuleSet, Timestamp, import};

use super::columns::{Record, RecordKind};

/// What one message of the log holds: batches and chunks, an operator's word, or bytes that are neither.
pub(super) struct Source<'a> {
    sequence: u64,
    partition: u16,
    /// The log's clock after the message.
    clock: LogClock,
    stamp: Timestamp,
    content: Content<'a>,
}

enum Content<'a> {
    Message(Box<Message<'a>>),
    Word(Word),
    Unreadable(&'a [u8]),
}

struct Message<'a> {
    view: MessageView<'a>,
    hot: Vec<Row>,
    cold: Vec<Cold<'a>>,
    /// The blocks in hexadecimal, in the order of the message's list.
    blocks: Vec<String>,
    /// For each chunk the two blocks of its log that it can touch, and the index of the first.
    chunks: Vec<(u64, [shared::BlockId; 2])>,
    /// All declarations: index of the entry, minute, number of events.
    declared: Vec<(u16, Minute, u32)>,
}

impl<'a> Content<'a> {
    /// Reads a payload; gives the collector's stamp with it.
    fn read(payload: &'a [u8]) -> Result<(Timestamp, Self), WireError> {
        Ok(match Logged::read(payload)? {
            Logged::Control(Control { stamp, word, .. }) => (stamp, Self::Word(word)),
            Logged::Message(view) => {
                let cold = view.cold()?;
                (view.stamp, Self::Message(Box::new(Message::new(*view, cold))))
            }
        })
    }
}

impl<'a> Source<'a> {
    /// Reads a message of a partition; `clock` is the log's clock before it.
    pub(super) fn read(delivered: &'a Delivered, partition: u16, clock: LogClock) -> Self {
        let sequence = delivered.position.sequence;
        let payload = &*delivered.payload;
        let (stamp, content) = match Content::read(payload) {
            Ok((stamp, content)) => (stamp, content),
            Err(_) => (clock.now, Content::Unreadable(payload)),
        };
        let mut clock = clock;
        // Bytes that are no message have no stamp.
        if !matches!(content, Content::Unreadable(_)) {
            clock.hear(stamp);
        }
        Self { sequence, partition, clock, stamp, content }
    }

    /// The log's clock after the message.
    pub(super) const fn clock(&self) -> LogClock {
        self.clock
    }

    /// The collector's stamp; for bytes that are no message, the log's clock.
    pub(super) const fn stamp(&self) -> Timestamp {
        self.stamp
    }

    /// Number of chunks that the message lists.
    pub(super) fn chunks(&self) -> usize {
        match &self.content {
            Content::Message(message) => message.view.chunks.len(),
            Content::Word(_) | Content::Unreadable(_) => 0,
        }
    }

    /// The number of records of each kind.
    fn counts(&self) -> [(RecordKind, usize); 5] {
        let none = (RecordKind::Unreadable, 0);
        match &self.content {
            Content::Message(message) => {
                let view = &message.view;
                [
                    (RecordKind::Batch, view.batches.len()),
                    (RecordKind::Chunk, view.chunks.len()),
                    (RecordKind::Declared, message.declared.len()),
                    (RecordKind::Event, message.hot.len()),
                    (RecordKind::Tally, view.tallies.len()),
                ]
            }
            Content::Word(Word::Retire { .. }) => {
                [(RecordKind::Retired, 1), none, none, none, none]
            }
            Content::Word(Word::Resolve { .. }) => {
                [(RecordKind::Resolved, 1), none, none, none, none]
            }
            Content::Unreadable(_) => [(RecordKind::Unreadable, 1), none, none, none, none],
        }
    }

    /// Minute and ad of a record, by which it is sorted after its kind and before its position.
    fn key(&self, record_kind: RecordKind, row: usize) -> (Minute, AnyId) {
        let Content::Message(message) = &self.content else { return (Minute(0), Id::NONE) };
        match record_kind {
            RecordKind::Declared => (message.declared[row].1, Id::NONE),
            RecordKind::Event => {
                let hot = &message.hot[row];
                let view = &message.view;
                (view.minutes[usize::from(hot.minute)], view.ids[usize::from(hot.ad)])
            }
            RecordKind::Tally => (message.view.tallies[row].tally.minute, Id::NONE),
            _ => (Minute(0), Id::NONE),
        }
    }

    fn record(&self, record_kind: RecordKind, row: usize) -> Record<'_> {
        let mut record = self.blank(record_kind, row);
        let message = match &self.content {
            Content::Message(message) => message,
            Content::Word(word) => {
                record.stamp = Some(self.stamp);
                match *word {
                    Word::Retire { edge } => record.edge = Some(edge),
                    Word::Resolve { outbox, number } => {
                        (record.edge, record.epoch) = (Some(outbox.edge), Some(outbox.epoch));
                        record.number = Some(number);
                    }
                }
                return record;
            }
            Content::Unreadable(bytes) => {
                record.proof = bytes;
                return record;
            }
        };
        record.stamp = Some(self.stamp);
        match record_kind {
            RecordKind::Batch => {
                message.name(&mut record, row);
                let BatchEntry { watermark, digest, .. } = message.view.batches[row];
                record.watermark = Some(watermark).filter(|time| *time != Timestamp::MAX);
                record.digest = Some(digest).filter(|digest| digest.is_known());
            }
            RecordKind::Chunk => {
                message.name(&mut record, message.view.batches.len() + row);
                record.source_row = record.chunk.map(|chunk| chunk.first_row);
            }
            RecordKind::Declared => {
                let (entry, minute, count) = message.declared[row];
                message.name(&mut record, usize::from(entry));
                (record.at, record.count) = (Some(minute.start()), count);
            }
            RecordKind::Tally => {
                let entry = &message.view.tallies[row];
                message.name(&mut record, usize::from(entry.entry));
                let tally = entry.tally;
                (record.at, record.count) = (Some(tally.minute.start()), tally.count);
                (record.kind, record.outcome) = (Some(tally.kind), Some(tally.reason.name()));
            }
            RecordKind::Event => message.event(&mut record, row),
            RecordKind::Resolved | RecordKind::Retired | RecordKind::Unreadable => {}
        }
        record
    }

    fn blank(&self, record_kind: RecordKind, row: usize) -> Record<'_> {
        Record {
            record_kind,
            partition: self.partition,
            sequence: self.sequence,
            // A message is at most a mebibyte, so the number fits.
            row: u32::try_from(row).unwrap_or(u32::MAX),
            stamp: None,
            clock: self.clock.now,
            entry: None,
            edge: None,
            epoch: None,
            number: None,
            watermark: None,
            chunk: None,
            source_row: None,
            digest: None,
            at: None,
            kind: None,
            outcome: None,
            verdict: None,
            issued: None,
            issuer: Id::NONE,
            block: None,
            opened: None,
            seq: None,
            ad: "",
            campaign: "",
            advertiser: "",
            publisher: "",
            placement: "",
            codes: None,
            region: Region::UNKNOWN,
            network: Network::default(),
            visitor: 0,
            flags: None,
            rules: RuleSet::UNKNOWN,
            price: Money::ZERO,
            count: 0,
            proof: &[],
        }
    }
}

impl<'a> Message<'a> {
    fn new(view: MessageView<'a>, cold: Vec<Cold<'a>>) -> Self {
        let blocks = view.blocks.iter().map(|(_, block)| shared::text::hex(&block.0)).collect();
        let blocks_of = |chunk: &ChunkEntry| {
            let index = chunk.first_row >> 16;
            (index, [index, index + 1].map(|index| import::block(chunk.source, index)))
        };
        let of_batches = view.batches.iter().map(|batch| &batch.declared);
        let of_chunks = view.chunks.iter().map(|chunk| &chunk.declared);
        let entries = (0_u16..).zip(of_batches.chain(of_chunks));
        let declared = entries
            .flat_map(|(entry, list)| list.iter().map(move |(minute, n)| (entry, *minute, *n)))
            .collect();
        Self {
            hot: view.rows().collect(),
            cold,
            blocks,
            chunks: view.chunks.iter().map(blocks_of).collect(),
            declared,
            view,
        }
    }

    /// Fills in which batch or chunk the record comes from.
    fn name<'r>(&'r self, record: &mut Record<'r>, entry: usize) {
        record.entry = u16::try_from(entry).ok();
        match entry.checked_sub(self.view.batches.len()) {
            None => {
                let batch = &self.view.batches[entry];
                (record.edge, record.epoch) = (Some(batch.outbox.edge), Some(batch.outbox.epoch));
                record.number = Some(batch.number);
            }
            Some(chunk) => record.chunk = self.view.chunks.get(chunk),
        }
    }

    fn event<'r>(&'r self, record: &mut Record<'r>, row: usize) {
        let (hot, cold, view) = (&self.hot[row], &self.cold[row], &self.view);
        let name = |number: u16| view.name(number).as_str();
        self.name(record, usize::from(hot.entry));
        let (issuer, block) = view.blocks[usize::from(hot.block)];
        if hot.block != 0 {
            record.issuer = issuer;
            record.block = Some(&self.blocks[usize::from(hot.block)]);
            record.seq = Some(hot.seq);
            if issuer == import::ISSUER {
                record.source_row = self.source_row(hot, block);
            } else {
                record.opened = Some(block.opened().start());
            }
        }
        let minute = view.minutes[usize::from(hot.minute)];
        record.at = Some(minute.start().plus_ms(hot.ms.into()));
        record.kind = Some(hot.kind());
        record.issued = hot.issued(minute).map(Minute::start);
        record.outcome = Some(hot.outcome.err().map_or("accepted", |reason| reason.name()));
        record.verdict = hot.outcome.ok().flatten().map(|reason| reason.name());
        (record.ad, record.publisher) = (name(hot.ad), name(hot.publisher));
        (record.campaign, record.advertiser) = (name(cold.campaign), name(cold.advertiser));
        record.placement = name(hot.placement);
        record.codes = Some(hot.codes());
        record.region = hot.region;
        record.network = hot.network;
        record.visitor = hot.visitor.0;
        record.flags = Some(cold.flags.0);
        record.rules = cold.rules;
        record.price = view.prices[usize::from(hot.price)];
        record.count = 1;
        record.proof = cold.proof;
    }

    fn source_row(&self, hot: &Row, block: shared::BlockId) -> Option<u64> {
        let chunk = usize::from(hot.entry).checked_sub(self.view.batches.len())?;
        let (index, blocks) = self.chunks.get(chunk)?;
        let at = blocks.iter().position(|own| *own == block)?;
        Some((index + at as u64) << 16 | u64::from(hot.seq))
    }
}

/// What a record is sorted by in a file. The last two say which record it is: the index of its source, and
/// its number among the records of its kind there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct SortKey {
    record_kind: RecordKind,
    minute: Minute,
    ad: AnyId,
    source: u32,
    row: u32,
}

/// All records of some messages, sorted by kind of record, minute, ad and position.
pub(super) struct Sorted<'s, 'a> {
    sources: &'s [Source<'a>],
    keys: Vec<SortKey>,
}

impl<'s, 'a> Sorted<'s, 'a> {
    pub(super) fn new(sources: &'s [Source<'a>]) -> Self {
        let mut keys = Vec::new();
        for (number, source) in (0_u32..).zip(sources) {
            for (record_kind, count) in source.counts() {
                keys.extend((0_u32..).zip(0..count).map(|(row, at)| {
                    let (minute, ad) = source.key(record_kind, at);
                    SortKey { record_kind, minute, ad, source: number, row }
                }));
            }
        }
        keys.sort_unstable();
        Self { sources, keys }
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Number of events, tallies not counted.
    pub(super) fn events(&self) -> usize {
        self.keys.iter().filter(|key| key.record_kind == RecordKind::Event).count()
    }

    /// The least and the greatest minute of the records that have one; none when no record has.
    pub(super) fn minutes(&self) -> Option<(Minute, Minute)> {
        let timed = [RecordKind::Declared, RecordKind::Event, RecordKind::Tally];
        let minutes = self.keys.iter().filter(|key| timed.contains(&key.record_kind));
        let mut minutes = minutes.map(|key| key.minute);
        let first = minutes.next()?;
        Some(minutes.fold((first, first), |(low, high), m| (low.min(m), high.max(m))))
    }

    pub(super) fn records(&self, range: Range<usize>) -> Vec<Record<'_>> {
        let record = |key: &SortKey| {
            self.sources[key.source as usize].record(key.record_kind, key.row as usize)
        };
        self.keys[range].iter().map(record).collect()
    }
}
