//! Which rows of a block a question is about.

use std::ops::Range;

use api::filter::{Filter, Values};
use shared::counted::Code;
use shared::{AnyId, Kind, Minute, Validity};

use super::block::{Block, joined};
use super::column::Name;

/// Beyond so many values a table is looked up instead of comparing with each.
const COMPARED_MAX: usize = 8;

/// What a fact must be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Select {
    /// All of these.
    All(Vec<Select>),
    /// At least one of these.
    Any(Vec<Select>),
    /// Not this.
    Not(Box<Select>),
    /// One of these numbers in a column; they are in order.
    Number(Name, Vec<u64>),
    /// One of these ids in a column of ids; they are in order.
    Id(Name, Vec<AnyId>),
    /// Of these minutes.
    Minutes(Range<Minute>),
}

/// The rows of a block that are meant.
#[derive(Clone, Debug)]
pub(crate) struct Mask {
    /// The first row that the mask is of.
    pub(crate) first: usize,
    /// 1 of the rows that are meant, else 0.
    pub(crate) keep: Vec<u8>,
}

impl Mask {
    /// The rows that are meant.
    pub(crate) fn rows(&self) -> impl Iterator<Item = usize> {
        let kept = self.keep.iter().enumerate().filter(|(_, keep)| **keep != 0);
        kept.map(|(at, _)| self.first + at)
    }
}

impl Select {
    /// Events of a kind.
    pub(crate) fn kind(kind: Kind) -> Self {
        Self::Number(Name::Kind, vec![u64::from(kind.code())])
    }

    /// Events of this validity.
    pub(crate) fn validity(validity: Validity) -> Self {
        let valid = || Self::Number(Name::Reason, vec![0]);
        match validity {
            Validity::Valid => valid(),
            Validity::Invalid => Self::Not(Box::new(valid())),
            Validity::All => Self::All(Vec::new()),
        }
    }

    /// Those of these rows of a block that pass.
    pub(crate) fn rows(&self, block: &Block, rows: Range<usize>) -> Mask {
        let mut keep = vec![1; rows.len()];
        self.keep(block, rows.start, &mut keep);
        Mask { first: rows.start, keep }
    }

    /// Hands the columns that it reads to `each`.
    pub(crate) fn names(&self, each: &mut impl FnMut(Name)) {
        match self {
            Self::All(all) | Self::Any(all) => all.iter().for_each(|one| one.names(each)),
            Self::Not(one) => one.names(each),
            Self::Number(name, _) | Self::Id(name, _) => each(*name),
            Self::Minutes(_) => each(Name::Minute),
        }
    }

    /// Clears the mask of the rows from `first` on where they do not pass.
    fn keep(&self, block: &Block, first: usize, mask: &mut [u8]) {
        match self {
            Self::All(all) => all.iter().for_each(|one| one.keep(block, first, mask)),
            Self::Any(any) => {
                let mut passed = vec![0; mask.len()];
                for one in any {
                    let mut own = vec![1; mask.len()];
                    one.keep(block, first, &mut own);
                    passed.iter_mut().zip(&own).for_each(|(to, own)| *to |= own);
                }
                mask.iter_mut().zip(&passed).for_each(|(keep, passed)| *keep &= passed);
            }
            Self::Not(one) => {
                let mut passed = vec![1; mask.len()];
                one.keep(block, first, &mut passed);
                mask.iter_mut().zip(&passed).for_each(|(keep, passed)| *keep &= 1 - passed);
            }
            Self::Number(name, numbers) => keep_numbers(block, *name, numbers, first, mask),
            Self::Id(name, ids) => {
                keep_numbers(block, *name, &block.numbers(ids), first, mask);
            }
            Self::Minutes(range) => {
                let (from, to) = (u64::from(range.start.0), u64::from(range.end.0));
                let within = |minute| (from..to).contains(&minute);
                block.keep(Name::Minute, first, mask, within);
            }
        }
    }
}

fn keep_numbers(block: &Block, name: Name, numbers: &[u64], first: usize, mask: &mut [u8]) {
    match numbers {
        [] => mask.fill(0),
        [one] => block.keep(name, first, mask, |number| number == *one),
        few if few.len() <= COMPARED_MAX => {
            block.keep(name, first, mask, |number| few.contains(&number));
        }
        many => block.keep(name, first, mask, |number| many.binary_search(&number).is_ok()),
    }
}

impl From<&Filter> for Select {
    fn from(filter: &Filter) -> Self {
        let all = |filters: &[Filter]| filters.iter().map(Self::from).collect();
        match filter {
            Filter::All(filters) => Self::All(all(filters)),
            Filter::Any(filters) => Self::Any(all(filters)),
            Filter::Not(filter) => Self::Not(Box::new(Self::from(&**filter))),
            Filter::Is(values) => Self::from(values),
        }
    }
}

impl From<&Values> for Select {
    fn from(values: &Values) -> Self {
        match values {
            Values::Country(values) => code("country", values),
            Values::Device(values) => code("device", values),
            Values::Region(places) => Self::Any(
                places
                    .iter()
                    .map(|place| {
                        let region = joined(&place.region.bytes());
                        let country = code("country", &[place.country]);
                        Self::All(vec![Self::Number(Name::Region, vec![region]), country])
                    })
                    .collect(),
            ),
            Values::Network(values) => {
                numbers(Name::Network, values.iter().map(|network| joined(&network.0)))
            }
            Values::Reason(values) => {
                let code = |verdict: &shared::Verdict| verdict.map_or(0, shared::Reason::code);
                numbers(Name::Reason, values.iter().map(|verdict| u64::from(code(verdict))))
            }
            Values::Ad(values) => ids(Name::Ad, values.iter().map(|name| name.id().any())),
            Values::Publisher(values) => {
                ids(Name::Publisher, values.iter().map(|name| name.id().any()))
            }
            Values::Placement(values) => {
                ids(Name::Placement, values.iter().map(|name| name.id().any()))
            }
            Values::Campaign(values) => {
                ids(Name::Campaign, values.iter().map(|name| name.id().any()))
            }
            Values::Advertiser(values) => {
                ids(Name::Advertiser, values.iter().map(|name| name.id().any()))
            }
        }
    }
}

fn code<C: Code>(name: &str, values: &[C]) -> Select {
    // A code that is in no list of dimensions has no column, and no event has it.
    let none = Select::Any(Vec::new());
    let values = values.iter().map(|value| u64::from(value.code()));
    Name::code(name).map_or(none, |name| numbers(name, values))
}

fn numbers(name: Name, values: impl Iterator<Item = u64>) -> Select {
    let mut numbers: Vec<_> = values.collect();
    numbers.sort_unstable();
    numbers.dedup();
    Select::Number(name, numbers)
}

fn ids(name: Name, ids: impl Iterator<Item = AnyId>) -> Select {
    let mut ids: Vec<_> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    Select::Id(name, ids)
}
