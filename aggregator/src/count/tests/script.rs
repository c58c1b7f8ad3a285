//! Random histories: what collectors, edges and importers may do to a partition, and a bit more.

use std::ops::Range;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use shared::wire::message::Entry;
use shared::wire::{BatchEntry, ChunkEntry, Declared, Judged, MessageBuilder, Tally};
use shared::{
    BlockId, Codes, Currency, Fingerprint, Flags, Id, ImpressionId, IssuerId, Kind, Minute, Money,
    Network, OutboxId, PageSeq, PageView, Reason, Region, RuleSet, SourceId, Timestamp, import,
};

/// The minute in which histories begin.
pub(super) const START: Minute = Minute(29_000_000);
/// The number that closes an outbox.
const LAST_NUMBER: u64 = 9;
/// Minutes of the horizon.
const HORIZON: u32 = 7 * 24 * 60;

#[derive(Clone, Debug)]
pub(super) enum Op {
    Message(MessageOp),
    /// So many hours pass, each with an empty message.
    Pass(u64),
    Checkpoint,
    /// Checkpoint, then begin again from the store.
    Restart,
    /// Begin again from the store, as after a crash: what was not saved is applied again.
    Crash,
}

#[derive(Clone, Debug)]
pub(super) struct MessageOp {
    /// Milliseconds since the message before.
    pub(super) ms: u64,
    batches: Vec<BatchOp>,
    chunks: Vec<ChunkOp>,
}

#[derive(Clone, Debug)]
struct BatchOp {
    outbox: u64,
    number: u64,
    events: Vec<EventOp>,
    tallies: Vec<(u32, u32)>,
}

#[derive(Clone, Debug)]
struct ChunkOp {
    source: usize,
    rows: Range<u64>,
    /// A row as its distance from the first row, modulo the number of rows.
    events: Vec<(u64, EventOp)>,
}

#[derive(Clone, Debug)]
struct EventOp {
    issuer: usize,
    block: u32,
    seq: u16,
    kind: Kind,
    outcome: Result<Option<Reason>, Reason>,
    minute: u32,
    ad: usize,
    publisher: usize,
    country: bool,
    price: i64,
    page: Option<PageSeq>,
}

pub(super) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        12 => message().prop_map(Op::Message),
        1 => prop_oneof![Just(1_u64), Just(3), Just(24), Just(169)].prop_map(Op::Pass),
        2 => Just(Op::Checkpoint),
        1 => Just(Op::Restart),
        2 => Just(Op::Crash),
    ];
    vec(op, 1..40)
}

fn message() -> impl Strategy<Value = MessageOp> {
    let ms = prop_oneof![8 => 0..120_000_u64, 1 => Just(3_700_000_u64)];
    (ms, vec(batch(), 0..4), vec(chunk(), 0..3)).prop_map(|(ms, batches, chunks)| MessageOp {
        ms,
        batches,
        chunks,
    })
}

fn batch() -> impl Strategy<Value = BatchOp> {
    let tallies = vec((0..6_u32, 0..5_u32), 0..2);
    (0..6_u64, 0..=LAST_NUMBER, vec(event(), 0..6), tallies)
        .prop_map(|(outbox, number, events, tallies)| BatchOp { outbox, number, events, tallies })
}

fn chunk() -> impl Strategy<Value = ChunkOp> {
    // Source 0 has short chunks, source 1 long ones that cross blocks and containers.
    let rows = (0..2_usize, 0..9_u64, 0..3_u64).prop_map(|(source, first, length)| {
        let scale = [1, 21_000][source];
        (source, first * scale..(first + length) * scale)
    });
    let events = vec((prop_oneof![0..4_u64, any::<u64>()], event()), 0..5);
    (rows, events).prop_map(|((source, rows), events)| ChunkOp { source, rows, events })
}

fn event() -> impl Strategy<Value = EventOp> {
    let kind = prop_oneof![Just(Kind::Click), Just(Kind::Impression), Just(Kind::Viewable)];
    let outcome = prop_oneof![
        6 => Just(Ok(None)),
        2 => Just(Ok(Some(Reason::Prefetch))),
        2 => Just(Ok(Some(Reason::Test))),
        1 => Just(Err(Reason::BadSeal)),
        1 => Just(Err(Reason::Prefetch)),
    ];
    let seq = prop_oneof![0..4_u16, Just(63), Just(64), Just(4_095), Just(4_096), Just(65_535)];
    let when = (prop_oneof![6 => 0..4_u32, 1 => 0..200_u32], 0..4_u32);
    let page = option::of((0..3_u64, 1..9_u16))
        .prop_map(|page| page.map(|(page, seq)| PageSeq { page: PageView(page), seq }));
    let what = (0..3_usize, 0..3_usize, any::<bool>(), -1..3_i64, page);
    (0..3_usize, kind, outcome, seq, when, what).prop_map(
        |(issuer, kind, outcome, seq, (minute, block), (ad, publisher, country, price, page))| {
            EventOp {
                issuer,
                block,
                seq,
                kind,
                outcome,
                minute,
                ad,
                publisher,
                country,
                price,
                page,
            }
        },
    )
}

