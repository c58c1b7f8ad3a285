//! Reading a partition message in place.

use std::borrow::Cow;

use super::batch::Tally;
use super::message::{
    BatchEntry, COLD_BYTES, COLD_BYTES_1, COLD_BYTES_3, ChunkEntry, HOT_BYTES, HOT_BYTES_3, Hot,
    MAGIC, MAGIC_1, MAGIC_2, MAGIC_3, NOT_ISSUED, NUMBERED, PAGE_VIEW_BYTES, TallyEntry,
};
use super::{Declared, WireError};
use crate::bytes::Reader;
use crate::counted::{Codes, Packed};
use crate::event::{
    Country, Device, Fingerprint, Flags, Kind, Network, Outcome, PageSeq, PageView, Reason, Region,
    RuleSet,
};
use crate::id::{BatchDigest, BlockId, OutboxId, SourceId};
use crate::limits::{MESSAGE_ENTRIES_MAX, MESSAGE_ROWS_MAX};
use crate::money::{Currency, Money};
use crate::name::{Any, AnyId, IssuerId, Name};
use crate::time::{Minute, Timestamp};

mod kept;

pub use kept::KeptRows;

/// A partition message, read in place. It was checked as a whole: every number in
/// [`MessageView::rows`] is an index of the table that it points into.
#[derive(Clone, Debug)]
pub struct MessageView<'a> {
    /// Of which partition.
    pub partition: u16,
    /// The collector's time when it was made: the log's clock.
    pub stamp: Timestamp,
    /// The batches coalesced.
    pub batches: Vec<BatchEntry>,
    /// The chunks coalesced; the entries of rows number them on from the last batch.
    pub chunks: Vec<ChunkEntry>,
    /// Events that are known only as a number.
    pub tallies: Vec<TallyEntry>,
    /// Blocks by number; 0 is none.
    pub blocks: Vec<(IssuerId, BlockId)>,
    /// Minutes by number.
    pub minutes: Vec<Minute>,
    /// Ids by number; 0 is none.
    pub ids: Vec<AnyId>,
    /// The names of the ids that are digests, in the order of the ids' numbers.
    names: Vec<(u16, Name<'a, Any>)>,
    /// Prices by number; 0 is none.
    pub prices: Vec<Money>,
    /// The largest numbers that page views have told.
    pub page_views: Vec<PageViewRow>,
    /// The hot rows, in the form of the newest version.
    hot: Cow<'a, [u8]>,
    cold: &'a [u8],
    version: u8,
}

/// The largest number that a page view has told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageViewRow {
    /// The batch that brought it.
    pub entry: u16,
    /// [`MessageView::minutes`].
    pub minute: u16,
    /// [`MessageView::ids`].
    pub publisher: u16,
    /// The page view, and the number.
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
    /// [`MessageView::ids`].
    pub placement: u16,
    /// [`MessageView::prices`].
    pub price: u16,
    /// Codes, kind and validity.
    pub packed: Packed,
    /// Whether the page view that it came from numbers its events.
    pub numbered: bool,
    /// What the collector found.
    pub outcome: Outcome,
    /// Milliseconds within its minute.
    pub ms: u16,
    /// Minutes since the issue of its token, or [`NOT_ISSUED`].
    age: i16,
    /// The part of the country.
    pub region: Region,
    /// The network.
    pub network: Network,
    /// The visitor.
    pub visitor: Fingerprint,
}

impl Row {
    /// What happened.
    #[inline]
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.packed.kind()
    }

    /// Country and class of device.
    #[must_use]
    pub fn codes(&self) -> Codes {
        Packed::read(self.packed.number()).map(|(codes, ..)| codes).unwrap_or_default()
    }

    /// When its token was issued, where that is known; `minute` is the event's.
    #[must_use]
    pub fn issued(&self, minute: Minute) -> Option<Minute> {
        let issued = minute.0.checked_add_signed(-i32::from(self.age));
        issued.filter(|_| self.age != NOT_ISSUED).map(Minute)
    }

    /// Minutes since the issue of its token, where that is known. Less than 0 when the clocks of
    /// edges differ.
    #[inline]
    #[must_use]
    pub fn age(&self) -> Option<i16> {
        (self.age != NOT_ISSUED).then_some(self.age)
    }

    /// The numbers of its names among [`MessageView::ids`], in the order of the list.
    #[inline]
    #[must_use]
    pub const fn names(&self) -> [u16; crate::Dimensions::NAMES.len()] {
        macro_rules! numbers {
            (names { $($(#[$doc:meta])* $name:ident: $noun:ty,)+ } codes $codes:tt) => {
                [$(self.$name,)+]
            };
        }
        crate::dimensions!(numbers)
    }
}

/// What only the archive needs of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cold<'a> {
    /// [`MessageView::ids`].
    pub campaign: u16,
    /// [`MessageView::ids`].
    pub advertiser: u16,
    /// Remarks.
    pub flags: Flags,
    /// The rules that the edge's verdict was given by.
    pub rules: RuleSet,
    /// Body and signature of the token, or nothing.
    pub proof: &'a [u8],
}

/// A cold row of a version before 4, with what is in the hot row today.
struct Cold3<'a> {
    ms: u16,
    placement: u16,
    visitor: Fingerprint,
    network: Network,
    cold: Cold<'a>,
}

