//! Totals: the facts of a run with many of them, without what tells one visitor's from another's.
//! All that have minute, kind, verdict and price in common are one row, with how many they are. A
//! question that asks for nothing else reads these rows and no fact.
//!
//! As bytes, for each run that has them: rows (4), then the columns minute, kind, reason, price and
//! how many, as in a block.

use bytes::Bytes;
use shared::bytes::Reader;

use super::directory::sum;
use super::nodes::ROWS_MIN;
use crate::facts::block::Fact;
use crate::facts::column::{Column, Name};

/// The columns that totals have, in their order.
const NAMES: [Name; 4] = [Name::Minute, Name::Kind, Name::Reason, Name::Price];
/// A run with more facts than this has totals, when so many of its facts are one row of them, or more.
/// The small segments of tests have some, too.
const LARGE: (usize, usize) = if cfg!(test) { (4, 1) } else { (ROWS_MIN, 4) };
/// Bytes of a place among others.
const PLACE_BYTES: usize = 20;

/// Where the totals of a run are among all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) run: u32,
    at: u32,
    length: u32,
    /// The first bytes of their BLAKE3 digest.
    digest: [u8; 8],
}

impl Place {
    /// Whether these are the bytes of the totals.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        sum::<8>(bytes) == self.digest
    }

    /// Where the totals are among all.
    pub(crate) fn bytes(&self) -> std::ops::Range<u64> {
        let at = u64::from(self.at);
        at..at + u64::from(self.length)
    }
}

/// Which runs have totals, in their order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Places(Vec<Place>);

impl Places {
    /// Whether totals have all of these columns.
    pub(crate) fn have(names: &[Name]) -> bool {
        names.iter().all(|name| NAMES.contains(name))
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Place] {
        &self.0
    }

    /// Where those of a run are.
    pub(crate) fn find(&self, run: usize) -> Option<Place> {
        let run = u32::try_from(run).ok()?;
        let at = self.0.binary_search_by_key(&run, |place| place.run).ok()?;
        self.0.get(at).copied()
    }

    /// Bytes on the heap.
    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Place>()
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend(u32::try_from(self.0.len()).unwrap_or(u32::MAX).to_le_bytes());
        for Place { run, at, length, digest } in &self.0 {
            [run, at, length].into_iter().for_each(|word| out.extend(word.to_le_bytes()));
            out.extend(digest);
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, &'static str> {
        let mut places = Vec::with_capacity(reader.count(PLACE_BYTES, usize::MAX)?);
        for _ in 0..places.capacity() {
            let (run, at, length) = (reader.u32()?, reader.u32()?, reader.u32()?);
            places.push(Place { run, at, length, digest: reader.array()? });
        }
        match places.is_sorted_by_key(|place| place.run) {
            true => Ok(Self(places)),
            false => Err("totals that are in no order"),
        }
    }
}

/// The totals of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Totals {
    pub(super) rows: usize,
    /// [`NAMES`].
    columns: [Column; NAMES.len()],
    /// How many facts a row stands for.
    pub(crate) facts: Column,
}

impl Totals {
    /// The columns by their names.
    pub(super) fn columns(&self) -> impl Iterator<Item = (Name, Column)> {
        NAMES.into_iter().zip(self.columns.iter().cloned())
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.columns.iter().chain([&self.facts]).map(Column::bytes).sum()
    }

    fn to_bytes(rows: &[Row]) -> Vec<u8> {
        let mut out = u32::try_from(rows.len()).unwrap_or(u32::MAX).to_le_bytes().to_vec();
        let of: [fn(&Row) -> u64; NAMES.len() + 1] = [
            |row| row.minute.into(),
            |row| row.kind.into(),
            |row| row.reason.into(),
            |row| row.price.into(),
            |row| row.facts,
        ];
        of.into_iter().for_each(|of| Column::new(rows.iter().map(of)).put(&mut out));
        out
    }

    /// Reads the totals of a run. `prices`: how many there are in the segment.
    pub(crate) fn read(bytes: &Bytes, place: &Place, prices: usize) -> Result<Self, &'static str> {
        if !place.is_of(bytes) {
            return Err("totals that are not what was written");
        }
        let mut reader = Reader::new(bytes);
        let rows = usize::try_from(reader.u32()?).map_err(|_| "too many totals")?;
        let mut next = || Column::read(&mut reader, bytes, rows).ok_or("a column that is cut off");
        let columns = [next()?, next()?, next()?, next()?];
        let facts = next()?;
        reader.end()?;
        let [.., price] = &columns;
        match rows == 0 || price.most() < prices as u64 {
            true => Ok(Self { rows, columns, facts }),
            false => Err("totals of a price that is not there"),
        }
    }
}

/// Facts that have all this in common.
#[derive(Clone, Copy, Debug)]
struct Row {
    minute: u32,
    kind: u8,
    reason: u8,
    price: u32,
    facts: u64,
}

/// Makes the totals of facts, which come in the order of a segment.
#[derive(Debug, Default)]
pub(super) struct Maker {
    places: Vec<Place>,
    bytes: Vec<u8>,
    run: u32,
    facts: usize,
    rows: Vec<Row>,
    /// Where the rows of the last minute begin.
    minute_at: usize,
}

impl Maker {
    /// Takes the next fact.
    pub(super) fn push(&mut self, run: usize, fact: &Fact) {
        let run = u32::try_from(run).unwrap_or(u32::MAX);
        if run != self.run {
            self.end_run();
            self.run = run;
        }
        let (minute, kind, reason, price) = (fact.minute.0, fact.kind, fact.reason, fact.price);
        if self.rows.last().is_none_or(|last| last.minute != minute) {
            self.minute_at = self.rows.len();
        }
        self.facts += 1;
        let is_same = |row: &&mut Row| (row.kind, row.reason, row.price) == (kind, reason, price);
        let of_minute = self.rows.get_mut(self.minute_at..).unwrap_or_default();
        match of_minute.iter_mut().find(is_same) {
            Some(row) => row.facts += 1,
            None => self.rows.push(Row { minute, kind, reason, price, facts: 1 }),
        }
    }

    fn end_run(&mut self) {
        let (facts_min, facts_of_row_min) = LARGE;
        if self.facts > facts_min && self.facts >= facts_of_row_min * self.rows.len() {
            let totals = Totals::to_bytes(&self.rows);
            let at = u32::try_from(self.bytes.len());
            if let (Ok(at), Ok(length)) = (at, u32::try_from(totals.len())) {
                self.places.push(Place { run: self.run, at, length, digest: sum(&totals) });
                self.bytes.extend(totals);
            }
        }
        self.rows.clear();
        (self.facts, self.minute_at) = (0, 0);
    }

    /// Where the totals of each run are, and all of them.
    pub(super) fn finish(mut self) -> (Places, Vec<u8>) {
        self.end_run();
        (Places(self.places), self.bytes)
    }
}
