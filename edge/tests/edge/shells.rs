//! Both shells beside each other, the native one and the Worker on a real workerd. Each has a
//! centre that keeps what it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use catalogue::Published;
use edge::native::{Parts, Policies};
use edge::worker::workerd::Workerd;
use edge::{Decision, Policy};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::RawValue;
use shared::ambient::SystemClock;
use shared::keys::{EdgeKeys, PublicKey};
use shared::token::to_text;
use shared::wire::{Batch, Event};
use shared::{Clock as _, Kind, Timestamp};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Edge, Reply, Store};
use crate::support::{CATALOGUE, ISSUER, TokenSpec, World};

/// A centre: what it was told, and what it answers.
#[derive(Default)]
pub(crate) struct Centre {
    batches: Mutex<BTreeMap<(String, u64, u64), Vec<u8>>>,
    pub(crate) status: AtomicU16,
    /// How many batches were brought to it.
    pub(crate) asked: AtomicU32,
    /// Which keys and ads are in force, and their entity tag; 404 while there are none.
    news: Mutex<Option<(String, String)>>,
    /// How often it was asked for them.
    pub(crate) news_asked: AtomicU32,
}

/// The status of a centre that never answers.
pub(crate) const SILENT: u16 = 0;

impl Centre {
    /// On a free port; answers 202 until it is told otherwise.
    pub(crate) async fn start() -> (Arc<Self>, String) {
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
        if path == Published::PATH {
            return Ok(self.tell(&request));
        }
        let body = request.into_body().collect().await?.to_bytes();
        let mut status = self.status.load(Ordering::SeqCst);
        match Batch::read(&body) {
            Ok(batch) if path == "/v1/batches" => {
                self.asked.fetch_add(1, Ordering::SeqCst);
                if status == SILENT {
                    std::future::pending::<()>().await;
                }
                // An error does not mean that nothing was taken: with 500 every other batch is
                // kept.
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

    /// These keys and ads are in force from now on.
    pub(crate) fn publish(&self, public: Vec<PublicKey>, catalogue: &str) {
        let catalogue = Some(RawValue::from_string(catalogue.to_owned()).unwrap());
        let text = serde_json::to_string(&Published { public, catalogue }).unwrap();
        let tag =
            format!("\"{}\"", shared::text::hex(&blake3::hash(text.as_bytes()).as_bytes()[..8]));
        *self.news.lock() = Some((tag, text));
    }

    fn tell(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        self.news_asked.fetch_add(1, Ordering::SeqCst);
        let Some((tag, text)) = self.news.lock().clone() else {
            return Response::builder().status(404).body(Full::default()).unwrap();
        };
        let known = request.headers().get("if-none-match");
        let is_known = known.is_some_and(|known| known.as_bytes() == tag.as_bytes());
        let (status, text) = if is_known { (304, String::new()) } else { (200, text) };
        let response = Response::builder().status(status).header("etag", tag);
        response.body(Full::new(Bytes::from(text))).unwrap()
    }

    pub(crate) fn told(&self) -> Told {
        told(self.batches.lock().values())
    }
}

/// Events without their time, and tallies without their minute, both counted.
#[derive(Default, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    pub(crate) events: BTreeMap<String, u32>,
    pub(crate) tallies: BTreeMap<String, u32>,
}

impl Told {
    /// What the core decided, as a shell passes it on when all goes well.
    pub(crate) fn add_decided(&mut self, decision: &Decision) {
        decision.events.iter().for_each(|event| self.add_event(event.stamped(Timestamp(0))));
        for loss in &decision.tallies {
            self.add_tally(loss.kind, loss.reason, loss.count);
        }
    }

    fn add_event(&mut self, event: Event<'_>) {
        // Each shell draws its own ids.
        let token = if event.kind == Kind::Served { b"" } else { event.token };
        let event = Event { at: Timestamp(0), token, ..event };
        *self.events.entry(format!("{event:?}")).or_default() += 1;
    }

    fn add_tally(&mut self, kind: Kind, reason: shared::Reason, count: u32) {
        *self.tallies.entry(format!("{kind:?} {reason:?}")).or_default() += count;
    }

    /// What one side has more often than the other, for people.
    pub(crate) fn difference(&self, other: &Self, name: &str) -> String {
        let pairs = [(&self.events, &other.events), (&self.tallies, &other.tallies)];
        let lines = pairs.into_iter().flat_map(|(own, others)| {
            let all: std::collections::BTreeSet<&String> =
                own.keys().chain(others.keys()).collect();
            all.into_iter().filter_map(|what| {
                let count = |of: &BTreeMap<String, u32>| of.get(what).copied().unwrap_or(0);
                let (own, others) = (count(own), count(others));
                (own != others).then(|| format!("\n  {what}: {own}, and {name} {others}"))
            })
        });
        format!("told: {}", lines.collect::<String>())
    }

    /// The same without the events of tokens that lead there.
    pub(crate) fn without(mut self, url: &str) -> Self {
        let bytes = format!("{:?}", url.as_bytes());
        let bytes = bytes.trim_matches(['[', ']']);
        self.events.retain(|event, _| !event.contains(bytes));
        self
    }
}

pub(crate) fn told<'a>(batches: impl Iterator<Item = &'a Vec<u8>>) -> Told {
    let mut told = Told::default();
    for bytes in batches {
        let batch = Batch::read(bytes).unwrap();
        batch.events.iter().for_each(|event| told.add_event(*event));
        for tally in &batch.tallies {
            told.add_tally(tally.kind, tally.reason, tally.count);
        }
    }
    told
}

/// A native edge and a Worker of the same settings.
pub(crate) struct Shells {
    pub(crate) native: Edge,
    pub(crate) worker: Workerd,
    pub(crate) centre: Arc<Centre>,
    pub(crate) world: World,
    _dir: tempfile::TempDir,
}

impl Shells {
    /// With more bindings for the Worker.
    pub(crate) async fn start(more: &[(&str, &str)]) -> Self {
        let world = World::at(SystemClock.now());
        let (policy, keys) = (world.policy(), world.store.for_edge(ISSUER).unwrap());
        Self::start_with(world, policy, &keys, more, |_| {}).await
    }

