//! The columns of the archive's records, which `docs/archive.md` explains to readers. Pure.

use std::fmt::Write as _;
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array,
};
use arrow_schema::{ArrowError, Field, Schema};
use shared::wire::ChunkEntry;
use shared::{
    BatchDigest, Codes, EdgeId, IssuerId, Kind, Money, Network, Region, RuleSet, Timestamp,
    dimensions,
};

/// The kind of a record. Its names are the values of the column `record`, and the records of a file are
/// sorted by kind first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum RecordKind {
    /// A batch that a message lists.
    Batch,
    /// A chunk of an imported log that a message lists.
    Chunk,
    /// The number of events of one minute that a batch or chunk declares.
    Declared,
    /// An event.
    Event,
    /// An operator's word that a batch never comes.
    Resolved,
    /// An operator's word that an edge is out of service.
    Retired,
    /// Events that an edge has only counted.
    Tally,
    /// Bytes in the log that are no message.
    Unreadable,
}

impl RecordKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Chunk => "chunk",
            Self::Declared => "declared",
            Self::Event => "event",
            Self::Resolved => "resolved",
            Self::Retired => "retired",
            Self::Tally => "tally",
            Self::Unreadable => "unreadable",
        }
    }
}

/// One record. Fields that its kind does not have are `None`, empty, or the value for "unknown".
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub(super) record_kind: RecordKind,
    pub(super) partition: u16,
    pub(super) sequence: u64,
    /// Its number among the records of its kind in its message.
    pub(super) row: u32,
    pub(super) stamp: Option<Timestamp>,
    /// The log's clock after the message.
    pub(super) clock: Timestamp,
    /// The index of the batch or chunk within the message.
    pub(super) entry: Option<u16>,
    /// The edge and epoch of the outbox, and the batch's number, as far as the record is about them.
    pub(super) edge: Option<EdgeId>,
    pub(super) epoch: Option<u64>,
    pub(super) number: Option<u64>,
    /// None also for a batch that closes its outbox, whose watermark is the end of time.
    pub(super) watermark: Option<Timestamp>,
    pub(super) chunk: Option<&'a ChunkEntry>,
    /// The row of the imported log that an event comes from, or a chunk's first row.
    pub(super) source_row: Option<u64>,
    /// A batch's digest, where its message has it.
    pub(super) digest: Option<BatchDigest>,
    pub(super) at: Option<Timestamp>,
    pub(super) kind: Option<Kind>,
    pub(super) outcome: Option<&'static str>,
    pub(super) verdict: Option<&'static str>,
    /// The start of the minute in which the token was issued.
    pub(super) issued: Option<Timestamp>,
    pub(super) issuer: IssuerId,
    pub(super) block: Option<&'a str>,
    pub(super) opened: Option<Timestamp>,
    pub(super) seq: Option<u16>,
    pub(super) ad: &'a str,
    pub(super) campaign: &'a str,
    pub(super) advertiser: &'a str,
    pub(super) publisher: &'a str,
    pub(super) placement: &'a str,
    pub(super) codes: Option<Codes>,
    pub(super) region: Region,
    pub(super) network: Network,
    pub(super) visitor: u64,
    pub(super) flags: Option<u8>,
    pub(super) rules: RuleSet,
    pub(super) price: Money,
    /// The number of events that the record stands for.
    pub(super) count: u32,
    pub(super) proof: &'a [u8],
}

/// A column: its name, whether it can be null, and how it is made of records.
struct Column {
    name: &'static str,
    nullable: bool,
    array: fn(&[Record<'_>]) -> ArrayRef,
}

const fn always(name: &'static str, array: fn(&[Record<'_>]) -> ArrayRef) -> Column {
    Column { name, nullable: false, array }
}

const fn maybe(name: &'static str, array: fn(&[Record<'_>]) -> ArrayRef) -> Column {
    Column { name, nullable: true, array }
}

