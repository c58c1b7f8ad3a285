//! Connections that hold permits and do nothing, beside those of visitors.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::harness::{Edge, Store, eventually};

const PLACES: usize = 64;

async fn start(dir: &std::path::Path) -> Edge {
    Edge::start_with(dir, Arc::new(Store::default()), |parts| {
        parts.settings.connections_max = PLACES;
    })
    .await
}

/// Far less than the time that a silent client has.
const SOON: Duration = Duration::from_secs(5);

async fn click(edge: &Edge, seq: i64) -> u16 {
    let path = format!("/v1/c/{}", edge.token(seq));
    tokio::time::timeout(SOON, edge.get(&path)).await.expect("an answer at once").status
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_only_hold_places_keep_no_visitor_out() {
    let heads: [&[u8]; 4] = [
        // Silent.
        b"",
        // Half a head.
        b"GET /v1/c/AA",
        // Half a body.
        b"POST /v1/events HTTP/1.1\r\nHost: e\r\nContent-Type: text/plain\r\nContent-Length: 99\r\n\r\n{",
        // A whole request, and then nothing more.
        b"GET /v1/c/AA HTTP/1.1\r\nHost: e\r\n\r\n",
    ];
    for (nth, head) in (0..).zip(heads) {
        let dir = tempfile::tempdir().unwrap();
        let edge = start(dir.path()).await;
        let mut held = Vec::new();
        for _ in 0..2 * PLACES {
            let mut stream = TcpStream::connect(edge.address).await.unwrap();
            // The oldest are closed already.
            let _ = stream.write_all(head).await;
            held.push(stream);
        }
        for seq in 0..8 {
            assert_eq!(click(&edge, seq).await, 302, "head {nth}, click {seq}");
        }
        let metrics = edge.get("/metrics").await;
        let metrics = String::from_utf8(metrics.body).unwrap();
        let displaced = "countersign_edge_connections_shut_total{why=\"displaced\"}";
        let displaced = metrics.lines().find_map(|line| line.strip_prefix(displaced)).unwrap();
        assert!(displaced.trim().parse::<usize>().unwrap() >= PLACES, "{displaced}");
        // The oldest was closed first, the newest is there.
        let closed = tokio::time::timeout(SOON, held[0].read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "head {nth}");
        edge.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_replies_is_displaced_too() {
    let dir = tempfile::tempdir().unwrap();
    let edge = start(dir.path()).await;
    let many = "GET /v1/c/AA HTTP/1.1\r\nHost: e\r\n\r\n".repeat(2_000);
    let mut held = Vec::new();
    for _ in 0..PLACES {
        // Little room for replies, so that they wait at the edge.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(edge.address).await.unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(20), stream.write_all(many.as_bytes()))
            .await;
        held.push(stream);
    }
    for seq in 0..8 {
        assert_eq!(click(&edge, seq).await, 302, "click {seq}");
    }
    edge.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_given_back_however_a_connection_ends() {
    let dir = tempfile::tempdir().unwrap();
    let edge = start(dir.path()).await;
    for _ in 0..2 * PLACES {
        drop(TcpStream::connect(edge.address).await.unwrap());
        assert_eq!(edge.get("/healthz").await.status, 200);
    }
    let policies = Arc::downgrade(&edge.policies);
    assert_eq!(click(&edge, 1).await, 302);
    edge.stop().await;
    eventually("nothing is left of the edge", || policies.strong_count() == 0).await;
}
