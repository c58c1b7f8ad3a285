//! The roles as processes of their own around a real nats-server.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use eventlog::jetstream::server::NatsServer;
use serde_json::Value;
use shared::ambient::Stopwatch;

use crate::link::{Link, State};
use crate::process::{KEY, PATIENCE, binary, random_moment, run};

const REAL_LOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/obd_bts_men.csv");
/// The days of the log.
const DAYS: &str = "/v1/accounting?from=1574208000&to=1575504000";
const CATALOGUE: &str = include_str!("../../src/up/demo/catalogue.toml");

/// A role that runs; ended with -9 when it is dropped.
struct Role {
    child: Child,
    args: Vec<String>,
    /// What it said where it listens: `edge`, `api`.
    urls: Vec<(String, String)>,
}

impl Role {
    /// `ports` are those of one before, or free ones.
    fn start(args: Vec<String>, before: &[(String, String)]) -> Self {
        let address = |name: &str| {
            let known = before.iter().find(|(known, _)| known == name);
            known.map_or("127.0.0.1:0", |(_, url)| url.trim_start_matches("http://")).to_owned()
        };
        let mut command = binary();
        command.args(&args).args(["--api-listen", &address("api")]);
        let listeners = if args[0] == "edge" {
            command.args(["--edge-listen", &address("edge")]);
            2
        } else {
            1
        };
        command.env("COUNTERSIGN_ADMIN_KEY", KEY).env("RUST_LOG", "warn");
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let urls = (0..listeners).map(|_| {
            let mut line = String::new();
            assert!(lines.read_line(&mut line).unwrap() > 0, "it ended: {:?}", child.try_wait());
            let (name, url) = line.trim().split_once(" listening on ").expect("an address");
            (name.to_owned(), url.to_owned())
        });
        let urls = urls.collect();
        std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
        Self { child, args, urls }
    }

    fn url(&self, name: &str) -> &str {
        &self.urls.iter().find(|(known, _)| known == name).unwrap().1
    }

