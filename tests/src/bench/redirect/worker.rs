//! Durable redirects of the Wasm edge on workerd, beside a Worker of one line of JavaScript that only
//! answers 302, on the same workerd and with the same load. Nobody takes the edge's batches meanwhile:
//! its shard keeps them.

use std::path::Path;

use shared::Id;
use shared::ambient::Stopwatch;

use super::super::tokens::{Mint, URL};
use super::super::{Measured, Size};
use super::server::Server;
use super::{Run, links, run_with};

/// Fewer than on the servers that a core of their own is enough for.
const CONNECTIONS: usize = 256;
const EDGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../edge/workerd.capnp");

pub(in crate::bench) fn measure(size: Size) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = dir.path();
    let links = links(size.of(60_000, 300))?;
    let bare = run_with(&Server::workerd(&bare(dir)?, &[], None)?, &links, CONNECTIONS)?;
    let outbox = dir.join("outbox");
    std::fs::create_dir(&outbox).map_err(|error| error.to_string())?;
    let watch = Stopwatch::start();
    let edge = Server::workerd(Path::new(EDGE), &bindings("durable")?, Some(&outbox))?;
    run_with(&edge, &links[..1], 1)?;
    let first_ms = watch.elapsed().as_secs_f64() * 1e3;
    let durable = run_with(&edge, &links, CONNECTIONS)?;
    drop(edge);
    let edge = Server::workerd(Path::new(EDGE), &bindings("queued")?, Some(&outbox))?;
    let queued = run_with(&edge, &links, CONNECTIONS)?;
    drop(edge);
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
        Measured::new("worker/first-answer", "process start to the first 302", first_ms, "ms"),
    ])
}

/// What the edge is told; nobody listens on the gateway's port.
fn bindings(clicks: &str) -> Result<Vec<(&'static str, String)>, String> {
    let keys = Mint::new()?.store.for_edge(Id::literal("bench"));
    let keys = serde_json::to_string(&keys.map_err(|error| error.to_string())?);
    Ok(vec![
        ("EDGE_NAME", "bench".to_owned()),
        ("EDGE_KEYS", keys.map_err(|error| error.to_string())?),
        ("CLICKS", clicks.to_owned()),
        ("GATEWAY_URL", "http://127.0.0.1:1".to_owned()),
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
