//! On a real nats-server.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::server::NatsServer;
use super::*;
use crate::contract::{self, Subject};
use crate::log::Reader as _;

/// A server, and its directory.
struct Server {
    nats: NatsServer,
    _dir: TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { nats: NatsServer::start(dir.path()), _dir: dir }
    }

    fn config(&self, prefix: &str) -> JetStreamConfig {
        let prefix = prefix.to_owned();
        JetStreamConfig { prefix, ..JetStreamConfig::new(self.nats.url(), 3) }
    }

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
        // Another identity: the one that exists must win.
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
        // Appends fail until the client has found the server again; that is told, not hidden.
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
        matches!(&error, LogError::Mismatch { of: MismatchOf::Identity, found, .. }
            if found.contains("no stream"))
    };
    assert!(vanished(log.reader(0, Some(after)).await.unwrap_err()));
    // The reader that was there hears of it sooner or later, and then always.
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

async fn take(taker: &mut Taker) -> Taken {
    loop {
        match taker.next().await {
            Ok(taken) => return taken,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

#[tokio::test]
async fn collectors_share_a_queue_and_what_is_not_done_comes_again() {
    let mut server = Server::start();
    let queue = EdgeQueue::open(&server.config(""), true).await.unwrap();
    for number in 0..40_u8 {
        queue.put(&format!("edge-{}", number % 2), vec![number].into()).await.unwrap();
    }
    // The first to take takes a portion and dies with it; the server dies too.
    let mut dies = queue.taker();
    let first = take(&mut dies).await;
    assert_eq!((first.edge.as_str(), &first.batch[..]), ("edge-0", &[0][..]));
    first.again(Duration::ZERO).await.unwrap();
    let second = take(&mut dies).await;
    second.done().await.unwrap();
    drop(dies);
    server.nats.kill();
    server.nats.start_again();
    let queue = EdgeQueue::open(&server.config(""), true).await.unwrap();
    assert_eq!(queue.depth().await.unwrap(), 39);
    let mut takers = [queue.taker(), queue.taker()];
    let mut seen = std::collections::BTreeSet::from([second.batch[0]]);
    while seen.len() < 40 {
        for taker in &mut takers {
            // What the dead one had been given comes when its time is over.
            let Ok(taken) = tokio::time::timeout(Duration::from_secs(5), take(taker)).await else {
                continue;
            };
            let number = taken.batch[0];
            assert_eq!(taken.edge, format!("edge-{}", number % 2));
            if taken.done().await.is_ok() {
                seen.insert(number);
            }
        }
    }
    assert_eq!(queue.depth().await.unwrap(), 0, "what is done is deleted");
}

#[tokio::test]
async fn a_batch_that_is_worked_on_for_long_is_given_to_nobody_else() {
    let server = Server::start();
    let queue = EdgeQueue::open(&server.config(""), true).await.unwrap();
    queue.put("edge", vec![7].into()).await.unwrap();
    let taken = take(&mut queue.taker()).await;
    let long = tokio::time::sleep(Duration::from_secs(34));
    let mut other = queue.taker();
    tokio::select! {
        () = taken.while_it_lasts(long) => {}
        again = take(&mut other) => panic!("{:?} came again", again.batch),
    }
    taken.done().await.unwrap();
    assert_eq!(queue.depth().await.unwrap(), 0);
}

/// What is given back to the queue keeps its place there; so one edge has some places, and not all.
#[tokio::test]
async fn an_edge_fills_its_own_part_of_the_queue_and_no_other_s() {
    let server = Server::start();
    // As an earlier build has made it.
    let old = jetstream::stream::Config {
        name: "EDGE".to_owned(),
        subjects: vec!["countersign.edge.*".to_owned()],
        retention: jetstream::stream::RetentionPolicy::WorkQueue,
        discard: jetstream::stream::DiscardPolicy::New,
        ..Default::default()
    };
    server.log("", 1).await.inner.context.create_stream(old).await.unwrap();
    EdgeQueue::open(&server.config(""), false).await.unwrap();
    let queue = EdgeQueue::open(&server.config(""), true).await.unwrap();
    let all = (0..1_100_u32).map(|number| {
        let queue = queue.clone();
        async move { queue.put("hostile", number.to_le_bytes().to_vec().into()).await }
    });
    let put = futures::future::join_all(all).await;
    let refused: Vec<_> = put.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 1_100 - 1_024);
    assert!(refused.iter().all(|why| why.is_retryable()), "{:?}", refused[0]);
    assert!(refused[0].to_string().contains("of this edge are in the queue"), "{}", refused[0]);
    queue.put("honest", vec![7].into()).await.unwrap();
    honest_one_comes(&queue).await;
    let more = queue.put("hostile", vec![8].into()).await;
    assert!(more.is_err(), "what was given back is still there");
}

/// Though all others are given back for an hour.
async fn honest_one_comes(queue: &EdgeQueue) {
    let mut taker = queue.taker();
    loop {
        let taken = take(&mut taker).await;
        if taken.edge == "honest" {
            break taken.done().await.unwrap();
        }
        taken.again(Duration::from_secs(3_600)).await.unwrap();
    }
}

/// Sixteen edges fill what the consumer of an earlier build gave out at once.
#[tokio::test]
async fn many_edges_fill_their_own_parts_of_the_queue_and_no_other_s() {
    let server = Server::start();
    let queue = EdgeQueue::open(&server.config(""), true).await.unwrap();
    let old = jetstream::consumer::pull::Config {
        durable_name: Some("collectors".to_owned()),
        ack_policy: jetstream::consumer::AckPolicy::Explicit,
        ack_wait: Duration::from_secs(30),
        max_ack_pending: 64,
        ..Default::default()
    };
    let context = server.log("", 1).await.inner.context.clone();
    context.create_consumer_on_stream(old, "EDGE").await.unwrap();
    for edge in 0..16 {
        for number in 0..4_u8 {
            queue.put(&format!("hostile-{edge}"), vec![number].into()).await.unwrap();
        }
    }
    queue.put("honest", vec![7].into()).await.unwrap();
    honest_one_comes(&queue).await;
}

/// Publishes to a subject with headers as no client would write them.
async fn publish_raw(server: &Server, subject: &str, headers: &[u8], payload: &[u8]) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let url = server.nats.url();
    let mut stream = tokio::net::TcpStream::connect(&url["nats://".len()..]).await.unwrap();
    let (head, all) = (headers.len(), headers.len() + payload.len());
    let mut said = b"CONNECT {\"verbose\":false,\"headers\":true}\r\n".to_vec();
    said.extend(format!("HPUB {subject} {head} {all}\r\n").bytes());
    said.extend([headers, payload, b"\r\nPING\r\n"].concat());
    stream.write_all(&said).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"PONG\r\n") {
        let read = stream.read_buf(&mut heard).await.unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&heard));
    }
}

