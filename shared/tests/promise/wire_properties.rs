//! What holds for every batch and message.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use shared::event::{
    Country, Fingerprint, Flags, Network, PageSeq, PageView, Region, RuleSet, VERDICTS,
};
use shared::import::{ImportChunk, ImportEvent};
use shared::limits::{CHUNK_EVENTS_MAX, FLUSH_BYTES, MESSAGE_ENTRIES_MAX, PAGE_SEQ_MAX};
use shared::name::Any;
use shared::wire::json::JsonBatch;
use shared::wire::message::Entry;
use shared::wire::{Batch, Event, Judged, MessageBuilder, MessageView, Tally};
use shared::{
    AnyId, BlockId, Codes, Currency, EdgeId, Id, ImpressionId, IssuerId, Kind, Minute, Money, Name,
    NameBuf, OutboxId, Outcome, Reason, SourceId, Timestamp,
};

use super::properties::any_id;
use super::wire::{batch_entry, chunk_entry, full_batch, full_message, judged, rejected, tally};
use super::world::NOW;

fn any_time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![8 => (0..1_u64 << 42).prop_map(Timestamp), 1 => any::<u64>().prop_map(Timestamp)]
}

fn any_network() -> impl Strategy<Value = Network> {
    let four = any::<[u8; 3]>().prop_map(|[a, b, c]| Network([4, a, b, c, 0, 0, 0]));
    let other = (select(&[1_u8, 6][..]), any::<[u8; 6]>());
    let other = other.prop_map(|(tag, [a, b, c, d, e, f])| Network([tag, a, b, c, d, e, f]));
    prop_oneof![Just(Network::default()), four, other]
}

/// An event, with its token beside it.
fn any_event() -> impl Strategy<Value = (Event<'static>, Vec<u8>)> {
    let words = (select(Kind::ALL), option::of(select(VERDICTS)), 0..=1_u8);
    let region = "[A-Z0-9]{0,3}";
    let who = (any::<u32>(), region, any_network(), any::<u64>(), any_time(), any::<u32>());
    let page = option::of((any::<u64>(), 1..=PAGE_SEQ_MAX));
    (words, who, page, vec(any::<u8>(), 0..60)).prop_map(
        |((kind, verdict, flags), (codes, region, network, visitor, at, rules), page, token)| {
            let event = Event {
                kind,
                at,
                verdict,
                rules: RuleSet(rules),
                flags: Flags(flags),
                codes: Codes::nth(codes),
                region: region.parse().unwrap_or_default(),
                network,
                visitor: Fingerprint(visitor),
                page: page.map(|(page, seq)| PageSeq { page: PageView(page), seq }),
                token: &[],
            };
            (event, token)
        },
    )
}

fn any_tally() -> impl Strategy<Value = Tally> {
    (any::<u32>(), select(Kind::ALL), select(Reason::ALL), any::<u32>()).prop_map(
        |(minute, kind, reason, count)| Tally { minute: Minute(minute), kind, reason, count },
    )
}

type AnyBatch = (Batch<'static>, Vec<(Event<'static>, Vec<u8>)>);

fn any_batch() -> impl Strategy<Value = AnyBatch> {
    let names = (any_id(), any::<u64>(), 0..shared::limits::BATCH_NUMBERS_MAX, any_time());
    (names, vec(any_event(), 0..12), vec(any_tally(), 0..6)).prop_map(
        |((edge, epoch, number, watermark), events, tallies)| {
            let outbox = OutboxId { edge, epoch };
            (Batch { outbox, number, watermark, events: Vec::new(), tallies }, events)
        },
    )
}

/// Puts the events, with their tokens, into the batch.
fn whole((batch, events): &AnyBatch) -> Batch<'_> {
    let events = events.iter().map(|(event, token)| Event { token, ..*event });
    Batch { events: events.collect(), ..batch.clone() }
}

/// A name as an id of its own, a digest, or none.
fn any_name() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        any_id().prop_map(|id: EdgeId| id.to_string()),
        super::properties::any_name(1..=128)
    ]
}

fn name(text: &str) -> Name<'_, Any> {
    Name::new(text.trim()).unwrap_or_default()
}

