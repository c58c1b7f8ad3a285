//! On a real nats-server.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::*;
use crate::contract::{self, Subject};
use crate::log::Reader as _;
use crate::nats::JetStreamConfig;
use crate::nats::tests::Server;
use async_nats::jetstream;
use bytes::Bytes;

impl Server {
    async fn log(&self, prefix: &str, identity: u8) -> JetStreamLog {
        JetStreamLog::open(&self.config(prefix), Some([identity; 16])).await.unwrap().0
    }
}

fn message(payload: impl Into<Bytes>) -> Vec<Message> {
    vec![Message { partition: 0, payload: payload.into() }]
}

struct Nats {
    server: Server,
    logs: u8,
}

impl Subject for Nats {
    type Log = JetStreamLog;

    async fn fresh(&mut self) -> JetStreamLog {
        self.logs += 1;
        self.server.log(&format!("L{}-", self.logs), self.logs).await
    }

    async fn reopen(&mut self, log: JetStreamLog) -> JetStreamLog {
        // The identity that is passed differs: the log must keep the one that it has.
        self.server.log(&log.inner.prefix, 0xee).await
    }
}

#[tokio::test]
async fn jetstream_keeps_the_contract() {
    contract::check(&mut Nats { server: Server::start(), logs: 0 }).await;
}

