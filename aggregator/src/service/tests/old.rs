//! What earlier builds have written goes the whole way: log, service, store, question.

use std::path::PathBuf;

use super::*;

/// Bytes from hex, as the golden files have them.
fn bytes(text: &str) -> Vec<u8> {
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn read_json(path: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Tests read `CSM1` by another way than a partition, which stopped at it.
#[tokio::test]
async fn messages_of_every_version_go_through_the_service() {
    let old = |version| {
        let path = format!("shared/vectors/version-{version}.json");
        read_json(&path)["message"]["hex"].as_str().unwrap().to_owned()
    };
    // The newest golden message comes in named parts.
    let newest = read_json("shared/vectors/messages.json")["messages"][0]["parts"].clone();
    let newest = newest.as_array().unwrap().iter().map(|part| part[1].as_str().unwrap()).collect();
    for (magic, message) in
        [(b"CSM1", old(1)), (b"CSM2", old(2)), (b"CSM3", old(3)), (b"CSM4", newest)]
    {
        let payload = bytes(&message);
        assert!(payload.starts_with(magic));
        let log = mem_log();
        // The golden message is of partition 3; nothing is of the others.
        log.append(vec![Message { partition: 3, payload: payload.into() }]).await.unwrap();
        let running = start(&log, MemStores::new());
        caught_up(&running).await;
        let statuses = running.statuses();
        assert!(statuses.iter().all(|status| *status == Status::Ready), "{statuses:?}");
        // Its tallies are of the year 1970, and its first block was opened in 2020.
        let body = good(&running, "/v1/accounting?from=1769199960&to=1769900040").await;
        assert_eq!(body["reasons"]["bad_seal"], 1, "{body}");
        assert_eq!(body["reasons"]["too_late"], 3, "{body}");
        running.close().await;
    }
}

const SAVED: &str = "src/service/tests/saved-1.txt";

/// A log and stores in the forms `CSM2` and rows of version 1, as the build wrote them with which
/// this test came (not an earlier one; `countersign/tests/it/old.rs` has what a whole binary
/// wrote): each line is `log` or `row`, the partition, and what there is in hex. With
/// `COUNTERSIGN_WRITE_VECTORS=1` it is written anew, which only a new version of the rows is a
/// reason for; then under another name.
#[tokio::test]
async fn a_store_of_an_earlier_build_is_gone_on_from() {
    // What ads could be called then.
    let ads = ["ad-1", "ad-2", "a", "b", "Zz_9", "ad-10"];
    let (mut world, flushes) = history_of(World::called(4, ads, ["p1", "p2"]), 6);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(SAVED);
    if std::env::var("COUNTERSIGN_WRITE_VECTORS").is_ok_and(|on| on == "1") {
        write_saved(&path, &flushes).await;
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let (log, stores) = (mem_log(), MemStores::new());
    let mut messages = Vec::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let partition = words[1].parse().unwrap();
        match words[..] {
            ["log", _, payload] => {
                messages.push(Message { partition, payload: bytes(payload).into() });
            }
            ["row", _, key, value] => stores.damage(partition, &bytes(key), &bytes(value)),
            _ => panic!("{line}"),
        }
    }
    log.append(messages).await.unwrap();
    // What this build counts goes on top.
    let more = world.flush();
    log.append(more).await.unwrap();
    let running = start(&log, stores.clone());
    caught_up(&running).await;
    check(&running, &world).await;
    running.close().await;
    // And this build goes on from what it has written on top of it.
    let running = start(&log, stores);
    caught_up(&running).await;
    check(&running, &world).await;
    running.close().await;
}

async fn write_saved(path: &std::path::Path, flushes: &[Vec<Message>]) {
    use std::fmt::Write as _;
    let (log, stores) = (mem_log(), MemStores::new());
    let mut text = String::new();
    for messages in flushes {
        for message in messages {
            let payload = shared::text::hex(&message.payload);
            writeln!(text, "log {} {payload}", message.partition).unwrap();
        }
    }
    // All but the last are saved: the rest is in the log alone.
    for messages in flushes[..flushes.len() - 1].iter().cloned() {
        log.append(messages).await.unwrap();
    }
    let running = start(&log, stores.clone());
    caught_up(&running).await;
    running.close().await;
    for partition in 0..PARTITIONS {
        for (key, value) in stores.rows(partition) {
            let [key, value] = [key, value].map(|bytes| shared::text::hex(&bytes));
            writeln!(text, "row {partition} {key} {value}").unwrap();
        }
    }
    std::fs::write(path, text).unwrap();
}
