//! Reading a partition message in place.

use super::batch::Tally;
use super::codec::Reader;
use super::message::{
    BatchEntry, COLD_BYTES, COLD_BYTES_1, ChunkEntry, HOT_BYTES, MAGIC, MAGIC_1, MAGIC_2, NUMBERED,
    PAGE_BYTES, TallyEntry,
};
use super::{Declared, WireError};
use crate::event::Reason;
use crate::event::{
    Device, Fingerprint, Flags, Kind, Network, Outcome, PageSeq, PageView, RuleSet,
};
use crate::id::{BatchDigest, BlockId, Id, OutboxId, SourceId};
use crate::limits::{MESSAGE_ENTRIES_MAX, MESSAGE_ROWS_MAX};
use crate::money::{Currency, Money};
use crate::time::{Minute, Timestamp};

/// A partition message, checked as a whole: every number in [`MessageView::rows`] lies within the
/// table that it points into.
#[derive(Clone, Debug)]
pub struct MessageView<'a> {
    /// Of which partition.
    pub partition: u16,
    /// The collector's time when it was made: the log's clock.
    pub stamp: Timestamp,
    /// The batches coalesced.
    pub batches: Vec<BatchEntry>,
    /// The chunks coalesced; a row's entry counts on from the batches.
    pub chunks: Vec<ChunkEntry>,
    /// What was only counted.
    pub tallies: Vec<TallyEntry>,
    /// Blocks by number; 0 is none.
    pub blocks: Vec<(Id, BlockId)>,
    /// Minutes by number.
    pub minutes: Vec<Minute>,
    /// Ids by number; 0 is none.
    pub ids: Vec<Id>,
    /// Prices by number; 0 is none.
    pub prices: Vec<Money>,
    /// What page views say that they have told.
    pub pages: Vec<PageRow>,
    hot: &'a [u8],
    cold: &'a [u8],
    /// From version 2 on cold rows have their rule set.
    version: u8,
}

/// What a page view says that it has told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRow {
    /// The batch that brought it.
    pub entry: u16,
    /// [`MessageView::minutes`].
    pub minute: u16,
    /// [`MessageView::ids`].
    pub publisher: u16,
    /// Which, and how many.
    pub told: PageSeq,
}

/// What the engine needs of an event; numbers point into the message's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// The batch, or after the last batch the chunk, that brought it.
    pub entry: u16,
    /// [`MessageView::blocks`].
    pub block: u16,
    /// The place in the block.
    pub seq: u16,
    /// [`MessageView::minutes`].
    pub minute: u16,
    /// [`MessageView::ids`].
    pub ad: u16,
    /// [`MessageView::ids`].
    pub publisher: u16,
    /// [`Country::index`].
    pub country: u16,
    /// [`MessageView::prices`].
    pub price: u16,
    /// What happened.
    pub kind: Kind,
    /// The page view that told of it numbers what it tells.
    pub numbered: bool,
    /// The class of device.
    pub device: Device,
    /// What the collector found.
    pub outcome: Outcome,
}

/// What only the archive needs of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cold<'a> {
    /// Milliseconds within its minute.
    pub ms: u16,
    /// [`MessageView::ids`].
    pub campaign: u16,
    /// [`MessageView::ids`].
    pub advertiser: u16,
    /// [`MessageView::ids`].
    pub placement: u16,
    /// The visitor.
    pub visitor: Fingerprint,
    /// The network.
    pub network: Network,
    /// Remarks.
    pub flags: Flags,
    /// The rules that the edge's verdict follows from.
    pub rules: RuleSet,
    /// Body and signature of the token, or nothing.
    pub proof: &'a [u8],
}

