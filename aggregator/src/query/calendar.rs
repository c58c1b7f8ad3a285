//! The steps of a series, in local time.
//!
//! Steps are whole minutes, because counts are. Where a local hour or day begins within a minute
//! (zones had such offsets until 1972), the step begins with the next minute.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use jiff::civil::{Date, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, ToSpan as _};
use shared::Minute;

/// How long each point of a series is. Days and longer steps are local ones: of 23, 24 or 25 hours
/// where clocks change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Minute,
    /// Of an hour: 15 minutes.
    Quarter,
    Hour,
    Day,
    /// From Monday (ISO 8601).
    Week,
    Month,
    Year,
}

const STEPS: [(Step, &str); 7] = [
    (Step::Minute, "minute"),
    (Step::Quarter, "quarter"),
    (Step::Hour, "hour"),
    (Step::Day, "day"),
    (Step::Week, "week"),
    (Step::Month, "month"),
    (Step::Year, "year"),
];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(STEPS.iter().find(|(step, _)| step == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for Step {
    type Err = CalendarError;
    fn from_str(text: &str) -> Result<Self, CalendarError> {
        let step = STEPS.iter().find(|(_, name)| *name == text).map(|(step, _)| *step);
        step.ok_or_else(|| CalendarError::Step(shown(text)))
    }
}

impl Step {
    /// How many minutes it has, where all steps have as many.
    const fn minutes(self) -> Option<u32> {
        match self {
            Self::Minute => Some(1),
            Self::Quarter => Some(15),
            Self::Hour => Some(60),
            Self::Day | Self::Week | Self::Month | Self::Year => None,
        }
    }

    /// At least so many minutes are in every step but a ragged one.
    const fn least_minutes(self) -> u32 {
        match self {
            Self::Minute => 1,
            Self::Quarter => 15,
            Self::Hour => 60,
            Self::Day => 20 * 60,
            Self::Week => 6 * 1_440,
            Self::Month => 27 * 1_440,
            Self::Year => 364 * 1_440,
        }
    }
}

/// Why a range cannot be cut into steps.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum CalendarError {
    #[error("there is no step {0:?}; give minute, quarter, hour, day, week, month or year")]
    Step(String),
    #[error("there is no time zone {0:?}; give a name of the IANA database, such as Europe/Berlin")]
    Zone(String),
    #[error("a series of {step}s has about {points} points here, and may have {most}; {hint}")]
    TooMany { step: Step, points: u32, most: usize, hint: String },
    #[error("the range lies outside the years that the calendar knows")]
    OutOfRange,
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A time zone.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Zone {
    zone: TimeZone,
    name: String,
}

impl Zone {
    /// By its name in the IANA database, which is compiled in.
    pub(crate) fn parse(name: &str) -> Result<Self, CalendarError> {
        let unknown = || CalendarError::Zone(shown(name));
        let zone = TimeZoneDatabase::bundled().get(name).map_err(|_| unknown())?;
        let name = zone.iana_name().ok_or_else(unknown)?.to_owned();
        Ok(Self { zone, name })
    }

    /// Where the clocks change within a range.
    fn changes(&self, range: &Range<Minute>) -> impl Iterator<Item = Timestamp> {
        let end = timestamp(range.end);
        let from = timestamp(range.start);
        let changes = from.into_iter().flat_map(|from| self.zone.following(from));
        let changes = changes.map(|change| change.timestamp());
        changes.take_while(move |at| end.is_some_and(|end| *at < end))
    }

    fn is_utc(&self) -> bool {
        self.name == "UTC"
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

/// The steps of a range: one behind the other without a gap. The first and the last are shorter
/// where the range begins or ends within a step.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Steps {
    /// The first minute of each step, then the minute behind the last.
    bounds: Vec<Minute>,
    zone: Zone,
}

impl Steps {
    /// Cuts a range that is not empty into at most so many steps.
    pub(crate) fn new(
        range: &Range<Minute>,
        step: Step,
        zone: &Zone,
        most: usize,
    ) -> Result<Self, CalendarError> {
        let length = range.end.0.saturating_sub(range.start.0);
        let points = (length / step.least_minutes()).saturating_add(1);
        if usize::try_from(points).unwrap_or(usize::MAX) > most.saturating_add(1) {
            let longer = STEPS.iter().find(|(longer, _)| {
                let points = (length / longer.least_minutes()).saturating_add(1);
                usize::try_from(points).is_ok_and(|points| points <= most)
            });
            let hint = longer.map_or_else(
                || "ask for a shorter range".to_owned(),
                |(longer, _)| format!("ask for a shorter range, or for step={longer}"),
            );
            return Err(CalendarError::TooMany { step, points, most, hint });
        }
        let mut bounds = match step.minutes() {
            Some(minutes) => even(range, minutes, zone)?,
            None => days(range, step, zone)?,
        };
        bounds.push(range.start);
        bounds.retain(|bound| (range.start..range.end).contains(bound));
        bounds.sort_unstable();
        bounds.dedup();
        bounds.push(range.end);
        if bounds.len() - 1 > most {
            let points = u32::try_from(bounds.len() - 1).unwrap_or(u32::MAX);
            let hint = "ask for a shorter range".to_owned();
            return Err(CalendarError::TooMany { step, points, most, hint });
        }
        Ok(Self { bounds, zone: zone.clone() })
    }

    /// How many steps.
    pub(crate) fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The step that has the minute, which is one of the range.
    pub(crate) fn at(&self, minute: Minute) -> usize {
        let behind = self.bounds.partition_point(|bound| *bound <= minute);
        behind.saturating_sub(1).min(self.len().saturating_sub(1))
    }

    /// When each step begins: RFC 3339 in local time, with the offset of that moment.
    pub(crate) fn starts(&self) -> impl Iterator<Item = String> {
        let starts = self.bounds.iter().take(self.len());
        starts.map(|minute| match timestamp(*minute) {
            Some(at) if !self.zone.is_utc() => {
                at.to_zoned(self.zone.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
            }
            _ => minute.start().to_string(),
        })
    }
}

/// Where steps of as many minutes begin: at whole local ones, and where clocks change.
fn even(range: &Range<Minute>, minutes: u32, zone: &Zone) -> Result<Vec<Minute>, CalendarError> {
    let mut bounds = Vec::new();
    let length = i64::from(minutes) * 60;
    let mut from = timestamp(range.start).ok_or(CalendarError::OutOfRange)?;
    let end = timestamp(range.end).ok_or(CalendarError::OutOfRange)?;
    for change in zone.changes(range).chain([end]) {
        let offset = i64::from(zone.zone.to_offset(from).seconds());
        let local = from.as_second() + offset;
        // The first whole local step that is not before `from`.
        let mut at = from.as_second() + (length - local.rem_euclid(length)) % length;
        while at < change.as_second() {
            bounds.extend(minute_from(at));
            at += length;
        }
        if change < end {
            bounds.extend(minute_from(change.as_second()));
        }
        from = change;
    }
    Ok(bounds)
}

/// Where local days, weeks, months or years begin.
fn days(range: &Range<Minute>, step: Step, zone: &Zone) -> Result<Vec<Minute>, CalendarError> {
    let out = |_: jiff::Error| CalendarError::OutOfRange;
    let start = timestamp(range.start).ok_or(CalendarError::OutOfRange)?;
    let end = timestamp(range.end).ok_or(CalendarError::OutOfRange)?;
    let last = zone.zone.to_datetime(end).date();
    let mut bounds = Vec::new();
    let mut date = zone.zone.to_datetime(start).date();
    // Ends behind the date of the range's end: each round is at least a day.
    while date <= last {
        date = match step {
            Step::Week => date.nth_weekday(1, Weekday::Monday).map_err(out)?,
            Step::Month => date.first_of_month().checked_add(1.month()).map_err(out)?,
            Step::Year => date.first_of_year().checked_add(1.year()).map_err(out)?,
            Step::Minute | Step::Quarter | Step::Hour | Step::Day => {
                date.tomorrow().map_err(out)?
            }
        };
        bounds.extend(minute_from(first_of(date, zone)?.as_second()));
    }
    Ok(bounds)
}

/// The first moment of a local date; of a date that a zone left out, that of the next one.
fn first_of(date: Date, zone: &Zone) -> Result<Timestamp, CalendarError> {
    let out = |_: jiff::Error| CalendarError::OutOfRange;
    let midnight = zone.zone.to_ambiguous_timestamp(date.at(0, 0, 0, 0));
    if !matches!(midnight.offset(), AmbiguousOffset::Gap { .. }) {
        // Of a midnight that there is twice, the day begins with the first.
        return midnight.earlier().map_err(out);
    }
    // The clocks jump over midnight: the day begins where they do.
    let later = midnight.later().map_err(out)?;
    let change = zone.zone.preceding(later.saturating_add(1.second()).unwrap_or(later)).next();
    Ok(change.map_or(later, |change| change.timestamp()))
}

fn timestamp(minute: Minute) -> Option<Timestamp> {
    Timestamp::from_second(i64::from(minute.0) * 60).ok()
}

/// The first minute that begins at this second or later.
fn minute_from(second: i64) -> Option<Minute> {
    u32::try_from(second.div_euclid(60) + i64::from(second.rem_euclid(60) > 0)).ok().map(Minute)
}

#[cfg(test)]
mod tests;
