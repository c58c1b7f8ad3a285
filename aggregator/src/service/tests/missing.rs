//! What never came: the account says so, and of which minutes.

use shared::keys::KeyStore;
use shared::random::Seeded;
use shared::wire::{BatchEntry, Control, MessageBuilder, Tally, Word};
use shared::{BatchDigest, Id, OutboxId, PartitionMap, Partitions};

use super::*;

const OUTBOX: OutboxId = OutboxId { edge: Id::literal("edge-a"), epoch: 7 };

fn at(minutes: u32) -> Minute {
    Minute(START.0 + minutes)
}

/// A batch with five tallied clicks of a minute, whose watermark is the minute's end, as every
/// partition hears of it.
fn batch(number: u64, minutes: u32) -> Vec<Message> {
    let map = PartitionMap::new(Partitions::new(PARTITIONS).unwrap());
    let (minute, stamp) = (at(minutes), at(minutes + 1).start());
    let tally = Tally { minute, kind: Kind::Click, reason: Reason::OutboxFull, count: 5 };
    let declared = vec![(minute, 5)];
    let entry = BatchEntry {
        outbox: OUTBOX,
        number,
        watermark: stamp,
        digest: BatchDigest::UNKNOWN,
        declared,
    };
    let message = |partition| {
        let mut builder = MessageBuilder::default();
        let entry = builder.batch(entry.clone());
        if partition == map.of_tallies(OUTBOX) {
            builder.tally(entry, tally);
        }
        Message { partition, payload: builder.finish(partition, stamp).into() }
    };
    (0..PARTITIONS).map(message).collect()
}

fn word(word: Word, minutes: u32) -> Vec<Message> {
    let stamp = at(minutes).start();
    let control = |partition| Control { partition, stamp, word }.to_bytes().into();
    (0..PARTITIONS).map(|partition| Message { partition, payload: control(partition) }).collect()
}

/// Asks for the account of a range, and says why it does not add up, what was given up and what is
/// in flight.
async fn doubts(
    aggregator: &Aggregator<MemLog, MemStores>,
    from: u32,
    to: u32,
) -> (Value, u64, i64) {
    let answer = good(aggregator, &format!("/v1/accounting?{}", range(at(from), at(to)))).await;
    let because = answer.get("because").cloned().unwrap_or_else(|| json!([]));
    assert_eq!(answer["adds_up"], because == json!([]), "{answer}");
    let given_up = answer.get("given_up").map_or(0, |n| n.as_u64().unwrap());
    (because, given_up, answer["in_flight"].as_i64().unwrap())
}

#[tokio::test]
async fn a_gap_and_what_was_given_up_do_not_add_up_where_they_may_have_had_events() {
    let (log, stores) = (mem_log(), MemStores::new());
    // The batch between them had events of the minutes 1 to 3.
    log.append(batch(0, 0)).await.unwrap();
    log.append(batch(2, 3)).await.unwrap();
    let running = start(&log, stores.clone());
    caught_up(&running).await;
    let none = (json!([]), 0, 0);
    let gaps = (json!(["gaps"]), 0, 0);
    for (from, to, wanted) in [
        (0, 1, &none),
        (0, 2, &gaps),
        (1, 2, &gaps),
        (3, 4, &gaps),
        (5, 9, &none),
        (0, 9, &gaps),
        (0, 20_000, &gaps),
    ] {
        assert_eq!(doubts(&running, from, to).await, *wanted, "minutes {from} to {to}");
    }
    // It comes after all.
    let late = batch(1, 2);
    log.append(late.clone()).await.unwrap();
    caught_up(&running).await;
    assert_eq!(doubts(&running, 0, 9).await, none);

    // The next one does not, and an operator waits for it no more.
    log.append(batch(4, 5)).await.unwrap();
    caught_up(&running).await;
    assert_eq!(doubts(&running, 0, 9).await, gaps);
    log.append(word(Word::Resolve { outbox: OUTBOX, number: 3 }, 7)).await.unwrap();
    caught_up(&running).await;
    let given_up = (json!(["given_up"]), 1, 0);
    let answer = good(&running, &format!("/v1/accounting?{}", range(at(0), at(9)))).await;
    assert!(answer.get("gaps").is_none(), "{answer}");
    let check = async |running: &Aggregator<MemLog, MemStores>| {
        for (from, to, wanted) in [
            (0, 4, &none),
            (4, 5, &given_up),
            (5, 9, &none),
            (0, 9, &given_up),
            (0, 20_000, &given_up),
        ] {
            assert_eq!(doubts(running, from, to).await, *wanted, "minutes {from} to {to}");
        }
    };
    check(&running).await;
    // Said again, or when it comes after all, it is the same loss.
    log.append(word(Word::Resolve { outbox: OUTBOX, number: 3 }, 8)).await.unwrap();
    log.append(batch(3, 5)).await.unwrap();
    // And it is not forgotten: not by a stop, nor when its minutes have left memory.
    caught_up(&running).await;
    check(&running).await;
    running.close().await;
    let running = start(&log, stores);
    caught_up(&running).await;
    check(&running).await;
    log.append(batch(5, 200)).await.unwrap();
    caught_up(&running).await;
    check(&running).await;
}

