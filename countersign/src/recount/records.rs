//! Reads a file of the archive as plain records, in the order of the log.

use api::export::CELL;
use arrow_array::{Array, ArrayRef, RecordBatch, cast::AsArray, types};
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use shared::Codes;

use super::names::Names;

/// The kind of a record. The records of a message are taken in this order, because whether a batch
/// is repeated decides about its events.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum RecordKind {
    Resolved,
    Batch,
    Chunk,
    Event,
    Tally,
    Declared,
}

/// A text, as its number in [`Names`]; 0 is the empty text.
pub(super) type Name = u32;

/// A record, with the columns that the count needs. A column that is empty is 0 or `None`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) sequence: u64,
    pub(super) what: RecordKind,
    pub(super) row: u64,
    pub(super) entry: u64,
    pub(super) edge: Name,
    pub(super) epoch: u64,
    pub(super) number: u64,
    /// A batch's digest; 0 when it is not known.
    pub(super) digest: u128,
    pub(super) source: Name,
    pub(super) source_row: Option<u64>,
    pub(super) source_end: u64,
    pub(super) stamp_ms: i64,
    pub(super) clock_ms: i64,
    pub(super) opened_ms: Option<i64>,
    pub(super) at_ms: i64,
    pub(super) kind: Name,
    pub(super) outcome: Name,
    pub(super) verdict: Name,
    pub(super) issuer: Name,
    pub(super) block: Name,
    pub(super) seq: u16,
    /// The names of [`CELL`].
    pub(super) cell: [Name; CELL.len()],
    pub(super) price_micros: i64,
    pub(super) currency: Name,
    pub(super) count: i64,
}

/// Reads the records of messages up to `sequence`, in the order of the log.
///
/// # Errors
/// When it is damaged, or not a file of an archive.
pub(super) fn read(bytes: Bytes, sequence: u64, names: &mut Names) -> Result<Vec<Record>, String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| e.to_string())?;
    let known = archive::schema();
    let (there, known) = (builder.schema().fields().len(), known.fields());
    let (same, later) = known.split_at_checked(there).unwrap_or((known, &[]));
    if **builder.schema().fields() != *same || !later.iter().all(|field| field.is_nullable()) {
        return Err("its columns are not those of an archive".to_owned());
    }
    let wanted = COLUMNS.iter().chain(CELL).copied();
    let mask = ProjectionMask::columns(builder.parquet_schema(), wanted);
    let batches = builder.with_projection(mask).build().map_err(|error| error.to_string())?;
    let mut records = Vec::new();
    for batch in batches {
        let batch = batch.map_err(|error| error.to_string())?;
        let columns = Columns::from_batch(&batch).ok_or("a column is of another type")?;
        records.extend((0..batch.num_rows()).filter_map(|at| {
            let sequence = columns.sequence.at(at).filter(|of| *of <= sequence)?;
            columns.record(at, sequence, names)
        }));
    }
    records.sort_unstable_by_key(|record| match record.what {
        // Chunks of one log in the order of their rows.
        RecordKind::Chunk => (record.sequence, record.what, record.source_row, record.source_end),
        _ => (record.sequence, record.what, Some(record.entry), record.row),
    });
    Ok(records)
}

const COLUMNS: [&str; 24] = [
    "record",
    "sequence",
    "row",
    "stamp",
    "clock",
    "entry",
    "edge",
    "epoch",
    "number",
    "digest",
    "source",
    "source_row",
    "source_end",
    "at",
    "kind",
    "outcome",
    "verdict",
    "issuer",
    "block",
    "opened",
    "seq",
    "price_micros",
    "currency",
    "count",
];

/// A column of whole numbers, whatever their width.
enum NumberColumn<'a> {
    U16(&'a arrow_array::UInt16Array),
    U32(&'a arrow_array::UInt32Array),
    U64(&'a arrow_array::UInt64Array),
}

impl<'a> NumberColumn<'a> {
    fn from_array(array: &'a ArrayRef) -> Option<Self> {
        let u16s = array.as_primitive_opt::<types::UInt16Type>().map(Self::U16);
        let u32s = || array.as_primitive_opt::<types::UInt32Type>().map(Self::U32);
        u16s.or_else(u32s).or_else(|| array.as_primitive_opt::<types::UInt64Type>().map(Self::U64))
    }

    fn at(&self, at: usize) -> Option<u64> {
        match self {
            Self::U16(array) => array.is_valid(at).then(|| array.value(at).into()),
            Self::U32(array) => array.is_valid(at).then(|| array.value(at).into()),
            Self::U64(array) => array.is_valid(at).then(|| array.value(at)),
        }
    }
}

struct TextColumn<'a>(&'a arrow_array::StringArray);

impl TextColumn<'_> {
    fn at(&self, at: usize, names: &mut Names) -> Name {
        if self.0.is_valid(at) { names.number(self.0.value(at)) } else { 0 }
    }
}

struct TimeColumn<'a>(&'a arrow_array::TimestampMillisecondArray);

impl TimeColumn<'_> {
    fn at(&self, at: usize) -> Option<i64> {
        self.0.is_valid(at).then(|| self.0.value(at))
    }
}