    fn kill(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// On the same addresses, after it has ended.
    fn start_again(&mut self) {
        let (args, urls) = (std::mem::take(&mut self.args), std::mem::take(&mut self.urls));
        *self = Self::start(args, &urls);
    }

    fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    /// How it ends, which is soon.
    fn wait(&mut self) -> Option<i32> {
        let watch = Stopwatch::start();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(watch.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A deployment.
struct World {
    dir: PathBuf,
    nats: NatsServer,
    http: reqwest::Client,
}

impl World {
    fn new(dir: &Path) -> Self {
        let nats = NatsServer::start(&dir.join("nats"));
        let (code, said, err) =
            run(binary().args(["init", "--partitions", "4", "--log", &nats.url()]));
        assert_eq!(code, Some(0), "{said}{err}");
        assert!(said.contains("4 partitions") && said.contains("cs_admin_"), "{said}");
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { dir: dir.to_owned(), nats, http }
    }

    fn edge(&self, name: &str) -> Role {
        self.edge_at(name, &self.nats.url())
    }

    fn edge_at(&self, name: &str, url: &str) -> Role {
        let data = self.dir.join(name);
        std::fs::create_dir_all(&data).unwrap();
        let catalogue = CATALOGUE.replace("{site}", "http://127.0.0.1:9");
        std::fs::write(data.join("catalogue.toml"), catalogue).unwrap();
        let data = data.display().to_string();
        let args = ["edge", "--log", url, "--name", name, "--data", &data];
        Role::start(args.map(str::to_owned).to_vec(), &[])
    }

    fn collector(&self) -> Role {
        let args = ["collector", "--log", &self.nats.url()];
        Role::start(args.map(str::to_owned).to_vec(), &[])
    }

    /// Both of two count into the same directory; one at a time has it.
    fn aggregator(&self) -> Role {
        let data = self.dir.join("counts").display().to_string();
        let args = ["aggregator", "--log", &self.nats.url(), "--data", &data];
        Role::start(args.map(str::to_owned).to_vec(), &[])
    }

    async fn get(&self, url: &str) -> (u16, String) {
        match self.http.get(url).bearer_auth(KEY).send().await {
            Ok(reply) => (reply.status().as_u16(), reply.text().await.unwrap_or_default()),
            Err(error) => (0, error.to_string()),
        }
    }

    /// Asks until the answer is 200 and as wanted.
    async fn until(&self, url: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let watch = Stopwatch::start();
        loop {
            let (status, text) = self.get(url).await;
            let answer: Value = serde_json::from_str(&text).unwrap_or_default();
            if status == 200 && wanted(&answer) {
                return answer;
            }
            assert!(watch.elapsed() < PATIENCE, "{url}: {status} {text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn click(&self, edge: &Role) {
        let url = format!("{}/v1/serve?placement=demo-top", edge.url("edge"));
        let (status, text) = self.get(&url).await;
        assert_eq!(status, 200, "{text}");
        let ad: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(self.get(ad["click_url"].as_str().unwrap()).await.0, 302);
    }

    /// The account of what was just done.
    fn live(&self, aggregator: &Role) -> String {
        use shared::Clock as _;
        let now = shared::ambient::SystemClock.now().minute().0;
        let (from, to) = ((now - 10) * 60, (now + 10) * 60);
        format!("{}/v1/accounting?from={from}&to={to}", aggregator.url("api"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_click_goes_through_all_roles_and_each_ends_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    let (mut a, mut b) = (world.edge("a"), world.edge("b"));
    let (mut collector, mut aggregator) = (world.collector(), world.aggregator());
    world.click(&a).await;
    world.click(&b).await;
    let live = world.live(&aggregator);
    let answer = world.until(&live, |answer| answer["counted"] == 4).await;
    assert_eq!((&answer["adds_up"], &answer["received"]), (&true.into(), &4.into()), "{answer}");
    for (role, path, status) in [
        (&a, "/healthz", 200),
        (&a, "/metrics", 200),
        (&collector, "/readyz", 200),
        (&collector, "/metrics", 200),
        (&aggregator, "/readyz", 200),
    ] {
        assert_eq!(world.get(&format!("{}{path}", role.url("api"))).await.0, status, "{path}");
    }
    // Edges first, and nothing is left behind: what they hold goes to the others.
    world.click(&a).await;
    for role in [&mut a, &mut b] {
        role.signal("-TERM");
        assert_eq!(role.wait(), Some(0));
    }
    // Both are closed: nobody is waited for.
    let closed = |answer: &Value| answer["counted"] == 6 && answer["behind"] == 0;
    world.until(&live, closed).await;
    for role in [&mut collector, &mut aggregator] {
        role.signal("-TERM");
        assert_eq!(role.wait(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_every_role_and_of_nats_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path());
    let mut edges = [world.edge("a"), world.edge("b")];
    let mut collectors = [world.collector(), world.collector()];
    let mut aggregators = [world.aggregator(), world.aggregator()];
    let join = |roles: &[Role], name: &str| {
        roles.iter().map(|role| role.url(name).to_owned()).collect::<Vec<_>>().join(",")
    };
    let (edge, api) = (join(&edges, "edge"), join(&aggregators, "api"));
    let gateway = join(&collectors, "api");
    let mut simulate = binary();
    simulate.args(["simulate", "--edge", &edge, "--api", &api, "--key", KEY]);
    simulate.args(["--rate", "30", "--seconds", "12", "--seed", "5"]);
    let simulate = std::thread::spawn(move || run(&mut simulate));
    let import = || {
        let mut import = binary();
        import.args(["import", "--api", &api, "--collector", &gateway, "--key", KEY, REAL_LOG]);
        import
    };
    let mut first = import();
    let importing = std::thread::spawn(move || run(&mut first));
    for round in 0..7 {
        std::thread::sleep(random_moment(Duration::from_millis(1_500)));
        let role = match round {
            0 | 4 => &mut aggregators[round / 4],
            1 | 5 => &mut collectors[round / 5],
            2 | 6 => &mut edges[round / 6],
            _ => {
                world.nats.kill();
                std::thread::sleep(random_moment(Duration::from_millis(500)));
                world.nats.start_again();
                continue;
            }
        };
        role.kill();
        role.start_again();
    }
    let (code, said, err) = importing.join().unwrap();
    assert_eq!(code, Some(0), "{said}{err}");
    let (code, said, err) = simulate.join().unwrap();
    assert_eq!(code, Some(0), "{said}{err}");
    let (code, said, err) = run(&mut import());
    assert!(code == Some(0) && said.contains("0 sent now"), "{said}{err}");
    let mut counted = Vec::new();
    for aggregator in &aggregators {
        let (status, text) = world.get(&format!("{}{DAYS}", aggregator.url("api"))).await;
        match status {
            200 => counted.push(serde_json::from_str::<Value>(&text).unwrap()),
            503 => assert!(text.contains("stands by"), "{text}"),
            _ => panic!("{status} {text}"),
        }
    }
    let [answer] = &counted[..] else { panic!("one of two answers: {counted:?}") };
    assert_eq!((&answer["counted"], &answer["adds_up"]), (&10_069.into(), &true.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_takes_over_from_one_that_is_killed_and_one_that_sleeps() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    let (edge, _collector) = (world.edge("a"), world.collector());
    let mut first = world.aggregator();
    world.click(&edge).await;
    world.until(&world.live(&first), |answer| answer["counted"] == 2).await;
    let mut second = world.aggregator();
    let (status, text) = world.get(&format!("{}/readyz", second.url("api"))).await;
    assert_eq!(status, 503, "{text}");
    world.click(&edge).await;
    first.kill();
    let watch = Stopwatch::start();
    world.until(&world.live(&second), |answer| answer["counted"] == 4).await;
    eprintln!("taken over after {:?}", watch.elapsed());
    first.start_again();
    // One that does not run for a while does not know that it is too late: it must not answer.
    second.signal("-STOP");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    second.signal("-CONT");
    let (status, text) = world.get(&world.live(&second)).await;
    assert!(status != 200 || text.contains("\"counted\":4"), "{status} {text}");
    // It is killed before it can give anything back: the other one has the counts.
    second.signal("-STOP");
    tokio::time::sleep(Duration::from_millis(200)).await;
    second.kill();
    world.click(&edge).await;
    world.until(&world.live(&first), |answer| answer["counted"] == 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_starts_and_serves_while_nats_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path());
    let mut edge = world.edge("a");
    world.click(&edge).await;
    edge.kill();
    world.nats.kill();
    edge.start_again();
    world.click(&edge).await;
    world.nats.start_again();
    let (_collector, aggregator) = (world.collector(), world.aggregator());
    let answer = world.until(&world.live(&aggregator), |answer| answer["counted"] == 4).await;
    assert_eq!(answer["adds_up"], true, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_without_a_restart_or_a_loss() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    let (edge, _collector, aggregator) = (world.edge("a"), world.collector(), world.aggregator());
    let url = world.nats.url();
    let keys = |args: &[&str]| {
        let (code, said, err) = run(binary().arg("keys").args(args).args(["--log", &url]));
        assert_eq!(code, Some(0), "{said}{err}");
        said
    };
    world.click(&edge).await;
    keys(&["rotate", "--issuer", "edge", "--overlap", "1"]);
    let list: Vec<Value> = serde_json::from_str(&keys(&["list", "--json"])).unwrap();
    assert_eq!(list.len(), 2);
    // The old key signs until the new one is known everywhere, and a little longer.
    let mut clicks = 1;
    let watch = Stopwatch::start();
    while watch.elapsed() < Duration::from_secs(13) {
        world.click(&edge).await;
        clicks += 1;
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let answer = world.until(&world.live(&aggregator), |a| a["counted"] == 2 * clicks).await;
    assert_eq!((&answer["adds_up"], &answer["received"]), (&true.into(), &(2 * clicks).into()));
    // Revoked, it is believed no more, by edges and collectors that go on running.
    let new = list[1]["id"].as_str().unwrap();
    keys(&["revoke", new]);
    let url = format!("{}/v1/serve?placement=demo-top", edge.url("edge"));
    let watch = Stopwatch::start();
    while world.get(&url).await.0 == 200 {
        assert!(watch.elapsed() < PATIENCE, "the edge still signs with a revoked key");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn what_cannot_run_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(&dir.path().join("nats"));
    let collector =
        |args: &[&str]| run(binary().args(["collector", "--api-listen", "127.0.0.1:0"]).args(args));
    let (code, _, said) = collector(&[]);
    assert!(code == Some(2) && said.contains("--log nats://HOST:4222"), "{code:?} {said}");
    let (code, _, said) = collector(&["--log", &nats.url()]);
    assert!(code == Some(5) && said.contains("countersign init"), "{code:?} {said}");
    let init = |args: &[&str]| run(binary().args(["init", "--log", &nats.url()]).args(args));
    assert_eq!(init(&["--partitions", "4"]).0, Some(0));
    // Again changes nothing, and shows no key.
    let (code, said, _) = init(&[]);
    assert!(
        code == Some(0) && said.contains("made before") && !said.contains("cs_admin"),
        "{said}"
    );
    let (code, _, said) = init(&["--partitions", "8"]);
    assert!(code == Some(5) && said.contains("fixed"), "{code:?} {said}");
    let config = dir.path().join("c.toml");
    std::fs::write(&config, "[edge]\nname = 'a'\n").unwrap();
    let (code, _, said) = collector(&["--config", &config.display().to_string()]);
    assert!(code == Some(2) && said.contains("`countersign collector`"), "{code:?} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_edge_is_retired_and_what_still_comes_of_it_is_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    let (mut a, b) = (world.edge("a"), world.edge("b"));
    let (_collector, aggregator) = (world.collector(), world.aggregator());
    world.click(&a).await;
    world.click(&b).await;
    let live = world.live(&aggregator);
    // Both are waited for: this range ends in the future.
    world.until(&live, |answer| answer["counted"] == 4 && answer["behind"] == 2).await;
    a.kill();
    let url = world.nats.url();
    let (code, said, err) = run(binary().args(["edges", "retire", "a", "--log", &url]));
    assert_eq!(code, Some(0), "{said}{err}");
    world.until(&live, |answer| answer["behind"] == 1).await;
    let (code, said, err) =
        run(binary().args(["edges", "list", "--key", KEY, "--api", aggregator.url("api")]));
    assert_eq!(code, Some(0), "{said}{err}");
    assert!(said.contains("out of service since") && said.contains("counted up to"), "{said}");
    // It comes back: its redirects go on, and nothing of it counts.
    a.start_again();
    world.click(&a).await;
    let answer = world.until(&live, |answer| answer["reasons"]["edge_retired"] == 2).await;
    assert_eq!((&answer["counted"], &answer["adds_up"]), (&4.into(), &true.into()), "{answer}");
    assert_eq!(answer["behind"], 1, "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_cannot_be_decoded_is_a_dead_letter_and_a_gap_until_it_is_resolved() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    let (collector, aggregator) = (world.collector(), world.aggregator());
    let outbox = shared::OutboxId { edge: "ghost".parse().unwrap(), epoch: 1 };
    let now = {
        use shared::Clock as _;
        shared::ambient::SystemClock.now()
    };
    let post = async |bytes: Vec<u8>| {
        let request = world.http.post(format!("{}/v1/batches", collector.url("api")));
        let request = request.header("content-type", "application/octet-stream").bearer_auth(KEY);
        request.body(bytes).send().await.unwrap().status().as_u16()
    };
    for number in 0..3 {
        let (events, tallies) = (Vec::new(), Vec::new());
        let watermark = now;
        let batch = shared::wire::Batch { outbox, number, watermark, events, tallies };
        let mut bytes = batch.to_bytes();
        if number == 1 {
            bytes.push(0);
        }
        assert_eq!(post(bytes).await, if number == 1 { 400 } else { 202 });
    }
    assert_eq!(post(b"nothing of ours".to_vec()).await, 400);
    let gap = |answer: &Value| answer["gaps"][0]["missing"][0]["first"] == 1;
    world.until(&world.live(&aggregator), gap).await;
    let command = |args: &[&str]| {
        let mut command = binary();
        command.arg("deadletter").args(args);
        run(command.args(["--key", KEY, "--api", collector.url("api")]))
    };
    let (code, said, err) = command(&["list"]);
    assert_eq!(code, Some(0), "{said}{err}");
    assert!(said.contains("ghost/1/1") && said.contains("bytes after the end"), "{said}");
    let (_, said, _) = command(&["list", "--json"]);
    let found: Value = serde_json::from_str(&said).unwrap();
    let first = found["letters"][0]["sequence"].to_string();
    let second = found["letters"][1]["sequence"].to_string();
    assert_eq!(command(&["show", &second]).1, "nothing of ours");
    let (code, _, said) = command(&["show", "77"]);
    assert!(code == Some(2) && said.contains("no dead letter 77"), "{code:?} {said}");
    for letter in [&first, &second] {
        let (code, said, err) = command(&["resolve", letter]);
        assert_eq!(code, Some(0), "{said}{err}");
    }
    world.until(&world.live(&aggregator), |answer| answer["gaps"].is_null()).await;
    let (_, said, _) = command(&["list", "--json"]);
    let left: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(left["letters"], Value::Array(Vec::new()), "{said}");
}

/// The accounts that `docs/operations.md` recommends.
const ACCOUNTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/nats/accounts.conf");
const USERS: [&str; 5] = ["operator", "edge-a", "edge-b", "collector", "aggregator"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recommended_accounts_let_each_role_do_its_work_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let variable = |user: &str| format!("NATS_{}_PASSWORD", user.to_uppercase().replace('-', "_"));
    let environment = USERS.map(|user| (variable(user), format!("password-of-{user}")));
    let environment = environment.each_ref().map(|(name, value)| (name.as_str(), value.as_str()));
    let include = format!("include \"{ACCOUNTS}\"\n");
    let nats = NatsServer::start_with(&dir.path().join("nats"), &include, &environment);
    let url = nats.url();
    let config = |user: &str, name: &str, own: &str| {
        let password = dir.path().join(format!("{user}.password"));
        std::fs::write(&password, format!("password-of-{user}\n")).unwrap();
        let path = dir.path().join(name);
        let text = format!(
            "{own}\n[eventlog]\nurl = '{url}'\nuser = '{user}'\npassword_file = '{}'\n",
            password.display()
        );
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let operator = config("operator", "operator.toml", "");
    let (code, said, err) =
        run(binary().args(["init", "--partitions", "4", "--config", &operator]));
    assert_eq!(code, Some(0), "{said}{err}");
    let data = dir.path().join("a");
    std::fs::create_dir_all(&data).unwrap();
    let catalogue = CATALOGUE.replace("{site}", "http://127.0.0.1:9");
    std::fs::write(data.join("catalogue.toml"), catalogue).unwrap();
    let own = format!("data = '{}'\n[edge]\nname = 'edge-a'", data.display());
    let start = |role: &str, config: String| {
        Role::start(vec![role.to_owned(), "--config".to_owned(), config], &[])
    };
    let edge = start("edge", config("edge-a", "edge.toml", &own));
    let collector = start("collector", config("collector", "collector.toml", ""));
    let counts = format!("data = '{}'", dir.path().join("counts").display());
    let mut aggregator = start("aggregator", config("aggregator", "aggregator.toml", &counts));
    let http = reqwest::Client::builder().no_proxy();
    let http = http.redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let world = World { dir: dir.path().to_owned(), nats, http };
    world.click(&edge).await;
    let answer = world.until(&world.live(&aggregator), |answer| answer["counted"] == 2).await;
    assert_eq!(answer["adds_up"], true, "{answer}");
    let (code, said, err) =
        run(binary().args(["deadletter", "list", "--key", KEY, "--api", collector.url("api")]));
    assert_eq!(code, Some(0), "{said}{err}");
    aggregator.signal("-TERM");
    assert_eq!(aggregator.wait(), Some(0));
    // An edge under another one's name, and with another one's keys.
    for (own, what) in [
        ("[edge]\nname = 'edge-b'", "its inbox"),
        ("[edge]\nname = 'edge-a'\nissuer = 'other'", "its keys"),
    ] {
        let own = format!("data = '{}'\n{own}", dir.path().join("thief").display());
        let config = config("edge-a", "thief.toml", &own);
        let mut thief = binary();
        thief.args(["edge", "--config", &config, "--edge-listen", "127.0.0.1:0"]);
        let (code, said, _) = run(thief.args(["--api-listen", "127.0.0.1:0"]));
        assert_ne!(code, Some(0), "{what}: {said}");
    }
    // Wrong passwords are told at once, and not tried for ever.
    std::fs::write(dir.path().join("collector.password"), "wrong").unwrap();
    let path = dir.path().join("collector.toml").display().to_string();
    let (code, _, said) =
        run(binary().args(["collector", "--api-listen", "127.0.0.1:0", "--config", &path]));
    assert!(code == Some(2) && said.contains("refuses the credentials"), "{code:?} {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_nats_nodes_each_may_be_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = NatsServer::start_three(dir.path());
    let url = nodes.each_ref().map(NatsServer::url).join(",");
    let watch = Stopwatch::start();
    let init =
        || run(binary().args(["init", "--partitions", "2", "--replicas", "3", "--log", &url]));
    // Three that have just met have no leader yet.
    let mut done = init();
    while done.0 != Some(0) {
        assert!(watch.elapsed() < PATIENCE, "{done:?}");
        std::thread::sleep(Duration::from_millis(500));
        done = init();
    }
    let data = dir.path().join("a");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("catalogue.toml"), CATALOGUE.replace("{site}", "http://127.0.0.1:9"))
        .unwrap();
    let role = |args: &[&str]| {
        let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        args.extend(["--log".to_owned(), url.clone()]);
        Role::start(args, &[])
    };
    let edge = role(&["edge", "--name", "a", "--data", &data.display().to_string()]);
    let _collector = role(&["collector"]);
    let counts = dir.path().join("counts").display().to_string();
    let aggregator = role(&["aggregator", "--data", &counts]);
    let mut simulate = binary();
    simulate.args(["simulate", "--edge", edge.url("edge"), "--api", aggregator.url("api")]);
    simulate.args(["--key", KEY, "--rate", "20", "--seconds", "20", "--seed", "6"]);
    let simulate = std::thread::spawn(move || run(&mut simulate));
    // Each once: whoever leads a stream is among them.
    for node in &mut nodes {
        std::thread::sleep(random_moment(Duration::from_secs(2)));
        node.kill();
        std::thread::sleep(Duration::from_secs(2) + random_moment(Duration::from_secs(2)));
        node.start_again();
        std::thread::sleep(Duration::from_secs(2));
    }
    let (code, said, err) = simulate.join().unwrap();
    assert_eq!(code, Some(0), "{said}{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_between_any_role_and_nats_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    let url = world.nats.url();
    let links = [Link::to(&url).await, Link::to(&url).await, Link::to(&url).await];
    let [to_edge, to_collector, to_aggregator] = links.each_ref().map(Link::url);
    let edge = world.edge_at("a", &to_edge);
    let role = |args: &[&str]| Role::start(args.iter().map(|arg| (*arg).to_owned()).collect(), &[]);
    let _collectors = [role(&["collector", "--log", &to_collector]), world.collector()];
    let counts = dir.path().join("counts").display().to_string();
    let aggregator = role(&["aggregator", "--log", &to_aggregator, "--data", &counts]);
    let mut simulate = binary();
    simulate.args(["simulate", "--edge", edge.url("edge"), "--api", aggregator.url("api")]);
    simulate.args(["--key", KEY, "--rate", "30", "--seconds", "14", "--seed", "8"]);
    let simulate = std::thread::spawn(move || run(&mut simulate));
    for state in [State::Cut, State::Torn] {
        for link in &links {
            tokio::time::sleep(random_moment(Duration::from_millis(800))).await;
            link.set(state);
            tokio::time::sleep(random_moment(Duration::from_millis(2_800))).await;
            link.set(State::Whole);
        }
    }
    let (code, said, err) = simulate.join().unwrap();
    assert_eq!(code, Some(0), "{said}{err}");
}