#[tokio::test]
async fn a_killed_server_loses_nothing_and_readers_go_on() {
    let mut server = Server::start();
    let log = server.log("", 1).await;
    let mut reader = log.reader(0, None).await.unwrap();
    let mut sent = 0_u32;
    for round in 0..3 {
        for _ in 0..20 {
            log.append(message(sent.to_le_bytes().to_vec())).await.unwrap();
            sent += 1;
        }
        if round == 1 {
            // Half of them read, half of them on their way.
            for _ in 0..10 {
                reader.next().await.unwrap();
            }
        }
        server.nats.kill();
        server.nats.start_again();
        // Appends fail until the client has found the server again; these errors are passed on.
        while let Err(error) = log.append(message(sent.to_le_bytes().to_vec())).await {
            assert!(error.is_retryable(), "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        sent += 1;
    }
    let mut last = 10;
    let mut distinct = 10;
    while distinct < sent {
        match reader.next().await {
            Ok(delivered) => {
                assert_eq!(delivered.position.sequence, last + 1);
                last += 1;
                let number = u32::from_le_bytes(delivered.payload[..].try_into().unwrap());
                // An append whose acknowledgement was lost may be there twice.
                assert!(number == distinct || number + 1 == distinct, "{number} of {distinct}");
                distinct = distinct.max(number + 1);
            }
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_another_one_is_never_read_on() {
    let server = Server::start();
    let log = server.log("", 1).await;
    log.append(message("a")).await.unwrap();
    let after = log.append(message("b")).await.unwrap()[0];
    let mut reader = log.reader(0, Some(after)).await.unwrap();
    log.inner.context.delete_stream("EVENTS-0").await.unwrap();
    let vanished = |error: LogError| {
        matches!(&error, LogError::Mismatch { part: PositionPart::Identity, found, .. }
            if found.contains("no stream"))
    };
    assert!(vanished(log.reader(0, Some(after)).await.unwrap_err()));
    // A reader that was open finds out sooner or later, and says so from then on.
    let error = loop {
        match reader.next().await {
            Err(error) if error.is_retryable() => {}
            Err(error) => break error,
            Ok(delivered) => panic!("{delivered:?}"),
        }
    };
    assert!(vanished(error));
    assert!(vanished(reader.next().await.unwrap_err()));
    let opened = JetStreamLog::open(&server.config(""), Some([2; 16])).await.unwrap().0;
    assert!(vanished(opened.end(0).await.unwrap_err()), "it is not made again in silence");

    // Made again by somebody, with other messages under the same numbers.
    let stranger = jetstream::stream::Config {
        name: "EVENTS-0".to_owned(),
        subjects: vec!["countersign.events.0".to_owned()],
        ..Default::default()
    };
    log.inner.context.create_stream(stranger.clone()).await.unwrap();
    let error = log.reader(0, None).await.unwrap_err();
    assert!(error.to_string().contains("Countersign did not make"), "{error}");
    // Or one of another log of ours.
    log.inner.context.delete_stream("EVENTS-0").await.unwrap();
    let metadata = [("countersign.identity".to_owned(), hex(&[2; 16]))].into();
    let other = jetstream::stream::Config { metadata, ..stranger };
    log.inner.context.create_stream(other).await.unwrap();
    let error = log.reader(0, None).await.unwrap_err();
    let other = hex(&[2; 16]);
    assert!(matches!(&error, LogError::Mismatch { found, .. } if *found == other), "{error}");
}

#[tokio::test]
async fn a_gap_and_a_full_stream_are_told() {
    let server = Server::start();
    let config = JetStreamConfig { stream_bytes_max: Some(64 << 10), ..server.config("SMALL-") };
    let (log, new) = JetStreamLog::open(&config, Some([1; 16])).await.unwrap();
    assert!(new);
    let mut sent = 0_u64;
    let error = loop {
        match log.append(message(vec![7; 4_000])).await {
            Ok(_) => sent += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::NoSpace), "{error}");
    assert!((8..20).contains(&sent), "{sent}");
    assert!(log.trim(&[(0, sent - 2)]).await.unwrap() > 0);
    log.append(message("there is room again")).await.unwrap();
    let error = log.reader(0, None).await.unwrap_err();
    assert!(matches!(error, LogError::Trimmed { sequence: 1, .. }), "{error}");
    let large = log.append(message(vec![0; 1 << 20])).await.unwrap_err();
    assert!(matches!(large, LogError::TooLarge { .. }), "{large}");
}

/// A late answer makes the caller append again; letters have no numbers by which a second one is recognised.
#[tokio::test]
async fn a_letter_that_is_sent_again_is_there_once() {
    let server = Server::start();
    let log = server.log("", 1).await;
    let letter = |text: &'static str| {
        vec![Message { partition: DEAD, payload: Bytes::from_static(text.as_bytes()) }]
    };
    let first = log.append(letter("one")).await.unwrap();
    assert_eq!(log.append(letter("one")).await.unwrap(), first);
    let second = log.append(letter("two")).await.unwrap();
    assert_eq!(second[0].sequence, first[0].sequence + 1);
    assert_eq!(log.end(DEAD).await.unwrap().unwrap().sequence, second[0].sequence);
}

#[tokio::test]
async fn what_cannot_be_opened_says_what_to_do() {
    let server = Server::start();
    server.log("", 1).await;
    let open = async |config: JetStreamConfig| {
        JetStreamLog::open(&config, Some([9; 16])).await.unwrap_err().to_string()
    };
    let config = || server.config("");
    let other = open(JetStreamConfig { partitions: 4, ..config() }).await;
    assert!(other.contains("3 partitions, not 4"), "{other}");
    let large = open(JetStreamConfig { message_bytes_max: 2 << 20, ..config() }).await;
    assert!(large.contains("max_payload"), "{large}");
    let nobody = open(JetStreamConfig::new("nats://127.0.0.1:9", 3)).await;
    assert!(nobody.contains("no NATS server answers"), "{nobody}");
    let nowhere = open(JetStreamConfig::new("not an address", 3)).await;
    assert!(nowhere.contains("nats://HOST:4222"), "{nowhere}");
}

#[tokio::test]
async fn a_reader_that_a_trim_has_overtaken_says_so_and_does_not_jump() {
    let server = Server::start();
    let log = server.log("", 1).await;
    // More than the portions that are on their way to a reader; in parts, each of which a busy
    // machine acknowledges in time.
    let message =
        |n: u32| Message { partition: 0, payload: Bytes::copy_from_slice(&n.to_le_bytes()) };
    for part in 0..30 {
        let part = part * 100..(part + 1) * 100;
        log.append(part.map(message).collect()).await.unwrap();
    }
    let mut reader = log.reader(0, None).await.unwrap();
    let mut last = reader.next().await.unwrap().position.sequence;
    log.trim(&[(0, 2_900)]).await.unwrap();
    let error = loop {
        match reader.next().await {
            Ok(delivered) => {
                assert_eq!(delivered.position.sequence, last + 1, "a jump");
                last += 1;
            }
            Err(error) if error.is_retryable() => {}
            Err(error) => break error,
        }
    };
    let told =
        matches!(error, LogError::Trimmed { sequence, first: 2_900, .. } if sequence == last + 1);
    assert!(told, "{error} after {last}");
    assert!(matches!(reader.next().await, Err(LogError::Trimmed { .. })));
}

#[tokio::test]
async fn where_nothing_may_be_made_what_is_missing_is_told() {
    let server = Server::start();
    let config = server.config("");
    let log = JetStreamLog::open(&config, None).await.unwrap_err().to_string();
    assert!(log.contains("the stream DEAD is not there"), "{log}");
    drop(server.log("", 1).await);
    assert!(!JetStreamLog::open(&config, None).await.unwrap().1);
}
