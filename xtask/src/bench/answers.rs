//! The group `answers`: how fast `up` answers questions about one hour of clicks, beside DuckDB and
//! ClickHouse with the same clicks.
//!
//! The peers are Python packages, so the measuring is a Python program
//! (`tests/src/bench/answers/measure.py`), which prints the same lines as `bench GROUP`. It imports
//! as many clicks as a billion a day have in an hour, which takes long: it is measured only when it
//! is named, alone, once where `--runs` does not say otherwise, and has a part of the page of its
//! own.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::page::{Page, part};
use super::table::{self, Line, Results};
use super::{BenchArgs, Bound, Mark, machine, page_path};
use crate::Failure;
use crate::process::{build_as_tests, build_release, exe, output, root, target_dir};
use crate::tools;

/// The group's name.
pub(super) const NAME: &str = "answers";

/// An hour of a billion a day.
const ROWS: u64 = 41_666_667;
const ROWS_SMOKE: u64 = 20_000;

/// The binary that is measured; without it one is built.
const BINARY: &str = "COUNTERSIGN_BIN";

const fn at_most(name: &'static str, limit_ms: f64) -> Mark {
    Mark { name, bound: Bound::AtMost(limit_ms), unit: "ms", beside: "" }
}

/// At least so many times as fast as the faster peer.
const fn faster(name: &'static str, times: f64) -> Mark {
    Mark { name, bound: Bound::AtLeast(times), unit: "×", beside: "" }
}

const MARKS: [Mark; 8] = [
    at_most("answers/hottest-17min", 2.0),
    faster("answers/hottest-17min-times", 5.0),
    at_most("answers/100th-17min", 1.0),
    at_most("answers/top-10min", 40.0),
    faster("answers/top-10min-times", 4.0),
    at_most("answers/top-60min", 15.0),
    at_most("answers/uniques-17min", 5.0),
    at_most("answers/series-60min", 20.0),
];

/// Measures the group as asked.
pub(super) fn run(args: &BenchArgs) -> Result<(), Failure> {
    let rows = args.rows.unwrap_or(if args.smoke { ROWS_SMOKE } else { ROWS });
    let runs = args.runs.unwrap_or(1);
    let given = env::var_os(BINARY).map(PathBuf::from);
    let is_built_here = given.is_none();
    let binary = match given {
        Some(binary) => binary,
        None if args.smoke => build_as_tests()?.join(exe("countersign")),
        None => build_release(&["countersign"])?.join(exe("countersign")),
    };
    let measuring = Measuring { binary, rows, path: python_path()?, folder: folder()? };
    let mut results = Results::default();
    for nth in 1..=runs {
        eprintln!("{NAME}: run {nth} of {runs}");
        results.add(NAME, measuring.measure()?)?;
    }
    results.check_complete(runs)?;
    let table = results.table(&MARKS)?;
    if args.smoke {
        println!("smoke run: {} figures, every mark has its one", table.figures());
        return Ok(());
    }
    println!("{}", table.text());
    for note in table.notes() {
        println!("- {note}");
    }
    if rows != ROWS {
        println!(
            "docs/benchmarks.md is left as it is: the marks are for {ROWS} clicks, not {rows}"
        );
        return Ok(());
    }
    let mut machine = machine::describe();
    if !is_built_here {
        machine.push_str(" The binary was given, and may be of another revision.");
    }
    let path = page_path();
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut page = Page::read(&text);
    page.answers = part(&introduction(runs), &machine, &table);
    fs::write(&path, page.to_string()).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("written: docs/benchmarks.md, the part about answers");
    Ok(())
}

fn introduction(runs: u32) -> String {
    let times = if runs == 1 { "once".to_owned() } else { format!("{runs} times, the median") };
    format!(
        "## Answers\nWritten by `cargo xtask bench answers`, measured {times}: one hour of {ROWS} \
         clicks (2 million ads by Zipf 1.1, 20 000 publishers, 200 countries, 4 million networks, \
         a billion users) is imported, and `up` is asked over one kept HTTP connection, from \
         sending to the last byte. DuckDB and ClickHouse have the same clicks as native tables \
         sorted by ad and minute, names as small numbers, and are asked in SQL in the process that \
         measures, after `up` has ended. Where less than the hour is asked about, it is another \
         part of it each time. `aggregator.facts_cache_bytes` is 1 GiB. All answers were equal, estimates of visitors within 3 % (or three \
         standard errors)."
    )
}

/// Where data are kept for the next run.
fn folder() -> Result<PathBuf, Failure> {
    Ok(target_dir()?.join("bench-answers"))
}

fn python_path() -> Result<OsString, Failure> {
    let modules = [tools::NUMPY, tools::DUCKDB, tools::CHDB];
    let folders = modules.iter().map(tools::Module::installed).collect::<Result<Vec<_>, _>>()?;
    env::join_paths(folders).map_err(|error| format!("the folder of tools: {error}"))
}

/// The measuring program with all that it needs.
struct Measuring {
    binary: PathBuf,
    rows: u64,
    path: OsString,
    folder: PathBuf,
}

impl Measuring {
    fn measure(&self) -> Result<Vec<Line>, Failure> {
        let mut command = Command::new("python3");
        command.arg(root().join("tests/src/bench/answers/measure.py"));
        command.arg("--binary").arg(&self.binary);
        command.args(["--rows", &self.rows.to_string()]).arg("--folder").arg(&self.folder);
        // No compiled files among the sources; what it tells meanwhile is seen at once.
        command.env("PYTHONPATH", &self.path).env("PYTHONDONTWRITEBYTECODE", "1");
        command.stderr(Stdio::inherit());
        table::parse(&output(&mut command)?).map_err(|why| format!("bench {NAME}: {why}"))
    }
}
