//! One token again and again, at both shells.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Edge, Store, eventually};
use crate::shells::{Shells, Told, send, told};

/// Clicks of a token, one after the other on one connection.
async fn click(address: SocketAddr, token: &str, count: usize) {
    let head = format!("GET /v1/c/{token} HTTP/1.1\r\nHost: edge\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut reply = vec![0; 4 << 10];
    for _ in 0..count {
        stream.write_all(head.as_bytes()).await.unwrap();
        // A redirect has no body, and comes in one piece.
        let length = stream.read(&mut reply).await.unwrap();
        assert!(reply[..length].starts_with(b"HTTP/1.1 302"), "{:?}", &reply[..length]);
    }
}

/// Bodies with the same token, each of which claims to come from another page.
async fn beacons(address: SocketAddr, token: &str, count: usize) {
    let element = |kind| json!({ "token": token, "kind": kind });
    let events: Vec<_> =
        ["impression", "viewable"].map(element).into_iter().cycle().take(20).collect();
    let body = json!({ "events": events }).to_string();
    let length = body.len();
    for page in 0..count {
        let head = format!(
            "POST /v1/events?page=p{page}&seq=4000 HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\
             User-Agent: {}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n",
            crate::support::BROWSER
        );
        let reply = send(address, head.as_bytes(), body.as_bytes()).await;
        let results = reply.json()["results"].clone();
        assert_eq!((reply.status, results), (202, vec!["accepted"; 20].into()), "as the first");
    }
}

const CLICKS: usize = 1_500;
const BODIES: usize = 50;

/// What the centre is told: one row for each sort of event, the rest in tallies, and nothing is
/// missing.
fn is_all(told: &Told) -> bool {
    // The client's clicks say nothing of a browser; a beacon has two kinds, and one page.
    let rows: Vec<_> = told.events.iter().collect();
    let tallied: u32 = told.tallies.values().sum();
    let of_repeats = ["Click Repeated", "Impression Repeated", "Viewable Repeated"];
    rows.len() as u32 + tallied == (CLICKS + 20 * BODIES) as u32
        && rows.len() == 3
        && rows.iter().all(|(_, count)| **count == 1)
        && told.tallies.keys().eq(of_repeats)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_token_in_thousands_of_requests_is_a_row_for_each_kind_and_tallies() {
    let shells = Shells::start(&[]).await;
    let token = shells.token(1);
    for (name, address) in shells.both() {
        click(address, &token, CLICKS).await;
        beacons(address, &token, BODIES).await;
        let seen = || if name == "native" { shells.told_by_native() } else { shells.centre.told() };
        eventually(name, || is_all(&seen())).await;
    }
}

/// An event is remembered only once the outbox has taken it, so one that was refused does not make
/// the next one a repeat.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_outbox_refused_is_kept_when_it_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let sink = Arc::new(Store::default());
    sink.down.store(true, Ordering::SeqCst);
    let edge = Edge::start_with(dir.path(), Arc::clone(&sink), |_| {}).await;
    let element = |seq| json!({ "token": edge.token(seq), "kind": "impression" });
    let mut seq = 0;
    let refused = loop {
        let body: Vec<_> = (seq..seq + 400).map(element).collect();
        if edge.post(&json!(body)).await.status == 503 {
            break json!(body);
        }
        seq += 400;
    };
    sink.down.store(false, Ordering::SeqCst);
    let mut again = edge.post(&refused).await;
    while again.status == 503 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        again = edge.post(&refused).await;
    }
    assert_eq!(again.status, 202);
    assert_eq!(edge.post(&refused).await.status, 202);
    let (_, sink) = edge.stop().await;
    let told = told(sink.got.lock().values());
    assert_eq!(told.events.values().sum::<u32>() as i64, seq + 400, "all are kept, each once");
    assert_eq!(told.tallies, [("Impression Repeated".to_owned(), 400)].into());
}

#[tokio::test]
async fn a_new_isolate_knows_of_nothing_and_what_was_kept_stays() {
    let mut shells = Shells::start(&[]).await;
    let token = shells.token(1);
    for round in 1..3 {
        click(shells.worker_address(), &token, 10).await;
        let centre = Arc::clone(&shells.centre);
        let is_told = || {
            let told = centre.told();
            (told.events.values().sum::<u32>(), told.tallies.values().sum()) == (round, 9 * round)
        };
        eventually("one of ten is kept", is_told).await;
        shells.worker.kill();
        shells.worker.start_again();
    }
}
