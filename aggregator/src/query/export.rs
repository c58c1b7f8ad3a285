//! Everything that a partition has counted in a range, at one position: for comparing it with
//! another count.

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

/// Rows of the store that are read at once.
const STORE_ROWS_MAX: usize = 4_096;
/// Rows of memory that are handed out at once.
const MEMORY_ROWS_MAX: usize = 1_024;

/// A part of a count. What has the same names adds up: memory and the store may both have some.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few thousand live at a time, and are copied once")]
pub(crate) enum Row {
    /// The account of a minute; its revision is left out.
    Account(Minute, MinuteAccount),
    /// How many events a cell has.
    Cell(Minute, Dimensions, u64),
    /// What adds up beside them, in millionths.
    Amount(Minute, Dimensions, Amount, Currency, i64),
}

/// The counts of one partition. What memory had of them is held here, the rest is read piece by
/// piece.
pub(crate) struct Export<V> {
    /// The last message that is counted.
    pub(crate) position: Option<Position>,
    /// Edges of which nothing counts any more, and from where on.
    pub(crate) cut_off: BTreeMap<EdgeId, CutOff>,
    /// Of what is held here.
    names: Names,
    memory: Vec<Row>,
    stored: Option<Stored<V>>,
    next: Option<Vec<u8>>,
}

/// Looks at a partition.
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
                engine.amounts(minute, &mut |amount| rows.push(Row::of(minute, amount)));
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
        memory.extend(amounts.map(|(minute, amount)| Row::of(minute, &amount)));
    }
    Ok(Export { position, cut_off, names, memory, stored, next: None })
}

impl<V: View> Export<V> {
    /// The next piece, which may be empty, and the names in it; none after the last.
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

    /// The names in some rows: of what memory held from the moment when it did, else of the store.
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
    fn of(minute: Minute, of: &CellAmount) -> Self {
        Self::Amount(minute, of.dimensions, of.amount, of.currency, of.micros)
    }

    fn dimensions(&self) -> Option<&Dimensions> {
        match self {
            Self::Account(..) => None,
            Self::Cell(_, dimensions, _) | Self::Amount(_, dimensions, ..) => Some(dimensions),
        }
    }
}

/// The ids in some rows whose names stand elsewhere.
fn digests(rows: &[Row]) -> impl Iterator<Item = AnyId> {
    let names = rows.iter().filter_map(Row::dimensions).flat_map(Dimensions::names);
    names.filter(AnyId::is_digest)
}

fn names_of(rows: &[Row], engine: &Engine) -> Names {
    let mut names = Names::default();
    names.extend(digests(rows).filter_map(|id| Some((id, engine.name(id)?.clone()))));
    names
}
