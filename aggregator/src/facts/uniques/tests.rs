#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// What Apache's library made of the first visitors: the script beside the files says how.
const GOLDEN: &str = include_str!("golden.txt");

macro_rules! golden {
    ($($name:literal)+) => {
        &[$(($name, include_bytes!(concat!($name, ".bin")))),+]
    };
}

const GOLDEN_SKETCHES: &[(&str, &[u8])] = golden! {
    "cpc_0" "cpc_1" "cpc_100" "cpc_1000" "cpc_10000" "cpc_100000"
    "cpc_100_single" "cpc_1000_single" "cpc_10000_single"
    "hll_0" "hll_1" "hll_100" "hll_1000" "hll_10000" "hll_100000"
};

/// Where an HLL sketch says how large its table was.
const ROOM_AT: usize = 4;

fn golden(name: &str) -> &'static [u8] {
    GOLDEN_SKETCHES.iter().find(|(named, _)| *named == name).unwrap().1
}

/// The numbers of SplitMix64 from a seed on, all different.
fn visitors(seed: u64) -> impl Iterator<Item = u64> + Clone {
    (1..).map(move |step: u64| {
        let state = seed.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    })
}

/// The row and the column of a visitor's coupon, worked out without the crate.
fn coupon(visitor: u64) -> (u64, u32) {
    fn end(mut hash: u64) -> u64 {
        hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ hash >> 33
    }
    let block = visitor.wrapping_mul(0x87c3_7b91_1142_53d5).rotate_left(31);
    let (first, second) = (9001 ^ block.wrapping_mul(0x4cf5_ad43_2745_937f) ^ 8, 9001 ^ 8);
    let first = first.wrapping_add(second);
    let second = second.wrapping_add(first);
    let first = end(first).wrapping_add(end(second));
    let second = end(second).wrapping_add(first);
    (first % 2_048, second.leading_zeros().min(63))
}

fn of<const MAX: usize>(visitors: impl IntoIterator<Item = u64>) -> Uniques<MAX> {
    let mut uniques = Uniques::default();
    visitors.into_iter().for_each(|visitor| uniques.add(visitor));
    uniques
}

/// What is read from a stored sketch.
fn stored<const MAX: usize>(bytes: &[u8]) -> Result<Uniques<MAX>, SketchError> {
    let mut uniques = Uniques::default();
    uniques.merge_sketch(bytes).map(|()| uniques)
}

fn coupons_of(sketch: &[u8]) -> u32 {
    word(sketch, COUPONS_AT).unwrap_or_default()
}

#[test]
fn they_are_exact_up_to_the_bound_and_estimated_beyond_it() {
    let max = Uniques::EXACT_MAX;
    let mut uniques = Uniques::new();
    assert_eq!(uniques.estimate().uniques, 0);
    for (count, visitor) in (1..).zip(visitors(1)).take(max) {
        uniques.add(visitor);
        uniques.add(visitor);
        if [1, 2, 1_000, max].contains(&count) {
            let known = count as u64;
            let expected =
                Estimate { uniques: known, exact: true, std_error: 0.0, low: known, high: known };
            assert_eq!(uniques.estimate(), expected);
        }
    }
    visitors(1).take(1_000).for_each(|visitor| uniques.add(visitor));
    assert!(uniques.estimate().exact, "nobody of them is new");
    uniques.add(7);
    let estimate = uniques.estimate();
    assert!(!estimate.exact && (0.0153..0.0154).contains(&estimate.std_error), "{estimate:?}");
    assert!(estimate.low < 65_537 && 65_537 < estimate.high, "{estimate:?}");
    assert!(estimate.low < estimate.uniques && estimate.uniques < estimate.high, "{estimate:?}");
}

