//! `batches.json` and `messages.json`: what is in them, and byte by byte how it is written.

use serde_json::{Value, json};
use shared::event::{
    Country, Device, Fingerprint, Flags, Network, PageSeq, PageView, Region, RuleSet,
};
use shared::text::hex;
use shared::wire::json::JsonBatch;
use shared::wire::message::Entry;
use shared::wire::{
    Batch, BatchEntry, ChunkEntry, Event, Judged, MessageBuilder, MessageView, Tally,
};
use shared::{
    BatchDigest, BlockId, Codes, Id, ImpressionId, Kind, Minute, Money, OutboxId, Reason, SourceId,
    Timestamp,
};

use super::vectors::{Parts, compare};
use super::wire_rejections::{rejected_batches, rejected_messages};
use super::world::{NOW, id, mint, price, store};

pub(super) fn outbox() -> OutboxId {
    OutboxId { edge: id("edge-1"), epoch: 1_769_860_000_123 }
}

pub(super) fn event(kind: Kind, token: &[u8]) -> Event<'_> {
    Event {
        kind,
        at: NOW.plus_ms(30_001),
        verdict: None,
        rules: RuleSet(0x1a2b_3c4d),
        flags: Flags::default(),
        codes: Codes::new(Country::from_bytes(*b"DE").unwrap(), Device::Phone),
        region: "BE".parse().unwrap(),
        network: Network::from_address("192.0.2.77".parse().unwrap()),
        visitor: Fingerprint(0x1122_3344_5566_7788),
        page: Some(PageSeq { page: PageView(0x0102_0304_0506_0708), seq: 3 }),
        token,
    }
}

pub(super) fn tally(minute: Minute, reason: Reason, count: u32) -> Tally {
    Tally { minute, kind: Kind::Click, reason, count }
}

/// Two events, one of them as bare as can be, and two tallies.
pub(super) fn full_batch(token: &[u8]) -> Batch<'_> {
    let bare = Event {
        at: Timestamp(0),
        verdict: Some(Reason::Prefetch),
        rules: RuleSet::UNKNOWN,
        flags: Flags(Flags::OTHER_VISITOR),
        codes: Codes::default(),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint::NONE,
        page: None,
        ..event(Kind::Served, &[])
    };
    let tallies = vec![
        tally(NOW.minute(), Reason::OutboxFull, 3),
        tally(Minute(1), Reason::BadSeal, u32::MAX),
    ];
    let events = vec![event(Kind::Click, token), bare];
    Batch { outbox: outbox(), number: 7, watermark: NOW.plus_ms(30_001), events, tallies }
}

#[test]
fn batches() {
    let token = mint(&store(), "house", |_| ());
    let heartbeat = Batch { events: Vec::new(), tallies: Vec::new(), ..full_batch(&[]) };
    let closing = Batch { watermark: Timestamp::MAX, number: 8, ..heartbeat.clone() };
    let cases = [
        ("two events and two tallies", full_batch(&token)),
        ("a heartbeat", heartbeat),
        ("the closing batch of an epoch", closing),
    ];
    let file = json!({
        "what": "Outbox batches of version 3: the JSON form, and the binary form in parts of hex, in order. Numbers are little endian. `declared` is what counts as received, by minute.",
        "batches": cases.map(|(name, batch)| batch_vector(name, &batch)),
        "rejected": rejected_batches(&token),
    });
    compare("batches.json", &file);
}

fn batch_vector(name: &str, batch: &Batch<'_>) -> Value {
    let bytes = batch.to_bytes();
    assert_eq!(&Batch::read(&bytes).unwrap(), batch, "{name}");
    let json = JsonBatch::new(batch);
    json!({
        "name": name, "json": json, "declared": batch.declared(), "parts": batch_parts(&bytes),
    })
}

fn batch_parts(bytes: &[u8]) -> Value {
    let mut parts = Parts::new(bytes);
    parts.take("magic CSB3", 4);
    parts.take("edge", 16);
    parts.take("epoch", 8);
    parts.take("number", 8);
    parts.take("watermark, ms", 8);
    let events = parts.count("number of events");
    let tallies = parts.count("number of tallies");
    for n in 0..events {
        let mut has_page = false;
        for (what, length) in [
            ("kind", 1),
            ("verdict", 1),
            ("flags", 1),
            ("codes", 4),
            ("region", 3),
            ("network", 7),
            ("visitor", 8),
            ("received at, ms", 8),
            ("rule set", 4),
        ] {
            let part = parts.take(&format!("event {n}: {what}"), length);
            has_page |= what == "flags" && part[0] & 128 != 0;
        }
        if has_page {
            parts.take(&format!("event {n}: page view"), 8);
            parts.take(&format!("event {n}: its number"), 2);
        }
        let length = parts.take(&format!("event {n}: length of token"), 2);
        let length = u16::from_le_bytes([length[0], length[1]]);
        parts.take(&format!("event {n}: token"), usize::from(length));
    }
    for n in 0..tallies {
        for (what, length) in [("minute", 4), ("kind", 1), ("reason", 1), ("count", 4)] {
            parts.take(&format!("tally {n}: {what}"), length);
        }
    }
    parts.end()
}

