//! The steps of a series: a range of minutes, cut where the clock and the calendar of a time zone
//! say so.
//!
//! The zones are IANA's, from the database that `jiff` brings along; the machine's own is never
//! read. A range has whole minutes of UTC, so everything here does: where a zone's offset is of odd
//! seconds (Africa/Monrovia was at -00:44:30 until January 1972), a step begins with the first
//! whole minute that is no earlier than its exact beginning.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use jiff::tz::{Offset, TimeZone, TimeZoneDatabase};
use shared::Minute;

#[cfg(test)]
mod tests;

const HOUR: i64 = 60;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;
/// From 1970-01-01, a Thursday, to the first Monday.
const MONDAY: i64 = 4 * DAY;
/// Offsets are less than 26 hours to either side. So no local time that is later than the present
/// one was longer ago than this, however far clocks were set back.
const LOOK_BACK: i64 = 3 * DAY;

/// Why a range is not cut.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum CalendarError {
    #[error("{0:?} is no step; give {steps}", steps = Step::ALL.map(Step::name).join(", "))]
    UnknownStep(String),
    #[error("{0:?} is no time zone; give IANA's name of one, such as Europe/Berlin, or UTC")]
    UnknownZone(String),
    #[error("{given:?} is no time zone; the name is written {name}")]
    CaseOfZone { given: String, name: String },
    #[error("{} is not after {}: a range ends after it begins", .0.end.start(), .0.start.start())]
    NoMinutes(Range<Minute>),
    #[error("{} is out of range: a range ends by 9999-12-30T22:00:00Z", .0.start())]
    TooLate(Minute),
    /// `coarser` is the next step that makes few enough.
    #[error("{points} points by the {step}, and at most {most} are given; {}", advice(*coarser))]
    TooMany { points: u64, most: usize, step: Step, coarser: Option<Step> },
}

fn advice(coarser: Option<Step>) -> String {
    match coarser {
        Some(coarser) => format!("ask by the {coarser}, or for a shorter range"),
        None => "ask for a shorter range".to_owned(),
    }
}

/// The first characters of what was given.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

/// How long each point of a series is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
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