#[test]
fn our_bytes_are_those_of_apaches_library() {
    for line in GOLDEN.lines() {
        let (name, told) = line.split_once(' ').unwrap();
        let told: Vec<f64> = told.split(' ').map(|number| number.parse().unwrap()).collect();
        let &[count, estimate, low, high] = &told[..] else { panic!("{line}") };
        let uniques = of::<100_000>(visitors(0).take(whole(count) as usize));
        if name.starts_with("hll") {
            let mut bytes = uniques.to_hll().unwrap();
            // How much room the exceptions had in memory, which no reader needs: we do not say it.
            bytes[ROOM_AT] = golden(name)[ROOM_AT];
            assert!(bytes == golden(name), "{name}");
            let read = HllSketch::deserialize(golden(name)).unwrap();
            assert!((read.estimate() - estimate).abs() <= 1e-9 * count, "{line}");
            continue;
        }
        // Its own bytes are read, and a sketch that saw its visitors itself becomes a union.
        let (union, _) = name.split_once("_single").unwrap_or((name, ""));
        let read = stored::<16>(golden(name)).unwrap();
        for bytes in
            [uniques.to_cpc(), read.to_cpc(), of::<16>(visitors(0).take(count as usize)).to_cpc()]
        {
            assert!(bytes == golden(union), "{name}");
        }
        if union == name {
            let ours = read.estimate();
            let theirs = [estimate.round(), low.floor(), high.ceil()].map(whole);
            assert_eq!([ours.uniques, ours.low, ours.high], theirs, "{line}");
            let sketch = CpcSketch::deserialize(golden(name)).unwrap();
            assert!((sketch.estimate() - estimate).abs() <= 1e-9 * count, "{line}");
        }
    }
}

#[test]
fn a_sketch_is_the_set_of_its_visitors_coupons() {
    for count in [1, 180, 200, 1_000, 1_100, 6_000, 20_000, 300_000] {
        let coupons: BTreeSet<_> = visitors(5).take(count).map(coupon).collect();
        let bytes = of::<100>(visitors(5).take(count)).to_cpc();
        assert_eq!(coupons_of(&bytes) as usize, coupons.len(), "{count}");
    }
}

#[test]
fn an_hll_sketch_needs_visitors_that_are_remembered() {
    let mut uniques = of::<100>(visitors(1).take(100));
    assert!(uniques.to_hll().is_ok());
    uniques.add(7);
    assert_eq!(uniques.to_hll(), Err(SketchError::OnlyCpc));
    let read = stored::<100>(golden("cpc_1")).unwrap();
    assert_eq!(read.to_hll(), Err(SketchError::OnlyCpc));
}

#[test]
fn an_empty_sketch_leaves_them_exact() {
    let mut uniques = of::<100>(visitors(1).take(50));
    uniques.merge_sketch(golden("cpc_0")).unwrap();
    assert!(uniques.estimate().exact);
    uniques.merge_sketch(golden("cpc_100")).unwrap();
    assert!(!uniques.estimate().exact);
}

/// A way to come by the same visitors.
#[derive(Clone, Debug)]
struct Way {
    /// For each visitor the parts that have it, as bits.
    parts: Vec<u8>,
    /// Where to go on in the list of parts; the next one is merged with what there is.
    order: Vec<prop::sample::Index>,
    /// Parts that are stored as a sketch before they are merged, as bits.
    stored: u8,
    /// Whether visitors come in the opposite order.
    backwards: bool,
}

fn way() -> impl Strategy<Value = Way> {
    (vec(any::<u8>(), 1..64), vec(any::<prop::sample::Index>(), 8), any::<u8>(), any::<bool>())
        .prop_map(|(parts, order, stored, backwards)| Way { parts, order, stored, backwards })
}

const FEW: usize = 300;

