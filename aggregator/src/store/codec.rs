//! The bytes of the rows' values. Each begins with a version, which is 1 unless stated otherwise.
//! What follows is fixed here, and anything else is refused. Cells, totals, what page views told,
//! accounts and revisions add up ([`add`]); all other rows are replaced.

use eventlog::Position;
use shared::event::REASON_CODES;
use shared::name::{Any, Noun};
use shared::{AdId, BatchDigest, EdgeId, Id, Minute, NameBuf, PublisherId, Timestamp};

use shared::bytes::{Reader, put_id, put_number};

use super::row_values::{Unreadable, in_order, sum, versioned};
use super::{StoreError, keys};
use crate::count::{
    Bits, CONTAINER_BITS, Conflict, Container, CutOff, MinuteAccount, OutboxState, PageViewState,
    Run, SourceState, Told,
};

mod cells;

use cells::add_cell;
pub use cells::{CellKey, CellValue, cells_value, read_cells};

const VERSION: u8 = 1;
/// The version of an outbox's value. Version 1 ends with the runs. Version 2 has neither the time
/// at which the outbox ended nor that of its first conflict.
const OUTBOX_VERSION: u8 = 3;
const CONTAINER_BYTES: usize = CONTAINER_BITS / 8;
/// Marks a container that is written as the places of its bits, which is done when it is shorter.
const SPARSE: u8 = 1;
/// Marks a container that is written as a bitmap.
const DENSE: u8 = 0;

/// The meta row: of what partition a store is, and where its engine stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Meta {
    /// The partition.
    pub partition: u16,
    /// How many partitions the deployment has.
    pub partitions: u16,
    /// The log's clock.
    pub clock: Timestamp,
    /// See [`crate::count::Changes::ahead`]. Earlier builds did not write it.
    pub ahead: Option<Timestamp>,
    /// See [`crate::count::Changes::settled`].
    pub settled: Timestamp,
    /// See [`crate::count::Changes::resident_from`].
    pub resident_from: Minute,
    /// The last message applied.
    pub position: Option<Position>,
}

/// The sum of the values that were added to one key. `values`: oldest first.
///
/// # Errors
/// [`StoreError::Damaged`] names the key when a value cannot be read, or when rows of the family do
/// not add up.
pub fn add<'a>(key: &[u8], values: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, StoreError> {
    sum_of(key, values).map_err(|what| StoreError::row(key, what))
}

fn sum_of<'a>(key: &[u8], values: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, Unreadable> {
    match key.first() {
        Some(&keys::CELLS) => {
            let mut all = Vec::new();
            for value in values {
                all.extend(read_cells(value)?);
            }
            sum(all, add_cell).map(|cells| cells_value(&cells))
        }
        Some(&keys::TOTALS) => {
            let mut all = Vec::new();
            for value in values {
                all.extend(read_totals(value)?);
            }
            sum(all, add_number).map(|totals| totals_value(&totals))
        }
        Some(&keys::TOLD) => {
            let mut all = Vec::new();
            for value in values {
                all.extend(read_told(value)?);
            }
            sum(all, add_told).map(|told| told_value(&told))
        }
        Some(&keys::ACCOUNT) => {
            let mut total = MinuteAccount::default();
            for value in values {
                total.add(&read_account(value)?);
            }
            Ok(account_value(&total))
        }
        Some(&keys::REVISION) => {
            let mut total = 0;
            for value in values {
                add_number(&mut total, read_number(value)?)?;
            }
            Ok(number_value(total))
        }
        _ => Err("a row that does not add up"),
    }
}

/// Sums that are too large become the largest number, here and in the engine. Senders can write
/// numbers as large as they like, and an error here would stop the partition for good.
fn add_number(total: &mut u64, number: u64) -> Result<(), Unreadable> {
    *total = total.saturating_add(number);
    Ok(())
}

fn add_told(total: &mut Told, told: Told) -> Result<(), Unreadable> {
    add_number(&mut total.sent, told.sent)?;
    add_number(&mut total.counted, told.counted)
}

/// Reads an id as [`put_id`] writes it.
fn id<T: Noun>(reader: &mut Reader<'_>) -> Result<Id<T>, Unreadable> {
    let length = reader.u8()?;
    Ok(reader.short_id(length)?)
}

fn begin() -> Vec<u8> {
    vec![VERSION]
}

