//! The same requests to both shells: what the visitor sees is the same byte for byte, and so is what
//! goes to the centre. The Worker runs on a real workerd.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use edge::worker::workerd::Workerd;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use shared::ambient::{Stopwatch, SystemClock};
use shared::wire::Batch;
use shared::{Clock as _, Timestamp};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::cases::{self, Case, PolicySpec};
use crate::harness::{Edge, Reply, Store, eventually};
use crate::support::{BROWSER, CATALOGUE, EDGE, World};

/// What a centre would have got, and what it answers.
#[derive(Default)]
struct Centre {
    batches: Mutex<BTreeMap<(String, u64, u64), Vec<u8>>>,
    status: AtomicU16,
    /// How many batches were brought, taken or not.
    brought: AtomicU32,
}

impl Centre {
    /// On a free port; answers 202 until it is told otherwise.
    async fn start() -> (Arc<Self>, String) {
        let centre = Arc::new(Self { status: AtomicU16::new(202), ..Self::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let served = Arc::clone(&centre);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let centre = Arc::clone(&served);
                let answer = service_fn(move |request| Arc::clone(&centre).answer(request));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
            }
        });
        (centre, url)
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, hyper::Error> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let mut status = self.status.load(Ordering::SeqCst);
        match Batch::read(&body) {
            Ok(batch) if path == "/v1/batches" => {
                self.brought.fetch_add(1, Ordering::SeqCst);
                // An error means neither that nothing happened nor that something did.
                if status == 202 || (status == 500 && batch.number % 2 == 0) {
                    let outbox = batch.outbox;
                    let key = (outbox.edge.to_string(), outbox.epoch, batch.number);
                    let before = self.batches.lock().insert(key, body.to_vec());
                    assert!(before.is_none_or(|before| before == body), "a batch has changed");
                }
            }
            _ => status = 404,
        }
        let mut response = Response::new(Full::new(Bytes::from(r#"{"clock_ahead_ms":0}"#)));
        *response.status_mut() = status.try_into().unwrap();
        Ok(response)
    }

    fn told(&self) -> Told {
        told(self.batches.lock().values())
    }
}

/// Events without their time, and tallies without their minute, both counted.
#[derive(Default, PartialEq, Eq, Debug)]
struct Told {
    events: BTreeMap<String, u32>,
    tallies: BTreeMap<String, u32>,
}

fn told<'a>(batches: impl Iterator<Item = &'a Vec<u8>>) -> Told {
    let mut told = Told::default();
    for bytes in batches {
        let batch = Batch::read(bytes).unwrap();
        for event in &batch.events {
            let event = shared::wire::Event { at: Timestamp(0), ..*event };
            // Each shell draws its own ids.
            let event = match event.kind {
                shared::Kind::Served => {
                    format!("{:?}", shared::wire::Event { token: b"", ..event })
                }
                _ => format!("{event:?}"),
            };
            *told.events.entry(event).or_default() += 1;
        }
        for tally in &batch.tallies {
            *told.tallies.entry(format!("{:?} {:?}", tally.kind, tally.reason)).or_default() +=
                tally.count;
        }
    }
    told
}

struct Shells {
    native: Edge,
    worker: Workerd,
    centre: Arc<Centre>,
    world: World,
    _dir: tempfile::TempDir,
}

impl Shells {
    async fn start(more: &[(&str, &str)]) -> Self {
        Self::start_as(None, more).await
    }

    async fn start_as(config: Option<&str>, more: &[(&str, &str)]) -> Self {
        let now = SystemClock.now();
        let world = World::at(now);
        let dir = tempfile::tempdir().unwrap();
        let native = Edge::start_with(dir.path(), Arc::new(Store::default()), |parts| {
            parts.clock = Arc::new(SystemClock);
            parts.policies.set_keys(world.keys());
        })
        .await;
        let (centre, url) = Centre::start().await;
        let keys = serde_json::to_string(&world.store.for_edge(EDGE).unwrap()).unwrap();
        let mut bindings = vec![
            ("EDGE_NAME", "w"),
            ("EDGE_KEYS", keys.as_str()),
            ("CATALOGUE", CATALOGUE),
            ("PUBLIC_URL", "https://edge.example"),
            ("GATEWAY_URL", url.as_str()),
        ];
        bindings.extend(more);
        let worker_dir = dir.path().join("worker");
        let worker = match config {
            Some(config) => Workerd::start_as(config.as_ref(), &worker_dir, &bindings),
            None => Workerd::start(&worker_dir, &bindings),
        };
        Self { native, worker, centre, world, _dir: dir }
    }

