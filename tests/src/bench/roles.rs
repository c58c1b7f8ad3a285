//! The roles as processes around a real nats-server: a click through all of them, and how long a
//! question or a click waits when a process that it needs is killed.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use eventlog::nats::server::NatsServer;
use shared::ambient::Stopwatch;

use super::log::runtime;
use super::process::{Server, binary, catalogue, clicks_at, probes};
use super::{Measured, Size};

const NAMES: [&str; 4] =
    ["roles/queryable-p50", "roles/queryable-p99", "roles/redirect-p50", "roles/redirect-p99"];
const PATIENCE: Duration = Duration::from_secs(60);

/// 2 000 clicks a second through an edge, the work queue, a collector, the log and an aggregator.
pub(super) fn click(size: Size) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let nats = NatsServer::start(&dir.path().join("nats"));
    let seconds = size.choose(10, 1);
    let url = nats.url();
    init(&url, 1)?;
    let _collector = Role::start(&["collector", "--log", &url])?;
    let counts = path(dir.path(), "counts");
    let aggregator = Role::start(&["aggregator", "--log", &url, "--data", &counts])?;
    let mut edge = edge(dir.path(), &url, seconds)?;
    edge.api = aggregator.api.clone();
    runtime()?.block_on(clicks_at(&Arc::new(edge), seconds, "click through all roles", NAMES))
}

/// kill -9 of the aggregator that counts, and of each of three NATS nodes.
pub(super) fn failover(_: Size) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let mut nodes = NatsServer::start_three(dir.path());
    let url = nodes.each_ref().map(NatsServer::url).join(",");
    let watch = Stopwatch::start();
    // Three nodes that have just met have no leader yet.
    while let Err(why) = init(&url, 3) {
        if watch.elapsed() > PATIENCE {
            return Err(why);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let _collector = Role::start(&["collector", "--log", &url])?;
    let counts = path(dir.path(), "counts");
    let aggregator = || Role::start(&["aggregator", "--log", &url, "--data", &counts]);
    let (first, mut edge) = (aggregator()?, edge(dir.path(), &url, 1)?);
    runtime()?.block_on(async {
        let mut clicks = 0;
        edge.api = first.api.clone();
        counted(&edge, &mut clicks).await?;
        let second = aggregator()?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(first);
        edge.api = second.api.clone();
        let aggregator = counted(&edge, &mut clicks).await?;
        let mut slowest = Duration::ZERO;
        for node in &mut nodes {
            node.kill();
            slowest = slowest.max(counted(&edge, &mut clicks).await?);
            node.start_again();
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        Ok(vec![
            Measured::new(
                "failover/aggregator",
                "kill -9 of the aggregator: from the kill to a new click in the other one's answer",
                aggregator.as_secs_f64(),
                "s",
            ),
            Measured::new(
                "failover/nats-node",
                "kill -9 of each of three NATS nodes: the longest time to a new click in the answer",
                slowest.as_secs_f64(),
                "s",
            ),
        ])
    })
}

/// Clicks; returns how long it takes until that click is counted.
async fn counted(edge: &Server, clicks: &mut u64) -> Result<Duration, String> {
    let watch = Stopwatch::start();
    let link = edge.serve("load".to_owned()).await?;
    edge.click(&link).await?;
    *clicks += 1;
    loop {
        // An aggregator that is away or stands by gives no answer.
        match edge.count("load").await {
            Ok(counted) if counted == *clicks => return Ok(watch.elapsed()),
            Ok(counted) if counted > *clicks => {
                return Err(format!("{counted} of {clicks} counted"));
            }
            other if watch.elapsed() > PATIENCE => return Err(format!("no answer: {other:?}")),
            _ => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

fn init(url: &str, replicas: usize) -> Result<(), String> {
    let mut command = binary()?;
    command.args(["init", "--edge", "bench", "--log", url, "--replicas", &replicas.to_string()]);
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("init: {said}")) }
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

fn edge(dir: &Path, url: &str, seconds: usize) -> Result<Server, String> {
    let data = dir.join("edge");
    std::fs::create_dir_all(&data).map_err(|error| error.to_string())?;
    std::fs::write(data.join("catalogue.toml"), catalogue(probes(seconds)))
        .map_err(|error| error.to_string())?;
    let mut command = binary()?;
    command.args(["edge", "--log", url, "--name", "bench", "--data"]).arg(data);
    command.args(["--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]);
    Server::spawn(command)
}

/// A role that listens at one address; killed with -9 when it is dropped.
struct Role {
    child: Child,
    api: String,
}

impl Role {
    fn start(args: &[&str]) -> Result<Self, String> {
        let mut command: Command = binary()?;
        command.args(args).args(["--api-listen", "127.0.0.1:0"]);
        let child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn();
        let mut child = child.map_err(|error| error.to_string())?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        lines.read_line(&mut line).map_err(|error| error.to_string())?;
        let api = line.trim().strip_prefix("api listening on ").map(str::to_owned);
        std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
        let api = api.ok_or_else(|| format!("it said {line:?}"));
        Ok(Self { child, api: api? })
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
