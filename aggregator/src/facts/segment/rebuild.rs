//! Makes what stands beside a segment's Parquet file anew, from the file alone. Pure: it is given
//! the end of the file, then its row groups one after the other, twice where the directory is lost:
//! once for the names and prices, and once for the facts.
//!
//! What is made is what the writer made, byte for byte, as long as the file is what was written.
//! The digests of its column chunks tell that: those of the directory where it is sound, else those
//! that the file has itself. A file of an earlier build has none; it is decoded whole all the same,
//! and must have as many facts as its segment, in the order of one.
//!
//! The decoder may panic on bytes that are not what was written.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parquet::file::metadata::FooterTail;
use shared::{AnyId, Money};

use super::beside::Beside;
use super::directory::sum;
use super::read::{Footer, Ranges};
use super::table::{self, Numbers};
use super::write::{CHUNKS, Made, Tables, order};
use super::{Directory, GROUP_ROWS, SegmentError};
use crate::facts::block::Block;
use crate::facts::column::{COLUMNS, Column, Name};

/// Where a row group is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    /// From its first column to the end of its last one.
    pub(crate) whole: Range<u64>,
    /// The columns of its names and prices.
    pub(crate) names: Vec<Range<u64>>,
}

/// Makes what stands beside a Parquet file anew.
pub(crate) struct Rebuild {
    footer: Footer,
    /// Bytes of the whole file.
    length: u64,
    rows: usize,
    groups: Vec<Group>,
    /// The digests of its column chunks, where they are known.
    chunks: Option<Vec<[u8; 8]>>,
    ids: BTreeSet<AnyId>,
    prices: Vec<Money>,
    beside: Option<Beside>,
    taken: usize,
    /// What the last fact is sorted by.
    last: u128,
}

impl Rebuild {
    /// So many of the last bytes of a file say where its metadata begin.
    pub(crate) const TAIL_BYTES: u64 = 8;

    /// Where the metadata begin in a file of `length` bytes that ends with `tail`.
    pub(crate) fn metadata_at(tail: &[u8], length: u64) -> Result<u64, SegmentError> {
        let of_metadata = FooterTail::try_from(tail)?.metadata_length() as u64;
        let first = length.checked_sub(Self::TAIL_BYTES + of_metadata);
        first.ok_or_else(|| SegmentError::new("its end is not that of a Parquet file"))
    }

    /// `end`: the file's bytes from `first` on, where its metadata begin; `length`: of the whole
    /// file; `rows`: how many facts its segment has.
    pub(crate) fn new(
        end: Bytes,
        first: u64,
        length: u64,
        rows: u64,
    ) -> Result<Self, SegmentError> {
        let footer = Footer::parse(end, first, length)?;
        let rows = usize::try_from(rows).unwrap_or(usize::MAX);
        let found = footer.groups().map(|rows| usize::try_from(rows).unwrap_or(usize::MAX));
        let count = rows.div_ceil(GROUP_ROWS);
        if !found.eq((0..count).map(|group| rows_of(group, rows))) {
            let found: u64 = footer.groups().sum();
            let what = format!("its row groups have {found} rows, and {rows} were written");
            return Err(SegmentError::new(what));
        }
        let of = |group: usize| Group {
            whole: footer.bytes_of_group(group),
            names: footer.bytes_of(group, &NAMED),
        };
        let groups: Vec<Group> = (0..count).map(of).collect();
        let is_within = |range: &Range<u64>| range.start <= range.end && range.end <= length;
        let is_sound = |group: &Group| group.names.iter().chain([&group.whole]).all(is_within);
        if !groups.iter().all(is_sound) {
            return Err(SegmentError::new("its footer points beyond its end"));
        }
        let chunks = own_chunks(&footer)?;
        let (ids, prices) = (BTreeSet::new(), Vec::new());
        let (beside, taken, last) = (None, 0, 0);
        Ok(Self { footer, length, rows, groups, chunks, ids, prices, beside, taken, last })
    }

    /// Whether digests say that the file is what was written.
    pub(crate) const fn is_proved(&self) -> bool {
        self.chunks.is_some()
    }

    /// Takes over the ids, the prices and the digests of a directory that is sound.
    pub(crate) fn know(&mut self, directory: &Directory) {
        self.chunks = Some(directory.sums().chunks.clone());
        let (ids, prices) = (Arc::clone(&directory.ids), Arc::clone(&directory.prices));
        self.beside = Some(Beside::new(ids, prices));
    }

    /// Its row groups.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Where the footer begins: behind the last row group.
    pub(crate) fn footer_at(&self) -> u64 {
        self.groups.last().map_or(0, |group| group.whole.end)
    }

