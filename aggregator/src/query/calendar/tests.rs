use std::collections::BTreeSet;

use jiff::ToSpan;
use jiff::civil::Date;
use proptest::prelude::*;
use proptest::sample::Index;
use shared::Timestamp;

use super::*;

/// Plenty.
const MOST: usize = 1_000_000;

fn zone(name: &str) -> Zone {
    Zone::parse(name).unwrap()
}

fn minute(text: &str) -> Minute {
    let time = Timestamp::parse(text).unwrap();
    assert_eq!(time.minute().start(), time, "{text}");
    time.minute()
}

fn steps(from: &str, to: &str, step: Step, zone_name: &str) -> Steps {
    Steps::new(&(minute(from)..minute(to)), step, &zone(zone_name), MOST).unwrap()
}

fn lengths(steps: &Steps) -> Vec<u32> {
    steps.bounds().windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
}

fn starts(steps: &Steps) -> Vec<String> {
    steps.starts().collect()
}

#[test]
fn a_day_has_23_hours_when_clocks_are_set_forward_and_25_when_they_are_set_back() {
    let days = |from, to| steps(from, to, Step::Day, "Europe/Berlin");
    let spring = days("2026-03-28T00:00:00+01:00", "2026-03-31T00:00:00+02:00");
    assert_eq!(lengths(&spring), [1440, 1380, 1440]);
    let autumn = days("2026-10-24T00:00:00+02:00", "2026-10-27T00:00:00+01:00");
    assert_eq!(lengths(&autumn), [1440, 1500, 1440]);
    let texts =
        ["2026-10-24T00:00:00+02:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"];
    assert_eq!(starts(&autumn), texts);
}

#[test]
fn a_range_that_begins_or_ends_within_a_step_has_shorter_ones_there() {
    let hours = steps("2026-01-01T10:50:00Z", "2026-01-01T13:05:00Z", Step::Hour, "UTC");
    assert_eq!(lengths(&hours), [10, 60, 60, 5]);
    assert_eq!(hours.len(), 4);
    let texts = [
        "2026-01-01T10:50:00Z",
        "2026-01-01T11:00:00Z",
        "2026-01-01T12:00:00Z",
        "2026-01-01T13:00:00Z",
    ];
    assert_eq!(starts(&hours), texts);
    let one = steps("2026-01-01T10:50:00Z", "2026-01-01T10:51:00Z", Step::Year, "UTC");
    assert_eq!((one.len(), lengths(&one)), (1, vec![1]));
    let minutes = steps("2026-01-01T10:50:00Z", "2026-01-01T10:53:00Z", Step::Minute, "UTC");
    assert_eq!(lengths(&minutes), [1, 1, 1]);
}

#[test]
fn weeks_begin_on_monday_and_months_and_years_with_their_first_day() {
    let cut = |step| steps("2023-12-30T22:00:00Z", "2024-03-02T00:00:00Z", step, "Europe/Paris");
    let weeks = starts(&cut(Step::Week));
    assert_eq!(weeks[..2], ["2023-12-30T23:00:00+01:00", "2024-01-01T00:00:00+01:00"]);
    assert_eq!((weeks.len(), weeks[9].as_str()), (10, "2024-02-26T00:00:00+01:00"));
    let texts = [
        "2023-12-30T23:00:00+01:00",
        "2024-01-01T00:00:00+01:00",
        "2024-02-01T00:00:00+01:00",
        "2024-03-01T00:00:00+01:00",
    ];
    assert_eq!(starts(&cut(Step::Month)), texts);
    assert_eq!(starts(&cut(Step::Year)), texts[..2]);
}

#[test]
fn an_hour_that_comes_twice_is_two_steps() {
    let day = ("2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00");
    let hours = steps(day.0, day.1, Step::Hour, "Europe/Berlin");
    assert_eq!(lengths(&hours), [60; 25]);
    let texts =
        ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"];
    assert_eq!(starts(&hours)[2..5], texts);
    let quarters = steps(day.0, day.1, Step::Quarter, "Europe/Berlin");
    assert_eq!(lengths(&quarters), [15; 100]);
    let spring = ("2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00");
    assert_eq!(lengths(&steps(spring.0, spring.1, Step::Hour, "Europe/Berlin")), [60; 23]);
}