/// Divides visitors into eight parts that may overlap, and merges these.
fn gathered(all: &[u64], way: &Way, may_store: bool) -> Uniques<FEW> {
    let mut parts = vec![Uniques::<FEW>::default(); 8];
    let add = |(at, visitor): (usize, &u64)| {
        let bits = way.parts[at % way.parts.len()];
        let bits = if bits == 0 { 1 } else { bits };
        (0..8).filter(|part| bits >> part & 1 == 1).for_each(|part| parts[part].add(*visitor));
    };
    if way.backwards {
        all.iter().enumerate().rev().for_each(add);
    } else {
        all.iter().enumerate().for_each(add);
    }
    for (number, part) in parts.iter_mut().enumerate() {
        if may_store && way.stored >> number & 1 == 1 {
            *part = stored(&part.to_cpc()).unwrap();
        }
    }
    for index in &way.order {
        if parts.len() > 1 {
            let part = parts.swap_remove(index.index(parts.len()));
            let into = index.index(parts.len());
            parts[into].merge(part);
        }
    }
    parts.remove(0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_answer_does_not_depend_on_order_and_parts(
        seed in any::<u64>(),
        count in prop_oneof![0..400_usize, 0..3_000_usize, 0..30_000_usize],
        one in way(),
        other in way(),
    ) {
        let all: Vec<u64> = visitors(seed).take(count).collect();
        let expected = of::<FEW>(all.iter().copied());
        prop_assert_eq!(expected.estimate().exact, count <= FEW);
        for way in [one, other] {
            let found = gathered(&all, &way, false);
            prop_assert_eq!(found.estimate(), expected.estimate());
            prop_assert_eq!(found.to_cpc(), expected.to_cpc());
            prop_assert_eq!(found.to_hll(), expected.to_hll());
            // Sketches that were stored make it inexact, but change nothing else.
            let found = gathered(&all, &way, true);
            prop_assert_eq!(found.to_cpc(), expected.to_cpc());
            if count > FEW {
                prop_assert_eq!(found.estimate(), expected.estimate());
            }
        }
    }
}

/// The root of the mean square of the relative errors, and how many of them lie within the bounds,
/// of sketches that were each stored in 60 parts and merged. Each visitor is in two parts.
fn errors(count: usize, seeds: u64) -> (f64, u64) {
    let (mut squares, mut within) = (0.0, 0);
    for seed in 0..seeds {
        let all: Vec<u64> = visitors(seed << 32).take(count).collect();
        let size = count.div_ceil(59);
        let mut merged = Uniques::<16>::default();
        for part in 0..60_usize {
            let from = part.saturating_sub(1) * size;
            let visitors = &all[from.min(count)..((part + 1) * size).min(count)];
            merged.merge_sketch(&of::<16>(visitors.iter().copied()).to_cpc()).unwrap();
        }
        let estimate = merged.estimate();
        squares += (estimate.uniques as f64 / count as f64 - 1.0).powi(2);
        within += u64::from((estimate.low..=estimate.high).contains(&(count as u64)));
    }
    ((squares / seeds as f64).sqrt(), within)
}

#[test]
fn the_error_is_what_is_claimed() {
    // Of 400 estimates the mean error is known to 3.5 %, and 20 of them may lie outside, give or
    // take 9 (one standard error, and two).
    for count in [20_000, 60_000] {
        let (error, within) = errors(count, 400);
        println!("{count} visitors: {:.2} %, {within} of 400 within the bounds", error * 100.0);
        assert!(error < 0.016 && error < std_error() * 1.07, "{count}: {error}");
        assert!(within >= 371, "{count}: {within} of 400 lie within the bounds");
    }
}

#[test]
fn a_sketch_has_at_most_1500_bytes() {
    let mut most = 0;
    for seed in 0..20_u64 {
        let mut uniques = Uniques::<16>::default();
        for (count, visitor) in (1_u32..).zip(visitors(seed << 32)).take(200_000) {
            uniques.add(visitor);
            if count.is_power_of_two() || count % 4_001 == 0 {
                most = most.max(uniques.to_cpc().len());
            }
        }
    }
    assert!((1_200..=1_500).contains(&most), "{most}");
}

#[test]
fn what_is_no_sketch_of_ours_is_refused_with_a_reason() {
    let mut other_size = CpcSketch::new(12).unwrap();
    let mut other_seed = CpcSketch::with_seed(11, 9002).unwrap();
    other_size.update(1_u64);
    other_seed.update(1_u64);
    let mut long = golden("cpc_1000").to_vec();
    long.push(0);
    let mut long_single = golden("cpc_1000_single").to_vec();
    long_single.push(0);
    for (bytes, reason) in [
        (&[][..], "the sketch is damaged, or no CPC sketch of Apache DataSketches: insufficient"),
        (golden("hll_1000"), "the sketch is damaged, or no CPC sketch of Apache DataSketches: "),
        (&golden("cpc_1000")[..500], "the sketch is damaged, or no CPC sketch"),
        (&other_seed.serialize(), "the sketch is damaged, or no CPC sketch"),
        (&other_size.serialize(), "the sketch has lg_k 12; only sketches with lg_k 11 can"),
        (&long, "the sketch is damaged: its coupons would be written otherwise"),
        (&long_single, "the sketch is damaged: its coupons would be written otherwise"),
    ] {
        let mut uniques = of::<16>(visitors(3).take(5));
        let error = uniques.merge_sketch(bytes).unwrap_err().to_string();
        assert!(error.starts_with(reason), "{error}");
        assert_eq!(uniques.estimate().uniques, 5, "nothing has changed");
    }
}

/// What is done with a sketch, once it is read.
fn use_all(mut uniques: Uniques<16>) {
    let bytes = uniques.to_cpc();
    assert_eq!(stored::<16>(&bytes).unwrap().to_cpc(), bytes, "what is written can be read");
    let estimate = uniques.estimate();
    assert!(estimate.low <= estimate.uniques && estimate.uniques <= estimate.high);
    for name in ["cpc_100", "cpc_1000", "cpc_100000"] {
        uniques.merge_sketch(golden(name)).unwrap();
    }
    visitors(9).take(100).for_each(|visitor| uniques.add(visitor));
    assert!(stored::<16>(&uniques.to_cpc()).is_ok());
}

#[test]
fn a_number_in_a_sketch_that_lies_is_found() {
    let numbers = [0, 1, 7, 63, 64, 191, 192, 1_024, 6_144, 6_912, 81_920, 131_072, u32::MAX];
    for (name, good) in GOLDEN_SKETCHES.iter().filter(|(name, _)| name.starts_with("cpc")) {
        let header = 4 * usize::from(good[0]);
        for at in (8..header).step_by(4) {
            // What a sketch tells of the order of its visitors is not looked at.
            let tells_the_order = name.ends_with("single") && (16..32).contains(&at);
            let before = word(good, at).unwrap();
            for number in numbers.into_iter().chain((1..9).map(|less| before.wrapping_sub(less))) {
                let mut bytes = good.to_vec();
                bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
                match stored::<16>(&bytes) {
                    Ok(uniques) => {
                        assert!(bytes == *good || tells_the_order, "{name}: {number} at {at}");
                        use_all(uniques);
                    }
                    Err(_) => assert_ne!(bytes, *good, "{name}"),
                }
            }
        }
    }
}

/// The bits of pairs of row and column as they stand in a sketch, if there are very many: so many
/// columns in each row.
fn pairs(columns: u32) -> Vec<u8> {
    let row = |row| {
        // No column is left out. The row is the same, or for the first column the next one.
        let first = if row == 0 { &[0_u8, 1][..] } else { &[0, 0, 1] };
        [first, &[0, 1].repeat(columns as usize - 1)].concat()
    };
    let bits: Vec<u8> = (0..2_048).flat_map(row).chain([0; 64]).collect();
    let byte = |bits: &[u8]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | bit);
    let mut bytes: Vec<u8> = bits.chunks_exact(8).map(byte).collect();
    bytes.truncate(bytes.len() / 4 * 4);
    bytes
}

