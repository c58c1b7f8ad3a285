//! Segments of facts in a real process: killed again and again while they are made and merged, on a
//! full disk, and in an object store that fails.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aggregator::store::s3_server::{self, Fault};
use serde_json::Value;
use shared::ambient::Stopwatch;

use crate::answers::{EVENTS, logs, questions, sealed};
use crate::disk::Mounted;
use crate::process::{KEY, PATIENCE, Server, binary, random_moment, run};
use crate::recount;

/// One partition and many checkpoints. After each start what is in hours that are over becomes
/// segments at once, and after that those of days and months that are over become one.
const SETTINGS: &str =
    "partitions = 1\n[aggregator]\ncheckpoint_ms = 100\n[archive]\nevery_ms = 100\n";
/// The days of the logs.
const DAYS: &str = "/v1/accounting?from=1574208000&to=1575504000";

fn flags(dir: &Path) -> [String; 3] {
    let path = dir.join("settings.toml");
    std::fs::write(&path, SETTINGS).unwrap();
    ["--demo".to_owned(), "--config".to_owned(), path.display().to_string()]
}

fn import(server: &Server, logs: &[PathBuf]) -> String {
    let (code, said, err) = run(server.import().args(logs));
    assert_eq!(code, Some(0), "{said}{err}");
    said
}

/// The rows of each answer.
async fn answers(server: &Server) -> Vec<(String, Vec<String>)> {
    let mut all = Vec::new();
    for question in questions() {
        let rows = (question.rows)(&server.ask(&question.path).await);
        all.push((question.path, rows));
    }
    all
}

/// What a server answers that nothing disturbs.
async fn undisturbed(dir: &Path, logs: &[PathBuf]) -> Vec<(String, Vec<String>)> {
    let flags = flags(dir);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let server = Server::start_with(&dir.join("undisturbed"), None, &flags);
    import(&server, logs);
    answers(&server).await
}

/// Everything that was received had one outcome.
async fn conserved(server: &Server) {
    let account = server.ask(DAYS).await;
    let of = |name: &str| account[name].as_u64().unwrap();
    let reasons = account["reasons"].as_object().unwrap().values().map(|n| n.as_u64().unwrap());
    assert_eq!(of("received"), of("counted") + of("duplicate") + reasons.sum::<u64>(), "{account}");
    assert_eq!((of("counted"), &account["adds_up"]), (EVENTS, &true.into()), "{account}");
}

