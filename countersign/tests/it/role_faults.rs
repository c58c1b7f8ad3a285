//! What the roles must survive: kill -9 of each of them, of NATS and of its nodes; links that are
//! cut.

use std::time::Duration;

use aggregator::store::s3_server;
use eventlog::nats::server::NatsServer;
use eventlog::nats::{EdgeQueue, JetStreamConfig};
use serde_json::Value;
use shared::ambient::Stopwatch;

use crate::link::{Link, State};
use crate::process::{KEY, PATIENCE, binary, random_moment, run};
use crate::recount;
use crate::world::{CATALOGUE, Role, World};

const REAL_LOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/obd_bts_men.csv");
/// The days of the log.
const DAYS: &str = "/v1/accounting?from=1574208000&to=1575504000";

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
    recount::agrees(&api, &dir.path().join("counts"));
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
    // An aggregator that was suspended does not know that its lease has run out: it must not
    // answer.
    second.signal("-STOP");
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    second.signal("-CONT");
    let (status, text) = world.get(&world.live(&second)).await;
    assert!(status != 200 || text.contains("\"counted\":4"), "{status} {text}");
    // It is killed before it can give its lease back: the other one takes over the counts.
    second.signal("-STOP");
    tokio::time::sleep(Duration::from_millis(200)).await;
    second.kill();
    world.click(&edge).await;
    world.until(&world.live(&first), |answer| answer["counted"] == 6).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aggregators_without_a_common_directory_take_over_through_an_object_store() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    let buckets = dir.path().join("buckets");
    std::fs::create_dir_all(buckets.join("ads")).unwrap();
    let endpoint = s3_server::serve(&buckets);
    let keys = s3_server::environment(&endpoint, "secret");
    let start = |name: &str| {
        let data = dir.path().join(name).display().to_string();
        let args = ["aggregator", "--log", &world.nats.url(), "--data", &data];
        let mut environment = keys.clone();
        let mut set = |name: &str, value: &str| environment.push((name.into(), value.into()));
        set("COUNTERSIGN_AGGREGATOR__STATE_URL", "s3://ads/state");
        set("COUNTERSIGN_ARCHIVE__URL", "s3://ads/archive");
        Role::start_in(environment, args.map(str::to_owned).to_vec(), &[])
    };
    let (edge, _collector) = (world.edge("a"), world.collector());
    let mut first = start("one");
    world.click(&edge).await;
    world.until(&world.live(&first), |answer| answer["counted"] == 2).await;
    let second = start("two");
    first.kill();
    world.click(&edge).await;
    world.until(&world.live(&second), |answer| answer["counted"] == 4).await;
    // A suspended aggregator is fenced off by the other, and answers nothing when it wakes.
    first.start_again();
    second.signal("-STOP");
    world.until(&world.live(&first), |answer| answer["counted"] == 4).await;
    world.click(&edge).await;
    world.until(&world.live(&first), |answer| answer["counted"] == 6).await;
    second.signal("-CONT");
    for _ in 0..20 {
        let (status, text) = world.get(&world.live(&second)).await;
        assert!(status == 503, "{status} {text}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    world.click(&edge).await;
    world.until(&world.live(&first), |answer| answer["counted"] == 8).await;
    recount::agrees_at(first.url("api"), "s3://ads/archive", &keys);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edge_starts_and_serves_while_nats_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path());
    let mut edge = world.edge("a");
    world.click(&edge).await;
    edge.kill();
    // The edge's copy of its keys is damaged: it asks for them again, and keeps them again.
    std::fs::write(dir.path().join("a/keys-edge.json"), "{\"issuer\": \"ed").unwrap();
    edge.start_again();
    world.click(&edge).await;
    edge.kill();
    world.nats.kill();
    edge.start_again();
    world.click(&edge).await;
    world.nats.start_again();
    let (_collector, aggregator) = (world.collector(), world.aggregator());
    let answer = world.until(&world.live(&aggregator), |answer| answer["counted"] == 6).await;
    assert_eq!(answer["adds_up"], true, "{answer}");
}

/// Each click is a batch of its own, because one follows the other. The queue would write each of
/// them by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_at_an_edge_goes_into_the_queue_together() {
    const CLICKS: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path());
    let edge = world.edge("a");
    world.nats.kill();
    for _ in 0..CLICKS {
        world.click(&edge).await;
    }
    world.nats.start_again();
    let queue = EdgeQueue::open(&JetStreamConfig::new(world.nats.url(), 1), false).await.unwrap();
    let watch = Stopwatch::start();
    loop {
        let (_, metrics) = world.get(&format!("{}/metrics", edge.url("api"))).await;
        if metrics.lines().any(|line| line == "countersign_edge_outbox_unacked 0") {
            break;
        }
        assert!(watch.elapsed() < PATIENCE, "{metrics}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let messages = queue.depth().await.unwrap();
    assert!(messages <= CLICKS / 3, "{messages} messages for {CLICKS} batches and more");
    let (_collector, aggregator) = (world.collector(), world.aggregator());
    let all = |answer: &Value| answer["counted"] == 2 * CLICKS && answer["in_flight"] == 0;
    let answer = world.until(&world.live(&aggregator), all).await;
    assert_eq!((&answer["adds_up"], &answer["received"]), (&true.into(), &(2 * CLICKS).into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_nats_nodes_each_may_be_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = NatsServer::start_three(dir.path());
    let url = nodes.each_ref().map(NatsServer::url).join(",");
    let watch = Stopwatch::start();
    let init = || {
        run(binary().args([
            "init",
            "--partitions",
            "2",
            "--replicas",
            "3",
            "--edge",
            "a",
            "--log",
            &url,
        ]))
    };
    // Three nodes that have just met have no leader yet.
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
    // Each node is killed once, so the leader of each stream is among them.
    for node in &mut nodes {
        std::thread::sleep(random_moment(Duration::from_secs(2)));
        node.kill();
        std::thread::sleep(Duration::from_secs(2) + random_moment(Duration::from_secs(2)));
        node.start_again();
        std::thread::sleep(Duration::from_secs(2));
    }
    let (code, said, err) = simulate.join().unwrap();
    assert_eq!(code, Some(0), "{said}{err}");
    recount::agrees(aggregator.url("api"), counts.as_ref());
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
    recount::agrees(aggregator.url("api"), counts.as_ref());
}