#[test]
fn hours_are_those_of_the_local_clock() {
    let cut = |step| steps("2026-05-01T00:00:00Z", "2026-05-01T02:00:00Z", step, "Asia/Kathmandu");
    let hours = cut(Step::Hour);
    assert_eq!(lengths(&hours), [15, 60, 45]);
    assert_eq!(starts(&hours)[1..], ["2026-05-01T06:00:00+05:45", "2026-05-01T07:00:00+05:45"]);
    assert_eq!(lengths(&cut(Step::Quarter)), [15; 8]);
    // The minute hand stays where it is, although a quarter past the hour is passed over.
    let chatham = ("2026-04-05T00:00:00+13:45", "2026-04-06T00:00:00+12:45");
    assert_eq!(lengths(&steps(chatham.0, chatham.1, Step::Hour, "Pacific/Chatham")), [60; 25]);
}

#[test]
fn clocks_that_are_moved_by_half_an_hour_make_one_short_hour() {
    let hours = |from, to| steps(from, to, Step::Hour, "Australia/Lord_Howe");
    let autumn = hours("2026-04-05T00:00:00+11:00", "2026-04-05T04:00:00+10:30");
    assert_eq!(lengths(&autumn), [60, 60, 30, 60, 60]);
    let texts =
        ["2026-04-05T01:00:00+11:00", "2026-04-05T01:30:00+10:30", "2026-04-05T02:00:00+10:30"];
    assert_eq!(starts(&autumn)[1..4], texts);
    let late = hours("2026-04-05T01:59:00+11:00", "2026-04-05T02:00:00+10:30");
    assert_eq!(lengths(&late), [1, 30]);
    let spring = hours("2026-10-04T01:00:00+10:30", "2026-10-04T04:00:00+11:00");
    assert_eq!(lengths(&spring), [60, 30, 60]);
    assert_eq!(starts(&spring)[1], "2026-10-04T02:30:00+11:00");
    let day = ("2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30");
    assert_eq!(lengths(&steps(day.0, day.1, Step::Day, "Australia/Lord_Howe")), [1470]);
}

#[test]
fn a_day_that_the_calendar_leaves_out_has_no_step() {
    let apia = ("2011-12-28T12:00:00-10:00", "2012-01-02T00:00:00+14:00");
    let days = steps(apia.0, apia.1, Step::Day, "Pacific/Apia");
    let texts = [
        "2011-12-28T12:00:00-10:00",
        "2011-12-29T00:00:00-10:00",
        "2011-12-31T00:00:00+14:00",
        "2012-01-01T00:00:00+14:00",
    ];
    assert_eq!(starts(&days), texts);
    assert_eq!(lengths(&days), [720, 1440, 1440, 1440]);
}

#[test]
fn a_day_without_a_midnight_begins_when_its_clock_does() {
    let brazil = ("2017-10-14T00:00:00-03:00", "2017-10-16T00:00:00-02:00");
    let days = steps(brazil.0, brazil.1, Step::Day, "America/Sao_Paulo");
    assert_eq!(starts(&days)[1], "2017-10-15T01:00:00-02:00");
    assert_eq!(lengths(&days), [1440, 1380]);
    let egypt = ("2026-04-23T00:00:00+02:00", "2026-04-25T00:00:00+03:00");
    let days = steps(egypt.0, egypt.1, Step::Day, "Africa/Cairo");
    assert_eq!(starts(&days)[1], "2026-04-24T01:00:00+03:00");
    // There the clock goes from midnight back to 23:00, so midnight comes once.
    let egypt = ("2026-10-29T00:00:00+03:00", "2026-10-31T00:00:00+02:00");
    assert_eq!(lengths(&steps(egypt.0, egypt.1, Step::Day, "Africa/Cairo")), [1500, 1440]);
}

#[test]
fn a_day_that_has_begun_goes_on_when_clocks_are_set_back_over_midnight() {
    // At 0:01 of October 29 it was 23:01 of October 28 once more.
    let (from, to) = ("2006-10-28T00:00:00-02:30", "2006-10-30T00:00:00-03:30");
    let days = |from| steps(from, to, Step::Day, "America/St_Johns");
    assert_eq!(lengths(&days(from)), [1440, 1500]);
    // Also of a range that begins with the second 23:01.
    let later = days("2006-10-28T23:01:00-03:30");
    assert_eq!(lengths(&later), [1499]);
    let hours = steps(from, to, Step::Hour, "America/St_Johns");
    assert_eq!(lengths(&hours), [60; 49]);
}

