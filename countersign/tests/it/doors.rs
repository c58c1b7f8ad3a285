//! Connections and bodies that hold places and do nothing, against the real process.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use shared::ambient::Stopwatch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::process::{KEY, Server};

const SILENT: usize = 6_000;

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// Raises the limit of descriptors for this process, but for none that it started before.
fn raise() {
    let now = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: now.maximum, ..now }).unwrap();
}

async fn hold(to: SocketAddr, count: usize) -> Vec<TcpStream> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        held.push(TcpStream::connect(to).await.unwrap());
    }
    held
}

async fn clicks_are_answered(server: &Server) {
    for _ in 0..10 {
        let ad = server.serve().await;
        let watch = Stopwatch::start();
        let click = server.http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(click.status(), 302);
        assert!(watch.elapsed() < Duration::from_secs(2), "{:?}", watch.elapsed());
    }
}

/// Asks over a new connection; returns the answer.
async fn answers(server: &Server, path: &str) -> String {
    let mut stream = TcpStream::connect(address(&server.api)).await.unwrap();
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut said = String::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut said)).await;
    read.expect("an answer at once").unwrap();
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    said
}

#[tokio::test]
async fn thousands_of_silent_connections_stop_neither_clicks_nor_the_api() {
    let dir = tempfile::tempdir().unwrap();
    // The server inherits the usual soft limit, and may raise it itself.
    let mut server = Server::start(&dir.path().join("data"));
    raise();
    let of_api = hold(address(&server.api), SILENT).await;
    clicks_are_answered(&server).await;
    answers(&server, "/healthz").await;
    let of_edge = hold(address(&server.edge), SILENT).await;
    clicks_are_answered(&server).await;
    let metrics = answers(&server, "/metrics").await;
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name}")).trim().parse::<usize>().unwrap()
    };
    assert!(value("countersign_api_connections ") <= 1_024);
    assert!(value("countersign_edge_connections ") <= 4_096);
    assert!(value("countersign_api_connections_shut_total{why=\"displaced\"}") >= SILENT - 1_024);
    drop((of_api, of_edge));
    assert_eq!(server.terminate().code(), Some(0));
}

#[tokio::test]
async fn idle_bodies_of_strangers_make_no_batch_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let mut idle = Vec::new();
    for path in ["/v1/batches", "/v1/import", "/v1/deadletters/1/resolve"] {
        for signature in ["", "Countersign-Signature: x.1.y\r\n"] {
            for _ in 0..16 {
                let mut stream = TcpStream::connect(address(&server.api)).await.unwrap();
                let head = format!(
                    "POST {path} HTTP/1.1\r\nHost: a\r\n{signature}Content-Type: \
                     application/json\r\nContent-Length: 1000\r\n\r\n{{"
                );
                stream.write_all(head.as_bytes()).await.unwrap();
                idle.push(stream);
            }
        }
    }
    for path in ["/v1/batches", "/v1/import"] {
        let request = server.http.post(format!("{}{path}", server.api)).bearer_auth(KEY);
        let request = request.header("content-type", "application/json").body("{}");
        let sent = tokio::time::timeout(Duration::from_secs(5), request.send()).await;
        assert_eq!(sent.expect("an answer at once").unwrap().status(), 400, "{path}: it was read");
    }
    for mut stream in idle {
        let mut said = [0; 12];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut said)).await;
        read.expect("an answer at once").unwrap();
        assert_eq!(&said, b"HTTP/1.1 401");
    }
    assert_eq!(server.terminate().code(), Some(0));
}

/// Key ids are public: a head that names one, with a body that never ends, keeps no place from
/// others.
#[tokio::test]
async fn heads_that_claim_to_be_signed_hold_no_place_without_their_body() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let keys = format!("{}/.well-known/countersign/jwks.json", server.edge);
    let keys: serde_json::Value = server.http.get(keys).send().await.unwrap().json().await.unwrap();
    let key = keys["keys"][0]["kid"].as_str().unwrap();
    let now = shared::Clock::now(&shared::ambient::SystemClock).0;
    let head = format!(
        "POST /v1/batches HTTP/1.1\r\nHost: a\r\nCountersign-Signature: {key}.{now}.{}\r\nContent-Type: \
         application/vnd.countersign.batch\r\nContent-Length: 1000\r\n\r\n{{",
        "A".repeat(86)
    );
    raise();
    let mut claims = Vec::new();
    for _ in 0..1_100 {
        let mut stream = TcpStream::connect(address(&server.api)).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        claims.push(stream);
    }
    // Such requests wait among those who have proved nothing, so others still find a place.
    for _ in 0..10 {
        answers(&server, "/healthz").await;
    }
    drop(claims);
    assert_eq!(server.terminate().code(), Some(0));
}

/// A client that sends everything and closes its half of the connection (as `nc -N` does) still
/// reads its answer, on either way in which requests are read.
#[tokio::test]
async fn who_has_said_all_and_closed_its_half_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let events = "{\"events\":[]}";
    let post = format!(
        "POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{events}",
        events.len()
    );
    let get = "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned();
    for (to, request) in [(&server.edge, &get), (&server.edge, &post), (&server.api, &get)] {
        let mut stream = TcpStream::connect(address(to)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        let read = stream.read_to_string(&mut said);
        tokio::time::timeout(Duration::from_secs(5), read).await.expect("an answer").unwrap();
        assert!(said.starts_with("HTTP/1.1 "), "{request}: {said:?}");
    }
    assert_eq!(server.terminate().code(), Some(0));
}
