//! Reads the times of a log: in the forms of [`Timestamp::parse`], in a form of the log's own, in a
//! zone.

use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::fmt::temporal::{Pieces, TimeZoneAnnotationKind};
use jiff::tz::TimeZone;
use shared::Timestamp;

/// How a log writes its times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Times {
    format: Option<String>,
    zone: Option<TimeZone>,
}

impl Times {
    /// From `--time-format` (strptime) and `--tz` (a name of IANA's, or an offset).
    ///
    /// # Errors
    /// When there is no such zone, or no time can be read by the format.
    pub(super) fn new(format: Option<&str>, zone: Option<&str>) -> Result<Self, String> {
        let zone = zone.map(|name| {
            zone_of(name).ok_or_else(|| {
                format!(
                    "--tz {name:?}: no zone is called so: write IANA's name (Europe/Berlin, \
                     America/New_York), UTC, or an offset (+09:00)"
                )
            })
        });
        if let Some(format) = format {
            check_format(format).map_err(|why| format!("--time-format {format:?}: {why}"))?;
        }
        Ok(Self { format: format.map(str::to_owned), zone: zone.transpose()? })
    }

    /// Whether the log has a time format of its own.
    pub(super) const fn has_format(&self) -> bool {
        self.format.is_some()
    }

    /// Reads a time.
    ///
    /// # Errors
    /// When it is no time. A local time is none when the clock was set forward over it, or was set
    /// back so that it came twice.
    pub(super) fn read(&self, text: &str) -> Result<Timestamp, String> {
        if let Some(format) = &self.format {
            return self.formatted(format, text);
        }
        // BigQuery writes ` UTC` behind times.
        let in_utc = text.strip_suffix(" UTC").map(|time| format!("{time}Z"));
        let text = in_utc.as_deref().unwrap_or(text);
        let Some((local, zone)) = self.local(text) else {
            if text.ends_with(']') {
                // With both an offset and a zone, the two must agree.
                let both = text.parse::<jiff::Zoned>().map_err(|error| error.to_string())?;
                return in_range(text, both.timestamp());
            }
            // RFC 3339, 5.6: the hours of an offset are hours of a day, so at most 23.
            let offset = Pieces::parse(text).ok().and_then(|pieces| pieces.to_numeric_offset());
            if offset.is_some_and(|offset| offset.seconds().abs() >= 86_400) {
                return Err(format!("{:?}: no offset is of a day or more", short(text)));
            }
            let read = Timestamp::parse(text).map_err(|error| error.to_string());
            return read.map_err(|error| format!("{error}; another form is read by --time-format"));
        };
        instant(text, local, &zone)
    }

    fn formatted(&self, format: &str, text: &str) -> Result<Timestamp, String> {
        if let Some((_, per_s)) = UNITS.iter().find(|(unit, _)| *unit == format) {
            let wrong =
                || format!("{:?} is no number, as --time-format {format} says", short(text));
            let number: i128 = text.parse().map_err(|_| wrong())?;
            let nanos = number.checked_mul(1_000_000_000 / per_s).ok_or_else(wrong)?;
            return in_range(text, jiff::Timestamp::from_nanosecond(nanos).map_err(|_| wrong())?);
        }
        let wrong = |error: jiff::Error| {
            format!("{:?} is not as --time-format {format:?} says: {error}", short(text))
        };
        let said = BrokenDownTime::parse(format, text).map_err(wrong)?;
        if let Ok(instant) = said.to_timestamp() {
            return in_range(text, instant);
        }
        // A date alone means its midnight; a minute without its hour is no time.
        let is_date = said.hour().is_none() && said.minute().is_none() && said.second().is_none();
        let local = match said.to_datetime() {
            Err(_) if is_date && said.meridiem().is_none() => said.to_date().map(DateTime::from),
            local => local,
        };
        let zone = match said.iana_time_zone() {
            Some(name) => TimeZone::get(name).map_err(wrong)?,
            None => self.zone.clone().unwrap_or(TimeZone::UTC),
        };
        instant(text, local.map_err(wrong)?, &zone)
    }

    /// A time without an offset, and its zone: its own (`…[America/New_York]`), or the log's.
    fn local(&self, text: &str) -> Option<(DateTime, TimeZone)> {
        // A number such as `20210101` is Unix seconds, not a date.
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let pieces = Pieces::parse(text).ok().filter(|_| !is_number)?;
        if pieces.offset().is_some() {
            return None;
        }
        let zone = match pieces.time_zone_annotation().map(|annotation| annotation.kind().clone()) {
            Some(TimeZoneAnnotationKind::Named(name)) => TimeZone::get(name.as_str()).ok()?,
            Some(TimeZoneAnnotationKind::Offset(offset)) => TimeZone::fixed(offset),
            _ => self.zone.clone()?,
        };
        Some((pieces.date().to_datetime(pieces.time().unwrap_or_default()), zone))
    }
}