impl Step {
    /// From the finest to the coarsest.
    pub(crate) const ALL: [Self; 7] =
        [Self::Minute, Self::Quarter, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    /// The word for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Quarter => "quarter",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// Minutes of a step that the minute hand of a clock tells; none of one that the calendar does.
    const fn of_clock(self) -> Option<i64> {
        match self {
            Self::Minute => Some(1),
            Self::Quarter => Some(15),
            Self::Hour => Some(HOUR),
            Self::Day | Self::Week | Self::Month | Self::Year => None,
        }
    }

    /// The number of the step that a local minute lies in. Local minutes count from 1970-01-01
    /// 00:00.
    fn number(self, local: i64) -> i64 {
        match self {
            Self::Minute => local,
            Self::Quarter => local.div_euclid(15),
            Self::Hour => local.div_euclid(HOUR),
            Self::Day => local.div_euclid(DAY),
            Self::Week => (local - MONDAY).div_euclid(WEEK),
            Self::Month => month_of(local.div_euclid(DAY)),
            Self::Year => month_of(local.div_euclid(DAY)).div_euclid(12),
        }
    }

    /// The local minute with which the step of a number begins.
    fn begin(self, number: i64) -> i64 {
        match self {
            Self::Minute => number,
            Self::Quarter => number * 15,
            Self::Hour => number * HOUR,
            Self::Day => number * DAY,
            Self::Week => number * WEEK + MONDAY,
            Self::Month => first_day(number) * DAY,
            Self::Year => first_day(number * 12) * DAY,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Step {
    type Err = CalendarError;

    fn from_str(text: &str) -> Result<Self, CalendarError> {
        let step = Self::ALL.into_iter().find(|step| step.name() == text);
        step.ok_or_else(|| CalendarError::UnknownStep(shown(text)))
    }
}

/// The first day of a month. Days and months count from January 1, 1970.
fn first_day(month: i64) -> i64 {
    // In years that begin with March the leap day is the last one.
    let (year, month) = ((month - 2).div_euclid(12) + 1970, (month - 2).rem_euclid(12));
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // From March on, five months have 153 days: 31, 30, 31, 30 and 31.
    365 * year + leap_days + (153 * month + 2) / 5 - 719_468
}

/// The month that a day lies in.
fn month_of(day: i64) -> i64 {
    // 400 years are 4 800 months and 146 097 days.
    let mut month = (day * 4_800).div_euclid(146_097);
    while first_day(month) > day {
        month -= 1;
    }
    while first_day(month + 1) <= day {
        month += 1;
    }
    month
}

/// A time zone by its IANA name. UTC is the default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Zone(TimeZone);

impl Default for Zone {
    fn default() -> Self {
        Self(TimeZone::UTC)
    }
}

impl Zone {
    /// Reads a name, as IANA writes it.
    ///
    /// # Errors
    /// When no zone has this name. Where only upper and lower case are wrong, it says the name.
    pub(crate) fn parse(given: &str) -> Result<Self, CalendarError> {
        let found = TimeZoneDatabase::bundled().get(given).ok();
        // It looks names up whatever their case, and knows `Etc/Unknown`, which is not IANA's.
        let Some(zone) = found.filter(|zone| !zone.is_unknown()) else {
            return Err(CalendarError::UnknownZone(shown(given)));
        };
        match zone.iana_name() {
            Some(name) if name != given => {
                Err(CalendarError::CaseOfZone { given: shown(given), name: name.to_owned() })
            }
            _ => Ok(Self(zone)),
        }
    }

    /// IANA's name.
    pub(crate) fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The time from a minute to the end of a range, cut where the offset changes.
    fn pieces(
        &self,
        from: i64,
        end: Minute,
    ) -> Result<impl Iterator<Item = Piece> + '_, CalendarError> {
        let until = i64::from(end.0);
        let instants = [from, until].map(|minute| jiff::Timestamp::from_second(minute * 60));
        let [Ok(first), Ok(_)] = instants else { return Err(CalendarError::TooLate(end)) };
        let changes = self.0.following(first).map(|change| {
            ((change.timestamp().as_second() + 59).div_euclid(60), minutes(change.offset()))
        });
        let all = std::iter::once((from, minutes(self.0.to_offset(first)))).chain(changes);
        let mut all = all.take_while(move |(from, _)| *from < until).peekable();
        let pieces = std::iter::from_fn(move || {
            let (from, offset) = all.next()?;
            let until = all.peek().map_or(until, |(next, _)| *next);
            Some(Piece { from, until, offset })
        });
        // Of two changes within one minute the later one counts.
        Ok(pieces.filter(|piece| piece.from < piece.until))
    }

    /// RFC 3339 with the offset at that minute; for the zone UTC with `Z`.
    fn local(&self, minute: Minute) -> String {
        let local = || {
            let instant = jiff::Timestamp::from_second(i64::from(minute.0) * 60).ok()?;
            let offset = i32::try_from(minutes(self.0.to_offset(instant)) * 60).ok()?;
            Some(instant.display_with_offset(Offset::from_seconds(offset).ok()?).to_string())
        };
        let local = if self.0 == TimeZone::UTC { None } else { local() };
        local.unwrap_or_else(|| minute.start().to_string())
    }
}

/// An offset in minutes, the seconds cut off towards the west: a local time that is a whole minute
/// is then reached with the first whole minute of UTC that is no earlier than it.
fn minutes(offset: Offset) -> i64 {
    i64::from(offset.seconds()).div_euclid(60)
}

/// Minutes in which the offset of a zone is the same.
#[derive(Clone, Copy, Debug)]
struct Piece {
    from: i64,
    until: i64,
    /// In minutes, east of UTC.
    offset: i64,
}

/// The beginnings of steps in a piece.
struct Run {
    piece: Piece,
    /// Whether the change of the offset with which the piece begins, begins a step.
    opens: bool,
    /// The numbers of the steps that begin later.
    numbers: Range<i64>,
}

impl Run {
    /// Without what is before a minute.
    fn since(mut self, step: Step, minute: i64) -> Self {
        self.opens &= minute <= self.piece.from;
        let first = step.number(minute - 1 + self.piece.offset) + 1;
        self.numbers.start = self.numbers.start.max(first);
        self
    }

    fn count(&self) -> u64 {
        let later = u64::try_from(self.numbers.end - self.numbers.start).unwrap_or(0);
        later + u64::from(self.opens)
    }

    fn minutes(self, step: Step) -> impl Iterator<Item = i64> {
        let Self { piece, opens, numbers } = self;
        let later = numbers.map(move |number| step.begin(number) - piece.offset);
        opens.then_some(piece.from).into_iter().chain(later)
    }
}

/// The beginnings of steps after the first minute of a range.
///
/// A step of the clock begins where the minute hand is at the hour (the quarter), and where it is
/// moved to another place within the hour. A step of the calendar begins when the calendar first
/// shows its first day, or one behind it.
fn runs<'a>(
    range: &Range<Minute>,
    step: Step,
    zone: &'a Zone,
) -> Result<impl Iterator<Item = Run> + 'a, CalendarError> {
    let start = i64::from(range.start.0);
    let mut offset = 0;
    // The last step of the calendar that has begun.
    let mut reached = i64::MIN;
    Ok(zone.pieces(start - LOOK_BACK, range.end)?.map(move |piece| {
        let here = piece.from + piece.offset;
        let first = step.number(here);
        let last = step.number(piece.until - 1 + piece.offset);
        let run = match step.of_clock() {
            Some(length) => {
                let is_moved = (piece.offset - offset) % length != 0;
                let opens = is_moved || step.begin(first) == here;
                Run { piece, opens, numbers: first + 1..last + 1 }
            }
            None => {
                Run { piece, opens: first > reached, numbers: first.max(reached) + 1..last + 1 }
            }
        };
        offset = piece.offset;
        reached = reached.max(last);
        run.since(step, start + 1)
    }))
}

/// How many steps a range has.
fn points(range: &Range<Minute>, step: Step, zone: &Zone) -> Result<u64, CalendarError> {
    Ok(1 + runs(range, step, zone)?.map(|run| run.count()).sum::<u64>())
}

/// A range, cut into steps. The first and the last one are shorter where the range begins or ends
/// within a step.
///
/// - An hour is one of the local clock: at Kathmandu it begins a quarter past that of UTC. When
///   clocks are set back, the hour that comes again is a step of its own. No hour is longer than 60
///   minutes; where clocks are moved by half an hour (Lord Howe), one is shorter.
/// - A day has 23 to 25 hours, seldom others. It begins at its first moment, which is not always
///   0:00; one that the calendar leaves out has no step. Where the calendar shows the day before
///   once more, the new day goes on. Weeks, months and years begin with their first days.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Steps {
    bounds: Vec<Minute>,
    /// The length of all steps but the first and the last; 0 when they differ.
    every: u32,
    zone: Zone,
}

