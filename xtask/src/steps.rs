//! `cargo xtask test` and `check`: a list of steps, each of which can also be run alone.

use std::fmt;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use crate::process::{cargo, exe, run, run_within, target_dir};
use crate::{Failure, bench, sdk, tools, worker};

/// How long the advisory database may take to arrive before the step counts as skipped.
const ADVISORIES_FETCH_MAX: Duration = Duration::from_secs(120);

/// The steps, in the order in which they run: the quick ones first, the tests' summary near the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Every file is formatted by rustfmt
    Fmt,
    /// Clippy with all targets and features; a warning is a failure
    Clippy,
    /// `shared` and the pure half of `edge` compile to Wasm
    Wasm,
    /// No dependency is declared that nobody uses
    Shear,
    /// Licences, bans and sources of all dependencies
    Deny,
    /// Known vulnerabilities, where the database can be had
    Advisories,
    /// The examples in doc comments
    Doctest,
    /// Every other test, those with the real binary included
    Nextest,
    /// The publisher's SDK: its sizes, its types, its tests in Node and in Chromium
    Sdk,
    /// Every benchmark once, small, so that none rots
    Bench,
}

const ALL: [Step; 10] = [
    Step::Fmt,
    Step::Clippy,
    Step::Wasm,
    Step::Shear,
    Step::Deny,
    Step::Advisories,
    Step::Doctest,
    Step::Nextest,
    Step::Sdk,
    Step::Bench,
];
const FAST: [Step; 3] = [Step::Fmt, Step::Clippy, Step::Wasm];

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Step::Fmt => "fmt",
            Step::Clippy => "clippy",
            Step::Wasm => "wasm",
            Step::Shear => "shear",
            Step::Deny => "deny",
            Step::Advisories => "advisories",
            Step::Doctest => "doctest",
            Step::Nextest => "nextest",
            Step::Sdk => "sdk",
            Step::Bench => "bench",
        };
        f.pad(name)
    }
}

/// The outcome of a step that did not fail.
enum Done {
    Passed,
    /// It could not be done on this machine; why.
    Skipped(String),
}

#[derive(Args)]
pub(crate) struct TestArgs {
    /// Run this step alone; may be repeated
    #[arg(long, value_name = "STEP")]
    only: Vec<Step>,
    /// Passed on to nextest, e.g. `--only nextest -- -p edge outbox`
    #[arg(last = true, requires = "only")]
    args: Vec<String>,
}

/// Runs all steps, or those asked for, up to the first failure.
pub(crate) fn test(args: &TestArgs) -> Result<(), Failure> {
    let steps = if args.only.is_empty() { &ALL[..] } else { &args.only[..] };
    run_steps(steps, |step| perform(step, &args.args))
}

/// The fast loop.
pub(crate) fn check() -> Result<(), Failure> {
    run_steps(&FAST, |step| perform(step, &[]))
}

fn perform(step: Step, nextest_args: &[String]) -> Result<Done, Failure> {
    match step {
        Step::Fmt => run(cargo().args(["fmt", "--all", "--check"]))?,
        Step::Clippy => run(cargo()
            .args([
                "clippy",
                "--locked",
                "--keep-going",
                "--workspace",
                "--all-targets",
                "--all-features",
            ])
            .args(["--", "-D", "warnings"]))?,
        Step::Wasm => {
            tools::ensure_wasm_target()?;
            run(cargo().args(["check", "--locked", "-p", "shared", "-p", "edge"]).args([
                "--no-default-features",
                "--target",
                "wasm32-unknown-unknown",
            ]))?;
        }
        Step::Shear => run(tools::SHEAR.command()?.args(["--locked", "--deny-warnings"]))?,
        Step::Deny => run(tools::DENY
            .command()?
            .args(["--locked", "check", "--hide-inclusion-graph"])
            .args(["bans", "licenses", "sources"]))?,
        Step::Advisories => return advisories(),
        Step::Doctest => run(cargo().args([
            "test",
            "--locked",
            "--doc",
            "--workspace",
            "--all-features",
            "--quiet",
        ]))?,
        Step::Nextest => nextest(nextest_args)?,
        Step::Sdk => sdk::test()?,
        Step::Bench => bench::smoke()?,
    }
    Ok(Done::Passed)
}

fn advisories() -> Result<Done, Failure> {
    let mut fetch = tools::DENY.command()?;
    if let Err(failure) = run_within(ADVISORIES_FETCH_MAX, fetch.args(["fetch", "db"])) {
        let why = failure.lines().last().unwrap_or_default().to_owned();
        return Ok(Done::Skipped(format!("the advisory database cannot be had here ({why})")));
    }
    run(tools::DENY.command()?.args([
        "--locked",
        "check",
        "--hide-inclusion-graph",
        "advisories",
    ]))?;
    Ok(Done::Passed)
}

fn nextest(args: &[String]) -> Result<(), Failure> {
    let mut command = tools::NEXTEST.command()?;
    command.args(["nextest", "run", "--locked", "--profile", "ci", "--all-features"]);
    if !args.iter().any(|arg| arg == "-p" || arg == "--package") {
        command.arg("--workspace");
    }
    // More threads than cores, since the long tests wait for other programs most of the time.
    let threads = std::thread::available_parallelism().map_or(2, |cores| 2 * cores.get());
    command.args(["--test-threads", &threads.to_string()]);
    // Built by this same command, since a room with integration tests has its binaries built for
    // them.
    let binary = target_dir()?.join("debug").join(exe("countersign"));
    command.env("COUNTERSIGN_NATS_SERVER", tools::NATS.installed()?);
    command.env("COUNTERSIGN_DUCKDB", tools::DUCKDB.installed()?);
    command.env("COUNTERSIGN_CHDB", tools::CHDB.installed()?);
    worker::build()?;
    worker::measure()?;
    command.env("COUNTERSIGN_WORKERD", tools::workerd()?);
    command.env("COUNTERSIGN_NODE", tools::wrangler_node()?);
    run(command.args(args).env("COUNTERSIGN_BIN", binary))
}

fn run_steps(
    steps: &[Step],
    mut perform: impl FnMut(Step) -> Result<Done, Failure>,
) -> Result<(), Failure> {
    let mut summary = String::new();
    let mut failed = None;
    for &step in steps {
        if failed.is_some() {
            summary.push_str(&format!("  {step:<11} not run\n"));
            continue;
        }
        println!("\n── {step} ──");
        let start = Instant::now();
        let result = perform(step);
        let seconds = start.elapsed().as_secs_f64();
        let word = match result {
            Ok(Done::Passed) => "ok".to_owned(),
            Ok(Done::Skipped(why)) => format!("SKIPPED: {why}"),
            Err(failure) => {
                failed = Some((step, failure));
                "FAILED".to_owned()
            }
        };
        println!("── {step}: {word} ({seconds:.1} s)");
        summary.push_str(&format!("  {step:<11} {seconds:>7.1} s  {word}\n"));
    }
    println!("\nSteps:\n{summary}");
    match failed {
        None => {
            println!("Every step that could run here is good.");
            Ok(())
        }
        Some((step, failure)) => Err(format!(
            "step `{step}` failed: {failure}\nRun it alone with: cargo xtask test --only {step}"
        )),
    }
}
