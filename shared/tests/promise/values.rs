//! Ids, times, money, words.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shared::event::{Country, Device, Network, REASON_CODES, VERDICTS};
use shared::id::{IdAllocator, IdRange};
use shared::limits::BLOCK_LIFE_MS;
use shared::random::{Seeded, below};
use shared::text::{hex, unhex};
use shared::{
    AdId, AdName, BlockId, Currency, EdgeId, Id, ImpressionId, Kind, Minute, Money, Name,
    NameError, Reason, SourceId, Timestamp,
};

use super::world::{HOUR_MS, NOW};

#[test]
fn a_block_has_65_536_ids_and_no_more() {
    let mut allocator = IdAllocator::default();
    let mut random = Seeded::new(1);
    let first = allocator.next(NOW, &mut random);
    assert_eq!((first.seq, first.block.opened()), (0, NOW.minute()));
    for seq in 1..=u16::MAX {
        assert_eq!(allocator.next(NOW, &mut random), ImpressionId { block: first.block, seq });
    }
    let next = allocator.next(NOW, &mut random);
    assert_eq!(next.seq, 0);
    assert_ne!(next.block, first.block);
}

#[test]
fn a_block_is_open_for_an_hour_and_never_before_it_was_opened() {
    for (then, same) in [
        (NOW.plus_ms(BLOCK_LIFE_MS - 1), true),
        (NOW.plus_ms(BLOCK_LIFE_MS), false),
        (NOW.plus_ms(24 * HOUR_MS), false),
        (NOW.minus_ms(1), false),
    ] {
        let mut random = Seeded::new(1);
        let mut allocator = IdAllocator::default();
        let first = allocator.next(NOW, &mut random);
        let second = allocator.next(then, &mut random);
        assert_eq!(second.block == first.block, same, "{then}");
        assert_eq!(second.seq, u16::from(same));
        assert_eq!(second.block.opened(), if same { NOW.minute() } else { then.minute() });
    }
    // Two processes that start at once do not share a block.
    let open = |seed| IdAllocator::default().next(NOW, &mut Seeded::new(seed)).block;
    assert_ne!(open(1), open(2));
}

#[test]
fn leases_of_a_block_share_no_id() {
    let mut allocator = IdAllocator::default();
    let mut random = Seeded::new(1);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..=65_536 / 300 {
        let mut lease = allocator.lease(NOW, &mut random, 300);
        assert_eq!(IdRange::from_bytes(&lease.to_bytes()), Some(lease));
        while let Some(id) = lease.next(NOW) {
            assert!(seen.insert(id), "{id:?} was leased twice");
        }
        // Whoever resumes from what is written down goes on behind the lease.
        allocator = IdAllocator::resume(allocator.open().copied());
    }
    assert_eq!(seen.len(), 65_536, "the last lease of a block is a short one");
    assert_eq!(seen.iter().map(|id| id.block).collect::<std::collections::BTreeSet<_>>().len(), 1);
    assert_eq!(allocator.lease(NOW, &mut random, 300).left(), 300, "the next block");
    let mut lease = allocator.lease(NOW, &mut random, 5);
    assert_eq!(lease.next(NOW.plus_ms(BLOCK_LIFE_MS)), None, "too old");
    assert_eq!(lease.next(NOW.minus_ms(1)), None, "not opened yet");
    assert!(lease.next(NOW.plus_ms(BLOCK_LIFE_MS - 1)).is_some());
    assert_eq!(IdRange::from_bytes(&[0xff; IdRange::BYTES]), None);
    assert_eq!(IdRange::from_bytes(&[0; IdRange::BYTES - 1]), None);
}

#[test]
fn blocks_tell_their_minute_from_2020_to_2051() {
    for (minute, opened) in [
        (Minute::BLOCK_EPOCH, Minute::BLOCK_EPOCH),
        (Minute(Minute::BLOCK_EPOCH.0 + 0x00ff_ffff), Minute(Minute::BLOCK_EPOCH.0 + 0x00ff_ffff)),
        (Minute(0), Minute::BLOCK_EPOCH),
    ] {
        assert_eq!(BlockId::open(minute.start(), &mut Seeded::new(1)).opened(), opened);
    }
    assert_eq!(Minute::BLOCK_EPOCH.start().to_string(), "2020-01-01T00:00:00Z");
}

