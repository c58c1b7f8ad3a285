//! Writes a segment.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;
use std::sync::Arc;

use arrow_schema::Schema;
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashSet};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;
use shared::name::Any;
use shared::{AnyId, Currency, Money, NameBuf};

use super::beside::Beside;
use super::directory::sum;
use super::{Directory, GROUP_ROWS, SegmentError, table};
use crate::facts::block::{Block, Fact, Order};
use crate::facts::sorted::renumbered;

/// A little slower than the default of 1, with files a tenth smaller.
const ZSTD_LEVEL: i32 = 3;
/// Beyond this a column's texts are written one by one: larger than any row group's names.
const DICTIONARY_BYTES_MAX: usize = 64 << 20;

/// Under this key the footer has the digests of all column chunks, as in the directory: so the file
/// proves itself when the directory is lost.
pub(super) const CHUNKS: &str = "countersign.chunks";

/// The bytes of a file that are not taken yet.
#[derive(Clone, Default)]
struct Out(Arc<Mutex<Vec<u8>>>);

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What a finished segment is.
#[derive(Debug)]
pub(crate) struct Made {
    /// Bytes of the whole Parquet file.
    pub(crate) bytes: u64,
    pub(crate) directory: Directory,
    /// The sketches of its nodes, one after the other.
    pub(crate) sketches: Vec<u8>,
    /// The totals of its large runs, one after the other.
    pub(crate) totals: Vec<u8>,
}

/// The names of ids that are digests.
pub(crate) type NameOf<'a> = dyn Fn(AnyId) -> Option<NameBuf<Any>> + 'a;

/// Writes facts, which come in the order of a segment, as a Parquet file.
pub(crate) struct Writer<'a> {
    schema: Arc<Schema>,
    file: ArrowWriter<Out>,
    out: Out,
    taken: u64,
    name: &'a NameOf<'a>,
    beside: Beside,
    /// Facts of the row group that is begun.
    facts: Vec<Fact>,
}

impl<'a> Writer<'a> {
    /// `ids`, in order, and `prices`: what the facts' numbers are of.
    pub(crate) fn new(
        ids: Arc<[AnyId]>,
        prices: Arc<[Money]>,
        name: &'a NameOf<'a>,
    ) -> Result<Self, SegmentError> {
        let (schema, out) = (Arc::new(table::schema()), Out::default());
        let file = ArrowWriter::try_new(out.clone(), Arc::clone(&schema), Some(properties()?))?;
        let beside = Beside::new(ids, prices);
        Ok(Self { schema, file, out, taken: 0, name, beside, facts: Vec::new() })
    }

    /// Takes the next fact.
    pub(super) fn push(&mut self, fact: Fact) -> Result<(), SegmentError> {
        self.beside.push(&fact);
        self.facts.push(fact);
        if self.facts.len() == GROUP_ROWS { self.group() } else { Ok(()) }
    }

    fn group(&mut self) -> Result<(), SegmentError> {
        if self.facts.is_empty() {
            return Ok(());
        }
        let (ids, prices) = (Arc::clone(&self.beside.ids), Arc::clone(&self.beside.prices));
        let block = Block::new(&self.facts, ids, prices, Order::Runs);
        self.file.write(&table::table(&self.schema, &block, self.name)?)?;
        self.file.flush()?;
        self.file.sync().map_err(|error| SegmentError::new(error.to_string()))?;
        self.facts.clear();
        // What is written is not taken yet.
        let written = self.out.0.lock();
        let missing = || SegmentError::new("a row group was not written");
        let group = self.file.flushed_row_groups().last().ok_or_else(missing)?;
        for column in group.columns() {
            let (start, length) = column.byte_range();
            let at =
                |byte: u64| usize::try_from(byte.saturating_sub(self.taken)).unwrap_or(usize::MAX);
            let bytes = written.get(at(start)..at(start + length)).ok_or_else(missing)?;
            self.beside.sums.chunks.push(sum(bytes));
            self.beside.sums.footer_at = start + length;
        }
        Ok(())
    }

    /// The bytes that were written since the last call.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let bytes = std::mem::take(&mut *self.out.0.lock());
        self.taken += bytes.len() as u64;
        bytes
    }

    /// Ends the file: its last bytes, and what it is.
    pub(crate) fn finish(mut self) -> Result<(Vec<u8>, Made), SegmentError> {
        self.group()?;
        let chunks = shared::text::hex(&self.beside.sums.chunks.concat());
        self.file.append_key_value_metadata(KeyValue::new(CHUNKS.to_owned(), chunks));
        self.file.finish()?;
        let before = self.taken;
        let last = self.take();
        let Self { mut beside, taken, .. } = self;
        let at = usize::try_from(beside.sums.footer_at - before).unwrap_or(usize::MAX);
        let footer =
            last.get(at..).ok_or_else(|| SegmentError::new("the footer was not written"))?;
        beside.sums.footer = sum(footer);
        Ok((last, beside.finish(taken)))
    }
}

