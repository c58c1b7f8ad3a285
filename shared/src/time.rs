//! Time as a value: core code takes the time as an argument.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Later than every event: the watermark of an outbox that is closed.
    pub const MAX: Self = Self(u64::MAX);

    /// The UTC minute that this lies in; the largest for times beyond what a minute can say.
    #[must_use]
    pub fn minute(self) -> Minute {
        Minute(u32::try_from(self.0 / 60_000).unwrap_or(u32::MAX))
    }

    /// Days since 1970-01-01 (UTC); saturates.
    #[must_use]
    pub fn day(self) -> u32 {
        u32::try_from(self.0 / 86_400_000).unwrap_or(u32::MAX)
    }

    /// Whole seconds since the epoch.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// Later by `ms`; saturates.
    #[must_use]
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Earlier by `ms`; saturates at 1970.
    #[must_use]
    pub const fn minus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_sub(ms))
    }

    /// Reads whole or fractional Unix seconds, or an RFC 3339 time (`2019-11-24T00:00:17Z`; a
    /// space for the `T` as well, and no offset means UTC).
    ///
    /// # Errors
    /// Says what was expected when the text is neither, or that it is before 1970 or after the year
    /// 9999.
    pub fn parse(text: &str) -> Result<Self, TimeError> {
        let shown = || text.chars().take(64).collect();
        let error = || TimeError::NoTime(shown());
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
            if fraction.contains('.') || (fraction.is_empty() && text.contains('.')) {
                return Err(error());
            }
            let seconds: u64 = whole.parse().map_err(|_| error())?;
            let ms: u64 = format!("{fraction:0<3.3}").parse().map_err(|_| error())?;
            // Milliseconds of our days, taken for seconds, are in a year that nobody means.
            if seconds > SECONDS_MAX {
                return Err(TimeError::TooLate(shown()));
            }
            return Ok(Self(seconds * 1000 + ms));
        }
        let instant = text.parse::<jiff::Timestamp>().or_else(|_| {
            let civil = text.parse::<jiff::civil::DateTime>();
            let civil = civil.map_err(|_| match jiff::fmt::temporal::Pieces::parse(text) {
                Ok(_) => TimeError::OutOfRange(shown()),
                Err(_) => error(),
            })?;
            // A zone without an offset: which instant it is, only a table of zones knows.
            if text.contains('[') {
                return Err(TimeError::ZoneWithoutOffset(shown()));
            }
            let zoned = civil.to_zoned(jiff::tz::TimeZone::UTC);
            zoned.map(|zoned| zoned.timestamp()).map_err(|_| TimeError::OutOfRange(shown()))
        })?;
        u64::try_from(instant.as_millisecond())
            .map(Self)
            .map_err(|_| TimeError::OutOfRange(shown()))
    }
}

/// The last second of the year 9999, the last that RFC 3339 can write.
const SECONDS_MAX: u64 = 253_402_300_799;

/// A text that is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// It is of no form that is known.
    #[error("{0:?} is neither Unix seconds nor an RFC 3339 time such as 2026-01-31T12:00:00Z")]
    NoTime(String),
    /// A number of seconds that leads beyond the year 9999.
    #[error("{0:?} is after the year 9999: write Unix seconds, not milliseconds")]
    TooLate(String),
    /// A time that is none of ours.
    #[error("{0:?} is out of range: times are from 1970 to 9999-12-30")]
    OutOfRange(String),
    /// A local time in a zone, and no offset.
    #[error(
        "{0:?} names a time zone and no offset from UTC: write 2026-01-31T12:00:00-05:00 or …Z"
    )]
    ZoneWithoutOffset(String),
}

impl fmt::Display for Timestamp {
    /// RFC 3339, UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let instant = i64::try_from(self.0).ok().map(jiff::Timestamp::from_millisecond);
        match instant {
            Some(Ok(instant)) => write!(f, "{instant}"),
            _ => write!(f, "{} ms", self.0),
        }
    }
}

/// Minutes since 1970-01-01T00:00Z.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Minute(pub u32);

impl Minute {
    /// 2020-01-01T00:00Z, from which the 24 bits of a [`crate::BlockId`] count (to 2051).
    pub const BLOCK_EPOCH: Self = Self(26_297_280);

    /// Its first millisecond.
    #[must_use]
    pub const fn start(self) -> Timestamp {
        Timestamp(self.0 as u64 * 60_000)
    }

    /// The first millisecond of the next minute.
    #[must_use]
    pub const fn end(self) -> Timestamp {
        Timestamp((self.0 as u64 + 1) * 60_000)
    }
}

/// Tells the time. Only rims own one; core code takes a [`Timestamp`].
///
/// It may jump, back as well as forward. Code that needs increasing times has to make them: the
/// outbox never stamps below its own watermark.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;

    /// Why the time should not be relied on at the moment; none when it may be relied on, or when
    /// nothing is known about it.
    fn trouble(&self) -> Option<String> {
        None
    }
}
