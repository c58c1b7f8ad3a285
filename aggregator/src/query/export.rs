//! Everything that a partition has counted in a range, at one position: for comparing it with
//! another count.

use std::collections::BTreeMap;
use std::ops::Range;

use eventlog::Position;
use shared::{Currency, Id, Minute};

use super::{Look, Unanswered, look};
use crate::count::{CutOff, Dimensions, MinuteAccount};
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
    /// What they cost, in millionths.
    Spend(Minute, Dimensions, Currency, i64),
}

/// The counts of one partition. What memory had of them is held here, the rest is read piece by
/// piece.
pub(crate) struct Export<V> {
    /// The last message that is counted.
    pub(crate) position: Option<Position>,
    /// Edges of which nothing counts any more, and from where on.
    pub(crate) cut_off: BTreeMap<Id, CutOff>,
    memory: Vec<Row>,
    stored: Option<Stored<V>>,
    next: Option<Vec<u8>>,
}

/// Looks at a partition.
pub(crate) async fn export<T: CheckpointStore>(
    slot: &Slot<T>,
    range: Range<Minute>,
) -> Result<Export<T::View>, Unanswered> {
    let Look { memory: (position, cut_off, mut memory), stored } = look(slot, &range, |engine| {
        let mut rows = Vec::new();
        for (minute, account) in engine.account(range.start, range.end) {
            rows.push(Row::Account(minute, account));
            engine.cells(minute, &mut |cell| {
                rows.push(Row::Cell(minute, cell.dimensions, cell.count));
            });
            engine.spend(minute, &mut |spend| {
                rows.push(Row::Spend(minute, spend.dimensions, spend.currency, spend.micros));
            });
        }
        (engine.position(), engine.cut_off().clone(), rows)
    })
    .await?;
    if let Some(stored) = &stored {
        let accounts = stored.accounts().await?.into_iter();
        memory.extend(accounts.map(|(minute, account)| Row::Account(minute, account)));
        let cells = stored.moving_cells();
        memory.extend(cells.map(|(minute, cell)| Row::Cell(minute, cell.dimensions, cell.count)));
        let spend = stored.moving_spend();
        memory.extend(
            spend.map(|(minute, s)| Row::Spend(minute, s.dimensions, s.currency, s.micros)),
        );
    }
    Ok(Export { position, cut_off, memory, stored, next: None })
}

impl<V: View> Export<V> {
    /// The next piece, which may be empty; none after the last.
    pub(crate) async fn piece(&mut self) -> Result<Option<Vec<Row>>, StoreError> {
        if !self.memory.is_empty() {
            let rest = self.memory.len().saturating_sub(MEMORY_ROWS_MAX);
            return Ok(Some(self.memory.split_off(rest)));
        }
        let Some(stored) = &self.stored else { return Ok(None) };
        let mut rows = Vec::new();
        let each = |minute, dimensions, value: crate::store::codec::CellValue| {
            if value.count > 0 {
                rows.push(Row::Cell(minute, dimensions, value.count));
            }
            let spend = value.spend.into_iter();
            rows.extend(spend.map(|(currency, n)| Row::Spend(minute, dimensions, currency, n)));
        };
        self.next = stored.cells(self.next.take(), STORE_ROWS_MAX, each).await?;
        if self.next.is_none() {
            self.stored = None;
        }
        Ok(Some(rows))
    }
}
