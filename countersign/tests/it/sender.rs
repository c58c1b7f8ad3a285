//! A sender can speak only for itself: an issuer with a key of its own tries to speak for another.

use serde_json::Value;
use shared::keys::{KeyStore, request};
use shared::token::Signer;
use shared::wire::{Batch, Event};
use shared::{
    Clock as _, Codes, EdgeId, Fingerprint, Flags, Kind, Network, OutboxId, Region, RuleSet,
    Timestamp,
};

use crate::process::{KEY, Server, binary, run};
use crate::{duckdb, recount};

fn now() -> Timestamp {
    shared::ambient::SystemClock.now()
}

fn live() -> String {
    let now = now().minute().0;
    format!("/v1/accounting?from={}&to={}", (now - 10) * 60, (now + 10) * 60)
}

/// The event that an edge would make of a token now.
pub(crate) fn event(kind: Kind, token: &[u8]) -> Event<'_> {
    Event {
        kind,
        at: now(),
        verdict: None,
        rules: RuleSet::UNKNOWN,
        flags: Flags::default(),
        codes: Codes::default(),
        region: Region::UNKNOWN,
        network: Network::default(),
        visitor: Fingerprint::NONE,
        page: None,
        token,
    }
}

/// Sends a batch, signed with the issuer's key.
async fn send(
    server: &Server,
    issuer: &str,
    outbox: OutboxId,
    number: u64,
    events: Vec<Event<'_>>,
) -> (u16, Value) {
    let watermark = now();
    let batch = Batch { outbox, number, watermark, events, tallies: Vec::new() };
    send_bytes(server, issuer, batch.to_bytes()).await
}

async fn send_bytes(server: &Server, issuer: &str, batch: Vec<u8>) -> (u16, Value) {
    let keys = std::fs::read_to_string(server.data.join("keys.json")).unwrap();
    let keys: KeyStore = serde_json::from_str(&keys).unwrap();
    let signer = Signer::new(keys.signing(issuer.parse().unwrap(), now()).unwrap());
    let field = request::sign(&signer, keys.deployment, "/v1/batches", &batch, now());
    let post = server.http.post(format!("{}/v1/batches", server.api));
    let post =
        post.header(request::FIELD, field).header("content-type", "application/octet-stream");
    let reply = post.body(batch).send().await.unwrap();
    (reply.status().as_u16(), reply.json().await.unwrap())
}

fn change(server: &Server, args: &[&str]) -> String {
    let (code, said, err) = run(binary().args(args).arg("--data").arg(&server.data));
    assert_eq!(code, Some(0), "{said}{err}");
    said
}

#[tokio::test]
async fn another_issuer_s_key_neither_takes_numbers_nor_burns_clicks() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    change(&server, &["keys", "new", "--issuer", "mallory"]);
    change(&server, &["edges", "register", "m", "--issuer", "mallory"]);
    let said = change(&server, &["edges", "registered"]);
    assert!(said.contains("edge") && said.contains("mallory"), "{said}");
    // The file is followed within a second.
    let edge: EdgeId = "m".parse().unwrap();
    let own = OutboxId { edge, epoch: now().0 };
    while send(&server, "mallory", own, 0, Vec::new()).await.0 != 202 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    // It sends as another's edge, with that edge's next numbers, and with an epoch far ahead.
    let ad = server.serve().await;
    let edges = server.until("/v1/edges", |all| all["edges"][0]["outboxes"][0].is_object()).await;
    let epoch = edges["edges"][0]["outboxes"][0]["epoch"].as_u64().unwrap();
    for epoch in [epoch, u64::MAX] {
        for number in 0..10 {
            let outbox = OutboxId { edge: "edge".parse().unwrap(), epoch };
            let (status, problem) = send(&server, "mallory", outbox, number, Vec::new()).await;
            assert_eq!((status, &problem["type"]), (403, &"urn:countersign:foreign_edge".into()));
        }
    }
    let ahead = OutboxId { edge, epoch: u64::MAX };
    let (status, problem) = send(&server, "mallory", ahead, 0, Vec::new()).await;
    assert_eq!((status, &problem["type"]), (403, &"urn:countersign:epoch_ahead".into()));

    // Its event with another's token is not believed, and the visitor's own click is counted.
    let token = {
        use base64::Engine as _;
        let text = ad["token"].as_str().unwrap();
        base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap()
    };
    assert_eq!(send(&server, "mallory", own, 1, vec![event(Kind::Click, &token)]).await.0, 202);
    server.until(&live(), |answer| answer["reasons"]["foreign_issuer"] == 1).await;
    let reply = server.http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(reply.status(), 302);
    let answer = server.until(&live(), |answer| answer["counted"] == 2).await;
    assert_eq!((&answer["duplicate"], &answer["adds_up"]), (&0.into(), &true.into()), "{answer}");
    assert_eq!(server.terminate().code(), Some(0));
}

