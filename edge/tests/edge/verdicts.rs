//! Verdicts that need more than one request, or a table: over TCP.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use edge::clicks::Pace;
use edge::native::RunError;
use shared::wire::Batch;
use shared::{Kind, Reason, Verdict};

use crate::harness::{Edge, Store};
use crate::networks::{NUMBER, countries, narrow_table, table};
use crate::support::BROWSER;

/// What became of the clicks.
fn verdicts(sink: &Store) -> BTreeMap<Verdict, usize> {
    let mut verdicts = BTreeMap::new();
    for bytes in sink.got.lock().values() {
        let batch = Batch::read(bytes).unwrap();
        for event in batch.events.iter().filter(|event| event.kind == Kind::Click) {
            *verdicts.entry(event.verdict).or_default() += 1;
        }
    }
    verdicts
}

async fn click(edge: &Edge, client: &str, seq: i64) {
    let path = format!("/v1/c/{}", edge.token(seq));
    let head = format!("GET {path} HTTP/1.1\r\nX-Forwarded-For: {client}\r\nUser-Agent: {BROWSER}");
    assert_eq!(edge.send(&head, b"").await.status, 302);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_clicks_are_sent_on_and_flagged() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start_with(dir.path(), Arc::new(Store::default()), |parts| {
        parts.settings.pace = Pace { clicks: 3, window_s: 3_600 };
    })
    .await;
    for seq in 0..10 {
        click(&edge, "203.0.113.7", seq).await;
    }
    for seq in 10..13 {
        click(&edge, "203.0.113.8", seq).await;
    }
    let (_, sink) = edge.stop().await;
    assert_eq!(verdicts(&sink), [(None, 6), (Some(Reason::TooManyClicks), 7)].into());
}

/// A repeat does not use up a visitor's clicks, neither when the visitor reloads a page, nor when
/// somebody else wants the visitor's next click to be one too many.
#[tokio::test(flavor = "multi_thread")]
async fn a_click_that_comes_again_takes_no_place_in_the_pace() {
    let dir = tempfile::tempdir().unwrap();
    let edge = Edge::start_with(dir.path(), Arc::new(Store::default()), |parts| {
        parts.settings.pace = Pace { clicks: 3, window_s: 3_600 };
    })
    .await;
    const CLIENT: &str = "203.0.113.7";
    for _ in 0..20 {
        click(&edge, CLIENT, 0).await;
    }
    // Within one body, too.
    let token = edge.token(1);
    let element = serde_json::json!({ "token": token, "kind": "click" });
    let body = serde_json::json!({ "events": vec![element; 20] }).to_string();
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nX-Forwarded-For: {CLIENT}\r\nUser-Agent: {BROWSER}\r\n\
         Content-Type: text/plain"
    );
    assert_eq!(edge.send(&head, body.as_bytes()).await.status, 202);
    for seq in 2..4 {
        click(&edge, CLIENT, seq).await;
    }
    // A click that was one too many stays so, however often it is repeated.
    for _ in 0..3 {
        click(&edge, CLIENT, 3).await;
    }
    let (_, sink) = edge.stop().await;
    assert_eq!(verdicts(&sink), [(None, 3), (Some(Reason::TooManyClicks), 1)].into());
}

async fn with_table(dir: &Path, table: &[u8]) -> Edge {
    let path = dir.join("asn.mmdb");
    std::fs::write(&path, table).unwrap();
    Edge::start_with(dir, Arc::new(Store::default()), |parts| {
        parts.settings.networks = Some(path);
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_networks_tells_data_centres() {
    let known = [([198, 51, 100, 7], 24_940)];
    for table in [table(&known, NUMBER), narrow_table(&known, NUMBER)] {
        let dir = tempfile::tempdir().unwrap();
        let edge = with_table(dir.path(), &table).await;
        for (seq, client) in (0..).zip(["198.51.100.7", "198.51.100.8", "2001:db8::1", "unknown"]) {
            click(&edge, client, seq).await;
        }
        let (_, sink) = edge.stop().await;
        assert_eq!(verdicts(&sink), [(None, 3), (Some(Reason::DataCentre), 1)].into());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sort_of_table_is_refused_at_the_start() {
    for bytes in [table(&[([198, 51, 100, 7], 24_940)], "country"), b"no table".to_vec()] {
        let dir = tempfile::tempdir().unwrap();
        let edge = with_table(dir.path(), &bytes).await;
        match edge.task.await.unwrap() {
            Err(RunError::Settings(why)) => assert!(why.contains("the table of networks"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_countries_is_asked_where_no_proxy_says_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("countries.mmdb");
    let known = [([198, 51, 100, 7], "DE"), ([198, 51, 100, 9], "no country")];
    std::fs::write(&path, countries(&known)).unwrap();
    let edge = Edge::start_with(dir.path(), Arc::new(Store::default()), |parts| {
        parts.settings.countries = Some(path);
        parts.settings.country_header = Some("CF-IPCountry".to_owned());
    })
    .await;
    let told =
        [("7", "", "DE"), ("7", "FR", "FR"), ("7", "XX", "DE"), ("8", "", "ZZ"), ("9", "", "ZZ")];
    for (seq, (client, country, _)) in (0..).zip(told) {
        let head = format!(
            "GET /v1/c/{} HTTP/1.1\r\nX-Forwarded-For: 198.51.100.{client}\r\n\
             CF-IPCountry: {country}\r\nUser-Agent: {BROWSER}",
            edge.token(seq)
        );
        assert_eq!(edge.send(&head, b"").await.status, 302);
    }
    let (_, sink) = edge.stop().await;
    let mut found: Vec<String> = Vec::new();
    for bytes in sink.got.lock().values() {
        let batch = Batch::read(bytes).unwrap();
        found.extend(batch.events.iter().map(|event| event.codes.country.to_string()));
    }
    assert_eq!(found, told.map(|(_, _, country)| country));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sort_of_table_of_countries_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("countries.mmdb");
    std::fs::write(&path, table(&[([198, 51, 100, 7], 24_940)], NUMBER)).unwrap();
    let edge = Edge::start_with(dir.path(), Arc::new(Store::default()), |parts| {
        parts.settings.countries = Some(path);
    })
    .await;
    match edge.task.await.unwrap() {
        Err(RunError::Settings(why)) => assert!(why.contains("names no countries"), "{why}"),
        other => panic!("{other:?}"),
    }
}