fn long(names: &[String; 5]) -> Vec<NameBuf<Any>> {
    let names = names.iter().map(|text| name(text)).filter(|name| name.is_long());
    names.map(Name::to_buf).collect()
}

fn any_judged() -> impl Strategy<Value = (Judged<'static>, [String; 5], Vec<u8>)> {
    let id_or_none = || prop_oneof![Just(None), any_id().prop_map(Some)];
    let issuer = id_or_none();
    let ids = [any_name(), any_name(), any_name(), any_name(), any_name()];
    let outcome = prop_oneof![
        Just(Ok(None)),
        select(VERDICTS).prop_map(|verdict| Ok(Some(verdict))),
        select(Reason::ALL).prop_map(Err),
    ];
    let price = (any::<i64>(), select(vec!["EUR", "USD"]));
    let block = (any::<[u8; 10]>(), any::<u16>());
    let issued = option::of(-32_767..=32_767_i16);
    (any_event(), issuer, ids, outcome, price, block, issued).prop_map(
        |((event, proof), issuer, names, outcome, (micros, currency), (block, seq), issued): (
            _,
            _,
            _,
            Outcome,
            _,
            _,
            Option<i16>,
        )| {
            let issuer: IssuerId = issuer.unwrap_or(Id::NONE);
            let [ad, campaign, advertiser, publisher, placement] =
                std::array::from_fn(|at| name(&names[at]).id());
            let block = if issuer.is_none() { BlockId::default() } else { BlockId(block) };
            let currency: Currency = currency.parse().unwrap();
            let price = if micros == 0 { Money::ZERO } else { Money { micros, currency } };
            let Event { kind, at, rules, codes, region, network, visitor, flags, page, .. } = event;
            let issued = issued.and_then(|age| at.minute().0.checked_add_signed(-i32::from(age)));
            let judged = Judged {
                issuer,
                id: ImpressionId { block, seq },
                kind,
                outcome,
                at,
                issued: issued.map(Minute),
                ad: ad.cast(),
                campaign: campaign.cast(),
                advertiser: advertiser.cast(),
                publisher: publisher.cast(),
                placement: placement.cast(),
                names: &[],
                codes,
                region,
                network,
                visitor,
                flags,
                rules,
                page,
                price,
                proof: &[],
            };
            (judged, names, proof)
        },
    )
}