#[test]
fn ids() {
    for good in ["a", "Az09_-Az09_-Az09", "-", "_"] {
        let id: EdgeId = good.parse().unwrap();
        assert_eq!((id.to_string(), id.as_str().as_bytes()), (good.to_owned(), good.as_bytes()));
        assert_eq!(Id::from_padded(*id.padded()), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<EdgeId>(&json).unwrap(), id);
    }
    for bad in ["", "Az09_-Az09_-Az09x", "a.b", "a b", "é", "a\0", "a/"] {
        assert!(bad.parse::<EdgeId>().is_err(), "{bad:?}");
        assert!(serde_json::from_value::<EdgeId>(bad.into()).is_err(), "{bad:?}");
    }
    let mut padded = [0; 16];
    assert_eq!(Id::from_padded(padded), Ok(EdgeId::NONE));
    padded[1] = b'a';
    assert!(EdgeId::from_padded(padded).is_err());
    // Bytewise, a prefix first.
    let mut sorted: Vec<EdgeId> =
        ["b", "ab", "a", "B", "a-", "_"].map(|id| id.parse().unwrap()).into();
    sorted.sort();
    assert_eq!(
        sorted.iter().map(EdgeId::as_str).collect::<Vec<_>>(),
        ["B", "_", "a", "a-", "ab", "b"]
    );
    const LITERAL: EdgeId = Id::literal("ad-1");
    assert_eq!(LITERAL.as_str(), "ad-1");
}

#[test]
fn names_are_kept_as_they_are_written() {
    let own = ["a", "Az09_-Az09_-Az09", "spring-shoes-01"];
    let others = [
        "550e8400-e29b-41d4-a716-446655440000",
        "550E8400-E29B-41D4-A716-446655440000",
        "550e8400e29b41d4a716446655440000",
        "mm_10067028.1",
        "example.com",
        "/1234/home/top",
        "summer sale",
        "广告 一",
        "نام\u{200c}ها",
        "Az09_-Az09_-Az09x",
        "é",
        "e\u{301}",
    ];
    let mut ids = std::collections::BTreeSet::new();
    for text in own.into_iter().chain(others) {
        let name: AdName = text.parse().unwrap();
        assert_eq!((name.as_str(), name.to_string().as_str()), (text, text));
        let json = serde_json::to_string(&name).unwrap();
        assert_eq!(serde_json::from_str::<AdName>(&json).unwrap(), name);
        let id = name.id();
        assert_eq!(id.is_digest(), others.contains(&text), "{text}");
        assert_eq!(AdId::from_padded(*id.padded()), Ok(id));
        assert_eq!(id.own_name().is_none(), id.is_digest());
        assert!(ids.insert(id), "two spellings are two names: {text}");
    }
    // What stands in logs and stores may never change.
    let digest: AdName = "example.com".parse().unwrap();
    assert_eq!(hex(digest.id().padded()), "d18a8f9f31b71ccb8bab1a2995b2242e");
    assert!(EdgeId::from_padded(*digest.id().any().padded()).is_err(), "edges have short names");
    assert!(Name::NONE.id() == AdId::NONE && AdId::NONE.own_name().is_some_and(|n| n.is_none()));
}

#[test]
fn what_is_no_name_is_refused_with_its_reason() {
    let long = "é".repeat(64) + "x";
    for (text, why) in [
        ("", "at least one character"),
        (long.as_str(), "at most 128 bytes of UTF-8"),
        (" a", "neither begins nor ends with a space"),
        ("a\u{a0}", "neither begins nor ends with a space"),
        ("a\nb", "U+000A"),
        ("a\0", "U+0000"),
        ("a\u{7f}", "U+007F"),
        ("a\u{202e}b", "U+202E"),
        ("a\u{200b}b", "U+200B"),
        ("a\u{2028}b", "U+2028"),
        ("\u{feff}a", "U+FEFF"),
        ("a\u{ad}b", "U+00AD"),
        ("a\u{34f}b", "U+034F"),
        ("\u{3164}", "U+3164"),
        ("\u{2800}", "U+2800"),
        ("a\u{1d173}", "U+1D173"),
        ("\u{200d}\u{fe0f}", "U+200D"),
        (".", "folder"),
        ("..", "folder"),
    ] {
        let error: NameError = text.parse::<AdName>().unwrap_err();
        assert!(error.to_string().contains(why), "{text:?}: {error}");
        assert!(serde_json::from_value::<AdName>(text.into()).is_err(), "{text:?}");
    }
    // An emoji of several characters, a heart with a selector, a word with a joiner.
    for good in ["é".repeat(64).as_str(), "👩‍💻", "❤\u{fe0f}", "می\u{200c}خواهم", "...", "a."]
    {
        assert!(good.parse::<AdName>().is_ok(), "{good:?}");
    }
}

