//! What a segment's directory has: the ids and prices that its rows are numbers of, its runs, and
//! its largest ads.
//!
//! As bytes: version (1), first minute and the one behind the last (4, 4), ids with their count (4;
//! 16 each), prices with their count (4; currency 3, micros 8), runs with their count (4; ad,
//! campaign, advertiser, rows: 4 each), nodes with their count (4; 29 each), the
//! places of totals with their count (4; 20 each; not in version 1), where the
//! footer of the Parquet file begins and its digest (8, 16), the digests of its column chunks with
//! their count (4; 8 each), BLAKE3 digest of all before it (32).

use std::ops::Range;
use std::sync::Arc;

use shared::bytes::Reader;
use shared::{AnyId, Currency, Minute, Money};

use super::nodes::Nodes;
use super::totals::{Places, Totals};
use super::{GROUP_ROWS, SegmentError};
use crate::facts::block::Block;
use crate::facts::column::{COLUMNS, Column, Name};
use crate::facts::runs::{Runs, Scope, Window};

const VERSION: u8 = 2;
/// Written by an earlier build: without totals.
const WITHOUT_TOTALS: u8 = 1;
const DIGEST_BYTES: usize = 32;
/// So many of the largest ads are known by their size.
const LARGEST_MAX: usize = 1 << 16;

/// The digests of the parts of the Parquet file: what was not written is not even decoded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Sums {
    /// Where the footer begins.
    pub(super) footer_at: u64,
    pub(super) footer: [u8; 16],
    /// Of each column chunk, row group by row group.
    pub(super) chunks: Vec<[u8; 8]>,
}

/// The first bytes of a BLAKE3 digest.
pub(super) fn sum<const N: usize>(bytes: &[u8]) -> [u8; N] {
    blake3::hash(bytes).as_bytes().first_chunk().copied().unwrap_or([0; N])
}

/// The directory of a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Directory {
    pub(crate) minutes: Range<Minute>,
    /// In order.
    pub(crate) ids: Arc<[AnyId]>,
    pub(crate) prices: Arc<[Money]>,
    pub(crate) runs: Arc<Runs>,
    pub(crate) nodes: Nodes,
    pub(crate) totals: Places,
    sums: Sums,
    /// The largest ads with the number of their rows, most first.
    largest: Vec<(u32, u32)>,
    /// No ad has rows but these.
    is_all: bool,
}

impl Directory {
    pub(super) fn new(
        minutes: Range<Minute>,
        ids: Arc<[AnyId]>,
        prices: Arc<[Money]>,
        runs: Runs,
        (nodes, totals): (Nodes, Places),
        sums: Sums,
    ) -> Self {
        let mut ads: Vec<(u32, u32)> = Vec::new();
        for run in 0..runs.len() {
            let [ad, ..] = runs.names(run);
            let rows = u32::try_from(runs.span(run).len()).unwrap_or(u32::MAX);
            match ads.last_mut() {
                Some((same, all)) if *same == ad => *all = all.saturating_add(rows),
                _ => ads.push((ad, rows)),
            }
        }
        let is_all = ads.len() <= LARGEST_MAX;
        if !is_all {
            ads.select_nth_unstable_by_key(LARGEST_MAX, |(_, rows)| std::cmp::Reverse(*rows));
            ads.truncate(LARGEST_MAX);
        }
        ads.sort_unstable_by_key(|(_, rows)| std::cmp::Reverse(*rows));
        ads.shrink_to_fit();
        let (runs, largest) = (Arc::new(runs), ads);
        Self { minutes, ids, prices, runs, nodes, totals, sums, largest, is_all }
    }

    /// Where the footer of the Parquet file begins.
    pub(crate) fn footer(&self) -> u64 {
        self.sums.footer_at
    }

    /// What the parts of the Parquet file are.
    pub(super) fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Whether these bytes are its footer.
    pub(super) fn is_footer(&self, bytes: &[u8]) -> bool {
        sum(bytes) == self.sums.footer
    }

    /// Whether these bytes are the column chunk with a number.
    pub(super) fn is_chunk(&self, number: usize, bytes: &[u8]) -> bool {
        self.sums.chunks.get(number).is_some_and(|chunk| sum(bytes) == *chunk)
    }

    /// How many facts.
    pub(crate) fn rows(&self) -> usize {
        self.runs.rows()
    }

    /// How many row groups.
    pub(crate) fn groups(&self) -> usize {
        self.rows().div_ceil(GROUP_ROWS)
    }

    /// The rows of a row group.
    pub(crate) fn group(&self, number: usize) -> Range<usize> {
        let first = number * GROUP_ROWS;
        first..(first + GROUP_ROWS).min(self.rows())
    }

    /// How many facts a scope has.
    pub(crate) fn rows_of(&self, scope: &Scope) -> u64 {
        let spans = self.runs.spans(scope.name, &self.numbers(&scope.ids));
        spans.into_iter().map(|span| span.len() as u64).sum()
    }

    /// The runs of a scope.
    pub(crate) fn runs_of(&self, scope: &Scope) -> Vec<usize> {
        self.runs.of(scope.name, &self.numbers(&scope.ids))
    }

    fn numbers(&self, ids: &[AnyId]) -> Vec<u64> {
        ids.iter().filter_map(|id| self.ids.binary_search(id).ok()).map(|at| at as u64).collect()
    }