/// A name.
#[must_use]
pub fn name_value(name: &NameBuf<Any>) -> Vec<u8> {
    let mut out = begin();
    out.extend(name.as_str().as_bytes());
    out
}

/// The inverse of [`name_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_name(value: &[u8]) -> Result<NameBuf<Any>, &'static str> {
    let mut reader = versioned(value, VERSION)?;
    let text = std::str::from_utf8(reader.rest()).map_err(|_| "a name that is no text")?;
    text.parse().map_err(|_| "a name that is none")
}

/// The totals of all ads in a minute, of one kind and validity, in the order of the ads.
#[must_use]
pub fn totals_value(totals: &[(AdId, u64)]) -> Vec<u8> {
    let mut out = begin();
    for (ad, count) in totals {
        put_id(&mut out, *ad);
        put_number(&mut out, *count);
    }
    out
}

/// The inverse of [`totals_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_totals(value: &[u8]) -> Result<Vec<(AdId, u64)>, &'static str> {
    let mut reader = versioned(value, VERSION)?;
    let mut totals = Vec::new();
    while !reader.is_empty() {
        totals.push((id(&mut reader)?, reader.number()?));
    }
    in_order(totals)
}

/// What page views at each publisher have told in a minute, in the order of the publishers.
#[must_use]
pub fn told_value(told: &[(PublisherId, Told)]) -> Vec<u8> {
    let mut out = begin();
    for (publisher, told) in told {
        put_id(&mut out, *publisher);
        put_number(&mut out, told.sent);
        put_number(&mut out, told.counted);
    }
    out
}

/// The inverse of [`told_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_told(value: &[u8]) -> Result<Vec<(PublisherId, Told)>, &'static str> {
    let mut reader = versioned(value, VERSION)?;
    let mut told = Vec::new();
    while !reader.is_empty() {
        let publisher = id(&mut reader)?;
        told.push((publisher, Told { sent: reader.number()?, counted: reader.number()? }));
    }
    in_order(told)
}

/// A page view.
#[must_use]
pub fn page_view_value(state: PageViewState) -> Vec<u8> {
    let mut out = begin();
    put_number(&mut out, state.seq.into());
    put_number(&mut out, state.hour.into());
    if state.edge != EdgeId::NONE {
        put_id(&mut out, state.edge);
    }
    out
}

/// The inverse of [`page_view_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_page_view(value: &[u8]) -> Result<PageViewState, &'static str> {
    let mut reader = versioned(value, VERSION)?;
    let seq = u16::try_from(reader.number()?).map_err(|_| "a number beyond 16 bits")?;
    let hour = u32::try_from(reader.number()?).map_err(|_| "an hour beyond 32 bits")?;
    // Earlier builds did not write the edge.
    let edge = if reader.is_empty() { EdgeId::NONE } else { id(&mut reader)? };
    reader.end()?;
    Ok(PageViewState { seq, hour, edge })
}

/// The code under which batches that were given up stand among the reasons. No reason has it
/// ([`Reason::code`](shared::Reason::code)).
const GIVEN_UP: usize = 0;

fn put_reasons(out: &mut Vec<u8>, reasons: &[u64; REASON_CODES]) {
    for (code, count) in reasons.iter().enumerate().filter(|(_, count)| **count > 0) {
        put_number(out, code as u64);
        put_number(out, *count);
    }
}

/// Reads reasons up to the end of the value.
fn read_reasons(mut reader: Reader<'_>) -> Result<[u64; REASON_CODES], Unreadable> {
    let mut reasons = [0; REASON_CODES];
    while !reader.is_empty() {
        let code = usize::try_from(reader.number()?).map_err(|_| "an unknown reason")?;
        *reasons.get_mut(code).ok_or("an unknown reason")? = reader.number()?;
    }
    Ok(reasons)
}

/// An account without its revision, which has a row of its own. Batches that were given up stand
/// among the reasons, under code 0, if there are any.
#[must_use]
pub fn account_value(account: &MinuteAccount) -> Vec<u8> {
    let mut out = begin();
    let numbers = [account.declared, account.imported, account.counted, account.duplicate];
    numbers.iter().for_each(|number| put_number(&mut out, *number));
    let mut reasons = account.reasons;
    reasons[GIVEN_UP] = account.given_up;
    put_reasons(&mut out, &reasons);
    out
}

