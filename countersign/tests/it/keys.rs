use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use shared::ambient::Stopwatch;

use crate::process::{PATIENCE, Server, binary, run};

fn keys(data: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    run(binary().arg("keys").args(args).arg("--data").arg(data))
}

fn list(data: &Path) -> Vec<Value> {
    let (code, said, _) = keys(data, &["list", "--json"]);
    assert_eq!(code, Some(0));
    serde_json::from_str(&said).unwrap()
}

#[test]
fn there_must_be_a_deployment() {
    let dir = tempfile::tempdir().unwrap();
    let (code, _, said) = keys(dir.path(), &["list"]);
    assert!(code == Some(2) && said.contains("countersign up"), "{code:?} {said}");
}

#[tokio::test]
async fn a_running_server_follows_rotation_and_revocation() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let first = list(&server.data)[0]["id"].as_str().unwrap().to_owned();
    let old = server.serve().await;
    let click = async |ad: &Value| {
        server.http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap().status()
    };
    assert_eq!(click(&old).await, 302);

    let (code, said, _) = keys(&server.data, &["rotate", "--issuer", "edge", "--overlap", "0"]);
    assert_eq!(code, Some(0), "{said}");
    let second = list(&server.data)[1]["id"].as_str().unwrap().to_owned();
    let key_of = |ad: &Value| {
        let bytes = shared::token::from_text(ad["token"].as_str().unwrap().as_bytes()).unwrap();
        shared::text::hex(&bytes[5..9])
    };
    assert_eq!(key_of(&old), first);
    let watch = Stopwatch::start();
    let new = loop {
        let ad = server.serve().await;
        if key_of(&ad) == second {
            break ad;
        }
        assert!(watch.elapsed() < PATIENCE, "the new key is not used");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(click(&old).await, 302, "a retired key still verifies");

    let (code, ..) = keys(&server.data, &["revoke", &first]);
    assert_eq!(code, Some(0));
    let watch = Stopwatch::start();
    while click(&old).await != 403 {
        assert!(watch.elapsed() < PATIENCE, "the revoked key is believed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(click(&new).await, 302);
}

#[tokio::test]
async fn everybody_may_read_the_public_keys_that_are_in_force() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let sides =
        [&server.edge, &server.api].map(|side| format!("{side}{}", shared::keys::jwks::PATH));
    // Reads key ids and the entity tag, without the operator's key.
    let read = async |url: &str| {
        let reply = server.http.get(url).send().await.unwrap();
        assert_eq!(reply.status(), 200);
        assert_eq!(reply.headers()["content-type"], "application/jwk-set+json");
        let tag = reply.headers()["etag"].to_str().unwrap().to_owned();
        let set: Value = reply.json().await.unwrap();
        let kids = set["keys"].as_array().unwrap().iter();
        (kids.map(|key| key["kid"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), tag)
    };
    let eventually = async |expected: &[String]| {
        let watch = Stopwatch::start();
        for url in &sides {
            while read(url).await.0 != expected {
                assert!(watch.elapsed() < PATIENCE, "{url} does not show {expected:?}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let ids = || {
        let keys = list(&server.data);
        let mut ids: Vec<String> =
            keys.iter().map(|key| key["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let first = ids();
    eventually(&first).await;
    let (.., tag) = read(&sides[0]).await;
    for url in &sides {
        let again = server.http.get(url).header("if-none-match", &tag).send().await.unwrap();
        assert_eq!(again.status(), 304, "{url}");
    }
    let (code, said, _) = keys(&server.data, &["rotate", "--issuer", "edge", "--overlap", "0"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(ids().len(), 2);
    eventually(&ids()).await;
    assert_ne!(read(&sides[1]).await.1, tag);
    let (code, _, said) = keys(&server.data, &["revoke", &first[0]]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let left: Vec<String> = ids().into_iter().filter(|id| *id != first[0]).collect();
    eventually(&left).await;
    let (code, _, said) = keys(&server.data, &["retire", &left[0]]);
    assert!(code == Some(0) && said.contains("no key of issuer edge signs now"), "{said}");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Server::start(&data);
    assert_eq!(server.terminate().code(), Some(0));
    let cases: [(&[&str], &str); 5] = [
        (&["new", "--issuer", "edge"], "rotate"),
        (&["new", "--issuer", "import"], "imported logs"),
        (&["rotate", "--issuer", "nobody"], "keys new"),
        (&["retire", "00000000"], "no key 00000000"),
        (&["revoke", "xyz"], "hexadecimal"),
    ];
    for (args, word) in cases {
        let (code, _, said) = keys(&data, args);
        assert!(code == Some(2) && said.contains(word), "{args:?}: {code:?} {said}");
    }
    // What a revoked key signed no longer verifies, and no command may say that it does.
    let (_, said, _) = keys(&data, &["new", "--issuer", "brief"]);
    let brief = said.split(' ').nth(2).unwrap();
    assert_eq!(keys(&data, &["revoke", brief]).0, Some(0));
    for again in ["revoke", "retire"] {
        let (code, said, err) = keys(&data, &[again, brief]);
        assert!(code == Some(2) && err.contains("is revoked already"), "{again}: {said}{err}");
    }
    let edges = |args: &[&str]| run(binary().arg("edges").args(args).arg("--data").arg(&data));
    let (code, _, said) = edges(&["retire", "nosuch"]);
    assert!(code == Some(2) && said.contains("no edge nosuch is registered"), "{code:?} {said}");
    // Taking an edge out of service is for ever, and is said wherever its name is.
    let retired = [
        (&["register", "gone", "--issuer", "edge"][..], "belongs to the issuer edge\n"),
        (&["retire", "gone--FRA"], "gone--FRA is out of service"),
        (&["retire", "gone"], "gone is out of service"),
        (&["register", "gone", "--issuer", "edge"], "and is out of service since"),
        (&["registered"], "out of service since"),
    ];
    for (args, word) in retired {
        let (code, said, err) = edges(args);
        assert!(code == Some(0) && said.contains(word), "{args:?}: {said}{err}");
    }
    let (code, said, _) = keys(&data, &["new", "--issuer", "other", "--publisher", "news"]);
    assert!(code == Some(0) && said.contains("issuer other"), "{said}");
    let (_, said, _) = keys(&data, &["list"]);
    assert!(said.contains("other") && said.contains("for news"), "{said}");
}

/// An edge that serves and is not counted is not ready, and says why.
#[tokio::test]
async fn an_edge_that_is_taken_out_of_service_under_its_process_is_unready_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let server = Server::start(&data);
    server.serve().await;
    let (code, said, err) = run(binary().args(["edges", "retire", "edge", "--data"]).arg(&data));
    assert!(code == Some(0) && said.contains("give it another name"), "{code:?} {said}{err}");
    let watch = Stopwatch::start();
    let mut said = String::new();
    while !said.contains("edge_retired: this edge's name is out of service") {
        assert!(watch.elapsed() < PATIENCE, "{said}");
        // The edge learns of it only from the answer to a batch.
        server.serve().await;
        let reply = server.http.get(format!("{}/readyz", server.edge)).send().await.unwrap();
        said = reply.text().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