/// An accepted click of house's.
pub(super) fn judged() -> Judged<'static> {
    Judged {
        issuer: id("house"),
        id: ImpressionId { block: BlockId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), seq: 258 },
        kind: Kind::Click,
        outcome: Ok(None),
        at: NOW.plus_ms(30_001),
        issued: Some(NOW.minute()),
        ad: id("ad-1"),
        campaign: id("spring"),
        advertiser: id("shop"),
        publisher: id("pub-1"),
        placement: id("top"),
        names: &[],
        codes: Codes::new(Country::from_bytes(*b"DE").unwrap(), Device::Phone),
        region: "BE".parse().unwrap(),
        network: Network::from_address("192.0.2.77".parse().unwrap()),
        visitor: Fingerprint(0x1122_3344_5566_7788),
        flags: Flags::default(),
        rules: RuleSet(0x1a2b_3c4d),
        page: Some(PageSeq { page: PageView(0x0102_0304_0506_0708), seq: 3 }),
        price: price(),
        proof: &[],
    }
}

/// An event of which nothing could be believed.
pub(super) fn rejected(proof: &[u8]) -> Judged<'_> {
    Judged {
        issuer: Id::NONE,
        id: ImpressionId::default(),
        kind: Kind::Impression,
        outcome: Err(Reason::BadSeal),
        ad: Id::NONE,
        campaign: Id::NONE,
        advertiser: Id::NONE,
        publisher: Id::NONE,
        placement: Id::NONE,
        price: Money::ZERO,
        visitor: Fingerprint::NONE,
        flags: Flags(Flags::OTHER_VISITOR),
        rules: RuleSet::UNKNOWN,
        page: None,
        proof,
        ..judged()
    }
}

pub(super) fn batch_entry(number: u64) -> BatchEntry {
    let declared = vec![(Minute(1), 2), (NOW.minute(), 40)];
    BatchEntry {
        outbox: outbox(),
        number,
        watermark: NOW,
        digest: BatchDigest([0xbd; 16]),
        declared,
    }
}

pub(super) fn chunk_entry() -> ChunkEntry {
    ChunkEntry {
        source: SourceId([0xa5; 16]),
        first_row: 65_530,
        end_row: 65_540,
        digest: [0x5a; 32],
        declared: vec![(Minute(26_297_280), 1)],
    }
}

/// Two batches and a chunk, three events, a tally.
pub(super) fn full_message() -> Vec<u8> {
    let mut builder = MessageBuilder::default();
    let first = builder.batch(batch_entry(7));
    let chunk = builder.chunk(chunk_entry());
    let second = builder.batch(BatchEntry { declared: Vec::new(), ..batch_entry(8) });
    assert_eq!((first, chunk, second), (Entry::Batch(0), Entry::Chunk(0), Entry::Batch(1)));
    builder.event(first, &judged());
    builder.event(first, &rejected(&[0xde, 0xad]));
    let row = Judged {
        issuer: shared::import::ISSUER,
        campaign: Id::NONE,
        advertiser: Id::NONE,
        price: Money::ZERO,
        at: Timestamp(1_577_836_859_999),
        outcome: Ok(Some(Reason::Prefetch)),
        ..judged()
    };
    builder.event(chunk, &row);
    builder.tally(first, tally(Minute(1), Reason::OutboxFull, 2));
    let told = PageSeq { page: PageView(0x0102_0304_0506_0708), seq: 3 };
    builder.page_view(first, &judged(), told);
    builder.finish(3, NOW.plus_ms(31_000))
}

#[test]
fn messages() {
    let cases = [
        ("two batches and a chunk, three events, a tally", full_message()),
        ("news of one batch, without an event for this partition", {
            let mut builder = MessageBuilder::default();
            builder.batch(batch_entry(9));
            builder.finish(15, NOW)
        }),
    ];
    let file = json!({
        "what": "Partition messages of version 4: what is in them, and their parts in hex, in order. Numbers are little endian. Tables count from 1 where 0 is none: blocks, ids, prices.",
        "messages": cases.map(|(name, bytes)| {
            let mut vector = message_vector(name, &bytes);
            vector["parts"] = message_parts(&bytes);
            vector
        }),
        "rejected": rejected_messages(),
    });
    compare("messages.json", &file);
}

