//! Bytes that are no batch and no message, and what is said of them.

use serde_json::{Value, json};
use shared::text::hex;
use shared::wire::json::JsonBatch;
use shared::wire::{Batch, MessageView};

use super::wire::{full_batch, full_message};

/// Puts bytes at a place.
fn put(bytes: &[u8], at: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

/// Where the first of the tallies begins in [`full_batch`].
const EVENTS: usize = 52;

pub(super) fn rejected_batches(token: &[u8]) -> Vec<Value> {
    let good = full_batch(token).to_bytes();
    let bare = EVENTS + 49 + token.len();
    let tallies = bare + 39;
    let cases = [
        ("empty", Vec::new(), "the bytes end too early"),
        ("another form", put(&good, 0, b"JSON"), "no outbox batch of version 1 to 3"),
        ("version 4", put(&good, 3, b"4"), "no outbox batch of version 1 to 3"),
        ("version 3 that says 1", put(&good, 3, b"1"), "an unknown flag"),
        ("an edge without a name", put(&good, 4, &[0; 16]), "an id with a byte that none has"),
        ("an edge's name with a dot", put(&good, 4, b"edge.1"), "an id with a byte that none has"),
        ("an edge's name with a gap", put(&good, 4, b"ed\0e-1"), "an id with a byte that none has"),
        ("batch number 2^63", put(&good, 28, &(1_u64 << 63).to_le_bytes()), "2^63 or more"),
        ("4 097 events", put(&good, 44, &4_097_u32.to_le_bytes()), "more of something"),
        ("more events than bytes", put(&good, 44, &4_096_u32.to_le_bytes()), "end too early"),
        ("4 097 tallies", put(&good, 48, &4_097_u32.to_le_bytes()), "more of something"),
        ("an event of kind 4", put(&good, EVENTS, &[4]), "an unknown kind of event"),
        ("verdict 17", put(&good, EVENTS + 1, &[17]), "no verdict of an edge"),
        ("verdict 28", put(&good, EVENTS + 1, &[28]), "an unknown reason"),
        ("a reason that is no verdict", put(&good, EVENTS + 1, &[7]), "no verdict of an edge"),
        ("an unknown flag", put(&good, EVENTS + 2, &[4]), "an unknown flag"),
        ("an unknown flag and a page", put(&good, EVENTS + 2, &[132]), "an unknown flag"),
        ("page number 0", put(&good, EVENTS + 45, &[0, 0]), "no page may give"),
        ("page number 4 097", put(&good, EVENTS + 45, &[1, 16]), "no page may give"),
        (
            "a country beyond ZZ",
            put(&good, EVENTS + 3, &(676_u32 << 3).to_le_bytes()),
            "code without a meaning",
        ),
        ("device 5", put(&good, EVENTS + 3, &5_u32.to_le_bytes()), "code without a meaning"),
        ("a code of a later build", put(&good, EVENTS + 6, &[1]), "code without a meaning"),
        ("a region in lower case", put(&good, EVENTS + 7, b"be"), "other than capitals"),
        ("a region behind its padding", put(&good, EVENTS + 7, b"\0BE"), "other than capitals"),
        ("an IPv4 network of 32 bits", put(&good, EVENTS + 14, &[1]), "a network that is no"),
        ("a network of version 5", put(&good, EVENTS + 10, &[5]), "a network that is no"),
        ("a network of no version", put(&good, EVENTS + 10, &[0]), "a network that is no"),
        (
            "a token longer than any",
            put(&good, EVENTS + 47, &u16::MAX.to_le_bytes()),
            "a token longer than any",
        ),
        ("a tally without a reason", put(&good, tallies + 5, &[0]), "a tally without a reason"),
        ("a tally of kind 9", put(&good, tallies + 4, &[9]), "an unknown kind of event"),
        ("cut in a token", good[..EVENTS + 40].to_vec(), "the bytes end too early"),
        ("cut in a tally", good[..good.len() - 1].to_vec(), "the bytes end too early"),
        ("a byte too many", [&good[..], &[0]].concat(), "bytes after the end"),
    ];
    let vector = |(name, bytes, why): (&str, Vec<u8>, &str)| {
        let error = Batch::read(&bytes).expect_err(name).to_string();
        assert!(error.contains(why), "{name}: {error}");
        json!({ "name": name, "hex": hex(&bytes), "error": error })
    };
    cases.into_iter().map(vector).collect()
}

pub(super) fn rejected_messages() -> Vec<Value> {
    let good = full_message();
    let at = offsets(&good);
    let cases = [
        ("empty", Vec::new(), "the bytes end too early"),
        ("a batch", full_batch(&[]).to_bytes(), "no partition message of version 1 to 4"),
        ("version 5", put(&good, 3, b"5"), "no partition message of version 1 to 4"),
        ("4 097 batches", put(&good, 14, &4_097_u32.to_le_bytes()), "more of something"),
        ("declared minutes out of order", put(&good, 78, &u32::MAX.to_le_bytes()), "out of order"),
        ("a chunk that ends before it starts", put(&good, at.chunk + 24, &[0; 8]), "ends before"),
        ("a tally of a batch that is not there", put(&good, at.tally, &[3]), "not listed"),
        ("a tally without a reason", put(&good, at.tally + 7, &[0]), "a tally without a reason"),
        ("a block of nobody", put(&good, at.blocks, &[0; 16]), "an id with a byte that none has"),
        ("a row of a batch that is not there", put(&good, at.hot, &[3]), "points nowhere"),
        ("a row of a block that is not there", put(&good, at.hot + 2, &[3]), "points nowhere"),
        ("a row of a minute that is not there", put(&good, at.hot + 6, &[2]), "points nowhere"),
        ("a row of an ad that is not there", put(&good, at.hot + 8, &[6]), "points nowhere"),
        (
            "a row of a country beyond ZZ",
            put(&good, at.hot + 16, &(676_u32 << 7).to_le_bytes()),
            "points nowhere",
        ),
        ("a row of a placement that is not there", put(&good, at.hot + 12, &[6]), "points nowhere"),
        ("a row that says it is valid and is not", put(&good, at.hot + 21, &[7]), "unknown code"),
        ("a row of a code of a later build", put(&good, at.hot + 18, &[0xff]), "unknown code"),
        (
            "a row in ms 60 000",
            put(&good, at.hot + 22, &60_000_u16.to_le_bytes()),
            "points nowhere",
        ),
        ("a row of a region in lower case", put(&good, at.hot + 26, b"be"), "unknown code"),
        ("a row with a price that is not there", put(&good, at.hot + 14, &[2]), "points nowhere"),
        ("a row of kind 4", put(&good, at.hot + 16, &[4 << 1 | 1]), "an unknown code"),
        ("a page of a batch that is not there", put(&good, at.pages, &[3]), "a page view that"),
        (
            "a page of a minute that is not there",
            put(&good, at.pages + 2, &[2]),
            "a page view that",
        ),
        (
            "a page of a publisher that is not there",
            put(&good, at.pages + 4, &[6]),
            "a page view that",
        ),
        ("a page that has told nothing", put(&good, at.pages + 6, &[0]), "no page may give"),
        ("a row with device 5", put(&good, at.hot + 16, &[5 << 4 | 3 << 1 | 1]), "an unknown code"),
        ("a row with verdict 28", put(&good, at.hot + 20, &[28]), "an unknown code"),
        ("a row rejected with 28", put(&good, at.hot + 21, &[28]), "an unknown code"),
        ("cut", good[..good.len() - 1].to_vec(), "the bytes end too early"),
        ("a byte too many", [&good[..], &[0]].concat(), "bytes after the end"),
    ];
    let vector = |(name, bytes, why): (&str, Vec<u8>, &str)| {
        let error = MessageView::read(&bytes).expect_err(name).to_string();
        assert!(error.contains(why), "{name}: {error}");
        json!({ "name": name, "hex": hex(&bytes), "error": error })
    };
    cases.into_iter().map(vector).collect()
}

struct Offsets {
    chunk: usize,
    tally: usize,
    blocks: usize,
    pages: usize,
    hot: usize,
}

/// Where things begin in [`full_message`].
fn offsets(bytes: &[u8]) -> Offsets {
    // Header, two batches (the first declares two minutes), then the chunks' count.
    let chunk = 14 + 4 + (60 + 16) + 60 + 4;
    let tally = chunk + 68 + 8 + 4;
    let blocks = tally + 12 + 4;
    let minutes = blocks + 2 * 26 + 4;
    let ids = minutes + 2 * 4 + 4;
    let names = ids + 5 * 16 + 4;
    let prices = names + 4;
    let pages = prices + 11 + 4;
    let hot = pages + 16 + 4;
    assert_eq!(bytes[hot - 4..hot], 3_u32.to_le_bytes());
    assert_eq!(bytes[chunk..chunk + 16], [0xa5; 16]);
    Offsets { chunk, tally, blocks, pages, hot }
}

#[test]
fn cold_rows_that_point_nowhere_are_refused() {
    let good = full_message();
    let cold = offsets(&good).hot + 3 * 44 + 4;
    assert!(MessageView::read(&good).unwrap().cold().is_ok());
    for (at, with) in [(0, 6), (2, 6), (9, 1), (9, u16::MAX)] {
        let bytes = put(&good, cold + at, &with.to_le_bytes());
        assert!(MessageView::read(&bytes).unwrap().cold().is_err(), "{with} at {at}");
    }
}

#[test]
fn json_batches_that_are_none() {
    let good = serde_json::to_value(JsonBatch::new(&full_batch(&[1, 2, 3]))).unwrap();
    let read = |value: &Value| -> Result<Vec<u8>, String> {
        let json: JsonBatch =
            serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
        Ok(json.batch()?.to_bytes())
    };
    assert_eq!(read(&good), Ok(full_batch(&[1, 2, 3]).to_bytes()));
    for (pointer, value, why) in [
        ("/version", json!(2), "this build reads version 1"),
        ("/edge", json!("no.dots"), "1 to 16 characters"),
        ("/edge", json!(""), "1 to 16 characters"),
        ("/number", json!(-1), "invalid value"),
        ("/number", json!(1_u64 << 63), "below 2^63"),
        ("/events/0/visitor", json!(7), "a string"),
        ("/events/0/visitor", json!("7"), "16 lower-case hexadecimal digits"),
        ("/events/0/kind", json!("conversion"), "no kind of event"),
        ("/events/0/token", json!("AQID="), "canonical base64url"),
        ("/events/0/token", json!("AQIE+"), "canonical base64url"),
        ("/events/0/token", json!("A".repeat(4_000)), "canonical base64url"),
        ("/events/0/verdict", json!("bad_seal"), "events[0]: this reason is no verdict"),
        ("/events/0/verdict", json!("rain"), "no reason"),
        ("/events/0/country", json!("de"), "two capital letters"),
        ("/events/0/device", json!("toaster"), "no device"),
        ("/events/0/region", json!("be"), "capital letters or digits"),
        ("/events/0/region", json!("BAYE"), "capital letters or digits"),
        ("/events/0/network", json!("04"), "14 lower-case hexadecimal digits"),
        ("/events/0/network", json!("04c0000207000000"), "14 lower-case hexadecimal digits"),
        ("/events/0/network", json!("04c00002070000"), "events[0]: a network that is no"),
        ("/events/0/network", json!("05000000000000"), "events[0]: a network that is no"),
        ("/events/0/network", json!("00000000000001"), "events[0]: a network that is no"),
        ("/events/0/flags", json!(4), "events[0]: an unknown flag"),
        ("/events/0/page/seq", json!(0), "no page may give"),
        ("/events/0/page/seq", json!(4_097), "no page may give"),
        ("/events/0/page/page", json!(7), "a string"),
        ("/events/0/rules", json!("1a"), "8 lower-case hexadecimal digits"),
        ("/tallies/0/count", json!(1_u64 << 32), "invalid value"),
    ] {
        let mut bad = good.clone();
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        bad.pointer_mut(parent).unwrap()[field] = value;
        let error = read(&bad).unwrap_err();
        assert!(error.contains(why), "{pointer}: {error}");
    }
    for pointer in ["", "/events/0", "/tallies/0"] {
        let mut bad = good.clone();
        bad.pointer_mut(pointer).unwrap()["surprise"] = json!(1);
        assert!(read(&bad).unwrap_err().contains("unknown field"), "{pointer}");
    }
    let mut many = good.clone();
    let event = many["events"][0].clone();
    many["events"] = Value::Array(vec![event; shared::limits::BATCH_EVENTS_MAX + 1]);
    assert!(read(&many).unwrap_err().contains("at most 4096"));
}
