//! On a real nats-server.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::server::NatsServer;
use super::*;

/// A server, and its directory.
pub(crate) struct Server {
    pub(crate) nats: NatsServer,
    _dir: TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { nats: NatsServer::start(dir.path()), _dir: dir }
    }

    async fn context(&self) -> jetstream::Context {
        connect::context(&self.config("")).await.unwrap().0
    }

    pub(crate) fn config(&self, prefix: &str) -> JetStreamConfig {
        let prefix = prefix.to_owned();
        JetStreamConfig { prefix, ..JetStreamConfig::new(self.nats.url(), 3) }
    }
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
    // The first taker is given a portion and dies with it; then the server is killed, too.
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
            // What the dead taker had been given is delivered again after the time for its answer.
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
async fn a_batch_tells_how_often_it_was_given_out() {
    let server = Server::start();
    let queue = EdgeQueue::open(&server.config(""), true).await.unwrap();
    queue.put("edge", vec![1].into()).await.unwrap();
    let mut taker = queue.taker();
    for times in 1..4 {
        let taken = take(&mut taker).await;
        assert_eq!(taken.deliveries(), times);
        taken.again(Duration::ZERO).await.unwrap();
    }
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

/// A batch that is given back keeps its place in the queue; so one edge has a bounded number of places.
#[tokio::test]
async fn an_edge_fills_its_own_part_of_the_queue_and_no_other_s() {
    let server = Server::start();
    // The stream as an earlier build has created it.
    let old = jetstream::stream::Config {
        name: "EDGE".to_owned(),
        subjects: vec!["countersign.edge.*".to_owned()],
        retention: jetstream::stream::RetentionPolicy::WorkQueue,
        discard: jetstream::stream::DiscardPolicy::New,
        ..Default::default()
    };
    server.context().await.create_stream(old).await.unwrap();
    let early = EdgeQueue::open(&server.config(""), false).await.unwrap();
    assert!(!early.takes_bundles(), "its collectors may be of that build too");
    let queue = EdgeQueue::open(&server.config(""), true).await.unwrap();
    let late = EdgeQueue::open(&server.config(""), false).await.unwrap();
    assert!(queue.takes_bundles() && late.takes_bundles());
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
    // A batch that is larger than any edge seals is refused before the server writes it.
    let large = vec![7; EDGE_BATCH_BYTES_MAX + 1];
    let error = queue.put("large", large.clone().into()).await.unwrap_err();
    assert!(matches!(error, LogError::TooLarge { .. }), "{error}");
    let context = server.context().await;
    let sent = context.publish("countersign.edge.large", large.into()).await.unwrap();
    let error = sent.await.unwrap_err();
    assert!(format!("{error:?}").contains("message size exceeds maximum"), "{error:?}");
    queue.put("large", vec![7; EDGE_BATCH_BYTES_MAX].into()).await.unwrap();
}

/// Other takers need not wait for the 30 seconds after which the server would deliver the messages again.
#[tokio::test]
async fn whoever_takes_no_more_gives_back_what_lies_in_its_hands() {
    let server = Server::start();
    let queue = EdgeQueue::open(&server.config(""), true).await.unwrap();
    for number in 0..40 {
        queue.put("edge", vec![number].into()).await.unwrap();
    }
    let mut taker = queue.taker();
    take(&mut taker).await.done().await.unwrap();
    taker.close().await;
    let mut other = queue.taker();
    let rest = async {
        for _ in 1..40 {
            take(&mut other).await.done().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), rest).await.unwrap();
    assert_eq!(queue.depth().await.unwrap(), 0);
}

/// Takes until the honest edge's batch comes; all others are given back for an hour.
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

/// Sixteen edges fill all the places that the consumer of an earlier build has.
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
    let context = server.context().await;
    context.create_consumer_on_stream(old, "EDGE").await.unwrap();
    for edge in 0..16 {
        for number in 0..4_u8 {
            queue.put(&format!("hostile-{edge}"), vec![number].into()).await.unwrap();
        }
    }
    queue.put("honest", vec![7].into()).await.unwrap();
    honest_one_comes(&queue).await;
}

/// Publishes to a subject with arbitrary bytes as headers, which no client library would send.
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
        // Over these a client that reads headers ends its connection, or its task panics.
        b"NATS/1.0\r\nx: a\rb\r\n\r\n",
        b"NATS/1.0\r\n: x\r\n\r\n",
        b"NATS/1.0\r\nx y: x\r\n\r\n",
        b"garbage",
        // Headers with which the server itself says that a portion is at its end.
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
    // A message without a payload is a batch like any other, and not taken for a message of the server.
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
    // Nothing was lost, and a batch that is put in later is delivered at once.
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
    server.context().await.create_stream(stranger).await.unwrap();
    let error = EdgeQueue::open(&server.config("X-"), true).await.unwrap_err().to_string();
    assert!(error.contains("no work queue"), "{error}");
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
    // What was put is there after a kill -9, for clients that were connected and for new ones.
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
async fn a_queue_that_may_not_be_made_is_missed() {
    let server = Server::start();
    let config = server.config("");
    let queue = EdgeQueue::open(&config, false).await.unwrap_err().to_string();
    assert!(queue.contains("no stream EDGE") && queue.contains("countersign init"), "{queue}");
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