    /// With another policy: `keys` and `more` tell the Worker of it, `change` the native edge.
    pub(crate) async fn start_with(
        world: World,
        policy: Policy,
        keys: &EdgeKeys,
        more: &[(&str, &str)],
        change: impl FnOnce(&mut Parts<Store>),
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let native = Edge::start_with(dir.path(), Arc::new(Store::default()), |parts| {
            parts.clock = Arc::new(SystemClock);
            parts.policies = Arc::new(Policies::new(policy));
            change(parts);
        })
        .await;
        let (centre, url) = Centre::start().await;
        let keys = serde_json::to_string(keys).unwrap();
        let mut bindings = vec![
            ("EDGE_NAME", "w"),
            ("EDGE_KEYS", keys.as_str()),
            ("CATALOGUE", CATALOGUE),
            ("PUBLIC_URL", "https://edge.example"),
            ("GATEWAY_URL", url.as_str()),
        ];
        bindings.extend(more);
        let worker = Workerd::start(&dir.path().join("worker"), &bindings);
        Self { native, worker, centre, world, _dir: dir }
    }

    /// The Worker alone, as another configuration says.
    pub(crate) async fn start_as(config: &str, more: &[(&str, &str)]) -> Self {
        let mut shells = Self::start(more).await;
        shells.worker.kill();
        shells.worker.start_again_as(config.as_ref());
        shells
    }

    pub(crate) fn worker_address(&self) -> SocketAddr {
        self.worker.url().trim_start_matches("http://").parse().unwrap()
    }

    /// Both, with their names.
    pub(crate) fn both(&self) -> [(&'static str, SocketAddr); 2] {
        [("native", self.native.address), ("worker", self.worker_address())]
    }

    /// What the native edge has told.
    pub(crate) fn told_by_native(&self) -> Told {
        told(self.native.sink.got.lock().values())
    }

    pub(crate) fn token(&self, seq: i64) -> String {
        to_text(&self.world.mint(&TokenSpec { seq, ..TokenSpec::default() }))
    }

    /// The Worker's reply to a click.
    pub(crate) async fn click(&self, token: &str) -> Reply {
        get(self.worker_address(), &format!("/v1/c/{token}")).await
    }

    /// What the Worker answers to many who follow links at the same time.
    pub(crate) async fn statuses(&self, kind: &str, seqs: Range<i64>) -> Vec<u16> {
        let address = self.worker_address();
        let paths = seqs.map(|seq| format!("/v1/{kind}/{}", self.token(seq)));
        at_once(address, paths).await.iter().map(|reply| reply.status).collect()
    }
}

/// The answers to many requests at the same time.
pub(crate) async fn at_once(
    address: SocketAddr,
    paths: impl Iterator<Item = String>,
) -> Vec<Reply> {
    let ask = |path: String| tokio::spawn(async move { get(address, &path).await });
    let asked: Vec<_> = paths.map(ask).collect();
    let mut replies = Vec::new();
    for answer in asked {
        replies.push(answer.await.unwrap());
    }
    replies
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> Reply {
    let head = format!("GET {path} HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n");
    send(address, head.as_bytes(), b"").await
}

/// Sends a head as it is, then a body, and reads until the server closes.
pub(crate) async fn send(address: SocketAddr, head: &[u8], body: &[u8]) -> Reply {
    answered(address, head, body).await.expect("a whole head")
}

/// The same; `None` when nothing is answered.
pub(crate) async fn answered(address: SocketAddr, head: &[u8], body: &[u8]) -> Option<Reply> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that refuses early may stop reading.
    let _ = stream.write_all(head).await;
    let _ = stream.write_all(body).await;
    Reply::read_any(&mut stream).await
}

/// The core's reply as a shell would send it.
pub(crate) fn reply_of(decision: &Decision, method: &str) -> Reply {
    let reply = &decision.reply;
    let mut fields: Vec<(&str, &str)> = reply.fields.to_vec();
    for (name, value) in [("location", &reply.location), ("etag", &reply.etag)] {
        fields.extend(value.as_ref().map(|value| (name, value.as_str())));
    }
    let body = if method == "HEAD" { Vec::new() } else { reply.body.to_vec() };
    Reply::new(reply.status, &fields, body)
}

/// What a visitor sees of a reply, without the parts that each shell draws at random.
pub(crate) fn seen(reply: &Reply) -> String {
    let mut body: Value = serde_json::from_slice(&reply.body)
        .unwrap_or_else(|_| String::from_utf8_lossy(&reply.body).into());
    for own in ["impression_id", "token", "click_url", "beacon_url"] {
        if body.get(own).is_some() {
            body[own] = "drawn".into();
        }
    }
    let mut fields = reply.fields();
    for (name, _) in fields.clone() {
        // Fields of the platform: the date, whether the connection stays open, the length of the
        // body.
        if ["date", "connection", "content-length", "transfer-encoding"].contains(&name.as_str()) {
            fields.remove(&name);
        }
    }
    format!("{} {fields:?} {body}", reply.status)
}
