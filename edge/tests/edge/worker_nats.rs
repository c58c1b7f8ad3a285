//! The Worker on a real workerd, with its centre on a real nats-server.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use edge::worker::nkey;
use edge::worker::workerd::Workerd;
use eventlog::nats::server::NatsServer;
use eventlog::nats::{EdgeQueue, JetStreamConfig};
use shared::Clock as _;
use shared::ambient::{Stopwatch, SystemClock};
use shared::token::to_text;
use shared::wire::Batch;

use crate::shells::get;
use crate::support::{CATALOGUE, ISSUER, TokenSpec, World};

/// A Worker that publishes to NATS, and the clicks that it was asked for.
struct Site {
    world: World,
    worker: Workerd,
    clicked: Vec<Vec<u8>>,
    /// How long each redirect took.
    took: Vec<Duration>,
}

impl Site {
    fn start(start: impl FnOnce(&[(&str, &str)]) -> Workerd, more: &[(&str, &str)]) -> Self {
        let world = World::at(SystemClock.now());
        let keys = serde_json::to_string(&world.store.for_edge(ISSUER).unwrap()).unwrap();
        let mut bindings = vec![
            ("EDGE_NAME", "w"),
            ("EDGE_KEYS", keys.as_str()),
            ("CATALOGUE", CATALOGUE),
            ("PUBLIC_URL", "https://edge.example"),
        ];
        bindings.extend(more);
        let worker = start(&bindings);
        Self { world, worker, clicked: Vec::new(), took: Vec::new() }
    }

    fn address(&self) -> SocketAddr {
        self.worker.url().trim_start_matches("http://").parse().unwrap()
    }

    /// A click of a token of its own is sent on.
    async fn click(&mut self) {
        let seq = i64::try_from(self.clicked.len()).unwrap();
        let token = self.world.mint(&TokenSpec { seq, ..TokenSpec::default() });
        let watch = Stopwatch::start();
        let reply = get(self.address(), &format!("/v1/c/{}", to_text(&token))).await;
        assert_eq!(reply.status, 302, "click {seq}: {reply:?}");
        self.took.push(watch.elapsed());
        self.clicked.push(token);
    }

    async fn click_for(&mut self, long: Duration, pause: Duration) {
        let watch = Stopwatch::start();
        while watch.elapsed() < long {
            self.click().await;
            tokio::time::sleep(pause).await;
        }
    }

    /// Why it is not ready, once it says so with these words.
    async fn until_it_says(&self, words: &str) {
        let mut said = String::new();
        for _ in 0..500 {
            said = get(self.address(), "/readyz").await.json()["reasons"].to_string();
            if said.contains(words) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{words} is not in {said}");
    }
}

/// What is in the queue, by epoch and number. A batch whose acknowledgement was lost may be there
/// twice, with the same bytes: the collector keeps one of each number.
#[derive(Default)]
struct Queued(BTreeMap<(String, u64, u64), Bytes>);

impl Queued {
    /// Takes messages until all of these clicks are there, each once and nothing else.
    async fn take(queue: &EdgeQueue, clicked: &[Vec<u8>]) -> Self {
        let (mut all, mut taker) = (Self::default(), queue.taker());
        let mut expected: Vec<&[u8]> = clicked.iter().map(Vec::as_slice).collect();
        expected.sort();
        while all.clicks() != expected {
            let next = tokio::time::timeout(Duration::from_secs(15), taker.next());
            let Ok(next) = next.await else {
                panic!("{} of {} clicks are there", all.clicks().len(), clicked.len());
            };
            // The server may have ended the connection meanwhile.
            let Ok(taken) = next else { continue };
            assert_eq!(taken.edge, "w");
            let batch = Batch::read(&taken.batch).unwrap();
            let key = (batch.outbox.edge.to_string(), batch.outbox.epoch, batch.number);
            let before = all.0.insert(key, taken.batch.clone());
            assert!(before.is_none_or(|before| before == taken.batch), "a batch has changed");
            taken.done().await.unwrap();
            assert!(all.clicks().len() <= clicked.len(), "a click is there twice");
        }
        all
    }

    fn clicks(&self) -> Vec<&[u8]> {
        let batches = self.0.values().map(|bytes| Batch::read(bytes).unwrap());
        let mut tokens: Vec<&[u8]> =
            batches.flat_map(|batch| batch.events).map(|event| event.token).collect();
        tokens.sort();
        tokens
    }

