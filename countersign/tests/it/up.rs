use std::time::Duration;

use serde_json::json;

use crate::process::{KEY, Server, binary, run};

#[tokio::test]
async fn an_ad_is_shown_and_a_click_redirects_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let page = server.http.get(format!("{}/demo", server.api)).send().await.unwrap();
    assert!(page.text().await.unwrap().contains(&server.edge));

    let ad = server.serve().await;
    let (id, token) = (ad["ad"].as_str().unwrap(), ad["token"].as_str().unwrap());
    let events = json!({ "events": [
        { "token": token, "kind": "impression" },
        { "token": token, "kind": "viewable" },
        { "token": "AAAA", "kind": "viewable" },
    ]});
    let post = server.http.post(format!("{}/v1/events", server.edge));
    let reply = post.header("content-type", "text/plain").body(events.to_string()).send();
    let results: serde_json::Value = reply.await.unwrap().json().await.unwrap();
    assert_eq!(results["results"][0], "accepted", "{results}");

    let click = server.http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(click.status(), 302);
    let location = click.headers()["location"].to_str().unwrap().to_owned();
    assert!(location.starts_with(&server.api) && location.contains("/demo/landing"), "{location}");
    let count = format!("/v1/ads/{id}/aggregated_count?{}&event=", minutes());
    server.until(&format!("{count}click"), |answer| answer["count"] == 1).await;
    for kind in ["served", "impression", "viewable"] {
        server.until(&format!("{count}{kind}"), |answer| answer["count"] == 1).await;
    }
    let landing = server.http.get(&location).send().await.unwrap();
    assert_eq!(landing.status(), 200);
    let demo = server.http.get(format!("{}/demo/counts", server.api)).send().await.unwrap();
    let demo: serde_json::Value = demo.json().await.unwrap();
    assert_eq!(demo[id], json!({ "served": 1, "impression": 1, "viewable": 1, "click": 1 }));

    let account = format!("/v1/accounting?{}", minutes());
    let settled = |answer: &serde_json::Value| answer["in_flight"] == 0 && answer["received"] == 5;
    let answer = server.until(&account, settled).await;
    assert_eq!((&answer["counted"], &answer["reasons"]["unknown_version"]), (&4.into(), &1.into()));
    assert_eq!(server.terminate().code(), Some(0));
}

#[tokio::test]
async fn a_test_redirects_and_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let real = server.serve().await;
    let serve = format!("{}/v1/serve?placement=demo-top&test=", server.edge);
    let refused = server.http.get(format!("{serve}yes")).send().await.unwrap();
    assert_eq!(refused.status(), 400);
    assert!(refused.text().await.unwrap().contains("`test` is 1 or left out"));
    let test = server.http.get(format!("{serve}1")).send().await.unwrap();
    let test: serde_json::Value = test.json().await.unwrap();
    for (ad, times) in [(&real, 1), (&test, 2)] {
        for _ in 0..times {
            let click = server.http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
            assert_eq!(click.status(), 302);
        }
    }
    let account = format!("/v1/accounting?{}", minutes());
    let all = |answer: &serde_json::Value| answer["received"] == 5 && answer["adds_up"] == true;
    let answer = server.until(&account, all).await;
    assert_eq!((&answer["counted"], &answer["reasons"]["test"]), (&2.into(), &2.into()));
    assert_eq!(again(&answer), 1, "{answer}");
    assert_eq!(answer["adds_up"], true, "{answer}");
    assert_eq!(server.terminate().code(), Some(0));
}

