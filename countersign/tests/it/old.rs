//! Lets the real binary read what every released version has written, at the time at which it was
//! written (`tests/data/`, whose README says what is there).
//!
//! When what is written changes (a wire form, the rows of the store, the columns of the archive, what
//! the SDK sends), the last build before the change writes a directory of its own: name it last in
//! [`VERSIONS`], and run this test once with `COUNTERSIGN_WRITE_VECTORS=1`. What is there already is
//! never written again.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use shared::keys::{KeyStore, request};
use shared::text::hex;
use shared::token::Signer;
use shared::wire::{Batch, Event, Tally};
use shared::{
    Clock as _, Codes, Country, Device, Fingerprint, Flags, Kind, Network, OutboxId, PageSeq,
    PageView, Reason, Region, RuleSet, Timestamp,
};

use crate::clocks::Shifted;
use crate::process::{KEY, Server, binary, run};
use crate::recount::REAL_LOG;

const VERSIONS: [&str; 2] = ["1", "2"];

/// Few partitions, so that a directory is small.
const SETTINGS: &str = "partitions = 2\n[archive]\nevery_ms = 100\n";
/// An edge elsewhere, which belongs to the issuer that the first start makes.
const EDGE: &str = "old";

fn now() -> Timestamp {
    shared::ambient::SystemClock.now()
}

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(version)
}

