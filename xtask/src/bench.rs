//! `cargo xtask bench`: measure, compare with the marks, print one table, write docs/benchmarks.md.
//!
//! The measuring is done by the program `bench` of the room `tests`, in groups:
//! - `bench --list` prints the names of its groups, one a line;
//! - `bench GROUP [--smoke]` measures one group and prints one JSON object per result, one a line,
//!   on standard output (whatever a person should see goes to standard error). With `--smoke` it
//!   does the same work on so little that it takes at most a few seconds; the figures are then
//!   without meaning, the names are the same. It exits with 0 unless it could not measure.
//!   `COUNTERSIGN_BIN` in its environment is the path of the product's binary.
//!
//! | field | | |
//! |---|---|---|
//! | `name` | string | what [`MARKS`] and `peer` refer to, `group/thing`; unique in one run |
//! | `what` | string | the same for a reader: "engine `apply`, ad × minute, one thread" |
//! | `value` | number | finite, ≥ 0, unscaled (`8123456.0`, not `8.1`) |
//! | `unit` | string | as shown: `events/s`, `MB`, `ms`, `bits`, `ns` |
//! | `hash` | string, optional | digest of the computed result, the same in every run of a machine |
//! | `peer` | string, optional | the `name` of a result to compare with: ratio = value ÷ peer's |
//! | `note` | string, optional | a line below the table, e.g. where the time goes |
//!
//! An unknown field is refused. Each group runs in a process of its own, `--runs` times; the table
//! shows the median, and the least and the greatest value.
//!
//! The group `answers` is another program's and is measured only when it is named: [`answers`].

mod answers;
mod machine;
mod page;
mod table;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::Failure;
use crate::process::{build_as_tests, build_release, exe, output, root};
use crate::{tools, worker};
use page::{Page, part};
use table::{Line, Results};

/// A bound that a figure must keep (issue "Count a real log …", 9).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// The `name` of the result.
    name: &'static str,
    bound: Bound,
    unit: &'static str,
    /// What other systems reach, for orientation; may be empty.
    beside: &'static str,
}

#[derive(Clone, Copy, Debug)]
enum Bound {
    AtLeast(f64),
    AtMost(f64),
    /// At least so many times the figure of a peer in the same run. Without a verdict where that
    /// peer is not installed.
    PartOf(f64, &'static str),
}

/// Every mark must have a result, in smoke mode too.
const MARKS: [Mark; 13] = [
    Mark {
        name: "engine/ad-minute",
        bound: Bound::AtLeast(8_000_000.0),
        unit: "events/s",
        beside: "orientation: a plain hash loop 9 M/s, DuckDB 9–11 M/s on two threads, Flink 0.26 M/s",
    },
    Mark {
        name: "engine/ad-minute-memory",
        bound: Bound::AtMost(500.0),
        unit: "MB",
        beside: "orientation: DuckDB 1 200–1 500 MB, polars and chDB 1 600–4 000 MB",
    },
    Mark { name: "log/to-answer", bound: Bound::AtLeast(300_000.0), unit: "events/s", beside: "" },
    Mark {
        name: "dedup/bits-per-impression",
        bound: Bound::AtMost(1.1),
        unit: "bits",
        beside: "orientation: a roaring bitmap 1.7 bits, a Redis set 670 bits",
    },
    Mark { name: "click/queryable-p99", bound: Bound::AtMost(1_000.0), unit: "ms", beside: "" },
    Mark {
        name: "nats-log/to-answer",
        bound: Bound::AtLeast(300_000.0),
        unit: "events/s",
        beside: "",
    },
    Mark { name: "failover/aggregator", bound: Bound::AtMost(5.0), unit: "s", beside: "" },
    Mark {
        name: "redirect/edge",
        bound: Bound::PartOf(0.5, "redirect/nginx"),
        unit: "302/s",
        beside: "the aim is 0.8 of nginx",
    },
    Mark {
        name: "worker/edge",
        bound: Bound::PartOf(0.5, "worker/bare"),
        unit: "302/s",
        beside: "",
    },
    Mark { name: "worker/first-answer", bound: Bound::AtMost(150.0), unit: "ms", beside: "" },
    Mark { name: "up/idle-memory", bound: Bound::AtMost(120.0), unit: "MB", beside: "" },
    Mark { name: "up/memory-after-clicks", bound: Bound::AtMost(300.0), unit: "MB", beside: "" },
    Mark { name: "up/memory-later", bound: Bound::AtMost(150.0), unit: "MB", beside: "" },
];

/// How often a group is measured when nobody says it.
const RUNS: u32 = 5;

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Measure these groups alone, and leave docs/benchmarks.md as it is; `answers`, which takes long and
    /// is measured only when it is named, writes its own part of it
    groups: Vec<String>,
    /// How often each group is measured; the median counts [default: 5, `answers` 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: Option<u32>,
    /// With `answers`: so many clicks, instead of the 41 666 667 that its marks are for
    #[arg(long, requires = "groups", value_parser = clap::value_parser!(u64).range(10_000..))]
    rows: Option<u64>,
    /// Once, small, unoptimised: only whether everything still runs
    #[arg(long, conflicts_with = "runs")]
    smoke: bool,
}