/// The inverse of [`account_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_account(value: &[u8]) -> Result<MinuteAccount, &'static str> {
    let mut reader = versioned(value, VERSION)?;
    let mut numbers = [0; 4];
    for number in &mut numbers {
        *number = reader.number()?;
    }
    let [declared, imported, counted, duplicate] = numbers;
    let mut reasons = read_reasons(reader)?;
    let given_up = std::mem::take(&mut reasons[GIVEN_UP]);
    let revision = 0;
    Ok(MinuteAccount { declared, imported, counted, duplicate, reasons, given_up, revision })
}

/// A single number: a revision, an epoch, a sequence, or a time.
#[must_use]
pub fn number_value(number: u64) -> Vec<u8> {
    let mut out = begin();
    put_number(&mut out, number);
    out
}

/// The inverse of [`number_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_number(value: &[u8]) -> Result<u64, &'static str> {
    let mut reader = versioned(value, VERSION)?;
    let number = reader.number()?;
    reader.end()?;
    Ok(number)
}

/// A dedup container: its bitmap, or the places of its bits when that is shorter.
#[must_use]
pub fn container_value(container: &Container) -> Vec<u8> {
    let bits = container.bits();
    let mut sparse = vec![VERSION, SPARSE];
    let mut next = 0;
    // Places are written as distances from the one before. It ends when the list is as long as the
    // bitmap, which is then written instead.
    for (index, word) in bits.iter().enumerate() {
        let mut left = *word;
        while left != 0 && sparse.len() < CONTAINER_BYTES {
            let place = index as u64 * 64 + u64::from(left.trailing_zeros());
            put_number(&mut sparse, place - next);
            next = place + 1;
            left &= left - 1;
        }
    }
    if sparse.len() < CONTAINER_BYTES {
        return sparse;
    }
    let mut dense = vec![VERSION, DENSE];
    bits.iter().for_each(|word| dense.extend(word.to_le_bytes()));
    dense
}

/// The inverse of [`container_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_container(value: &[u8]) -> Result<Container, &'static str> {
    let mut reader = versioned(value, VERSION)?;
    let mut bits: Bits = [0; CONTAINER_BITS / 64];
    match reader.u8()? {
        DENSE => {
            for word in &mut bits {
                *word = reader.u64()?;
            }
            reader.end()?;
        }
        SPARSE => {
            let mut next = 0_u64;
            while !reader.is_empty() {
                let place = next.checked_add(reader.number()?).ok_or("a bit beyond its page")?;
                let at = usize::try_from(place).map_err(|_| "a bit beyond its page")?;
                *bits.get_mut(at / 64).ok_or("a bit beyond its page")? |= 1 << (place % 64);
                next = place + 1;
            }
        }
        _ => return Err("a page of an unknown form"),
    }
    Ok(Container::from(&bits))
}

/// An outbox.
#[must_use]
pub fn outbox_value(outbox: &OutboxState) -> Vec<u8> {
    let mut out = vec![OUTBOX_VERSION];
    put_number(&mut out, outbox.next);
    out.extend(outbox.watermark.0.to_le_bytes());
    out.push(u8::from(outbox.closed_at.is_some()));
    outbox.closed_at.iter().for_each(|at| out.extend(at.0.to_le_bytes()));
    put_number(&mut out, outbox.above.len() as u64);
    for run in &outbox.above {
        put_number(&mut out, run.first);
        put_number(&mut out, run.end);
        out.extend(run.watermark.0.to_le_bytes());
    }
    put_number(&mut out, outbox.contents.digests.len() as u64);
    for (number, digest) in &outbox.contents.digests {
        put_number(&mut out, *number);
        out.extend(digest.0);
    }
    // Zero stands for none: no clock says zero.
    for at in [outbox.ended_at, outbox.contents.first_conflict_at] {
        out.extend(at.unwrap_or(Timestamp(0)).0.to_le_bytes());
    }
    put_number(&mut out, outbox.contents.conflicts_all);
    for conflict in &outbox.contents.conflicts {
        put_number(&mut out, conflict.number);
        out.extend(conflict.applied.0);
        out.extend(conflict.skipped.0);
        put_number(&mut out, conflict.events);
        out.extend(conflict.at.0.to_le_bytes());
    }
    out
}

