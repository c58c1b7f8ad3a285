//! The Wasm edge on a real workerd, in front of a real centre.

use std::path::Path;
use std::time::Duration;

use edge::worker::workerd::Workerd;
use serde_json::{Value, json};
use shared::Clock as _;

use crate::process::{Server, binary, run};
use crate::world::{CATALOGUE, Role, World};

/// The path of the account of the last and next minutes.
fn live() -> String {
    let now = shared::ambient::SystemClock.now().minute().0;
    format!("/v1/accounting?from={}&to={}", (now - 10) * 60, (now + 10) * 60)
}

fn keys(args: &[&str]) -> String {
    let (code, said, err) = run(binary().args(["keys", "edge", "--issuer", "edge"]).args(args));
    assert_eq!(code, Some(0), "{said}{err}");
    said.trim().to_owned()
}

/// A Worker whose centre is this `up`.
fn worker_of(server: &Server, dir: &Path, more: &[(&str, &str)]) -> Workerd {
    let data = server.data.display().to_string();
    let register = ["edges", "register", "w", "--issuer", "edge", "--data", &data];
    assert_eq!(run(binary().args(register)).0, Some(0));
    let keys = keys(&["--data", &data]);
    let mut bindings =
        vec![("EDGE_NAME", "w"), ("EDGE_KEYS", keys.as_str()), ("GATEWAY_URL", &server.api)];
    // These visitors do not look at what they click.
    bindings.push(("CLICK_TOO_SOON_MS", "0"));
    bindings.extend(more);
    Workerd::start(&dir.join("worker"), &bindings)
}

async fn get(http: &reqwest::Client, url: &str) -> reqwest::Response {
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    // Workers are killed between requests: no connection is kept.
    let request = http.get(url).header("user-agent", firefox).header("connection", "close");
    request.send().await.unwrap()
}

async fn serve(http: &reqwest::Client, worker: &Workerd) -> Value {
    let reply = get(http, &format!("{}/v1/serve?placement=demo-top", worker.url())).await;
    assert_eq!(reply.status(), 200);
    reply.json().await.unwrap()
}

async fn click(http: &reqwest::Client, ad: &Value) {
    let reply = get(http, ad["click_url"].as_str().unwrap()).await;
    assert_eq!(reply.status(), 302);
}

#[tokio::test]
async fn an_ad_of_the_wasm_edge_is_counted_within_moments() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let worker = worker_of(&server, dir.path(), &[]);
    // The ads come from the centre: the Worker's bindings have none.
    let ad = serve(&server.http, &worker).await;
    let (id, token) = (ad["ad"].as_str().unwrap(), ad["token"].as_str().unwrap());
    let events = json!({ "events": [
        { "token": token, "kind": "impression" }, { "token": token, "kind": "viewable" },
        { "token": "AAAA", "kind": "viewable" },
    ]});
    let post = server.http.post(format!("{}/v1/events", worker.url()));
    let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
    let post = post.header("user-agent", firefox).header("content-type", "text/plain");
    let reply = post.body(events.to_string()).send().await.unwrap();
    let results: Value = reply.json().await.unwrap();
    assert_eq!(results["results"], json!(["accepted", "accepted", "unknown_version"]));
    click(&server.http, &ad).await;
    click(&server.http, &ad).await;
    for kind in ["served", "impression", "viewable", "click"] {
        let now = shared::ambient::SystemClock.now().minute().0;
        let minutes = format!("from={}&to={}", (now - 10) * 60, (now + 10) * 60);
        let count = format!("/v1/ads/{id}/aggregated_count?{minutes}&event={kind}");
        server.until(&count, |answer| answer["count"] == 1).await;
    }
    let all = |answer: &Value| answer["received"] == 6 && answer["adds_up"] == true;
    let answer = server.until(&live(), all).await;
    let again = &answer["reasons"]["repeated"];
    assert_eq!((&answer["counted"], again), (&4.into(), &1.into()), "{answer}");
    assert_eq!(answer["adds_up"], true, "{answer}");
    assert_eq!(server.terminate().code(), Some(0));
}

