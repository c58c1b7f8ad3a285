//! Runs `docs/recount.sql` in DuckDB and compares it with the engine of a server that was killed;
//! and runs the queries of `docs/archive.md` and `docs/api.md`.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use shared::Clock as _;

use crate::engines::module;
use crate::process::{KEY, Server, binary, run};
use crate::recount::{REAL_LOG, agrees, files, flags, without_an_event};

/// Prints the rows of the last answer, one a line.
const PROGRAM: &str = "
import duckdb, sys
connection = duckdb.connect()
connection.execute('SET enable_progress_bar = false')
if len(sys.argv) > 2:
    connection.execute(f'SET VARIABLE from_minute = {sys.argv[2]}')
    connection.execute(f'SET VARIABLE to_minute = {sys.argv[3]}')
for row in connection.execute(open(sys.argv[1]).read()).fetchall():
    print(*row, sep='|')
";

/// Runs a file of SQL in a folder, which must go well.
fn duckdb(folder: &Path, sql: &Path, range: &[String]) -> Vec<String> {
    let (code, said, err) = try_duckdb(folder, sql, range);
    assert_eq!(code, Some(0), "{}: {err}", sql.display());
    said.lines().map(str::to_owned).collect()
}

fn try_duckdb(folder: &Path, sql: &Path, range: &[String]) -> (Option<i32>, String, String) {
    let module = module("COUNTERSIGN_DUCKDB", "duckdb");
    let mut python = Command::new("python3");
    python.args(["-c", PROGRAM]).arg(sql).args(range);
    run(python.env("PYTHONPATH", module).current_dir(folder))
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// A server with all that makes a count differ: visitors who misbehave, a log that is imported and
/// imported again, kill -9 in between.
fn counted(dir: &Path) -> Server {
    let flags = flags(dir);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let mut server = Server::start_with(&dir.join("data"), None, &flags);
    for _ in 0..2 {
        let mut simulate = binary();
        simulate.args(["simulate", "--edge", &server.edge, "--api", &server.api, "--key", KEY]);
        let (code, said, err) = run(simulate.args(["--rate", "60", "--seconds", "2"]));
        assert_eq!(code, Some(0), "{said}{err}");
        let (code, said, err) = run(server.import().arg(REAL_LOG));
        assert_eq!(code, Some(0), "{said}{err}");
        server.kill_and_restart_with(&flags);
    }
    server
}

/// The SQL's differences for a server whose archive is complete.
pub(crate) async fn differences(
    server: &Server,
    folder: &Path,
    minutes: Range<u32>,
) -> Vec<String> {
    std::os::unix::fs::symlink(server.data.join("archive"), folder.join("archive")).unwrap();
    ask_all(server, folder, minutes.start, minutes.end).await;
    let range = [minutes.start.to_string(), minutes.end.to_string()];
    duckdb(folder, &docs("recount.sql"), &range)
}

/// Writes the cells of all partitions where the SQL looks for them.
fn ask(server: &Server, folder: &Path, from: u32, to: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(ask_all(server, folder, from, to));
}

async fn ask_all(server: &Server, folder: &Path, from: u32, to: u32) {
    std::fs::create_dir_all(folder.join("cells")).unwrap();
    for partition in 0..3 {
        let (from, to) = (u64::from(from) * 60, u64::from(to) * 60);
        let path = format!("/v1/partitions/{partition}/cells?from={from}&to={to}");
        let cells = server.text(&path).await;
        std::fs::write(folder.join(format!("cells/{partition}.json")), cells).unwrap();
    }
}

#[test]
fn duckdb_counts_what_the_engine_counts() {
    let dir = tempfile::tempdir().unwrap();
    let server = counted(dir.path());
    // This also waits until everything is archived.
    agrees(&server.api, &server.data);
    std::os::unix::fs::symlink(server.data.join("archive"), dir.path().join("archive")).unwrap();
    let until = shared::ambient::SystemClock.now().minute().0 + 60;
    // The days of the log, and today.
    let sql = docs("recount.sql");
    for (from, to, least) in [(26_000_000, 26_300_000, 500), (until - 120, until, 20)] {
        ask(&server, dir.path(), from, to);
        let range = [from.to_string(), to.to_string()];
        let differences = duckdb(dir.path(), &sql, &range);
        assert!(differences.is_empty(), "{differences:#?}");
        let compared = dir.path().join("compared.sql");
        let counts = std::fs::read_to_string(&sql).unwrap() + "SELECT count(*) FROM facts;";
        std::fs::write(&compared, counts).unwrap();
        let compared: u64 = duckdb(dir.path(), &compared, &range)[0].parse().unwrap();
        assert!(compared > least, "{compared} facts");
    }
    // Some count in the API's answer is changed to a higher one.
    let range = [(until - 120).to_string(), until.to_string()];
    let answers = (0..3).map(|partition| dir.path().join(format!("cells/{partition}.json")));
    let answers = answers.map(|path| (std::fs::read_to_string(&path).unwrap(), path));
    // A block's events are all in one partition, so another may have none.
    let counts = |(said, _): &(String, PathBuf)| said.contains("\"count\":");
    let (said, cells) = answers.into_iter().find(counts).expect("something was counted");
    let wrong = said.replacen("\"count\":", "\"count\":1", 1);
    assert_ne!(wrong, said);
    std::fs::write(&cells, wrong).unwrap();
    assert_eq!(duckdb(dir.path(), &sql, &range).len(), 1);
    // An answer that was cut off, and none.
    std::fs::write(&cells, &said[..said.len() / 2]).unwrap();
    let (code, _, err) = try_duckdb(dir.path(), &sql, &range);
    assert!(code != Some(0), "{err}");
    std::fs::remove_file(&cells).unwrap();
    let (code, _, err) = try_duckdb(dir.path(), &sql, &range);
    assert!(code != Some(0) && err.contains(".json is missing"), "{err}");
    // An archive that lacks an event: its cell differs, and so does the account of its minute.
    ask(&server, dir.path(), 26_000_000, 26_300_000);
    without_an_event(&files(&server)[0]);
    let differences = duckdb(dir.path(), &sql, &["26000000".to_owned(), "26300000".to_owned()]);
    assert!((2..=4).contains(&differences.len()), "{differences:#?}");
}

#[test]
fn the_queries_of_the_pages_run() {
    let dir = tempfile::tempdir().unwrap();
    let server = counted(dir.path());
    agrees(&server.api, &server.data);
    std::os::unix::fs::symlink(&server.data, dir.path().join("countersign-data")).unwrap();
    let now = shared::ambient::SystemClock.now();
    ask(&server, dir.path(), now.minute().0 - 60, now.minute().0 + 60);
    // A day and an ad that are there.
    let today = now.to_string();
    for (page, least) in [("archive.md", 2), ("api.md", 4)] {
        let page = std::fs::read_to_string(docs(page)).unwrap();
        let queries: Vec<&str> = page.split("```sql\n").skip(1).collect();
        assert!(queries.len() >= least, "{} queries", queries.len());
        // A query may use what the one before made.
        let mut script = String::new();
        for query in queries {
            script += query.split("```").next().unwrap();
            let file = dir.path().join("query.sql");
            std::fs::write(&file, script.replace("2026-11-22", &today[..10])).unwrap();
            assert!(!duckdb(dir.path(), &file, &[]).is_empty(), "no answer: {query}");
        }
    }
}
