//! A block: facts in columns. It is what the store has a row of, for each hour that a checkpoint has
//! facts of.
//!
//! As bytes: version (1), rows (4), their order (1), ids with their count before
//! them (4, 16 each), prices with their count (4; currency 3, micros 8), then each [`Column`]: base
//! (8), width (1), offsets.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use shared::bytes::Reader;
use shared::{AnyId, Codes, Currency, Minute, Money};

use super::column::{Bounds, COLUMNS, Column, Name, Writer, code_values, codes_from};
use super::runs::{Runs, Scope, Window};
use super::sorted::merged;

const VERSION: u8 = 1;

/// A fact whose names and price are numbers: of the tables of its message, or of a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Fact {
    pub(super) minute: Minute,
    pub(super) second: u8,
    pub(super) kind: u8,
    pub(super) reason: u8,
    /// [`Name::IDS`].
    pub(super) ids: [u32; Name::IDS.len()],
    pub(super) codes: Codes,
    pub(super) region: [u8; 3],
    pub(super) network: [u8; 7],
    pub(super) visitor: u64,
    pub(super) price: u32,
    pub(super) age: Option<i16>,
}

/// So many facts are gone through column by column before the next ones: they stay in a cache.
const PIECE: usize = 512;

/// Takes the numbers of a column of some facts.
trait TakeColumn {
    fn take(&mut self, at: usize, values: impl Iterator<Item = u64>);
}

impl TakeColumn for [Bounds; COLUMNS] {
    #[inline]
    fn take(&mut self, at: usize, values: impl Iterator<Item = u64>) {
        self[at].take(values);
    }
}

impl TakeColumn for [Writer; COLUMNS] {
    #[inline]
    fn take(&mut self, at: usize, values: impl Iterator<Item = u64>) {
        self[at].take(values);
    }
}

/// Hands over each column of some facts.
fn each_column(facts: &[Fact], to: &mut impl TakeColumn) {
    let all = facts.iter();
    to.take(Name::Minute.index(), all.clone().map(|fact| fact.minute.0.into()));
    to.take(Name::Second.index(), all.clone().map(|fact| fact.second.into()));
    to.take(Name::Kind.index(), all.clone().map(|fact| fact.kind.into()));
    to.take(Name::Reason.index(), all.clone().map(|fact| fact.reason.into()));
    for (at, name) in Name::IDS.iter().enumerate() {
        to.take(name.index(), all.clone().map(|fact| fact.ids[at].into()));
    }
    to.take(Name::Region.index(), all.clone().map(|fact| joined(&fact.region)));
    to.take(Name::Network.index(), all.clone().map(|fact| joined(&fact.network)));
    to.take(Name::Visitor.index(), all.clone().map(|fact| fact.visitor));
    to.take(Name::Price.index(), all.clone().map(|fact| fact.price.into()));
    to.take(Name::Age.index(), all.clone().map(|fact| fact.age.map_or(0, |age| 1 + zigzag(age))));
    for at in 0..Codes::NAMES.len() {
        to.take(Name::Code(at).index(), all.clone().map(|fact| code_values(&fact.codes)[at]));
    }
}

/// What the rows of a block are in the order of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// Of their message.
    Arrival = 0,
    /// Ad, minute and second; and ids are in their order. Written by an earlier build.
    Ad = 1,
    /// Ad, campaign, advertiser, minute and second; and ids are in their order.
    Runs = 2,
}

/// Facts in columns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    rows: usize,
    order: Order,
    ids: Arc<[AnyId]>,
    prices: Arc<[Money]>,
    columns: [Column; COLUMNS],
    /// Where the rows of an ad begin, in a part of a segment: its rows are in the order of ad,
    /// campaign, advertiser, minute and second, and these columns of ids are not filled.
    runs: Option<Window>,
}

impl Block {
    pub(super) fn new(
        facts: &[Fact],
        ids: impl Into<Arc<[AnyId]>>,
        prices: impl Into<Arc<[Money]>>,
        order: Order,
    ) -> Self {
        let mut bounds = [Bounds::default(); COLUMNS];
        facts.chunks(PIECE).for_each(|piece| each_column(piece, &mut bounds));
        let mut writers = bounds.map(|bounds| bounds.writer(facts.len()));
        facts.chunks(PIECE).for_each(|piece| each_column(piece, &mut writers));
        let columns = writers.map(Writer::finish);
        let (ids, prices) = (ids.into(), prices.into());
        Self { rows: facts.len(), order, ids, prices, columns, runs: None }
    }

