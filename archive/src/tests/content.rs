//! The contents of the columns.

use arrow_array::types::{Int64Type, TimestampMillisecondType, UInt8Type, UInt16Type};

use super::*;
use shared::clock::LogClock;

/// Files of a message with an event of each outcome, a tally, a chunk and a closing batch.
async fn sample() -> (Archive, RecordBatch) {
    let (log, archive) = (Arc::new(MemLog::new(1, [2; 16])), in_memory());
    let mut history = History::new(1);
    let mut builder = MessageBuilder::default();
    let outbox = OutboxId { edge: Id::literal("edge-1"), epoch: 7 };
    let minute = START.minute();
    let entry = builder.batch(BatchEntry {
        outbox,
        number: 41,
        watermark: Timestamp::MAX,
        digest: shared::BatchDigest::UNKNOWN,
        declared: vec![(minute, 3)],
    });
    let accepted = Judged {
        outcome: Ok(None),
        kind: Kind::Served,
        ad: Id::literal("b"),
        at: START,
        ..history.event()
    };
    let flagged = Judged {
        outcome: Ok(Some(Reason::Prefetch)),
        ad: Id::literal("a"),
        at: START.plus_ms(59_999),
        proof: &[],
        ..accepted
    };
    let rejected = Judged {
        issuer: Id::NONE,
        outcome: Err(Reason::BadSeal),
        ad: Id::NONE,
        price: Money::ZERO,
        network: Network([6, 0x20, 0x01, 0x0d, 0xb8, 0, 7]),
        visitor: Fingerprint::NONE,
        ..accepted
    };
    for event in [accepted, flagged, rejected] {
        builder.event(entry, &event);
    }
    let reason = Reason::OutboxFull;
    builder.tally(entry, Tally { minute, kind: Kind::Click, reason, count: 12 });
    let source = import::named_source("x");
    let row = 65_536 + 4;
    let chunk = ChunkEntry {
        source,
        first_row: 65_530,
        end_row: row + 1,
        digest: [8; 32],
        declared: vec![],
    };
    let chunk = builder.chunk(chunk);
    let id = import::impression(source, row);
    builder.event(chunk, &Judged { issuer: import::ISSUER, id, ad: Id::literal("c"), ..accepted });
    let payload = builder.finish(0, START.plus_ms(77)).into();
    log.append(vec![Message { partition: 0, payload }]).await.unwrap();
    start_writer(&log, &archive, 1 << 20).write(true).await.unwrap();
    let entry = archive.list(0).await.unwrap().pop().unwrap();
    let batch = batches(&archive, &entry).await.pop().unwrap();
    (archive, batch)
}

fn texts<'b>(batch: &'b RecordBatch, name: &str) -> Vec<Option<&'b str>> {
    column(batch, name).as_string::<i32>().iter().collect()
}

macro_rules! numbers {
    ($batch:expr, $name:literal, $kind:ty) => {
        column($batch, $name).as_primitive::<$kind>().iter().collect::<Vec<_>>()
    };
}

#[tokio::test]
async fn every_field_of_the_wire_is_there() {
    let (_, batch) = sample().await;
    let b = &batch;
    let records = ["batch", "chunk", "declared", "event", "event", "event", "event", "tally"];
    assert_eq!(texts(b, "record"), records.map(Some));
    // Events by minute and ad: none, a, b, c.
    assert_eq!(texts(b, "ad")[3..7], [None, Some("a"), Some("b"), Some("c")]);
    assert_eq!(numbers!(b, "row", UInt32Type)[3..7], [2, 1, 0, 3].map(Some));
    assert_eq!(texts(b, "outcome")[3], Some("bad_seal"));
    assert_eq!(
        texts(b, "outcome")[4..],
        ["accepted", "accepted", "accepted", "outbox_full"].map(Some)
    );
    assert_eq!(texts(b, "verdict")[3..7], [None, Some("prefetch"), None, None]);
    assert_eq!(texts(b, "issuer")[3..7], [None, Some("house"), Some("house"), Some("import")]);
    assert_eq!(texts(b, "block")[4], Some("30010203040506070809"));
    assert_eq!(texts(b, "kind")[3..], ["served", "served", "served", "served", "click"].map(Some));
    assert_eq!(texts(b, "network")[3..5], [Some("2001:db8:7::/48"), Some("203.0.113.0/24")]);
    assert_eq!(texts(b, "country")[4], Some("DE"));
    assert_eq!(texts(b, "device")[4], Some("phone"));
    assert_eq!(texts(b, "currency")[3..5], [None, Some("EUR")]);
    assert_eq!(numbers!(b, "price_micros", Int64Type)[3..5], [None, Some(1_250)]);
    assert_eq!(numbers!(b, "visitor", UInt64Type)[3..5], [None, Some(7)]);
    assert_eq!(numbers!(b, "flags", UInt8Type)[4], Some(1));
    assert_eq!(texts(b, "rules")[2..5], [None, Some("1a2b3c4d"), Some("1a2b3c4d")]);
    assert_eq!(numbers!(b, "count", UInt32Type), [0, 0, 3, 1, 1, 1, 1, 12].map(Some));
    let at = i64::try_from(START.0).unwrap();
    let minute = at - at % 60_000;
    let ats = numbers!(b, "at", TimestampMillisecondType);
    assert_eq!(ats[2..5], [Some(minute), Some(at), Some(at + 59_999)]);
    assert_eq!(numbers!(b, "stamp", TimestampMillisecondType), [Some(at + 77); 8]);
    assert_eq!(numbers!(b, "clock", TimestampMillisecondType), [Some(at + 77); 8]);
    let opened = BlockId([0x30, 1, 2, 3, 4, 5, 6, 7, 8, 9]).opened().start().0;
    let opened = Some(i64::try_from(opened).unwrap());
    assert_eq!(numbers!(b, "opened", TimestampMillisecondType)[3..7], [None, opened, opened, None]);
    let proofs: Vec<_> = column(b, "proof").as_binary::<i32>().iter().collect();
    let proof = Some(&b"body and signature"[..]);
    assert_eq!(proofs[3..7], [proof, None, proof, proof]);
}

