//! Durable redirects beside those of servers that keep nothing: nginx `return 302` and a bare axum
//! handler. Each server has one core, the load tool another, and the same tokens are sent to each;
//! in the end the edge is killed with -9 and its outbox must hold every click that was answered.

pub(super) mod load;
pub mod served;
mod server;
pub(super) mod worker;

use std::num::NonZero;
use std::path::Path;
use std::thread;

use eventlog::segments::{Segments, SegmentsConfig};
use hashbrown::HashSet;
use shared::ambient::{Stopwatch, SystemClock};
use shared::token::{Unverified, to_text};
use shared::wire::Batch;
use shared::{Clock as _, Kind};

use super::tokens::Mint;
use super::{Measured, Size, percentile};
use load::Answered;
use server::Server;

/// Connections, the same number to every server.
const CONNECTIONS: usize = 1_024;
const SERVER_CORE: usize = 0;
const LOAD_CORE: usize = 1;

/// What was measured of one server.
struct Run {
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// How much of its core the server used, in percent.
    busy: f64,
}

pub(super) fn measure(size: Size) -> Result<Vec<Measured>, String> {
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = dir.path();
    let links = links(size.choose(400_000, 500))?;
    let mut results = Vec::new();
    let nginx = Server::nginx(dir)?;
    let peer = if nginx.is_some() { "redirect/nginx" } else { "redirect/axum" };
    match nginx {
        Some(nginx) => {
            let run = run(&nginx, &links)?;
            let what = "peer: nginx `return 302`, one core, nothing kept";
            results.push(Measured::new("redirect/nginx", what, run.rate, "302/s"));
            results.push(Measured::new("redirect/nginx-p99", "its p99", run.p99_ms, "ms"));
            let what = "its core: in use";
            results.push(Measured::new("redirect/nginx-core", what, run.busy, "%"));
        }
        None => eprintln!("redirect: there is no nginx on the PATH to compare with"),
    }
    let run_axum = run(&Server::axum()?, &links)?;
    let what = "peer: axum 302, one core, nothing kept";
    results.push(Measured::new("redirect/axum", what, run_axum.rate, "302/s"));
    results.push(Measured::new("redirect/axum-p99", "its p99", run_axum.p99_ms, "ms"));

    let outbox = dir.join("outbox");
    let fsync = fsync_p50_ms(dir)?;
    let edge = Server::edge(&outbox)?;
    let run_edge = run(&edge, &links)?;
    // Dropping the edge kills it.
    drop(edge);
    all_kept(&outbox, links.len())?;
    let what = "edge: checked, durable, then 302; one core";
    let note = format!(
        "redirect: {CONNECTIONS} kept connections, {} distinct tokens to each server, one request \
         under way on each connection; the edge's outbox held every click after kill -9",
        links.len()
    );
    results.extend([
        Measured::new("redirect/edge", what, run_edge.rate, "302/s").peer(peer).note(note),
        Measured::new("redirect/edge-p50", "its p50", run_edge.p50_ms, "ms"),
        Measured::new("redirect/edge-p99", "its p99", run_edge.p99_ms, "ms"),
        Measured::new("redirect/edge-core", "its core: in use", run_edge.busy, "%"),
        Measured::new("redirect/fsync-p50", "fdatasync of 64 KiB on this disk, p50", fsync, "ms"),
    ]);
    Ok(results)
}

/// Tokens as text, each of its own impression, issued now.
fn links(count: usize) -> Result<Vec<String>, String> {
    let mint = Mint::new()?;
    let now = SystemClock.now();
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = count.div_ceil(threads);
    let mint_range = |nth: usize| {
        let range = nth * share..((nth + 1) * share).min(count);
        let number = |n| u32::try_from(n).map_err(|_| "too many tokens".to_owned());
        range.map(|n| Ok(to_text(&mint.token_at(number(n)?, now)?))).collect()
    };
    let shares: Vec<Result<Vec<String>, String>> = thread::scope(|scope| {
        let work = |nth| scope.spawn(move || mint_range(nth));
        let threads: Vec<_> = (0..threads).map(work).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| "minting".to_owned())?).collect()
    });
    Ok(shares.into_iter().collect::<Result<Vec<_>, _>>()?.concat())
}

/// Loads a server from the other core.
fn run(server: &Server, links: &[String]) -> Result<Run, String> {
    run_with(server, links, CONNECTIONS)
}

fn run_with(server: &Server, links: &[String], connections: usize) -> Result<Run, String> {
    let before = server.cpu_seconds()?;
    let answered = on_core(LOAD_CORE, || load::run(server.address(), links, connections))?;
    let used = server.cpu_seconds()? - before;
    let Answered { redirects, spent, latencies_us } = answered;
    let mut times: Vec<f64> = latencies_us.iter().map(|us| f64::from(*us) / 1e3).collect();
    Ok(Run {
        rate: super::tokens::per_second(redirects, spent),
        p50_ms: percentile(&mut times, 50),
        p99_ms: percentile(&mut times, 99),
        busy: used / spent.as_secs_f64() * 100.0,
    })
}

/// Runs `work` in a thread that is bound to a core; processes that it starts are bound too. Where
/// there is no such core, nothing is bound.
fn on_core<T: Send>(core: usize, work: impl FnOnce() -> T + Send) -> T {
    let bound = || {
        bind(core);
        work()
    };
    thread::scope(|scope| match scope.spawn(bound).join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[cfg(target_os = "linux")]
fn bind(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
        eprintln!("redirect: core {core}: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
fn bind(core: usize) {
    eprintln!("redirect: not bound to core {core}: only Linux does it");
}

/// Checks that the outbox of the killed edge has every click that was answered.
fn all_kept(outbox: &Path, answered: usize) -> Result<(), String> {
    let opened = Segments::open(outbox, SegmentsConfig::default(), [0; 16]);
    let (segments, _) = opened.map_err(|error| error.to_string())?;
    let mut reader = segments.view().reader(0, 0).map_err(|error| error.to_string())?;
    let deployment = Mint::new()?.store.deployment;
    let (mut clicks, mut distinct) = (0, HashSet::new());
    while let Some(record) = reader.try_next().map_err(|error| error.to_string())? {
        let batch = Batch::read(&record.payload).map_err(|error| error.to_string())?;
        for event in batch.events.iter().filter(|event| event.kind == Kind::Click) {
            let token = Unverified::read(event.token, deployment).map_err(|why| why.to_string())?;
            clicks += 1;
            distinct.insert(token.claim().1.to_bytes());
        }
    }
    if (clicks, distinct.len()) == (answered, answered) {
        return Ok(());
    }
    let distinct = distinct.len();
    Err(format!("{answered} clicks were answered, {clicks} ({distinct} distinct) were kept"))
}

/// The median time of an fsync, the least that a commit waits for.
fn fsync_p50_ms(dir: &Path) -> Result<f64, String> {
    use std::io::Write as _;
    let work = || {
        let mut file = std::fs::File::create(dir.join("fsync"))?;
        let mut times = Vec::new();
        for _ in 0..100 {
            file.write_all(&[7; 64 << 10])?;
            let watch = Stopwatch::start();
            file.sync_data()?;
            times.push(watch.elapsed().as_secs_f64() * 1e3);
        }
        Ok(percentile(&mut times, 50))
    };
    work().map_err(|error: std::io::Error| error.to_string())
}
