#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn minute(text: &str) -> Minute {
    shared::Timestamp::parse(text).unwrap().minute()
}

fn steps(from: &str, to: &str, step: Step, zone: &str) -> Steps {
    Steps::new(&(minute(from)..minute(to)), step, &Zone::parse(zone).unwrap(), 20_000).unwrap()
}

fn starts(from: &str, to: &str, step: Step, zone: &str) -> Vec<String> {
    steps(from, to, step, zone).starts().collect()
}

fn lengths(steps: &Steps) -> Vec<u32> {
    steps.bounds.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
}

#[test]
fn days_have_23_24_and_25_hours() {
    let spring = steps("2026-03-28T23:00:00Z", "2026-03-30T22:00:00Z", Step::Day, "Europe/Berlin");
    assert_eq!(lengths(&spring), [23 * 60, 24 * 60]);
    let autumn = steps("2026-10-24T22:00:00Z", "2026-10-26T23:00:00Z", Step::Day, "Europe/Berlin");
    assert_eq!(lengths(&autumn), [25 * 60, 24 * 60]);
    assert_eq!(
        autumn.starts().collect::<Vec<_>>(),
        ["2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"]
    );
    let hours = steps("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z", Step::Hour, "Europe/Berlin");
    assert_eq!(lengths(&hours), [60; 25]);
}

#[test]
fn the_ends_of_a_range_are_ragged_and_utc_is_written_as_ever() {
    assert_eq!(
        starts("2026-01-01T00:07:00Z", "2026-01-01T00:31:00Z", Step::Quarter, "UTC"),
        ["2026-01-01T00:07:00Z", "2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"]
            .map(|text| minute(text).start().to_string())
    );
    let week = steps("2026-11-25T12:00:00Z", "2026-12-02T00:00:00Z", Step::Week, "UTC");
    assert_eq!(lengths(&week), [4 * 1_440 + 720, 2 * 1_440], "from a Wednesday on");
}

#[test]
fn hours_of_odd_zones_begin_where_their_clocks_say_so() {
    assert_eq!(
        starts("2026-01-01T00:00:00Z", "2026-01-01T02:00:00Z", Step::Hour, "Asia/Kathmandu"),
        ["2026-01-01T05:45:00+05:45", "2026-01-01T06:00:00+05:45", "2026-01-01T07:00:00+05:45"]
    );
    // Lord Howe goes back by half an hour at two o'clock: half an hour comes twice.
    let (from, to) = ("2026-04-04T13:00:00Z", "2026-04-04T16:30:00Z");
    let howe = steps(from, to, Step::Hour, "Australia/Lord_Howe");
    assert_eq!(lengths(&howe), [60, 60, 30, 60]);
    // Samoa left out the 30th of December 2011.
    let (from, to) = ("2011-12-29T10:00:00Z", "2012-01-01T10:00:00Z");
    assert_eq!(
        starts(from, to, Step::Day, "Pacific/Apia"),
        ["2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00"]
    );
    // Liberia was 44 minutes and a half behind until January 1972.
    let liberia =
        steps("1971-06-01T00:00:00Z", "1971-06-03T00:00:00Z", Step::Day, "Africa/Monrovia");
    assert_eq!(lengths(&liberia), [45, 1_440, 1_395]);
}

#[test]
fn bad_words_and_too_many_points_are_told_with_what_to_do() {
    for name in ["Mars/Olympus", "", "Europe", "+01:00", "Europe/Berlin ", "\u{0}"] {
        let error = Zone::parse(name).unwrap_err().to_string();
        assert!(error.contains("such as Europe/Berlin"), "{name:?}: {error}");
    }
    assert_eq!(Zone::parse("europe/berlin").unwrap().to_string(), "Europe/Berlin");
    assert!("hours".parse::<Step>().unwrap_err().to_string().contains("minute, quarter, hour"));
    let zone = Zone::parse("UTC").unwrap();
    let year = Minute(29_000_000)..Minute(29_000_000 + 525_600);
    let error = Steps::new(&year, Step::Minute, &zone, 20_000).unwrap_err().to_string();
    assert!(error.contains("525601") && error.contains("step=hour"), "{error}");
    let all = Minute(0)..Minute(4_000_000_000);
    assert!(Steps::new(&all, Step::Hour, &zone, 20_000).is_err());
    assert!(Steps::new(&all, Step::Year, &zone, 20_000).is_ok());
    assert_eq!(
        Steps::new(&(Minute(0)..Minute(20_000)), Step::Minute, &zone, 20_000).unwrap().len(),
        20_000
    );
}

fn fnv(minutes: &[Minute]) -> String {
    let bytes = minutes.iter().flat_map(|minute| minute.0.to_le_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{}:{hash:016x}", minutes.len())
}

/// `cases.txt` is written by `cases.py`, which uses Python's zoneinfo.
#[test]
fn every_zone_of_the_world_agrees_with_another_implementation() {
    let mut checked = 0;
    for line in include_str!("cases.txt").lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<_> = line.split(' ').collect();
        let zone = Zone::parse(words[0]).unwrap();
        let year: u32 = words[1].parse().unwrap();
        let range = minute(&format!("{year}-01-01T00:00:00Z"))
            ..minute(&format!("{}-01-01T00:00:00Z", year + 1));
        let kinds = [Step::Day, Step::Week, Step::Month, Step::Year, Step::Hour];
        for (step, expected) in kinds.into_iter().zip(&words[2..]) {
            let steps = Steps::new(&range, step, &zone, 20_000).unwrap();
            assert_eq!(fnv(&steps.bounds[..steps.len()]), *expected, "{step}s of {zone} {year}");
        }
        checked += 1;
    }
    assert!(checked > 1_500, "{checked}");
}

proptest! {
    #[test]
    fn steps_cover_the_range_without_a_gap(
        from in 0_u32..60_000_000,
        length in 1_u32..60_000,
        step in 0_usize..7,
        zone in prop_oneof![
            Just("UTC"), Just("Europe/Berlin"), Just("Asia/Kathmandu"), Just("America/Havana"),
            Just("Australia/Lord_Howe"), Just("Africa/Cairo"), Just("America/St_Johns"),
        ],
        at in any::<proptest::sample::Index>(),
    ) {
        let range = Minute(from)..Minute(from + length);
        let steps = Steps::new(&range, STEPS[step].0, &Zone::parse(zone).unwrap(), 70_000).unwrap();
        prop_assert_eq!(steps.bounds[0], range.start);
        prop_assert_eq!(*steps.bounds.last().unwrap(), range.end);
        prop_assert!(steps.bounds.windows(2).all(|pair| pair[0] < pair[1]));
        let minute = Minute(from + u32::try_from(at.index(length as usize)).unwrap());
        let found = steps.at(minute);
        prop_assert!((steps.bounds[found]..steps.bounds[found + 1]).contains(&minute));
        prop_assert_eq!(steps.starts().count(), steps.len());
    }
}