#[test]
fn a_boundary_within_a_minute_is_the_next_whole_minute() {
    // At -00:44:30 midnight was at 44 minutes and a half past midnight of UTC.
    let (from, to) = ("1972-01-05T12:00:00Z", "1972-01-09T00:00:00Z");
    let days = steps(from, to, Step::Day, "Africa/Monrovia");
    let texts = [
        "1972-01-05T11:15:00-00:45",
        "1972-01-06T00:00:00-00:45",
        "1972-01-07T00:45:00+00:00",
        "1972-01-08T00:00:00+00:00",
    ];
    assert_eq!(starts(&days), texts);
    let hours =
        steps("1972-01-06T23:00:00Z", "1972-01-07T02:00:00Z", Step::Hour, "Africa/Monrovia");
    assert_eq!(lengths(&hours), [45, 60, 15, 60]);
}

#[test]
fn steps_say_where_a_minute_lies_and_that_none_has_it() {
    let cut = |step| steps("2026-10-23T10:07:00Z", "2026-10-26T10:07:00Z", step, "Europe/Berlin");
    for step in Step::ALL {
        let steps = cut(step);
        let (first, last) = (steps.bounds()[0], steps.bounds()[steps.len()]);
        for minute in first.0 - 2..last.0 + 2 {
            let within = |pair: &[Minute]| pair[0].0 <= minute && minute < pair[1].0;
            let found = steps.bounds().windows(2).position(within);
            assert_eq!(steps.at(Minute(minute)), found.unwrap_or(steps.len()), "{step} {minute}");
        }
        assert_eq!(steps.at(Minute(0)), steps.len());
        assert_eq!(steps.at(Minute(u32::MAX)), steps.len());
    }
    assert_eq!((cut(Step::Hour).every, cut(Step::Day).every), (60, 0));
}

#[test]
fn the_last_step_may_be_longer_than_all_others() {
    let days =
        steps("2026-10-20T00:00:00+02:00", "2026-10-26T00:00:00+01:00", Step::Day, "Europe/Berlin");
    assert_eq!((days.every, days.len()), (1440, 6));
    assert_eq!(days.at(minute("2026-10-25T23:59:00+01:00")), 5);
}

#[test]
fn too_many_steps_are_refused_with_a_coarser_one_that_fits() {
    let range = minute("2025-01-01T00:00:00Z")..minute("2026-01-01T00:00:00Z");
    let cut = |step, most| Steps::new(&range, step, &Zone::default(), most);
    assert_eq!(cut(Step::Day, 365).unwrap().len(), 365);
    let error = CalendarError::TooMany {
        points: 525_600,
        most: 365,
        step: Step::Minute,
        coarser: Some(Step::Day),
    };
    assert_eq!(cut(Step::Minute, 365), Err(error));
    let text = |step, most| cut(step, most).unwrap_err().to_string();
    assert_eq!(
        text(Step::Day, 364),
        "365 points by the day, and at most 364 are given; ask by the week, or for a shorter range"
    );
    assert_eq!(
        text(Step::Month, 0),
        "12 points by the month, and at most 0 are given; ask for a shorter range"
    );
}

#[test]
fn a_range_without_minutes_or_beyond_all_times_is_refused() {
    let cut =
        |from, to| Steps::new(&(Minute(from)..Minute(to)), Step::Year, &zone("Asia/Tokyo"), 9_999);
    let text = |from, to| cut(from, to).unwrap_err().to_string();
    assert_eq!(
        text(60, 60),
        "1970-01-01T01:00:00Z is not after 1970-01-01T01:00:00Z: a range ends after it begins"
    );
    assert_eq!(cut(2, 1), Err(CalendarError::NoMinutes(Minute(2)..Minute(1))));
    assert_eq!(cut(0, u32::MAX), Err(CalendarError::TooLate(Minute(u32::MAX))));
    let end = minute("9999-12-30T22:00:00Z");
    assert_eq!(cut(0, end.0).unwrap().len(), 8_030);
    assert_eq!(
        text(0, end.0 + 1),
        "253402207260000 ms is out of range: a range ends by 9999-12-30T22:00:00Z"
    );
}

