//! `cargo xtask simulate`: runs the simulation from many seeds. A failure prints its seed and the
//! shortest list of operations found that still fails, ready to be kept as a test.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::process::ExitCode;

use tests::simulation::{Failure, Operation, Simulator, Summary, generate};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (mut seeds, mut first) = (1_000, 1);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let value = words.next().and_then(|value| value.parse::<u64>().ok());
        match (word.as_str(), value) {
            ("--seeds", Some(value)) => seeds = value,
            ("--seed", Some(value)) => first = value,
            _ => {
                eprintln!("usage: simulation [--seeds N] [--seed FIRST]");
                return ExitCode::FAILURE;
            }
        }
    }
    let simulator = match Simulator::new() {
        Ok(simulator) => simulator,
        Err(why) => {
            eprintln!("simulation: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut all = Summary::default();
    for seed in first..first.saturating_add(seeds) {
        let operations = generate(seed);
        match simulator.run(seed, &operations) {
            Ok(summary) => all += summary,
            Err(failure) => {
                report(&simulator, seed, operations, &failure);
                return ExitCode::FAILURE;
            }
        }
        if seed % 500 == 0 {
            eprintln!("seed {seed}");
        }
    }
    let Summary { counted, duplicate, reasons, tests, stopped, lies, turned_away, .. } = all;
    println!(
        "{seeds} seeds from {first}: every invariant held after every step; \
         {counted} counted, {duplicate} duplicates, {reasons} with a reason ({tests} of tests); \
         {stopped} partitions stopped by a log that had lost what it had; \
         {lies} batches of a hostile sender were let in, and {turned_away} were not"
    );
    ExitCode::SUCCESS
}

fn report(simulator: &Simulator, seed: u64, operations: Vec<Operation>, failure: &Failure) {
    println!("seed {seed} failed at step {}: {}", failure.step, failure.what);
    let shorter = shorten(simulator, seed, operations);
    println!("the shortest list found ({} operations):", shorter.len());
    shorter.iter().for_each(|operation| println!("    {operation:?},"));
    if let Err(failure) = simulator.run(seed, &shorter) {
        println!("fails at step {}: {}", failure.step, failure.what);
    }
}

/// Leaves out what can be left out: first long stretches, then single operations.
fn shorten(simulator: &Simulator, seed: u64, mut operations: Vec<Operation>) -> Vec<Operation> {
    // Each step drops a stretch or moves on by one, and stretches get shorter down to one
    // operation, so it ends. What it keeps always failed when it was run.
    let mut stretch = operations.len() / 2;
    while stretch > 0 {
        let mut at = 0;
        while at < operations.len() {
            let mut without = operations.clone();
            without.drain(at..(at + stretch).min(operations.len()));
            if simulator.run(seed, &without).is_err() {
                operations = without;
            } else {
                at += stretch;
            }
        }
        stretch /= 2;
    }
    operations
}