#[tokio::test]
async fn headers_that_are_none_are_left_out_and_hold_nobody_up() {
    let server = Server::start();
    let queue = EdgeQueue::open(&server.config(""), true).await.unwrap();
    let poison: [&[u8]; 7] = [
        b"NATS/1.0\r\nfoo\r\n\r\n",
        b"NATS/1.0\r\n\xff: x\r\n\r\n",
        // A client that reads headers ends its connection over these, or its task.
        b"NATS/1.0\r\nx: a\rb\r\n\r\n",
        b"NATS/1.0\r\n: x\r\n\r\n",
        b"NATS/1.0\r\nx y: x\r\n\r\n",
        b"garbage",
        // As the server says itself that a portion is at its end.
        b"NATS/1.0 409 Server Shutdown\r\n\r\n",
    ];
    let subject = "countersign.edge.hostile";
    let mut wanted = BTreeSet::new();
    for number in 0..300_u16 {
        let batch = number.to_be_bytes();
        let (edge, headers) = ("honest", poison[usize::from(number) % poison.len()]);
        if number % 3 == 0 {
            queue.put(edge, Bytes::copy_from_slice(&batch)).await.unwrap();
            wanted.insert((edge.to_owned(), batch.to_vec()));
        } else {
            publish_raw(&server, subject, headers, &batch).await;
            wanted.insert(("hostile".to_owned(), batch.to_vec()));
        }
    }
    // What has no payload is a batch like any other, and no word of the server's.
    publish_raw(&server, subject, poison[0], b"").await;
    wanted.insert(("hostile".to_owned(), Vec::new()));
    let (mut taker, mut found) = (queue.taker(), BTreeSet::new());
    for _ in 0..wanted.len() {
        let taken = take(&mut taker).await;
        taken.done().await.unwrap();
        assert!(found.insert((taken.edge, taken.batch.to_vec())), "each comes once");
    }
    assert_eq!(found, wanted);
    assert_eq!(queue.depth().await.unwrap(), 0);
    // Nothing was lost over it, and what comes later comes at once.
    let next = tokio::spawn(async move { take(&mut taker).await.batch });
    tokio::time::sleep(Duration::from_millis(50)).await;
    queue.put("honest", vec![7].into()).await.unwrap();
    assert_eq!(tokio::time::timeout(Duration::from_secs(2), next).await.unwrap().unwrap(), [7][..]);
}

