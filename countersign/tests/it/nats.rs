//! The same process with its log on a real nats-server.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use eventlog::nats::server::NatsServer;

use crate::process::{Server, binary, random_moment, run};

fn start(data: &Path, nats: &NatsServer) -> Server {
    Server::start_with(data, None, &["--demo", "--log", &nats.url()])
}

const REAL_LOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/obd_bts_men.csv");
/// The days of the log.
const DAYS: &str = "/v1/accounting?from=1574208000&to=1575504000";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_process_and_of_nats_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut nats = NatsServer::start(&dir.path().join("nats"));
    let mut server = start(&dir.path().join("data"), &nats);
    let mut command = server.import();
    let child = command.arg(REAL_LOG).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.unwrap();
    let mut clicked = 0;
    for round in 0..3 {
        std::thread::sleep(random_moment(Duration::from_millis(300)));
        if round == 1 {
            server.kill_and_restart_with(&["--demo", "--log", &nats.url()]);
        } else {
            nats.kill();
            // The click depends on the edge alone.
            let ad = server.serve().await;
            let click = server.http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
            assert_eq!(click.status(), 302);
            clicked += 1;
            nats.start_again();
        }
    }
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (code, said, err) = run(server.import().arg(REAL_LOG));
    assert_eq!(code, Some(0), "{said}{err}");
    assert!(said.contains("0 sent now"), "{said}");
    let imported = server.ask(DAYS).await;
    // A chunk whose acknowledgement was lost comes twice: received twice, counted once.
    assert_eq!((&imported["counted"], &imported["adds_up"]), (&10_069.into(), &true.into()));
    let now = {
        use shared::Clock as _;
        shared::ambient::SystemClock.now().minute().0
    };
    let live = format!("/v1/accounting?from={}&to={}", (now - 10) * 60, (now + 10) * 60);
    let all = |answer: &serde_json::Value| answer["counted"] == 2 * clicked;
    let answer = server.until(&live, all).await;
    assert_eq!(answer["adds_up"], true, "{answer}");
    assert_eq!(server.terminate().code(), Some(0));
}

#[test]
fn a_log_that_is_not_the_one_that_belongs_here_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(&dir.path().join("nats"));
    let mut server = start(&dir.path().join("data"), &nats);
    assert_eq!(server.terminate().code(), Some(0));
    let up = |data: &str, url: &str| {
        let mut command = binary();
        command.args(["up", "--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]);
        run(command.args(["--log", url, "--data"]).arg(dir.path().join(data)))
    };
    let (code, _, said) = up("another", &nats.url());
    assert!(code == Some(5) && said.contains("of another deployment"), "{code:?} {said}");
    let (code, _, said) = up("data", "not an address");
    assert!(code == Some(2) && said.contains("nats://HOST:4222"), "{code:?} {said}");
}

/// What is in a directory, by name.
fn names(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_data_directory_goes_with_the_log_that_it_began_with() {
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(&dir.path().join("nats"));
    let url = nats.url();
    let up = |data: &Path, more: &[&str]| {
        let mut command = binary();
        command.args(["up", "--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]);
        run(command.args(more).arg("--data").arg(data))
    };
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    // Both are killed before anything is counted, and still know where their log is.
    drop(Server::start(&here));
    drop(start(&there, &nats));
    let cases: [(&Path, &[&str], &str); 4] = [
        (&here, &["--log", &url], "is in it (log/): start without --log"),
        (&here, &["--log", "nats://127.0.0.1:9"], "is in it (log/): start without --log"),
        (&there, &[], "is on NATS: start with --log"),
        (&there, &["--log", &url, "--config", "prefix.toml"], "under the prefix \"\""),
    ];
    let settings = dir.path().join("prefix.toml");
    std::fs::write(&settings, "[eventlog]\nprefix = 'other-'\n").unwrap();
    for (data, flags, words) in cases {
        let flags: Vec<&str> = flags
            .iter()
            .map(|flag| if flag.ends_with(".toml") { settings.to_str().unwrap() } else { flag })
            .collect();
        let before = names(data);
        let (code, _, said) = up(data, &flags);
        assert!(code == Some(2) && said.contains(words), "{flags:?}: {code:?} {said}");
        assert_eq!(names(data), before, "nothing was begun");
    }
    // Directories of an earlier build do not say it; their files do, once something is counted.
    let cases: [(Server, &[&str], &str); 2] = [
        (Server::start(&here), &["--log", &url], "start without --log"),
        (start(&there, &nats), &[], "start with --log"),
    ];
    for (mut server, flags, words) in cases {
        for _ in 0..60 {
            server.serve().await;
        }
        assert_eq!(server.terminate().code(), Some(0));
        let path = server.data.join("deployment.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut said: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(said.as_object_mut().unwrap().remove("log_place").is_some(), "{text}");
        std::fs::write(&path, said.to_string()).unwrap();
        let (code, _, said) = up(&server.data, flags);
        assert!(code == Some(2) && said.contains(words), "{code:?} {said}");
    }
}

#[test]
fn the_keys_of_an_up_are_in_its_data_directory_and_not_on_nats() {
    let dir = tempfile::tempdir().unwrap();
    let nats = NatsServer::start(&dir.path().join("nats"));
    let mut server = start(&dir.path().join("data"), &nats);
    for args in [&["keys", "list"][..], &["edges", "registered"], &["init", "--edge", "a"]] {
        let (code, said, err) = run(binary().args(args).args(["--log", &nats.url()]));
        assert!(code == Some(2) && err.contains("belongs to a `countersign up`"), "{said}{err}");
        assert!(err.contains("--data"), "{err}");
    }
    assert_eq!(server.terminate().code(), Some(0));
}
