//! Exports everything that a partition has counted in a range, at one position, so that it can be
//! compared with another count.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use eventlog::Position;
use shared::counted::Amount;
use shared::{AnyId, Currency, Dimensions, EdgeId, Minute};

use super::moment::{Moment, Seen};
use super::{Names, Unanswered};
use crate::count::{CellAmount, CutOff, Engine, MinuteAccount};
use crate::facts::{Cell, Part};
use crate::query::stored::Stored;
use crate::service::Slot;
use crate::store::segments::Segment;
use crate::store::{CheckpointStore, StoreError, View};

/// How many rows of the store are read at once.
const STORE_ROWS_MAX: usize = 4_096;
/// How many rows are handed out at once.
const ROWS_MAX: usize = 1_024;

/// A row of the export. Rows that name the same minute, cell and amount are to be added up: memory,
/// each block of facts and each row group may have a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few thousand live at a time, and are copied once")]
pub(crate) enum Row {
    /// The account of a minute, of which the revision is left out.
    Account(Minute, MinuteAccount),
    /// How many events a cell has.
    Cell(Minute, Dimensions, u64),
    /// An amount of a cell, in millionths of a unit of the currency.
    Amount(Minute, Dimensions, Amount, Currency, i64),
}

/// The export of one partition: of minutes from where facts begin, the cells of its facts; of those
/// before, the cells that were saved. What was in memory is held here; the rest is read piece by
/// piece.
pub(crate) struct Export<V> {
    /// The last message that is counted.
    pub(crate) position: Option<Position>,
    /// Edges of which nothing counts any more, and from which batch on.
    pub(crate) cut_off: BTreeMap<EdgeId, CutOff>,
    /// The names that only memory had.
    names: Names,
    /// Rows that are to be handed out next.
    rows: Vec<Row>,
    stored: Stored<V>,
    /// Where to go on among the cells of the store; none when they are done.
    saved: Option<Next>,
    /// The facts that are left, and of which minutes.
    facts: VecDeque<Source>,
    minutes: Range<Minute>,
    seen: Option<Seen<V>>,
}

/// Where to go on among the cells of the store.
enum Next {
    Start,
    Key(Vec<u8>),
}

/// Where facts are.
enum Source {
    Part(Arc<Part>),
    /// Hour and sequence of a block of the store.
    Loose(u32, u64),
    /// A row group of a segment.
    Group(Arc<Segment>, usize),
}

/// Begins the export of a partition.
pub(crate) async fn export<T: CheckpointStore>(
    slot: &Slot<T>,
    range: Range<Minute>,
) -> Result<Export<T::View>, Unanswered> {
    let (moment, (position, cut_off, names, mut rows)) =
        Moment::with(slot, &range, |engine| in_memory(engine, &range)).await?;
    let before = range.start..range.end.min(moment.facts_from());
    let minutes = range.start.max(moment.facts_from())..range.end;
    let older = range.start..range.end.min(moment.resident_from());
    if !older.is_empty() {
        let accounts = moment.stored(older.clone()).accounts().await?.into_iter();
        rows.extend(accounts.map(|(minute, account)| Row::Account(minute, account)));
    }
    let stored = moment.stored(before.start..before.end.min(older.end));
    let cells = stored.moving_cells();
    rows.extend(cells.map(|(minute, cell)| Row::Cell(minute, cell.dimensions, cell.count)));
    let amounts = stored.moving_amounts();
    rows.extend(amounts.map(|(minute, amount)| Row::from_amount(minute, &amount)));
    let saved = (!before.is_empty()).then_some(Next::Start);
    let (mut facts, mut seen) = (VecDeque::new(), None);
    if !minutes.is_empty() {
        let own = Seen::new(&moment, &minutes).await?;
        let moving = moment.moving_facts().filter(|part| part.meets(&minutes));
        facts.extend(own.parts.iter().chain(moving).cloned().map(Source::Part));
        facts.extend(own.blocks.iter().map(|(hour, sequence)| Source::Loose(*hour, *sequence)));
        for segment in own.segments(&minutes).await? {
            let groups = 0..segment.directory.groups();
            facts.extend(groups.map(|group| Source::Group(Arc::clone(&segment), group)));
        }
        seen = Some(own);
    }
    Ok(Export { position, cut_off, names, rows, stored, saved, facts, minutes, seen })
}

/// Position, edges that are cut off, names, and rows: accounts, and the cells before facts.
type InMemory = (Option<Position>, BTreeMap<EdgeId, CutOff>, Names, Vec<Row>);