#[tokio::test]
async fn a_full_queue_and_a_foreign_stream_are_told() {
    let server = Server::start();
    let config = JetStreamConfig { stream_bytes_max: Some(16 << 10), ..server.config("") };
    let queue = EdgeQueue::open(&config, true).await.unwrap();
    let error = loop {
        if let Err(error) = queue.put("edge", vec![7; 4_000].into()).await {
            break error;
        }
    };
    assert!(matches!(error, LogError::NoSpace), "{error}");
    take(&mut queue.taker()).await.done().await.unwrap();
    queue.put("edge", vec![7; 1_000].into()).await.unwrap();
    let large = queue.put("edge", vec![0; 2 << 20].into()).await.unwrap_err();
    assert!(matches!(large, LogError::TooLarge { .. }), "{large}");
    let stranger = jetstream::stream::Config { name: "X-EDGE".to_owned(), ..Default::default() };
    server.log("", 1).await.inner.context.create_stream(stranger).await.unwrap();
    let error = EdgeQueue::open(&server.config("X-"), true).await.unwrap_err().to_string();
    assert!(error.contains("no work queue"), "{error}");
}

#[tokio::test]
async fn a_reader_that_a_trim_has_overtaken_says_so_and_does_not_jump() {
    let server = Server::start();
    let log = server.log("", 1).await;
    // More than the portions that are on their way to a reader.
    let many = (0..3_000_u32)
        .map(|n| Message { partition: 0, payload: Bytes::copy_from_slice(&n.to_le_bytes()) });
    log.append(many.collect()).await.unwrap();
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
async fn documents_change_by_revision_and_the_slower_of_two_is_told() {
    let mut server = Server::start();
    let config = server.config("");
    let error = Documents::open(&config, false).await.unwrap_err().to_string();
    assert!(error.contains("countersign init"), "{error}");
    let documents = Documents::open(&config, true).await.unwrap();
    assert_eq!(documents.get("keys").await.unwrap(), None);
    let first = documents.put("keys", Bytes::from_static(b"a"), 0).await.unwrap().unwrap();
    assert_eq!(documents.put("keys", Bytes::from_static(b"b"), 0).await.unwrap(), None);
    let second = documents.put("keys", Bytes::from_static(b"c"), first).await.unwrap().unwrap();
    assert!(second > first);
    assert_eq!(documents.put("keys", Bytes::from_static(b"d"), first).await.unwrap(), None);
    // What was put is there after a kill -9, for those who were connected and for those who come.
    server.nats.kill();
    server.nats.start_again();
    let there = Some(Document { bytes: Bytes::from_static(b"c"), revision: second });
    let again = Documents::open(&config, false).await.unwrap();
    assert_eq!(again.get("keys").await.unwrap(), there);
    let mut old = documents.get("keys").await;
    for _ in 0..100 {
        if old.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        old = documents.get("keys").await;
    }
    assert_eq!(old.unwrap(), there);
}

#[tokio::test]
async fn where_nothing_may_be_made_what_is_missing_is_told() {
    let server = Server::start();
    let config = server.config("");
    let queue = EdgeQueue::open(&config, false).await.unwrap_err().to_string();
    assert!(queue.contains("no stream EDGE") && queue.contains("countersign init"), "{queue}");
    let log = JetStreamLog::open(&config, None).await.unwrap_err().to_string();
    assert!(log.contains("the stream DEAD is not there"), "{log}");
    drop(server.log("", 1).await);
    assert!(!JetStreamLog::open(&config, None).await.unwrap().1);
}

#[tokio::test]
async fn an_edge_hears_how_far_its_clock_is_ahead() {
    use futures::StreamExt as _;
    let server = Server::start();
    let queue = EdgeQueue::open(&server.config(""), true).await.unwrap();
    let mut told = queue.clock_ahead_ms("a").await.unwrap();
    queue.tell_clock_ahead("b", 1).await.unwrap();
    queue.tell_clock_ahead("a", 90_000).await.unwrap();
    assert_eq!(told.next().await, Some(90_000));
}