#[tokio::test]
async fn a_batch_that_some_partitions_have_not_heard_of_is_in_flight() {
    let (log, stores) = (mem_log(), MemStores::new());
    log.append(batch(0, 0)).await.unwrap();
    let mut parts = batch(1, 1);
    let map = PartitionMap::new(Partitions::new(PARTITIONS).unwrap());
    let missed = parts.remove(map.of_tallies(OUTBOX).into());
    log.append(parts).await.unwrap();
    let running = start(&log, stores);
    caught_up(&running).await;
    assert_eq!(doubts(&running, 0, 1).await, (json!([]), 0, 0));
    assert_eq!(doubts(&running, 0, 9).await, (json!(["partitions_differ"]), 0, 5));
    log.append(vec![missed]).await.unwrap();
    caught_up(&running).await;
    assert_eq!(doubts(&running, 0, 9).await, (json!([]), 0, 0));
}

#[tokio::test]
async fn edges_are_listed_with_whose_they_are_and_silent_ones_too() {
    let mut random = Seeded::new(1);
    let mut keys = KeyStore::generate(&mut random);
    use shared::name::literal as id;
    for (issuer, edges) in [("house", ["edge-a", "w"]), ("other", ["silent", "gone"])] {
        keys.create(id(issuer), Vec::new(), Timestamp(1), &mut random).unwrap();
        for edge in edges {
            keys.register_edge(id(edge), id(issuer), Timestamp(1)).unwrap();
        }
    }
    let log = mem_log();
    log.append(batch(0, 0)).await.unwrap();
    log.append(word(Word::Retire { edge: id("gone") }, 2)).await.unwrap();
    log.append(word(Word::Retire { edge: id("w--FRA-0") }, 2)).await.unwrap();
    log.append(word(Word::Retire { edge: id("never-registered") }, 2)).await.unwrap();
    let edges = keys.edges.clone();
    let running = Aggregator::start(Parts {
        log: Arc::clone(&log),
        stores: MemStores::new(),
        clock: Arc::new(Fixed(START.start())),
        settings: settings(),
        archived: None,
        registered: Box::new(move || edges.clone()),
        registry: &mut Registry::default(),
    });
    caught_up(&running).await;
    let answer = good(&running, "/v1/edges").await;
    let found = answer["edges"].as_array().unwrap().iter().map(|edge| {
        let text = |name: &str| edge.get(name).map_or("", |text| text.as_str().unwrap());
        let outboxes = edge["outboxes"].as_array().unwrap().len();
        (text("edge"), text("issuer"), !text("retired_at").is_empty(), outboxes)
    });
    let wanted = [
        ("edge-a", "house", false, 1),
        ("gone", "other", true, 0),
        ("never-registered", "", true, 0),
        ("silent", "other", false, 0),
        ("w--FRA-0", "house", true, 0),
    ];
    assert_eq!(found.collect::<Vec<_>>(), wanted);
}
