//! A small world for tests: outboxes that send, a log file that is imported, and what the answers
//! must be, computed another way.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use bytes::Bytes;
use eventlog::Message;
use shared::event::{Fingerprint, Flags, Network};
use shared::name::{Any, Named};
use shared::random::{Seeded, below};
use shared::wire::message::Entry;
use shared::wire::{BatchEntry, ChunkEntry, Judged, MessageBuilder, Tally};
use shared::{
    AdId, BatchDigest, BlockId, Codes, Country, Currency, Device, Id, ImpressionId, IssuerId, Kind,
    Minute, Money, Name, OutboxId, Outcome, PartitionMap, Partitions, Reason, Region, RuleSet,
    SourceId, Timestamp, Validity, import,
};

pub(crate) const PARTITIONS: u16 = 4;
pub(crate) const START: Minute = Minute(29_500_000);
/// Names that are ids of their own, and others: their order is that of their texts.
pub(crate) const ADS: [&str; 6] =
    ["ad-1", "550e8400-e29b-41d4-a716-446655440000", "a", "mm_10067028.1", "Zz_9", "広告 10"];
const PUBLISHERS: [&str; 2] = ["p1", "example.com"];

/// A name of [`ADS`], [`PUBLISHERS`] or the like.
pub(crate) fn named<T: Named>(text: &'static str) -> Name<'static, T> {
    shared::name::literal(text)
}

/// What the answers must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Oracle {
    pub(crate) ads: [&'static str; 6],
    pub(crate) counts: BTreeMap<(AdId, Kind, bool, Minute), u64>,
    pub(crate) received: BTreeMap<Minute, u64>,
    pub(crate) counted: BTreeMap<Minute, u64>,
    pub(crate) duplicate: BTreeMap<Minute, u64>,
    pub(crate) reasons: BTreeMap<(Reason, Minute), u64>,
    pub(crate) minutes: BTreeSet<Minute>,
    /// Every event that was counted, valid or flagged.
    pub(crate) events: Vec<Judged<'static>>,
}

impl Oracle {
    pub(crate) fn count(
        &self,
        ad: AdId,
        kind: Kind,
        validity: Validity,
        range: &Range<Minute>,
    ) -> u64 {
        let asked = [true, false].into_iter().filter(|valid| validity.takes(*valid));
        let range = |valid| (ad, kind, valid, range.start)..(ad, kind, valid, range.end);
        asked.flat_map(|valid| self.counts.range(range(valid))).map(|(_, n)| n).sum()
    }

    pub(crate) fn popular(
        &self,
        kind: Kind,
        validity: Validity,
        range: &Range<Minute>,
    ) -> Vec<(&'static str, u64)> {
        let mut ads = self.ads;
        ads.sort_unstable();
        let count = |ad| self.count(named(ad).id(), kind, validity, range);
        let mut all: Vec<_> = ads.into_iter().map(|ad| (ad, count(ad))).collect();
        all.retain(|(_, n)| *n > 0);
        all.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        all
    }

    fn add(&mut self, key: Key, event: &Judged<'static>, seen: &mut HashSet<Key>) {
        let minute = event.at.minute();
        self.minutes.insert(minute);
        *self.received.entry(minute).or_default() += 1;
        match event.outcome {
            Err(reason) => *self.reasons.entry((reason, minute)).or_default() += 1,
            Ok(_) if !seen.insert(key) => *self.duplicate.entry(minute).or_default() += 1,
            Ok(Some(reason)) => {
                *self.reasons.entry((reason, minute)).or_default() += 1;
                if reason != Reason::Test {
                    self.events.push(*event);
                    *self.counts.entry((event.ad, event.kind, false, minute)).or_default() += 1;
                }
            }
            Ok(None) => {
                self.events.push(*event);
                *self.counted.entry(minute).or_default() += 1;
                *self.counts.entry((event.ad, event.kind, true, minute)).or_default() += 1;
            }
        }
    }
}

type Key = (IssuerId, ImpressionId, Kind, bool);

struct SendingOutbox {
    id: OutboxId,
    next: u64,
    watermark: Timestamp,
}

/// Makes messages, and knows what the answers must be after them.
pub(crate) struct World {
    random: Seeded,
    map: PartitionMap,
    pub(crate) now: Timestamp,
    outboxes: Vec<SendingOutbox>,
    blocks: Vec<BlockId>,
    seen: HashSet<Key>,
    sent: Vec<Sent>,
    imported: u64,
    publishers: [&'static str; 2],
    pub(crate) oracle: Oracle,
}

/// A batch that may come again.
#[derive(Clone)]
struct Sent {
    entry: BatchEntry,
    events: Vec<Judged<'static>>,
    tallies: Vec<Tally>,
}

pub(crate) fn source() -> SourceId {
    import::named_source("world.csv")
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        Self::called(seed, ADS, PUBLISHERS)
    }

    /// A world whose ads and publishers have these names.
    pub(crate) fn called(seed: u64, ads: [&'static str; 6], publishers: [&'static str; 2]) -> Self {
        let id = |edge| OutboxId { edge: Id::literal(edge), epoch: 1 };
        let start = START.start();
        let outbox = |edge| SendingOutbox { id: id(edge), next: 0, watermark: start };
        Self {
            random: Seeded::new(seed),
            map: PartitionMap::new(Partitions::new(PARTITIONS).unwrap()),
            now: start,
            outboxes: vec![outbox("edge-a"), outbox("edge-b")],
            blocks: Vec::new(),
            seen: HashSet::new(),
            sent: Vec::new(),
            imported: 0,
            publishers,
            oracle: Oracle { ads, ..Oracle::default() },
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        below(&mut self.random, bound)
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[usize::try_from(self.below(list.len() as u64)).unwrap()]
    }

    fn event(&mut self, at: Timestamp) -> Judged<'static> {
        let block = self.pick(&self.blocks.clone());
        let seq = u16::try_from(self.below(40) * 200).unwrap();
        let outcome: Outcome = match self.below(10) {
            0 => Err(Reason::Expired),
            1 => Ok(Some(Reason::Prefetch)),
            _ => Ok(None),
        };
        let kind = self.pick(Kind::ALL);
        let impression = kind == Kind::Impression;
        let currency = Currency::from_bytes(*b"EUR").unwrap();
        let (ads, publishers) = (self.oracle.ads, self.publishers);
        let (ad, publisher) = (self.pick(&ads), self.pick(&publishers));
        // The stores of earlier builds, which tests go on from, have what is drawn here. What came
        // later is not drawn.
        let n = (at.0 ^ u64::from(seq) << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let of = |list: [&'static str; 3]| list[usize::try_from(n % 3).unwrap()];
        let placement = of(["top", "side board 1", ""]);
        let campaign = of(["campaign", "campaign, autumn", "c2"]);
        let names =
            [ad, publisher, placement, campaign].into_iter().filter(|name| !name.is_empty());
        let names: Vec<_> = names.map(named::<Any>).filter(|n| n.is_long()).collect();
        let names = names.into_iter().map(Name::to_buf).collect::<Vec<_>>().leak();
        Judged {
            issuer: Id::literal("key-1"),
            id: ImpressionId { block, seq },
            kind,
            outcome,
            at,
            ad: named(ad).id(),
            campaign: named(campaign).id(),
            advertiser: Id::literal(of(["advertiser", "a2", "a2"])),
            publisher: named(publisher).id(),
            placement: if placement.is_empty() { Id::NONE } else { named(placement).id() },
            names,
            issued: None,
            codes: Codes::new(
                self.pick(&[Country::UNKNOWN, Country::lenient("DE")]),
                self.pick(Device::ALL),
            ),
            region: [Region::UNKNOWN, "BE".parse().unwrap(), "BY".parse().unwrap()]
                [usize::try_from(n / 3 % 3).unwrap()],
            network: Network::from_address([10, u8::try_from(n / 9 % 4).unwrap(), 0, 1].into()),
            visitor: Fingerprint(n / 36 % 50),
            flags: Flags::default(),
            rules: RuleSet::UNKNOWN,
            page: None,
            price: Money { micros: i64::from(impression) * 1500, currency },
            proof: &[],
        }
    }

    /// What one flush of a collector appends: a message for each partition.
    pub(crate) fn flush(&mut self) -> Vec<Message> {
        let pause = 500 + self.below(40_000);
        self.now = self.now.plus_ms(pause);
        if self.blocks.len() < 3 || self.below(8) == 0 {
            self.blocks.push(BlockId::open(self.now, &mut self.random));
        }
        let mut builders: Vec<MessageBuilder> =
            (0..PARTITIONS).map(|_| MessageBuilder::default()).collect();
        for index in 0..self.outboxes.len() {
            let sent = self.batch(index);
            sent.put(&mut builders, &self.map);
            self.sent.push(sent);
        }
        if self.below(3) == 0 {
            // The acknowledgement was lost: the same batch again.
            let sent = self.pick(&(0..self.sent.len()).collect::<Vec<_>>());
            self.sent[sent].clone().put(&mut builders, &self.map);
        }
        if self.below(2) == 0 {
            self.chunk(&mut builders);
        }
        let stamp = self.now;
        (0..PARTITIONS)
            .zip(builders)
            .map(|(partition, builder)| Message {
                partition,
                payload: Bytes::from(builder.finish(partition, stamp)),
            })
            .collect()
    }

    fn batch(&mut self, index: usize) -> Sent {
        let (since, now) = (self.outboxes[index].watermark, self.now);
        let mut events = Vec::new();
        for _ in 0..self.below(30) {
            let at = Timestamp(since.0 + self.below(now.0 - since.0));
            events.push(self.event(at));
        }
        let tally = Tally {
            minute: now.minute(),
            kind: Kind::Click,
            reason: Reason::OutboxFull,
            count: u32::try_from(self.below(5)).unwrap(),
        };
        let tallies = if self.below(6) == 0 && tally.count > 0 { vec![tally] } else { vec![] };
        let mut declared: BTreeMap<Minute, u32> = BTreeMap::new();
        for event in &events {
            *declared.entry(event.at.minute()).or_default() += 1;
            let key = (event.issuer, event.id, event.kind, event.outcome == Ok(None));
            self.oracle.add(key, event, &mut self.seen);
        }
        for Tally { minute, reason, count, .. } in &tallies {
            *declared.entry(*minute).or_default() += count;
            *self.oracle.received.entry(*minute).or_default() += u64::from(*count);
            *self.oracle.reasons.entry((*reason, *minute)).or_default() += u64::from(*count);
            self.oracle.minutes.insert(*minute);
        }
        let outbox = &mut self.outboxes[index];
        let (number, watermark) = (outbox.next, now);
        (outbox.next, outbox.watermark) = (number + 1, now);
        let declared = declared.into_iter().collect();
        Sent {
            entry: BatchEntry {
                outbox: outbox.id,
                number,
                watermark,
                digest: BatchDigest::UNKNOWN,
                declared,
            },
            events,
            tallies,
        }
    }

    /// Twenty more rows of a log of long ago.
    fn chunk(&mut self, builders: &mut [MessageBuilder]) {
        let (first_row, end_row) = (self.imported, self.imported + 20);
        self.imported = end_row;
        let entry = ChunkEntry {
            source: source(),
            first_row,
            end_row,
            digest: [7; 32],
            declared: Vec::new(),
        };
        let entries: Vec<_> = builders.iter_mut().map(|b| b.chunk(entry.clone())).collect();
        for row in first_row..end_row {
            let back = self.below(8);
            let at = Minute(START.0 - 500_000 + u32::try_from(back).unwrap()).start();
            let id = import::impression(source(), row);
            let event =
                Judged { issuer: import::ISSUER, id, at, price: Money::ZERO, ..self.event(at) };
            let key = (event.issuer, event.id, event.kind, event.outcome == Ok(None));
            self.oracle.add(key, &event, &mut self.seen);
            let partition = usize::from(self.map.of_block(event.issuer, id.block));
            builders[partition].event(entries[partition], &event);
        }
    }

    pub(crate) fn imported(&self) -> u64 {
        self.imported
    }
}

impl Sent {
    fn put(&self, builders: &mut [MessageBuilder], map: &PartitionMap) {
        let entry = |builder: &mut MessageBuilder| builder.batch(self.entry.clone());
        let entries: Vec<Entry> = builders.iter_mut().map(entry).collect();
        for event in &self.events {
            let partition = usize::from(map.of_block(event.issuer, event.id.block));
            builders[partition].event(entries[partition], event);
        }
        let partition = usize::from(map.of_tallies(self.entry.outbox));
        for tally in &self.tallies {
            builders[partition].tally(entries[partition], *tally);
        }
    }
}
