//! A data directory is copied while it is in use, and the copy is used elsewhere.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::import::{equals_the_oracle, logs};
use crate::process::{Server, binary, random_moment, run};

fn backup(data: &Path, to: &Path) -> (Option<i32>, String, String) {
    run(binary().arg("backup").arg("--data").arg(data).arg("--to").arg(to))
}

fn restore(from: &Path, data: &Path) -> (Option<i32>, String, String) {
    run(binary().arg("restore").arg("--from").arg(from).arg("--data").arg(data))
}

/// Shows an ad and follows its link.
async fn visit(http: &reqwest::Client, edge: &str) {
    let url = format!("{edge}/v1/serve?placement=demo-top");
    let ad: Value = http.get(url).send().await.unwrap().json().await.unwrap();
    let click = http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(click.status(), 302);
}

/// Several visitors who click without a pause.
struct Visitors {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    tasks: tokio::task::JoinSet<()>,
}

const VISITORS: u64 = 4;

impl Visitors {
    fn start(server: &Server) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..VISITORS {
            let (http, edge) = (server.http.clone(), server.edge.clone());
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            tasks.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    visit(&http, &edge).await;
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { stop, answered, tasks }
    }

    fn answered(&self) -> u64 {
        self.answered.load(Ordering::SeqCst)
    }

    /// Ends them; returns how many clicks were answered.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.join_all().await;
        self.answered.load(Ordering::SeqCst)
    }
}

