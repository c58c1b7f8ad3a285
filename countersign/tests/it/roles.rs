//! The roles as processes of their own around a real nats-server.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use eventlog::nats::server::NatsServer;
use serde_json::{Value, json};
use shared::ambient::Stopwatch;

use crate::process::{KEY, PATIENCE, binary, browser, run};
use crate::world::{CATALOGUE, Role, World};

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
    // A wrong role tells which one answers.
    for (role, path, hint) in [
        (&collector, "/v1/accounting?from=0&to=60", "this is a collector; an aggregator answers"),
        (&aggregator, "/v1/deadletters", "this is an aggregator; a collector answers"),
        (&a, "/v1/edges", "this is an edge; an aggregator answers"),
    ] {
        let (status, text) = world.get(&format!("{}{path}", role.url("api"))).await;
        assert!(status == 404 && text.contains(hint), "{path}: {status} {text}");
    }
    // Edges end first and leave nothing behind: what they hold goes to the collectors.
    world.click(&a).await;
    for role in [&mut a, &mut b] {
        role.signal("-TERM");
        assert_eq!(role.wait(), Some(0));
    }
    // Both edges are closed: no minute waits for them.
    let closed = |answer: &Value| answer["counted"] == 6 && answer["behind"] == 0;
    world.until(&live, closed).await;
    for role in [&mut collector, &mut aggregator] {
        role.signal("-TERM");
        assert_eq!(role.wait(), Some(0));
    }
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
    // A revoked key is no longer believed, by edges and collectors that keep running.
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
    // A second `init` changes nothing, and shows no key.
    let (code, said, _) = init(&[]);
    assert!(
        code == Some(0) && said.contains("made before") && !said.contains("cs_admin"),
        "{said}"
    );
    let (code, _, said) = init(&["--partitions", "8"]);
    assert!(code == Some(2) && said.contains("fixed"), "{code:?} {said}");
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
    // Both edges are waited for, since this range ends in the future.
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
    // A retired edge comes back: its redirects go on, but nothing of it counts.
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
    let answer = world.until(&world.live(&aggregator), gap).await;
    assert_eq!((&answer["adds_up"], &answer["because"]), (&false.into(), &json!(["gaps"])));
    let command = |args: &[&str]| {
        let mut command = binary();
        command.arg("deadletter").args(args);
        run(command.args(["--key", KEY, "--api", collector.url("api")]))
    };
    let (code, said, err) = command(&["list"]);
    assert_eq!(code, Some(0), "{said}{err}");
    assert!(said.contains("ghost/1/1") && said.contains("bytes after the end"), "{said}");
    assert!(said.contains("operator"), "{said}");
    let (_, said, _) = command(&["list", "--json"]);
    let found: Value = serde_json::from_str(&said).unwrap();
    let first = found["letters"][0]["sequence"].to_string();
    let second = found["letters"][1]["sequence"].to_string();
    let (_, said, err) = command(&["show", &second]);
    assert_eq!((said.as_str(), err.as_str()), ("nothing of ours", "sender: operator\n"));
    let (code, _, said) = command(&["show", "77"]);
    assert!(code == Some(2) && said.contains("no dead letter 77"), "{code:?} {said}");
    for letter in [&first, &second] {
        let (code, said, err) = command(&["resolve", letter]);
        assert_eq!(code, Some(0), "{said}{err}");
    }
    let answer = world.until(&world.live(&aggregator), |answer| answer["gaps"].is_null()).await;
    assert_eq!((&answer["adds_up"], &answer["because"]), (&false.into(), &json!(["given_up"])));
    assert_eq!(answer["given_up"], 1, "{answer}");
    let edges = ["edges", "list", "--key", KEY, "--api", aggregator.url("api")];
    let (_, said, err) = run(binary().args(edges));
    let ghost = said.lines().find(|line| line.starts_with("ghost")).unwrap_or_default();
    assert!(ghost.split_whitespace().nth(1) == Some("edge"), "whose it is: {said}{err}");
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
    // NATS reads a relative path from the folder of its own config.
    std::fs::create_dir(dir.path().join("nats")).unwrap();
    std::fs::copy(ACCOUNTS, dir.path().join("nats/accounts.conf")).unwrap();
    let include = "include ./accounts.conf\n";
    let nats = NatsServer::start_with(&dir.path().join("nats"), include, &environment);
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
    let (code, said, err) = run(binary().args([
        "init",
        "--edge",
        "edge-a",
        "--partitions",
        "4",
        "--config",
        &operator,
    ]));
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
    // Under another edge's name the queue takes none of its batches: the edge says so, and goes on.
    let own = format!("data = '{}'\n[edge]\nname = 'edge-b'", dir.path().join("b").display());
    let misnamed = Misnamed::start(&config("edge-a", "misnamed.toml", &own), dir.path());
    let collector = start("collector", config("collector", "collector.toml", ""));
    let counts = format!("data = '{}'", dir.path().join("counts").display());
    let mut aggregator = start("aggregator", config("aggregator", "aggregator.toml", &counts));
    let http = browser().build().unwrap();
    let world = World { dir: dir.path().to_owned(), nats, http };
    world.click(&edge).await;
    let answer = world.until(&world.live(&aggregator), |answer| answer["counted"] == 2).await;
    assert_eq!(answer["adds_up"], true, "{answer}");
    let (code, said, err) =
        run(binary().args(["deadletter", "list", "--key", KEY, "--api", collector.url("api")]));
    assert_eq!(code, Some(0), "{said}{err}");
    aggregator.signal("-TERM");
    assert_eq!(aggregator.wait(), Some(0));
    // An edge cannot have another issuer's keys.
    let own = format!(
        "data = '{}'\n[edge]\nname = 'edge-a'\nissuer = 'other'",
        dir.path().join("thief").display()
    );
    let thief = config("edge-a", "thief.toml", &own);
    let mut thief = asks_for_an_edge(&thief);
    let (code, said, _) = run(&mut thief);
    assert!(code.is_some_and(|code| code != 0), "{code:?} {said}");
    misnamed.until_told();
    drop((edge, collector));
    an_answer_goes_nowhere_else(&url);
    // A wrong password is reported at once, and not tried for ever.
    std::fs::write(dir.path().join("collector.password"), "wrong").unwrap();
    let path = dir.path().join("collector.toml").display().to_string();
    let (code, _, said) =
        run(binary().args(["collector", "--api-listen", "127.0.0.1:0", "--config", &path]));
    assert!(code == Some(2) && said.contains("refuses the credentials"), "{code:?} {said}");
}

