use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use crate::process::{KEY, Server, binary, random_moment, run};

fn simulate(server: &Server, args: &[&str]) -> std::process::Command {
    let mut command = binary();
    command.args(["simulate", "--edge", &server.edge, "--api", &server.api, "--key", KEY]);
    command.args(args);
    command
}

#[test]
fn every_difference_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let (code, said, err) =
        run(&mut simulate(&server, &["--rate", "60", "--seconds", "3", "--seed", "7"]));
    assert_eq!(code, Some(0), "{said}{err}");
    for word in ["every difference is explained", "bad_seal", "malformed", "double clicks"] {
        assert!(said.contains(word), "{word}: {said}");
    }
}

#[test]
fn expired_tokens_are_played_where_they_expire_soon() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut server = Server::start(&data);
    assert_eq!(server.terminate().code(), Some(0));
    let path = data.join("catalogue.toml");
    let catalogue = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("lifetimes = {{ click_s = 2 }}\n{catalogue}")).unwrap();
    let server = Server::start(&data);
    let (code, said, err) = run(&mut simulate(&server, &["--rate", "30", "--seconds", "2"]));
    assert_eq!(code, Some(0), "{said}{err}");
    assert!(said.contains("expired") && !said.contains("not played"), "{said}");
}

#[test]
fn a_server_that_is_killed_at_random_moments_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(&dir.path().join("data"));
    let mut command = simulate(&server, &["--rate", "40", "--seconds", "5", "--seed", "3"]);
    let running = std::thread::spawn(move || run(&mut command));
    for _ in 0..2 {
        std::thread::sleep(random_moment(Duration::from_millis(2_300)));
        server.kill_and_restart();
    }
    let (code, said, err) = running.join().unwrap();
    assert_eq!(code, Some(0), "{said}{err}");
}

#[tokio::test]
async fn a_difference_that_nothing_explains_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"));
    let mut command = simulate(&server, &["--rate", "20", "--seconds", "2"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    while !said.contains("playing") {
        assert!(lines.read_line(&mut said).unwrap() > 0, "{said}");
    }
    // Somebody else's clicks, in the middle of it.
    for _ in 0..10 {
        let ad = server.serve().await;
        server.http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("NOT EXPLAINED"), "{said}");
}