fn old_vectors(name: &str) -> Value {
    let path = format!("{}/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn bytes(of: &Value) -> Vec<u8> {
    let text = of["hex"].as_str().unwrap().as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
    text.chunks(2).map(|two| pair(two).unwrap()).collect()
}

/// A message of an earlier version is read, and what it did not have is unknown.
fn check_old_message(of: &Value, version: u8) {
    let stored = bytes(of);
    let mut found = message_vector("", &stored);
    for batch in found["batches"].as_array_mut().unwrap().iter_mut().filter(|_| version < 3) {
        let digest = batch.as_object_mut().unwrap().remove("digest");
        assert_eq!(digest, Some(json!(BatchDigest::UNKNOWN)));
    }
    let since = [
        (2, "rules", json!(RuleSet::UNKNOWN)),
        (2, "numbered", json!(false)),
        (4, "issued", json!(null)),
        (4, "region", json!(Region::UNKNOWN)),
    ];
    for event in found["events"].as_array_mut().unwrap() {
        for (_, name, value) in since.iter().filter(|(since, ..)| version < *since) {
            assert_eq!(event.as_object_mut().unwrap().remove(*name).as_ref(), Some(value));
        }
    }
    let was_there = of["events"][0].as_object().unwrap();
    for (name, text) in Codes::NAMES.iter().zip(Codes::default().texts()) {
        if was_there.contains_key(*name) {
            continue;
        }
        for event in found["events"].as_array_mut().unwrap() {
            let said = event.as_object_mut().unwrap().remove(*name);
            assert_eq!(said, Some(json!(text)), "{name} came later, and is not known");
        }
    }
    for (name, value) in of.as_object().unwrap().iter().filter(|(k, _)| *k != "hex") {
        assert_eq!(&found[name], value, "{name}: files of before are never written again");
    }
    assert!(MessageView::read(&stored[..stored.len() - 1]).is_err());
}

/// What the last build that wrote version 1 wrote, is read: outboxes and logs may hold it.
#[test]
fn version_1() {
    let file = old_vectors("version-1.json");
    let rules = check_old_batch(&file["batch"]);
    assert!(rules.iter().all(|rules| *rules == RuleSet::UNKNOWN));
    check_old_message(&file["message"], 1);
}

/// The same of version 2, of which the messages were another than today's.
#[test]
fn version_2() {
    check_old_message(&old_vectors("version-2.json")["message"], 2);
}

/// The same of batches of version 2 and messages of version 3.
#[test]
fn version_3() {
    let file = old_vectors("version-3.json");
    check_old_batch(&file["batch"]);
    check_old_message(&file["message"], 3);
}

fn check_old_batch(of: &Value) -> Vec<RuleSet> {
    let stored = bytes(of);
    let batch = Batch::read(&stored).unwrap();
    // The file has not what came later; read from it, that is unknown.
    let json: JsonBatch = serde_json::from_value(of["json"].clone()).unwrap();
    assert_eq!(JsonBatch::new(&batch), json, "files of before are never written again");
    assert_eq!(json!(batch.declared()), of["declared"]);
    assert_eq!(shared::wire::batch::name_of(&stored), Some((outbox(), 7)));
    assert!(batch.events.iter().all(|event| event.region == Region::UNKNOWN));
    // Made of JSON it has these very bytes, and so its digest, where a build of version 2 took it.
    if stored.starts_with(b"CSB2") {
        assert_eq!(json.batch().unwrap().to_bytes_2().unwrap(), stored);
    }
    assert!(Batch::read(&stored[..stored.len() - 1]).is_err());
    batch.events.iter().map(|event| event.rules).collect()
}

fn message_vector(name: &str, bytes: &[u8]) -> Value {
    let view = MessageView::read(bytes).unwrap();
    let cold = view.cold().unwrap();
    let events = view.rows().zip(cold).map(|(row, cold)| {
        let (issuer, block) = view.blocks[usize::from(row.block)];
        let id = |number: u16| view.name(number).to_string();
        let (minute, codes) = (view.minutes[usize::from(row.minute)], row.codes());
        let price = view.prices[usize::from(row.price)];
        let mut event = json!({
            "entry": row.entry, "issuer": issuer, "block": hex(&block.0), "seq": row.seq,
            "kind": row.kind(), "numbered": row.numbered, "verdict": row.outcome.ok().flatten(), "rejected": row.outcome.err(),
            "at": minute.start().plus_ms(u64::from(row.ms)), "issued": row.issued(minute),
            "ad": id(row.ad), "campaign": id(cold.campaign), "advertiser": id(cold.advertiser),
            "publisher": id(row.publisher), "placement": id(row.placement),
            "region": row.region,
            "network": row.network, "visitor": format!("{:016x}", row.visitor.0),
            "flags": cold.flags, "rules": cold.rules, "price_micros": price.micros,
            "price_currency": price.currency.to_string(), "proof": hex(cold.proof),
        });
        for (name, text) in Codes::NAMES.iter().zip(codes.texts()) {
            event[name] = json!(text);
        }
        event
    });
    json!({
        "name": name, "partition": view.partition, "stamp": view.stamp, "batches": view.batches,
        "chunks": view.chunks, "tallies": view.tallies,
        "pages": view.page_views.iter().map(|row| json!({
            "entry": row.entry, "minute": row.minute, "publisher": row.publisher, "told": row.told,
        })).collect::<Vec<_>>(), "events": events.collect::<Vec<_>>(),
    })
}

fn message_parts(bytes: &[u8]) -> Value {
    let mut parts = Parts::new(bytes);
    parts.take("magic CSM4", 4);
    parts.take("partition", 2);
    parts.take("stamp, ms", 8);
    for n in 0..parts.count("number of batches") {
        let fields =
            [("edge", 16), ("epoch", 8), ("number", 8), ("watermark, ms", 8), ("digest", 16)];
        for (what, length) in fields {
            parts.take(&format!("batch {n}: {what}"), length);
        }
        declared_parts(&mut parts, &format!("batch {n}"));
    }
    for n in 0..parts.count("number of chunks") {
        for (what, length) in [("source", 16), ("first row", 8), ("end row", 8), ("digest", 32)] {
            parts.take(&format!("chunk {n}: {what}"), length);
        }
        declared_parts(&mut parts, &format!("chunk {n}"));
    }
    table(
        &mut parts,
        "tallies",
        &[("entry", 2), ("minute", 4), ("kind", 1), ("reason", 1), ("count", 4)],
    );
    table(&mut parts, "blocks", &[("issuer", 16), ("block", 10)]);
    table(&mut parts, "minutes", &[("minute", 4)]);
    table(&mut parts, "ids", &[("id", 16)]);
    for n in 0..parts.count("number of names") {
        parts.take(&format!("names {n}: id"), 2);
        let length = parts.take(&format!("names {n}: length"), 1)[0];
        parts.take(&format!("names {n}: text"), usize::from(length));
    }
    table(&mut parts, "prices", &[("currency", 3), ("micros", 8)]);
    table(
        &mut parts,
        "page views",
        &[("entry", 2), ("minute", 2), ("publisher", 2), ("number", 2), ("page view", 8)],
    );
    let hot = [
        ("entry", 2),
        ("block", 2),
        ("sequence", 2),
        ("minute", 2),
        ("ad", 2),
        ("publisher", 2),
        ("placement", 2),
        ("price", 2),
        ("codes, kind, valid", 4),
        ("verdict", 1),
        ("rejected", 1),
        ("ms within the minute", 2),
        ("minutes since issue", 2),
        ("region", 3),
        ("network", 7),
        ("visitor", 8),
    ];
    let rows = table(&mut parts, "hot rows", &hot);
    parts.count("length of the cold part");
    for n in 0..rows {
        for (what, length) in [("campaign", 2), ("advertiser", 2), ("flags", 1), ("rule set", 4)] {
            parts.take(&format!("cold row {n}: {what}"), length);
        }
        let length = parts.take(&format!("cold row {n}: length of proof"), 2);
        let length = usize::from(u16::from_le_bytes([length[0], length[1]]));
        parts.take(&format!("cold row {n}: proof"), length);
    }
    parts.end()
}

fn declared_parts(parts: &mut Parts<'_>, of: &str) {
    for n in 0..parts.count(&format!("{of}: number of declared minutes")) {
        parts.take(&format!("{of}: declared minute {n}"), 4);
        parts.take(&format!("{of}: declared count {n}"), 4);
    }
}

fn table(parts: &mut Parts<'_>, name: &str, columns: &[(&str, usize)]) -> usize {
    let rows = parts.count(&format!("number of {name}"));
    for n in 0..rows {
        for (what, length) in columns {
            parts.take(&format!("{name} {n}: {what}"), *length);
        }
    }
    rows
}
