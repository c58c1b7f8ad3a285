//! What a question reads beside memory: the store at one moment, and the rows that were moving into
//! it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use shared::name::Any;
use shared::{AdId, AnyId, Dimensions, Kind, Minute, NameBuf, PublisherId, Validity};

use crate::count::{Cell, CellAmount, Changes, MinuteAccount, MinuteRows, Told};
use crate::facts::Block;
use crate::store::codec::CellValue;
use crate::store::{Stop, StoreError, View, rows};

/// The store's part of a range of minutes that memory does not have whole.
pub(super) struct Stored<V> {
    view: Arc<V>,
    /// Rows that had left memory and are not in the view.
    moving: Option<Arc<Changes>>,
    range: Range<Minute>,
}

impl<V: View> Stored<V> {
    pub(super) fn new(view: Arc<V>, moving: Option<Arc<Changes>>, range: Range<Minute>) -> Self {
        Self { view, moving, range }
    }

    fn moving(&self) -> impl Iterator<Item = &MinuteRows> {
        let minutes = self.moving.iter().flat_map(|changes| &changes.minutes);
        minutes.filter(|rows| self.range.contains(&rows.minute))
    }

    /// A block of facts.
    pub(super) async fn block(&self, hour: u32, sequence: u64) -> Result<Block, StoreError> {
        rows::block(&*self.view, hour, sequence).await
    }

    /// Hands the facts to `each` that were moving into the store and can be of the range.
    pub(super) fn moving_facts(
        &self,
        mut each: impl FnMut(&Block) -> Result<(), Stop>,
    ) -> Result<(), StoreError> {
        let parts = self.moving.iter().flat_map(|changes| &changes.facts);
        for part in parts.filter(|part| part.meets(&self.range)) {
            match each(part.block()) {
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Enough) => break,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    pub(super) async fn ad_count(
        &self,
        ad: AdId,
        kind: Kind,
        validity: Validity,
    ) -> Result<u64, StoreError> {
        let saved = rows::ad_count(&*self.view, ad, kind, validity, self.range.clone()).await?;
        let of_minute = |rows: &MinuteRows| -> u64 {
            let first = rows.totals.partition_point(|total| (total.ad, total.kind) < (ad, kind));
            let asked = rows.totals[first..].iter();
            let asked = asked.take_while(|total| (total.ad, total.kind) == (ad, kind));
            asked.filter(|total| validity.takes(total.valid)).map(|total| total.count).sum()
        };
        Ok(saved + self.moving().map(of_minute).sum::<u64>())
    }

    /// Hands each ad's events of a kind to `each`. The range must be one minute.
    pub(super) async fn totals(
        &self,
        kind: Kind,
        validity: Validity,
        mut each: impl FnMut(AdId, u64) + Send,
    ) -> Result<(), StoreError> {
        for valid in [true, false].into_iter().filter(|valid| validity.takes(*valid)) {
            rows::totals(&*self.view, self.range.start, kind, valid, &mut each).await?;
        }
        let totals = self.moving().flat_map(|rows| &rows.totals);
        let asked = totals.filter(|total| total.kind == kind && validity.takes(total.valid));
        asked.for_each(|total| each(total.ad, total.count));
        Ok(())
    }

    pub(super) async fn revision(&self) -> Result<u64, StoreError> {
        let saved = rows::revision(&*self.view, self.range.clone()).await?;
        Ok(saved + self.moving().map(|rows| rows.account.revision).sum::<u64>())
    }

    /// Cells and amounts of the store from a key on, as [`rows::cells`] gives them.
    pub(super) async fn cells(
        &self,
        from: Option<Vec<u8>>,
        rows_max: usize,
        each: impl FnMut(Minute, Dimensions, CellValue) + Send,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        rows::cells(&*self.view, &self.range, from, rows_max, each).await
    }

    /// Cells that were moving into the store.
    pub(super) fn moving_cells(&self) -> impl Iterator<Item = (Minute, Cell)> {
        self.moving().flat_map(|rows| rows.cells.iter().map(|cell| (rows.minute, *cell)))
    }

    /// Amounts that were moving into the store.
    pub(super) fn moving_amounts(&self) -> impl Iterator<Item = (Minute, CellAmount)> {
        self.moving().flat_map(|rows| rows.amounts.iter().map(|amount| (rows.minute, *amount)))
    }

    /// The names of these ids, as far as they are here. `ids` must be in order.
    pub(super) async fn names(
        &self,
        ids: &[AnyId],
    ) -> Result<Vec<(AnyId, NameBuf<Any>)>, StoreError> {
        let mut names = rows::names(&*self.view, ids).await?;
        let moving = self.moving.iter().flat_map(|changes| &changes.names);
        names.extend(moving.filter(|(id, _)| ids.binary_search(id).is_ok()).cloned());
        Ok(names)
    }

    pub(super) async fn told(&self) -> Result<BTreeMap<PublisherId, Told>, StoreError> {
        let mut sums = rows::told(&*self.view, self.range.clone()).await?;
        for row in self.moving().flat_map(|rows| &rows.told) {
            sums.entry(row.publisher).or_default().add(row.told);
        }
        Ok(sums)
    }

    pub(super) async fn accounts(&self) -> Result<Vec<(Minute, MinuteAccount)>, StoreError> {
        let mut accounts = rows::accounts(&*self.view, self.range.clone()).await?;
        accounts.extend(self.moving().map(|rows| (rows.minute, rows.account)));
        Ok(accounts)
    }
}
