use axum::routing::get;
use edge::native::doors::{DoorSettings, Shut};
use shared::ambient::Stopwatch;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::oneshot;

use super::*;

const PLACES: usize = 32;
const SOON: Duration = Duration::from_secs(5);
/// Larger than what the system takes of a reply that nobody reads.
const LARGE: usize = 64 << 20;

struct Api {
    address: SocketAddr,
    doors: Arc<Doors>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Api {
    async fn start(timeouts: ClientTimeouts) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings =
            DoorSettings { connections_max: PLACES, network_max: PLACES, exempt: Vec::new() };
        let doors = Doors::new(settings, DoorMetrics::default());
        let router = Router::new()
            .route("/", get(|| async { "yes" }))
            .route("/large", get(|| async { vec![b'x'; LARGE] }))
            .route("/slow", get(|| async { tokio::time::sleep(SOON / 10).await }));
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let task = tokio::spawn(serve_api(listener, router, Arc::clone(&doors), timeouts, stopped));
        Self { address, doors, stop, task }
    }

    async fn open(&self, said: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        stream
    }

    /// Sends a request; returns everything that comes back.
    async fn ask(&self, path: &str) -> String {
        let head = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut stream = self.open(&head).await;
        let mut said = String::new();
        let read = tokio::time::timeout(SOON, stream.read_to_string(&mut said)).await;
        read.expect("an answer at once").unwrap();
        said
    }

    /// Waits until so many connections were shut for this reason.
    async fn shut(&self, why: Shut, times: u64) {
        let watch = Stopwatch::start();
        while self.doors.metrics().count(why) < times {
            assert!(watch.elapsed() < SOON, "{why:?}: {}", self.doors.metrics().count(why));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn short() -> ClientTimeouts {
    let head = Duration::from_millis(200);
    ClientTimeouts { head, stall: head, life: SOON, last: SOON }
}

#[tokio::test]
async fn an_answer_is_whole_and_says_its_length() {
    let api = Api::start(ClientTimeouts::default()).await;
    let said = api.ask("/").await;
    assert!(said.starts_with("HTTP/1.1 200 OK\r\n") && said.ends_with("\r\n\r\nyes"), "{said}");
    assert!(said.contains("content-length: 3\r\n"), "{said}");
    assert!(api.ask("/none").await.starts_with("HTTP/1.1 404 "));
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    let api = Api::start(ClientTimeouts::default()).await;
    let mut silent = Vec::new();
    for _ in 0..4 * PLACES {
        silent.push(api.open("").await);
        silent.push(api.open("GET / HTTP/1.1\r\nHos").await);
    }
    for _ in 0..8 {
        assert!(api.ask("/").await.ends_with("yes"));
    }
    assert!(api.doors.metrics().open() <= PLACES as i64);
    api.shut(Shut::Displaced, 7 * PLACES as u64).await;
}

#[tokio::test]
async fn no_client_is_waited_for_for_ever() {
    let api = Api::start(short()).await;
    let silent = api.open("").await;
    let slow = api.open("GET / HTTP/1.1\r\nHos").await;
    let idle = api.open("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let takes_nothing = api.open("GET /large HTTP/1.1\r\nHost: a\r\n\r\n").await;
    api.shut(Shut::TimedOut, 4).await;
    tokio::time::timeout(SOON, api.doors.emptied()).await.expect("all are closed");
    drop((silent, slow, idle, takes_nothing));
}

#[tokio::test]
async fn who_takes_a_large_answer_has_all_of_it() {
    let api = Api::start(short()).await;
    assert!(api.ask("/large").await.len() > LARGE);
}

#[tokio::test]
async fn the_end_waits_for_requests_and_for_nothing_else() {
    let api = Api::start(ClientTimeouts::default()).await;
    let _silent = api.open("").await;
    let mut asked = api.open("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let watch = Stopwatch::start();
    api.stop.send(()).unwrap();
    let mut said = String::new();
    asked.read_to_string(&mut said).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 200 "), "{said}");
    api.task.await.unwrap();
    assert!(watch.elapsed() < SOON);
}
