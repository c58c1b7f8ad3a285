//! The partition message: what a collector appends to the log of one partition. Ids, blocks,
//! minutes and prices stand once in tables, and events name them by number, so that a reader looks
//! up each only once. What the count engine needs of an event is in rows of fixed size ("hot").
//! What only the archive needs is in a part of its own ("cold").
//!
//! Version 4: `CSM4`, partition (2), collector's stamp in ms (8); then, each with its count (4)
//! before it: batches [edge 16, epoch 8, number 8, watermark 8, digest 16, declared], chunks
//! [source 16, first row 8, end row 8, digest 32, declared], tallies [entry 2, minute 4, kind 1,
//! reason 1, count 4], blocks [issuer 16, block 10], minutes [4], ids [16], names [id 2, length 1,
//! text], prices [currency 3, micros 8], page views [entry 2, minute 2, publisher 2, number 2, page
//! view 8]; hot rows [44]; length of the cold part (4) and the cold part. `declared` is a count (4)
//! and [minute 4, count 4].
//!
//! A hot row: entry (2: the number of the batch that brought it; chunks are numbered on from the
//! last batch), block (2), sequence (2), minute (2), ad (2), publisher (2), placement (2), price
//! (2), codes with kind and validity (4: [`Packed`]), verdict (1; 0 none; 128 more when its page
//! view numbers its events), rejected (1; 0 accepted), ms within the minute (2), minutes since its
//! token was issued (2, signed; -32768 not known), region (3), network (7), fingerprint (8).
//! Blocks, ids and prices are numbered from 1; 0 means none. A cold row: campaign (2), advertiser
//! (2), flags (1), rule set (4), proof length (2), proof. For each id that is a digest, its name is
//! among the names.
//!
//! A page view is in the message of its own partition ([`crate::PartitionMap::of_page_view`]), with
//! the largest number that a batch has of it.
//!
//! Versions 1 to 3 are still read, because logs hold such messages, and not written any more.
//! Version 3, `CSM3`, has no names; a hot row [20] is entry, block, sequence, minute, ad,
//! publisher, country (2: a base-26 number), price, kind (1; 128 more when numbered), device (1),
//! verdict, rejected; a cold row is ms, campaign, advertiser, placement (2), fingerprint, network,
//! flags, rule set, proof. Version 2, `CSM2`, is version 3 without the digests of batches. Version
//! 1, `CSM1`, is version 2 without rule sets and page views.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher, Hash};

use super::Declared;
use super::batch::Tally;
use super::codec::{put_count, put_declared, put_reason};
use crate::counted::{Codes, Packed};
use crate::event::{Fingerprint, Flags, Kind, Network, Outcome, PageSeq, Region, RuleSet};
use crate::id::{BatchDigest, BlockId, ImpressionId, OutboxId, SourceId};
use crate::limits::{FLUSH_BYTES, MESSAGE_ENTRIES_MAX, MESSAGE_ROWS_MAX};
use crate::money::Money;
use crate::name::{
    AdId, AdvertiserId, Any, AnyId, CampaignId, IssuerId, NameBuf, PlacementId, PublisherId,
};
use crate::time::{Minute, Timestamp};

pub(super) const MAGIC: [u8; 4] = *b"CSM4";
pub(super) const MAGIC_3: [u8; 4] = *b"CSM3";
pub(super) const MAGIC_2: [u8; 4] = *b"CSM2";
pub(super) const MAGIC_1: [u8; 4] = *b"CSM1";
/// Those of all versions that are read.
pub(super) const MAGICS: [[u8; 4]; 4] = [MAGIC, MAGIC_3, MAGIC_2, MAGIC_1];
pub(super) const HOT_BYTES: usize = 44;
pub(super) const HOT_BYTES_3: usize = 20;
pub(super) const PAGE_VIEW_BYTES: usize = 16;
const BATCH_ENTRY_BYTES: usize = 16 + 3 * 8 + 16 + 4;
const DECLARED_BYTES: usize = 4 + 4;
const NAME_ENTRY_BYTES: usize = 2 + 1;
/// Set in the byte of the verdict (before version 4 in that of the kind) when the page view that
/// the event came from numbers its events.
pub(super) const NUMBERED: u8 = 1 << 7;
/// Stands for the minutes since the issue when it is not known when that was.
pub(super) const NOT_ISSUED: i16 = i16::MIN;
pub(super) const COLD_BYTES: usize = 11;
pub(super) const COLD_BYTES_3: usize = 30;
pub(super) const COLD_BYTES_1: usize = 26;

