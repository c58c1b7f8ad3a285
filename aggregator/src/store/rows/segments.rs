//! The rows that name segments of facts.

use std::ops::Range;

use jiff::civil::Date;
use shared::Minute;
use shared::bytes::{Reader, put_number};

use super::family;
use crate::store::{Change, StoreError, View, keys};

const DAY: u32 = 24 * 60;
const VERSION: u8 = 1;

/// How long the period is whose facts a segment has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// An hour.
    Hour = 0,
    /// A day in UTC.
    Day = 1,
    /// A calendar month in UTC.
    Month = 2,
}

impl Level {
    const ALL: [Self; 3] = [Self::Hour, Self::Day, Self::Month];

    /// The period of this length that a minute is in.
    #[must_use]
    pub fn period(self, minute: Minute) -> Range<Minute> {
        let fixed = |length: u32| {
            let start = minute.0 / length * length;
            Minute(start)..Minute(start.saturating_add(length))
        };
        match self {
            Self::Hour => fixed(60),
            Self::Day => fixed(DAY),
            Self::Month => month(minute).unwrap_or_else(|| fixed(DAY)),
        }
    }

    /// The next longer one.
    #[must_use]
    pub const fn longer(self) -> Option<Self> {
        match self {
            Self::Hour => Some(Self::Day),
            Self::Day => Some(Self::Month),
            Self::Month => None,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

fn month(minute: Minute) -> Option<Range<Minute>> {
    let minutes = |date: Date| {
        let since = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp().as_second() / 60;
        u32::try_from(since).ok().map(Minute)
    };
    let time = jiff::Timestamp::from_second(i64::from(minute.0) * 60).ok()?;
    let first = time.to_zoned(jiff::tz::TimeZone::UTC).date().first_of_month();
    let next = first.last_of_month().tomorrow().ok()?;
    Some(minutes(first)?..minutes(next)?)
}

/// A segment, as a row names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentRow {
    /// The partition whose facts they are.
    pub partition: u16,
    /// How long its period is.
    pub level: Level,
    /// The first minute of its period.
    pub start: Minute,
    /// Which of all segments it is: no other one has ever had it.
    pub id: u64,
    /// How many facts it has.
    pub rows: u64,
    /// Bytes of its Parquet file.
    pub bytes: u64,
}

impl SegmentRow {
    /// What its objects are called.
    #[must_use]
    pub fn name(&self) -> String {
        let start = self.start.start().to_string();
        let hour = start.get(..13).unwrap_or(&start).replace([':', '-'], "");
        format!("{}-{hour}-{:016x}", self.level.word(), self.id)
    }

    /// Its period.
    #[must_use]
    pub fn period(&self) -> Range<Minute> {
        self.level.period(self.start)
    }

    fn key(&self) -> Vec<u8> {
        keys::segment(self.level as u8, self.start, self.id)
    }

    pub(super) fn put(&self) -> Change {
        let mut value = vec![VERSION];
        put_number(&mut value, self.rows);
        put_number(&mut value, self.bytes);
        Change::Put(self.key(), value)
    }

    pub(super) fn delete(&self) -> Change {
        Change::Delete(self.key())
    }
}

fn read_value(value: &[u8]) -> Result<(u64, u64), &'static str> {
    let mut reader = Reader::new(value);
    if reader.u8()? != VERSION {
        return Err("a segment of a version that this build does not know");
    }
    let (rows, bytes) = (reader.number()?, reader.number()?);
    reader.end()?;
    Ok((rows, bytes))
}

type Fields = (u8, Minute, u64);

fn row(
    partition: u16,
    (level, start, id): Fields,
    (rows, bytes): (u64, u64),
) -> Option<SegmentRow> {
    let level = Level::ALL.get(usize::from(level)).copied()?;
    Some(SegmentRow { partition, level, start, id, rows, bytes })
}

fn fields(fields: &mut keys::Fields<'_>) -> Option<Fields> {
    Some((fields.u8()?, fields.minute()?, fields.u64()?))
}

/// The segments of a partition.
pub(super) async fn load<V: View>(view: &V, partition: u16) -> Result<Vec<SegmentRow>, StoreError> {
    let all = family(view, keys::SEGMENT, fields, read_value).await?;
    let unknown =
        || StoreError::Damaged("a segment of a period that this build does not know".into());
    all.into_iter().map(|(key, value)| row(partition, key, value).ok_or_else(unknown)).collect()
}