/// The units of `--time-format` for numbers since 1970, and how many make a second.
const UNITS: [(&str, i128); 3] = [("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)];

/// A zone by IANA's name, or an offset as people write it: `+09:00`, `UTC+2`. (To POSIX `UTC+2` is two hours
/// west.)
fn zone_of(name: &str) -> Option<TimeZone> {
    let offset = ["UTC", "GMT"].iter().find_map(|utc| name.strip_prefix(utc)).unwrap_or(name);
    if let Some((sign, time)) =
        offset.split_at_checked(1).filter(|(sign, _)| ["+", "-"].contains(sign))
    {
        let (hours, minutes) = time.split_once(':').unwrap_or((time, "0"));
        let number = |text: &str| {
            let digits = (1..=2).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<i32>().ok()).flatten()
        };
        let (hours, minutes) = match (number(hours), time.len()) {
            (None, 4) => (number(&time[..2])?, number(&time[2..])?),
            (hours, _) => (hours?, number(minutes)?),
        };
        let seconds = (hours * 60 + minutes) * 60 * if sign == "-" { -1 } else { 1 };
        let fits = hours <= 14 && minutes < 60;
        return jiff::tz::Offset::from_seconds(seconds).ok().filter(|_| fits).map(TimeZone::fixed);
    }
    // Not a rule that only POSIX would read (`EST5EDT` alone is a name of IANA's too).
    let is_name = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-+".contains(&b));
    TimeZone::get(name).ok().filter(|_| is_name)
}

/// Checks that a format can be read at all: a time that was written by it is read again, and an
/// hour of half a day says which half.
fn check_format(format: &str) -> Result<(), String> {
    if UNITS.iter().any(|(unit, _)| *unit == format) {
        return Ok(());
    }
    if format.contains("%I") && !format.contains("%p") && !format.contains("%P") {
        return Err("%I is an hour of half a day: %p says which half".to_owned());
    }
    let noon = jiff::Timestamp::from_second(1_700_000_000).map_err(|error| error.to_string())?;
    let noon = noon.to_zoned(TimeZone::UTC);
    let written = jiff::fmt::strtime::format(format, &noon).map_err(|error| error.to_string())?;
    let read = BrokenDownTime::parse(format, &written).map_err(|error| error.to_string())?;
    let says = read.to_timestamp().is_ok() || read.to_date().is_ok();
    says.then_some(()).ok_or_else(|| "it says no date (strptime; or ms, us, ns)".to_owned())
}

fn instant(text: &str, local: DateTime, zone: &TimeZone) -> Result<Timestamp, String> {
    let there = zone.to_ambiguous_timestamp(local);
    let what = if there.is_ambiguous() {
        "there was no such hour, or there were two, when the clocks were set: write the offset from UTC"
    } else {
        "it is out of range"
    };
    let there = there.unambiguous().map_err(|_| format!("{:?}: {what}", short(text)))?;
    in_range(text, there)
}

fn in_range(text: &str, instant: jiff::Timestamp) -> Result<Timestamp, String> {
    let ms = u64::try_from(instant.as_millisecond());
    ms.map(Timestamp).map_err(|_| format!("{:?} is before 1970", short(text)))
}

fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(format: Option<&str>, zone: Option<&str>, text: &str) -> Result<String, String> {
        Times::new(format, zone)?.read(text).map(|at| at.to_string())
    }

    #[test]
    fn forms_and_zones() {
        let (berlin, york) = (Some("Europe/Berlin"), Some("America/New_York"));
        for (format, zone, text, wanted) in [
            (None, None, "2021-01-01 00:00:01", "2021-01-01T00:00:01Z"),
            (None, None, "2021-01-01 00:00:01[America/New_York]", "2021-01-01T05:00:01Z"),
            (None, berlin, "2021-01-01 00:00:01", "2020-12-31T23:00:01Z"),
            (None, berlin, "2021-07-01T00:00:01.5", "2021-06-30T22:00:01.5Z"),
            (None, Some("+09:00"), "2021-07-01T09:00:00", "2021-07-01T00:00:00Z"),
            (None, Some("UTC"), "2021-07-01T09:00:00", "2021-07-01T09:00:00Z"),
            // As people write it, and not as POSIX reads it.
            (None, Some("UTC+2"), "2021-01-02 12:00:00", "2021-01-02T10:00:00Z"),
            (None, Some("GMT-05:30"), "2021-01-02 12:00:00", "2021-01-02T17:30:00Z"),
            (None, Some("+0200"), "2021-01-02 12:00:00", "2021-01-02T10:00:00Z"),
            (None, Some("Etc/GMT+2"), "2021-01-02 12:00:00", "2021-01-02T14:00:00Z"),
            (Some("ms"), None, "1700000001500", "2023-11-14T22:13:21.5Z"),
            (Some("us"), None, "1700000001500000", "2023-11-14T22:13:21.5Z"),
            // What says where it is of needs no zone.
            (None, berlin, "2021-01-01T00:00:01Z", "2021-01-01T00:00:01Z"),
            (None, berlin, "2021-01-01T00:00:01-05:00", "2021-01-01T05:00:01Z"),
            (None, berlin, "2021-01-01 00:00:01[America/New_York]", "2021-01-01T05:00:01Z"),
            (None, berlin, "1700000001", "2023-11-14T22:13:21Z"),
            (None, berlin, "20210101", "1970-08-22T21:55:01Z"),
            (None, None, "2026-11-20 10:00:00 UTC", "2026-11-20T10:00:00Z"),
            (None, None, "2021-01-01T00:00:01+01:00[Europe/Berlin]", "2020-12-31T23:00:01Z"),
            (
                Some("%Y-%m-%d %H:%M:%S %Q"),
                berlin,
                "2021-01-01 00:00:01 America/New_York",
                "2021-01-01T05:00:01Z",
            ),
            (Some("%y%m%d%H"), None, "14102100", "2014-10-21T00:00:00Z"),
            (Some("%y%m%d%H"), york, "14102100", "2014-10-21T04:00:00Z"),
            (Some("%Y%m%d"), berlin, "20210101", "2020-12-31T23:00:00Z"),
            (
                Some("%d/%b/%Y:%H:%M:%S %z"),
                berlin,
                "10/Oct/2000:13:55:36 -0700",
                "2000-10-10T20:55:36Z",
            ),
            (Some("%d.%m.%Y %H:%M"), None, "31.12.2020 23:59", "2020-12-31T23:59:00Z"),
        ] {
            assert_eq!(
                read(format, zone, text).as_deref(),
                Ok(wanted),
                "{format:?} {zone:?} {text}"
            );
        }
    }

    #[test]
    fn what_is_no_time_and_what_was_not_or_twice() {
        let berlin = Some("Europe/Berlin");
        for (format, zone, text, word) in [
            (None, berlin, "2021-03-28 02:30:00", "there were two"),
            (None, berlin, "2021-10-31 02:30:00", "there were two"),
            (Some("%d.%m.%Y %H:%M"), berlin, "31.10.2021 02:30", "there were two"),
            (Some("%d.%m.%Y"), None, "2021-10-31", "not as --time-format"),
            (None, None, "yesterday", "neither Unix seconds"),
            (None, None, "2021-01-01 00:00:01[Mars/Olympus]", "Mars/Olympus"),
            (None, None, "2021-01-01T00:00:01+05:00[Europe/Berlin]", "offset"),
            (Some("%Y-%m-%d %M"), None, "2021-01-01 30", "not as --time-format"),
            (Some("%Y-%m-%d %H:%M:%S %Q"), None, "2021-03-14 02:30:00 America/New_York", "two"),
            (None, Some("Mars/Olympus"), "1", "no zone is called so"),
            (None, Some("UTC+25"), "1", "no zone is called so"),
            (None, Some("+14:61"), "1", "no zone is called so"),
            (None, Some("EST5EDT,M3.2.0,M11.1.0"), "1", "no zone is called so"),
            (Some("hello"), None, "1", "no date"),
            (Some("%H:%M"), None, "1", "no date"),
            (Some("%E"), None, "1", "--time-format"),
            (Some(""), None, "1", "no date"),
            (Some("%Y-%m-%d %I:%M"), None, "1", "half a day"),
            (Some("ms"), None, "1.5", "no number"),
            (None, berlin, "1969-12-31 12:00:00", "before 1970"),
            (None, None, "2021-01-01T00:00:01+25:00", "no offset is of a day or more"),
        ] {
            let error = read(format, zone, text).unwrap_err();
            assert!(error.contains(word), "{format:?} {zone:?} {text}: {error}");
        }
    }
}