#[tokio::test]
async fn what_the_accounting_needs_is_there() {
    let (_, batch) = sample().await;
    let b = &batch;
    let edge = Some("edge-1");
    let edges = [edge, None, edge, edge, edge, edge, None, edge];
    assert_eq!(texts(b, "edge"), edges);
    assert_eq!(numbers!(b, "epoch", UInt64Type)[0], Some(7));
    assert_eq!(numbers!(b, "number", UInt64Type)[..4], [Some(41), None, Some(41), Some(41)]);
    assert_eq!(numbers!(b, "watermark", TimestampMillisecondType)[0], None, "it is closed");
    assert_eq!(numbers!(b, "entry", UInt16Type), [0, 1, 0, 0, 0, 0, 1, 0].map(Some));
    let source = import::named_source("x").to_string();
    assert_eq!(texts(b, "source")[1], Some(source.as_str()));
    assert_eq!(texts(b, "source")[6], Some(source.as_str()));
    assert_eq!(numbers!(b, "source_row", UInt64Type)[1], Some(65_530));
    assert_eq!(numbers!(b, "source_row", UInt64Type)[6], Some(65_540));
    assert_eq!(numbers!(b, "source_end", UInt64Type)[1], Some(65_541));
    assert_eq!(texts(b, "source_digest")[1], Some("08".repeat(32).as_str()));
}

#[test]
fn a_wild_stamp_has_a_folder_too() {
    let mut builder = MessageBuilder::default();
    let outbox = OutboxId { edge: Id::literal("e"), epoch: 1 };
    builder.batch(BatchEntry {
        outbox,
        number: 0,
        watermark: START,
        digest: shared::BatchDigest::UNKNOWN,
        declared: vec![],
    });
    let payload: Bytes = builder.finish(0, Timestamp(u64::MAX - 1)).into();
    let digest = eventlog::position::digest(&payload);
    let position = eventlog::Position { identity: [1; 16], sequence: 3, digest };
    let message = [eventlog::Delivered { position, payload }];
    let made = |clock| super::super::file::make(0, clock, &message).unwrap().unwrap();
    let first = made(LogClock::default());
    assert!(first.path.contains("date=9999-12-30/hour=22/"), "{}", first.path);
    let made = made(LogClock { now: START, ahead: None });
    assert!(made.path.contains("date=2026-01-31/hour=12/"), "{}", made.path);
    let ahead = Some(Timestamp(u64::MAX - 1));
    assert_eq!(made.info.clock, LogClock { now: START, ahead });
    let mut reader = parquet::file::metadata::ParquetMetaDataReader::new();
    reader.try_parse(&Bytes::from(made.bytes)).unwrap();
    let footer = reader.finish().unwrap();
    assert_eq!(super::super::file::FileInfo::from_footer(&footer), Ok(made.info));
    assert_eq!(made.info.minutes, None);
}

#[test]
fn the_page_on_the_archive_has_every_column() {
    let page = include_str!("../../../docs/archive.md");
    for field in schema().fields() {
        let line = format!("| `{}` |", field.name());
        assert!(page.contains(&line), "docs/archive.md has no line {line}");
    }
}

#[test]
fn minutes_are_those_of_what_happened() {
    let mut history = History::new(8);
    history.now = Minute(29_500_000).start();
    let payload = history.filled(0, 12);
    let digest = eventlog::position::digest(&payload);
    let position = eventlog::Position { identity: [1; 16], sequence: 1, digest };
    let made = super::super::file::make(
        0,
        LogClock { now: START, ahead: None },
        &[eventlog::Delivered { position, payload }],
    );
    let (low, high) = made.unwrap().unwrap().info.minutes.unwrap();
    assert!(low >= Minute(29_499_995) && high == Minute(29_500_000), "{low:?} {high:?}");
}