/// News of a batch: every partition hears of all batches, also of those without an event for it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct BatchEntry {
    /// Whose.
    #[serde(flatten)]
    pub outbox: OutboxId,
    /// Its number.
    pub number: u64,
    /// Its watermark.
    pub watermark: Timestamp,
    /// The digest of its content.
    pub digest: BatchDigest,
    /// How many events it brings to all partitions together.
    pub declared: Declared,
}

/// News of a piece of an imported log.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct ChunkEntry {
    /// Of which log.
    pub source: SourceId,
    /// Its first row, from 0.
    pub first_row: u64,
    /// The row after its last.
    pub end_row: u64,
    /// BLAKE3 of the log's bytes up to the end of the last row.
    #[serde(serialize_with = "hex_bytes")]
    pub digest: [u8; 32],
    /// How many events it brings to all partitions together.
    pub declared: Declared,
}

/// How many bytes the news of a batch has in the message of each partition, when the batch has
/// events of so many minutes.
#[must_use]
pub const fn news_bytes(minutes: usize) -> usize {
    BATCH_ENTRY_BYTES + minutes * DECLARED_BYTES
}

fn hex_bytes<S: serde::Serializer>(bytes: &[u8; 32], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(&crate::text::hex(bytes))
}

/// A tally, and the batch that brought it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct TallyEntry {
    /// The number of the batch within the message.
    pub entry: u16,
    /// What it says.
    #[serde(flatten)]
    pub tally: Tally,
}

/// An event after judgement. Fields that could not be read or believed are none or zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judged<'a> {
    /// Who signed it; [`crate::import::ISSUER`] for a row of a log.
    pub issuer: IssuerId,
    /// Which impression.
    pub id: ImpressionId,
    /// What happened.
    pub kind: Kind,
    /// What the collector found.
    pub outcome: Outcome,
    /// The edge's receive time, or the time in the log.
    pub at: Timestamp,
    /// When its token was issued; none of a log.
    pub issued: Option<Minute>,
    /// The ad.
    pub ad: AdId,
    /// Its campaign.
    pub campaign: CampaignId,
    /// Its advertiser.
    pub advertiser: AdvertiserId,
    /// The publisher.
    pub publisher: PublisherId,
    /// The placement.
    pub placement: PlacementId,
    /// The names of those of these ids that are digests.
    pub names: &'a [NameBuf<Any>],
    /// From where, and on what.
    pub codes: Codes,
    /// The part of the country.
    pub region: Region,
    /// The network.
    pub network: Network,
    /// The visitor.
    pub visitor: Fingerprint,
    /// Remarks.
    pub flags: Flags,
    /// The rules that the edge's verdict was given by.
    pub rules: RuleSet,
    /// The page view that it came from, if that numbers its events.
    pub page: Option<PageSeq>,
    /// The clearing price.
    pub price: Money,
    /// Body and signature of the token if the archive is to keep them, else empty.
    pub proof: &'a [u8],
}

type Table<T> = HashMap<T, u16, BuildHasherDefault<DefaultHasher>>;

/// Gathers one partition's message.
#[derive(Debug, Default)]
pub struct MessageBuilder {
    batches: Vec<BatchEntry>,
    chunks: Vec<ChunkEntry>,
    tallies: Vec<(bool, TallyEntry)>,
    rows: Vec<(Entry, [u8; HOT_BYTES - 2])>,
    cold: Vec<u8>,
    page_views: Vec<(Entry, [u8; PAGE_VIEW_BYTES - 2])>,
    declared: usize,
    blocks: Table<(IssuerId, BlockId)>,
    minutes: Table<Minute>,
    ids: Table<AnyId>,
    /// By the number of its id.
    names: BTreeMap<u16, NameBuf<Any>>,
    names_bytes: usize,
    prices: Table<Money>,
}

/// The batch or chunk that brought an event. They are apart until the message is finished: chunks
/// are numbered on from the last batch, and only then it is known how many batches there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// The batch of this number within the message.
    Batch(u16),
    /// The chunk of this number within the message.
    Chunk(u16),
}

impl MessageBuilder {
    /// Adds news of a batch.
    pub fn batch(&mut self, entry: BatchEntry) -> Entry {
        self.declared += entry.declared.len();
        self.batches.push(entry);
        Entry::Batch(number(self.batches.len() - 1))
    }

    /// Adds news of a chunk.
    pub fn chunk(&mut self, entry: ChunkEntry) -> Entry {
        self.declared += entry.declared.len();
        self.chunks.push(entry);
        Entry::Chunk(number(self.chunks.len() - 1))
    }

    /// Adds a tally of the batch `entry`.
    pub fn tally(&mut self, entry: Entry, tally: Tally) {
        let (is_chunk, entry) = match entry {
            Entry::Batch(n) => (false, n),
            Entry::Chunk(n) => (true, n),
        };
        self.tallies.push((is_chunk, TallyEntry { entry, tally }));
    }