fn properties() -> Result<WriterProperties, SegmentError> {
    let path = |name: &str| ColumnPath::from(name);
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_dictionary_page_size_limit(DICTIONARY_BYTES_MAX)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(GROUP_ROWS));
    // Nearly every value is another one: a dictionary of them would only add to them.
    for name in ["network", "visitor"] {
        properties = properties
            .set_column_dictionary_enabled(path(name), false)
            .set_column_statistics_enabled(path(name), EnabledStatistics::None);
    }
    // The bytes of a network are those of its address: each place by itself is what compresses.
    let properties = properties.set_column_encoding(path("network"), Encoding::BYTE_STREAM_SPLIT);
    Ok(properties.build())
}

/// The tables of ids and prices of a segment.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    pub(super) ids: Arc<[AnyId]>,
    pub(super) prices: Arc<[Money]>,
}

impl Tables {
    /// The tables for all facts of those that have these tables.
    pub(crate) fn of<'t>(all: impl Iterator<Item = (&'t [AnyId], &'t [Money])>) -> Self {
        let mut ids = vec![AnyId::NONE];
        // Number 0 is that of no price.
        let mut prices = vec![Money::ZERO];
        let mut known: HashSet<(Currency, i64), FixedState> = HashSet::default();
        for (own, costs) in all {
            ids.extend_from_slice(own);
            let costs = costs.iter().filter(|price| **price != Money::ZERO);
            prices.extend(costs.filter(|price| known.insert((price.currency, price.micros))));
        }
        ids.sort_unstable();
        ids.dedup();
        // In order, so that the same facts give the same tables.
        prices[1..].sort_unstable_by_key(|price| (price.currency, price.micros));
        Self { ids: ids.into(), prices: prices.into() }
    }

    /// A writer of facts with these tables.
    pub(crate) fn writer<'a>(&self, name: &'a NameOf<'a>) -> Result<Writer<'a>, SegmentError> {
        Writer::new(Arc::clone(&self.ids), Arc::clone(&self.prices), name)
    }

    /// The ids that are digests: their names must be known.
    pub(crate) fn digests(&self) -> Vec<AnyId> {
        self.ids.iter().filter(|id| id.is_digest()).copied().collect()
    }

    /// One of those that become one segment, which has these tables. Its facts come as blocks, in
    /// the order of a segment.
    pub(crate) fn input(&self, ids: &[AnyId], prices: &[Money]) -> Input {
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let id = |id: &AnyId| place(self.ids.binary_search(id).unwrap_or_default());
        let numbers: HashMap<(Currency, i64), u32, FixedState> = (0..)
            .zip(&*self.prices)
            .map(|(number, price)| ((price.currency, price.micros), number))
            .collect();
        let price = |price: &Money| numbers.get(&(price.currency, price.micros)).copied();
        let prices = prices.iter().map(|own| price(own).unwrap_or_default()).collect();
        Input { ids: ids.iter().map(id).collect(), prices, block: None, row: 0 }
    }
}

/// One of those that become one segment.
#[derive(Debug)]
pub(crate) struct Input {
    /// By their numbers in its blocks, the numbers that its ids and prices get.
    ids: Vec<u32>,
    prices: Vec<u32>,
    block: Option<Block>,
    row: usize,
}

impl Input {
    fn fact(&self) -> Option<Fact> {
        let block = self.block.as_ref().filter(|block| self.row < block.rows())?;
        Some(renumbered(&block.fact(self.row), &self.ids, &self.prices))
    }
}

/// Merges facts into a writer. `next` gives the next block of the input with a number, or none.
/// `each` is called after each row group.
pub(crate) fn merge<E: From<SegmentError>>(
    mut inputs: Vec<Input>,
    writer: &mut Writer<'_>,
    mut next: impl FnMut(usize) -> Result<Option<Block>, E>,
    mut each: impl FnMut(&mut Writer<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let mut heap = BinaryHeap::with_capacity(inputs.len());
    let mut rows = 0_usize;
    for number in 0..inputs.len() {
        heap.extend(advance(&mut inputs, number, &mut next)?);
    }
    while let Some(Reverse((_, number))) = heap.pop() {
        let Some(input) = inputs.get_mut(number) else { continue };
        if let Some(fact) = input.fact() {
            writer.push(fact)?;
            rows += 1;
        }
        input.row += 1;
        heap.extend(advance(&mut inputs, number, &mut next)?);
        if rows.is_multiple_of(GROUP_ROWS) {
            each(writer)?;
        }
    }
    Ok(())
}

/// The next fact of an input, as what it is sorted by.
fn advance<E>(
    inputs: &mut [Input],
    number: usize,
    next: &mut impl FnMut(usize) -> Result<Option<Block>, E>,
) -> Result<Option<Reverse<(u128, usize)>>, E> {
    let Some(input) = inputs.get_mut(number) else { return Ok(None) };
    while input.block.as_ref().is_none_or(|block| input.row >= block.rows()) {
        let Some(block) = next(number)? else { return Ok(None) };
        (input.block, input.row) = (Some(block), 0);
    }
    Ok(input.fact().map(|fact| Reverse((order(&fact), number))))
}

/// What the facts of a segment are sorted by: ad, campaign, advertiser, minute, second.
pub(super) fn order(fact: &Fact) -> u128 {
    let [ad, _, _, campaign, advertiser] = fact.ids.map(u128::from);
    // Six bits are enough for a second, and 26 for a minute until the year 2097.
    let time = u128::from(fact.minute.0 & 0x03ff_ffff) << 6 | u128::from(fact.second & 63);
    ad << 96 | campaign << 64 | advertiser << 32 | time
}
