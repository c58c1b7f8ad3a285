use super::*;
use proptest::prelude::*;
use shared::random::Seeded;

const OFF: Rate = Rate { per_s: 0, burst: 0 };

fn limits(clicks: Rate, requests: Rate) -> Limits {
    Limits::new(Rates { clicks, requests }, &mut Seeded::new(1))
}

/// How many of `count` requests at once are let through.
fn admitted(limits: &Limits, class: Class, client: &str, now_ms: u64, count: u32) -> u32 {
    let client = Some(client.parse().unwrap());
    let now = Duration::from_millis(now_ms);
    (0..count).filter(|_| limits.admit(class, client, now)).count() as u32
}

#[test]
fn a_burst_goes_through_and_then_the_rate() {
    let limits = limits(OFF, Rate { per_s: 10, burst: 5 });
    let at = |ms, count| admitted(&limits, Class::Request, "203.0.113.7", ms, count);
    assert_eq!(at(0, 100), 5);
    assert_eq!(at(99, 100), 0);
    assert_eq!(at(100, 100), 1);
    assert_eq!(at(350, 100), 2, "at 200 and 300");
    assert_eq!(at(60_000, 100), 5, "never more than a burst");
}

#[test]
fn a_clock_that_is_set_back_holds_nobody_up() {
    let limits = limits(Rate { per_s: 1, burst: 2 }, OFF);
    let ten_minutes = 600_000;
    let mut passed = Passed::since(Timestamp(ten_minutes));
    let mut admitted = |at| {
        let since = passed.until(Timestamp(at)).as_millis();
        admitted(&limits, Class::Click, "192.0.2.1", u64::try_from(since).unwrap(), 3)
    };
    assert_eq!(admitted(ten_minutes), 2);
    assert_eq!(admitted(2 * ten_minutes), 2, "full again");
    assert_eq!(admitted(ten_minutes), 0, "set back, nothing has passed");
    assert_eq!(admitted(ten_minutes + 1_000), 1, "a second later, one");
}

#[test]
fn a_network_is_a_24_or_a_48_and_one_does_not_pay_for_another() {
    let limits = limits(OFF, Rate { per_s: 1, burst: 2 });
    let at = |client| admitted(&limits, Class::Request, client, 0, 1);
    assert_eq!(at("203.0.113.7") + at("203.0.113.8") + at("::ffff:203.0.113.9"), 2);
    assert_eq!(at("203.0.114.7"), 1);
    assert_eq!(at("2001:db8:1:2::1") + at("2001:db8:1:3::1") + at("2001:db8:1::1"), 2);
    assert_eq!(at("2001:db8:2::1"), 1);
}

#[test]
fn clicks_have_a_limit_of_their_own() {
    let limits = limits(Rate { per_s: 1, burst: 3 }, Rate { per_s: 1, burst: 2 });
    let client = "203.0.113.7";
    assert_eq!(admitted(&limits, Class::Request, client, 0, 10), 2);
    assert_eq!(admitted(&limits, Class::Click, client, 0, 10), 3);
}

#[test]
fn who_is_never_refused() {
    let limits = limits(OFF, Rate { per_s: 1, burst: 0 });
    assert_eq!(admitted(&limits, Class::Click, "203.0.113.7", 0, 100), 100, "no limit");
    assert_eq!(admitted(&limits, Class::Request, "127.0.0.1", 0, 100), 100);
    assert_eq!(admitted(&limits, Class::Request, "::1", 0, 100), 100);
    assert!((0..100).all(|_| limits.admit(Class::Request, None, Duration::ZERO)));
    assert_eq!(admitted(&limits, Class::Request, "203.0.113.7", 0, 100), 1, "one at least");
    let forever = Duration::MAX;
    assert!(limits.admit(Class::Request, Some([203, 0, 113, 7].into()), forever));
}

#[test]
fn a_crowded_table_refuses_less_and_holds_no_more() {
    let limits = limits(OFF, Rate { per_s: 1, burst: 2 });
    let networks: Vec<IpAddr> =
        (0..200_000_u32).map(|n| IpAddr::from((n << 8).to_be_bytes())).collect();
    let networks = || networks.iter().filter(|network| !network.is_loopback());
    let now = Duration::from_secs(1);
    let first = networks().filter(|network| limits.admit(Class::Request, Some(**network), now));
    let first = first.count();
    // Sixteen bits tell networks of a part apart: a few of so many share a bucket with another.
    assert!(networks().count() - first < 20, "{first}");
}

proptest! {
    /// However requests fall, no more than `burst + rate · time` go through, and a client that
    /// stays below the rate is never refused.
    #[test]
    fn never_more_than_the_rate(
        per_s in 1_u32..2_000,
        burst in 1_u32..50,
        pauses_us in prop::collection::vec(0_u64..5_000, 1..300),
    ) {
        let limits = limits(OFF, Rate { per_s, burst });
        let client = Some(IpAddr::from([198, 51, 100, 1]));
        let interval = u64::from(PER_S_MAX / per_s);
        let (mut now_us, mut passed) = (0, 0);
        for pause in &pauses_us {
            now_us += pause;
            passed += u64::from(limits.admit(Class::Request, client, Duration::from_micros(now_us)));
            prop_assert!(passed <= u64::from(burst) + now_us / interval);
        }
        let polite = IpAddr::from([198, 51, 101, 1]);
        for n in 0..50 {
            let now = Duration::from_micros(now_us + n * interval);
            prop_assert!(limits.admit(Class::Request, Some(polite), now));
        }
    }
}

#[test]
fn a_body_takes_what_its_elements_take_or_nothing() {
    let limits = limits(OFF, Rate { per_s: 10, burst: 100 });
    let client = Some("203.0.113.7".parse().unwrap());
    let post = |elements: u32, ms| {
        let now = Duration::from_millis(ms);
        limits.admit(Class::Request, client, now) && limits.admit_more(client, elements - 1, now)
    };
    assert!(post(60, 0) && !post(60, 0), "one of the second is taken all the same");
    assert_eq!(admitted(&limits, Class::Request, "203.0.113.7", 0, 100), 39);
    assert!(!post(500, 9_900), "one is missing");
    assert!(post(500, 60_000), "what costs more than a burst costs a whole one");
    assert_eq!(admitted(&limits, Class::Request, "203.0.113.7", 60_000, 100), 0);
    let here = Some("127.0.0.1".parse().unwrap());
    assert!((0..9).all(|_| limits.admit_more(here, 500, Duration::ZERO)));
}