    /// A part of a segment, with the columns that are wanted; the others are empty.
    pub(super) fn of_runs(
        runs: Window,
        ids: Arc<[AnyId]>,
        prices: Arc<[Money]>,
        columns: [Column; COLUMNS],
    ) -> Self {
        let rows = runs.rows();
        Self { rows, order: Order::Runs, ids, prices, columns, runs: Some(runs) }
    }

    /// Rows in the order of a segment, with the columns that are wanted; the others are empty.
    pub(super) fn of_columns(
        rows: usize,
        ids: Arc<[AnyId]>,
        prices: Arc<[Money]>,
        columns: [Column; COLUMNS],
    ) -> Self {
        Self { rows, order: Order::Runs, ids, prices, columns, runs: None }
    }

    /// How many facts.
    #[must_use]
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        let columns = self.columns.iter().map(Column::bytes).sum::<usize>();
        columns + self.ids.len() * size_of::<AnyId>() + self.prices.len() * size_of::<Money>()
    }

    /// One column.
    #[must_use]
    pub fn column(&self, name: Name) -> &Column {
        &self.columns[name.index()]
    }

    /// The block with other numbers in a column.
    pub(super) fn with(&self, name: Name, column: Column) -> Self {
        let mut block = self.clone();
        block.columns[name.index()] = column;
        block
    }

    /// The block with its rows in the order of a segment.
    pub(crate) fn in_order_of_runs(self) -> Self {
        if self.order == Order::Runs { self } else { merged(&[self]) }
    }

    /// The ids by their numbers.
    pub(crate) fn ids(&self) -> &[AnyId] {
        &self.ids
    }

    /// The prices by their numbers.
    pub(crate) fn prices(&self) -> &[Money] {
        &self.prices
    }

    /// The facts, in the order of the rows.
    pub(super) fn facts(&self) -> impl Iterator<Item = Fact> {
        (0..self.rows).map(|row| self.fact(row))
    }

    /// The fact in a row.
    pub(super) fn fact(&self, row: usize) -> Fact {
        let number = |name: Name| self.column(name).get(row);
        let word = |name: Name| u32::try_from(number(name)).unwrap_or(u32::MAX);
        let byte = |name: Name| u8::try_from(number(name)).unwrap_or(u8::MAX);
        let age = number(Name::Age).checked_sub(1);
        Fact {
            minute: Minute(word(Name::Minute)),
            second: byte(Name::Second),
            kind: byte(Name::Kind),
            reason: byte(Name::Reason),
            ids: Name::IDS.map(word),
            codes: codes_from(|at| number(Name::Code(at))),
            region: split(number(Name::Region)),
            network: split(number(Name::Network)),
            visitor: number(Name::Visitor),
            price: word(Name::Price),
            age: age.map(unzigzag),
        }
    }

    /// The id with a number of one of the columns of ids.
    #[must_use]
    pub fn id(&self, number: u64) -> AnyId {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        self.ids.get(at).copied().unwrap_or(AnyId::NONE)
    }

    /// The price with a number.
    #[must_use]
    pub fn price(&self, number: u64) -> Money {
        let at = usize::try_from(number).unwrap_or(usize::MAX);
        self.prices.get(at).copied().unwrap_or(Money::ZERO)
    }

    /// Clears the mask of the rows from `first` on where the number in a column does not pass.
    #[inline]
    pub(super) fn keep(
        &self,
        name: Name,
        first: usize,
        mask: &mut [u8],
        test: impl Fn(u64) -> bool,
    ) {
        match &self.runs {
            Some(runs) if Runs::has(name) => runs.keep(name, first, mask, test),
            _ => self.column(name).keep(first, mask, test),
        }
    }

    /// The numbers, in order, of those of these ids that the block has. `wanted` is in order.
    pub(super) fn numbers(&self, wanted: &[AnyId]) -> Vec<u64> {
        let found: Vec<usize> = match self.order != Order::Arrival {
            true => wanted.iter().filter_map(|id| self.ids.binary_search(id).ok()).collect(),
            false => {
                let ids = self.ids.iter().enumerate();
                let found = ids.filter(|(_, id)| wanted.binary_search(id).is_ok());
                found.map(|(number, _)| number).collect()
            }
        };
        let mut numbers: Vec<u64> = found.into_iter().map(|number| number as u64).collect();
        numbers.sort_unstable();
        numbers
    }

    /// The runs, of a part of a segment.
    pub(super) const fn runs(&self) -> Option<&Window> {
        self.runs.as_ref()
    }

    /// Those of a run's rows that are of these minutes.
    pub(crate) fn within(&self, rows: Range<usize>, minutes: &Range<Minute>) -> Range<usize> {
        let column = self.column(Name::Minute);
        let (from, to) = (u64::from(minutes.start.0), u64::from(minutes.end.0));
        let first = column.partition_point_in(rows.clone(), from);
        first..column.partition_point_in(first..rows.end, to)
    }

    /// The rows in which facts of a scope can be: few, where rows are sorted.
    pub(crate) fn spans(&self, scope: Option<&Scope>) -> Vec<Range<usize>> {
        let is_sorted = self.order != Order::Arrival;
        let Some(scope) = scope.filter(|scope| scope.name == Name::Ad && is_sorted) else {
            return std::iter::once(0..self.rows).collect();
        };
        let numbers = self.numbers(&scope.ids);
        let ads = self.column(Name::Ad);
        let point = |number| ads.partition_point_in(0..self.rows, number);
        numbers.into_iter().map(|number| point(number)..point(number + 1)).collect()
    }

    /// The block as bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend(u32::try_from(self.rows).unwrap_or(u32::MAX).to_le_bytes());
        out.push(self.order as u8);
        out.extend(u32::try_from(self.ids.len()).unwrap_or(u32::MAX).to_le_bytes());
        self.ids.iter().for_each(|id| out.extend(id.padded()));
        out.extend(u32::try_from(self.prices.len()).unwrap_or(u32::MAX).to_le_bytes());
        for price in &*self.prices {
            out.extend(price.currency.bytes());
            out.extend(price.micros.to_le_bytes());
        }
        self.columns.iter().for_each(|column| column.put(&mut out));
        out
    }

    /// Reads what [`Block::to_bytes`] wrote.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let whole = Bytes::copy_from_slice(bytes);
        let mut reader = Reader::new(&whole);
        if reader.u8()? != VERSION {
            return Err("facts of a version that this build does not know");
        }
        let rows = usize::try_from(reader.u32()?).map_err(|_| "too many facts")?;
        let order = match reader.u8()? {
            0 => Order::Arrival,
            1 => Order::Ad,
            2 => Order::Runs,
            _ => return Err("facts in an order that this build does not know"),
        };
        let count = reader.count(16, usize::MAX)?;
        let id = |reader: &mut Reader<'_>| {
            let id = AnyId::from_padded(reader.array()?);
            id.map_err(|_| "an id with a byte that none has")
        };
        let ids = (0..count).map(|_| id(&mut reader)).collect::<Result<Vec<_>, &'static str>>()?;
        let count = reader.count(11, usize::MAX)?;
        let price = |reader: &mut Reader<'_>| {
            let currency = Currency::from_bytes(reader.array()?).ok_or("no currency");
            Ok::<_, &'static str>(Money {
                currency: currency?,
                micros: reader.u64()?.cast_signed(),
            })
        };
        let prices = (0..count).map(|_| price(&mut reader)).collect::<Result<Vec<_>, _>>()?;
        let mut columns = [const { None }; COLUMNS];
        for column in &mut columns {
            let read = Column::read(&mut reader, &whole, rows);
            *column = Some(read.ok_or("a column that is cut off")?);
        }
        reader.end()?;
        let columns = columns.map(Option::unwrap_or_default);
        let (ids, prices) = (ids.into(), prices.into());
        let block = Self { rows, order, ids, prices, columns, runs: None };
        block.is_sound().then_some(block).ok_or("a fact that points nowhere")
    }

    /// Whether every number is one of a table.
    fn is_sound(&self) -> bool {
        let within =
            |name: Name, length: usize| self.rows == 0 || self.column(name).most() < length as u64;
        self.prices.first().is_none_or(|price| *price == Money::ZERO)
            && Name::IDS.iter().all(|name| within(*name, self.ids.len()))
            && within(Name::Price, self.prices.len())
    }
}

/// Bytes as a number, the first in the highest bits.
pub(super) fn joined(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The inverse of [`joined`].
pub(super) fn split<const N: usize>(number: u64) -> [u8; N] {
    let bytes = number.to_be_bytes();
    std::array::from_fn(|at| bytes.get(8 - N + at).copied().unwrap_or_default())
}

/// The inverse of [`zigzag`].
pub(super) fn unzigzag(number: u64) -> i16 {
    let number = i32::try_from(number).unwrap_or_default();
    i16::try_from(number >> 1 ^ -(number & 1)).unwrap_or_default()
}

/// Numbers near 0 become small ones.
pub(super) fn zigzag(number: i16) -> u64 {
    let number = i32::from(number);
    u64::from((number << 1 ^ number >> 15).cast_unsigned())
}