#[tokio::test]
async fn keys_and_ads_change_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let mut worker = worker_of(&server, dir.path(), &[]);
    let before = serve(&server.http, &worker).await;
    let file = server.data.join("catalogue.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(
        &file,
        text.replace("demo-red", "other-red")
            .replace("demo-green", "other-green")
            .replace("demo-blue", "other-blue"),
    )
    .unwrap();
    let until = async |wanted: &dyn Fn(&reqwest::Response) -> bool, url: &str| {
        for _ in 0..600 {
            let reply = get(&server.http, url).await;
            if wanted(&reply) {
                return reply;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{url} does not change");
    };
    let url = format!("{}/v1/serve?placement=demo-top", worker.url());
    loop {
        let ad: Value = until(&|reply| reply.status() == 200, &url).await.json().await.unwrap();
        if ad["ad"].as_str().unwrap().starts_with("other-") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A revoked key signs no longer, and what it signed is no longer believed.
    let (_, listed, _) = run(binary().args(["keys", "list", "--json", "--data"]).arg(&server.data));
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let key = listed[0]["id"].as_str().unwrap();
    let (code, said, err) = run(binary().args(["keys", "revoke", key, "--data"]).arg(&server.data));
    assert_eq!(code, Some(0), "{said}{err}");
    until(&|reply| reply.status() == 503, &url).await;
    until(&|reply| reply.status() == 403, before["click_url"].as_str().unwrap()).await;
    // The shard has kept that: an isolate that starts while the centre is away knows it too.
    assert_eq!(server.terminate().code(), Some(0));
    worker.kill();
    worker.start_again();
    assert_eq!(get(&server.http, &url).await.status(), 503);
    assert_eq!(get(&server.http, before["click_url"].as_str().unwrap()).await.status(), 403);
}

/// The centre is away while workerd is killed, and comes back: everything that was answered is
/// counted once, by the gateway and over NATS alike.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_wasm_edge_took_is_counted_once_through_the_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let mut worker = worker_of(&server, dir.path(), &[]);
    let mut clicked = 0;
    for round in 0..3 {
        for _ in 0..10 {
            click(&server.http, &serve(&server.http, &worker).await).await;
            clicked += 1;
        }
        match round {
            0 => worker.kill(),
            1 => server.kill_and_restart(),
            _ => {
                assert_eq!(server.terminate().code(), Some(0));
                // The click depends on the edge alone.
                for _ in 0..5 {
                    click(&server.http, &serve(&server.http, &worker).await).await;
                    clicked += 1;
                }
                worker.kill();
                server.kill_and_restart();
            }
        }
        if round != 1 {
            worker.start_again();
        }
    }
    let all = |answer: &Value| answer["counted"] == 2 * clicked && answer["adds_up"] == true;
    let answer = server.until(&live(), all).await;
    assert_eq!(answer["adds_up"], true, "{answer}");
    assert_eq!(server.terminate().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_wasm_edge_took_is_counted_once_over_nats() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new(dir.path());
    let _collector = world.collector();
    let aggregator = world.aggregator();
    // A native edge of the same issuer works beside the Worker.
    let native = world.edge("edge");
    world.click(&native).await;
    let keys = keys(&["--log", &world.nats.url()]);
    let catalogue = CATALOGUE.replace("{site}", "http://127.0.0.1:9");
    let catalogue: Value = toml::from_str(&catalogue).unwrap();
    let (catalogue, nats) = (catalogue.to_string(), world.nats.url());
    let bindings = [
        ("EDGE_NAME", "w"),
        ("EDGE_KEYS", keys.as_str()),
        ("CATALOGUE", catalogue.as_str()),
        ("NATS_URL", nats.as_str()),
        ("CLICK_TOO_SOON_MS", "0"),
    ];
    let mut worker = Workerd::start(&dir.path().join("worker"), &bindings);
    let mut clicked = 1;
    for round in 0..3 {
        for _ in 0..10 {
            click(&world.http, &serve(&world.http, &worker).await).await;
            clicked += 1;
        }
        if round == 0 {
            world.nats.kill();
        } else if round == 1 {
            worker.kill();
            worker.start_again();
            world.nats.start_again();
        }
    }
    let all = |answer: &Value| answer["counted"] == 2 * clicked && answer["adds_up"] == true;
    let answer = world.until(&world.live(&aggregator), all).await;
    assert_eq!(answer["adds_up"], true, "{answer}");
}

/// A collector tells a Worker its keys and ads, as `up` does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_tells_a_worker_what_to_show() {
    let dir = tempfile::tempdir().unwrap();
    let world = World::new(dir.path());
    let native = world.edge("edge");
    world.click(&native).await;
    let file = dir.path().join("told.toml");
    let catalogue = CATALOGUE.replace("{site}", "http://127.0.0.1:9");
    std::fs::write(&file, &catalogue).unwrap();
    let told = ("COUNTERSIGN_COLLECTOR__CATALOGUE".to_owned(), file.display().to_string());
    let args = ["collector", "--log", &world.nats.url()].map(str::to_owned);
    let collector = Role::start_in(vec![told.clone()], args.to_vec(), &[]);
    let aggregator = world.aggregator();
    let policy = format!("{}/v1/edge/policy", collector.url("api"));
    assert_eq!(world.get(&policy).await.0, 401, "nobody who has not signed it is told anything");
    let keys = keys(&["--log", &world.nats.url()]);
    let bindings = [
        ("EDGE_NAME", "w"),
        ("EDGE_KEYS", keys.as_str()),
        ("GATEWAY_URL", collector.url("api")),
        ("CLICK_TOO_SOON_MS", "0"),
    ];
    let worker = Workerd::start(&dir.path().join("worker"), &bindings);
    click(&world.http, &serve(&world.http, &worker).await).await;
    let all = |answer: &Value| answer["counted"] == 4 && answer["adds_up"] == true;
    world.until(&world.live(&aggregator), all).await;
    // A collector does not start with a catalogue that it could not hand out.
    std::fs::write(&file, catalogue.replace("demo-red", " demo-red")).unwrap();
    let mut wrong = binary();
    wrong
        .args(&args)
        .args(["--api-listen", "127.0.0.1:0"])
        .env("COUNTERSIGN_ADMIN_KEY", crate::process::KEY);
    let (code, _, said) = run(wrong.env(told.0, told.1));
    assert!(code == Some(2) && said.contains("collector.catalogue"), "{code:?} {said}");
}