/// The inverse of [`outbox_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_outbox(value: &[u8]) -> Result<OutboxState, &'static str> {
    let version = *value.first().unwrap_or(&OUTBOX_VERSION);
    let is_old = version == VERSION;
    let mut reader = versioned(value, version.clamp(VERSION, OUTBOX_VERSION))?;
    let next = reader.number()?;
    let watermark = Timestamp(reader.u64()?);
    let closed_at = match reader.u8()? {
        0 => None,
        1 => Some(Timestamp(reader.u64()?)),
        _ => return Err("neither open nor closed"),
    };
    let mut outbox = OutboxState { next, watermark, closed_at, ..OutboxState::default() };
    // Version 1 has no number of runs: they go on to the end of the value.
    let mut runs = if is_old { u64::MAX } else { reader.number()? };
    while runs > 0 && !(is_old && reader.is_empty()) {
        let (first, end) = (reader.number()?, reader.number()?);
        outbox.above.push(Run { first, end, watermark: Timestamp(reader.u64()?) });
        runs -= 1;
    }
    if is_old {
        return Ok(outbox);
    }
    for _ in 0..reader.number()? {
        outbox.contents.digests.insert(reader.number()?, BatchDigest(reader.array()?));
    }
    if version == OUTBOX_VERSION {
        let mut at = || reader.u64().map(|at| (at > 0).then_some(Timestamp(at)));
        (outbox.ended_at, outbox.contents.first_conflict_at) = (at()?, at()?);
    }
    outbox.contents.conflicts_all = reader.number()?;
    while !reader.is_empty() {
        outbox.contents.conflicts.push(Conflict {
            number: reader.number()?,
            applied: BatchDigest(reader.array()?),
            skipped: BatchDigest(reader.array()?),
            events: reader.number()?,
            at: Timestamp(reader.u64()?),
        });
    }
    Ok(outbox)
}

/// The batch from which on an edge is cut off.
#[must_use]
pub fn cut_off_value(at: CutOff) -> Vec<u8> {
    let mut out = begin();
    put_number(&mut out, at.sequence);
    put_number(&mut out, at.entry.into());
    out
}

/// The inverse of [`cut_off_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_cut_off(value: &[u8]) -> Result<CutOff, &'static str> {
    let mut reader = versioned(value, VERSION)?;
    let sequence = reader.number()?;
    let entry = reader.number()?.try_into().map_err(|_| "a batch beyond 16 bits")?;
    reader.end()?;
    Ok(CutOff { sequence, entry })
}

/// An imported log.
#[must_use]
pub fn source_value(source: &SourceState) -> Vec<u8> {
    let mut out = begin();
    put_number(&mut out, source.rows);
    out.extend(source.digest);
    put_number(&mut out, source.counted);
    put_number(&mut out, source.duplicate);
    put_reasons(&mut out, &source.reasons);
    out
}

/// The inverse of [`source_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_source(value: &[u8]) -> Result<SourceState, &'static str> {
    let mut reader = versioned(value, VERSION)?;
    Ok(SourceState {
        rows: reader.number()?,
        digest: reader.array()?,
        counted: reader.number()?,
        duplicate: reader.number()?,
        reasons: read_reasons(reader)?,
    })
}

/// The meta row.
#[must_use]
pub fn meta_value(meta: &Meta) -> Vec<u8> {
    let mut out = begin();
    out.extend(meta.partition.to_le_bytes());
    out.extend(meta.partitions.to_le_bytes());
    out.extend(meta.clock.0.to_le_bytes());
    out.extend(meta.settled.0.to_le_bytes());
    out.extend(meta.resident_from.0.to_le_bytes());
    if let Some(position) = meta.position {
        out.extend(position.to_bytes());
        // Without a position there is no stamp either: no message came yet.
        meta.ahead.iter().for_each(|ahead| out.extend(ahead.0.to_le_bytes()));
    }
    out
}

/// The inverse of [`meta_value`].
///
/// # Errors
/// Says what was expected.
pub fn read_meta(value: &[u8]) -> Result<Meta, &'static str> {
    let mut reader = versioned(value, VERSION)?;
    let (partition, partitions) = (reader.u16()?, reader.u16()?);
    let (clock, settled) = (Timestamp(reader.u64()?), Timestamp(reader.u64()?));
    let resident_from = Minute(reader.u32()?);
    let position = if reader.is_empty() {
        None
    } else {
        let bytes: [u8; Position::BYTES] = reader.array()?;
        Some(Position::from_bytes(&bytes).ok_or("a position that is none")?)
    };
    let ahead = if reader.is_empty() { None } else { Some(Timestamp(reader.u64()?)) };
    reader.end()?;
    Ok(Meta { partition, partitions, clock, ahead, settled, resident_from, position })
}

#[cfg(test)]
mod tests;
