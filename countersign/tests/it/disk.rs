//! A full disk: a small tmpfs, where the machine lets one be mounted.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use shared::ambient::Stopwatch;

use crate::process::{KEY, PATIENCE, Server};
use crate::recount;

const DISK_MIB: u64 = 64;

/// A file system of its own, unmounted when it is dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    /// `None`, and the reason printed, where that is not allowed.
    pub(crate) fn new(dir: &Path) -> Option<Self> {
        let size = format!("size={DISK_MIB}m");
        let mut command = Command::new("mount");
        let output = command.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir).output();
        match output {
            Ok(output) if output.status.success() => Some(Self(dir.to_owned())),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                eprintln!("skipped: no tmpfs can be mounted here: {why}");
                None
            }
            Err(error) => {
                eprintln!("skipped: there is no `mount`: {error}");
                None
            }
        }
    }

    /// Takes all the room that is left.
    pub(crate) fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filler()).unwrap();
        for length in [1 << 20, 4 << 10, 1] {
            while file.write_all(&vec![1; length]).is_ok() {}
        }
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process that was just ended may hold it for a moment.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// What visitors were answered.
#[derive(Default, Debug)]
struct Told {
    /// Beacons that were accepted.
    accepted: u64,
    /// Beacons that were refused: 503.
    refused: u64,
    /// Clicks that were sent on.
    redirected: u64,
}

/// One click and one beacon of an ad; a click is sent on whatever happens.
async fn visit(server: &Server, ad: &Value, told: &mut Told) {
    let click = server.http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(click.status(), 302, "redirects go on");
    told.redirected += 1;
    let body = json!({ "events": [{ "token": ad["token"], "kind": "impression" }] });
    let request = server.http.post(format!("{}/v1/events", server.edge));
    let reply = request.header("content-type", "application/json").body(body.to_string());
    match reply.send().await.unwrap() {
        reply if reply.status() == 503 => {
            assert!(reply.headers().contains_key("retry-after"));
            told.refused += 1;
        }
        reply => {
            assert_eq!(reply.status(), 202);
            told.accepted += 1;
        }
    }
}

async fn ads(server: &Server, count: usize) -> Vec<Value> {
    let mut ads = Vec::new();
    for _ in 0..count {
        ads.push(server.serve().await);
    }
    ads
}

async fn metric(server: &Server, name: &str) -> f64 {
    let request = server.http.get(format!("{}/metrics", server.api)).bearer_auth(KEY);
    let text = request.send().await.unwrap().text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
}

async fn low(server: &Server, wanted: bool) -> Value {
    let watch = Stopwatch::start();
    while (metric(server, "countersign_disk_low").await > 0.0) != wanted {
        assert!(watch.elapsed() < PATIENCE, "the alarm does not change");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.ask("/readyz").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_stops_no_redirect_and_loses_nothing_that_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(dir.path()) else { return };
    let settings = dir.path().join("c.toml");
    std::fs::write(
        &settings,
        "[disk]\nwarn_free_bytes = 8388608\n[aggregator]\ncheckpoint_ms = 200\n\
         [archive]\nevery_ms = 200\n",
    )
    .unwrap();
    let flags = ["--demo", "--config", settings.to_str().unwrap()];
    let server = Server::start_with(&dir.path().join("data"), None, &flags);
    // Waits until the aggregator is ready.
    server.ask("/v1/accounting?from=0&to=60").await;
    assert_eq!(low(&server, false).await["status"], "ready");
    let mut told = Told::default();
    for ad in ads(&server, 20).await {
        visit(&server, &ad, &mut told).await;
    }
    assert_eq!((told.accepted, told.refused), (20, 0));
    let more = ads(&server, 40).await;

    disk.fill();
    let answer = low(&server, true).await;
    assert_eq!(answer["status"], "degraded");
    assert!(answer["reasons"][0].as_str().unwrap().starts_with("disk_low"), "{answer}");
    // Long enough for several checkpoints that find no room.
    let watch = Stopwatch::start();
    for ad in more[..20].iter().cycle() {
        visit(&server, ad, &mut told).await;
        disk.fill();
        if watch.elapsed() > Duration::from_secs(8) && told.refused > 20 {
            break;
        }
    }

    disk.free();
    assert_eq!(low(&server, false).await["status"], "ready");
    let watch = Stopwatch::start();
    for ad in more[20..].iter().cycle() {
        let refused = told.refused;
        visit(&server, ad, &mut told).await;
        if told.refused == refused && told.accepted > 100 {
            break;
        }
        assert!(watch.elapsed() < PATIENCE, "it does not go on: {told:?}");
    }
    settled(&server, &told).await;
    // What is counted is durable too: it is the same after a kill -9.
    let mut server = server;
    server.kill_and_restart_with(&flags);
    settled(&server, &told).await;
    recount::agrees(&server.api, &server.data);
}

/// Everything that was accepted is counted or a duplicate, once.
async fn settled(server: &Server, told: &Told) {
    let minute = shared::ambient::SystemClock;
    let now = shared::Clock::now(&minute).minute().0;
    let path = format!("/v1/accounting?from={}&to={}", (now - 30) * 60, (now + 1) * 60);
    let wanted = |answer: &Value| {
        let of = |name: &str| answer[name].as_u64().unwrap();
        let reason = |name: &str| answer["reasons"][name].as_u64().unwrap_or_default();
        // 60 ads were served.
        let events = 60 + told.accepted + told.redirected;
        answer["adds_up"] == true
            && answer["in_flight"] == 0
            && of("received") == events
            && of("counted") + of("duplicate") + reason("repeated") + reason("outbox_full")
                == events
    };
    let answer = server.until(&path, wanted).await;
    eprintln!("{told:?} {answer}");
}