#[test]
fn a_zone_is_named_as_iana_writes_it() {
    assert_eq!((zone("UTC"), zone("UTC").name()), (Zone::default(), "UTC"));
    assert_eq!(zone("America/Argentina/Buenos_Aires").name(), "America/Argentina/Buenos_Aires");
    let error = |given: &str| Zone::parse(given).unwrap_err().to_string();
    assert_eq!(
        error("europe/BERLIN"),
        "\"europe/BERLIN\" is no time zone; the name is written Europe/Berlin"
    );
    assert_eq!(error("utc"), "\"utc\" is no time zone; the name is written UTC");
    for given in ["", "Berlin", "Europe/Berlin ", "+02:00", "CET-1CEST", "Etc/Unknown", "\0", "ẞ"]
    {
        assert_eq!(Zone::parse(given), Err(CalendarError::UnknownZone(given.to_owned())));
    }
    assert_eq!(
        error("Berlin"),
        "\"Berlin\" is no time zone; give IANA's name of one, such as Europe/Berlin, or UTC"
    );
    let long = "ä".repeat(1_000);
    assert_eq!(Zone::parse(&long), Err(CalendarError::UnknownZone("ä".repeat(64))));
}

#[test]
fn a_step_is_one_of_seven_words() {
    for step in Step::ALL {
        assert_eq!(step.to_string().parse(), Ok(step));
    }
    let error = "Hour".parse::<Step>().unwrap_err().to_string();
    assert_eq!(error, "\"Hour\" is no step; give minute, quarter, hour, day, week, month, year");
}

#[test]
fn months_are_those_of_the_calendar() {
    let epoch = Date::constant(1970, 1, 1);
    let mut date = Date::constant(1969, 12, 1);
    let mut day = -31;
    while date < Date::MAX {
        let month = (i64::from(date.year()) - 1970) * 12 + i64::from(date.month()) - 1;
        assert_eq!(month_of(day), month, "{date}");
        if date.day() == 1 {
            assert_eq!(first_day(month), day, "{date}");
        }
        (date, day) = (date.tomorrow().unwrap(), day + 1);
    }
    assert_eq!(epoch.checked_add((day - 1).days()).unwrap().tomorrow().unwrap(), date);
}

/// What `cases.txt` says: how to read it stands in `cases.py`.
#[derive(Default)]
struct Cases<'a> {
    version: &'a str,
    windows: Vec<Range<Minute>>,
    alike: Vec<Alike<'a>>,
    differs: BTreeSet<&'a str>,
}

/// Zones, and the lines that are true for each of them.
struct Alike<'a> {
    zones: Vec<&'a str>,
    lines: Vec<(Step, &'a str)>,
}

impl<'a> Cases<'a> {
    fn read(text: &'a str) -> Self {
        let mut cases = Self::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap();
            match word {
                "#" => {}
                "tzdata" => cases.version = rest,
                "window" => {
                    let (from, to) = rest.split_once(' ').unwrap();
                    cases.windows.push(minute(from)..minute(to));
                }
                "zones" => {
                    let zones = rest.split(' ').collect();
                    cases.alike.push(Alike { zones, lines: Vec::new() });
                }
                "differs" => assert!(cases.differs.insert(rest.split_once(' ').unwrap().0)),
                step => {
                    let lines = &mut cases.alike.last_mut().unwrap().lines;
                    lines.push((step.parse().unwrap(), rest));
                }
            }
        }
        cases
    }
}

/// The values of `x*n y ...`; none for `-`.
fn values(text: &str) -> impl Iterator<Item = Option<i64>> {
    text.split_whitespace().flat_map(|run| {
        let (value, count) = run.split_once('*').unwrap_or((run, "1"));
        let value = (value != "-").then(|| value.parse().unwrap());
        std::iter::repeat_n(value, count.parse().unwrap())
    })
}

/// The first days of a step of the calendar whose midnight of UTC is at most two days outside a
/// window, as minutes since 1970.
fn midnights(window: &Range<Minute>, step: Step) -> Vec<i64> {
    let near = window.start.0 - 2 * 1440..=window.end.0 + 2 * 1440;
    let mut date = Date::constant(1970, 1, 1);
    let mut found = Vec::new();
    for minute in (0..=*near.end()).step_by(1440) {
        let is_first = match step {
            Step::Week => date.weekday() == jiff::civil::Weekday::Monday,
            Step::Month => date.day() == 1,
            Step::Year => date.day_of_year() == 1,
            _ => true,
        };
        if is_first && near.contains(&minute) {
            found.push(i64::from(minute));
        }
        date = date.tomorrow().unwrap();
    }
    found
}