    async fn ask(&self, address: &str, case: &Case) -> Reply {
        let tokens = case.tokens(&self.world);
        let (url, body) = case.filled(&tokens);
        let spec = &case.request;
        let method = spec.method.as_deref().unwrap_or("GET");
        let mut head = format!("{method} {url} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n");
        let mut field = |name: &str, value: &str| {
            if !value.is_empty() {
                head.push_str(&format!("{name}: {value}\r\n"));
            }
        };
        field("Content-Type", &spec.content_type);
        field("User-Agent", spec.user_agent.as_deref().unwrap_or(BROWSER));
        field("Sec-Purpose", &spec.purpose);
        field("If-None-Match", &spec.if_none_match);
        field("Sec-GPC", if spec.opted_out { "1" } else { "" });
        // Each shell has its own way of hearing where a request comes from.
        let client = spec.client.as_deref().unwrap_or_default();
        field("X-Forwarded-For", client);
        field("CF-Connecting-IP", client);
        field("CF-IPCountry", &spec.country);
        field("CF-Blob", &serde_json::json!({ "country": spec.country }).to_string());
        let body = match spec.too_large {
            true => vec![b' '; shared::limits::EDGE_BODY_BYTES_MAX + 1],
            false if matches!(method, "GET" | "HEAD") => Vec::new(),
            false => body.into_bytes(),
        };
        if !matches!(method, "GET" | "HEAD") {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        // A server that refuses a body early may stop reading it.
        let _ = stream.write_all(&body).await;
        Reply::read(&mut stream).await
    }

    fn worker_address(&self) -> String {
        self.worker.url().trim_start_matches("http://").to_owned()
    }
}

/// What a visitor sees of a reply, without what each draws for itself.
fn seen(reply: &Reply) -> String {
    let mut body: Value = serde_json::from_slice(&reply.body)
        .unwrap_or_else(|_| String::from_utf8_lossy(&reply.body).into());
    for own in ["impression_id", "token", "click_url", "beacon_url"] {
        if body.get(own).is_some() {
            body[own] = "drawn".into();
        }
    }
    let mut fields = reply.fields();
    for (name, _) in fields.clone() {
        // The platform's: when, how the connection goes on, how long the body is.
        if ["date", "connection", "content-length", "transfer-encoding"].contains(&name.as_str()) {
            fields.remove(&name);
        }
    }
    format!("{} {fields:?} {body}", reply.status)
}

#[tokio::test]
async fn both_shells_answer_alike_and_tell_the_centre_the_same() {
    let shells = Shells::start(&[]).await;
    let (native, worker) = (shells.native.address.to_string(), shells.worker_address());
    let (mut compared, mut differ) = (0, Vec::new());
    for (file, case) in cases::all() {
        let method = case.request.method.as_deref().unwrap_or("GET");
        let is_uri = case.filled(&BTreeMap::new()).0.starts_with('/');
        // The platform itself answers what is no request of RFC 9110.
        if !is_uri
            || !["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"]
                .contains(&method)
        {
            continue;
        }
        // Settings of an edge as a whole, which both of these have otherwise; networks that the
        // native one would read from a table; visitors who have clicked before.
        let spec = &case.request;
        if case.policy != PolicySpec::default() || spec.asn.is_some() || spec.clicks_before > 0 {
            continue;
        }
        let (one, other) = (shells.ask(&native, &case).await, shells.ask(&worker, &case).await);
        let (one, other) = (seen(&one), seen(&other));
        if one != other {
            differ.push(format!("{file}: {}\n  native {one}\n  worker {other}", case.about));
        }
        compared += 1;
    }
    eprintln!("{compared} requests, answered alike");
    assert!(differ.is_empty(), "{}", differ.join("\n"));
    assert!(compared >= 80, "only {compared} cases were compared");
    let sink = Arc::clone(&shells.native.sink);
    let native = || told(sink.got.lock().values());
    eventually("both have told the same", || {
        shells.centre.told() == native() && !native().tallies.is_empty()
    })
    .await;
}

#[tokio::test]
async fn what_an_isolate_accepted_survives_kill_9_and_a_centre_that_answers_500() {
    let mut shells = Shells::start(&[]).await;
    // It has every other batch, and says of all that it has not.
    shells.centre.status.store(500, Ordering::SeqCst);
    let mut accepted = 0;
    for seq in 0..60 {
        let token = shells.token(seq);
        let reply = shells.click(&token).await;
        assert_eq!(reply.status, 302);
        accepted += 1;
        if seq % 20 == 19 {
            shells.worker.kill();
            shells.worker.start_again();
        }
    }
    let watch = Stopwatch::start();
    shells.centre.status.store(202, Ordering::SeqCst);
    let centre = Arc::clone(&shells.centre);
    eventually("every click arrives, each once", || {
        let told = centre.told();
        told.events.len() == accepted && told.events.values().all(|count| *count == 1)
    })
    .await;
    eprintln!("all there {:?} after the centre is well again", watch.elapsed());
}

/// A shard in another data centre: whoever waits for somebody else's call has nothing under way of its
/// own, and must not be taken for hung.
const SLOW: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/edge/slow-shard.capnp");

#[tokio::test]
async fn everybody_who_waits_for_a_slow_shard_is_answered() {
    let shells = Shells::start_as(Some(SLOW), &[]).await;
    // The isolate's first request asks for keys and ads, too.
    assert_eq!(shells.click(&shells.token(0)).await.status, 302);
    let watch = Stopwatch::start();
    assert_eq!(shells.statuses("c", 1..21).await, [302; 20]);
    assert!(watch.elapsed().as_millis() >= 150, "they did not wait for the shard");
    let told = || shells.centre.told().events.len();
    eventually("every click arrives", || told() == 21).await;
    assert_eq!(shells.statuses("i", 21..31).await, [200; 10]);
    eventually("every impression arrives", || told() == 31).await;
}

#[tokio::test]
async fn a_redirect_does_not_wait_longer_than_it_may() {
    let wait = [("REDIRECT_WAIT_MS", "20")];
    let shells = Shells::start_as(Some(SLOW), &wait).await;
    assert_eq!(shells.click(&shells.token(0)).await.status, 302);
    let watch = Stopwatch::start();
    for seq in 1..21 {
        assert_eq!(shells.click(&shells.token(seq)).await.status, 302);
    }
    // Each by itself: twenty times what the shard takes would be three seconds.
    assert!(watch.elapsed().as_millis() < 2_000, "{:?}", watch.elapsed());
    eventually("every click arrives all the same", || shells.centre.told().events.len() == 21)
        .await;
}

/// Each event sets the alarm to a moment from now; after an error it must not.
#[tokio::test]
async fn a_centre_that_refuses_is_left_alone_for_a_while_whatever_comes() {
    let shells = Shells::start(&[]).await;
    shells.centre.status.store(503, Ordering::SeqCst);
    for seq in 0..60 {
        assert_eq!(shells.click(&shells.token(seq)).await.status, 302);
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    // The first attempts bring what there is, later ones one batch each after 100 ms, 200, 400, …
    let brought = shells.centre.brought.load(Ordering::SeqCst);
    assert!((2..=20).contains(&brought), "{brought} attempts");
    shells.centre.status.store(202, Ordering::SeqCst);
    eventually("every click arrives", || shells.centre.told().events.len() == 60).await;
}

impl Shells {
    fn token(&self, seq: i64) -> String {
        let spec = crate::support::TokenSpec { seq, ..Default::default() };
        shared::token::to_text(&self.world.mint(&spec))
    }

    async fn click(&self, token: &str) -> Reply {
        Reply::read(&mut self.follow("c", token).await).await
    }

    /// What those get who follow links at the same time.
    async fn statuses(&self, kind: &str, seqs: Range<i64>) -> Vec<u16> {
        let mut asked = Vec::new();
        for seq in seqs {
            asked.push(self.follow(kind, &self.token(seq)).await);
        }
        let mut statuses = Vec::new();
        for stream in &mut asked {
            statuses.push(Reply::read(stream).await.status);
        }
        statuses
    }

    async fn follow(&self, kind: &str, token: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.worker_address()).await.unwrap();
        let path = format!("/v1/{kind}/{token}");
        let head = format!("GET {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    }
}

#[tokio::test]
async fn a_misconfigured_worker_says_so_and_redirects_whom_it_can() {
    let shells = Shells::start(&[("SHARDS", "none"), ("NATS_URL", "nats://127.0.0.1:1")]).await;
    let token = shells.token(1);
    assert_eq!(shells.click(&token).await.status, 302);
    let ready = async || {
        let mut stream = TcpStream::connect(shells.worker_address()).await.unwrap();
        let head = "GET /readyz HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let reply = Reply::read(&mut stream).await;
        (reply.status, reply.json()["reasons"].to_string())
    };
    let named = ["SHARDS", "GATEWAY_URL and NATS_URL", "no centre"];
    for _ in 0..500 {
        let (status, reasons) = ready().await;
        assert_eq!(status, 503);
        if named.iter().all(|named| reasons.contains(named)) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{:?}", ready().await);
}

#[tokio::test]
async fn a_worker_without_keys_is_alive_and_says_what_is_missing() {
    let shells = Shells::start(&[("EDGE_KEYS", "{}")]).await;
    let reply = shells.click(&shells.token(1)).await;
    assert_eq!((reply.status, reply.header("location")), (503, None));
    let mut stream = TcpStream::connect(shells.worker_address()).await.unwrap();
    let head = "GET /readyz HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let reasons = Reply::read(&mut stream).await.json()["reasons"].to_string();
    assert!(reasons.contains("EDGE_KEYS: missing field"), "{reasons}");
}