proptest! {
    #[test]
    fn batches_come_back_in_both_forms(batch in any_batch()) {
        let batch = whole(&batch);
        let bytes = batch.to_bytes();
        prop_assert_eq!(Batch::read(&bytes).unwrap(), batch.clone());
        let text = serde_json::to_string(&JsonBatch::new(&batch)).unwrap();
        let json: JsonBatch = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(json.batch().unwrap().to_bytes(), bytes);
        match batch.to_bytes_2() {
            Some(bytes) => prop_assert_eq!(Batch::read(&bytes).unwrap(), batch.clone()),
            None => prop_assert!(batch.events.iter().any(|event| event.region != Region::UNKNOWN)),
        }
        let declared: u64 = batch.declared().iter().map(|(_, count)| u64::from(*count)).sum();
        let tallied: u64 = batch.tallies.iter().map(|tally| u64::from(tally.count)).sum();
        if tallied < u64::from(u32::MAX) {
            prop_assert_eq!(declared, batch.events.len() as u64 + tallied);
        }
        prop_assert!(batch.declared().is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn messages_come_back(
        events in vec((any_judged(), 0..3_usize), 0..20),
        tallies in vec(any_tally(), 0..4),
        partition: u16, stamp: u64,
    ) {
        let mut builder = MessageBuilder::default();
        let entries = [builder.batch(batch_entry(7)), builder.batch(batch_entry(8)), builder.chunk(chunk_entry())];
        for ((event, names, proof), entry) in &events {
            let names = long(names);
            builder.event(entries[*entry], &Judged { proof, names: &names, ..*event });
        }
        for tally in &tallies {
            builder.tally(entries[1], *tally);
        }
        prop_assert!(!builder.is_empty());
        let bytes = builder.finish(partition, Timestamp(stamp));
        let view = MessageView::read(&bytes).unwrap();
        prop_assert_eq!((view.partition, view.stamp), (partition, Timestamp(stamp)));
        prop_assert_eq!(&view.batches, &[batch_entry(7), batch_entry(8)]);
        prop_assert_eq!(&view.chunks, &[chunk_entry()]);
        prop_assert!(view.tallies.iter().all(|tally| tally.entry == 1));
        prop_assert_eq!(view.tallies.iter().map(|tally| tally.tally).collect::<Vec<_>>(), tallies);
        let cold = view.cold().unwrap();
        let payers: Vec<_> = cold.iter().map(|row| [row.campaign, row.advertiser]).collect();
        assert_eq!(view.payers().unwrap(), payers);
        prop_assert_eq!(cold.len(), events.len());
        for ((row, cold), ((event, names, proof), entry)) in view.rows().zip(cold).zip(&events) {
            prop_assert_eq!(usize::from(row.entry), *entry);
            prop_assert_eq!(view.blocks[usize::from(row.block)], (event.issuer, event.id.block));
            prop_assert_eq!((row.seq, row.kind(), row.codes()), (event.id.seq, event.kind, event.codes));
            let minute = view.minutes[usize::from(row.minute)];
            prop_assert_eq!(minute, event.at.minute());
            let numbers = [row.ad, cold.campaign, cold.advertiser, row.publisher, row.placement];
            prop_assert_eq!(numbers.map(|number| view.name(number)), names.each_ref().map(|text| name(text)));
            prop_assert_eq!(view.ids[usize::from(row.ad)], event.ad.any());
            prop_assert_eq!((row.issued(minute), row.region), (event.issued, event.region));
            prop_assert_eq!(view.prices[usize::from(row.price)], event.price);
            prop_assert_eq!(row.outcome, event.outcome);
            if minute < Minute(u32::MAX) {
                prop_assert_eq!(minute.start().plus_ms(u64::from(row.ms)), event.at);
            }
            prop_assert_eq!((row.visitor, row.network, cold.flags), (event.visitor, event.network, event.flags));
            prop_assert_eq!(cold.proof, proof);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_a_panic(tail: Vec<u8>, form in 0..8) {
        let magic: &[u8] = [&b""[..], b"CSB1", b"CSB2", b"CSB3", b"CSM1", b"CSM2", b"CSM3", b"CSM4"][form as usize];
        let bytes = [magic, &tail].concat();
        let _ = Batch::read(&bytes);
        if let Ok(view) = MessageView::read(&bytes) {
            let _ = (view.rows().count(), view.cold());
        }
    }

    #[test]
    fn altered_bytes_are_read_or_refused_without_a_panic(
        changes in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let token = [1, 2, 3];
        let alter = |mut bytes: Vec<u8>| {
            let length = bytes.len();
            changes.iter().for_each(|(at, with)| bytes[at.index(length)] = *with);
            bytes
        };
        let bytes = alter(full_batch(&token).to_bytes());
        if let Ok(batch) = Batch::read(&bytes) {
            prop_assert_eq!(batch.to_bytes(), bytes);
        }
        let bytes = alter(full_message());
        if let Ok(view) = MessageView::read(&bytes) {
            prop_assert_eq!(view.rows().count(), 3);
            let _ = view.cold();
        }
    }
}

#[test]
fn every_truncation_is_an_error() {
    let token = [7; 40];
    let batch = full_batch(&token).to_bytes();
    for length in 0..batch.len() {
        assert!(Batch::read(&batch[..length]).is_err(), "batch of {length} bytes");
    }
    let message = full_message();
    for length in 0..message.len() {
        assert!(MessageView::read(&message[..length]).is_err(), "message of {length} bytes");
    }
}

/// A message takes one more batch of the largest size while it is not due: the tables hold.
#[test]
fn a_message_that_is_not_due_has_room_for_the_largest_batch() {
    let mut builder = MessageBuilder::default();
    let entry = builder.batch(batch_entry(0));
    let mut n = 0_u64;
    // Each event brings five ids, a block, a minute and a price of its own.
    let mut add = |builder: &mut MessageBuilder| {
        let name = |what: char| AnyId::literal(&format!("{what}{n}"));
        let mut block = [0; 10];
        block[..8].copy_from_slice(&n.to_be_bytes());
        let event = Judged {
            id: ImpressionId { block: BlockId(block), seq: 0 },
            ad: name('a').cast(),
            campaign: name('b').cast(),
            advertiser: name('c').cast(),
            publisher: name('d').cast(),
            placement: name('e').cast(),
            at: Timestamp(n * 60_000),
            price: Money { micros: 1 + n as i64, currency: "EUR".parse().unwrap() },
            ..judged()
        };
        n += 1;
        builder.event(entry, &event);
    };
    while !builder.is_due() {
        add(&mut builder);
    }
    for _ in 0..CHUNK_EVENTS_MAX {
        add(&mut builder);
    }
    let bytes = builder.finish(0, NOW);
    assert!(MessageView::read(&bytes).unwrap().cold().is_ok());
}

/// The rows that cost least fill the tables last.
#[test]
fn a_message_is_due_before_its_tables_are_full() {
    let mut bare = MessageBuilder::default();
    let entry = bare.batch(batch_entry(0));
    let mut rows = 0;
    while !bare.is_due() {
        bare.event(entry, &rejected(&[]));
        rows += 1;
    }
    assert!(rows <= FLUSH_BYTES / 55, "{rows}");

    let mut entries = MessageBuilder::default();
    while !entries.is_due() {
        entries.batch(batch_entry(0));
    }
    let bytes = entries.finish(0, NOW);
    assert!(MessageView::read(&bytes).unwrap().entries() < MESSAGE_ENTRIES_MAX);

    let mut tallies = MessageBuilder::default();
    let entry = tallies.batch(batch_entry(0));
    assert_eq!(entry, Entry::Batch(0));
    while !tallies.is_due() {
        tallies.tally(entry, tally(Minute(1), Reason::BadSeal, 1));
    }
    (0..shared::limits::BATCH_TALLIES_MAX)
        .for_each(|_| tallies.tally(entry, tally(Minute(1), Reason::BadSeal, 1)));
    assert!(MessageView::read(&tallies.finish(0, NOW)).is_ok());
}

/// A message of batches that declare many minutes stays near the size that it is due by.
#[test]
fn declared_minutes_count_for_the_size() {
    let mut builder = MessageBuilder::default();
    let declared: Vec<_> = (0..8_192).map(|minute| (Minute(minute), 1)).collect();
    while !builder.is_due() {
        builder.batch(shared::wire::BatchEntry { declared: declared.clone(), ..batch_entry(0) });
    }
    assert!(builder.finish(0, NOW).len() < 2 * FLUSH_BYTES);
}

#[test]
fn chunks_are_checked() {
    let event = |row, kind| ImportEvent {
        row,
        kind,
        at: NOW,
        ad: "a".parse().unwrap(),
        publisher: None,
        placement: None,
        country: Country::UNKNOWN,
        device: None,
        ip: None,
        user: None,
    };
    let chunk = |first_row, end_row, events| ImportChunk {
        source: SourceId([1; 16]),
        first_row,
        end_row,
        digest: [0; 32],
        events,
    };
    let (click, view) = (Kind::Click, Kind::Impression);
    let good = [
        chunk(0, 0, vec![]),
        chunk(5, 65_541, vec![event(5, view), event(5, click), event(65_540, click)]),
    ];
    for chunk in good {
        assert_eq!(chunk.check(), Ok(()));
        let text = serde_json::to_string(&chunk).unwrap();
        assert_eq!(serde_json::from_str::<ImportChunk>(&text).unwrap(), chunk);
    }
    for (chunk, why) in [
        (chunk(1, 0, vec![]), "in order"),
        (chunk(0, 65_537, vec![]), "at most 65536"),
        (chunk(5, 9, vec![event(4, click)]), "row 4 lies outside"),
        (chunk(5, 9, vec![event(9, click)]), "row 9 lies outside"),
        (chunk(5, 9, vec![event(6, click), event(6, click)]), "row 6"),
        (chunk(5, 9, vec![event(6, click), event(6, view)]), "row 6"),
        (chunk(5, 9, vec![event(7, click), event(6, click)]), "row 6"),
        (chunk(0, 9, vec![event(6, click); CHUNK_EVENTS_MAX + 1]), "at most 4096"),
    ] {
        let error = chunk.check().unwrap_err();
        assert!(error.contains(why), "{error}");
    }
}