/// Measures as asked.
pub(crate) fn run_bench(args: &BenchArgs) -> Result<(), Failure> {
    if args.groups == [answers::NAME] {
        return answers::run(args);
    }
    if args.groups.iter().any(|group| group == answers::NAME) || args.rows.is_some() {
        return Err(format!("`{0}` is measured alone: cargo xtask bench {0}", answers::NAME));
    }
    let program = Program::build(args.smoke)?;
    let all = program.groups()?;
    if let Some(unknown) = args.groups.iter().find(|group| !all.contains(group)) {
        let all = all.join(", ");
        return Err(format!("no group `{unknown}`; there are: {all}, {}", answers::NAME));
    }
    let groups = if args.groups.is_empty() { &all } else { &args.groups };
    let runs = if args.smoke { 1 } else { args.runs.unwrap_or(RUNS) };
    let mut results = Results::default();
    for nth in 1..=runs {
        for group in groups {
            eprintln!("{group}: run {nth} of {runs}");
            results.add(group, program.measure(group)?)?;
        }
    }
    results.check_complete(runs)?;
    let marks: Vec<Mark> = if args.groups.is_empty() {
        MARKS.to_vec()
    } else {
        MARKS.into_iter().filter(|mark| results.has(mark.name)).collect()
    };
    let table = results.table(&marks)?;
    if args.smoke {
        // Figures of so little work by an unoptimised build would only mislead.
        println!("smoke run: {} figures, every mark has its one", table.figures());
        return Ok(());
    }
    println!("{}", table.text());
    if args.groups.is_empty() {
        let path = page_path();
        let mut page = Page::read(&fs::read_to_string(&path).unwrap_or_default());
        let introduction = format!(
            "# Benchmarks\nWritten by `cargo xtask bench`; a figure is the median of {runs} runs, each \
             in a process of its own. A mark that is missed says MISSED."
        );
        page.measured = part(&introduction, &machine::describe(), &table);
        fs::write(&path, page.to_string())
            .map_err(|error| format!("{}: {error}", path.display()))?;
        println!("written: docs/benchmarks.md");
    }
    Ok(())
}

/// `cargo xtask bench --smoke`, as a step of the tests.
pub(crate) fn smoke() -> Result<(), Failure> {
    run_bench(&BenchArgs { groups: Vec::new(), runs: None, rows: None, smoke: true })
}

/// The measuring program and the product's binary, both built.
struct Program {
    bench: PathBuf,
    countersign: PathBuf,
    nats: PathBuf,
    workerd: PathBuf,
    smoke: bool,
}

impl Program {
    fn build(smoke: bool) -> Result<Self, Failure> {
        worker::build()?;
        let built = if smoke {
            build_as_tests()?
        } else {
            build_release(&["bench", "served", "countersign"])?
        };
        Ok(Self {
            bench: built.join(exe("bench")),
            countersign: built.join(exe("countersign")),
            nats: tools::NATS.installed()?,
            workerd: tools::workerd()?,
            smoke,
        })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.bench);
        command.current_dir(root()).env("COUNTERSIGN_BIN", &self.countersign);
        command.env("COUNTERSIGN_NATS_SERVER", &self.nats);
        command.env("COUNTERSIGN_WORKERD", &self.workerd);
        command
    }

    fn groups(&self) -> Result<Vec<String>, Failure> {
        let text = output(self.command().arg("--list"))?;
        let groups: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
        if groups.is_empty() { Err("`bench --list` names no group".to_owned()) } else { Ok(groups) }
    }

    fn measure(&self, group: &str) -> Result<Vec<Line>, Failure> {
        let mut command = self.command();
        command.arg(group);
        if self.smoke {
            command.arg("--smoke");
        }
        table::parse(&output(&mut command)?).map_err(|why| format!("bench {group}: {why}"))
    }
}

fn page_path() -> PathBuf {
    root().join("docs/benchmarks.md")
}
