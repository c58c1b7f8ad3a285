//! The cells of facts: how many events of the same minute and dimensions there are, and what they
//! cost.

use std::collections::BTreeMap;
use std::ops::Range;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use shared::{Codes, Currency, Dimensions, Minute};

use super::block::Block;
use super::column::{Name, codes_from, kind};

/// The columns of [`Dimensions::NAMES`].
const NAMES: [Name; Dimensions::NAMES.len()] = [Name::Ad, Name::Publisher];

/// Events of the same minute and dimensions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    pub(crate) minute: Minute,
    pub(crate) dimensions: Dimensions,
    pub(crate) count: u64,
    /// Millionths of one unit, by currency.
    pub(crate) spend: BTreeMap<Currency, i64>,
}

/// What tells cells of a block apart: minute, names, codes, kind and whether it is valid.
type Key = (u64, [u64; NAMES.len()], [u64; Codes::NAMES.len()], u64, bool);

impl Cell {
    /// The columns that it is made of.
    pub(crate) fn names() -> impl Iterator<Item = Name> {
        let others = [Name::Minute, Name::Kind, Name::Reason, Name::Price];
        let codes = (0..Codes::NAMES.len()).map(Name::Code);
        NAMES.into_iter().chain(others).chain(codes)
    }

    /// The cells of a block in some minutes, in no order.
    pub(crate) fn of(block: &Block, minutes: &Range<Minute>) -> Vec<Self> {
        let mut cells: HashMap<Key, (u64, BTreeMap<Currency, i64>), FixedState> =
            HashMap::default();
        let number = |name: Name, row: usize| block.column(name).get(row);
        let within = u64::from(minutes.start.0)..u64::from(minutes.end.0);
        for row in (0..block.rows()).filter(|row| within.contains(&number(Name::Minute, *row))) {
            let names = NAMES.map(|name| number(name, row));
            let codes = std::array::from_fn(|at| number(Name::Code(at), row));
            let is_valid = number(Name::Reason, row) == 0;
            let key = (number(Name::Minute, row), names, codes, number(Name::Kind, row), is_valid);
            let (count, spend) = cells.entry(key).or_default();
            *count += 1;
            let price = number(Name::Price, row);
            if price != 0 {
                let price = block.price(price);
                let sum = spend.entry(price.currency).or_default();
                *sum = sum.saturating_add(price.micros);
            }
        }
        let cell = |((minute, names, codes, of, is_valid), (count, spend)): (Key, _)| {
            let names = names.map(|name| block.id(name));
            let codes = codes_from(|at| codes.get(at).copied().unwrap_or_default());
            let minute = Minute(u32::try_from(minute).unwrap_or(u32::MAX));
            let dimensions = Dimensions::new(names, codes, kind(of)?, is_valid);
            Some(Self { minute, dimensions, count, spend })
        };
        cells.into_iter().filter_map(cell).collect()
    }
}