fn say(command: &mut Command) -> String {
    let (code, said, err) = run(command);
    assert_eq!(code, Some(0), "{said}{err}");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_version_wrote_is_read_and_gone_on_from() {
    for version in VERSIONS {
        let folder = folder(version);
        let is_written = folder.join("written.json").exists();
        if !is_written && std::env::var("COUNTERSIGN_WRITE_VECTORS").is_ok_and(|on| on == "1") {
            write(&folder).await;
        }
        let text = std::fs::read_to_string(folder.join("written.json")).unwrap();
        let written: Value = serde_json::from_str(&text).unwrap();
        let (seen, wanted) = (replay(&folder, &written).await, changed(written["seen"].clone()));
        for (what, expected) in wanted.as_object().unwrap() {
            let lines = |value: &Value| serde_json::to_string_pretty(value).unwrap();
            assert_eq!(lines(&seen[what]), lines(expected), "{version}: {what}");
        }
        assert_eq!(seen, wanted, "{version}");
    }
}

/// Applies changes that were made on purpose to the answers that were written.
fn changed(mut seen: Value) -> Value {
    for answer in seen["answers"].as_array_mut().unwrap() {
        // Since 28 November 2026 a placement may have such a name.
        if answer[0] == "an encoded name of no place" {
            *answer = json!([answer[0], 404, "*", {
                "detail": "there is no placement a b", "status": 404, "title": "unknown placement",
                "type": "urn:countersign:unknown_placement",
            }]);
        }
    }
    seen
}

/// Starts from the directory at the time at which it was written, makes the requests that were
/// written beside it, and returns what came of them.
async fn replay(folder: &Path, written: &Value) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let (copy, data) = (dir.path().join("copy"), dir.path().join("data"));
    std::fs::create_dir(&copy).unwrap();
    let archive = folder.join("backup.tar.gz");
    say(Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(&copy));
    say(binary().arg("restore").arg("--from").arg(&copy).arg("--data").arg(&data));

    let at = written["at"].as_u64().unwrap();
    let settings = dir.path().join("c.toml");
    std::fs::write(&settings, SETTINGS).unwrap();
    let flags = ["--demo", "--config", settings.to_str().unwrap()];
    // A moment later, in which a machine could have started again.
    let off = i64::try_from(at + 5).unwrap() - i64::try_from(now().seconds()).unwrap();
    let mut shifted = Shifted::start_at(dir.path(), off, &flags);
    let server = &shifted.server;
    let before = counts(server, at, written["before"].as_u64().unwrap()).await;
    recount(server, at);

    let mut answers = Vec::new();
    for request in written["requests"].as_array().unwrap() {
        answers.push(ask(server, request).await);
    }
    let keys = std::fs::read_to_string(data.join("keys.json")).unwrap();
    let keys: KeyStore = serde_json::from_str(&keys).unwrap();
    for batch in written["batches"].as_array().unwrap() {
        let bytes = batch["hex"].as_str().unwrap();
        let digit = |at: usize| u8::from_str_radix(&bytes[at..at + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..bytes.len()).step_by(2).map(digit).collect();
        let now = Timestamp(now().0.checked_add_signed(off * 1_000).unwrap());
        let signer = Signer::new(keys.signing("edge".parse().unwrap(), now).unwrap());
        let field = request::sign(&signer, keys.deployment, "/v1/batches", &bytes, now);
        let post = server.http.post(format!("{}/v1/batches", server.api));
        let post = post.header(request::FIELD, field);
        let post = post.header("content-type", "application/octet-stream");
        let reply = post.body(bytes).send().await.unwrap();
        answers.push(json!([batch["about"], reply.status().as_u16()]));
    }
    let after = counts(server, at, written["after"].as_u64().unwrap()).await;
    recount(server, at);
    assert_eq!(shifted.server.terminate().code(), Some(0));
    json!({ "before": before, "answers": answers, "after": after })
}

/// The counts once so many events were received.
async fn counts(server: &Server, at: u64, received: u64) -> Value {
    let minute = at / 60;
    // The requests come within minutes, on a slow machine too.
    let range = format!("from={}&to={}", (minute - 30) * 60, (minute + 30) * 60);
    let all = |answer: &Value| answer["received"] == received && answer["in_flight"] == 0;
    let account = server.until(&format!("/v1/accounting?{range}"), all).await;
    // The days of the imported log.
    let imported = server.ask("/v1/accounting?from=1574208000&to=1575504000").await;
    let mut ads = serde_json::Map::new();
    for kind in Kind::ALL {
        let mut sum = 0;
        for ad in ["demo-red", "demo-green", "demo-blue"] {
            let path = format!("/v1/ads/{ad}/aggregated_count?{range}&event={kind}");
            sum += server.ask(&path).await["count"].as_u64().unwrap();
        }
        ads.insert(kind.to_string(), sum.into());
    }
    let of = |account: &Value| {
        let names = ["received", "counted", "duplicate", "reasons", "adds_up"];
        names.map(|name| (name.to_owned(), account[name].clone())).into_iter().collect::<Value>()
    };
    json!({ "account": of(&account), "imported": of(&imported), "ads": ads })
}

/// Checks that the archive agrees, also for the days of the imported log.
fn recount(server: &Server, at: u64) {
    let minute = at / 60;
    for (from, to) in [((minute - 30) * 60, (minute + 30) * 60), (1_574_208_000, 1_575_504_000)] {
        let mut command = binary();
        command.args(["recount", "--api", &server.api, "--key", KEY, "--data"]).arg(&server.data);
        command.args(["--from", &from.to_string(), "--to", &to.to_string()]);
        let said = say(&mut command);
        assert!(said.contains("agree: ") && !said.contains(" 0 counts"), "{said}");
    }
}

/// The edge's answer to a request of the SDK. Of what is random in it, only that it is there.
async fn ask(server: &Server, request: &Value) -> Value {
    let word = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
    let url = format!("{}{}", server.edge, word("url"));
    let method = word("method").parse().unwrap();
    let mut asked = server.http.request(method, url).header("origin", "https://news.example");
    if request["body"].is_string() {
        // The content type that a browser gives to a string.
        asked = asked.header("content-type", "text/plain;charset=UTF-8").body(word("body"));
    }
    let reply = asked.send().await.unwrap();
    let status = reply.status().as_u16();
    let allowed = reply.headers().get("access-control-allow-origin").cloned();
    let allowed = allowed.map(|origin| origin.to_str().unwrap().to_owned());
    let text = reply.text().await.unwrap_or_default();
    let mut body: Value = serde_json::from_str(&text).unwrap_or_default();
    let drawn = ["ad", "campaign", "creative", "impression_id", "token", "click_url"];
    for name in drawn.into_iter().chain(["beacon_url", "events_url"]) {
        if body[name].is_string() || body[name].is_object() {
            body[name] = "drawn".into();
        }
    }
    json!([request["about"], status, allowed, body])
}

async fn write(folder: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("c.toml");
    std::fs::write(&settings, SETTINGS).unwrap();
    let flags = ["--demo", "--config", settings.to_str().unwrap()];
    let mut server = Server::start_with(&dir.path().join("data"), None, &flags);
    let register = ["edges", "register", EDGE, "--issuer", "edge", "--data"];
    say(binary().args(register).arg(&server.data));
    // A few rows of a log, so that there are chunks.
    let rows = std::fs::read_to_string(REAL_LOG).unwrap();
    let rows: Vec<&str> = rows.lines().take(60).collect();
    let log = dir.path().join("log.csv");
    std::fs::write(&log, rows.join("\n") + "\n").unwrap();
    say(server.import().arg(&log));
    let mut received = 0;
    for _ in 0..3 {
        received += visit(&server).await;
    }
    let mut ads = Vec::new();
    for _ in 0..8 {
        ads.push(server.serve().await);
    }
    received += ads.len() as u64;
    // An orderly end puts everything into the store; what comes afterwards is in the log or the
    // outbox alone.
    assert_eq!(server.terminate().code(), Some(0));
    server = Server::start_with(&server.data.clone(), None, &flags);
    received += visit(&server).await;
    let (data, at) = (server.data.clone(), now().seconds());
    drop(server);

    let copy = dir.path().join("copy");
    say(binary().arg("backup").arg("--data").arg(&data).arg("--to").arg(&copy));
    std::fs::create_dir_all(folder).unwrap();
    let tar = folder.join("backup.tar.gz");
    say(Command::new("tar").arg("-czf").arg(tar).arg("-C").arg(&copy).arg("."));
    let tokens: Vec<&str> = ads.iter().map(|ad| ad["token"].as_str().unwrap()).collect();
    let (requests, came) = requests(&tokens);
    let (batches, sent) = batches(&tokens, at);
    let mut written = json!({
        "at": at, "before": received, "after": received + came + sent,
        "requests": requests, "batches": batches,
    });
    written["seen"] = replay(folder, &written).await;
    let text = serde_json::to_string_pretty(&written).unwrap() + "\n";
    std::fs::write(folder.join("written.json"), text).unwrap();
}

/// A visitor with every kind of event; returns how many events.
async fn visit(server: &Server) -> u64 {
    let ad = server.serve().await;
    let element = |kind| json!({ "token": ad["token"], "kind": kind });
    let body = json!({ "events": [element("impression"), element("viewable"), 5] }).to_string();
    let post = server.http.post(format!("{}/v1/events?page=8k2j1c9x0z&seq=2", server.edge));
    assert_eq!(
        post.header("content-type", "text/plain").body(body).send().await.unwrap().status(),
        202
    );
    let click = ad["click_url"].as_str().unwrap();
    for get in [server.http.head(click), server.http.get(click), server.http.get(click)] {
        assert_eq!(get.send().await.unwrap().status(), 302);
    }
    let damaged = server.http.get(format!("{}/v1/c/AAAA", server.edge));
    assert_eq!(damaged.send().await.unwrap().status(), 400);
    // A test's click, which is not counted.
    let test = format!("{}/v1/serve?placement=demo-top&test=1", server.edge);
    let test: Value = server.http.get(test).send().await.unwrap().json().await.unwrap();
    let click = server.http.get(test["click_url"].as_str().unwrap());
    assert_eq!(click.send().await.unwrap().status(), 302);
    1 + 3 + 3 + 1 + 2
}

/// The requests that the SDK sends (`sdk-js/loader/slots.ts`, `delivery.ts`, `sdk-js/src/queue.rs`)
/// and those of a page without it, and how many events they have.
fn requests(tokens: &[&str]) -> (Value, u64) {
    let [a, b, c, d] = tokens[..4] else { panic!("too few tokens") };
    let get = |about: &str, url: String| json!({ "about": about, "method": "GET", "url": url });
    let serve = |about: &str, query: &str| get(about, format!("/v1/serve?{query}"));
    let events = |about: &str, seq: u16, events: &[(&str, &str)]| {
        let element =
            |(token, kind): &(&str, &str)| format!(r#"{{"token":"{token}","kind":"{kind}"}}"#);
        let elements: Vec<_> = events.iter().map(element).collect();
        let body = format!(r#"{{"events":[{}]}}"#, elements.join(","));
        let url = format!("/v1/events?page=4fzyo82mvyr&seq={seq}");
        json!({ "about": about, "method": "POST", "url": url, "body": body })
    };
    let all = json!([
        serve("an ad without consent", "placement=demo-top&consent=0"),
        serve("an ad with consent", "placement=demo-top&consent=1"),
        serve("a test", "placement=demo-top&consent=0&test=1"),
        serve("an encoded name of no place", "placement=a%20b&consent=0"),
        serve("no such place", "placement=nowhere&consent=0"),
        events(
            "the first events of a page",
            3,
            &[(a, "impression"), (b, "impression"), (a, "viewable")]
        ),
        events("the same again", 3, &[(a, "impression"), (b, "impression"), (a, "viewable")]),
        events("one of no token", 5, &[(c, "impression"), ("AAAA", "impression")]),
        get("the pixel", format!("/v1/i/{d}")),
        get("the link", format!("/v1/c/{d}")),
        get("the link of an ad that was beaconed", format!("/v1/c/{a}")),
        get("the keys", "/.well-known/countersign/jwks.json".to_owned()),
    ]);
    (all, 3 + 3 + 3 + 2 + 3)
}

/// Batches of the edge elsewhere, in every form that this version reads, and how many events they
/// have.
fn batches(tokens: &[&str], at: u64) -> (Value, u64) {
    let bytes: Vec<Vec<u8>> =
        tokens[4..8].iter().map(|token| URL_SAFE_NO_PAD.decode(token).unwrap()).collect();
    let at = Timestamp(at * 1_000);
    let event = |token: usize, kind, page| Event {
        kind,
        at,
        verdict: None,
        rules: RuleSet(7),
        flags: Flags::default(),
        codes: Codes::new(Country::from_bytes(*b"SE").unwrap(), Device::Phone),
        region: Region::UNKNOWN,
        network: Network([4, 203, 0, 113, 0, 0, 0]),
        visitor: Fingerprint::NONE,
        page,
        token: &bytes[token],
    };
    let bot = Event { verdict: Some(Reason::Bot), ..event(1, Kind::Click, None) };
    let page = Some(PageSeq { page: PageView(77), seq: 3 });
    let tally = Tally { minute: at.minute(), kind: Kind::Click, reason: Reason::BadSeal, count: 5 };
    let batch = |number, watermark, events, tallies| Batch {
        outbox: OutboxId { edge: EDGE.parse().unwrap(), epoch: at.0 },
        number,
        watermark,
        events,
        tallies,
    };
    let first = batch(0, at, vec![event(0, Kind::Click, None), bot], vec![tally]);
    let events = vec![event(2, Kind::Impression, page), event(0, Kind::Click, None)];
    let second = batch(1, at, events, vec![tally]);
    let last = batch(2, Timestamp::MAX, vec![event(3, Kind::Viewable, page)], Vec::new());
    let all = json!([
        { "about": "CSB1", "hex": hex(&before_3(&first, 1)) },
        { "about": "CSB2", "hex": hex(&before_3(&second, 2)) },
        { "about": "CSB1 again", "hex": hex(&before_3(&first, 1)) },
        { "about": "CSB2, the last", "hex": hex(&before_3(&last, 2)) },
    ]);
    (all, 2 + 5 + 2 + 5 + 1)
}

/// A batch as versions 1 and 2 had it (`shared/src/wire/batch.rs`): with the country's letters and the
/// device instead of codes and region, version 1 without rule sets and page views. No build writes them
/// any more.
fn before_3(batch: &Batch<'_>, version: u8) -> Vec<u8> {
    let bytes = batch.to_bytes();
    let (head, mut rest) = bytes.split_at(shared::wire::batch::HEADER_BYTES);
    let mut out = [b"CSB", &[b'0' + version][..], &head[4..]].concat();
    for event in &batch.events {
        let event_bytes;
        (event_bytes, rest) = rest.split_at(event.bytes());
        // Kind, verdict, flags; codes and region; network to time; rule set and page view; the token.
        out.extend(&event_bytes[..3]);
        out.extend(event.codes.country.bytes());
        out.push(event.codes.device.code());
        out.extend(&event_bytes[10..33]);
        let page = if event.page.is_some() { 10 } else { 0 };
        let token = 37 + page;
        assert!(version > 1 || page == 0);
        out.extend(&event_bytes[if version > 1 { 33 } else { token }..]);
    }
    out.extend(rest);
    out
}
