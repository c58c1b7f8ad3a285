//! A running edge: a real listener, an outbox on disk, a sink that the test owns.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use edge::native::{Metrics, Parts, Policies, RimSettings, RunError, Summary, run};
use edge::outbox::{
    BatchSink, DISK_BYTES_LEAST, DrainSettings, News, Outbox, OutboxSettings, SinkError,
};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use shared::random::Seeded;
use shared::token::to_text;
use shared::wire::Batch;
use shared::{Clock, Kind, Reason, Timestamp};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::support::{EDGE, NOW, TokenSpec, World};

pub(crate) struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        NOW
    }
}

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) got: Mutex<BTreeMap<(u64, u64), Vec<u8>>>,
    pub(crate) down: AtomicBool,
    pub(crate) ahead: AtomicBool,
}

impl BatchSink for Store {
    async fn submit(&self, batch: Bytes) -> Result<(), SinkError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(SinkError::Retry("down".to_owned()));
        }
        let read = Batch::read(&batch).unwrap();
        self.got.lock().insert((read.outbox.epoch, read.number), batch.to_vec());
        Ok(())
    }

    fn news(&self) -> News {
        let clock_ahead_ms = self.ahead.load(Ordering::SeqCst).then_some(90_000);
        News { clock_ahead_ms, ..News::default() }
    }
}

impl Store {
    /// Events by kind, and tallies by kind and reason.
    pub(crate) fn counts(&self) -> (BTreeMap<Kind, u64>, BTreeMap<(Kind, Reason), u64>) {
        let (mut events, mut tallies) = (BTreeMap::new(), BTreeMap::new());
        for bytes in self.got.lock().values() {
            let batch = Batch::read(bytes).unwrap();
            for event in &batch.events {
                *events.entry(event.kind).or_default() += 1;
            }
            for tally in &batch.tallies {
                *tallies.entry((tally.kind, tally.reason)).or_default() += u64::from(tally.count);
            }
        }
        (events, tallies)
    }

    /// The same, with repeats counted among the events.
    pub(crate) fn came(&self) -> (BTreeMap<Kind, u64>, BTreeMap<(Kind, Reason), u64>) {
        let (mut events, mut tallies) = self.counts();
        for kind in Kind::ALL {
            let again = tallies.remove(&(*kind, Reason::Repeated)).unwrap_or(0);
            events.entry(*kind).and_modify(|count| *count += again);
        }
        (events, tallies)
    }
}

pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    pub(crate) sink: Arc<Store>,
    pub(crate) policies: Arc<Policies>,
    pub(crate) world: World,
    stop: oneshot::Sender<()>,
    pub(crate) task: JoinHandle<Result<Summary, RunError>>,
}

impl Edge {
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::start_with(dir, Arc::new(Store::default()), |_| {}).await
    }

    pub(crate) async fn start_with(
        dir: &Path,
        sink: Arc<Store>,
        change: impl FnOnce(&mut Parts<Store>),
    ) -> Self {
        let world = World::new();
        let policies = Arc::new(Policies::new(world.policy()));
        let metrics = Metrics::default();
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        let outbox_settings = OutboxSettings {
            heartbeat: Duration::from_millis(50),
            disk_bytes_max: DISK_BYTES_LEAST,
            ..OutboxSettings::new(dir.join("outbox"), EDGE)
        };
        let open = |settings: &OutboxSettings| {
            Outbox::open(settings, Arc::new(Still), &mut Seeded::new(2), metrics.clone()).unwrap().0
        };
        let mut parts = Parts {
            policies: Arc::clone(&policies),
            catalogue: None,
            outbox: open(&outbox_settings),
            sink: Arc::clone(&sink),
            drain: DrainSettings {
                retry_most: Duration::from_millis(20),
                trim_pause: Duration::from_millis(20),
                ..DrainSettings::default()
            },
            clock: Arc::new(Still),
            random: Box::new(Seeded::new(1)),
            metrics: metrics.clone(),
            registry: Some(Arc::new(registry)),
            settings: RimSettings {
                trusted_proxies: vec!["127.0.0.1".parse().unwrap()],
                country_header: Some("CF-IPCountry".to_owned()),
                close_deadline: Duration::from_secs(2),
                drain_deadline: Duration::from_secs(5),
                catalogue_pause: Duration::from_millis(20),
                ..RimSettings::default()
            },
        };
        change(&mut parts);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(run(listener, parts, async {
            let _ = stopped.await;
        }));
        Self { address, sink, policies, world, stop, task }
    }

    pub(crate) fn token(&self, seq: i64) -> String {
        to_text(&self.world.mint(&TokenSpec { seq, ..TokenSpec::default() }))
    }

    pub(crate) async fn send(&self, head: &str, body: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        let head = format!("{head}\r\nHost: edge.example\r\nConnection: close\r\n{length}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses a body early may stop reading it.
        let _ = stream.write_all(body).await;
        Reply::read(&mut stream).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path} HTTP/1.1"), b"").await
    }

    pub(crate) async fn post(&self, events: &Value) -> Reply {
        let head = "POST /v1/events HTTP/1.1\r\nContent-Type: application/json";
        self.send(head, json!({ "events": events }).to_string().as_bytes()).await
    }

    pub(crate) async fn stop(self) -> (Summary, Arc<Store>) {
        self.stop.send(()).unwrap();
        let summary = tokio::time::timeout(Duration::from_secs(20), self.task).await;
        (summary.unwrap().unwrap().unwrap(), self.sink)
    }
}

#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn new(status: u16, fields: &[(&str, &str)], body: Vec<u8>) -> Self {
        let lines = fields.iter().map(|(name, value)| format!("\r\n{name}: {value}"));
        let head = format!("http/1.1 {status}{}", lines.collect::<String>());
        Self { status, head: head.to_ascii_lowercase(), body }
    }

    /// Everything that arrives until the server closes.
    pub(crate) async fn read(stream: &mut TcpStream) -> Self {
        Self::read_any(stream).await.expect("a whole head")
    }

    /// The same; `None` when the server sends nothing, or no complete reply.
    pub(crate) async fn read_any(stream: &mut TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut bytes));
        let _ = read.await.expect("the server closes within 10 s");
        let end = bytes.windows(4).position(|at| at == b"\r\n\r\n")?;
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head[9..12].parse().unwrap();
        Some(Self { status, head, body: bytes[end + 4..].to_vec() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// Its fields, names in lower case; several of one name as a list (RFC 9110 §5.3).
    pub(crate) fn fields(&self) -> BTreeMap<String, String> {
        let mut fields = BTreeMap::<String, String>::new();
        for (name, value) in self.head.lines().filter_map(|line| line.split_once(": ")) {
            fields
                .entry(name.to_owned())
                .and_modify(|before| *before += &format!(", {value}"))
                .or_insert_with(|| value.to_owned());
        }
        fields
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not within 5 s: {what}");
}
