#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use shared::counted::{Amount, Codes};
use shared::{
    BatchDigest, BlockId, Country, Currency, Device, Dimensions, Id, Kind, Name, OutboxId, SourceId,
};

use super::*;
use crate::count::{Conflict, ContainerKey};

fn currency(code: &[u8; 3]) -> Currency {
    Currency::from_bytes(*code).unwrap()
}

fn cell(publisher: &str, kind: Kind, valid: bool) -> CellKey {
    cell_of(publisher, Country::UNKNOWN, Device::Phone, kind, valid)
}

fn cell_of(publisher: &str, country: Country, device: Device, kind: Kind, valid: bool) -> CellKey {
    let publisher = Name::new(publisher).unwrap_or_default().id();
    let names = [Id::literal("ad"), publisher];
    CellKey::from_dimensions(&Dimensions::new(names, Codes::new(country, device), kind, valid))
}

fn cells() -> Vec<(CellKey, CellValue)> {
    let spend = |code| (Amount::Spend, currency(code));
    let amounts = vec![(spend(b"EUR"), 300), (spend(b"USD"), -1)];
    vec![
        (cell("", Kind::Click, true), CellValue { count: 1, amounts: vec![] }),
        (cell("pub", Kind::Impression, true), CellValue { count: 300, amounts }),
        (cell("pub", Kind::Click, false), CellValue { count: 2, amounts: vec![] }),
    ]
}

#[test]
fn bytes_are_pinned() {
    // As every build until 28 November 2026 wrote it.
    #[rustfmt::skip]
    let before = [
        1, // version
        0, 0xa3, 2, 0x27, 1, 0, // no publisher, ZZ = 675, phone + click + valid, 1 event, no spend
        3, b'p', b'u', b'b', 0xa3, 2, 0x23, 0xac, 2, 2, // impression, 300 events, two currencies
        b'E', b'U', b'R', 0xd8, 4, b'U', b'S', b'D', 1,
        0xff, 0xa3, 2, 0x26, 2, 0, // the same publisher, an invalid click
    ];
    assert_eq!(read_cells(&before).unwrap(), cells());
    #[rustfmt::skip]
    let expected = [
        2, // version
        0, 0xa7, 0xa3, 5, 1, 0, // no publisher; ZZ = 675, phone, click, valid in 17 bits; 1 event
        3, b'p', b'u', b'b', 0xa3, 0xa3, 5, 0xac, 2, 2, // impression, 300 events, two currencies
        0, b'E', b'U', b'R', 0xd8, 4, 0, b'U', b'S', b'D', 1, // spend of each
        0xff, 0xa6, 0xa3, 5, 2, 0, // the same publisher, an invalid click
    ];
    assert_eq!(cells_value(&cells()), expected);
    assert_eq!(read_cells(&expected).unwrap(), cells());
    assert_eq!(totals_value(&[(Id::literal("ad"), 128)]), [1, 2, b'a', b'd', 0x80, 1]);
    let mut bits = [0; CONTAINER_BITS / 64];
    bits[0] = 0b101;
    bits[63] = 1 << 63;
    assert_eq!(container_value(&Container::from(&bits)), [1, 1, 0, 1, 0xfc, 0x1f]);
    assert_eq!(read_container(&container_value(&Container::from(&bits))).unwrap().bits(), bits);
    bits.fill(u64::MAX);
    assert_eq!(container_value(&Container::from(&bits))[..3], [1, 0, 0xff]);
    assert_eq!(read_container(&container_value(&Container::from(&bits))).unwrap().bits(), bits);
    let account = MinuteAccount { declared: 5, counted: 4, ..MinuteAccount::default() };
    assert_eq!(account_value(&account), [1, 5, 0, 4, 0]);
    // What was given up has the code that no reason has.
    let account = MinuteAccount { given_up: 2, ..account };
    assert_eq!(account_value(&account), [1, 5, 0, 4, 0, 0, 2]);
    assert_eq!(read_account(&account_value(&account)).unwrap(), account);
}

