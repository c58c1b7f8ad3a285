//! A sender is bound to what it says: an issuer with a key of its own tries to speak for another.

use serde_json::Value;
use shared::keys::{KeyStore, request};
use shared::token::Signer;
use shared::wire::{Batch, Event};
use shared::{
    Clock as _, Country, Device, Fingerprint, Flags, Id, Kind, Network, OutboxId, RuleSet,
    Timestamp,
};

use crate::process::{Server, binary, run};

fn now() -> Timestamp {
    shared::ambient::SystemClock.now()
}

fn live() -> String {
    let now = now().minute().0;
    format!("/v1/accounting?from={}&to={}", (now - 10) * 60, (now + 10) * 60)
}

/// What an edge would tell of a token now.
pub(crate) fn event(kind: Kind, token: &[u8]) -> Event<'_> {
    Event {
        kind,
        at: now(),
        verdict: None,
        rules: RuleSet::UNKNOWN,
        flags: Flags::default(),
        country: Country::UNKNOWN,
        device: Device::Unknown,
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
    let keys = std::fs::read_to_string(server.data.join("keys.json")).unwrap();
    let keys: KeyStore = serde_json::from_str(&keys).unwrap();
    let signer = Signer::new(keys.signing(issuer.parse().unwrap(), now()).unwrap());
    let watermark = now();
    let batch = Batch { outbox, number, watermark, events, tallies: Vec::new() }.to_bytes();
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
    let edge: Id = "m".parse().unwrap();
    let own = OutboxId { edge, epoch: now().0 };
    while send(&server, "mallory", own, 0, Vec::new()).await.0 != 202 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    // As the edge of another, with its next numbers and with an epoch far ahead.
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

    // What it tells of another's token is not believed, and the visitor's own click is counted.
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
async fn keys_of_an_earlier_build_have_their_edge_registered_at_the_first_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    assert_eq!(server.terminate().code(), Some(0));
    // As an earlier build wrote it.
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
