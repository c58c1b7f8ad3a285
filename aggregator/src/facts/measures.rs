//! What is added up over facts.

use std::collections::BTreeMap;

use shared::event::REASON_CODES;
use shared::{Currency, Kind, Reason};

use super::block::Block;
use super::column::{Column, Name};
use super::uniques::Uniques;

/// Something that is added up over the rows of blocks, in any order.
pub(crate) trait Sum: Send {
    /// The columns that it reads.
    type Columns<'a>;

    /// The names of these columns.
    fn names() -> Vec<Name>;

    /// The columns of a block.
    fn columns(block: &Block) -> Self::Columns<'_>;

    /// Adds a row.
    fn add(&mut self, columns: &Self::Columns<'_>, row: usize);

    /// Adds a row that stands for so many facts.
    fn add_times(&mut self, columns: &Self::Columns<'_>, row: usize, times: u64) {
        (0..times).for_each(|_| self.add(columns, row));
    }

    /// Adds the rows from `first` on that are kept: 1 of these, else 0.
    fn add_kept(&mut self, columns: &Self::Columns<'_>, first: usize, keep: &[u8]) {
        let kept = keep.iter().enumerate().filter(|(_, keep)| **keep != 0);
        kept.for_each(|(at, _)| self.add(columns, first + at));
    }

    /// Adds all of another.
    fn merge(&mut self, other: Self);
}

/// How many.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Count(pub(crate) u64);

impl Sum for Count {
    type Columns<'a> = ();

    fn names() -> Vec<Name> {
        Vec::new()
    }

    fn columns(_: &Block) {}

    #[inline]
    fn add(&mut self, (): &(), _: usize) {
        self.0 += 1;
    }

    fn add_times(&mut self, (): &(), _: usize, times: u64) {
        self.0 += times;
    }

    fn add_kept(&mut self, (): &(), _: usize, keep: &[u8]) {
        // So many ones fit into a byte, and their sum is made of many at once.
        let ones = |part: &[u8]| u64::from(part.iter().sum::<u8>());
        self.0 += keep.chunks(255).map(ones).sum::<u64>();
    }

    fn merge(&mut self, other: Self) {
        self.0 += other.0;
    }
}

/// Everything that is told of a group of events.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Measures {
    /// Valid events by the code of their kind.
    pub(crate) valid: [u64; Kind::ALL.len()],
    /// Flagged events by the code of their kind.
    pub(crate) flagged: [u64; Kind::ALL.len()],
    /// Flagged events by the code of their verdict.
    pub(crate) reasons: [u64; REASON_CODES],
    /// What the valid impressions cost, in millionths of a unit.
    pub(crate) spend: BTreeMap<Currency, i64>,
}

/// The columns that measures are made of.
pub(crate) struct MeasuredColumns<'a> {
    block: &'a Block,
    kind: &'a Column,
    reason: &'a Column,
    price: &'a Column,
}

impl Sum for Measures {
    type Columns<'a> = MeasuredColumns<'a>;

    fn names() -> Vec<Name> {
        vec![Name::Kind, Name::Reason, Name::Price]
    }

    fn columns(block: &Block) -> MeasuredColumns<'_> {
        let [kind, reason, price] =
            [Name::Kind, Name::Reason, Name::Price].map(|name| block.column(name));
        MeasuredColumns { block, kind, reason, price }
    }

    fn add(&mut self, columns: &MeasuredColumns<'_>, row: usize) {
        self.add_times(columns, row, 1);
    }

    #[inline]
    fn add_times(&mut self, columns: &MeasuredColumns<'_>, row: usize, times: u64) {
        let at = |column: &Column| usize::try_from(column.get(row)).unwrap_or(usize::MAX);
        let (kind, reason) = (at(columns.kind), at(columns.reason));
        let by_kind = if reason == 0 { &mut self.valid } else { &mut self.flagged };
        if let Some(count) = by_kind.get_mut(kind) {
            *count += times;
        }
        if let Some(count) = self.reasons.get_mut(reason).filter(|_| reason != 0) {
            *count += times;
        }
        // An event that was judged again has a price still, and costs nothing.
        let price = if reason == 0 { columns.price.get(row) } else { 0 };
        if price != 0 {
            let price = columns.block.price(price);
            let sum = self.spend.entry(price.currency).or_default();
            let times = i64::try_from(times).unwrap_or(i64::MAX);
            *sum = sum.saturating_add(price.micros.saturating_mul(times));
        }
    }

    fn merge(&mut self, other: Self) {
        let add = |to: &mut [u64], from: &[u64]| to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
        add(&mut self.valid, &other.valid);
        add(&mut self.flagged, &other.flagged);
        add(&mut self.reasons, &other.reasons);
        for (currency, micros) in other.spend {
            let sum = self.spend.entry(currency).or_default();
            *sum = sum.saturating_add(micros);
        }
    }
}

impl Measures {
    /// The flagged events, by their verdict.
    pub(crate) fn by_reason(&self) -> impl Iterator<Item = (Reason, u64)> {
        let counted = |reason: &Reason| (*reason, self.reasons[usize::from(reason.code())]);
        Reason::ALL.iter().map(counted).filter(|(_, count)| *count > 0)
    }
}

/// The different visitors, exact up to `MAX`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Visitors<const MAX: usize> {
    /// Those that are known.
    pub(crate) uniques: Uniques<MAX>,
    /// All events.
    pub(crate) events: u64,
    /// Those without a visitor.
    pub(crate) without_visitor: u64,
}

impl<const MAX: usize> Sum for Visitors<MAX> {
    type Columns<'a> = &'a Column;

    fn names() -> Vec<Name> {
        vec![Name::Visitor]
    }

    fn columns(block: &Block) -> &Column {
        block.column(Name::Visitor)
    }

    #[inline]
    fn add(&mut self, visitor: &&Column, row: usize) {
        self.events += 1;
        match visitor.get(row) {
            0 => self.without_visitor += 1,
            visitor => self.uniques.add(visitor),
        }
    }

    fn merge(&mut self, other: Self) {
        self.uniques.merge(other.uniques);
        self.events += other.events;
        self.without_visitor += other.without_visitor;
    }
}

/// Both: measures of the events of all kinds, and the visitors of those.
impl<A: Sum, B: Sum> Sum for (A, B) {
    type Columns<'a> = (A::Columns<'a>, B::Columns<'a>);

    fn names() -> Vec<Name> {
        [A::names(), B::names()].concat()
    }

    fn columns(block: &Block) -> Self::Columns<'_> {
        (A::columns(block), B::columns(block))
    }

    fn add(&mut self, columns: &Self::Columns<'_>, row: usize) {
        self.0.add(&columns.0, row);
        self.1.add(&columns.1, row);
    }

    fn merge(&mut self, other: Self) {
        self.0.merge(other.0);
        self.1.merge(other.1);
    }
}
