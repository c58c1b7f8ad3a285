//! The target of a hostile sender: one process that does everything, or the roles around a real
//! nats-server. Tests ask and observe both in the same way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use eventlog::LogError;
use eventlog::nats::{Documents, EDGE_BATCH_BYTES_MAX, EdgeQueue, JetStreamConfig};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use shared::ambient::{Stopwatch, SystemClock};
use shared::keys::{EdgeKeys, KeyStore, request};
use shared::token::Signer;
use shared::wire::bundle;
use shared::{Clock as _, EdgeId, Id, IssuerId};

use crate::process::{BROWSER, KEY, PATIENCE, Server, binary, run};
use crate::world::{Role, World};
use crate::{duckdb, recount};

/// The hostile issuer, and its own edge.
pub(super) const ISSUER: IssuerId = Id::literal("mallory");
pub(super) const EDGE: EdgeId = Id::literal("m");
/// The honest edge.
pub(super) const VICTIM: EdgeId = Id::literal("edge");

/// How many requests, or batches on their way to the queue, there are at once.
const AT_ONCE: usize = 256;

/// The answer to a batch: its status over HTTP, and the name of the refusal.
pub(super) type Answer = (Option<u16>, String);

pub(super) struct Target {
    pub(super) http: reqwest::Client,
    /// The operator's side of the process that counts.
    pub(super) api: String,
    /// The honest edge.
    pub(super) edge: String,
    /// Where batches go over HTTP.
    gateway: String,
    /// The archive's directory, and that of everything else.
    data: PathBuf,
    way: Way,
}

#[expect(clippy::large_enum_variant, reason = "there is one of it at a time")]
enum Way {
    Local { server: Server, flags: [String; 3] },
    Nats { queue: EdgeQueue, url: String, edge: Role, centre: [Role; 2], _world: World },
}

/// Packs batches as an edge does when several wait: some go together in one message. What looks
/// like a bundle itself goes as it is.
fn messages(batches: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    const TOGETHER: usize = 20;
    let mut messages: Vec<Vec<Vec<u8>>> = Vec::new();
    let fits = |batch: &[u8]| batch.len() <= EDGE_BATCH_BYTES_MAX / (TOGETHER + 1);
    let goes_along = |batch: &[u8]| fits(batch) && !batch.starts_with(b"CSU");
    for batch in batches {
        match messages.last_mut() {
            Some(last) if last.len() < TOGETHER && goes_along(&batch) && goes_along(&last[0]) => {
                last.push(batch);
            }
            _ => messages.push(vec![batch]),
        }
    }
    let message = |mut batches: Vec<Vec<u8>>| match batches.len() {
        1 => batches.remove(0),
        _ => bundle::join(&batches),
    };
    messages.into_iter().map(message).collect()
}

impl Target {
    pub(super) fn local(dir: &Path) -> Self {
        let flags = recount::flags(dir);
        let data = dir.join("data");
        let server = Server::start_with(&data, None, &flags.each_ref().map(String::as_str));
        let (edge, api, http) = (server.edge.clone(), server.api.clone(), server.http.clone());
        Self { http, gateway: api.clone(), api, edge, data, way: Way::Local { server, flags } }
    }

    pub(super) async fn roles(dir: &Path) -> Self {
        let world = World::new(dir);
        let (edge, centre) = (world.edge(VICTIM.as_str()), [world.collector(), world.aggregator()]);
        let url = world.nats.url();
        let queue = EdgeQueue::open(&config(&url), false).await.unwrap();
        Self {
            http: world.http.clone(),
            api: centre[1].url("api").to_owned(),
            edge: edge.url("edge").to_owned(),
            gateway: centre[0].url("api").to_owned(),
            data: dir.join("counts"),
            way: Way::Nats { queue, url, edge, centre, _world: world },
        }
    }

    /// A size, in bytes, that it does not take as one message.
    pub(super) fn large(&self) -> usize {
        match self.way {
            Way::Local { .. } => 1_500_000,
            // NATS itself refuses more than a MiB.
            Way::Nats { .. } => 1_000_000,
        }
    }