const COLUMNS: &[Column] = &[
    always("record", |r| texts(r, |r| Some(r.record_kind.name()))),
    always("partition", |r| Arc::new(UInt16Array::from_iter_values(r.iter().map(|r| r.partition)))),
    always("sequence", |r| Arc::new(UInt64Array::from_iter_values(r.iter().map(|r| r.sequence)))),
    always("row", |r| Arc::new(UInt32Array::from_iter_values(r.iter().map(|r| r.row)))),
    maybe("stamp", |r| times(r, |r| r.stamp)),
    always("clock", |r| times(r, |r| Some(r.clock))),
    maybe("entry", |r| Arc::new(r.iter().map(|r| r.entry).collect::<UInt16Array>())),
    maybe("edge", |r| texts(r, |r| r.edge.as_ref().map(EdgeId::as_str))),
    maybe("epoch", |r| numbers(r, |r| r.epoch)),
    maybe("number", |r| numbers(r, |r| r.number)),
    maybe("watermark", |r| times(r, |r| r.watermark)),
    maybe("source", |r| shown(r, |r| r.chunk.map(|chunk| chunk.source))),
    maybe("source_row", |r| numbers(r, |r| r.source_row)),
    maybe("source_end", |r| numbers(r, |r| own_chunk(r).map(|chunk| chunk.end_row))),
    maybe("source_digest", |r| {
        shown(r, |r| own_chunk(r).map(|chunk| shared::text::hex(&chunk.digest)))
    }),
    maybe("at", |r| times(r, |r| r.at)),
    maybe("kind", |r| texts(r, |r| r.kind.map(Kind::name))),
    maybe("outcome", |r| texts(r, |r| r.outcome)),
    maybe("verdict", |r| texts(r, |r| r.verdict)),
    maybe("issuer", |r| names(r, |r| r.issuer.as_str())),
    maybe("block", |r| texts(r, |r| r.block)),
    maybe("opened", |r| times(r, |r| r.opened)),
    maybe("seq", |r| Arc::new(r.iter().map(|r| r.seq).collect::<UInt16Array>())),
    maybe("ad", |r| names(r, |r| r.ad)),
    maybe("campaign", |r| names(r, |r| r.campaign)),
    maybe("advertiser", |r| names(r, |r| r.advertiser)),
    maybe("publisher", |r| names(r, |r| r.publisher)),
    maybe("placement", |r| names(r, |r| r.placement)),
    maybe("country", |r| shown(r, |r| r.codes.map(|codes| codes.country))),
    maybe("device", |r| shown(r, |r| r.codes.map(|codes| codes.device))),
    maybe("network", networks),
    maybe("visitor", |r| numbers(r, |r| Some(r.visitor).filter(|visitor| *visitor != 0))),
    maybe("flags", |r| Arc::new(r.iter().map(|r| r.flags).collect::<UInt8Array>())),
    maybe("price_micros", |r| Arc::new(r.iter().map(price_micros).collect::<Int64Array>())),
    maybe("currency", |r| shown(r, |r| price_micros(r).map(|_| r.price.currency))),
    always("count", |r| Arc::new(UInt32Array::from_iter_values(r.iter().map(|r| r.count)))),
    maybe("proof", proofs),
    // Columns that were added later; files of earlier builds end above.
    maybe("rules", |r| shown(r, |r| Some(r.rules).filter(|rules| *rules != RuleSet::UNKNOWN))),
    maybe("digest", |r| shown(r, |r| r.digest)),
    maybe("region", |r| shown(r, |r| Some(r.region).filter(|region| *region != Region::UNKNOWN))),
    maybe("issued", |r| times(r, |r| r.issued)),
];