#[tokio::test]
async fn a_letter_that_speaks_for_another_s_edge_gives_up_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    change(&server, &["keys", "new", "--issuer", "mallory"]);
    change(&server, &["edges", "register", "m", "--issuer", "mallory"]);
    server.serve().await;
    let edges = server.until("/v1/edges", |all| all["edges"][0]["outboxes"][0].is_object()).await;
    let outbox = &edges["edges"][0]["outboxes"][0];
    let (epoch, next) = (outbox["epoch"].as_u64().unwrap(), outbox["batches"].as_u64().unwrap());

    // Batches that look like the next ones of another's edge, with a byte too many.
    let outbox = OutboxId { edge: "edge".parse().unwrap(), epoch };
    let forged = |number| {
        let (events, tallies) = (Vec::new(), Vec::new());
        let batch = Batch { outbox, number, watermark: now(), events, tallies };
        [batch.to_bytes(), b"!".to_vec()].concat()
    };
    // The new key is followed within a second.
    while send_bytes(&server, "mallory", forged(next)).await.0 == 401 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    for number in next + 1..next + 5 {
        assert_eq!(send_bytes(&server, "mallory", forged(number)).await.0, 400);
    }
    let command = |args: &[&str]| {
        let mut command = binary();
        run(command.args(args).args(["--key", KEY, "--api", &server.api]))
    };
    let (_, said, err) = command(&["deadletter", "list"]);
    assert_eq!(said.matches("issuer mallory").count(), 6, "{said}{err}");
    assert!(said.contains("\n  issuer mallory: 5 letters, "), "{said}");
    let (_, said, _) = command(&["deadletter", "list", "--json"]);
    let letters: Value = serde_json::from_str(&said).unwrap();
    let letters = letters["letters"].as_array().unwrap();
    let letters: Vec<_> = letters.iter().map(|letter| letter["sequence"].to_string()).collect();
    for letter in &letters {
        let (code, _, said) = command(&["deadletter", "resolve", letter]);
        assert!(code != Some(0) && said.contains("issuer mallory"), "{code:?} {said}");
        assert!(said.contains("--no-batch") && said.contains("--batch edge/"), "{said}");
    }
    let resolve = ["deadletter", "resolve", "--sender", "issuer mallory"];
    let (_, said, err) = command(&resolve);
    assert!(said.contains("\n0 batches") && said.contains("5 stay as they are"), "{said}{err}");
    let (code, said, err) = command(&[&resolve[..], &["--no-batch"]].concat());
    assert!(code == Some(0) && said.starts_with("5 dead letters are resolved"), "{said}{err}");
    let (_, said, _) =
        command(&["deadletter", "list", "--sender", "issuer:mallory", "--after", "1"]);
    assert!(said.contains("that nobody has resolved: 0"), "{said}");

    // The honest edge's own next batches are all counted.
    for _ in 0..4 {
        let ad = server.serve().await;
        let reply = server.http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(reply.status(), 302);
    }
    let answer = server.until(&live(), |answer| answer["counted"] == 9).await;
    assert_eq!((&answer["duplicate"], &answer["adds_up"]), (&0.into(), &true.into()), "{answer}");
    let (_, said, err) = command(&["edges", "list"]);
    let row = |edge: &str| {
        let mut rows = said.lines().skip(1);
        let row = rows.find(|line| line.split_whitespace().next() == Some(edge));
        row.unwrap_or_default().to_owned()
    };
    assert_eq!(row("edge").split_whitespace().nth(1), Some("edge"), "{said}{err}");
    let silent = row("m");
    assert!(silent.contains("mallory") && silent.contains("has sent nothing"), "{said}");
    assert_eq!(server.terminate().code(), Some(0));
}

#[tokio::test]
async fn keys_of_an_earlier_build_have_their_edge_registered_at_the_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    assert_eq!(server.terminate().code(), Some(0));
    // Keys as an earlier build wrote them, without registered edges.
    let path = server.data.join("keys.json");
    let mut keys: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert!(keys.as_object_mut().unwrap().remove("edges").is_some());
    std::fs::write(&path, keys.to_string()).unwrap();
    let mut server = Server::start(&server.data.clone());
    server.serve().await;
    server.until(&live(), |answer| answer["counted"] == 1).await;
    assert!(change(&server, &["edges", "registered"]).contains("edge"));
    assert_eq!(server.terminate().code(), Some(0));
    // Nobody else gets the name.
    let args = ["edges", "register", "edge", "--issuer", "edge", "--data"];
    assert_eq!(run(binary().args(args).arg(&server.data)).0, Some(0));
    change(&server, &["keys", "new", "--issuer", "mallory"]);
    let args = ["edges", "register", "edge", "--issuer", "mallory", "--data"];
    let (code, _, said) = run(binary().args(args).arg(&server.data));
    assert!(code == Some(2) && said.contains("another issuer"), "{code:?} {said}");
}

