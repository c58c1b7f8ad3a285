//! Connections that stay open: plain requests are served in a way of their own, and no client can
//! notice it.

use std::sync::Arc;
use std::time::Duration;

use edge::native::{Metrics, Policies};
use edge::outbox::{Outbox, OutboxSettings};
use edge::{Draft, Durability, Policy};
use shared::random::Seeded;
use shared::{Codes, Device, Fingerprint, Flags, Kind, Network, Reason, Region, RuleSet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Edge, Still, Store};
use crate::support::EDGE;

/// One reply on a connection that is kept.
struct Kept {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Kept {
    async fn read(stream: &mut TcpStream, head_only: bool) -> Self {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("the server keeps the connection"));
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        let head: Vec<String> = head.trim_end().lines().map(str::to_owned).collect();
        let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.filter(|_| !head_only).map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        Self { head, body }
    }

    /// Status line and fields in a fixed order, without the fields that change from reply to reply.
    fn alike(&self) -> Vec<&str> {
        let differs = |line: &&str| line.starts_with("date: ") || line.starts_with("connection: ");
        let mut lines: Vec<&str> =
            self.head.iter().map(String::as_str).filter(|line| !differs(line)).collect();
        lines.sort_unstable();
        lines
    }
}

async fn ask(stream: &mut TcpStream, request: &str) -> Kept {
    stream.write_all(format!("{request}\r\nHost: edge.example\r\n\r\n").as_bytes()).await.unwrap();
    Kept::read(stream, request.starts_with("HEAD")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_ways_answer_alike() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path()).await;
    let token = edge.token(1);
    let mut plain = TcpStream::connect(edge.address).await.unwrap();
    for target in [
        format!("GET /v1/c/{token}"),
        format!("HEAD /v1/c/{token}"),
        format!("GET /v1/c/{token}?x=1"),
        format!("GET /v1/i/{token}"),
        format!("HEAD /v1/i/{token}"),
        "GET /v1/c/AAAA".to_owned(),
        "GET /v1/c/".to_owned(),
        "GET /v1/serve?placement=none".to_owned(),
        "GET /v1/serve".to_owned(),
        "HEAD /v1/serve?placement=top".to_owned(),
        "GET /nothing".to_owned(),
        "GET /v1/events".to_owned(),
    ] {
        let request = format!("{target} HTTP/1.1");
        let kept = ask(&mut plain, &request).await;
        // A connection that is to be closed goes to hyper.
        let mut other = TcpStream::connect(edge.address).await.unwrap();
        let closed = ask(&mut other, &format!("{request}\r\nConnection: close")).await;
        assert_eq!(kept.alike(), closed.alike(), "{target}");
        assert_eq!(kept.body, closed.body, "{target}");
        for reply in [&kept, &closed] {
            let dates = reply.head.iter().filter(|line| line.starts_with("date: "));
            assert!(dates.clone().all(|date| date.len() == "date: ".len() + 29), "{dates:?}");
            assert_eq!(dates.count(), 1);
        }
    }
    let (_, sink) = edge.stop().await;
    let (events, tallies) = sink.came();
    assert_eq!(events, [(Kind::Click, 6), (Kind::Impression, 4)].into());
    let unknown = tallies[&(Kind::Click, Reason::UnknownVersion)];
    assert_eq!((unknown, tallies[&(Kind::Click, Reason::Malformed)]), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_is_believed_on_a_kept_connection_too() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path()).await;
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    let request = format!(
        "GET /v1/c/{} HTTP/1.1\r\nx-forwarded-for: 1.2.3.4\r\nX-FORWARDED-FOR: 203.0.113.77\r\n\
         cf-ipcountry: SE\r\nPURPOSE: prefetch\r\nUser-agent: an iPad\r\nsec-gpc: 1",
        edge.token(1)
    );
    assert_eq!(ask(&mut stream, &request).await.head[0], "http/1.1 503 service unavailable");
    drop(stream);
    let (_, sink) = edge.stop().await;
    let got = sink.got.lock();
    let batches = got.values().map(|bytes| shared::wire::Batch::read(bytes).unwrap());
    let event = batches.flat_map(|batch| batch.events).next().unwrap();
    assert_eq!(
        (event.codes.country.to_string().as_str(), event.codes.device),
        ("SE", Device::Tablet)
    );
    assert_eq!(event.network.0, [4, 203, 0, 113, 0, 0, 0]);
    assert_eq!(event.verdict, Some(Reason::Prefetch));
    assert_eq!(event.visitor, Fingerprint::NONE);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_plain_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start(dir.path()).await;
    let (click, body) = (format!("GET /v1/c/{} HTTP/1.1", edge.token(1)), "{\"events\":[5]}");
    let post = format!(
        "POST /v1/events HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}",
        body.len()
    );
    let connect = || TcpStream::connect(edge.address);
    // A head in pieces.
    let mut stream = connect().await.unwrap();
    assert_eq!(ask(&mut stream, &click).await.head[0], "http/1.1 302 found");
    let (first, rest) = click.split_at(20);
    stream.write_all(first.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    assert_eq!(ask(&mut stream, rest).await.head[0], "http/1.1 302 found");
    assert_eq!(ask(&mut stream, &click).await.head[0], "http/1.1 302 found");
    // A body, after a request without one.
    let mut stream = connect().await.unwrap();
    assert_eq!(ask(&mut stream, &click).await.head[0], "http/1.1 302 found");
    stream.write_all(format!("{post}\r\nHost: e\r\n\r\n{body}").as_bytes()).await.unwrap();
    let reply = Kept::read(&mut stream, false).await;
    assert_eq!(reply.head[0], "http/1.1 202 accepted");
    assert_eq!(reply.body, b"{\"results\":[\"malformed\"]}");
    assert_eq!(ask(&mut stream, &click).await.head[0], "http/1.1 302 found");
    // Two at once, and a body that a GET should not have: none of it is taken for a request.
    let mut stream = connect().await.unwrap();
    let two = format!("{click}\r\nHost: e\r\n\r\n{click}\r\nHost: e\r\n\r\n");
    stream.write_all(two.as_bytes()).await.unwrap();
    for _ in 0..2 {
        assert_eq!(Kept::read(&mut stream, false).await.head[0], "http/1.1 302 found");
    }
    let hidden = format!("{click}\r\nContent-Length: 20\r\nHost: e\r\n\r\nGET /v1/i/A HTTP/1.1");
    stream.write_all(hidden.as_bytes()).await.unwrap();
    assert_eq!(Kept::read(&mut stream, false).await.head[0], "http/1.1 302 found");
    assert_eq!(ask(&mut stream, "GET /healthz HTTP/1.1").await.body, b"ok\n");
    // No HTTP.
    let mut stream = connect().await.unwrap();
    assert_eq!(ask(&mut stream, "GET /\0 HTTP/1.1").await.head[0], "http/1.1 400 bad request");
    let (_, sink) = edge.stop().await;
    let (events, tallies) = sink.came();
    assert_eq!(events, [(Kind::Click, 8)].into());
    assert_eq!(tallies, [((Kind::Impression, Reason::Malformed), 1)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_connections_end_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start_with(dir.path(), Arc::new(Store::default()), |parts| {
        parts.settings.head_timeout = Duration::from_millis(400);
        parts.settings.connection_life = Duration::from_millis(1_200);
        parts.settings.close_deadline = Duration::from_secs(3_600);
    })
    .await;
    let click = format!("GET /v1/c/{} HTTP/1.1", edge.token(1));
    let mut silent = TcpStream::connect(edge.address).await.unwrap();
    assert_eq!(ask(&mut silent, &click).await.head[0], "http/1.1 302 found");
    assert_eq!(silent.read(&mut [0; 9]).await.unwrap(), 0, "it was silent for too long");

    let mut busy = TcpStream::connect(edge.address).await.unwrap();
    let mut asked = 0;
    loop {
        let reply = ask(&mut busy, &click).await;
        assert_eq!(reply.head[0], "http/1.1 302 found");
        if reply.head.contains(&"connection: close".to_owned()) {
            break;
        }
        asked += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(asked > 4, "it is kept while it asks, longer than it may be silent: {asked}");
    assert_eq!(busy.read(&mut [0; 9]).await.unwrap(), 0);

    let mut idle = TcpStream::connect(edge.address).await.unwrap();
    assert_eq!(ask(&mut idle, &click).await.head[0], "http/1.1 302 found");
    // Shutdown does not wait for connections that say nothing.
    edge.stop().await;
    assert_eq!(idle.read(&mut [0; 9]).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_does_not_wait_for_ever_and_its_event_is_kept() {
    redirects_with_a_slow_disk(Durability::Durable, Duration::from_millis(50)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_that_is_queued_does_not_wait_at_all_and_its_event_is_kept() {
    redirects_with_a_slow_disk(Durability::Queued, Duration::from_hours(1)).await;
}

/// A slow disk, here by an outbox that waits for more events.
async fn redirects_with_a_slow_disk(clicks: Durability, redirect_wait: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let slow = OutboxSettings {
        linger: Duration::from_secs(3),
        ..OutboxSettings::new(dir.path().join("slow"), EDGE)
    };
    let metrics = Metrics::default();
    let (outbox, _) =
        Outbox::open(&slow, Arc::new(Still), &mut Seeded::new(2), metrics.clone()).unwrap();
    let mut before = 0;
    loop {
        let many: Vec<_> = (0..8).map(|_| outbox.append(vec![draft()]).unwrap()).collect();
        before += many.len() as u64;
        let all = async {
            for pending in many {
                pending.await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_millis(300), all).await.is_err() {
            break;
        }
    }
    let edge = Edge::start_with(dir.path(), Arc::new(Store::default()), |parts| {
        parts.outbox = outbox;
        parts.metrics = metrics;
        parts.settings.redirect_wait = redirect_wait;
        let policy = Policy { clicks, ..Policy::clone(&parts.policies.load()) };
        parts.policies = Arc::new(Policies::new(policy));
    })
    .await;
    let click = format!("GET /v1/c/{} HTTP/1.1", edge.token(1));
    let mut stream = TcpStream::connect(edge.address).await.unwrap();
    for _ in 0..3 {
        assert_eq!(ask(&mut stream, &click).await.head[0], "http/1.1 302 found");
    }
    let click = format!("{click}\r\nConnection: close");
    assert_eq!(ask(&mut stream, &click).await.head[0], "http/1.1 302 found");
    assert_eq!(edge.sink.counts().0.get(&Kind::Click), None, "not one was waited for");
    let (_, sink) = edge.stop().await;
    let (events, tallies) = sink.counts();
    assert_eq!(events, [(Kind::Click, 4), (Kind::Impression, before)].into());
    assert!(tallies.is_empty(), "{tallies:?}");
}

fn draft() -> Draft {
    Draft {
        kind: Kind::Impression,
        verdict: None,
        rules: RuleSet::UNKNOWN,
        page: None,
        flags: Flags::default(),
        codes: Codes::default(),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint::NONE,
        token: vec![1; 100],
    }
}