/// The boundaries that a line says of a window.
fn said(window: &Range<Minute>, step: Step, text: &str) -> Vec<Minute> {
    let (start, end) = (i64::from(window.start.0), i64::from(window.end.0));
    let mut bounds = vec![start];
    if step < Step::Day {
        bounds.extend(values(text).map(Option::unwrap).scan(start, |at, length| {
            *at += length;
            Some(*at)
        }));
        assert_eq!(bounds.last(), Some(&end), "{text}");
    } else {
        let (midnights, values) = (midnights(window, step), values(text).collect::<Vec<_>>());
        assert_eq!(midnights.len(), values.len(), "{text}");
        let begins = midnights.iter().zip(values).filter_map(|(utc, later)| Some(utc + later?));
        bounds.extend(begins.filter(|minute| (start + 1..end).contains(minute)));
        bounds.push(end);
    }
    bounds.into_iter().map(|minute| Minute(u32::try_from(minute).unwrap())).collect()
}

#[test]
fn every_boundary_in_every_zone_is_where_another_reader_of_ianas_database_has_it() {
    let cases = Cases::read(include_str!("cases.txt"));
    assert_eq!(cases.windows.len(), 4);
    let (mut compared, mut wrong, mut count) = (cases.differs.clone(), BTreeSet::new(), 0);
    for Alike { zones, lines } in &cases.alike {
        let steps: Vec<_> = lines.iter().map(|(step, _)| *step).collect();
        assert_eq!(steps, Step::ALL[1..], "{zones:?}");
        for (step, line) in lines {
            assert_eq!(line.split('|').count(), cases.windows.len(), "{line}");
            for (window, text) in cases.windows.iter().zip(line.split('|')) {
                let said = said(window, *step, text);
                for name in zones.iter().filter(|name| !cases.differs.contains(*name)) {
                    let steps = Steps::new(window, *step, &zone(name), MOST).unwrap();
                    count += said.len();
                    compared.insert(name);
                    if steps.bounds() != said {
                        let mut pairs = steps.bounds().iter().zip(&said);
                        let first = pairs.find(|(ours, said)| ours != said);
                        let first = first.map(|(ours, said)| (ours.start(), said.start()));
                        wrong.insert(format!("{name}, {step}: (ours, theirs) {first:?}"));
                    }
                }
            }
        }
    }
    let database = TimeZoneDatabase::bundled();
    let ours = database.available().map(|name| name.to_string());
    wrong.extend(ours.filter(|name| !compared.contains(&**name)).map(|name| name + ": not there"));
    let lines: Vec<_> = wrong.into_iter().collect();
    assert!(
        lines.is_empty(),
        "other than in IANA's {}; cases.py says what to do:\n{}",
        cases.version,
        lines.join("\n")
    );
    assert!(count > 200_000_000, "only {count} boundaries were compared");
}

/// The boundaries of a range, found by a look at the clock and the calendar at every minute.
fn plain(range: &Range<Minute>, step: Step, zone: &Zone) -> Vec<Minute> {
    // The seconds of the minute hand, and what the calendar shows.
    let look = |minute: i64| {
        let local = jiff::Timestamp::from_second(minute * 60).unwrap().to_zoned(zone.0.clone());
        let (date, week) = (local.date(), local.date().iso_week_date());
        let shown = match step {
            Step::Week => (week.year(), week.week(), 0),
            Step::Month => (date.year(), date.month(), 0),
            Step::Year => (date.year(), 0, 0),
            _ => (date.year(), date.month(), date.day()),
        };
        (i64::from(local.minute()) * 60 + i64::from(local.second()), shown)
    };
    let (start, end) = (i64::from(range.start.0), i64::from(range.end.0));
    let (mut hand, mut shown) = look(start - 4 * 1440);
    let mut bounds = vec![range.start];
    for minute in start - 4 * 1440 + 1..end {
        let (new_hand, new_shown) = look(minute);
        let begins = match step.of_clock() {
            // The hand is not where it comes by itself without a new step.
            Some(length) => new_hand % (length * 60) != hand % (length * 60) + 60,
            None => new_shown > shown,
        };
        (hand, shown) = (new_hand, shown.max(new_shown));
        if begins && minute > start {
            bounds.push(Minute(u32::try_from(minute).unwrap()));
        }
    }
    bounds.push(range.end);
    bounds
}

