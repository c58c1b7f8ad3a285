//! The real binary: what it uses when idle, and how soon a click is counted.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use shared::ambient::Stopwatch;

use super::{Measured, Size, memory_mb, percentile};

pub(super) const KEY: &str = "a-key-for-benchmarks-0123456789";
const CLICKS_PER_SECOND: usize = 2_000;
/// A probe every so many clicks.
const PROBE_EVERY: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);

/// `up` with nothing to do.
pub(super) fn idle(size: Size) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let watch = Stopwatch::start();
    let server = Server::start(dir.path())?;
    let ready = watch.elapsed();
    std::thread::sleep(Duration::from_secs(size.choose(20, 1) as u64));
    let memory = memory_mb(&format!("/proc/{}/status", server.child.id()), "VmRSS:")?;
    Ok(vec![
        Measured::new("up/idle-memory", "`up`, idle: resident memory", memory, "MB"),
        Measured::new("up/ready", "`up`, first start to ready", ms(ready), "ms"),
    ])
}

/// 2 000 clicks a second on one ad, and now and then the only click of an ad of its own: how long
/// until a question about that ad says 1.
pub(super) fn click(size: Size) -> Result<Vec<Measured>, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(clicks(size.choose(10, 1)))
}

async fn clicks(seconds: usize) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    std::fs::write(dir.path().join("catalogue.toml"), catalogue(probes(seconds)))
        .map_err(|error| error.to_string())?;
    let server = Arc::new(Server::start(dir.path())?);
    let names = CLICK_NAMES;
    clicks_at(&server, seconds, "click", names).await
}

/// The names of the figures about clicks.
const CLICK_NAMES: [&str; 4] =
    ["click/queryable-p50", "click/queryable-p99", "click/redirect-p50", "click/redirect-p99"];

/// How many ads with one click each.
pub(super) fn probes(seconds: usize) -> usize {
    seconds * CLICKS_PER_SECOND / PROBE_EVERY
}

