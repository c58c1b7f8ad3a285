//! `docs/operations.md`, word for word, and the files that it names.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use eventlog::nats::server::NatsServer;

use crate::process::binary;

const TOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const PAGE: &str = include_str!("../../../docs/operations.md");

const LOAD: &str = "--rate 2000 --seconds 120";

/// The commands of the page, in order. Fewer visitors, for less time: a build for tests is slow, and
/// so is a machine that runs others beside it.
fn commands() -> String {
    let blocks = PAGE.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let all: String = blocks.collect();
    assert!(all.contains(LOAD), "the page plays other visitors");
    all.replace(LOAD, "--rate 40 --seconds 100")
}

#[test]
fn the_page_is_followed_word_for_word_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (bin, work) = (dir.path().join("bin"), dir.path().join("work"));
    for folder in [&bin, &work] {
        std::fs::create_dir(folder).unwrap();
    }
    symlink(env!("CARGO_BIN_EXE_countersign"), bin.join("countersign")).unwrap();
    symlink(NatsServer::program(), bin.join("nats-server")).unwrap();
    symlink(Path::new(TOP).join("deploy"), work.join("deploy")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut shell = Command::new("sh");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COUNTERSIGN_") {
            shell.env_remove(name);
        }
    }
    shell.args(["-euc", &commands()]).current_dir(&work);
    shell.env("PATH", format!("{}:{path}", bin.display()));
    let output = shell.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    // Whatever happened, no process is left running.
    for file in std::fs::read_dir(work.join("pids")).into_iter().flatten().flatten() {
        let id = std::fs::read_to_string(file.path()).unwrap();
        let _ = Command::new("kill").args(["-KILL", id.trim()]).output();
    }
    let logs = || {
        let files = std::fs::read_dir(work.join("logs")).into_iter().flatten().flatten();
        files.map(|file| std::fs::read_to_string(file.path()).unwrap()).collect::<String>()
    };
    assert!(output.status.success(), "{said}{err}{}", logs());
    assert!(said.contains("every difference is explained"), "{said}{err}");
    assert!(said.contains("\"adds_up\":true"), "{said}");
    assert!(said.contains("the archive and the engine agree: "), "{said}");
}

#[test]
fn the_shipped_settings_are_those_of_their_roles() {
    let folder = Path::new(TOP).join("deploy/countersign");
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let role = match name.split('-').next().unwrap() {
            "operator" => "init",
            role => role,
        };
        // The role reads the settings, and then finds that the password's file is missing.
        let output = binary().arg(role).arg("--config").arg(&path).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(err.contains("password file secrets/"), "{name}: {err}");
        files += 1;
    }
    assert_eq!(files, 7);
}