fn any_zone() -> impl Strategy<Value = Zone> {
    let names: Vec<_> =
        TimeZoneDatabase::bundled().available().map(|name| name.to_string()).collect();
    proptest::sample::select(names).prop_map(|name| zone(&name))
}

fn any_step() -> impl Strategy<Value = Step> {
    proptest::sample::select(Step::ALL.to_vec())
}

/// The longest range, in minutes, of a test that looks at each of its steps.
fn longest(step: Step) -> usize {
    let days = match step {
        Step::Minute => 3,
        Step::Quarter => 40,
        Step::Hour => 160,
        _ => 4_000,
    };
    days * 1440
}

/// A minute near a change of a zone's offset, if it has one behind `from`.
fn near_change(zone: &Zone, from: u32, before: u32) -> u32 {
    let at = jiff::Timestamp::from_second(i64::from(from) * 60).unwrap();
    let change = zone.0.following(at).next().map(|change| change.timestamp().as_second() / 60);
    change.map_or(from, |minute| u32::try_from(minute).unwrap()).saturating_sub(before)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn steps_cover_a_range_without_gaps(
        zone in any_zone(),
        step in any_step(),
        // To the year 2179.
        start in 0_u32..110_000_000,
        length in any::<Index>(),
        looks in proptest::collection::vec(any::<Index>(), 32),
    ) {
        let minute = |after: usize| Minute(start + u32::try_from(after).unwrap());
        let length = length.index(longest(step)) + 1;
        let range = minute(0)..minute(length);
        let steps = Steps::new(&range, step, &zone, MOST).unwrap();
        let bounds = steps.bounds();
        prop_assert_eq!((bounds[0], bounds[steps.len()]), (range.start, range.end));
        prop_assert!(bounds.is_sorted_by(|one, other| one < other));
        prop_assert_eq!(lengths(&steps).iter().sum::<u32>(), range.end.0 - range.start.0);
        if let Some(length) = step.of_clock() {
            prop_assert!(lengths(&steps).iter().all(|one| i64::from(*one) <= length));
        }
        for look in looks {
            let bound = look.get(bounds).0;
            for minute in [minute(look.index(length)), Minute(bound), Minute(bound.max(1) - 1)] {
                let found = bounds.windows(2).position(|pair| (pair[0]..pair[1]).contains(&minute));
                prop_assert_eq!(steps.at(minute), found.unwrap_or(steps.len()));
            }
        }
        for (text, bound) in steps.starts().zip(bounds).take(200) {
            prop_assert_eq!(Timestamp::parse(&text).unwrap(), bound.start());
        }
    }

    #[test]
    fn where_a_range_begins_and_ends_moves_no_boundary_within(
        zone in any_zone(),
        step in any_step(),
        start in 10_000_u32..110_000_000,
        before in prop_oneof![0_u32..3, 0_u32..3_000],
        length in 1_u32..6_000,
    ) {
        let start = near_change(&zone, start, before);
        let cut = |range: Range<u32>| {
            let range = Minute(range.start)..Minute(range.end);
            Steps::new(&range, step, &zone, MOST).unwrap().bounds
        };
        let (inner, mut outer) = (start..start + length, cut(start - 3_000..start + 9_000));
        outer.retain(|bound| inner.start < bound.0 && bound.0 < inner.end);
        let bounds = cut(inner);
        prop_assert_eq!(&bounds[1..bounds.len() - 1], &outer[..]);
    }

    #[test]
    fn steps_begin_where_a_look_at_every_minute_finds_them(
        zone in any_zone(),
        step in any_step(),
        start in 10_000_u32..110_000_000,
        before in prop_oneof![0_u32..3, 0_u32..3_000],
        length in 1_u32..6_000,
    ) {
        let start = near_change(&zone, start, before);
        let range = Minute(start)..Minute(start + length);
        let steps = Steps::new(&range, step, &zone, MOST).unwrap();
        prop_assert_eq!(steps.bounds(), plain(&range, step, &zone));
    }
}