fn asks_for_an_edge(config: &str) -> Command {
    let mut command = binary();
    let free = "127.0.0.1:0";
    command.args(["edge", "--edge-listen", free, "--api-listen", free, "--config", config]);
    command
}

/// An edge under a name that its user may not use.
struct Misnamed {
    child: Child,
    log: PathBuf,
}

impl Misnamed {
    fn start(config: &str, dir: &Path) -> Self {
        let log = dir.join("misnamed.log");
        let mut command = asks_for_an_edge(config);
        command.stdout(Stdio::null()).stderr(std::fs::File::create(&log).unwrap());
        Self { child: command.spawn().unwrap(), log }
    }

    fn until_told(mut self) {
        let watch = Stopwatch::start();
        while !std::fs::read_to_string(&self.log).unwrap().contains("under its own name only") {
            assert!(watch.elapsed() < PATIENCE, "nobody is told");
            std::thread::sleep(Duration::from_millis(100));
        }
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// NATS checks the subject that a user publishes to, but not where the answer is to go. An answer
/// must still go nowhere else.
fn an_answer_goes_nowhere_else(url: &str) {
    let mut operator = RawNats::connect(url, "operator");
    let mut edge = RawNats::connect(url, "edge-a");
    // The names of the streams, and the last sequence of each.
    let streams = |operator: &mut RawNats| {
        let list: Value = serde_json::from_str(&operator.ask("$JS.API.STREAM.LIST")).unwrap();
        let streams = list["streams"].as_array().unwrap().iter();
        let last = |stream: &Value| {
            (stream["config"]["name"].clone(), stream["state"]["last_seq"].clone())
        };
        let mut streams: Vec<_> = streams.map(last).collect();
        streams.sort_by_key(|(name, _)| name.to_string());
        streams
    };
    let before = streams(&mut operator);
    assert!(before.len() > 5, "{before:?}");
    let keys = "$JS.API.DIRECT.GET.KV_countersign.$KV.countersign.keys-edge-edge";
    let targets = [
        "$KV.countersign.keys",
        "$KV.countersign.keys-edge-edge",
        "$KV.countersign.operator",
        "$KV.countersign.aggregator",
        "countersign.events.0",
        "countersign.edge.edge-a",
        "countersign.edge.edge-b",
        "countersign.dead",
    ];
    for target in targets {
        for subject in [keys, "$JS.API.STREAM.INFO.EDGE", "$JS.API.INFO"] {
            edge.publish(subject, target, "");
        }
        edge.publish(target, target, "from elsewhere");
    }
    edge.publish("countersign.edge.edge-a", "$KV.countersign.keys", "no batch");
    assert!(edge.ask(keys).contains("edge"));
    // The edge may send what it likes under its own subject, also answers.
    let but_edge = |streams: &[(Value, Value)]| {
        streams.iter().filter(|(name, _)| name != "EDGE").cloned().collect::<Vec<_>>()
    };
    assert_eq!(but_edge(&streams(&mut operator)), but_edge(&before));
    let told = operator.ask_with("$JS.API.STREAM.INFO.EDGE", r#"{"subjects_filter":">"}"#);
    let told: Value = serde_json::from_str(&told).unwrap();
    let subjects: Vec<_> = told["state"]["subjects"].as_object().unwrap().keys().collect();
    assert_eq!(subjects, ["countersign.edge.edge-a"]);
}

/// A client that sends raw lines, as a hostile one may.
struct RawNats {
    lines: std::io::BufReader<std::net::TcpStream>,
}

impl RawNats {
    fn connect(url: &str, user: &str) -> Self {
        let stream = std::net::TcpStream::connect(url.strip_prefix("nats://").unwrap()).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let mut client = Self { lines: std::io::BufReader::new(stream) };
        client.say(&format!(
            "CONNECT {{\"verbose\":false,\"headers\":true,\"user\":\"{user}\",\"pass\":\"password-of-{user}\"}}\r\n\
             SUB INBOX.raw 1\r\nPING\r\n"
        ));
        client.until("PONG");
        client
    }

    fn say(&mut self, text: &str) {
        std::io::Write::write_all(self.lines.get_mut(), text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut self.lines, &mut line).unwrap();
        line
    }

    fn until(&mut self, word: &str) -> String {
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "the server has closed the connection");
            if line.starts_with(word) {
                return line;
            }
        }
    }

    /// Returns when the server has read it.
    fn publish(&mut self, subject: &str, reply: &str, payload: &str) {
        self.say(&format!("PUB {subject} {reply} {}\r\n{payload}\r\nPING\r\n", payload.len()));
        self.until("PONG");
    }

    fn ask(&mut self, subject: &str) -> String {
        self.ask_with(subject, "")
    }

    /// Sends a request; returns the answer, with the fields of its head.
    fn ask_with(&mut self, subject: &str, payload: &str) -> String {
        self.say(&format!("PUB {subject} INBOX.raw {}\r\n{payload}\r\n", payload.len()));
        let head = loop {
            let line = self.line();
            if line.starts_with("MSG") || line.starts_with("HMSG") {
                break line;
            }
            assert!(!line.is_empty(), "the server has closed the connection");
        };
        let bytes: usize = head.split_whitespace().last().unwrap().parse().unwrap();
        let mut payload = vec![0; bytes + 2];
        std::io::Read::read_exact(&mut self.lines, &mut payload).unwrap();
        String::from_utf8_lossy(&payload).into_owned()
    }
}