    /// Learns the names and prices of a row group, from these parts of the file.
    pub(crate) fn learn(
        &mut self,
        group: usize,
        parts: Vec<(u64, Bytes)>,
    ) -> Result<(), SegmentError> {
        let bytes = Ranges::new(self.length, parts);
        self.check(group, &bytes, NAMED.iter().flat_map(|name| table::fields(*name)))?;
        let arrays = self.footer.arrays((group, rows_of(group, self.rows)), &NAMED, &bytes)?;
        let of = |name: Name| -> Vec<_> {
            table::fields(name)
                .into_iter()
                .filter_map(|field| arrays.get(&field).cloned())
                .collect()
        };
        for names in Name::IDS.into_iter().flat_map(of) {
            self.ids.extend(table::ids(&names)?);
        }
        self.prices.extend(table::prices(&of(Name::Price))?);
        Ok(())
    }

    /// Takes the facts of the next row group: its bytes from the first column to the last.
    pub(crate) fn take(&mut self, bytes: Bytes) -> Result<(), SegmentError> {
        let group = self.taken;
        let start = self.groups.get(group).map_or(self.length, |group| group.whole.start);
        let bytes = Ranges::new(self.length, vec![(start, bytes)]);
        let fields = self.footer.metadata().file_metadata().schema_descr().num_columns();
        let sums = self.check(group, &bytes, 0..fields)?;
        let rows = rows_of(group, self.rows);
        let beside = self.beside.get_or_insert_with(|| {
            let ids: Vec<AnyId> = std::mem::take(&mut self.ids).into_iter().collect();
            let tables = Tables::of(std::iter::once((&*ids, &*self.prices)));
            Beside::new(tables.ids, tables.prices)
        });
        beside.sums.chunks.extend(sums);
        let names: Vec<Name> = Name::all().collect();
        let numbers = Numbers { ids: &beside.ids, prices: &beside.prices };
        let columns = self.footer.decode((group, rows), &names, &bytes, numbers)?;
        let mut all = [const { Column::EMPTY }; COLUMNS];
        names.into_iter().zip(columns).for_each(|(name, column)| all[name.index()] = column);
        let (ids, prices) = (Arc::clone(&beside.ids), Arc::clone(&beside.prices));
        let block = Block::of_columns(rows, ids, prices, all);
        for fact in block.facts() {
            let of = order(&fact);
            if of < self.last {
                let what = format!("the rows of row group {group} are not in order");
                return Err(SegmentError::new(what));
            }
            self.last = of;
            beside.push(&fact);
        }
        self.taken += 1;
        Ok(())
    }

    /// The digests of columns of a row group, which are those that are known.
    fn check(
        &self,
        group: usize,
        bytes: &Ranges,
        fields: impl Iterator<Item = usize>,
    ) -> Result<Vec<[u8; 8]>, SegmentError> {
        let missing = || SegmentError::new(format!("row group {group} is missing"));
        let columns = self.footer.metadata().row_groups().get(group).ok_or_else(missing)?.columns();
        let mut sums = Vec::with_capacity(columns.len());
        for field in fields {
            let column = columns.get(field).ok_or_else(missing)?;
            let own = sum::<8>(&bytes.of(column.byte_range())?);
            let known = self.chunks.as_ref().map(|all| all.get(group * columns.len() + field));
            if known.is_some_and(|known| known != Some(&own)) {
                let name = column.column_path().string();
                let what = format!("column {name} of row group {group} is not what was written");
                return Err(SegmentError::new(what));
            }
            sums.push(own);
        }
        Ok(sums)
    }

    /// What stands beside the file. `footer`: its bytes from [`Rebuild::footer_at`] on.
    pub(crate) fn finish(self, footer: &[u8]) -> Result<Made, SegmentError> {
        let footer_at = self.footer_at();
        let nothing = || SegmentError::new("it has no facts");
        let mut beside = self.beside.filter(|_| self.taken > 0).ok_or_else(nothing)?;
        (beside.sums.footer_at, beside.sums.footer) = (footer_at, sum(footer));
        Ok(beside.finish(self.length))
    }
}

/// The columns of ids and prices.
const NAMED: [Name; Name::IDS.len() + 1] = {
    let [ad, publisher, placement, campaign, advertiser] = Name::IDS;
    [ad, publisher, placement, campaign, advertiser, Name::Price]
};

/// How many of all rows a row group has.
fn rows_of(group: usize, all: usize) -> usize {
    all.saturating_sub(group * GROUP_ROWS).min(GROUP_ROWS)
}

/// The digests that a file has of its own column chunks.
fn own_chunks(footer: &Footer) -> Result<Option<Vec<[u8; 8]>>, SegmentError> {
    let pairs = footer.metadata().file_metadata().key_value_metadata();
    let Some(pair) = pairs.and_then(|pairs| pairs.iter().find(|pair| pair.key == CHUNKS)) else {
        return Ok(None);
    };
    let texts = pair.value.as_deref().unwrap_or_default().as_bytes().chunks(16);
    let chunk = |text: &[u8]| shared::text::unhex(std::str::from_utf8(text).ok()?);
    let chunks = texts.map(chunk).collect::<Option<Vec<[u8; 8]>>>();
    let wrong = || SegmentError::new("the digests in its footer cannot be read");
    chunks.ok_or_else(wrong).map(Some)
}