#[test]
fn times_are_read() {
    for (text, ms) in [
        ("0", 0),
        ("1574553617", 1_574_553_617_000),
        ("1574553617.5", 1_574_553_617_500),
        ("1574553617.123456", 1_574_553_617_123),
        ("0.001", 1),
        ("2019-11-24T00:00:17Z", 1_574_553_617_000),
        ("2019-11-24T00:00:17.25Z", 1_574_553_617_250),
        ("2019-11-24 00:00:17", 1_574_553_617_000),
        ("2019-11-24T00:00:17", 1_574_553_617_000),
        ("2019-11-24T01:00:17+01:00", 1_574_553_617_000),
        ("2019-11-24 00:00:17.000", 1_574_553_617_000),
        ("1970-01-01T00:00:00Z", 0),
        ("2020-02-29T12:00:00Z", 1_582_977_600_000),
    ] {
        assert_eq!(Timestamp::parse(text), Ok(Timestamp(ms)), "{text}");
    }
    for text in [
        "",
        ".",
        "1.",
        "1.2.3",
        "-1",
        "+1",
        "1e3",
        "0x10",
        " 1",
        "1 ",
        "yesterday",
        "24/Nov/2019",
        "1969-12-31T23:59:59Z",
        "2019-02-29T00:00:00Z",
        "2019-13-01T00:00:00Z",
        "2019-11-24T24:00:01Z",
        "18446744073709551616",
        "18446744073709551615",
        "\u{661}",
    ] {
        assert!(Timestamp::parse(text).is_err(), "{text:?}");
    }
    // What programs of today call the time, in their milliseconds.
    for text in ["1795305600000", "253402300800"] {
        let said = Timestamp::parse(text).unwrap_err().to_string();
        assert!(said.contains("Unix seconds, not milliseconds"), "{said}");
    }
    let long = "x".repeat(10_000);
    assert!(Timestamp::parse(&long).unwrap_err().to_string().len() < 200);
}

#[test]
fn times_are_written_and_split() {
    assert_eq!(NOW.to_string(), "2026-01-31T12:00:00Z");
    assert_eq!(Timestamp::MAX.to_string(), "18446744073709551615 ms");
    assert_eq!(Timestamp::MAX.minute(), Minute(u32::MAX));
    assert_eq!(Timestamp(119_999).minute(), Minute(1));
    assert_eq!((Minute(1).start(), Minute(1).end()), (Timestamp(60_000), Timestamp(120_000)));
    assert_eq!(Timestamp::MAX.plus_ms(1), Timestamp::MAX);
    assert_eq!(Timestamp(1).minus_ms(2), Timestamp(0));
}

/// Codes and names are on the wire: none may move.
#[test]
fn words_keep_their_codes() {
    let kinds: Vec<_> = Kind::ALL.iter().map(|kind| (kind.code(), kind.name())).collect();
    assert_eq!(kinds, [(0, "served"), (1, "impression"), (2, "viewable"), (3, "click")]);
    let devices: Vec<_> = Device::ALL.iter().map(|device| device.name()).collect();
    assert_eq!(devices, ["unknown", "desktop", "phone", "tablet", "tv"]);
    let reasons: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(
        reasons,
        [
            "malformed",
            "unknown_version",
            "wrong_deployment",
            "unknown_key",
            "revoked_key",
            "retired_key",
            "bad_seal",
            "expired",
            "not_yet_valid",
            "publisher_not_allowed",
            "outbox_full",
            "clock_ahead",
            "edge_retired",
            "too_late",
            "head_request",
            "prefetch",
            "test",
            "bot",
            "non_browser",
            "data_centre",
            "too_many_clicks",
            "click_too_soon",
            "foreign_issuer",
            "over_quota",
            "repeated",
            "issuer_limit",
        ]
    );
    let codes: Vec<u8> = Reason::ALL.iter().map(|reason| reason.code()).collect();
    assert_eq!(codes, [(1..=23).collect(), vec![25, 26, 27]].concat());
    for (code, reason) in codes.into_iter().zip(Reason::ALL) {
        assert_eq!(Reason::from_code(code), Some(*reason));
        assert_eq!(reason.name().parse(), Ok(*reason));
        assert!(usize::from(code) < REASON_CODES);
    }
    assert_eq!((Reason::from_code(0), Reason::from_code(28)), (None, None));
    let codes: Vec<u8> = VERDICTS.iter().map(|reason| reason.code()).collect();
    assert_eq!(codes, [15, 16, 18, 19, 20, 21, 22], "test (17) is the collector's to say");
    let error = "conversion".parse::<Kind>().unwrap_err();
    assert!(error.contains("served, impression, viewable, click"), "{error}");
}