impl<'a> MessageView<'a> {
    /// Reads a message that fills `bytes`.
    ///
    /// # Errors
    /// [`WireError`] says what is wrong and where.
    pub fn read(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let version = match reader.array()? {
            MAGIC => 4,
            MAGIC_3 => 3,
            MAGIC_2 => 2,
            MAGIC_1 => 1,
            _ => {
                let what = "no partition message of version 1 to 4 (CSM4)";
                return Err(WireError { what, at: 0 });
            }
        };
        let partition = reader.u16()?;
        let stamp = reader.time()?;
        let batches = list(&mut reader, 44, MESSAGE_ENTRIES_MAX, |reader| batch(reader, version))?;
        let chunks = list(&mut reader, 68, MESSAGE_ENTRIES_MAX, chunk)?;
        let tallies = list(&mut reader, 12, MESSAGE_ROWS_MAX, tally)?;
        let mut blocks = vec![(IssuerId::NONE, BlockId::default())];
        blocks.extend(list(&mut reader, 26, MESSAGE_ROWS_MAX - 1, |reader| {
            Ok((reader.id()?, BlockId(reader.array()?)))
        })?);
        let minutes = list(&mut reader, 4, MESSAGE_ROWS_MAX, Reader::minute)?;
        let mut ids = vec![AnyId::NONE];
        ids.extend(list(&mut reader, 16, MESSAGE_ROWS_MAX - 1, Reader::id)?);
        let names = match version {
            4.. => names(&mut reader, &ids)?,
            _ if ids.iter().any(AnyId::is_digest) => {
                return Err(reader.error("an id with a byte that none has"));
            }
            _ => Vec::new(),
        };
        let mut prices = vec![Money::ZERO];
        prices.extend(list(&mut reader, 11, MESSAGE_ROWS_MAX - 1, price)?);
        let page_views = match version {
            2.. => list(&mut reader, PAGE_VIEW_BYTES, MESSAGE_ROWS_MAX, page_view)?,
            _ => Vec::new(),
        };
        let hot_bytes = if version > 3 { HOT_BYTES } else { HOT_BYTES_3 };
        let rows = reader.count(hot_bytes, MESSAGE_ROWS_MAX)?;
        let hot = reader.slice(rows * hot_bytes)?;
        let cold = reader.count(1, bytes.len())?;
        let cold = reader.slice(cold)?;
        reader.end()?;
        let mut view = Self {
            partition,
            stamp,
            batches,
            chunks,
            tallies,
            blocks,
            minutes,
            ids,
            names,
            prices,
            page_views,
            hot: Cow::Borrowed(hot),
            cold,
            version,
        };
        if version < 4 {
            view.check_3(hot)?;
            view.hot = Cow::Owned(view.renewed(hot));
        }
        view.check()?;
        Ok(view)
    }