/// How many events were repeats, known by the edge or by the engine.
fn again(answer: &serde_json::Value) -> u64 {
    let repeated = answer["reasons"]["repeated"].as_u64().unwrap_or(0);
    answer["duplicate"].as_u64().unwrap() + repeated
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_in_thousands_of_requests_makes_few_rows_and_the_tally_says_the_rest() {
    const CLIENTS: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let ad = server.serve().await;
    let element = |kind| json!({ "token": ad["token"], "kind": kind });
    let body = json!({ "events": [element("impression"), element("click")] }).to_string();
    let mut sent = 1;
    for _ in 0..2 {
        let clients = (0..CLIENTS).map(|client| {
            let (http, body) = (server.http.clone(), body.clone());
            let click = ad["click_url"].as_str().unwrap().to_owned();
            let events = format!("{}/v1/events?page={client}&seq=4000", server.edge);
            tokio::spawn(async move {
                for _ in 0..150 {
                    assert_eq!(http.get(&click).send().await.unwrap().status(), 302);
                    let post = http.post(&events).header("content-type", "text/plain");
                    assert_eq!(post.body(body.clone()).send().await.unwrap().status(), 202);
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
        sent += 3 * 150 * CLIENTS as u64;
        // What the edge remembers of repeats is lost, and nothing else.
        server.kill_and_restart();
    }
    let account = format!("/v1/accounting?{}", minutes());
    let all = |answer: &serde_json::Value| answer["received"] == sent && answer["adds_up"] == true;
    let answer = server.until(&account, all).await;
    assert_eq!((&answer["counted"], &answer["adds_up"]), (&3.into(), &true.into()), "{answer}");
    assert_eq!(again(&answer), sent - 3, "{answer}");
    // Repeats that were under way before the first was durable, in each of the two processes.
    let duplicate = answer["duplicate"].as_u64().unwrap();
    assert!((2..=6 * CLIENTS as u64).contains(&duplicate), "{answer}");
    assert_eq!(server.terminate().code(), Some(0));
}

/// This minute and some around it.
fn minutes() -> String {
    use shared::Clock as _;
    let now = shared::ambient::SystemClock.now().minute().0;
    format!("from={}&to={}", (now - 10) * 60, (now + 10) * 60)
}

#[tokio::test]
async fn what_was_accepted_survives_kill_9_and_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let mut clicked = 0;
    for round in 0..3 {
        for _ in 0..5 {
            let ad = server.serve().await;
            let click = server.http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
            assert_eq!(click.status(), 302);
            clicked += 1;
        }
        if round == 2 {
            assert_eq!(server.terminate().code(), Some(0));
        }
        server.kill_and_restart();
        let account = format!("/v1/accounting?{}", minutes());
        let all = |answer: &serde_json::Value| answer["counted"] == 2 * clicked;
        let answer = server.until(&account, all).await;
        assert_eq!(answer["adds_up"], true, "{answer}");
    }
}

#[test]
fn a_directory_has_one_process_and_a_port_too() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let up = |data: &std::path::Path, edge: &str| {
        let mut command = binary();
        command.args(["up", "--api-listen", "127.0.0.1:0", "--edge-listen", edge, "--data"]);
        run(command.arg(data))
    };
    let (code, _, said) = up(&server.data, "127.0.0.1:0");
    assert!(code == Some(6) && said.contains("another `countersign`"), "{code:?} {said}");
    let taken = server.edge.trim_start_matches("http://");
    let (code, _, said) = up(&dir.path().join("other"), taken);
    assert!(code == Some(2) && said.contains("edge.listen"), "{code:?} {said}");
}

#[test]
fn a_wrong_setting_or_another_number_of_partitions_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Server::start(&data);
    assert_eq!(server.terminate().code(), Some(0));
    let up = |name: &str, value: &str| {
        let mut command = binary();
        command.args(["up", "--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]);
        run(command.arg("--data").arg(&data).env(name, value))
    };
    let (code, _, said) = up("COUNTERSIGN_PARTITIONS", "8");
    assert!(code == Some(2) && said.contains("16 partitions"), "{code:?} {said}");
    // A time more than an hour ahead is refused.
    let (code, _, said) = up("COUNTERSIGN_COLLECTOR__CLOCK_IS_RIGHT", "2099-01-01T00:00:00Z");
    assert!(code == Some(2) && said.contains("set the clock"), "{code:?} {said}");
    let (code, _, said) = run(binary().args(["edges", "list", "--api", "http://127.0.0.1:9"]));
    assert!(code == Some(2) && said.contains("set COUNTERSIGN_ADMIN_KEY"), "{code:?} {said}");
    // A wrong catalogue is shown place by place.
    let catalogue = "[[placements]]\nid = 'a b'\npublisher = 'p'\nads = ['none']\n";
    std::fs::write(data.join("catalogue.toml"), catalogue).unwrap();
    let (code, _, said) = up("COUNTERSIGN_ARCHIVE__ENABLED", "true");
    assert!(code == Some(2) && said.contains("there is no ad \"none\"\n"), "{code:?} {said}");
    // A first start that fails leaves nothing behind.
    let (bad, new) = (dir.path().join("bad.toml"), dir.path().join("new"));
    std::fs::write(&bad, catalogue).unwrap();
    let mut command = binary();
    command.args(["up", "--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--data"]);
    let (code, _, said) = run(command.arg(&new).env("COUNTERSIGN_EDGE__CATALOGUE", &bad));
    assert!(code == Some(2) && said.contains("there is no ad"), "{code:?} {said}");
    assert!(!new.exists());
    let (code, _, said) = up("COUNTERSIGN_EGDE__LISTEN", "x");
    assert!(code == Some(2) && said.contains("COUNTERSIGN_EGDE"), "{code:?} {said}");
    assert_eq!(said.lines().count(), 1, "one line: {said}");
}

#[tokio::test]
async fn damage_is_refused_with_what_and_where() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Server::start(&data);
    // Each is in a group of its own, since only the last group could pass for a torn write.
    for _ in 0..5 {
        server.serve().await;
        tokio::time::sleep(Duration::from_millis(120)).await;
    }
    assert_eq!(server.terminate().code(), Some(0));
    let log = std::fs::read_dir(data.join("log")).unwrap();
    let mut files: Vec<_> = log.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file() && path.metadata().unwrap().len() > 2_000);
    let mut bytes = std::fs::read(&files[0]).unwrap();
    bytes[300] ^= 0x10;
    std::fs::write(&files[0], &bytes).unwrap();
    let mut command = binary();
    command.args(["up", "--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--data"]);
    let (code, _, said) = run(command.arg(&data).env("COUNTERSIGN_ADMIN_KEY", KEY));
    let name = files[0].file_name().unwrap().to_string_lossy().into_owned();
    assert!(matches!(code, Some(5 | 70)), "{code:?} {said}");
    assert!(said.contains(&name), "{name}: {said}");
}

#[tokio::test]
async fn an_idle_process_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    server.ask(&format!("/v1/accounting?{}", minutes())).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // A build for tests is some 40 MiB larger than one for use, whose size `bench up` shows.
    let mib = server.resident_kib() / 1024;
    assert!(mib <= 160, "{mib} MiB");
}

#[tokio::test]
async fn a_damaged_checkpoint_ends_the_process_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Server::start(&data);
    server.serve().await;
    server.until(&format!("/v1/accounting?{}", minutes()), |answer| answer["counted"] == 1).await;
    assert_eq!(server.terminate().code(), Some(0));
    let mut damaged = 0;
    for partition in std::fs::read_dir(data.join("state")).unwrap() {
        let tables = std::fs::read_dir(partition.unwrap().path().join("compacted"));
        for table in tables.into_iter().flatten() {
            let path = table.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 3;
            bytes[middle] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            damaged += 1;
        }
    }
    assert!(damaged > 0);
    let mut command = binary();
    command.args(["up", "--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--data"]);
    command.arg(&data).env("COUNTERSIGN_ADMIN_KEY", KEY).env("RUST_LOG", "off");
    let (code, _, said) = run(&mut command);
    assert!(code == Some(70) && said.contains("damaged checkpoint"), "{code:?} {said}");
    assert!(said.contains("partition-") && said.contains(".sst"), "{said}");
}

#[tokio::test]
async fn the_sdk_is_served_from_a_folder_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let sdk = dir.path().join("dist");
    std::fs::create_dir(&sdk).unwrap();
    for file in ["countersign.js", "index.js", "markup.js", "core.js"] {
        std::fs::write(sdk.join(file), file).unwrap();
    }
    let data = dir.path().join("data");
    let mut command = binary();
    command.args(["up", "--demo", "--sdk"]).arg(&sdk).arg("--data").arg(&data);
    let (code, _, said) = run(&mut command);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("core_bg.wasm") && said.contains("cargo xtask sdk"), "{said}");
    assert!(!data.exists(), "nothing was begun");

    std::fs::write(sdk.join("core_bg.wasm"), b"\0asm").unwrap();
    let server = Server::start_with(&data, None, &["--demo", "--sdk", sdk.to_str().unwrap()]);
    let get = |path: &str| server.http.get(format!("{}{path}", server.api)).send();
    let core = get("/sdk/core_bg.wasm").await.unwrap();
    assert_eq!(core.headers()["content-type"], "application/wasm");
    assert_eq!(core.bytes().await.unwrap(), b"\0asm".as_slice());
    assert_eq!(get("/sdk/other.js").await.unwrap().status(), 404);
    let page = get("/demo").await.unwrap().text().await.unwrap();
    assert!(page.contains(&format!("src=\"/sdk/countersign.js\" data-edge=\"{}\"", server.edge)));
}