impl<'a> MessageView<'a> {
    /// Reads a message that fills `bytes`.
    ///
    /// # Errors
    /// [`WireError`] says what is wrong and where.
    pub fn read(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let version = match reader.array()? {
            MAGIC => 3,
            MAGIC_2 => 2,
            MAGIC_1 => 1,
            _ => {
                let what = "no partition message of version 1 to 3 (CSM3)";
                return Err(WireError { what, at: 0 });
            }
        };
        let partition = reader.u16()?;
        let stamp = reader.time()?;
        let batches = list(&mut reader, 44, MESSAGE_ENTRIES_MAX, |reader| batch(reader, version))?;
        let chunks = list(&mut reader, 68, MESSAGE_ENTRIES_MAX, chunk)?;
        let tallies = list(&mut reader, 12, MESSAGE_ROWS_MAX, tally)?;
        let mut blocks = vec![(Id::NONE, BlockId::default())];
        blocks.extend(list(&mut reader, 26, MESSAGE_ROWS_MAX - 1, |reader| {
            Ok((reader.id()?, BlockId(reader.array()?)))
        })?);
        let minutes = list(&mut reader, 4, MESSAGE_ROWS_MAX, Reader::minute)?;
        let mut ids = vec![Id::NONE];
        ids.extend(list(&mut reader, 16, MESSAGE_ROWS_MAX - 1, Reader::id)?);
        let mut prices = vec![Money::ZERO];
        prices.extend(list(&mut reader, 11, MESSAGE_ROWS_MAX - 1, price)?);
        let pages = match version {
            2.. => list(&mut reader, PAGE_BYTES, MESSAGE_ROWS_MAX, page)?,
            _ => Vec::new(),
        };
        let rows = reader.count(HOT_BYTES, MESSAGE_ROWS_MAX)?;
        let hot = reader.slice(rows * HOT_BYTES)?;
        let cold = reader.count(1, bytes.len())?;
        let cold = reader.slice(cold)?;
        reader.end()?;
        let view = Self {
            partition,
            stamp,
            batches,
            chunks,
            tallies,
            blocks,
            minutes,
            ids,
            prices,
            pages,
            hot,
            cold,
            version,
        };
        view.check()?;
        Ok(view)
    }

    /// The events, in the order of the log.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row> + Clone + use<'a> {
        self.hot.chunks_exact(HOT_BYTES).map(row)
    }

    /// What only the archive needs of the events, in the same order.
    ///
    /// # Errors
    /// [`WireError`] when the cold part does not have a row for each event, or a number of it
    /// points nowhere.
    pub fn cold(&self) -> Result<Vec<Cold<'a>>, WireError> {
        let mut reader = Reader::new(self.cold);
        let mut rows = Vec::with_capacity(self.hot.len() / HOT_BYTES);
        for _ in 0..self.hot.len() / HOT_BYTES {
            let row = Cold {
                ms: reader.u16()?,
                campaign: reader.u16()?,
                advertiser: reader.u16()?,
                placement: reader.u16()?,
                visitor: Fingerprint(reader.u64()?),
                network: Network(reader.array()?),
                flags: Flags(reader.u8()?),
                rules: RuleSet(if self.version > 1 { reader.u32()? } else { 0 }),
                proof: {
                    let length = reader.u16()?;
                    reader.slice(usize::from(length))?
                },
            };
            let last = row.campaign.max(row.advertiser).max(row.placement);
            if usize::from(last) >= self.ids.len() || row.ms >= 60_000 {
                return Err(reader.error("a cold row that points nowhere"));
            }
            rows.push(row);
        }
        reader.end()?;
        Ok(rows)
    }

    /// How many minutes its batches and chunks declare, each for itself.
    #[must_use]
    pub fn declared(&self) -> usize {
        let of_batches = self.batches.iter().map(|batch| batch.declared.len());
        of_batches.chain(self.chunks.iter().map(|chunk| chunk.declared.len())).sum()
    }

    /// The number of batches and chunks.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.batches.len() + self.chunks.len()
    }

    fn check(&self) -> Result<(), WireError> {
        let error = |what| Err(WireError { what, at: 0 });
        let cold_bytes = if self.version > 1 { COLD_BYTES } else { COLD_BYTES_1 };
        if self.cold.len() < self.hot.len() / HOT_BYTES * cold_bytes {
            return error("fewer cold rows than hot ones");
        }
        let entries = self.entries();
        if self.tallies.iter().any(|tally| usize::from(tally.entry) >= entries) {
            return error("a tally of a batch that is not listed");
        }
        let points_nowhere = |row: &PageRow| {
            usize::from(row.entry) >= entries
                || usize::from(row.minute) >= self.minutes.len()
                || usize::from(row.publisher) >= self.ids.len()
        };
        if self.pages.iter().any(points_nowhere) {
            return error("a page view that points nowhere");
        }
        let kinds = if self.version > 1 { !NUMBERED } else { u8::MAX };
        let within =
            |number: [u8; 2], length: usize| usize::from(u16::from_le_bytes(number)) < length;
        let good = self.hot.chunks_exact(HOT_BYTES).all(|r| {
            within([r[0], r[1]], entries)
                && within([r[2], r[3]], self.blocks.len())
                && within([r[6], r[7]], self.minutes.len())
                && within([r[8], r[9]], self.ids.len())
                && within([r[10], r[11]], self.ids.len())
                && within([r[12], r[13]], 676)
                && within([r[14], r[15]], self.prices.len())
                && usize::from(r[16] & kinds) < Kind::ALL.len()
                && usize::from(r[17]) < Device::ALL.len()
                && is_reason_or_none(r[18])
                && is_reason_or_none(r[19])
        });
        if good { Ok(()) } else { error("a row that points nowhere, or with an unknown code") }
    }
}

