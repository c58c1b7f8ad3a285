use shared::{Codes, Country, Device, Fingerprint, Flags, Network, Reason, Region, RuleSet};

use super::*;

/// An event of a token whose tag has these halves.
fn event(kind: Kind, part: u64, name: u64) -> Draft {
    let tag = u128::from(part) << 64 | u128::from(name);
    Draft {
        kind,
        verdict: None,
        rules: RuleSet::UNKNOWN,
        flags: Flags::default(),
        codes: Codes::default(),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint::NONE,
        page: None,
        token: [b"a token", tag.to_le_bytes().as_slice()].concat(),
    }
}

#[test]
fn what_was_put_in_is_a_repeat_and_nothing_else_is() {
    let repeats = Repeats::default();
    let click = event(Kind::Click, 7, 7);
    let bot = Draft { verdict: Some(Reason::Bot), ..click.clone() };
    let others = [
        event(Kind::Impression, 7, 7),
        event(Kind::Click, 7, 8),
        event(Kind::Click, 8, 7),
        event(Kind::Click, 0, 0),
        Draft { token: Vec::new(), ..click.clone() },
        bot.clone(),
    ];
    assert!(!repeats.has(&click));
    repeats.remember(&click);
    assert!(repeats.has(&click));
    let elsewhere =
        Draft { codes: Codes::new(Country::from_bytes(*b"SE").unwrap(), Device::Unknown), ..click };
    assert!(repeats.has(&elsewhere), "where it comes from makes it no other");
    assert!(!others.iter().any(|other| repeats.has(other)));
    repeats.remember(&bot);
    let bot = Draft { verdict: Some(Reason::Prefetch), ..bot };
    assert!(repeats.has(&bot), "the first invalid one is kept, whatever it was");
}

#[test]
fn of_a_part_that_is_full_the_oldest_is_forgotten_and_of_others_nothing() {
    let repeats = Repeats::default();
    let other = event(Kind::Click, 2, 0);
    repeats.remember(&other);
    let all: Vec<_> = (0..20).map(|name| event(Kind::Click, 1, name)).collect();
    all.iter().for_each(|event| repeats.remember(event));
    let known: Vec<_> = all.iter().map(|event| repeats.has(event)).collect();
    assert_eq!(known, [vec![false; 20 - WAYS], vec![true; WAYS]].concat());
    assert!(repeats.has(&other));
}

#[test]
fn what_is_served_takes_no_place() {
    let repeats = Repeats::default();
    let click = event(Kind::Click, 1, 1);
    repeats.remember(&click);
    (0..20).for_each(|name| repeats.remember(&event(Kind::Served, 1, name)));
    assert!(repeats.has(&click));
}

#[test]
fn what_comes_several_times_at_once_takes_one_place() {
    let repeats = Repeats::default();
    let (impression, click) = (event(Kind::Impression, 1, 1), event(Kind::Click, 1, 1));
    repeats.remember(&impression);
    (0..2 * WAYS).for_each(|_| repeats.remember(&click));
    assert!(repeats.has(&impression) && repeats.has(&click));
}

#[test]
fn what_stays_is_missing_at_no_moment() {
    const ROUNDS: u64 = 1_000_000;
    let repeats = Repeats::default();
    let click = |round: u64, nth: u64| event(Kind::Click, 1, round * WAYS as u64 + nth);
    repeats.remember(&click(0, 0));
    let current = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                // Before the next round as many events follow as leave this round's first one in
                // its part.
                (1..WAYS as u64 - 1).for_each(|nth| repeats.remember(&click(round, nth)));
                repeats.remember(&click(round + 1, 0));
                current.store(round + 1, Ordering::Release);
            }
        });
        loop {
            let round = current.load(Ordering::Acquire);
            let known = repeats.has(&click(round, 0));
            assert!(known || current.load(Ordering::Acquire) != round, "{round}");
            if round == ROUNDS {
                break;
            }
        }
    });
}