#[test]
fn countries_and_networks() {
    for index in 0..676 {
        assert_eq!(Country::from_index(index).unwrap().index(), index);
    }
    assert_eq!(Country::from_index(676), None);
    for (text, country) in
        [("de", "DE"), (" DE ", "DE"), ("", "ZZ"), ("DEU", "ZZ"), ("d1", "ZZ"), ("é", "ZZ")]
            .into_iter()
            .chain([("uk", "GB"), ("XX", "ZZ"), ("T1", "ZZ"), ("XK", "XK")])
    {
        assert_eq!(Country::lenient(text).to_string(), country, "{text:?}");
    }
    for (address, network) in [
        ("192.0.2.255", "04c00002000000"),
        ("::ffff:192.0.2.1", "04c00002000000"),
        ("2001:db8:1:2::3", "0620010db80001"),
        ("::1", "06000000000000"),
    ] {
        assert_eq!(hex(&Network::from_address(address.parse().unwrap()).0), network, "{address}");
    }
}

#[test]
fn money_has_a_currency_or_is_zero() {
    assert_eq!("EUR".parse::<Currency>().unwrap().to_string(), "EUR");
    for bad in ["", "eur", "EURO", "EU", "\0\0\0", "E1R"] {
        assert!(bad.parse::<Currency>().is_err(), "{bad:?}");
    }
    assert!(Money { micros: 1, currency: Currency::NONE }.is_unnamed());
    assert!(!Money::ZERO.is_unnamed());
}

proptest! {
    #[test]
    fn any_time_is_read_or_refused_without_a_panic(text: String, ms in 0..253_402_300_799_999_u64) {
        let _ = Timestamp::parse(&text);
        prop_assert_eq!(Timestamp::parse(&Timestamp(ms).to_string()), Ok(Timestamp(ms)));
        prop_assert_eq!(Timestamp::parse(&format!("{}.{:03}", ms / 1000, ms % 1000)), Ok(Timestamp(ms)));
    }

    #[test]
    fn any_bytes_are_an_id_or_refused(bytes: Vec<u8>, padded: [u8; 16]) {
        if let Ok(id) = EdgeId::new(&bytes) {
            prop_assert_eq!(id.as_str().as_bytes(), bytes.as_slice());
        }
        if let Ok(id) = EdgeId::from_padded(padded) {
            prop_assert_eq!(id.padded(), &padded);
        }
    }

    #[test]
    fn hex_and_impressions_come_back(bytes: [u8; 12], source: [u8; 16], text: String) {
        prop_assert_eq!(unhex::<12>(&hex(&bytes)), Some(bytes));
        prop_assert_eq!(ImpressionId::from_bytes(bytes).to_bytes(), bytes);
        let source = SourceId(source);
        prop_assert_eq!(source.to_string().parse(), Ok(source));
        if let Some(bytes) = unhex::<2>(&text) {
            prop_assert_eq!(hex(&bytes), text);
        }
    }

    #[test]
    fn random_numbers_stay_below(seed: u64, bound: u64) {
        prop_assert!(below(&mut Seeded::new(seed), bound) < bound.max(1));
    }
}

/// Every reason is explained, and flagged where an edge gives it as a verdict.
#[test]
fn the_page_of_reasons_has_every_one() {
    let page = include_str!("../../../docs/reasons.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows.map(|row| row.split_once("` | ").unwrap());
    let told: BTreeMap<&str, bool> =
        rows.map(|(name, rest)| (name, rest.starts_with("flagged "))).collect();
    let is = |reason: &Reason| (reason.name(), VERDICTS.contains(reason));
    assert_eq!(told, Reason::ALL.iter().map(is).collect());
}