    /// No number of an epoch is missing.
    fn assert_whole(&self) {
        let mut numbers = BTreeMap::<_, Vec<u64>>::new();
        for (edge, epoch, number) in self.0.keys() {
            numbers.entry((edge, epoch)).or_default().push(*number);
        }
        for (outbox, numbers) in numbers {
            let from = numbers[0];
            assert!(from <= 1, "{outbox:?} begins with {from}");
            let expected: Vec<u64> = (from..from + numbers.len() as u64).collect();
            assert_eq!(numbers, expected, "{outbox:?}");
        }
    }
}

/// The test has to take a minute. The platform tries an alarm that fails six times, after 2 s and
/// then after twice as long each time, and forgets it after about that long. An outbox whose alarm
/// fails along with its centre would pass every shorter test, and never send again. Besides, the
/// pauses between the tries have then reached their longest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_without_nats_loses_nothing_and_holds_no_redirect_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::start(&dir.path().join("nats"));
    let config = JetStreamConfig::new(nats.url(), 1);
    EdgeQueue::open(&config, true).await.unwrap();
    let url = nats.url();
    let start = |bindings: &[(&str, &str)]| Workerd::start(&dir.path().join("worker"), bindings);
    let mut site = Site::start(start, &[("NATS_URL", &url)]);
    let pause = Duration::from_millis(100);
    site.click_for(Duration::from_secs(1), pause).await;
    nats.kill();
    site.click_for(Duration::from_secs(60), pause).await;
    site.until_it_says("outbox: ").await;
    nats.start_again();
    let watch = Stopwatch::start();
    // There are no more clicks: the alarm alone wakes the shard.
    let queue = EdgeQueue::open(&config, false).await.unwrap();
    Queued::take(&queue, &site.clicked).await.assert_whole();
    // The shard itself answers in milliseconds, and no redirect waits for it longer than
    // REDIRECT_WAIT_MS, 500. A redirect that took nearly that long has waited for something that
    // was not there. A busy machine may delay one in a hundred.
    let (clicks, slowest) = (site.took.len(), site.took.iter().max());
    eprintln!("{clicks} clicks, all there {:?} after, the slowest {slowest:?}", watch.elapsed());
    let slow = site.took.iter().filter(|took| **took > Duration::from_millis(450)).count();
    assert!(slow * 100 <= clicks, "{slow} of {clicks} redirects waited, {slowest:?}");
}

/// The pair of the documentation of `nk`.
const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
/// Another user's.
const OTHER: &str = "SUAAAAICAMCAKBQHBAEQUCYMBUHA6EARCIJRIFIWC4MBSGQ3DQOR4H776Y";

/// A server that speaks only TLS, to an edge with an nkey and the rights that docs/worker.md names,
/// and to a collector; and how the collector logs in.
fn with_tls(dir: &Path) -> (NatsServer, JetStreamConfig) {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let certificate = write("ca.pem", &own.cert.pem());
    let key = write("key.pem", &own.signing_key.serialize_pem());
    let password = write("password", "secret");
    let (public, _) = nkey::sign(&nkey::seed(SEED).unwrap(), b"");
    let more = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\" }}\n\
         authorization {{ users = [ {{ user: collector, password: secret }}, {{ nkey: {public}, \
         permissions: {{ publish: [\"countersign.edge.w\"], subscribe: [\"_INBOX.>\"] }} }} ] }}\n",
        certificate.display(),
        key.display(),
    );
    let nats = NatsServer::start_with(&dir.join("nats"), &more, &[]);
    let mut config =
        JetStreamConfig::new(nats.url().replace("nats://127.0.0.1", "tls://localhost"), 1);
    config.ca = Some(certificate);
    config.login = Some(("collector".to_owned(), password));
    (nats, config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_tls_with_an_nkey() {
    let dir = tempfile::tempdir().unwrap();
    let (_nats, config) = with_tls(dir.path());
    let queue = EdgeQueue::open(&config, true).await.unwrap();
    let ca = config.ca.as_deref().unwrap();
    let trusting = |bindings: &[(&str, &str)]| {
        Workerd::start_trusting(&dir.path().join("worker"), ca, bindings)
    };
    let bindings = [("NATS_URL", config.url.as_str()), ("NATS_NKEY_SEED", OTHER)];
    let mut site = Site::start(trusting, &bindings);
    site.click().await;
    site.until_it_says("Authorization Violation").await;
    // What waited goes out when the key is the right one.
    site.worker.kill();
    site.worker.start_again_with("NATS_NKEY_SEED", SEED);
    for _ in 0..20 {
        site.click().await;
    }
    Queued::take(&queue, &site.clicked).await.assert_whole();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_trusted_certificate_is_told_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_nats, config) = with_tls(dir.path());
    let queue = EdgeQueue::open(&config, true).await.unwrap();
    let start = |bindings: &[(&str, &str)]| Workerd::start(&dir.path().join("worker"), bindings);
    let bindings = [("NATS_URL", config.url.as_str()), ("NATS_NKEY_SEED", SEED)];
    let mut site = Site::start(start, &bindings);
    site.click().await;
    site.until_it_says("outbox: ").await;
    // It does not go on without TLS, either, where TLS was asked for.
    site.worker.kill();
    let plain = config.url.replace("tls://", "nats://");
    site.worker.start_again_with("NATS_URL", &plain);
    site.click().await;
    site.until_it_says("the server wants TLS").await;
    assert_eq!(queue.depth().await.unwrap(), 0);
}
