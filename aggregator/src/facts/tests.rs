#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;
use shared::bytes::Reader;
use shared::{AnyId, Codes, Currency, Minute, Money};

use super::block::{Block, Fact, Order, joined, split};
use super::column::Column;
use super::*;

fn numbers() -> impl Strategy<Value = Vec<u64>> {
    let bits = prop_oneof![Just(0_u32), Just(8), Just(16), Just(32), Just(64)];
    let base = prop_oneof![Just(0_u64), Just(29_500_000), any::<u64>()];
    (bits, base, proptest::collection::vec(any::<u64>(), 0..200)).prop_map(|(bits, base, all)| {
        let offset = |number: u64| number.checked_shr(64 - bits).unwrap_or(0);
        all.into_iter().map(|number| base.saturating_add(offset(number))).collect()
    })
}

proptest! {
    #[test]
    fn a_column_gives_back_what_was_put_in(numbers in numbers(), least in any::<u64>()) {
        let column = Column::new(numbers.iter().copied());
        let mut bytes = Vec::new();
        column.put(&mut bytes);
        let bytes = Bytes::from(bytes);
        let read = Column::read(&mut Reader::new(&bytes), &bytes, numbers.len()).unwrap();
        prop_assert_eq!(&read, &column);
        for (row, number) in numbers.iter().enumerate() {
            prop_assert_eq!(read.get(row), *number);
        }
        for first in [0, numbers.len() / 2, numbers.len()] {
            let mut mask = vec![1; numbers.len() - first];
            read.keep(first, &mut mask, |number| number >= least);
            let expected: Vec<u8> = numbers[first..].iter().map(|n| u8::from(*n >= least)).collect();
            prop_assert_eq!(mask, expected);
        }
        let mut sorted = numbers;
        sorted.sort_unstable();
        let column = Column::new(sorted.iter().copied());
        let at = column.partition_point_in(0..sorted.len(), least);
        prop_assert_eq!(at, sorted.partition_point(|number| *number < least));
    }

    #[test]
    fn bytes_that_are_no_block_are_refused_or_read_but_never_a_panic(
        at in any::<proptest::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = block(40).to_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(block) = Block::read(&bytes) {
            let scope = Scope::new(Name::Ad, vec![AnyId::literal("ad-2")]);
            let spans = block.spans(scope.as_ref());
            let click = Select::kind(shared::Kind::Click);
            let masks = spans.into_iter().map(|span| click.rows(&block, span));
            let mut tally: Tally<Measures> = Tally::new(vec![Name::Ad, Name::Network]);
            masks.for_each(|mask| tally.add(&block, &mask));
        }
        prop_assert!(Block::read(&bytes[..cut.index(bytes.len())]).is_err());
    }
}

pub(super) fn block(rows: u32) -> Block {
    let fact = |n: u32| Fact {
        minute: Minute(29_500_000 + n % 60),
        second: 7,
        kind: u8::try_from(n % 4).unwrap(),
        reason: 0,
        ids: [1 + n % 3, 0, 1, 2, 3],
        codes: Codes::nth(n),
        region: *b"CA\0",
        network: [4, 10, 0, 0, 0, 0, 0],
        visitor: u64::from(n) << 40,
        price: n % 2,
        age: Some(-3),
    };
    let facts: Vec<_> = (0..rows).map(fact).collect();
    let ids =
        vec![AnyId::NONE, AnyId::literal("ad-1"), AnyId::literal("ad-2"), AnyId::literal("ad-3")];
    let currency = Currency::from_bytes(*b"EUR").unwrap();
    Block::new(&facts, ids, vec![Money::ZERO, Money { micros: 1_500, currency }], Order::Arrival)
}

/// The facts of a block with the values of their numbers, in an order of their own.
pub(super) fn values(block: &Block) -> Vec<String> {
    let values = |row: usize| {
        let ids = Name::IDS.map(|name| block.id(block.column(name).get(row)));
        let price = block.price(block.column(Name::Price).get(row));
        let fact = block.facts().nth(row).unwrap();
        format!("{ids:?} {price:?} {:?}", Fact { ids: [0; 5], price: 0, ..fact })
    };
    let mut all: Vec<_> = (0..block.rows()).map(values).collect();
    all.sort();
    all
}

#[test]
fn blocks_that_become_one_have_the_same_facts_and_find_an_ad_at_once() {
    let (one, other) = (block(40), block(25));
    let both = merged(&[one.clone(), other.clone()]);
    let mut expected = [values(&one), values(&other)].concat();
    expected.sort();
    assert_eq!(values(&both), expected);
    assert_eq!(merged(&[other, one]), both, "in whatever order");
    assert_eq!(merged(std::slice::from_ref(&both)), both);
    let ad = AnyId::literal("ad-2");
    let of = |ad| both.spans(Scope::new(Name::Ad, vec![ad]).as_ref());
    let rows = of(ad).swap_remove(0);
    assert_eq!(rows.len(), 21, "13 of 40, 8 of 25");
    assert!(rows.clone().all(|row| both.id(both.column(Name::Ad).get(row)) == ad));
    assert!(of(AnyId::literal("ad-9")).is_empty());
    let mask = Select::All(Vec::new()).rows(&both, rows.clone());
    assert!(mask.rows().eq(rows));
    assert_eq!(Block::read(&both.to_bytes()).unwrap(), both);
}

#[test]
fn bytes_in_numbers_come_out_again() {
    assert_eq!(joined(b"CA\0"), 0x43_41_00);
    assert_eq!(split::<3>(0x43_41_00), *b"CA\0");
    assert_eq!(split::<7>(joined(&[4, 1, 2, 3, 0, 0, 0])), [4, 1, 2, 3, 0, 0, 0]);
}
