use std::io::Read as _;
use std::net::TcpListener;

use api::routes::{Key, Role};
use shared::keys::jwks;

use crate::process::{KEY, Server, binary, run};

#[tokio::test]
async fn every_route_of_the_api_asks_for_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(&dir.path().join("data"), None, &[]);
    let get = |path: &str, key: Option<&str>| {
        let request = server.http.get(format!("{}{path}", server.api));
        match key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
        .send()
    };
    let guarded = [
        "/v1/ads/a/aggregated_count?from=0&to=60",
        "/v1/ads/popular_ads",
        "/v1/accounting?from=0&to=60",
        "/v1/import/sources/00000000000000000000000000000000",
        "/metrics",
        "/v1/nothing",
        "/demo",
    ];
    for path in guarded {
        for key in [None, Some("a-key-for-tests-0123456780"), Some("")] {
            let reply = get(path, key).await.unwrap();
            assert_eq!(reply.status(), 401, "{path} {key:?}");
            assert_eq!(reply.headers()["content-type"], "application/problem+json");
            let text = reply.text().await.unwrap();
            assert!(text.contains("Authorization: Bearer"), "{text}");
        }
        let status = get(path, Some(KEY)).await.unwrap().status();
        assert_ne!(status, 401, "{path}");
    }
    for path in ["/v1/batches", "/v1/import"] {
        let reply = server.http.post(format!("{}{path}", server.api)).send().await.unwrap();
        assert_eq!(reply.status(), 401, "{path}");
    }
    // A refusal of another method has a body too, on every kind of route.
    for path in ["/v1/accounting", "/v1/batches", "/metrics", "/healthz", jwks::PATH] {
        let reply = server.http.delete(format!("{}{path}", server.api)).bearer_auth(KEY).send();
        let reply = reply.await.unwrap();
        assert_eq!(reply.status(), 405, "{path}");
        assert!(reply.headers().contains_key("allow"), "{path}");
        assert_eq!(reply.headers()["content-type"], "application/problem+json", "{path}");
        assert!(reply.text().await.unwrap().contains("method_not_allowed"), "{path}");
    }
    for path in ["/healthz", "/readyz"] {
        let status = get(path, None).await.unwrap().status();
        assert!(matches!(status.as_u16(), 200 | 503), "{path}: {status}");
    }
    let metrics = get("/metrics", Some(KEY)).await.unwrap().text().await.unwrap();
    for name in ["countersign_edge_requests", "countersign_collector_batches"] {
        assert!(metrics.contains(name), "{name} is not in the metrics");
    }
}

/// These are the routes from which `docs/openapi.json` is written.
#[tokio::test]
async fn every_route_that_is_described_is_there_and_asks_for_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(&dir.path().join("data"), None, &[]);
    for route in api::routes::ALL {
        let holes: [&dyn std::fmt::Display; 1] = match route.path {
            path if path.contains("{source}") => [&"0123456789abcdef0123456789abcdef"],
            path if path.contains("{ad_id}") => [&"a"],
            _ => [&1],
        };
        let address = if route.role == Role::Edge { &server.edge } else { &server.api };
        let url = format!("{address}{}", route.at(&holes));
        let ask = |key: Option<&str>| {
            let request = server.http.request(route.method.parse().unwrap(), &url);
            let request = key.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
            async { request.send().await.unwrap() }
        };
        let without = ask(None).await.status().as_u16();
        assert_eq!(without == 401, route.key != Key::None, "{url}: {without}");
        let reply = ask(Some(KEY)).await;
        let status = reply.status().as_u16();
        assert_eq!(status == 401, route.key == Key::Signed, "{url}: {status}");
        // A stream goes on for as long as somebody listens.
        let mut text = String::new();
        if route.answer.1 != "text/event-stream" {
            text = reply.text().await.unwrap();
        }
        assert!(
            status != 405 && !text.contains("there is no such route"),
            "{url}: {status} {text}"
        );
    }
}

#[tokio::test]
async fn a_stream_ends_in_order_when_the_process_does() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(&dir.path().join("data"), None, &[]);
    let request = server.http.get(format!("{}/v1/live", server.api)).bearer_auth(KEY);
    let mut stream = request.send().await.unwrap();
    let first = stream.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"event: live"), "{first:?}");
    let ended = tokio::task::spawn_blocking(move || server.terminate());
    // A connection that is cut off would be an error.
    while stream.chunk().await.unwrap().is_some() {}
    assert!(ended.await.unwrap().success());
}

/// No other test uses https. Without a choice of cryptography the first https client would end the
/// process.
#[test]
fn an_api_whose_address_says_https_is_asked_by_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let api = format!("https://{}", listener.local_addr().unwrap());
    let greeted = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = [0; 2];
        stream.read_exact(&mut hello).unwrap();
        hello
    });
    let args = ["edges", "list", "--api", &api, "--key", KEY, "--patience", "1"];
    let (code, _, said) = run(binary().args(args));
    assert_eq!(greeted.join().unwrap(), [22, 3], "a handshake");
    assert!(code == Some(4) && said.contains(&api), "{code:?} {said}");
}

#[test]
fn a_key_is_made_once_and_only_its_hash_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut keys = Vec::new();
    for _ in 0..2 {
        let mut command = binary();
        command.args(["up", "--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]);
        let mut child =
            command.arg("--data").arg(&data).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut lines = std::io::BufReader::new(child.stdout.take().unwrap());
        while !said.contains("Ctrl-C") {
            assert!(std::io::BufRead::read_line(&mut lines, &mut said).unwrap() > 0, "{said}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        keys.push(
            said.split_whitespace().find(|word| word.starts_with("cs_admin_")).map(str::to_owned),
        );
    }
    let key = keys[0].clone().unwrap();
    assert_eq!(keys[1], None);
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let there = bytes.windows(key.len()).any(|window| window == key.as_bytes());
            assert!(!there, "{}", path.display());
        }
    }
    let mut command = binary();
    let short = command.args(["up", "--data"]).arg(&data).env("COUNTERSIGN_ADMIN_KEY", "short");
    let short = short.args(["--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]);
    let (code, _, said) = run(short);
    assert!(code == Some(2) && said.contains("COUNTERSIGN_ADMIN_KEY"), "{code:?} {said}");
}

#[test]
fn a_catalogue_is_checked_before_an_edge_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ads.toml");
    let check = |text: &str| {
        std::fs::write(&path, text).unwrap();
        run(binary().args(["catalogue", "check"]).arg(&path))
    };
    let good = "[[ads]]\nid = \"a\"\ncampaign = \"c\"\nadvertiser = \"v\"\nhtml = \"x\"\nwidth = 300\n\
                height = 250\nurl = \"https://e.example/?g={gclid}\"\n\
                [[placements]]\nid = \"p\"\npublisher = \"q\"\nads = [\"a\"]\n";
    let (code, said, told) = check(good);
    assert_eq!(code, Some(0), "{told}");
    assert!(said.contains("is stored as https://e.example/?g=%7Bgclid%7D"), "{said}");
    assert!(said.contains("1 ads on 1 placements, nothing wrong"), "{said}");
    let (code, _, told) =
        check(&good.replace("width = 300", "width = 0").replace("\"q\"", "\"?\\t\""));
    assert_eq!(code, Some(2), "{told}");
    let places =
        ["ads.toml: ads[0] (\"a\"): width is 0", "placements[0] (\"p\"): publisher: a name"];
    assert!(places.iter().all(|place| told.contains(place)), "{told}");
}