#[test]
fn absolute_rows_come_back() {
    let mut reasons = [0; REASON_CODES];
    reasons[3] = 7;
    let source = SourceState { rows: 1 << 40, digest: [9; 32], counted: 1, duplicate: 2, reasons };
    assert_eq!(read_source(&source_value(&source)).unwrap(), source);
    let run = Run { first: 5, end: 9, watermark: Timestamp::MAX };
    let mut outbox = OutboxState {
        next: 3,
        watermark: Timestamp(77),
        above: vec![run, run],
        closed_at: Some(Timestamp(5)),
        ..OutboxState::default()
    };
    assert_eq!(read_outbox(&outbox_value(&outbox)).unwrap(), outbox);
    outbox.closed_at = None;
    assert_eq!(read_outbox(&outbox_value(&outbox)).unwrap(), outbox);
    let digests = [BatchDigest([1; 16]), BatchDigest([2; 16])];
    outbox.contents.digests = (300..).zip(digests).collect();
    let [applied, skipped] = digests;
    let conflict = Conflict { number: 300, applied, skipped, events: 7, at: Timestamp(9) };
    outbox.contents.conflicts = vec![conflict; 2];
    outbox.contents.conflicts_all = 400;
    assert_eq!(read_outbox(&outbox_value(&outbox)).unwrap(), outbox);
    // As version 2 wrote it, without two clocks in front of the conflicts.
    let mut older = outbox_value(&outbox);
    let clocks = older.len() - 2 * (2 + 32 + 1 + 8) - 2 - 16;
    older.drain(clocks..clocks + 16);
    older[0] = 2;
    assert_eq!(read_outbox(&older).unwrap(), outbox);
    outbox.ended_at = Some(Timestamp(1_790_000_000_000));
    outbox.contents.first_conflict_at = Some(Timestamp(8));
    assert_eq!(read_outbox(&outbox_value(&outbox)).unwrap(), outbox);
    // As version 1 wrote it: without digests, and the runs up to the end.
    let old = [&[1, 5][..], &8_u64.to_le_bytes(), &[0, 7, 9], &3_u64.to_le_bytes()].concat();
    let run = Run { first: 7, end: 9, watermark: Timestamp(3) };
    let state =
        OutboxState { next: 5, watermark: Timestamp(8), above: vec![run], ..Default::default() };
    assert_eq!(read_outbox(&old).unwrap(), state);
    let position = Position { identity: [1; 16], sequence: 9, digest: [2; 16] };
    let (clock, settled) = (Timestamp(12345), Timestamp(12300));
    for position in [None, Some(position)] {
        let resident_from = Minute(8);
        for ahead in [None, position.map(|_| Timestamp(99_999))] {
            let (partition, partitions) = (3, 16);
            let meta =
                Meta { partition, partitions, clock, ahead, settled, resident_from, position };
            let value = meta_value(&meta);
            assert_eq!(read_meta(&value).unwrap(), meta);
            // What builds before wrote is what is written while no stamp is too far ahead.
            let plain = 25 + position.map_or(0, |position| position.to_bytes().len());
            assert_eq!(value.len(), plain + ahead.map_or(0, |_| 8));
        }
    }
}

#[test]
fn what_is_not_known_is_refused_and_the_key_is_named() {
    let key = keys::cells(Id::literal("banner"), Minute(0));
    let refused = |value: &[u8]| add(&key, [value].into_iter()).unwrap_err().to_string();
    for (value, what) in [
        (&[][..], "empty"),
        (&[3], "version"),
        (&[1, 0], "end too early"),
        (&[2, 0], "end too early"),
        (&[2, 0, 0x80, 0x80, 0x80, 0x80, 0x10, 1, 0], "a country, device or other code"),
        (&[2, 0, 0x50, 1, 0], "a country, device or other code"),
        (&[2, 0, 0x0e, 1, 0], "a country, device or other code"),
        (&[2, 0, 0, 1, 1, 9], "an unknown amount"),
        (&[1, 0xff, 0, 0, 0, 1, 0], "without a publisher"),
        (&[1, 0, 0xa4, 2, 0, 1, 0], "country"),
        (&[1, 0, 0, 20, 0, 1, 0], "country"),
        (&[1, 0, 0, 0, 0xf0, 1, 0], "device"),
        (&[1, 0, 0, 0, 0x0e, 1, 0], "kind"),
        (&[1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0], "out of order"),
        (&[1, 1, b'!', 0, 0, 1, 1, 0], "id"),
    ] {
        let error = refused(value);
        assert!(error.contains(what) && error.contains("cells of ad banner"), "{value:?}: {error}");
    }
    let meta = add(keys::META, [&[1][..]].into_iter()).unwrap_err().to_string();
    assert!(meta.contains("does not add up"), "{meta}");
    assert!(read_container(&[1, 0, 1]).is_err() && read_container(&[1, 2]).is_err());
    assert!(read_container(&[1, 1, 0x80, 0x20]).is_err(), "bit 4096 of 4096");
    assert!(read_number(&[1, 5, 0]).is_err(), "bytes behind the end");
    assert!(read_number(&[&[1][..], &[0xff; 9], &[2]].concat()).is_err(), "beyond 64 bits");
    let revision = keys::minute(keys::REVISION, Minute(1));
    let most = number_value(u64::MAX);
    let sum = add(&revision, [&most[..], &[1, 1]].into_iter()).unwrap();
    assert_eq!(sum, most, "sums end at their bound, and do not wrap");
}