/// Waits until all facts are in segments, and these stay as they are; returns their files.
async fn settled(server: &Server) -> BTreeSet<String> {
    let watch = Stopwatch::start();
    let (mut last, mut since) = (BTreeSet::new(), Stopwatch::start());
    loop {
        let listed = server.ask("/v1/segments").await;
        let of = |segment: &Value| segment["file"].as_str().unwrap().to_owned();
        let now: BTreeSet<_> = listed["segments"].as_array().unwrap().iter().map(of).collect();
        // Those of the simulation's hour, which is not over, stay where they are.
        if now != last || now.is_empty() {
            (last, since) = (now, Stopwatch::start());
        } else if since.elapsed() > Duration::from_secs(3) {
            return last;
        }
        assert!(watch.elapsed() < PATIENCE, "segments do not settle: {listed}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All files under a folder, from there.
fn files(folder: &Path) -> BTreeSet<String> {
    let (mut folders, mut found) = (vec![folder.to_owned()], BTreeSet::new());
    while let Some(inner) = folders.pop() {
        for entry in std::fs::read_dir(&inner).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found
}

/// Waits until the files of segments under `state` are those of named ones, and nothing is there
/// that was not written to its end.
async fn nothing_is_left(server: &Server, state: &Path) {
    let watch = Stopwatch::start();
    loop {
        let listed = server.ask("/v1/segments").await;
        let stem = |file: &str| file.rsplit_once('.').map(|(stem, _)| stem.to_owned());
        let of = |segment: &Value| stem(segment["file"].as_str().unwrap()).unwrap();
        let named: BTreeSet<_> = listed["segments"].as_array().unwrap().iter().map(of).collect();
        let is_left = |file: &&String| {
            let is_segment = file.starts_with("facts/") && !file.ends_with("/opened");
            file.contains('#') || is_segment && stem(file).is_none_or(|stem| !named.contains(&stem))
        };
        let found = files(state);
        let left: Vec<_> = found.iter().filter(is_left).collect();
        if left.is_empty() {
            assert!(named.iter().all(|stem| found.contains(&format!("{stem}.parquet"))));
            return;
        }
        assert!(
            watch.elapsed() < PATIENCE / 2,
            "nobody names {} files: {:?}",
            left.len(),
            left.first()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The periods of the segments that there are.
fn periods(state: &Path) -> BTreeSet<String> {
    let found = files(&state.join("facts")).into_iter();
    let names = found.filter(|path| path.ends_with(".parquet"));
    names.filter_map(|path| Some(path.split_once('/')?.1.split_once('-')?.0.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_twenty_times_while_segments_are_made_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let expected = undisturbed(dir.path(), &logs()).await;
    let flags = flags(dir.path());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Server::start_with(&dir.path().join("data"), None, &flags);
    let state = server.data.join("state");
    let mut simulate = binary();
    simulate.args(["simulate", "--edge", &server.edge, "--api", &server.api, "--key", KEY]);
    simulate.args(["--rate", "15", "--seconds", "14", "--seed", "11"]);
    let simulating = std::thread::spawn(move || run(&mut simulate));
    let mut command = server.import();
    command.args(logs());
    let importing = std::thread::spawn(move || run(&mut command));
    let mut seen = BTreeSet::new();
    // Until some of them have come while days are made of hours.
    for kills in 1.. {
        tokio::time::sleep(random_moment(Duration::from_millis(800))).await;
        seen.extend(periods(&state));
        server.kill_and_restart_with(&flags);
        if kills >= 20 && seen.contains("day") {
            break;
        }
        assert!(kills < 60, "nothing is merged: {seen:?}");
    }
    for running in [simulating, importing] {
        let (code, said, err) = running.join().unwrap();
        assert_eq!(code, Some(0), "{said}{err}");
    }
    assert!(import(&server, &logs()).contains("0 sent now"));
    let segments = settled(&server).await;
    assert!(segments.iter().any(|file| file.contains("/month-")), "{segments:?}");
    assert_eq!(answers(&server).await, expected);
    conserved(&server).await;
    recount::agrees(&server.api, &server.data);
    // What was replaced may be read for some minutes more, but not after a start.
    server.kill_and_restart_with(&flags);
    nothing_is_left(&server, &state).await;
    assert_eq!(answers(&server).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_while_segments_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let Some(disk) = Mounted::new(dir.path()) else { return };
    let flags = flags(dir.path());
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Server::start_with(&dir.path().join("data"), None, &flags);
    let state = server.data.join("state");
    import(&server, &logs());
    // Their segments are made when no more come.
    disk.fill();
    let watch = Stopwatch::start();
    while watch.elapsed() < Duration::from_secs(3) {
        tokio::time::sleep(Duration::from_millis(200)).await;
        disk.fill();
    }
    let full = server.ask("/v1/segments").await;
    assert!(sealed(&full) < EVENTS, "all were made before the disk was full");
    let expected = answers(&server).await;
    disk.free();
    server.until("/v1/segments", |listed| sealed(listed) == EVENTS).await;
    settled(&server).await;
    assert_eq!(answers(&server).await, expected);
    let unfinished: Vec<_> = files(&state).into_iter().filter(|file| file.contains('#')).collect();
    assert!(unfinished.is_empty(), "{unfinished:?}");
    server.kill_and_restart_with(&flags);
    nothing_is_left(&server, &state).await;
    conserved(&server).await;
}

/// Some requests are refused, of some the answer is lost, some take long, and some longer than the
/// client waits.
fn fault(number: usize, _method: &str, _path: &str) -> Fault {
    match number {
        n if n % 11 == 3 => Fault::Refused,
        n if n % 13 == 5 => Fault::Lost,
        n if n % 97 == 7 => Fault::Late(Duration::from_secs(4)),
        n if n % 17 == 7 => Fault::Late(Duration::from_millis(150)),
        _ => Fault::None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_store_that_fails_and_is_slow() {
    let dir = tempfile::tempdir().unwrap();
    // A day and a half.
    let log = std::fs::read_to_string(&logs()[0]).unwrap();
    let rows: Vec<&str> = log.lines().take(2_001).collect();
    let log = dir.path().join("log.csv");
    std::fs::write(&log, rows.join("\n")).unwrap();
    let expected = undisturbed(dir.path(), std::slice::from_ref(&log)).await;
    let buckets = dir.path().join("buckets");
    std::fs::create_dir_all(buckets.join("ads")).unwrap();
    let endpoint = s3_server::serve_with(&buckets, fault);
    let settings = flags(dir.path());
    let start = |before: Option<&Server>| {
        let mut command = binary();
        let listen = |url: Option<&String>| {
            url.map_or("127.0.0.1:0", |url| url.trim_start_matches("http://")).to_owned()
        };
        command.args(["up", "--data"]).arg(dir.path().join("data")).args(&settings);
        command.args(["--edge-listen", &listen(before.map(|server| &server.edge))]);
        command.args(["--api-listen", &listen(before.map(|server| &server.api))]);
        command.envs(s3_server::environment(&endpoint, "secret"));
        command.env("COUNTERSIGN_AGGREGATOR__STATE_URL", "s3://ads/state");
        command.env("AWS_TIMEOUT", "1s").env("RUST_LOG", "warn");
        Server::run(&dir.path().join("data"), command)
    };
    let mut server = start(None);
    import(&server, &[log]);
    let events = server.ask(DAYS).await["counted"].as_u64().unwrap();
    assert!(events >= 2_000, "{events}");
    server.until("/v1/segments", |listed| sealed(listed) == events).await;
    settled(&server).await;
    assert_eq!(answers(&server).await, expected);
    server.kill();
    // Object stores date by the second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let server = start(Some(&server));
    nothing_is_left(&server, &buckets.join("ads/state")).await;
    assert_eq!(answers(&server).await, expected);
}