#[tokio::test]
async fn a_number_with_two_contents_is_told_by_everybody() {
    let dir = tempfile::tempdir().unwrap();
    let flags = recount::flags(dir.path());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Server::start_with(&dir.path().join("data"), None, &flags);
    let token = server.serve().await;
    server.until(&live(), |answer| answer["counted"] == 1).await;
    change(&server, &["keys", "new", "--issuer", "mallory"]);
    change(&server, &["edges", "register", "m", "--issuer", "mallory"]);
    let outbox = OutboxId { edge: "m".parse().unwrap(), epoch: now().0 };
    while send(&server, "mallory", outbox, 0, Vec::new()).await.0 != 202 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let answer = server.ask(&live()).await;
    assert_eq!((&answer["adds_up"], &answer["conflicts"]), (&true.into(), &Value::Null));

    let garbage = token["token"].as_str().unwrap().as_bytes();
    assert_eq!(send(&server, "mallory", outbox, 0, vec![event(Kind::Click, garbage)]).await.0, 202);
    let answer = server.until(&live(), |answer| answer["conflicts"].is_array()).await;
    let told = &answer["conflicts"][0];
    assert_eq!((&answer["adds_up"], &told["edge"]), (&false.into(), &"m".into()), "{answer}");
    let conflict = &told["newest"][0];
    assert_eq!((&told["count"], &conflict["events"]), (&1.into(), &1.into()), "{answer}");
    assert_ne!(conflict["counted"], conflict["skipped"], "{answer}");
    // Each of the three partitions hears of it by itself.
    for round in 0.. {
        let metrics = server.text("/metrics").await;
        if metrics.contains("conflicting_batches_total 3") {
            break;
        }
        assert!(round < 100, "{metrics}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    server.kill_and_restart_with(&flags);
    let after = server.until(&live(), |answer| answer["conflicts"].is_array()).await;
    assert_eq!(after["conflicts"], answer["conflicts"]);

    let mut again = recount::recount_of(&server.api, &server.data);
    let (code, said, err) = run(again.args(recount::since(30)));
    assert_eq!(code, Some(1), "{said}{err}");
    assert!(said.contains("CONFLICT: edge m") && !said.contains("DIFFERENCES"), "{said}");
    let minute = now().minute().0;
    let differences = duckdb::differences(&server, dir.path(), minute - 60..minute + 60).await;
    assert_eq!(differences.len(), 3, "{differences:#?}");
    assert!(differences.iter().all(|row| row.contains("two contents")), "{differences:#?}");
}

#[tokio::test]
async fn an_operator_who_errs_in_the_number_gives_up_no_batch_that_is_not_missing() {
    let dir = tempfile::tempdir().unwrap();
    let flags = recount::flags(dir.path());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Server::start_with(&dir.path().join("data"), None, &flags);
    change(&server, &["keys", "new", "--issuer", "house"]);
    change(&server, &["edges", "register", "m", "--issuer", "house"]);
    let outbox = OutboxId { edge: "m".parse().unwrap(), epoch: now().0 };
    let garbage = || vec![event(Kind::Click, b"garbage")];
    while send(&server, "house", outbox, 0, garbage()).await.0 != 202 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(send(&server, "house", outbox, 2, garbage()).await.0, 202);
    assert_eq!(send_bytes(&server, "house", b"no batch".to_vec()).await.0, 400);
    let resolve = |number: u64| {
        let batch = format!("m/{}/{number}", outbox.epoch);
        let mut resolve = binary();
        resolve.args(["deadletter", "resolve", "1", "--batch", &batch]);
        let (code, said, err) = run(resolve.args(["--key", KEY, "--api", &server.api]));
        assert!(code == Some(0) && said.contains(&format!("{batch} is given up if it is missing")));
        assert!(err.is_empty(), "{err}");
    };
    // Batch 1 is missing, another has come, a third has not come yet.
    [1, 2, 3].into_iter().for_each(resolve);
    for number in [1, 3] {
        assert_eq!(send(&server, "house", outbox, number, garbage()).await.0, 202);
    }
    let answer = server.until(&live(), |answer| answer["reasons"]["unknown_version"] == 3).await;
    assert_eq!((&answer["given_up"], &answer["received"]), (&1.into(), &3.into()), "{answer}");
    recount::agrees(&server.api, &server.data);
    let minute = now().minute().0;
    let differences = duckdb::differences(&server, dir.path(), minute - 60..minute + 60).await;
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(server.terminate().code(), Some(0));
}