    /// Adds an event that `entry` brought.
    ///
    /// # Panics
    /// When a table would pass 65 535: see [`MessageBuilder::is_due`].
    pub fn event(&mut self, entry: Entry, event: &Judged<'_>) {
        let minute = event.at.minute();
        let block = match (event.issuer, event.id.block) {
            (IssuerId::NONE, _) => 0,
            key => 1 + intern(&mut self.blocks, key),
        };
        let price = match event.price {
            Money { micros: 0, .. } => 0,
            price => 1 + intern(&mut self.prices, price),
        };
        let words = [
            block,
            event.id.seq,
            intern(&mut self.minutes, minute),
            self.id(event.ad.any()),
            self.id(event.publisher.any()),
            self.id(event.placement.any()),
            price,
        ];
        // A time beyond the last minute (a wild clock) is written as that minute's end.
        let ms = u16::try_from(event.at.0 - minute.start().0).unwrap_or(u16::MAX).min(59_999);
        let hot = Hot {
            words,
            packed: Packed::new(event.codes.pack(), event.kind, event.outcome == Ok(None)),
            numbered: event.page.is_some(),
            outcome: event.outcome,
            ms,
            age: event.issued.map_or(NOT_ISSUED, |issued| age(minute, issued)),
            region: event.region,
            network: event.network,
            visitor: event.visitor,
        };
        self.rows.push((entry, hot.bytes()));
        let words = [self.id(event.campaign.any()), self.id(event.advertiser.any())];
        words.iter().for_each(|word| self.cold.extend(word.to_le_bytes()));
        self.cold.push(event.flags.0);
        self.cold.extend(event.rules.0.to_le_bytes());
        self.cold.extend(number(event.proof.len()).to_le_bytes());
        self.cold.extend(event.proof);
        event.names.iter().for_each(|name| self.name(name));
    }

    /// Adds the largest number that a page view has told. `event`: the one that told it, which
    /// gives minute and publisher.
    ///
    /// # Panics
    /// As [`MessageBuilder::event`].
    pub fn page_view(&mut self, entry: Entry, event: &Judged<'_>, told: PageSeq) {
        let mut row = Vec::with_capacity(PAGE_VIEW_BYTES - 2);
        let (minute, publisher) = (event.at.minute(), event.publisher.any());
        for word in [intern(&mut self.minutes, minute), self.id(publisher), told.seq] {
            row.extend(word.to_le_bytes());
        }
        row.extend(told.page.0.to_le_bytes());
        if publisher.is_digest() {
            let name = event.names.iter().find(|name| name.id() == publisher);
            name.into_iter().for_each(|name| self.name(name));
        }
        self.page_views.push((entry, row.try_into().expect("three words and eight bytes are 14")));
    }

