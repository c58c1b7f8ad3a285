//! The project's own commands: `cargo xtask up`, `test`, `check`, `worker`, `sdk`, `bench`, `simulate`.
//!
//! It knows how to build, start and measure the product, and nothing of what the product does: it
//! depends on no room.

#![allow(
    clippy::disallowed_methods,
    reason = "a build tool measures how long its steps take; nothing here is replayed"
)]
#![allow(clippy::print_stdout, reason = "a command for the terminal")]

mod bench;
mod process;
mod sdk;
mod steps;
mod tools;
mod worker;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// A failure as the person at the terminal reads it.
type Failure = String;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the release binary and run everything in one process, with the demo
    Up(UpArgs),
    /// Install what the tests need, then run all of them
    Test(steps::TestArgs),
    /// The fast loop while writing: format, clippy, Wasm
    Check,
    /// Build the publisher's SDK and its npm package, and check their sizes
    Sdk,
    /// Measure, print one table and write docs/benchmarks.md
    Bench(bench::BenchArgs),
    /// Run the seeded simulation of the faults, in release mode
    Simulate(SimulateArgs),
    /// Build the edge for Cloudflare Workers, into edge/build
    Worker,
}

#[derive(Args)]
struct UpArgs {
    /// Which edge the demo asks: the native one, or the Wasm one on workerd
    #[arg(long, value_enum, default_value_t = Shell::Native)]
    edge: Shell,
    /// Passed on to `countersign up --demo`, e.g. --data DIR --edge-listen ADDR --api-listen ADDR
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// In which shell the edge runs.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Shell {
    Native,
    Wasm,
}

#[derive(Args)]
struct SimulateArgs {
    /// How many seeds to run
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed, or the one to repeat with `--seeds 1`
    #[arg(long)]
    seed: Option<u64>,
    /// Passed on to the simulation
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Up(args) => up(&args),
        Command::Test(args) => steps::test(&args),
        Command::Check => steps::check(),
        Command::Sdk => sdk::pack(),
        Command::Bench(args) => bench::run_bench(&args),
        Command::Simulate(args) => simulate(&args),
        Command::Worker => worker::build_and_check(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("\nxtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn up(args: &UpArgs) -> Result<(), Failure> {
    process::run(process::cargo().args(["build", "--release", "--locked", "-p", "countersign"]))?;
    let binary = process::target_dir()?.join("release").join(process::exe("countersign"));
    if args.edge == Shell::Wasm {
        sdk::build()?;
        return worker::up(&binary, &args.args);
    }
    let mut command = std::process::Command::new(binary);
    command.args(["up", "--demo"]);
    match sdk::built() {
        Some(dist) => drop(command.arg("--sdk").arg(dist)),
        None => {
            println!("the demo page does without the SDK; `cargo xtask sdk` builds it, with npm")
        }
    }
    // The caller's folder, not the workspace's: relative paths in `args` mean what they look like.
    command.args(&args.args);
    process::replace_process(command)
}

fn simulate(args: &SimulateArgs) -> Result<(), Failure> {
    let built = process::build_release(&["simulation"])?;
    let mut command = std::process::Command::new(built.join(process::exe("simulation")));
    command.current_dir(process::root()).arg("--seeds").arg(args.seeds.to_string());
    if let Some(seed) = args.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    command.args(&args.args);
    process::replace_process(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_passes_flags_on() {
        let cli = Cli::try_parse_from(["x", "up", "--data", "d", "--edge-listen", "[::1]:0"]);
        let Ok(Cli { command: Command::Up(up) }) = cli else { panic!("not up") };
        assert_eq!(up.args, ["--data", "d", "--edge-listen", "[::1]:0"]);
        let cli = Cli::try_parse_from(["x", "up", "--edge", "wasm", "--data", "d"]);
        let Ok(Cli { command: Command::Up(up) }) = cli else { panic!("not up") };
        assert!(up.edge == Shell::Wasm && up.args == ["--data", "d"]);
    }
}
