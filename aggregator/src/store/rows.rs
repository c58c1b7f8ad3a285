//! What the rows mean: turns an engine's changes into a batch of rows, and reads rows back.

use std::collections::BTreeMap;
use std::ops::Range;

use shared::name::Any;
use shared::{AdId, AnyId, Dimensions, Kind, Minute, NameBuf, PublisherId, Timestamp, Validity};

pub use self::facts::{FactsIndex, Swap, block, blocks};
pub use self::plan::{Job, Plan};
pub use self::segments::{Level, SegmentRow};
use super::codec::{self, CellKey, CellValue, Meta};
use super::keys::{self, Fields};
use super::{Change, Stop, StoreError, View};
use crate::count::{Changes, MinuteAccount, MinuteRows, Snapshot, Told};

/// A partition by its number, and how many the deployment has. A store holds both, and is refused
/// to any other partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionAndCount {
    /// The partition.
    pub partition: u16,
    /// How many the deployment has.
    pub partitions: u16,
}

/// An engine's changes as one batch, its position included, but for the facts, which
/// [`FactsIndex::add`] makes rows of.
#[must_use]
pub fn batch(own: PartitionAndCount, changes: &Changes) -> Vec<Change> {
    let PartitionAndCount { partition, partitions } = own;
    let Changes { position, clock, ahead, settled, resident_from, .. } = *changes;
    let meta = Meta { partition, partitions, clock, ahead, settled, resident_from, position };
    let mut rows = vec![Change::Put(keys::META.to_vec(), codec::meta_value(&meta))];
    rows.extend(changes.dropped_containers.iter().map(|at| Change::Delete(keys::container(at))));
    let put = |(at, container): &(_, _)| {
        Change::Put(keys::container(at), codec::container_value(container))
    };
    rows.extend(changes.containers.iter().map(put));
    changes.minutes.iter().for_each(|minute| add_minute(&mut rows, minute));
    let from = codec::number_value(u64::from(changes.facts_from.0));
    rows.push(Change::Put(keys::FACTS_FROM.to_vec(), from));
    let name = |(id, name): &(_, _)| Change::Put(keys::name(*id), codec::name_value(name));
    rows.extend(changes.names.iter().map(name));
    rows.extend(changes.dropped_outboxes.iter().map(|id| Change::Delete(keys::outbox(*id))));
    for (id, state) in &changes.outboxes {
        rows.push(Change::Put(keys::outbox(*id), codec::outbox_value(state)));
    }
    for (edge, epoch) in &changes.epochs {
        rows.push(Change::Put(keys::epoch(*edge), codec::number_value(*epoch)));
    }
    for (edge, since) in &changes.retired {
        rows.push(Change::Put(keys::retired(*edge), codec::number_value(since.0)));
    }
    for (edge, at) in &changes.cut_off {
        rows.push(Change::Put(keys::cut_off(*edge), codec::cut_off_value(*at)));
    }
    for (id, state) in &changes.sources {
        rows.push(Change::Put(keys::source(*id), codec::source_value(state)));
    }
    rows.extend(changes.page_views.iter().map(|(page, state)| match state {
        Some(state) => Change::Put(keys::page_view(*page), codec::page_view_value(*state)),
        None => Change::Delete(keys::page_view(*page)),
    }));
    rows
}

fn add_minute(rows: &mut Vec<Change>, minute: &MinuteRows) {
    let mut cells: Vec<(AdId, CellKey, CellValue)> = Vec::with_capacity(minute.cells.len());
    cells.extend(minute.cells.iter().map(|cell| {
        let value = CellValue { count: cell.count, amounts: Vec::new() };
        (cell.dimensions.ad, CellKey::from_dimensions(&cell.dimensions), value)
    }));
    for amount in &minute.amounts {
        let key = (amount.dimensions.ad, CellKey::from_dimensions(&amount.dimensions));
        let at = cells.binary_search_by(|(ad, cell, _)| (*ad, *cell).cmp(&key));
        let at = at.unwrap_or_else(|at| {
            cells.insert(at, (key.0, key.1, CellValue::default()));
            at
        });
        cells[at].2.amounts.push(((amount.amount, amount.currency), amount.micros));
    }
    for of_ad in cells.chunk_by(|a, b| a.0 == b.0) {
        let list: Vec<_> = of_ad.iter().map(|(_, key, value)| (*key, value.clone())).collect();
        rows.push(Change::Add(keys::cells(of_ad[0].0, minute.minute), codec::cells_value(&list)));
    }
    for (kind, valid) in kinds() {
        let of_kind =
            minute.totals.iter().filter(|total| (total.kind, total.valid) == (kind, valid));
        let totals: Vec<_> = of_kind.map(|total| (total.ad, total.count)).collect();
        if !totals.is_empty() {
            let key = keys::totals(minute.minute, kind, valid);
            rows.push(Change::Add(key, codec::totals_value(&totals)));
        }
    }
    if !minute.told.is_empty() {
        let told: Vec<_> = minute.told.iter().map(|row| (row.publisher, row.told)).collect();
        let key = keys::minute(keys::TOLD, minute.minute);
        rows.push(Change::Add(key, codec::told_value(&told)));
    }
    if minute.account.revision > 0 {
        let key = keys::minute(keys::REVISION, minute.minute);
        rows.push(Change::Add(key, codec::number_value(minute.account.revision)));
    }
    let account = MinuteAccount { revision: 0, ..minute.account };
    if account != MinuteAccount::default() {
        let key = keys::minute(keys::ACCOUNT, minute.minute);
        rows.push(Change::Add(key, codec::account_value(&account)));
    }
}