/// Clicks at a server whose catalogue has the probes.
pub(super) async fn clicks_at(
    server: &Arc<Server>,
    seconds: usize,
    what: &str,
    names: [&'static str; 4],
) -> Result<Vec<Measured>, String> {
    let (total, probes) = (seconds * CLICKS_PER_SECOND, probes(seconds));
    let mut links = Vec::with_capacity(total);
    while links.len() < total {
        let asks = (0..64).map(|_| server.serve("load".to_owned()));
        for link in futures::future::join_all(asks).await {
            links.push(link?);
        }
    }
    let mut probe_links = Vec::new();
    for probe in 0..probes {
        probe_links.push(server.serve(format!("probe-{probe}")).await?);
    }

    let watch = Stopwatch::start();
    let mut clicking = tokio::task::JoinSet::new();
    let mut probing = tokio::task::JoinSet::new();
    for (n, link) in links.into_iter().take(total).enumerate() {
        let due = Duration::from_secs_f64(n as f64 / CLICKS_PER_SECOND as f64);
        if let Some(early) = due.checked_sub(watch.elapsed()).filter(|early| early.as_millis() > 1)
        {
            tokio::time::sleep(early).await;
        }
        let to = Arc::clone(server);
        clicking.spawn(async move { to.click(&link).await });
        if n % PROBE_EVERY == 0 {
            let (to, probe) = (Arc::clone(server), n / PROBE_EVERY);
            let link = probe_links[probe].clone();
            probing.spawn(async move { to.probe(&link, probe).await });
        }
    }
    let mut redirects = collect(clicking).await?;
    let spent = watch.elapsed();
    let mut queryable = collect(probing).await?;
    server.await_count("load", total as u64).await?;
    let rate = super::tokens::per_second(total, spent);
    let at = format!("at {rate:.0} clicks/s");
    Ok(vec![
        Measured::new(
            names[0],
            format!("{what} to queryable, p50, {at}"),
            percentile(&mut queryable, 50),
            "ms",
        ),
        Measured::new(
            names[1],
            format!("{what} to queryable, p99 of {probes}"),
            percentile(&mut queryable, 99),
            "ms",
        ),
        Measured::new(
            names[2],
            format!("{what} to redirect, durable, p50"),
            percentile(&mut redirects, 50),
            "ms",
        ),
        Measured::new(
            names[3],
            format!("{what} to redirect, durable, p99"),
            percentile(&mut redirects, 99),
            "ms",
        )
        .note("click: server and clients share the machine's cores; 302s are read by the clients"),
    ])
}

async fn collect(
    mut tasks: tokio::task::JoinSet<Result<Duration, String>>,
) -> Result<Vec<f64>, String> {
    let mut times = Vec::new();
    while let Some(time) = tasks.join_next().await {
        times.push(ms(time.map_err(|error| error.to_string())??));
    }
    Ok(times)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

pub(super) fn catalogue(probes: usize) -> String {
    let mut text = String::new();
    let names = (0..probes).map(|n| format!("probe-{n}")).chain(["load".to_owned()]);
    for name in names {
        text += &format!(
            "[[ads]]\nid = \"{name}\"\ncampaign = \"bench\"\nadvertiser = \"bench\"\nhtml = \"x\"\n\
             width = 1\nheight = 1\nurl = \"https://shop.example/{name}\"\n\
             [[placements]]\nid = \"{name}\"\npublisher = \"bench\"\nads = [\"{name}\"]\n"
        );
    }
    text
}

/// The visitors' user agent.
const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

/// The product's binary.
pub(super) fn binary() -> Result<Command, String> {
    let binary = std::env::var_os("COUNTERSIGN_BIN")
        .ok_or("COUNTERSIGN_BIN must name the product's binary; `cargo xtask bench` sets it")?;
    let mut command = Command::new(binary);
    command.env("COUNTERSIGN_ADMIN_KEY", KEY).env("RUST_LOG", "warn");
    for own in ["COUNTERSIGN_BIN", "COUNTERSIGN_NATS_SERVER", "COUNTERSIGN_WORKERD"] {
        command.env_remove(own);
    }
    Ok(command)
}

/// A running binary; killed when it is dropped.
pub(super) struct Server {
    child: Child,
    edge: String,
    pub(super) api: String,
    http: reqwest::Client,
}

impl Server {
    fn start(data: &Path) -> Result<Self, String> {
        Self::start_with(data, &[])
    }

    /// Starts with more flags.
    pub(super) fn start_with(data: &Path, flags: &[&OsStr]) -> Result<Self, String> {
        let mut command = binary()?;
        command.args(["up", "--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]);
        command.arg("--data").arg(data).args(flags);
        Self::spawn(command)
    }

    /// Starts a command that prints where its edge and its API listen.
    pub(super) fn spawn(mut command: Command) -> Result<Self, String> {
        // The clicks come as soon as the ads are there.
        command.env("COUNTERSIGN_EDGE__VERDICTS__CLICK_TOO_SOON_MS", "0");
        let mut child = command
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut lines = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut address = |name: &str| {
            let mut line = String::new();
            lines.read_line(&mut line).map_err(|error| error.to_string())?;
            let url = line.trim().strip_prefix(&format!("{name} listening on "));
            url.map(str::to_owned).ok_or_else(|| format!("it said {line:?}"))
        };
        let (edge, api) = (address("edge")?, address("api")?);
        std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
        // The client of an earlier server may have chosen it before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .no_proxy()
            .user_agent(BROWSER)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Self { child, edge, api, http })
    }

    /// The process's number.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where its edge listens.
    pub(super) fn edge_address(&self) -> Result<std::net::SocketAddr, String> {
        let address = self.edge.strip_prefix("http://").unwrap_or(&self.edge);
        address.parse().map_err(|_| format!("{} is no address", self.edge))
    }

    /// Ends it in order.
    pub(super) fn end(mut self) -> Result<(), String> {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status();
        asked.map_err(|error| error.to_string())?;
        let ended = self.child.wait().map_err(|error| error.to_string())?;
        if ended.success() { Ok(()) } else { Err(format!("up ended with {ended}")) }
    }

    pub(super) async fn serve(&self, placement: String) -> Result<String, String> {
        let url = format!("{}/v1/serve?placement={placement}", self.edge);
        let served: Value = self.json(self.http.get(url)).await?;
        let token = served["token"].as_str().ok_or_else(|| format!("served {served}"))?;
        Ok(format!("{}/v1/c/{token}", self.edge))
    }

    pub(super) async fn click(&self, link: &str) -> Result<Duration, String> {
        let watch = Stopwatch::start();
        let reply = self.http.get(link).send().await.map_err(|error| error.to_string())?;
        let time = watch.elapsed();
        if reply.status() == 302 {
            Ok(time)
        } else {
            Err(format!("a click got {}", reply.status()))
        }
    }

    /// Clicks, and asks until that click is counted; returns how long it took.
    async fn probe(&self, link: &str, probe: usize) -> Result<Duration, String> {
        let watch = Stopwatch::start();
        self.click(link).await?;
        self.await_count(&format!("probe-{probe}"), 1).await?;
        Ok(watch.elapsed())
    }

    /// Asks until an ad has so many clicks; more are an error at once.
    pub(super) async fn await_count(&self, ad: &str, clicks: u64) -> Result<(), String> {
        let watch = Stopwatch::start();
        loop {
            let counted = self.count(ad).await?;
            if counted == clicks {
                return Ok(());
            }
            if counted > clicks || watch.elapsed() > PATIENCE {
                return Err(format!("{ad}: {clicks} clicks were sent, {counted} are counted"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The clicks of an ad in the last and next minutes.
    pub(super) async fn count(&self, ad: &str) -> Result<u64, String> {
        use shared::Clock as _;
        let now = shared::ambient::SystemClock.now().minute().0;
        let (from, to) = (u64::from(now - 10) * 60, u64::from(now + 2) * 60);
        let url = format!("{}/v1/ads/{ad}/aggregated_count?from={from}&to={to}", self.api);
        let answer = self.json(self.http.get(url).bearer_auth(KEY)).await?;
        answer["count"].as_u64().ok_or_else(|| format!("answered {answer}"))
    }

    async fn json(&self, request: reqwest::RequestBuilder) -> Result<Value, String> {
        let reply = request.send().await.map_err(|error| error.to_string())?;
        reply.json().await.map_err(|error| error.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
