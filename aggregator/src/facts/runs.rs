//! Runs: the rows of one ad, campaign and advertiser stand together in a segment. So a question
//! about one of these reads few rows, and these columns need not be read at all.

use std::ops::Range;
use std::sync::Arc;

use shared::AnyId;

use super::block::Fact;
use super::column::{Column, Name};

/// All facts that can pass are of one of these things: ads, campaigns or advertisers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Scope {
    pub(super) name: Name,
    /// In order.
    pub(super) ids: Vec<AnyId>,
}

impl Scope {
    /// None of things whose rows do not stand together.
    pub(crate) fn new(name: Name, mut ids: Vec<AnyId>) -> Option<Self> {
        ids.sort_unstable();
        ids.dedup();
        Runs::has(name).then_some(Self { name, ids })
    }
}

/// The names that the rows of a run have in common, in the order by which runs are sorted.
const NAMES: [Name; 3] = [Name::Ad, Name::Campaign, Name::Advertiser];

/// Runs, in their order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Runs {
    /// [`NAMES`]: their numbers among the ids.
    ids: [Vec<u32>; NAMES.len()],
    /// The row behind each run.
    ends: Vec<u32>,
}

impl Runs {
    /// Whether the rows of a run have this name in common.
    pub(crate) fn has(name: Name) -> bool {
        NAMES.contains(&name)
    }

    /// How many rows all have.
    pub(super) fn rows(&self) -> usize {
        self.ends.last().map_or(0, |end| *end as usize)
    }

    /// How many runs.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        (NAMES.len() + 1) * self.ends.capacity() * size_of::<u32>()
    }

    /// Takes the next row.
    pub(super) fn push(&mut self, fact: &Fact) {
        let [ad, _, _, campaign, advertiser] = fact.ids;
        self.push_run([ad, campaign, advertiser], 1);
    }

    /// Takes so many further rows with these names.
    pub(super) fn push_run(&mut self, names: [u32; NAMES.len()], rows: u32) {
        let end = self.ends.last().copied().unwrap_or(0).saturating_add(rows);
        let is_same = self.ids.iter().zip(names).all(|(ids, name)| ids.last() == Some(&name));
        match self.ends.last_mut() {
            Some(last) if is_same => *last = end,
            _ => {
                self.ids.iter_mut().zip(names).for_each(|(ids, name)| ids.push(name));
                self.ends.push(end);
            }
        }
    }

    /// The number of a run's name.
    pub(super) fn number(&self, name: Name, run: usize) -> u64 {
        let at = NAMES.iter().position(|own| *own == name).unwrap_or_default();
        self.ids[at].get(run).copied().unwrap_or_default().into()
    }

    /// The names of a run.
    pub(super) fn names(&self, run: usize) -> [u32; NAMES.len()] {
        std::array::from_fn(|at| self.ids[at].get(run).copied().unwrap_or_default())
    }

    /// The rows of a run.
    pub(crate) fn span(&self, run: usize) -> Range<usize> {
        let before = run.checked_sub(1).and_then(|before| self.ends.get(before));
        let end = self.ends.get(run).copied().unwrap_or_default();
        before.map_or(0, |end| *end as usize)..end as usize
    }

    /// The runs that have rows among these.
    pub(super) fn within(&self, rows: &Range<usize>) -> Range<usize> {
        let first = self.ends.partition_point(|end| *end as usize <= rows.start);
        let last = self.ends.partition_point(|end| (*end as usize) < rows.end);
        first..if rows.is_empty() { first } else { (last + 1).min(self.ends.len()) }
    }

    /// The runs with one of these numbers of a name, in their order. `numbers` are in order.
    pub(super) fn of(&self, name: Name, numbers: &[u64]) -> Vec<usize> {
        if name == Name::Ad {
            let ads = &self.ids[0];
            let point = |number: u64| ads.partition_point(|ad| u64::from(*ad) < number);
            return numbers.iter().flat_map(|number| point(*number)..point(*number + 1)).collect();
        }
        let is_meant = |run: &usize| numbers.binary_search(&self.number(name, *run)).is_ok();
        (0..self.len()).filter(is_meant).collect()
    }

    /// Their rows.
    pub(super) fn spans(&self, name: Name, numbers: &[u64]) -> Vec<Range<usize>> {
        self.of(name, numbers).into_iter().map(|run| self.span(run)).collect()
    }
}

/// The runs of some of a segment's rows; these are counted from the first of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    all: Arc<Runs>,
    rows: Range<usize>,
}

impl Window {
    pub(super) fn new(all: Arc<Runs>, rows: Range<usize>) -> Self {
        Self { all, rows }
    }

    /// How many rows.
    pub(super) fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The number of a run's name.
    pub(super) fn number(&self, name: Name, run: usize) -> u64 {
        self.all.number(name, run)
    }

    /// The runs that have rows among these.
    pub(super) fn within(&self, rows: &Range<usize>) -> Range<usize> {
        let first = self.rows.start;
        self.all.within(&(first + rows.start..first + rows.end))
    }

    /// The rows of a run, as far as they are here.
    pub(super) fn span(&self, run: usize) -> Range<usize> {
        self.clip(self.all.span(run))
    }

    fn clip(&self, rows: Range<usize>) -> Range<usize> {
        let Range { start, end } = &self.rows;
        let (from, to) = (rows.start.clamp(*start, *end), rows.end.clamp(*start, *end));
        from - start..to - start
    }

    /// Clears the mask of the rows from `first` on where a run's number does not pass.
    pub(super) fn keep(
        &self,
        name: Name,
        first: usize,
        mask: &mut [u8],
        test: impl Fn(u64) -> bool,
    ) {
        let rows = first..first + mask.len();
        for run in self.within(&rows) {
            if !test(self.number(name, run)) {
                let span = self.span(run);
                let (from, to) = (span.start.max(rows.start), span.end.min(rows.end));
                if let Some(mask) = mask.get_mut(from - first..to - first) {
                    mask.fill(0);
                }
            }
        }
    }

    /// The column that has a name of each row.
    pub(super) fn column(&self, name: Name) -> Column {
        let runs = self.within(&(0..self.rows()));
        Column::new(
            runs.flat_map(|run| std::iter::repeat_n(self.number(name, run), self.span(run).len())),
        )
    }
}