/// What a checkpoint holds, for the engine and its service to go on from.
#[derive(Debug)]
pub struct Restored {
    /// The engine's part.
    pub snapshot: Snapshot,
    /// By hour, the sequence at its first checkpoint ([`keys::hour`]), oldest first.
    pub hours: Vec<(u32, u64)>,
    /// Which blocks of facts there are.
    pub facts: FactsIndex,
}

/// Reads a partition's checkpoint; `None` when nothing was ever saved.
///
/// The minutes are not read: the snapshot's `resident_from` is the minute after the last one that
/// has rows. (Cells are in the order of the ads, so that a range of one ad is one scan; to read two
/// hours of all ads would mean to read all cells.)
///
/// # Errors
/// [`StoreError::Damaged`] names the row. That error comes, too, when the store is of another
/// partition.
pub async fn restore<V: View>(
    view: &V,
    own: PartitionAndCount,
) -> Result<Option<Restored>, StoreError> {
    let Some(meta) = meta(view).await? else {
        return nothing(view).await;
    };
    if (meta.partition, meta.partitions) != (own.partition, own.partitions) {
        return Err(StoreError::row(
            keys::META,
            &format!(
                "it is partition {} of {}, and was opened as {} of {}",
                meta.partition, meta.partitions, own.partition, own.partitions
            ),
        ));
    }
    let Meta { clock, ahead, settled, position, .. } = meta;
    let containers =
        family(view, keys::CONTAINER, |f| f.container(), codec::read_container).await?;
    let outboxes = family(view, keys::OUTBOX, |f| f.outbox(), codec::read_outbox).await?;
    let epochs = family(view, keys::EPOCH, |f| f.id(), codec::read_number).await?;
    let retired = family(view, keys::RETIRED, |f| f.id(), codec::read_number).await?;
    let retired = retired.into_iter().map(|(edge, since)| (edge, Timestamp(since))).collect();
    let cut_off = family(view, keys::CUT_OFF, |f| f.id(), codec::read_cut_off).await?;
    let sources = family(view, keys::SOURCE, |f| f.source(), codec::read_source).await?;
    let page_views =
        family(view, keys::PAGE_VIEW, |f| f.page_view(), codec::read_page_view).await?;
    let hours = family(view, keys::HOUR, |f| f.u32(), codec::read_number).await?;
    let facts_from = facts_from(view).await?;
    let resident_from = resident_from(view, clock).await?;
    let snapshot = Snapshot {
        position,
        clock,
        ahead,
        settled,
        resident_from,
        facts_from,
        containers,
        minutes: Vec::new(),
        outboxes,
        epochs,
        retired,
        cut_off,
        sources,
        page_views,
    };
    let facts = FactsIndex::load(view, own.partition).await?;
    Ok(Some(Restored { snapshot, hours, facts }))
}

async fn meta<V: View>(view: &V) -> Result<Option<Meta>, StoreError> {
    let mut meta = None;
    view.scan(keys::META, b"n", &mut |key, value| {
        let read = codec::read_meta(value).map_err(|what| StoreError::row(key, what))?;
        match key == keys::META && meta.is_none() {
            true => meta = Some(read),
            false => return Err(StoreError::row(key, "a second meta row").into()),
        }
        Ok(())
    })
    .await?;
    Ok(meta)
}