/// A code that no reason has must not look like none: the event would be counted.
const fn is_reason_or_none(code: u8) -> bool {
    code == 0 || Reason::from_code(code).is_some()
}

/// A row that [`MessageView::check`] has seen: its codes are known.
#[inline]
fn row(r: &[u8]) -> Row {
    let word = |at: usize| u16::from_le_bytes([r[at], r[at + 1]]);
    let outcome = match Reason::from_code(r[19]) {
        Some(reason) => Err(reason),
        None => Ok(Reason::from_code(r[18])),
    };
    Row {
        entry: word(0),
        block: word(2),
        seq: word(4),
        minute: word(6),
        ad: word(8),
        publisher: word(10),
        country: word(12),
        price: word(14),
        kind: Kind::from_code(r[16] & !NUMBERED).unwrap_or(Kind::Served),
        numbered: r[16] & NUMBERED != 0,
        device: Device::from_code(r[17]).unwrap_or(Device::Unknown),
        outcome,
    }
}

fn list<'a, T>(
    reader: &mut Reader<'a>,
    least: usize,
    most: usize,
    mut item: impl FnMut(&mut Reader<'a>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let count = reader.count(least, most)?;
    (0..count).map(|_| item(reader)).collect()
}

fn batch(reader: &mut Reader<'_>, version: u8) -> Result<BatchEntry, WireError> {
    Ok(BatchEntry {
        outbox: OutboxId { edge: reader.id()?, epoch: reader.u64()? },
        number: reader.u64()?,
        watermark: reader.time()?,
        digest: if version > 2 { BatchDigest(reader.array()?) } else { BatchDigest::UNKNOWN },
        declared: declared(reader)?,
    })
}

fn chunk(reader: &mut Reader<'_>) -> Result<ChunkEntry, WireError> {
    let entry = ChunkEntry {
        source: SourceId(reader.array()?),
        first_row: reader.u64()?,
        end_row: reader.u64()?,
        digest: reader.array()?,
        declared: declared(reader)?,
    };
    if entry.end_row < entry.first_row {
        return Err(reader.error("a chunk that ends before it starts"));
    }
    Ok(entry)
}

fn declared(reader: &mut Reader<'_>) -> Result<Declared, WireError> {
    reader.declared(MESSAGE_ROWS_MAX)
}

fn tally(reader: &mut Reader<'_>) -> Result<TallyEntry, WireError> {
    let entry = reader.u16()?;
    let minute = reader.minute()?;
    let kind = reader.kind()?;
    let reason = reader.reason()?.ok_or_else(|| reader.error("a tally without a reason"))?;
    Ok(TallyEntry { entry, tally: Tally { minute, kind, reason, count: reader.u32()? } })
}

fn page(reader: &mut Reader<'_>) -> Result<PageRow, WireError> {
    let [entry, minute, publisher, seq] =
        [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
    let told = PageSeq { page: PageView(reader.u64()?), seq };
    if told.is_good() {
        return Ok(PageRow { entry, minute, publisher, told });
    }
    Err(reader.error("a number that no page may give"))
}

fn price(reader: &mut Reader<'_>) -> Result<Money, WireError> {
    let currency = Currency::from_bytes(reader.array()?)
        .ok_or_else(|| reader.error("a currency of other than capital letters"))?;
    let micros = i64::from_le_bytes(reader.array()?);
    let money = Money { micros, currency };
    if money.is_unnamed() { Err(reader.error("an amount without a currency")) } else { Ok(money) }
}