fn in_memory(engine: &Engine, range: &Range<Minute>) -> InMemory {
    let mut rows = Vec::new();
    for (minute, account) in engine.account(range.start, range.end) {
        rows.push(Row::Account(minute, account));
        if minute < engine.facts_from() {
            engine.cells(minute, &mut |cell| {
                rows.push(Row::Cell(minute, cell.dimensions, cell.count));
            });
            engine.amounts(minute, &mut |amount| rows.push(Row::from_amount(minute, amount)));
        }
    }
    let parts = engine.facts(range);
    let ids = parts.iter().flat_map(|part| part.tables().0).filter(|id| id.is_digest()).copied();
    let mut names = Names::default();
    let of = |id| Some((id, engine.name(id)?.clone()));
    names.extend(digests(&rows).chain(ids).filter_map(of));
    (engine.position(), engine.cut_off().clone(), names, rows)
}

impl<V: View> Export<V> {
    /// The next rows, which may be none, and the names in them; `None` when the export is complete.
    pub(crate) async fn piece(&mut self) -> Result<Option<(Vec<Row>, Names)>, StoreError> {
        if self.rows.is_empty() && !self.more().await? {
            return Ok(None);
        }
        let rest = self.rows.len().saturating_sub(ROWS_MAX);
        let rows = self.rows.split_off(rest);
        let names = self.names(&rows).await?;
        Ok(Some((rows, names)))
    }

    /// Reads more rows; false when there are none left.
    async fn more(&mut self) -> Result<bool, StoreError> {
        if let Some(from) = self.saved.take() {
            self.saved(from).await?;
            return Ok(true);
        }
        let Some((source, seen)) = self.facts.pop_front().zip(self.seen.as_ref()) else {
            return Ok(false);
        };
        let cells = match source {
            Source::Part(part) => Cell::of(part.block(), &self.minutes),
            Source::Loose(hour, sequence) => {
                Cell::of(&seen.stored.block(hour, sequence).await?, &self.minutes)
            }
            Source::Group(segment, group) => {
                let block = seen.files.block(&segment, group, Cell::names()).await?;
                Cell::of(&block, &self.minutes)
            }
        };
        for Cell { minute, dimensions, count, spend } in cells {
            self.rows.push(Row::Cell(minute, dimensions, count));
            self.rows.extend(spend.into_iter().map(|(currency, micros)| {
                Row::Amount(minute, dimensions, Amount::Spend, currency, micros)
            }));
        }
        Ok(true)
    }

    /// Reads the next cells that were saved.
    async fn saved(&mut self, from: Next) -> Result<(), StoreError> {
        let rows = &mut self.rows;
        let each = |minute, dimensions, value: crate::store::codec::CellValue| {
            if value.count > 0 {
                rows.push(Row::Cell(minute, dimensions, value.count));
            }
            let amounts = value.amounts.into_iter();
            rows.extend(amounts.map(|((amount, currency), n)| {
                Row::Amount(minute, dimensions, amount, currency, n)
            }));
        };
        let key = match from {
            Next::Start => None,
            Next::Key(key) => Some(key),
        };
        self.saved = self.stored.cells(key, STORE_ROWS_MAX, each).await?.map(Next::Key);
        Ok(())
    }

    /// The names in some rows: those that memory had at that moment, and the others from the store.
    async fn names(&self, rows: &[Row]) -> Result<Names, StoreError> {
        let mut names = self.names.clone();
        let mut left: Vec<_> = digests(rows).filter(|id| names.name(*id).is_err()).collect();
        if !left.is_empty() {
            left.sort_unstable();
            left.dedup();
            names.extend(self.stored.names(&left).await?);
        }
        Ok(names)
    }
}

impl Row {
    fn from_amount(minute: Minute, row: &CellAmount) -> Self {
        Self::Amount(minute, row.dimensions, row.amount, row.currency, row.micros)
    }

    fn dimensions(&self) -> Option<&Dimensions> {
        match self {
            Self::Account(..) => None,
            Self::Cell(_, dimensions, _) | Self::Amount(_, dimensions, ..) => Some(dimensions),
        }
    }
}

/// The ids in some rows that are digests: their names must be looked up.
fn digests(rows: &[Row]) -> impl Iterator<Item = AnyId> {
    let names = rows.iter().filter_map(Row::dimensions).flat_map(Dimensions::names);
    names.filter(AnyId::is_digest)
}
