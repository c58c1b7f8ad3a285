//! Runs the commands that `up` prints, and those of the README and of `docs/maintenance.md`, as
//! they are written there.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::process::{KEY, PATIENCE, Server, binary, browser, run};
use shared::ambient::Stopwatch;

const README: &str = include_str!("../../../README.md");
const MAINTENANCE: &str = include_str!("../../../docs/maintenance.md");
const PROGRAM: &str = env!("CARGO_BIN_EXE_countersign");

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a line in a shell, in this folder; returns what it prints. It must succeed.
fn shell(folder: &Path, line: &str) -> String {
    let mut shell = Command::new("sh");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COUNTERSIGN_") {
            shell.env_remove(name);
        }
    }
    shell.args(["-euc", line]).current_dir(folder).stdin(Stdio::null());
    let (code, said, err) = run(&mut shell);
    assert_eq!(code, Some(0), "{line}: {said}{err}");
    format!("{said}\n{err}")
}

#[tokio::test]
async fn what_up_prints_next_works_as_it_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    // A path that a shell would misread without quotes.
    let data = dir.path().join("it's data");
    let mut up = binary();
    up.args(["up", "--demo", "--data"]).arg(&data).env("RUST_LOG", "warn");
    up.args(["--edge-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0"]);
    let mut child = Ended(up.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let said: Vec<String> = lines.take_while(|line| !line.contains("Ctrl-C")).collect();
    let is_command =
        |line: &&str| ["curl ", "export ", PROGRAM].iter().any(|c| line.starts_with(c));
    let commands: Vec<&str> = said.iter().map(|line| line.trim()).filter(is_command).collect();
    let of = |word: &str| {
        let found = commands.iter().find(|line| line.contains(word));
        *found.unwrap_or_else(|| panic!("no {word} in {said:#?}"))
    };
    let with_key = |word: &str| format!("{}\n{}", of("export "), of(word));

    let ad: serde_json::Value = serde_json::from_str(
        shell(dir.path(), of("/v1/serve")).lines().find(|line| line.starts_with('{')).unwrap(),
    )
    .unwrap();
    let http = browser().build().unwrap();
    // A person looks for a moment.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let click = http.get(ad["click_url"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(click.status(), 302);
    let watch = Stopwatch::start();
    // The click is in the running minute, or in the one before.
    loop {
        let said = shell(dir.path(), &with_key("popular_ads"));
        let clicked = format!("\"ad_ids\":[{}]", ad["ad"]);
        if said.contains(&clicked) {
            assert!(said.contains("\"running\":true"), "{said}");
            break;
        }
        assert!(watch.elapsed() < PATIENCE, "{said}");
    }
    std::fs::write(dir.path().join("LOG.csv"), "ad_id,timestamp\nx,1700000051\n").unwrap();
    let said = shell(dir.path(), &with_key(" import "));
    assert!(said.contains("all rows are accounted for"), "{said}");
    // The printed rate is for an optimised build.
    let simulate =
        with_key(" simulate ").replace("--rate 50 --seconds 10", "--rate 20 --seconds 2");
    let said = shell(dir.path(), &simulate);
    assert!(said.contains("every difference is explained"), "{said}");
    assert!(shell(dir.path(), of(" keys list")).contains("edge"));
    assert_eq!(commands.len(), 6, "one that was not run: {commands:#?}");
}

/// The block of commands on a page that has this word, with a reader's own values put in.
fn commands(page: &str, word: &str, put: &[(&str, &str)]) -> String {
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let found: Vec<_> = blocks.filter(|block| block.contains(word)).collect();
    assert_eq!(found.len(), 1, "{word} in {found:#?}");
    put.iter().fold(found[0].to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from} is not in {text}");
        text.replace(from, to)
    })
}

#[tokio::test]
async fn the_readmes_commands_do_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("countersign-data");
    let mut server = Server::start(&data);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let api = server.api.clone();
    let put = [
        ("target/release/countersign", PROGRAM),
        ("http://127.0.0.1:8081", api.as_str()),
        ("KEY", KEY),
    ];
    let import = commands(README, " import ", &put);
    let said = shell(&folder, &import);
    assert!(said.contains("all rows are accounted for"), "{said}");
    // "Kill it with -9 in the middle, start it again, import again: the counts are the same."
    let all = "/v1/accounting?from=2019-11-01T00:00:00Z&to=2020-01-01T00:00:00Z";
    let before = server.ask(all).await;
    assert!(before["counted"].as_u64().unwrap() > 0, "{before}");
    server.kill_and_restart();
    shell(&folder, &import);
    let after = server.until(all, |answer| answer["in_flight"] == 0).await;
    assert_eq!((&after["counted"], &after["adds_up"]), (&before["counted"], &true.into()));
    // The archive is where the command looks for it: in the directory in which `up` was started.
    let recount = commands(README, " recount ", &put);
    assert!(shell(dir.path(), &recount).contains("agree"), "{recount}");

    let put = [("countersign backup", &*format!("{PROGRAM} backup")), ("DIR", "countersign-data")];
    let copy = commands(MAINTENANCE, "countersign backup", &put);
    let (copied, up) = copy.split_once("countersign up").unwrap();
    shell(dir.path(), &copied.replace("countersign restore", &format!("{PROGRAM} restore")));
    let restored = dir.path().join(up.trim().strip_prefix("--data ").unwrap());
    drop(server);
    let server = Server::start(&restored);
    let again = server.until(all, |answer| answer["in_flight"] == 0).await;
    assert_eq!(again["counted"], before["counted"]);
}