    /// Runs a command of the operator's; returns what it printed.
    pub(super) fn operate(&self, args: &[&str]) -> String {
        let mut command = binary();
        command.args(args);
        match &self.way {
            Way::Local { server, .. } => command.arg("--data").arg(&server.data),
            Way::Nats { url, .. } => command.args(["--log", url]),
        };
        let (code, said, err) = run(&mut command);
        assert_eq!(code, Some(0), "{args:?}: {said}{err}");
        said
    }

    /// The keys that an edge of the hostile issuer is given.
    pub(super) async fn keys(&self) -> EdgeKeys {
        match &self.way {
            Way::Local { server, .. } => {
                let keys = std::fs::read(server.data.join("keys.json")).unwrap();
                serde_json::from_slice::<KeyStore>(&keys).unwrap().for_edge(ISSUER).unwrap()
            }
            Way::Nats { url, .. } => {
                let documents = Documents::open(&config(url), false).await.unwrap();
                let keys = documents.get(&format!("keys-edge-{ISSUER}")).await.unwrap();
                serde_json::from_slice(&keys.unwrap().bytes).unwrap()
            }
        }
    }

    /// Sends batches the way that its edges do.
    pub(super) async fn send(&self, keys: &EdgeKeys, batches: Vec<Vec<u8>>) -> Vec<Answer> {
        match &self.way {
            Way::Local { .. } => self.post(keys, batches).await,
            Way::Nats { queue, .. } => self.put(queue, batches).await,
        }
    }

    /// Over HTTP, signed.
    pub(super) async fn post(&self, keys: &EdgeKeys, batches: Vec<Vec<u8>>) -> Vec<Answer> {
        let signer = Signer::new(&keys.own[0].0);
        let send = async |batch: Vec<u8>| {
            let now = SystemClock.now();
            let field = request::sign(&signer, keys.deployment, "/v1/batches", &batch, now);
            let post = self.http.post(format!("{}/v1/batches", self.gateway));
            let post = post.header(request::FIELD, field);
            let post = post.header(request::BODY_FIELD, request::body_field(&batch));
            let post = post.header("content-type", "application/octet-stream").body(batch);
            let reply = post.send().await.unwrap();
            let status = reply.status().as_u16();
            let body: Value = reply.json().await.unwrap();
            let name = body["type"].as_str().unwrap_or("taken");
            (Some(status), name.trim_start_matches("urn:countersign:").to_owned())
        };
        // They overlap, but in order: the first is taken before the last is sent.
        stream::iter(batches.into_iter().map(send)).buffered(AT_ONCE).collect().await
    }

