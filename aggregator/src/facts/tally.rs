//! Sums over facts, in groups.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use shared::event::Verdict;
use shared::{AnyId, Kind, Reason};

use super::block::{Block, split};
use super::column::{Column, Name, code_text, kind};
use super::measures::Sum;
use super::runs::{Runs, Window};
use super::select::Mask;

/// By so many columns facts can be grouped.
pub(crate) const BY_MAX: usize = 3;
/// The place of a minute, then a number of each column.
type Numbers = [u64; 1 + BY_MAX];

/// What the facts of a group have in common: the place of their minute, then the value of each
/// column that it is made by; 0 behind these.
pub(crate) type Key = [Value; 1 + BY_MAX];

/// The value of a column in any block.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Value {
    /// Of a column of ids.
    Id(AnyId),
    /// Of any other: its number.
    Number(u64),
}

impl Value {
    /// The id, if it is one.
    pub(crate) fn id(self) -> Option<AnyId> {
        match self {
            Self::Id(id) => Some(id),
            Self::Number(_) => None,
        }
    }

    /// The text of a value of this column that is no id.
    pub(crate) fn text(self, column: Name) -> String {
        let Self::Number(number) = self else { return String::new() };
        let code = u8::try_from(number).ok();
        let text = match column {
            Name::Kind => kind(number).map(|kind: Kind| kind.to_string()),
            Name::Reason => match code.and_then(Reason::from_code) as Verdict {
                None => Some("valid".to_owned()),
                Some(reason) => Some(reason.to_string()),
            },
            Name::Region => shared::Region::from_bytes(split(number)).map(|r| r.to_string()),
            Name::Network => Some(shared::Network(split(number)).to_string()),
            Name::Code(at) => code_text(at, number),
            _ => None,
        };
        text.unwrap_or_else(|| number.to_string())
    }
}

/// Sums of facts by the values of some columns.
#[derive(Clone, Debug)]
pub(crate) struct Tally<S> {
    by: Vec<Name>,
    groups: HashMap<Key, S, FixedState>,
}

impl<S: Sum + Default> Tally<S> {
    /// No facts yet. `by`: at most [`BY_MAX`] columns; none for one sum of all.
    pub(crate) fn new(mut by: Vec<Name>) -> Self {
        by.truncate(BY_MAX);
        Self { by, groups: HashMap::default() }
    }

    /// Adds the rows of a block that are meant.
    pub(crate) fn add(&mut self, block: &Block, mask: &Mask) {
        match block.runs() {
            Some(runs) if self.by.iter().all(|name| Runs::has(*name)) => {
                self.add_runs(block, runs, mask);
            }
            _ => self.add_with(block, mask, None, |_| Some(0)),
        }
    }

    /// Adds the rows that are meant run by run: all rows of a run are of one group.
    fn add_runs(&mut self, block: &Block, runs: &Window, mask: &Mask) {
        let columns = S::columns(block);
        let rows = mask.first..mask.first + mask.keep.len();
        let mut last: Option<(Key, S)> = None;
        for run in runs.within(&rows) {
            let span = runs.span(run);
            let (from, to) = (span.start.max(rows.start), span.end.min(rows.end));
            let keep = mask.keep.get(from - rows.start..to - rows.start).unwrap_or_default();
            if !keep.contains(&1) {
                continue;
            }
            let mut key = [Value::Number(0); 1 + BY_MAX];
            for (value, name) in key[1..].iter_mut().zip(&self.by) {
                *value = Value::Id(block.id(runs.number(*name, run)));
            }
            match &mut last {
                Some((same, sum)) if *same == key => sum.add_kept(&columns, from, keep),
                _ => {
                    let mut sum = S::default();
                    sum.add_kept(&columns, from, keep);
                    let before = last.replace((key, sum));
                    before.into_iter().for_each(|(key, sum)| self.merge_group(key, sum));
                }
            }
        }
        last.into_iter().for_each(|(key, sum)| self.merge_group(key, sum));
    }

    fn merge_group(&mut self, key: Key, sum: S) {
        self.groups.entry(key).or_default().merge(sum);
    }

    /// The columns that are read for it.
    pub(crate) fn names(by: &[Name]) -> Vec<Name> {
        [by, &S::names()].concat()
    }

    /// Adds the rows of a block that are meant, each to the group that has the place of its minute
    /// before the columns' values, if more than one place is given. `times`: for how many facts
    /// each row stands, if not for one.
    pub(crate) fn add_with(
        &mut self,
        block: &Block,
        mask: &Mask,
        times: Option<&Column>,
        place: impl Fn(u64) -> Option<u64>,
    ) {
        let columns = S::columns(block);
        let minutes = block.column(Name::Minute);
        let by: Vec<_> = self.by.iter().map(|name| block.column(*name)).collect();
        // Groups of this block by their numbers, so that ids are looked up once for each group.
        let mut places: HashMap<Numbers, usize, FixedState> = HashMap::default();
        let mut sums: Vec<(Numbers, S)> = Vec::new();
        let mut last = None;
        for row in mask.rows() {
            let Some(place) = place(minutes.get(row)) else { continue };
            let mut numbers = [0; 1 + BY_MAX];
            numbers[0] = place;
            numbers[1..].iter_mut().zip(&by).for_each(|(to, column)| *to = column.get(row));
            let at = match last {
                Some((same, at)) if same == numbers => at,
                _ => *places.entry(numbers).or_insert_with(|| {
                    sums.push((numbers, S::default()));
                    sums.len() - 1
                }),
            };
            last = Some((numbers, at));
            match times {
                None => sums[at].1.add(&columns, row),
                Some(times) => sums[at].1.add_times(&columns, row, times.get(row)),
            }
        }
        for ([place, numbers @ ..], sum) in sums {
            let mut key = [Value::Number(0); 1 + BY_MAX];
            key[0] = Value::Number(place);
            for ((value, name), number) in key[1..].iter_mut().zip(&self.by).zip(numbers) {
                *value = match Name::IDS.contains(name) {
                    true => Value::Id(block.id(number)),
                    false => Value::Number(number),
                };
            }
            self.merge_group(key, sum);
        }
    }

    /// Adds all of another, which is by the same columns.
    pub(crate) fn merge(&mut self, other: Self) {
        other.groups.into_iter().for_each(|(key, sum)| self.merge_group(key, sum));
    }

    /// How many groups.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// The groups: the place, then the values of the columns; in no order.
    pub(crate) fn into_groups(self) -> impl Iterator<Item = (Key, S)> {
        self.groups.into_iter()
    }
}
