#![allow(clippy::unwrap_used)]

use super::*;

/// The numbers of SplitMix64 from a seed on: as good as random, and all different.
fn visitors(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    })
}

fn of<const MAX: usize>(visitors: impl Iterator<Item = u64>) -> Uniques<MAX> {
    let mut uniques = Uniques::default();
    visitors.for_each(|visitor| uniques.add(visitor));
    uniques
}

#[test]
fn they_are_exact_up_to_the_bound_and_estimated_behind_it() {
    for (count, exact) in [(0, true), (1, true), (100, true), (101, false), (5_000, false)] {
        let twice = visitors(1).take(count).chain(visitors(1).take(count));
        let estimate = of::<100>(twice).estimate();
        assert_eq!(estimate.exact, exact, "{count}");
        let count = count as u64;
        if exact {
            let low_and_high = (estimate.low, estimate.high, estimate.std_error);
            assert_eq!((estimate.uniques, low_and_high), (count, (count, count, 0.0)));
        } else {
            assert!(estimate.uniques.abs_diff(count) * 20 < count.max(20), "{count}: {estimate:?}");
            assert!((estimate.low..=estimate.high).contains(&estimate.uniques));
        }
    }
}

#[test]
fn the_answer_is_the_same_however_the_visitors_came() {
    for count in [90, 100, 101, 150, 3_000, 40_000] {
        let expected = of::<100>(visitors(7).take(count)).estimate();
        let all: Vec<u64> = visitors(7).take(count).collect();
        for parts in [2, 3, 16] {
            // Parts overlap, and come in another order.
            let part = |n: usize| {
                let own = all.iter().rev().enumerate();
                let own = own.filter(move |(at, _)| at % parts == n || at % 7 == 0);
                of::<100>(own.map(|(_, visitor)| *visitor))
            };
            let forwards = (0..parts).map(part).reduce(|mut one, other| {
                one.merge(other);
                one
            });
            let backwards = (0..parts).rev().map(part).reduce(|one, mut other| {
                other.merge(one);
                other
            });
            assert_eq!(forwards.unwrap().estimate(), expected, "{count} in {parts}");
            assert_eq!(backwards.unwrap().estimate(), expected, "{count} in {parts}");
        }
    }
}

/// The error that is claimed, over 400 seeds. Each visitor is in one of 60 parts that are merged.
#[test]
fn the_error_is_what_is_claimed() {
    for count in [2_000_usize, 20_000] {
        let mut squares = 0.0;
        let mut within = 0;
        for seed in 0..400 {
            let all: Vec<u64> = visitors(seed * 1_000_003).take(count).collect();
            let mut merged = Uniques::<16>::default();
            all.chunks(count.div_ceil(60)).for_each(|part| {
                merged.merge(of(part.iter().copied()));
            });
            let estimate = merged.estimate();
            let off = estimate.uniques as f64 / count as f64 - 1.0;
            squares += off * off;
            within += usize::from((estimate.low..=estimate.high).contains(&(count as u64)));
        }
        let error = (squares / 400.0).sqrt();
        // The measured error of 400 estimates is itself off by 3.5 %.
        assert!(error < STD_ERROR * 1.1, "{count}: {error}");
        const { assert!(STD_ERROR < 0.016) };
        assert!(within >= 370, "{count}: {within} of 400 lie within two standard errors");
    }
}

#[test]
fn a_sketch_is_small() {
    let Kept::Sketched(sketch) = of::<16>(visitors(3).take(300_000)).0 else { panic!() };
    let bytes = union([&*sketch]).serialize();
    assert!(bytes.len() <= 1_500, "{}", bytes.len());
    assert_eq!(CpcSketch::deserialize(&bytes).unwrap().serialize(), bytes);
}