macro_rules! codes {
    (names $names:tt codes { $($(#[$doc:meta])* $code:ident: $type:ty, $bits:literal,)+ }) => {
        /// A column for each code of the list in `shared::counted`.
        const CODES: &[Column] = &[
            $(maybe(stringify!($code), |r| shown(r, |r| r.codes.map(|codes| codes.$code))),)+
        ];
    };
}

dimensions!(codes);

/// All columns: [`COLUMNS`], then the codes that were added to the list later and are not among them.
fn columns() -> impl Iterator<Item = &'static Column> {
    let is_new = |code: &&Column| COLUMNS.iter().all(|column| column.name != code.name);
    COLUMNS.iter().chain(CODES.iter().rev().filter(is_new))
}

/// The schema of every file. A file that an earlier build wrote may lack the last columns, which are then
/// to be read as null.
#[must_use]
pub fn schema() -> Schema {
    let field = |column: &Column| {
        let kind = (column.array)(&[]).data_type().clone();
        Field::new(column.name, kind, column.nullable)
    };
    Schema::new(columns().map(field).collect::<Vec<_>>())
}

/// Records as columns.
pub(super) fn table(
    schema: &Arc<Schema>,
    records: &[Record<'_>],
) -> Result<RecordBatch, ArrowError> {
    let arrays = columns().map(|column| (column.array)(records)).collect();
    RecordBatch::try_new(Arc::clone(schema), arrays)
}

fn texts(records: &[Record<'_>], of: for<'r> fn(&'r Record<'_>) -> Option<&'r str>) -> ArrayRef {
    Arc::new(records.iter().map(of).collect::<StringArray>())
}

fn names(records: &[Record<'_>], of: for<'r> fn(&'r Record<'_>) -> &'r str) -> ArrayRef {
    let names = records.iter().map(|record| Some(of(record)).filter(|name| !name.is_empty()));
    Arc::new(names.collect::<StringArray>())
}

fn numbers(records: &[Record<'_>], of: fn(&Record<'_>) -> Option<u64>) -> ArrayRef {
    Arc::new(records.iter().map(of).collect::<UInt64Array>())
}

fn times(records: &[Record<'_>], of: fn(&Record<'_>) -> Option<Timestamp>) -> ArrayRef {
    // A wrong clock may say a time that does not fit into the column; the largest one stands for it.
    let ms = |time: Timestamp| i64::try_from(time.0).unwrap_or(i64::MAX);
    let times = records.iter().map(|record| of(record).map(ms));
    Arc::new(times.collect::<TimestampMillisecondArray>().with_timezone("UTC"))
}

/// Values as the texts that they are displayed as.
fn shown<T: std::fmt::Display>(
    records: &[Record<'_>],
    of: fn(&Record<'_>) -> Option<T>,
) -> ArrayRef {
    let mut texts = StringBuilder::with_capacity(records.len(), 0);
    for record in records {
        match of(record) {
            Some(value) => {
                // Writing into memory cannot fail.
                let _ = write!(texts, "{value}");
                texts.append_value("");
            }
            None => texts.append_null(),
        }
    }
    Arc::new(texts.finish())
}

/// The chunk of a record of kind `Chunk`; other records name their chunk's source alone.
fn own_chunk<'a>(record: &Record<'a>) -> Option<&'a ChunkEntry> {
    record.chunk.filter(|_| record.record_kind == RecordKind::Chunk)
}

fn price_micros(record: &Record<'_>) -> Option<i64> {
    Some(record.price.micros).filter(|micros| *micros != 0)
}

/// Networks in CIDR notation. Addresses were cut to their networks before anything was written.
fn networks(records: &[Record<'_>]) -> ArrayRef {
    let mut texts = StringBuilder::with_capacity(records.len(), 0);
    for record in records {
        let [version, a, b, c, d, e, f] = record.network.0;
        // Writing into memory cannot fail.
        let _ = match version {
            4 => write!(texts, "{a}.{b}.{c}.0/24"),
            6 => {
                let words = [[a, b], [c, d], [e, f]].map(u16::from_be_bytes);
                let [a, b, c] = words;
                let address = std::net::Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0);
                write!(texts, "{address}/48")
            }
            _ => {
                texts.append_null();
                continue;
            }
        };
        texts.append_value("");
    }
    Arc::new(texts.finish())
}

fn proofs(records: &[Record<'_>]) -> ArrayRef {
    let mut proofs = BinaryBuilder::with_capacity(records.len(), 0);
    for record in records {
        proofs.append_option(Some(record.proof).filter(|proof| !proof.is_empty()));
    }
    Arc::new(proofs.finish())
}