/// The clicks of the demo's ads when everything that was accepted is counted: after an orderly end
/// nothing is left in the outbox.
async fn clicks(server: &mut Server, flags: &[&str]) -> u64 {
    assert_eq!(server.terminate().code(), Some(0));
    let data = server.data.clone();
    *server = Server::start_with(&data, None, flags);
    let now = shared::Clock::now(&shared::ambient::SystemClock).minute().0;
    let range = format!("from={}&to={}", (now - 30) * 60, (now + 2) * 60);
    let settled = |answer: &Value| answer["in_flight"] == 0 && answer["adds_up"] == true;
    let account = server.until(&format!("/v1/accounting?{range}"), settled).await;
    assert_eq!(account.get("gaps"), None, "{account}");
    let mut sum = 0;
    for ad in ["demo-red", "demo-green", "demo-blue"] {
        let path = format!("/v1/ads/{ad}/aggregated_count?{range}&event=click");
        sum += server.ask(&path).await["count"].as_u64().unwrap();
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_taken_in_the_middle_is_a_moment_and_goes_on_exactly() {
    let dir = tempfile::tempdir().unwrap();
    let settings = dir.path().join("c.toml");
    // Much happens in little time: checkpoints, and segments that are closed and deleted.
    let text = "[aggregator]\ncheckpoint_ms = 100\n[outbox]\ndisk_bytes_max = 2097152\n";
    std::fs::write(&settings, text).unwrap();
    let flags = ["--demo", "--config", settings.to_str().unwrap()];
    let mut server = Server::start_with(&dir.path().join("data"), None, &flags);
    let (code, said, err) = run(server.import().arg(&logs()[0]));
    assert_eq!(code, Some(0), "{said}{err}");
    let visitors = Visitors::start(&server);
    let mut import = server.import();
    let import = import.args(&logs()[1..]).stdout(Stdio::null()).stderr(Stdio::null());
    let mut import = import.spawn().unwrap();

    let mut copies = Vec::new();
    for n in 0..2 {
        tokio::time::sleep(random_moment(Duration::from_millis(900))).await;
        let to = dir.path().join(format!("copy-{n}"));
        let before = visitors.answered();
        let (code, said, err) = backup(&server.data, &to);
        assert_eq!(code, Some(0), "{said}{err}");
        assert!(said.contains("backed up") && said.contains("secrets"), "{said}");
        // A visitor's last click may be counted and not yet answered.
        copies.push((to, before..=visitors.answered() + VISITORS));
    }
    let all = visitors.end().await;
    assert!(import.wait().unwrap().success());
    assert_eq!(clicks(&mut server, &flags).await, all, "the original has not suffered");
    drop(server);

    for (copy, expected) in copies {
        let data = copy.with_extension("restored");
        let (code, said, err) = restore(&copy, &data);
        assert_eq!(code, Some(0), "{said}{err}");
        for secret in ["keys.json", "admin.key"] {
            for dir in [&copy, &data].into_iter().filter(|dir| dir.join(secret).exists()) {
                let mode = dir.join(secret).metadata().unwrap().permissions().mode();
                assert_eq!(mode & 0o777, 0o600, "{}", dir.display());
            }
        }
        assert_eq!(data.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        let mut server = Server::start_with(&data, None, &flags);
        let there = clicks(&mut server, &flags).await;
        assert!(expected.contains(&there), "{there} of {expected:?}");
        // The restored directory works on: new clicks are added, and a half-finished import is
        // completed.
        for _ in 0..20 {
            visit(&server.http, &server.edge).await;
        }
        let (code, said, err) = run(server.import().args(logs()));
        assert_eq!(code, Some(0), "{said}{err}");
        assert_eq!(clicks(&mut server, &flags).await, there + 20);
        equals_the_oracle(&Arc::new(server), &logs(), 100).await;
    }
}

#[test]
fn what_is_no_whole_copy_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
    let (code, _, said) = backup(&data, &copy);
    assert!(code == Some(2) && said.contains("no data directory"), "{code:?} {said}");
    assert!(!copy.exists());
    drop(Server::start(&data));
    let (code, _, said) = backup(&data, &data.join("copy"));
    assert!(code == Some(2) && said.contains("outside"), "{code:?} {said}");
    std::fs::remove_dir(data.join("copy")).unwrap();

    let (code, _, said) = backup(&data, &copy);
    assert_eq!(code, Some(0), "{said}");
    let (code, _, said) = backup(&data, &copy);
    assert!(code == Some(2) && said.contains("no empty directory"), "{code:?} {said}");
    let (code, _, said) = restore(&copy, &data);
    assert!(code == Some(2) && said.contains("no empty directory"), "{code:?} {said}");
    let target = |name: &str| dir.path().join(name);

    // A backup refuses to be a data directory: used as one it would be no backup any more.
    let mut up = binary();
    up.args(["up", "--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", "--data"]);
    let (code, _, said) = run(up.arg(&copy));
    assert!(code == Some(2) && said.contains("countersign restore --from"), "{code:?} {said}");
    assert!(!copy.join("lock").exists(), "nothing was begun");

    // One byte of the log is changed.
    let mut paths = std::fs::read_dir(copy.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let segment = paths.find(|path| path.is_file()).unwrap();
    let good = std::fs::read(&segment).unwrap();
    let mut bad = good.clone();
    bad[20] ^= 1;
    std::fs::write(&segment, &bad).unwrap();
    let (code, _, said) = restore(&copy, &target("a"));
    let named = said.contains(".seg: it is not what was backed up") && said.contains("a.restoring");
    assert!(code == Some(5) && named, "{code:?} {said}");
    assert!(!target("a").exists(), "half a restore is none");
    let (code, _, said) = restore(&copy, &target("a"));
    assert!(code == Some(2) && said.contains("a.restoring"), "{code:?} {said}");
    std::fs::remove_file(&segment).unwrap();
    let (code, _, said) = restore(&copy, &target("b"));
    assert!(code == Some(5) && said.contains("it is missing"), "{code:?} {said}");
    std::fs::write(&segment, &good).unwrap();
    let (code, said, _) = restore(&copy, &target("c"));
    assert!(code == Some(0) && said.contains("countersign up --data"), "{code:?} {said}");

    let manifest = std::fs::read_to_string(copy.join("backup.json")).unwrap();
    let outside = manifest.replace("\"keys.json\"", "\"../keys.json\"");
    std::fs::write(copy.join("backup.json"), outside).unwrap();
    let (code, _, said) = restore(&copy, &target("d"));
    assert!(code == Some(5) && said.contains("does not lie below"), "{code:?} {said}");
    std::fs::remove_file(copy.join("backup.json")).unwrap();
    let (code, _, said) = restore(&copy, &target("e"));
    assert!(code == Some(5) && said.contains("backup.json"), "{code:?} {said}");
}