    /// True when nothing was added.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.chunks.is_empty()
    }

    /// About how many bytes it has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.rows.len() * HOT_BYTES
            + self.cold.len()
            + self.page_views.len() * PAGE_VIEW_BYTES
            + self.ids.len() * 16
            + self.names_bytes
            + self.blocks.len() * 26
            + (self.batches.len() + self.tallies.len()) * 64
            + self.chunks.len() * 96
            + self.declared * DECLARED_BYTES
    }

    /// True when the message should be sent now. A builder that is not due has room for one more
    /// batch or chunk of the largest size that [`crate::limits`] allows.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.bytes() >= FLUSH_BYTES
            || self.batches.len() + self.chunks.len() + 1 >= MESSAGE_ENTRIES_MAX
            || self.tallies.len() > MESSAGE_ROWS_MAX / 2
    }

    /// The binary form, stamped with the collector's time.
    #[must_use]
    pub fn finish(self, partition: u16, stamp: Timestamp) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes() + 1024);
        out.extend(MAGIC);
        out.extend(partition.to_le_bytes());
        out.extend(stamp.0.to_le_bytes());
        self.put_entries(&mut out);
        put_count(&mut out, self.blocks.len());
        for (issuer, block) in in_order(&self.blocks) {
            out.extend(issuer.padded());
            out.extend(block.0);
        }
        put_count(&mut out, self.minutes.len());
        in_order(&self.minutes).iter().for_each(|minute| out.extend(minute.0.to_le_bytes()));
        put_count(&mut out, self.ids.len());
        in_order(&self.ids).iter().for_each(|id| out.extend(id.padded()));
        put_count(&mut out, self.names.len());
        for (id, name) in &self.names {
            out.extend((1 + id).to_le_bytes());
            out.push(u8::try_from(name.as_str().len()).expect("a name has at most 128 bytes"));
            out.extend(name.as_str().as_bytes());
        }
        put_count(&mut out, self.prices.len());
        for price in in_order(&self.prices) {
            out.extend(price.currency.bytes());
            out.extend(price.micros.to_le_bytes());
        }
        put_count(&mut out, self.page_views.len());
        for (entry, view) in &self.page_views {
            out.extend(self.entry_number(*entry).to_le_bytes());
            out.extend(view);
        }
        put_count(&mut out, self.rows.len());
        for (entry, hot) in &self.rows {
            out.extend(self.entry_number(*entry).to_le_bytes());
            out.extend(hot);
        }
        put_count(&mut out, self.cold.len());
        out.extend(&self.cold);
        out
    }

    fn put_entries(&self, out: &mut Vec<u8>) {
        put_count(out, self.batches.len());
        for batch in &self.batches {
            out.extend(batch.outbox.edge.padded());
            out.extend(batch.outbox.epoch.to_le_bytes());
            out.extend(batch.number.to_le_bytes());
            out.extend(batch.watermark.0.to_le_bytes());
            out.extend(batch.digest.0);
            put_declared(out, &batch.declared);
        }
        put_count(out, self.chunks.len());
        for chunk in &self.chunks {
            out.extend(chunk.source.0);
            out.extend(chunk.first_row.to_le_bytes());
            out.extend(chunk.end_row.to_le_bytes());
            out.extend(chunk.digest);
            put_declared(out, &chunk.declared);
        }
        put_count(out, self.tallies.len());
        for (is_chunk, TallyEntry { entry, tally }) in &self.tallies {
            let entry = if *is_chunk { Entry::Chunk(*entry) } else { Entry::Batch(*entry) };
            out.extend(self.entry_number(entry).to_le_bytes());
            out.extend(tally.minute.0.to_le_bytes());
            out.extend([tally.kind.code(), tally.reason.code()]);
            out.extend(tally.count.to_le_bytes());
        }
    }

    fn entry_number(&self, entry: Entry) -> u16 {
        match entry {
            Entry::Batch(n) => n,
            Entry::Chunk(n) => number(self.batches.len() + usize::from(n)),
        }
    }

    fn id(&mut self, id: AnyId) -> u16 {
        if id.is_none() { 0 } else { 1 + intern(&mut self.ids, id) }
    }

    /// Keeps the name of an id that is a digest.
    fn name(&mut self, name: &NameBuf<Any>) {
        let id = intern(&mut self.ids, name.id());
        if self.names.insert(id, name.clone()).is_none() {
            self.names_bytes += NAME_ENTRY_BYTES + name.as_str().len();
        }
    }
}

/// A hot row without its entry.
pub(super) struct Hot {
    /// Block, sequence, minute, ad, publisher, placement, price.
    pub(super) words: [u16; 7],
    pub(super) packed: Packed,
    pub(super) numbered: bool,
    pub(super) outcome: Outcome,
    pub(super) ms: u16,
    pub(super) age: i16,
    pub(super) region: Region,
    pub(super) network: Network,
    pub(super) visitor: Fingerprint,
}

impl Hot {
    pub(super) fn bytes(&self) -> [u8; HOT_BYTES - 2] {
        let mut hot = Vec::with_capacity(HOT_BYTES - 2);
        self.words.iter().for_each(|word| hot.extend(word.to_le_bytes()));
        hot.extend(self.packed.number().to_le_bytes());
        put_reason(&mut hot, self.outcome.ok().flatten());
        if self.numbered {
            hot[18] |= NUMBERED;
        }
        put_reason(&mut hot, self.outcome.err());
        hot.extend(self.ms.to_le_bytes());
        hot.extend(self.age.to_le_bytes());
        hot.extend(self.region.bytes());
        hot.extend(self.network.0);
        hot.extend(self.visitor.0.to_le_bytes());
        hot.try_into().expect("the fields of a hot row are 42 bytes")
    }
}

/// The minutes from the issue of a token to its event; [`NOT_ISSUED`] when they do not fit, which
/// is longer than any token lives.
fn age(minute: Minute, issued: Minute) -> i16 {
    let age = i64::from(minute.0) - i64::from(issued.0);
    i16::try_from(age).unwrap_or(NOT_ISSUED)
}

fn intern<T: Hash + Eq>(table: &mut Table<T>, value: T) -> u16 {
    let next = table.len();
    *table.entry(value).or_insert_with(|| number(next))
}

/// The values of a table, in the order of their numbers.
fn in_order<T>(table: &Table<T>) -> Vec<&T> {
    let mut rows: Vec<_> = table.iter().collect();
    rows.sort_unstable_by_key(|(_, number)| **number);
    rows.into_iter().map(|(value, _)| value).collect()
}

fn number(n: usize) -> u16 {
    u16::try_from(n).expect("limits.rs: a message that is not due has room for one more batch")
}