/// The columns of a batch.
struct Columns<'a> {
    record: &'a arrow_array::StringArray,
    sequence: NumberColumn<'a>,
    row: NumberColumn<'a>,
    stamp: TimeColumn<'a>,
    clock: TimeColumn<'a>,
    entry: NumberColumn<'a>,
    edge: TextColumn<'a>,
    epoch: NumberColumn<'a>,
    number: NumberColumn<'a>,
    /// Older files do not have this column.
    digest: Option<&'a arrow_array::StringArray>,
    source: TextColumn<'a>,
    source_row: NumberColumn<'a>,
    source_end: NumberColumn<'a>,
    at: TimeColumn<'a>,
    kind: TextColumn<'a>,
    outcome: TextColumn<'a>,
    verdict: TextColumn<'a>,
    issuer: TextColumn<'a>,
    block: TextColumn<'a>,
    opened: TimeColumn<'a>,
    seq: NumberColumn<'a>,
    /// Older files lack the columns of codes that came later.
    cell: [Option<TextColumn<'a>>; CELL.len()],
    price_micros: &'a arrow_array::Int64Array,
    currency: TextColumn<'a>,
    count: NumberColumn<'a>,
}

impl<'a> Columns<'a> {
    fn from_batch(batch: &'a RecordBatch) -> Option<Self> {
        let numbers = |name| NumberColumn::from_array(batch.column_by_name(name)?);
        let texts = |name| batch.column_by_name(name)?.as_string_opt::<i32>().map(TextColumn);
        let times = |name| {
            let column = batch.column_by_name(name)?;
            column.as_primitive_opt::<types::TimestampMillisecondType>().map(TimeColumn)
        };
        Some(Self {
            record: texts("record")?.0,
            sequence: numbers("sequence")?,
            row: numbers("row")?,
            stamp: times("stamp")?,
            clock: times("clock")?,
            entry: numbers("entry")?,
            edge: texts("edge")?,
            epoch: numbers("epoch")?,
            number: numbers("number")?,
            digest: texts("digest").map(|texts| texts.0),
            source: texts("source")?,
            source_row: numbers("source_row")?,
            source_end: numbers("source_end")?,
            at: times("at")?,
            kind: texts("kind")?,
            outcome: texts("outcome")?,
            verdict: texts("verdict")?,
            issuer: texts("issuer")?,
            block: texts("block")?,
            opened: times("opened")?,
            seq: numbers("seq")?,
            cell: std::array::from_fn(|at| texts(CELL[at])),
            price_micros: batch.column_by_name("price_micros")?.as_primitive_opt()?,
            currency: texts("currency")?,
            count: numbers("count")?,
        })
    }

    /// The record at a row; `None` for kinds that the count does not need: retired edges, bytes
    /// that nobody could read.
    fn record(&self, at: usize, sequence: u64, names: &mut Names) -> Option<Record> {
        let what = match self.record.value(at) {
            "resolved" => RecordKind::Resolved,
            "batch" => RecordKind::Batch,
            "chunk" => RecordKind::Chunk,
            "event" => RecordKind::Event,
            "tally" => RecordKind::Tally,
            "declared" => RecordKind::Declared,
            _ => return None,
        };
        let price = self.price_micros;
        Some(Record {
            sequence,
            what,
            row: self.row.at(at).unwrap_or(0),
            entry: self.entry.at(at).unwrap_or(0),
            edge: self.edge.at(at, names),
            epoch: self.epoch.at(at).unwrap_or(0),
            number: self.number.at(at).unwrap_or(0),
            digest: self.digest.map_or(0, |digest| read_digest(digest.value(at))),
            source: self.source.at(at, names),
            source_row: self.source_row.at(at),
            source_end: self.source_end.at(at).unwrap_or(0),
            stamp_ms: self.stamp.at(at).unwrap_or(0),
            clock_ms: self.clock.at(at).unwrap_or(0),
            opened_ms: self.opened.at(at),
            at_ms: self.at.at(at).unwrap_or(0),
            kind: self.kind.at(at, names),
            outcome: self.outcome.at(at, names),
            verdict: self.verdict.at(at, names),
            issuer: self.issuer.at(at, names),
            block: self.block.at(at, names),
            seq: self.seq.at(at).and_then(|seq| seq.try_into().ok()).unwrap_or(0),
            cell: std::array::from_fn(|place| match &self.cell[place] {
                Some(texts) => texts.at(at, names),
                None => names.number(&unknown(CELL[place])),
            }),
            price_micros: if price.is_valid(at) { price.value(at) } else { 0 },
            currency: self.currency.at(at, names),
            count: self.count.at(at).and_then(|count| count.try_into().ok()).unwrap_or(0),
        })
    }
}

/// The text that stands for an unknown value of a code.
fn unknown(code: &str) -> String {
    let place = Codes::NAMES.iter().position(|name| *name == code);
    place.map_or_else(String::new, |place| Codes::default().texts()[place].clone())
}

fn read_digest(text: &str) -> u128 {
    u128::from_str_radix(text, 16).unwrap_or(0)
}