    /// Sends over NATS, where no batch is answered: the collector's metrics tell what became of
    /// each.
    async fn put(&self, queue: &EdgeQueue, batches: Vec<Vec<u8>>) -> Vec<Answer> {
        const REFUSED: &str = "countersign_collector_refused_batches_total{reason=\"";
        const DEAD: &str = "countersign_collector_dead_letters_total";
        let before = self.metrics(&self.gateway).await;
        let count = batches.len();
        let messages = messages(batches);
        // An edge has a bounded number of places in the queue, so it tries again, as an outbox
        // does. A message larger than any is refused by the queue: false.
        let put = async |message: Vec<u8>| {
            loop {
                match queue.put(EDGE.as_str(), message.clone().into()).await {
                    Ok(()) => break true,
                    Err(LogError::TooLarge { .. }) => break false,
                    Err(why) => assert!(why.is_retryable(), "{why}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let puts = stream::iter(messages.into_iter().map(put)).buffered(AT_ONCE);
        let large = puts.filter(|put| std::future::ready(!put)).count().await;
        let watch = Stopwatch::start();
        while queue.depth().await.unwrap() > 0 {
            assert!(watch.elapsed() < PATIENCE, "the queue does not become empty");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let after = self.metrics(&self.gateway).await;
        let more = |name: &str| after.get(name).unwrap_or(&0) - before.get(name).unwrap_or(&0);
        let mut answers = Vec::new();
        let mut add = |name: &str, count: u64| {
            answers.extend((0..count).map(|_| (None, name.to_owned())));
        };
        let mut dead = more(DEAD);
        add("batch_too_large", large as u64);
        add("taken", (count - large) as u64 - dead);
        for name in after.keys().filter_map(|name| name.strip_prefix(REFUSED)) {
            let name = name.trim_end_matches("\"}");
            let refused = more(&format!("{REFUSED}{name}\"}}"));
            add(name, refused);
            dead -= refused;
        }
        add("malformed", dead);
        answers
    }

    /// A process's metrics: all samples that are whole numbers.
    pub(super) async fn metrics(&self, side: &str) -> std::collections::BTreeMap<String, u64> {
        let text = self.get(&format!("{side}/metrics")).await.1;
        let samples = text.lines().filter_map(|line| line.rsplit_once(' '));
        samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
    }

    pub(super) async fn get(&self, url: &str) -> (u16, String) {
        let reply = self.http.get(url).bearer_auth(KEY).send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    }

    /// Sends events to the honest edge as a page does.
    pub(super) async fn tell(&self, events: &Value) -> (u16, String) {
        let post = self.http.post(format!("{}/v1/events", self.edge));
        let post = post.header("content-type", "text/plain");
        let reply = post.body(json!({ "events": events }).to_string()).send().await.unwrap();
        (reply.status().as_u16(), reply.text().await.unwrap())
    }

    /// Another visitor than before follows a link.
    pub(super) async fn click(&self, link: &str, visitor: u64) -> u16 {
        let agent = format!("{BROWSER} {visitor}");
        let click = self.http.get(link).header("user-agent", agent).send().await.unwrap();
        click.status().as_u16()
    }

    /// Serves an ad.
    pub(super) async fn serve(&self) -> Value {
        let (status, ad) = self.get(&format!("{}/v1/serve?placement=demo-top", self.edge)).await;
        assert_eq!(status, 200, "{ad}");
        serde_json::from_str(&ad).unwrap()
    }

    /// Asks until the answer is as wanted.
    pub(super) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let watch = Stopwatch::start();
        loop {
            let (status, text) = self.get(&format!("{}{path}", self.api)).await;
            let answer: Value = serde_json::from_str(&text).unwrap_or_default();
            if status == 200 && wanted(&answer) {
                return answer;
            }
            assert!(watch.elapsed() < Duration::from_secs(20), "{path}: {status} {text:.2000}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The memory of its largest process, in MiB.
    pub(super) fn resident_mib(&self) -> u64 {
        let ids = match &self.way {
            Way::Local { server, .. } => vec![server.id()],
            Way::Nats { edge, centre: [collector, aggregator], .. } => {
                [edge, collector, aggregator].map(|role| role.child.id()).to_vec()
            }
        };
        ids.into_iter().map(crate::process::resident_kib).max().unwrap() / 1024
    }

    /// kill -9 of the processes that take and count; returns how long it takes until questions are
    /// answered again.
    pub(super) async fn kill_and_restart(&mut self) -> Duration {
        let watch = Stopwatch::start();
        match &mut self.way {
            Way::Local { server, flags } => {
                server.kill_and_restart_with(&flags.each_ref().map(String::as_str));
            }
            Way::Nats { centre, .. } => {
                centre.iter_mut().for_each(Role::kill);
                centre.iter_mut().for_each(Role::start_again);
            }
        }
        self.until("/readyz", |_| true).await;
        watch.elapsed()
    }

    /// Checks that both counts agree on everything since the horizon, except that the hostile edge
    /// has sent a number twice.
    pub(super) fn recount(&self) {
        let mut recount = recount::recount_of(&self.api, &self.data);
        let (code, said, err) = run(recount.args(recount::since(8 * 24 * 60)));
        assert!(code == Some(1) && !said.contains("DIFFERENCES"), "{code:?} {said}{err}");
        let conflicts: Vec<_> = said.lines().filter(|line| line.contains("CONFLICT:")).collect();
        let its_own = format!("edge {EDGE} ");
        assert!(conflicts.len() == 1 && conflicts[0].contains(&its_own), "{said}");
    }

    /// Checks that the SQL agrees with the recount.
    pub(super) async fn recount_in_sql(&self, folder: &Path) {
        let Way::Local { server, .. } = &self.way else { return };
        let now = SystemClock.now().minute().0;
        let differences = duckdb::differences(server, folder, now - 8 * 1_440..now + 10).await;
        // There is a row for each partition to which the number's two contents came.
        assert_eq!(differences.len(), 3, "{differences:#?}");
        assert!(differences.iter().all(|row| row.contains("two contents")), "{differences:#?}");
    }
}

fn config(url: &str) -> JetStreamConfig {
    JetStreamConfig::new(url, 1)
}