    /// The events, in the order of the message.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row> + Clone + use<'_, 'a> {
        self.hot.chunks_exact(HOT_BYTES).map(row)
    }

    /// What only the archive needs of the events, in the same order.
    ///
    /// # Errors
    /// [`WireError`] when the cold part does not have a row for each event, or a number of it
    /// points nowhere.
    pub fn cold(&self) -> Result<Vec<Cold<'a>>, WireError> {
        if self.version < 4 {
            let rows = self.cold_3(self.hot.len() / HOT_BYTES)?;
            return Ok(rows.into_iter().map(|row| row.cold).collect());
        }
        let mut reader = Reader::new(self.cold);
        let mut rows = Vec::with_capacity(self.hot.len() / HOT_BYTES);
        for _ in 0..self.hot.len() / HOT_BYTES {
            rows.push(Cold {
                campaign: self.id(&mut reader)?,
                advertiser: self.id(&mut reader)?,
                flags: Flags(reader.u8()?),
                rules: RuleSet(reader.u32()?),
                proof: proof(&mut reader)?,
            });
        }
        reader.end()?;
        Ok(rows)
    }

    /// Reads `count` cold rows of a version before 4.
    fn cold_3(&self, count: usize) -> Result<Vec<Cold3<'a>>, WireError> {
        let mut reader = Reader::new(self.cold);
        let mut rows = Vec::with_capacity(count);
        for _ in 0..count {
            let ms = reader.u16()?;
            if ms >= 60_000 {
                return Err(reader.error("a cold row that points nowhere"));
            }
            let (campaign, advertiser) = (self.id(&mut reader)?, self.id(&mut reader)?);
            rows.push(Cold3 {
                ms,
                placement: self.id(&mut reader)?,
                visitor: Fingerprint(reader.u64()?),
                network: Network(reader.array()?),
                cold: Cold {
                    campaign,
                    advertiser,
                    flags: Flags(reader.u8()?),
                    rules: RuleSet(if self.version > 1 { reader.u32()? } else { 0 }),
                    proof: proof(&mut reader)?,
                },
            });
        }
        reader.end()?;
        Ok(rows)
    }

    fn id(&self, reader: &mut Reader<'_>) -> Result<u16, WireError> {
        let number = reader.u16()?;
        let is_there = usize::from(number) < self.ids.len();
        if is_there { Ok(number) } else { Err(reader.error("a cold row that points nowhere")) }
    }

    /// The name of this number among [`MessageView::ids`].
    #[must_use]
    pub fn name(&self, number: u16) -> Name<'_, Any> {
        self.ids[usize::from(number)].text().map_or_else(
            || {
                let at = self.names.binary_search_by_key(&number, |(number, _)| *number);
                at.map_or(Name::NONE, |at| self.names[at].1)
            },
            Name::from_checked,
        )
    }

    /// How many minutes its batches and chunks declare. A minute that two of them declare counts
    /// twice.
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
        let cold_bytes = match self.version {
            1 => COLD_BYTES_1,
            2 | 3 => COLD_BYTES_3,
            _ => COLD_BYTES,
        };
        if self.cold.len() < self.hot.len() / HOT_BYTES * cold_bytes {
            return error("fewer cold rows than hot ones");
        }
        let entries = self.entries();
        if self.tallies.iter().any(|tally| usize::from(tally.entry) >= entries) {
            return error("a tally of a batch that is not listed");
        }
        let points_nowhere = |row: &PageViewRow| {
            usize::from(row.entry) >= entries
                || usize::from(row.minute) >= self.minutes.len()
                || usize::from(row.publisher) >= self.ids.len()
        };
        if self.page_views.iter().any(points_nowhere) {
            return error("a page view that points nowhere");
        }
        let within =
            |number: [u8; 2], length: usize| usize::from(u16::from_le_bytes(number)) < length;
        let good = self.hot.chunks_exact(HOT_BYTES).all(|r| {
            let packed = u32::from_le_bytes([r[16], r[17], r[18], r[19]]);
            let valid = r[20] & !NUMBERED == 0 && r[21] == 0;
            within([r[0], r[1]], entries)
                && within([r[2], r[3]], self.blocks.len())
                && within([r[6], r[7]], self.minutes.len())
                && within([r[8], r[9]], self.ids.len())
                && within([r[10], r[11]], self.ids.len())
                && within([r[12], r[13]], self.ids.len())
                && within([r[14], r[15]], self.prices.len())
                && Packed::read(packed).is_some_and(|(.., said)| said == valid)
                && is_reason_or_none(r[20] & !NUMBERED)
                && is_reason_or_none(r[21])
                && within([r[22], r[23]], 60_000)
                && Region::from_bytes([r[26], r[27], r[28]]).is_some()
        });
        if good { Ok(()) } else { error("a row that points nowhere, or with an unknown code") }
    }

    /// Checks the codes of hot rows of a version before 4.
    fn check_3(&self, hot: &[u8]) -> Result<(), WireError> {
        let kinds = if self.version > 1 { !NUMBERED } else { u8::MAX };
        let good = hot.chunks_exact(HOT_BYTES_3).all(|r| {
            u16::from_le_bytes([r[12], r[13]]) < 676
                && Kind::from_code(r[16] & kinds).is_some()
                && Device::from_code(r[17]).is_some()
                && is_reason_or_none(r[18])
                && is_reason_or_none(r[19])
        });
        let what = "a row that points nowhere, or with an unknown code";
        if good { Ok(()) } else { Err(WireError { what, at: 0 }) }
    }

    /// Hot rows of a version before 4 in the form of today. Where the cold rows cannot be read,
    /// what was in them is left out rather than the message refused: a message that was counted
    /// once must always be.
    fn renewed(&self, hot: &[u8]) -> Vec<u8> {
        let cold = self.cold_3(hot.len() / HOT_BYTES_3).unwrap_or_default();
        let mut renewed = Vec::with_capacity(hot.len() / HOT_BYTES_3 * HOT_BYTES);
        for (at, r) in hot.chunks_exact(HOT_BYTES_3).enumerate() {
            let word = |at: usize| u16::from_le_bytes([r[at], r[at + 1]]);
            let cold = cold.get(at);
            let outcome = match Reason::from_code(r[19]) {
                Some(reason) => Err(reason),
                None => Ok(Reason::from_code(r[18])),
            };
            let country = Country::from_index(word(12)).unwrap_or_default();
            let codes = Codes::new(country, Device::from_code(r[17]).unwrap_or_default());
            let kind = Kind::from_code(r[16] & !NUMBERED).unwrap_or(Kind::Served);
            let placement = cold.map_or(0, |cold| cold.placement);
            let words = [word(2), word(4), word(6), word(8), word(10), placement, word(14)];
            let row = Hot {
                words,
                packed: Packed::new(codes.pack(), kind, outcome == Ok(None)),
                numbered: r[16] & NUMBERED != 0,
                outcome,
                ms: cold.map_or(0, |cold| cold.ms),
                age: NOT_ISSUED,
                region: Region::UNKNOWN,
                network: cold.map_or_else(Network::default, |cold| cold.network),
                visitor: cold.map_or(Fingerprint::NONE, |cold| cold.visitor),
            };
            renewed.extend(&r[..2]);
            renewed.extend(row.bytes());
        }
        renewed
    }
}

