//! Exports everything that a partition has counted in a range, at one position, so that it can be
//! compared with another count.

use std::collections::BTreeMap;
use std::ops::Range;

use eventlog::Position;
use shared::counted::Amount;
use shared::{AnyId, Currency, Dimensions, EdgeId, Minute};

use super::{Look, Names, Unanswered, look};
use crate::count::{CellAmount, CutOff, Engine, MinuteAccount};
use crate::query::stored::Stored;
use crate::service::Slot;
use crate::store::{CheckpointStore, StoreError, View};

/// How many rows of the store are read at once.
const STORE_ROWS_MAX: usize = 4_096;
/// How many rows of memory are handed out at once.
const MEMORY_ROWS_MAX: usize = 1_024;

/// A row of the export. Rows that name the same minute, cell and amount are to be added up: memory
/// and the store may each have a part.
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

/// The export of one partition. What was in memory is held here; the rest is read from the store
/// piece by piece.
pub(crate) struct Export<V> {
    /// The last message that is counted.
    pub(crate) position: Option<Position>,
    /// Edges of which nothing counts any more, and from which batch on.
    pub(crate) cut_off: BTreeMap<EdgeId, CutOff>,
    /// The names in `memory`.
    names: Names,
    /// Rows that were in memory, or moving into the store.
    memory: Vec<Row>,
    /// What is still to be read.
    stored: Option<Stored<V>>,
    /// The key in the store from which to go on.
    next: Option<Vec<u8>>,
}

/// Begins the export of a partition.
pub(crate) async fn export<T: CheckpointStore>(
    slot: &Slot<T>,
    range: Range<Minute>,
) -> Result<Export<T::View>, Unanswered> {
    let Look { memory: (position, cut_off, names, mut memory), stored } =
        look(slot, &range, |engine| {
            let mut rows = Vec::new();
            for (minute, account) in engine.account(range.start, range.end) {
                rows.push(Row::Account(minute, account));
                engine.cells(minute, &mut |cell| {
                    rows.push(Row::Cell(minute, cell.dimensions, cell.count));
                });
                engine.amounts(minute, &mut |amount| rows.push(Row::from_amount(minute, amount)));
            }
            let names = names_of(&rows, engine);
            (engine.position(), engine.cut_off().clone(), names, rows)
        })
        .await?;
    if let Some(stored) = &stored {
        let accounts = stored.accounts().await?.into_iter();
        memory.extend(accounts.map(|(minute, account)| Row::Account(minute, account)));
        let cells = stored.moving_cells();
        memory.extend(cells.map(|(minute, cell)| Row::Cell(minute, cell.dimensions, cell.count)));
        let amounts = stored.moving_amounts();
        memory.extend(amounts.map(|(minute, amount)| Row::from_amount(minute, &amount)));
    }
    Ok(Export { position, cut_off, names, memory, stored, next: None })
}

impl<V: View> Export<V> {
    /// The next rows, which may be none, and the names in them; `None` when the export is complete.
    pub(crate) async fn piece(&mut self) -> Result<Option<(Vec<Row>, Names)>, StoreError> {
        if !self.memory.is_empty() {
            let rest = self.memory.len().saturating_sub(MEMORY_ROWS_MAX);
            let rows = self.memory.split_off(rest);
            let names = self.names(&rows).await?;
            return Ok(Some((rows, names)));
        }
        let Some(stored) = &self.stored else { return Ok(None) };
        let mut rows = Vec::new();
        let each = |minute, dimensions, value: crate::store::codec::CellValue| {
            if value.count > 0 {
                rows.push(Row::Cell(minute, dimensions, value.count));
            }
            let amounts = value.amounts.into_iter();
            rows.extend(amounts.map(|((amount, currency), n)| {
                Row::Amount(minute, dimensions, amount, currency, n)
            }));
        };
        self.next = stored.cells(self.next.take(), STORE_ROWS_MAX, each).await?;
        let names = self.names(&rows).await?;
        if self.next.is_none() {
            self.stored = None;
        }
        Ok(Some((rows, names)))
    }

    /// The names in some rows: those that memory had at that moment, and the others from the store.
    async fn names(&self, rows: &[Row]) -> Result<Names, StoreError> {
        let mut names = self.names.clone();
        let mut left: Vec<_> = digests(rows).filter(|id| names.name(*id).is_err()).collect();
        if let (Some(stored), false) = (&self.stored, left.is_empty()) {
            left.sort_unstable();
            left.dedup();
            names.extend(stored.names(&left).await?);
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

fn names_of(rows: &[Row], engine: &Engine) -> Names {
    let mut names = Names::default();
    names.extend(digests(rows).filter_map(|id| Some((id, engine.name(id)?.clone()))));
    names
}