#[test]
fn every_key_has_words() {
    let container = ContainerKey {
        issuer: Id::literal("edge"),
        block: BlockId([7; 10]),
        kind: Kind::Click,
        valid: true,
        index: 3,
    };
    let outbox = OutboxId { edge: Id::literal("e1"), epoch: 5 };
    for (key, words) in [
        (keys::META.to_vec(), "the meta row"),
        (
            keys::container(&container),
            "dedup page 3 of block 07070707070707070707, issuer edge, click",
        ),
        (keys::cells(Id::literal("x"), Minute(1)), "cells of ad x at 1970-01-01T00:01:00Z"),
        (keys::totals(Minute(1), Kind::Served, true), "served totals of 1970-01-01T00:01:00Z"),
        (
            keys::totals(Minute(1), Kind::Click, false),
            "invalid click totals of 1970-01-01T00:01:00Z",
        ),
        (keys::minute(keys::ACCOUNT, Minute(1)), "account of 1970-01-01T00:01:00Z"),
        (keys::outbox(outbox), "outbox e1 epoch 5"),
        (keys::name(Name::<Any>::new("a.b").unwrap().id()), "the name of digest "),
        (keys::source(SourceId([1; 16])), "imported log 01010101010101010101010101010101"),
        (vec![b'p', 1], "unknown key 7001"),
        (vec![], "unknown key "),
    ] {
        let said = keys::describe(&key);
        assert!(said.starts_with(words), "{said}");
    }
}

fn any_cells() -> impl Strategy<Value = Vec<(CellKey, CellValue)>> {
    let one = ("[ab]?", 0..3_u16, 0..4_usize, any::<bool>(), 0..1000_u64, 0..3_usize, any::<i32>());
    prop::collection::vec(one, 0..20).prop_map(|rows| {
        let rows =
            rows.into_iter().map(|(publisher, country, kind, valid, count, currencies, micros)| {
                let country = Country::from_index(country).unwrap();
                let key = cell_of(&publisher, country, Device::Tv, Kind::ALL[kind], valid);
                let amounts = [b"EUR", b"USD"].iter().take(currencies);
                let amounts =
                    amounts.map(|code| ((Amount::Spend, currency(code)), i64::from(micros)));
                (key, CellValue { count, amounts: amounts.collect() })
            });
        sum(rows.collect(), add_cell).unwrap()
    })
}

proptest! {
    #[test]
    fn sums_do_not_depend_on_their_order(lists in prop::collection::vec(any_cells(), 1..6), cut in 0..6_usize) {
        let key = keys::cells(Id::literal("x"), Minute(1));
        let values: Vec<_> = lists.iter().map(|list| cells_value(list)).collect();
        let slices = || values.iter().map(Vec::as_slice);
        let at_once = add(&key, slices()).unwrap();
        let cut = cut.min(values.len());
        let mut parts = Vec::new();
        for part in [&values[..cut], &values[cut..]] {
            if !part.is_empty() {
                parts.push(add(&key, part.iter().map(Vec::as_slice)).unwrap());
            }
        }
        prop_assert_eq!(&add(&key, parts.iter().map(Vec::as_slice)).unwrap(), &at_once);
        let counted: u64 = lists.iter().flatten().map(|(_, value)| value.count).sum();
        let summed = read_cells(&at_once).unwrap();
        prop_assert_eq!(summed.iter().map(|(_, value)| value.count).sum::<u64>(), counted);
    }

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let value = [&[1], &bytes[..]].concat();
        let _ = (read_cells(&value), read_totals(&value), read_account(&value));
        let _ = read_container(&value);
        let _ = (read_outbox(&value), read_source(&value), read_meta(&value), read_number(&value));
        let _ = keys::describe(&bytes);
    }

    #[test]
    fn containers_come_back(places in prop::collection::vec(0..CONTAINER_BITS, 0..600)) {
        let mut bits = [0_u64; CONTAINER_BITS / 64];
        places.iter().for_each(|at| bits[at / 64] |= 1 << (at % 64));
        let value = container_value(&Container::from(&bits));
        prop_assert!(value.len() <= 2 + CONTAINER_BITS / 8);
        prop_assert_eq!(read_container(&value).unwrap(), Container::from(&bits));
    }
}

#[test]
fn a_sum_of_money_ends_at_its_bound_and_is_no_damage() {
    let key = keys::cells(Id::literal("x"), Minute(1));
    let with = |micros| {
        let amounts = vec![((Amount::Spend, currency(b"EUR")), micros)];
        cells_value(&[(cell("pub", Kind::Impression, true), CellValue { count: 1, amounts })])
    };
    let (most, some) = (with(i64::MAX), with(5));
    let sum = add(&key, [&most[..], &some, &most].into_iter()).unwrap();
    let sum = read_cells(&sum).unwrap();
    assert_eq!((sum[0].1.count, sum[0].1.amounts[0].1), (3, i64::MAX));
}
