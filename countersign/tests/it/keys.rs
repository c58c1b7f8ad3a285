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
    assert!(code == Some(5) && said.contains("countersign up"), "{code:?} {said}");
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
    let (code, said, _) = keys(&data, &["new", "--issuer", "other", "--publisher", "news"]);
    assert!(code == Some(0) && said.contains("issuer other"), "{said}");
    let (_, said, _) = keys(&data, &["list"]);
    assert!(said.contains("other") && said.contains("for news"), "{said}");
}