    /// The largest ads, at most so many, with the number of their rows; and how many any other ad
    /// has at most.
    pub(crate) fn largest(&self, most: usize) -> (impl Iterator<Item = (AnyId, u64)>, u64) {
        let shown = most.min(self.largest.len());
        let is_all = self.is_all && shown == self.largest.len();
        let (largest, _) = self.largest.split_at(shown);
        let rest = largest.last().map_or(0, |(_, rows)| u64::from(*rows));
        let id = |number: u32| self.ids.get(number as usize).copied().unwrap_or(AnyId::NONE);
        let largest = largest.iter().map(move |(ad, rows)| (id(*ad), u64::from(*rows)));
        (largest, if is_all { 0 } else { rest })
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        let tables = self.ids.len() * size_of::<AnyId>() + 8 * self.sums.chunks.len();
        let sums = self.nodes.bytes() + self.totals.bytes();
        tables + self.runs.bytes() + sums + self.largest.len() * 8
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
        let mut out = vec![VERSION];
        out.extend(self.minutes.start.0.to_le_bytes());
        out.extend(self.minutes.end.0.to_le_bytes());
        out.extend(count(self.ids.len()));
        self.ids.iter().for_each(|id| out.extend(id.padded()));
        out.extend(count(self.prices.len()));
        for price in &*self.prices {
            out.extend(price.currency.bytes());
            out.extend(price.micros.to_le_bytes());
        }
        out.extend(count(self.runs.len()));
        for run in 0..self.runs.len() {
            self.runs.names(run).into_iter().for_each(|name| out.extend(name.to_le_bytes()));
            out.extend(count(self.runs.span(run).len()));
        }
        out.extend(count(self.nodes.len()));
        self.nodes.put(&mut out);
        self.totals.put(&mut out);
        out.extend(self.sums.footer_at.to_le_bytes());
        out.extend(self.sums.footer);
        out.extend(count(self.sums.chunks.len()));
        self.sums.chunks.iter().for_each(|chunk| out.extend(chunk));
        let digest = blake3::hash(&out);
        out.extend(digest.as_bytes());
        out
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<Self, SegmentError> {
        let damaged = || SegmentError::new("it is not what was written");
        let content = bytes.len().checked_sub(DIGEST_BYTES).ok_or_else(damaged)?;
        let (content, digest) = bytes.split_at(content);
        if blake3::hash(content).as_bytes() != digest {
            return Err(damaged());
        }
        Self::read_content(content).map_err(SegmentError::new)
    }

    fn read_content(content: &[u8]) -> Result<Self, &'static str> {
        let mut reader = Reader::new(content);
        let version = reader.u8()?;
        if ![WITHOUT_TOTALS, VERSION].contains(&version) {
            return Err("it is of a version that this build does not know");
        }
        let minutes = Minute(reader.u32()?)..Minute(reader.u32()?);
        let count = reader.count(16, usize::MAX)?;
        let id = |reader: &mut Reader<'_>| {
            AnyId::from_padded(reader.array()?).map_err(|_| "an id with a byte that none has")
        };
        let ids =
            (0..count).map(|_| id(&mut reader)).collect::<Result<Arc<[_]>, &'static str>>()?;
        let count = reader.count(11, usize::MAX)?;
        let price = |reader: &mut Reader<'_>| {
            let currency = Currency::from_bytes(reader.array()?).ok_or("no currency")?;
            Ok(Money { currency, micros: reader.u64()?.cast_signed() })
        };
        let prices =
            (0..count).map(|_| price(&mut reader)).collect::<Result<Arc<[_]>, &'static str>>()?;
        let count = reader.count(16, usize::MAX)?;
        let mut runs = Runs::default();
        for _ in 0..count {
            let names = [reader.u32()?, reader.u32()?, reader.u32()?];
            if names.iter().any(|name| *name as usize >= ids.len()) {
                return Err("a run of a name that it does not have");
            }
            runs.push_run(names, reader.u32()?);
        }
        let nodes = Nodes::read(&mut reader)?;
        let totals = match version {
            WITHOUT_TOTALS => Places::default(),
            _ => Places::read(&mut reader)?,
        };
        let (footer_at, footer) = (reader.u64()?, reader.array()?);
        let count = reader.count(8, usize::MAX)?;
        let chunks = (0..count).map(|_| reader.array()).collect::<Result<_, _>>()?;
        reader.end()?;
        let sums = Sums { footer_at, footer, chunks };
        Ok(Self::new(minutes, ids, prices, runs, (nodes, totals), sums))
    }

    /// A row group with these columns. Names that the rows of a run have in common are none of
    /// them; `expand`: make the columns of these, too.
    pub(crate) fn block(
        &self,
        group: usize,
        columns: Vec<(Name, Column)>,
        expand: &[Name],
    ) -> Block {
        let runs = Window::new(Arc::clone(&self.runs), self.group(group));
        let mut all = [const { Column::EMPTY }; COLUMNS];
        let expanded = expand.iter().map(|name| (*name, runs.column(*name)));
        for (name, column) in columns.into_iter().chain(expanded) {
            all[name.index()] = column;
        }
        Block::of_runs(runs, Arc::clone(&self.ids), Arc::clone(&self.prices), all)
    }

    /// The totals of a run. Their rows are in the order of minutes.
    pub(crate) fn totals(&self, run: usize, totals: &Totals) -> Block {
        let mut all = [const { Column::EMPTY }; COLUMNS];
        totals.columns().for_each(|(name, column)| all[name.index()] = column);
        for name in Name::IDS.into_iter().filter(|name| Runs::has(*name)) {
            all[name.index()] = Column::constant(self.runs.number(name, run));
        }
        Block::of_columns(totals.rows, Arc::clone(&self.ids), Arc::clone(&self.prices), all)
    }
}