/// Where facts begin; none in a store of a build that kept none.
async fn facts_from<V: View>(view: &V) -> Result<Option<Minute>, StoreError> {
    let (from, to) = keys::family(keys::FACTS_FROM[0]);
    let mut minute = None;
    view.scan(&from, &to, &mut |key, value| {
        let number = codec::read_number(value).map_err(|what| StoreError::row(key, what))?;
        let read = u32::try_from(number).map_err(|_| StoreError::row(key, "not a minute"))?;
        minute = Some(Minute(read));
        Ok(())
    })
    .await?;
    Ok(minute)
}

/// Nothing was ever saved, when there is no meta row; then any other row is an error.
async fn nothing<V: View>(view: &V) -> Result<Option<Restored>, StoreError> {
    let refuse = &mut |key: &[u8], _: &[u8]| {
        let what = format!("missing, while {} is there", keys::describe(key));
        Err(StoreError::row(keys::META, &what).into())
    };
    view.scan(&[], &[0xff], refuse).await.map(|()| None)
}

/// All rows of a family.
async fn family<V: View, K: Send, T: Send>(
    view: &V,
    family: u8,
    fields: fn(&mut Fields<'_>) -> Option<K>,
    value: fn(&[u8]) -> Result<T, &'static str>,
) -> Result<Vec<(K, T)>, StoreError> {
    let (from, to) = keys::family(family);
    let mut rows = Vec::new();
    view.scan(&from, &to, &mut |key, bytes| {
        rows.push((read_key(key, fields)?, value(bytes).map_err(|w| StoreError::row(key, w))?));
        Ok(())
    })
    .await?;
    Ok(rows)
}

fn read_key<K>(key: &[u8], fields: fn(&mut Fields<'_>) -> Option<K>) -> Result<K, StoreError> {
    let mut rest = Fields::from_key(key);
    let read = fields(&mut rest).filter(|_| rest.end().is_some());
    read.ok_or_else(|| StoreError::row(key, "a key that is none"))
}

/// The minute after the last one that has rows, or after that of the log's clock if this is later.
/// Only the accounts of minutes from the clock's on are read, however far ahead the last of them
/// is.
async fn resident_from<V: View>(view: &V, clock: Timestamp) -> Result<Minute, StoreError> {
    let now = clock.minute();
    let ahead = accounts(view, now..Minute(u32::MAX)).await?;
    let last = ahead.last().map_or(now, |(minute, _)| *minute);
    Ok(Minute(last.0.saturating_add(1)))
}

/// Kind and validity of every row of totals that a minute may have.
fn kinds() -> impl Iterator<Item = (Kind, bool)> {
    Kind::ALL.iter().flat_map(|kind| [(*kind, true), (*kind, false)])
}

/// How many events of a kind an ad has in a range of minutes.
///
/// # Errors
/// [`StoreError`].
pub async fn ad_count<V: View>(
    view: &V,
    ad: AdId,
    kind: Kind,
    validity: Validity,
    Range { start: from, end: to }: Range<Minute>,
) -> Result<u64, StoreError> {
    let mut count = 0;
    view.scan(&keys::cells(ad, from), &keys::cells(ad, to), &mut |key, value| {
        let cells = codec::read_cells(value).map_err(|what| StoreError::row(key, what))?;
        let asked = |cell: &CellKey| validity.takes(cell.is_valid()) && cell.kind() == kind;
        count +=
            cells.iter().filter(|(cell, _)| asked(cell)).map(|(_, value)| value.count).sum::<u64>();
        Ok(())
    })
    .await?;
    Ok(count)
}

/// Hands the cells of a range of minutes to `each`, in the order of the ads, from the key `from` on
/// (`None`: from the first). It has to read the cells of all minutes. It ends after `rows_max`
/// rows, and returns the key to go on with; `None` when it was through.
///
/// # Errors
/// [`StoreError`].
pub async fn cells<V: View>(
    view: &V,
    range: &Range<Minute>,
    from: Option<Vec<u8>>,
    rows_max: usize,
    mut each: impl FnMut(Minute, Dimensions, CellValue) + Send,
) -> Result<Option<Vec<u8>>, StoreError> {
    let (first, to) = keys::family(keys::CELLS);
    let from = from.unwrap_or(first);
    let (mut rows, mut next) = (0, None);
    let mut take = |key: &[u8], value: &[u8]| {
        if rows == rows_max {
            next = Some(key.to_vec());
            return Err(Stop::Enough);
        }
        rows += 1;
        let (ad, minute) = read_key(key, |f| f.id().zip(f.minute()))?;
        if !range.contains(&minute) {
            return Ok(());
        }
        for (cell, value) in codec::read_cells(value).map_err(|w| StoreError::row(key, w))? {
            each(minute, cell.dimensions(ad), value);
        }
        Ok(())
    };
    view.scan(&from, &to, &mut take).await?;
    Ok(next)
}

/// Hands each ad's valid or invalid events of a kind in a minute to `each`.
///
/// # Errors
/// [`StoreError`].
pub async fn totals<V: View>(
    view: &V,
    minute: Minute,
    kind: Kind,
    valid: bool,
    mut each: impl FnMut(AdId, u64) + Send,
) -> Result<(), StoreError> {
    let from = keys::totals(minute, kind, valid);
    let to = [&from[..], &[0]].concat();
    view.scan(&from, &to, &mut |key, value| {
        let totals = codec::read_totals(value).map_err(|what| StoreError::row(key, what))?;
        totals.into_iter().for_each(|(ad, count)| each(ad, count));
        Ok(())
    })
    .await
}

/// Up to so many names are looked up one by one; for more, all names are read.
const NAMES_ONE_BY_ONE: usize = 256;

/// The names of these ids, as far as the store has them. `ids` must be in order.
///
/// # Errors
/// [`StoreError`].
pub async fn names<V: View>(
    view: &V,
    ids: &[AnyId],
) -> Result<Vec<(AnyId, NameBuf<Any>)>, StoreError> {
    let mut names = Vec::new();
    let mut take = |key: &[u8], value: &[u8]| {
        let id = read_key(key, |f| f.id())?;
        if ids.binary_search(&id).is_ok() {
            let name = codec::read_name(value).map_err(|what| StoreError::row(key, what))?;
            names.push((id, name));
        }
        Ok(())
    };
    if ids.len() > NAMES_ONE_BY_ONE {
        let (from, to) = keys::family(keys::NAME);
        view.scan(&from, &to, &mut take).await?;
    } else {
        for id in ids {
            let from = keys::name(*id);
            view.scan(&from, &[&from[..], &[0]].concat(), &mut take).await?;
        }
    }
    Ok(names)
}

/// The accounts, without revisions, in a range of minutes.
///
/// # Errors
/// [`StoreError`].
pub async fn accounts<V: View>(
    view: &V,
    range: Range<Minute>,
) -> Result<Vec<(Minute, MinuteAccount)>, StoreError> {
    let key = |minute| keys::minute(keys::ACCOUNT, minute);
    let range = (key(range.start), key(range.end));
    let mut accounts = Vec::new();
    view.scan(&range.0, &range.1, &mut |key, value| {
        let minute = read_key(key, |f| f.minute())?;
        let account = codec::read_account(value).map_err(|what| StoreError::row(key, what))?;
        accounts.push((minute, account));
        Ok(())
    })
    .await?;
    Ok(accounts)
}

/// What page views have told in a range of minutes, by publisher.
///
/// # Errors
/// [`StoreError`].
pub async fn told<V: View>(
    view: &V,
    range: Range<Minute>,
) -> Result<BTreeMap<PublisherId, Told>, StoreError> {
    let key = |minute| keys::minute(keys::TOLD, minute);
    let range = (key(range.start), key(range.end));
    let mut sums: BTreeMap<PublisherId, Told> = BTreeMap::new();
    view.scan(&range.0, &range.1, &mut |key, value| {
        let told = codec::read_told(value).map_err(|what| StoreError::row(key, what))?;
        told.into_iter().for_each(|(id, told)| sums.entry(id).or_default().add(told));
        Ok(())
    })
    .await?;
    Ok(sums)
}

/// The sum of the revisions in a range of minutes.
///
/// # Errors
/// [`StoreError`].
pub async fn revision<V: View>(view: &V, range: Range<Minute>) -> Result<u64, StoreError> {
    let key = |minute| keys::minute(keys::REVISION, minute);
    let range = (key(range.start), key(range.end));
    let mut sum = 0;
    view.scan(&range.0, &range.1, &mut |key, value| {
        sum += codec::read_number(value).map_err(|what| StoreError::row(key, what))?;
        Ok(())
    })
    .await?;
    Ok(sum)
}

/// The rows that note the sequence of an hour's first checkpoint, and that forget older hours.
#[must_use]
pub fn hours(hour: u32, sequence: u64, forget: &[u32]) -> Vec<Change> {
    let mut rows = vec![Change::Put(keys::hour(hour), codec::number_value(sequence))];
    rows.extend(forget.iter().map(|hour| Change::Delete(keys::hour(*hour))));
    rows
}

mod facts;
mod plan;
mod segments;
#[cfg(test)]
mod tests;