impl Steps {
    /// Cuts a range.
    ///
    /// # Errors
    /// When there would be more than `most` steps; when the range has no minutes, or ends later
    /// than times can be written.
    pub(crate) fn new(
        range: &Range<Minute>,
        step: Step,
        zone: &Zone,
        most: usize,
    ) -> Result<Self, CalendarError> {
        if range.start >= range.end {
            return Err(CalendarError::NoMinutes(range.clone()));
        }
        // Counted first, from the changes of the offset alone.
        let points = points(range, step, zone)?;
        let fits = |points| usize::try_from(points).ok().filter(|points| *points <= most);
        let Some(len) = fits(points) else {
            let mut coarser = Step::ALL.into_iter().filter(|other| *other > step);
            let coarser =
                coarser.find(|step| self::points(range, *step, zone).ok().and_then(fits).is_some());
            return Err(CalendarError::TooMany { points, most, step, coarser });
        };
        let mut bounds = Vec::with_capacity(len + 1);
        bounds.push(range.start);
        for minute in runs(range, step, zone)?.flat_map(|run| run.minutes(step)) {
            // Always: it lies in the range.
            bounds.extend(u32::try_from(minute).map(Minute));
        }
        bounds.push(range.end);
        Ok(Self { every: every(&bounds), bounds, zone: zone.clone() })
    }

    /// How many steps there are: at least one.
    pub(crate) fn len(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The index of the step that has a minute; [`Self::len`] for a minute that none has.
    pub(crate) fn at(&self, minute: Minute) -> usize {
        // There are two bounds at least.
        let (first, second, last) = (self.bounds[0], self.bounds[1], self.bounds[self.len()]);
        if minute < first || minute >= last {
            return self.len();
        }
        if minute < second {
            return 0;
        }
        match (minute.0 - second.0).checked_div(self.every) {
            // The last one may be longer than the others: a day of 25 hours.
            Some(later) => (later as usize + 1).min(self.len() - 1),
            None => self.bounds.partition_point(|bound| *bound <= minute) - 1,
        }
    }

    /// The boundaries in ascending order: the beginning of each step, and the end of the range.
    #[cfg(test)]
    pub(crate) fn bounds(&self) -> &[Minute] {
        &self.bounds
    }

    /// The beginning of each step in local time: RFC 3339 with the offset of that moment, such as
    /// 2026-10-25T00:00:00+02:00; for the zone UTC with `Z`. An offset of odd seconds is written
    /// by its minutes, and the text still says the same minute of UTC.
    pub(crate) fn starts(&self) -> impl Iterator<Item = String> + '_ {
        self.bounds[..self.len()].iter().map(|bound| self.zone.local(*bound))
    }
}

/// The length of all steps but the first and the last, when it is one.
fn every(bounds: &[Minute]) -> u32 {
    let inner = bounds.get(1..bounds.len() - 1).unwrap_or_default();
    let mut lengths = inner.windows(2).map(|pair| pair[1].0 - pair[0].0);
    let first = lengths.next().unwrap_or(0);
    if lengths.all(|length| length == first) { first } else { 0 }
}