pub(super) fn sources() -> [SourceId; 2] {
    [import::named_source("one"), import::named_source("two")]
}

impl MessageOp {
    pub(super) fn empty(ms: u64) -> Self {
        Self { ms, batches: Vec::new(), chunks: Vec::new() }
    }

    /// The message of partition 3 with this stamp.
    pub(super) fn bytes(&self, stamp: Timestamp) -> Vec<u8> {
        let now = stamp.minute();
        let mut builder = MessageBuilder::default();
        for batch in &self.batches {
            batch.put(&mut builder, now);
        }
        for chunk in &self.chunks {
            chunk.put(&mut builder);
        }
        builder.finish(3, stamp)
    }
}

impl BatchOp {
    fn put(&self, builder: &mut MessageBuilder, now: Minute) {
        // Two edges with three epochs each; a number's watermark is always the same.
        let edge = [Id::literal("edge-a"), Id::literal("edge-b")][self.outbox as usize % 2];
        let outbox = OutboxId { edge, epoch: 100 + self.outbox / 2 };
        let watermark = START.start().plus_ms(self.number * 50_000);
        let closes = self.number == LAST_NUMBER;
        let watermark = if closes { Timestamp::MAX } else { watermark };
        let mut declared = Declared::new();
        for minute in (0..210).rev().map(|ago| Minute(now.0 - ago)) {
            let events = self.events.iter().filter(|e| e.minute == now.0 - minute.0).count();
            let tallies = self.tallies.iter().filter(|t| t.0 == now.0 - minute.0).map(|t| t.1);
            let count = u32::try_from(events).unwrap() + tallies.sum::<u32>();
            if count > 0 {
                declared.push((minute, count));
            }
        }
        // Few different digests, one of which says that it is not known.
        let digest = shared::BatchDigest([u8::try_from(self.events.len() % 3).unwrap(); 16]);
        let entry =
            builder.batch(BatchEntry { outbox, number: self.number, watermark, digest, declared });
        for (ago, count) in &self.tallies {
            let minute = Minute(now.0 - ago);
            let (kind, reason) = (Kind::Click, Reason::OutboxFull);
            builder.tally(entry, Tally { minute, kind, reason, count: *count });
        }
        for event in &self.events {
            // Blocks on both sides of the horizon; some fall behind it in the course of a history.
            let ago = [HORIZON + 1, HORIZON - 2, HORIZON - 100, 5][event.block as usize];
            let opened = START.0 - ago - Minute::BLOCK_EPOCH.0;
            let mut block = [7; 10];
            block[..3].copy_from_slice(&opened.to_be_bytes()[1..]);
            let issuer = [Id::literal("demo"), Id::literal("other"), Id::NONE][event.issuer];
            let id = ImpressionId { block: BlockId(block), seq: event.seq };
            event.put(builder, entry, issuer, id, Minute(now.0 - event.minute));
        }
    }
}

impl ChunkOp {
    fn put(&self, builder: &mut MessageBuilder) {
        let source = sources()[self.source];
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&self.rows.end.to_le_bytes());
        let (first_row, end_row) = (self.rows.start, self.rows.end);
        let entry =
            builder.chunk(ChunkEntry { source, first_row, end_row, digest, declared: vec![] });
        for (at, event) in self.events.iter().filter(|_| first_row < end_row) {
            let row = first_row + at % (end_row - first_row);
            let id = import::impression(source, row);
            event.put(builder, entry, import::ISSUER, id, Minute(START.0 - event.minute * 50));
        }
    }
}

impl EventOp {
    fn put(
        &self,
        builder: &mut MessageBuilder,
        entry: Entry,
        issuer: IssuerId,
        id: ImpressionId,
        minute: Minute,
    ) {
        let ids = [Id::literal("ad-1"), Id::literal("ad-2"), Id::literal("b")];
        let publishers = [Id::NONE, Id::literal("pub-1"), Id::literal("b")];
        let currency = Currency::from_bytes(*[b"EUR", b"USD"][usize::from(self.country)]).unwrap();
        let event = Judged {
            issuer,
            id,
            kind: self.kind,
            outcome: self.outcome,
            at: minute.start(),
            ad: ids[self.ad],
            campaign: Id::literal("c"),
            advertiser: Id::literal("a"),
            publisher: publishers[self.publisher],
            placement: Id::NONE,
            names: &[],
            issued: None,
            codes: [Codes::nth(3), Codes::default()][usize::from(self.country)],
            region: Region::UNKNOWN,
            network: Network::default(),
            visitor: Fingerprint::NONE,
            flags: Flags(0),
            rules: RuleSet::UNKNOWN,
            page: self.page,
            price: Money { micros: self.price * 1_000, currency },
            proof: b"",
        };
        builder.event(entry, &event);
        if let Some(told) = self.page {
            builder.page_view(entry, &event, told);
        }
    }
}