/// Whether this code is that of a reason, or 0 for none. Any other code must be refused: read as
/// "no reason", the event would be counted.
const fn is_reason_or_none(code: u8) -> bool {
    code == 0 || Reason::from_code(code).is_some()
}

/// Reads a hot row that [`MessageView::check`] has checked: all its codes are known.
#[inline]
fn row(r: &[u8]) -> Row {
    let word = |at: usize| u16::from_le_bytes([r[at], r[at + 1]]);
    let outcome = match Reason::from_code(r[21]) {
        Some(reason) => Err(reason),
        None => Ok(Reason::from_code(r[20] & !NUMBERED)),
    };
    Row {
        entry: word(0),
        block: word(2),
        seq: word(4),
        minute: word(6),
        ad: word(8),
        publisher: word(10),
        placement: word(12),
        price: word(14),
        packed: Packed::checked(u32::from_le_bytes([r[16], r[17], r[18], r[19]])),
        numbered: r[20] & NUMBERED != 0,
        outcome,
        ms: word(22),
        age: i16::from_le_bytes([r[24], r[25]]),
        region: Region::from_bytes([r[26], r[27], r[28]]).unwrap_or_default(),
        network: Network(std::array::from_fn(|i| r[29 + i])),
        visitor: Fingerprint(u64::from_le_bytes(std::array::from_fn(|i| r[36 + i]))),
    }
}

const NO_NAME: &str = "a name that is not that of its id";

fn proof<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    let length = reader.u16()?;
    reader.slice(usize::from(length))
}

/// Reads the names of the ids that are digests, each once. Returns them by the ids' numbers, in order.
fn names<'a>(
    reader: &mut Reader<'a>,
    ids: &[AnyId],
) -> Result<Vec<(u16, Name<'a, Any>)>, WireError> {
    let mut names = list(reader, 3, MESSAGE_ROWS_MAX, |reader| {
        let number = reader.u16()?;
        let length = usize::from(reader.u8()?);
        let text = std::str::from_utf8(reader.slice(length)?).ok();
        let name = text.and_then(|text| Name::new(text).ok()).filter(|name| name.is_long());
        let name = name.filter(|name| ids.get(usize::from(number)) == Some(&name.id()));
        name.map(|name| (number, name)).ok_or_else(|| reader.error(NO_NAME))
    })?;
    names.sort_unstable_by_key(|(number, _)| *number);
    if names.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(reader.error(NO_NAME));
    }
    let digests = ids.iter().filter(|id| id.is_digest()).count();
    if names.len() == digests { Ok(names) } else { Err(reader.error("an id without its name")) }
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

fn page_view(reader: &mut Reader<'_>) -> Result<PageViewRow, WireError> {
    let [entry, minute, publisher, seq] =
        [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
    let told = PageSeq { page: PageView(reader.u64()?), seq };
    if told.is_good() {
        return Ok(PageViewRow { entry, minute, publisher, told });
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