/// The bytes of a sketch with a window, and no exceptions, that says how many coupons it has.
fn without_exceptions(coupons: u32, fill: u8) -> Vec<u8> {
    let mut bytes = golden("cpc_100000")[..8].to_vec();
    bytes[0] = 4;
    bytes[FLAGS_AT] ^= 1 << 3;
    bytes.extend([coupons, 800].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend([fill; 3_200]);
    bytes
}

#[test]
fn numbers_that_make_the_crate_panic_are_refused() {
    // More exceptions than its table can hold.
    let table = pairs(25);
    let words = u32::try_from(table.len() / 4).unwrap();
    let mut bytes = golden("cpc_100000")[..8].to_vec();
    bytes.extend([80_000, 25 * 2_048, words, 800].into_iter().flat_map(u32::to_le_bytes));
    bytes.extend([0x55; 3_200]);
    bytes.extend(table);
    let refused = Err(SketchError::Damaged("no visitors leave so many coupons"));
    assert_eq!(stored::<16>(&bytes).map(use_all), refused);
    // More coupons than there are columns for.
    assert_eq!(stored::<16>(&without_exceptions(125_000, 0x55)).map(use_all), refused);
}

/// A sketch that is written as it should be, of very many visitors. It has about so many coupons:
/// how many depends on what fills its window.
fn overfull(coupons: u32, fill: u8) -> Vec<u8> {
    let read = CpcSketch::deserialize(&without_exceptions(coupons, fill)).unwrap();
    union_of(&read).to_sketch().serialize()
}

#[test]
fn more_visitors_than_there_can_be_are_refused_and_break_nothing() {
    let mut uniques = Uniques::<16>::default();
    let (mut refused, mut left_out) = (0, 0);
    for coupons in [60_000, 70_000, 76_000, 78_000, 80_000] {
        for fill in [0x00, 0x33, 0x55, 0x5a, 0xaa, 0xff] {
            let bytes = overfull(coupons, fill);
            if coupons_of(&bytes) > COUPONS_MAX {
                continue;
            }
            let before = uniques.to_cpc();
            let is_too_many = CpcSketch::deserialize(&bytes).unwrap().estimate() > VISITORS_MAX;
            assert_eq!(uniques.merge_sketch(&bytes).is_err(), is_too_many, "{coupons} {fill}");
            refused += u32::from(is_too_many);
            left_out += u32::from(!is_too_many && uniques.to_cpc() == before);
            assert!(uniques.estimate().uniques <= whole(VISITORS_MAX));
            use_all(uniques.clone());
        }
    }
    assert!(refused > 0 && left_out > 0, "{refused} refused, {left_out} left out");
}

#[test]
fn which_columns_are_full_is_found_out_anew() {
    for (name, good) in GOLDEN_SKETCHES.iter().filter(|(name, _)| name.starts_with("cpc")) {
        let mut expected = stored::<16>(good).unwrap();
        visitors(4).take(500).for_each(|visitor| expected.add(visitor));
        for column in [0, 1, 8, 63] {
            let mut bytes = good.to_vec();
            bytes[FULL_COLUMNS_AT] = column;
            let mut uniques = stored::<16>(&bytes).unwrap();
            visitors(4).take(500).for_each(|visitor| uniques.add(visitor));
            assert_eq!(uniques.estimate(), expected.estimate(), "{name} {column}");
        }
    }
}

/// One change of a sketch's bytes.
#[derive(Clone, Debug)]
enum Change {
    Bit(prop::sample::Index, u8),
    Byte(prop::sample::Index, u8),
    Header(usize, u8),
    Number(usize, u32),
    Cut(prop::sample::Index),
    Add(Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        (at(), 0..8_u8).prop_map(|(at, bit)| Change::Bit(at, bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (0..40_usize, any::<u8>()).prop_map(|(at, byte)| Change::Header(at, byte)),
        (2..10_usize, 0..90_000_u32).prop_map(|(at, number)| Change::Number(4 * at, number)),
        at().prop_map(Change::Cut),
        vec(any::<u8>(), 1..3_000).prop_map(Change::Add),
    ]
}

fn changed(mut bytes: Vec<u8>, change: &Change) -> Vec<u8> {
    match (change, bytes.len()) {
        (Change::Add(more), _) => bytes.extend(more),
        (_, 0) => {}
        (Change::Bit(at, bit), length) => bytes[at.index(length)] ^= 1 << bit,
        (Change::Byte(at, byte), length) => bytes[at.index(length)] = *byte,
        (Change::Header(at, byte), length) => bytes[at % length] = *byte,
        (Change::Number(at, number), length) if at + 4 <= length => {
            bytes[*at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        (Change::Number(..), _) => {}
        (Change::Cut(at), length) => bytes.truncate(at.index(length)),
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4_000, failure_persistence: None, ..Default::default()
    })]

    #[test]
    fn damaged_bytes_are_an_error_or_a_sketch_and_never_a_panic(
        which in any::<prop::sample::Index>(),
        changes in vec(change(), 1..5),
    ) {
        let bytes = which.get(GOLDEN_SKETCHES).1.to_vec();
        if let Ok(uniques) = stored(&changes.iter().fold(bytes, changed)) {
            use_all(uniques);
        }
    }

    #[test]
    fn bytes_behind_a_good_header_are_never_a_panic(
        (coupons, exceptions) in (0..90_000_u32, 0..7_000_u32),
        window in 0..800_u32,
        flags in any::<u8>(),
        length in 0..6_000_usize,
        seed in any::<u64>(),
    ) {
        let mut bytes = golden("cpc_100000").to_vec();
        bytes[FLAGS_AT] = if flags < 200 { bytes[FLAGS_AT] } else { flags };
        bytes.truncate(24);
        let payload = visitors(seed).flat_map(u64::to_le_bytes);
        bytes.extend(payload.map(|byte| byte | (flags & 0x11)).take(length));
        let table = u32::try_from(length / 4).unwrap().saturating_sub(window);
        for (at, number) in [(8, coupons), (12, exceptions), (16, table), (20, window)] {
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        }
        if let Ok(uniques) = stored(&bytes) {
            use_all(uniques);
        }
    }
}

/// Ids that somebody chose: their coupons are far from where those of visitors are.
#[test]
fn visitors_that_are_made_up_break_nothing() {
    let known: Vec<(u64, (u64, u32))> =
        visitors(11).take(6_000_000).map(|visitor| (visitor, coupon(visitor))).collect();
    let choices: [fn(u64, u32) -> bool; 7] = [
        |row, column| row % 3 == 0 && column >= 8,
        |row, column| row % 3 == 1 && column >= 8,
        |row, column| row % 3 == 2 && column >= 8,
        |_, column| column >= 6,
        |row, _| row < 1_024,
        |_, column| !(3..9).contains(&column),
        |row, column| if row < 700 { (4..9).contains(&column) } else { column >= 7 },
    ];
    let (mut all, mut left_out) = (Uniques::<16>::default(), 0);
    for choice in choices {
        let chosen = known.iter().filter(|(_, (row, column))| choice(*row, *column));
        let mut uniques = of::<16>(chosen.clone().map(|(visitor, _)| *visitor));
        let coupons: BTreeSet<_> = chosen.map(|(_, coupon)| *coupon).collect();
        left_out += u32::try_from(coupons.len()).unwrap() - coupons_of(&uniques.to_cpc());
        use_all(uniques.clone());
        all.merge(uniques.clone());
        use_all(all.clone());
        // Nor do they keep others from being added.
        visitors(12).take(100_000).for_each(|visitor| uniques.add(visitor));
        use_all(uniques);
    }
    assert!(left_out > 1_000, "{left_out}");
}

#[test]
fn visitors_that_nobody_chose_are_far_from_the_bounds() {
    for seed in 0..10 {
        let mut uniques = Uniques::<16>::default();
        for (count, visitor) in (1_u32..).zip(visitors(seed << 32)).take(200_000) {
            uniques.add(visitor);
            if let Known::Sketched(sketch) = &uniques.0
                && count % 1_001 == 0
            {
                assert!(sketch.estimated_size() <= SIZE_TO_ADD_MAX / 3, "{count}");
                let exceptions = word(&uniques.to_cpc(), EXCEPTIONS_AT).unwrap();
                assert!(exceptions <= EXCEPTIONS_MAX / 10, "{count}: {exceptions}");
            }
        }
    }
}
