use proptest::prelude::*;
use shared::random::Seeded;

use super::*;

const AGENT: &[u8] = b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

fn table(clicks: u32, window_s: u32) -> Clicks {
    Clicks::new(Pace { clicks, window_s }, &mut Seeded::new(1))
}

/// Which of the clicks at these times, in ms, are one too many.
fn flagged(table: &Clicks, client: &str, times_ms: impl IntoIterator<Item = u64>) -> Vec<bool> {
    let client = Some(client.parse().unwrap());
    let at = |ms| table.too_often(client, AGENT, Duration::from_millis(ms));
    times_ms.into_iter().map(at).collect()
}

#[test]
fn the_first_are_a_persons_and_then_none_until_there_was_silence() {
    let table = table(30, 60);
    let once = |times: std::ops::Range<u64>, step: u64| {
        flagged(&table, "203.0.113.7", times.map(|n| n * step))
    };
    assert_eq!(once(0..100, 0), [vec![false; 30], vec![true; 70]].concat());
    // A minute later there are as many as before, less what was owed.
    let later = flagged(&table, "203.0.113.7", vec![60_000; 100]);
    assert_eq!(later.iter().filter(|flagged| !**flagged).count(), 29);
}

#[test]
fn a_program_is_flagged_for_as_long_as_it_goes_on() {
    let table = table(30, 60);
    // Ten clicks a second, for ten minutes.
    let clicks = flagged(&table, "203.0.113.7", (0..6_000).map(|n| n * 100));
    let first = clicks.iter().position(|flagged| *flagged).unwrap();
    assert!((30..=32).contains(&first), "{first}");
    assert!(clicks[first..].iter().all(|flagged| *flagged));
}

#[test]
fn visitors_are_told_apart_by_address_and_agent() {
    let table = table(1, 60);
    let now = Duration::from_secs(1);
    let asked =
        |client: &str, agent: &[u8]| table.too_often(Some(client.parse().unwrap()), agent, now);
    assert!(!asked("203.0.113.7", AGENT) && asked("::ffff:203.0.113.7", AGENT));
    assert!(!asked("203.0.113.8", AGENT) && !asked("203.0.113.7", b"Mozilla/5.0 (another)"));
    assert!(!asked("2001:db8:1:2::1", AGENT) && asked("2001:db8:1:2:3::4", AGENT));
    assert!(!asked("2001:db8:1:3::1", AGENT));
}

#[test]
fn who_is_never_flagged() {
    let strict = table(1, 60);
    assert_eq!(flagged(&strict, "127.0.0.1", vec![0; 99]), [false; 99]);
    assert_eq!(flagged(&strict, "::1", vec![0; 99]), [false; 99]);
    assert!((0..99).all(|_| !strict.too_often(None, AGENT, Duration::ZERO)));
    assert_eq!(flagged(&table(0, 60), "203.0.113.7", vec![0; 99]), [false; 99], "switched off");
    let most = table(u32::MAX, u32::MAX);
    assert_eq!(flagged(&most, "203.0.113.7", vec![0; 99]), [false; 99]);
}

#[test]
fn a_crowded_table_flags_nobody_for_another() {
    let table = table(3, 60);
    let crowd = (0..300_000_u32).map(|n| IpAddr::from((0x0b00_0000 + n).to_be_bytes()));
    let flagged = crowd.filter(|client| table.too_often(Some(*client), AGENT, Duration::ZERO));
    assert!(flagged.count() < 3);
}

proptest! {
    /// When at most `clicks` come in every window no visitor is flagged; when more than twice as
    /// many come in one window, some are.
    #[test]
    fn between_one_and_two_windows_full(
        clicks in 1_u32..40,
        window_s in 1_u32..100,
        pauses_ms in prop::collection::vec(0_u64..4_000, 1..300),
    ) {
        let table = table(clicks, window_s);
        let times: Vec<u64> = pauses_ms.iter().scan(0, |at, pause| {
            *at += pause;
            Some(*at)
        }).collect();
        let flags = flagged(&table, "198.51.100.1", times.iter().copied());
        let window_ms = u64::from(window_s) * 1_000;
        let within = |end: usize| {
            let in_window = |at: &&u64| **at + window_ms > times[end];
            times[..=end].iter().filter(in_window).count()
        };
        let most = (0..times.len()).map(within).max().unwrap_or(0);
        if most <= clicks as usize {
            prop_assert!(flags.iter().all(|flagged| !flagged));
        }
        if most > 2 * clicks as usize {
            prop_assert!(flags.iter().any(|flagged| *flagged));
        }
    }
}
