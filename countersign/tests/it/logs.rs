//! What a process logs, with everything switched on: no secret, no token, no whole address, nothing
//! that a visitor said.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::process::{KEY, Server, binary, browser, run};

const VISITOR: &str = "203.0.113.77";
const VISITOR_6: &str = "2001:db8:7:7:7:7:7:77";
/// An address of this machine that a client uses, so that the process sees it as its peer.
const PEER: &str = "127.0.0.77";
const LOGGED_IP: &str = "198.51.100.99";
const USER: &str = "user-4711-of-the-shop";
const AGENT: &str = "Mozilla/5.0 (VerySpecialBrowser 77.42)";
const EMAIL: &str = "somebody@mail.example";
const WRONG_KEY: &str = "wrong-key-9876543210-abcdef";

fn client(address: &str) -> reqwest::Client {
    let address: IpAddr = address.parse().unwrap();
    browser().user_agent(AGENT).local_address(address).build().unwrap()
}

/// Sends good and bad requests of visitors, from the address that `forwarded` names. Returns a
/// token.
async fn visit(server: &Server, http: &reqwest::Client, forwarded: &str) -> String {
    let get = |url: &str| {
        let request = http.get(url).header("x-forwarded-for", forwarded);
        request.header("referer", format!("https://news.example/?mail={EMAIL}"))
    };
    let url = format!("{}/v1/serve?placement=demo-top&consent=1&user={USER}", server.edge);
    let ad: Value = get(&url).send().await.unwrap().json().await.unwrap();
    let token = ad["token"].as_str().unwrap().to_owned();
    let mut forged = token.clone();
    forged.replace_range(200..201, if &token[200..201] == "A" { "B" } else { "A" });
    for path in ["c", "i"].iter().flat_map(|kind| [&token, &forged].map(|t| format!("{kind}/{t}")))
    {
        get(&format!("{}/v1/{path}", server.edge)).send().await.unwrap();
    }
    let bodies = [
        json!({ "events": [{ "token": token, "kind": "viewable" }, { "token": forged }] })
            .to_string(),
        json!({ "events": [{ "token": token, "kind": USER }], "ip": VISITOR }).to_string(),
        format!("{{ this is no JSON of {USER} {token}"),
    ];
    for body in bodies {
        let post =
            http.post(format!("{}/v1/events", server.edge)).header("x-forwarded-for", forwarded);
        post.header("content-type", "application/json").body(body).send().await.unwrap();
    }
    get(&format!("{}/v1/nothing/{USER}?mail={EMAIL}", server.edge)).send().await.unwrap();
    token
}

/// Sends good and bad requests to the operator's side.
async fn operate(server: &Server, http: &reqwest::Client, token: &str) {
    let bodies = [
        (
            "application/json",
            json!({ "edge": USER, "events": VISITOR, "number": token }).to_string(),
        ),
        (
            "application/json",
            json!({ "version": 1, "outbox": { "edge": "a", "epoch": VISITOR } }).to_string(),
        ),
        ("application/json", format!("no JSON: {USER} {VISITOR} {token}")),
        ("application/octet-stream", format!("CSB1 no batch: {USER} {VISITOR} {token}")),
    ];
    for (kind, body) in bodies {
        for path in ["/v1/batches", "/v1/import"] {
            let post = http.post(format!("{}{path}", server.api)).bearer_auth(KEY);
            let reply = post.header("content-type", kind).body(body.clone()).send().await.unwrap();
            assert!(reply.status().is_client_error(), "{path}: {}", reply.status());
        }
    }
    for path in
        ["/v1/accounting?from=0&to=60", "/v1/ads/popular_ads?mail=x", "/metrics", "/v1/none"]
    {
        for key in [KEY, WRONG_KEY] {
            let get = http.get(format!("{}{path}", server.api)).bearer_auth(key);
            get.send().await.unwrap();
        }
    }
}

#[tokio::test]
async fn nothing_that_is_nobodys_business_is_logged() {
    let dir = tempfile::tempdir().unwrap();
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    let settings = dir.path().join("c.toml");
    let text = "[log]\nformat = 'json'\nfilter = 'trace'\n[edge]\ntrusted_proxies = ['127.0.0.1']\n\
                [aggregator]\ncheckpoint_ms = 200\n[disk]\nwarn_free_bytes = 9000000000000000\n";
    std::fs::write(&settings, text).unwrap();
    let mut server = Server::start_logging(&data, &settings, &log);
    let mut tokens = Vec::new();
    for (from, forwarded) in [("127.0.0.1", VISITOR), ("127.0.0.1", VISITOR_6), (PEER, "1.2.3.4")] {
        let http = client(from);
        let token = visit(&server, &http, forwarded).await;
        operate(&server, &http, &token).await;
        tokens.push(token);
    }
    let rows = dir.path().join("a.csv");
    let row = format!("ad_id,timestamp,user_id,ip\na,1700000050,{USER},{LOGGED_IP}\n");
    std::fs::write(&rows, format!("{row}a,{USER},{LOGGED_IP},x\n")).unwrap();
    let (code, said, err) = run(server.import().arg(&rows));
    assert_eq!(code, Some(1), "{said}{err}");
    // Changes of the keys that the process follows, a wrong one too.
    let (code, ..) =
        run(binary().args(["keys", "rotate", "--issuer", "edge", "--data"]).arg(&data));
    assert_eq!(code, Some(0));
    let keys = std::fs::read_to_string(data.join("keys.json")).unwrap();
    std::fs::write(data.join("catalogue.toml"), "this is no catalogue").unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(server.terminate().code(), Some(0));

    let text = std::fs::read_to_string(&log).unwrap();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    for told in [
        "the outbox is open",
        "kept with the dead letters",
        "gateway 127.0.0.0/24",
        "little room",
        "the keys have changed",
        "the new catalogue is wrong",
        "\"TRACE\"",
        "ended in order",
    ] {
        assert!(text.contains(told), "{told:?} is not in the log: is everything switched on?");
    }
    let mut secrets: Vec<String> =
        [VISITOR, VISITOR_6, PEER, LOGGED_IP, USER, "VerySpecialBrowser", EMAIL, KEY, WRONG_KEY]
            .map(str::to_owned)
            .to_vec();
    // Every token, and a part of it.
    secrets.extend(tokens.iter().map(|token| token[60..100].to_owned()));
    secrets.extend(secrets_of(&serde_json::from_str(&keys).unwrap()));
    assert!(secrets.len() >= 9 + 3 + 2 + 2, "the keys' secrets were not found: {}", secrets.len());
    for secret in &secrets {
        let line = text.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(line, None, "{secret:?} is in the log");
    }
}

/// Everything that is 32 bytes in hexadecimal, except public keys.
fn secrets_of(value: &Value) -> Vec<String> {
    match value {
        Value::Object(map) => {
            let private =
                map.iter().filter(|(name, _)| *name != "public" || map["public"].is_object());
            private.flat_map(|(_, value)| secrets_of(value)).collect()
        }
        Value::Array(list) => list.iter().flat_map(secrets_of).collect(),
        Value::String(text) if text.len() == 64 => vec![text.clone()],
        _ => Vec::new(),
    }
}
