//! Durable redirects of the Wasm edge on workerd, compared with a one-line JavaScript Worker that
//! only answers 302, on the same workerd and with the same load. Nobody takes the edge's batches
//! meanwhile: its shard keeps them, and afterwards sends them to a gateway that answers at once.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shared::Id;
use shared::ambient::Stopwatch;
use shared::wire::Batch;

use super::super::tokens::{Mint, URL};
use super::super::{Measured, Size};
use super::server::Server;
use super::{Run, links, run_with};

/// Fewer than on the other servers, for which one core is enough.
const CONNECTIONS: usize = 256;
const EDGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../edge/workerd.capnp");

pub(in crate::bench) fn measure(size: Size) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = dir.path();
    let links = links(size.choose(60_000, 300))?;
    let bare = run_with(&Server::workerd(&bare(dir)?, &[], None)?, &links, CONNECTIONS)?;
    let outbox = dir.join("outbox");
    std::fs::create_dir(&outbox).map_err(|error| error.to_string())?;
    let watch = Stopwatch::start();
    let edge = Server::workerd(Path::new(EDGE), &bindings("durable", NOBODY)?, Some(&outbox))?;
    run_with(&edge, &links[..1], 1)?;
    let first_ms = watch.elapsed().as_secs_f64() * 1e3;
    let durable = run_with(&edge, &links, CONNECTIONS)?;
    drop(edge);
    let edge = Server::workerd(Path::new(EDGE), &bindings("queued", NOBODY)?, Some(&outbox))?;
    let queued = run_with(&edge, &links, CONNECTIONS)?;
    drop(edge);
    let (sent, sent_s) = drain(&outbox)?;
    let note = format!(
        "worker: {CONNECTIONS} kept connections, {} distinct tokens; workerd on one core, the load \
         on another",
        links.len()
    );
    let per_request = |run: &Run| run.busy / 100.0 / run.rate * 1e6;
    Ok(vec![
        Measured::new("worker/bare", "peer: a Worker in JavaScript, 302 alone", bare.rate, "302/s"),
        Measured::new("worker/bare-cpu", "its CPU a request", per_request(&bare), "µs"),
        Measured::new(
            "worker/edge",
            "Wasm edge: checked, durable, then 302",
            durable.rate,
            "302/s",
        )
        .peer("worker/bare")
        .note(note),
        Measured::new("worker/edge-p50", "its p50", durable.p50_ms, "ms"),
        Measured::new("worker/edge-p99", "its p99", durable.p99_ms, "ms"),
        Measured::new(
            "worker/edge-cpu",
            "its CPU a request, the shard's too",
            per_request(&durable),
            "µs",
        ),
        Measured::new("worker/queued", "the same with CLICKS=queued", queued.rate, "302/s")
            .peer("worker/bare"),
        Measured::new(
            "worker/outbox",
            "events that waited, process start to the last batch",
            sent as f64 / sent_s,
            "events/s",
        )
        .note(format!(
            "worker/outbox: {sent} events in {sent_s:.2} s, to a gateway that only counts"
        )),
        Measured::new("worker/first-answer", "process start to the first 302", first_ms, "ms"),
    ])
}

/// An address at which nobody listens.
const NOBODY: &str = "http://127.0.0.1:1";
/// A shard that has sent nothing for so long has sent everything …
const SILENCE: Duration = Duration::from_secs(2);
/// … or it is taken for stuck.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// How many events the shards of this directory send, and in how many seconds.
fn drain(outbox: &Path) -> Result<(u64, f64), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    let url = format!("http://{}", listener.local_addr().map_err(|error| error.to_string())?);
    let (watch, events, last_us) = (Stopwatch::start(), AtomicU64::new(0), AtomicU64::new(0));
    let taken = Arc::new(Taken { watch, events, last_us });
    let counts = Arc::clone(&taken);
    // Both end with the process: a connection when workerd is dropped, the listener with the bench.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counts = Arc::clone(&counts);
            std::thread::spawn(move || counts.serve(stream));
        }
    });
    let edge = Server::workerd(Path::new(EDGE), &bindings("durable", &url)?, Some(outbox))?;
    let is_silent = || {
        let last = Duration::from_micros(taken.last_us.load(Ordering::SeqCst));
        !last.is_zero() && taken.watch.elapsed() - last > SILENCE
    };
    while !is_silent() {
        if taken.watch.elapsed() > DRAIN_MAX {
            return Err("the shard does not come to an end of its events".to_owned());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(edge);
    let last = Duration::from_micros(taken.last_us.load(Ordering::SeqCst));
    Ok((taken.events.load(Ordering::SeqCst), last.as_secs_f64()))
}

/// What a gateway has taken.
struct Taken {
    watch: Stopwatch,
    events: AtomicU64,
    /// When the last event came, after the start.
    last_us: AtomicU64,
}

impl Taken {
    /// Answers one connection's requests until it ends.
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        let mut writer = stream;
        loop {
            let (mut length, mut line) = (0, String::new());
            while reader.read_line(&mut line).ok()? > 0 && line != "\r\n" {
                if let Some((name, value)) = line.split_once(':')
                    && name.eq_ignore_ascii_case("content-length")
                {
                    length = value.trim().parse().ok()?;
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok().filter(|()| !line.is_empty())?;
            // Anything else is a question for keys and ads, of which there are none here.
            let status = match Batch::read(&body) {
                Ok(batch) => {
                    if !batch.events.is_empty() {
                        self.events.fetch_add(batch.events.len() as u64, Ordering::SeqCst);
                        let us = u64::try_from(self.watch.elapsed().as_micros()).ok()?;
                        self.last_us.fetch_max(us, Ordering::SeqCst);
                    }
                    "202 Accepted"
                }
                Err(_) => "404 Not Found",
            };
            let answer = "{\"clock_ahead_ms\":0}";
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", answer.len());
            writer.write_all(format!("{head}{answer}").as_bytes()).ok()?;
        }
    }
}

/// The Worker's bindings.
fn bindings(clicks: &str, gateway: &str) -> Result<Vec<(&'static str, String)>, String> {
    let keys = Mint::new()?.store.for_edge(Id::literal("bench"));
    let keys = serde_json::to_string(&keys.map_err(|error| error.to_string())?);
    Ok(vec![
        ("EDGE_NAME", "bench".to_owned()),
        ("EDGE_KEYS", keys.map_err(|error| error.to_string())?),
        ("CLICKS", clicks.to_owned()),
        ("GATEWAY_URL", gateway.to_owned()),
    ])
}

fn bare(dir: &Path) -> Result<std::path::PathBuf, String> {
    let path = dir.join("bare.capnp");
    let text = format!(
        "using Workerd = import \"/workerd/workerd.capnp\";\n\
         const config :Workerd.Config = (\n  services = [(name = \"bare\", worker = .bare)],\n  \
         sockets = [(name = \"http\", address = \"127.0.0.1:0\", http = (), service = \"bare\")],\n);\n\
         const bare :Workerd.Worker = (\n  modules = [(name = \"bare.js\", esModule = \"export default {{ \
         fetch() {{ return new Response(null, {{ status: 302, headers: {{ location: '{URL}' }} }}); }} }};\")],\n  \
         compatibilityDate = \"2026-10-01\",\n);\n"
    );
    std::fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}
